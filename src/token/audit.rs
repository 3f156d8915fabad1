//! Who got a token, when and why: a log of its own.
//!
//! Everything goes to the `tracing` target `audit`, at info: `log.level: info,audit=off` turns it off, `off,audit=info`
//! leaves nothing else. Invariants: no secret, no token, not even a part of one; users by their Salesforce id.

use super::{Generation, Identity, exchange::Why};
use crate::store::StoreError;

/// The target of every line here.
pub const TARGET: &str = "audit";

/// The audit log of one identity.
#[derive(Debug, Clone)]
pub struct Audit {
    org: String,
    /// Which part of the program acts: `proxy`, `login`, `logout`.
    by: &'static str,
}

impl Audit {
    pub fn new(org: impl Into<String>, by: &'static str) -> Self {
        Self { org: org.into(), by }
    }

    /// A login brought a token.
    pub fn minted(&self, why: Why, generation: Generation, identity: Option<&Identity>) {
        let event = if why == Why::Start { "minted" } else { "renewed" };
        tracing::info!(
            target: TARGET, event, org = self.org, by = self.by, why = why.as_str(), generation = generation.0,
            user_id = identity.map(|identity| identity.user_id.as_str()),
            "token"
        );
    }

    /// The org refused a token.
    pub fn rejected(&self, generation: Generation) {
        tracing::info!(target: TARGET, event = "rejected", org = self.org, by = "org", generation = generation.0, "token");
    }

    /// The login host replaced the refresh token.
    pub fn rotated(&self, why: Why) {
        tracing::info!(target: TARGET, event = "rotated", org = self.org, by = self.by, why = why.as_str(), "refresh token");
    }

    pub fn revoked(&self) {
        tracing::info!(target: TARGET, event = "revoked", org = self.org, by = self.by, "refresh token");
    }

    /// A login failed; `reason` is one of [`super::REASONS`].
    pub fn failed(&self, why: Why, reason: &'static str) {
        tracing::info!(target: TARGET, event = "failed", org = self.org, by = self.by, why = why.as_str(), reason, "login");
    }

    /// A token came from the store.
    pub fn adopted(&self, why: Why, serial: u64) {
        tracing::info!(target: TARGET, event = "store_read", org = self.org, by = self.by, why = why.as_str(), serial, "token");
    }

    pub fn stored(&self, serial: u64, error: Option<&StoreError>) {
        let result = error.map_or("ok", StoreError::word);
        tracing::info!(target: TARGET, event = "store_write", org = self.org, by = self.by, serial, result, "token");
    }

    pub fn forgotten(&self) {
        tracing::info!(target: TARGET, event = "store_forget", org = self.org, by = self.by, "token");
    }
}
