//! The token exchange grant: a token of an external identity provider for one of Salesforce.
//!
//! Invariants: the subject token is read anew for each login; one that Salesforce would not take is not sent.
//! Fails with: `secret_unreadable`; `subject_token`, naming its length.
//! Source: SF §1.4.7; RFC 8693 §2.1.

use secrecy::ExposeSecret;

use super::{Attempt, Body, TOKEN_PATH, client_auth, field, read, read_kept};
use crate::{
    config::TokenExchange,
    token::refusal::{Refusal, Sent},
};

pub(super) fn attempt(grant: &TokenExchange) -> Result<Attempt, Refusal> {
    let subject = read("subject_token", &grant.subject_token)?;
    let length = subject.expose_secret().chars().count();
    if length > LONGEST {
        let text = format!("`subject_token` has {length} characters; Salesforce takes {LONGEST} at most");
        return Err(Refusal::of("subject_token", text));
    }
    let mut sent = Sent::default();
    match subject.expose_secret().starts_with("eyJ") {
        true => sent.assertion(subject.expose_secret()),
        false => sent.secret(subject.expose_secret()),
    }
    let proof = match &grant.client_secret {
        Some(secret) => {
            let secret = read_kept("client_secret", secret)?;
            client_auth::secret(&grant.client_id, secret, grant.send_secret, &mut sent)?
        }
        None => client_auth::public(&grant.client_id),
    };
    let mut form = vec![
        field("grant_type", GRANT_TYPE),
        field("subject_token", subject),
        field("subject_token_type", grant.subject_token_type.clone()),
    ];
    form.extend(proof.fields);
    form.extend(grant.scope.clone().map(|scope| field("scope", scope)));
    form.extend(grant.token_handler.clone().map(|name| field("token_handler", name)));
    Ok(Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(form),
        authorization: proof.authorization,
        sent,
    })
}

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const LONGEST: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::SendSecret,
        token::grant::tests::{form, kept_out, secret},
    };

    fn tried(subject: &str, app: Option<&str>, more: bool) -> Result<Attempt, Refusal> {
        let (_file, subject) = secret(subject);
        let app = app.map(secret);
        attempt(&TokenExchange {
            client_id: "3MVG9.id".into(),
            client_secret: app.as_ref().map(|(_, reference)| reference.clone()),
            send_secret: SendSecret::Body,
            subject_token: subject,
            subject_token_type: "urn:ietf:params:oauth:token-type:jwt".into(),
            scope: more.then(|| "api".to_owned()),
            token_handler: more.then(|| "MapUser".to_owned()),
        })
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let start = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", "eyJhbGci.CANARYpayload.CANARYsign"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("client_id", "3MVG9.id"),
        ];
        let attempt = tried(start[1].1, None, false).unwrap();
        assert_eq!(form(&attempt), start);
        kept_out(&attempt, &[start[1].1, "CANARYpayload"]);
        let attempt = tried(start[1].1, Some("CANARYapp"), true).unwrap();
        let more = [
            ("client_secret", "CANARYapp"),
            ("scope", "api"),
            ("token_handler", "MapUser"),
        ];
        assert_eq!(form(&attempt), [&start[..], &more].concat());
        kept_out(&attempt, &["CANARYapp"]);
    }

    #[test]
    fn a_subject_token_that_salesforce_would_not_take_is_not_sent() {
        assert!(tried(&"é".repeat(10_000), None, false).is_ok());
        let refusal = tried(&"x".repeat(10_001), None, false).err().unwrap();
        assert_eq!(refusal.reason, "subject_token");
        assert_eq!(
            refusal.description.unwrap(),
            "`subject_token` has 10001 characters; Salesforce takes 10000 at most"
        );
    }
}
