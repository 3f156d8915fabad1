//! What the tests of the flows share, and the requests of the shipped examples against what Salesforce documents.

use std::{path::Path, time::Duration};

use secrecy::ExposeSecret;

use super::{
    jwt_bearer::tests::{PKCS8, pem},
    *,
};
use crate::config::{ApiHost, ClientAuth, Login, Org, RefreshToken, RotationPolicy, Vars, from_yaml};

pub(super) fn login() -> url::Url {
    "https://acme.my.salesforce.com".parse().unwrap()
}

/// A file that holds it, and the reference to it.
pub(super) fn secret(text: &str) -> (tempfile::NamedTempFile, SecretRef) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let reference = SecretRef::file(file.path().to_owned());
    (file, reference)
}

pub(super) fn key() -> (tempfile::NamedTempFile, SecretRef) {
    secret(&pem("PRIVATE KEY", &PKCS8))
}

pub(super) fn refresh_grant(auth: ClientAuth) -> RefreshToken {
    RefreshToken {
        client_id: "3MVG9.id".into(),
        auth,
        refresh_token: None,
        rotation: RotationPolicy::Auto,
        login: Login {
            callback_url: "http://localhost:1717/OauthRedirect".parse().unwrap(),
            scopes: vec!["api".into(), "refresh_token".into()],
        },
    }
}

fn shown(fields: &Fields) -> Vec<(&str, &str)> {
    let fields = fields.iter();
    fields.map(|(name, value)| (&**name, value.expose_secret())).collect()
}

pub(super) fn form(attempt: &Attempt) -> Vec<(&str, &str)> {
    match &attempt.body {
        Body::Form(fields) => shown(fields),
        Body::Json(_) => panic!("expected a form"),
    }
}

pub(super) fn json(attempt: &Attempt) -> Vec<(&str, &str)> {
    match &attempt.body {
        Body::Json(fields) => shown(fields),
        Body::Form(_) => panic!("expected JSON"),
    }
}

/// None of these would come back in a text of an answer.
pub(super) fn kept_out(attempt: &Attempt, secrets: &[&str]) {
    for secret in secrets {
        let text = attempt.sent.scrub(&format!("given {secret} here"), 100_000);
        assert_eq!(text.as_deref(), Some("given [removed] here"), "{secret}");
    }
}

/// A shipped example whose secrets lie in a folder of the test, and what its one org would send.
fn example(name: &str) -> (Org, Result<Attempt, Refusal>) {
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in [("client-secret", "CANARYapp"), ("key.pem", &pem("PRIVATE KEY", &PKCS8))] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    let yaml = std::fs::read_to_string(path).unwrap();
    let yaml = yaml.replace("/run/secrets/sf", &dir.path().display().to_string());
    let config = from_yaml(&yaml, name, &Vars::default()).unwrap();
    let org = config.orgs.into_values().next().unwrap();
    let token = SecretString::from("5AepCANARY");
    let inputs = Inputs {
        login: &org.login.url,
        refresh_token: Some(&token),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
    };
    let attempt = attempt(&org.grant, inputs);
    (org, attempt)
}

/// The whole request as text; `exchange.rs` adds `Accept` and the body's type.
fn request(org: &Org, attempt: &Attempt) -> String {
    let url = org.login.url.join(&attempt.path).unwrap();
    let header = attempt.authorization.as_ref();
    let header = header.map_or_else(String::new, |value| format!(" [{}]", value.to_str().unwrap()));
    let body = match &attempt.body {
        Body::Form(fields) => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.extend_pairs(shown(fields));
            form.finish()
        }
        Body::Json(fields) => {
            let object: serde_json::Map<_, _> = shown(fields)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            serde_json::Value::from(object).to_string()
        }
    };
    format!("{url}{header} {body}")
}

