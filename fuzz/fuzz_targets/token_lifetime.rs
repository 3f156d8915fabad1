//! Any `expires_in` (the first line, JSON) and any token or JWT payload (the rest): README.md.
#![no_main]

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sf_token_proxy::token::{
    Expiry,
    lifetime::{Lifetime, Renewal, known_expiry, renewal_after, seconds},
};
use sf_token_proxy_fuzz::now;

const LONGEST: Duration = Duration::from_secs(7200);
const RULES: [Renewal; 2] = [
    Renewal::Fraction,
    Renewal::Margin {
        before: Duration::from_secs(300),
        age: Duration::from_secs(900),
    },
];

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (first, rest) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let told = serde_json::from_slice::<Value>(first).ok().as_ref().and_then(seconds);
    let chance = f64::from(rest.first().copied().unwrap_or_default()) / 255.0;

    let as_it_is = String::from_utf8_lossy(rest);
    check(&as_it_is, None, told, chance);

    let jwt = format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(rest));
    let claims = serde_json::from_slice::<Value>(rest).unwrap_or_default();
    let exp = claims.get("exp").and_then(Value::as_u64).filter(|exp| *exp < 1 << 53);
    check(&jwt, exp, told, chance);
});

/// `exp`: what the token is known to say.
fn check(token: &str, exp: Option<u64>, told: Option<Duration>, chance: f64) {
    let known = known_expiry(token, told, LONGEST, now());
    if told.is_some() {
        let known = known.expect("a told life counts");
        assert!(known <= now() + LONGEST, "a told life is bounded");
    }
    if let Some(at) = exp.and_then(|exp| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp))) {
        let expected = told.map_or(at, |told| at.min(now() + told.min(LONGEST)));
        assert_eq!(known, Some(expected));
    }
    let mut life = Lifetime::new(LONGEST);
    life.refused_at(told.unwrap_or_default());
    life.lived_undisturbed();
    assert!((Duration::from_secs(300)..=LONGEST).contains(&life.assumed()));
    let expiry = life.expiry(known, now());
    assert!(expiry.at() > now(), "a fresh token has not ended");
    for expiry in [expiry, Expiry::Known(known.unwrap_or(SystemTime::UNIX_EPOCH))] {
        for rule in RULES {
            let due = renewal_after(rule, expiry, now(), chance);
            let hours = Duration::from_secs(30)..=Duration::from_secs(12 * 3600);
            assert!(hours.contains(&due), "renewal after {due:?}");
        }
    }
}
