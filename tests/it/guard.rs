//! Who may pass, on real sockets.

use tokio::io::AsyncWriteExt as _;

use crate::support::{RawOrg, Running, Script, call, connect, read_reply};

#[tokio::test]
async fn refused_calls_get_our_own_error_and_reach_no_org() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let table = [
        (
            "GET /services/data HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            421,
            "SFPROXY_WRONG_HOST",
        ),
        ("GET /services/data HTTP/1.1\r\n\r\n", 400, "SFPROXY_BAD_REQUEST"),
        (
            "GET /services/data HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            400,
            "SFPROXY_BAD_REQUEST",
        ),
        (
            "CONNECT acme.my.salesforce.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
            "SFPROXY_FOREIGN_TARGET",
        ),
        (
            "GET https://evil.example/services/data HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
            "SFPROXY_FOREIGN_TARGET",
        ),
        (
            "GET /services/data HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n",
            403,
            "SFPROXY_CROSS_SITE",
        ),
        (
            "GET /services/data HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n",
            403,
            "SFPROXY_CROSS_SITE",
        ),
        (
            "GET /secur/frontdoor.jsp HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
            "SFPROXY_PATH_NOT_SERVED",
        ),
        (
            "GET /services/oauth2/singleaccess HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
            "SFPROXY_PATH_NOT_SERVED",
        ),
        (
            "GET /services/data/%2e%2e/%2e%2e/secur HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
            "SFPROXY_PATH_NOT_SERVED",
        ),
        (
            "GET //evil.example/services/data HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
            "SFPROXY_PATH_NOT_SERVED",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
            403,
            "SFPROXY_PATH_NOT_SERVED",
        ),
    ];
    for (request, status, code) in table {
        let mut stream = connect(app.proxy).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let reply = read_reply(&mut stream, false).await.expect("an answer");
        assert_eq!(reply.status, status, "{request}");
        let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("Salesforce's shape");
        assert_eq!(body[0]["errorCode"], code, "{request}");
        assert!(body[0]["message"].as_str().is_some_and(|message| message.len() > 20));
        assert!(reply.header("proxy-status")[0].starts_with("sf-token-proxy; error=http_request_denied"));
    }
    assert!(org.seen().is_empty());
    let refused = "sf_token_proxy_guard_refusals_total{reason=\"path_not_served\"}";
    assert_eq!(app.metric(refused).await, 4.0);
    // an absolute-form target that is us is a plain call
    let mut stream = connect(app.proxy).await;
    let here = format!("GET http://{0}/services/data HTTP/1.1\r\nHost: {0}\r\n\r\n", app.proxy);
    stream.write_all(here.as_bytes()).await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 200);
    assert_eq!(org.seen()[0].line(), "GET /services/data HTTP/1.1");
    app.stop().await;
}

#[tokio::test]
async fn extra_paths_and_hosts_are_what_the_operator_says() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| {
        config.listeners[0].extra_paths = vec!["/b/".into(), "/sink".into()];
        config.listeners[0].hosts = vec!["sf.internal".into()];
    })
    .await;
    assert_eq!(call(app.proxy, "GET /b/1 HTTP/1.1", b"").await.status, 200);
    assert_eq!(call(app.proxy, "GET /sink HTTP/1.1", b"").await.status, 200);
    assert_eq!(call(app.proxy, "GET /sink/x HTTP/1.1", b"").await.status, 403);
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"GET /services/data HTTP/1.1\r\nHost: sf.internal:8080\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 200);
    app.stop().await;
}

#[tokio::test]
async fn garbage_is_refused_and_the_next_caller_is_served() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello on a plain port"[..],
        b"GET / services/data HTTP/1.1\r\n\r\n",
        b"GET /services/data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /services/data HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"\r\n\r\n\r\n\0\0\0",
    ] {
        let mut stream = connect(app.proxy).await;
        stream.write_all(garbage).await.unwrap();
        if let Some(reply) = read_reply(&mut stream, false).await {
            assert_eq!(reply.status, 400, "{}", String::from_utf8_lossy(garbage));
        }
    }
    assert_eq!(call(app.proxy, "GET /services/data HTTP/1.1", b"").await.status, 200);
    assert_eq!(org.seen().len(), 1);
    app.stop().await;
}
