//! The org's rows.
//!
//! Owns: the tables. Invariants: a row keeps its place for ever (deleting marks it), so ids never repeat; an external id names one living row.
//! Units: times are milliseconds since 1970; ids are 18 characters, taken with 15 or 18.
//! Fails with: [`Problem`] with Salesforce's code and text.
//! Source: Salesforce REST API guide, sObject rows; the 18-character id's checksum is public knowledge.

pub(crate) mod schema;

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::Problem;
use schema::{Kind, OBJECTS, Object};

#[derive(Clone)]
pub(crate) struct Store {
    tables: Vec<Table>,
    /// Contents of ContentVersion rows, by place.
    files: HashMap<usize, Bytes>,
}

#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) object: &'static Object,
    rows: Vec<Row>,
    external: HashMap<String, usize>,
}

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) deleted: bool,
    created: u64,
    modified: u64,
    /// In the order of the object's fields.
    values: Vec<Value>,
}

impl Store {
    /// Accounts with two contacts each, the users and the organisation.
    pub(crate) fn seeded(accounts: usize, now: SystemTime) -> Self {
        let mut store = Self {
            tables: OBJECTS.iter().map(Table::new).collect(),
            files: HashMap::new(),
        };
        let industries = ["Energy", "Banking", "Media", "Retail"];
        for n in 0..accounts {
            let account = json!({
                "Name": format!("Practice Account {n:04}"),
                "Industry": (industries[n % industries.len()]),
                "Type": "Customer",
                "Phone": format!("+1 555 {n:04}"),
                "AnnualRevenue": 1_000 * (n + 1),
                "External_Id__c": format!("A-{n:04}"),
            });
            let place = store.seed("Account", account, now);
            let account_id = store.table_of("Account").id(place);
            for person in 0..2 {
                let contact = json!({
                    "FirstName": if person == 0 { "Ada" } else { "Grace" },
                    "LastName": format!("Practice {n:04}"),
                    "Email": format!("{person}.{n:04}@practice.example"),
                    "AccountId": account_id,
                });
                store.seed("Contact", contact, now);
            }
        }
        store.seed("Organization", json!({"Name": "Practice Org", "IsSandbox": false, "OrganizationType": "Developer Edition"}), now);
        store
    }

    fn seed(&mut self, object: &str, values: Value, now: SystemTime) -> usize {
        let Value::Object(values) = values else {
            unreachable!("seeds are objects")
        };
        let table = self
            .table(object)
            .expect("seeded objects must be in the schema");
        table.insert(&values, now).expect("seeds must be valid")
    }

    fn table_of(&self, name: &'static str) -> &Table {
        self.read(name)
            .expect("seeded objects must be in the schema")
    }

