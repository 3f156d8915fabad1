//! The flows without a consent page of their own: password, device, token exchange.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{DATA, Got, Practice, got, start};
use crate::demo::{PasswordUser, Subject};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

impl Practice {
    fn password_user(&self) -> PasswordUser {
        self.org.settings().password_users[0].clone()
    }

    /// With the password as given.
    async fn with_password(&self, password: &str) -> Got {
        let user = self.password_user();
        self.login(&[
            ("grant_type", "password"),
            ("client_id", &user.client_id),
            ("client_secret", user.secret.expose_secret()),
            ("username", &user.username),
            ("password", password),
        ])
        .await
    }

    pub(super) async fn password_login(&self) -> Got {
        let user = self.password_user();
        let whole = [user.password.expose_secret(), user.security_token.expose_secret()].concat();
        self.with_password(&whole).await
    }

    async fn device(&self) -> Value {
        let id = self.org.settings().web_apps[0].client_id.clone();
        let answer = self
            .login(&[("response_type", "device_code"), ("client_id", &id)])
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    async fn poll(&self, device: &Value) -> Got {
        let id = self.org.settings().web_apps[0].client_id.clone();
        let code = device["device_code"].as_str().unwrap();
        self.login(&[("grant_type", "device"), ("client_id", &id), ("code", code)])
            .await
    }

    async fn exchange(&self, more: &[(&str, &str)]) -> Got {
        let app = self.org.settings().exchange_apps[0].clone();
        let mut form = vec![
            ("grant_type", TOKEN_EXCHANGE),
            ("client_id", app.client_id.as_str()),
            ("client_secret", app.secret.as_ref().unwrap().expose_secret()),
            ("subject_token", app.subjects[0].token.expose_secret()),
            ("subject_token_type", ACCESS_TOKEN),
        ];
        form.retain(|(name, _)| !more.iter().any(|(other, _)| name == other));
        form.extend(more);
        self.login(&form).await
    }
}

#[tokio::test]
async fn a_password_needs_its_security_token_and_the_flow_switched_on() {
    let practice = start(|_| {}).await;
    let user = practice.password_user();
    let refused = "invalid_grant: authentication failure";
    let answer = practice.with_password(user.password.expose_secret()).await;
    assert_eq!(answer.refusal(), refused, "without the security token");
    assert_eq!(practice.with_password("wrong").await.refusal(), refused);
    practice.control("password_flow", json!({"on": false})).await;
    assert_eq!(practice.password_login().await.refusal(), refused);
    practice.control("password_flow", json!({"on": true})).await;
    let answer = practice.password_login().await.json();
    let names: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "access_token",
            "id",
            "instance_url",
            "issued_at",
            "signature",
            "token_type"
        ]
    );
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(practice.get(&format!("{DATA}/limits"), token).await.status, 200);

    let form = [
        ("token", token),
        ("client_id", user.client_id.as_str()),
        ("client_secret", user.secret.expose_secret()),
    ];
    let url = format!("{}/services/oauth2/introspect", practice.org.login_url());
    let introspected = got(practice.client.post(url).form(&form)).await.json();
    assert_eq!(introspected, json!({"active": false}), "though it lives");
    practice.stop().await;
}

