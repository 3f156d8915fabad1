//! Bulk API 1.0 from outside: sessions, refusals, uploads, switches.

use std::{io::Write as _, time::Duration};

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::{Got, Practice, got, soap::Chunks, start};
use crate::demo::{
    TokenFormat,
    xml::{self, Element},
};

const BASE: &str = "/services/async/66.0";
pub(super) const NAMESPACE: &str = "http://www.force.com/2009/06/asyncapi/dataload";

fn request(practice: &Practice, method: Method, path: &str, token: &str, kind: &str) -> RequestBuilder {
    let url = format!("{}{BASE}{path}", practice.org.base_url());
    let request = practice.client.request(method, url).header("X-SFDC-Session", token);
    if kind.is_empty() {
        request
    } else {
        request.header("content-type", kind)
    }
}

pub(super) async fn call(practice: &Practice, method: Method, path: &str, token: &str, kind: &str, body: &str) -> Got {
    let answer = got(request(practice, method, path, token, kind).body(body.to_owned())).await;
    assert!(!answer.text.contains(token), "no token in an answer");
    assert_eq!(answer.header("sforce-limit-info"), None);
    answer
}

pub(super) fn root(answer: &Got, name: &str) -> Element {
    assert_eq!(
        answer.header("content-type"),
        Some("application/xml"),
        "{}",
        answer.text
    );
    let root = xml::parse(answer.text.as_bytes()).unwrap();
    assert_eq!((root.namespace.as_str(), root.name.as_str()), (NAMESPACE, name));
    root
}

pub(super) fn job(fields: &[(&str, &str)]) -> String {
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!("<{name}>{value}</{name}>"))
        .collect();
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<jobInfo xmlns=\"{NAMESPACE}\">{fields}</jobInfo>")
}

/// The path of a new job.
pub(super) async fn created(practice: &Practice, token: &str, fields: &[(&str, &str)]) -> String {
    let answer = call(
        practice,
        Method::POST,
        "/job",
        token,
        "application/xml; charset=UTF-8",
        &job(fields),
    )
    .await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let info = root(&answer, "jobInfo");
    assert_eq!((info.word("state"), info.word("operation")), ("Open", fields[0].1));
    format!("/job/{}", info.word("id"))
}

