//! The rows of one object.
//!
//! Owns: the rows and the indexes of ids. Invariants: a row keeps its place for ever (deleting marks it), so ids never repeat; an external
//! id names one living row. A row's id is made of its place, but for the few that were born with an id of their own (users, the org).
//! Units: times are milliseconds since 1970. Fails with: [`Problem`] with Salesforce's code and text.

use std::{collections::HashMap, time::SystemTime};

use serde_json::{Map, Value, json};

use super::{
    BASE62, id18, iso,
    schema::{Kind, Object},
    unix_millis,
};
use crate::demo::answer::Problem;

/// A row as it was when it was taken, cheap to take.
pub(crate) struct Snapshot {
    pub(crate) id: String,
    /// Milliseconds since 1970.
    pub(crate) modified: u64,
    object: &'static Object,
    values: Vec<Value>,
}

impl Snapshot {
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        self.object.fields.iter().map(|field| field.name).zip(&self.values)
    }
}

/// Change events and the push topics are of this object only.
pub(crate) const TELLS_OF_CHANGES: &str = "Account";

#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) object: &'static Object,
    rows: Vec<Row>,
    external: HashMap<String, usize>,
    /// Place and the id it was given, both ways.
    given: HashMap<usize, String>,
    given_places: HashMap<String, usize>,
    /// What nobody has been told of yet; undone with the rows when a call is rolled back.
    changes: Vec<Change>,
}

/// One change of a row of an object that tells of its changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) place: usize,
    pub(crate) kind: ChangeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeKind {
    Created,
    Updated,
    Deleted,
}

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) deleted: bool,
    created: u64,
    modified: u64,
    /// In the order of the object's fields.
    values: Vec<Value>,
}

impl Table {
    pub(super) fn new(object: &'static Object) -> Self {
        Self {
            object,
            rows: Vec::new(),
            external: HashMap::new(),
            given: HashMap::new(),
            given_places: HashMap::new(),
            changes: Vec::new(),
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.rows.iter().enumerate()
    }

    pub(crate) fn id(&self, place: usize) -> String {
        let given = self.given.get(&place).cloned();
        given.unwrap_or_else(|| id18(self.object.prefix, place))
    }

    /// From now on the row at `place` has this id of 18 characters.
    pub(super) fn give_id(&mut self, place: usize, id: &str) {
        self.given.insert(place, id.to_owned());
        self.given_places.insert(id[..15].to_owned(), place);
    }

    /// The place an id speaks of, whether the row is deleted or not.
    pub(crate) fn place(&self, id: &str) -> Option<usize> {
        if !id.is_ascii() || !matches!(id.len(), 15 | 18) || !id.starts_with(self.object.prefix) {
            return None;
        }
        if let Some(place) = self.given_places.get(&id[..15]) {
            return Some(*place);
        }
        let place = id[8..15].bytes().try_fold(0usize, |sum, byte| {
            Some(sum * 62 + BASE62.iter().position(|c| *c == byte)?)
        })?;
        (place < self.rows.len() && self.id(place)[..15] == id[..15]).then_some(place)
    }

    /// As [`Table::place`], of living rows only.
    pub(crate) fn living(&self, id: &str) -> Result<usize, Problem> {
        match self.place(id) {
            None => Err(Problem::new(
                "NOT_FOUND",
                "Provided external ID field does not exist or is not accessible: ".to_owned() + id,
            )),
            Some(place) if self.rows[place].deleted => Err(Problem::new("ENTITY_IS_DELETED", "entity is deleted")),
            Some(place) => Ok(place),
        }
    }

    pub(crate) fn by_external(&self, value: &str) -> Option<usize> {
        self.external.get(value).copied()
    }

    pub(crate) fn value(&self, place: usize, field: &str) -> Result<Value, Problem> {
        let row = &self.rows[place];
        let system = match field.to_ascii_lowercase().as_str() {
            "id" => Some(json!(self.id(place))),
            "createddate" => Some(json!(iso(row.created))),
            "lastmodifieddate" | "systemmodstamp" => Some(json!(iso(row.modified))),
            "isdeleted" => Some(json!(row.deleted)),
            _ => None,
        };
        if let Some(value) = system {
            return Ok(value);
        }
        let at = self.object.field(field).ok_or_else(|| self.no_such_field(field))?;
        Ok(row.values[at].clone())
    }

    pub(crate) fn insert(&mut self, values: &Map<String, Value>, now: SystemTime) -> Result<usize, Problem> {
        let mut row = vec![Value::Null; self.object.fields.len()];
        self.apply(&mut row, values)?;
        self.insert_row(row, now)
    }

    /// Values in the order of the object's fields, already of their kinds.
    pub(crate) fn insert_row(&mut self, mut values: Vec<Value>, now: SystemTime) -> Result<usize, Problem> {
        let fields = self.object.fields;
        let missing: Vec<String> = fields
            .iter()
            .zip(&values)
            .filter(|(field, value)| field.required && value.is_null())
            .map(|(field, _)| field.name.to_owned())
            .collect();
        if !missing.is_empty() {
            let message = format!("Required fields are missing: [{}]", missing.join(", "));
            return Err(Problem {
                fields: missing,
                ..Problem::new("REQUIRED_FIELD_MISSING", message)
            });
        }
        for (field, value) in fields.iter().zip(&mut values) {
            if field.kind == Kind::Bool && value.is_null() {
                *value = json!(false);
            }
        }
        let place = self.rows.len();
        self.claim_external(place, &values)?;
        let at = unix_millis(now);
        self.rows.push(Row {
            deleted: false,
            created: at,
            modified: at,
            values,
        });
        self.note(place, ChangeKind::Created);
        Ok(place)
    }

    pub(crate) fn update(&mut self, place: usize, values: &Map<String, Value>, now: SystemTime) -> Result<(), Problem> {
        let mut row = self.rows[place].values.clone();
        self.apply(&mut row, values)?;
        self.update_row(place, row, now)
    }

    /// The whole row anew.
    pub(crate) fn update_row(&mut self, place: usize, values: Vec<Value>, now: SystemTime) -> Result<(), Problem> {
        self.claim_external(place, &values)?;
        let row = &mut self.rows[place];
        row.values = values;
        row.modified = unix_millis(now);
        self.note(place, ChangeKind::Updated);
        Ok(())
    }

    pub(crate) fn row_values(&self, place: usize) -> Vec<Value> {
        self.rows[place].values.clone()
    }

    pub(crate) fn delete(&mut self, place: usize, now: SystemTime) {
        let row = &mut self.rows[place];
        row.deleted = true;
        row.modified = unix_millis(now);
        self.release_external(place);
        self.note(place, ChangeKind::Deleted);
    }

    pub(crate) fn snapshot(&self, place: usize) -> Snapshot {
        let row = &self.rows[place];
        Snapshot {
            id: self.id(place),
            modified: row.modified,
            object: self.object,
            values: row.values.clone(),
        }
    }

    /// What changed since the last time this was asked.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn note(&mut self, place: usize, kind: ChangeKind) {
        if self.object.name == TELLS_OF_CHANGES {
            self.changes.push(Change { place, kind });
        }
    }

