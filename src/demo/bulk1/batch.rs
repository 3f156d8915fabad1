//! Batches: added, listed, shown.
//!
//! Owns: nothing; they live in their [`Job`](super::job::Job).
//! Invariants: a batch's content type is its job's; its request is kept as it came.
//! Units: at most 10,000,000 bytes a batch, 15,000 batches an org (a day's number; a practice org does not live that long).
//! Fails with: [`Refusal`], or the batch's state `Failed`. Source: Bulk API 1.0 developer guide, `BatchInfo` and limits. The words of the
//! refusals are not confirmed.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    Call, Form, Jobs, Refusal, document, elements, info,
    job::{Job, State as JobState},
    results::Outcome,
    work,
};
use crate::demo::{
    answer::Answer,
    store::{iso, unix_millis},
    xml::Writer,
};

const LARGEST: usize = 10_000_000;
const DAILY: usize = 15_000;

pub(super) struct Batch {
    pub(super) id: String,
    pub(super) state: State,
    /// Why it failed.
    pub(super) message: Option<String>,
    pub(super) request: Bytes,
    created: u64,
    pub(super) modified: u64,
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    InProgress,
    Completed,
    Failed,
    NotProcessed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::InProgress => "InProgress",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::NotProcessed => "NotProcessed",
        }
    }
}

impl Batch {
    pub(super) fn abort(&mut self) {
        if self.state == State::Queued {
            self.state = State::NotProcessed;
        }
    }

    pub(super) fn processed(&self) -> usize {
        self.outcome.processed()
    }

    pub(super) fn failed(&self) -> usize {
        self.outcome.failed()
    }

    fn fields(&self, job: &str) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        put("id", json!(self.id));
        put("jobId", json!(job));
        put("state", json!(self.state.name()));
        if let Some(message) = &self.message {
            put("stateMessage", json!(message));
        }
        put("createdDate", json!(iso(self.created)));
        put("systemModstamp", json!(iso(self.modified)));
        put("numberRecordsProcessed", json!(self.processed()));
        put("numberRecordsFailed", json!(self.failed()));
        for name in ["totalProcessingTime", "apiActiveProcessingTime", "apexProcessingTime"] {
            put(name, json!(0));
        }
        fields
    }
}

pub(super) fn add(call: &Call<'_>, id: &str) -> Result<Answer, Refusal> {
    let now = unix_millis(call.world.now());
    let mut jobs = call.world.bulk1();
    let (job_id, content) = {
        let (key, job) = jobs.job(id)?;
        if job.state != JobState::Open {
            return Err(Refusal("InvalidJobState", "The job is not open".into()));
        }
        (key.to_owned(), job.content.media_type())
    };
    let same = call.content_type == content || (content == super::XML && call.content_type == "text/xml");
    if !same {
        return Err(Refusal(
            "ClientInputError",
            format!(
                "The batch's content type is {}, its job's is {content}",
                call.content_type
            ),
        ));
    }
    if call.body.is_empty() || call.body.len() > LARGEST {
        return Err(Refusal(
            "ClientInputError",
            format!("A batch has 1 to {LARGEST} bytes, this one has {}", call.body.len()),
        ));
    }
    let batch_id = jobs.next_batch()?;
    let batch = Batch {
        id: batch_id.clone(),
        state: State::Queued,
        message: None,
        request: call.body.clone(),
        created: now,
        modified: now,
        outcome: Outcome::default(),
    };
    let answer = info(201, call.form, "batchInfo", &batch.fields(&job_id));
    let (_, job) = jobs.job(id)?;
    job.batches.push(batch);
    let world = Arc::clone(call.world);
    call.world
        .tasks
        .spawn(async move { work::process(&world, &job_id, &batch_id).await });
    Ok(answer)
}

pub(super) fn list(call: &Call<'_>, id: &str) -> Result<Answer, Refusal> {
    let mut jobs = call.world.bulk1();
    let (id, job) = jobs.job(id)?;
    let batches = job.batches.iter().map(|batch| batch.fields(id));
    if call.form == Form::Json {
        let batches: Vec<Map<String, Value>> = batches.collect();
        return Ok(Answer::text(
            200,
            super::JSON,
            json!({"batchInfo": batches}).to_string(),
        ));
    }
    let mut out = Writer::default();
    for fields in batches {
        out.group("batchInfo", |out| elements(&fields, out));
    }
    Ok(Answer::text(200, super::XML, document("batchInfoList", &out.0)))
}

pub(super) fn show(call: &Call<'_>, id: &str, batch: &str) -> Result<Answer, Refusal> {
    let mut jobs = call.world.bulk1();
    let (id, job) = jobs.job(id)?;
    let batch = job.batch(batch)?;
    Ok(info(200, call.form, "batchInfo", &batch.fields(id)))
}

pub(super) fn request(call: &Call<'_>, id: &str, batch: &str) -> Result<Answer, Refusal> {
    let mut jobs = call.world.bulk1();
    let (_, job) = jobs.job(id)?;
    let content = job.content.media_type();
    Ok(Answer::text(200, content, job.batch(batch)?.request.clone()))
}

impl Job {
    /// By its id of 15 or 18 characters.
    pub(super) fn batch(&mut self, id: &str) -> Result<&mut Batch, Refusal> {
        let mut all = self.batches.iter_mut();
        all.find(|batch| batch.id == id || batch.id[..15] == *id)
            .ok_or_else(|| Refusal("InvalidBatch", format!("Invalid batch id: {id}")))
    }
}

impl Jobs {
    fn next_batch(&mut self) -> Result<String, Refusal> {
        if self.batches == DAILY {
            return Err(Refusal(
                "ExceededQuota",
                format!("ApiBatchItems Limit exceeded: {DAILY} batches"),
            ));
        }
        self.batches += 1;
        Ok(self.next_id("751"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_so_many_batches() {
        let mut jobs = Jobs::default();
        for _ in 0..DAILY {
            jobs.next_batch().unwrap();
        }
        assert_eq!(jobs.next_batch().unwrap_err().0, "ExceededQuota");
    }
}
