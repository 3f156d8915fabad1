//! When the login host is in trouble.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};

use crate::{
    site::metric_becomes,
    support::{RawOrg, Running, Script, app::CANARY_SECRET, call, connect, eventually},
};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";
const NOT_APPROVED: &str = r#"{"error":"invalid_grant","error_description":"user hasn't approved this consumer"}"#;

#[tokio::test]
async fn a_login_host_that_is_down_at_start_is_said_and_healed() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let app = Running::start(&format!("http://{address}"), |config| {
        config.orgs.values_mut().next().unwrap().token.refresh_wait = Duration::from_millis(500);
        config.admin.startup_patience = Duration::from_secs(1);
    })
    .await;
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("SFPROXY_NO_TOKEN"));
    assert!(
        reply.text().contains(&address.to_string()),
        "which host: {}",
        reply.text()
    );
    assert_eq!(reply.header("retry-after").len(), 1);
    let probe = async |path: &str| call(app.admin, &format!("GET {path} HTTP/1.1"), b"").await;
    assert_eq!(probe("/livez").await.status, 200, "the process turns over");

    let org = RawOrg::start_at(address, |_| Script::ok()).await;
    let back = Instant::now();
    while call(app.proxy, GET, b"").await.status != 200 {
        assert!(back.elapsed() < Duration::from_secs(60), "not healed within a minute");
    }
    assert!(org.logins() <= 2);
    assert_eq!(probe("/startupz").await.status, 200);
    assert_eq!(probe("/readyz").await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_permanent_refusal_is_answered_from_memory_and_heals() {
    let org = RawOrg::start(|_| Script::ok()).await;
    org.refuse_logins(Some(("400 Bad Request", NOT_APPROVED)));
    let app = Running::start(&org.url(), |config| config.admin.startup_patience = Duration::ZERO).await;
    eventually("the first login", || org.logins(), |n| *n == 1).await;
    let refused = call(app.proxy, GET, b"").await;
    assert_eq!(refused.status, 503);
    for _ in 0..50 {
        let asked = Instant::now();
        let reply = call(app.proxy, GET, b"").await;
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
        assert_eq!(reply.status, 503);
        let text = reply.text();
        assert!(
            text.contains("user hasn't approved this consumer"),
            "Salesforce's reason: {text}"
        );
        assert!(text.to_lowercase().contains("pre-authorized"), "our advice: {text}");
        assert!(!text.contains(CANARY_SECRET));
    }
    assert!(org.logins() <= 2, "callers cause no logins");
    let startup = call(app.admin, "GET /startupz HTTP/1.1", b"").await;
    assert_eq!(
        startup.status,
        503,
        "a permanent refusal holds the start back: {}",
        startup.text()
    );
    assert!(startup.text().contains("refused"), "{}", startup.text());
    // the operator approves the app; the schedule is 5, 15, 30 s, then each minute
    org.refuse_logins(None);
    let approved = Instant::now();
    while call(app.proxy, GET, b"").await.status != 200 {
        assert!(
            approved.elapsed() < Duration::from_secs(120),
            "not healed within two minutes"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(org.logins() <= 5);
    assert_eq!(call(app.admin, "GET /startupz HTTP/1.1", b"").await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_login_host_that_is_down_while_the_token_lives_fails_no_call() {
    let org = RawOrg::start(|_| Script::ok()).await;
    // the shortest there is: a renewal is due after 30 s
    let app = Running::start(&org.url(), |config| {
        config.orgs.values_mut().next().unwrap().token.lifetime = Duration::from_secs(31);
    })
    .await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    org.refuse_logins(Some(("503 Service Unavailable", "<html>maintenance</html>")));
    let started = Instant::now();
    let mut calls = 0;
    while started.elapsed() < Duration::from_secs(44) {
        assert_eq!(call(app.proxy, GET, b"").await.status, 200);
        calls += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(calls > 100);
    assert!(org.logins() >= 2, "a renewal was tried, or this proves nothing");
    let state = "sf_token_proxy_token_state{org=\"main\",state=\"live_renewal_failing\"}";
    assert_eq!(app.metric(state).await, 1.0);
    assert_eq!(app.metric("sf_token_proxy_token_past_expiry{org=\"main\"}").await, 1.0);
    app.stop().await;
}

#[tokio::test]
async fn calls_before_the_first_token_wait_for_it() {
    let org = RawOrg::start(|_| Script::ok()).await;
    org.pause_logins(Duration::from_millis(500));
    let app = Running::start(&org.url(), |_| {}).await;
    let started = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let proxy = app.proxy;
        calls.spawn(async move { call(proxy, GET, b"").await.status });
    }
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert!(started.elapsed() >= Duration::from_millis(400), "nobody had to wait");
    assert_eq!(org.logins(), 1);
    app.stop().await;
}

/// Sends a call that has to wait for a token, and goes away after `patience`.
async fn leave_without_a_token(app: &Running, patience: Duration) {
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(format!("{GET}\r\nHost: localhost\r\n\r\n").as_bytes())
        .await
        .unwrap();
    metric_becomes(app, "sf_token_proxy_token_waiters{org=\"main\"}", 1.0).await;
    let answer = tokio::time::timeout(patience, stream.read_u8()).await;
    assert!(answer.is_err(), "there was an answer");
    drop(stream);
    metric_becomes(app, "sf_token_proxy_token_waiters{org=\"main\"}", 0.0).await;
}

#[tokio::test]
async fn a_caller_that_gives_up_waiting_for_a_token_counts_as_our_error() {
    let org = RawOrg::start(|_| Script::ok()).await;
    org.pause_logins(Duration::from_secs(60));
    let app = Running::start(&org.url(), |_| {}).await;
    let counted = |outcome: &str| {
        format!(
            "sf_token_proxy_requests_total{{code=\"none\",method=\"GET\",org=\"main\",outcome=\"{outcome}\",surface=\"rest\"}}"
        )
    };

    // A login may take a moment: who leaves in it had its own reasons.
    leave_without_a_token(&app, Duration::from_millis(1)).await;
    metric_becomes(&app, &counted("cancelled"), 1.0).await;

    // The time-out of an app.
    leave_without_a_token(&app, Duration::from_millis(2_200)).await;
    metric_becomes(&app, &counted("token_error"), 1.0).await;
    assert_eq!(app.metric(&counted("cancelled")).await, 1.0);
    app.stop().await;
}
