//! What the org's answer says of the token.
//!
//! Pure. Of the core's answers only a body tells: of all the 401s one means "renew" (SF §4.1), and a login for any of the others is a
//! login wasted, or a storm of them. Invariants: a status alone condemns no token, but for `HEAD`, which has no body.
//! Units: at most [`INSPECT_BYTES`] of a body are looked at. Source: the table SF §10.

use std::io::Read as _;

use http::{HeaderMap, Method, StatusCode, header};

use super::surface::Surface;

/// How much of an error body is looked at. Salesforce's are below 1 KiB.
pub const INSPECT_BYTES: usize = 64 * 1024;

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// The token is no good; the word says how the org put it.
    Refused(&'static str),
}

/// The words of [`Verdict::Refused`], for metrics.
pub const REJECTION_REASONS: [&str; 4] = [INVALID_SESSION_ID, BAD_OAUTH_TOKEN, UNAUTHORIZED_HEAD, UNAUTHORIZED];

const INVALID_SESSION_ID: &str = "invalid_session_id";
const BAD_OAUTH_TOKEN: &str = "bad_oauth_token";
/// A 401 without a body to tell which it is.
pub const UNAUTHORIZED_HEAD: &str = "unauthorized_head";

/// A 401 where any means that the token is dead.
const UNAUTHORIZED: &str = "unauthorized";

/// The org says so when the session is fine and its use is not allowed (IP restriction, session type): a renewal
/// changes nothing (jsforce PR 1301).
const INCURABLE: &str = "session is not valid for use with";

/// The judgement that needs no body, if there is one.
pub fn at_sight(surface: Surface, status: StatusCode) -> Option<Verdict> {
    match surface {
        Surface::DataCloud | Surface::Platform => Some(match status {
            StatusCode::UNAUTHORIZED => Verdict::Refused(UNAUTHORIZED),
            _ => Verdict::Pass,
        }),
        _ if needs_body(surface, status) => None,
        _ => Some(Verdict::Pass),
    }
}

/// Whether the body must be read before the answer can be judged.
fn needs_body(surface: Surface, status: StatusCode) -> bool {
    match surface {
        Surface::Rest | Surface::ApexRest | Surface::Extra => status == StatusCode::UNAUTHORIZED,
        Surface::Identity => matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
        Surface::DataCloud | Surface::Platform => false,
    }
}

/// Judges an answer of which [`at_sight`] cannot tell. `body` is its beginning, as it came (perhaps compressed).
pub fn verdict(surface: Surface, method: &Method, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    if !needs_body(surface, status) {
        return Verdict::Pass;
    }
    if *method == Method::HEAD {
        // Nothing tells which 401 it is; a HEAD is safe to repeat, and the cool-down bounds the logins.
        return if status == StatusCode::UNAUTHORIZED {
            Verdict::Refused(UNAUTHORIZED_HEAD)
        } else {
            Verdict::Pass
        };
    }
    let text = readable(headers, body);
    if surface == Surface::Identity && text.contains("Bad_OAuth_Token") {
        return Verdict::Refused(BAD_OAUTH_TOKEN);
    }
    if status == StatusCode::UNAUTHORIZED && says_invalid_session(&text) {
        return Verdict::Refused(INVALID_SESSION_ID);
    }
    Verdict::Pass
}

fn says_invalid_session(text: &str) -> bool {
    let errors: Vec<(String, String)> = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Array(items)) => items.iter().filter_map(json_error).collect(),
        Ok(value) => json_error(&value).into_iter().collect(),
        Err(_) => xml_error(text).into_iter().collect(),
    };
    errors
        .iter()
        .any(|(code, message)| code == "INVALID_SESSION_ID" && !message.to_ascii_lowercase().contains(INCURABLE))
}

/// `{"errorCode":…,"message":…}`.
fn json_error(value: &serde_json::Value) -> Option<(String, String)> {
    let text = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    value.get("errorCode").map(|_| (text("errorCode"), text("message")))
}

/// `<Errors><Error><errorCode>…</errorCode><message>…</message></Error></Errors>`: the answer to `Accept: application/xml`.
fn xml_error(text: &str) -> Option<(String, String)> {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (content, _) = rest.split_once(&format!("</{name}>"))?;
        Some(content.trim().to_owned())
    };
    Some((element("errorCode")?, element("message").unwrap_or_default()))
}

