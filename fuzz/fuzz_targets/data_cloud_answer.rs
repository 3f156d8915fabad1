//! Any bytes as stage two's answer: README.md.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sf_token_proxy::{
    fuzzing::{data_cloud_answer, data_cloud_trouble},
    token::refusal::Sent,
};
use sf_token_proxy_fuzz::{CANARY, check_instance, check_refusal, now, shows, statuses};

fuzz_target!(|body: &[u8]| {
    match data_cloud_answer(body, now()) {
        None => {}
        Some(Err(refusal)) => check_refusal(&refusal, CANARY),
        Some(Ok(minted)) => {
            let token = minted.secret.expose_secret();
            assert!(!token.is_empty());
            check_instance(&minted.instance);
            let value: Value = serde_json::from_slice(body).expect("a token answer is JSON");
            if value.get("expires_in").is_none() {
                let expiry = minted.known_expiry.expect("a life is assumed where none is told");
                assert!(expiry <= now() + Duration::from_secs(1800));
            }
            if token.len() >= 8
                && body
                    .windows(token.len())
                    .filter(|part| *part == token.as_bytes())
                    .count()
                    == 1
            {
                assert!(!shows(&format!("{minted:?}"), token), "Debug shows the token");
            }
        }
    }
    let mut sent = Sent::default();
    sent.secret(CANARY);
    for status in statuses(body) {
        let (core_token, refusal) = data_cloud_trouble(status, body, &sent);
        check_refusal(&refusal, CANARY);
        let outage = status >= 500 || matches!(status, 404 | 408 | 420 | 429);
        assert!(!(outage && core_token), "an outage ({status}) costs no login");
    }
});
