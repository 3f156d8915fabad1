//! SOAP from outside: sessions, faults, bodies, switches.

use std::{io::Write as _, time::Duration};

use reqwest::Method;
use serde_json::json;

use super::{DATA, Got, Practice, got, start};
use crate::demo::{
    TokenFormat,
    xml::{self, Element},
};

pub(super) const PARTNER: &str = "urn:partner.soap.sforce.com";
pub(super) const ENTERPRISE: &str = "urn:enterprise.soap.sforce.com";
pub(super) const METADATA: &str = "http://soap.sforce.com/2006/04/metadata";
pub(super) const APEX: &str = "http://soap.sforce.com/2006/08/apex";
pub(super) const TOOLING: &str = "urn:tooling.soap.sforce.com";
pub(super) const ECHO: &str = "http://soap.sforce.com/schemas/class/Echo";

/// Without a token there is no header for it.
pub(super) fn envelope(namespace: &str, token: &str, headers: &str, operation: &str) -> String {
    let session = match token {
        "" => String::new(),
        token => format!("<w:SessionHeader><w:sessionId>{token}</w:sessionId></w:SessionHeader>"),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
        xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:w=\"{namespace}\"><soapenv:Header>{session}{headers}</soapenv:Header>\
        <soapenv:Body xmlns=\"{namespace}\">{operation}</soapenv:Body></soapenv:Envelope>"
    )
}

pub(super) async fn post(practice: &Practice, path: &str, body: impl Into<reqwest::Body>) -> Got {
    let url = format!("{}/services/Soap/{path}", practice.org.base_url());
    let request = practice.client.post(url).header("content-type", "text/xml");
    got(request.header("soapaction", "\"\"").body(body)).await
}

/// What stands in the response of a call that went well.
pub(super) async fn soap(practice: &Practice, path: &str, namespace: &str, token: &str, operation: &str) -> Element {
    let answer = post(practice, path, envelope(namespace, token, "", operation)).await;
    good(&answer, namespace, token)
}

pub(super) fn good(answer: &Got, namespace: &str, token: &str) -> Element {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("text/xml;charset=UTF-8"));
    assert_eq!(answer.header("sforce-limit-info"), None);
    assert!(!answer.text.contains(token), "no token in an answer");
    let root = xml::parse(answer.text.as_bytes()).unwrap();
    let response = root.child("Body").unwrap().children[0].clone();
    assert_eq!(response.namespace, namespace);
    response
}

/// The fault's code and string.
pub(super) fn fault(answer: &Got) -> (String, String) {
    assert_eq!(answer.status, 500, "{}", answer.text);
    assert_eq!(answer.header("content-type"), Some("text/xml;charset=UTF-8"));
    let root = xml::parse(answer.text.as_bytes()).unwrap();
    let fault = root.child("Body").unwrap().child("Fault").unwrap();
    (fault.word("faultcode").to_owned(), fault.word("faultstring").to_owned())
}

fn seen(practice: &Practice) -> bool {
    practice.org.requests(1000).last().unwrap().token_known
}

