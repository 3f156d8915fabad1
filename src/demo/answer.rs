//! Answers in Salesforce's shapes, and the headers that come with them.
//!
//! Owns: the error bodies and the standing headers. Invariants: every API answer carries cookies, HSTS and request ids; a 401 carries no
//! `WWW-Authenticate`. Fails with: nothing.
//! Source: SF §4.1 (errors, captured 401), §6 (headers), §1.3 and §2 (token endpoint).

use std::io::Write as _;

use bytes::Bytes;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use hyper::{
    HeaderMap, Response, StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde_json::{Value, json};

use super::{body::OrgBody, settings::letters};

pub(crate) const JSON: &str = "application/json;charset=UTF-8";

/// Larger answers are not compressed: a debug build would be slow at it.
const MAX_COMPRESSED: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) content: Said,
}

pub(crate) enum Said {
    Nothing,
    Json(Value),
    /// Salesforce's error array; XML for those who ask for it.
    Errors(Vec<Problem>),
    Text(&'static str, Bytes),
    Stream(&'static str, OrgBody),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) fields: Vec<String>,
}

/// How the caller wants the answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) xml: bool,
    pub(crate) gzip: bool,
    pub(crate) deflate: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, content: Said) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            headers: Vec::new(),
            content,
        }
    }

    pub(crate) fn json(status: u16, value: Value) -> Self {
        Self::new(status, Said::Json(value))
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self::new(status, Said::Nothing)
    }

    pub(crate) fn text(status: u16, content_type: &'static str, text: impl Into<Bytes>) -> Self {
        Self::new(status, Said::Text(content_type, text.into()))
    }

    pub(crate) fn error(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, Said::Errors(vec![Problem::new(code, message)]))
    }

    /// The token endpoint's refusal: HTTP 400 always (SF §2).
    pub(crate) fn oauth_error(error: &str, description: &str) -> Self {
        Self::json(400, json!({"error": error, "error_description": description}))
    }

    pub(crate) fn not_found() -> Self {
        Self::error(404, "NOT_FOUND", "The requested resource does not exist")
    }

    pub(crate) fn method_not_allowed(method: &hyper::Method, allowed: &str) -> Self {
        Self::error(
            405,
            "METHOD_NOT_ALLOWED",
            format!("HTTP Method '{method}' not allowed. Allowed are {allowed}"),
        )
        .with("allow", allowed)
    }

    pub(crate) fn session_expired() -> Self {
        Self::error(401, "INVALID_SESSION_ID", "Session expired or invalid")
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// What a composite call shows of it.
    pub(crate) fn value(self) -> Value {
        match self.content {
            Said::Json(value) => value,
            Said::Errors(problems) => problems.iter().map(Problem::to_json).collect(),
            Said::Text(_, text) => Value::String(String::from_utf8_lossy(&text).into_owned()),
            Said::Nothing | Said::Stream(..) => Value::Null,
        }
    }

    /// The response, compressed and with the standing headers.
    pub(crate) fn into_response(self, wish: Wish) -> Response<OrgBody> {
        let (content_type, bytes) = match self.content {
            Said::Nothing => (None, Err(OrgBody::sized(Bytes::new()))),
            Said::Json(value) => (Some(JSON), Ok(value.to_string().into())),
            Said::Errors(problems) if wish.xml => (Some("application/xml;charset=UTF-8"), Ok(xml(&problems))),
            Said::Errors(problems) => {
                let body: Value = problems.iter().map(Problem::to_json).collect();
                (Some(JSON), Ok(body.to_string().into()))
            }
            Said::Text(content_type, bytes) => (Some(content_type), Ok(bytes)),
            Said::Stream(content_type, body) => (Some(content_type), Err(body)),
        };
        let mut headers = standing_headers();
        let body = match bytes {
            Ok(bytes) => {
                let (bytes, encoding) = compress(bytes, wish);
                if let Some(encoding) = encoding {
                    headers.insert("content-encoding", HeaderValue::from_static(encoding));
                }
                OrgBody::chunked(bytes)
            }
            Err(body) => body,
        };
        if let Some(content_type) = content_type {
            headers.insert("content-type", HeaderValue::from_static(content_type));
        }
        for (name, value) in self.headers {
            if name == "set-cookie" {
                headers.append(name, value);
            } else {
                headers.insert(name, value);
            }
        }
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

impl Problem {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            fields: Vec::new(),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut value = json!({"message": self.message, "errorCode": self.code});
        if !self.fields.is_empty() {
            value["fields"] = json!(self.fields);
        }
        value
    }

    /// As the collection calls show it.
    pub(crate) fn to_result(&self) -> Value {
        json!({"statusCode": self.code, "message": self.message, "fields": self.fields})
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let status = match problem.code {
            "NOT_FOUND" | "ENTITY_IS_DELETED" => 404,
            _ => 400,
        };
        Self::new(status, Said::Errors(vec![problem]))
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Json(value) => write!(f, "{value}"),
            Self::Errors(problems) => write!(f, "{problems:?}"),
            Self::Text(kind, text) => write!(f, "{kind} {} bytes", text.len()),
            Self::Stream(kind, _) => write!(f, "{kind} stream"),
        }
    }
}

