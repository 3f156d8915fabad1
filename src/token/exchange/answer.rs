//! The token answer: what is taken from it, and what not.
//!
//! Invariants: only `access_token` and `instance_url` are required; unknown fields are ignored; numbers may be strings;
//! the instance URL is https, or plain http to loopback. No `Debug`.
//! Fails with: `malformed_answer`, `unsafe_instance_url`.
//! Source: SF §1.3.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{Identity, Minted};
use crate::token::{Instance, lifetime, refusal::Refusal};

pub(super) struct Answer {
    access_token: SecretString,
    instance_url: Option<String>,
    expires_in: Option<Duration>,
    id: Option<String>,
    scope: Option<String>,
}

/// `None`: not a token answer.
pub(super) fn read(body: &[u8]) -> Option<Answer> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| Some(value.get(name)?.as_str()?.trim().to_owned()).filter(|text| !text.is_empty());
    Some(Answer {
        access_token: text("access_token")?.into(),
        instance_url: text("instance_url"),
        expires_in: value.get("expires_in").and_then(lifetime::seconds),
        id: text("id"),
        scope: text("scope"),
    })
}

impl Answer {
    /// `instance` overrides the answer's; `longest` bounds a told life.
    pub(super) fn minted(
        self,
        instance: Option<&Arc<Instance>>,
        longest: Duration,
        now: SystemTime,
    ) -> Result<Minted, Refusal> {
        let instance = match (instance, &self.instance_url) {
            (Some(instance), _) => Arc::clone(instance),
            (None, Some(url)) => Arc::new(
                Instance::parse(url)
                    .map_err(|e| Refusal::of("unsafe_instance_url", format!("the answer's instance_url {e}")))?,
            ),
            (None, None) => {
                return Err(Refusal::of(
                    "malformed_answer",
                    "no instance_url in the answer".to_owned(),
                ));
            }
        };
        let token = self.access_token.expose_secret();
        Ok(Minted {
            instance,
            known_expiry: lifetime::known_expiry(token, self.expires_in, longest, now),
            identity: self.id.as_deref().and_then(identity),
            reaches_api: self.scope.as_deref().is_none_or(reaches_api),
            secret: self.access_token,
        })
    }
}

/// `https://login.salesforce.com/id/{orgId}/{userId}`.
fn identity(id: &str) -> Option<Identity> {
    let url = url::Url::parse(id).ok()?;
    let mut path = url.path_segments()?;
    let is_id = |text: &&str| (15..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    (path.next()? == "id").then_some(())?;
    let org_id = path.next().filter(is_id)?.to_owned();
    let user_id = path.next().filter(is_id)?.to_owned();
    Some(Identity { org_id, user_id })
}

fn reaches_api(scope: &str) -> bool {
    scope
        .split_ascii_whitespace()
        .any(|word| matches!(word, "api" | "full"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn minted(body: &str) -> Option<Result<Minted, Refusal>> {
        Some(read(body.as_bytes())?.minted(None, HOUR, SystemTime::UNIX_EPOCH))
    }

    #[test]
    fn the_documented_answers_are_understood() {
        let minted = minted(
            r#"{"access_token":"00Dxx0000001gEREAY!AQcAQ","scope":"api id","instance_url":"https://ACME.my.salesforce.com/",
            "id":"https://login.salesforce.com/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS","token_type":"Bearer",
            "issued_at":"1790000000123","api_instance_url":"https://api.salesforce.com","new":{"a":[1]}}"#,
        )
        .unwrap()
        .unwrap();
        assert_eq!(minted.secret.expose_secret(), "00Dxx0000001gEREAY!AQcAQ");
        assert_eq!(minted.instance.host, "acme.my.salesforce.com");
        assert_eq!(minted.known_expiry, None);
        assert!(minted.reaches_api);
        let identity = minted.identity.unwrap();
        assert_eq!(
            (identity.org_id.as_str(), identity.user_id.as_str()),
            ("00Dxx0000001gEREAY", "005xx000001Sv6DAAS")
        );
    }

    #[test]
    fn a_told_life_counts_whether_number_or_text() {
        for life in ["900", "\"900\"", "900.0"] {
            let body = format!(r#"{{"access_token":"t","instance_url":"https://a.example","expires_in":{life}}}"#);
            let known = minted(&body).unwrap().unwrap().known_expiry;
            assert_eq!(known, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(900)), "{life}");
        }
    }

    #[test]
    fn an_unsafe_or_missing_instance_is_refused_unless_overridden() {
        for (url, reason) in [
            ("http://acme.my.salesforce.com", "unsafe_instance_url"),
            ("ftp://acme.my.salesforce.com", "unsafe_instance_url"),
            ("https://user:pw@acme.my.salesforce.com", "unsafe_instance_url"),
            ("", "malformed_answer"),
        ] {
            let body = serde_json::json!({"access_token": "CANARY", "instance_url": url}).to_string();
            let refusal = minted(&body).unwrap().unwrap_err();
            assert_eq!(refusal.reason, reason, "{url}");
            assert!(!format!("{refusal:?}").contains("CANARY"));
            let instance = Arc::new(Instance::parse("https://b.example").unwrap());
            let answer = read(body.as_bytes()).unwrap();
            assert!(answer.minted(Some(&instance), HOUR, SystemTime::UNIX_EPOCH).is_ok());
        }
    }

    #[test]
    fn a_scope_without_api_is_noticed() {
        for (scope, expected) in [
            (Some("id openid"), false),
            (Some("apix"), false),
            (Some("full"), true),
            (None, true),
        ] {
            let body = serde_json::json!({"access_token": "t", "instance_url": "https://a.example", "scope": scope});
            assert_eq!(
                minted(&body.to_string()).unwrap().unwrap().reaches_api,
                expected,
                "{scope:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body: Vec<u8>, url: String, id: String) {
            let _ = read(&body);
            let body = serde_json::json!({"access_token": "t", "instance_url": url, "id": id}).to_string();
            let _ = minted(&body);
        }
    }
}
