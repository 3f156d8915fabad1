//! What may be kept, and when it may be given again.
//!
//! Pure. Invariants: only a GET without conditions of the caller's own is answered from the cache; only a whole 200 is
//! kept; whoever asks with other headers that shape the answer gets no other's answer; no cookie is kept.
//! Source: RFC 9111 (caching), RFC 9110 §13 (conditions), §12.5.5 (Vary); Salesforce's REST guide: `If-Modified-Since` counts
//! for Describe Global and sObject Describe, `ETag` for rows of Account only.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::http_date;

/// A change within the same second as an answer, or little before, is not missed: RFC 9110 §8.8.2.2 takes a date as sure
/// when it lies a minute back.
const SURE_AFTER: u64 = 60;

/// One configured path: its segments, and whether more may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<String>,
    prefix: bool,
}

impl Pattern {
    /// `path` begins with `/`; `*` stands for one segment, a `/` at the end for anything that follows.
    pub fn new(path: &str) -> Self {
        Self {
            segments: segments(path).map(str::to_owned).collect(),
            prefix: path.ends_with('/'),
        }
    }

    fn takes(&self, path: &str) -> bool {
        let mut found = segments(path);
        let fits = self
            .segments
            .iter()
            .all(|own| found.next().is_some_and(|segment| own == "*" || own == segment));
        let more = found.next().is_some();
        fits && more == self.prefix
    }
}

/// The segments of a path without the slashes before and after it. What is between two slashes is a segment, also an
/// empty one.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/')
}

/// `v60.0`.
fn is_version(segment: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    segment
        .strip_prefix('v')
        .and_then(|number| number.split_once('.'))
        .is_some_and(|(major, minor)| digits(major) && digits(minor))
}

/// What the usual paths are, for [`covers`] and [`knows_dates`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Usual {
    /// The list of versions, a version's resources, layouts, Tooling: nothing is documented of dates.
    Plain,
    /// Salesforce documents `If-Modified-Since` for it.
    Described,
}

fn usual(path: &str) -> Option<Usual> {
    let path: Vec<&str> = segments(path).take(8).collect();
    let ["services", "data", rest @ ..] = &path[..] else {
        return None;
    };
    match rest {
        [] => Some(Usual::Plain),
        [version, rest @ ..] if is_version(version) => match rest {
            [] => Some(Usual::Plain),
            ["sobjects"] => Some(Usual::Described),
            ["sobjects", object, "describe"] if !object.is_empty() => Some(Usual::Described),
            ["sobjects", object, "describe", ..] if !object.is_empty() => Some(Usual::Plain),
            ["tooling", "sobjects", object, "describe"] if !object.is_empty() => Some(Usual::Plain),
            _ => None,
        },
        _ => None,
    }
}

/// Whether answers at this path may be kept.
pub fn covers(path: &str, more: &[Pattern]) -> bool {
    usual(path).is_some() || more.iter().any(|pattern| pattern.takes(path))
}

/// Whether the org compares any date with its metadata there, also one that it did not send itself.
pub fn knows_dates(path: &str) -> bool {
    usual(path) == Some(Usual::Described)
}

/// What a call may get from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// An answer that is kept, if it is not older than this.
    Any { at_most: Option<Duration> },
    /// The org's answer, which may be kept.
    Anew,
    /// The org's answer, as if there were no cache.
    Past,
    /// Something that may change what is kept.
    Change,
    /// Nothing that concerns the cache.
    Nothing,
}

