//! What the org's answer says of the token.
//!
//! Pure. Of the core's answers only a body tells: of all the 401s one means "renew" (SF §4.1), and a login for any of the others is a
//! login wasted, or a storm of them. Each family says it in its own way (`surface.rs` has the table).
//! Invariants: a status alone condemns no token of the core, but for `HEAD`, which has no body.
//! Units: at most [`INSPECT_BYTES`] of a body are looked at. Source: the table SF §10.

use std::io::Read as _;

use http::{HeaderMap, Method, StatusCode, header};

use super::surface::{Surface, Told};

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
pub const REJECTION_REASONS: [&str; 10] = [
    INVALID_SESSION_ID,
    BAD_OAUTH_TOKEN,
    UNAUTHORIZED_HEAD,
    UNAUTHORIZED_UNREAD,
    UNAUTHORIZED,
    BULK_INVALID_SESSION,
    SOAP_INVALID_SESSION,
    BAYEUX_UNAUTHORIZED,
    RPC_AUTH_ERROR,
    RPC_UNAUTHENTICATED,
];

const INVALID_SESSION_ID: &str = "invalid_session_id";
const BAD_OAUTH_TOKEN: &str = "bad_oauth_token";
/// A 401 without a body to tell which it is.
pub const UNAUTHORIZED_HEAD: &str = "unauthorized_head";

/// A 401 whose body cannot be read: `br`, `zstd`, or one coding upon another.
pub const UNAUTHORIZED_UNREAD: &str = "unauthorized_unread";

/// A 401 where any means that the token is dead.
const UNAUTHORIZED: &str = "unauthorized";

pub const BULK_INVALID_SESSION: &str = "bulk_invalid_session_id";
pub const SOAP_INVALID_SESSION: &str = "soap_invalid_session_id";
pub const BAYEUX_UNAUTHORIZED: &str = "bayeux_401";
pub const RPC_AUTH_ERROR: &str = "rpc_auth_error";
/// gRPC's own word for it, without Pub/Sub's.
pub const RPC_UNAUTHENTICATED: &str = "rpc_unauthenticated";

/// The org says so when the session is fine and its use is not allowed (IP restriction, session type): a renewal
/// changes nothing (jsforce PR 1301).
const INCURABLE: &str = "session is not valid for use with";

/// How Pub/Sub calls a token that is no good, with the service's package before it (SF §4.2).
const RPC_AUTH_CODES: [&str; 2] = ["service.auth.error", "service.auth.refresh.invalid"];

/// The judgement that needs no body, if there is one.
pub fn at_sight(surface: Surface, status: StatusCode, headers: &HeaderMap) -> Option<Verdict> {
    match surface.row().told {
        Told::RpcStatus => Some(rpc_status(headers)),
        Told::Any401 => Some(match status {
            StatusCode::UNAUTHORIZED => Verdict::Refused(UNAUTHORIZED),
            _ => Verdict::Pass,
        }),
        told if needs_body(told, status) => None,
        _ => Some(Verdict::Pass),
    }
}

/// Whether the body must be read before the answer can be judged.
fn needs_body(told: Told, status: StatusCode) -> bool {
    match told {
        Told::RestError => status == StatusCode::UNAUTHORIZED,
        Told::IdentityText => matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
        Told::BulkError => matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED),
        Told::SoapFault => status == StatusCode::INTERNAL_SERVER_ERROR,
        Told::FuelFault => matches!(status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::UNAUTHORIZED),
        // A 200 is judged by a watch on its way (`watch.rs`), since it may be a poll of two minutes.
        Told::BayeuxMessage => status == StatusCode::UNAUTHORIZED,
        Told::Any401 | Told::RpcStatus | Told::Never => false,
    }
}

