//! The control handle over plain HTTP and JSON, for tests in other languages.
//!
//! Owns: nothing. Invariants: a call says exactly what the method of [`Control`] does; unknown ones get the list.
//! Units: milliseconds and seconds as the names say. Fails with: 400 and what is wrong with the body.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::HeaderValue,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    control::Control,
    faults::{ApiFault, Reply, TokenFault},
    settings::Latency,
    world::World,
};

const CALLS: [&str; 26] = [
    "POST /control/revoke",
    "POST /control/token {fail, status, error, error_description | body, content_type; hang_ms}",
    "POST /control/api {fail, status, body, content_type, headers, path_prefix}",
    "POST /control/latency {api_ms, token_ms}",
    "POST /control/cut {idle_only}",
    "POST /control/down {token, api}",
    "POST /control/approve {approved}",
    "POST /control/remint {same}",
    "POST /control/move {to_second}",
    "POST /control/clock {advance_s}",
    "POST /control/revoke_refresh_tokens",
    "POST /control/spend",
    "POST /control/rotation {on}",
    "POST /control/password_flow {on}",
    "POST /control/lose_token_answers {count}",
    "POST /control/delay_token_answers {token_ms}",
    "POST /control/expire_dc",
    "POST /control/pubsub_goaway",
    "POST /control/refuse_streams {count}",
    "POST /control/approve_device {user_code, allow}",
    "POST /control/callback {client_id, uri}",
    "POST /control/certificate {client_id, certificate}",
    "POST /control/secret {client_id, secret}",
    "POST /control/reset",
    "GET /control/stats",
    "GET /control/requests?last=N",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    #[serde(default = "one")]
    fail: i64,
    status: Option<u16>,
    error: Option<String>,
    error_description: Option<String>,
    body: Option<Value>,
    content_type: Option<String>,
    #[serde(default)]
    hang_ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiBody {
    #[serde(default = "one")]
    fail: i64,
    #[serde(default = "unauthorized")]
    status: u16,
    body: Option<Value>,
    content_type: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    path_prefix: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Small {
    api_ms: u64,
    token_ms: u64,
    idle_only: bool,
    token: bool,
    api: bool,
    approved: Option<bool>,
    same: Option<bool>,
    to_second: Option<bool>,
    advance_s: f64,
    on: Option<bool>,
    count: Option<u32>,
    allow: Option<bool>,
    user_code: String,
    client_id: String,
    uri: String,
    certificate: String,
    secret: String,
}

fn one() -> i64 {
    1
}

fn unauthorized() -> u16 {
    401
}

pub(crate) async fn serve(world: Arc<World>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, value) = match answer(
        &Control(world),
        &parts.method,
        parts.uri.path(),
        parts.uri.query(),
        &body,
    ) {
        Ok(Some(value)) => (StatusCode::OK, value),
        Ok(None) => (StatusCode::NOT_FOUND, json!({"error": "no such call", "calls": CALLS})),
        Err(e) => (StatusCode::BAD_REQUEST, json!({"error": e.to_string()})),
    };
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `None`: no such call.
fn answer(
    control: &Control,
    method: &Method,
    path: &str,
    query: Option<&str>,
    body: &[u8],
) -> Result<Option<Value>, serde_json::Error> {
    let Some(name) = path.strip_prefix("/control/") else {
        return Ok(None);
    };
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    let small = || serde_json::from_slice::<Small>(body);
    let millis = Duration::from_millis;
    match (method.as_str(), name) {
        ("GET", "stats") => return Ok(Some(control.stats().to_json())),
        ("GET", "requests") => {
            let mut parameters = url::form_urlencoded::parse(query.unwrap_or("").as_bytes());
            let last = parameters.find(|(n, _)| n == "last").and_then(|(_, v)| v.parse().ok());
            let requests = control.requests(last.unwrap_or(usize::MAX));
            return Ok(Some(requests.iter().map(super::record::Recorded::to_json).collect()));
        }
        ("POST", "revoke") => return Ok(Some(json!({"revoked": control.revoke()}))),
        ("POST", "revoke_refresh_tokens") => return Ok(Some(json!({"revoked": control.revoke_refresh_tokens()}))),
        ("POST", "spend") => return Ok(Some(json!({"spent": control.spend()}))),
        ("POST", "expire_dc") => return Ok(Some(json!({"expired": control.expire_dc()}))),
        ("POST", "pubsub_goaway") => return Ok(Some(json!({"told": control.pubsub_goaway()}))),
        ("POST", "approve_device") => {
            let Small { user_code, allow, .. } = small()?;
            let waited = control.approve_device(&user_code, allow.unwrap_or(true));
            return Ok(Some(json!({"waited": waited})));
        }
        ("POST", "cut") => return Ok(Some(json!({"cut": control.cut(small()?.idle_only)}))),
        ("POST", "token") => control.fail_token(token_fault(serde_json::from_slice(body)?)),
        ("POST", "api") => control.fail_api(api_fault(serde_json::from_slice(body)?)),
        ("POST", "latency") => {
            let Small { api_ms, token_ms, .. } = small()?;
            control.set_latency(Latency {
                api: millis(api_ms),
                token: millis(token_ms),
            });
        }
        ("POST", "down") => {
            let Small { token, api, .. } = small()?;
            control.down(token, api);
        }
        ("POST", "approve") => control.approve(small()?.approved.unwrap_or(true)),
        ("POST", "remint") => control.remint(small()?.same.unwrap_or(true)),
        ("POST", "move") => control.move_instance(small()?.to_second.unwrap_or(true)),
        ("POST", "clock") => control.advance(Duration::try_from_secs_f64(small()?.advance_s).unwrap_or_default()),
        ("POST", "rotation") => control.set_rotation(small()?.on.unwrap_or(true)),
        ("POST", "password_flow") => control.password_flow(small()?.on.unwrap_or(true)),
        ("POST", "lose_token_answers") => control.lose_token_answers(small()?.count.unwrap_or(1)),
        ("POST", "delay_token_answers") => control.delay_token_answers(millis(small()?.token_ms)),
        ("POST", "refuse_streams") => control.refuse_streams(small()?.count.unwrap_or(1)),
        ("POST", "callback") => {
            let Small { client_id, uri, .. } = small()?;
            control.register_callback(&client_id, &uri);
        }
        ("POST", "certificate") => {
            let Small {
                client_id, certificate, ..
            } = small()?;
            let uploaded = control.upload_certificate(&client_id, &certificate);
            uploaded.map_err(serde::de::Error::custom)?;
        }
        ("POST", "secret") => {
            let Small { client_id, secret, .. } = small()?;
            control.rotate_secret(&client_id, secret.into());
        }
        ("POST", "reset") => control.reset(),
        _ => return Ok(None),
    }
    Ok(Some(json!({"ok": true})))
}

fn token_fault(asked: TokenBody) -> TokenFault {
    let kind = asked.content_type;
    let status = asked.status.unwrap_or(400);
    let mut reply = match (asked.body, asked.error) {
        (Some(body), _) => Some(Reply::json(status, text(body))),
        (None, Some(error)) => Some(Reply::oauth_error(
            status,
            &error,
            asked.error_description.as_deref().unwrap_or(""),
        )),
        (None, None) => asked.status.map(|status| Reply::json(status, "")),
    };
    if let (Some(reply), Some(kind)) = (&mut reply, kind) {
        reply.content_type = kind;
    }
    TokenFault {
        fail: asked.fail,
        hang: Duration::from_millis(asked.hang_ms),
        reply,
    }
}

fn api_fault(asked: ApiBody) -> ApiFault {
    let (code, message) = match asked.status {
        401 => ("INVALID_SESSION_ID", "Session expired or invalid"),
        403 => ("REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
        503 => ("SERVER_UNAVAILABLE", "Server is too busy"),
        _ => ("UNKNOWN_EXCEPTION", "An unexpected error occurred"),
    };
    let body = asked
        .body
        .map_or_else(|| json!([{"message": message, "errorCode": code}]).to_string(), text);
    let mut reply = Reply::json(asked.status, body);
    if let Some(kind) = asked.content_type {
        reply.content_type = kind;
    }
    reply.headers = asked.headers.into_iter().collect();
    ApiFault {
        fail: asked.fail,
        path_prefix: asked.path_prefix,
        reply,
    }
}

/// A string as it is, anything else as JSON.
fn text(body: Value) -> String {
    match body {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
