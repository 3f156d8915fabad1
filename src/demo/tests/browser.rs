//! The consent page, the code it gives, and who may exchange it.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{DATA, Got, Practice, got, now, start};
use crate::demo::WebApp;

pub(super) const CALLBACK: &str = "http://localhost:1717/OauthRedirect";
const VERIFIER: &str = "a-verifier-that-is-long-enough-to-be-taken-1234";

/// The parameters of an address, decoded.
type Pairs = Vec<(String, String)>;

impl Practice {
    fn app(&self, number: usize) -> WebApp {
        self.org.settings().web_apps[number].clone()
    }

    fn page_url(&self, parameters: &[(&str, &str)]) -> String {
        let url = format!("{}/services/oauth2/authorize", self.org.login_url());
        url::Url::parse_with_params(&url, parameters).unwrap().to_string()
    }

    async fn page(&self, parameters: &[(&str, &str)]) -> Got {
        got(self.client.get(self.page_url(parameters))).await
    }

    /// Presses a button of the page; where the browser is sent.
    async fn press(&self, decision: &str, parameters: &[(&str, &str)]) -> Pairs {
        let answer = got(self
            .client
            .post(self.page_url(parameters))
            .form(&[("decision", decision)]))
        .await;
        sent_to(&answer)
    }

    /// A code for the app with this number.
    async fn code(&self, number: usize, challenge: Option<&str>) -> String {
        let app = self.app(number);
        let mut parameters = vec![
            ("response_type", "code"),
            ("client_id", app.client_id.as_str()),
            ("redirect_uri", CALLBACK),
            ("state", "s"),
        ];
        parameters.extend(challenge.map(|challenge| ("code_challenge", challenge)));
        let sent = self.press("allow", &parameters).await;
        assert_eq!(sent[0].0, "code", "{sent:?}");
        sent[0].1.clone()
    }

    async fn redeem(&self, number: usize, code: &str, more: &[(&str, &str)]) -> Got {
        let app = self.app(number);
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("client_id", app.client_id.as_str()),
            ("redirect_uri", CALLBACK),
            ("code", code),
        ];
        if let Some(secret) = &app.secret {
            form.push(("client_secret", secret.expose_secret()));
        }
        form.retain(|(name, _)| !more.iter().any(|(other, _)| name == other));
        form.extend(more);
        self.login(&form).await
    }

    /// The answer of a whole login of the first web app, with its refresh token.
    pub(super) async fn approved(&self) -> Value {
        let code = self.code(0, None).await;
        let answer = self.redeem(0, &code, &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    pub(super) async fn refresh(&self, number: usize, token: &str) -> Got {
        let app = self.app(number);
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", app.client_id.as_str()),
            ("refresh_token", token),
        ];
        if let Some(secret) = &app.secret {
            form.push(("client_secret", secret.expose_secret()));
        }
        self.login(&form).await
    }

    fn client_assertion(&self, change: impl FnOnce(&mut Value)) -> String {
        let app = self.app(2);
        self.assertion(|claims| {
            *claims = json!({
                "iss": app.client_id,
                "sub": app.client_id,
                "aud": format!("{}/services/oauth2/token", self.org.login_url()),
                "exp": now() + 240,
            });
            change(claims);
        })
    }
}

fn sent_to(answer: &Got) -> Pairs {
    assert_eq!(answer.status, 302, "{}", answer.text);
    let location = answer.header("location").unwrap();
    let query = location.strip_prefix(&format!("{CALLBACK}?")).expect(location);
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn pairs(expected: &[(&str, &str)]) -> Pairs {
    expected
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect()
}

fn hash(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()))
}