    /// The row as the REST API shows it, without `attributes`.
    pub(crate) fn whole(&self, place: usize) -> Map<String, Value> {
        let mut out = Map::new();
        for name in self.object.all_fields() {
            if let Ok(value) = self.value(place, name) {
                out.insert(name.to_owned(), value);
            }
        }
        out
    }

    pub(crate) fn no_such_field(&self, field: &str) -> Problem {
        let object = self.object.name;
        Problem::new(
            "INVALID_FIELD",
            format!("No such column '{field}' on sobject of type {object}"),
        )
    }

    fn apply(&self, row: &mut [Value], values: &Map<String, Value>) -> Result<(), Problem> {
        for (name, value) in values {
            if name == "attributes" || name.eq_ignore_ascii_case("id") {
                continue;
            }
            let at = self.object.field(name).ok_or_else(|| self.no_such_field(name))?;
            row[at] = self.object.fields[at].accept(value)?;
        }
        Ok(())
    }

    fn release_external(&mut self, place: usize) {
        let at = self.object.fields.iter().position(|f| f.external_id);
        let row = self.rows.get(place);
        if let Some(value) = at.zip(row).and_then(|(at, row)| row.values[at].as_str()) {
            self.external.remove(value);
        }
    }

    fn claim_external(&mut self, place: usize, values: &[Value]) -> Result<(), Problem> {
        let Some(at) = self.object.fields.iter().position(|f| f.external_id) else {
            return Ok(());
        };
        let Some(value) = values[at].as_str() else {
            return Ok(());
        };
        match self.external.get(value) {
            Some(owner) if *owner == place => Ok(()),
            Some(owner) => {
                let field = self.object.fields[at].name;
                let owner = self.id(*owner);
                Err(Problem::new(
                    "DUPLICATE_VALUE",
                    format!("duplicate value found: {field} duplicates value on record with id: {owner}"),
                ))
            }
            None => {
                self.release_external(place);
                self.external.insert(value.to_owned(), place);
                Ok(())
            }
        }
    }
}
