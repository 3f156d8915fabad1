//! `/services/data/…`: which resource a call is for.
//!
//! Owns: nothing. Invariants: everything here is done at once, without waiting, so that composite calls can nest it.
//! Fails with: an [`Answer`] in Salesforce's shape.
//! Source: SF §5.1, §6; Salesforce REST API guide.

mod collections;
mod composite;
mod content;
pub(crate) mod query;
mod rows;
pub(crate) mod small;

use std::sync::Arc;

use bytes::Bytes;
use hyper::{HeaderMap, Method};
use serde_json::Value;

use super::{answer::Answer, bulk, events, world::World};

/// One call, on the wire or inside a composite.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Decoded, after the version.
    pub(crate) path: Vec<String>,
    /// `66.0`.
    pub(crate) version: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) const OLDEST: u32 = 31;
pub(crate) const NEWEST: u32 = 68;

impl Call {
    /// `rest` is what follows `/services/data/`.
    pub(crate) fn new(
        method: Method,
        rest: &str,
        query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Self, Answer> {
        let mut segments = rest.split('/').filter(|s| !s.is_empty()).map(decode);
        let version = version(&segments.next().unwrap_or_default())?;
        Ok(Self {
            // HEAD is GET; the server leaves the body out.
            method: if method == Method::HEAD { Method::GET } else { method },
            path: segments.collect(),
            version,
            query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            headers,
            body,
        })
    }

    /// `/services/data/v66.0`.
    pub(crate) fn base(&self) -> String {
        format!("/services/data/v{}", self.version)
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(n, _)| n == name)?;
        Some(&found.1)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn json(&self) -> Result<Value, Answer> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Answer::error(
                400,
                "JSON_PARSER_ERROR",
                format!("The HTTP entity body cannot be parsed: {e}"),
            )
        })
    }
}

/// The answer to a call whose session is good.
pub(crate) fn answer(world: &Arc<World>, call: &Call) -> Answer {
    route(world, call).unwrap_or_else(|refusal| refusal)
}

fn route(world: &Arc<World>, call: &Call) -> Result<Answer, Answer> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match path[..] {
        [] => Ok(small::resources(call)),
        ["limits"] => Ok(small::limits(world)),
        ["query" | "queryAll" | "search" | "parameterizedSearch", ..] => query::answer(world, call, &path),
        ["tooling", "query"] => Ok(small::tooling_query()),
        ["tooling", "executeAnonymous"] => Ok(small::execute_anonymous()),
        ["graphql"] => small::graphql(world, call),
        ["composite"] => composite::composite(world, call),
        ["composite", "batch"] => composite::batch(world, call),
        ["composite", "tree", object] => composite::tree(world, call, object),
        ["composite", "sobjects", ..] => collections::answer(world, call, &path[2..]),
        ["sobjects", "ContentVersion"] if call.method == Method::POST => content::create(world, call),
        ["sobjects", "ContentVersion", id, "VersionData"] => content::download(world, call, id),
        ["sobjects", object] if events::is_event(world, object) => events::publish_row(world, call, object),
        ["sobjects", ..] => rows::answer(world, call, &path[1..]),
        ["jobs", ..] => bulk::answer(world, call, &path[1..]),
        _ => Err(Answer::not_found()),
    }
}

/// `v66.0` or `latest`, as digits.
fn version(segment: &str) -> Result<String, Answer> {
    if segment == "latest" {
        return Ok(format!("{NEWEST}.0"));
    }
    let number = segment
        .strip_prefix('v')
        .and_then(|v| v.strip_suffix(".0"))
        .and_then(|v| v.parse::<u32>().ok());
    match number {
        Some(n @ OLDEST..=NEWEST) => Ok(format!("{n}.0")),
        // The status is not confirmed for 21.0 to 30.0 (SF §1.6).
        Some(n) if n < OLDEST => Err(Answer::error(
            410,
            "UNSUPPORTED_API_VERSION",
            "This API version has been retired",
        )),
        _ => Err(Answer::not_found()),
    }
}

/// `%20` and the like; what is not valid stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}
