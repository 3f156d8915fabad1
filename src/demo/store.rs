//! The org's rows.
//!
//! Owns: the tables and the files. Invariants: the same seed gives the same rows and ids.
//! Units: times are milliseconds since 1970; ids are 18 characters, taken with 15 or 18.
//! Fails with: [`Problem`] with Salesforce's code and text.
//! Source: Salesforce REST API guide, sObject rows; the 18-character id's checksum is public knowledge.

pub(crate) mod schema;
mod table;

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{answer::Problem, world::ORG_ID};
use schema::{OBJECTS, SYSTEM};
pub(crate) use table::{ChangeKind, Snapshot, TELLS_OF_CHANGES, Table};

#[derive(Clone)]
pub(crate) struct Store {
    tables: Vec<Table>,
    /// Contents of ContentVersion rows, by place.
    files: HashMap<usize, Bytes>,
}

impl Store {
    /// Accounts with two contacts each, the users and the organisation.
    pub(crate) fn seeded<'a>(accounts: usize, usernames: impl IntoIterator<Item = &'a str>, now: SystemTime) -> Self {
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
        let place = store.seed(
            "Organization",
            json!({"Name": "Practice Org", "IsSandbox": false, "OrganizationType": "Developer Edition", "InstanceName": "PRC1"}),
            now,
        );
        store.seeded_table("Organization").give_id(place, ORG_ID);
        for username in usernames {
            let id = user_id(username);
            if store.table_of("User").place(&id).is_none() {
                let place = store.seed("User", json!({"Username": username, "Name": "Practice User"}), now);
                store.seeded_table("User").give_id(place, &id);
            }
        }
        // These were there before anybody could listen.
        store.tables.iter_mut().for_each(|table| drop(table.take_changes()));
        store
    }

    fn seed(&mut self, object: &str, values: Value, now: SystemTime) -> usize {
        let Value::Object(values) = values else {
            unreachable!("seeds are objects")
        };
        let table = self.seeded_table(object);
        table.insert(&values, now).expect("seeds must be valid")
    }

    fn seeded_table(&mut self, object: &str) -> &mut Table {
        self.table(object).expect("seeded objects must be in the schema")
    }

    fn table_of(&self, name: &'static str) -> &Table {
        self.read(name).expect("seeded objects must be in the schema")
    }

    /// For changing; any case of letters.
    pub(crate) fn table(&mut self, name: &str) -> Option<&mut Table> {
        self.tables
            .iter_mut()
            .find(|t| t.object.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn read(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|t| t.object.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn by_prefix(&mut self, id: &str) -> Option<&mut Table> {
        self.tables.iter_mut().find(|t| id.starts_with(t.object.prefix))
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
        let bits = group
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 1 | usize::from(byte.is_ascii_uppercase()));
        suffix.push(char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"[bits]));
    }
    id.push_str(&suffix);
    id
}

/// The id of a user name: the same for the same name.
pub(crate) fn user_id(username: &str) -> String {
    let hash = username
        .bytes()
        .fold(7usize, |sum, byte| (sum * 31 + usize::from(byte)) % 1_000_000_007);
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

/// A field's value as XML and Bulk API 1.0 show it: dates are `xsd:dateTime`; `None` is null.
pub(crate) fn word(field: &str, value: &Value) -> Option<String> {
    let field = field.rsplit('.').next().unwrap_or(field);
    let is_date = |(system, kind): &(&str, &str)| *kind == "datetime" && system.eq_ignore_ascii_case(field);
    match value {
        Value::Null => None,
        Value::String(text) if SYSTEM.iter().any(is_date) => Some(text.replace("+0000", "Z")),
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
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
        let store = Store::seeded(70, [], UNIX_EPOCH);
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

    #[test]
    fn users_and_the_org_are_found_by_the_ids_that_tokens_name() {
        let names = ["a@practice.example", "b@practice.example", "a@practice.example"];
        let store = Store::seeded(1, names, UNIX_EPOCH);
        let users = store.read("User").unwrap();
        assert_eq!(users.rows().count(), 2, "one row for each name");
        for name in names {
            let id = user_id(name);
            let place = users.living(&id[..15]).unwrap();
            assert_eq!(users.id(place), id);
            assert_eq!(users.value(place, "Username").unwrap(), name);
        }
        let org = store.read("Organization").unwrap();
        assert_eq!(org.whole(org.living(ORG_ID).unwrap())["Id"], ORG_ID);
    }
}
