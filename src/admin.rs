//! Probes, status and metrics, on a port of their own, so that no path of the org's is reserved; the purge of the caches; the end.
//!
//! `/startupz` and `/readyz` answer from [`crate::ready`]; `/livez` says that the process turns over, never anything of the
//! org; `/metrics` is Prometheus' text format; `/status` is JSON for people and scripts. These take GET and HEAD only, change nothing and show no secret.
//! `POST /cache/purge` forgets kept answers; `POST /quit`, where `admin.quit_endpoint` is on, ends the program. Only a caller
//! on this machine may do either, and no web page: the port may be open to the network for its probes.
//! Source: `kubernetes.md` §2, §6; design §8.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Cache,
    clock::rfc3339,
    config::OrgName,
    proxy::guard::Rules,
    ready::{Health, Report},
    reload::Reloads,
    server::Caller,
    token::{Expiry, Snapshot},
};

const PATHS: &str = "/startupz /livez /readyz /metrics /status, and POST /cache/purge /quit";
const PURGE: &str = "/cache/purge";
const QUIT: &str = "/quit";

/// What the admin port can tell.
#[derive(Clone)]
pub struct Admin {
    pub registry: Registry,
    pub health: Health,
    pub reloads: Reloads,
    /// Cancelled, it ends the program.
    pub quit: CancellationToken,
    shown: Arc<RwLock<Arc<Shown>>>,
}

/// What the configuration of now has brought.
#[derive(Default)]
pub struct Shown {
    /// Every org, with its cache if it has one.
    pub caches: BTreeMap<OrgName, Option<Arc<Cache>>>,
    pub quit_endpoint: bool,
    pub listeners: Vec<ShownListener>,
}

pub struct ShownListener {
    pub addresses: Vec<SocketAddr>,
    pub org: OrgName,
    pub tls: bool,
}

impl Admin {
    pub fn new(registry: Registry, health: Health, reloads: Reloads) -> Self {
        Self {
            registry,
            health,
            reloads,
            quit: CancellationToken::new(),
            shown: Arc::default(),
        }
    }

    /// From now on there is this.
    pub fn show(&self, shown: Shown) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
    }

    fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn answer<B>(&self, request: Request<B>, caller: &Caller) -> Response<Full<Bytes>> {
        let (call, _body) = request.into_parts();
        if call.uri.path() == PURGE {
            return self.purge(&call, caller);
        }
        if call.uri.path() == QUIT {
            return self.quit(&call, caller);
        }
        if !matches!(call.method, Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match call.uri.path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/startupz" => report(&self.health.startup()),
            "/readyz" => report(&self.health.ready()),
            "/metrics" => self.metrics(),
            "/status" => said(StatusCode::OK, &self.status()),
            _ => text(StatusCode::NOT_FOUND, &format!("not here; there is {PATHS}\n")),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        for cache in self.shown().caches.values().flatten() {
            cache.observe();
        }
        let mut page = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            Ok(()) => {
                let mut response = Response::new(Full::new(page.into()));
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
                response
            }
            Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{e}\n")),
        }
    }

    fn purge(&self, call: &Parts, caller: &Caller) -> Response<Full<Bytes>> {
        if let Some(refused) = refused(call, caller) {
            return refused;
        }
        let asked: Vec<_> = url::form_urlencoded::parse(call.uri.query().unwrap_or_default().as_bytes()).collect();
        let only = match &asked[..] {
            [] => None,
            [(name, org)] if name == "org" => Some(org.as_ref()),
            _ => {
                return problem(
                    StatusCode::BAD_REQUEST,
                    "expected nothing, or one `org=NAME`, after `?`",
                );
            }
        };
        let chosen = |name: &OrgName| only.is_none_or(|only| name.as_str() == only);
        let caches = &self.shown().caches;
        if let Some(only) = only {
            let refused = match caches.iter().find(|(name, _)| chosen(name)) {
                None => "no org of this name is configured",
                Some((_, None)) => "this org keeps no answers: `orgs.NAME.cache` is not set",
                Some((_, Some(_))) => "",
            };
            if !refused.is_empty() {
                tracing::debug!(org = only, "nothing to purge");
                return problem(StatusCode::NOT_FOUND, refused);
            }
        }
        let purged: BTreeMap<&str, u64> = caches
            .iter()
            .filter(|(name, _)| chosen(name))
            .filter_map(|(name, cache)| Some((name.as_str(), cache.as_ref()?.purge())))
            .collect();
        tracing::info!(answers = purged.values().sum::<u64>(), "kept answers purged");
        said(
            StatusCode::OK,
            &json!({"purged": purged.values().sum::<u64>(), "orgs": purged}),
        )
    }

    /// Everything that people ask first, and no secret.
    fn status(&self) -> Value {
        let shown = self.shown();
        let orgs: serde_json::Map<String, Value> = self
            .health
            .tokens()
            .iter()
            .map(|tokens| (tokens.org().to_string(), of_token(&tokens.snapshot())))
            .collect();
        let listeners: Vec<Value> = shown
            .listeners
            .iter()
            .map(|listener| {
                json!({
                    "addresses": listener.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "org": listener.org.as_str(),
                    "tls": listener.tls,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.health.age().as_secs(),
            "started": self.health.startup().good,
            "ready": self.health.ready().good,
            "draining": self.health.is_draining(),
            "orgs": orgs,
            "listeners": listeners,
            "configuration": self.reloads.status(),
        })
    }

    /// The answer goes out before the end: this port is the last to close.
    fn quit(&self, call: &Parts, caller: &Caller) -> Response<Full<Bytes>> {
        if !self.shown().quit_endpoint {
            return problem(StatusCode::NOT_FOUND, "off: `admin.quit_endpoint` is not true");
        }
        if let Some(refused) = refused(call, caller) {
            return refused;
        }
        if !self.quit.is_cancelled() {
            tracing::info!("asked to end by POST /quit");
            self.quit.cancel();
        }
        said(StatusCode::OK, &json!({"ending": true}))
    }
}

/// What to answer to a call that is no POST, or may change nothing.
fn refused(call: &Parts, caller: &Caller) -> Option<Response<Full<Bytes>>> {
    if let Err(refused) = may_change(call, caller) {
        return Some(problem(StatusCode::FORBIDDEN, refused));
    }
    if call.method == Method::POST {
        return None;
    }
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "POST only");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("POST"));
    Some(response)
}

