//! What one login attempt sends, by grant.
//!
//! Owns: nothing; the flows are a closed set chosen in the configuration, one file each.
//! Invariants: secrets are read when they are used, so that a rotated one counts at the next attempt, and where the new
//! one is no good (missing, empty, no key) the one before it does; an [`Attempt`]
//! knows everything secret in it, and shows none of it.
//! [`attempt`] is for the grants that mint at the login host; a token that is there already is found by
//! [`static_token::found`] or [`command::run`]; [`authorization_code`] and [`device`] are for `sf-token-proxy login`.
//! Fails with: [`Refusal`] of the class `Unsent`, naming the setting.
//! Source: RFC 6749 §4.4; RFC 7523 §2.1; SF §1.2, §1.4, §5.5.

use std::{borrow::Cow, time::SystemTime};

use http::HeaderValue;
use secrecy::SecretString;

use super::refusal::{Refusal, Sent};
use crate::config::{self, SecretRef};

pub mod authorization_code;
pub mod callback;
mod client_auth;
pub mod client_credentials;
pub mod command;
pub mod device;
mod introspection;
pub mod jwt_bearer;
mod password;
mod platform_credentials;
mod refresh_token;
mod saml_bearer;
pub mod static_token;
#[cfg(test)]
mod tests;
mod token_exchange;

pub use self::{introspection::introspection, jwt_bearer::check_key};

/// What one attempt sends to the login host. No `Debug`.
pub struct Attempt {
    /// Path and query.
    pub path: Cow<'static, str>,
    pub body: Body,
    pub authorization: Option<HeaderValue>,
    /// What must not come back in a text.
    pub sent: Sent,
}

pub type Fields = Vec<(Cow<'static, str>, SecretString)>;

/// No `Debug`.
pub enum Body {
    Form(Fields),
    /// An object of texts.
    Json(Fields),
}

/// What an attempt is made of beside the settings.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The login host.
    pub login: &'a url::Url,
    /// The one to present, for the refresh token grant.
    pub refresh_token: Option<&'a SecretString>,
    pub now: SystemTime,
}

/// A field of a form.
pub(super) fn field(name: &'static str, value: impl Into<SecretString>) -> (Cow<'static, str>, SecretString) {
    (Cow::Borrowed(name), value.into())
}

/// Reads the secrets and, where one is sent, signs an assertion: some milliseconds and file reads, so not for an async
/// thread.
pub fn attempt(grant: &config::Grant, inputs: Inputs<'_>) -> Result<Attempt, Refusal> {
    match grant {
        config::Grant::JwtBearer(grant) => jwt_bearer::attempt(grant, inputs.now),
        config::Grant::ClientCredentials(grant) => client_credentials::attempt(grant),
        config::Grant::RefreshToken(grant) => refresh_token::attempt(grant, inputs),
        config::Grant::Password(grant) => password::attempt(grant),
        config::Grant::TokenExchange(grant) => token_exchange::attempt(grant),
        config::Grant::SamlBearer(grant) => saml_bearer::attempt(grant, inputs),
        config::Grant::PlatformCredentials(grant) => platform_credentials::attempt(grant),
        // Found, not minted; nobody asks.
        config::Grant::Static(_) | config::Grant::Command(_) => Err(Refusal::of("grant_type", None)),
    }
}

/// A token that was there already. No `Debug`.
pub struct Found {
    pub access_token: SecretString,
    /// As it was told.
    pub instance_url: Option<String>,
}

/// Salesforce's token endpoint.
pub const TOKEN_PATH: &str = "/services/oauth2/token";

/// The whole address of the token endpoint, as assertions name it.
fn token_url(login: &url::Url) -> String {
    format!("{}{TOKEN_PATH}", login.origin().ascii_serialization())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system must give random bytes");
    bytes
}

/// The grant's word in metrics.
pub fn word(grant: &config::Grant) -> &'static str {
    match grant {
        config::Grant::JwtBearer(_) => "jwt_bearer",
        config::Grant::ClientCredentials(_) => "client_credentials",
        config::Grant::RefreshToken(_) => "refresh_token",
        config::Grant::Password(_) => "password",
        config::Grant::TokenExchange(_) => "token_exchange",
        config::Grant::SamlBearer(_) => "saml_bearer",
        config::Grant::PlatformCredentials(_) => "oauth2_client_credentials",
        config::Grant::Static(_) => "static",
        config::Grant::Command(_) => "command",
    }
}

/// The secret that `setting` refers to; while the file is no good, as it last was.
pub(super) fn read_kept(setting: &str, secret: &SecretRef) -> Result<SecretString, Refusal> {
    secret
        .read_or_last_good(|_| Ok(()))
        .map_err(|text| Refusal::of("secret_unreadable", format!("`{setting}`: {text}")))
}

/// As [`read_kept`], for the key of the setting `private_key`.
pub(super) fn read_key(secret: &SecretRef) -> Result<SecretString, Refusal> {
    secret
        .read_or_last_good(check_key)
        .or_else(|_| read("private_key", secret))
}

/// The secret that `setting` refers to, as it is now.
pub(super) fn read(setting: &str, secret: &SecretRef) -> Result<SecretString, Refusal> {
    secret
        .read_soon()
        .map_err(|e| Refusal::of("secret_unreadable", format!("`{setting}`: {e}")))
}
