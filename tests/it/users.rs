//! Tokens of many users through one listener (`listeners[].users`), against the practice org's JWT bearer and scripts.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sf_token_proxy::config::{self, Vars};

use crate::support::{RawOrg, Running, Script, call, eventually};

const TOKEN: &str = "/services/oauth2/token";

/// A login host that gives each user a token of that user's, and an org that says whose token it got.
pub(crate) async fn org() -> RawOrg {
    let dead: Mutex<BTreeSet<String>> = Mutex::default();
    let minted: Mutex<u32> = Mutex::default();
    let org = RawOrg::start(move |request| {
        if request.target() == TOKEN {
            let form: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
            let assertion = &form.iter().find(|(name, _)| name == "assertion").unwrap().1;
            let claims = BASE64_URL_SAFE_NO_PAD
                .decode(assertion.split('.').nth(1).unwrap())
                .unwrap();
            let user = serde_json::from_slice::<Value>(&claims).unwrap()["sub"]
                .as_str()
                .unwrap()
                .to_owned();
            if user.starts_with("unknown") {
                let refusal = r#"{"error":"invalid_grant","error_description":"user hasn't approved this consumer"}"#;
                return Script::json("400 Bad Request", refusal);
            }
            let mut minted = minted.lock().unwrap();
            *minted += 1;
            let host = request.header("host")[0];
            let answer =
                json!({"access_token": format!("00D!{user}!{minted}"), "instance_url": format!("http://{host}")});
            return Script::json("200 OK", &answer.to_string());
        }
        let token = request.token().to_owned();
        if request.target().ends_with("/kill") {
            dead.lock().unwrap().insert(token);
            return Script::ok();
        }
        match dead.lock().unwrap().contains(&token) {
            true => Script::expired(),
            false => Script::json("200 OK", &json!({"token": token}).to_string()),
        }
    })
    .await;
    org.script_logins();
    org
}

pub(crate) async fn app(org: &RawOrg, users: Value) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0", "users": users}],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": {"login_url": org.url(), "grant": {"jwt_bearer": {
            "client_id": "app", "username": "own@acme.example", "private_key": format!("file:{}", key.display()),
        }}}},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    Running::start_with(config, folder).await
}

pub(crate) async fn whose(app: &Running, user: Option<&str>) -> (u16, String) {
    let header = user.map(|user| format!("\nX-SFPROXY-User: {user}")).unwrap_or_default();
    let reply = call(app.proxy, &format!("GET /services/data/v60.0/x HTTP/1.1{header}"), b"").await;
    (reply.status, reply.text())
}

#[tokio::test]
async fn each_user_gets_a_token_of_their_own() {
    let org = org().await;
    let app = app(&org, json!({"allow": ["*@acme.example"]})).await;
    for (user, owner) in [
        (Some("anna@acme.example"), "anna@acme.example"),
        (Some("BEN@acme.example"), "ben@acme.example"),
        (None, "own@acme.example"),
        (Some("anna@acme.example"), "anna@acme.example"),
    ] {
        let (status, body) = whose(&app, user).await;
        assert_eq!(status, 200, "{body}");
        assert!(body.contains(&format!("00D!{owner}!")), "{user:?}: {body}");
    }
    let logins = org.seen().iter().filter(|r| r.target() == TOKEN).count();
    assert_eq!(logins, 3, "one for each user");
    // The header ends here.
    assert!(org.seen().iter().all(|r| r.header("x-sfproxy-user").is_empty()));
    assert_eq!(app.metric("sf_token_proxy_user_tokens{org=\"main\"}").await, 2.0);
    // A user is nobody's label.
    let page = call(app.admin, "GET /metrics HTTP/1.1", b"").await.text();
    assert!(!page.contains("anna") && !page.contains("acme.example"));
    app.stop().await;
}

#[tokio::test]
async fn a_dead_token_of_one_user_is_renewed_for_that_user_alone() {
    let org = org().await;
    let app = app(&org, json!({"allow": ["*"]})).await;
    for user in ["anna@acme.example", "ben@acme.example"] {
        assert_eq!(whose(&app, Some(user)).await.0, 200);
    }
    let kill = "GET /services/data/v60.0/kill HTTP/1.1\nX-SFPROXY-User: anna@acme.example";
    assert_eq!(call(app.proxy, kill, b"").await.status, 200);
    assert_eq!(whose(&app, Some("anna@acme.example")).await.0, 200);
    assert_eq!(whose(&app, Some("ben@acme.example")).await.0, 200);
    let logins = org.seen().iter().filter(|r| r.target() == TOKEN).count();
    assert_eq!(logins, 4, "own, anna, ben, anna again");
    app.stop().await;
}

#[tokio::test]
async fn only_users_of_the_list_cost_a_login() {
    let org = org().await;
    let app = app(&org, json!({"allow": ["svc-*@acme.example"], "required": true})).await;
    for user in [
        "anna@acme.example",
        "svc-1@acme.example.evil",
        "svc-1",
        "svc-\u{e9}@acme.example",
        "",
    ] {
        let (status, body) = whose(&app, Some(user)).await;
        assert_eq!(status, 403, "{user}");
        assert!(body.contains("SFPROXY_USER_NOT_ALLOWED"), "{body}");
    }
    let twice =
        "GET /services/data/v60.0/x HTTP/1.1\nX-SFPROXY-User: svc-1@acme.example\nX-SFPROXY-User: svc-2@acme.example";
    assert_eq!(call(app.proxy, twice, b"").await.status, 403);
    let (status, body) = whose(&app, None).await;
    assert_eq!((status, body.contains("SFPROXY_USER_MISSING")), (403, true), "{body}");
    assert_eq!(whose(&app, Some("svc-1@acme.example")).await.0, 200);
    let logins = org.seen().iter().filter(|r| r.target() == TOKEN).count();
    assert_eq!(logins, 2, "the org's own, and the one allowed");
    app.stop().await;
}

#[tokio::test]
async fn a_user_who_is_not_approved_is_explained_and_hurts_nobody_else() {
    let org = org().await;
    let app = app(&org, json!({"allow": ["*"]})).await;
    let (status, body) = whose(&app, Some("unknown@acme.example")).await;
    assert_eq!(status, 503);
    assert!(body.contains("Permitted Users"), "{body}");
    assert_eq!(whose(&app, Some("anna@acme.example")).await.0, 200);
    app.stop().await;
}

#[tokio::test]
async fn users_are_bounded_by_number_and_by_a_budget_together() {
    let org = org().await;
    let users = json!({"allow": ["*"], "max": 2, "login_budget": {"burst": 5, "per_minute": 1}});
    let app = Arc::new(app(&org, users).await);
    let mut answered = vec![];
    for n in 0..8 {
        answered.push(whose(&app, Some(&format!("u{n}@acme.example"))).await);
    }
    let served = answered.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(served, 5, "as many as the common budget allows");
    let (status, body) = answered.last().unwrap();
    assert_eq!(*status, 503);
    assert!(body.contains("budget"), "{body}");
    // Those beyond the bound were let go, and their keepers ended.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    loop {
        let kept = app.metric("sf_token_proxy_user_tokens{org=\"main\"}").await;
        if kept <= 2.0 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "still {kept} users");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually("the org answers", || org.seen().len(), |n| *n > 0).await;
    Arc::into_inner(app).unwrap().stop().await;
}
