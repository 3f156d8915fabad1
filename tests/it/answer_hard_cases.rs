//! Calls and answers that are legal and rare, and what must not come of them.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    support::{RawOrg, Running, Script, call, connect, read_reply},
    tls::soon,
};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";
const USERINFO: &str = "GET /services/oauth2/userinfo HTTP/1.1";

/// An answer, as it is on the wire.
fn says(text: &'static str) -> Script {
    Script::Say(text.replace('\n', "\r\n").into_bytes())
}

/// Everything that comes until the connection ends.
async fn whole(app: &Running, call: &str) -> String {
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(format!("{call}\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_trace_would_send_the_token_back() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = call(app.proxy, "TRACE /services/data/v60.0/limits HTTP/1.1", b"").await;
    assert_eq!(reply.status, 405);
    assert!(reply.text().contains("SFPROXY_TRACE"), "{}", reply.text());
    assert!(org.seen().is_empty());
    app.stop().await;
}

#[tokio::test]
async fn codings_below_the_chunks_are_refused_and_chunks_are_not() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for (codings, status) in [("gzip, chunked", 501), ("Chunked", 200), (", identity, chunked", 200)] {
        let mut stream = connect(app.proxy).await;
        let post = format!(
            "POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: {codings}\r\n\r\n2\r\nab\r\n0\r\n\r\n"
        );
        stream.write_all(post.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{codings}: {answer}"
        );
        assert_eq!(answer.contains("SFPROXY_TRANSFER_CODING"), status == 501, "{answer}");
    }
    assert_eq!(org.seen().len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn an_answer_with_chunks_and_a_length_ends_with_its_chunks() {
    let org =
        RawOrg::start(|_| says("HTTP/1.1 200 OK\nContent-Length: 3\nTransfer-Encoding: chunked\n\n5\nabcde\n0\n\n"))
            .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "abcde"));
    assert!(reply.header("content-length").is_empty());
    app.stop().await;
}

#[tokio::test]
async fn what_is_no_answer_to_the_call_is_not_passed_on() {
    let many = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let many = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{many}\r\n{{}}");
    let org = RawOrg::start(move |request| match request.target() {
        "/services/data/v60.0/switch" => says("HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: x\n\n"),
        "/services/data/v60.0/coded" => says("HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n1\nx\n0\n\n"),
        "/services/data/v60.0/many" => Script::Say(many.clone().into_bytes()),
        _ => says("SSH-2.0-OpenSSH_9.2\n"),
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    for (path, why) in [
        ("switch", "101"),
        ("many", "100 header lines"),
        ("coded", "Transfer-Encoding"),
        ("ssh", "parsed"),
    ] {
        let answer = whole(&app, &format!("GET /services/data/v60.0/{path} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{path}: {answer}");
        assert!(
            answer.contains("SFPROXY_ORG_ANSWER") && answer.contains(why),
            "{path}: {answer}"
        );
    }
    app.stop().await;
}

#[tokio::test]
async fn a_dead_session_is_found_out_also_if_its_401_cannot_be_read() {
    // Brotli, as far as anybody here can tell.
    let unreadable = || says("HTTP/1.1 401 Unauthorized\nContent-Encoding: br\nContent-Length: 4\n\n\x01\x02\x03\x04");
    let org = RawOrg::start(move |request| match request.target() {
        "/services/apexrest/mine" => unreadable(),
        "/services/data/v60.0/x" if request.token().ends_with("token_1") => unreadable(),
        _ if request.token().ends_with("token_1") && request.target().ends_with("/v60.0/") => Script::expired(),
        _ => Script::ok(),
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!(org.logins(), 2);
    // The class's own: the token is asked about and lives.
    assert_eq!(
        call(app.proxy, "GET /services/apexrest/mine HTTP/1.1", b"")
            .await
            .status,
        401
    );
    assert_eq!(org.logins(), 2);
    app.stop().await;
}

/// Promise 3: only the org's word ends a token, and an org in trouble has not said it.
#[tokio::test]
async fn a_401_that_cannot_be_read_ends_no_token_while_the_org_does_not_say_so() {
    let org = RawOrg::start(|request| match request.target() {
        "/services/apexrest/mine" => {
            says("HTTP/1.1 401 Unauthorized\nContent-Encoding: br\nContent-Length: 4\n\n\x01\x02\x03\x04")
        }
        _ => says("HTTP/1.1 503 Service Unavailable\nContent-Length: 0\n\n"),
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    for method in ["GET", "HEAD"] {
        let line = format!("{method} /services/apexrest/mine HTTP/1.1");
        let answer = whole(&app, &line).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert_eq!(org.logins(), 1);
    app.stop().await;
}

#[tokio::test]
async fn userinfo_is_not_made_up_for_a_session_that_is_dead_or_refused_for_another_reason() {
    let refused = || says("HTTP/1.1 403 Forbidden\nContent-Length: 15\n\nBad_OAuth_Token");
    let limit = || says("HTTP/1.1 403 Forbidden\nContent-Length: 41\n\n[{\"errorCode\":\"REQUEST_LIMIT_EXCEEDED\"}] ");
    // Whatever it is asked, it says that the token is no good.
    let dead = RawOrg::start(move |request| match request.target().ends_with("/userinfo") {
        true => refused(),
        false => Script::expired(),
    })
    .await;
    let app = Running::start(&dead.url(), |_| {}).await;
    assert_eq!(call(app.proxy, USERINFO, b"").await.status, 403);
    app.stop().await;

    let spent = RawOrg::start(move |request| match request.target().ends_with("/userinfo") {
        true => limit(),
        false => Script::ok(),
    })
    .await;
    let app = Running::start(&spent.url(), |_| {}).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    let reply = call(app.proxy, USERINFO, b"").await;
    assert!(
        reply.status == 403 && reply.text().contains("REQUEST_LIMIT_EXCEEDED"),
        "{}",
        reply.text()
    );
    app.stop().await;
}

/// Some issuers write milliseconds where seconds belong.
#[tokio::test]
async fn a_token_that_ends_after_the_year_9999_is_told_all_the_same() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let jwt = format!(
        "{}.{}.x",
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#),
        BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp":1900000000000}"#)
    );
    let body = serde_json::json!({"access_token": jwt, "instance_url": org.url(), "token_type": "Bearer"}).to_string();
    org.next_login(&format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    let status = app.status().await;
    assert_eq!(status["orgs"]["main"]["expiry"], "assumed", "{status}");
    app.stop().await;
}

/// Most clients send all of a body before they read; to a reset they have no answer.
#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_is_not_lost() {
    const LENGTH: usize = 32 << 20;
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let head = format!("POST /secur/frontdoor.jsp HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LENGTH}\r\n\r\n");
    let mut stream = connect(app.proxy).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    soon(stream.write_all(&vec![b'x'; LENGTH])).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");

    // Nor is anybody waited for who sends nothing more, and stays.
    let mut stays = connect(app.proxy).await;
    stays.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(soon(read_reply(&mut stays, false)).await.unwrap().status, 403);
    soon(app.stop()).await;
}
