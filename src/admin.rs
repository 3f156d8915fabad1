//! Probes and metrics, on a port of their own, so that no path of the org's is reserved.
//!
//! `/startupz` and `/readyz` answer from [`crate::ready`]; `/livez` says that the process turns over, never anything of the
//! org; `/metrics` is Prometheus' text format. GET and HEAD only; nothing here changes anything or shows a secret.
//! Source: `kubernetes.md` §2, §6.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use prometheus::{Encoder as _, Registry, TextEncoder};

use crate::ready::{Health, Report};

const PATHS: &str = "/startupz /livez /readyz /metrics";

/// What the admin port can tell.
#[derive(Clone)]
pub struct Admin {
    pub registry: Registry,
    pub health: Health,
}

impl Admin {
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/startupz" => report(&self.health.startup()),
            "/readyz" => report(&self.health.ready()),
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, &format!("not here; there is {PATHS}\n")),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
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
}

fn report(report: &Report) -> Response<Full<Bytes>> {
    let status = if report.good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, &report.text)
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
