//! The org seen from outside, over TLS.
//!
//! Owns: the harness. Invariants: every test has its own org, stopped and joined at its end.

mod browser;
mod bulk;
mod bulk1;
mod bulk1_rows;
mod calls;
mod controls;
mod data;
mod data_cloud;
mod flows;
mod logins;
mod pubsub;
mod refresh;
mod saml;
mod soap;
mod soap_metadata;
mod soap_rows;
mod streaming;

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::{Client, Method, RequestBuilder};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{Org, Settings};

const DATA: &str = "/services/data/v66.0";

struct Practice {
    org: Org,
    client: Client,
}

/// Status, headers and body of an answer.
struct Got {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// `error: error_description` of the token endpoint.
    fn refusal(&self) -> String {
        assert_eq!(self.status, 400, "{}", self.text);
        let body = self.json();
        format!(
            "{}: {}",
            body["error"].as_str().unwrap(),
            body["error_description"].as_str().unwrap()
        )
    }
}

async fn start(adjust: impl FnOnce(&mut Settings)) -> Practice {
    let mut settings = Settings::practice().unwrap();
    adjust(&mut settings);
    let org = Org::start(settings).await.unwrap();
    let client = Client::builder()
        .tls_backend_preconfigured(tls(&org))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap();
    Practice { org, client }
}

fn tls(org: &Org) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(org.ca_pem().as_bytes()).unwrap())
        .unwrap();
    ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

async fn got(request: RequestBuilder) -> Got {
    let response = request.send().await.unwrap();
    Got {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    }
}

/// Until it is so; a test that waits in vain is ended by its own clock.
async fn eventually(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
    waited.expect("it must come to be so");
}

fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the org's clock is the machine's here")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Practice {
    fn assertion(&self, change: impl FnOnce(&mut Value)) -> String {
        let settings = self.org.settings();
        let mut claims = json!({
            "iss": settings.jwt_clients[0].client_id,
            "sub": settings.jwt_clients[0].username,
            "aud": "https://login.salesforce.com",
            "exp": now() + 180,
        });
        change(&mut claims);
        let pem = settings.practice_key.as_ref().unwrap().pkcs1_pem();
        let key = jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
        jsonwebtoken::encode(
            &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256),
            &claims,
            &key,
        )
        .unwrap()
    }

    async fn login(&self, form: &[(&str, &str)]) -> Got {
        let url = format!("{}/services/oauth2/token", self.org.login_url());
        got(self.client.post(url).form(form)).await
    }

    async fn jwt_login(&self) -> Got {
        let assertion = self.assertion(|_| {});
        self.login(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", &assertion),
        ])
        .await
    }

    async fn secret_login(&self) -> Got {
        let app = &self.org.settings().secret_clients[0];
        let (id, secret) = (app.client_id.clone(), app.secret.expose_secret().to_owned());
        self.login(&[
            ("grant_type", "client_credentials"),
            ("client_id", &id),
            ("client_secret", &secret),
        ])
        .await
    }

    async fn token(&self) -> String {
        let answer = self.jwt_login().await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    fn call(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.org.base_url()))
            .bearer_auth(token)
    }

    async fn get(&self, path: &str, token: &str) -> Got {
        got(self.call(Method::GET, path, token)).await
    }

    async fn send(&self, method: Method, path: &str, token: &str, body: Value) -> Got {
        got(self.call(method, path, token).json(&body)).await
    }

    async fn control(&self, call: &str, body: Value) -> Value {
        let url = format!("{}/control/{call}", self.org.control_url());
        let answer = got(self.client.post(url).json(&body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    async fn stop(self) {
        self.org.stop().await;
    }
}

#[tokio::test]
async fn a_panic_of_a_task_is_raised_where_the_org_ends() {
    let practice = start(|_| {}).await;
    practice.org.control.0.tasks.spawn(async { panic!("planted") });
    practice.get("/services/data", "x").await;
    let mut ending = tokio::task::JoinSet::new();
    ending.spawn(practice.stop());
    assert!(ending.join_next().await.unwrap().unwrap_err().is_panic());
}
