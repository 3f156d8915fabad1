//! What is wrong with a configuration: every problem, each with the place to change.
//!
//! Invariants: one problem per place (the first says most); a text never holds a secret, nor anything that stands where
//! one belongs.

use std::fmt;

/// One thing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Key path (`orgs.main.login_url`), environment variable, or the name of the file.
    pub at: String,
    /// What was expected, what came, what to change.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.text)
    }
}

/// Every problem of a configuration, in the order of the sections. `Display` writes one a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn one(at: impl Into<String>, text: impl Into<String>) -> Self {
        let mut problems = Self::default();
        problems.add(at, text);
        problems
    }

    /// Notes a problem, unless the place has one already.
    pub fn add(&mut self, at: impl Into<String>, text: impl Into<String>) {
        let at = at.into();
        if !self.0.iter().any(|known| known.at == at) {
            self.0.push(Problem { at, text: text.into() });
        }
    }

    pub fn extend(&mut self, more: Self) {
        for problem in more.0 {
            self.add(problem.at, problem.text);
        }
    }

    /// Without those at or inside a place that `known` has taken out: what is missing there was there.
    pub fn without(mut self, known: &Self) -> Self {
        self.0
            .retain(|problem| !known.0.iter().any(|known| covers(&known.at, &problem.at)));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// The same problems told at other places; for the environment's names.
    pub fn renamed(self, name: impl Fn(&str) -> Option<String>) -> Self {
        let rename = |problem: Problem| Problem {
            at: name(&problem.at).unwrap_or(problem.at),
            text: problem.text,
        };
        Self(self.0.into_iter().map(rename).collect())
    }

    /// `value`, unless there are problems.
    pub fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Whether `at` is `known` or lies inside it.
fn covers(known: &str, at: &str) -> bool {
    at.strip_prefix(known)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Text from outside, fit for one line of a terminal or log: quoted, escaped and short.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let cut: String = text.chars().take(LONGEST).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", cut.escape_debug())
}

/// A text that should have been a URL, unless it may carry a password or a session. A colon that no port follows may
/// stand before a password whose end, with the `@`, a stray quote has cut off.
pub fn url_shown(text: &str) -> String {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let is_port = |after: &str| {
        let port = after.split('/').next().unwrap_or_default();
        port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
    };
    let password = rest.split(':').skip(1).any(|after| !is_port(after));
    match password || text.contains(['@', '?', '#']) {
        true => "something else (not shown)".into(),
        false => shown(text),
    }
}

/// The known name that is nearest to `name`, if it is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let known = ["login_url", "instance_url", "grant", "token"];
        assert_eq!(nearest("login_ulr", known), Some("login_url"));
        assert_eq!(nearest("loginurl", known), Some("login_url"));
        assert_eq!(nearest("tokens", known), Some("token"));
        assert_eq!(nearest("proxy", known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn what_was_taken_out_is_not_missed() {
        let taken = Problems::one("a.b", "first");
        let mut problems = Problems::default();
        for at in ["a.b", "a.b.c", "a.b[0]", "a.bc", "a", "a"] {
            problems.add(at, "x");
        }
        assert_eq!(problems.without(&taken).to_string(), "a.bc: x\na: x");
    }

    #[test]
    fn a_url_that_may_hold_a_password_is_not_shown() {
        for text in [
            "http://u:hunter2@x",
            "http://u:hunter2",
            "u:hunter2",
            "x.example/?sid=1",
            "http://u:1234567",
        ] {
            assert_eq!(url_shown(text), "something else (not shown)", "{text}");
        }
        for text in ["http://x.example:8080/a b", "x.example:8080", "x y", ""] {
            assert_eq!(url_shown(text), shown(text), "{text}");
        }
    }

    #[test]
    fn shown_text_fits_one_line() {
        assert_eq!(shown("a\nb"), "`a\\nb`");
        assert_eq!(shown(&"x".repeat(61)), format!("`{}…`", "x".repeat(60)));
    }
}
