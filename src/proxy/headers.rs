//! What is changed in request and response headers; everything else passes byte for byte.
//!
//! Pure. Invariants: no credential of the caller's goes out; none of the org's comes back as a cookie.
//! Source: `design.md` §6.3, §6.4; RFC 9110 §7.6.1 (hop-by-hop); `clients.md` (what SDKs send as credentials).

use http::{HeaderMap, HeaderName, HeaderValue, header, uri::PathAndQuery};

use super::surface::Placement;
use crate::token::{Instance, Token};

/// Sets the credential in headers that have been through [`strip_request`].
pub fn set_credential(headers: &mut HeaderMap, token: &Token, placement: Placement) {
    match placement {
        Placement::Bearer => {
            headers.insert(header::AUTHORIZATION, token.authorization.clone());
        }
        Placement::SessionHeader => {
            headers.insert(SESSION, token.raw());
        }
        Placement::Metadata => {
            headers.insert(ACCESS_TOKEN, token.raw());
            // Both are ASCII: a host, and letters and digits.
            if let Ok(url) = HeaderValue::try_from(token.instance.url()) {
                headers.insert(INSTANCE_URL, url);
            }
            if let Some(org) = token.org_id().and_then(|id| HeaderValue::try_from(id).ok()) {
                headers.insert(TENANT_ID, org);
            }
        }
        // It is in the body.
        Placement::Envelope | Placement::Fuel | Placement::Nowhere => {}
    }
}

const SESSION: HeaderName = HeaderName::from_static("x-sfdc-session");
const ACCESS_TOKEN: HeaderName = HeaderName::from_static("accesstoken");
const INSTANCE_URL: HeaderName = HeaderName::from_static("instanceurl");
const TENANT_ID: HeaderName = HeaderName::from_static("tenantid");

