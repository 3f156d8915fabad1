//! What a failed login means: the error catalogue of the token endpoint.
//!
//! Owns: nothing; a pure decision. [`refusal`] reads a status and a body and says why the login failed, whether waiting
//! helps, and what to change; [`Sent`] keeps what was sent out of what is told.
//! Invariants: every reason is a word of [`REASONS`]; the status wins over the body when it tells of an outage (a 503
//! that carries `invalid_grant` must not condemn a good key); codes and descriptions hold no secret that was sent and
//! no control character, and are short.
//! Units: `Duration`; lengths in characters.
//! Fails with: nothing; any bytes have a meaning.
//! Source: SF §2 (the catalogue), SF §1.5; RFC 6749 §5.2.

use std::{fmt, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString};

mod catalogue;
#[cfg(test)]
mod tests;

pub use self::catalogue::REASONS;
use self::catalogue::{CATALOGUE, Meaning};

/// Whether and how soon trying again may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Until somebody acts.
    Permanent,
    /// A young app or approval may not have reached every login host; after ten minutes it is permanent.
    Propagating,
    /// Passes by itself.
    Transient,
    /// The login host asks for fewer logins.
    RateLimited,
    /// Until somebody here acts; nothing was sent, so that looking again costs the login host nothing.
    Unsent,
}

impl Class {
    /// Whether somebody has to act, as far as one can tell.
    pub fn needs_somebody(self) -> bool {
        matches!(self, Self::Permanent | Self::Propagating | Self::Unsent)
    }
}

/// Why a login failed. Safe to show: holds nothing that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of [`REASONS`].
    pub reason: &'static str,
    pub class: Class,
    /// Salesforce's `error`.
    pub code: Option<String>,
    /// Salesforce's `error_description`, or what the system says of a failed connection.
    pub description: Option<String>,
    /// What to change, as Salesforce Setup or our configuration calls it.
    pub advice: &'static str,
    /// `Retry-After` of the answer.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A failure that no answer tells of, by its word.
    pub fn of(reason: &'static str, description: impl Into<Option<String>>) -> Self {
        let meaning = catalogue::own(reason);
        Self {
            reason: meaning.reason,
            class: meaning.class,
            code: None,
            description: description.into(),
            advice: meaning.advice,
            retry_after: None,
        }
    }
}

/// `code: description`, and what to do.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.code, &self.description) {
            (Some(code), Some(description)) => write!(f, "{code}: {description}")?,
            (Some(text), None) | (None, Some(text)) => f.write_str(text)?,
            (None, None) => f.write_str(self.reason)?,
        }
        write!(f, "; {}", self.advice)
    }
}

/// What an answer that is no token means. `sent` is what must not come back in its texts.
pub fn refusal(status: u16, body: &[u8], sent: &Sent) -> Refusal {
    let answer = Answer::read(body);
    let meaning = by_status(status).unwrap_or_else(|| by_answer(&answer));
    Refusal {
        reason: meaning.reason,
        class: meaning.class,
        code: answer.code.as_deref().and_then(|text| code(text, sent)),
        description: answer
            .description
            .as_deref()
            // Of a success it may be the token, in a form that is not read.
            .filter(|_| !(200..300).contains(&status))
            .and_then(|text| sent.scrub(text, DESCRIPTION_MAX)),
        advice: meaning.advice,
        retry_after: None,
    }
}

/// The same for the second stage, the exchange for a token of Data Cloud: another scope is missing there.
pub fn data_cloud_refusal(status: u16, body: &[u8], sent: &Sent) -> Refusal {
    let told = refusal(status, body, sent);
    match told.reason {
        "no_scope" => Refusal {
            code: told.code,
            description: told.description,
            ..Refusal::of("data_cloud_scope", None)
        },
        _ => told,
    }
}

/// Statuses that mean something whatever the body says.
fn by_status(status: u16) -> Option<Meaning> {
    let reason = match status {
        200..=299 => "malformed_answer",
        300..=399 => "redirected",
        420 => "no_route",
        429 => "rate_limited",
        500..=599 => "outage",
        _ => return None,
    };
    Some(catalogue::own(reason))
}

fn by_answer(answer: &Answer) -> Meaning {
    let code = answer.code.as_deref().unwrap_or_default();
    let description = answer.description.as_deref().unwrap_or_default().to_lowercase();
    CATALOGUE
        .iter()
        .find(|row| row.fits(code, &description))
        .map(|row| row.meaning)
        .unwrap_or_else(|| match answer.code {
            Some(_) => catalogue::own("refused"),
            None => catalogue::own("unexpected_answer"),
        })
}

