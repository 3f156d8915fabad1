//! Bulk API 2.0: `/jobs/ingest` and `/jobs/query`.
//!
//! Owns: the jobs. Invariants: a job's work is done on a task of the org in slices, so other calls are answered meanwhile.
//! Units: uploads up to 150 MB. Fails with: an [`Answer`], or the job's own state `Failed`.
//! Source: Salesforce Bulk API 2.0 guide; SF §6 (`Sforce-Locator`, `Sforce-NumberOfRecords`).

pub(crate) mod csv;
pub(crate) mod ingest;
mod query;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    answer::Answer,
    rest::Call,
    store::{id18, iso, unix_millis, user_id},
    world::World,
};

pub(crate) const MAX_UPLOAD: usize = 150 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Jobs {
    ingest: BTreeMap<String, ingest::Job>,
    query: BTreeMap<String, query::Job>,
    made: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    UploadComplete,
    InProgress,
    JobComplete,
    Failed,
    Aborted,
}

/// How a job's CSV is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dialect {
    delimiter: u8,
    crlf: bool,
}

const DELIMITERS: [(&str, u8); 6] = [
    ("COMMA", b','),
    ("TAB", b'\t'),
    ("SEMICOLON", b';'),
    ("PIPE", b'|'),
    ("CARET", b'^'),
    ("BACKQUOTE", b'`'),
];

/// `path` is what follows `/jobs`.
pub(crate) fn answer(world: &Arc<World>, call: &Call, path: &[&str]) -> Result<Answer, Answer> {
    match *path {
        ["ingest", ref rest @ ..] => ingest::answer(world, call, rest),
        ["query", ref rest @ ..] => query::answer(world, call, rest),
        _ => Err(Answer::not_found()),
    }
}

impl Jobs {
    fn next_id(&mut self) -> String {
        self.made += 1;
        id18("750", self.made)
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::UploadComplete => "UploadComplete",
            Self::InProgress => "InProgress",
            Self::JobComplete => "JobComplete",
            Self::Failed => "Failed",
            Self::Aborted => "Aborted",
        }
    }
}

impl Dialect {
    fn read(body: &Value) -> Result<Self, Answer> {
        let named = |name: &str, default: &'static str| body[name].as_str().unwrap_or(default).to_owned();
        let (delimiter, ending) = (named("columnDelimiter", "COMMA"), named("lineEnding", "LF"));
        let byte = DELIMITERS.iter().find(|(name, _)| *name == delimiter);
        match (byte, ending.as_str()) {
            (Some((_, byte)), "LF" | "CRLF") => Ok(Self {
                delimiter: *byte,
                crlf: ending == "CRLF",
            }),
            _ => Err(invalid_job("unknown columnDelimiter or lineEnding")),
        }
    }

    fn delimiter_name(self) -> &'static str {
        let found = DELIMITERS.iter().find(|(_, byte)| *byte == self.delimiter);
        found.map_or("COMMA", |(name, _)| name)
    }

    fn line_end(self) -> &'static str {
        if self.crlf { "\r\n" } else { "\n" }
    }
}

/// The fields that every job shows.
fn job_json(
    world: &World,
    id: &str,
    operation: &str,
    object: &str,
    state: State,
    dialect: Dialect,
    created: u64,
) -> Value {
    json!({
        "id": id,
        "operation": operation,
        "object": object,
        "createdById": user_id("integration@practice.example"),
        "createdDate": iso(created),
        "systemModstamp": iso(unix_millis(world.now())),
        "state": state.name(),
        "concurrencyMode": "Parallel",
        "contentType": "CSV",
        "apiVersion": 66.0,
        "lineEnding": if dialect.crlf { "CRLF" } else { "LF" },
        "columnDelimiter": dialect.delimiter_name(),
    })
}

fn invalid_job(message: &str) -> Answer {
    Answer::error(400, "INVALIDJOB", format!("InvalidJob : {message}"))
}

/// A CSV answer.
fn csv_answer(text: String, records: usize) -> Answer {
    Answer::text(200, "text/csv", text).with("sforce-numberofrecords", &records.to_string())
}