/// Conditions of the caller's own, or a part: the answer is for that caller alone.
const OWN: [HeaderName; 6] = [
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

pub fn asks(method: &Method, headers: &HeaderMap, has_body: bool) -> Asks {
    if *method != Method::GET {
        return match method.is_safe() {
            true => Asks::Nothing,
            false => Asks::Change,
        };
    }
    if has_body || OWN.iter().any(|name| headers.contains_key(name)) {
        return Asks::Past;
    }
    let directives = directives(headers);
    let has = |name: &str| directives.iter().any(|(found, _)| found == name);
    if has("no-store") {
        return Asks::Past;
    }
    let old_form = directives.is_empty()
        && headers
            .get_all(header::PRAGMA)
            .iter()
            .any(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
    if has("no-cache") || old_form {
        return Asks::Anew;
    }
    let at_most = directives
        .iter()
        .filter(|(name, _)| name == "max-age")
        // What cannot be read asks for the strictest.
        .map(|(_, value)| Duration::from_secs(value.parse().unwrap_or(0)))
        .min();
    Asks::Any { at_most }
}

/// The directives of `Cache-Control`, in lower case, with their values.
fn directives(headers: &HeaderMap) -> Vec<(String, String)> {
    let all = headers.get_all(header::CACHE_CONTROL).iter();
    all.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|part| {
            let part = String::from_utf8_lossy(part).trim().to_ascii_lowercase();
            match part.split_once('=') {
                Some((name, value)) => (name.trim().to_owned(), value.trim().trim_matches('"').to_owned()),
                None => (part, String::new()),
            }
        })
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

/// The request's headers that change what Salesforce answers, in an order of their own.
pub fn shaping(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let mut found: Vec<_> = headers
        .iter()
        .filter(|(name, _)| shapes(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    // Stable: the values of one header stay in their order.
    found.sort_by(|(one, _), (two, _)| one.as_str().cmp(two.as_str()));
    found
}

fn shapes(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-charset"
            | "accept-encoding"
            | "accept-language"
            | "x-prettyprint"
            | "x-chatter-entity-encoding"
    ) || name.starts_with("sforce-")
        || name.starts_with("x-sfdc-packageversion-")
}

/// What the answer's `Vary` names beyond [`shaping`], with the request's values; `None`: it can be given to nobody else.
pub fn varies(answer: &HeaderMap, request: &HeaderMap) -> Option<Vec<(HeaderName, Vec<HeaderValue>)>> {
    let mut named = vec![];
    for value in answer.get_all(header::VARY) {
        for name in value
            .to_str()
            .ok()?
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let name: HeaderName = (name != "*").then(|| name.parse().ok()).flatten()?;
            // The credential is the identity's, which the key has.
            if !shapes(name.as_str()) && name != header::AUTHORIZATION {
                let values = request.get_all(&name).iter().cloned().collect();
                named.push((name, values));
            }
        }
    }
    Some(named)
}

/// Whether a request has the same values as the one that an answer came for.
pub fn is_alike(varies: &[(HeaderName, Vec<HeaderValue>)], request: &HeaderMap) -> bool {
    varies
        .iter()
        .all(|(name, values)| request.get_all(name).iter().eq(values.iter()))
}

/// Whether an answer may be kept. `bounded`: its end can be told from a connection that broke. Its own `Cache-Control`
/// does not count: Salesforce says `no-store` of all it answers, and the operator has said otherwise of these paths.
pub fn may_be_kept(status: StatusCode, headers: &HeaderMap, bounded: bool) -> bool {
    status == StatusCode::OK && bounded && !headers.contains_key(header::CONTENT_RANGE)
}

/// What goes with a kept answer: not what was of one moment, one call or one caller.
pub fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    for name in [
        "set-cookie",
        "set-cookie2",
        "sforce-limit-info",
        "age",
        "x-request-id",
        "cache-status",
        "proxy-status",
        "alt-svc",
        "transfer-encoding",
        "trailer",
    ] {
        kept.remove(name);
    }
    kept
}

/// What a 304 says anew of a kept answer. What describes the body is the body's, and stays.
pub fn renew(headers: &mut HeaderMap, said: &HeaderMap) {
    let said = kept(said);
    let about_the_body = |name: &HeaderName| {
        name.as_str().starts_with("content-") || matches!(name.as_str(), "vary" | "connection" | "keep-alive")
    };
    for name in said.keys().filter(|name| !about_the_body(name)) {
        headers.remove(name);
        for value in said.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// The conditions by which the org can say that an answer still holds; none where it cannot.
pub fn conditions(path: &str, answer: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let mut conditions = vec![];
    if let Some(tag) = answer.get(header::ETAG) {
        conditions.push((header::IF_NONE_MATCH, tag.clone()));
    }
    let since = answer.get(header::LAST_MODIFIED).cloned().or_else(|| {
        // Whether descriptions come with `Last-Modified` is not confirmed; that they take any date is documented.
        let date = answer.get(header::DATE).filter(|_| knows_dates(path))?;
        let before = http_date::seconds(date.to_str().ok()?)?.checked_sub(SURE_AFTER)?;
        HeaderValue::try_from(http_date::text(before)?).ok()
    });
    conditions.extend(since.map(|since| (header::IF_MODIFIED_SINCE, since)));
    conditions
}

/// How old the org said the answer was, when it came.
pub fn age(headers: &HeaderMap) -> Duration {
    let age = headers
        .get(header::AGE)
        .and_then(|age| age.to_str().ok()?.trim().parse().ok());
    Duration::from_secs(age.unwrap_or(0))
}

#[cfg(test)]
mod tests;
