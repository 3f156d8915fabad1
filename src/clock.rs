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

/// Seconds since 1970, as metrics and JWT claims want them; 0 for times before.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs_f64()
}
