//! What passes, passes byte for byte, streamed, both ways.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::support::{RawOrg, Running, Script, call, connect, read_reply};

async fn echo_org() -> (RawOrg, Running) {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    (org, app)
}

#[tokio::test]
async fn the_request_target_arrives_as_it_was_sent() {
    let (org, app) = echo_org().await;
    let long = format!(
        "/services/data/v60.0/query?q={}",
        "SELECT+Id%2CName+FROM+Account+".repeat(500)
    );
    assert!(long.len() > 15_000);
    let targets = [
        "/services/data",
        "/services/data/",
        "//services/data/v60.0/limits",
        "/services/data//v60.0///x",
        "/services/data/v60.0/query?q=SELECT%20Id%20FROM%20Account",
        "/services/data/v60.0/query?q=a+b%2Bc%2bd&x=%E2%82%AC&&=&y",
        "/services/data/v60.0/query/?q=SELECT Id".split(' ').next().unwrap(),
        "/services/data/v60.0/sobjects/A/Ext__c/a|b",
        "/services/data/v60.0/sobjects/A/Ext__c/[x];y=1;z",
        "/services/data/v60.0/sobjects/A/Ext__c/%2F%2f%25%41",
        "/services/data/v60.0/sobjects/A/Ext__c/@:!$&'()*+,;=~_-.x",
        "/services/data/v60.0/x?q={'a':[1]}|^\\`@!$()*~;,:é",
        "/services/data/v60.0/sobjects/A?fields=Id,Name#frag"
            .split('#')
            .next()
            .unwrap(),
        &long,
    ];
    for target in targets {
        let reply = call(app.proxy, &format!("GET {target} HTTP/1.1"), b"").await;
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    }
    let seen: Vec<String> = org.seen().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(seen, targets);
    app.stop().await;
}

#[tokio::test]
async fn headers_and_body_arrive_but_for_the_listed_changes() {
    let (org, app) = echo_org().await;
    // not gzip, but bytes that no text handling would survive
    let body: Vec<u8> = (0..=255u8).cycle().take(70_000).collect();
    let lines = format!(
        "POST /services/data/v60.0/x HTTP/1.1
Content-Length: {}
Content-Encoding: gzip
Content-Type: application/json; charset=UTF-8
Authorization: OAuth undefined
X-SFDC-Session: mine
Accept-Encoding: gzip, deflate
Sforce-Call-Options: client=a, b
Sforce-Query-Options: batchSize=200
If-None-Match: \"x\"
X-Empty:
X-Twice: 1
X-Twice: 2
Cookie: BrowserId=a; sid=CANARY-sid; other=b
X-Forwarded-For: 10.0.0.1
Connection: keep-alive, X-Hop
X-Hop: 1",
        body.len()
    );
    assert_eq!(call(app.proxy, &lines, &body).await.status, 200);
    let seen = &org.seen()[0];
    assert_eq!(seen.body, body);
    assert_eq!(seen.token(), "Bearer 00Dxx0000001gER!token_1");
    assert_eq!(seen.header("host"), [org.url().strip_prefix("http://").unwrap()]);
    assert_eq!(seen.header("x-twice"), ["1", "2"]);
    assert_eq!(seen.header("x-empty"), [""]);
    assert_eq!(seen.header("cookie"), ["BrowserId=a; other=b"]);
    for kept in [
        "content-encoding",
        "sforce-call-options",
        "sforce-query-options",
        "if-none-match",
    ] {
        assert_eq!(seen.header(kept).len(), 1, "{kept}");
    }
    for gone in [
        "x-sfdc-session",
        "x-forwarded-for",
        "x-hop",
        "connection",
        "transfer-encoding",
    ] {
        assert!(seen.header(gone).is_empty(), "{gone}: {}", seen.head);
    }
    assert_eq!(seen.header("content-length"), [body.len().to_string()]);
    app.stop().await;
}

