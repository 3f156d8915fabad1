//! Started, ready: two questions, answered from what is known, never by asking the org.
//!
//! **Started** (`/startupz`): every org has had its first token. A *permanent* refusal holds it back for good, so that a
//! bad roll-out stops before it replaces good pods (unless `admin.startup_holds_on_refusal` is off); a *passing* fault only
//! for `admin.startup_patience`, so that an outage of the login host does not block restarts. Once passed it stays passed.
//! **Ready** (`/readyz`): started and not told to end. It does not go back because an org is in trouble: that must not take
//! the app out of its Service.
//!
//! Source: `kubernetes.md` §2, §4.

use std::{
    fmt::Write as _,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    config::Admin,
    token::{Snapshot, StateWord, Tokens},
};

/// Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    watched: RwLock<Watched>,
    since: Instant,
    started: AtomicBool,
    draining: AtomicBool,
}

/// What is asked about.
#[derive(Default)]
struct Watched {
    orgs: Vec<Tokens>,
    /// Shown, and nothing waits for them.
    beside: Vec<Tokens>,
    patience: Duration,
    holds_on_refusal: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// An answer, and a line an org that says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub good: bool,
    pub text: String,
}

impl Health {
    /// Of a program that begins now.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            watched: RwLock::default(),
            since: Instant::now(),
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }))
    }

    /// From now on about these. `beside`: the orgs' second stages; an app whose Data Cloud is refused still has its org.
    pub fn watch(&self, orgs: Vec<Tokens>, beside: Vec<Tokens>, settings: &Admin) {
        *self.0.watched.write().unwrap_or_else(PoisonError::into_inner) = Watched {
            orgs,
            beside,
            patience: settings.startup_patience,
            holds_on_refusal: settings.startup_holds_on_refusal,
        };
    }

    /// Whether the program is told to end.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// How long the program runs.
    pub fn age(&self) -> Duration {
        self.0.since.elapsed()
    }

    /// Every org's tokens and those of second stages, as they are.
    pub fn tokens(&self) -> Vec<Tokens> {
        let watched = self.watched();
        watched.orgs.iter().chain(&watched.beside).cloned().collect()
    }

    fn watched(&self) -> std::sync::RwLockReadGuard<'_, Watched> {
        self.0.watched.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    pub fn startup(&self) -> Report {
        let (inner, watched) = (&*self.0, self.watched());
        let waited = inner.since.elapsed() >= watched.patience;
        let states = |tokens: &[Tokens]| -> Vec<(String, Snapshot)> {
            tokens
                .iter()
                .map(|tokens| (tokens.org().to_string(), tokens.snapshot()))
                .collect()
        };
        let (mut states, beside) = (states(&watched.orgs), states(&watched.beside));
        let good = inner.started.load(Ordering::Relaxed)
            || states.iter().all(|(_, snapshot)| {
                // It has had one, though nobody asked then.
                snapshot.generation.is_some() || lets_start(snapshot.state, waited, watched.holds_on_refusal)
            });
        if good {
            inner.started.store(true, Ordering::Relaxed);
        }
        states.extend(beside);
        Report {
            good,
            text: describe(&states),
        }
    }

    pub fn ready(&self) -> Report {
        let mut report = self.startup();
        if self.0.draining.load(Ordering::Relaxed) {
            report.good = false;
            report.text.insert_str(0, "draining\n");
        }
        report
    }
}

/// Whether an org in this state lets the program count as started; `waited`: the patience is over; `holds`: a refusal is
/// not waited out.
fn lets_start(state: StateWord, waited: bool, holds: bool) -> bool {
    match state {
        StateWord::Live | StateWord::LiveRenewalFailing | StateWord::LiveRefused => true,
        StateWord::Refused => waited && !holds,
        StateWord::Starting | StateWord::Renewing | StateWord::Failing => waited,
    }
}

fn describe(states: &[(String, Snapshot)]) -> String {
    let mut text = String::new();
    for (org, snapshot) in states {
        let _ = write!(text, "org {org}: {}", snapshot.state.as_str());
        if let Some(failure) = &snapshot.failure {
            let _ = write!(text, " ({failure})");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_passing_fault_is_waited_out() {
        use StateWord::{Failing, Live, LiveRefused, LiveRenewalFailing, Refused, Renewing, Starting};
        let table = [
            (Starting, false, true),
            (Renewing, false, true),
            (Failing, false, true),
            (Refused, false, false),
            (Live, true, true),
            (LiveRenewalFailing, true, true),
            (LiveRefused, true, true),
        ];
        for (state, at_once, after_patience) in table {
            assert_eq!(lets_start(state, false, true), at_once, "{state:?}");
            assert_eq!(lets_start(state, true, true), after_patience, "{state:?}");
            // A refusal counts like a passing fault; nothing else changes.
            assert_eq!(lets_start(state, false, false), at_once, "{state:?}");
            assert_eq!(
                lets_start(state, true, false),
                after_patience || state == Refused,
                "{state:?}"
            );
        }
    }
}
