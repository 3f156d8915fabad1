//! Every control call, over its HTTP API.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::{DATA, Practice, got, start};

async fn stats(practice: &Practice) -> Value {
    got(practice
        .client
        .get(format!("{}/control/stats", practice.org.control_url())))
    .await
    .json()
}

#[tokio::test]
async fn revoke_ends_all_sessions() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    practice.secret_login().await;
    assert_eq!(practice.control("revoke", json!({})).await, json!({"revoked": 2}));
    assert_eq!(practice.get(&format!("{DATA}/limits"), &token).await.status, 401);
    practice.stop().await;
}

#[tokio::test]
async fn token_calls_fail_as_told() {
    let practice = start(|_| {}).await;
    practice.control("token", json!({"fail": 2, "error": "invalid_grant", "error_description": "token request is already being processed"})).await;
    for _ in 0..2 {
        assert_eq!(
            practice.jwt_login().await.refusal(),
            "invalid_grant: token request is already being processed"
        );
    }
    assert_eq!(practice.jwt_login().await.status, 200);
    practice
        .control(
            "token",
            json!({"fail": -1, "status": 503, "body": "<html>", "content_type": "text/html"}),
        )
        .await;
    for _ in 0..3 {
        let down = practice.jwt_login().await;
        assert_eq!(
            (down.status, down.text.as_str(), down.header("content-type")),
            (503, "<html>", Some("text/html"))
        );
    }
    practice.control("reset", json!({})).await;
    assert_eq!(practice.jwt_login().await.status, 200);

    practice.control("token", json!({"hang_ms": 200})).await;
    let (a, b) = tokio::join!(
        tokio::time::timeout(Duration::from_millis(100), practice.jwt_login()),
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            practice.jwt_login().await.status
        }
    );
    assert!(a.is_err(), "the first hangs");
    assert_eq!(b, 200, "the second does not");
    assert_eq!(stats(&practice).await["token_max_concurrent"], 2);
    practice.stop().await;
}

#[tokio::test]
async fn api_calls_fail_as_told() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let limits = format!("{DATA}/limits");
    practice.control("api", json!({"fail": 1, "path_prefix": limits})).await;
    assert_eq!(practice.get(&format!("{DATA}/sobjects"), &token).await.status, 200);
    assert_eq!(
        practice.get(&limits, &token).await.json()[0]["errorCode"],
        "INVALID_SESSION_ID"
    );
    assert_eq!(practice.get(&limits, &token).await.status, 200);
    practice.control("api", json!({"fail": 1, "status": 420, "body": {"a": 1}, "content_type": "text/x", "headers": {"Retry-After": "7"}})).await;
    let told = practice.get(&limits, &token).await;
    assert_eq!(
        (
            told.status,
            told.json(),
            told.header("retry-after"),
            told.header("content-type")
        ),
        (420, json!({"a": 1}), Some("7"), Some("text/x"))
    );
    practice.stop().await;
}

#[tokio::test]
async fn latency_is_added() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    practice.control("latency", json!({"api_ms": 150, "token_ms": 0})).await;
    let path = format!("{DATA}/limits");
    let quick = tokio::time::timeout(Duration::from_millis(100), practice.get(&path, &token)).await;
    assert!(quick.is_err());
    assert!(
        tokio::time::timeout(Duration::from_millis(100), practice.jwt_login())
            .await
            .is_ok()
    );
    practice.stop().await;
}

#[tokio::test]
async fn connections_are_cut() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    assert_eq!(stats(&practice).await["open_connections"], 1);
    let pending = practice
        .call(Method::GET, "/services/apexrest/practice/silent/30", &token)
        .send();
    let cutting = async {
        while practice.org.stats().api_requests == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            practice.control("cut", json!({"idle_only": true})).await,
            json!({"cut": 0})
        );
        assert_eq!(practice.control("cut", json!({})).await, json!({"cut": 1}));
    };
    let (answer, ()) = tokio::join!(pending, cutting);
    assert!(answer.is_err());
    assert_eq!(
        practice.get(&format!("{DATA}/limits"), &token).await.status,
        200,
        "a new connection works"
    );
    practice.stop().await;
}

#[tokio::test]
async fn what_is_down_does_not_answer() {
    let practice = start(|settings| settings.login_port = Some(0)).await;
    let token = practice.token().await;
    let path = format!("{DATA}/limits");
    practice.control("down", json!({"api": true})).await;
    assert!(practice.call(Method::GET, &path, &token).send().await.is_err());
    assert_eq!(practice.jwt_login().await.status, 200);
    practice.control("down", json!({"token": true})).await;
    assert_eq!(practice.get(&path, &token).await.status, 200);
    let login = practice
        .client
        .post(format!("{}/services/oauth2/token", practice.org.login_url()));
    assert!(login.send().await.is_err());
    practice.control("down", json!({})).await;
    assert_eq!(practice.jwt_login().await.status, 200);
    practice.stop().await;
}

#[tokio::test]
async fn one_host_can_be_half_down() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    practice.control("down", json!({"token": true})).await;
    let login = practice
        .client
        .post(format!("{}/services/oauth2/token", practice.org.login_url()));
    assert!(login.send().await.is_err());
    assert_eq!(practice.get(&format!("{DATA}/limits"), &token).await.status, 200);
    practice.stop().await;
}

