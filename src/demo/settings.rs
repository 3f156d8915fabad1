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
    pub web_apps: Vec<WebApp>,
    pub password_users: Vec<PasswordUser>,
    pub exchange_apps: Vec<ExchangeApp>,
    /// What a device has to wait between two polls, until it is told to slow down (SF §1.4.6).
    pub device_interval: Duration,
    /// Data Cloud's own host; `None`: an org without Data Cloud.
    pub tenant_port: Option<u16>,
    /// Whether a Data Cloud token names its host with `https://`; current answers do not (SF §5.4). With `plain_http` always.
    pub tenant_with_scheme: bool,
    /// The life of a Data Cloud token; 7193 and 7130 have been seen (SF §5.4).
    pub dc_token_life: Duration,
    /// Whether Data Cloud tokens outlive the core session they were made from. Not confirmed; a JWT that nobody asks about does.
    pub dc_outlives_core: bool,
    pub dataspaces: Vec<String>,
    /// Rows in one answer of `/api/v2/query`; few, so that paging is practised.
    pub tenant_page: usize,
    /// The Pub/Sub API's own host; `None`: an org without it.
    pub pubsub_port: Option<u16>,
    pub streaming: Streaming,
    /// The private key of the first JWT client and of the web app with a key, kept to be written for the user.
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

/// The Streaming API and the Pub/Sub API (SF §4.2, §5.2, §5.3).
#[derive(Debug, Clone)]
pub struct Streaming {
    /// How long a CometD poll is held, and how long its client may stay away after an empty one.
    pub poll: Duration,
    /// How long the client of a CometD poll may stay away after events.
    pub reconnect: Duration,
    /// A dead token at CometD is told by HTTP 401 and not by a Bayeux message; both are possible.
    pub http_401: bool,
    /// An empty fetch answer comes at the latest after this.
    pub keep_alive: Duration,
    /// How long a subscriber that was sent all it asked for may wait before it asks for more.
    pub fetch_idle: Duration,
    /// How long a publish stream may be silent.
    pub publish_idle: Duration,
    /// An RPC that fails at once has headers first, then trailers. Not confirmed; `false` is what gRPC servers in Java do.
    pub headers_first: bool,
    /// Platform events, all with the fields `Message__c` and `Number__c`.
    pub platform_events: Vec<String>,
    /// Push topics, all of Account with `Id` and `Name`.
    pub push_topics: Vec<String>,
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

/// An app that people approve in a browser: web server flow, refresh tokens, device flow (SF §1.4.3, §1.4.4, §1.4.6).
#[derive(Debug, Clone)]
pub struct WebApp {
    pub client_id: String,
    /// `None`: no secret exists.
    pub secret: Option<SecretString>,
    /// "Require Secret for Web Server Flow".
    pub require_secret_for_web: bool,
    /// "Require Secret for Refresh Token Flow".
    pub require_secret_for_refresh: bool,
    /// For `private_key_jwt`.
    pub key: Option<PublicKey>,
    /// Compared as strings.
    pub callbacks: Vec<String>,
    pub scopes: Vec<String>,
    pub require_pkce: bool,
    /// "Enable Refresh Token Rotation".
    pub rotation: bool,
    pub device_flow: bool,
    /// Who is logged in on the consent page.
    pub username: String,
}

/// A user and the app allowed to log in with the user's password (SF §1.4.5).
#[derive(Debug, Clone)]
pub struct PasswordUser {
    pub username: String,
    pub password: SecretString,
    /// To be appended to the password; empty: the caller's address is trusted.
    pub security_token: SecretString,
    pub client_id: String,
    pub secret: SecretString,
    pub scopes: Vec<String>,
}

/// An app with the token exchange flow (SF §1.4.7).
#[derive(Debug, Clone)]
pub struct ExchangeApp {
    pub client_id: String,
    pub secret: Option<SecretString>,
    pub subjects: Vec<Subject>,
    pub scopes: Vec<String>,
    /// The Apex class that reads the subject tokens; a request may name it, and no other.
    pub handler: String,
}

/// A token of somebody else's identity provider, and whom the org takes it for.
#[derive(Debug, Clone)]
pub struct Subject {
    pub token: SecretString,
    /// The last part of the URN: `access_token`, `refresh_token`, `id_token`, `saml2`, `jwt`.
    pub kind: String,
    pub username: String,
    /// Refused the second time.
    pub single_use: bool,
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
            web_apps: Vec::new(),
            password_users: Vec::new(),
            exchange_apps: Vec::new(),
            device_interval: Duration::from_secs(5),
            tenant_port: None,
            tenant_with_scheme: false,
            dc_token_life: Duration::from_secs(7_193),
            dc_outlives_core: true,
            dataspaces: vec!["default".into(), "sales".into()],
            tenant_page: 10,
            pubsub_port: None,
            streaming: Streaming::default(),
            practice_key: None,
            clock: Clock::system(),
        }
    }
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(110),
            reconnect: Duration::from_secs(40),
            http_401: false,
            keep_alive: Duration::from_secs(270),
            fetch_idle: Duration::from_secs(60),
            publish_idle: Duration::from_secs(70),
            headers_first: false,
            platform_events: texts(["Practice_Event__e", "Second_Event__e"]),
            push_topics: texts(["PracticeAccounts"]),
        }
    }
}