impl Wish {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let has = |name: &str, word: &str| {
            let values = headers.get_all(name).into_iter();
            let mut items = values.flat_map(|v| v.to_str().unwrap_or("").split(','));
            items.any(|item| {
                let mut parts = item.split(';').map(str::trim);
                parts.next() == Some(word) && !parts.any(|q| q == "q=0" || q == "q=0.0")
            })
        };
        Self {
            xml: has("accept", "application/xml") || has("accept", "text/xml"),
            gzip: has("accept-encoding", "gzip"),
            deflate: has("accept-encoding", "deflate"),
        }
    }
}

fn compress(bytes: Bytes, wish: Wish) -> (Bytes, Option<&'static str>) {
    if bytes.is_empty() || bytes.len() > MAX_COMPRESSED {
        return (bytes, None);
    }
    const NEVER: &str = "writing to memory must not fail";
    if wish.gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&bytes).expect(NEVER);
        return (encoder.finish().expect(NEVER).into(), Some("gzip"));
    }
    if wish.deflate {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&bytes).expect(NEVER);
        return (encoder.finish().expect(NEVER).into(), Some("deflate"));
    }
    (bytes, None)
}

fn xml(problems: &[Problem]) -> Bytes {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Errors>");
    for Problem { code, message, .. } in problems {
        let message = message.replace('&', "&amp;").replace('<', "&lt;");
        out += &format!("<Error><errorCode>{code}</errorCode><message>{message}</message></Error>");
    }
    (out + "</Errors>").into()
}

/// What every answer of the org carries (SF §4.1, §6).
fn standing_headers() -> HeaderMap {
    const FIXED: [(&str, &str); 9] = [
        ("server", "sfdcedge"),
        ("strict-transport-security", "max-age=63072000; includeSubDomains"),
        ("x-content-type-options", "nosniff"),
        ("x-xss-protection", "1; mode=block"),
        ("x-robots-tag", "none"),
        ("cache-control", "no-cache,must-revalidate,max-age=0,no-store,private"),
        ("vary", "Accept-Encoding"),
        (
            "set-cookie",
            "CookieConsentPolicy=0:1; path=/; expires=Sun, 21-Nov-2027 00:00:00 GMT; Max-Age=31536000; secure",
        ),
        (
            "set-cookie",
            "LSKey-c$CookieConsentPolicy=0:1; path=/; expires=Sun, 21-Nov-2027 00:00:00 GMT; Max-Age=31536000; secure",
        ),
    ];
    let mut headers = HeaderMap::with_capacity(16);
    for (name, value) in FIXED {
        headers.append(name, HeaderValue::from_static(value));
    }
    let id = letters(32, b"0123456789abcdef");
    let browser = format!(
        "BrowserId={}; domain=.salesforce.com; path=/; expires=Sun, 21-Nov-2027 00:00:00 GMT; Max-Age=31536000; Secure",
        letters(22, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
    );
    for (name, value) in [
        ("x-sfdc-request-id", &id),
        ("x-request-id", &id),
        ("set-cookie", &browser),
    ] {
        let value = HeaderValue::from_str(value).expect("these letters must fit a header");
        headers.append(name, value);
    }
    headers
}
