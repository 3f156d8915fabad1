//! What is counted and logged of a call.
//!
//! Owns: a [`Record`] per call, which counts when it is dropped, so that every way out counts: answered, failed,
//! or the caller gone. Invariants: no path, query, header value or user in a metric or a log line.
//! Units: seconds in metrics, milliseconds in logs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, StatusCode};
use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::time::Instant;

use super::{
    body::NotKept,
    guard::Refusal,
    limit_info::{ApiUsage, api_usage},
    surface::Surface,
    verdict::REJECTION_REASONS,
};
use crate::{config::OrgName, metrics::Metrics};

/// Who is answerable for how a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The org's answer, 1xx to 3xx; of an RPC, its status 0.
    Ok,
    /// The org's 4xx, or the guard's; of an RPC, a status of the kind.
    ClientError,
    /// The org's 5xx, or it broke off.
    UpstreamError,
    /// We had no token to send; also when the caller went away waiting for one.
    TokenError,
    /// Our own fault.
    ProxyError,
    Timeout,
    /// The caller went away.
    Cancelled,
}

impl Outcome {
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::ClientError,
        Self::UpstreamError,
        Self::TokenError,
        Self::ProxyError,
        Self::Timeout,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::UpstreamError => "upstream_error",
            Self::TokenError => "token_error",
            Self::ProxyError => "proxy_error",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            400..=499 => Self::ClientError,
            500..=599 => Self::UpstreamError,
            _ => Self::Ok,
        }
    }

    /// By the status of an RPC, in its trailers or in the headers of an answer that is nothing but a status: the HTTP status
    /// is 200 whatever came of it.
    pub fn of_rpc(headers: &HeaderMap) -> Option<Self> {
        Some(match headers.get("grpc-status")?.as_bytes() {
            b"0" => Self::Ok,
            b"1" => Self::Cancelled,
            b"4" => Self::Timeout,
            // What the caller asked for, or may not do, or too often.
            b"3" | b"5" | b"6" | b"7" | b"8" | b"9" | b"11" | b"16" => Self::ClientError,
            _ => Self::UpstreamError,
        })
    }
}

/// What a repeat of a call brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// The org took the repeat.
    Accepted,
    /// It refused the renewed token too.
    RefusedAgain,
    /// No token came; the caller got our 503.
    NoToken,
    /// The connection was dead before the call was processed; sent again on another.
    Reconnected,
}

impl Repeat {
    pub const ALL: [Self; 4] = [Self::Accepted, Self::RefusedAgain, Self::NoToken, Self::Reconnected];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::RefusedAgain => "refused_again",
            Self::NoToken => "no_token",
            Self::Reconnected => "reconnected",
        }
    }
}

/// How long a login takes when all is well. Who leaves sooner had its own reasons; who leaves later, for want of a token.
const LOGIN_TAKES: Duration = Duration::from_secs(2);

/// The methods that are label values; all others count as the last.
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "OTHER"];

/// A place in [`METHODS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MethodWord(usize);

impl MethodWord {
    fn of(method: &str) -> Self {
        let found = METHODS.iter().position(|word| *word == method);
        Self(found.unwrap_or(METHODS.len() - 1))
    }

    fn as_str(self) -> &'static str {
        METHODS[self.0]
    }
}

/// What tells a series of `requests_total` from the others.
type Key = (Option<Surface>, MethodWord, u16, Outcome);

/// The metrics of one org's calls, resolved once.
pub struct Calls {
    org: OrgName,
    metrics: Metrics,
    /// Series of `requests_total` that have been used. Few: a look along them is cheaper than a hash.
    requests: Mutex<Vec<(Key, IntCounter)>>,
    /// In the order of [`Surface::ALL`].
    durations: [Histogram; Surface::ALL.len()],
    overhead: Histogram,
    in_flight: IntGauge,
    api_used: prometheus::Gauge,
    api_limit: prometheus::Gauge,
    /// The last `Sforce-Limit-Info`; most calls repeat it.
    last_usage: Mutex<Option<ApiUsage>>,
    log: bool,
}

