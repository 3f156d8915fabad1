//! What is changed in request and response headers; everything else passes byte for byte.
//!
//! Pure. Invariants: no credential of the caller's goes out; none of the org's comes back as a cookie.
//! Source: `design.md` §6.3, §6.4; RFC 9110 §7.6.1 (hop-by-hop); `clients.md` (what SDKs send as credentials).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::token::{Instance, Token};

/// Sets what the org wants to see in headers that have been through [`strip_request`].
pub fn set_credential(headers: &mut HeaderMap, token: &Token) {
    headers.insert(header::HOST, token.instance.host_header.clone());
    headers.insert(header::AUTHORIZATION, token.authorization.clone());
}

/// Removes from the caller's headers what must not travel.
pub fn strip_request(headers: &mut HeaderMap) {
    remove_named_by_connection(headers);
    let wants_trailers = headers.get(header::TE).is_some_and(names_trailers);
    // Most calls carry none of these: look first, collect names only when there is something to remove.
    if headers.keys().any(stays_here) {
        let doomed: Vec<HeaderName> = headers.keys().filter(|name| stays_here(name)).cloned().collect();
        for name in &doomed {
            headers.remove(name);
        }
    }
    if headers.contains_key(header::COOKIE) {
        strip_session_cookies(headers);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Whether a request header ends at the proxy.
fn stays_here(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || *name == header::AUTHORIZATION
        || *name == header::EXPECT // answered here: the body is asked for when the org takes it
        || *name == header::FORWARDED
        || {
            let name = name.as_str();
            name.starts_with("x-forwarded-")
                || name.starts_with("proxy-")
                || name == "x-sfdc-session"
                || name == "accesstoken"
        }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TE
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == "keep-alive"
        || *name == "proxy-connection"
        || *name == "http2-settings"
}

fn names_trailers(te: &HeaderValue) -> bool {
    te.to_str()
        .is_ok_and(|te| te.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers")))
}

/// Headers that `Connection` names are for this hop alone. `Host` and `Content-Length` cannot be named away.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH && *name != header::TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// The caller's browser or SDK may hold a session of its own; it is not the one to use.
fn is_session_cookie(name: &str) -> bool {
    name.eq_ignore_ascii_case("sid") || name.eq_ignore_ascii_case("sid_client")
}

fn strip_session_cookies(headers: &mut HeaderMap) {
    let carries_one = headers.get_all(header::COOKIE).iter().any(|value| {
        value.to_str().map_or(true, |line| {
            line.split(';').any(|pair| is_session_cookie(cookie_name(pair)))
        })
    });
    if !carries_one {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| without_session(value.to_str().ok()?))
        .collect();
    headers.remove(header::COOKIE);
    for value in kept {
        headers.append(header::COOKIE, value);
    }
}

fn without_session(line: &str) -> Option<HeaderValue> {
    let kept: Vec<&str> = line
        .split(';')
        .map(str::trim)
        .filter(|pair| !pair.is_empty() && !is_session_cookie(cookie_name(pair)))
        .collect();
    (!kept.is_empty())
        .then(|| HeaderValue::from_str(&kept.join("; ")).ok())
        .flatten()
}

fn cookie_name(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default().trim()
}

/// Prepares the org's headers for the caller. `plain` says that the listener speaks http, where a client would drop
/// `Secure` cookies and must not learn to insist on https.
pub fn from_org(headers: &mut HeaderMap, org: &Instance, plain: bool) {
    remove_named_by_connection(headers);
    if headers.keys().any(is_hop_by_hop) {
        let doomed: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
        for name in &doomed {
            headers.remove(name);
        }
    }
    if headers.contains_key(header::SET_COOKIE) {
        adapt_cookies(headers, plain);
    }
    if plain {
        headers.remove(header::STRICT_TRANSPORT_SECURITY);
    }
    if let Some(location) = headers.get(header::LOCATION)
        && let Some(relative) = relative_location(location, org)
    {
        headers.insert(header::LOCATION, relative);
    }
}

fn adapt_cookies(headers: &mut HeaderMap, plain: bool) {
    let kept: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|value| adapt_cookie(value, plain))
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// The cookie without `Domain` (and `Secure`); `None` for a session cookie, which is a credential.
fn adapt_cookie(value: &HeaderValue, plain: bool) -> Option<HeaderValue> {
    let Ok(line) = value.to_str() else {
        // Not text that can be taken apart: it may hide a session, so it goes.
        return None;
    };
    let mut parts = line.split(';');
    let pair = parts.next().unwrap_or_default();
    if is_session_cookie(cookie_name(pair)) {
        return None;
    }
    let goes = |part: &str| {
        let name = part.split('=').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("domain") || (plain && name.eq_ignore_ascii_case("secure"))
    };
    if !parts.clone().any(goes) {
        return Some(value.clone());
    }
    let mut adapted = String::with_capacity(line.len());
    adapted.push_str(pair);
    for part in parts.filter(|part| !goes(part)) {
        adapted.push(';');
        adapted.push_str(part);
    }
    HeaderValue::from_str(&adapted).ok()
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
    // A relative reference that begins with `//` would name a host.
    let path = format!("/{}", path.trim_start_matches('/'));
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
            set_credential(&mut headers, &token());
            assert_eq!(
                lines(&headers),
                [
                    "authorization: Bearer 00Dxx!live.token_1",
                    "host: acme.my.salesforce.com"
                ],
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
            prop_assert!(!left.split(';').any(|pair| is_session_cookie(cookie_name(pair))), "{left}");
            let innocent = pairs.iter().filter(|pair| !is_session_cookie(cookie_name(pair))).count();
            prop_assert_eq!(left.split("; ").filter(|pair| !pair.is_empty()).count(), innocent);
        }
    }
}