#[tokio::test]
async fn a_dead_session_is_a_fault_of_the_captured_shape() {
    let practice = start(|_| {}).await;
    let dead = "00DSB0000001pRC!dead.session";
    let body = envelope(PARTNER, dead, "", "<getUserInfo/>");
    let answer = post(&practice, "u/66.0", body).await;
    assert!(!answer.text.contains(dead), "the token is told by its hash only");
    let (code, text) = fault(&answer);
    assert_eq!(code, "sf:INVALID_SESSION_ID");
    let (said, rest) = text.split_once("missing session hash: ").unwrap();
    assert_eq!(
        said,
        "INVALID_SESSION_ID: Invalid Session ID found in SessionHeader: Illegal Session. Session not found, "
    );
    assert!(
        rest.len() > 64 && rest[..64].bytes().all(|b| b.is_ascii_hexdigit()),
        "{rest}"
    );
    for part in [
        "xmlns:sf=\"urn:fault.partner.soap.sforce.com\"",
        "<faultcode>sf:INVALID_SESSION_ID</faultcode>",
        "<detail><sf:UnexpectedErrorFault xsi:type=\"sf:UnexpectedErrorFault\"><sf:exceptionCode>INVALID_SESSION_ID</sf:exceptionCode>",
    ] {
        assert!(answer.text.contains(part), "{part} in {}", answer.text);
    }
    for (path, namespace, operation, of_faults) in [
        (
            "c/66.0",
            ENTERPRISE,
            "<getUserInfo/>",
            "urn:fault.enterprise.soap.sforce.com",
        ),
        ("m/66.0/00DSB0000001pRC", METADATA, "<describeMetadata/>", METADATA),
        ("s/66.0", APEX, "<executeAnonymous/>", APEX),
        ("T/66.0", TOOLING, "<getUserInfo/>", "urn:fault.tooling.soap.sforce.com"),
        ("class/Echo", ECHO, "<echo/>", ECHO),
    ] {
        let answer = post(&practice, path, envelope(namespace, dead, "", operation)).await;
        assert_eq!(fault(&answer).0, "sf:INVALID_SESSION_ID", "{path}");
        assert!(
            answer.text.contains(&format!("xmlns:sf=\"{of_faults}\"")),
            "{}",
            answer.text
        );
        let detailed = of_faults.starts_with("urn:fault");
        assert_eq!(answer.text.contains("<detail>"), detailed, "{path}");
    }
    let stats = practice.org.stats();
    assert_eq!(
        (stats.soap_invalid_session, stats.api_401, stats.api_requests),
        (6, 0, 6)
    );
    assert!(!seen(&practice));
    practice.stop().await;
}

#[tokio::test]
async fn the_session_is_taken_from_the_right_header_only() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let path = format!("{}/services/Soap/u/66.0", practice.org.base_url());
    let none = envelope(PARTNER, "", "", "<getServerTimestamp/>");
    // `Authorization` does not help.
    let request = practice.client.post(&path).bearer_auth(&token).header("soapaction", "");
    let answer = got(request.body(none.clone())).await;
    assert_eq!(
        fault(&answer),
        (
            "sf:INVALID_SESSION_ID".into(),
            "INVALID_SESSION_ID: Invalid Session ID found in SessionHeader: Illegal Session".into()
        )
    );
    assert!(!seen(&practice));
    for other in [ENTERPRISE, METADATA, TOOLING, ""] {
        let headers = format!("<SessionHeader xmlns=\"{other}\"><sessionId>{token}</sessionId></SessionHeader>");
        let body = envelope(PARTNER, "", &headers, "<getServerTimestamp/>");
        assert_eq!(
            fault(&post(&practice, "u/66.0", body).await).0,
            "sf:INVALID_SESSION_ID",
            "{other}"
        );
        assert!(!seen(&practice), "{other}");
    }
    // Neither does a header that is in the body, or an id outside of the header.
    for headers in [
        format!("<SessionHeader xmlns=\"{ENTERPRISE}\"><w:sessionId>{token}</w:sessionId></SessionHeader>"),
        format!("<w:SessionHeader><sessionId xmlns=\"{ENTERPRISE}\">{token}</sessionId></w:SessionHeader>"),
        "<w:SessionHeader><w:sessionId/></w:SessionHeader>".to_owned(),
        format!("<w:sessionId>{token}</w:sessionId>"),
        format!("<w:CallOptions><w:SessionHeader><w:sessionId>{token}</w:sessionId></w:SessionHeader></w:CallOptions>"),
    ] {
        let body = envelope(PARTNER, "", &headers, "<getServerTimestamp/>");
        assert_eq!(fault(&post(&practice, "u/66.0", body).await).0, "sf:INVALID_SESSION_ID");
    }
    for path in ["u/66.0", "u/v66.0", "u/66.0/00DSB0000001pRC", "/u/66.0"] {
        let space = format!("\n  {token}\n");
        let body = envelope(PARTNER, &space, "", "<getServerTimestamp/>");
        let response = good(&post(&practice, path, body).await, PARTNER, &token);
        assert!(response.child("result").unwrap().word("timestamp").ends_with('Z'));
        assert!(seen(&practice), "{path}");
    }
    let doubled = format!("{}//services/Soap/u/66.0", practice.org.base_url());
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let answer = got(practice.client.post(doubled).header("soapaction", "x").body(body)).await;
    let info = good(&answer, PARTNER, &token);
    assert_eq!(
        info.child("result").unwrap().word("userName"),
        "integration@practice.example"
    );
    let recorded = format!("{:?}", practice.org.requests(1000));
    assert!(!recorded.contains(&token));
    practice.stop().await;
}