/// Removes from the caller's headers what must not travel.
pub fn strip_request(headers: &mut HeaderMap) {
    let found = Found::among(headers.keys(), request_kind);
    if found.has(CONNECTION) {
        remove_named_by_connection(headers);
    }
    let wants_trailers = found.has(TE) && headers.get_all(header::TE).iter().any(names_trailers);
    if found.has(STAYS | CONNECTION | TE) {
        remove_all(headers, |name| {
            request_kind(name.as_str()) & (STAYS | CONNECTION | TE) != 0
        });
    }
    if found.has(COOKIES) {
        strip_session_cookies(headers);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Whether the body comes in chunks and nothing else, or with its length. Of other codings, hyper would take off the chunks and
/// leave the rest as the body.
pub fn is_plainly_transferred(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    // RFC 2616 knew `identity`.
    let mut codings = codings.filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
    codings
        .next()
        .is_none_or(|coding| coding.eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

/// The same for what follows a body: some servers take headers from there.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_request(trailers);
    // They say nothing here, and HTTP/2 has no `Connection`.
    trailers.remove(header::TE);
    trailers.remove(header::CONNECTION);
}

/// jsforce asks the identity service with its token in the query, where the org might prefer it to the header (not
/// confirmed). The token goes into the header alone.
pub fn without_credential(target: PathAndQuery) -> PathAndQuery {
    // The name as a server reads it, percent-encoded or not.
    let is_credential = |pair: &&str| {
        let mut read = url::form_urlencoded::parse(pair.as_bytes());
        read.next()
            .is_some_and(|(name, _)| matches!(&*name, "oauth_token" | "access_token"))
    };
    let Some(query) = target
        .query()
        .filter(|query| query.split('&').any(|pair| is_credential(&pair)))
    else {
        return target;
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_credential(pair)).collect();
    let path = target.path();
    let text = match kept.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", kept.join("&")),
    };
    // Parts of a target are a target.
    PathAndQuery::try_from(text).unwrap_or(target)
}

/// What kinds of headers a message has: looked at once, because most have none that need work.
#[derive(Clone, Copy)]
struct Found(u8);

const CONNECTION: u8 = 1;
const TE: u8 = 1 << 1;
/// Ends at the proxy.
const STAYS: u8 = 1 << 2;
/// `Cookie` or `Set-Cookie`.
const COOKIES: u8 = 1 << 3;
const LOCATION: u8 = 1 << 4;
const STRICT_TRANSPORT: u8 = 1 << 5;

impl Found {
    fn among<'a>(names: impl Iterator<Item = &'a HeaderName>, kind: fn(&str) -> u8) -> Self {
        Self(names.fold(0, |found, name| found | kind(name.as_str())))
    }

    fn has(self, kinds: u8) -> bool {
        self.0 & kinds != 0
    }
}

/// The kind of a request header. Names are lower case; the first letter spares most comparisons.
fn request_kind(name: &str) -> u8 {
    match name.as_bytes().first() {
        Some(b'a') if name == "authorization" || name == "accesstoken" => STAYS,
        Some(b'c') if name == "cookie" => COOKIES,
        // `Expect` is answered here: the body is asked for when the org takes it.
        Some(b'e') if name == "expect" => STAYS,
        Some(b'f') if name == "forwarded" => STAYS,
        Some(b'p') if name.starts_with("proxy-") => STAYS,
        Some(b'x') if name == "x-sfdc-session" || name.starts_with("x-forwarded-") => STAYS,
        _ => hop_by_hop_kind(name),
    }
}

fn response_kind(name: &str) -> u8 {
    match name.as_bytes().first() {
        Some(b'l') if name == "location" => LOCATION,
        Some(b'p') if name == "proxy-connection" => STAYS,
        Some(b's') if name == "set-cookie" => COOKIES,
        Some(b's') if name == "strict-transport-security" => STRICT_TRANSPORT,
        _ => hop_by_hop_kind(name),
    }
}

fn hop_by_hop_kind(name: &str) -> u8 {
    match name.as_bytes().first() {
        Some(b'c') if name == "connection" => CONNECTION,
        Some(b'h') if name == "http2-settings" => STAYS,
        Some(b'k') if name == "keep-alive" => STAYS,
        Some(b't') if name == "te" => TE,
        Some(b't') if name == "transfer-encoding" => STAYS,
        Some(b'u') if name == "upgrade" => STAYS,
        _ => 0,
    }
}

fn remove_all(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in &doomed {
        headers.remove(name);
    }
}

fn names_trailers(te: &HeaderValue) -> bool {
    te.to_str()
        .is_ok_and(|te| te.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers")))
}

/// Headers that `Connection` names are for this hop alone. `Host` and `Content-Length` cannot be named away.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // the two usual ones name no header
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| name.parse().ok())
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH && *name != header::TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// The caller's browser or SDK may hold a session of its own; it is not the one to use.
fn is_session_cookie(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    name.eq_ignore_ascii_case(b"sid") || name.eq_ignore_ascii_case(b"sid_client")
}

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn strip_session_cookies(headers: &mut HeaderMap) {
    let lines = headers.get_all(header::COOKIE);
    let carries_one = |value: &HeaderValue| pairs(value.as_bytes()).any(is_session_cookie);
    if lines.iter().nth(1).is_none() && !lines.iter().any(carries_one) {
        return;
    }
    // HTTP/2 callers may send a line for each; HTTP/1.1 has one (RFC 9113 §8.2.3).
    let kept: Vec<&[u8]> = lines
        .iter()
        .flat_map(|line| pairs(line.as_bytes()))
        .filter(|pair| !pair.is_empty() && !is_session_cookie(pair))
        .collect();
    let line = HeaderValue::from_bytes(&kept.join(&b"; "[..]));
    let some_left = !kept.is_empty();
    headers.remove(header::COOKIE);
    if let (true, Ok(line)) = (some_left, line) {
        headers.insert(header::COOKIE, line);
    }
}

/// Prepares the org's headers for the caller. `plain` says that the listener speaks http, where a client would drop
/// `Secure` cookies and must not learn to insist on https.
pub fn from_org(headers: &mut HeaderMap, org: &Instance, plain: bool) {
    let found = Found::among(headers.keys(), response_kind);
    if found.has(CONNECTION) {
        remove_named_by_connection(headers);
    }
    if found.has(STAYS) && headers.contains_key(header::TRANSFER_ENCODING) {
        // Chunks end the body, whatever a length beside them says (RFC 9112 §6.3).
        headers.remove(header::CONTENT_LENGTH);
    }
    if found.has(STAYS | CONNECTION | TE) {
        remove_all(headers, |name| {
            hop_by_hop_kind(name.as_str()) != 0 || *name == "proxy-connection"
        });
    }
    if found.has(COOKIES) {
        adapt_cookies(headers, plain);
    }
    if plain && found.has(STRICT_TRANSPORT) {
        headers.remove(header::STRICT_TRANSPORT_SECURITY);
    }
    if found.has(LOCATION)
        && let Some(relative) = headers
            .get(header::LOCATION)
            .and_then(|location| relative_location(location, org))
    {
        headers.insert(header::LOCATION, relative);
    }
}

fn adapt_cookies(headers: &mut HeaderMap, plain: bool) {
    let mut holds_session = false;
    for (name, value) in headers.iter_mut() {
        if *name == header::SET_COOKIE {
            if is_session_cookie(pairs(value.as_bytes()).next().unwrap_or_default()) {
                holds_session = true;
            } else if let Some(adapted) = adapted_cookie(value.as_bytes(), plain) {
                *value = adapted;
            }
        }
    }
    if holds_session {
        let kept: Vec<HeaderValue> = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter(|value| !is_session_cookie(pairs(value.as_bytes()).next().unwrap_or_default()))
            .cloned()
            .collect();
        headers.remove(header::SET_COOKIE);
        for value in kept {
            headers.append(header::SET_COOKIE, value);
        }
    }
}

/// The cookie without `Domain` (and `Secure`); `None` if it has neither.
fn adapted_cookie(line: &[u8], plain: bool) -> Option<HeaderValue> {
    let goes = |part: &[u8]| {
        let part = part.trim_ascii_start();
        match part.first().map(u8::to_ascii_lowercase) {
            Some(b'd') => attribute_is(part, b"domain"),
            Some(b's') => plain && attribute_is(part, b"secure"),
            _ => false,
        }
    };
    // An attribute goes with the `;` before it. Most of a line stays: it is copied in pieces between those that go.
    let mut adapted = Vec::new();
    let mut copied = 0;
    let mut semicolons = memchr::memchr_iter(b';', line).peekable();
    while let Some(start) = semicolons.next() {
        let end = semicolons.peek().copied().unwrap_or(line.len());
        if goes(&line[start + 1..end]) {
            if copied == 0 {
                adapted.reserve_exact(line.len());
            }
            adapted.extend_from_slice(&line[copied..start]);
            copied = end;
        }
    }
    if copied == 0 {
        return None;
    }
    adapted.extend_from_slice(&line[copied..]);
    // Parts of a valid header value are a valid header value.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(adapted)).ok()
}

/// Whether a cookie's attribute has this name, with or without a value.
fn attribute_is(part: &[u8], name: &[u8]) -> bool {
    let found = part.split(|byte| *byte == b'=').next().unwrap_or_default();
    found.trim_ascii_end().eq_ignore_ascii_case(name)
}

/// An absolute `Location` on the org's own host, made relative, so that the client stays with the proxy.
fn relative_location(location: &HeaderValue, org: &Instance) -> Option<HeaderValue> {
    let text = location.to_str().ok()?;
    let scheme = if org.tls { "https" } else { "http" };
    let (found, rest) = text.split_once("://")?;
    if !found.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let same_host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            host.eq_ignore_ascii_case(org.authority.host()) && port.parse() == Ok(org.port)
        }
        _ => authority.eq_ignore_ascii_case(org.authority.host()) && org.authority.port_u16().is_none(),
    };
    if !same_host {
        return None;
    }
    // A relative reference that begins with `//` would name a host; browsers read `\` as `/`.
    let path = format!("/{}", path.trim_start_matches(['/', '\\']));
    HeaderValue::from_str(&path).ok()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use proptest::prelude::*;
    use secrecy::SecretString;

    use super::*;
    use crate::token::{Expiry, Generation};

    fn token() -> Token {
        Token::new(
            Generation(1),
            SecretString::from("00Dxx!live.token_1"),
            Arc::new(Instance::parse("https://acme.my.salesforce.com").unwrap()),
            Expiry::Assumed(SystemTime::UNIX_EPOCH),
            SystemTime::UNIX_EPOCH,
            tokio::time::Instant::now(),
        )
        .unwrap()
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::try_from(*name).unwrap(),
                    HeaderValue::try_from(*value).unwrap(),
                )
            })
            .collect()
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn whatever_credential_came_is_replaced() {
        for came in [
            vec![],
            vec![("authorization", "")],
            vec![("authorization", "OAuth undefined")],
            vec![("authorization", "Bearer a"), ("authorization", "Bearer b")],
            vec![("connection", "authorization, close"), ("authorization", "Bearer a")],
            vec![
                ("x-sfdc-session", "a"),
                ("accesstoken", "b"),
                ("proxy-authorization", "Basic c"),
            ],
            vec![("cookie", "sid=a"), ("cookie", " SID = b ; sid_Client=c")],
        ] {
            let mut headers = map(&came);
            strip_request(&mut headers);
            let token = token();
            set_credential(&mut headers, &token, Placement::Bearer);
            assert_eq!(
                lines(&headers),
                ["authorization: Bearer 00Dxx!live.token_1"],
                "{came:?}"
            );
            assert!(headers[header::AUTHORIZATION].is_sensitive());
        }
    }

    #[test]
    fn hop_by_hop_headers_end_here_and_the_rest_passes() {
        let mut headers = map(&[
            ("host", "localhost:8080"),
            ("connection", "Upgrade, HTTP2-Settings, X-Hop"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "http"),
            ("proxy-connection", "keep-alive"),
            ("cookie", "BrowserId=x; sid=00D!x; other=y"),
            ("sforce-call-options", "client=x"),
            ("sforce-query-options", "batchSize=200"),
            ("traceparent", "00-1-2-01"),
            ("accept-encoding", "gzip"),
            ("content-length", "5"),
            ("if-none-match", "\"a\""),
        ]);
        strip_request(&mut headers);
        assert_eq!(
            lines(&headers),
            [
                "accept-encoding: gzip",
                "content-length: 5",
                "cookie: BrowserId=x; other=y",
                "host: localhost:8080",
                "if-none-match: \"a\"",
                "sforce-call-options: client=x",
                "sforce-query-options: batchSize=200",
                "traceparent: 00-1-2-01",
            ]
        );
    }

    #[test]
    fn trailers_are_asked_for_when_the_caller_asks() {
        let mut headers = map(&[("te", "gzip, trailers"), ("connection", "TE")]);
        strip_request(&mut headers);
        assert_eq!(lines(&headers), ["connection: te", "te: trailers"]);
    }

    #[test]
    fn answers_lose_what_binds_them_to_the_orgs_host() {
        let org = token().instance;
        let mut headers = map(&[
            (
                "set-cookie",
                "BrowserId=abc; Domain=.salesforce.com; Path=/; Secure; HttpOnly",
            ),
            ("set-cookie", "sid=00D!secret; Path=/; Secure"),
            ("set-cookie", "plain=1"),
            ("strict-transport-security", "max-age=1"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("sforce-limit-info", "api-usage=1/2"),
        ]);
        from_org(&mut headers, &org, true);
        assert_eq!(
            lines(&headers),
            [
                "set-cookie: BrowserId=abc; Path=/; HttpOnly",
                "set-cookie: plain=1",
                "sforce-limit-info: api-usage=1/2",
            ]
        );
        let mut tls = map(&[
            ("set-cookie", "BrowserId=abc; domain=.salesforce.com; Secure"),
            ("strict-transport-security", "max-age=1"),
        ]);
        from_org(&mut tls, &org, false);
        assert_eq!(
            lines(&tls),
            [
                "set-cookie: BrowserId=abc; Secure",
                "strict-transport-security: max-age=1"
            ]
        );
    }

    #[test]
    fn a_length_beside_chunks_says_nothing() {
        let org = token().instance;
        let mut chunked = map(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        from_org(&mut chunked, &org, true);
        assert!(chunked.is_empty());
        let mut plain = map(&[("content-length", "3"), ("keep-alive", "timeout=5")]);
        from_org(&mut plain, &org, true);
        assert_eq!(lines(&plain), ["content-length: 3"]);
    }

    #[test]
    fn only_the_orgs_own_locations_become_relative() {
        let org = Instance::parse("https://acme.my.salesforce.com").unwrap();
        let ported = Instance::parse("https://localhost:8443").unwrap();
        let table = [
            (&org, "https://acme.my.salesforce.com/a?b#c", Some("/a?b#c")),
            (&org, "HTTPS://ACME.my.salesforce.com", Some("/")),
            (
                &org,
                "https://acme.my.salesforce.com//evil.example/x",
                Some("/evil.example/x"),
            ),
            (&org, "https://acme.my.salesforce.com:443/a", Some("/a")),
            (&org, "https://acme.my.salesforce.com.evil.example/a", None),
            (&org, "https://acme.my.salesforce.com@evil.example/a", None),
            (&org, "http://acme.my.salesforce.com/a", None),
            (&org, "https://login.salesforce.com/a", None),
            (&org, "/a", None),
            (&org, "//acme.my.salesforce.com/a", None),
            (&ported, "https://localhost:8443/a", Some("/a")),
            (&ported, "https://localhost/a", None),
        ];
        for (org, location, expected) in table {
            let found = relative_location(&HeaderValue::from_static(location), org);
            assert_eq!(found.as_ref().map(|v| v.to_str().unwrap()), expected, "{location}");
        }
    }

    proptest! {
        #[test]
        fn no_session_cookie_survives(pairs in prop::collection::vec("(sid|SID|sid_Client|a|siddy)=[!-:<-~]{0,8}", 0..6)) {
            let line = pairs.join("; ");
            let mut headers = map(&[("cookie", &line)]);
            strip_request(&mut headers);
            let left = headers.get(header::COOKIE).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
            prop_assert!(!left.split(';').any(|pair| is_session_cookie(pair.as_bytes())), "{left}");
            let innocent = pairs.iter().filter(|pair| !is_session_cookie(pair.as_bytes())).count();
            prop_assert_eq!(left.split("; ").filter(|pair| !pair.is_empty()).count(), innocent);
        }
    }

    proptest! {
        #[test]
        fn a_cookie_loses_two_attributes_and_nothing_else(
            parts in prop::collection::vec("(;| |[dD]omain|[sS]ecure|DOMAIN=\\.a\\.b|Path=/|securely|a=b)[ =]{0,2}", 0..8),
            plain in any::<bool>(),
        ) {
            let line = format!("domain=1;{}", parts.join(";"));
            let goes = |part: &&str| {
                let name = part.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
                name == "domain" || (plain && name == "secure")
            };
            let (first, rest) = line.split_once(';').unwrap();
            let kept: Vec<&str> = [first].into_iter().chain(rest.split(';').filter(|part| !goes(part))).collect();
            let adapted = adapted_cookie(line.as_bytes(), plain);
            let now = adapted.as_ref().map_or(line.as_str(), |line| line.to_str().unwrap());
            prop_assert_eq!(now, kept.join(";"));
            prop_assert_eq!(adapted.is_some(), rest.split(';').any(|part| goes(&part)));
        }
    }

    #[test]
    fn the_query_loses_a_token_and_nothing_else() {
        let table = [
            ("/id/00D/005?format=json&oauth_token=00D!x", "/id/00D/005?format=json"),
            ("/id/00D/005?oauth_token=00D!x", "/id/00D/005"),
            ("/id/00D/005?access_token=a&b=%20c&oauth_token", "/id/00D/005?b=%20c"),
            ("/id/00D/005?version=latest", "/id/00D/005?version=latest"),
            ("/id/00D/005?", "/id/00D/005?"),
            ("//services/oauth2/userinfo", "//services/oauth2/userinfo"),
            ("/id/o/u?oauth%5Ftoken=CANARY&a=b%5F", "/id/o/u?a=b%5F"),
        ];
        for (came, expected) in table {
            let target = PathAndQuery::try_from(came).unwrap();
            assert_eq!(without_credential(target).as_str(), expected);
        }
    }
}
