//! The whole program against the practice org: real TLS, real assertions, Salesforce's rules.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use sf_token_proxy::{
    config::{self, Vars},
    demo::{Org, Settings, Summary, TokenFormat},
};
use tokio::io::AsyncWriteExt as _;

use crate::support::{Reply, Running, call, connect, eventually, read_reply};

/// How the app logs in.
#[derive(Clone, Copy)]
enum Login {
    Pkcs8,
    Pkcs1,
    BasicSecret,
    BodySecret,
}

async fn start(settings: Settings, login: Login) -> (Org, Running) {
    let mut org = Org::start(settings).await.unwrap();
    let files = org.write_files(None).unwrap();
    let app = app_at(&files, login, &files.login_url).await;
    (org, app)
}

async fn app_at(files: &Summary, login: Login, login_url: &str) -> Running {
    let file = |path: &Path| format!("file:{}", path.display());
    let jwt = files.jwt.as_ref().unwrap();
    let secret = files.client_credentials.as_ref().unwrap();
    let by_key = |key: &Path| {
        serde_json::json!({"jwt_bearer": {
            "client_id": jwt.client_id, "username": jwt.username, "private_key": file(key),
        }})
    };
    let by_secret = |send: &str| {
        serde_json::json!({"client_credentials": {
            "client_id": secret.client_id, "client_secret": file(&secret.secret_file), "send_secret": send,
        }})
    };
    let grant = match login {
        Login::Pkcs8 => by_key(&jwt.key_file),
        Login::Pkcs1 => by_key(&jwt.pkcs1_key_file),
        Login::BasicSecret => by_secret("basic"),
        Login::BodySecret => by_secret("body"),
    };
    let yaml = serde_json::json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": {"login_url": login_url, "grant": grant}},
        "upstream": {"ca_file": files.ca_file},
    });
    let none: [(&str, &str); 0] = [];
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::from(none)).unwrap();
    Running::start_with(config, tempfile::tempdir().unwrap()).await
}

fn json(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {reply:?}"))
}

const QUERY: &str = "GET /services/data/v60.0/query?q=SELECT+Id,Name+FROM+Account+LIMIT+1 HTTP/1.1";

#[tokio::test]
async fn every_way_to_log_in_works_and_survives_a_revocation() {
    for login in [Login::Pkcs8, Login::Pkcs1, Login::BasicSecret, Login::BodySecret] {
        let (org, app) = start(Settings::practice().unwrap(), login).await;
        let first = call(app.proxy, QUERY, b"").await;
        assert_eq!(first.status, 200, "{}", first.text());
        assert_eq!(json(&first)["totalSize"], 1);
        assert_eq!(org.revoke(), 1);
        assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
        let stats = org.stats();
        assert_eq!((stats.token_requests, stats.token_max_concurrent), (2, 1));
        assert_eq!(stats.api_401, 1);
        app.stop().await;
        org.stop().await;
    }
}

#[tokio::test]
async fn a_token_in_jwt_format_tells_its_own_end() {
    let settings = Settings {
        token_format: TokenFormat::Jwt {
            lifetime: Duration::from_secs(15 * 60),
        },
        ..Settings::practice().unwrap()
    };
    let (org, app) = start(settings, Login::Pkcs8).await;
    assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
    let minted = app
        .metric("sf_token_proxy_token_minted_timestamp_seconds{org=\"main\"}")
        .await;
    let expiry = app
        .metric("sf_token_proxy_token_expiry_timestamp_seconds{org=\"main\"}")
        .await;
    assert!((expiry - minted - 900.0).abs() < 2.0, "{} s", expiry - minted);
    app.stop().await;
    org.stop().await;
}

#[tokio::test]
async fn the_same_token_minted_again_is_no_reason_to_stop_or_to_storm() {
    let (org, app) = start(Settings::practice().unwrap(), Login::Pkcs8).await;
    assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
    // one stray refusal; the session lives, so the next login gives the same string
    org.fail_api(sf_token_proxy::demo::ApiFault {
        fail: 1,
        path_prefix: "/".into(),
        reply: sf_token_proxy::demo::Reply::json(401, crate::support::raw_org::EXPIRED),
    });
    for _ in 0..20 {
        assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
    }
    assert_eq!(org.stats().token_requests, 2);
    app.stop().await;
    org.stop().await;
}

