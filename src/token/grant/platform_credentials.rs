//! Client credentials as clouds other than the core take them: an own path, a form or JSON, more parameters.
//!
//! Invariants: as [`client_auth`] says; a parameter of the settings never replaces one of the grant's own.
//! Fails with: `secret_unreadable`.
//! Source: SF §5.5; RFC 6749 §4.4.2.

use super::{Attempt, Body, client_auth, field, read_kept};
use crate::{
    config::{BodyFormat, PlatformCredentials},
    token::refusal::{Refusal, Sent},
};

pub(super) fn attempt(grant: &PlatformCredentials) -> Result<Attempt, Refusal> {
    let secret = read_kept("client_secret", &grant.client_secret)?;
    let mut sent = Sent::default();
    let proof = client_auth::secret(&grant.client_id, secret, grant.send_secret, &mut sent)?;
    let mut fields = vec![field("grant_type", "client_credentials")];
    fields.extend(proof.fields);
    let more = grant.parameters.iter();
    fields.extend(more.map(|(name, value)| (name.clone().into(), value.clone().into())));
    Ok(Attempt {
        path: grant.token_path.clone().into(),
        body: match grant.body {
            BodyFormat::Form => Body::Form(fields),
            BodyFormat::Json => Body::Json(fields),
        },
        authorization: proof.authorization,
        sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::SendSecret,
        token::grant::tests::{form, json, kept_out, secret},
    };

    fn tried(body: BodyFormat, send_secret: SendSecret) -> Attempt {
        let (_file, client_secret) = secret("CANARYapp");
        attempt(&PlatformCredentials {
            token_path: "/v2/token?x=1".into(),
            body,
            client_id: "id".into(),
            client_secret,
            send_secret,
            parameters: vec![("account_id".into(), "510001234".into())],
        })
        .unwrap()
    }

    #[test]
    fn the_body_and_the_proof_are_as_chosen() {
        let in_body = [
            ("grant_type", "client_credentials"),
            ("client_id", "id"),
            ("client_secret", "CANARYapp"),
            ("account_id", "510001234"),
        ];
        let attempt = tried(BodyFormat::Json, SendSecret::Body);
        assert_eq!((&*attempt.path, json(&attempt)), ("/v2/token?x=1", in_body.to_vec()));
        kept_out(&attempt, &["CANARYapp"]);
        assert_eq!(form(&tried(BodyFormat::Form, SendSecret::Body)), in_body);
        let attempt = tried(BodyFormat::Form, SendSecret::Basic);
        assert_eq!(
            form(&attempt),
            [("grant_type", "client_credentials"), ("account_id", "510001234")]
        );
        assert_eq!(attempt.authorization.unwrap(), "Basic aWQ6Q0FOQVJZYXBw");
    }
}
