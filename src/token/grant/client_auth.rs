//! How an app proves to be itself, for the flows that ask for it.
//!
//! Invariants: Basic carries the raw values, as Salesforce wants them (not percent-encoded as RFC 6749 §2.3.1 would);
//! with the secret in the header the body names no client, or Salesforce would ignore the header; an assertion goes
//! without a secret, or Salesforce would not read it. Everything secret is in [`Sent`].
//! Fails with: `secret_unreadable`, `key_unusable`.
//! Source: SF §1.2; RFC 7523 §2.2.

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Fields, field, jwt_bearer, read_kept, read_key, token_url};
use crate::{
    config::{ClientAuth, SendSecret},
    token::refusal::{Refusal, Sent},
};

/// What travels as the proof. No `Debug`.
pub(super) struct Proof {
    pub(super) fields: Fields,
    pub(super) authorization: Option<HeaderValue>,
}

pub(super) fn prove(
    auth: &ClientAuth,
    client_id: &str,
    login: &url::Url,
    now: SystemTime,
    sent: &mut Sent,
) -> Result<Proof, Refusal> {
    match auth {
        ClientAuth::Secret(reference, send) => secret(client_id, read_kept("client_secret", reference)?, *send, sent),
        ClientAuth::PrivateKey(reference) => {
            let pem = read_key(reference)?;
            let assertion = jwt_bearer::signed(pem.expose_secret(), client_id, client_id, &token_url(login), now)
                .map_err(|problem| Refusal::of("key_unusable", format!("`private_key` {problem}")))?;
            sent.assertion(assertion.expose_secret());
            let mut proof = public(client_id);
            proof.fields.push(field("client_assertion_type", ASSERTION_TYPE));
            proof.fields.push(field("client_assertion", assertion));
            Ok(proof)
        }
        ClientAuth::None => Ok(public(client_id)),
    }
}

/// The client's id and its secret, in the header or in the body.
pub(super) fn secret(
    client_id: &str,
    secret: SecretString,
    send: SendSecret,
    sent: &mut Sent,
) -> Result<Proof, Refusal> {
    sent.basic(client_id, secret.expose_secret());
    match send {
        SendSecret::Basic => Ok(Proof {
            fields: vec![],
            authorization: Some(basic(client_id, secret.expose_secret())?),
        }),
        SendSecret::Body => {
            let mut proof = public(client_id);
            proof.fields.push(field("client_secret", secret));
            Ok(proof)
        }
    }
}

/// Nothing but the client's id.
pub(super) fn public(client_id: &str) -> Proof {
    Proof {
        fields: vec![field("client_id", client_id.to_owned())],
        authorization: None,
    }
}

fn basic(client_id: &str, secret: &str) -> Result<HeaderValue, Refusal> {
    let pair = Zeroizing::new(format!("{client_id}:{secret}"));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(&*pair)))
        .map_err(|_| Refusal::of("secret_unreadable", None))?;
    value.set_sensitive(true);
    Ok(value)
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
