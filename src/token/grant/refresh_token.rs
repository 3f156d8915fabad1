//! The refresh token grant: what a person's browser login brought stands for that person.
//!
//! Invariants: the token to present is given, never looked for here, because with rotation the newest one counts, and
//! only the keeper knows it. No `scope` is sent.
//! Fails with: `needs_login` when there is no refresh token; `secret_unreadable`, `key_unusable`.
//! Source: SF §1.4.3; RFC 6749 §6.

use secrecy::ExposeSecret;

use super::{Attempt, Body, Inputs, TOKEN_PATH, client_auth, field};
use crate::{
    config::RefreshToken,
    token::refusal::{Refusal, Sent},
};

pub(super) fn attempt(grant: &RefreshToken, inputs: Inputs<'_>) -> Result<Attempt, Refusal> {
    let token = inputs
        .refresh_token
        .ok_or_else(|| Refusal::of("needs_login", "there is no refresh token yet".to_owned()))?;
    let mut sent = Sent::default();
    sent.secret(token.expose_secret());
    let proof = client_auth::prove(&grant.auth, &grant.client_id, inputs.login, inputs.now, &mut sent)?;
    let mut form = vec![
        field("grant_type", "refresh_token"),
        field("refresh_token", token.clone()),
    ];
    form.extend(proof.fields);
    Ok(Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(form),
        authorization: proof.authorization,
        sent,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use secrecy::SecretString;
    use serde_json::json;

    use super::*;
    use crate::{
        config::{ClientAuth, SendSecret},
        token::grant::tests::{form, kept_out, key, login, refresh_grant, secret},
    };

    fn tried(auth: ClientAuth) -> Result<Attempt, Refusal> {
        let token = SecretString::from("5Aep861CANARY");
        let inputs = Inputs {
            login: &login(),
            refresh_token: Some(&token),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000),
        };
        attempt(&refresh_grant(auth), inputs)
    }

    #[test]
    fn the_form_is_the_documented_one_for_every_proof() {
        let (_file, reference) = secret("s3c/r+t=");
        let start = [("grant_type", "refresh_token"), ("refresh_token", "5Aep861CANARY")];
        for (auth, more, header) in [
            (
                ClientAuth::Secret(reference.clone(), SendSecret::Body),
                vec![("client_id", "3MVG9.id"), ("client_secret", "s3c/r+t=")],
                None,
            ),
            (
                ClientAuth::Secret(reference, SendSecret::Basic),
                vec![],
                Some("Basic M01WRzkuaWQ6czNjL3IrdD0="),
            ),
            (ClientAuth::None, vec![("client_id", "3MVG9.id")], None),
        ] {
            let attempt = tried(auth).unwrap();
            assert_eq!(attempt.path, "/services/oauth2/token");
            assert_eq!(form(&attempt), [&start[..], &more].concat());
            let sent = attempt.authorization.as_ref();
            assert_eq!(sent.map(|value| value.to_str().unwrap()), header);
            assert!(sent.is_none_or(http::HeaderValue::is_sensitive));
            kept_out(&attempt, &["5Aep861CANARY"]);
        }
    }

    #[test]
    fn the_key_signs_an_assertion_for_the_token_endpoint() {
        let (_file, reference) = key();
        let attempt = tried(ClientAuth::PrivateKey(reference)).unwrap();
        let fields = form(&attempt);
        let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "grant_type",
                "refresh_token",
                "client_id",
                "client_assertion_type",
                "client_assertion"
            ]
        );
        assert_eq!(fields[3].1, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        let claims = fields[4].1.split('.').nth(1).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        let audience = "https://acme.my.salesforce.com/services/oauth2/token";
        assert_eq!(
            claims,
            json!({"iss": "3MVG9.id", "sub": "3MVG9.id", "aud": audience, "exp": 1_790_000_170})
        );
        kept_out(&attempt, &[fields[4].1, "5Aep861CANARY"]);
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_is_sent() {
        let inputs = Inputs {
            login: &login(),
            refresh_token: None,
            now: SystemTime::UNIX_EPOCH,
        };
        let refusal = attempt(&refresh_grant(ClientAuth::None), inputs).err().unwrap();
        assert_eq!(refusal.reason, "needs_login");
        let (_file, no_key) = secret("CANARY");
        let refusal = tried(ClientAuth::PrivateKey(no_key)).err().unwrap();
        assert_eq!(refusal.reason, "key_unusable");
        assert!(!format!("{refusal:?}").contains("CANARY"));
    }
}
