//! What the org saw: counts, and the last requests.
//!
//! Owns: counters and the ring of recorded requests.
//! Invariants: no credential is recorded, only a short hash of it; a body is counted and hashed as it passes, never kept.
//! Fails with: nothing.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use aws_lc_rs::digest::{Context, SHA256, digest};
use hyper::{HeaderMap, Request, Version};
use serde_json::{Value, json};

/// Numbers since the start or the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub token_requests: u64,
    pub token_ok: u64,
    pub token_max_concurrent: u64,
    pub api_requests: u64,
    pub api_401: u64,
    pub connections: u64,
    pub open_connections: u64,
    pub live_sessions: u64,
}

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub method: String,
    /// The request target, byte for byte.
    pub target: String,
    pub version: String,
    /// In order of first appearance, names in lower case; credentials as `Scheme sha256:…`.
    pub headers: Vec<(String, String)>,
    pub body_bytes: u64,
    pub body_sha256: String,
    /// The credential was a living session when the request came.
    pub token_known: bool,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) token_requests: AtomicU64,
    pub(crate) token_ok: AtomicU64,
    token_now: AtomicU64,
    token_max: AtomicU64,
    pub(crate) api_requests: AtomicU64,
    pub(crate) api_401: AtomicU64,
    pub(crate) connections: AtomicU64,
    /// For `Sforce-Limit-Info`; not reset.
    pub(crate) api_usage: AtomicU64,
}

/// Bytes that have passed so far.
#[derive(Clone)]
pub(crate) struct BodySeen {
    bytes: u64,
    hash: Context,
}

pub(crate) type Seen = Arc<Mutex<BodySeen>>;

struct Entry {
    request: Recorded,
    seen: Seen,
}

pub(crate) struct Recorder {
    keep: usize,
    ring: Mutex<VecDeque<Entry>>,
}

/// Counts a token call while it lives.
pub(crate) struct TokenCall<'a>(&'a Counters);

impl Counters {
    pub(crate) fn token_call(&self) -> TokenCall<'_> {
        self.token_requests.fetch_add(1, Relaxed);
        let now = self.token_now.fetch_add(1, Relaxed) + 1;
        self.token_max.fetch_max(now, Relaxed);
        TokenCall(self)
    }

    pub(crate) fn stats(&self, open_connections: usize, live_sessions: usize) -> Stats {
        Stats {
            token_requests: self.token_requests.load(Relaxed),
            token_ok: self.token_ok.load(Relaxed),
            token_max_concurrent: self.token_max.load(Relaxed),
            api_requests: self.api_requests.load(Relaxed),
            api_401: self.api_401.load(Relaxed),
            connections: self.connections.load(Relaxed),
            open_connections: open_connections as u64,
            live_sessions: live_sessions as u64,
        }
    }

    pub(crate) fn reset(&self) {
        for counter in [
            &self.token_requests,
            &self.token_ok,
            &self.token_max,
            &self.api_requests,
            &self.api_401,
            &self.connections,
        ] {
            counter.store(0, Relaxed);
        }
    }
}

impl Drop for TokenCall<'_> {
    fn drop(&mut self) {
        self.0.token_now.fetch_sub(1, Relaxed);
    }
}

impl BodySeen {
    pub(crate) fn new() -> Seen {
        Arc::new(Mutex::new(Self {
            bytes: 0,
            hash: Context::new(&SHA256),
        }))
    }

    pub(crate) fn add(seen: &Seen, chunk: &[u8]) {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.bytes += chunk.len() as u64;
        seen.hash.update(chunk);
    }

    /// How many, and their SHA-256 in hex.
    pub(crate) fn total(seen: &Seen) -> (u64, String) {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.bytes, hex(seen.hash.clone().finish().as_ref()))
    }
}

impl Recorder {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            keep,
            ring: Mutex::default(),
        }
    }

    /// Notes a request; what is returned takes its body's bytes. `None` when recording is off.
    pub(crate) fn note<B>(&self, request: &Request<B>, token_known: bool) -> Option<Seen> {
        if self.keep == 0 {
            return None;
        }
        let seen = BodySeen::new();
        let entry = Entry {
            request: Recorded {
                method: request.method().to_string(),
                target: request.uri().to_string(),
                version: version(request.version()).to_owned(),
                headers: headers(request.headers()),
                body_bytes: 0,
                body_sha256: String::new(),
                token_known,
            },
            seen: Arc::clone(&seen),
        };
        let mut ring = self.ring();
        if ring.len() == self.keep {
            ring.pop_front();
        }
        ring.push_back(entry);
        Some(seen)
    }

    /// The last ones, oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<Recorded> {
        let ring = self.ring();
        ring.iter()
            .skip(ring.len().saturating_sub(count))
            .map(|entry| {
                let (body_bytes, body_sha256) = BodySeen::total(&entry.seen);
                Recorded {
                    body_bytes,
                    body_sha256,
                    ..entry.request.clone()
                }
            })
            .collect()
    }

    pub(crate) fn clear(&self) {
        self.ring().clear();
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stats {
    pub(crate) fn to_json(self) -> Value {
        json!({
            "token_requests": self.token_requests,
            "token_ok": self.token_ok,
            "token_max_concurrent": self.token_max_concurrent,
            "api_requests": self.api_requests,
            "api_401": self.api_401,
            "connections": self.connections,
            "open_connections": self.open_connections,
            "live_sessions": self.live_sessions,
        })
    }
}

impl Recorded {
    /// The first value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name)?;
        Some(&found.1)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "method": self.method,
            "target": self.target,
            "version": self.version,
            "headers": self.headers,
            "body_bytes": self.body_bytes,
            "body_sha256": self.body_sha256,
            "token_known": self.token_known,
        })
    }
}

pub(crate) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Header lines without credentials.
pub(crate) fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    const SECRET: [&str; 3] = ["authorization", "x-sfdc-session", "accesstoken"];
    headers
        .iter()
        .map(|(name, value)| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let shown = if SECRET.contains(&name.as_str()) {
                hashed(&text)
            } else {
                text
            };
            (name.to_string(), shown)
        })
        .collect()
}

fn hashed(credential: &str) -> String {
    let (scheme, token) = credential.split_once(' ').unwrap_or(("", credential));
    let hash = hex(digest(&SHA256, token.as_bytes()).as_ref());
    format!("{scheme} sha256:{}", &hash[..12]).trim_start().to_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
