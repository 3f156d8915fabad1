//! How long a token lives, and when its renewal is due.
//!
//! Owns: nothing but the learned lifetime of one org's tokens; pure decisions, the clock and chance are passed in.
//! Invariants: a life that was told (JWT `exp`, `expires_in`) is never mixed with an assumed one; the assumed one stays
//! between five minutes and the setting; it falls when the org refuses a token earlier, and grows back when tokens live
//! undisturbed, so that one mass revocation does not leave every pod logging in every few minutes for ever.
//! Units: `Duration` from receipt; `SystemTime` for expiries.
//! Fails with: nothing; what cannot be read tells nothing.
//! Source: design §5; SF §3.1 (sessions), §3.2 (JWT-format tokens).

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use super::Expiry;

/// The life assumed of tokens that do not tell theirs.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    setting: Duration,
    assumed: Duration,
}

impl Lifetime {
    pub fn new(setting: Duration) -> Self {
        Self {
            setting,
            assumed: setting,
        }
    }

    /// Another setting; what was learned below it stays.
    pub fn set(&mut self, setting: Duration) {
        let learned = self.assumed < self.setting;
        self.assumed = if learned { self.assumed.min(setting) } else { setting };
        self.setting = setting;
    }

    pub fn assumed(&self) -> Duration {
        self.assumed
    }

    /// The org refused a token of this age.
    pub fn refused_at(&mut self, age: Duration) {
        let shortest = SHORTEST_ASSUMED.min(self.setting);
        self.assumed = age.max(shortest).min(self.assumed);
    }

    /// A token was renewed on schedule and was never refused before.
    pub fn lived_undisturbed(&mut self) {
        self.assumed = (self.assumed + self.assumed / 2).min(self.setting);
    }

    /// When a token of now ends.
    pub fn expiry(&self, known: Option<SystemTime>, now: SystemTime) -> Expiry {
        match known {
            Some(at) if at > now && at <= now + LONGEST_TOLD => Expiry::Known(at),
            // A fresh token that has ended already: this machine's clock is ahead, and would ask for a login every 30 s. Or one
            // that nearly never ends: whoever wrote that meant another unit.
            Some(_) | None => Expiry::Assumed(now + self.assumed),
        }
    }
}

/// What the token or the answer told of its end; `longest` bounds a told `expires_in`.
pub fn known_expiry(
    token: &str,
    expires_in: Option<Duration>,
    longest: Duration,
    now: SystemTime,
) -> Option<SystemTime> {
    let answer = expires_in.and_then(|life| now.checked_add(life.min(longest)));
    match (jwt_expiry(token), answer) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// `exp` of a JWT-format token, read without verifying: only the org judges the token.
fn jwt_expiry(token: &str) -> Option<SystemTime> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(seconds(claims.get("exp")?)?)
}

/// A number of seconds, written as a number or as a string.
pub fn seconds(value: &serde_json::Value) -> Option<Duration> {
    let number = match value {
        serde_json::Value::Number(number) => number.as_f64()?,
        serde_json::Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Duration::try_from_secs_f64(number).ok()
}

/// When the renewal of a token is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// At three quarters of the life.
    Fraction,
    /// When so much is left, or at this age, whichever comes first.
    Margin { before: Duration, age: Duration },
}

/// How long after the mint the renewal is due. `chance` in 0..1 spreads the replicas.
pub fn renewal_after(rule: Renewal, expiry: Expiry, minted_at: SystemTime, chance: f64) -> Duration {
    let life = expiry
        .at()
        .duration_since(minted_at)
        .unwrap_or(Duration::ZERO)
        // Before the multiplication, so that no absurd life overflows.
        .min(2 * LATEST_RENEWAL);
    let due = match rule {
        Renewal::Fraction => {
            let jitter = 1.0 - JITTER + 2.0 * JITTER * chance.clamp(0.0, 1.0);
            life.mul_f64(FRACTION * jitter)
        }
        // Sooner than asked, never later.
        Renewal::Margin { before, age } => {
            let due = life.saturating_sub(before).min(age);
            due.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))
        }
    };
    due.clamp(SOONEST_RENEWAL, LATEST_RENEWAL)
}

