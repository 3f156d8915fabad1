//! Bulk 2.0 query: many rows as CSV, in pages.
//!
//! Owns: nothing; jobs live in [`Jobs`](super::Jobs). Invariants: pages show the rows as they were when the job ran.
//! Units: a locator is the base64 of a row number, `null` at the end. Fails with: an [`Answer`], or the state `Failed`.
//! Source: Salesforce Bulk API 2.0 guide; SF §6.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use serde_json::{Value, json};

use super::{Dialect, State, csv, csv_answer, invalid_job, job_json};
use crate::demo::{
    answer::{Answer, Problem},
    rest::{Call, query::find},
    soql::{self, Fields, Query},
    store::unix_millis,
    world::World,
};

/// Rows of a page when nobody says how many. Salesforce's number is its own affair; clients that follow the locator must meet one.
const DEFAULT_PAGE: usize = 20_000;

pub(super) struct Job {
    operation: String,
    query: Query,
    dialect: Dialect,
    state: State,
    created: u64,
    header: String,
    rows: Vec<String>,
    error: Option<String>,
}

/// `path` is what follows `/jobs/query`.
pub(super) fn answer(world: &Arc<World>, call: &Call, path: &[&str]) -> Result<Answer, Answer> {
    let method = &call.method;
    match *path {
        [] if method == Method::POST => create(world, call),
        [id] if method == Method::GET => with_job(world, id, |job| Ok(Answer::json(200, show(world, id, job)))),
        [id] if method == Method::DELETE => {
            with_job(world, id, |_| Ok(Answer::empty(204)))?;
            world.jobs().query.remove(id);
            Ok(Answer::empty(204))
        }
        [id] if method == Method::PATCH => with_job(world, id, |job| {
            job.state = State::Aborted;
            Ok(Answer::json(200, show(world, id, job)))
        }),
        [id, "results"] if method == Method::GET => with_job(world, id, |job| results(call, job)),
        [] | [_] | [_, "results"] => Err(Answer::method_not_allowed(method, "GET,POST,PATCH,DELETE")),
        _ => Err(Answer::not_found()),
    }
}

fn with_job(world: &World, id: &str, act: impl FnOnce(&mut Job) -> Result<Answer, Answer>) -> Result<Answer, Answer> {
    let mut jobs = world.jobs();
    act(jobs.query.get_mut(id).ok_or_else(Answer::not_found)?)
}

fn create(world: &Arc<World>, call: &Call) -> Result<Answer, Answer> {
    let body = call.json()?;
    let operation = body["operation"].as_str().unwrap_or("");
    if !matches!(operation, "query" | "queryAll") {
        return Err(invalid_job("Unknown operation"));
    }
    let query = soql::parse(body["query"].as_str().unwrap_or(""))?;
    if query.fields == Fields::Count {
        return Err(invalid_job("COUNT() is not supported"));
    }
    find(
        &world.store(),
        &Query {
            limit: Some(0),
            ..query.clone()
        },
        false,
    )?;
    let job = Job {
        operation: operation.to_owned(),
        query,
        dialect: Dialect::read(&body)?,
        state: State::UploadComplete,
        created: unix_millis(world.now()),
        header: String::new(),
        rows: Vec::new(),
        error: None,
    };
    let mut jobs = world.jobs();
    let id = jobs.next_id();
    let answer = Answer::json(200, show(world, &id, &job));
    jobs.query.insert(id.clone(), job);
    let shared = Arc::clone(world);
    world.tasks.spawn(async move { process(&shared, &id).await });
    Ok(answer)
}

async fn process(world: &World, id: &str) {
    for state in [State::InProgress, State::JobComplete] {
        tokio::time::sleep(world.settings.bulk_delay).await;
        let _: Result<Answer, Answer> = with_job(world, id, |job| {
            if job.state == State::Aborted {
                return Err(Answer::not_found());
            }
            job.state = state;
            if state == State::JobComplete
                && let Err(problem) = run(world, job)
            {
                job.state = State::Failed;
                job.error = Some(problem.message);
            }
            Ok(Answer::empty(200))
        });
    }
}

fn run(world: &World, job: &mut Job) -> Result<(), Problem> {
    let store = world.store();
    let found = find(&store, &job.query, job.operation == "queryAll")?;
    let (delimiter, end) = (job.dialect.delimiter, job.dialect.line_end());
    csv::write(&mut job.header, found.fields.iter().map(String::as_str), delimiter, end);
    for place in &found.places {
        let mut words = Vec::with_capacity(found.fields.len());
        for field in &found.fields {
            words.push(match store.value(found.table, *place, field)? {
                Value::Null => String::new(),
                Value::String(text) => text,
                other => other.to_string(),
            });
        }
        let mut row = String::new();
        csv::write(&mut row, words.iter().map(String::as_str), delimiter, end);
        job.rows.push(row);
    }
    Ok(())
}

fn results(call: &Call, job: &Job) -> Result<Answer, Answer> {
    if job.state != State::JobComplete {
        return Err(Answer::error(
            400,
            "INVALIDJOBSTATE",
            "InvalidJobState : the job is not complete",
        ));
    }
    let lost = || Answer::error(400, "INVALID_QUERY_LOCATOR", "invalid locator");
    let from = match call.parameter("locator").filter(|locator| !locator.is_empty()) {
        None => 0,
        Some(locator) => {
            let bytes = STANDARD.decode(locator).map_err(|_| lost())?;
            let text = String::from_utf8(bytes).map_err(|_| lost())?;
            text.parse()
                .ok()
                .filter(|from| *from < job.rows.len())
                .ok_or_else(lost)?
        }
    };
    let most = call
        .parameter("maxRecords")
        .and_then(|m| m.parse().ok())
        .unwrap_or(DEFAULT_PAGE)
        .max(1);
    let end = from.saturating_add(most).min(job.rows.len());
    let locator = if end < job.rows.len() {
        STANDARD.encode(end.to_string())
    } else {
        "null".to_owned()
    };
    let text = job.header.clone() + &job.rows[from..end].concat();
    Ok(csv_answer(text, end - from).with("sforce-locator", &locator))
}

fn show(world: &World, id: &str, job: &Job) -> Value {
    let mut value = job_json(
        world,
        id,
        &job.operation,
        &job.query.object,
        job.state,
        job.dialect,
        job.created,
    );
    value["jobType"] = json!("V2Query");
    if job.state == State::JobComplete {
        value["numberRecordsProcessed"] = json!(job.rows.len());
        value["retries"] = json!(0);
        value["totalProcessingTime"] = json!(1);
    }
    if let Some(error) = &job.error {
        value["errorMessage"] = json!(error);
    }
    value
}
