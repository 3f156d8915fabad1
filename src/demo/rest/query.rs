//! `/query`, `/queryAll`, `/search`: rows that a question finds, in pages.
//!
//! Owns: open cursors. Invariants: a cursor shows the rows as they were when the query ran; the oldest of 50 is forgotten.
//! Units: pages of 200 to 2,000 rows. Fails with: an [`Answer`].
//! Source: Salesforce REST API guide, Query; `Sforce-Query-Options: batchSize=N`.

use std::collections::VecDeque;

use hyper::Method;
use serde_json::{Map, Value, json};

use super::{Call, rows::attributes};
use crate::demo::{
    answer::{Answer, Problem},
    soql::{self, Fields, Query},
    store::{Store, Table},
    world::World,
};

#[derive(Default)]
pub(crate) struct Cursors {
    open: VecDeque<(String, Vec<Value>, usize)>,
    made: usize,
}

const KEPT: usize = 50;

/// What a query finds: places, in order.
pub(crate) struct Found<'a> {
    pub(crate) table: &'a Table,
    pub(crate) places: Vec<usize>,
    pub(crate) fields: Vec<String>,
}

pub(super) fn answer(world: &World, call: &Call, path: &[&str]) -> Result<Answer, Answer> {
    if call.method != Method::GET && path[0] != "parameterizedSearch" {
        return Err(Answer::method_not_allowed(&call.method, "HEAD,GET"));
    }
    match *path {
        ["query" | "queryAll", locator] => next_page(world, call, locator),
        [kind @ ("query" | "queryAll")] => first_page(world, call, kind == "queryAll"),
        ["search" | "parameterizedSearch"] => search(world, call),
        _ => Err(Answer::not_found()),
    }
}

fn first_page(world: &World, call: &Call, deleted_too: bool) -> Result<Answer, Answer> {
    let Some(text) = call.parameter("q") else {
        return Err(Answer::error(
            400,
            "MALFORMED_QUERY",
            "A query string has to be specified",
        ));
    };
    let query = soql::parse(text)?;
    let records: Vec<Value> = {
        let store = world.store();
        let found = find(&store, &query, deleted_too)?;
        if query.fields == Fields::Count {
            let total = found.places.len();
            return Ok(Answer::json(
                200,
                json!({"totalSize": total, "done": true, "records": []}),
            ));
        }
        if call.parameter("columns") == Some("true") {
            return Ok(columns(&found));
        }
        let base = call.base();
        let show = |place: &usize| record(&store, &found, *place, &base);
        found.places.iter().map(show).collect::<Result<_, _>>()?
    };
    let size = batch_size(call);
    if records.len() <= size {
        return Ok(page(call, &records, 0, records.len(), ""));
    }
    let mut cursors = world.cursors();
    let locator = cursors.next_locator();
    let first = page(call, &records, 0, size, &locator);
    cursors.keep(locator, records, size);
    Ok(first)
}

/// What `&columns=true` gives in place of rows. Source: the sf CLI's `data query`, which reads it; only the members that it reads.
fn columns(found: &Found<'_>) -> Answer {
    let column = |name: &str, join: Vec<Value>| json!({"aggregate": false, "columnName": name, "displayName": name, "joinColumns": join});
    let columns: Vec<Value> = found
        .fields
        .iter()
        .map(|field| match field.split_once('.') {
            None => column(field, Vec::new()),
            Some((relation, rest)) => column(relation, vec![column(rest, Vec::new())]),
        })
        .collect();
    let object = found.table.object;
    Answer::json(
        200,
        json!({"columnMetadata": columns, "entityName": object.name, "keyPrefix": object.prefix, "groupBy": false}),
    )
}

fn next_page(world: &World, call: &Call, locator: &str) -> Result<Answer, Answer> {
    let cursors = world.cursors();
    let (name, records, offset, size) = cursors
        .find(locator)
        .ok_or_else(|| Answer::error(400, "INVALID_QUERY_LOCATOR", "invalid query locator"))?;
    Ok(page(call, records, offset, size, name))
}

impl Cursors {
    pub(crate) fn next_locator(&mut self) -> String {
        self.made += 1;
        format!("01gSB{:010}AAA", self.made)
    }

    /// `size` rows are in each page.
    pub(crate) fn keep(&mut self, locator: String, records: Vec<Value>, size: usize) {
        if self.open.len() == KEPT {
            self.open.pop_front();
        }
        self.open.push_back((locator, records, size));
    }

    /// Of `01g…-OFFSET`: the name, all rows, the offset and the page's size.
    pub(crate) fn find<'a>(&'a self, locator: &'a str) -> Option<(&'a str, &'a [Value], usize, usize)> {
        let (name, offset) = locator.rsplit_once('-')?;
        let offset: usize = offset.parse().ok()?;
        let (_, records, size) = self.open.iter().find(|(open, ..)| open == name)?;
        (offset < records.len()).then_some((name, records, offset, *size))
    }
}

