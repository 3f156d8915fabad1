//! What kind of org to practise with.
//!
//! Owns: every default of the practice org, with its reason.
//! Invariants: none are checked here; anything goes that a real org could do.
//! Units: `Duration`; ports are 0 for any free one.
//! Source: SF §1.4, §3, §4.1, §7.3.

use std::time::Duration;

use secrecy::SecretString;

use super::key::{KeyError, PublicKey, RsaKey};
use crate::clock::Clock;

#[derive(Debug, Clone)]
pub struct Settings {
    /// The org's own host: API and, unless `login_port` is set, login.
    pub port: u16,
    /// A login host of its own, where API calls find no session (SF §8.6).
    pub login_port: Option<u16>,
    /// A second instance the org can move to (SF §7.4).
    pub second_port: Option<u16>,
    /// The control API; plain HTTP on 127.0.0.1.
    pub control_port: u16,
    /// Without TLS (loopback only).
    pub plain_http: bool,
    /// Offer `h2` in ALPN.
    pub http2: bool,
    /// The idle timer of a session (SF §3.1); Salesforce's default is two hours.
    pub session_timeout: Duration,
    pub token_format: TokenFormat,
    /// Minting again gives the living session's token (SF §3.3).
    pub same_token_on_remint: bool,
    /// Whether such a mint counts as use of the session. Not confirmed (SF §11); `false` is the harder case.
    pub remint_extends: bool,
    /// Answered as `instance_url` whatever the truth is.
    pub instance_url: Option<String>,
    pub latency: Latency,
    /// Logins per user and rolling hour (SF §3.4).
    pub login_limit: usize,
    /// Answer 401 before the request body was read.
    pub early_401: bool,
    /// `connection: close` on 401, as the captured one had (SF §4.1).
    pub close_on_401: bool,
    /// Compress answers for clients that accept it.
    pub gzip: bool,
    /// How many requests `GET /control/requests` remembers; 0 turns recording off.
    pub keep_requests: usize,
    /// Accounts in the org at the start; each has two contacts.
    pub seed_accounts: usize,
    /// How long a bulk job waits in each state.
    pub bulk_delay: Duration,
    /// The `aud` accepted besides the org's own origins.
    pub audiences: Vec<String>,
    pub jwt_clients: Vec<JwtClient>,
    pub secret_clients: Vec<SecretClient>,
    /// The private key of the first JWT client, kept to be written for the user.
    pub practice_key: Option<RsaKey>,
    pub clock: Clock,
}

/// The two kinds of access token (SF §3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFormat {
    /// `00D…!…`: a session with an idle timer.
    Opaque,
    /// RS256, fixed life, not extended by use (SF §3.2).
    Jwt { lifetime: Duration },
}

/// Added before each answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    pub api: Duration,
    pub token: Duration,
}

/// An app with the JWT bearer flow (SF §1.4.1).
#[derive(Debug, Clone)]
pub struct JwtClient {
    pub client_id: String,
    /// The one user who is pre-authorised.
    pub username: String,
    pub key: PublicKey,
    pub scopes: Vec<String>,
}

/// An app with the client credentials flow (SF §1.4.2).
#[derive(Debug, Clone)]
pub struct SecretClient {
    pub client_id: String,
    pub secret: SecretString,
    /// `None`: no Run As user was set on the policy.
    pub run_as: Option<String>,
    pub flow_enabled: bool,
    pub scopes: Vec<String>,
}

impl Default for Settings {
    /// An org without apps.
    fn default() -> Self {
        Self {
            port: 0,
            login_port: None,
            second_port: None,
            control_port: 0,
            plain_http: false,
            http2: true,
            session_timeout: Duration::from_secs(2 * 60 * 60),
            token_format: TokenFormat::Opaque,
            same_token_on_remint: true,
            remint_extends: false,
            instance_url: None,
            latency: Latency::default(),
            login_limit: 3_600,
            early_401: false,
            close_on_401: true,
            gzip: true,
            keep_requests: 1_000,
            seed_accounts: 25,
            bulk_delay: Duration::from_millis(10),
            audiences: vec![
                "https://login.salesforce.com".into(),
                "https://test.salesforce.com".into(),
            ],
            jwt_clients: Vec::new(),
            secret_clients: Vec::new(),
            practice_key: None,
            clock: Clock::system(),
        }
    }
}

impl Settings {
    /// An org with one app for each flow, a new key and a new secret.
    pub fn practice() -> Result<Self, KeyError> {
        let key = RsaKey::generate()?;
        Ok(Self {
            jwt_clients: vec![JwtClient {
                client_id: consumer_key(),
                username: "integration@practice.example".into(),
                key: key.public(),
                scopes: ["api", "id", "refresh_token"].map(str::to_owned).into(),
            }],
            secret_clients: vec![SecretClient {
                client_id: consumer_key(),
                secret: SecretString::from(letters(64, b"0123456789ABCDEF")),
                run_as: Some("service@practice.example".into()),
                flow_enabled: true,
                scopes: ["api", "id"].map(str::to_owned).into(),
            }],
            practice_key: Some(key),
            ..Self::default()
        })
    }
}

/// 85 characters beginning `3MVG9`, as consumer keys are.
fn consumer_key() -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
    format!("3MVG9{}", letters(80, ALPHABET))
}

pub(crate) fn letters(count: usize, alphabet: &[u8]) -> String {
    (0..count)
        .map(|_| char::from(alphabet[fastrand::usize(..alphabet.len())]))
        .collect()
}
