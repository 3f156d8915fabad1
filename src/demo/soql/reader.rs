//! The grammar: from words to a [`Query`].
//!
//! Owns: nothing. Invariants: one method a rule; AND binds before OR. Fails with: the word that was not expected.

use serde_json::Value;

use super::{Fields, Filter, Op, Query, words::Word};

pub(super) struct Reader {
    pub(super) words: Vec<Word>,
    pub(super) at: usize,
}

impl Reader {
    pub(super) fn query(&mut self) -> Result<Query, String> {
        self.keyword("SELECT")?;
        let fields = self.fields()?;
        self.keyword("FROM")?;
        let object = self.name()?;
        let filter = if self.eat("WHERE") { Some(self.any_of()?) } else { None };
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
        let limit = if self.eat("LIMIT") { Some(self.number()?) } else { None };
        let offset = if self.eat("OFFSET") { self.number()? } else { 0 };
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
                let inside = if self.sign(")") { None } else { Some(self.name()?) };
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
            return if self.sign(")") { Ok(inside) } else { Err(self.here()) };
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
        let op = if self.eat("LIKE") { Op::Like } else { self.operator()? };
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
        if self.eat(word) { Ok(()) } else { Err(self.here()) }
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Word::Name(name)) if name.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Some(Word::Sign(s)) if *s == sign);
        self.at += usize::from(found);
        found
    }

    pub(super) fn peek(&self) -> Option<&Word> {
        self.words.get(self.at)
    }

    pub(super) fn here(&self) -> String {
        match self.peek() {
            None => "<EOF>".into(),
            Some(Word::Name(name)) => name.clone(),
            Some(Word::Literal(value)) => value.to_string(),
            Some(Word::Sign(sign)) => (*sign).to_owned(),
        }
    }
}
