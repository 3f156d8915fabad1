//! Every metric family of the program, in one file; rooms receive the piece they need.
//!
//! Invariants: names and labels are public API (a test pins them); label values are words of this program or names from
//! the configuration, never paths, users or ids; every series exists at zero from the start, but for those of
//! `requests_total` and `request_duration_seconds`, of which the common ones do.
//! Units: seconds and bytes; instants are seconds since 1970; counters end in `_total`.

use std::{cell::RefCell, sync::Arc};

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
    core::{Collector, MetricVec, MetricVecBuilder},
};

use crate::{
    cache::CacheResult,
    config::OrgName,
    store::STORE_ERRORS,
    token::{REASONS, StateWord},
};

/// The values of `result` of what counts reloads.
pub const RELOAD_RESULTS: [&str; 2] = ["ok", "failed"];
/// What every family's name begins with.
pub const PREFIX: &str = "sf_token_proxy";

/// Time spans of whole calls; contains the thresholds that alerts use.
const CALL_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0,
];
/// The proxy's own share of a call.
const OVERHEAD_SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
];
const LOGIN_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The registry and the families that [`crate::proxy`] and [`crate::app`] label by themselves.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    pub requests: IntCounterVec,
    pub request_duration: HistogramVec,
    pub overhead: HistogramVec,
    pub requests_in_flight: IntGaugeVec,
    pub retries: IntCounterVec,
    pub rejections: IntCounterVec,
    pub replay_bytes: IntGauge,
    pub replay_skipped: IntCounterVec,
    pub api_requests_used: GaugeVec,
    pub api_requests_limit: GaugeVec,
    pub upstream_connections: IntGaugeVec,
    pub guard_refusals: IntCounterVec,
    pub user_tokens: IntGaugeVec,
    pub tls_handshake_failures: IntCounter,
    pub reload: ReloadMetrics,
    pub certificate_expiry: GaugeVec,
    token: TokenFamilies,
    store: StoreFamilies,
    cache: CacheFamilies,
    /// Removes the series of an org, of each family that has any.
    forget: Arc<Vec<Forget>>,
}

/// Takes what the label `org` says.
type Forget = Box<dyn Fn(&str) + Send + Sync>;

/// What is counted of changed files.
#[derive(Clone)]
pub struct ReloadMetrics {
    pub reloads: IntCounterVec,
    pub last_successful: IntGauge,
    pub last_success: Gauge,
    pub secrets: IntCounterVec,
    pub secrets_last_successful: IntGaugeVec,
    pub secrets_last_success: GaugeVec,
}

#[derive(Clone)]
struct TokenFamilies {
    requests: IntCounterVec,
    duration: HistogramVec,
    expiry: GaugeVec,
    minted: GaugeVec,
    state: IntGaugeVec,
    waiters: IntGaugeVec,
    budget: GaugeVec,
    overdue: IntGaugeVec,
    lifetime: GaugeVec,
    keep_alives: IntCounterVec,
    adopted: IntCounterVec,
}

#[derive(Clone)]
struct StoreFamilies {
    operations: IntCounterVec,
    up: IntGaugeVec,
}

#[derive(Clone)]
struct CacheFamilies {
    requests: IntCounterVec,
    bytes: IntGaugeVec,
    entries: IntGaugeVec,
}

