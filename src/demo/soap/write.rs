//! SOAP calls that change rows.
//!
//! Owns: nothing. Invariants: an unknown object or field is a fault and changes nothing; any other bad row fails alone, or with
//! `AllOrNoneHeader` takes the others with it.
//! Units: at most 200 rows a call. Fails with: [`Fault`], or a row's own errors. Source: the partner WSDL; `fieldsToNull`.

use serde_json::Value;

use super::{Api, Call, Fault, is_true};
use crate::demo::{
    answer::Problem,
    store::{Store, Table},
    xml::{Element, Writer},
};

const MOST: usize = 200;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    Create,
    Update,
    Upsert(&'a str),
}

/// A row as it was sent; `None` is null.
struct Sent<'a> {
    object: &'a str,
    id: Option<&'a str>,
    fields: Vec<(&'a str, Option<&'a str>)>,
}

pub(super) fn create(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    save(call, out, Kind::Create)
}

pub(super) fn update(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    save(call, out, Kind::Update)
}

pub(super) fn upsert(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    save(call, out, Kind::Upsert(call.operation.word("externalIDFieldName")))
}

fn save(call: &Call<'_>, out: &mut Writer, kind: Kind<'_>) -> Result<(), Fault> {
    let rows: Vec<Sent<'_>> = call.operation.all("sObjects").map(|row| sent(call.api, row)).collect();
    {
        let store = call.world.store();
        rows.iter().try_for_each(|row| known(&store, row))?;
    }
    let now = call.world.now();
    let one = |store: &mut Store, row: &Sent<'_>| {
        let table = store.table(row.object).ok_or_else(|| no_such_object(row.object))?;
        let old = old(table, row, kind)?;
        let mut values = match old {
            Some(place) => table.row_values(place),
            None => vec![Value::Null; table.object.fields.len()],
        };
        for (name, word) in &row.fields {
            let at = table.object.field(name).ok_or_else(|| table.no_such_field(name))?;
            values[at] = match word {
                Some(word) => table.object.fields[at].accept_text(word)?,
                None => Value::Null,
            };
        }
        let place = match old {
            Some(place) => table.update_row(place, values, now).map(|()| place)?,
            None => table.insert_row(values, now)?,
        };
        Ok((table.id(place), old.is_none()))
    };
    let results = each(call, &rows, one)?;
    show(out, results, matches!(kind, Kind::Upsert(_)));
    Ok(())
}

pub(super) fn delete(call: &Call<'_>, out: &mut Writer) -> Result<(), Fault> {
    let now = call.world.now();
    let ids: Vec<&str> = call.operation.words("ids").collect();
    let results = each(call, &ids, |store, id| {
        let table = store
            .by_prefix(id)
            .ok_or_else(|| Problem::new("MALFORMED_ID", format!("malformed id {id}")))?;
        let place = table.living(id)?;
        table.delete(place, now);
        Ok((table.id(place), false))
    })?;
    show(out, results, false);
    Ok(())
}

/// Partner rows say their type in an element, enterprise ones by `xsi:type`. A nil field changes nothing; `fieldsToNull` does.
fn sent<'a>(api: &Api, row: &'a Element) -> Sent<'a> {
    let object = match api {
        Api::Enterprise => row.kind.as_deref().unwrap_or(""),
        _ => row.word("type"),
    };
    let mut sent = Sent {
        object,
        id: None,
        fields: Vec::new(),
    };
    for child in row.children.iter().filter(|child| !child.nil) {
        match child.name.as_str() {
            "type" if *api != Api::Enterprise => {}
            "fieldsToNull" => sent.fields.push((child.text.trim(), None)),
            name if name.eq_ignore_ascii_case("id") => sent.id = Some(child.text.trim()).filter(|id| !id.is_empty()),
            name => sent.fields.push((name, Some(&child.text))),
        }
    }
    sent
}

fn known(store: &Store, row: &Sent<'_>) -> Result<(), Problem> {
    let table = store.read(row.object).ok_or_else(|| no_such_object(row.object))?;
    let unknown = row.fields.iter().find(|(name, _)| table.object.field(name).is_none());
    unknown.map_or(Ok(()), |(name, _)| Err(table.no_such_field(name)))
}

fn no_such_object(object: &str) -> Problem {
    Problem::new("INVALID_TYPE", format!("sObject type '{object}' is not supported."))
}

/// The row that is meant; `None` for a new one.
fn old(table: &Table, row: &Sent<'_>, kind: Kind<'_>) -> Result<Option<usize>, Problem> {
    let missing = |name: &str| Problem::new("MISSING_ARGUMENT", format!("{name} not specified"));
    match kind {
        Kind::Create if row.id.is_some() => Err(Problem::new(
            "INVALID_FIELD_FOR_INSERT_UPDATE",
            "cannot specify Id in an insert call",
        )),
        Kind::Create => Ok(None),
        Kind::Update => table.living(row.id.ok_or_else(|| missing("Id"))?).map(Some),
        Kind::Upsert(field) if field.is_empty() || field.eq_ignore_ascii_case("id") => {
            row.id.map(|id| table.living(id)).transpose()
        }
        Kind::Upsert(field) => {
            let at = table.object.field(field);
            if at.is_none_or(|at| !table.object.fields[at].external_id) {
                let text =
                    format!("Field name provided, {field} is not an External ID or indexed field for this sObject");
                return Err(Problem::new("INVALID_FIELD", text));
            }
            let sent = row.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
            let value = sent.and_then(|(_, word)| *word).filter(|word| !word.is_empty());
            Ok(table.by_external(value.ok_or_else(|| missing(field))?))
        }
    }
}

type Done = Result<(String, bool), Problem>;

fn each<T>(call: &Call<'_>, items: &[T], one: impl Fn(&mut Store, &T) -> Done) -> Result<Vec<Done>, Fault> {
    if items.len() > MOST {
        return Err(Fault::new(
            "EXCEEDED_ID_LIMIT",
            format!("record limit reached. cannot submit more than {MOST} records into this call"),
        ));
    }
    let all_or_none = is_true(call.header_word("AllOrNoneHeader", "allOrNone"));
    let mut store = call.world.store();
    let before = all_or_none.then(|| store.clone());
    let mut results: Vec<Done> = items.iter().map(|item| one(&mut store, item)).collect();
    if let Some(before) = before.filter(|_| results.iter().any(Result::is_err)) {
        *store = before;
        for result in results.iter_mut().filter(|result| result.is_ok()) {
            *result = Err(Problem::new(
                "ALL_OR_NONE_OPERATION_ROLLED_BACK",
                "Record rolled back because not all records were valid and the request was using AllOrNone header",
            ));
        }
    }
    Ok(results)
}

fn show(out: &mut Writer, results: Vec<Done>, upsert: bool) {
    for result in results {
        out.group("result", |out| {
            if upsert {
                out.show("created", matches!(result, Ok((_, true))));
            }
            if let Err(problem) = &result {
                out.group("errors", |out| errors(problem, out));
            }
            out.word_or_nil("id", result.as_ref().ok().map(|(id, _)| id.as_str()));
            out.show("success", result.is_ok());
        });
    }
}

/// SOAP's status codes are not all of REST's.
fn errors(problem: &Problem, out: &mut Writer) {
    for field in &problem.fields {
        out.word("fields", field);
    }
    let (code, message) = match problem.code {
        "NOT_FOUND" => ("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id"),
        code => (code, problem.message.as_str()),
    };
    out.word("message", message);
    out.word("statusCode", code);
}