    /// For changing; any case of letters.
    pub(crate) fn table(&mut self, name: &str) -> Option<&mut Table> {
        self.tables
            .iter_mut()
            .find(|t| t.object.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn read(&self, name: &str) -> Option<&Table> {
        self.tables
            .iter()
            .find(|t| t.object.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn by_prefix(&mut self, id: &str) -> Option<&mut Table> {
        self.tables
            .iter_mut()
            .find(|t| id.starts_with(t.object.prefix))
    }

    pub(crate) fn put_file(&mut self, place: usize, content: Bytes) {
        self.files.insert(place, content);
    }

    pub(crate) fn file(&self, place: usize) -> Option<Bytes> {
        self.files.get(&place).cloned()
    }

    /// A field, or one of a parent's (`Account.Name`).
    pub(crate) fn value(&self, table: &Table, place: usize, path: &str) -> Result<Value, Problem> {
        let Some((relation, rest)) = path.split_once('.') else {
            return table.value(place, path);
        };
        let unknown = || table.no_such_field(path);
        let (field, target) = table.object.parent(relation).ok_or_else(unknown)?;
        let parent = self.read(target).ok_or_else(unknown)?;
        let id = table.value(place, field)?;
        match id.as_str().and_then(|id| parent.place(id)) {
            Some(place) => self.value(parent, place, rest),
            None => Ok(Value::Null),
        }
    }
}

impl Table {
    fn new(object: &'static Object) -> Self {
        Self {
            object,
            rows: Vec::new(),
            external: HashMap::new(),
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (usize, &Row)> {
        self.rows.iter().enumerate()
    }

    pub(crate) fn id(&self, place: usize) -> String {
        id18(self.object.prefix, place)
    }

    /// The place an id speaks of, whether the row is deleted or not.
    pub(crate) fn place(&self, id: &str) -> Option<usize> {
        if !id.is_ascii() || !matches!(id.len(), 15 | 18) || !id.starts_with(self.object.prefix) {
            return None;
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
            Some(place) if self.rows[place].deleted => {
                Err(Problem::new("ENTITY_IS_DELETED", "entity is deleted"))
            }
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
        let at = self
            .object
            .field(field)
            .ok_or_else(|| self.no_such_field(field))?;
        Ok(row.values[at].clone())
    }

    pub(crate) fn insert(
        &mut self,
        values: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<usize, Problem> {
        let mut row = vec![Value::Null; self.object.fields.len()];
        self.apply(&mut row, values)?;
        self.insert_row(row, now)
    }

    /// Values in the order of the object's fields, already of their kinds.
    pub(crate) fn insert_row(
        &mut self,
        mut values: Vec<Value>,
        now: SystemTime,
    ) -> Result<usize, Problem> {
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
        Ok(place)
    }

    pub(crate) fn update(
        &mut self,
        place: usize,
        values: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<(), Problem> {
        let mut row = self.rows[place].values.clone();
        self.apply(&mut row, values)?;
        self.update_row(place, row, now)
    }

    /// The whole row anew.
    pub(crate) fn update_row(
        &mut self,
        place: usize,
        values: Vec<Value>,
        now: SystemTime,
    ) -> Result<(), Problem> {
        self.claim_external(place, &values)?;
        let row = &mut self.rows[place];
        row.values = values;
        row.modified = unix_millis(now);
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
            let at = self
                .object
                .field(name)
                .ok_or_else(|| self.no_such_field(name))?;
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
                    format!(
                        "duplicate value found: {field} duplicates value on record with id: {owner}"
                    ),
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

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// An id: prefix, the org's letters, the number, and three letters that tell upper from lower case.
pub(crate) fn id18(prefix: &str, number: usize) -> String {
    let mut digits = [b'0'; 7];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    let mut id = format!("{prefix}SB000{}", String::from_utf8_lossy(&digits));
    let mut suffix = String::with_capacity(3);
    for group in id.as_bytes().chunks(5) {
        let bits = group.iter().rev().fold(0, |sum, byte| {
            sum << 1 | usize::from(byte.is_ascii_uppercase())
        });
        suffix.push(char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"[bits]));
    }
    id.push_str(&suffix);
    id
}

/// The id of a user name: the same for the same name.
pub(crate) fn user_id(username: &str) -> String {
    let hash = username.bytes().fold(7usize, |sum, byte| {
        (sum * 31 + usize::from(byte)) % 1_000_000_007
    });
    id18("005", hash)
}

pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-11-21T10:00:00.000+0000`.
pub(crate) fn iso(millis: u64) -> String {
    let time = UNIX_EPOCH + std::time::Duration::from_millis(millis);
    let text = humantime::format_rfc3339_millis(time).to_string();
    text.replace('Z', "+0000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_salesforces() {
        // 00DSB0000001pRC: groups 00DSB 00000 01pRC.
        assert_eq!(&id18("001", 0)[..15], "001SB0000000000");
        assert_eq!(super::super::world::ORG_ID.len(), 18);
        // A published pair: 0017000000hOMCh is 0017000000hOMChAAO.
        let bits = |group: &str| {
            group
                .bytes()
                .rev()
                .fold(0, |s, b| s << 1 | usize::from(b.is_ascii_uppercase()))
        };
        assert_eq!(["00170", "00000", "hOMCh"].map(bits), [0, 0, 14]);
    }

    #[test]
    fn an_id_finds_its_row_with_15_and_18_characters() {
        let store = Store::seeded(70, UNIX_EPOCH);
        let table = store.read("account").unwrap();
        let mut seen = 0;
        for (place, _) in table.rows() {
            let id = table.id(place);
            assert_eq!(table.place(&id), Some(place));
            assert_eq!(table.place(&id[..15]), Some(place));
            seen += 1;
        }
        assert_eq!(seen, 70);
        assert_eq!(table.place("001SB0000000zzz"), None);
        assert_eq!(table.place("003SB0000000000"), None);
    }
}