/// Ten years.
const LONGEST_TOLD: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SHORTEST_ASSUMED: Duration = Duration::from_secs(5 * 60);
const SOONEST_RENEWAL: Duration = Duration::from_secs(30);
const LATEST_RENEWAL: Duration = Duration::from_secs(12 * 3600);
const FRACTION: f64 = 0.75;
const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
    }

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn what_is_told_of_the_end() {
        let after = |seconds| now().checked_add(Duration::from_secs(seconds));
        let minutes = |n| Some(n * MINUTE);
        for (token, expires_in, expected) in [
            ("00Dxx!AQ.c_x".to_owned(), None, None),
            ("00Dxx!AQcx".to_owned(), minutes(30), after(1800)),
            ("00Dxx!AQcx".to_owned(), minutes(6000), after(3600)),
            (jwt(r#"{"exp":1790000900}"#), None, after(900)),
            (jwt(r#"{"exp":"1790000900"}"#), None, after(900)),
            (jwt(r#"{"exp":1790000900}"#), minutes(30), after(900)),
            (jwt(r#"{"exp":1790003600}"#), minutes(30), after(1800)),
            (jwt(r#"{"exp":-5}"#), None, None),
            (jwt(r#"{"exp":1e300}"#), None, None),
            (jwt(r#"{}"#), None, None),
            ("a.b.c".to_owned(), None, None),
            (format!("{}.d", jwt(r#"{"exp":1790000900}"#)), None, None),
        ] {
            assert_eq!(known_expiry(&token, expires_in, HOUR, now()), expected, "{token}");
        }
    }

    #[test]
    fn renewal_is_due_at_three_quarters_of_the_life_give_or_take_a_tenth() {
        let due = |life, chance| renewal_after(Renewal::Fraction, Expiry::Known(now() + life), now(), chance);
        assert_eq!(due(HOUR, 0.5), 45 * MINUTE);
        assert_eq!(due(HOUR, 0.0), Duration::from_secs_f64(2430.0));
        assert_eq!(due(HOUR, 1.0), Duration::from_secs_f64(2970.0));
        assert_eq!(due(Duration::ZERO, 0.5), Duration::from_secs(30));
        assert_eq!(due(1000 * HOUR, 0.5), 12 * HOUR);
        let past = Expiry::Known(now() - HOUR);
        assert_eq!(
            renewal_after(Renewal::Fraction, past, now(), 0.5),
            Duration::from_secs(30)
        );
    }

    /// SF §9.1: 300 s before the end, or at an age of 900 s.
    #[test]
    fn a_data_cloud_token_is_renewed_by_margin_and_age() {
        let rule = Renewal::Margin {
            before: 5 * MINUTE,
            age: 15 * MINUTE,
        };
        let due = |life, chance| renewal_after(rule, Expiry::Known(now() + life), now(), chance);
        assert_eq!(due(Duration::from_secs(7193), 0.0), 15 * MINUTE);
        assert_eq!(due(Duration::from_secs(7193), 1.0), Duration::from_secs(810));
        assert_eq!(due(10 * MINUTE, 0.0), 5 * MINUTE);
        assert_eq!(due(4 * MINUTE, 0.0), Duration::from_secs(30));
    }

    #[test]
    fn an_early_refusal_lowers_the_assumed_life_and_quiet_lives_raise_it() {
        let mut life = Lifetime::new(90 * MINUTE);
        life.refused_at(100 * MINUTE);
        assert_eq!(life.assumed(), 90 * MINUTE);
        life.refused_at(40 * MINUTE);
        assert_eq!(life.assumed(), 40 * MINUTE);
        life.refused_at(50 * MINUTE);
        assert_eq!(life.assumed(), 40 * MINUTE);
        life.refused_at(Duration::ZERO);
        assert_eq!(life.assumed(), 5 * MINUTE);
        life.lived_undisturbed();
        assert_eq!(life.assumed(), 5 * MINUTE + MINUTE * 5 / 2);
        for _ in 0..20 {
            life.lived_undisturbed();
        }
        assert_eq!(life.assumed(), 90 * MINUTE);
    }

    #[test]
    fn a_setting_below_five_minutes_is_not_raised() {
        let mut life = Lifetime::new(MINUTE);
        life.refused_at(Duration::ZERO);
        assert_eq!(life.assumed(), MINUTE);
    }

    /// Milliseconds where seconds belong.
    #[test]
    fn an_end_that_nobody_can_mean_is_not_believed() {
        let lifetime = Lifetime::new(HOUR);
        let told = |life: Duration| lifetime.expiry(Some(now() + life), now());
        assert_eq!(told(LONGEST_TOLD), Expiry::Known(now() + LONGEST_TOLD));
        assert_eq!(told(LONGEST_TOLD * 1000), Expiry::Assumed(now() + HOUR));
    }

    proptest! {
        #[test]
        fn any_token_and_any_life_are_survived(token: String, payload: String, expires_in: f64, chance: f64) {
            let told = seconds(&serde_json::json!(expires_in));
            for token in [token, jwt(&payload)] {
                let known = known_expiry(&token, told, HOUR, now());
                let expiry = Lifetime::new(HOUR).expiry(known, now());
                let due = renewal_after(Renewal::Fraction, expiry, now(), chance);
                prop_assert!((SOONEST_RENEWAL..=LATEST_RENEWAL).contains(&due));
            }
        }
    }
}