#[tokio::test]
async fn a_jwt_is_no_session_here() {
    let lifetime = Duration::from_secs(600);
    let practice = start(|settings| settings.token_format = TokenFormat::Jwt { lifetime }).await;
    let token = practice.token().await;
    assert_eq!(practice.get(&format!("{DATA}/limits"), &token).await.status, 200);
    let answer = post(&practice, "u/66.0", envelope(PARTNER, &token, "", "<getUserInfo/>")).await;
    assert_eq!(fault(&answer).0, "sf:INVALID_SESSION_ID");
    assert!(!answer.text.contains(&token));
    assert!(seen(&practice), "it is alive all the same");
    practice.stop().await;
}

#[tokio::test]
async fn a_soap_call_is_use_of_the_session() {
    let practice = start(|settings| settings.session_timeout = Duration::from_secs(1800)).await;
    let token = practice.token().await;
    for _ in 0..3 {
        practice.org.advance(Duration::from_secs(20 * 60));
        soap(&practice, "u/66.0", PARTNER, &token, "<getServerTimestamp/>").await;
    }
    practice.org.advance(Duration::from_secs(31 * 60));
    let body = envelope(PARTNER, &token, "", "<getServerTimestamp/>");
    assert_eq!(fault(&post(&practice, "u/66.0", body).await).0, "sf:INVALID_SESSION_ID");
    practice.stop().await;
}

#[tokio::test]
async fn what_is_no_call_is_told() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let good = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let doctype = good.replace("?>", "?><!DOCTYPE x [<!ENTITY e \"e\">]>");
    for (path, body, code, part) in [
        ("u/66.0", String::new(), "soapenv:Client", "Premature end of file."),
        ("u/66.0", good[..good.len() - 5].to_owned(), "soapenv:Client", ""),
        ("u/66.0", doctype, "soapenv:Client", "DOCTYPE"),
        ("u/66.0", "<a/>".into(), "soapenv:Client", "Envelope"),
        (
            "u/66.0",
            envelope(PARTNER, &token, "", ""),
            "soapenv:Client",
            "No operation",
        ),
        (
            "u/66.0",
            envelope(PARTNER, &token, "", "<nothing/>"),
            "soapenv:Client",
            "No operation available for request {urn:partner.soap.sforce.com}nothing, please check the WSDL for the service.",
        ),
        (
            "c/66.0",
            good.clone(),
            "soapenv:Client",
            "No operation available for request {urn:partner",
        ),
        (
            "class/Other",
            envelope(ECHO, &token, "", "<echo/>"),
            "soapenv:Client",
            "No operation available",
        ),
        (
            "u/30.0",
            good.clone(),
            "sf:UNSUPPORTED_API_VERSION",
            "Invalid Api version specified on URL",
        ),
        (
            "u/99.0",
            good.clone(),
            "sf:UNSUPPORTED_API_VERSION",
            "Invalid Api version",
        ),
        ("u", good.clone(), "sf:UNSUPPORTED_API_VERSION", "Invalid Api version"),
    ] {
        let answer = post(&practice, path, body).await;
        let (found, text) = fault(&answer);
        assert!(found == code && text.contains(part), "{path}: {found} {text}");
        assert!(!answer.text.contains(&token));
    }
    let url = |path: &str| format!("{}/services/Soap/{path}", practice.org.base_url());
    let answer = got(practice.client.post(url("u/66.0")).body(good.clone())).await;
    assert_eq!(
        fault(&answer),
        ("soapenv:Client".into(), "SOAPAction HTTP header missing".into())
    );
    assert_eq!(got(practice.client.get(url("u/66.0"))).await.status, 405);
    assert_eq!(post(&practice, "U/66.0", good.clone()).await.status, 404);
    assert_eq!(practice.org.stats().soap_invalid_session, 0);
    practice.stop().await;
}

