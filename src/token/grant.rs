//! What one login attempt sends, by grant.
//!
//! Owns: nothing; the flows are a closed set chosen in the configuration, one file each.
//! Invariants: secrets are read when they are used, so that a rotated one counts at the next attempt; an [`Attempt`]
//! knows everything secret in it, and shows none of it.
//! Fails with: [`Refusal`] `secret_unreadable` or `key_unusable`, naming the setting.
//! Source: RFC 6749 §4.4; RFC 7523 §2.1; SF §1.2, §1.4.

use std::time::SystemTime;

use http::HeaderValue;
use secrecy::SecretString;

use super::refusal::{Refusal, Sent};
use crate::config::{self, SecretRef};

pub mod client_credentials;
pub mod jwt_bearer;

pub use self::jwt_bearer::check_key;

/// The form and header of one attempt. No `Debug`.
pub struct Attempt {
    pub form: Vec<(&'static str, SecretString)>,
    pub authorization: Option<HeaderValue>,
    /// What must not come back in a text.
    pub sent: Sent,
}

/// Reads the secrets and, for JWT bearer, signs: some milliseconds and file reads, so not for an async thread.
pub fn attempt(grant: &config::Grant, now: SystemTime) -> Result<Attempt, Refusal> {
    match grant {
        config::Grant::JwtBearer(grant) => jwt_bearer::attempt(grant, now),
        config::Grant::ClientCredentials(grant) => client_credentials::attempt(grant),
    }
}

/// The grant's word in metrics.
pub fn word(grant: &config::Grant) -> &'static str {
    match grant {
        config::Grant::JwtBearer(_) => "jwt_bearer",
        config::Grant::ClientCredentials(_) => "client_credentials",
    }
}

/// The secret that `setting` refers to, as it is now.
fn read(setting: &str, secret: &SecretRef) -> Result<SecretString, Refusal> {
    secret
        .read()
        .map_err(|e| Refusal::of("secret_unreadable", format!("`{setting}`: {e}")))
}
