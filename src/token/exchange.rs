//! One conversation with the login host: a grant in, a token or a refusal out.
//!
//! [`Exchange`] is the one seam of the token room, because tests must script time and failure; behind it are
//! [`super::kept`] (the org's own tokens, kept in the store) and [`super::data_cloud`] (stage two). [`HttpExchange`] is
//! the conversation itself.
//! Owns: the HTTP client of the login host (no connection is kept between logins).
//! Invariants: no redirect is followed; at most 64 KiB of an answer are read; plain http goes to loopback only; bodies
//! and URLs appear in no error and no log; the environment's proxies count only as the configuration read them.
//! Units: `Duration`; sizes in bytes.
//! Fails with: [`Refusal`]; of the client itself, [`SetUpError`].
//! Source: SF §1.1-1.3, §2; RFC 6749 §5.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{timeout, timeout_at};
use zeroize::Zeroizing;

use super::{
    Instance, InstanceError, Token,
    grant::{self, Attempt, Body, Inputs},
    is_loopback,
    refusal::{Refusal, Sent, refusal},
};
use crate::{
    clock::Clock,
    config::{ApiHost, EgressProxy, Grant, Org},
    http_date,
};

pub(crate) mod answer;
mod person;
#[cfg(test)]
mod tests;

/// How tokens are minted.
pub trait Exchange: Send + Sync + 'static {
    /// One attempt, from reading the secrets to the whole answer.
    fn exchange(&self, ask: Ask<'_>) -> impl Future<Output = Result<Minted, Refusal>> + Send;

    /// A newer token that is there already; asking costs no login.
    fn recall(&self, ask: Ask<'_>) -> impl Future<Output = Option<Minted>> + Send {
        let _ = ask;
        std::future::ready(None)
    }

    /// Whether [`Self::exchange`] may be dropped half-way. What spends something (a refresh token that rotates) may not:
    /// its answer would be lost.
    fn abandonable(&self) -> bool {
        true
    }

    /// How long [`Self::exchange`] may take in all, where one conversation may take `once`.
    fn longest(&self, once: Duration) -> Duration {
        once
    }

    /// Uses the token once, so that its session lives on; whether the org took it.
    fn keep_alive(&self, token: &Token) -> impl Future<Output = Touch> + Send {
        let _ = token;
        std::future::ready(Touch::Unknown)
    }

    /// Takes the place of `before`, with what that one remembers; whether it is for the same identity.
    fn takes_over(&mut self, before: Self) -> bool
    where
        Self: Sized;

    /// The grant's word in metrics.
    fn grant_word(&self) -> &'static str;
}

/// What the keeper wants, and what it has.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub why: Why,
    /// The newest token, be it refused.
    pub held: Option<&'a Token>,
}

/// Why a token is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is none yet.
    Start,
    /// The renewal is due.
    Due,
    /// The org refused the one at hand.
    Refused,
}

impl Why {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Due => "due",
            Self::Refused => "refused",
        }
    }
}

/// What one use of a token showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    Alive,
    Dead,
    /// The org did not say.
    Unknown,
}

/// What a login brought.
#[derive(Debug)]
pub struct Minted {
    pub secret: SecretString,
    pub instance: Arc<Instance>,
    /// Path prefixes whose calls go elsewhere.
    pub also: Arc<[(String, Arc<Instance>)]>,
    /// When it ends, if the token or the answer told.
    pub known_expiry: Option<SystemTime>,
    pub identity: Option<Identity>,
    /// `false`: the answer lists scopes, and neither `api` nor `full` is among them.
    pub reaches_api: bool,
    /// Another process minted it, or this one before its start: it came from the store, without a login.
    pub adopted: bool,
    /// Its number in the store.
    pub serial: u64,
    /// When it was minted, if not now.
    pub minted_at: Option<SystemTime>,
}