/// Judges an answer of which [`at_sight`] cannot tell. `body` is its beginning, as it came (perhaps compressed).
pub fn verdict(surface: Surface, method: &Method, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let told = surface.row().told;
    if !needs_body(told, status) {
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
    let unauthorized = status == StatusCode::UNAUTHORIZED;
    let Some(text) = readable(headers, body) else {
        return match unauthorized {
            true => Verdict::Refused(UNAUTHORIZED_UNREAD),
            false => Verdict::Pass,
        };
    };
    let found = match told {
        Told::RestError => says_invalid_session(&text).then_some(INVALID_SESSION_ID),
        Told::IdentityText if text.contains("Bad_OAuth_Token") => Some(BAD_OAUTH_TOKEN),
        Told::IdentityText => (unauthorized && says_invalid_session(&text)).then_some(INVALID_SESSION_ID),
        Told::BulkError if says_bulk_invalid_session(&text) => Some(BULK_INVALID_SESSION),
        Told::BulkError => (unauthorized && says_invalid_session(&text)).then_some(INVALID_SESSION_ID),
        Told::SoapFault => says_soap_invalid_session(&text).then_some(SOAP_INVALID_SESSION),
        Told::FuelFault if unauthorized => Some(UNAUTHORIZED),
        Told::FuelFault => says_fuel_expired(&text).then_some(SOAP_INVALID_SESSION),
        Told::BayeuxMessage if says_bayeux_unauthorized(&text) => Some(BAYEUX_UNAUTHORIZED),
        Told::BayeuxMessage => says_invalid_session(&text).then_some(INVALID_SESSION_ID),
        Told::Any401 | Told::RpcStatus | Told::Never => None,
    };
    found.map_or(Verdict::Pass, Verdict::Refused)
}

/// Whether an identity service's 403 can mean that a token that lives may not ask it, for want of a scope: it calls such a one as it
/// calls a dead one, or says that there is none (not confirmed, SF §3.5).
pub fn may_not_ask_identity(headers: &HeaderMap, body: &[u8]) -> bool {
    let text = readable(headers, body).unwrap_or_default();
    text.contains("Bad_OAuth_Token") || text.contains("Missing_OAuth_Token")
}

/// What CometD's answer with status 200 says; `body` is all of it.
pub fn bayeux(headers: &HeaderMap, body: &[u8]) -> Verdict {
    // Most answers hold no error, and need no parsing.
    match readable(headers, body).is_some_and(|text| says_bayeux_unauthorized(&text)) {
        true => Verdict::Refused(BAYEUX_UNAUTHORIZED),
        false => Verdict::Pass,
    }
}

/// What the status of an RPC says: its trailers, or the headers of an answer that is nothing but a status. Salesforce's code
/// decides where there is one; which gRPC status comes with it is not confirmed (SF §4.2), nor whether there always is one. Without,
/// the status of gRPC that means the same leaves it open: the org is asked.
pub fn rpc_status(headers: &HeaderMap) -> Verdict {
    const UNAUTHENTICATED: &[u8] = b"16";
    let code = headers.get("error-code").and_then(|code| code.to_str().ok());
    match code.map(str::trim).filter(|code| !code.is_empty()) {
        Some(code) if RPC_AUTH_CODES.iter().any(|auth| code.ends_with(auth)) => Verdict::Refused(RPC_AUTH_ERROR),
        None if headers
            .get("grpc-status")
            .is_some_and(|status| status.as_bytes() == UNAUTHENTICATED) =>
        {
            Verdict::Refused(RPC_UNAUTHENTICATED)
        }
        _ => Verdict::Pass,
    }
}

/// `<exceptionCode>InvalidSessionId</exceptionCode>`, or the same in JSON (not confirmed, SF §4.2).
fn says_bulk_invalid_session(text: &str) -> bool {
    let code = match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => value
            .get("exceptionCode")
            .and_then(|code| code.as_str())
            .map(str::to_owned),
        Err(_) => xml_element(text, "exceptionCode"),
    };
    code.as_deref() == Some("InvalidSessionId")
}

/// `<faultcode>sf:INVALID_SESSION_ID</faultcode>`; the prefix varies (SF §4.2). SOAP 1.2 says `Value` within `Code`.
fn says_soap_invalid_session(text: &str) -> bool {
    // In a fault of SOAP 1.1 a `Value` is the caller's own business, in the detail.
    let code = xml_element(text, "faultcode").or_else(|| xml_element(text, "Value"));
    let invalid = code.is_some_and(|code| code.rsplit(':').next() == Some("INVALID_SESSION_ID"));
    invalid && !text.to_ascii_lowercase().contains(INCURABLE)
}

