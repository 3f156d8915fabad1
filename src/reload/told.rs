//! What became of changed files: for the log, the metrics and `/status`.
//!
//! Owns: [`Reloads`]. Invariants: a problem that was told is not told again until somebody asks or it has changed.
//! Units: seconds since 1970 in metrics, RFC 3339 in `/status`. Fails with: nothing. Source: `kubernetes.md` §3.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde_json::{Value, json};

use crate::{
    clock::{Clock, rfc3339, unix_seconds},
    config::{OrgName, Problems, Source},
    metrics::Metrics,
};

/// What became of the configuration and the secrets. Cheap to clone.
#[derive(Clone)]
pub struct Reloads(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    clock: Clock,
    told: Mutex<Told>,
}

struct Told {
    /// Where the configuration comes from.
    source: String,
    taken_at: SystemTime,
    tried_at: SystemTime,
    /// Why the newest is not in use.
    problems: Vec<String>,
    /// What counts only after a restart.
    restart: Vec<&'static str>,
    /// Secrets that are no good, by key path.
    secrets: BTreeMap<String, String>,
}

impl Reloads {
    pub fn new(metrics: Metrics, clock: Clock) -> Self {
        let now = clock.now();
        metrics.reload.last_success.set(unix_seconds(now));
        Self(Arc::new(Inner {
            metrics,
            clock,
            told: Mutex::new(Told {
                source: "memory".into(),
                taken_at: now,
                tried_at: now,
                problems: Vec::new(),
                restart: Vec::new(),
                secrets: BTreeMap::new(),
            }),
        }))
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        let told = self.lock();
        json!({
            "source": told.source,
            "taken_at": rfc3339(told.taken_at),
            "last_reload": {
                "at": rfc3339(told.tried_at),
                "successful": told.problems.is_empty(),
                "problems": told.problems,
            },
            "needs_restart": told.restart,
            "refused_secrets": told.secrets,
        })
    }

    /// The series of an org, at zero.
    pub(crate) fn starts(&self, org: &OrgName) {
        let (metrics, org) = (&self.0.metrics.reload, org.as_str());
        for result in crate::metrics::RELOAD_RESULTS {
            metrics.secrets.with_label_values(&[org, result]);
        }
        metrics.secrets_last_success.with_label_values(&[org]);
        let bad = self.lock().secrets.keys().any(|key| is_of(key, org));
        metrics
            .secrets_last_successful
            .with_label_values(&[org])
            .set(i64::from(!bad));
    }

    pub(super) fn taken(&self, restart: Vec<&'static str>) {
        let metrics = &self.0.metrics.reload;
        let now = self.0.clock.now();
        metrics.reloads.with_label_values(&["ok"]).inc();
        metrics.last_successful.set(1);
        metrics.last_success.set(unix_seconds(now));
        if !restart.is_empty() {
            tracing::warn!(settings = restart.join(", "), "these count only after a restart");
        }
        tracing::info!("the changed configuration is in use");
        let mut told = self.lock();
        (told.taken_at, told.tried_at) = (now, now);
        told.problems.clear();
        told.restart = restart;
    }

    pub(super) fn refused(&self, problems: &Problems, asked: bool) {
        let metrics = &self.0.metrics.reload;
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        if !asked && self.lock().problems == lines {
            // Tried again, and no better.
            return;
        }
        metrics.reloads.with_label_values(&["failed"]).inc();
        metrics.last_successful.set(0);
        for problem in &lines {
            tracing::error!(problem, "the changed configuration is no good, the old one goes on");
        }
        let mut told = self.lock();
        told.tried_at = self.0.clock.now();
        told.problems = lines;
    }

    /// The file says again what is in use.
    pub(super) fn as_before(&self, asked: bool) {
        let mut told = self.lock();
        let was_bad = !told.problems.is_empty();
        if was_bad || asked {
            let metrics = &self.0.metrics.reload;
            metrics.reloads.with_label_values(&["ok"]).inc();
            metrics.last_successful.set(1);
            told.tried_at = self.0.clock.now();
            told.problems.clear();
            tracing::info!("the configuration is what is in use already");
        }
    }

    /// Whether a secret was no good when it was last read.
    pub(super) fn refuses(&self, org: &OrgName, key: &str) -> bool {
        self.lock().secrets.contains_key(&at(org, key))
    }

    /// Whether any was.
    pub(super) fn refuses_secrets(&self) -> bool {
        !self.lock().secrets.is_empty()
    }

    /// A secret was read, because it has `changed` or was no good before.
    pub(super) fn secret(&self, org: &OrgName, key: &str, problem: Option<String>, changed: bool) {
        let metrics = &self.0.metrics.reload;
        let name = org.as_str();
        let at = at(org, key);
        let mut told = self.lock();
        if !changed && problem.is_some() && told.secrets.get(&at) == problem.as_ref() {
            // Tried again, and no better.
            return;
        }
        match problem {
            None => {
                tracing::info!(%org, setting = at, "a changed secret is in use from the next login on");
                metrics.secrets.with_label_values(&[name, "ok"]).inc();
                let now = unix_seconds(self.0.clock.now());
                metrics.secrets_last_success.with_label_values(&[name]).set(now);
                told.secrets.remove(&at);
            }
            Some(problem) => {
                tracing::error!(%org, setting = at, problem, "a changed secret is no good, the one before it serves");
                metrics.secrets.with_label_values(&[name, "failed"]).inc();
                told.secrets.insert(at, problem);
            }
        }
        let bad = told.secrets.keys().any(|key| is_of(key, name));
        metrics
            .secrets_last_successful
            .with_label_values(&[name])
            .set(i64::from(!bad));
    }

    /// The configuration comes from `source`.
    pub(super) fn from(&self, source: &Source) {
        self.lock().source = source
            .file()
            .map_or_else(|| "environment".to_owned(), |file| file.display().to_string());
    }

    #[cfg(test)]
    pub(super) fn metrics(&self) -> Metrics {
        self.0.metrics.clone()
    }

    pub(super) fn clock(&self) -> Clock {
        self.0.clock.clone()
    }

    /// Forgets secrets that the configuration does not name any more.
    pub(super) fn only(&self, keys: &BTreeSet<String>) {
        self.lock().secrets.retain(|key, _| keys.contains(key));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn at(org: &OrgName, key: &str) -> String {
    format!("orgs.{org}.grant.{key}")
}

fn is_of(key: &str, org: &str) -> bool {
    key.strip_prefix("orgs.")
        .and_then(|key| key.strip_prefix(org))
        .is_some_and(|key| key.starts_with(".grant."))
}