/// The error fields of a body, as they came.
#[derive(Default)]
struct Answer {
    code: Option<String>,
    description: Option<String>,
}

impl Answer {
    fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        match text.chars().next() {
            None | Some('<') => Self::default(),
            Some('{' | '[') => Self::from_json(text),
            Some(_) => Self::from_form(text),
        }
    }

    /// `{"error":…,"error_description":…}`, or Salesforce's API shape `[{"errorCode":…,"message":…}]`.
    fn from_json(text: &str) -> Self {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
            return Self::default();
        };
        let object = match &value {
            serde_json::Value::Array(items) => items.first().unwrap_or(&value),
            _ => &value,
        };
        let text = |names: [&str; 2]| {
            names
                .iter()
                .find_map(|name| object.get(name)?.as_str())
                .map(str::to_owned)
        };
        Self {
            code: text(["error", "errorCode"]),
            description: text(["error_description", "message"]),
        }
    }

    /// `error=…&error_description=…`; a text that is no form is a description.
    fn from_form(text: &str) -> Self {
        let mut answer = Self::default();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match &*name {
                "error" => answer.code = Some(value.into_owned()),
                "error_description" => answer.description = Some(value.into_owned()),
                _ => {}
            }
        }
        if answer.code.is_none() && answer.description.is_none() {
            answer.description = Some(text.to_owned());
        }
        answer
    }
}

/// Everything secret that one attempt sent, in the forms in which it may be echoed. No `Debug`.
#[derive(Default)]
pub struct Sent(Vec<SecretString>);

impl Sent {
    /// A secret, raw and percent-encoded in its several styles.
    pub fn secret(&mut self, secret: &str) {
        self.needle(secret.to_owned());
        self.needle(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
        self.needle(percent_encoded(secret));
    }

    /// What `Authorization: Basic` carries.
    pub fn basic(&mut self, user: &str, password: &str) {
        self.secret(password);
        self.secret(&BASE64_STANDARD.encode(format!("{user}:{password}")));
    }

    /// A signed assertion: whole, and each of its parts.
    pub fn assertion(&mut self, assertion: &str) {
        self.secret(assertion);
        for part in assertion.split('.') {
            self.secret(part);
        }
    }

    /// The text without control characters and without anything that was sent, cut to `max` characters.
    pub fn scrub(&self, text: &str, max: usize) -> Option<String> {
        let mut text: String = text.chars().filter(|c| !is_unprintable(*c)).collect();
        for needle in &self.0 {
            let needle = needle.expose_secret();
            // A secret this short would be recognisable from what the marker replaces.
            if needle.len() < SHORTEST_REPLACED && find(&text, needle).is_some() {
                return None;
            }
            while let Some(at) = find(&text, needle) {
                text.replace_range(at..at + needle.len(), MARK);
            }
        }
        let text: String = text.trim().chars().take(max).collect();
        (!text.is_empty()).then_some(text)
    }

    fn needle(&mut self, needle: String) {
        // The marker itself must not be found again, or replacing would not end.
        if needle.is_empty() || find(MARK, &needle).is_some() || find(&needle, MARK).is_some() {
            return;
        }
        // Longest first, so that a part is not replaced inside a whole.
        let at = self
            .0
            .partition_point(|other| other.expose_secret().len() >= needle.len());
        self.0.insert(at, needle.into());
    }
}

/// Where `needle` begins, whatever the case of ASCII letters: percent-encoding is written in both.
fn find(text: &str, needle: &str) -> Option<usize> {
    let (text, needle) = (text.as_bytes(), needle.as_bytes());
    text.windows(needle.len())
        .position(|window| window.eq_ignore_ascii_case(needle))
}

/// RFC 3986 style: a space is `%20`, not `+`.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Control characters, and those that turn or break lines where people read.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// An error code is one short word; anything else in its place is not repeated.
fn code(text: &str, sent: &Sent) -> Option<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let fits = !text.is_empty() && text.len() <= CODE_MAX && text.chars().all(word);
    fits.then(|| sent.scrub(text, CODE_MAX)).flatten()
}

const DESCRIPTION_MAX: usize = 200;
const CODE_MAX: usize = 64;
const SHORTEST_REPLACED: usize = 6;
const MARK: &str = "[removed]";
