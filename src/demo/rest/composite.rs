//! `/composite`, `/composite/batch`, `/composite/tree`: several calls in one.
//!
//! Owns: nothing. Invariants: results are in order; with `allOrNone` a failure undoes every row changed by the call.
//! Fails with: an [`Answer`], or a result per call. Source: Salesforce REST API guide, Composite; limits 25 and 200.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::{Map, Value, json};

use super::Call;
use crate::demo::{answer::Answer, world::World};

const MOST: usize = 25;

pub(super) fn composite(world: &Arc<World>, call: &Call) -> Result<Answer, Answer> {
    let body = call.json()?;
    let requests = calls(&body, "compositeRequest")?;
    let all_or_none = body["allOrNone"].as_bool().unwrap_or(false);
    let before = all_or_none.then(|| world.store().clone());

    let mut bodies: Map<String, Value> = Map::new();
    let mut results: Vec<Value> = Vec::new();
    for request in requests {
        let reference = request["referenceId"].as_str().unwrap_or("").to_owned();
        let answer = run(world, request, "body", |text| resolve(text, &bodies));
        let (status, location) = (answer.status, location(&answer));
        let body = answer.value();
        bodies.insert(reference.clone(), body.clone());
        results.push(
            json!({"body": body, "httpHeaders": location, "httpStatusCode": status.as_u16(), "referenceId": reference}),
        );
    }
    let failed = |result: &Value| result["httpStatusCode"].as_u64().is_some_and(|s| s >= 400);
    if let Some(before) = before.filter(|_| results.iter().any(failed)) {
        *world.store() = before;
        for result in results.iter_mut().filter(|result| !failed(result)) {
            let halted = json!({"errorCode": "PROCESSING_HALTED",
                "message": "The transaction was rolled back since another operation in the same transaction failed."});
            result["body"] = json!([halted]);
            result["httpStatusCode"] = json!(400);
        }
    }
    Ok(Answer::json(200, json!({"compositeResponse": results})))
}

pub(super) fn batch(world: &Arc<World>, call: &Call) -> Result<Answer, Answer> {
    let body = call.json()?;
    let halt = body["haltOnError"].as_bool().unwrap_or(false);
    let mut failed = false;
    let mut results = Vec::new();
    for request in calls(&body, "batchRequests")? {
        if failed && halt {
            let halted =
                json!([{"errorCode": "BATCH_PROCESSING_HALTED", "message": "Batch processing halted per request"}]);
            results.push(json!({"statusCode": 412, "result": halted}));
            continue;
        }
        let answer = run(world, request, "richInput", |text| Ok(text.to_owned()));
        failed |= answer.status.as_u16() >= 400;
        results.push(json!({"statusCode": answer.status.as_u16(), "result": answer.value()}));
    }
    Ok(Answer::json(200, json!({"hasErrors": failed, "results": results})))
}

/// Rows of one object, without children; all or none.
pub(super) fn tree(world: &World, call: &Call, object: &str) -> Result<Answer, Answer> {
    let body = call.json()?;
    let records = body["records"]
        .as_array()
        .ok_or_else(|| Answer::error(400, "JSON_PARSER_ERROR", "records missing"))?;
    let now = world.now();
    let mut store = world.store();
    let before = store.clone();
    let table = store.table(object).ok_or_else(Answer::not_found)?;
    let (mut made, mut errors) = (Vec::new(), Vec::new());
    for record in records {
        let reference = &record["attributes"]["referenceId"];
        let values = record.as_object().cloned().unwrap_or_default();
        match table.insert(&values, now) {
            Ok(place) => made.push(json!({"referenceId": reference, "id": table.id(place)})),
            Err(problem) => errors.push(json!({"referenceId": reference, "errors": [problem.to_result()]})),
        }
    }
    if errors.is_empty() {
        return Ok(Answer::json(201, json!({"hasErrors": false, "results": made})));
    }
    *store = before;
    Ok(Answer::json(400, json!({"hasErrors": true, "results": errors})))
}

fn calls<'a>(body: &'a Value, name: &str) -> Result<&'a Vec<Value>, Answer> {
    let requests = body[name].as_array().ok_or_else(|| {
        Answer::error(
            400,
            "JSON_PARSER_ERROR",
            format!("Unrecognized or missing field: {name}"),
        )
    })?;
    if requests.len() > MOST {
        let message = format!("The number of subrequests must not be more than {MOST}");
        return Err(Answer::error(400, "LIMIT_EXCEEDED", message));
    }
    Ok(requests)
}

/// One inner call; `resolve` fills in what earlier ones answered.
fn run(
    world: &Arc<World>,
    request: &Value,
    body_name: &str,
    resolve: impl Fn(&str) -> Result<String, Answer>,
) -> Answer {
    let attempt = || -> Result<Answer, Answer> {
        let url = resolve(request["url"].as_str().unwrap_or(""))?;
        let body = match &request[body_name] {
            Value::Null => Bytes::new(),
            value => resolve(&value.to_string())?.into(),
        };
        let method = request["method"].as_str().unwrap_or("GET").to_ascii_uppercase();
        let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET);
        let url = url.trim_start_matches('/');
        let rest = url.strip_prefix("services/data/").unwrap_or(url);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.contains("/composite") && !path.contains("/composite/sobjects") {
            return Err(Answer::error(
                400,
                "INVALID_OPERATION",
                "composite calls cannot hold each other",
            ));
        }
        let call = Call::new(method, path, query, HeaderMap::new(), body)?;
        Ok(super::answer(world, &call))
    };
    attempt().unwrap_or_else(|refusal| refusal)
}

/// Replaces each `@{reference.path}`.
fn resolve(text: &str, bodies: &Map<String, Value>) -> Result<String, Answer> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("@{") {
        let unknown = || {
            Answer::error(
                400,
                "PROCESSING_HALTED",
                "Invalid reference specified. No value for ".to_owned() + after.split('}').next().unwrap_or(""),
            )
        };
        let (path, behind) = after.split_once('}').ok_or_else(unknown)?;
        let (reference, field) = path.split_once('.').ok_or_else(unknown)?;
        let pointer = format!(
            "/{}",
            field.replace("].", "/").replace(['.', '['], "/").replace(']', "")
        );
        let value = bodies
            .get(reference)
            .and_then(|body| body.pointer(&pointer))
            .ok_or_else(unknown)?;
        out += before;
        out += &value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        rest = behind;
    }
    Ok(out + rest)
}

fn location(answer: &Answer) -> Value {
    let found = answer.headers.iter().find(|(name, _)| name == "location");
    match found.and_then(|(_, value)| value.to_str().ok()) {
        Some(at) => json!({"Location": at}),
        None => json!({}),
    }
}