fn page(call: &Call, records: &[Value], offset: usize, size: usize, locator: &str) -> Answer {
    let end = (offset + size).min(records.len());
    let mut body = json!({"totalSize": records.len(), "done": end == records.len(), "records": records[offset..end]});
    if end < records.len() {
        body["nextRecordsUrl"] = json!(format!("{}/query/{locator}-{end}", call.base()));
    }
    Answer::json(200, body)
}

fn batch_size(call: &Call) -> usize {
    let options = call.header("sforce-query-options").unwrap_or("");
    let asked = options.split(',').find_map(|option| {
        let (name, value) = option.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("batchSize")
            .then(|| value.trim().parse().ok())?
    });
    asked.unwrap_or(2_000usize).clamp(200, 2_000)
}

/// Runs a query.
pub(crate) fn find<'a>(store: &'a Store, query: &Query, deleted_too: bool) -> Result<Found<'a>, Problem> {
    let table = store.read(&query.object).ok_or_else(|| {
        let message = format!("sObject type '{}' is not supported. If you are attempting to use a custom object, be sure to append the '__c' after the entity name.", query.object);
        Problem::new("INVALID_TYPE", message)
    })?;
    let fields: Vec<String> = match &query.fields {
        Fields::Named(names) => names.clone(),
        Fields::All => table.object.all_fields().map(str::to_owned).collect(),
        Fields::Count => Vec::new(),
    };
    for field in &fields {
        check(table, field)?;
    }
    let mut places = Vec::new();
    for (place, row) in table.rows() {
        if row.deleted && !deleted_too {
            continue;
        }
        let passes = match &query.filter {
            None => true,
            Some(filter) => filter.passes(&|field| store.value(table, place, field))?,
        };
        if passes {
            places.push(place);
        }
    }
    if let Some((field, down)) = &query.order {
        check(table, field)?;
        let key = |place: &usize| store.value(table, *place, field).unwrap_or_default();
        places.sort_by_cached_key(|place| SortKey(key(place)));
        if *down {
            places.reverse();
        }
    }
    let places = places
        .into_iter()
        .skip(query.offset)
        .take(query.limit.unwrap_or(usize::MAX))
        .collect();
    Ok(Found { table, places, fields })
}

/// Whether there is such a field; of a parent's only the relationship is looked at.
fn check(table: &Table, field: &str) -> Result<(), Problem> {
    let known = match field.split_once('.') {
        Some((relation, _)) => table.object.parent(relation).is_some(),
        None => table.object.field(field).is_some() || table.object.all_fields().any(|f| f.eq_ignore_ascii_case(field)),
    };
    if known { Ok(()) } else { Err(table.no_such_field(field)) }
}

struct SortKey(Value);

impl PartialEq for SortKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SortKey {}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SortKey {
    /// Nulls first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let nulls = other.0.is_null().cmp(&self.0.is_null());
        soql::compare(&self.0, &other.0).unwrap_or(nulls)
    }
}

pub(crate) fn record(store: &Store, found: &Found<'_>, place: usize, base: &str) -> Result<Value, Problem> {
    let mut out = Map::new();
    out.insert("attributes".into(), attributes(found.table, place, base));
    for field in &found.fields {
        let value = store.value(found.table, place, field)?;
        match field.split_once('.') {
            None => {
                out.insert(field.clone(), value);
            }
            Some((relation, rest)) => {
                let parent = out.entry(relation).or_insert_with(|| json!({}));
                parent[rest] = value;
            }
        }
    }
    Ok(Value::Object(out))
}

/// `FIND {word}`: names that have the word in them.
fn search(world: &World, call: &Call) -> Result<Answer, Answer> {
    let text = match call.parameter("q") {
        Some(text) => text.to_owned(),
        None if call.method == Method::POST => call.json()?["q"].as_str().unwrap_or("").to_owned(),
        None => {
            return Err(Answer::error(400, "MALFORMED_SEARCH", "No search term found"));
        }
    };
    let word = match (text.find('{'), text.find('}')) {
        (Some(from), Some(to)) if from < to => &text[from + 1..to],
        _ => &text,
    };
    let word = word.trim_matches('*').to_lowercase();
    let store = world.store();
    let mut records = Vec::new();
    for (object, field) in [("Account", "Name"), ("Contact", "LastName")] {
        let Some(table) = store.read(object) else {
            continue;
        };
        for (place, _) in table.rows().filter(|(_, row)| !row.deleted) {
            let name = table.value(place, field)?;
            if !word.is_empty() && name.as_str().is_some_and(|name| name.to_lowercase().contains(&word)) {
                records.push(
                    json!({"attributes": attributes(table, place, &call.base()), "Id": table.id(place), field: name}),
                );
            }
        }
    }
    records.truncate(200);
    Ok(Answer::json(200, json!({"searchRecords": records})))
}
