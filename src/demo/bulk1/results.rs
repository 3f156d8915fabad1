//! What a batch gives back.
//!
//! Owns: nothing. Invariants: an answer is in the job's content type, whatever the request speaks, since that is what clients read; the list of a
//! CSV job's results is XML.
//! Fails with: [`Refusal`]. Source: Bulk API 1.0 developer guide, batch results and query results; what jsforce, salesforce-bulk and
//! tap-salesforce read.

use serde_json::{Value, json};

use super::{Call, JSON, Refusal, XML, batch::State, document, job::Content};
use crate::demo::{
    answer::{Answer, Problem},
    bulk::csv,
    store::word,
    xml::Writer,
};

pub(super) struct RowResult {
    pub(super) id: String,
    pub(super) created: bool,
}

pub(super) enum Outcome {
    Rows(Vec<Result<RowResult, Problem>>),
    Query {
        id: String,
        fields: Vec<String>,
        /// In the order of the fields.
        words: Vec<Vec<Value>>,
        /// In the REST API's form.
        rows: Vec<Value>,
    },
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Rows(Vec::new())
    }
}

impl Outcome {
    pub(super) fn processed(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.len(),
            Self::Query { rows, .. } => rows.len(),
        }
    }

    pub(super) fn failed(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.iter().filter(|row| row.is_err()).count(),
            Self::Query { .. } => 0,
        }
    }
}

/// The result of an ingest batch, the list of a query batch's results, or one of these.
pub(super) fn answer(call: &Call<'_>, job: &str, batch: &str, result: Option<&str>) -> Result<Answer, Refusal> {
    let mut jobs = call.world.bulk1();
    let (_, job) = jobs.job(job)?;
    let content = job.content;
    let batch = job.batch(batch)?;
    if batch.state != State::Completed {
        return Err(Refusal("InvalidBatch", "Records not processed".into()));
    }
    match (&batch.outcome, result) {
        (Outcome::Rows(rows), None) => Ok(of_rows(rows, content)),
        (Outcome::Query { id, .. }, None) => Ok(list(id, content)),
        (
            Outcome::Query {
                id,
                fields,
                words,
                rows,
            },
            Some(asked),
        ) if asked == id || asked == &id[..15] => Ok(of_query(fields, words, rows, content)),
        _ => Err(Refusal("InvalidBatch", "Invalid result id".into())),
    }
}

fn of_rows(rows: &[Result<RowResult, Problem>], content: Content) -> Answer {
    let text = match content {
        Content::Csv => {
            let mut out = String::new();
            csv::write(&mut out, ["Id", "Success", "Created", "Error"], b',', "\n");
            for row in rows {
                match row {
                    Ok(RowResult { id, created }) => {
                        csv::write(&mut out, [id.as_str(), "true", flag(*created), ""], b',', "\n");
                    }
                    Err(Problem { code, message, fields }) => {
                        let error = format!("{code}:{message}:{} --", fields.join(","));
                        csv::write(&mut out, ["", "false", "false", &error], b',', "\n");
                    }
                }
            }
            out
        }
        Content::Json => {
            let show = |row: &Result<RowResult, Problem>| match row {
                Ok(RowResult { id, created }) => json!({"success": true, "created": created, "id": id, "errors": []}),
                Err(problem) => {
                    let mut error = problem.to_result();
                    error["extendedErrorDetails"] = Value::Null;
                    json!({"success": false, "created": false, "id": null, "errors": [error]})
                }
            };
            rows.iter().map(show).collect::<Value>().to_string()
        }
        Content::Xml => {
            let mut out = Writer::default();
            for row in rows {
                out.group("result", |out| xml_result(row, out));
            }
            document("results", &out.0)
        }
    };
    Answer::text(200, content.media_type(), text)
}

fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn xml_result(row: &Result<RowResult, Problem>, out: &mut Writer) {
    match row {
        Ok(RowResult { id, .. }) => out.word("id", id),
        Err(problem) => out.group("errors", |out| {
            problem.fields.iter().for_each(|field| out.word("fields", field));
            out.word("message", &problem.message);
            out.word("statusCode", problem.code);
        }),
    }
    out.show("success", row.is_ok());
    out.show("created", matches!(row, Ok(RowResult { created: true, .. })));
}

fn list(id: &str, content: Content) -> Answer {
    if content == Content::Json {
        return Answer::text(200, JSON, json!([id]).to_string());
    }
    let mut out = Writer::default();
    out.word("result", id);
    Answer::text(200, XML, document("result-list", &out.0))
}

fn of_query(fields: &[String], words: &[Vec<Value>], rows: &[Value], content: Content) -> Answer {
    let text = match content {
        // What Salesforce says in place of a header without rows.
        Content::Csv if rows.is_empty() => "Records not found for this query".to_owned(),
        Content::Csv => {
            let mut out = String::new();
            csv::write(&mut out, fields.iter().map(String::as_str), b',', "\n");
            for line in words {
                let line = fields
                    .iter()
                    .zip(line)
                    .map(|(field, value)| word(field, value).unwrap_or_default());
                let line: Vec<String> = line.collect();
                csv::write(&mut out, line.iter().map(String::as_str), b',', "\n");
            }
            out
        }
        Content::Json => json!(rows).to_string(),
        Content::Xml => {
            let mut out = Writer::default();
            for (row, line) in rows.iter().zip(words) {
                out.group("records xsi:type=\"sObject\"", |out| {
                    out.word("type", row["attributes"]["type"].as_str().unwrap_or(""));
                    for (field, value) in fields.iter().zip(line) {
                        out.word_or_nil(field, word(field, value).as_deref());
                    }
                });
            }
            let text = document("queryResult", &out.0);
            // Rows have types and nulls.
            text.replacen(
                "<queryResult ",
                "<queryResult xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" ",
                1,
            )
        }
    };
    Answer::text(200, content.media_type(), text)
}