/// The body as text; gzip and deflate are understood. What cannot be read says nothing.
fn readable(headers: &HeaderMap, body: &[u8]) -> String {
    let encoding = headers
        .get(header::CONTENT_ENCODING)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let mut plain = Vec::new();
    let limit = INSPECT_BYTES as u64;
    // A body that ends early still tells what came before; so errors are not looked at.
    match encoding.as_str() {
        "gzip" | "x-gzip" => drop(flate2::read::GzDecoder::new(body).take(limit).read_to_end(&mut plain)),
        "deflate" => {
            // Named for zlib's format; some servers send the raw one.
            drop(flate2::read::ZlibDecoder::new(body).take(limit).read_to_end(&mut plain));
            if plain.is_empty() {
                drop(
                    flate2::read::DeflateDecoder::new(body)
                        .take(limit)
                        .read_to_end(&mut plain),
                );
            }
        }
        _ => plain.extend_from_slice(body),
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use proptest::prelude::*;

    use super::*;

    const EXPIRED: &str = r#"[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]"#;
    const REFUSED: Verdict = Verdict::Refused(INVALID_SESSION_ID);

    fn judge(surface: Surface, status: u16, body: &str) -> Verdict {
        let status = StatusCode::from_u16(status).unwrap();
        verdict(surface, &Method::POST, status, &HeaderMap::new(), body.as_bytes())
    }

    /// SF §10 and §4.1, row by row.
    #[test]
    fn the_table_of_salesforces_answers() {
        use Surface::{ApexRest, Identity, Rest};
        let single = r#"{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}"#;
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?><Errors><Error><errorCode>INVALID_SESSION_ID</errorCode><message>Session expired or invalid</message></Error></Errors>"#;
        let not_for_rest =
            r#"[{"message":"This session is not valid for use with the REST API","errorCode":"INVALID_SESSION_ID"}]"#;
        let table = [
            (Rest, 401, EXPIRED, REFUSED),
            (Rest, 401, single, REFUSED),
            (Rest, 401, xml, REFUSED),
            (ApexRest, 401, EXPIRED, REFUSED),
            (Identity, 401, EXPIRED, REFUSED),
            (Rest, 401, not_for_rest, Verdict::Pass),
            (
                Rest,
                401,
                r#"[{"message":"INVALID_HEADER_TYPE","errorCode":"INVALID_AUTH_HEADER"}]"#,
                Verdict::Pass,
            ),
            (
                Rest,
                401,
                r#"[{"errorCode":"INVALID_OPERATION_WITH_EXPIRED_PASSWORD"}]"#,
                Verdict::Pass,
            ),
            (ApexRest, 401, r#"{"error":"my own INVALID_SESSION_ID"}"#, Verdict::Pass),
            (ApexRest, 401, r#""INVALID_SESSION_ID""#, Verdict::Pass),
            (Rest, 401, "Connected app is not attached to Agent", Verdict::Pass),
            (Rest, 401, "", Verdict::Pass),
            (Rest, 401, "<html>INVALID_SESSION_ID</html>", Verdict::Pass),
            (Rest, 403, r#"[{"errorCode":"REQUEST_LIMIT_EXCEEDED"}]"#, Verdict::Pass),
            (Rest, 403, r#"[{"errorCode":"API_DISABLED_FOR_ORG"}]"#, Verdict::Pass),
            (Rest, 403, "Bad_OAuth_Token", Verdict::Pass),
            (Rest, 403, EXPIRED, Verdict::Pass),
            (Identity, 403, "Bad_OAuth_Token", Verdict::Refused(BAD_OAUTH_TOKEN)),
            (Identity, 403, "Missing_OAuth_Token", Verdict::Pass),
            (Rest, 500, EXPIRED, Verdict::Pass),
            (Rest, 503, EXPIRED, Verdict::Pass),
            (Rest, 420, EXPIRED, Verdict::Pass),
            (Rest, 429, EXPIRED, Verdict::Pass),
            (Rest, 302, EXPIRED, Verdict::Pass),
            (Rest, 200, EXPIRED, Verdict::Pass),
        ];
        for (surface, status, body, expected) in table {
            assert_eq!(judge(surface, status, body), expected, "{surface:?} {status} {body}");
        }
    }

    #[test]
    fn elsewhere_any_401_is_the_tokens() {
        for surface in [Surface::DataCloud, Surface::Platform] {
            for (status, expected) in [
                (401, Verdict::Refused(UNAUTHORIZED)),
                (200, Verdict::Pass),
                (403, Verdict::Pass),
                (500, Verdict::Pass),
            ] {
                let status = StatusCode::from_u16(status).unwrap();
                assert_eq!(at_sight(surface, status), Some(expected), "{surface:?} {status}");
            }
        }
        assert_eq!(at_sight(Surface::Rest, StatusCode::UNAUTHORIZED), None);
        assert_eq!(at_sight(Surface::Rest, StatusCode::FORBIDDEN), Some(Verdict::Pass));
    }

    #[test]
    fn a_401_to_head_has_no_body_to_tell() {
        let judge = |status| verdict(Surface::Rest, &Method::HEAD, status, &HeaderMap::new(), b"");
        assert_eq!(judge(StatusCode::UNAUTHORIZED), Verdict::Refused(UNAUTHORIZED_HEAD));
        assert_eq!(judge(StatusCode::FORBIDDEN), Verdict::Pass);
        assert_eq!(judge(StatusCode::NOT_FOUND), Verdict::Pass);
    }

    #[test]
    fn compressed_bodies_are_read() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(EXPIRED.as_bytes()).unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(EXPIRED.as_bytes()).unwrap();
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        raw.write_all(EXPIRED.as_bytes()).unwrap();
        for (encoding, body) in [
            ("gzip", gzip.finish().unwrap()),
            ("Deflate", zlib.finish().unwrap()),
            ("deflate", raw.finish().unwrap()),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, encoding.parse().unwrap())]);
            let found = verdict(Surface::Rest, &Method::GET, StatusCode::UNAUTHORIZED, &headers, &body);
            assert_eq!(found, REFUSED, "{encoding}");
        }
    }

    #[test]
    fn a_compressed_bomb_is_read_no_further_than_the_limit() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![b' '; 50 * 1024 * 1024]).unwrap();
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())]);
        assert_eq!(readable(&headers, &gzip.finish().unwrap()).len(), INSPECT_BYTES);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(status in 100u16..600, encoding in "(gzip|deflate|br|)", body: Vec<u8>) {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, encoding.parse().unwrap())]);
            for surface in Surface::ALL {
                let status = StatusCode::from_u16(status).unwrap();
                verdict(surface, &Method::GET, status, &headers, &body);
            }
        }
    }
}
