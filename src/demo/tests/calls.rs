//! What calls look like on the wire: refusals, headers, compression, practice paths, HTTP/2.

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use reqwest::Method;
use serde_json::json;

use super::{DATA, Practice, got, start, tls};

#[tokio::test]
async fn each_bad_credential_has_its_401() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let url = format!("{}{DATA}/limits", practice.org.base_url());
    let expired = ("INVALID_SESSION_ID", "Session expired or invalid");
    let malformed = ("INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE");
    for (header, (code, message)) in [
        (None, expired),
        (Some("OAuth undefined"), expired),
        (Some("Bearer 00Dxx!unknown"), expired),
        (Some("Bearer "), malformed),
        (Some("Bearer"), malformed),
        (Some("Basic dXNlcjpwYXNz"), malformed),
    ] {
        let mut request = practice.client.get(&url);
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let refused = got(request).await;
        assert_eq!(
            (refused.status, refused.json()),
            (401, json!([{"message": message, "errorCode": code}])),
            "{header:?}"
        );
        assert_eq!(refused.header("www-authenticate"), None);
        assert_eq!(refused.header("connection"), Some("close"));
        assert_eq!(refused.header("sforce-limit-info"), None);
    }
    for scheme in ["Bearer", "OAuth", "bearer"] {
        let request = practice
            .client
            .get(&url)
            .header("authorization", format!("{scheme} {token}"));
        assert_eq!(got(request).await.status, 200, "{scheme}");
    }
    assert_eq!(practice.org.stats().api_401, 6);
    practice.stop().await;
}

#[tokio::test]
async fn a_401_comes_in_xml_and_compressed_when_asked_for() {
    let practice = start(|settings| settings.close_on_401 = false).await;
    let path = format!("{DATA}/limits");
    let refused = got(practice
        .call(Method::GET, &path, "dead")
        .header("accept", "application/xml"))
    .await;
    assert_eq!(refused.header("connection"), None);
    assert!(refused.text.ends_with("<Errors><Error><errorCode>INVALID_SESSION_ID</errorCode><message>Session expired or invalid</message></Error></Errors>"), "{}", refused.text);
    for (accepted, encoding) in [
        ("gzip, deflate", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
    ] {
        let response = practice
            .call(Method::GET, &path, "dead")
            .header("accept-encoding", accepted)
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["content-encoding"], encoding, "{accepted}");
        let bytes = response.bytes().await.unwrap();
        let mut text = String::new();
        match encoding {
            "gzip" => flate2::read::GzDecoder::new(&bytes[..])
                .read_to_string(&mut text)
                .unwrap(),
            _ => flate2::read::ZlibDecoder::new(&bytes[..])
                .read_to_string(&mut text)
                .unwrap(),
        };
        assert!(text.contains("INVALID_SESSION_ID"));
    }
    practice.stop().await;
}

#[tokio::test]
async fn answers_carry_salesforces_headers() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    for n in 1..3 {
        let answer = practice.get(&format!("/{DATA}/limits"), &token).await;
        assert_eq!(
            answer.header("sforce-limit-info"),
            Some(format!("api-usage={n}/15000").as_str())
        );
        assert_eq!(answer.header("server"), Some("sfdcedge"));
        assert_eq!(answer.header("x-sfdc-request-id"), answer.header("x-request-id"));
        assert!(answer.header("strict-transport-security").is_some());
        assert_eq!(answer.header("content-length"), None, "chunked");
        let cookies: Vec<_> = answer
            .headers
            .get_all("set-cookie")
            .iter()
            .map(|c| c.to_str().unwrap())
            .collect();
        assert_eq!(cookies.len(), 3);
        assert!(
            cookies
                .iter()
                .any(|c| c.starts_with("BrowserId=") && c.contains("domain=.salesforce.com") && c.ends_with("Secure")),
            "{cookies:?}"
        );
    }
    let versions = got(practice
        .client
        .get(format!("{}/services/data/", practice.org.base_url())))
    .await;
    assert_eq!((versions.status, versions.header("sforce-limit-info")), (200, None));
    let versions = versions.json();
    assert_eq!(
        versions[35],
        json!({"label": "Spring '26", "url": "/services/data/v66.0", "version": "66.0"})
    );
    assert_eq!(versions[37]["label"], "Winter '27");
    assert_eq!(versions[38]["url"], "/services/data/latest");
    for (version, status) in [
        ("v31.0", 200),
        ("v68.0", 200),
        ("latest", 200),
        ("v30.0", 410),
        ("v69.0", 404),
        ("66", 404),
    ] {
        assert_eq!(
            practice
                .get(&format!("/services/data/{version}/limits"), &token)
                .await
                .status,
            status,
            "{version}"
        );
    }
    assert_eq!(practice.get("/secur/frontdoor.jsp", &token).await.status, 404);
    practice.stop().await;
}

