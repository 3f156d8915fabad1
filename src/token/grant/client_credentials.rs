//! The client credentials grant: the app logs in as its one Run As user.
//!
//! Invariants: Basic carries the raw values, as Salesforce wants them (not percent-encoded as RFC 6749 §2.3.1 would);
//! with the secret in the header the body carries none, or Salesforce would ignore the header. No `scope` is sent.
//! Fails with: `secret_unreadable`.
//! Source: SF §1.2, §1.4.2; RFC 6749 §4.4.2.

use super::{Attempt, Body, TOKEN_PATH, client_auth, field, read_kept};
use crate::{
    config::ClientCredentials,
    token::refusal::{Refusal, Sent},
};

pub(super) fn attempt(grant: &ClientCredentials) -> Result<Attempt, Refusal> {
    let secret = read_kept("client_secret", &grant.client_secret)?;
    let mut sent = Sent::default();
    let mut form = vec![field("grant_type", "client_credentials")];
    let proof = client_auth::secret(&grant.client_id, secret, grant.send_secret, &mut sent)?;
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
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    use super::*;
    use crate::{
        config::{SecretRef, SendSecret},
        token::grant::tests::form,
    };

    fn grant(send_secret: SendSecret) -> (tempfile::NamedTempFile, ClientCredentials) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3c/r+t=\n").unwrap();
        let grant = ClientCredentials {
            client_id: "3MVG9.id".into(),
            client_secret: SecretRef::file(file.path().to_owned()),
            send_secret,
        };
        (file, grant)
    }

    #[test]
    fn basic_carries_the_raw_pair_and_the_body_none() {
        let (_file, grant) = grant(SendSecret::Basic);
        let attempt = attempt(&grant).unwrap();
        assert_eq!(form(&attempt), [("grant_type", "client_credentials")]);
        let header = attempt.authorization.unwrap();
        assert!(header.is_sensitive());
        let value = header.to_str().unwrap().strip_prefix("Basic ").unwrap();
        assert_eq!(BASE64_STANDARD.decode(value).unwrap(), b"3MVG9.id:s3c/r+t=");
    }

    #[test]
    fn the_body_carries_the_pair_when_asked_to() {
        let (_file, grant) = grant(SendSecret::Body);
        let attempt = attempt(&grant).unwrap();
        assert!(attempt.authorization.is_none());
        assert_eq!(
            form(&attempt)[1..],
            [("client_id", "3MVG9.id"), ("client_secret", "s3c/r+t=")]
        );
    }

    #[test]
    fn a_rotated_secret_counts_at_the_next_attempt_and_a_lost_one_is_named() {
        let (file, grant) = grant(SendSecret::Body);
        std::fs::write(file.path(), "\n").unwrap();
        let refusal = attempt(&grant).err().unwrap();
        assert_eq!(refusal.reason, "secret_unreadable");
        assert!(refusal.description.unwrap().starts_with("`client_secret`: file:"));
        std::fs::write(file.path(), "second").unwrap();
        assert_eq!(form(&attempt(&grant).unwrap())[2].1, "second");
        // One that is lost while it is rotated does not end what works.
        std::fs::write(file.path(), "\n").unwrap();
        assert_eq!(form(&attempt(&grant).unwrap())[2].1, "second");
    }
}
