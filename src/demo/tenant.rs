//! The Data Cloud host: queries, metadata, ingestion, for the holders of Data Cloud tokens.
//!
//! Every dataspace shows the same rows, the store's accounts.
//!
//! Owns: open query batches. Invariants: nothing is answered without a living Data Cloud token; a batch is of one dataspace.
//! Units: `tenant_page` rows in an answer of v2. Fails with: the captured 401 (SF §4.2); the other error bodies are not confirmed.
//! Source: SF §4.2, §5.4.

use std::collections::VecDeque;

use hyper::{HeaderMap, Method};
use serde_json::{Map, Value, json};

use super::{
    a360::{self, DcToken},
    answer::{Answer, Problem},
    identity,
    rest::query::find,
    settings::letters,
    soql,
    store::{iso, unix_millis},
    world::World,
};

#[derive(Debug, Clone)]
struct Batch {
    id: String,
    dataspace: String,
    rows: Rows,
    from: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Batches(VecDeque<Batch>);

#[derive(Debug, Clone)]
struct Rows {
    fields: Vec<String>,
    rows: Vec<Vec<Value>>,
}

const KEPT: usize = 50;
/// The accounts as Data Cloud names them; `Account` is understood too.
const OBJECT: &str = "ssot__Account__dlm";

pub(crate) fn answer(
    world: &World,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    let Some(rest) = path.strip_prefix("/api/") else {
        return not_found();
    };
    let token = identity::bearer(headers).and_then(|token| a360::living(world, token));
    let mut asked = url::form_urlencoded::parse(query.as_bytes());
    let asked = asked.find(|(name, _)| name == "dataspace").map(|(_, space)| space);
    // That a call which names another dataspace than its token's is a 401 is not confirmed.
    let token = token.filter(|token| asked.is_none_or(|space| space == token.dataspace));
    let Some(token) = token else {
        return unauthorized();
    };
    let segments: Vec<&str> = rest.split('/').filter(|s| !s.is_empty()).collect();
    let answer = match (method.as_str(), &segments[..]) {
        ("POST", ["v2", "query"]) => run(world, body).map(|rows| first_batch(world, &token, rows)),
        ("GET", ["v2", "query", batch]) => Ok(next_batch(world, &token, batch)),
        ("POST", ["v1", "query"]) => run(world, body).map(|rows| objects(world, &rows)),
        ("GET", ["v1", "metadata"]) => Ok(metadata(world)),
        (_, ["v1", "ingest", ..]) => Ok(Answer::json(202, json!({"accepted": true}))),
        _ => Ok(not_found()),
    };
    answer.unwrap_or_else(|problem| wrong(400, "BAD_REQUEST", &problem.message))
}

/// `SELECT … FROM Account …` of what `soql` reads; `*` is all fields.
fn run(world: &World, body: &[u8]) -> Result<Rows, Problem> {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(sql) = asked["sql"].as_str() else {
        return Err(Problem::new("BAD_REQUEST", "sql must be given"));
    };
    let text = sql.trim().trim_end_matches(';').replace('"', "");
    let text = text.replace(OBJECT, "Account").replacen("*", "FIELDS(ALL)", 1);
    let query = soql::parse(&text)?;
    let store = world.store();
    let found = find(&store, &query, false)?;
    let row = |place: &usize| {
        let values = found.fields.iter().map(|field| store.value(found.table, *place, field));
        values.collect::<Result<Vec<_>, _>>()
    };
    Ok(Rows {
        rows: found.places.iter().map(row).collect::<Result<_, _>>()?,
        fields: found.fields.clone(),
    })
}

fn first_batch(world: &World, token: &DcToken, rows: Rows) -> Answer {
    batch_answer(world, &token.dataspace, rows, 0)
}

fn next_batch(world: &World, token: &DcToken, id: &str) -> Answer {
    let batch = world.batches().0.iter().find(|batch| batch.id == id).cloned();
    match batch.filter(|batch| batch.dataspace == token.dataspace) {
        Some(batch) => batch_answer(world, &token.dataspace, batch.rows, batch.from),
        None => not_found(),
    }
}

/// Rows as arrays, and the id of the next batch if there are more.
fn batch_answer(world: &World, dataspace: &str, rows: Rows, from: usize) -> Answer {
    let end = (from + world.settings.tenant_page.max(1)).min(rows.rows.len());
    let done = end == rows.rows.len();
    let mut said = about(world, &rows);
    said["data"] = json!(rows.rows[from..end]);
    said["rowCount"] = json!(end - from);
    said["done"] = json!(done);
    if !done {
        let id = letters(36, b"0123456789abcdef");
        said["nextBatchId"] = json!(id);
        let mut batches = world.batches();
        if batches.0.len() == KEPT {
            batches.0.pop_front();
        }
        batches.0.push_back(Batch {
            id,
            dataspace: dataspace.to_owned(),
            rows,
            from: end,
        });
    }
    Answer::json(200, said)
}

/// Rows as objects, all at once.
fn objects(world: &World, rows: &Rows) -> Answer {
    let object = |row: &Vec<Value>| {
        let pairs = rows.fields.iter().cloned().zip(row.iter().cloned());
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    let mut said = about(world, rows);
    said["data"] = rows.rows.iter().map(object).collect();
    said["rowCount"] = json!(rows.rows.len());
    said["done"] = json!(true);
    Answer::json(200, said)
}

fn about(world: &World, rows: &Rows) -> Value {
    let now = iso(unix_millis(world.now()));
    let fields = rows.fields.iter().enumerate();
    let columns: Map<String, Value> = fields
        .map(|(place, field)| {
            let about = json!({"type": "VARCHAR", "placeInOrder": place, "typeCode": 12});
            (field.clone(), about)
        })
        .collect();
    json!({"startTime": now, "endTime": now, "queryId": letters(36, b"0123456789abcdef"), "metadata": columns})
}

fn metadata(world: &World) -> Answer {
    let store = world.store();
    let fields = store.read("Account").map(|table| {
        let all = table.object.all_fields();
        let field = |name| json!({"name": name, "displayName": name, "type": "STRING"});
        all.map(field).collect::<Vec<_>>()
    });
    let account = json!({"name": OBJECT, "displayName": "Account", "category": "Profile", "fields": fields});
    Answer::json(200, json!({"metadata": [account]}))
}

fn unauthorized() -> Answer {
    Answer::json(
        401,
        json!({
            "error": "Unauthorized",
            "message": "Authorization header verification failed",
            "details": {"status": "UNAUTHENTICATED: Invalid JWT (not before or expired)", "statusCode": 401},
        }),
    )
}

fn not_found() -> Answer {
    wrong(404, "NOT_FOUND", "The requested resource does not exist")
}

fn wrong(status: u16, error: &str, message: &str) -> Answer {
    Answer::json(status, json!({"error": error, "message": message}))
}
