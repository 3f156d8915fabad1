//! Apex, Tooling, and the sample web service.
//!
//! Owns: nothing. Invariants: code is not run: it compiles and succeeds, as in the REST API; Tooling knows the Apex classes of the metadata.
//! Fails with: [`Fault`]. Source: the Apex and Tooling WSDLs.

use serde_json::{Map, Value, json};

use super::{Call, Fault, login::date, rows::row};
use crate::demo::{
    soql::{self, Fields},
    xml::Writer,
};

pub(super) fn execute_anonymous(_: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    out.group("result", |out| {
        out.show("column", -1);
        out.nil("compileProblem");
        out.show("compiled", true);
        out.nil("exceptionMessage");
        out.nil("exceptionStackTrace");
        out.show("line", -1);
        out.show("success", true);
    });
    Ok(())
}

const CLASS_FIELDS: [&str; 5] = ["Id", "Name", "Body", "CreatedDate", "LastModifiedDate"];

pub(super) fn tooling_query(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let query = soql::parse(call.operation.word("queryString"))?;
    if !query.object.eq_ignore_ascii_case("ApexClass") {
        return Err(Fault::new(
            "INVALID_TYPE",
            format!("sObject type '{}' is not supported.", query.object),
        ));
    }
    let names = match &query.fields {
        Fields::Named(names) => names.clone(),
        Fields::All => CLASS_FIELDS.map(str::to_owned).into(),
        Fields::Count => Vec::new(),
    };
    let known = |name: &String| CLASS_FIELDS.iter().find(|field| field.eq_ignore_ascii_case(name));
    if let Some(name) = names.iter().find(|name| known(name).is_none()) {
        return Err(Fault::new(
            "INVALID_FIELD",
            format!("No such column '{name}' on entity 'ApexClass'"),
        ));
    }
    let metadata = call.world.metadata();
    let store = call.world.store();
    let mut records = Vec::new();
    for class in metadata.of_type("ApexClass") {
        let value = |field: &str| {
            Ok(match field.to_ascii_lowercase().as_str() {
                "id" => json!(class.id),
                "name" => json!(class.full_name),
                "body" => json!(class.source()),
                "createddate" => json!(date(class.created)),
                "lastmodifieddate" => json!(date(class.modified)),
                _ => Value::Null,
            })
        };
        if let Some(filter) = &query.filter
            && !filter.passes(&value)?
        {
            continue;
        }
        let mut record = Map::new();
        record.insert("attributes".into(), json!({"type": "ApexClass"}));
        for field in names.iter().filter_map(known) {
            record.insert((*field).to_owned(), value(field)?);
        }
        records.push(Value::Object(record));
    }
    let most = query.limit.unwrap_or(usize::MAX);
    let chosen: Vec<&Value> = records.iter().skip(query.offset).take(most).collect();
    out.group("result", |out| {
        out.show("done", true);
        out.word("entityTypeName", "ApexClass");
        out.nil("queryLocator");
        if query.fields != Fields::Count {
            chosen
                .iter()
                .for_each(|record| row(call.api, &store, "records", record, out));
        }
        out.show("size", chosen.len());
        out.show("totalSize", chosen.len());
    });
    Ok(())
}

/// `webservice static String echo(String text)` of the class `Echo`.
pub(super) fn echo(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    match call.operation.child("text").filter(|text| !text.nil) {
        Some(text) => out.word("result", &text.text),
        None => out.nil("result"),
    }
    Ok(())
}