#[tokio::test]
async fn identity_paths_say_it_with_403() {
    let (org, app) = start(Settings::practice().unwrap(), Login::Pkcs8).await;
    let userinfo = "GET /services/oauth2/userinfo HTTP/1.1";
    let user = json(&call(app.proxy, userinfo, b"").await)["user_id"]
        .as_str()
        .unwrap()
        .to_owned();
    org.revoke();
    let reply = call(app.proxy, userinfo, b"").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    org.revoke();
    let id = format!("GET /id/{}/{user} HTTP/1.1", org.org_id());
    let reply = call(app.proxy, &id, b"").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(org.stats().token_requests, 3);
    app.stop().await;
    org.stop().await;
}

#[tokio::test]
async fn apex_code_that_answers_401_is_passed_on_and_costs_no_login() {
    let (org, app) = start(Settings::practice().unwrap(), Login::Pkcs8).await;
    let reply = call(app.proxy, "GET /services/apexrest/own401 HTTP/1.1", b"").await;
    assert_eq!(reply.status, 401);
    assert_eq!(org.stats().token_requests, 1);
    app.stop().await;
    org.stop().await;
}

#[tokio::test]
async fn cut_connections_and_a_moved_instance_fail_no_idempotent_call() {
    let settings = Settings {
        second_port: Some(0),
        ..Settings::practice().unwrap()
    };
    let (org, app) = start(settings, Login::Pkcs8).await;
    for round in 0..10 {
        assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
        org.cut(true);
        org.move_instance(round % 2 == 0);
    }
    assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
    app.stop().await;
    org.stop().await;
}

#[tokio::test]
async fn a_separate_login_host_that_is_down_hurts_no_call_while_the_token_lives() {
    let settings = Settings {
        login_port: Some(0),
        ..Settings::practice().unwrap()
    };
    let (org, app) = start(settings, Login::Pkcs8).await;
    assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
    org.down(true, false);
    for _ in 0..50 {
        assert_eq!(call(app.proxy, QUERY, b"").await.status, 200);
    }
    // now it dies, too: our 503, then healed when the host is back
    org.revoke();
    let mut pending = tokio::task::JoinSet::new();
    let proxy = app.proxy;
    pending.spawn(async move { call(proxy, QUERY, b"").await.status });
    eventually("a login was tried", || org.stats().token_requests, |n| *n >= 1).await;
    org.down(false, false);
    assert_eq!(
        pending.join_next().await.unwrap().unwrap(),
        200,
        "it waited for the login host"
    );
    app.stop().await;
    org.stop().await;
}

#[tokio::test]
async fn a_refused_login_names_salesforces_reason_and_heals_after_the_approval() {
    let mut org = Org::start(Settings::practice().unwrap()).await.unwrap();
    let files = org.write_files(None).unwrap();
    org.approve(false);
    let app = app_at(&files, Login::Pkcs8, &files.login_url).await;
    let reply = call(app.proxy, QUERY, b"").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("approved"), "{}", reply.text());
    org.approve(true);
    for _ in 0..1000 {
        if call(app.proxy, QUERY, b"").await.status == 200 {
            app.stop().await;
            return org.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not healed within 50 s");
}

/// Sixty-four callers over real TLS, twenty revocations: nobody sees a 401, one login each, never two at once.
#[tokio::test]
async fn sixty_four_callers_and_twenty_revocations_over_tls() {
    let (org, app) = start(Settings::practice().unwrap(), Login::BasicSecret).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU32::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..64 {
        let (stop, answered, proxy) = (Arc::clone(&stop), Arc::clone(&answered), app.proxy);
        callers.spawn(async move {
            let mut stream = connect(proxy).await;
            let body = format!("{{\"Name\":\"caller {n}\"}}");
            let create = format!(
                "POST /services/data/v60.0/sobjects/Account HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            while !stop.load(Ordering::SeqCst) {
                stream.write_all(create.as_bytes()).await.unwrap();
                let reply = read_reply(&mut stream, false).await.expect("an answer");
                assert_eq!(reply.status, 201, "{}", reply.text());
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for round in 1..=20 {
        let before = answered.load(Ordering::SeqCst);
        eventually("calls go on", || answered.load(Ordering::SeqCst), |n| *n > before + 64).await;
        assert_eq!(org.revoke(), 1);
        eventually("the renewal", || org.stats().token_requests, |n| *n == round + 1).await;
    }
    let before = answered.load(Ordering::SeqCst);
    eventually("calls go on", || answered.load(Ordering::SeqCst), |n| *n > before + 64).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let stats = org.stats();
    assert_eq!((stats.token_requests, stats.token_max_concurrent), (21, 1));
    app.stop().await;
    org.stop().await;
}