#[tokio::test]
async fn long_targets_and_headers_are_refused() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let target = |length: usize| format!("{DATA}/limits?{}", "x".repeat(length - DATA.len() - 8));
    assert_eq!(practice.get(&target(16_384 + 1), &token).await.status, 414);
    assert_eq!(practice.get(&target(16_384), &token).await.status, 431);
    assert_eq!(practice.get(&target(15_000), &token).await.status, 200);
    let wide = practice
        .call(Method::GET, &format!("{DATA}/limits"), &token)
        .header("x-wide", "y".repeat(16_384));
    assert_eq!(got(wide).await.status, 431);
    practice.stop().await;
}

#[tokio::test]
async fn apex_echoes_and_bends_http() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let apex = |path: &str| format!("/services/apexrest/{path}");
    let echo = practice
        .send(Method::PUT, &apex("echo?a=b"), &token, json!({"x": 1}))
        .await
        .json();
    assert_eq!(
        (&echo["method"], &echo["body"], &echo["query"]),
        (&json!("PUT"), &json!("{\"x\":1}"), &json!("a=b"))
    );
    let own = practice.get(&apex("own401"), &token).await;
    assert_eq!((own.status, own.json().is_object()), (401, true));
    for count in [0, 1, 65_536, 1_000_001] {
        let answer = practice.get(&apex(&format!("practice/bytes/{count}")), &token).await;
        assert_eq!(
            (answer.text.len(), answer.header("content-length")),
            (count, Some(count.to_string().as_str()))
        );
    }
    let body = vec![7u8; 3_000_000];
    let sink = got(practice
        .call(Method::POST, &apex("practice/sink"), &token)
        .body(body.clone()))
    .await
    .json();
    let hash = crate::demo::record::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body).as_ref());
    assert_eq!(sink, json!({"bytes": 3_000_000, "sha256": hash}));
    assert_eq!(practice.org.requests(1)[0].body_sha256, hash);
    assert_eq!(practice.get(&apex("practice/silent/0.05"), &token).await.status, 200);
    assert_eq!(practice.get(&apex("practice/status/418"), &token).await.status, 418);
    assert_eq!(
        practice
            .get(&apex("practice/cookies"), &token)
            .await
            .headers
            .get_all("set-cookie")
            .iter()
            .count(),
        7
    );
    let redirect = practice.get(&apex("practice/redirect"), &token).await;
    assert_eq!(
        (redirect.status, redirect.header("location").unwrap()),
        (302, format!("{}{}", practice.org.base_url(), apex("echo")).as_str())
    );
    let seen = practice.get(&apex("practice/headers?q=%2F%41"), &token).await;
    assert_eq!(seen.json()["target"], "/services/apexrest/practice/headers?q=%2F%41");
    assert!(
        !seen.text.contains(&token) && seen.text.contains("Bearer sha256:"),
        "{}",
        seen.text
    );
    for path in ["echo", "practice/bytes/1", "practice/sink"] {
        assert_eq!(practice.get(&apex(path), "dead").await.status, 401, "{path}");
    }
    practice.stop().await;
}

