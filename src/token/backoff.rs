//! How long to wait after a failed login.
//!
//! Owns: how often the login failed in a row, by class; pure, chance is passed in.
//! Invariants: the pause never falls, but for its spread, while failures of one kind go on; nothing is given up for good (keys get fixed).
//! Units: `Duration`.
//! Fails with: nothing.
//! Source: design §5; SF §2 (failed logins in numbers get the address blocked: slow down, but heal within two minutes).

use std::time::Duration;

use super::refusal::{Class, Refusal};

/// Failures since the last success.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    transient: u32,
    permanent: u32,
    limited: u32,
    unsent: u32,
}

impl Backoff {
    /// The pause after one more failure. `chance` in 0..1.
    pub fn pause(&mut self, refusal: &Refusal, chance: f64) -> Duration {
        if refusal.reason == "core_token" && refusal.class == Class::Transient {
            // Stage one is asked, in memory; it has a back-off of its own.
            return CORE_TOKEN;
        }
        match refusal.class {
            Class::Transient => {
                let pause = transient(self.transient, chance);
                self.transient = self.transient.saturating_add(1);
                pause.max(refusal.retry_after.unwrap_or_default().min(TRANSIENT_LONGEST))
            }
            Class::Permanent | Class::Propagating => {
                let pause = permanent(self.permanent);
                self.permanent = self.permanent.saturating_add(1);
                pause
            }
            Class::RateLimited => {
                let pause = limited(self.limited, refusal.retry_after, chance);
                self.limited = self.limited.saturating_add(1);
                pause
            }
            Class::Unsent => {
                let pause = unsent(self.unsent);
                self.unsent = self.unsent.saturating_add(1);
                pause
            }
        }
    }
}

/// 1 s doubling to 60 s, a quarter more or less.
fn transient(earlier: u32, chance: f64) -> Duration {
    let pause = TRANSIENT_FIRST * 2_u32.saturating_pow(earlier.min(6));
    let jitter = 0.75 + 0.5 * chance.clamp(0.0, 1.0);
    pause
        .min(TRANSIENT_LONGEST)
        .mul_f64(jitter)
        .clamp(TRANSIENT_FIRST, TRANSIENT_LONGEST)
}

/// Soon at first, for the operator who is just fixing it; then each minute for ten minutes; then rarely.
fn permanent(earlier: u32) -> Duration {
    Duration::from_secs(match earlier {
        0 => 5,
        1 => 15,
        2 => 30,
        3..=12 => 60,
        _ => 300,
    })
}

/// Looking again costs the login host nothing, so a mended file heals soon.
fn unsent(earlier: u32) -> Duration {
    Duration::from_secs(match earlier {
        0 => 5,
        _ => 10,
    })
}

/// As long as asked, within reason; else 1 min doubling to 15. Up to a quarter more: all replicas have been told the same. Who asks
/// for a moment, and again and again, is not taken at its word: each time it is twice as long, up to the minute.
fn limited(earlier: u32, asked: Option<Duration>, chance: f64) -> Duration {
    let doubled = |first: Duration, longest: Duration| (first * 2_u32.saturating_pow(earlier.min(6))).min(longest);
    let pause = match asked {
        Some(asked) => asked
            .max(doubled(LIMITED_SHORTEST, LIMITED_FIRST))
            .min(LIMITED_ASKED_LONGEST),
        None => doubled(LIMITED_FIRST, LIMITED_LONGEST),
    };
    pause.mul_f64(1.0 + 0.25 * chance.clamp(0.0, 1.0))
}

const CORE_TOKEN: Duration = Duration::from_secs(2);
const TRANSIENT_FIRST: Duration = Duration::from_secs(1);
const TRANSIENT_LONGEST: Duration = Duration::from_secs(60);
const LIMITED_SHORTEST: Duration = Duration::from_secs(1);
const LIMITED_FIRST: Duration = Duration::from_secs(60);
const LIMITED_LONGEST: Duration = Duration::from_secs(15 * 60);
const LIMITED_ASKED_LONGEST: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(class: Class, retry_after: Option<u64>, n: usize) -> Vec<u64> {
        let mut backoff = Backoff::default();
        let refusal = Refusal {
            class,
            retry_after: retry_after.map(Duration::from_secs),
            ..Refusal::of("refused", None)
        };
        (0..n).map(|_| backoff.pause(&refusal, 0.5).as_secs()).collect()
    }

    #[test]
    fn a_passing_fault_is_tried_again_soon_then_each_minute() {
        assert_eq!(pauses(Class::Transient, None, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses(Class::Transient, Some(20), 2), [20, 20]);
        assert_eq!(pauses(Class::Transient, Some(9999), 1), [60]);
        for chance in [0.0, 1.0] {
            assert!((0..100).all(|n| {
                let pause = transient(n, chance);
                (TRANSIENT_FIRST..=TRANSIENT_LONGEST).contains(&pause)
            }));
        }
        assert_ne!(transient(3, 0.0), transient(3, 1.0));
    }

    #[test]
    fn a_refusal_is_tried_again_ever_more_rarely_but_for_ever() {
        for class in [Class::Permanent, Class::Propagating] {
            let all = pauses(class, None, 20);
            assert_eq!(all[..4], [5, 15, 30, 60]);
            assert_eq!(all[3..13], [60; 10]);
            assert_eq!(all[13..], [300; 7]);
        }
    }

    #[test]
    fn a_rate_limit_is_obeyed_within_reason() {
        let limited = |asked: Option<u64>, n| -> Vec<u64> {
            let asked = asked.map(Duration::from_secs);
            (0..n).map(|earlier| limited(earlier, asked, 0.0).as_secs()).collect()
        };
        assert_eq!(limited(None, 6), [60, 120, 240, 480, 900, 900]);
        assert_eq!(limited(Some(90), 2), [90, 90]);
        assert_eq!(limited(Some(0), 9), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(limited(Some(5), 5), [5, 5, 5, 8, 16]);
        assert_eq!(limited(Some(1_000_000), 1), [3600]);
        assert_eq!(pauses(Class::RateLimited, Some(80), 2), [90, 90]);
    }

    #[test]
    fn what_was_not_sent_is_looked_at_again_soon_for_ever() {
        assert_eq!(pauses(Class::Unsent, None, 30)[..3], [5, 10, 10]);
        assert_eq!(pauses(Class::Unsent, None, 30)[3..], [10; 27]);
        assert_eq!(Refusal::of("secret_unreadable", None).class, Class::Unsent);
    }

    #[test]
    fn failures_of_one_class_do_not_shorten_the_pauses_of_another() {
        let mut backoff = Backoff::default();
        let refused = Refusal::of("refused", None);
        let outage = Refusal::of("outage", None);
        for expected in [5, 15, 30, 60] {
            assert_eq!(backoff.pause(&refused, 0.5).as_secs(), expected);
            backoff.pause(&outage, 0.5);
        }
    }

    #[test]
    fn stage_two_looks_for_stage_one_often() {
        let mut backoff = Backoff::default();
        let refusal = Refusal::of("core_token", None);
        assert!((0..20).all(|_| backoff.pause(&refusal, 0.5) == CORE_TOKEN));
    }
}
