//! What an ingest job does to each of its rows.
//!
//! Owns: nothing. Invariants: a bad row fails alone; an empty word changes nothing and `#N/A` makes null.
//! Units: slices of 1,000 rows, between which other calls get their turn. Fails with: [`Problem`] for a row, a text for the whole job.
//! Source: Salesforce Bulk API 2.0 guide.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;

use super::{
    super::{State, csv},
    Job, Operation, with_job,
};
use crate::demo::{
    answer::{Answer, Problem},
    events,
    store::Table,
    world::World,
};

/// What a CSV column is to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Id,
    Field(usize),
}

const SLICE: usize = 1_000;

/// Works through a job's rows, a slice at a time.
pub(super) async fn process(world: &World, id: &str) {
    tokio::time::sleep(world.settings.bulk_delay).await;
    let mut work = None;
    let started = with_job(world, id, |job| {
        if job.state != State::UploadComplete {
            return Err(Answer::not_found());
        }
        job.state = State::InProgress;
        work = Some(job.clone());
        Ok(Answer::empty(200))
    });
    let Some(mut job) = work.filter(|_| started.is_ok()) else {
        return;
    };
    tokio::time::sleep(world.settings.bulk_delay.max(Duration::from_millis(1))).await;
    let data = job.data.take().unwrap_or_default();
    let mut records = csv::Records::new(&data, job.dialect.delimiter);
    job.header = records.next().unwrap_or_default();
    match columns(world, &job) {
        Err(message) => {
            job.state = State::Failed;
            job.error = Some(message);
            job.unprocessed = data.clone();
        }
        Ok(columns) => {
            loop {
                let slice: Vec<Vec<String>> = records.by_ref().take(SLICE).collect();
                if slice.is_empty() {
                    break;
                }
                change_rows(world, &mut job, &columns, &slice);
                events::publish_changes(world);
                tokio::task::yield_now().await;
            }
            job.unprocessed = Bytes::copy_from_slice(records.rest());
            job.state = State::JobComplete;
        }
    }
    let _: Result<Answer, Answer> = with_job(world, id, |kept| {
        *kept = job;
        Ok(Answer::empty(200))
    });
}

fn columns(world: &World, job: &Job) -> Result<Vec<Column>, String> {
    let store = world.store();
    let table = store.read(&job.object).ok_or("InvalidBatch : the object is gone")?;
    columns_of(table, &job.header)
}

/// What each column of `header` is; the text of the failed batch if one is nothing.
pub(crate) fn columns_of(table: &Table, header: &[String]) -> Result<Vec<Column>, String> {
    if header.is_empty() {
        return Err("InvalidBatch : Unable to find any headers".into());
    }
    let column = |name: &String| match name.eq_ignore_ascii_case("id") {
        true => Ok(Column::Id),
        false => match table.object.field(name) {
            Some(at) => Ok(Column::Field(at)),
            None => Err(format!("InvalidBatch : Field name not found : {name}")),
        },
    };
    header.iter().map(column).collect()
}

fn change_rows(world: &World, job: &mut Job, columns: &[Column], slice: &[Vec<String>]) {
    let now = world.now();
    let mut store = world.store();
    let Some(table) = store.table(&job.object) else {
        return;
    };
    let (delimiter, end) = (job.dialect.delimiter, job.dialect.line_end());
    for record in slice {
        let words = record.iter().map(String::as_str);
        match change(table, job.operation, job.external.as_deref(), columns, record, now) {
            Ok((place, created)) => {
                let id = table.id(place);
                let created = if created { "true" } else { "false" };
                csv::write(
                    &mut job.done.successful,
                    [&id[..], created].into_iter().chain(words),
                    delimiter,
                    end,
                );
                job.done.succeeded += 1;
            }
            Err(problem) => {
                let id_at = columns.iter().position(|c| *c == Column::Id);
                let id = id_at.and_then(|at| record.get(at)).map_or("", String::as_str);
                let error = format!("{}:{}:{} --", problem.code, problem.message, problem.fields.join(","));
                csv::write(
                    &mut job.done.failed,
                    [id, &error].into_iter().chain(words),
                    delimiter,
                    end,
                );
                job.done.failures += 1;
            }
        }
    }
}

/// One row; its place and whether it was created.
pub(crate) fn change(
    table: &mut Table,
    operation: Operation,
    external: Option<&str>,
    columns: &[Column],
    record: &[String],
    now: SystemTime,
) -> Result<(usize, bool), Problem> {
    if record.len() != columns.len() {
        return Err(Problem::new(
            "INVALID_CSV",
            format!("{} columns expected, {} found", columns.len(), record.len()),
        ));
    }
    let object = table.object;
    let named = |column: Column| columns.iter().position(|c| *c == column).map(|at| record[at].as_str());
    let by_id = |table: &Table| {
        let id = named(Column::Id).filter(|id| !id.is_empty());
        table.living(id.ok_or_else(|| Problem::new("MISSING_ARGUMENT", "Id not specified"))?)
    };
    let old = match operation {
        Operation::Insert => None,
        Operation::Update => Some(by_id(table)?),
        Operation::Delete => {
            let place = by_id(table)?;
            table.delete(place, now);
            return Ok((place, false));
        }
        Operation::Upsert => {
            let field = external.unwrap_or("Id");
            match object.field(field) {
                None => named(Column::Id)
                    .filter(|id| !id.is_empty())
                    .map(|_| by_id(table))
                    .transpose()?,
                Some(at) => {
                    let value = named(Column::Field(at)).filter(|value| !value.is_empty());
                    let value =
                        value.ok_or_else(|| Problem::new("MISSING_ARGUMENT", format!("{field} not specified")))?;
                    table.by_external(value)
                }
            }
        }
    };
    let mut values = match old {
        Some(place) => table.row_values(place),
        None => vec![Value::Null; object.fields.len()],
    };
    for (column, word) in columns.iter().zip(record) {
        // An empty word changes nothing; `#N/A` makes null.
        let Column::Field(at) = column else { continue };
        match word.as_str() {
            "" => {}
            "#N/A" => values[*at] = Value::Null,
            word => values[*at] = object.fields[*at].accept_text(word)?,
        }
    }
    match old {
        Some(place) => table.update_row(place, values, now).map(|()| (place, false)),
        None => table.insert_row(values, now).map(|place| (place, true)),
    }
}