#[tokio::test]
async fn a_device_waits_and_is_allowed_or_denied_or_too_late() {
    let practice = start(|_| {}).await;
    let device = practice.device().await;
    let names: Vec<&str> = device.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["device_code", "interval", "user_code", "verification_uri"]);
    assert_eq!(device["interval"], 5);
    let pending = "authorization_pending: authorization is pending";
    let slow = "slow_down: polling too quickly";
    assert_eq!(practice.poll(&device).await.refusal(), pending);
    assert_eq!(practice.poll(&device).await.refusal(), slow);
    practice.org.advance(Duration::from_secs(6));
    assert_eq!(practice.poll(&device).await.refusal(), slow, "ten seconds from now on");
    practice.org.advance(Duration::from_secs(16));
    assert_eq!(practice.poll(&device).await.refusal(), pending);

    let uri = device["verification_uri"].as_str().unwrap();
    let code = device["user_code"].as_str().unwrap();
    let page = got(practice.client.get(format!("{uri}?user_code=%22%3E%3Cscript%3E"))).await;
    assert!(
        page.text.contains("id=\"oaapprove\"") && !page.text.contains("<script"),
        "{}",
        page.text
    );
    let press = async |code: &str, decision: &str| {
        let form = [("user_code", code), ("decision", decision)];
        got(practice.client.post(uri).form(&form)).await.status
    };
    assert_eq!(press("NOBODYS1", "allow").await, 400);
    assert_eq!(press(code, "allow").await, 200);
    practice.org.advance(Duration::from_secs(16));
    let answer = practice.poll(&device).await.json();
    assert!(answer["refresh_token"].as_str().unwrap().starts_with("5Aep861"));
    practice.org.advance(Duration::from_secs(16));
    assert_eq!(
        practice.poll(&device).await.refusal(),
        "invalid_grant: expired device code"
    );

    let denied = practice.device().await;
    assert_eq!(press(denied["user_code"].as_str().unwrap(), "deny").await, 200);
    let answer = practice.poll(&denied).await.refusal();
    assert_eq!(answer, "access_denied: end-user denied authorization");

    let late = practice.device().await;
    let told = json!({"user_code": late["user_code"], "allow": true});
    assert_eq!(
        practice.control("approve_device", told.clone()).await,
        json!({"waited": true})
    );
    assert_eq!(practice.control("approve_device", told).await, json!({"waited": false}));
    practice.org.advance(Duration::from_secs(600));
    assert_eq!(
        practice.poll(&late).await.refusal(),
        "invalid_grant: expired device code"
    );
    assert_eq!(practice.org.stats().by_grant.device_code, 3);
    practice.stop().await;
}

#[tokio::test]
async fn an_app_without_the_device_flow_gets_no_code() {
    let practice = start(|settings| settings.web_apps[0].device_flow = false).await;
    let id = practice.org.settings().web_apps[0].client_id.clone();
    let answer = practice
        .login(&[("response_type", "device_code"), ("client_id", &id)])
        .await;
    assert_eq!(answer.refusal(), "unauthorized_client: device flow not enabled");
    practice.stop().await;
}

#[tokio::test]
async fn a_subject_token_is_exchanged_and_every_refusal_has_its_kind() {
    let practice = start(|settings| {
        let app = &mut settings.exchange_apps[0];
        app.scopes.push("refresh_token".into());
        app.subjects.push(Subject {
            token: "once".into(),
            kind: "id_token".into(),
            username: "federated@practice.example".into(),
            single_use: true,
        });
    })
    .await;
    let answer = practice.exchange(&[("scope", "api")]).await.json();
    assert_eq!(
        (&answer["scope"], answer.get("issued_token_type")),
        (&json!("api"), None)
    );
    assert!(answer.get("refresh_token").is_none() && answer["issued_at"].is_string());
    let token = answer["access_token"].as_str().unwrap();
    let info = practice.get("/services/oauth2/userinfo", token).await.json();
    assert_eq!(info["preferred_username"], "federated@practice.example");
    let handler = practice.org.settings().exchange_apps[0].handler.clone();
    let answer = practice.exchange(&[("token_handler", &handler)]).await.json();
    assert!(answer["refresh_token"].is_string(), "the scope is granted");

    let id_token = "urn:ietf:params:oauth:token-type:id_token";
    let once = [("subject_token", "once"), ("subject_token_type", id_token)];
    assert_eq!(practice.exchange(&once).await.status, 200);
    let long = "x".repeat(10_001);
    for (more, refusal) in [
        (&once[..], "invalid_grant: invalid subject token"),
        (&[("subject_token", "other")], "invalid_grant: invalid subject token"),
        (
            &[("subject_token_type", id_token)],
            "invalid_grant: invalid subject token",
        ),
        (
            &[("subject_token_type", "access_token")],
            "invalid_request: invalid subject_token_type",
        ),
        (
            &[("subject_token", &long)],
            "invalid_request: subject_token is too long",
        ),
        (
            &[("token_handler", "Another")],
            "invalid_request: invalid token_handler",
        ),
        (
            &[("scope", "full")],
            "invalid_scope: the requested scope is not allowed",
        ),
        (
            &[("client_secret", "wrong")],
            "invalid_client: invalid client credentials",
        ),
        (
            &[("subject_token", "")],
            "invalid_request: missing required parameter: subject_token",
        ),
    ] {
        assert_eq!(practice.exchange(more).await.refusal(), refusal);
    }
    let url = format!("{}/services/oauth2/token", practice.org.login_url());
    let request = practice.client.post(url).header("host", "login.salesforce.com");
    let answer = got(request.form(&[("grant_type", TOKEN_EXCHANGE)])).await;
    assert_eq!(answer.refusal(), "invalid_grant: request not supported on this domain");
    practice.stop().await;
}
