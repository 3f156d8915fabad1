//! Data Cloud: the exchange at the org's door, the calls at the tenant's.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::{Value, json};

use super::{DATA, Got, Practice, got, start};
use crate::demo::TokenFormat;

const EXCHANGE: &str = "/services/a360/token";
const SQL: &str = "SELECT Id, Name FROM ssot__Account__dlm ORDER BY Name";

fn form<'a>(core: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut form = vec![
        ("grant_type", "urn:salesforce:grant-type:external:cdp"),
        ("subject_token", core),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
    ];
    form.retain(|(name, _)| !more.iter().any(|(other, _)| name == other));
    form.extend(more);
    form
}

impl Practice {
    async fn dc(&self, core: &str, more: &[(&str, &str)]) -> Got {
        let url = format!("{}{EXCHANGE}", self.org.base_url());
        got(self.client.post(url).form(&form(core, more))).await
    }

    async fn dc_token(&self, core: &str) -> String {
        let answer = self.dc(core, &[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    async fn at_tenant(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Got {
        let url = format!("{}{path}", self.org.tenant_url().unwrap());
        let request = self.client.request(method, url).bearer_auth(token);
        got(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    async fn query(&self, token: &str) -> Got {
        let sql = json!({"sql": SQL});
        self.at_tenant(Method::POST, "/api/v2/query", token, Some(sql)).await
    }
}

#[tokio::test]
async fn a_core_token_is_exchanged_for_one_that_names_its_tenant() {
    let practice = start(|_| {}).await;
    let core = practice.token().await;
    let answer = practice.dc(&core, &[("dataspace", "sales")]).await.json();
    let host = practice.org.tenant_url().unwrap().strip_prefix("https://").unwrap();
    assert_eq!(answer["instance_url"], host, "without a scheme");
    assert_eq!(
        (&answer["expires_in"], &answer["token_type"]),
        (&json!(7193), &json!("Bearer"))
    );
    let token = answer["access_token"].as_str().unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 7193);
    assert_eq!(claims["custom_attributes"]["dataspace"], "sales");
    assert!(claims["audienceTenantId"].as_str().unwrap().starts_with("a360/"));
    let stats = practice.org.stats();
    assert_eq!(
        (stats.a360_requests, stats.a360_exchanges, stats.token_requests),
        (1, 1, 1)
    );
    practice.stop().await;
}

#[tokio::test]
async fn each_refusal_of_the_exchange() {
    let practice = start(|settings| {
        let mut plain = settings.secret_clients[0].clone();
        plain.scopes.retain(|scope| scope == "api");
        settings.secret_clients = vec![plain];
    })
    .await;
    let core = practice.token().await;
    let poor = practice.secret_login().await.json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let scope = "invalid_scope: the requested scope is invalid, unknown, or malformed";
    for (core, more, refusal) in [
        (&poor, ("x", ""), scope),
        (&core, ("scope", "cdp_query_api"), scope),
        (&core, ("dataspace", "nowhere"), "invalid_request: invalid dataspace"),
        (
            &core,
            ("grant_type", "password"),
            "unsupported_grant_type: grant type not supported",
        ),
        (
            &core,
            ("subject_token_type", "jwt"),
            "invalid_request: invalid subject_token_type",
        ),
        (
            &core,
            ("subject_token", ""),
            "invalid_request: missing required parameter: subject_token",
        ),
    ] {
        assert_eq!(practice.dc(core, &[more]).await.refusal(), refusal);
    }
    practice.org.revoke();
    let dead = practice.dc(&core, &[]).await;
    assert_eq!((dead.status, &dead.json()["error"]), (401, &json!("invalid_grant")));
    practice.stop().await;
}

#[tokio::test]
async fn a_core_token_in_jwt_format_is_refused() {
    let practice = start(|settings| {
        let lifetime = Duration::from_secs(600);
        settings.token_format = TokenFormat::Jwt { lifetime };
    })
    .await;
    let core = practice.token().await;
    let refusal = practice.dc(&core, &[]).await.refusal();
    assert_eq!(refusal, "invalid_request: JWT-based access tokens are not supported");
    practice.stop().await;
}

#[tokio::test]
async fn a_token_of_the_password_flow_is_exchanged_once() {
    let practice = start(|_| {}).await;
    let core = async || {
        practice.password_login().await.json()["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = core().await;
    practice.dc_token(&first).await;
    let again = practice.dc(&first, &[]).await;
    assert_eq!(
        (again.status, again.header("content-type")),
        (200, Some("text/html;charset=UTF-8"))
    );
    assert!(again.text.contains("window.location.replace"), "{}", again.text);
    let second = core().await;
    assert_ne!(second, first, "or a new login would not help");
    practice.dc_token(&second).await;
    assert_eq!(practice.get(&format!("{DATA}/limits"), &first).await.status, 200);

    let named = practice.token().await;
    practice.dc_token(&named).await;
    practice.dc_token(&named).await;
    practice.stop().await;
}

#[tokio::test]
async fn the_tenant_answers_in_batches_to_living_tokens_only() {
    let practice = start(|_| {}).await;
    let core = practice.token().await;
    let token = practice.dc_token(&core).await;
    let sales = practice.dc(&core, &[("dataspace", "sales")]).await.json();
    let sales = sales["access_token"].as_str().unwrap();

    let mut page = practice.query(&token).await.json();
    assert_eq!(page["metadata"]["Name"]["placeInOrder"], 1);
    let mut sizes = Vec::new();
    loop {
        sizes.push(page["data"].as_array().unwrap().len());
        let Some(next) = page["nextBatchId"].as_str() else {
            break;
        };
        let path = format!("/api/v2/query/{next}");
        let other = practice.at_tenant(Method::GET, &path, sales, None).await;
        assert_eq!(other.status, 404, "of another dataspace");
        page = practice.at_tenant(Method::GET, &path, &token, None).await.json();
    }
    assert_eq!((sizes, &page["done"]), (vec![10, 10, 5], &json!(true)));

    let sql = json!({"sql": "SELECT * FROM Account LIMIT 2;"});
    let v1 = practice
        .at_tenant(Method::POST, "/api/v1/query", &token, Some(sql))
        .await
        .json();
    assert_eq!(
        (v1["data"].as_array().unwrap().len(), v1["data"][0]["Name"].is_string()),
        (2, true)
    );
    let bad = json!({"sql": "DROP TABLE Account"});
    assert_eq!(
        practice
            .at_tenant(Method::POST, "/api/v2/query", &token, Some(bad))
            .await
            .status,
        400
    );
    let metadata = practice
        .at_tenant(Method::GET, "/api/v1/metadata", &token, None)
        .await
        .json();
    assert_eq!(metadata["metadata"][0]["name"], "ssot__Account__dlm");
    let ingest = practice
        .at_tenant(Method::POST, "/api/v1/ingest/sources/a/b", &token, Some(json!({})))
        .await;
    assert_eq!((ingest.status, ingest.json()), (202, json!({"accepted": true})));

    for token in [core.as_str(), "nothing", ""] {
        let refused = practice.query(token).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]),
            (401, &json!("Unauthorized"))
        );
    }
    let elsewhere = practice
        .at_tenant(Method::GET, "/api/v1/metadata?dataspace=sales", &token, None)
        .await;
    assert_eq!(elsewhere.status, 401);
    practice.org.advance(Duration::from_secs(7193));
    assert_eq!(practice.query(&token).await.status, 401);
    assert_eq!(practice.org.stats().tenant_401, 5);
    practice.stop().await;
}

#[tokio::test]
async fn each_door_has_its_own_paths_and_tokens() {
    let practice = start(|settings| settings.login_port = Some(0)).await;
    let core = practice.token().await;
    let token = practice.dc_token(&core).await;
    for path in [
        &format!("{DATA}/limits"),
        EXCHANGE,
        "/services/oauth2/token",
        "/services/data",
    ] {
        assert_eq!(
            practice.at_tenant(Method::GET, path, &token, None).await.status,
            404,
            "{path}"
        );
    }
    for path in ["/api/v2/query", "/api/v1/metadata"] {
        assert_eq!(practice.get(path, &token).await.status, 404, "{path}");
    }
    assert_eq!(practice.get(&format!("{DATA}/limits"), &token).await.status, 401);
    let url = format!("{}{EXCHANGE}", practice.org.login_url());
    assert_eq!(got(practice.client.post(url).form(&form(&core, &[]))).await.status, 404);
    practice.stop().await;
}

#[tokio::test]
async fn ends_of_the_two_tokens_are_apart_unless_the_settings_join_them() {
    let practice = start(|_| {}).await;
    let core = practice.token().await;
    let token = practice.dc_token(&core).await;
    assert_eq!(practice.control("expire_dc", json!({})).await, json!({"expired": 1}));
    assert_eq!(practice.query(&token).await.status, 401);
    assert!(practice.org.knows(&core));
    let token = practice.dc_token(&core).await;
    practice.org.revoke();
    assert_eq!(practice.query(&token).await.status, 200);
    practice.stop().await;

    let practice = start(|settings| {
        settings.dc_outlives_core = false;
        settings.tenant_with_scheme = true;
    })
    .await;
    let core = practice.token().await;
    let answer = practice.dc(&core, &[]).await.json();
    assert_eq!(answer["instance_url"], practice.org.tenant_url().unwrap());
    practice.org.revoke();
    assert_eq!(
        practice.query(answer["access_token"].as_str().unwrap()).await.status,
        401
    );
    practice.stop().await;
}

#[tokio::test]
async fn without_tls_the_tenant_is_named_with_its_scheme() {
    let practice = start(|settings| settings.plain_http = true).await;
    let core = practice.token().await;
    let answer = practice.dc(&core, &[]).await.json();
    assert!(
        answer["instance_url"]
            .as_str()
            .unwrap()
            .starts_with("http://localhost:")
    );
    assert_eq!(
        practice.query(answer["access_token"].as_str().unwrap()).await.status,
        200
    );
    practice.stop().await;
}

#[tokio::test]
async fn an_org_without_data_cloud_has_no_exchange() {
    let practice = start(|settings| settings.tenant_port = None).await;
    let core = practice.token().await;
    assert_eq!(practice.dc(&core, &[]).await.status, 404);
    practice.stop().await;
}
