//! Each grant, each refusal, and the life of a session, over the wire.

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{DATA, got, now, start};
use crate::demo::TokenFormat;

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

fn names(body: &Value) -> Vec<&str> {
    body.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_jwt_bearer_answer_has_exactly_salesforces_fields() {
    let practice = start(|_| {}).await;
    let answer = practice.jwt_login().await;
    let body = answer.json();
    assert_eq!(
        names(&body),
        ["access_token", "id", "instance_url", "scope", "token_type"]
    );
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["scope"], "api id refresh_token cdp_query_api");
    assert_eq!(body["instance_url"], practice.org.base_url());
    let id = body["id"].as_str().unwrap();
    let (_, user) = id.split_once(&format!("/id/{}/005", practice.org.org_id())).unwrap();
    assert_eq!(user.len(), 15);
    practice.stop().await;
}

#[tokio::test]
async fn client_credentials_work_by_body_and_by_basic_and_are_signed() {
    let practice = start(|_| {}).await;
    let body = practice.secret_login().await.json();
    assert_eq!(
        names(&body),
        [
            "access_token",
            "api_instance_url",
            "id",
            "instance_url",
            "issued_at",
            "scope",
            "signature",
            "token_type"
        ]
    );
    let app = practice.org.settings().secret_clients[0].clone();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, app.secret.expose_secret().as_bytes());
    let text = format!(
        "{}{}",
        body["id"].as_str().unwrap(),
        body["issued_at"].as_str().unwrap()
    );
    let signature = STANDARD.decode(body["signature"].as_str().unwrap()).unwrap();
    aws_lc_rs::hmac::verify(&key, text.as_bytes(), &signature).unwrap();

    let url = format!("{}/services/oauth2/token", practice.org.login_url());
    let basic = practice
        .client
        .post(url)
        .basic_auth(&app.client_id, Some(app.secret.expose_secret()));
    let answer = got(basic.form(&[("grant_type", "client_credentials")])).await;
    assert_eq!(answer.json()["access_token"], body["access_token"]);
    practice.stop().await;
}

#[tokio::test]
async fn each_refusal_of_client_credentials_is_salesforces() {
    let practice = start(|settings| {
        let app = settings.secret_clients[0].clone();
        let with = |id: &str| crate::demo::SecretClient {
            client_id: id.into(),
            ..app.clone()
        };
        settings.secret_clients.push(crate::demo::SecretClient {
            flow_enabled: false,
            ..with("off")
        });
        settings.secret_clients.push(crate::demo::SecretClient {
            run_as: None,
            ..with("nobody")
        });
        settings.secret_clients.push(crate::demo::SecretClient {
            scopes: vec!["refresh_token".into()],
            ..with("scopeless")
        });
    })
    .await;
    let app = practice.org.settings().secret_clients[0].clone();
    let secret = app.secret.expose_secret();
    for (id, secret, refusal) in [
        (
            app.client_id.as_str(),
            "wrong",
            "invalid_client: invalid client credentials",
        ),
        ("unknown", secret, "invalid_client_id: client identifier invalid"),
        ("off", secret, "invalid_grant: client credentials flow not enabled"),
        ("nobody", secret, "invalid_grant: no client credentials user enabled"),
        ("scopeless", secret, "invalid_grant: no valid scopes"),
        ("", secret, "invalid_request: missing required parameter: client_id"),
        (&app.client_id, "", "invalid_client: invalid client credentials"),
    ] {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret),
        ];
        assert_eq!(practice.login(&form).await.refusal(), refusal, "{id}");
    }
    let url = format!("{}/services/oauth2/token", practice.org.login_url());
    for host in ["login.salesforce.com", "test.salesforce.com:443"] {
        let request = practice.client.post(&url).header("host", host);
        let answer = got(request.form(&[
            ("grant_type", "client_credentials"),
            ("client_id", &app.client_id),
            ("client_secret", secret),
        ]))
        .await;
        assert_eq!(answer.refusal(), "invalid_grant: request not supported on this domain");
    }
    practice.org.approve(false);
    assert_eq!(
        practice.secret_login().await.refusal(),
        "invalid_app_access: user is not admin approved to access this app"
    );
    practice.stop().await;
}

