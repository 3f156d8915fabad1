//! The username-password grant, which Salesforce ends on 20 February 2027.
//!
//! Invariants: the security token follows the password without a separator.
//! Fails with: `secret_unreadable`.
//! Source: SF §1.4.5; RFC 6749 §4.3.

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Attempt, Body, TOKEN_PATH, client_auth, field, read_kept};
use crate::{
    config::Password,
    token::refusal::{Refusal, Sent},
};

pub(super) fn attempt(grant: &Password) -> Result<Attempt, Refusal> {
    let secret = read_kept("client_secret", &grant.client_secret)?;
    let password = read_kept("password", &grant.password)?;
    let token = grant.security_token.as_ref();
    let token = token.map(|token| read_kept("security_token", token)).transpose()?;
    let mut sent = Sent::default();
    sent.secret(password.expose_secret());
    let password = match &token {
        None => password,
        Some(token) => {
            sent.secret(token.expose_secret());
            let both = Zeroizing::new(format!("{}{}", password.expose_secret(), token.expose_secret()));
            sent.secret(&both);
            SecretString::from(both.as_str())
        }
    };
    let proof = client_auth::secret(&grant.client_id, secret, grant.send_secret, &mut sent)?;
    let mut form = vec![field("grant_type", "password")];
    form.extend(proof.fields);
    form.push(field("username", grant.username.clone()));
    form.push(field("password", password));
    Ok(Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(form),
        authorization: proof.authorization,
        sent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::SendSecret,
        token::grant::tests::{form, kept_out, secret},
    };

    #[test]
    fn the_security_token_follows_the_password_without_a_separator() {
        let (_app, app) = secret("CANARYapp");
        let (_word, word) = secret("CANARYpass word\n");
        let (_token, token) = secret("CANARYtoken\n");
        for (token, expected) in [(Some(token), "CANARYpass wordCANARYtoken"), (None, "CANARYpass word")] {
            let grant = Password {
                client_id: "3MVG9.id".into(),
                client_secret: app.clone(),
                send_secret: SendSecret::Body,
                username: "i@acme.com".into(),
                password: word.clone(),
                security_token: token,
            };
            let attempt = attempt(&grant).unwrap();
            assert_eq!(
                form(&attempt),
                [
                    ("grant_type", "password"),
                    ("client_id", "3MVG9.id"),
                    ("client_secret", "CANARYapp"),
                    ("username", "i@acme.com"),
                    ("password", expected)
                ]
            );
            assert_eq!((&*attempt.path, attempt.authorization.is_none()), (TOKEN_PATH, true));
            kept_out(&attempt, &[expected, "CANARYpass word", "CANARYapp"]);
        }
    }
}
