//! `/composite/sobjects`: up to 200 rows in one call.
//!
//! Owns: nothing. Invariants: answers are in the order asked; with `allOrNone` either all rows change or none.
//! Fails with: one result per row, or an [`Answer`]. Source: Salesforce REST API guide, sObject Collections.

use hyper::Method;
use serde_json::{Map, Value, json};

use super::{Call, rows};
use crate::demo::{
    answer::{Answer, Problem},
    store::Store,
    world::World,
};

const MOST: usize = 200;

/// `path` is what follows `/composite/sobjects`.
pub(super) fn answer(world: &World, call: &Call, path: &[&str]) -> Result<Answer, Answer> {
    let method = &call.method;
    match *path {
        [] if method == Method::DELETE => delete(world, call),
        [] if method == Method::POST || method == Method::PATCH => write(world, call, None),
        [object] if method == Method::GET || method == Method::POST => retrieve(world, call, object),
        [object, field] if method == Method::PATCH => write(world, call, Some((object, field))),
        [] | [_] | [_, _] => Err(Answer::method_not_allowed(method, "GET,POST,PATCH,DELETE")),
        _ => Err(Answer::not_found()),
    }
}

/// Create, update, or upsert by a field.
fn write(world: &World, call: &Call, upsert_by: Option<(&str, &str)>) -> Result<Answer, Answer> {
    let body = call.json()?;
    let records = body["records"]
        .as_array()
        .ok_or_else(|| Answer::error(400, "JSON_PARSER_ERROR", "Unrecognized or missing field: records"))?;
    let all_or_none = body["allOrNone"].as_bool().unwrap_or(false);
    let one = |store: &mut Store, record: &Value| -> Result<Value, Problem> {
        let Value::Object(values) = record else {
            return Err(Problem::new("JSON_PARSER_ERROR", "a record must be an object"));
        };
        write_one(world, store, values, call.method == Method::POST, upsert_by)
    };
    each(world, records, all_or_none, one)
}

fn write_one(
    world: &World,
    store: &mut Store,
    values: &Map<String, Value>,
    create: bool,
    upsert_by: Option<(&str, &str)>,
) -> Result<Value, Problem> {
    let now = world.now();
    let text = |name: &str| values.get(name).and_then(Value::as_str);
    let kind = values.get("attributes").and_then(|a| a["type"].as_str());
    let object = upsert_by.map(|(object, _)| object).or(kind);
    let object =
        object.ok_or_else(|| Problem::new("INVALID_FIELD", "The 'type' attribute is required on an sObject"))?;
    let table = store
        .table(object)
        .ok_or_else(|| Problem::new("INVALID_TYPE", format!("sObject type '{object}' is not supported.")))?;
    if let Some((_, field)) = upsert_by {
        let value = text(field).ok_or_else(|| Problem::new("MISSING_ARGUMENT", format!("{field} not specified")))?;
        let place = rows::locate(table, field, value)?;
        let (place, created) = rows::upsert(table, place, field, value, values, now)?;
        return Ok(json!({"id": table.id(place), "success": true, "errors": [], "created": created}));
    }
    let place = if create {
        table.insert(values, now)?
    } else {
        let id = text("id").or(text("Id"));
        let id = id.ok_or_else(|| Problem::new("MISSING_ARGUMENT", "Id not specified in an update call"))?;
        let place = table.living(id)?;
        table.update(place, values, now)?;
        place
    };
    Ok(json!({"id": table.id(place), "success": true, "errors": []}))
}

fn delete(world: &World, call: &Call) -> Result<Answer, Answer> {
    let ids = call
        .parameter("ids")
        .unwrap_or("")
        .split(',')
        .filter(|id| !id.is_empty());
    let ids: Vec<Value> = ids.map(|id| json!(id)).collect();
    let all_or_none = call.parameter("allOrNone") == Some("true");
    each(world, &ids, all_or_none, |store, id| {
        let id = id.as_str().unwrap_or("");
        let table = store
            .by_prefix(id)
            .ok_or_else(|| Problem::new("MALFORMED_ID", "malformed id ".to_owned() + id))?;
        let place = table.living(id)?;
        table.delete(place, world.now());
        Ok(json!({"id": table.id(place), "success": true, "errors": []}))
    })
}

fn each(
    world: &World,
    items: &[Value],
    all_or_none: bool,
    one: impl Fn(&mut Store, &Value) -> Result<Value, Problem>,
) -> Result<Answer, Answer> {
    if items.len() > MOST {
        return Err(Answer::error(
            400,
            "EXCEEDED_ID_LIMIT",
            format!("record limit reached. cannot submit more than {MOST} records into this call"),
        ));
    }
    let mut store = world.store();
    let before = all_or_none.then(|| store.clone());
    let results: Vec<Result<Value, Problem>> = items.iter().map(|item| one(&mut store, item)).collect();
    let failed = results.iter().any(Result::is_err);
    if let Some(before) = before.filter(|_| failed) {
        *store = before;
    }
    let show = |result: Result<Value, Problem>| {
        let problem = match result {
            Err(problem) => problem,
            Ok(_) if failed && all_or_none => Problem::new(
                "ALL_OR_NONE_OPERATION_ROLLED_BACK",
                "Record rolled back because not all records were valid and the request was using AllOrNone header",
            ),
            Ok(value) => return value,
        };
        json!({"success": false, "errors": [problem.to_result()]})
    };
    Ok(Answer::json(200, results.into_iter().map(show).collect()))
}

/// `?ids=&fields=` or the same in a body; null for a row that is not there.
fn retrieve(world: &World, call: &Call, object: &str) -> Result<Answer, Answer> {
    let body = if call.method == Method::POST {
        call.json()?
    } else {
        Value::Null
    };
    let list = |name: &str| -> Vec<String> {
        match (&body[name], call.parameter(name)) {
            (Value::Array(items), _) => items.iter().filter_map(|i| i.as_str().map(str::to_owned)).collect(),
            (_, Some(text)) => text.split(',').map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    };
    let store = world.store();
    let table = store.read(object).ok_or_else(Answer::not_found)?;
    let mut records = Vec::new();
    for id in list("ids") {
        let Ok(place) = table.living(&id) else {
            records.push(Value::Null);
            continue;
        };
        let mut record = json!({"attributes": rows::attributes(table, place, &call.base()), "Id": table.id(place)});
        for field in list("fields") {
            record[&field] = store.value(table, place, &field)?;
        }
        records.push(record);
    }
    Ok(Answer::json(200, Value::Array(records)))
}
