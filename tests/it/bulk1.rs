//! Bulk API 1.0: the session goes into a header of its own, and a dead one is told with 400.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use crate::support::{RawOrg, RawRequest, Reply, Running, Script, Trace, call};

const BATCH: &str = "/services/async/60.0/job/750xx000000001/batch";
const XML: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><error\n xmlns=\"http://www.force.com/2009/06/asyncapi/dataload\">\n <exceptionCode>InvalidSessionId</exceptionCode>\n <exceptionMessage>Invalid session id</exceptionMessage>\n</error>";
const JSON: &str = r#"{"exceptionCode":"InvalidSessionId","exceptionMessage":"Invalid session id"}"#;

fn said(status: &str, more: &str, body: &[u8]) -> Script {
    let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n", body.len());
    Script::Say([head.as_bytes(), body].concat())
}

fn session(request: &RawRequest) -> String {
    request.header("x-sfdc-session").join(" and ")
}

fn first_session_is_dead(request: &RawRequest) -> Script {
    match session(request).ends_with("token_1") {
        true => said("400 Bad Request", "Content-Type: application/xml\r\n", XML.as_bytes()),
        false => Script::ok(),
    }
}

fn gzipped(text: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

async fn upload(app: &Running, csv: &[u8]) -> Reply {
    let mut framed = Vec::new();
    for chunk in csv.chunks(7000) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    let lines = format!("POST {BATCH} HTTP/1.1\nContent-Type: text/csv\nX-SFDC-SESSION:\nTransfer-Encoding: chunked");
    call(app.proxy, &lines, &framed).await
}

#[tokio::test]
async fn the_session_is_set_whatever_came() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for came in [
        "",
        "X-SFDC-Session:",
        "X-SFDC-SESSION: CANARY",
        "x-sfdc-session: CANARY1\nX-Sfdc-Session: CANARY2",
        "Authorization: Bearer CANARY\nAuthorization: OAuth undefined",
        "Connection: x-sfdc-session\nX-SFDC-Session: CANARY",
    ] {
        let lines = format!(
            "GET //services/async/60.0/job/750?x=%2F HTTP/1.1\nSforce-Enable-PKChunking: chunkSize=50000\nContent-Type: text/csv\n{came}"
        );
        let reply = call(app.proxy, &lines, b"").await;
        assert_eq!(reply.status, 200, "{came}: {}", reply.text());
        let seen = org.seen().pop().unwrap();
        assert_eq!(seen.line(), "GET //services/async/60.0/job/750?x=%2F HTTP/1.1");
        assert_eq!(session(&seen), "00Dxx0000001gER!token_1", "{came}");
        assert!(seen.header("authorization").is_empty(), "{}", seen.head);
        assert_eq!(seen.header("sforce-enable-pkchunking"), ["chunkSize=50000"]);
        assert!(!seen.head.contains("CANARY"), "{}", seen.head);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_dead_session_is_renewed_and_the_batch_sent_again() {
    let csv: Vec<u8> = (0..30_000)
        .flat_map(|n| format!("{n},\"Zürich\"\r\n").into_bytes())
        .collect();
    let (gzip, deflate_of_nothing) = (gzipped(XML), "");
    for (status, more, body) in [
        ("400 Bad Request", "Content-Type: application/xml\r\n", XML.as_bytes()),
        ("400 Bad Request", "Content-Type: application/json\r\n", JSON.as_bytes()),
        (
            "400 Bad Request",
            "Content-Type: application/xml\r\nContent-Encoding: gzip\r\n",
            &gzip,
        ),
        ("401 Unauthorized", deflate_of_nothing, XML.as_bytes()),
    ] {
        let refusal = body.to_vec();
        let org = RawOrg::start(move |request| match session(request).ends_with("token_1") {
            true => said(status, more, &refusal),
            false => Script::ok(),
        })
        .await;
        let app = Running::start(&org.url(), |_| {}).await;
        let reply = upload(&app, &csv).await;
        assert_eq!(reply.status, 200, "{status} {more}: {}", reply.text());
        assert!(reply.header("proxy-status").is_empty());
        let seen = org.seen();
        assert_eq!(seen.len(), 2, "{status} {more}");
        for (n, request) in seen.iter().enumerate() {
            assert!(request.body == csv, "attempt {n}");
            assert_eq!(session(request), format!("00Dxx0000001gER!token_{}", n + 1));
            // The repeat may know its length.
            if n == 0 {
                assert_eq!(request.header("transfer-encoding"), ["chunked"]);
            }
        }
        assert_eq!(org.logins(), 2);
        let reason =
            "sf_token_proxy_token_rejections_total{org=\"main\",reason=\"bulk_invalid_session_id\",surface=\"bulk1\"}";
        assert_eq!(app.metric(reason).await, 1.0);
        app.stop().await;
    }
}

#[tokio::test]
async fn other_refusals_pass_and_cost_no_login() {
    for code in ["InvalidJob", "InvalidBatch", "ExceededQuota", "FeatureNotEnabled"] {
        for body in [
            XML.replace("InvalidSessionId", code),
            JSON.replace("InvalidSessionId", code),
        ] {
            let refusal = body.clone();
            let org = RawOrg::start(move |_| said("400 Bad Request", "", refusal.as_bytes())).await;
            let app = Running::start(&org.url(), |_| {}).await;
            let reply = upload(&app, b"Name\nInvalidSessionId\n").await;
            assert_eq!((reply.status, reply.text()), (400, body));
            assert_eq!((org.seen().len(), org.logins()), (1, 1));
            app.stop().await;
        }
    }
}

#[tokio::test]
async fn a_second_refusal_passes_as_it_came() {
    let org = RawOrg::start(|_| said("400 Bad Request", "X-Org: 1\r\n", XML.as_bytes())).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for _ in 0..5 {
        let reply = upload(&app, b"Name\n").await;
        assert_eq!((reply.status, reply.text().as_str()), (400, XML));
        assert_eq!(reply.header("x-org"), ["1"]);
    }
    assert!(org.logins() <= 2, "{} logins", org.logins());
    app.stop().await;
}

#[tokio::test]
async fn our_own_errors_are_xml_as_the_apis() {
    let assert_ours = |reply: &Reply, status: u16, code: &str, word: &str| {
        let text = reply.text();
        assert_eq!(reply.status, status, "{text}");
        assert_eq!(reply.header("content-type"), ["application/xml;charset=UTF-8"]);
        assert!(
            text.contains("xmlns=\"http://www.force.com/2009/06/asyncapi/dataload\""),
            "{text}"
        );
        assert!(
            text.contains(&format!("<exceptionCode>{code}</exceptionCode>")),
            "{text}"
        );
        assert!(text.contains(word), "{text}");
    };
    let org = RawOrg::start(|_| Script::Cut).await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_ours(&upload(&app, b"x").await, 502, "SFPROXY_ORG_BROKE_OFF", "broke off");
    let lines = format!("GET {BATCH} HTTP/1.1\nSec-Fetch-Site: cross-site");
    assert_ours(
        &call(app.proxy, &lines, b"").await,
        403,
        "SFPROXY_CROSS_SITE",
        "allowed_origins",
    );
    app.stop().await;
    let org = RawOrg::start(|_| Script::ok()).await;
    org.refuse_logins(Some((
        "400 Bad Request",
        r#"{"error":"invalid_client_id","error_description":"client identifier invalid"}"#,
    )));
    let app = Running::start(&org.url(), |_| {}).await;
    assert_ours(
        &upload(&app, b"x").await,
        503,
        "SFPROXY_NO_TOKEN",
        "client identifier invalid",
    );
    app.stop().await;
}

#[tokio::test]
async fn no_session_is_told_to_anybody() {
    let trace = Trace::start();
    let org = RawOrg::start(first_session_is_dead).await;
    let app = Running::start(&org.url(), |config| config.log.requests = true).await;
    let lines = format!("GET {BATCH} HTTP/1.1\nX-SFDC-Session: CANARY");
    let reply = call(app.proxy, &lines, b"").await;
    assert_eq!(reply.status, 200);
    let metrics = call(app.admin, "GET /metrics HTTP/1.1", b"").await.text();
    app.stop().await;
    let log = trace.text();
    assert!(
        log.contains("sf_token_proxy::access") && log.contains("token refused"),
        "or this proves little"
    );
    let told = format!("{}{}{metrics}{log}", reply.head, reply.text());
    for secret in ["CANARY", "!token_"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
}

#[cfg(feature = "demo")]
mod practice {
    use std::time::Duration;

    use super::*;
    use crate::soap::practice::start;

    /// The text of the first element of this name.
    fn word(text: &str, name: &str) -> String {
        let (_, rest) = text
            .split_once(&format!("<{name}>"))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        rest.split('<').next().unwrap().to_owned()
    }

    /// A whole job, its session dead before each step.
    #[tokio::test]
    async fn a_job_goes_through_while_sessions_die() {
        let (org, app) = start().await;
        let ask = async |method: &str, path: &str, kind: &str, body: &[u8]| {
            let lines = format!(
                "{method} /services/async/60.0/job{path} HTTP/1.1\nX-SFDC-Session: CANARY\nContent-Type: {kind}\nContent-Length: {}",
                body.len()
            );
            let reply = call(app.proxy, &lines, body).await;
            org.revoke();
            assert!((200..300).contains(&reply.status), "{path}: {}", reply.text());
            reply.text()
        };
        let info = |fields: &str| {
            format!("<jobInfo xmlns=\"http://www.force.com/2009/06/asyncapi/dataload\">{fields}</jobInfo>").into_bytes()
        };
        let xml = "application/xml; charset=UTF-8";
        let fields = "<operation>insert</operation><object>Lead</object><contentType>CSV</contentType>";
        let job = word(&ask("POST", "", xml, &info(fields)).await, "id");
        let mut batches = Vec::new();
        for n in 0..3 {
            let csv = format!("LastName,Company\nA{n},B\nC{n},D\n");
            let text = ask(
                "POST",
                &format!("/{job}/batch"),
                "text/csv; charset=UTF-8",
                csv.as_bytes(),
            )
            .await;
            batches.push(word(&text, "id"));
        }
        ask("POST", &format!("/{job}"), xml, &info("<state>Closed</state>")).await;
        for batch in batches {
            let mut state = String::new();
            for _ in 0..1000 {
                state = word(&ask("GET", &format!("/{job}/batch/{batch}"), xml, b"").await, "state");
                if state == "Completed" {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(state, "Completed");
            let results = ask("GET", &format!("/{job}/batch/{batch}/result"), xml, b"").await;
            assert_eq!(results.matches("\"true\"").count(), 4, "{results}");
        }
        let stats = org.stats();
        assert_eq!(
            stats.bulk1_invalid_session + 1,
            stats.token_requests,
            "one login for each death"
        );
        assert!(stats.token_requests > 10);
        app.stop().await;
        org.stop().await;
    }
}
