//! Any bytes as the answer to a question for a token's end: README.md.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sf_token_proxy::fuzzing::introspection_answer;

fuzz_target!(|body: &[u8]| {
    check(body);
    // The same answer of a token that has ended, or that has not.
    let mut value = serde_json::from_slice::<Value>(body).unwrap_or_default();
    if let Some(Value::Bool(active)) = value.get_mut("active") {
        *active = !*active;
        check(value.to_string().as_bytes());
    }
});

fn check(body: &[u8]) {
    let value = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let active = value.get("active").and_then(Value::as_bool);
    let told = introspection_answer(body);
    assert_eq!(told.map(|told| told.active), active);
    let Some(told) = told else { return };
    // A token that has ended has no end to come; a whole number of seconds is taken to the second.
    let exp = value.get("exp").and_then(Value::as_u64).filter(|exp| *exp < 1 << 53);
    match (told.active, exp) {
        (false, _) => assert_eq!(told.expiry, None),
        (true, Some(exp)) => {
            assert_eq!(
                told.expiry,
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp))
            );
        }
        (true, None) => {}
    }
}
