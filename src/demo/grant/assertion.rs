//! Whether a JWT bearer assertion is good.
//!
//! Owns: nothing; a pure decision.
//! Invariants: nothing is believed before the signature fits the key uploaded for `iss`.
//! Units: `exp` is seconds since 1970, number or string; at most 5 min ahead, 3 min of grace.
//! Fails with: [`Refusal`], the `error` and `error_description` of SF §2.
//! Source: SF §1.4.1; RFC 7523 section 3.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::demo::{key::PublicKey, settings::JwtClient};

/// `error`, `error_description`.
pub(crate) type Refusal = (&'static str, &'static str);

pub(crate) const NOT_APPROVED: Refusal = ("invalid_grant", "user hasn't approved this consumer");
pub(super) const MALFORMED: Refusal = ("invalid_grant", "invalid assertion");
pub(super) const UNKNOWN_CLIENT: Refusal = ("invalid_client_id", "client identifier invalid");
pub(super) const WRONG_KEY: Refusal = ("invalid_client", "invalid client credentials");
pub(super) const AUDIENCE: Refusal = ("invalid_grant", "audience is invalid");
const EXPIRED: Refusal = ("invalid_grant", "expired authorization code");

const AHEAD: Duration = Duration::from_secs(5 * 60);
const GRACE: Duration = Duration::from_secs(3 * 60);

/// The app that the assertion proves.
pub(crate) fn verify<'a>(
    assertion: &str,
    clients: &'a [JwtClient],
    audiences: &[String],
    now: SystemTime,
) -> Result<&'a JwtClient, Refusal> {
    let jwt = read(assertion)?;
    let claims = &jwt.claims;
    let issuer = claims["iss"].as_str().ok_or(MALFORMED)?;

    let client = clients
        .iter()
        .find(|client| client.client_id == issuer)
        .ok_or(UNKNOWN_CLIENT)?;
    if !jwt.is_signed_by(&client.key) {
        return Err(WRONG_KEY);
    }

    if !names_one_of(&claims["aud"], audiences) {
        return Err(AUDIENCE);
    }
    let expires = seconds(&claims["exp"]).ok_or(EXPIRED)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if expires > now + AHEAD || expires + GRACE <= now {
        return Err(EXPIRED);
    }
    // `prn` is the old name of `sub` and wins.
    let user = claims["prn"].as_str().or(claims["sub"].as_str());
    match user {
        None => Err(MALFORMED),
        Some(user) if user == client.username => Ok(client),
        Some(_) => Err(NOT_APPROVED),
    }
}

/// A JWT with RS256, not yet believed.
pub(super) struct Jwt<'a> {
    pub(super) claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

impl Jwt<'_> {
    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.der())
            .verify(self.signed.as_bytes(), &self.signature)
            .is_ok()
    }
}

pub(super) fn read(assertion: &str) -> Result<Jwt<'_>, Refusal> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        return Err(MALFORMED);
    };
    if decode(header)?["alg"] != "RS256" {
        return Err(MALFORMED);
    }
    Ok(Jwt {
        signed: &assertion[..header.len() + 1 + claims.len()],
        claims: decode(claims)?,
        signature: URL_SAFE_NO_PAD.decode(signature).map_err(|_| MALFORMED)?,
    })
}

fn decode(part: &str) -> Result<Value, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|_| MALFORMED)?;
    value.is_object().then_some(value).ok_or(MALFORMED)
}

pub(super) fn names_one_of(audience: &Value, accepted: &[String]) -> bool {
    let named = |value: &Value| value.as_str().is_some_and(|text| accepted.iter().any(|a| a == text));
    match audience {
        Value::Array(several) => several.iter().any(named),
        one => named(one),
    }
}

pub(super) fn seconds(exp: &Value) -> Option<Duration> {
    let number = match exp {
        Value::String(text) => text.parse().ok()?,
        other => other.as_u64().or(other.as_f64().map(|f| f as u64))?,
    };
    Some(Duration::from_secs(number))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
    use serde_json::json;

    use super::*;
    use crate::demo::key::RsaKey;

    const NOW: u64 = 1_790_000_000;

    fn sign(key: &RsaKey, header: &Value, claims: &Value) -> String {
        let pair = KeyPair::from_der(key.pkcs1()).unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; 256];
        pair.sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            signed.as_bytes(),
            &mut signature,
        )
        .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn each_rule_has_its_refusal() {
        let (key, other) = (RsaKey::generate().unwrap(), RsaKey::generate().unwrap());
        let clients = [JwtClient {
            client_id: "app".into(),
            username: "user".into(),
            key: key.public(),
            scopes: Vec::new(),
        }];
        let audiences = ["https://login.salesforce.com".to_owned()];
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        let good = json!({"iss": "app", "sub": "user", "aud": "https://login.salesforce.com", "exp": NOW + 180});
        let rs256 = json!({"alg": "RS256"});
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            sign(&key, &rs256, &claims)
        };
        let cases = [
            ("good", sign(&key, &rs256, &good), None),
            ("exp as a string", with("exp", json!((NOW + 180).to_string())), None),
            ("exp five minutes ahead", with("exp", json!(NOW + 300)), None),
            ("exp too far ahead", with("exp", json!(NOW + 301)), Some(EXPIRED)),
            (
                "exp in milliseconds",
                with("exp", json!((NOW + 180) * 1000)),
                Some(EXPIRED),
            ),
            ("exp within the grace", with("exp", json!(NOW - 179)), None),
            ("exp after the grace", with("exp", json!(NOW - 180)), Some(EXPIRED)),
            ("exp missing", with("exp", Value::Null), Some(EXPIRED)),
            (
                "aud of another host",
                with("aud", json!("https://test.salesforce.com")),
                Some(AUDIENCE),
            ),
            (
                "aud with a path",
                with("aud", json!("https://login.salesforce.com/")),
                Some(AUDIENCE),
            ),
            (
                "aud in a list",
                with("aud", json!(["https://login.salesforce.com"])),
                None,
            ),
            ("another user", with("sub", json!("someone")), Some(NOT_APPROVED)),
            ("prn wins", with("prn", json!("someone")), Some(NOT_APPROVED)),
            ("no user", with("sub", Value::Null), Some(MALFORMED)),
            ("unknown app", with("iss", json!("other")), Some(UNKNOWN_CLIENT)),
            ("another key", sign(&other, &rs256, &good), Some(WRONG_KEY)),
            (
                "another algorithm",
                sign(&key, &json!({"alg": "HS256"}), &good),
                Some(MALFORMED),
            ),
            ("no JWT", "abc".into(), Some(MALFORMED)),
            (
                "four parts",
                format!("{}.x", sign(&key, &rs256, &good)),
                Some(MALFORMED),
            ),
        ];
        for (name, assertion, refusal) in cases {
            let verdict = verify(&assertion, &clients, &audiences, now).err();
            assert_eq!(verdict, refusal, "{name}");
        }
    }
}
