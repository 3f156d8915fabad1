//! `/sobjects/…`: objects, their description, and one row at a time.
//!
//! Owns: nothing. Invariants: 201 with an id on create, 204 without a body on update and delete, 200 or 201 on upsert.
//! Fails with: an [`Answer`]. Source: Salesforce REST API guide, sObject resources.

use std::time::{Duration, SystemTime};

use hyper::Method;
use serde_json::{Map, Value, json};

use super::Call;
use crate::{
    demo::{
        answer::{Answer, Problem},
        store::{Store, Table},
        world::World,
    },
    http_date,
};

/// `path` is what follows `/sobjects`.
pub(super) fn answer(world: &World, call: &Call, path: &[&str]) -> Result<Answer, Answer> {
    match *path {
        [] if is_as_known(world, call) => Ok(Answer::empty(304)),
        [] => Ok(list(&world.store(), call)),
        [object] => one_object(world, call, object),
        [object, "describe"] => {
            let store = world.store();
            let table = store.read(object).ok_or_else(Answer::not_found)?;
            Ok(match is_as_known(world, call) {
                true => Answer::empty(304),
                false => Answer::json(200, table.object.describe(&call.base())),
            })
        }
        [object, id] => one_row(world, call, object, id),
        [object, field, value] => external(world, call, object, field, value),
        _ => Err(Answer::not_found()),
    }
}

/// `If-Modified-Since` counts for Describe Global and sObject Describe, with any date; that they answer with `Last-Modified` is
/// not confirmed, and the practice org does not.
fn is_as_known(world: &World, call: &Call) -> bool {
    let since = call.header("if-modified-since").and_then(http_date::seconds);
    since.is_some_and(|since| SystemTime::UNIX_EPOCH + Duration::from_secs(since) >= world.described)
}

fn list(store: &Store, call: &Call) -> Answer {
    let base = call.base();
    let objects: Vec<Value> = super::super::store::schema::OBJECTS
        .iter()
        .filter(|object| store.read(object.name).is_some())
        .map(|object| object.summary(&base))
        .collect();
    Answer::json(
        200,
        json!({"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": objects}),
    )
}

fn one_object(world: &World, call: &Call, object: &str) -> Result<Answer, Answer> {
    let now = world.now();
    let mut store = world.store();
    let table = store.table(object).ok_or_else(Answer::not_found)?;
    match call.method {
        Method::GET => {
            let summary = table.object.summary(&call.base());
            Ok(Answer::json(200, json!({"objectDescribe": summary, "recentItems": []})))
        }
        Method::POST => {
            let values = object_body(call)?;
            let place = table.insert(&values, now)?;
            Ok(created(table, place, &call.base()))
        }
        _ => Err(Answer::method_not_allowed(&call.method, "HEAD,GET,POST")),
    }
}

fn one_row(world: &World, call: &Call, object: &str, id: &str) -> Result<Answer, Answer> {
    let now = world.now();
    let mut store = world.store();
    let table = store.table(object).ok_or_else(Answer::not_found)?;
    if call.method == Method::GET {
        let place = table.living(id).map_err(|_| Answer::not_found())?;
        return Ok(Answer::json(200, row(&store, object, place, call)?));
    }
    match call.method {
        Method::PATCH => {
            let place = table.living(id)?;
            table.update(place, &object_body(call)?, now)?;
            Ok(Answer::empty(204))
        }
        Method::DELETE => {
            let place = table.living(id)?;
            table.delete(place, now);
            Ok(Answer::empty(204))
        }
        _ => Err(Answer::method_not_allowed(&call.method, "HEAD,GET,PATCH,DELETE")),
    }
}

fn external(world: &World, call: &Call, object: &str, field: &str, value: &str) -> Result<Answer, Answer> {
    let now = world.now();
    let mut store = world.store();
    let table = store.table(object).ok_or_else(Answer::not_found)?;
    let place = locate(table, field, value)?;
    if call.method == Method::GET {
        let place = place.ok_or_else(Answer::not_found)?;
        return Ok(Answer::json(200, row(&store, object, place, call)?));
    }
    match (&call.method, place) {
        (&Method::PATCH, place) => {
            let (place, was_created) = upsert(table, place, field, value, &object_body(call)?, now)?;
            Ok(Answer::json(
                if was_created { 201 } else { 200 },
                json!({"id": table.id(place), "success": true, "errors": [], "created": was_created}),
            ))
        }
        (&Method::DELETE, Some(place)) => {
            table.delete(place, now);
            Ok(Answer::empty(204))
        }
        (&Method::DELETE, None) => Err(Answer::not_found()),
        _ => Err(Answer::method_not_allowed(&call.method, "HEAD,GET,PATCH,DELETE")),
    }
}

/// The living row with that external id (or id).
pub(super) fn locate(table: &Table, field: &str, value: &str) -> Result<Option<usize>, Problem> {
    if field.eq_ignore_ascii_case("id") {
        return Ok(table.living(value).ok());
    }
    let at = table
        .object
        .field(field)
        .filter(|at| table.object.fields[*at].external_id);
    match at {
        Some(_) => Ok(table.by_external(value)),
        None => Err(Problem::new(
            "NOT_FOUND",
            "Provided external ID field does not exist or is not accessible: ".to_owned() + field,
        )),
    }
}

/// Updates the row at `place` or creates it; whether it was created.
pub(super) fn upsert(
    table: &mut Table,
    place: Option<usize>,
    field: &str,
    value: &str,
    values: &Map<String, Value>,
    now: std::time::SystemTime,
) -> Result<(usize, bool), Problem> {
    let mut values = values.clone();
    values.remove(field);
    if let Some(place) = place {
        table.update(place, &values, now)?;
        return Ok((place, false));
    }
    values.insert(field.to_owned(), json!(value));
    table.insert(&values, now).map(|place| (place, true))
}

/// A row with its `attributes`; only the fields asked for by `?fields=`.
fn row(store: &Store, object: &str, place: usize, call: &Call) -> Result<Value, Answer> {
    let table = store.read(object).ok_or_else(Answer::not_found)?;
    let mut values = match call.parameter("fields") {
        None => table.whole(place),
        Some(names) => {
            let mut some = Map::new();
            for name in names.split(',').map(str::trim) {
                some.insert(name.to_owned(), store.value(table, place, name)?);
            }
            some.insert("Id".to_owned(), json!(table.id(place)));
            some
        }
    };
    values.insert("attributes".into(), attributes(table, place, &call.base()));
    Ok(Value::Object(values))
}

pub(super) fn attributes(table: &Table, place: usize, base: &str) -> Value {
    let name = table.object.name;
    json!({"type": name, "url": format!("{base}/sobjects/{name}/{}", table.id(place))})
}

pub(super) fn created(table: &Table, place: usize, base: &str) -> Answer {
    let id = table.id(place);
    let location = format!("{base}/sobjects/{}/{id}", table.object.name);
    Answer::json(201, json!({"id": id, "success": true, "errors": []})).with("location", &location)
}

pub(super) fn object_body(call: &Call) -> Result<Map<String, Value>, Answer> {
    match call.json()? {
        Value::Object(values) => Ok(values),
        _ => Err(Answer::error(
            400,
            "JSON_PARSER_ERROR",
            "The HTTP entity body is required to be one object",
        )),
    }
}
