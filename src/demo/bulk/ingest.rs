//! Bulk 2.0 ingest: rows by the thousand.
//!
//! Owns: nothing; jobs live in [`Jobs`](super::Jobs).
//! Invariants: a row is in exactly one of the successful, failed and unprocessed results.
//! Units: uploads up to 150 MB.
//! Fails with: an [`Answer`]; a row's failure is a line of `failedResults`.
//! Source: Salesforce Bulk API 2.0 guide.

pub(crate) mod rows;

use std::sync::Arc;

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use super::{Dialect, MAX_UPLOAD, State, csv, csv_answer, invalid_job, job_json};
use crate::demo::{answer::Answer, rest::Call, store::unix_millis, world::World};

#[derive(Clone)]
pub(super) struct Job {
    operation: Operation,
    object: String,
    external: Option<String>,
    dialect: Dialect,
    state: State,
    created: u64,
    data: Option<Bytes>,
    header: Vec<String>,
    unprocessed: Bytes,
    done: Results,
    error: Option<String>,
}

#[derive(Clone, Default)]
struct Results {
    successful: String,
    failed: String,
    succeeded: usize,
    failures: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Insert,
    Update,
    Upsert,
    Delete,
}

/// `path` is what follows `/jobs/ingest`.
pub(super) fn answer(world: &Arc<World>, call: &Call, path: &[&str]) -> Result<Answer, Answer> {
    let method = &call.method;
    match *path {
        [] if method == Method::POST => create(world, call),
        [] if method == Method::GET => Ok(list(world)),
        [id] if method == Method::GET => with_job(world, id, |job| Ok(show(world, id, job, true))),
        [id] if method == Method::PATCH => close(world, call, id),
        [id] if method == Method::DELETE => remove(world, id),
        [id, "batches"] if method == Method::PUT => upload(world, call, id),
        [
            id,
            kind @ ("successfulResults" | "failedResults" | "unprocessedrecords"),
        ] if method == Method::GET => with_job(world, id, |job| Ok(results(job, kind))),
        []
        | [_]
        | [
            _,
            "batches" | "successfulResults" | "failedResults" | "unprocessedrecords",
        ] => Err(Answer::method_not_allowed(method, "GET,POST,PUT,PATCH,DELETE")),
        _ => Err(Answer::not_found()),
    }
}

fn with_job(world: &World, id: &str, act: impl FnOnce(&mut Job) -> Result<Answer, Answer>) -> Result<Answer, Answer> {
    let mut jobs = world.jobs();
    let key = jobs.ingest.keys().find(|key| **key == id || key[..15] == *id).cloned();
    let job = key
        .and_then(|key| jobs.ingest.get_mut(&key))
        .ok_or_else(Answer::not_found)?;
    act(job)
}

fn create(world: &World, call: &Call) -> Result<Answer, Answer> {
    let body = call.json()?;
    let operation = match body["operation"].as_str() {
        Some("insert") => Operation::Insert,
        Some("update") => Operation::Update,
        Some("upsert") => Operation::Upsert,
        Some("delete" | "hardDelete") => Operation::Delete,
        _ => return Err(invalid_job("Unknown operation")),
    };
    let object = {
        let store = world.store();
        let named = body["object"].as_str().and_then(|name| store.read(name));
        let table = named.ok_or_else(|| invalid_job(&format!("Unknown Entity: {}", body["object"])))?;
        table.object.name.to_owned()
    };
    let external = body["externalIdFieldName"].as_str().map(str::to_owned);
    if operation == Operation::Upsert && external.is_none() {
        return Err(invalid_job("externalIdFieldName is required for upsert"));
    }
    let job = Job {
        operation,
        object,
        external,
        dialect: Dialect::read(&body)?,
        state: State::Open,
        created: unix_millis(world.now()),
        data: None,
        header: Vec::new(),
        unprocessed: Bytes::new(),
        done: Results::default(),
        error: None,
    };
    let mut jobs = world.jobs();
    let id = jobs.next_id();
    let answer = show(world, &id, &job, false);
    jobs.ingest.insert(id, job);
    Ok(answer)
}

fn list(world: &World) -> Answer {
    let jobs = world.jobs();
    let records: Vec<Value> = jobs.ingest.iter().map(|(id, job)| job_value(world, id, job)).collect();
    Answer::json(200, json!({"done": true, "records": records, "nextRecordsUrl": null}))
}