/// SF §1.4, §5.5.
#[test]
fn every_example_sends_what_salesforce_documents() {
    const APP: &str = "3MVG9_the_consumer_key_of_your_app";
    let core = "https://acme.my.salesforce.com/services/oauth2/token";
    let basic = |id: &str| {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        format!("[Basic {}]", BASE64_STANDARD.encode(format!("{id}:CANARYapp")))
    };
    let credentials = format!("{core} {} grant_type=client_credentials", basic(APP));
    let table = [
        ("client-credentials.yaml", credentials.clone()),
        ("agentforce.yaml", credentials.clone()),
        ("account-engagement.yaml", credentials),
        (
            "refresh-token.yaml",
            format!("{core} grant_type=refresh_token&refresh_token=5AepCANARY&client_id={APP}&client_secret=CANARYapp"),
        ),
        (
            "marketing-cloud.yaml",
            "https://sub.auth.marketingcloudapis.com/v2/token {\"account_id\":\"510001234\",\
             \"client_id\":\"the_client_id_of_the_installed_package\",\"client_secret\":\"CANARYapp\",\
             \"grant_type\":\"client_credentials\"}"
                .to_owned(),
        ),
        (
            "b2c-commerce.yaml",
            format!(
                "https://account.demandware.com/dwsso/oauth2/access_token {} grant_type=client_credentials\
                 &scope=SALESFORCE_COMMERCE_API%3Azzrf_001+sfcc.orders",
                basic("the_client_id_of_account_manager")
            ),
        ),
        (
            "mulesoft.yaml",
            "https://anypoint.mulesoft.com/accounts/api/v2/oauth2/token grant_type=client_credentials\
             &client_id=the_id_of_the_connected_app&client_secret=CANARYapp"
                .to_owned(),
        ),
    ];
    for (name, expected) in table {
        let (org, attempt) = example(name);
        assert_eq!(
            request(&org, &attempt.unwrap_or_else(|r| panic!("{name}: {r}"))),
            expected,
            "{name}"
        );
    }
    let assertion = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJhbGciOiJSUzI1NiJ9.";
    for name in ["data-cloud.yaml", "several-users.yaml", "minimal.yaml", "full.yaml"] {
        let (org, attempt) = example(name);
        let text = request(&org, &attempt.unwrap_or_else(|r| panic!("{name}: {r}")));
        assert!(text.starts_with(&format!("{core} {assertion}")), "{name}: {text}");
    }
    // Nobody is asked over the network.
    let (org, attempt) = example("sf-cli.yaml");
    assert!(attempt.is_err());
    let config::Grant::Command(command) = org.grant else {
        panic!("expected a command");
    };
    assert_eq!(command.argv.join(" "), "sf org display --json --target-org dev");
}

/// Where calls go and what is set on them, SF §5.4, §5.5.
#[test]
fn every_example_calls_the_documented_host() {
    let url = |org: &Org| org.instance_url.as_ref().map(|url| url.as_str().to_owned());
    let other = |name: &str| {
        let (org, _) = example(name);
        match &org.api.host {
            ApiHost::Other { field, also } => (url(&org), field.clone(), also.clone(), org.api.headers.clone()),
            _ => panic!("{name}: expected another cloud's host"),
        }
    };
    let (instance, field, also, _) = other("marketing-cloud.yaml");
    assert_eq!((instance, field.as_deref()), (None, Some("rest_instance_url")));
    assert_eq!(also, [("/Service.asmx".to_owned(), "soap_instance_url".to_owned())]);
    let (instance, field, _, headers) = other("account-engagement.yaml");
    assert_eq!((instance.as_deref(), field), (Some("https://pi.pardot.com/"), None));
    assert_eq!(headers[0].0, "pardot-business-unit-id");
    assert_eq!(headers[0].1.len(), 18);
    let commerce = other("b2c-commerce.yaml").0;
    assert_eq!(
        commerce.as_deref(),
        Some("https://shortcode.api.commercecloud.salesforce.com/")
    );
    assert_eq!(
        other("mulesoft.yaml").0.as_deref(),
        Some("https://anypoint.mulesoft.com/")
    );
    let (org, _) = example("agentforce.yaml");
    let fallback = "https://api.salesforce.com".parse().unwrap();
    assert_eq!(org.api.host, ApiHost::Platform { fallback });
    let (org, _) = example("data-cloud.yaml");
    assert_eq!(org.api.host, ApiHost::Instance);
    let data_cloud = org.data_cloud.unwrap();
    assert_eq!(
        (data_cloud.renew_before.as_secs(), data_cloud.renew_age.as_secs()),
        (300, 900)
    );
}