/// How Marketing Cloud's SOAP calls a token that is no good: not confirmed.
fn says_fuel_expired(text: &str) -> bool {
    let said = xml_element(text, "faultstring").or_else(|| xml_element(text, "Text"));
    said.is_some_and(|said| said == "Token Expired" || said == "Login Failed")
}

/// A message of the protocol (`/meta/…`), not of an event, that failed with 401: in `error`, or where a denied handshake has
/// its reason (SF §4.2).
fn says_bayeux_unauthorized(text: &str) -> bool {
    if !text.contains("401::") {
        return false;
    }
    let failed = |message: &serde_json::Value| {
        let is_401 = |text: Option<&serde_json::Value>| {
            text.and_then(|text| text.as_str())
                .is_some_and(|text| text.starts_with("401::"))
        };
        let channel = message.get("channel").and_then(|channel| channel.as_str());
        channel.is_some_and(|channel| channel.starts_with("/meta/"))
            && message.get("successful") == Some(&serde_json::Value::Bool(false))
            && (is_401(message.get("error")) || is_401(message.pointer("/ext/sfdc/failureReason")))
    };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Array(messages)) => messages.iter().any(failed),
        Ok(message) => failed(&message),
        Err(_) => false,
    }
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
    let message = xml_element(text, "message").unwrap_or_default();
    Some((xml_element(text, "errorCode")?, message))
}

/// The text of the first element with this local name; prefix and attributes may be any.
fn xml_element(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (_, tag) = rest.split_once('<')?;
        let (head, after) = tag.split_once('>')?;
        let qualified = head.split_ascii_whitespace().next().unwrap_or_default();
        if qualified.rsplit(':').next() == Some(name) && !head.starts_with('/') {
            let (content, _) = after.split_once('<')?;
            return Some(content.trim().to_owned());
        }
        rest = after;
    }
}