fn upload(world: &World, call: &Call, id: &str) -> Result<Answer, Answer> {
    if call.body.len() > MAX_UPLOAD {
        return Err(Answer::error(
            413,
            "CONTENT_TOO_LARGE",
            "The upload is larger than 150 MB",
        ));
    }
    with_job(world, id, |job| {
        if job.state != State::Open || job.data.is_some() {
            return Err(Answer::error(
                400,
                "INVALIDJOBSTATE",
                "InvalidJobState : Found multiple contents for job or job is not open",
            ));
        }
        job.data = Some(call.body.clone());
        Ok(Answer::empty(201))
    })
}

/// `{"state":"UploadComplete"}` or `{"state":"Aborted"}`.
fn close(world: &Arc<World>, call: &Call, id: &str) -> Result<Answer, Answer> {
    let body = call.json()?;
    let state = match body["state"].as_str() {
        Some("UploadComplete") => State::UploadComplete,
        Some("Aborted") => State::Aborted,
        _ => return Err(invalid_job("state must be UploadComplete or Aborted")),
    };
    let answer = with_job(world, id, |job| {
        if !matches!(job.state, State::Open | State::UploadComplete) || (state == job.state) {
            return Err(Answer::error(
                400,
                "INVALIDJOBSTATE",
                format!("InvalidJobState : the job is {}", job.state.name()),
            ));
        }
        job.state = state;
        job.unprocessed = job.data.clone().unwrap_or_default();
        Ok(show(world, id, job, false))
    })?;
    if state == State::UploadComplete {
        let (shared, id) = (Arc::clone(world), id.to_owned());
        world.tasks.spawn(async move { rows::process(&shared, &id).await });
    }
    Ok(answer)
}

fn remove(world: &World, id: &str) -> Result<Answer, Answer> {
    with_job(world, id, |job| match job.state {
        State::Open | State::InProgress => Err(Answer::error(
            400,
            "INVALIDJOBSTATE",
            "InvalidJobState : the job is not closed",
        )),
        _ => Ok(Answer::empty(204)),
    })?;
    world.jobs().ingest.retain(|key, _| key != id && key[..15] != *id);
    Ok(Answer::empty(204))
}

fn results(job: &Job, kind: &str) -> Answer {
    let (delimiter, end) = (job.dialect.delimiter, job.dialect.line_end());
    let extra: &[&str] = match kind {
        "successfulResults" => &["sf__Id", "sf__Created"],
        "failedResults" => &["sf__Id", "sf__Error"],
        _ => {
            let text = String::from_utf8_lossy(&job.unprocessed).into_owned();
            let mut out = String::new();
            if text.is_empty() && !job.header.is_empty() {
                csv::write(&mut out, job.header.iter().map(String::as_str), delimiter, end);
            }
            return csv_answer(
                out + &text,
                csv::Records::new(&job.unprocessed, delimiter).count().saturating_sub(1),
            );
        }
    };
    let mut out = String::new();
    let header = job.header.iter().map(String::as_str);
    csv::write(&mut out, extra.iter().copied().chain(header), delimiter, end);
    let (rows, count) = match kind {
        "successfulResults" => (&job.done.successful, job.done.succeeded),
        _ => (&job.done.failed, job.done.failures),
    };
    csv_answer(out + rows, count)
}

fn show(world: &World, id: &str, job: &Job, with_counts: bool) -> Answer {
    let mut value = job_value(world, id, job);
    if with_counts {
        value["jobType"] = json!("V2Ingest");
        value["retries"] = json!(0);
        value["numberRecordsProcessed"] = json!(job.done.succeeded + job.done.failures);
        value["numberRecordsFailed"] = json!(job.done.failures);
        for name in ["totalProcessingTime", "apiActiveProcessingTime", "apexProcessingTime"] {
            value[name] = json!(0);
        }
        if let Some(error) = &job.error {
            value["errorMessage"] = json!(error);
        }
    }
    Answer::json(200, value)
}

fn job_value(world: &World, id: &str, job: &Job) -> Value {
    let operation = match job.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Upsert => "upsert",
        Operation::Delete => "delete",
    };
    let mut value = job_json(world, id, operation, &job.object, job.state, job.dialect, job.created);
    if job.state == State::Open {
        value["contentUrl"] = json!(format!("services/data/v66.0/jobs/ingest/{id}/batches"));
    }
    if let Some(external) = &job.external {
        value["externalIdFieldName"] = json!(external);
    }
    value
}
