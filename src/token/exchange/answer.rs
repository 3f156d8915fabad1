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

use super::{Granted, Hosts, Identity, Minted};
use crate::{
    config::ApiHost,
    token::{Instance, TokenNotAHeader, lifetime, refusal::Refusal},
};

pub(crate) struct Answer {
    access_token: SecretString,
    refresh_token: Option<SecretString>,
    expires_in: Option<Duration>,
    id: Option<String>,
    scope: Option<String>,
    /// Every other text, by its field: hosts are looked up here.
    texts: Vec<(String, String)>,
}

/// `None`: not a token answer.
pub(crate) fn read(body: &[u8]) -> Option<Answer> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| Some(value.get(name)?.as_str()?.trim().to_owned()).filter(|text| !text.is_empty());
    Some(Answer {
        access_token: text("access_token")?.into(),
        refresh_token: text("refresh_token").map(SecretString::from),
        expires_in: value.get("expires_in").and_then(lifetime::seconds),
        id: text("id"),
        scope: text("scope"),
        texts: value
            .as_object()?
            .keys()
            .filter(|name| !name.contains("token"))
            .filter_map(|name| Some((name.clone(), text(name)?)))
            .collect(),
    })
}

impl Answer {
    /// What the answer brought beside the access token.
    pub(crate) fn refresh_token(&self) -> Option<SecretString> {
        self.refresh_token.clone()
    }

    /// `longest` bounds a told life.
    pub(crate) fn granted(self, hosts: &Hosts, longest: Duration, now: SystemTime) -> Result<Granted, Refusal> {
        let fits = http::HeaderValue::try_from(format!("Bearer {}", self.access_token.expose_secret())).is_ok();
        if !fits {
            return Err(Refusal::of("malformed_answer", TokenNotAHeader.to_string()));
        }
        let instance = match &hosts.rule {
            // What the operator says goes before what the answer says; at the platform the other way round.
            ApiHost::Instance | ApiHost::Other { field: None, .. } => match &hosts.fixed {
                Some(fixed) => Arc::clone(fixed),
                None => self.host("instance_url")?,
            },
            ApiHost::Platform { .. } => match (self.text("api_instance_url"), &hosts.fixed) {
                (_, Some(fixed)) if hosts.overrides => Arc::clone(fixed),
                (None, Some(fixed)) => Arc::clone(fixed),
                _ => self.host("api_instance_url")?,
            },
            ApiHost::Other { field: Some(field), .. } => match &hosts.fixed {
                Some(fixed) => Arc::clone(fixed),
                None => self.host(field)?,
            },
        };
        let also = match &hosts.rule {
            ApiHost::Other { also, .. } => also
                .iter()
                .map(|(prefix, field)| Ok((prefix.clone(), self.host(field)?)))
                .collect::<Result<Vec<_>, Refusal>>()?,
            _ => vec![],
        };
        let core = matches!(hosts.rule, ApiHost::Instance);
        let token = self.access_token.expose_secret();
        Ok(Granted {
            minted: Minted {
                also: also.into(),
                known_expiry: lifetime::known_expiry(token, self.expires_in, longest, now),
                identity: self.id.as_deref().and_then(identity),
                reaches_api: !core || self.scope.as_deref().is_none_or(reaches_api),
                ..Minted::new(self.access_token, instance)
            },
            refresh_token: self.refresh_token,
        })
    }

    fn text(&self, field: &str) -> Option<&str> {
        let found = self.texts.iter().find(|(name, _)| name == field);
        found.map(|(_, text)| text.as_str())
    }

    fn host(&self, field: &str) -> Result<Arc<Instance>, Refusal> {
        let Some(url) = self.text(field) else {
            return Err(Refusal::of("malformed_answer", format!("no {field} in the answer")));
        };
        Instance::parse(url)
            .map(Arc::new)
            .map_err(|e| Refusal::of("unsafe_instance_url", format!("the answer's {field} {e}")))
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

    const CORE: Hosts = Hosts {
        rule: ApiHost::Instance,
        fixed: None,
        overrides: false,
    };

    fn minted(body: &str) -> Option<Result<Minted, Refusal>> {
        let granted = read(body.as_bytes())?.granted(&CORE, HOUR, SystemTime::UNIX_EPOCH);
        Some(granted.map(|granted| granted.minted))
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
            let hosts = Hosts {
                rule: ApiHost::Instance,
                fixed: Some(Arc::new(Instance::parse("https://b.example").unwrap())),
                overrides: true,
            };
            let answer = read(body.as_bytes()).unwrap();
            assert!(answer.granted(&hosts, HOUR, SystemTime::UNIX_EPOCH).is_ok());
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