/// The path of a batch that is done, and what is told of it.
pub(super) async fn batch(practice: &Practice, token: &str, job: &str, kind: &str, body: &str) -> (String, Element) {
    let answer = call(practice, Method::POST, &format!("{job}/batch"), token, kind, body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let id = match answer.header("content-type") {
        Some("application/json") => answer.json()["id"].as_str().unwrap().to_owned(),
        _ => root(&answer, "batchInfo").word("id").to_owned(),
    };
    let path = format!("{job}/batch/{id}");
    for _ in 0..1000 {
        let info = root(&call(practice, Method::GET, &path, token, "", "").await, "batchInfo");
        if !["Queued", "InProgress"].contains(&info.word("state")) {
            return (path, info);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the batch did not end");
}

pub(super) fn refusal(answer: &Got) -> (String, String) {
    assert_eq!(answer.status, 400, "{}", answer.text);
    let error = root(answer, "error");
    (
        error.word("exceptionCode").to_owned(),
        error.word("exceptionMessage").to_owned(),
    )
}

#[tokio::test]
async fn a_dead_or_missing_session_is_400() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let url = format!("{}{BASE}/job/750SB0000000001", practice.org.base_url());
    let dead = "00DSB0000001pRC!dead.session";
    for (name, value) in [
        ("x-sfdc-session", dead),
        ("X-SFDC-SESSION", ""),
        ("authorization", &*format!("Bearer {token}")),
    ] {
        let answer = got(practice.client.get(&url).header(name, value)).await;
        assert_eq!(
            refusal(&answer),
            ("InvalidSessionId".into(), "Invalid session id".into()),
            "{name}"
        );
        assert_eq!(answer.header("content-type"), Some("application/xml"));
        // jsforce looks for this.
        assert!(answer.text.contains("<exceptionCode>InvalidSessionId</exceptionCode>") && !answer.text.contains(dead));
        assert!(!practice.org.requests(1000).last().unwrap().token_known, "{name}");
    }
    for (name, value) in [
        ("content-type", "application/json; charset=UTF-8"),
        ("accept", "application/json"),
    ] {
        let answer = got(practice
            .client
            .get(&url)
            .header("x-sfdc-session", dead)
            .header(name, value))
        .await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body = json!({"exceptionCode": "InvalidSessionId", "exceptionMessage": "Invalid session id"});
        assert_eq!(answer.json(), body);
    }
    let stats = practice.org.stats();
    assert_eq!(
        (stats.bulk1_invalid_session, stats.api_401, stats.soap_invalid_session),
        (5, 0, 0)
    );
    let answer = got(practice.client.get(&url).header("X-Sfdc-Session", &token)).await;
    assert_eq!(refusal(&answer).0, "InvalidJob");
    assert!(practice.org.requests(1000).last().unwrap().token_known);
    assert!(!format!("{:?}", practice.org.requests(1000)).contains(&token));
    practice.org.revoke();
    let answer = got(practice.client.get(&url).header("X-Sfdc-Session", &token)).await;
    assert_eq!(refusal(&answer).0, "InvalidSessionId");
    practice.stop().await;
}

#[tokio::test]
async fn a_jwt_is_no_session_here_and_use_extends_an_opaque_one() {
    let lifetime = Duration::from_secs(600);
    let practice = start(|settings| settings.token_format = TokenFormat::Jwt { lifetime }).await;
    let token = practice.token().await;
    let answer = call(&practice, Method::GET, "/job/750SB0000000001", &token, "", "").await;
    assert_eq!(refusal(&answer).0, "InvalidSessionId");
    practice.stop().await;
    let practice = start(|settings| settings.session_timeout = Duration::from_secs(1800)).await;
    let token = practice.token().await;
    for code in ["InvalidJob", "InvalidJob", "InvalidSessionId"] {
        practice
            .org
            .advance(Duration::from_secs(if code == "InvalidJob" { 1200 } else { 1860 }));
        let answer = call(&practice, Method::GET, "/job/750SB0000000001", &token, "", "").await;
        assert_eq!(refusal(&answer).0, code);
    }
    practice.stop().await;
}

#[tokio::test]
async fn every_other_refusal_has_its_code() {
    let practice = start(|settings| settings.bulk_delay = Duration::from_millis(200)).await;
    let token = practice.token().await;
    let query = created(
        &practice,
        &token,
        &[("operation", "query"), ("object", "Account"), ("contentType", "CSV")],
    )
    .await;
    let big = "x".repeat(10_000_001);
    let batches = format!("{query}/batch");
    let unknown = format!("{query}/batch/751SB0000000zzz");
    for (method, path, kind, body, code) in [
        (
            Method::POST,
            "/job",
            "",
            job(&[("operation", "walk"), ("object", "Account")]),
            "InvalidJob",
        ),
        (
            Method::POST,
            "/job",
            "",
            job(&[("operation", "upsert"), ("object", "Account")]),
            "InvalidJob",
        ),
        (
            Method::POST,
            "/job",
            "",
            job(&[("operation", "insert"), ("object", "Account"), ("contentType", "ZIP")]),
            "InvalidJob",
        ),
        (
            Method::POST,
            "/job",
            "",
            job(&[("operation", "insert"), ("object", "Nothing")]),
            "InvalidEntity",
        ),
        (
            Method::POST,
            "/job",
            "",
            job(&[]).replace(NAMESPACE, "urn:other"),
            "ClientInputError",
        ),
        (Method::POST, "/job", "", "<jobInfo".into(), "ClientInputError"),
        (
            Method::POST,
            "/job",
            "",
            format!("<!DOCTYPE jobInfo>{}", &job(&[])[39..]),
            "ClientInputError",
        ),
        (
            Method::POST,
            query.as_str(),
            "",
            job(&[("state", "Sleeping")]),
            "ClientInputError",
        ),
        (Method::GET, "/job/750SB0000000zzz", "", String::new(), "InvalidJob"),
        (Method::GET, unknown.as_str(), "", String::new(), "InvalidBatch"),
        (
            Method::POST,
            batches.as_str(),
            "application/xml",
            "SELECT Id FROM Account".into(),
            "ClientInputError",
        ),
        (
            Method::POST,
            batches.as_str(),
            "text/csv",
            String::new(),
            "ClientInputError",
        ),
        (Method::POST, batches.as_str(), "text/csv", big, "ClientInputError"),
        (Method::GET, "/jobs", "", String::new(), "InvalidUrl"),
        (Method::DELETE, query.as_str(), "", String::new(), "InvalidUrl"),
    ] {
        let answer = call(&practice, method, path, &token, kind, &body).await;
        assert_eq!(refusal(&answer).0, code, "{path}");
    }
    for version in ["30.0", "99.0", "x"] {
        let url = format!("{}/services/async/{version}/job", practice.org.base_url());
        let answer = got(practice.client.post(url).header("x-sfdc-session", &token)).await;
        assert_eq!(refusal(&answer).0, "InvalidVersion");
    }
    // An aborted job's batch that has not begun never does.
    let added = call(
        &practice,
        Method::POST,
        &batches,
        &token,
        "text/csv",
        "SELECT Id FROM Account",
    )
    .await;
    assert_eq!(root(&added, "batchInfo").word("state"), "Queued");
    let aborted = call(
        &practice,
        Method::POST,
        &query,
        &token,
        "",
        &job(&[("state", "Aborted")]),
    )
    .await;
    assert_eq!(root(&aborted, "jobInfo").word("state"), "Aborted");
    let list = async || {
        root(
            &call(&practice, Method::GET, &batches, &token, "", "").await,
            "batchInfoList",
        )
    };
    assert_eq!(list().await.children[0].word("state"), "NotProcessed");
    // One that came later is done by now.
    let fields = [("operation", "query"), ("object", "Account"), ("contentType", "CSV")];
    let other = created(&practice, &token, &fields).await;
    let (_, done) = batch(&practice, &token, &other, "text/csv", "SELECT Id FROM Account").await;
    assert_eq!(done.word("state"), "Completed");
    assert_eq!(list().await.children[0].word("state"), "NotProcessed");
    practice.stop().await;
}

#[tokio::test]
async fn uploads_come_compressed_or_in_chunks() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let fields = [("operation", "insert"), ("object", "Lead"), ("contentType", "CSV")];
    let job = created(&practice, &token, &fields).await;
    let csv = "LastName,Company\nA,B\n";
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(csv.as_bytes()).unwrap();
    let path = format!("{job}/batch");
    let add = || request(&practice, Method::POST, &path, &token, "text/csv; charset=UTF-8");
    let packed = add().header("content-encoding", "gzip").body(encoder.finish().unwrap());
    assert_eq!(got(packed.header("Sforce-Enable-PKChunking", "true")).await.status, 201);
    let parts = ["LastName,Com", "pany\nA,B\n"].map(bytes::Bytes::from);
    let chunked = add().body(reqwest::Body::wrap(Chunks(parts.into())));
    assert_eq!(got(chunked).await.status, 201);
    let (_, info) = batch(&practice, &token, &job, "text/csv", csv).await;
    assert_eq!(info.word("numberRecordsProcessed"), "1");
    let list = root(
        &call(&practice, Method::GET, &path, &token, "", "").await,
        "batchInfoList",
    );
    let done: Vec<_> = list
        .all("batchInfo")
        .map(|b| (b.word("state"), b.word("numberRecordsProcessed")))
        .collect();
    assert_eq!(done, [("Completed", "1"); 3]);
    practice.stop().await;
}

#[tokio::test]
async fn the_switches_work_here_too() {
    let practice = start(|settings| settings.early_401 = true).await;
    let token = practice.token().await;
    let body = json!({"status": 503, "body": "<busy/>", "content_type": "application/xml", "path_prefix": BASE});
    practice.control("api", body).await;
    let answer = call(&practice, Method::GET, "/job/x", &token, "", "").await;
    assert_eq!((answer.status, answer.text.as_str()), (503, "<busy/>"));
    assert_eq!(
        refusal(&call(&practice, Method::GET, "/job/x", &token, "", "").await).0,
        "InvalidJob"
    );
    let stats = got(practice
        .client
        .get(format!("{}/control/stats", practice.org.control_url())))
    .await;
    assert_eq!(stats.json()["bulk1_invalid_session"], 0);
    // Refused before the body was read.
    let dead = call(&practice, Method::POST, "/job", "dead", "", "body").await;
    assert_eq!(refusal(&dead).0, "InvalidSessionId");
    assert_eq!(practice.org.requests(1000).last().unwrap().body_bytes, 0);
    practice.control("down", json!({"api": true})).await;
    assert!(
        request(&practice, Method::GET, "/job/x", &token, "")
            .send()
            .await
            .is_err()
    );
    practice.stop().await;
}
