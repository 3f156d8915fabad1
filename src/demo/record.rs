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
    /// Token requests by `grant_type`, however they ended.
    pub by_grant: GrantCounts,
    /// Logins that counted against a user's rate.
    pub logins: u64,
    /// Refresh tokens presented after they had been rotated out; a good client never does.
    pub spent_refresh_presented: u64,
    /// Refreshes refused because one with the same refresh token was being answered.
    pub refused_parallel_refreshes: u64,
    /// Calls for Data Cloud tokens, and those that were granted.
    pub a360_requests: u64,
    pub a360_exchanges: u64,
    /// Requests at the Data Cloud host, and those it answered with 401.
    pub tenant_requests: u64,
    pub tenant_401: u64,
    /// Bayeux messages refused for their token, and polls held now.
    pub cometd_401: u64,
    pub cometd_held: u64,
    /// Calls at the Pub/Sub host, those refused for their metadata, and Subscribe streams open now.
    pub pubsub_requests: u64,
    pub pubsub_auth_errors: u64,
    pub pubsub_subscriptions: u64,
    /// SOAP and Bulk API 1.0 calls that the org refused for their session.
    pub soap_invalid_session: u64,
    pub bulk1_invalid_session: u64,
}

/// Token requests by the grant they asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GrantCounts {
    pub jwt_bearer: u64,
    pub saml_bearer: u64,
    pub client_credentials: u64,
    pub authorization_code: u64,
    pub refresh_token: u64,
    pub password: u64,
    /// Starts of the device flow.
    pub device_code: u64,
    /// Polls of the device flow.
    pub device: u64,
    pub token_exchange: u64,
    pub other: u64,
}

/// What a token request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    JwtBearer,
    SamlBearer,
    ClientCredentials,
    AuthorizationCode,
    RefreshToken,
    Password,
    DeviceCode,
    Device,
    TokenExchange,
    Other,
}

const GRANTS: usize = Grant::Other as usize + 1;

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
    by_grant: [AtomicU64; GRANTS],
    pub(crate) logins: AtomicU64,
    pub(crate) spent_refresh: AtomicU64,
    pub(crate) refused_parallel: AtomicU64,
    pub(crate) a360_requests: AtomicU64,
    pub(crate) a360_exchanges: AtomicU64,
    pub(crate) tenant_requests: AtomicU64,
    pub(crate) tenant_401: AtomicU64,
    pub(crate) cometd_401: AtomicU64,
    /// Now; not reset.
    pub(crate) cometd_held: AtomicU64,
    pub(crate) pubsub_requests: AtomicU64,
    pub(crate) pubsub_auth_errors: AtomicU64,
    /// Now; not reset.
    pub(crate) pubsub_subscriptions: AtomicU64,
    pub(crate) soap_invalid_session: AtomicU64,
    pub(crate) bulk1_invalid_session: AtomicU64,
    /// For `Sforce-Limit-Info`; not reset.
    pub(crate) api_usage: AtomicU64,
}

/// Bytes that have passed so far.
#[derive(Clone)]
pub(crate) struct BodySeen {
    bytes: u64,
    hash: Context,
    /// The body itself held a living session, as SOAP's do.
    token_known: bool,
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

/// Makes a number of now one greater while it lives.
pub(crate) struct Counted<'a>(&'a AtomicU64);

/// Counts a token call while it lives.
pub(crate) struct TokenCall<'a>(&'a Counters);

