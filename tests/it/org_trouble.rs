//! When the org, or the way to it, is in trouble.

use std::time::Duration;

use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::Instant};

use crate::support::{RawOrg, Running, Script, call, connect, eventually, read_reply};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";
const POST: &str = "POST /services/data/v60.0/x HTTP/1.1\nContent-Length: 2";

fn code(reply: &crate::support::Reply) -> String {
    let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("Salesforce's shape");
    body[0]["errorCode"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pooled_connection_that_the_org_closed_is_not_used() {
    let org = RawOrg::start(|_| Script::SayAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for _ in 0..50 {
        assert_eq!(call(app.proxy, GET, b"").await.status, 200);
        assert_eq!(call(app.proxy, POST, b"hi").await.status, 200);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_reused_connection_that_dies_silently_costs_an_idempotent_call_nothing() {
    // every connection serves one call and dies at the second without an answer
    let org = RawOrg::start(|request| {
        if request.nth_on_connection == 0 {
            Script::ok()
        } else {
            Script::Cut
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    for _ in 0..10 {
        assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    }
    let reconnected = "sf_token_proxy_retries_total{org=\"main\",result=\"reconnected\",surface=\"rest\"}";
    assert!(app.metric(reconnected).await >= 9.0);
    app.stop().await;
}

#[tokio::test]
async fn a_post_that_the_org_may_have_acted_on_is_not_sent_twice() {
    let org = RawOrg::start(|request| {
        if request.nth_on_connection == 0 {
            Script::ok()
        } else {
            Script::Cut
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, POST, b"hi").await.status, 200);
    let reply = call(app.proxy, POST, b"hi").await;
    assert_eq!((reply.status, code(&reply).as_str()), (502, "SFPROXY_ORG_BROKE_OFF"));
    assert_eq!(org.seen().len(), 2, "sent once each");
    app.stop().await;
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_off_is_502_with_the_reason() {
    let org = RawOrg::start(|_| Script::Cut).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!((reply.status, code(&reply).as_str()), (502, "SFPROXY_ORG_BROKE_OFF"));
    assert!(reply.header("proxy-status")[0].contains("error=connection_terminated"));
    assert_eq!(org.seen().len(), 1);
    app.stop().await;
}

#[tokio::test]
async fn an_org_that_nobody_listens_for_is_502() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let login = RawOrg::start(|_| panic!("calls go elsewhere")).await;
    let app = Running::start(&login.url(), |config| {
        config.orgs.values_mut().next().unwrap().instance_url = Some(format!("http://{nobody}").parse().unwrap());
    })
    .await;
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!((reply.status, code(&reply).as_str()), (502, "SFPROXY_ORG_UNREACHABLE"));
    assert!(reply.text().to_lowercase().contains("refused"), "{}", reply.text());
    app.stop().await;
}

#[tokio::test]
async fn an_org_without_trusted_tls_is_502_and_names_the_setting() {
    let login = RawOrg::start(|_| panic!("calls go elsewhere")).await;
    let no_tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let instance = format!("https://{}", no_tls.local_addr().unwrap());
    let app = Running::start(&login.url(), |config| {
        config.orgs.values_mut().next().unwrap().instance_url = Some(instance.parse().unwrap());
    })
    .await;
    let mut answering = tokio::task::JoinSet::new();
    answering.spawn(async move {
        let (mut stream, _) = no_tls.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!((reply.status, code(&reply).as_str()), (502, "SFPROXY_ORG_TLS"));
    assert!(reply.text().contains("upstream.ca_file"));
    app.stop().await;
}

#[tokio::test]
async fn a_hanging_org_is_504_after_the_setting() {
    let org = RawOrg::start(|_| Script::Hang).await;
    let app = Running::start(&org.url(), |config| {
        config.upstream.response_timeout = Duration::from_millis(300);
    })
    .await;
    let asked = Instant::now();
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!((reply.status, code(&reply).as_str()), (504, "SFPROXY_ORG_TIMEOUT"));
    assert!(asked.elapsed() >= Duration::from_millis(300));
    assert!(reply.header("proxy-status")[0].contains("error=http_response_timeout"));
    assert!(reply.text().contains("upstream.response_timeout"));
    app.stop().await;
}

#[tokio::test]
async fn an_answer_that_stalls_or_breaks_off_is_broken_off_for_the_caller_too() {
    for end in ["stall", "cut"] {
        let org = RawOrg::start(move |_| {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_vec();
            match end {
                "cut" => Script::SayAndClose(head),
                _ => Script::Slowly(vec![(Duration::ZERO, head), (Duration::from_secs(600), Vec::new())]),
            }
        })
        .await;
        let app = Running::start(&org.url(), |config| {
            config.upstream.body_idle_timeout = Duration::from_millis(300);
        })
        .await;
        let mut stream = connect(app.proxy).await;
        stream
            .write_all(b"GET /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await
            .unwrap();
        assert!(
            read_reply(&mut stream, false).await.is_none(),
            "{end}: a short answer must not look whole"
        );
        let outcome = if end == "cut" { "upstream_error" } else { "timeout" };
        let series = format!(
            "sf_token_proxy_requests_total{{code=\"200\",method=\"GET\",org=\"main\",outcome=\"{outcome}\",surface=\"rest\"}}"
        );
        assert_eq!(app.metric(&series).await, 1.0);
        app.stop().await;
    }
}

#[tokio::test]
async fn a_caller_that_stalls_in_its_body_is_told_and_the_org_is_let_go() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| {
        config.upstream.body_idle_timeout = Duration::from_millis(300);
    })
    .await;
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf")
        .await
        .unwrap();
    let reply = read_reply(&mut stream, false).await.expect("an answer");
    assert_eq!((reply.status, code(&reply).as_str()), (408, "SFPROXY_REQUEST_BODY"));
    let in_use = "sf_token_proxy_upstream_connections{org=\"main\",state=\"in_use\"}";
    for _ in 0..1000 {
        if app.metric(in_use).await == 0.0 {
            return app.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the org's connection was not let go");
}

#[tokio::test]
async fn a_caller_that_goes_away_is_counted_and_its_org_connection_closed() {
    let org = RawOrg::start(|_| Script::Hang).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"GET /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    eventually("the org has the call", || org.seen().len(), |n| *n == 1).await;
    drop(stream);
    let cancelled = "sf_token_proxy_requests_total{code=\"none\",method=\"GET\",org=\"main\",outcome=\"cancelled\",surface=\"rest\"}";
    for _ in 0..1000 {
        let page = call(app.admin, "GET /metrics HTTP/1.1", b"").await.text();
        if page.contains(&format!("{cancelled} 1"))
            && page.contains("sf_token_proxy_upstream_connections{org=\"main\",state=\"in_use\"} 0")
            && page.contains("sf_token_proxy_requests_in_flight{org=\"main\"} 0")
        {
            app.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the call was not counted as cancelled");
}
