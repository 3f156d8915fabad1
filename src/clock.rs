//! The one place that reads the wall clock.
//!
//! Timers and ages use `tokio::time::Instant`, which tests can pause. The wall clock decides only what must hold across
//! a suspended machine (renewal due, known expiry) and what is shown to people; it is passed around as a [`Clock`].
//!
//! Units: `SystemTime` for wall time; `Duration` for spans.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A wall clock that tests can replace. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        Self(Arc::new(SystemTime::now))
    }

    /// A clock that says what `now` says.
    pub fn from_fn(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// As people read it. What lies beyond the years that can be written is told as the first or the last of them: some issuers
/// write milliseconds where seconds belong.
pub fn rfc3339(time: SystemTime) -> String {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let told = time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + LAST);
    humantime::format_rfc3339_seconds(told).to_string()
}

/// Seconds since 1970, as metrics and JWT claims want them; 0 for times before.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_told() {
        let at = |seconds: u64| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "1994-11-06T08:49:37Z");
        // Milliseconds where seconds belong.
        assert_eq!(at(1_700_000_000_000), "9999-12-31T23:59:59Z");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00Z");
    }
}