impl Minted {
    /// A token of which no more is known.
    pub fn new(secret: SecretString, instance: Arc<Instance>) -> Self {
        Self {
            secret,
            instance,
            also: Arc::default(),
            known_expiry: None,
            identity: None,
            reaches_api: true,
            adopted: false,
            serial: 0,
            minted_at: None,
        }
    }
}

/// A login's whole result.
pub struct Granted {
    pub minted: Minted,
    /// A first one, or one that takes the place of the presented one.
    pub refresh_token: Option<SecretString>,
}

/// A login that failed, and what the login host may have done all the same.
#[derive(Debug)]
pub struct Failed {
    pub refusal: Refusal,
    pub outcome: Outcome,
    /// A refresh token that came in an answer which is no good otherwise: it has taken the presented one's place.
    pub successor: Option<Box<SecretString>>,
}

impl Failed {
    pub fn new(refusal: Refusal, outcome: Outcome) -> Self {
        Self {
            refusal,
            outcome,
            successor: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing left this machine.
    NotSent,
    /// The login host refused in plain words: nothing was spent.
    Refused,
    /// It may have acted.
    Unknown,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// 18 characters.
    pub org_id: String,
    pub user_id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("`login_url` {0}")]
    LoginUrl(#[from] InstanceError),
    #[error("`instance_url` {0}")]
    InstanceUrl(InstanceError),
    #[error("`pub_sub.endpoint` {0}")]
    PubSub(InstanceError),
    #[error("HTTPS_PROXY is no address of a proxy")]
    Proxy,
    #[error("cannot set up the HTTP client of the login host")]
    Client,
}

/// The login host of one identity. Cheap to clone.
#[derive(Clone)]
pub struct HttpExchange {
    client: reqwest::Client,
    login: url::Url,
    grant: Arc<Grant>,
    hosts: Arc<Hosts>,
    /// Bounds a told `expires_in`.
    longest: Duration,
    timeout: Duration,
    introspect: bool,
    /// The egress proxy's address holds a password; an error text of the connection may not.
    proxy: Option<SecretString>,
    clock: Clock,
}

impl HttpExchange {
    /// `tls` is [`crate::tls::client_config`]'s.
    pub fn new(org: &Org, tls: rustls::ClientConfig, egress: &EgressProxy, clock: Clock) -> Result<Self, SetUpError> {
        // The same rule as for the API's host: https, or plain http to loopback.
        Instance::from_url(&org.login.url)?;
        Ok(Self {
            client: client(&org.login.url, tls, egress)?,
            login: org.login.url.clone(),
            grant: Arc::new(org.grant.clone()),
            hosts: Arc::new(Hosts::new(org).map_err(SetUpError::InstanceUrl)?),
            longest: org.token.lifetime,
            timeout: org.token.exchange_timeout,
            introspect: org.token.introspect,
            proxy: egress.https.clone().map(SecretString::from),
            clock,
        })
    }

    /// The same for another identity of the same app.
    pub fn with_grant(&self, grant: Grant) -> Self {
        Self {
            grant: Arc::new(grant),
            ..self.clone()
        }
    }

    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Whether tokens of the one would go where tokens of the other go.
    pub(super) fn leads_where(&self, other: &Self) -> bool {
        self.hosts == other.hosts
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Presents the grant, once. `refresh_token`: the one to present, for that grant.
    pub async fn login(&self, refresh_token: Option<SecretString>) -> Result<Granted, Failed> {
        let deadline = tokio::time::Instant::now() + self.timeout;
        // Beside the client's own limits: reading the secret counts as well.
        let prepared = timeout_at(deadline, self.prepared(refresh_token)).await;
        let attempt = prepared
            // Not `timeout`: the login host has nothing to do with it.
            .unwrap_or_else(|_| {
                Err(Refusal::of(
                    "secret_unreadable",
                    "no answer in time: a disk hangs".to_owned(),
                ))
            })
            .map_err(not_sent)?;
        self.send(attempt, deadline).await
    }

    /// Sends one attempt that is not the configured grant's, such as a step of an interactive login.
    pub async fn present(&self, attempt: Attempt) -> Result<Granted, Failed> {
        self.send(attempt, tokio::time::Instant::now() + self.timeout).await
    }

    async fn send(&self, attempt: Attempt, deadline: tokio::time::Instant) -> Result<Granted, Failed> {
        let sending = Box::pin(self.sent(attempt));
        let out_of_time = || Failed::new(Refusal::of("timeout", None), Outcome::Unknown);
        timeout_at(deadline, sending)
            .await
            .unwrap_or_else(|_| Err(out_of_time()))
    }

    /// The token with its end, asked for if the operator wants that and nobody told.
    pub async fn with_end(&self, mut minted: Minted) -> Minted {
        if self.introspect && minted.known_expiry.is_none() {
            let told = timeout(INTROSPECTION, self.introspected(&minted.secret, "access_token")).await;
            let told = told.ok().and_then(Result::ok).flatten();
            minted.known_expiry = told.and_then(|told| told.expiry);
        }
        minted
    }

    async fn sent(&self, attempt: Attempt) -> Result<Granted, Failed> {
        let (status, retry_after, body, sent) = self.conversation(attempt).await?;
        let unknown = |refusal| Failed::new(refusal, Outcome::Unknown);
        if !status.is_success() {
            // Only a 4xx of the token endpoint itself says that nothing was done (SF §1.5).
            let plain = status.is_client_error() && !matches!(status.as_u16(), 408 | 420 | 429);
            return Err(Failed {
                refusal: Refusal {
                    retry_after,
                    ..refusal(status.as_u16(), &body, &sent)
                },
                outcome: if plain { Outcome::Refused } else { Outcome::Unknown },
                successor: None,
            });
        }
        let answer = answer::read(&body).ok_or_else(|| unknown(refusal(status.as_u16(), &body, &sent)))?;
        let successor = answer.refresh_token().map(Box::new);
        let granted = answer.granted(&self.hosts, self.longest, self.clock.now());
        granted.map_err(|refusal| Failed {
            successor,
            ..unknown(refusal)
        })
    }

    /// A conversation with another host than the login host: `at` is its origin. Bounded as a login is.
    pub(super) async fn conversation_with(
        &self,
        at: &str,
        attempt: Attempt,
    ) -> Result<(http::StatusCode, Option<Duration>, Zeroizing<Vec<u8>>, Sent), Failed> {
        let host = url::Url::parse(at).map_err(|_| not_sent(Refusal::of("unsafe_instance_url", None)))?;
        let other = Self {
            login: host,
            ..self.clone()
        };
        timeout(self.timeout, other.conversation(attempt))
            .await
            .unwrap_or_else(|_| Err(not_sent(Refusal::of("timeout", None))))
    }

    /// Sends and reads the answer.
    async fn conversation(
        &self,
        mut attempt: Attempt,
    ) -> Result<(http::StatusCode, Option<Duration>, Zeroizing<Vec<u8>>, Sent), Failed> {
        if let Some(proxy) = &self.proxy {
            attempt.sent.secret(proxy.expose_secret());
        }
        let Attempt {
            path,
            body,
            authorization,
            sent,
        } = attempt;
        let endpoint = self
            .login
            .join(&path)
            .map_err(|_| not_sent(Refusal::of("unexpected_answer", None)))?;
        let (kind, body) = encoded(&body);
        let mut request = self
            .client
            .post(endpoint)
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static(kind))
            .body(body);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let broke = |error: reqwest::Error| Failed {
            outcome: match error.is_connect() || error.is_builder() {
                true => Outcome::NotSent,
                false => Outcome::Unknown,
            },
            refusal: self.broken(error, &sent),
            successor: None,
        };
        let mut response = request.send().await.map_err(broke)?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), self.clock.now());
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(broke)? {
            if chunk.len() > BODY_MAX - body.len() {
                let text = format!("longer than {BODY_MAX} bytes");
                return Err(Failed {
                    refusal: match status.is_success() {
                        true => Refusal::of("malformed_answer", text),
                        false => refusal(status.as_u16(), &body, &sent),
                    },
                    outcome: Outcome::Unknown,
                    successor: None,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, retry_after, body, sent))
    }

    /// Reads secrets and signs, on a thread that may block.
    async fn prepared(&self, refresh_token: Option<SecretString>) -> Result<Attempt, Refusal> {
        let (grant, login, now) = (Arc::clone(&self.grant), self.login.clone(), self.clock.now());
        let inputs = move || {
            let inputs = Inputs {
                login: &login,
                refresh_token: refresh_token.as_ref(),
                now,
            };
            grant::attempt(&grant, inputs)
        };
        tokio::task::spawn_blocking(inputs)
            .await
            .map_err(|_| Refusal::of("secret_unreadable", None))?
    }

    /// What the login host says of a token of this app; `None`: nothing that helps, or the app has no secret to ask with.
    pub async fn introspected(&self, token: &SecretString, hint: &'static str) -> Result<Option<Introspected>, Failed> {
        let (grant, token) = (Arc::clone(&self.grant), token.clone());
        let attempt = tokio::task::spawn_blocking(move || grant::introspection(&grant, &token, hint)).await;
        let Some(attempt) = attempt.ok().flatten() else {
            return Ok(None);
        };
        let (status, _, body, sent) = self.conversation(attempt).await?;
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(Failed {
                refusal: refusal(status.as_u16(), &body, &sent),
                outcome: Outcome::Refused,
                successor: None,
            });
        }
        Ok(status.is_success().then(|| Introspected::read(&body)).flatten())
    }

    /// A token that was not minted here, and the host it is for.
    pub fn found(&self, token: SecretString, instance_url: Option<&str>) -> Result<Minted, Refusal> {
        let instance = match (&self.hosts.fixed, instance_url) {
            (Some(fixed), _) => Arc::clone(fixed),
            (None, Some(url)) => Arc::new(
                Instance::parse(url).map_err(|e| Refusal::of("unsafe_instance_url", format!("instance_url {e}")))?,
            ),
            (None, None) => {
                let text = "no instance_url beside the token: set `instance_url`".to_owned();
                return Err(Refusal::of("malformed_answer", text));
            }
        };
        Ok(Minted {
            known_expiry: super::lifetime::known_expiry(token.expose_secret(), None, self.longest, self.clock.now()),
            ..Minted::new(token, instance)
        })
    }

    /// Uses a token for the cheapest call (SF §6).
    pub async fn touch(&self, instance: &Instance, token: &SecretString) -> Touch {
        let scheme = if instance.tls { "https" } else { "http" };
        let url = format!("{scheme}://{}{CHEAPEST_CALL}", instance.authority);
        let request = self.client.get(url).bearer_auth(token.expose_secret()).timeout(TOUCH);
        match request.send().await.map(|answer| answer.status().as_u16()) {
            Ok(200..=299) => Touch::Alive,
            Ok(401) => Touch::Dead,
            _ => Touch::Unknown,
        }
    }

    /// What a conversation that broke means: the host, and the words of the system or the TLS library, scrubbed all the
    /// same.
    fn broken(&self, error: reqwest::Error, sent: &Sent) -> Refusal {
        let error = error.without_url();
        let mut innermost: &(dyn std::error::Error + 'static) = &error;
        let mut tls = false;
        while let Some(source) = innermost.source() {
            tls |= source.is::<rustls::Error>() || wraps_tls(source);
            innermost = source;
        }
        let reason = match () {
            () if tls => "tls",
            () if error.is_timeout() => "timeout",
            () => "unreachable",
        };
        let host = self.login[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        Refusal::of(reason, sent.scrub(&format!("{host}: {innermost}"), DESCRIPTION_MAX))
    }
}

fn not_sent(refusal: Refusal) -> Failed {
    Failed::new(refusal, Outcome::NotSent)
}

/// What introspection told of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introspected {
    pub active: bool,
    pub expiry: Option<SystemTime>,
}

impl Introspected {
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let active = value.get("active")?.as_bool()?;
        let seconds = value.get("exp").and_then(super::lifetime::seconds);
        Some(Self {
            active,
            expiry: seconds
                .filter(|_| active)
                .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(seconds)),
        })
    }
}

