//! Any bytes as the login host's answer, for orgs of every kind: README.md.
#![no_main]

use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sf_token_proxy::{
    config::{ApiHost, Org},
    fuzzing::token_answer,
    token::{
        Instance,
        refusal::{Sent, refusal},
    },
};
use sf_token_proxy_fuzz::{CANARY, ORGS, check_instance, check_refusal, now, shows, statuses};

fuzz_target!(|body: &[u8]| {
    as_token(body);
    if let Some(planted) = planted(body) {
        as_token(&planted);
    }
    let mut sent = Sent::default();
    sent.secret(CANARY);
    for status in statuses(body) {
        check_refusal(&refusal(status, body, &sent), CANARY);
    }
});

fn as_token(body: &[u8]) {
    for org in ORGS.iter() {
        let granted = match token_answer(body, org, now()) {
            None => return,
            Some(Err(refusal)) => {
                check_refusal(&refusal, CANARY);
                assert!(
                    !shows(&format!("{refusal:?} {refusal}"), CANARY),
                    "a refusal shows a token"
                );
                continue;
            }
            Some(Ok(granted)) => granted,
        };
        let minted = &granted.minted;
        let token = minted.secret.expose_secret();
        assert!(!token.is_empty());
        assert!(
            granted
                .refresh_token
                .is_none_or(|token| !token.expose_secret().is_empty())
        );
        check_instance(&minted.instance);
        minted.also.iter().for_each(|(_, instance)| check_instance(instance));
        check_configured(org, &minted.instance);
        if let Some(identity) = &minted.identity {
            for id in [&identity.org_id, &identity.user_id] {
                assert!(
                    (15..=18).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric()),
                    "{id:?}"
                );
            }
        }
        if let Some(expiry) = minted.known_expiry.filter(|_| !token.contains('.')) {
            assert!(expiry <= now() + org.token.lifetime, "a told life is bounded");
        }
        assert!(!shows(&format!("{minted:?}"), CANARY), "Debug shows a token");
    }
}

/// What the operator says goes before what the answer says.
fn check_configured(org: &Org, instance: &Instance) {
    if let (Some(url), ApiHost::Instance | ApiHost::Other { .. }) = (&org.instance_url, &org.api.host) {
        assert_eq!(
            Instance::from_url(url).as_ref(),
            Ok(instance),
            "not the configured host"
        );
    }
}

/// The same answer with a canary for each of its tokens.
fn planted(body: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    for (name, value) in value.as_object_mut()? {
        if name.contains("token") && value.is_string() {
            *value = CANARY.into();
        }
    }
    Some(value.to_string().into_bytes())
}
