//! SOAP queries and single rows.
//!
//! Owns: nothing; cursors are the REST API's too. Invariants: a partner row has its type and its id (or nil) before its fields, so that a
//! selected id comes twice, as real ones do; an enterprise row tells its type by `xsi:type`.
//! Units: pages of 200 to 2,000 rows. Fails with: [`Fault`]. Source: the partner and enterprise WSDLs; `QueryOptions`.

use serde_json::{Map, Value};

use super::{Api, Call, Fault};
use crate::demo::{
    rest::query::{find, record},
    soql::{self, Fields},
    store::{Store, word},
    xml::Writer,
};

pub(super) fn query(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    run(call, out, false)
}

pub(super) fn query_all(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    run(call, out, true)
}

fn run(call: &Call<'_>, out: &mut Writer, deleted_too: bool) -> Result<(), Fault> {
    let query = soql::parse(call.operation.word("queryString"))?;
    let store = call.world.store();
    let found = find(&store, &query, deleted_too)?;
    if query.fields == Fields::Count {
        page(call, out, &store, &[], None, found.places.len());
        return Ok(());
    }
    let show = |place: &usize| record(&store, &found, *place, "");
    let records: Vec<Value> = found.places.iter().map(show).collect::<Result<_, _>>()?;
    let size = call.header_word("QueryOptions", "batchSize").parse();
    let size: usize = size.unwrap_or(2_000usize).clamp(200, 2_000);
    if records.len() <= size {
        page(call, out, &store, &records, None, records.len());
        return Ok(());
    }
    let mut cursors = call.world.cursors();
    let locator = cursors.next_locator();
    let next = format!("{locator}-{size}");
    page(call, out, &store, &records[..size], Some(&next), records.len());
    cursors.keep(locator, records, size);
    Ok(())
}

pub(super) fn query_more(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let store = call.world.store();
    let cursors = call.world.cursors();
    let (name, records, offset, size) = cursors
        .find(call.operation.word("queryLocator"))
        .ok_or_else(|| Fault::new("INVALID_QUERY_LOCATOR", "invalid query locator"))?;
    let end = (offset + size).min(records.len());
    let next = (end < records.len()).then(|| format!("{name}-{end}"));
    page(call, out, &store, &records[offset..end], next.as_deref(), records.len());
    Ok(())
}

fn page(call: &Call<'_>, out: &mut Writer, store: &Store, records: &[Value], next: Option<&str>, total: usize) {
    out.group("result xsi:type=\"QueryResult\"", |out| {
        out.show("done", next.is_none());
        out.word_or_nil("queryLocator", next);
        for record in records {
            row(call.api, store, "records", record, out);
        }
        out.show("size", total);
    });
}

pub(super) fn retrieve(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let operation = call.operation;
    let store = call.world.store();
    let text = format!(
        "SELECT {} FROM {}",
        operation.word("fieldList"),
        operation.word("sObjectType")
    );
    let mut found = find(&store, &soql::parse(&text)?, false)?;
    for id in operation.words("ids") {
        let Ok(place) = found.table.living(id) else {
            out.nil("result");
            continue;
        };
        found.places = vec![place];
        row(call.api, &store, "result", &record(&store, &found, place, "")?, out);
    }
    Ok(())
}

/// A row from its REST form.
pub(super) fn row(api: &Api, store: &Store, element: &str, record: &Value, out: &mut Writer) {
    let none = Map::new();
    let fields = record.as_object().unwrap_or(&none);
    let object = record["attributes"]["type"].as_str().unwrap_or("");
    sobject(api, store, element, object, fields, out);
}

fn sobject(api: &Api, store: &Store, element: &str, object: &str, fields: &Map<String, Value>, out: &mut Writer) {
    let partner = *api == Api::Partner;
    let kind = if partner { "sObject" } else { object };
    let is_id = |name: &str| name.eq_ignore_ascii_case("id");
    let id = fields.iter().find(|(name, _)| is_id(name));
    let id = id.and_then(|(_, value)| value.as_str());
    out.group(&format!("{element} xsi:type=\"sf:{kind}\""), |out| {
        if partner {
            out.word("sf:type", object);
            out.word_or_nil("sf:Id", id);
        }
        for (name, value) in fields {
            let tag = format!("sf:{name}");
            match value {
                _ if name == "attributes" => {}
                Value::Object(parent) => {
                    let table = store.read(object);
                    let target = table.and_then(|table| table.object.parent(name));
                    let target = target.map_or("", |(_, target)| target);
                    sobject(api, store, &tag, target, parent, out);
                }
                value => out.word_or_nil(&tag, word(name, value).as_deref()),
            }
        }
    });
}