impl Calls {
    /// Every series that can be named in advance exists from here on, at zero.
    pub fn new(org: OrgName, metrics: &Metrics, log: bool) -> Arc<Self> {
        let name = org.as_str();
        for surface in Surface::ALL {
            for repeat in Repeat::ALL {
                metrics
                    .retries
                    .with_label_values(&[name, surface.as_str(), repeat.as_str()]);
            }
            for reason in REJECTION_REASONS {
                metrics.rejections.with_label_values(&[name, surface.as_str(), reason]);
            }
        }
        for why in NotKept::ALL {
            metrics.replay_skipped.with_label_values(&[why.as_str()]);
        }
        for refusal in Refusal::ALL {
            metrics.guard_refusals.with_label_values(&[refusal.as_str()]);
        }
        let calls = Self {
            requests: Mutex::default(),
            durations: Surface::ALL.map(|surface| {
                let labels = [name, surface.as_str()];
                metrics.request_duration.with_label_values(&labels)
            }),
            overhead: metrics.overhead.with_label_values(&[name]),
            in_flight: metrics.requests_in_flight.with_label_values(&[name]),
            api_used: metrics.api_requests_used.with_label_values(&[name]),
            api_limit: metrics.api_requests_limit.with_label_values(&[name]),
            last_usage: Mutex::default(),
            metrics: metrics.clone(),
            org,
            log,
        };
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            for (status, outcome) in [
                (200, Outcome::Ok),
                (503, Outcome::TokenError),
                (0, Outcome::TokenError),
                (503, Outcome::ProxyError),
            ] {
                calls.count((Some(Surface::Rest), MethodWord::of(method), status, outcome), 0);
            }
        }
        Arc::new(calls)
    }

    /// Adds `n` to a series of `requests_total`; 0 makes it exist.
    fn count(&self, key: Key, n: u64) {
        let mut known = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = known.iter().find(|(known, _)| *known == key) {
            counter.inc_by(n);
            return;
        }
        let (surface, method, status, outcome) = key;
        let code = match status {
            0 => "none".to_owned(),
            code => code.to_string(),
        };
        let surface = surface.map_or("none", Surface::as_str);
        let labels = [self.org.as_str(), surface, method.as_str(), &code, outcome.as_str()];
        let counter = self.metrics.requests.with_label_values(&labels);
        counter.inc_by(n);
        known.push((key, counter));
    }

    pub fn guard_refused(&self, refusal: Refusal) {
        self.metrics.guard_refusals.with_label_values(&[refusal.as_str()]).inc();
    }

    pub fn rejected(&self, surface: Surface, reason: &str) {
        let labels = [self.org.as_str(), surface.as_str(), reason];
        self.metrics.rejections.with_label_values(&labels).inc();
    }

    pub fn repeated(&self, surface: Surface, repeat: Repeat) {
        let labels = [self.org.as_str(), surface.as_str(), repeat.as_str()];
        self.metrics.retries.with_label_values(&labels).inc();
    }

    pub fn not_repeatable(&self, why: NotKept) {
        self.metrics.replay_skipped.with_label_values(&[why.as_str()]).inc();
    }

    /// Reads the org's API usage from an answer.
    pub fn see_limits(&self, headers: &HeaderMap) {
        let usage = headers
            .get("sforce-limit-info")
            .and_then(|value| api_usage(value.as_bytes()));
        let Some(usage) = usage else { return };
        let mut last = self.last_usage.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != Some(usage) {
            *last = Some(usage);
            #[expect(clippy::cast_precision_loss, reason = "API counts are far below 2^52")]
            self.api_used.set(usage.used as f64);
            #[expect(clippy::cast_precision_loss, reason = "API counts are far below 2^52")]
            self.api_limit.set(usage.limit as f64);
        }
    }
}

/// One call, from its head to its last byte.
pub struct Record {
    calls: Arc<Calls>,
    method: MethodWord,
    surface: Option<Surface>,
    /// Whose errors the caller understands.
    family: Option<Surface>,
    status: u16,
    outcome: Outcome,
    started: Instant,
    /// Time that was the org's or the login host's.
    waited: Duration,
    /// Since when it waits for a token.
    wants_token: Option<Instant>,
    /// When the answer's head was ready.
    answered: Option<Instant>,
    bytes: u64,
}