#[tokio::test]
async fn a_compressed_request_is_understood() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"{\"Name\": \"Small\"}").unwrap();
    let path = format!("{DATA}/sobjects/Account");
    let send = |body: Vec<u8>| {
        practice
            .call(Method::POST, &path, &token)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip")
            .body(body)
    };
    assert_eq!(got(send(encoder.finish().unwrap())).await.status, 201);
    assert_eq!(got(send(b"not gzip".to_vec())).await.status, 400);
    practice.stop().await;
}

/// Sends half of a large body, and waits for an answer all the same.
async fn answer_before_the_end(practice: &Practice) -> Option<u16> {
    let (sender, _kept_open) = open(practice, b"http/1.1").await;
    let Sender::One(mut sender) = sender else {
        unreachable!("HTTP/1.1 was asked for")
    };
    let request = hyper::Request::post(format!("{DATA}/sobjects/Account"))
        .header("host", "localhost")
        .header("authorization", "Bearer dead");
    let answer = sender.send_request(request.body(Endless).unwrap());
    let answer = tokio::time::timeout(Duration::from_millis(400), answer).await.ok()?;
    Some(answer.unwrap().status().as_u16())
}

/// A body that never comes to its end.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

enum Sender {
    One(hyper::client::conn::http1::SendRequest<Endless>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

async fn open(practice: &Practice, alpn: &[u8]) -> (Sender, tokio::task::JoinSet<()>) {
    let mut config = tls(&practice.org);
    config.alpn_protocols = vec![alpn.to_vec()];
    let address = practice.org.base_url().replace("https://localhost", "127.0.0.1");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), stream)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    let io = hyper_util::rt::TokioIo::new(stream);
    let mut tasks = tokio::task::JoinSet::new();
    let sender = if alpn == b"h2" {
        let (sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
            .await
            .unwrap();
        tasks.spawn(async move { connection.await.unwrap_or(()) });
        Sender::Two(sender)
    } else {
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tasks.spawn(async move { connection.await.unwrap_or(()) });
        Sender::One(sender)
    };
    (sender, tasks)
}

#[tokio::test]
async fn a_401_waits_for_the_body_unless_told_to_be_early() {
    let practice = start(|_| {}).await;
    assert_eq!(answer_before_the_end(&practice).await, None);
    practice.stop().await;
    let practice = start(|settings| settings.early_401 = true).await;
    assert_eq!(answer_before_the_end(&practice).await, Some(401));
    practice.stop().await;
}

#[tokio::test]
async fn http2_is_spoken_and_carries_trailers() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let (Sender::Two(mut sender), _tasks) = open(&practice, b"h2").await else {
        unreachable!("h2 was asked for")
    };
    let request = hyper::Request::get(format!(
        "{}/services/apexrest/practice/trailers",
        practice.org.base_url()
    ))
    .header("authorization", format!("Bearer {token}"));
    let response = sender
        .send_request(request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-practice-trailer"], "the end");
    assert_eq!(practice.org.requests(1)[0].version, "HTTP/2.0");
    practice.stop().await;
}

#[tokio::test]
async fn plain_http_works_on_loopback() {
    let practice = start(|settings| settings.plain_http = true).await;
    assert!(practice.org.base_url().starts_with("http://localhost:"));
    let token = practice.token().await;
    assert_eq!(practice.get(&format!("{DATA}/limits"), &token).await.status, 200);
    practice.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_told() {
    let practice = start(|_| {}).await;
    let (_, port) = practice.org.base_url().rsplit_once(':').unwrap();
    let settings = crate::demo::Settings {
        port: port.parse().unwrap(),
        ..crate::demo::Settings::default()
    };
    let error = crate::demo::Org::start(settings).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on port {port}"));
    practice.stop().await;
}
