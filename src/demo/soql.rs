//! A small part of SOQL: what it means.
//!
//! `SELECT fields|COUNT()|FIELDS(ALL) FROM X [WHERE f op v [AND|OR …]] [ORDER BY f [DESC]] [LIMIT n] [OFFSET n]`, with `= != <> < > <= >= LIKE IN`
//! and parentheses around conditions.
//!
//! Owns: nothing. Invariants: a query that cannot be read is refused, never guessed at. Fails with: [`Problem`] (`MALFORMED_QUERY`).
//! Source: Salesforce SOQL reference, the parts named.

mod reader;
mod words;

use serde_json::Value;

use super::answer::Problem;
use reader::Reader;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Query {
    pub(crate) fields: Fields,
    pub(crate) object: String,
    pub(crate) filter: Option<Filter>,
    pub(crate) order: Option<(String, bool)>,
    pub(crate) limit: Option<usize>,
    pub(crate) offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fields {
    Named(Vec<String>),
    All,
    Count,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Filter {
    Test { field: String, op: Op, value: Value },
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Equal,
    Differs,
    Less,
    More,
    AtMost,
    AtLeast,
    Like,
    In,
}

pub(crate) fn parse(text: &str) -> Result<Query, Problem> {
    let malformed = |what: String| Problem::new("MALFORMED_QUERY", format!("{text}\nunexpected token: {what}"));
    let words = words::words(text).map_err(malformed)?;
    let mut reader = Reader { words, at: 0 };
    let query = reader.query().map_err(malformed)?;
    match reader.peek() {
        None => Ok(query),
        Some(_) => Err(malformed(reader.here())),
    }
}

impl Filter {
    /// Whether a row passes; `value` reads one of its fields.
    pub(crate) fn passes(&self, value: &impl Fn(&str) -> Result<Value, Problem>) -> Result<bool, Problem> {
        match self {
            Self::And(a, b) => Ok(a.passes(value)? && b.passes(value)?),
            Self::Or(a, b) => Ok(a.passes(value)? || b.passes(value)?),
            Self::Test {
                field,
                op,
                value: wanted,
            } => Ok(op.holds(&value(field)?, wanted)),
        }
    }
}

impl Op {
    fn holds(self, left: &Value, right: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = compare(left, right);
        match self {
            Self::Equal => order == Some(Equal),
            Self::Differs => order != Some(Equal),
            Self::Less => order == Some(Less),
            Self::More => order == Some(Greater),
            Self::AtMost => matches!(order, Some(Less | Equal)),
            Self::AtLeast => matches!(order, Some(Greater | Equal)),
            Self::Like => match (left.as_str(), right.as_str()) {
                (Some(text), Some(pattern)) => like(&text.to_lowercase(), &pattern.to_lowercase()),
                _ => false,
            },
            Self::In => right
                .as_array()
                .is_some_and(|list| list.iter().any(|one| compare(left, one) == Some(Equal))),
        }
    }
}

/// Text without regard to case, ids with 15 or 18 characters alike, null equal to null only.
pub(crate) fn compare(left: &Value, right: &Value) -> Option<std::cmp::Ordering> {
    match (left, right) {
        (Value::String(a), Value::String(b)) => {
            let is_id = |long: &str, short: &str| long.len() == 18 && short.len() == 15 && long.starts_with(short);
            if is_id(a, b) || is_id(b, a) {
                return Some(std::cmp::Ordering::Equal);
            }
            Some(a.to_lowercase().cmp(&b.to_lowercase()))
        }
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Null, Value::Null) => Some(std::cmp::Ordering::Equal),
        _ => None,
    }
}

fn like(text: &str, pattern: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('%') => {
            let rest = &pattern[1..];
            let mut starts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            starts.any(|at| like(&text[at..], rest))
        }
        Some(wanted) => text.chars().next().is_some_and(|first| {
            (wanted == '_' || wanted == first) && like(&text[first.len_utf8()..], &pattern[wanted.len_utf8()..])
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn passes(filter: &str, row: &Value) -> bool {
        let query = parse(&format!("SELECT Id FROM X WHERE {filter}")).unwrap();
        let read = |field: &str| Ok(row[field].clone());
        query.filter.unwrap().passes(&read).unwrap()
    }

    #[test]
    fn filters_mean_what_they_say() {
        let row = json!({"Name": "O'Hara & Söhne", "Size": 7, "Open": true, "None": null, "Id": "001SB0000000001AAA"});
        for yes in [
            "Name = 'o\\'hara & söhne'",
            "Size > 6.5 AND Size <= 7",
            "Name LIKE 'O%söh_e'",
            "Open = true",
            "None = null",
            "Size != 8",
            "Size IN (1, 7)",
            "(Size = 1 OR Size = 7) AND Open = true",
            "Id = '001SB0000000001'",
            "Size = 7 OR Size = 1 AND Open = false",
            "None != 'x'",
        ] {
            assert!(passes(yes, &row), "{yes}");
        }
        for no in [
            "Name = 'x'",
            "Size > 7",
            "Name LIKE 'O_'",
            "Open = false",
            "Size = null",
            "None > 1",
            "Size IN (1)",
            "(Size = 7 OR Size = 1) AND Open = false",
        ] {
            assert!(!passes(no, &row), "{no}");
        }
    }

    #[test]
    fn the_clauses_are_read() {
        let query = parse(
            "select Id, Account.Name from Contact where Email like '%x' order by Name desc nulls last limit 5 offset 2",
        )
        .unwrap();
        assert_eq!(query.fields, Fields::Named(vec!["Id".into(), "Account.Name".into()]));
        assert_eq!(
            (query.order, query.limit, query.offset),
            (Some(("Name".into(), true)), Some(5), 2)
        );
        assert_eq!(parse("SELECT COUNT() FROM Account").unwrap().fields, Fields::Count);
        assert_eq!(
            parse("SELECT FIELDS(ALL) FROM Account LIMIT 200").unwrap().fields,
            Fields::All
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "",
            "SELECT",
            "SELECT Id",
            "SELECT Id FROM",
            "SELECT Id FROM X WHERE",
            "SELECT Id FROM X LIMIT x",
            "SELECT Id FROM X WHERE a = 'b",
            "SELECT Id FROM X extra",
            "SELECT SUM(a) FROM X",
        ] {
            assert_eq!(parse(text).unwrap_err().code, "MALFORMED_QUERY", "{text}");
        }
    }
}