#[tokio::test]
async fn approval_remint_and_clock_are_switched() {
    let practice = start(|_| {}).await;
    let first = practice.token().await;
    practice.control("approve", json!({"approved": false})).await;
    assert_eq!(
        practice.jwt_login().await.refusal(),
        "invalid_grant: user hasn't approved this consumer"
    );
    practice.control("approve", json!({"approved": true})).await;
    assert_eq!(practice.token().await, first);
    practice.control("remint", json!({"same": false})).await;
    assert_ne!(practice.token().await, first);
    practice.control("clock", json!({"advance_s": 7201})).await;
    assert_eq!(stats(&practice).await["live_sessions"], 0);
    practice.stop().await;
}

#[tokio::test]
async fn a_moved_org_answers_at_its_new_instance_only() {
    let practice = start(|settings| {
        settings.second_port = Some(0);
        settings.login_port = Some(0);
    })
    .await;
    let token = practice.token().await;
    let path = format!("{DATA}/limits");
    let at = |base: &str| got(practice.client.get(format!("{base}{path}")).bearer_auth(&token));
    let second = practice.org.second_url().unwrap().to_owned();
    let login = practice.org.login_url().to_owned();
    assert_eq!(
        (
            at(practice.org.base_url()).await.status,
            at(&second).await.status,
            at(&login).await.status
        ),
        (200, 401, 401)
    );
    practice.control("move", json!({"to_second": true})).await;
    assert_eq!(practice.jwt_login().await.json()["instance_url"], second);
    assert_eq!(
        (at(practice.org.base_url()).await.status, at(&second).await.status),
        (401, 200)
    );
    practice.stop().await;
}

#[tokio::test]
async fn requests_and_stats_are_shown_without_credentials() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    practice.get("/services/apexrest/echo?x=%2f%20", &token).await;
    got(practice
        .call(Method::POST, "/services/apexrest/echo", "dead")
        .body("abc"))
    .await;
    let shown = got(practice
        .client
        .get(format!("{}/control/requests?last=2", practice.org.control_url())))
    .await;
    assert!(!shown.text.contains(&token));
    let shown = shown.json();
    assert_eq!(
        (&shown[0]["target"], &shown[0]["token_known"], &shown[0]["version"]),
        (
            &json!("/services/apexrest/echo?x=%2f%20"),
            &json!(true),
            &json!("HTTP/1.1")
        )
    );
    assert_eq!(
        (&shown[1]["method"], &shown[1]["token_known"], &shown[1]["body_bytes"]),
        (&json!("POST"), &json!(false), &json!(3))
    );
    assert_eq!(
        shown[1]["body_sha256"],
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    let stats = stats(&practice).await;
    assert_eq!(
        (&stats["by_grant"]["jwt_bearer"], &stats["by_grant"]["refresh_token"]),
        (&json!(1), &json!(0))
    );
    for (name, expected) in [
        ("token_requests", 1),
        ("logins", 1),
        ("spent_refresh_presented", 0),
        ("a360_exchanges", 0),
        ("token_ok", 1),
        ("api_requests", 2),
        ("api_401", 1),
        ("live_sessions", 1),
    ] {
        assert_eq!(stats[name], expected, "{name}");
    }
    practice.stop().await;
}

#[tokio::test]
async fn unknown_control_calls_get_the_list_and_bad_ones_the_reason() {
    let practice = start(|_| {}).await;
    let control = practice.org.control_url().to_owned();
    let unknown = got(practice.client.get(format!("{control}/control/nothing"))).await;
    assert_eq!(
        (unknown.status, unknown.json()["calls"].as_array().unwrap().len()),
        (404, 26)
    );
    let wrong = got(practice
        .client
        .post(format!("{control}/control/api"))
        .json(&json!({"stauts": 1})))
    .await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.text.contains("stauts"));
    practice.stop().await;
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_private_and_go_with_the_org() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut practice = start(|_| {}).await;
    let summary = practice.org.write_files(None).unwrap();
    let jwt = summary.jwt.clone().unwrap();
    let app = summary.client_credentials.clone().unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let directory = summary.ca_file.parent().unwrap().to_path_buf();
    assert_eq!(mode(&directory), 0o700);
    let password = summary.password.clone().unwrap();
    let exchange = summary.exchange.clone().unwrap();
    let mut secrets = vec![
        app.secret_file.clone(),
        password.secret_file,
        password.password_file,
        password.security_token_file,
        exchange.subject_token_file,
    ];
    secrets.extend(exchange.secret_file);
    let [person, desktop, keyed] = &summary.web[..] else {
        panic!("three web apps: {summary:?}");
    };
    secrets.extend(person.secret_file.clone());
    assert!(desktop.secret_file.is_none() && desktop.key_file.is_none() && keyed.secret_file.is_none());
    let keys = [
        &summary.ca_file,
        &jwt.key_file,
        &jwt.pkcs1_key_file,
        keyed.key_file.as_ref().unwrap(),
    ];
    for file in keys.into_iter().chain(&secrets) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    assert_eq!(secrets.len(), 7);
    let text = summary.to_string();
    for secret in secrets {
        let content = std::fs::read_to_string(&secret).unwrap();
        assert!(!content.is_empty() && !text.contains(&content), "{}", secret.display());
    }
    for shown in [
        practice.org.base_url(),
        &jwt.client_id,
        &desktop.client_id,
        practice.org.tenant_url().unwrap(),
    ] {
        assert!(text.contains(shown), "{shown}");
    }
    practice.stop().await;
    assert!(!directory.exists());
}
