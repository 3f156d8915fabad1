//! SOAP and local login where somebody tries to trip them: hosts that are none, charsets in pieces, trailers, tokens that SOAP never takes.

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::{
    soap::{envelope, post},
    support::{RawOrg, RawRequest, Reply, Running, Script, call, connect, read_reply},
};

const PATH: &str = "/services/Soap/u/60.0";
const QUERY: &str = "<query><queryString>SELECT Id FROM Account</queryString></query>";

fn text(request: &RawRequest) -> String {
    String::from_utf8_lossy(&request.body).into_owned()
}

fn said(status: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// These lines and no other, and no body.
async fn at(app: &Running, lines: &str) -> Reply {
    let mut stream = connect(app.proxy).await;
    let lines = format!("{lines}\n\n").replace('\n', "\r\n");
    stream.write_all(lines.as_bytes()).await.unwrap();
    read_reply(&mut stream, false).await.unwrap()
}

const DEAD: &str = "<e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Body><e:Fault><faultcode>sf:INVALID_SESSION_ID</faultcode><faultstring>INVALID_SESSION_ID: of the org</faultstring></e:Fault></e:Body></e:Envelope>";
const BULK_DEAD: &str = "<error xmlns=\"http://www.force.com/2009/06/asyncapi/dataload\"><exceptionCode>InvalidSessionId</exceptionCode><exceptionMessage>of the org</exceptionMessage></error>";

/// SOAP and Bulk API 1.0 take no token in JWT format (SF §3.6): it is as alive as before, and a login brings another of its kind.
#[tokio::test]
async fn a_token_in_jwt_format_is_not_withdrawn_because_soap_takes_none() {
    for alive in [true, false] {
        let org = RawOrg::start(move |request| {
            let first = request.head.contains("eyJhbGciOi") || text(request).contains("eyJhbGciOi");
            match request.target() {
                path if path.starts_with("/services/Soap") && first => {
                    Script::Say(said("500 Internal Server Error", "text/xml", DEAD).into())
                }
                path if path.starts_with("/services/async") && first => {
                    Script::Say(said("400 Bad Request", "application/xml", BULK_DEAD).into())
                }
                _ if first && !alive => Script::expired(),
                _ => Script::ok(),
            }
        })
        .await;
        let answer = format!(
            r#"{{"access_token":"eyJhbGciOi.eyJzdWIiOi.c2ln","instance_url":"{}","id":"{}/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS","token_type":"Bearer"}}"#,
            org.url(),
            org.url()
        );
        org.next_login(&said("200 OK", "application/json", &answer));
        let app = Running::start(&org.url(), |_| {}).await;
        let soap = post(app.proxy, PATH, envelope(QUERY).as_bytes()).await;
        let bulk = call(app.proxy, "GET /services/async/60.0/job/750 HTTP/1.1", b"").await;
        if alive {
            assert_eq!((soap.status, soap.text().as_str()), (500, DEAD));
            assert_eq!((bulk.status, bulk.text().as_str()), (400, BULK_DEAD));
            for reply in [soap, bulk] {
                let status = reply.header("proxy-status").join(" ");
                assert!(status.contains("JWT"), "it says why: {}", reply.head);
            }
            assert_eq!(org.logins(), 1, "nothing is wrong with the token");
        } else {
            assert_eq!((soap.status, bulk.status), (200, 200), "the org took it nowhere");
            assert_eq!(org.logins(), 2);
        }
        app.stop().await;
    }
}

/// What a URL would read as another host after a name of ours.
#[tokio::test]
async fn an_address_that_only_begins_like_ours_is_not_handed_back() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for host in [
        "localhost:80@evil.example",
        "localhost:@evil.example",
        "localhost:evil.example",
        "[::1].evil.example",
        "[::1]@evil.example:80",
        "[::1]evil",
        "localhost:80/x",
        "localhost:99999",
    ] {
        for target in ["/services/oauth2/token", "/services/data"] {
            let reply = at(&app, &format!("POST {target} HTTP/1.1\nHost: {host}")).await;
            assert_eq!(reply.status, 421, "{host} {}", reply.text());
            assert!(!reply.text().contains("evil"), "{}", reply.text());
        }
    }
    assert!(org.seen().is_empty());
    app.stop().await;
}

/// Of two names of ours the target's is the one that was called (RFC 9110 §7.2, RFC 9113 §8.3.1).
#[tokio::test]
async fn the_target_names_the_address_before_the_host_header_does() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let lines = "POST http://127.0.0.1:7/services/oauth2/token HTTP/1.1\nHost: localhost:8";
    let reply = at(&app, lines).await;
    let fields: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(fields["instance_url"], "http://127.0.0.1:7");
    app.stop().await;
}

/// No session of the app's leaves behind the body, where some servers take headers from.
#[tokio::test]
async fn credentials_in_trailers_stay_here() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for (target, body) in [
        (PATH, envelope(QUERY)),
        ("/services/async/60.0/job", "<jobInfo/>".to_owned()),
        ("/services/data/v60.0/query", "{}".to_owned()),
    ] {
        let framed = format!(
            "{:x}\r\n{body}\r\n0\r\nX-Sum: 1\r\nX-SFDC-Session: CANARY\r\nAuthorization: Bearer CANARY\r\nCookie: sid=CANARY\r\n\r\n",
            body.len()
        );
        let lines = format!(
            "POST {target} HTTP/1.1\nTE: trailers\nTrailer: X-Sum, X-SFDC-Session, Authorization, Cookie\nTransfer-Encoding: chunked"
        );
        assert_eq!(call(app.proxy, &lines, framed.as_bytes()).await.status, 200);
        let seen = org.seen().pop().unwrap();
        assert!(
            seen.trailers.to_ascii_lowercase().contains("x-sum: 1"),
            "{}",
            seen.trailers
        );
        assert!(!seen.trailers.contains("CANARY"), "{target}: {}", seen.trailers);
    }
    app.stop().await;
}

/// The org may read the characters by any of them.
#[tokio::test]
async fn each_charset_that_is_named_must_fit() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let body = envelope(QUERY);
    let with = |kinds: &str| {
        let lines = format!("POST {PATH} HTTP/1.1{kinds}\nContent-Length: {}", body.len());
        let (proxy, body) = (app.proxy, body.clone());
        async move { call(proxy, &lines, body.as_bytes()).await.status }
    };
    for refused in [
        "\nContent-Type: text/xml; charset=utf-8; charset=utf-7",
        "\nContent-Type: text/xml; charset=utf-8\nContent-Type: text/xml; charset=utf-7",
        "\nContent-Type: text/xml; charset=\"utf-16\"",
        "\nContent-Type: text/xml; charset='utf-7'",
    ] {
        assert_eq!(with(refused).await, 400, "{refused}");
    }
    assert!(org.seen().is_empty());
    for taken in [
        "",
        "\nContent-Type: text/xml; charset='utf-8'",
        "\nContent-Type: text/xml; CharSet=\"UTF-8\"",
    ] {
        assert_eq!(with(taken).await, 200, "{taken}");
    }
    app.stop().await;
}