#[tokio::test]
async fn a_person_allows_and_the_app_gets_its_tokens() {
    let practice = start(|_| {}).await;
    let app = practice.app(0);
    let parameters = [
        ("response_type", "code"),
        ("client_id", app.client_id.as_str()),
        ("redirect_uri", CALLBACK),
        ("scope", "api refresh_token"),
        ("state", "<\"&>"),
    ];
    let page = practice.page(&parameters).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html;charset=UTF-8"));
    for part in ["id=\"oaapprove\"", "id=\"oadeny\"", "person@practice.example"] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    // the form, as a browser reads it
    let (_, action) = page.text.split_once("action=\"").unwrap();
    let action = action.split('"').next().unwrap().replace("&amp;", "&");
    let form = practice.client.post(format!("{}{action}", practice.org.login_url()));
    let sent = sent_to(&got(form.form(&[("decision", "deny")])).await);
    let denied = [
        ("error", "access_denied"),
        ("error_description", "end-user denied authorization"),
        ("state", "<\"&>"),
    ];
    assert_eq!(sent, pairs(&denied));
    let sent = practice.press("allow", &parameters).await;
    assert!(sent[0].1.starts_with("aPrx") && sent[0].1.ends_with("=="), "{sent:?}");
    assert_eq!(sent[1..], pairs(&[("state", "<\"&>")]));

    let answer = practice.redeem(0, &sent[0].1, &[]).await.json();
    let names: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "access_token",
            "id",
            "instance_url",
            "issued_at",
            "refresh_token",
            "scope",
            "signature",
            "token_type"
        ]
    );
    assert_eq!(answer["scope"], "api refresh_token");
    assert!(answer["refresh_token"].as_str().unwrap().starts_with("5Aep861"));
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(practice.get(&format!("{DATA}/limits"), token).await.status, 200);
    let info = practice.get("/services/oauth2/userinfo", token).await.json();
    assert_eq!(info["preferred_username"], "person@practice.example");

    let without = [&parameters[..3], &[("scope", "api")]].concat();
    let code = practice.press("allow", &without).await[0].1.clone();
    assert!(
        practice
            .redeem(0, &code, &[])
            .await
            .json()
            .get("refresh_token")
            .is_none()
    );
    practice.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_on_a_page_or_to_the_callback() {
    let practice = start(|_| {}).await;
    let (app, desktop) = (practice.app(0).client_id, practice.app(1).client_id);
    for (id, uri, told) in [
        ("unknown", CALLBACK, "error=invalid_client_id"),
        (
            &app,
            "http://localhost:1717/OauthRedirect/",
            "error=redirect_uri_mismatch",
        ),
        (
            &app,
            "http://localhost:1718/OauthRedirect",
            "redirect_uri must match configuration",
        ),
        (&app, "https://evil.example/<script>", "error=redirect_uri_mismatch"),
    ] {
        let parameters = [("response_type", "code"), ("client_id", id), ("redirect_uri", uri)];
        for page in [practice.page(&parameters).await, {
            let post = practice.client.post(practice.page_url(&parameters));
            got(post.form(&[("decision", "allow")])).await
        }] {
            assert_eq!((page.status, page.header("location")), (400, None), "{uri}");
            assert!(
                page.text.contains(told) && !page.text.contains("<script"),
                "{}",
                page.text
            );
        }
    }
    let good = hash(VERIFIER);
    for (id, more, error) in [
        (&app, vec![("response_type", "token")], "unsupported_response_type"),
        (&app, vec![("scope", "api full")], "invalid_scope"),
        (
            &app,
            vec![("code_challenge", good.as_str()), ("code_challenge_method", "plain")],
            "invalid_request",
        ),
        (&app, vec![("code_challenge", "short")], "invalid_request"),
        (&desktop, vec![], "invalid_request"),
    ] {
        let mut parameters = vec![("client_id", id.as_str()), ("redirect_uri", CALLBACK), ("state", "x y")];
        if more.iter().all(|(name, _)| *name != "response_type") {
            parameters.push(("response_type", "code"));
        }
        parameters.extend(more);
        let sent = sent_to(&practice.page(&parameters).await);
        assert_eq!(sent[0], ("error".to_owned(), error.to_owned()));
        assert_eq!(sent[2], ("state".to_owned(), "x y".to_owned()));
    }
    let parameters = [
        ("response_type", "code"),
        ("client_id", app.as_str()),
        ("redirect_uri", CALLBACK),
        ("state", "s"),
    ];
    let denied = got(practice
        .client
        .post(practice.page_url(&parameters))
        .form(&[("decision", "deny")]))
    .await;
    assert_eq!(
        denied.header("location").unwrap(),
        format!("{CALLBACK}?error=access_denied&error_description=end-user+denied+authorization&state=s")
    );
    practice.stop().await;
}

#[tokio::test]
async fn a_callback_can_be_registered_later() {
    let practice = start(|_| {}).await;
    let app = practice.app(0).client_id;
    let uri = "http://localhost:49152/back";
    let parameters = [
        ("response_type", "code"),
        ("client_id", app.as_str()),
        ("redirect_uri", uri),
    ];
    assert_eq!(practice.page(&parameters).await.status, 400);
    practice
        .control("callback", json!({"client_id": app, "uri": uri}))
        .await;
    assert_eq!(practice.page(&parameters).await.status, 200);
    let other = practice.app(2).client_id;
    let parameters = [parameters[0], ("client_id", &other), parameters[2]];
    assert_eq!(practice.page(&parameters).await.status, 400, "another app");
    practice.stop().await;
}

