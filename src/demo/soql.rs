//! A small part of SOQL: what it means.
//!
//! `SELECT fields|COUNT()|FIELDS(ALL) FROM X [WHERE f op v [AND|OR …]] [ORDER BY f [DESC]] [LIMIT n] [OFFSET n]`, with `= != <> < > <= >= LIKE IN`
//! and parentheses around conditions.
//!
//! Owns: nothing. Invariants: a query that cannot be read is refused, never guessed at. Fails with: [`Problem`] (`MALFORMED_QUERY`).
//! Source: Salesforce SOQL reference, the parts named.

use serde_json::{Value, json};

use super::answer::Problem;

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

#[derive(Debug, Clone, PartialEq)]
enum Word {
    Name(String),
    Literal(Value),
    Sign(&'static str),
}

pub(crate) fn parse(text: &str) -> Result<Query, Problem> {
    let malformed = |what: String| {
        Problem::new(
            "MALFORMED_QUERY",
            format!("{text}\nunexpected token: {what}"),
        )
    };
    let words = words(text).map_err(malformed)?;
    let mut reader = Reader { words, at: 0 };
    let query = reader.query().map_err(malformed)?;
    match reader.peek() {
        None => Ok(query),
        Some(_) => Err(malformed(reader.here())),
    }
}

impl Filter {
    /// Whether a row passes; `value` reads one of its fields.
    pub(crate) fn passes(
        &self,
        value: &impl Fn(&str) -> Result<Value, Problem>,
    ) -> Result<bool, Problem> {
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
            let is_id = |long: &str, short: &str| {
                long.len() == 18 && short.len() == 15 && long.starts_with(short)
            };
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
            (wanted == '_' || wanted == first)
                && like(&text[first.len_utf8()..], &pattern[wanted.len_utf8()..])
        }),
    }
}

struct Reader {
    words: Vec<Word>,
    at: usize,
}

impl Reader {
    fn query(&mut self) -> Result<Query, String> {
        self.keyword("SELECT")?;
        let fields = self.fields()?;
        self.keyword("FROM")?;
        let object = self.name()?;
        let filter = if self.eat("WHERE") {
            Some(self.any_of()?)
        } else {
            None
        };
        let mut order = None;
        if self.eat("ORDER") {
            self.keyword("BY")?;
            let field = self.name()?;
            let down = !self.eat("ASC") && self.eat("DESC");
            if self.eat("NULLS") && !self.eat("FIRST") {
                self.keyword("LAST")?;
            }
            order = Some((field, down));
        }
        let limit = if self.eat("LIMIT") {
            Some(self.number()?)
        } else {
            None
        };
        let offset = if self.eat("OFFSET") {
            self.number()?
        } else {
            0
        };
        Ok(Query {
            fields,
            object,
            filter,
            order,
            limit,
            offset,
        })
    }

    fn fields(&mut self) -> Result<Fields, String> {
        let mut names = Vec::new();
        loop {
            let name = self.name()?;
            if self.sign("(") {
                let inside = if self.sign(")") {
                    None
                } else {
                    Some(self.name()?)
                };
                if inside.is_some() && !self.sign(")") {
                    return Err(self.here());
                }
                return match inside {
                    None if name.eq_ignore_ascii_case("COUNT") => Ok(Fields::Count),
                    Some(_) if name.eq_ignore_ascii_case("FIELDS") => Ok(Fields::All),
                    _ => Err(name),
                };
            }
            names.push(name);
            if !self.sign(",") {
                return Ok(Fields::Named(names));
            }
        }
    }

    fn any_of(&mut self) -> Result<Filter, String> {
        let mut left = self.all_of()?;
        while self.eat("OR") {
            left = Filter::Or(Box::new(left), Box::new(self.all_of()?));
        }
        Ok(left)
    }

    fn all_of(&mut self) -> Result<Filter, String> {
        let mut left = self.test()?;
        while self.eat("AND") {
            left = Filter::And(Box::new(left), Box::new(self.test()?));
        }
        Ok(left)
    }

