//! What our own errors look like: one table from cause to status, code and advice.
//!
//! Pure. Salesforce's shape (`[{"errorCode":…,"message":…}]`), so that clients show the reason, plus `Proxy-Status`
//! (RFC 9209), so that nobody takes them for the org's. Invariants: no secret, no header value, no query in a text.
//! Source: `design.md` §6.7.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{body::UploadError, guard::Refusal, record::Outcome, upstream::UpstreamError};
use crate::token::TokenError;

/// The name in `Proxy-Status`.
pub const PROXY_NAME: &str = "sf-token-proxy";

/// Why we answer a call ourselves.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("refused by the guard: {}", .0.as_str())]
    Guard(Refusal),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Upload(UploadError),
}

/// One row of the table.
struct Row {
    status: StatusCode,
    code: &'static str,
    /// The error type of RFC 9209.
    proxy_error: &'static str,
    outcome: Outcome,
    message: String,
    /// Beside the code in `Proxy-Status`: the word that metrics and logs use.
    reason: Option<&'static str>,
    retry_after: Option<Duration>,
}

impl CallError {
    /// Who is answerable.
    pub fn outcome(&self) -> Outcome {
        self.row().outcome
    }

    pub fn response(&self) -> Response<Bytes> {
        let row = self.row();
        let body = serde_json::json!([{"errorCode": row.code, "message": row.message}]).to_string();
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = row.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json;charset=UTF-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("proxy-status", proxy_status(&row));
        if let Some(after) = row.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }

    fn row(&self) -> Row {
        match self {
            Self::Guard(refusal) => guard_row(*refusal),
            Self::Token(error) => Row {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "SFPROXY_NO_TOKEN",
                proxy_error: "destination_unavailable",
                outcome: match error.reason {
                    // Our own limits, not the login host's word.
                    "too_many_waiters" | "stopping" => Outcome::ProxyError,
                    _ => Outcome::TokenError,
                },
                message: error.to_string(),
                reason: Some(error.reason),
                retry_after: Some(error.retry_after),
            },
            Self::Upstream(error) => upstream_row(error),
            Self::Upload(error) => Row {
                status: StatusCode::REQUEST_TIMEOUT,
                code: "SFPROXY_REQUEST_BODY",
                proxy_error: "http_request_error",
                outcome: Outcome::ClientError,
                message: error.to_string(),
                reason: None,
                retry_after: None,
            },
        }
    }
}

fn guard_row(refusal: Refusal) -> Row {
    let (status, code, message) = match refusal {
        Refusal::PlainHttp => (
            StatusCode::BAD_REQUEST,
            "SFPROXY_PLAIN_HTTP",
            "this listener speaks https (setting listeners[].tls): call it with https://",
        ),
        Refusal::BadHost => (
            StatusCode::BAD_REQUEST,
            "SFPROXY_BAD_REQUEST",
            "exactly one valid Host header is needed",
        ),
        Refusal::WrongHost => (
            StatusCode::MISDIRECTED_REQUEST,
            "SFPROXY_WRONG_HOST",
            "this listener does not go by that host name; call it as localhost, or add the name to listeners[].hosts",
        ),
        Refusal::ForeignTarget => (
            StatusCode::FORBIDDEN,
            "SFPROXY_FOREIGN_TARGET",
            "this is no forward proxy: send plain requests to it as if it were the org, without CONNECT and without another host in the target",
        ),
        Refusal::CrossSite => (
            StatusCode::FORBIDDEN,
            "SFPROXY_CROSS_SITE",
            "calls from web pages are refused; if this page may act as the org's user, add its origin to listeners[].allowed_origins",
        ),
        Refusal::DotSegment => (
            StatusCode::FORBIDDEN,
            "SFPROXY_PATH_NOT_SERVED",
            "paths with . or .. segments are refused, because the org might resolve them to a page outside its APIs",
        ),
        Refusal::PathNotServed => (
            StatusCode::FORBIDDEN,
            "SFPROXY_PATH_NOT_SERVED",
            "only API paths carry the token: /services/data/…, /services/apexrest/…, /services/oauth2/userinfo, /id/…, /api/v1|v2/… if the org has data_cloud, and listeners[].extra_paths",
        ),
        Refusal::UserMissing => (
            StatusCode::FORBIDDEN,
            "SFPROXY_USER_MISSING",
            "this listener wants to know whose token to use: name the user in the header of listeners[].users.header (X-SFPROXY-User)",
        ),
        Refusal::UserNotAllowed => (
            StatusCode::FORBIDDEN,
            "SFPROXY_USER_NOT_ALLOWED",
            "the call names no user that listeners[].users.allow takes, or several",
        ),
        Refusal::UserNotServed => (
            StatusCode::FORBIDDEN,
            "SFPROXY_USER_NOT_SERVED",
            "the call names a user where only the org's own identity is served: the listener has no `users`, or it is a call to Data Cloud; leave the header out",
        ),
    };
    Row {
        status,
        code,
        proxy_error: "http_request_denied",
        outcome: Outcome::ClientError,
        message: message.to_owned(),
        reason: Some(refusal.as_str()),
        retry_after: None,
    }
}

fn upstream_row(error: &UpstreamError) -> Row {
    let (status, code, proxy_error, outcome) = match error {
        UpstreamError::Unreachable { .. } => (
            StatusCode::BAD_GATEWAY,
            "SFPROXY_ORG_UNREACHABLE",
            "destination_unavailable",
            Outcome::UpstreamError,
        ),
        UpstreamError::Tls { .. } => (
            StatusCode::BAD_GATEWAY,
            "SFPROXY_ORG_TLS",
            "tls_protocol_error",
            Outcome::UpstreamError,
        ),
        UpstreamError::ConnectTimeout { .. } => (
            StatusCode::GATEWAY_TIMEOUT,
            "SFPROXY_ORG_CONNECT_TIMEOUT",
            "connection_timeout",
            Outcome::Timeout,
        ),
        UpstreamError::ResponseTimeout { .. } => (
            StatusCode::GATEWAY_TIMEOUT,
            "SFPROXY_ORG_TIMEOUT",
            "http_response_timeout",
            Outcome::Timeout,
        ),
        UpstreamError::Broke { .. } => (
            StatusCode::BAD_GATEWAY,
            "SFPROXY_ORG_BROKE_OFF",
            "connection_terminated",
            Outcome::UpstreamError,
        ),
    };
    let mut message = error.to_string();
    // The chain's own layers tell the operator what to look at (DNS, refused, certificate).
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    Row {
        status,
        code,
        proxy_error,
        outcome,
        message,
        reason: None,
        retry_after: None,
    }
}

/// A `Proxy-Status` value: who, RFC 9209's error type, our code and reason.
fn proxy_status(row: &Row) -> HeaderValue {
    let (error, code) = (row.proxy_error, row.code);
    let details = match row.reason {
        Some(reason) => format!("{code} {reason}"),
        None => code.to_owned(),
    };
    HeaderValue::try_from(format!("{PROXY_NAME}; error={error}; details=\"{details}\""))
        .unwrap_or_else(|_| HeaderValue::from_static(PROXY_NAME))
}

/// What an answer of the org's carries when it could not be helped: the token was refused and the call not repeatable.
pub fn not_repeated_status(status: StatusCode, why: &str) -> HeaderValue {
    HeaderValue::try_from(format!(
        "{PROXY_NAME}; received-status={}; details=\"not repeated: {why}; send the call again\"",
        status.as_u16()
    ))
    .unwrap_or_else(|_| HeaderValue::from_static(PROXY_NAME))
}
