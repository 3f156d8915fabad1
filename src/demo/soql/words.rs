//! The words of a query: names, literals, signs.
//!
//! Owns: nothing. Invariants: no byte is skipped but white space. Fails with: the character or the open quote.

use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    Name(String),
    Literal(Value),
    Sign(&'static str),
}

pub(super) fn words(text: &str) -> Result<Vec<Word>, String> {
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
