//! Jobs: what is to be done, and how far it is.
//!
//! Owns: nothing; they live in [`Jobs`](super::Jobs). Invariants: a closed or aborted job takes no batch; batches of an aborted one that have
//! not begun never do.
//! Units: times are milliseconds since 1970. Fails with: [`Refusal`]. Source: Bulk API 1.0 developer guide, `JobInfo`. The words of the refusals
//! are not confirmed.

use serde_json::{Map, Value, json};

use super::{Call, Jobs, Refusal, batch::Batch, info};
use crate::demo::{
    answer::Answer,
    bulk::ingest::Operation,
    store::{iso, unix_millis, user_id},
};

pub(super) struct Job {
    pub(super) work: Work,
    operation: String,
    pub(super) object: String,
    pub(super) external: Option<String>,
    pub(super) content: Content,
    pub(super) state: State,
    serial: bool,
    created: u64,
    modified: u64,
    version: String,
    pub(super) batches: Vec<Batch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Ingest(Operation),
    Query { deleted_too: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Csv,
    Xml,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Closed,
    Aborted,
}

impl Content {
    fn name(self) -> &'static str {
        match self {
            Self::Csv => "CSV",
            Self::Xml => "XML",
            Self::Json => "JSON",
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Xml => super::XML,
            Self::Json => super::JSON,
        }
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::Closed => "Closed",
            Self::Aborted => "Aborted",
        }
    }
}

fn invalid_job(message: impl Into<String>) -> Refusal {
    Refusal("InvalidJob", message.into())
}

pub(super) fn create(call: &Call<'_>) -> Result<Answer, Refusal> {
    let fields = call.fields()?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let operation = text("operation").unwrap_or("");
    let work = match operation {
        "insert" => Work::Ingest(Operation::Insert),
        "update" => Work::Ingest(Operation::Update),
        "upsert" => Work::Ingest(Operation::Upsert),
        "delete" | "hardDelete" => Work::Ingest(Operation::Delete),
        "query" => Work::Query { deleted_too: false },
        "queryAll" => Work::Query { deleted_too: true },
        _ => return Err(invalid_job(format!("Unknown operation: {operation}"))),
    };
    // XML is the default.
    let content = match text("contentType") {
        Some("CSV") => Content::Csv,
        Some("XML") | None => Content::Xml,
        Some("JSON") => Content::Json,
        Some(other) => return Err(invalid_job(format!("Unknown contentType: {other}"))),
    };
    let named = text("object").unwrap_or("");
    let object = call.world.store().read(named).map(|table| table.object.name.to_owned());
    let object = object.ok_or_else(|| {
        Refusal(
            "InvalidEntity",
            format!("Entity '{named}' is not supported by the Bulk API."),
        )
    })?;
    let external = text("externalIdFieldName").map(str::to_owned);
    if work == Work::Ingest(Operation::Upsert) && external.is_none() {
        return Err(invalid_job(format!(
            "External ID was blank for {object}. An External ID must be specified for upsert."
        )));
    }
    let now = unix_millis(call.world.now());
    let job = Job {
        work,
        operation: operation.to_owned(),
        object,
        external,
        content,
        state: State::Open,
        // simple-salesforce sends 0 and 1.
        serial: text("concurrencyMode") == Some("Serial") || fields.get("concurrencyMode") == Some(&json!(1)),
        created: now,
        modified: now,
        version: call.version.to_owned(),
        batches: Vec::new(),
    };
    let mut jobs = call.world.bulk1();
    let id = jobs.next_id("750");
    let answer = info(201, call.form, "jobInfo", &job.fields(&id));
    jobs.jobs.insert(id, job);
    Ok(answer)
}

pub(super) fn show(call: &Call<'_>, id: &str) -> Result<Answer, Refusal> {
    let mut jobs = call.world.bulk1();
    let (id, job) = jobs.job(id)?;
    Ok(info(200, call.form, "jobInfo", &job.fields(id)))
}

/// `{"state":"Closed"}` or `{"state":"Aborted"}`.
pub(super) fn change(call: &Call<'_>, id: &str) -> Result<Answer, Refusal> {
    let fields = call.fields()?;
    let state = match fields.get("state").and_then(Value::as_str) {
        Some("Closed") => State::Closed,
        Some("Aborted") => State::Aborted,
        _ => return Err(Refusal("ClientInputError", "state must be Closed or Aborted".into())),
    };
    let now = unix_millis(call.world.now());
    let mut jobs = call.world.bulk1();
    let (id, job) = jobs.job(id)?;
    if job.state != State::Open && state != job.state {
        return Err(Refusal("InvalidJobState", format!("The job is {}", job.state.name())));
    }
    job.state = state;
    job.modified = now;
    if state == State::Aborted {
        job.batches.iter_mut().for_each(Batch::abort);
    }
    Ok(info(200, call.form, "jobInfo", &job.fields(id)))
}

impl Jobs {
    /// By its id of 15 or 18 characters.
    pub(super) fn job(&mut self, id: &str) -> Result<(&str, &mut Job), Refusal> {
        let mut all = self.jobs.iter_mut();
        let found = all.find(|(key, _)| *key == id || key[..15] == *id);
        found
            .map(|(key, job)| (key.as_str(), job))
            .ok_or_else(|| invalid_job(format!("Invalid job id: {id}")))
    }
}

impl Job {
    fn fields(&self, id: &str) -> Map<String, Value> {
        let count = |state| self.batches.iter().filter(|batch| batch.state == state).count();
        let sum = |of: fn(&Batch) -> usize| self.batches.iter().map(of).sum::<usize>();
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("id", json!(id));
        put("operation", json!(self.operation));
        put("object", json!(self.object));
        if let Some(external) = &self.external {
            put("externalIdFieldName", json!(external));
        }
        put("createdById", json!(user_id("integration@practice.example")));
        put("createdDate", json!(iso(self.created)));
        put("systemModstamp", json!(iso(self.modified)));
        put("state", json!(self.state.name()));
        put(
            "concurrencyMode",
            json!(if self.serial { "Serial" } else { "Parallel" }),
        );
        put("contentType", json!(self.content.name()));
        for (name, state) in [
            ("numberBatchesQueued", super::batch::State::Queued),
            ("numberBatchesInProgress", super::batch::State::InProgress),
            ("numberBatchesCompleted", super::batch::State::Completed),
            ("numberBatchesFailed", super::batch::State::Failed),
        ] {
            put(name, json!(count(state)));
        }
        put("numberBatchesTotal", json!(self.batches.len()));
        put("numberRecordsProcessed", json!(sum(Batch::processed)));
        put("numberRetries", json!(0));
        put("apiVersion", json!(self.version.parse::<f64>().unwrap_or(0.0)));
        put("numberRecordsFailed", json!(sum(Batch::failed)));
        for name in ["totalProcessingTime", "apiActiveProcessingTime", "apexProcessingTime"] {
            put(name, json!(0));
        }
        fields
    }
}
