//! How many logins are allowed: a token bucket.
//!
//! Owns: the count of logins left; pure, the instant is passed in.
//! Invariants: never above `burst`; below zero only when less is allowed than was spent, so that more allowed later gives
//! nothing back; over any span at most `burst + per_minute × minutes` logins.
//! Units: logins; `Duration` until the next is allowed.
//! Fails with: how long to wait.
//! Source: design §5; SF §3.4 (3,600 logins an hour and user, all pods together).

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Budget;

#[derive(Debug, Clone)]
pub struct Bucket {
    settings: Budget,
    level: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(settings: Budget, now: Instant) -> Self {
        Self {
            settings,
            level: f64::from(settings.burst),
            filled: now,
        }
    }

    /// Other settings from now on; what was spent stays spent.
    pub fn resize(&mut self, settings: Budget, now: Instant) {
        self.fill(now);
        let spent = f64::from(self.settings.burst) - self.level;
        self.level = f64::from(settings.burst) - spent;
        self.settings = settings;
    }

    /// Takes one login, or says when one is allowed.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        Err(self.until_next())
    }

    /// A login that was taken and not sent.
    pub fn give_back(&mut self, now: Instant) {
        self.fill(now);
        self.level = (self.level + 1.0).min(f64::from(self.settings.burst));
    }

    /// Logins allowed now; whole ones count.
    pub fn left(&mut self, now: Instant) -> f64 {
        self.fill(now);
        self.level.floor().max(0.0)
    }

    /// When [`Self::left`] changes by itself; `None` when full.
    pub fn grows_at(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        (self.level < f64::from(self.settings.burst)).then(|| now + self.until_next())
    }

    fn fill(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.filled).as_secs_f64() / 60.0;
        let level = self.level + minutes * f64::from(self.settings.per_minute);
        // A hair is forgiven: the instant that `take` named must be late enough, whatever the rounding.
        let level = if level.ceil() - level < HAIR {
            level.ceil()
        } else {
            level
        };
        self.level = level.min(f64::from(self.settings.burst));
        self.filled = self.filled.max(now);
    }

    fn until_next(&self) -> Duration {
        // Below zero what is owed comes first; above one it is the rest of the next whole one.
        let missing = self.level.max(0.0).floor() + 1.0 - self.level;
        if self.settings.per_minute == 0 {
            return NEVER;
        }
        Duration::from_secs_f64(missing * 60.0 / f64::from(self.settings.per_minute))
    }
}

const HAIR: f64 = 1e-6;
/// Stands for "no refill"; long, but adding it to an instant does not overflow.
const NEVER: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_settings_forget_no_login() {
        let now = Instant::now();
        let mut bucket = Bucket::new(
            Budget {
                burst: 10,
                per_minute: 1,
            },
            now,
        );
        for _ in 0..4 {
            bucket.take(now).unwrap();
        }
        bucket.resize(
            Budget {
                burst: 20,
                per_minute: 2,
            },
            now,
        );
        assert!((bucket.left(now) - 16.0).abs() < HAIR);
        bucket.resize(
            Budget {
                burst: 3,
                per_minute: 2,
            },
            now,
        );
        assert!(bucket.left(now) < 1.0);
        // Four are spent of three: one is owed, and the next comes after it.
        assert_eq!(bucket.take(now), Err(Duration::from_secs(60)));
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn bucket(burst: u32, per_minute: u32) -> (Bucket, Instant) {
        let now = Instant::now();
        (Bucket::new(Budget { burst, per_minute }, now), now)
    }

    #[test]
    fn a_burst_then_a_refill() {
        let (mut bucket, now) = bucket(3, 4);
        for left in [2.0, 1.0, 0.0] {
            assert_eq!(bucket.take(now), Ok(()));
            assert_eq!(bucket.left(now), left);
        }
        assert_eq!(bucket.take(now), Err(15 * SECOND));
        assert_eq!(bucket.take(now + 5 * SECOND), Err(10 * SECOND));
        assert_eq!(bucket.take(now + 15 * SECOND), Ok(()));
        assert_eq!(bucket.left(now + 3600 * SECOND), 3.0);
        assert_eq!(bucket.grows_at(now + 3600 * SECOND), None);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_refills_nothing() {
        let (mut bucket, now) = bucket(1, 60);
        assert_eq!(bucket.take(now + SECOND), Ok(()));
        assert!(bucket.take(now).is_err());
        assert!(bucket.take(now + SECOND).is_err());
    }

    #[test]
    fn a_budget_without_refill_waits_long() {
        let (mut bucket, now) = bucket(0, 0);
        assert_eq!(bucket.take(now), Err(NEVER));
    }

    proptest! {
        #[test]
        fn no_change_of_the_settings_gives_a_login_back(
            steps in proptest::collection::vec((0u32..20, 0u32..5), 1..50),
        ) {
            let (mut bucket, now) = bucket(4, 1);
            let mut spent = 0u32;
            for (burst, tries) in steps {
                bucket.resize(Budget { burst, per_minute: 1 }, now);
                prop_assert_eq!(bucket.left(now), f64::from(burst.saturating_sub(spent)));
                for _ in 0..tries {
                    match bucket.take(now) {
                        Ok(()) => spent += 1,
                        // Late enough, and no later: what is owed comes first.
                        Err(wait) => {
                            let missing = 1.0 + f64::from(spent) - f64::from(burst);
                            prop_assert!((wait.as_secs_f64() - missing * 60.0).abs() < 0.001);
                            prop_assert!(bucket.clone().take(now + wait - SECOND).is_err());
                            if burst > 0 {
                                prop_assert_eq!(bucket.grows_at(now), Some(now + wait));
                                prop_assert_eq!(bucket.clone().take(now + wait), Ok(()));
                            }
                        }
                    }
                }
            }
        }

        #[test]
        fn the_named_wait_is_enough_and_the_total_is_bounded(
            burst in 1u32..10, per_minute in 1u32..100, steps in proptest::collection::vec(0u64..20_000, 1..200),
        ) {
            let (mut bucket, start) = bucket(burst, per_minute);
            let (mut now, mut taken) = (start, 0u32);
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(wait) => {
                        now += wait;
                        prop_assert_eq!(bucket.take(now), Ok(()));
                        taken += 1;
                    }
                }
            }
            let minutes = (now - start).as_secs_f64() / 60.0;
            prop_assert!(f64::from(taken) <= f64::from(burst) + minutes * f64::from(per_minute) + 0.01);
        }
    }
}