/// Whether this call may change something: it comes from this machine, for this machine, and from no web page.
fn may_change(call: &Parts, caller: &Caller) -> Result<(), &'static str> {
    // A mesh passes on what came from elsewhere with a sender in 127.0.0.0/8, to the address that was called from there.
    let ours = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let of_this_machine = |address: SocketAddr| ours.contains(&address.ip().to_canonical());
    let local = caller.peer.is_some_and(of_this_machine) && caller.local.is_some_and(of_this_machine);
    // A sidecar that passes on what came from elsewhere calls from loopback as well.
    let passed_on = ["forwarded", "x-forwarded-for", "x-real-ip"]
        .iter()
        .any(|name| call.headers.contains_key(*name));
    if !local || passed_on {
        return Err("only a caller on this machine may change something here: call 127.0.0.1, or localhost");
    }
    Rules::of_loopback()
        .check_caller(call)
        .map_err(|_| "refused: call by the name localhost or 127.0.0.1, and not from a web page")
}

fn of_token(snapshot: &Snapshot) -> Value {
    let (expires_at, expiry) = match snapshot.expiry {
        Some(Expiry::Known(at)) => (Some(rfc3339(at)), Some("known")),
        Some(Expiry::Assumed(at)) => (Some(rfc3339(at)), Some("assumed")),
        None => (None, None),
    };
    let failure = snapshot.failure.as_ref().map(|failure| {
        json!({
            "reason": failure.reason,
            "code": failure.code,
            "description": failure.description,
            "advice": failure.advice,
        })
    });
    json!({
        "state": snapshot.state.as_str(),
        "generation": snapshot.generation.map(|generation| generation.0),
        "minted_at": snapshot.minted_at.map(rfc3339),
        "expires_at": expires_at,
        "expiry": expiry,
        "instance": snapshot.instance.as_ref().map(|instance| instance.url()),
        "org_id": snapshot.identity.as_ref().map(|identity| &identity.org_id),
        "user_id": snapshot.identity.as_ref().map(|identity| &identity.user_id),
        "next_attempt_seconds": snapshot.next_attempt.map(|next| next.as_secs()),
        "waiting_calls": snapshot.waiting,
        "failure": failure,
    })
}

fn report(report: &Report) -> Response<Full<Bytes>> {
    let status = if report.good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, &report.text)
}

fn problem(status: StatusCode, error: &str) -> Response<Full<Bytes>> {
    said(status, &json!({ "error": error }))
}

fn said(status: StatusCode, what: &Value) -> Response<Full<Bytes>> {
    of_kind(status, "application/json", format!("{what}\n"))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    of_kind(status, "text/plain; charset=utf-8", body.to_owned())
}

fn of_kind(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
