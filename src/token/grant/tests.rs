//! What the tests of the flows share.

use secrecy::ExposeSecret;

use super::{
    jwt_bearer::tests::{PKCS8, pem},
    *,
};
use crate::config::{ClientAuth, Login, RefreshToken, RotationPolicy};

pub(super) fn login() -> url::Url {
    "https://acme.my.salesforce.com".parse().unwrap()
}

/// A file that holds it, and the reference to it.
pub(super) fn secret(text: &str) -> (tempfile::NamedTempFile, SecretRef) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let reference = SecretRef::File(file.path().to_owned());
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