/// Which hosts calls go to, as the settings say.
#[derive(PartialEq)]
pub(crate) struct Hosts {
    rule: ApiHost,
    /// `instance_url` of the configuration, or the platform's.
    fixed: Option<Arc<Instance>>,
    /// It is `instance_url`, which goes before whatever the answer names.
    overrides: bool,
}

impl Hosts {
    pub(crate) fn new(org: &Org) -> Result<Self, InstanceError> {
        let rule = org.api.host.clone();
        let fixed = match (&org.instance_url, &rule) {
            (Some(url), _) => Some(url),
            (None, ApiHost::Platform { fallback }) => Some(fallback),
            (None, _) => None,
        };
        let fixed = fixed.map(Instance::from_url).transpose()?.map(Arc::new);
        let overrides = org.instance_url.is_some();
        Ok(Self { rule, fixed, overrides })
    }
}

fn client(login: &url::Url, tls: rustls::ClientConfig, egress: &EgressProxy) -> Result<reqwest::Client, SetUpError> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .http1_only()
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("sf-token-proxy/", env!("CARGO_PKG_VERSION")));
    let here = login.host().is_none_or(|host| is_loopback(&host));
    if let Some(address) = egress.https.as_ref().filter(|_| !here) {
        let proxy = reqwest::Proxy::https(address).map_err(|_| SetUpError::Proxy)?;
        let excluded = egress.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
        builder = builder.proxy(proxy.no_proxy(excluded));
    }
    builder.build().map_err(|_| SetUpError::Client)
}

