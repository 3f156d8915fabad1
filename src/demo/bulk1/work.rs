//! What a batch does.
//!
//! Owns: nothing. Invariants: a bad row fails alone; rows change in slices, between which other calls get their turn; a job aborted meanwhile is
//! not begun.
//! Units: at most 10,000 rows a batch. Fails with: the batch's state `Failed` and its message. Source: Bulk API 1.0 developer guide.

use serde_json::Value;

use super::{
    batch::{Batch, State},
    job::{Content, Work},
    results::{Outcome, RowResult},
};
use crate::demo::{
    answer::Problem,
    bulk::{
        csv,
        ingest::{
            Operation,
            rows::{change, columns_of},
        },
    },
    rest::query::{find, record},
    soql::{self, Fields},
    store::unix_millis,
    world::World,
    xml,
};

const MOST_ROWS: usize = 10_000;
const SLICE: usize = 1_000;

/// A row: names and words of the same number. `#N/A` makes null.
type Row = (Vec<String>, Vec<String>);

/// What has to be known of the job.
struct Plan {
    work: Work,
    object: String,
    external: Option<String>,
    content: Content,
    request: bytes::Bytes,
}

pub(super) async fn process(world: &World, job: &str, batch: &str) {
    tokio::time::sleep(world.settings.bulk_delay).await;
    let Some(plan) = begin(world, job, batch) else {
        return;
    };
    tokio::time::sleep(world.settings.bulk_delay).await;
    let done = match plan.work {
        Work::Ingest(operation) => ingest(world, &plan, operation).await,
        Work::Query { deleted_too } => query(world, &plan, deleted_too),
    };
    let now = unix_millis(world.now());
    change_batch(world, job, batch, |batch| {
        batch.modified = now;
        match done {
            Ok(outcome) => {
                batch.state = State::Completed;
                batch.outcome = outcome;
            }
            Err(message) => {
                batch.state = State::Failed;
                batch.message = Some(message);
            }
        }
    });
}

fn change_batch(world: &World, job: &str, batch: &str, act: impl FnOnce(&mut Batch)) {
    let mut jobs = world.bulk1();
    if let Ok((_, job)) = jobs.job(job)
        && let Ok(batch) = job.batch(batch)
    {
        act(batch);
    }
}

/// `None`: there is nothing to do any more.
fn begin(world: &World, job: &str, batch: &str) -> Option<Plan> {
    let mut jobs = world.bulk1();
    let (_, job) = jobs.job(job).ok()?;
    let (work, object, external, content) = (job.work, job.object.clone(), job.external.clone(), job.content);
    let batch = job.batch(batch).ok().filter(|batch| batch.state == State::Queued)?;
    batch.state = State::InProgress;
    Some(Plan {
        work,
        object,
        external,
        content,
        request: batch.request.clone(),
    })
}

async fn ingest(world: &World, plan: &Plan, operation: Operation) -> Result<Outcome, String> {
    let rows = rows(plan).ok_or("InvalidBatch : The batch cannot be parsed")?;
    if rows.len() > MOST_ROWS {
        return Err(format!("InvalidBatch : {} records, {MOST_ROWS} at most", rows.len()));
    }
    {
        let store = world.store();
        let table = store.read(&plan.object).ok_or("InvalidBatch : the object is gone")?;
        rows.iter()
            .try_for_each(|(names, _)| columns_of(table, names).map(drop))?;
    }
    let mut results = Vec::with_capacity(rows.len());
    for slice in rows.chunks(SLICE) {
        {
            let now = world.now();
            let mut store = world.store();
            let table = store.table(&plan.object).ok_or("InvalidBatch : the object is gone")?;
            for (names, words) in slice {
                let columns = columns_of(table, names)?;
                let done = change(table, operation, plan.external.as_deref(), &columns, words, now);
                results.push(done.map(|(place, created)| RowResult {
                    id: table.id(place),
                    created,
                }));
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(Outcome::Rows(results))
}

/// The batch's rows; `None` if it is not what its content type says.
fn rows(plan: &Plan) -> Option<Vec<Row>> {
    match plan.content {
        Content::Csv => {
            let mut records = csv::Records::new(&plan.request, b',');
            let header = records.next()?;
            Some(records.map(|words| (header.clone(), words)).collect())
        }
        Content::Json => {
            let Ok(Value::Array(items)) = serde_json::from_slice(&plan.request) else {
                return None;
            };
            items.iter().map(json_row).collect()
        }
        Content::Xml => {
            let root = xml::parse(&plan.request).ok()?;
            let ours = root.namespace == super::NAMESPACE && root.name == "sObjects";
            ours.then(|| root.all("sObject").map(xml_row).collect())
        }
    }
}

fn json_row(item: &Value) -> Option<Row> {
    let fields = item.as_object()?.iter().filter(|(name, _)| *name != "attributes");
    let word = |value: &Value| match value {
        Value::Null => "#N/A".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Some(fields.map(|(name, value)| (name.clone(), word(value))).unzip())
}

fn xml_row(row: &xml::Element) -> Row {
    let word = |field: &xml::Element| {
        if field.nil {
            "#N/A".to_owned()
        } else {
            field.text.clone()
        }
    };
    row.children
        .iter()
        .map(|field| (field.name.clone(), word(field)))
        .unzip()
}

fn query(world: &World, plan: &Plan, deleted_too: bool) -> Result<Outcome, String> {
    let failed = |problem: Problem| {
        format!(
            "InvalidBatch : Failed to process query: {}: {}",
            problem.code, problem.message
        )
    };
    let text = String::from_utf8_lossy(&plan.request);
    let query = soql::parse(text.trim()).map_err(failed)?;
    if query.fields == Fields::Count || !query.object.eq_ignore_ascii_case(&plan.object) {
        return Err(format!(
            "InvalidBatch : Failed to process query: rows of {} are expected",
            plan.object
        ));
    }
    let id = world.bulk1().next_id("752");
    let store = world.store();
    let found = find(&store, &query, deleted_too).map_err(failed)?;
    let mut rows = Vec::with_capacity(found.places.len());
    let mut words = Vec::new();
    for place in &found.places {
        rows.push(record(&store, &found, *place, "/services/data/v66.0").map_err(failed)?);
        let mut line = Vec::with_capacity(found.fields.len());
        for field in &found.fields {
            line.push(store.value(found.table, *place, field).map_err(failed)?);
        }
        words.push(line);
    }
    Ok(Outcome::Query {
        id,
        fields: found.fields,
        words,
        rows,
    })
}