/// The body as text; gzip and deflate are understood, `None` is something else.
fn readable(headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings
        .map(|coding| coding.trim_ascii().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != b"identity");
    let encoding = codings.next().unwrap_or_default();
    if codings.next().is_some() {
        return None;
    }
    let mut plain = Vec::new();
    let limit = INSPECT_BYTES as u64;
    // A body that ends early still tells what came before; so errors are not looked at.
    match encoding.as_slice() {
        b"gzip" | b"x-gzip" => drop(
            flate2::read::MultiGzDecoder::new(body)
                .take(limit)
                .read_to_end(&mut plain),
        ),
        b"deflate" => {
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
        b"" => plain.extend_from_slice(body),
        _ => return None,
    }
    let plain = plain.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&plain);
    Some(String::from_utf8_lossy(plain).into_owned())
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
                assert_eq!(
                    at_sight(surface, status, &HeaderMap::new()),
                    Some(expected),
                    "{surface:?} {status}"
                );
            }
        }
        let rest = |status| at_sight(Surface::Rest, status, &HeaderMap::new());
        assert_eq!(rest(StatusCode::UNAUTHORIZED), None);
        assert_eq!(rest(StatusCode::FORBIDDEN), Some(Verdict::Pass));
    }

    /// SF §4.2, row by row.
    #[test]
    fn the_table_of_the_other_protocols() {
        use Surface::{Bulk1, Cometd, MarketingSoap, Soap};
        const BULK: Verdict = Verdict::Refused(BULK_INVALID_SESSION);
        const SOAP: Verdict = Verdict::Refused(SOAP_INVALID_SESSION);
        let bulk_xml = r#"<?xml version="1.0" encoding="UTF-8"?><error xmlns="http://www.force.com/2009/06/asyncapi/dataload">
 <exceptionCode>InvalidSessionId</exceptionCode><exceptionMessage>Invalid session id</exceptionMessage></error>"#;
        let bulk_json = r#"{"exceptionCode":"InvalidSessionId","exceptionMessage":"Invalid session id"}"#;
        let invalid_job = r"<error><exceptionCode>InvalidJob</exceptionCode><exceptionMessage>InvalidSessionId</exceptionMessage></error>";
        let fault = |code: &str, text: &str| {
            format!(
                r#"<soapenv:Envelope><soapenv:Body><soapenv:Fault><faultcode>{code}</faultcode><faultstring>{text}</faultstring></soapenv:Fault></soapenv:Body></soapenv:Envelope>"#
            )
        };
        let soap_12 = r#"<e:Envelope><e:Body><e:Fault><e:Code><e:Value>sf:INVALID_SESSION_ID</e:Value></e:Code></e:Fault></e:Body></e:Envelope>"#;
        let table = [
            (Bulk1, 400, bulk_xml.to_owned(), BULK),
            (Bulk1, 401, bulk_xml.to_owned(), BULK),
            (Bulk1, 400, bulk_json.to_owned(), BULK),
            (Bulk1, 401, EXPIRED.to_owned(), REFUSED),
            (Bulk1, 400, EXPIRED.to_owned(), Verdict::Pass),
            (Bulk1, 400, invalid_job.to_owned(), Verdict::Pass),
            (Bulk1, 500, bulk_xml.to_owned(), Verdict::Pass),
            (Bulk1, 200, bulk_xml.to_owned(), Verdict::Pass),
            (
                Soap,
                500,
                fault("sf:INVALID_SESSION_ID", "INVALID_SESSION_ID: Invalid Session ID found"),
                SOAP,
            ),
            (Soap, 500, fault("ns1:INVALID_SESSION_ID", ""), SOAP),
            (Soap, 500, fault("INVALID_SESSION_ID", ""), SOAP),
            (Soap, 500, soap_12.to_owned(), SOAP),
            (
                Soap,
                500,
                fault("sf:INVALID_LOGIN", "sf:INVALID_SESSION_ID"),
                Verdict::Pass,
            ),
            (Soap, 500, fault("sf:NOT_INVALID_SESSION_ID", ""), Verdict::Pass),
            (
                Soap,
                500,
                fault(
                    "sf:INVALID_SESSION_ID",
                    "This session is not valid for use with the API",
                ),
                Verdict::Pass,
            ),
            (
                Soap,
                500,
                fault("soapenv:Client", "") + "<detail><Value>INVALID_SESSION_ID</Value></detail>",
                Verdict::Pass,
            ),
            (Soap, 200, fault("sf:INVALID_SESSION_ID", ""), Verdict::Pass),
            (Soap, 401, EXPIRED.to_owned(), Verdict::Pass),
            (MarketingSoap, 500, fault("o:Security", "Token Expired"), SOAP),
            (
                MarketingSoap,
                500,
                fault("o:Security", "Unable to queue"),
                Verdict::Pass,
            ),
            (MarketingSoap, 401, String::new(), Verdict::Refused(UNAUTHORIZED)),
            (Cometd, 401, DENIED.to_owned(), Verdict::Refused(BAYEUX_UNAUTHORIZED)),
            (Cometd, 401, EXPIRED.to_owned(), REFUSED),
            (Cometd, 401, "no".to_owned(), Verdict::Pass),
            (Cometd, 200, DENIED.to_owned(), Verdict::Pass),
        ];
        for (surface, status, body, expected) in table {
            assert_eq!(judge(surface, status, &body), expected, "{surface:?} {status} {body}");
        }
    }

    const DENIED: &str = r#"[{"channel":"/meta/handshake","successful":false,"error":"403::Handshake denied","ext":{"sfdc":{"failureReason":"401::Authentication invalid"}},"advice":{"reconnect":"none"}}]"#;

    #[test]
    fn bayeux_messages_of_the_protocol_tell_and_events_do_not() {
        let no = |body: &str| assert_eq!(bayeux(&HeaderMap::new(), body.as_bytes()), Verdict::Pass, "{body}");
        let yes = |body: &str| {
            let found = bayeux(&HeaderMap::new(), body.as_bytes());
            assert_eq!(found, Verdict::Refused(BAYEUX_UNAUTHORIZED), "{body}");
        };
        yes(DENIED);
        yes(
            r#"[{"channel":"/event/X__e","data":{}},{"channel":"/meta/connect","successful":false,"error":"401::Authentication invalid"}]"#,
        );
        yes(r#"{"channel":"/meta/subscribe","successful":false,"error":"401::Request requires authentication"}"#);
        no(r#"[{"channel":"/meta/connect","successful":false,"error":"403::Unknown client"}]"#);
        no(r#"[{"channel":"/meta/connect","successful":true,"error":"401::"}]"#);
        no(r#"[{"channel":"/event/X__e","successful":false,"error":"401::Authentication invalid"}]"#);
        no(r#"[{"channel":"/meta/connect","successful":false,"error":"503::401::"}]"#);
        no(r#"[{"channel":"/meta/connect","successful":false,"error":"401::Authentic"#);
    }

    #[test]
    fn the_code_of_an_rpcs_status_tells() {
        let judge = |code: &str| {
            let headers = HeaderMap::from_iter([("error-code".parse().unwrap(), code.parse().unwrap())]);
            assert_eq!(
                at_sight(Surface::PubSub, StatusCode::OK, &headers),
                Some(rpc_status(&headers))
            );
            rpc_status(&headers)
        };
        let refused = Verdict::Refused(RPC_AUTH_ERROR);
        assert_eq!(judge("sfdc.platform.eventbus.grpc.service.auth.error"), refused);
        assert_eq!(
            judge("sfdc.platform.eventbus.grpc.service.auth.refresh.invalid"),
            refused
        );
        assert_eq!(
            judge("sfdc.platform.eventbus.grpc.subscription.topic.notfound"),
            Verdict::Pass
        );
        assert_eq!(judge("sfdc.platform.eventbus.grpc.service.unavailable"), Verdict::Pass);
        assert_eq!(rpc_status(&HeaderMap::new()), Verdict::Pass);
        // Without a code, gRPC's own status leaves it open.
        let status = |status: &str| {
            let headers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
            rpc_status(&headers)
        };
        assert_eq!(status("16"), Verdict::Refused(RPC_UNAUTHENTICATED));
        assert_eq!([status("7"), status("0")], [Verdict::Pass; 2]);
        let mut both = HeaderMap::new();
        both.insert("grpc-status", "16".parse().unwrap());
        both.insert(
            "error-code",
            "sfdc.platform.eventbus.grpc.service.unavailable".parse().unwrap(),
        );
        assert_eq!(rpc_status(&both), Verdict::Pass);
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
            ("identity, x-gzip", two_members()),
            ("", [b"\xef\xbb\xbf", EXPIRED.as_bytes()].concat()),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, encoding.parse().unwrap())]);
            let found = verdict(Surface::Rest, &Method::GET, StatusCode::UNAUTHORIZED, &headers, &body);
            assert_eq!(found, REFUSED, "{encoding}");
        }
    }

    /// One gzip after the other is one body (RFC 1952 §2.2).
    fn two_members() -> Vec<u8> {
        let member = |text: &str| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(text.as_bytes()).unwrap();
            gzip.finish().unwrap()
        };
        let (head, tail) = EXPIRED.split_at(20);
        [member(head), member(tail)].concat()
    }

    #[test]
    fn a_401_that_cannot_be_read_is_left_open() {
        for encodings in [&["br"][..], &["zstd"], &["gzip, gzip"], &["gzip", "br"]] {
            let mut headers = HeaderMap::new();
            for encoding in encodings {
                headers.append(header::CONTENT_ENCODING, encoding.parse().unwrap());
            }
            let judge = |status| verdict(Surface::Rest, &Method::GET, status, &headers, b"\x1b\x00");
            assert_eq!(
                judge(StatusCode::UNAUTHORIZED),
                Verdict::Refused(UNAUTHORIZED_UNREAD),
                "{encodings:?}"
            );
            assert_eq!(judge(StatusCode::FORBIDDEN), Verdict::Pass);
        }
    }

    #[test]
    fn a_compressed_bomb_is_read_no_further_than_the_limit() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![b' '; 50 * 1024 * 1024]).unwrap();
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())]);
        let text = readable(&headers, &gzip.finish().unwrap());
        assert_eq!(text.unwrap().len(), INSPECT_BYTES);
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
