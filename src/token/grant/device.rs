//! The device login: a short code to type on another machine. From 30 November 2026 only local External Client Apps
//! with a localhost callback may use it.
//!
//! Used by `sf-token-proxy login`, never by the keeper.
//! Invariants: Salesforce's own shapes, not those of RFC 8628: `response_type=device_code`, `grant_type=device`, `code`.
//! Fails with: nothing; an answer that is none of the first step's is `None`.
//! Source: SF §1.4.6.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{Attempt, Body, TOKEN_PATH, field};
use crate::{config::RefreshToken, token::refusal::Sent};

/// Asks for the pair of codes.
pub fn start(grant: &RefreshToken) -> Attempt {
    Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(vec![
            field("response_type", "device_code"),
            field("client_id", grant.client_id.clone()),
            field("scope", grant.login.scopes.join(" ")),
        ]),
        authorization: None,
        sent: Sent::default(),
    }
}

/// Asks whether the person has approved; `authorization_pending` means to ask again.
pub fn poll(grant: &RefreshToken, device_code: &SecretString) -> Attempt {
    let mut sent = Sent::default();
    sent.secret(device_code.expose_secret());
    Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(vec![
            field("grant_type", "device"),
            field("client_id", grant.client_id.clone()),
            field("code", device_code.clone()),
        ]),
        authorization: None,
        sent,
    }
}

/// The answer to [`start`]. Both codes live for ten minutes. No `Debug`.
pub struct Started {
    pub device_code: SecretString,
    pub user_code: String,
    /// Where the person types the user code.
    pub verification_uri: String,
    /// Between two polls; `slow_down` adds 5 s.
    pub interval: Duration,
}

/// Reads the answer to [`start`].
pub fn started(body: &[u8]) -> Option<Started> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| answer.get(name)?.as_str().map(str::to_owned);
    let interval = answer.get("interval");
    // Numbers may come as texts.
    let seconds = interval.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    Some(Started {
        device_code: text("device_code")?.into(),
        user_code: text("user_code")?,
        verification_uri: text("verification_uri")?,
        interval: Duration::from_secs(seconds.unwrap_or(5).clamp(1, 60)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::ClientAuth,
        token::grant::tests::{form, kept_out, refresh_grant},
    };

    #[test]
    fn both_steps_have_salesforces_shapes() {
        let grant = refresh_grant(ClientAuth::None);
        assert_eq!(
            form(&start(&grant)),
            [
                ("response_type", "device_code"),
                ("client_id", "3MVG9.id"),
                ("scope", "api refresh_token")
            ]
        );
        let poll = poll(&grant, &"CANARYdevice".into());
        assert_eq!(
            form(&poll),
            [
                ("grant_type", "device"),
                ("client_id", "3MVG9.id"),
                ("code", "CANARYdevice")
            ]
        );
        kept_out(&poll, &["CANARYdevice"]);
    }

    #[test]
    fn the_first_answer_is_read() {
        let body = br#"{"device_code":"d","user_code":"ABCD1234","verification_uri":"https://acme.my.salesforce.com/setup/connect","interval":7}"#;
        let started = super::started(body).unwrap();
        assert_eq!(started.device_code.expose_secret(), "d");
        assert_eq!(
            (started.user_code.as_str(), started.interval.as_secs()),
            ("ABCD1234", 7)
        );
        for bad in [&b"{}"[..], b"", b"<html>", br#"{"device_code":"d","user_code":5}"#] {
            assert!(super::started(bad).is_none());
        }
    }
}
