//! What our own errors look like: one table from cause to status, code and advice.
//!
//! Pure. In the shape that the API family gives its own errors (REST: `[{"errorCode":…,"message":…}]`), so that clients show
//! the reason, plus `Proxy-Status` (RFC 9209), so that nobody takes them for the org's. Invariants: no secret, no header value, no query in a text.
//! Source: `design.md` §6.7.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use quick_xml::escape::escape;

use super::{
    body::UploadError,
    envelope::Unfit,
    guard::Refusal,
    record::Outcome,
    surface::{Surface, Told},
    upstream::UpstreamError,
};
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
    #[error(transparent)]
    Envelope(#[from] Unfit),
    #[error("a SOAP envelope must come as it is, or with Content-Encoding gzip: the session goes into it")]
    EnvelopeEncoding,
    #[error(
        "the body must come as it is, or chunked: take other codings out of Transfer-Encoding (Content-Encoding passes)"
    )]
    TransferCoding,
    #[error("Pub/Sub is gRPC: it needs HTTP/2, by prior knowledge on this listener or by ALPN on one with `tls`")]
    NeedsHttp2,
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

    /// In the shape of the family that was called.
    pub fn response(&self, surface: Option<Surface>) -> Response<Bytes> {
        let row = self.row();
        let mut response = match surface.map(|surface| surface.row().told) {
            Some(Told::SoapFault | Told::FuelFault) => soap_fault(&row),
            Some(Told::BulkError) => bulk_error(&row),
            // Who speaks HTTP/1.1 reads no status of gRPC's.
            Some(Told::RpcStatus) if !matches!(self, Self::NeedsHttp2) => rpc_status(&row),
            Some(Told::Never) => oauth_error(&row),
            _ => rest_error(&row),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("proxy-status", proxy_status(&row));
        if let Some(after) = row.retry_after {
            // Rounded up: who obeys must not come before the next try.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
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
            Self::Upload(UploadError::NotGzip) => {
                bad_request("SFPROXY_SOAP_ENCODING", UploadError::NotGzip.to_string())
            }
            Self::Upload(error) => Row {
                status: StatusCode::REQUEST_TIMEOUT,
                code: "SFPROXY_REQUEST_BODY",
                proxy_error: "http_request_error",
                outcome: Outcome::ClientError,
                message: error.to_string(),
                reason: None,
                retry_after: None,
            },
            Self::Envelope(unfit) => bad_request("SFPROXY_SOAP_ENVELOPE", unfit.to_string()),
            Self::EnvelopeEncoding => bad_request("SFPROXY_SOAP_ENCODING", self.to_string()),
            Self::TransferCoding => Row {
                status: StatusCode::NOT_IMPLEMENTED,
                ..bad_request("SFPROXY_TRANSFER_CODING", self.to_string())
            },
            Self::NeedsHttp2 => bad_request("SFPROXY_NEEDS_HTTP2", self.to_string()),
        }
    }
}

fn bad_request(code: &'static str, message: String) -> Row {
    Row {
        status: StatusCode::BAD_REQUEST,
        code,
        proxy_error: "http_request_error",
        outcome: Outcome::ClientError,
        message,
        reason: None,
        retry_after: None,
    }
}

fn said(row: &Row, content_type: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = row.status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn rest_error(row: &Row) -> Response<Bytes> {
    let body = serde_json::json!([{"errorCode": row.code, "message": row.message}]);
    said(row, "application/json;charset=UTF-8", body.to_string())
}

/// As a token endpoint's refusal (RFC 6749 §5.2).
fn oauth_error(row: &Row) -> Response<Bytes> {
    let body = serde_json::json!({"error": row.code, "error_description": row.message});
    said(row, "application/json;charset=UTF-8", body.to_string())
}

fn soap_fault(row: &Row) -> Response<Bytes> {
    let (code, message) = (row.code, escape(&row.message));
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:sfproxy=\"urn:sf-token-proxy\">\
         <soapenv:Body><soapenv:Fault><faultcode>sfproxy:{code}</faultcode><faultstring>{code}: {message}</faultstring>\
         </soapenv:Fault></soapenv:Body></soapenv:Envelope>"
    );
    said(row, "text/xml;charset=UTF-8", text)
}

fn bulk_error(row: &Row) -> Response<Bytes> {
    let (code, message) = (row.code, escape(&row.message));
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <error xmlns=\"http://www.force.com/2009/06/asyncapi/dataload\">\
         <exceptionCode>{code}</exceptionCode><exceptionMessage>{message}</exceptionMessage></error>"
    );
    said(row, "application/xml;charset=UTF-8", text)
}

/// An answer that is nothing but a status: gRPC's errors have HTTP status 200.
fn rpc_status(row: &Row) -> Response<Bytes> {
    let status = match row.status {
        StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT | StatusCode::MISDIRECTED_REQUEST => "3",
        StatusCode::FORBIDDEN => "7",
        StatusCode::GATEWAY_TIMEOUT => "4",
        _ => "14",
    };
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    let message = percent_encoded(&format!("{}: {}", row.code, row.message));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert("grpc-message", message);
    }
    response
}

/// As gRPC wants messages: printable ASCII but for `%` stays.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut encoded, byte| {
            match byte {
                b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
                // Writing to a string cannot fail.
                _ => drop(write!(encoded, "%{byte:02X}")),
            }
            encoded
        })
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
        Refusal::Trace => (
            StatusCode::METHOD_NOT_ALLOWED,
            "SFPROXY_TRACE",
            "TRACE is refused: whoever answers it sends the request back, and the token with it",
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
            "only API paths carry the token: /services/data/…, /services/apexrest/…, /services/async/…, /services/Soap/…, /cometd/…, /eventbus.v1.PubSub/…, /services/oauth2/userinfo, /id/…, /api/v1|v2/… if the org has data_cloud, and listeners[].extra_paths",
        ),
        Refusal::LoginNotServed => (
            StatusCode::FORBIDDEN,
            "SFPROXY_LOGIN_NOT_SERVED",
            "an app needs no login here: send the calls without one; if the SDK insists, set listeners[].local_login: true",
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
        UpstreamError::NoHttp2 { .. } => (
            StatusCode::BAD_GATEWAY,
            "SFPROXY_ORG_NO_HTTP2",
            "destination_unavailable",
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
        UpstreamError::Unusable { .. } => (
            StatusCode::BAD_GATEWAY,
            "SFPROXY_ORG_ANSWER",
            "http_protocol_error",
            Outcome::UpstreamError,
        ),
        UpstreamError::Broke { .. } | UpstreamError::NotProcessed { .. } => (
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
        "{PROXY_NAME}; received-status={}; details=\"not repeated: {why}\"",
        status.as_u16()
    ))
    .unwrap_or_else(|_| HeaderValue::from_static(PROXY_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OrgName;

    #[test]
    fn who_comes_back_when_told_does_not_come_before_the_next_try() {
        for (millis, told) in [(0, "1"), (400, "1"), (4_000, "4"), (4_001, "5"), (59_900, "60")] {
            let error = CallError::Token(TokenError {
                org: OrgName::new("main"),
                reason: "outage",
                message: String::new(),
                retry_after: Duration::from_millis(millis),
            });
            assert_eq!(error.response(None).headers()[header::RETRY_AFTER], told, "{millis}");
        }
    }
}
