//! Asking the login host what it knows of a token.
//!
//! Invariants: the app's secret goes where a login's would go (header or body); an app without a secret asks nothing.
//! Source: SF §3.5; RFC 7662 §2.1.

use secrecy::{ExposeSecret, SecretString};

use super::{Attempt, Body, client_auth, field};
use crate::{
    config::{ClientAuth, Grant, SecretRef, SendSecret},
    token::refusal::Sent,
};

/// Reads the secret: not for an async thread. `None`: the app has none, or it cannot be read.
pub fn introspection(grant: &Grant, token: &SecretString, hint: &'static str) -> Option<Attempt> {
    let (client_id, secret, send) = app(grant)?;
    let secret = secret.read_or_last_good(|_| Ok(())).ok()?;
    let mut sent = Sent::default();
    sent.secret(token.expose_secret());
    let proof = client_auth::secret(client_id, secret, send, &mut sent).ok()?;
    let mut form = vec![field("token", token.clone()), field("token_type_hint", hint)];
    form.extend(proof.fields);
    Some(Attempt {
        path: PATH.into(),
        body: Body::Form(form),
        authorization: proof.authorization,
        sent,
    })
}

fn app(grant: &Grant) -> Option<(&str, &SecretRef, SendSecret)> {
    match grant {
        Grant::ClientCredentials(g) => Some((&g.client_id, &g.client_secret, g.send_secret)),
        Grant::Password(g) => Some((&g.client_id, &g.client_secret, g.send_secret)),
        Grant::TokenExchange(g) => Some((&g.client_id, g.client_secret.as_ref()?, g.send_secret)),
        Grant::RefreshToken(g) => match &g.auth {
            ClientAuth::Secret(secret, send) => Some((&g.client_id, secret, *send)),
            ClientAuth::PrivateKey(_) | ClientAuth::None => None,
        },
        Grant::JwtBearer(_)
        | Grant::SamlBearer(_)
        | Grant::PlatformCredentials(_)
        | Grant::Static(_)
        | Grant::Command(_) => None,
    }
}

const PATH: &str = "/services/oauth2/introspect";