    fn test(&mut self) -> Result<Filter, String> {
        if self.sign("(") {
            let inside = self.any_of()?;
            return if self.sign(")") {
                Ok(inside)
            } else {
                Err(self.here())
            };
        }
        let field = self.name()?;
        if self.eat("IN") {
            let mut list = Vec::new();
            if !self.sign("(") {
                return Err(self.here());
            }
            loop {
                list.push(self.value()?);
                if self.sign(")") {
                    return Ok(Filter::Test {
                        field,
                        op: Op::In,
                        value: Value::Array(list),
                    });
                }
                if !self.sign(",") {
                    return Err(self.here());
                }
            }
        }
        let op = if self.eat("LIKE") {
            Op::Like
        } else {
            self.operator()?
        };
        let value = self.value()?;
        Ok(Filter::Test { field, op, value })
    }

    fn operator(&mut self) -> Result<Op, String> {
        let op = match self.peek() {
            Some(Word::Sign("=")) => Op::Equal,
            Some(Word::Sign("!=" | "<>")) => Op::Differs,
            Some(Word::Sign("<")) => Op::Less,
            Some(Word::Sign(">")) => Op::More,
            Some(Word::Sign("<=")) => Op::AtMost,
            Some(Word::Sign(">=")) => Op::AtLeast,
            _ => return Err(self.here()),
        };
        self.at += 1;
        Ok(op)
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            Some(Word::Literal(value)) => {
                let value = value.clone();
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.here()),
        }
    }

    fn number(&mut self) -> Result<usize, String> {
        let value = self.value()?;
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| value.to_string())
    }

    fn name(&mut self) -> Result<String, String> {
        match self.peek() {
            Some(Word::Name(name)) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.here()),
        }
    }

    fn keyword(&mut self, word: &str) -> Result<(), String> {
        if self.eat(word) {
            Ok(())
        } else {
            Err(self.here())
        }
    }

    fn eat(&mut self, word: &str) -> bool {
        let found =
            matches!(self.peek(), Some(Word::Name(name)) if name.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Word::Sign(s)) if *s == sign);
        self.at += usize::from(found);
        found
    }

    fn peek(&self) -> Option<&Word> {
        self.words.get(self.at)
    }

    fn here(&self) -> String {
        match self.peek() {
            None => "<EOF>".into(),
            Some(Word::Name(name)) => name.clone(),
            Some(Word::Literal(value)) => value.to_string(),
            Some(Word::Sign(sign)) => (*sign).to_owned(),
        }
    }
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    const SIGNS: [&str; 10] = ["!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ","];
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            let (literal, after) = quoted(&rest[1..]).ok_or_else(|| rest.to_owned())?;
            out.push(Word::Literal(Value::String(literal)));
            rest = after;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            out.push(Word::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let part = |c: char| c.is_alphanumeric() || "_.:+-%".contains(c);
            let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
            if end == 0 {
                return Err(first.to_string());
            }
            out.push(bare(&rest[..end]));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(out)
}

/// A bare word: number, date, `true`, `false`, `null` or a name.
fn bare(word: &str) -> Word {
    match word.to_ascii_lowercase().as_str() {
        "true" => return Word::Literal(json!(true)),
        "false" => return Word::Literal(json!(false)),
        "null" => return Word::Literal(Value::Null),
        _ => {}
    }
    if word.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        if let Ok(whole) = word.parse::<i64>() {
            return Word::Literal(json!(whole));
        }
        return match word.parse::<f64>() {
            Ok(number) => Word::Literal(json!(number)),
            Err(_) => Word::Literal(json!(word)),
        };
    }
    Word::Name(word.to_owned())
}

/// The text up to the closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((out, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
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
        let query = parse("select Id, Account.Name from Contact where Email like '%x' order by Name desc nulls last limit 5 offset 2").unwrap();
        assert_eq!(
            query.fields,
            Fields::Named(vec!["Id".into(), "Account.Name".into()])
        );
        assert_eq!(
            (query.order, query.limit, query.offset),
            (Some(("Name".into(), true)), Some(5), 2)
        );
        assert_eq!(
            parse("SELECT COUNT() FROM Account").unwrap().fields,
            Fields::Count
        );
        assert_eq!(
            parse("SELECT FIELDS(ALL) FROM Account LIMIT 200")
                .unwrap()
                .fields,
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