impl Settings {
    /// An org with one app for each flow, a new key and new secrets, and a Data Cloud.
    ///
    /// The web apps are three: one with a secret (device flow too), one without (PKCE and rotation, as for a desktop), one with a key.
    pub fn practice() -> Result<Self, KeyError> {
        let key = RsaKey::generate()?;
        let desktop = WebApp {
            secret: None,
            require_pkce: true,
            rotation: true,
            ..web_app("desktop@practice.example")
        };
        let keyed = WebApp {
            secret: None,
            key: Some(key.public()),
            ..web_app("keyed@practice.example")
        };
        Ok(Self {
            jwt_clients: vec![JwtClient {
                client_id: consumer_key(),
                username: "integration@practice.example".into(),
                key: key.public(),
                scopes: texts(["api", "id", "refresh_token", "cdp_query_api"]),
            }],
            secret_clients: vec![SecretClient {
                client_id: consumer_key(),
                secret: consumer_secret(),
                run_as: Some("service@practice.example".into()),
                flow_enabled: true,
                scopes: texts(["api", "id", "cdp_query_api"]),
            }],
            web_apps: vec![web_app("person@practice.example"), desktop, keyed],
            password_users: vec![PasswordUser {
                username: "legacy@practice.example".into(),
                password: SecretString::from(letters(16, WORD)),
                security_token: SecretString::from(letters(24, WORD)),
                client_id: consumer_key(),
                secret: consumer_secret(),
                scopes: texts(["api", "id", "cdp_query_api"]),
            }],
            exchange_apps: vec![ExchangeApp {
                client_id: consumer_key(),
                secret: Some(consumer_secret()),
                subjects: vec![Subject {
                    token: SecretString::from(letters(200, WORD)),
                    kind: "access_token".into(),
                    username: "federated@practice.example".into(),
                    single_use: false,
                }],
                scopes: texts(["api", "id"]),
                handler: "PracticeTokenHandler".into(),
            }],
            tenant_port: Some(0),
            pubsub_port: Some(0),
            practice_key: Some(key),
            ..Self::default()
        })
    }
}

impl Settings {
    /// Whoever can log in, some several times.
    pub(crate) fn usernames(&self) -> impl Iterator<Item = &str> {
        let jwt = self.jwt_clients.iter().map(|client| &client.username);
        let secret = self.secret_clients.iter().filter_map(|client| client.run_as.as_ref());
        let web = self.web_apps.iter().map(|app| &app.username);
        let password = self.password_users.iter().map(|user| &user.username);
        let subjects = self.exchange_apps.iter().flat_map(|app| &app.subjects);
        let exchange = subjects.map(|subject| &subject.username);
        jwt.chain(secret)
            .chain(web)
            .chain(password)
            .chain(exchange)
            .map(String::as_str)
    }
}

const WORD: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// With a secret that is required, and the callback of Salesforce's own CLI.
fn web_app(username: &str) -> WebApp {
    WebApp {
        client_id: consumer_key(),
        secret: Some(consumer_secret()),
        require_secret_for_web: true,
        require_secret_for_refresh: true,
        key: None,
        callbacks: vec!["http://localhost:1717/OauthRedirect".into()],
        scopes: texts(["api", "id", "refresh_token", "cdp_query_api"]),
        require_pkce: false,
        rotation: false,
        device_flow: true,
        username: username.into(),
    }
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

fn consumer_secret() -> SecretString {
    SecretString::from(letters(64, b"0123456789ABCDEF"))
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