#[tokio::test]
async fn answers_pass_as_they_came() {
    let org = RawOrg::start(|request| {
        Script::Say(
            match request.target().rsplit('/').next().unwrap() {
                "cookies" => {
                    "HTTP/1.1 200 OK\r\nSet-Cookie: BrowserId=a; Domain=.salesforce.com; Secure; Path=/\r\nSet-Cookie: sid=CANARY-org-sid\r\nSet-Cookie: b=2\r\nStrict-Transport-Security: max-age=1\r\nSforce-Limit-Info: api-usage=18/5000\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 2\r\n\r\nok"
                }
                "204" => "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
                "304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
                "head" => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-A: 1\r\n\r\n",
                "empty" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "420" => "HTTP/1.1 420 Enhance\r\nContent-Length: 4\r\n\r\n<ht>",
                "redirect" => {
                    return Script::Say(
                        format!(
                            "HTTP/1.1 302 Found\r\nLocation: http://{}/services/data/v60.0/else\r\nContent-Length: 0\r\n\r\n",
                            request.header("host")[0]
                        )
                        .into_bytes(),
                    );
                }
                "elsewhere" => {
                    "HTTP/1.1 302 Found\r\nLocation: https://login.salesforce.com/?x\r\nContent-Length: 0\r\n\r\n"
                }
                "403" => {
                    "HTTP/1.1 403 Forbidden\r\nContent-Length: 40\r\n\r\n[{\"errorCode\":\"REQUEST_LIMIT_EXCEEDED\"}]"
                }
                "503" => "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno",
                other => panic!("unknown {other}"),
            }
            .into(),
        )
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let get = async |what: &str| call(app.proxy, &format!("GET /services/data/v60.0/{what} HTTP/1.1"), b"").await;

    let cookies = get("cookies").await;
    assert_eq!(cookies.header("set-cookie"), ["BrowserId=a; Path=/", "b=2"]);
    assert_eq!(cookies.header("x-twice"), ["1", "2"]);
    assert!(cookies.header("strict-transport-security").is_empty());
    assert!(cookies.header("proxy-status").is_empty());
    assert_eq!(cookies.text(), "ok");
    assert_eq!(
        app.metric("sf_token_proxy_org_api_requests_used{org=\"main\"}").await,
        18.0
    );
    assert_eq!(
        app.metric("sf_token_proxy_org_api_requests_limit{org=\"main\"}").await,
        5000.0
    );

    let none = get("204").await;
    assert_eq!((none.status, none.header("x-a")), (204, vec!["1"]));
    let unchanged = get("304").await;
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, vec!["\"x\""]));
    let head = call(app.proxy, "HEAD /services/data/v60.0/head HTTP/1.1", b"").await;
    assert_eq!((head.status, head.header("content-length")), (200, vec!["12345"]));
    assert_eq!(get("empty").await.body, b"");
    assert_eq!((get("420").await.status, get("420").await.text()), (420, "<ht>".into()));
    let redirect = get("redirect").await;
    assert_eq!(
        (redirect.status, redirect.header("location")),
        (302, vec!["/services/data/v60.0/else"])
    );
    assert_eq!(
        get("elsewhere").await.header("location"),
        ["https://login.salesforce.com/?x"]
    );
    assert!(get("403").await.text().contains("REQUEST_LIMIT_EXCEEDED"));
    let down = get("503").await;
    assert_eq!((down.status, down.header("retry-after")), (503, vec!["7"]));
    assert_eq!(org.logins(), 1, "none of these means a login");
    app.stop().await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let org = RawOrg::start(|_| {
        Script::Say(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let lines = "POST /services/data/v60.0/x HTTP/1.1\nTE: trailers\nTransfer-Encoding: chunked\nTrailer: X-In";
    let reply = call(app.proxy, lines, b"3\r\nabc\r\n0\r\nX-In: 7\r\n\r\n").await;
    assert_eq!(reply.text(), "ok");
    assert!(reply.trailers.to_lowercase().contains("x-sum: 42"), "{reply:?}");
    let seen = &org.seen()[0];
    assert_eq!(seen.body, b"abc");
    assert!(seen.trailers.to_lowercase().contains("x-in: 7"), "{seen:?}");
    assert_eq!(seen.header("te"), ["trailers"]);
    app.stop().await;
}

#[tokio::test]
async fn answers_are_streamed_not_collected() {
    let org = RawOrg::start(|_| {
        Script::Slowly(vec![
            (
                Duration::ZERO,
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n".to_vec(),
            ),
            (Duration::from_secs(2), b"3\r\ntwo\r\n0\r\n\r\n".to_vec()),
        ])
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut stream = connect(app.proxy).await;
    let asked = Instant::now();
    stream
        .write_all(b"GET /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut early = Vec::new();
    while !early.windows(3).any(|window| window == b"one") {
        assert!(stream.read_buf(&mut early).await.unwrap() > 0);
    }
    assert!(
        asked.elapsed() < Duration::from_millis(1500),
        "the first chunk waited for the second"
    );
    while !early.windows(3).any(|window| window == b"two") {
        assert!(stream.read_buf(&mut early).await.unwrap() > 0);
    }
    assert!(asked.elapsed() >= Duration::from_secs(2));
    app.stop().await;
}

#[tokio::test]
async fn uploads_are_streamed_not_collected() {
    // The practice of the caller: the second half is sent only after the org has said that it has the first. An org that
    // answers early is the only way to see that through HTTP; so the connection count and the first bytes are watched.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let login = RawOrg::start(|_| panic!("calls go elsewhere")).await;
    let app = Running::start(&login.url(), |config| {
        let org = config.orgs.values_mut().next().unwrap();
        org.instance_url = Some(format!("http://{address}").parse().unwrap());
    })
    .await;
    let mut caller = connect(app.proxy).await;
    caller
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nfirst")
        .await
        .unwrap();
    let (mut org, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"first") {
        assert!(org.read_buf(&mut seen).await.unwrap() > 0);
    }
    caller.write_all(b"later").await.unwrap();
    while !seen.ends_with(b"firstlater") {
        assert!(org.read_buf(&mut seen).await.unwrap() > 0);
    }
    org.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await
        .unwrap();
    assert_eq!(read_reply(&mut caller, false).await.unwrap().text(), "ok");
    app.stop().await;
}

#[tokio::test]
async fn expect_continue_is_answered_when_the_org_takes_the_body() {
    let (org, app) = echo_org().await;
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0);
    }
    assert!(head.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&head));
    stream.write_all(b"body").await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 200);
    assert_eq!(org.seen()[0].body, b"body");
    assert!(org.seen()[0].header("expect").is_empty());
    app.stop().await;
}

#[tokio::test]
async fn the_jdks_upgrade_offer_is_ignored_and_not_passed_on() {
    let (org, app) = echo_org().await;
    let lines = "GET /services/data/v60.0/x HTTP/1.1
Connection: Upgrade, HTTP2-Settings
Upgrade: h2c
HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA";
    assert_eq!(call(app.proxy, lines, b"").await.status, 200);
    let seen = &org.seen()[0];
    for gone in ["upgrade", "http2-settings", "connection"] {
        assert!(seen.header(gone).is_empty(), "{}", seen.head);
    }
    app.stop().await;
}

#[tokio::test]
async fn http2_by_prior_knowledge_is_taken() {
    let (org, app) = echo_org().await;
    let io = TokioIo::new(connect(app.proxy).await);
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(connection);
    for n in 0..3 {
        let request = Request::post(format!("http://{}/services/data/v60.0/x", app.proxy))
            .body(Full::new(Bytes::from(format!("body {n}"))))
            .unwrap();
        let reply = client.send_request(request).await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, Version::HTTP_2));
        assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), r#"{"ok":true}"#);
    }
    drop(client);
    connections.join_next().await.unwrap().unwrap().unwrap();
    let bodies: Vec<Vec<u8>> = org.seen().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [b"body 0", b"body 1", b"body 2"]);
    app.stop().await;
}

#[tokio::test]
async fn a_silent_org_is_waited_for() {
    // Salesforce may think for ten minutes; 45 s is longer than any default that would cut it.
    let org = RawOrg::start(|_| {
        Script::Slowly(vec![(
            Duration::from_secs(45),
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        )])
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = call(app.proxy, "GET /services/data/v60.0/x HTTP/1.1", b"").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    app.stop().await;
}

#[tokio::test]
async fn several_calls_share_a_connection_on_both_sides() {
    let (org, app) = echo_org().await;
    let mut stream = connect(app.proxy).await;
    for _ in 0..10 {
        stream
            .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi")
            .await
            .unwrap();
        assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 200);
    }
    assert_eq!(org.connections(), 2, "one for the login, one for the calls");
    app.stop().await;
}
