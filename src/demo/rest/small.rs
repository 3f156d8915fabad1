//! Resources with little behind them: versions, limits, tooling, GraphQL.
//!
//! Owns: nothing. Invariants: the shapes are Salesforce's, the contents are few. Fails with: an [`Answer`].
//! Source: SF §6 (`/limits`, versions); GraphQL and tooling shapes from Salesforce's guides, shortened.

use std::sync::atomic::Ordering::Relaxed;

use hyper::Method;
use serde_json::{Value, json};

use super::{Call, NEWEST, OLDEST};
use crate::demo::{answer::Answer, world::World};

pub(crate) const DAILY_CALLS: u64 = 15_000;

/// `GET /services/data`: no login needed.
pub(crate) fn versions() -> Answer {
    let labels = ["Spring", "Summer", "Winter"];
    let version = |n: u32| {
        // Spring '26 is 66.0; three releases a year, and Winter is named for the next.
        let since_spring_14 = n - 30;
        let year = 14 + since_spring_14 / 3 + u32::from(since_spring_14 % 3 == 2);
        json!({"label": format!("{} '{year}", labels[since_spring_14 as usize % 3]),
            "url": format!("/services/data/v{n}.0"), "version": format!("{n}.0")})
    };
    let mut all: Vec<Value> = (OLDEST..=NEWEST).map(version).collect();
    all.push(json!({"label": "Latest Release", "url": "/services/data/latest", "version": format!("{NEWEST}.0")}));
    Answer::json(200, Value::Array(all))
}

pub(super) fn resources(call: &Call) -> Answer {
    let base = call.base();
    let names = [
        "composite",
        "graphql",
        "jobs",
        "limits",
        "query",
        "queryAll",
        "search",
        "sobjects",
        "tooling",
    ];
    let entries = names.map(|name| (name.to_owned(), json!(format!("{base}/{name}"))));
    Answer::json(200, Value::Object(entries.into_iter().collect()))
}

pub(super) fn limits(world: &World) -> Answer {
    let used = world.counters.api_usage.load(Relaxed);
    let pair = |max: u64, used: u64| json!({"Max": max, "Remaining": max.saturating_sub(used)});
    Answer::json(
        200,
        json!({
            "DailyApiRequests": pair(DAILY_CALLS, used),
            "DailyBulkApiBatches": pair(15_000, 0),
            "DailyBulkV2QueryJobs": pair(10_000, 0),
            "DailyStreamingApiEvents": pair(10_000, 0),
            "DataStorageMB": pair(5, 0),
            "FileStorageMB": pair(20, 0),
            "PermissionSets": {"Max": 1_500, "Remaining": 1_499, "CreateCustom": pair(1_000, 1)},
        }),
    )
}

pub(super) fn tooling_query() -> Answer {
    Answer::json(
        200,
        json!({"size": 0, "totalSize": 0, "done": true, "queryLocator": null, "entityTypeName": "ApexClass", "records": []}),
    )
}

pub(super) fn execute_anonymous() -> Answer {
    Answer::json(
        200,
        json!({"line": -1, "column": -1, "compiled": true, "success": true, "compileProblem": null,
            "exceptionMessage": null, "exceptionStackTrace": null}),
    )
}

/// Whatever the query asks: the first accounts.
pub(super) fn graphql(world: &World, call: &Call) -> Result<Answer, Answer> {
    if call.method != Method::POST {
        return Err(Answer::method_not_allowed(&call.method, "POST"));
    }
    if call.json()?["query"].as_str().is_none() {
        let error =
            json!({"message": "query is required", "locations": [], "extensions": {"ErrorType": "ValidationError"}});
        return Ok(Answer::json(400, json!({"data": {}, "errors": [error]})));
    }
    let store = world.store();
    let accounts = store.read("Account").ok_or_else(Answer::not_found)?;
    let mut edges = Vec::new();
    for (place, _) in accounts.rows().filter(|(_, row)| !row.deleted).take(10) {
        let name = accounts.value(place, "Name")?;
        edges.push(json!({"node": {"Id": accounts.id(place), "Name": {"value": name}}}));
    }
    let query = json!({"Account": {"edges": edges, "totalCount": edges.len()}});
    Ok(Answer::json(
        200,
        json!({"data": {"uiapi": {"query": query}}, "errors": []}),
    ))
}