#[tokio::test]
async fn a_code_works_once_for_its_app_and_its_callback_and_not_for_long() {
    let practice = start(|_| {}).await;
    let code = practice.code(0, None).await;
    let other = practice.app(1).client_id;
    let form = [
        ("grant_type", "authorization_code"),
        ("client_id", &other),
        ("redirect_uri", CALLBACK),
        ("code", &code),
    ];
    let invalid = "invalid_grant: invalid authorization code";
    assert_eq!(practice.login(&form).await.refusal(), invalid);
    assert_eq!(practice.redeem(0, "aPrxunknown==", &[]).await.refusal(), invalid);
    let answer = practice.redeem(0, &code, &[]).await.json();
    let expired = "invalid_grant: expired authorization code";
    assert_eq!(practice.redeem(0, &code, &[]).await.refusal(), expired);
    let token = answer["access_token"].as_str().unwrap();
    assert!(!practice.org.knows(token), "what a code gave ends when it comes again");

    let code = practice.code(0, None).await;
    let elsewhere = [("redirect_uri", "http://localhost:1718/OauthRedirect")];
    assert_eq!(
        practice.redeem(0, &code, &elsewhere).await.refusal(),
        "redirect_uri_mismatch: redirect uri does not match configuration"
    );
    let code = practice.code(0, None).await;
    practice.org.advance(Duration::from_secs(15 * 60 - 5));
    assert_eq!(practice.redeem(0, &code, &[]).await.status, 200);
    let code = practice.code(0, None).await;
    practice.org.advance(Duration::from_secs(15 * 60));
    assert_eq!(practice.redeem(0, &code, &[]).await.refusal(), expired);
    practice.stop().await;
}

#[tokio::test]
async fn the_verifier_must_fit_the_challenge() {
    let practice = start(|_| {}).await;
    let challenge = hash(VERIFIER);
    let wrong = VERIFIER.replace('a', "b");
    let short = "short";
    for (challenge, verifier, told) in [
        (Some(&challenge), Some(VERIFIER), "ok"),
        (
            Some(&challenge),
            Some(wrong.as_str()),
            "invalid_request: invalid code verifier",
        ),
        (Some(&challenge), None, "invalid_grant: missing code verifier"),
        (
            Some(&hash(short)),
            Some(short),
            "invalid_request: invalid code verifier",
        ),
        (None, Some(VERIFIER), "invalid_request: invalid code verifier"),
    ] {
        let code = practice.code(0, challenge.map(String::as_str)).await;
        let more: Vec<_> = verifier.map(|v| ("code_verifier", v)).into_iter().collect();
        let answer = practice.redeem(0, &code, &more).await;
        let got = if answer.status == 200 {
            "ok".into()
        } else {
            answer.refusal()
        };
        assert_eq!(got, told);
    }
    let code = practice.code(1, Some(&challenge)).await;
    let answer = practice.redeem(1, &code, &[("code_verifier", VERIFIER)]).await;
    assert_eq!(answer.status, 200, "an app without a secret: {}", answer.text);
    practice.stop().await;
}

#[tokio::test]
async fn each_app_is_proven_in_its_own_way() {
    let practice = start(|settings| {
        let relaxed = WebApp {
            client_id: "relaxed".into(),
            require_secret_for_web: false,
            ..settings.web_apps[0].clone()
        };
        settings.web_apps.push(relaxed);
    })
    .await;
    let wrong = "invalid_client: invalid client credentials";
    let code = practice.code(0, None).await;
    for secret in ["", "wrong"] {
        let answer = practice.redeem(0, &code, &[("client_secret", secret)]).await;
        assert_eq!(answer.refusal(), wrong, "{secret}");
    }
    let app = practice.app(0);
    let url = format!("{}/services/oauth2/token", practice.org.login_url());
    let basic = practice
        .client
        .post(url)
        .basic_auth(&app.client_id, Some(app.secret.unwrap().expose_secret()));
    let form = [
        ("grant_type", "authorization_code"),
        ("redirect_uri", CALLBACK),
        ("code", &code),
    ];
    assert_eq!(got(basic.form(&form)).await.status, 200, "by Basic");

    let code = practice.code(3, None).await;
    assert_eq!(
        practice.redeem(3, &code, &[("client_secret", "wrong")]).await.refusal(),
        wrong
    );
    let relaxed = practice.redeem(3, &code, &[("client_secret", "")]).await.json();
    let token = relaxed["refresh_token"].as_str().unwrap();
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "relaxed"),
        ("refresh_token", token),
    ];
    assert_eq!(
        practice.login(&form).await.refusal(),
        wrong,
        "the two settings are independent"
    );

    let code = practice.code(2, None).await;
    let kind = (
        "client_assertion_type",
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    );
    assert_eq!(
        practice.redeem(2, &code, &[]).await.refusal(),
        wrong,
        "without its assertion"
    );
    let good = practice.client_assertion(|_| {});
    for (name, value) in [
        ("aud", json!(practice.org.login_url())),
        ("exp", json!(now() - 1)),
        ("exp", json!(now() + 400)),
        ("sub", json!("another")),
    ] {
        let assertion = practice.client_assertion(|claims| claims[name] = value);
        let answer = practice
            .redeem(2, &code, &[kind, ("client_assertion", &assertion)])
            .await;
        assert_eq!(answer.refusal(), wrong, "{name}");
    }
    let both = [kind, ("client_assertion", good.as_str()), ("client_secret", "x")];
    assert_eq!(
        practice.redeem(2, &code, &both).await.refusal(),
        wrong,
        "not read beside a secret"
    );
    let without_id = [kind, ("client_assertion", good.as_str()), ("client_id", "")];
    assert_eq!(practice.redeem(2, &code, &without_id).await.status, 200);
    practice.stop().await;
}