#[tokio::test]
async fn each_refusal_of_an_assertion_reaches_the_wire() {
    let practice = start(|settings| {
        let app = settings.jwt_clients[0].clone();
        settings.jwt_clients.push(crate::demo::JwtClient {
            client_id: "scopeless".into(),
            scopes: vec!["api".into()],
            ..app
        });
    })
    .await;
    let cases: [(&str, Value, &str); 5] = [
        (
            "aud",
            json!("https://example.com"),
            "invalid_grant: audience is invalid",
        ),
        (
            "exp",
            json!(super::now() - 600),
            "invalid_grant: expired authorization code",
        ),
        ("iss", json!("unknown"), "invalid_client_id: client identifier invalid"),
        (
            "sub",
            json!("someone@else"),
            "invalid_grant: user hasn't approved this consumer",
        ),
        (
            "iss",
            json!("scopeless"),
            "invalid_request: The JWT bearer and SAML assertion bearer flows require a refresh_token scope.",
        ),
    ];
    for (claim, value, refusal) in cases {
        let assertion = practice.assertion(|claims| claims[claim] = value);
        assert_eq!(
            practice
                .login(&[("grant_type", JWT_BEARER), ("assertion", &assertion)])
                .await
                .refusal(),
            refusal
        );
    }
    let mut forged = practice.assertion(|_| {});
    forged.truncate(forged.len() - 8);
    forged.push_str("AAAAAAAA");
    let forged = practice
        .login(&[("grant_type", JWT_BEARER), ("assertion", &forged)])
        .await;
    assert_eq!(forged.refusal(), "invalid_client: invalid client credentials");
    let own = practice.assertion(|claims| claims["aud"] = json!(practice.org.login_url()));
    assert_eq!(
        practice
            .login(&[("grant_type", JWT_BEARER), ("assertion", &own)])
            .await
            .status,
        200
    );
    practice.stop().await;
}

#[tokio::test]
async fn what_is_not_a_form_post_is_refused() {
    let practice = start(|_| {}).await;
    let url = format!("{}/services/oauth2/token", practice.org.login_url());
    let cases = [
        (practice.client.get(&url), "invalid_request: must use HTTP POST"),
        (
            practice
                .client
                .post(&url)
                .json(&json!({"grant_type": "client_credentials"})),
            "unsupported_grant_type: grant type not supported",
        ),
        (
            practice.client.post(&url).form(&[("grant_type", "hybrid_refresh")]),
            "unsupported_grant_type: grant type not supported",
        ),
        (
            practice.client.post(format!("{url}?grant_type=client_credentials")),
            "unsupported_grant_type: grant type not supported",
        ),
        (
            practice.client.post(&url).form(&[("grant_type", JWT_BEARER)]),
            "invalid_request: missing required parameter: assertion",
        ),
        (
            practice
                .client
                .post(&url)
                .form(&[("grant_type", JWT_BEARER), ("assertion", "x.y")]),
            "invalid_grant: invalid assertion",
        ),
    ];
    for (request, refusal) in cases {
        assert_eq!(got(request).await.refusal(), refusal);
    }
    practice.stop().await;
}

#[tokio::test]
async fn the_same_token_comes_again_until_the_session_dies() {
    let practice = start(|settings| settings.session_timeout = Duration::from_secs(1800)).await;
    let first = practice.token().await;
    assert_eq!(practice.token().await, first);
    assert_eq!(practice.org.stats().live_sessions, 1);
    assert_eq!(practice.org.revoke(), 1);
    let second = practice.token().await;
    assert_ne!(second, first);
    practice.org.advance(Duration::from_secs(1801));
    let ahead = practice.assertion(|claims| claims["exp"] = json!(super::now() + 1801 + 120));
    let third = practice
        .login(&[("grant_type", JWT_BEARER), ("assertion", &ahead)])
        .await
        .json();
    assert_ne!(third["access_token"], json!(second));
    practice.org.remint(false);
    let fourth = practice
        .login(&[("grant_type", JWT_BEARER), ("assertion", &ahead)])
        .await
        .json();
    assert_ne!(fourth["access_token"], third["access_token"]);
    assert_eq!(practice.org.stats().live_sessions, 2);
    practice.stop().await;
}

#[tokio::test]
async fn use_in_the_second_half_keeps_a_session_alive_and_in_the_first_does_not() {
    let practice = start(|settings| settings.session_timeout = Duration::from_secs(1800)).await;
    let token = practice.token().await;
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let path = format!("{DATA}/limits");
    practice.org.advance(minutes(20));
    assert_eq!(practice.get(&path, &token).await.status, 200);
    practice.org.advance(minutes(14));
    assert_eq!(practice.get(&path, &token).await.status, 200, "extended at minute 20");
    practice.org.advance(minutes(17));
    let answer = practice.get(&path, &token).await;
    assert_eq!(answer.status, 401, "minute 34 was in the first half");
    assert_eq!(answer.json()[0]["errorCode"], "INVALID_SESSION_ID");
    practice.stop().await;
}

#[tokio::test]
async fn the_login_rate_is_told() {
    let practice = start(|settings| settings.login_limit = 2).await;
    assert_eq!(practice.jwt_login().await.status, 200);
    assert_eq!(practice.jwt_login().await.status, 200);
    assert_eq!(
        practice.jwt_login().await.refusal(),
        "invalid_grant: login rate exceeded"
    );
    assert_eq!(practice.secret_login().await.status, 200, "another user");
    practice.stop().await;
}