impl Counters {
    pub(crate) fn token_call(&self) -> TokenCall<'_> {
        self.token_requests.fetch_add(1, Relaxed);
        let now = self.token_now.fetch_add(1, Relaxed) + 1;
        self.token_max.fetch_max(now, Relaxed);
        TokenCall(self)
    }

    pub(crate) fn asked_for(&self, grant: Grant) {
        self.by_grant[grant as usize].fetch_add(1, Relaxed);
    }

    fn grant_counts(&self) -> GrantCounts {
        let of = |grant: Grant| self.by_grant[grant as usize].load(Relaxed);
        GrantCounts {
            jwt_bearer: of(Grant::JwtBearer),
            saml_bearer: of(Grant::SamlBearer),
            client_credentials: of(Grant::ClientCredentials),
            authorization_code: of(Grant::AuthorizationCode),
            refresh_token: of(Grant::RefreshToken),
            password: of(Grant::Password),
            device_code: of(Grant::DeviceCode),
            device: of(Grant::Device),
            token_exchange: of(Grant::TokenExchange),
            other: of(Grant::Other),
        }
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
            by_grant: self.grant_counts(),
            logins: self.logins.load(Relaxed),
            spent_refresh_presented: self.spent_refresh.load(Relaxed),
            refused_parallel_refreshes: self.refused_parallel.load(Relaxed),
            a360_requests: self.a360_requests.load(Relaxed),
            a360_exchanges: self.a360_exchanges.load(Relaxed),
            tenant_requests: self.tenant_requests.load(Relaxed),
            tenant_401: self.tenant_401.load(Relaxed),
            cometd_401: self.cometd_401.load(Relaxed),
            cometd_held: self.cometd_held.load(Relaxed),
            pubsub_requests: self.pubsub_requests.load(Relaxed),
            pubsub_auth_errors: self.pubsub_auth_errors.load(Relaxed),
            pubsub_subscriptions: self.pubsub_subscriptions.load(Relaxed),
            soap_invalid_session: self.soap_invalid_session.load(Relaxed),
            bulk1_invalid_session: self.bulk1_invalid_session.load(Relaxed),
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
            &self.logins,
            &self.spent_refresh,
            &self.refused_parallel,
            &self.a360_requests,
            &self.a360_exchanges,
            &self.tenant_requests,
            &self.tenant_401,
            &self.cometd_401,
            &self.pubsub_requests,
            &self.pubsub_auth_errors,
            &self.soap_invalid_session,
            &self.bulk1_invalid_session,
        ]
        .into_iter()
        .chain(&self.by_grant)
        {
            counter.store(0, Relaxed);
        }
    }
}

impl<'a> Counted<'a> {
    pub(crate) fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
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
            token_known: false,
        }))
    }

    pub(crate) fn add(seen: &Seen, chunk: &[u8]) {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.bytes += chunk.len() as u64;
        seen.hash.update(chunk);
    }

    /// Notes that the body held a living session.
    pub(crate) fn knows_token(seen: &Seen) {
        seen.lock().unwrap_or_else(PoisonError::into_inner).token_known = true;
    }

    fn token_known(seen: &Seen) -> bool {
        seen.lock().unwrap_or_else(PoisonError::into_inner).token_known
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
                    token_known: entry.request.token_known || BodySeen::token_known(&entry.seen),
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
            "by_grant": self.by_grant.to_json(),
            "logins": self.logins,
            "spent_refresh_presented": self.spent_refresh_presented,
            "refused_parallel_refreshes": self.refused_parallel_refreshes,
            "a360_requests": self.a360_requests,
            "a360_exchanges": self.a360_exchanges,
            "tenant_requests": self.tenant_requests,
            "tenant_401": self.tenant_401,
            "cometd_401": self.cometd_401,
            "cometd_held": self.cometd_held,
            "pubsub_requests": self.pubsub_requests,
            "pubsub_auth_errors": self.pubsub_auth_errors,
            "pubsub_subscriptions": self.pubsub_subscriptions,
            "soap_invalid_session": self.soap_invalid_session,
            "bulk1_invalid_session": self.bulk1_invalid_session,
        })
    }
}

impl GrantCounts {
    fn to_json(self) -> Value {
        json!({
            "jwt_bearer": self.jwt_bearer,
            "saml_bearer": self.saml_bearer,
            "client_credentials": self.client_credentials,
            "authorization_code": self.authorization_code,
            "refresh_token": self.refresh_token,
            "password": self.password,
            "device_code": self.device_code,
            "device": self.device,
            "token_exchange": self.token_exchange,
            "other": self.other,
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
