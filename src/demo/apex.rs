//! Apex REST: an echo, a 401 of its own, and the practice paths that bend HTTP.
//!
//! Owns: nothing. Invariants: bodies of any size pass by stream. Units: `bytes/N` in bytes, `silent/S` in seconds.
//! Fails with: an [`Answer`]. Source: SF §4.1 (an Apex body with 401 is not about the session).

use std::time::Duration;

use hyper::{HeaderMap, http::request::Parts};
use serde_json::json;

use super::{
    answer::{Answer, Said},
    body::{OrgBody, Upload, UploadError},
    record::{self, BodySeen},
    world::World,
};

/// `path` is what follows `/services/apexrest/`.
pub(crate) async fn answer(
    world: &World,
    path: &str,
    parts: &Parts,
    upload: &mut Upload,
) -> Result<Answer, UploadError> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    if segments == ["practice", "sink"] {
        return sink(upload).await;
    }
    let body = upload.all(&parts.headers).await?;
    Ok(match segments[..] {
        ["echo"] => Answer::json(
            200,
            json!({
                "method": parts.method.as_str(),
                "query": parts.uri.query(),
                "contentType": parts.headers.get("content-type").and_then(|v| v.to_str().ok()),
                "body": String::from_utf8_lossy(&body),
            }),
        ),
        ["own401"] => Answer::json(401, json!({"error": "this is the Apex class speaking", "code": 17})),
        ["practice", "bytes", count] => match count.parse() {
            Ok(count) => Answer::new(200, Said::Stream("application/octet-stream", OrgBody::filler(count))),
            Err(_) => Answer::not_found(),
        },
        ["practice", "silent", seconds] => match seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok())
        {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Answer::json(200, json!({"silent": pause.as_secs_f64()}))
            }
            None => Answer::not_found(),
        },
        ["practice", "status", code] => match code.parse() {
            Ok(code @ 200..=599) => Answer::json(code, json!({"status": code})),
            _ => Answer::not_found(),
        },
        ["practice", "cookies"] => cookies(),
        ["practice", "trailers"] => trailers(),
        ["practice", "redirect"] => {
            Answer::empty(302).with("location", &format!("{}/services/apexrest/echo", world.instance_url()))
        }
        ["practice", "headers"] => Answer::json(
            200,
            json!({
                "target": parts.uri.to_string(),
                "version": record::version(parts.version),
                "headers": record::headers(&parts.headers),
            }),
        ),
        _ => Answer::error(404, "NOT_FOUND", format!("Could not find a match for URL /{path}")),
    })
}

async fn sink(upload: &mut Upload) -> Result<Answer, UploadError> {
    let seen = BodySeen::new();
    while let Some(chunk) = upload.next().await? {
        BodySeen::add(&seen, &chunk);
    }
    let (bytes, sha256) = BodySeen::total(&seen);
    Ok(Answer::json(200, json!({"bytes": bytes, "sha256": sha256})))
}

fn cookies() -> Answer {
    Answer::json(200, json!({"cookies": true}))
        .with(
            "set-cookie",
            "sid=00DSB0000001pRC!practice.session.cookie; path=/; secure; HttpOnly",
        )
        .with("set-cookie", "sfdc-stream=!practice; path=/; Secure")
        .with(
            "set-cookie",
            "BAYEUX_BROWSER=practice; Domain=.salesforce.com; Path=/; Secure; SameSite=None",
        )
        .with("set-cookie", "plain=1")
}

/// Sent as trailers to HTTP/2 clients and to HTTP/1.1 clients that say `TE: trailers`.
fn trailers() -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-practice-trailer", hyper::header::HeaderValue::from_static("the end"));
    let body = OrgBody::with_trailers("before the trailers", trailers);
    Answer::new(200, Said::Stream("text/plain", body)).with("trailer", "x-practice-trailer")
}
