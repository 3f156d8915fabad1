//! Probes and metrics, on a port of their own, so that no path of the org's is reserved; the purge of the caches; the end.
//!
//! `/startupz` and `/readyz` answer from [`crate::ready`]; `/livez` says that the process turns over, never anything of the
//! org; `/metrics` is Prometheus' text format. These take GET and HEAD only, change nothing and show no secret.
//! `POST /cache/purge` forgets kept answers; `POST /quit`, where `admin.quit_endpoint` is on, ends the program. Only a caller
//! on this machine may do either, and no web page: the port may be open to the network for its probes.
//! Source: `kubernetes.md` §2, §6; design §8.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use prometheus::{Encoder as _, Registry, TextEncoder};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Cache,
    config::OrgName,
    proxy::guard::Rules,
    ready::{Health, Report},
};

const PATHS: &str = "/startupz /livez /readyz /metrics, and POST /cache/purge /quit";
const PURGE: &str = "/cache/purge";
const QUIT: &str = "/quit";

/// What the admin port can tell.
#[derive(Clone)]
pub struct Admin {
    pub registry: Registry,
    pub health: Health,
    /// Every org, with its cache if it has one.
    pub caches: Arc<BTreeMap<OrgName, Option<Arc<Cache>>>>,
    /// Cancelled, it ends the program; `None`: the setting is off.
    pub quit: Option<CancellationToken>,
}

impl Admin {
    /// `peer`: who called, if that is known.
    pub fn answer<B>(&self, request: Request<B>, peer: Option<SocketAddr>) -> Response<Full<Bytes>> {
        let (call, _body) = request.into_parts();
        if call.uri.path() == PURGE {
            return self.purge(&call, peer);
        }
        if call.uri.path() == QUIT {
            return self.quit(&call, peer);
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
            _ => text(StatusCode::NOT_FOUND, &format!("not here; there is {PATHS}\n")),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        for cache in self.caches.values().flatten() {
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

    fn purge(&self, call: &Parts, peer: Option<SocketAddr>) -> Response<Full<Bytes>> {
        if let Some(refused) = refused(call, peer) {
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
        if let Some(only) = only {
            let refused = match self.caches.iter().find(|(name, _)| chosen(name)) {
                None => "no org of this name is configured",
                Some((_, None)) => "this org keeps no answers: `orgs.NAME.cache` is not set",
                Some((_, Some(_))) => "",
            };
            if !refused.is_empty() {
                tracing::debug!(org = only, "nothing to purge");
                return problem(StatusCode::NOT_FOUND, refused);
            }
        }
        let purged: BTreeMap<&str, u64> = self
            .caches
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

    /// The answer goes out before the end: this port is the last to close.
    fn quit(&self, call: &Parts, peer: Option<SocketAddr>) -> Response<Full<Bytes>> {
        let Some(quit) = &self.quit else {
            return problem(StatusCode::NOT_FOUND, "off: `admin.quit_endpoint` is not true");
        };
        if let Some(refused) = refused(call, peer) {
            return refused;
        }
        if !quit.is_cancelled() {
            tracing::info!("asked to end by POST /quit");
            quit.cancel();
        }
        said(StatusCode::OK, &json!({"ending": true}))
    }
}

/// What to answer to a call that is no POST, or may change nothing.
fn refused(call: &Parts, peer: Option<SocketAddr>) -> Option<Response<Full<Bytes>>> {
    if let Err(refused) = may_change(call, peer) {
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
fn may_change(call: &Parts, peer: Option<SocketAddr>) -> Result<(), &'static str> {
    let local = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    // A sidecar that passes on what came from elsewhere calls from loopback as well.
    let passed_on = ["forwarded", "x-forwarded-for"]
        .iter()
        .any(|name| call.headers.contains_key(*name));
    if !local || passed_on {
        return Err("only a caller on this machine may change something here: call 127.0.0.1, or localhost");
    }
    Rules::of_loopback()
        .check_caller(call)
        .map_err(|_| "refused: call by the name localhost or 127.0.0.1, and not from a web page")
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