#[tokio::test]
async fn a_jwt_access_token_can_be_read_and_used_until_its_end() {
    let practice = start(|settings| {
        settings.token_format = TokenFormat::Jwt {
            lifetime: Duration::from_secs(600),
        }
    })
    .await;
    let body = practice.jwt_login().await.json();
    assert_eq!(body["token_format"], "jwt");
    let token = body["access_token"].as_str().unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 600);
    assert_eq!(practice.get(&format!("{DATA}/limits"), token).await.status, 200);
    practice.org.advance(Duration::from_secs(601));
    assert_eq!(practice.get(&format!("{DATA}/limits"), token).await.status, 401);
    practice.stop().await;
}

#[tokio::test]
async fn revoke_introspect_userinfo_and_identity_agree() {
    let practice = start(|_| {}).await;
    let login = practice.secret_login().await.json();
    let token = login["access_token"].as_str().unwrap().to_owned();
    let app = practice.org.settings().secret_clients[0].clone();
    let base = practice.org.base_url().to_owned();
    let introspect = || {
        let form = [
            ("token", token.as_str()),
            ("client_id", &app.client_id),
            ("client_secret", app.secret.expose_secret()),
        ];
        got(practice
            .client
            .post(format!("{base}/services/oauth2/introspect"))
            .form(&form))
    };
    let living = introspect().await.json();
    assert_eq!(
        (&living["active"], &living["client_id"]),
        (&json!(true), &json!(app.client_id))
    );
    assert_eq!(living["exp"].as_u64().unwrap() - living["iat"].as_u64().unwrap(), 7200);

    let info = practice.get("/services/oauth2/userinfo", &token).await.json();
    assert_eq!(info["preferred_username"], "service@practice.example");
    let id_path = login["id"].as_str().unwrap().strip_prefix(&base).unwrap().to_owned();
    assert_eq!(practice.get(&id_path, &token).await.json()["user_id"], info["user_id"]);

    let revoke = || {
        got(practice
            .client
            .post(format!("{base}/services/oauth2/revoke"))
            .form(&[("token", &token)]))
    };
    assert_eq!(revoke().await.status, 200);
    assert_eq!(revoke().await.refusal(), "invalid_token: invalid token");
    assert_eq!(introspect().await.json(), json!({"active": false}));
    for path in ["/services/oauth2/userinfo", &id_path] {
        let dead = practice.get(path, &token).await;
        assert_eq!((dead.status, dead.text.as_str()), (403, "Bad_OAuth_Token"));
    }
    let discovery = got(practice
        .client
        .request(Method::GET, format!("{base}/.well-known/openid-configuration")))
    .await;
    assert_eq!(
        discovery.json()["token_endpoint"],
        format!("{base}/services/oauth2/token")
    );
    practice.stop().await;
}

#[tokio::test]
async fn a_new_certificate_or_secret_takes_the_place_of_the_one_before_and_sessions_stay() {
    let practice = start(|settings| settings.same_token_on_remint = false).await;
    let (by_key, by_secret) = (practice.token().await, practice.secret_login().await);
    let other = crate::demo::RsaKey::generate().unwrap();
    let pair = rcgen::KeyPair::from_pem(&other.pkcs8_pem()).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["practice".to_owned()]).unwrap();
    let pem = certificate.self_signed(&pair).unwrap().pem();
    let settings = practice.org.settings();
    let (app, keyed) = (settings.secret_clients[0].clone(), settings.jwt_clients[0].clone());
    practice
        .control("certificate", json!({"client_id": keyed.client_id, "certificate": pem}))
        .await;
    practice
        .control("secret", json!({"client_id": app.client_id, "secret": "another"}))
        .await;

    for refused in [practice.jwt_login().await, practice.secret_login().await] {
        assert_eq!(refused.status, 400);
        assert_eq!(refused.json()["error"], "invalid_client", "{}", refused.text);
    }
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &app.client_id),
        ("client_secret", "another"),
    ];
    assert_eq!(practice.login(&form).await.status, 200);
    let claims = json!({
        "iss": keyed.client_id, "sub": keyed.username, "aud": "https://login.salesforce.com", "exp": now() + 180,
    });
    let signing = jsonwebtoken::EncodingKey::from_rsa_pem(other.pkcs1_pem().as_bytes()).unwrap();
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
    let assertion = jsonwebtoken::encode(&header, &claims, &signing).unwrap();
    let form = [("grant_type", JWT_BEARER), ("assertion", &assertion)];
    assert_eq!(practice.login(&form).await.status, 200);
    for token in [&by_key, by_secret.json()["access_token"].as_str().unwrap()] {
        assert_eq!(practice.get("/services/data/v60.0/limits", token).await.status, 200);
    }

    let wrong = json!({"client_id": keyed.client_id, "certificate": "no PEM"});
    let url = format!("{}/control/certificate", practice.org.control_url());
    assert_eq!(got(practice.client.post(url).json(&wrong)).await.status, 400);
    practice.stop().await;
}