impl Metrics {
    pub fn new() -> Self {
        let r = Families::default();
        let mut metrics = Self {
            requests: counters(
                &r,
                "requests_total",
                "Calls answered, by org, API family, method, status and who is answerable for the outcome.",
                &["org", "surface", "method", "code", "outcome"],
            ),
            request_duration: histograms(
                &r,
                "request_duration_seconds",
                "Whole calls, from the request head to the last byte of the answer.",
                CALL_SECONDS,
                &["org", "surface"],
            ),
            overhead: histograms(
                &r,
                "overhead_seconds",
                "The proxy's own share of a call: not the org's, not waiting for a token.",
                OVERHEAD_SECONDS,
                &["org"],
            ),
            requests_in_flight: gauges(&r, "requests_in_flight", "Calls being answered now.", &["org"]),
            retries: counters(
                &r,
                "retries_total",
                "Calls repeated, and what the repeat brought.",
                &["org", "surface", "result"],
            ),
            rejections: counters(
                &r,
                "token_rejections_total",
                "Answers of the org that said the token is no good.",
                &["org", "surface", "reason"],
            ),
            replay_bytes: register(
                &r,
                IntGauge::with_opts(opts("replay_bytes", "Request body bytes kept for a repeat now.")),
            ),
            replay_skipped: counters(
                &r,
                "replay_skipped_total",
                "Refused calls that could not be repeated, by cause.",
                &["reason"],
            ),
            api_requests_used: float_gauges(
                &r,
                "org_api_requests_used",
                "API calls of the last 24 hours, as the org's Sforce-Limit-Info says.",
                &["org"],
            ),
            api_requests_limit: float_gauges(
                &r,
                "org_api_requests_limit",
                "API calls allowed in 24 hours, as the org's Sforce-Limit-Info says.",
                &["org"],
            ),
            upstream_connections: gauges(
                &r,
                "upstream_connections",
                "Open connections to the org, by what they do.",
                &["org", "state"],
            ),
            guard_refusals: counters(
                &r,
                "guard_refusals_total",
                "Calls refused before a token was near them, by cause.",
                &["reason"],
            ),
            token: TokenFamilies {
                requests: counters(
                    &r,
                    "token_requests_total",
                    "Attempts to get a token, by grant and result; reason says why one failed or why nothing was sent.",
                    &["org", "grant", "result", "reason"],
                ),
                duration: histograms(
                    &r,
                    "token_request_duration_seconds",
                    "Conversations with the login host.",
                    LOGIN_SECONDS,
                    &["org"],
                ),
                expiry: float_gauges(
                    &r,
                    "token_expiry_timestamp_seconds",
                    "When the current token is known or assumed to expire; 0 without a token.",
                    &["org"],
                ),
                minted: float_gauges(
                    &r,
                    "token_minted_timestamp_seconds",
                    "When the current token was minted; 0 without a token.",
                    &["org"],
                ),
                state: gauges(
                    &r,
                    "token_state",
                    "1 for the state that the org's token is in, 0 for the others.",
                    &["org", "state"],
                ),
                waiters: gauges(&r, "token_waiters", "Calls waiting for a token now.", &["org"]),
                budget: float_gauges(
                    &r,
                    "login_budget_remaining",
                    "Logins that the budget allows now.",
                    &["org"],
                ),
                overdue: gauges(
                    &r,
                    "token_past_expiry",
                    "1 while a token is used past its known or assumed expiry, because no renewal succeeded and the org still takes it.",
                    &["org"],
                ),
                lifetime: float_gauges(
                    &r,
                    "token_assumed_lifetime_seconds",
                    "The life assumed of a token now: the setting, or less when the org refused one earlier.",
                    &["org"],
                ),
                keep_alives: counters(
                    &r,
                    "token_keep_alives_total",
                    "Calls made to extend a session in place of a login (token.keep_alive), by what they showed.",
                    &["org", "result"],
                ),
                adopted: counters(
                    &r,
                    "tokens_adopted_total",
                    "Tokens taken from the store, without a login.",
                    &["org"],
                ),
            },
            store: StoreFamilies {
                operations: counters(
                    &r,
                    "store_operations_total",
                    "Reads and writes of the store; result says why one failed.",
                    &["org", "operation", "result"],
                ),
                up: gauges(
                    &r,
                    "store_up",
                    "1 while the last use of the store went well, else 0.",
                    &["org"],
                ),
            },
            cache: CacheFamilies {
                requests: counters(
                    &r,
                    "cache_requests_total",
                    "Calls to paths whose answers are kept (orgs.NAME.cache), by what came of them.",
                    &["org", "result"],
                ),
                bytes: gauges(&r, "cache_bytes", "Bytes of the answers kept now.", &["org"]),
                entries: gauges(&r, "cache_entries", "Answers kept now.", &["org"]),
            },
            user_tokens: gauges(
                &r,
                "user_tokens",
                "Users whose tokens are kept now (listeners[].users).",
                &["org"],
            ),
            tls_handshake_failures: register(
                &r,
                IntCounter::with_opts(opts(
                    "tls_handshake_failures_total",
                    "Connections to listeners with TLS that ended in the handshake, or did not begin one in time.",
                )),
            ),
            reload: ReloadMetrics {
                reloads: counters(
                    &r,
                    "config_reloads_total",
                    "Times that a changed configuration was taken, or refused while the old one goes on.",
                    &["result"],
                ),
                last_successful: register(
                    &r,
                    IntGauge::with_opts(opts(
                        "config_last_reload_successful",
                        "1 if the configuration in use is the one in the file, 0 if that one is no good.",
                    )),
                ),
                last_success: register(
                    &r,
                    Gauge::with_opts(opts(
                        "config_last_reload_success_timestamp_seconds",
                        "When the configuration in use was taken.",
                    )),
                ),
                secrets: counters(
                    &r,
                    "secret_reloads_total",
                    "Times that a changed secret (a key, a client secret) was taken, or refused while the old one serves.",
                    &["org", "result"],
                ),
                secrets_last_successful: gauges(
                    &r,
                    "secret_last_reload_successful",
                    "1 if the secrets in use are those in the files, 0 if one of those is no good.",
                    &["org"],
                ),
                secrets_last_success: float_gauges(
                    &r,
                    "secret_last_reload_success_timestamp_seconds",
                    "When a changed secret was last taken; 0 if none was.",
                    &["org"],
                ),
            },
            certificate_expiry: float_gauges(
                &r,
                "listener_certificate_expiry_timestamp_seconds",
                "When the certificate of a listener with TLS ends, by the first of its addresses.",
                &["listener"],
            ),
            registry: r.registry.clone(),
            forget: Arc::default(),
        };
        for result in RELOAD_RESULTS {
            metrics.reload.reloads.with_label_values(&[result]);
        }
        metrics.reload.last_successful.set(1);
        let build = gauges(&r, "build_info", "1, labelled with the version.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.forget = Arc::new(r.forget.into_inner());
        #[cfg(target_os = "linux")]
        if let Err(e) = metrics
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
        {
            tracing::warn!(error = %e, "no process metrics");
        }
        metrics
    }

    /// These orgs have gone: their series go, too.
    pub fn forget(&self, orgs: &[&str]) {
        for forget in &*self.forget {
            for org in orgs {
                forget(org);
            }
        }
    }

    /// The piece of one identity's use of the store, every series at zero.
    pub fn store(&self, org: &str) -> StoreMetrics {
        for operation in ["read", "write"] {
            for result in STORE_ERRORS.iter().chain(&["ok"]) {
                self.store.operations.with_label_values(&[org, operation, result]);
            }
        }
        StoreMetrics {
            org: org.to_owned(),
            operations: self.store.operations.clone(),
            up: self.store.up.with_label_values(&[org]),
        }
    }

    /// The piece of one org's cache, every series at zero.
    pub fn cache(&self, org: &str) -> CacheMetrics {
        CacheMetrics {
            requests: CacheResult::ALL.map(|result| self.cache.requests.with_label_values(&[org, result.as_str()])),
            bytes: self.cache.bytes.with_label_values(&[org]),
            entries: self.cache.entries.with_label_values(&[org]),
        }
    }

    /// As [`Self::token`], for one of many users: what is counted is counted for the org, what is measured of one token
    /// is nobody's.
    pub fn user_token(&self, org: &OrgName, grant: &str) -> TokenMetrics {
        let float = || Gauge::new("unseen", "unseen").expect("the name must be valid");
        let whole = || IntGauge::new("unseen", "unseen").expect("the name must be valid");
        TokenMetrics {
            expiry: float(),
            minted: float(),
            states: StateWord::ALL.map(|word| (word, whole())),
            budget: float(),
            past_expiry: whole(),
            assumed_lifetime: float(),
            ..self.token(org, grant)
        }
    }

    /// The piece of one org's keeper, every series at zero. `grant` is the grant's word.
    pub fn token(&self, org: &OrgName, grant: &str) -> TokenMetrics {
        let org = org.as_str();
        let t = &self.token;
        for reason in REASONS {
            t.requests.with_label_values(&[org, grant, "error", reason]);
        }
        TokenMetrics {
            granted: t.requests.with_label_values(&[org, grant, "ok", "none"]),
            requests: t.requests.clone(),
            duration: t.duration.with_label_values(&[org]),
            expiry: t.expiry.with_label_values(&[org]),
            minted: t.minted.with_label_values(&[org]),
            states: StateWord::ALL.map(|word| (word, t.state.with_label_values(&[org, word.as_str()]))),
            waiters: t.waiters.with_label_values(&[org]),
            budget: t.budget.with_label_values(&[org]),
            past_expiry: t.overdue.with_label_values(&[org]),
            assumed_lifetime: t.lifetime.with_label_values(&[org]),
            kept_alive: ["ok", "failed"].map(|result| t.keep_alives.with_label_values(&[org, result])),
            adopted: t.adopted.with_label_values(&[org]),
            org: org.to_owned(),
            grant: grant.to_owned(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What one org's keeper counts.
#[derive(Clone)]
pub struct TokenMetrics {
    org: String,
    grant: String,
    requests: IntCounterVec,
    granted: IntCounter,
    pub duration: Histogram,
    pub expiry: Gauge,
    pub minted: Gauge,
    states: [(StateWord, IntGauge); StateWord::ALL.len()],
    pub waiters: IntGauge,
    pub budget: Gauge,
    pub past_expiry: IntGauge,
    pub assumed_lifetime: Gauge,
    kept_alive: [IntCounter; 2],
    adopted: IntCounter,
}

impl TokenMetrics {
    /// One login succeeded.
    pub fn granted(&self) {
        self.granted.inc();
    }

    /// One login failed; `reason` is one of [`REASONS`].
    pub fn failed(&self, reason: &'static str) {
        self.requests
            .with_label_values(&[self.org.as_str(), self.grant.as_str(), "error", reason])
            .inc();
    }

    /// A token came from the store.
    pub fn adopted(&self) {
        self.adopted.inc();
    }

    /// The session was used to extend it; whether the org took the token.
    pub fn kept_alive(&self, taken: bool) {
        self.kept_alive[usize::from(!taken)].inc();
    }

    /// The org's token is in this state now.
    pub fn state(&self, now: StateWord) {
        for (word, gauge) in &self.states {
            gauge.set(i64::from(*word == now));
        }
    }
}

/// What one identity's use of the store counts.
#[derive(Clone)]
pub struct StoreMetrics {
    org: String,
    operations: IntCounterVec,
    up: IntGauge,
}

impl StoreMetrics {
    /// Nothing is known against it.
    pub fn starts(&self) {
        self.up.set(1);
    }

    /// A read, with the word of its error.
    pub fn read(&self, error: Option<&'static str>) {
        self.count("read", error);
    }

    pub fn wrote(&self, error: Option<&'static str>) {
        self.count("write", error);
    }

    fn count(&self, operation: &str, error: Option<&'static str>) {
        self.up.set(i64::from(error.is_none()));
        self.operations
            .with_label_values(&[self.org.as_str(), operation, error.unwrap_or("ok")])
            .inc();
    }
}

/// What one org's cache counts.
#[derive(Clone)]
pub struct CacheMetrics {
    /// In the order of [`CacheResult::ALL`].
    requests: [IntCounter; CacheResult::ALL.len()],
    pub bytes: IntGauge,
    pub entries: IntGauge,
}

impl CacheMetrics {
    pub fn count(&self, result: CacheResult) {
        self.requests[result as usize].inc();
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("{PREFIX}_{name}"), help)
}

/// What is registered while the families are made.
#[derive(Default)]
struct Families {
    registry: Registry,
    forget: RefCell<Vec<Forget>>,
}

/// As [`register`]; a family by org is told when one goes.
fn register_by_label<T>(families: &Families, vec: prometheus::Result<MetricVec<T>>, labels: &[&str]) -> MetricVec<T>
where
    T: MetricVecBuilder + 'static,
{
    let vec = register(families, vec);
    let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    if labels.iter().any(|label| label == "org") {
        let family = vec.clone();
        families
            .forget
            .borrow_mut()
            .push(Box::new(move |org| forget(&family, &labels, org)));
    }
    vec
}

fn forget<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[String], org: &str) {
    for series in family.collect().iter().flat_map(|family| family.get_metric()) {
        let value = |label: &String| {
            let pair = series.get_label().iter().find(|pair| pair.name() == label)?;
            Some(pair.value())
        };
        let values: Option<Vec<&str>> = labels.iter().map(value).collect();
        let of_it = series
            .get_label()
            .iter()
            .any(|pair| pair.name() == "org" && pair.value() == org);
        if let Some(values) = values.filter(|_| of_it) {
            // It was there just now; that somebody else has removed it is as good.
            drop(family.remove_label_values(&values));
        }
    }
}

fn register<C: Collector + Clone + 'static>(families: &Families, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect("metric names and labels must be valid");
    families
        .registry
        .register(Box::new(collector.clone()))
        .expect("metric names must be unique");
    collector
}

fn counters(r: &Families, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register_by_label(r, IntCounterVec::new(opts(name, help), labels), labels)
}

fn gauges(r: &Families, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register_by_label(r, IntGaugeVec::new(opts(name, help), labels), labels)
}

fn float_gauges(r: &Families, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register_by_label(r, GaugeVec::new(opts(name, help), labels), labels)
}

fn histograms(r: &Families, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
    let opts = HistogramOpts::new(format!("{PREFIX}_{name}"), help).buckets(buckets.to_vec());
    register_by_label(r, HistogramVec::new(opts, labels), labels)
}