impl Record {
    pub fn start(calls: &Arc<Calls>, method: &Method) -> Self {
        calls.in_flight.inc();
        Self {
            method: MethodWord::of(method.as_str()),
            calls: Arc::clone(calls),
            surface: None,
            family: None,
            status: 0,
            // Until somebody says otherwise: dropped on the way.
            outcome: Outcome::Cancelled,
            started: Instant::now(),
            waited: Duration::ZERO,
            wants_token: None,
            answered: None,
            bytes: 0,
        }
    }

    /// What the call counts as.
    pub fn surface(&mut self, surface: Surface) {
        self.surface = Some(surface);
        self.family.get_or_insert(surface);
    }

    /// The family whose path was called, though the call may count as another's or as nobody's.
    pub fn called(&mut self, family: Option<Surface>) {
        self.family = family;
    }

    /// Whose errors the caller understands, once it is known.
    pub fn family(&self) -> Option<Surface> {
        self.family
    }

    /// Whether its outcome is in its status, not in HTTP's.
    pub fn is_rpc(&self) -> bool {
        self.surface == Some(Surface::PubSub)
    }

    /// From here on the call waits for a token.
    pub fn wants_token(&mut self) {
        self.wants_token = Some(Instant::now());
    }

    /// The wait for a token is over.
    pub fn has_token(&mut self) {
        self.wants_token = None;
    }

    /// Adds time that was not ours.
    pub fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// The answer's head is ready. Until [`Record::finished`] the call still counts as cancelled.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        self.answered = Some(Instant::now());
    }

    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The answer's last byte has been handed over, or it broke off.
    pub fn finished(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.wants_token.is_some_and(|since| since.elapsed() >= LOGIN_TAKES) {
            self.outcome = Outcome::TokenError;
        }
        let calls = &self.calls;
        calls.in_flight.dec();
        calls.count((self.surface, self.method, self.status, self.outcome), 1);
        let duration = self.started.elapsed();
        if let Some(surface) = self.surface {
            calls.durations[surface as usize].observe(duration.as_secs_f64());
            if let Some(answered) = self.answered {
                let ours = (answered - self.started).saturating_sub(self.waited);
                calls.overhead.observe(ours.as_secs_f64());
            }
        }
        if calls.log {
            tracing::info!(
                target: "sf_token_proxy::access",
                org = calls.org.as_str(),
                method = self.method.as_str(),
                surface = self.surface.map_or("none", Surface::as_str),
                status = self.status,
                outcome = self.outcome.as_str(),
                bytes = self.bytes,
                duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                "call"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts one call that leaves so long after it began to wait for a token.
    async fn left_after(wait: Duration, has_token: bool) -> Outcome {
        let metrics = Metrics::new();
        let calls = Calls::new(OrgName::new("main"), &metrics, false);
        let mut record = Record::start(&calls, &Method::GET);
        record.surface(Surface::Rest);
        record.wants_token();
        tokio::time::advance(wait).await;
        if has_token {
            record.has_token();
        }
        drop(record);
        let counted = |outcome: Outcome| {
            let labels = ["main", "rest", "GET", "none", outcome.as_str()];
            metrics.requests.with_label_values(&labels).get()
        };
        let outcomes = [Outcome::Cancelled, Outcome::TokenError];
        assert_eq!(outcomes.map(counted).iter().sum::<u64>(), 1);
        outcomes.into_iter().find(|outcome| counted(*outcome) == 1).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_when_a_login_should_have_ended_counts_as_ours() {
        assert_eq!(left_after(LOGIN_TAKES, false).await, Outcome::TokenError);
        assert_eq!(
            left_after(LOGIN_TAKES - Duration::from_millis(1), false).await,
            Outcome::Cancelled
        );
        assert_eq!(left_after(LOGIN_TAKES, true).await, Outcome::Cancelled);
    }
}