/// The media type and the text.
fn encoded(body: &Body) -> (&'static str, String) {
    match body {
        Body::Form(fields) => {
            let mut encoded = url::form_urlencoded::Serializer::new(String::new());
            for (name, value) in fields {
                encoded.append_pair(name, value.expose_secret());
            }
            ("application/x-www-form-urlencoded", encoded.finish())
        }
        Body::Json(fields) => {
            let object: serde_json::Map<_, _> = fields
                .iter()
                .map(|(name, value)| (name.to_string(), value.expose_secret().into()))
                .collect();
            ("application/json", serde_json::Value::Object(object).to_string())
        }
    }
}

/// rustls' errors travel inside `io::Error`, once or twice wrapped, whose `source` skips them.
fn wraps_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .and_then(|e| e.get_ref())
        .is_some_and(|inner| inner.is::<rustls::Error>() || wraps_tls(inner))
}

/// Seconds, or a date (RFC 9110 §10.2.3); by the login host's own clock where it says what that shows.
fn retry_after(headers: &http::HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = http_date::seconds(after)?;
    let ours = || {
        now.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    };
    let now = text(header::DATE).and_then(http_date::seconds).unwrap_or_else(ours);
    Some(Duration::from_secs(at.saturating_sub(now)))
}

/// For one question beside a login.
const INTROSPECTION: Duration = Duration::from_secs(5);
const TOUCH: Duration = Duration::from_secs(10);
/// Lists a version's resources; a dead token is answered with 401. Any version that the org still serves will do.
pub const CHEAPEST_CALL: &str = "/services/data/v60.0/";
const BODY_MAX: usize = 64 * 1024;
const DESCRIPTION_MAX: usize = 200;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