#[tokio::test]
async fn compressed_and_chunked_requests_are_read() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let url = format!("{}/services/Soap/u/66.0", practice.org.base_url());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body.as_bytes()).unwrap();
    let request = practice.client.post(&url).header("soapaction", "\"\"");
    let packed = request
        .header("content-encoding", "gzip")
        .body(encoder.finish().unwrap());
    good(&got(packed).await, PARTNER, &token);
    assert!(seen(&practice));
    // HTTP/1.1 by hand: three chunks, one of which ends within the token.
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(super::tls(&practice.org))
        .http1_only()
        .no_proxy()
        .build()
        .unwrap();
    let at = body.find(&token).unwrap() + 10;
    let parts = [&body[..at], &body[at..at + 1], &body[at + 1..]].map(|part| part.to_owned().into());
    let chunks = reqwest::Body::wrap(Chunks(parts.into()));
    let request = client.post(&url).header("soapaction", "\"\"");
    good(&got(request.body(chunks)).await, PARTNER, &token);
    practice.stop().await;
}

/// A body without a length.
pub(super) struct Chunks(pub(super) std::collections::VecDeque<bytes::Bytes>);

impl hyper::body::Body for Chunks {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        let next = self.0.pop_front();
        std::task::Poll::Ready(next.map(|part| Ok(hyper::body::Frame::data(part))))
    }
}

#[tokio::test]
async fn the_switches_work_here_too() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    practice
        .control(
            "api",
            json!({"status": 503, "body": "<busy/>", "content_type": "text/xml", "path_prefix": "/services/Soap/u"}),
        )
        .await;
    let scripted = post(&practice, "u/66.0", body.clone()).await;
    assert_eq!((scripted.status, scripted.text.as_str()), (503, "<busy/>"));
    assert!(seen(&practice), "the session was alive");
    assert_eq!(post(&practice, "u/66.0", body.clone()).await.status, 200);
    practice.control("latency", json!({"api_ms": 150})).await;
    let late = tokio::time::timeout(Duration::from_millis(100), post(&practice, "u/66.0", body.clone())).await;
    assert!(late.is_err());
    practice.control("reset", json!({})).await;
    practice.control("down", json!({"api": true})).await;
    let url = format!("{}/services/Soap/u/66.0", practice.org.base_url());
    let request = practice.client.post(&url).header("soapaction", "").body(body.clone());
    assert!(request.send().await.is_err());
    practice.control("reset", json!({})).await;
    practice.org.revoke();
    assert_eq!(fault(&post(&practice, "u/66.0", body).await).0, "sf:INVALID_SESSION_ID");
    assert!(!seen(&practice));
    let stats = got(practice
        .client
        .get(format!("{}/control/stats", practice.org.control_url())))
    .await;
    assert_eq!(stats.json()["soap_invalid_session"], 1);
    practice.stop().await;
}

#[tokio::test]
async fn a_scripted_answer_can_come_before_the_body_is_read_and_a_refusal_cannot() {
    let practice = start(|settings| settings.early_401 = true).await;
    let token = practice.token().await;
    practice.control("api", json!({"status": 503, "body": "busy"})).await;
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    assert_eq!(post(&practice, "u/66.0", body).await.status, 503);
    let last = || practice.org.requests(1000).pop().unwrap();
    assert_eq!((last().body_bytes, last().token_known), (0, false));
    let body = envelope(PARTNER, "dead", "", "<getUserInfo/>");
    let length = body.len() as u64;
    assert_eq!(fault(&post(&practice, "u/66.0", body).await).0, "sf:INVALID_SESSION_ID");
    assert_eq!(last().body_bytes, length);
    practice.stop().await;
}

#[tokio::test]
async fn at_another_host_there_is_no_session() {
    let practice = start(|settings| settings.login_port = Some(0)).await;
    let token = practice.token().await;
    let url = format!("{}/services/Soap/u/66.0", practice.org.login_url());
    let body = envelope(PARTNER, &token, "", "<getUserInfo/>");
    let answer = got(practice
        .client
        .request(Method::POST, url)
        .header("soapaction", "")
        .body(body))
    .await;
    assert_eq!(fault(&answer).0, "sf:INVALID_SESSION_ID");
    practice.stop().await;
}
