//! One conversation with the login host: a grant in, a token or a refusal out.
//!
//! [`Exchange`] is the one seam of the token room, because tests must script time and failure; [`HttpExchange`] is the
//! real one.
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
use zeroize::Zeroizing;

use super::{
    Instance, InstanceError,
    grant::{self, Attempt, Body, Inputs},
    is_loopback,
    refusal::{Refusal, Sent, refusal},
};
use crate::{
    clock::Clock,
    config::{EgressProxy, Grant, Org},
};

mod answer;
#[cfg(test)]
mod tests;

/// How tokens are minted.
pub trait Exchange: Send + Sync + 'static {
    /// One attempt, from reading the secrets to the whole answer. Dropping it half-way is allowed: every grant of this
    /// version may be repeated after an unknown outcome (SF §1.5).
    fn exchange(&self) -> impl Future<Output = Result<Minted, Refusal>> + Send;

    /// The grant's word in metrics.
    fn grant_word(&self) -> &'static str;
}

/// What a login brought.
#[derive(Debug)]
pub struct Minted {
    pub secret: SecretString,
    pub instance: Arc<Instance>,
    /// When it ends, if the token or the answer told.
    pub known_expiry: Option<SystemTime>,
    pub identity: Option<Identity>,
    /// `false`: the answer lists scopes, and neither `api` nor `full` is among them.
    pub reaches_api: bool,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    #[error("HTTPS_PROXY is no address of a proxy")]
    Proxy,
    #[error("cannot set up the HTTP client of the login host")]
    Client,
}

/// The token endpoint of one org.
pub struct HttpExchange {
    client: reqwest::Client,
    login: url::Url,
    grant: Arc<Grant>,
    instance_override: Option<Arc<Instance>>,
    /// Bounds a told `expires_in`.
    longest: Duration,
    timeout: Duration,
    /// The egress proxy's address holds a password; an error text of the connection may not.
    proxy: Option<SecretString>,
    clock: Clock,
}

impl HttpExchange {
    /// `tls` is [`crate::tls::client_config`]'s.
    pub fn new(org: &Org, tls: rustls::ClientConfig, egress: &EgressProxy, clock: Clock) -> Result<Self, SetUpError> {
        // The same rule as for the API's host: https, or plain http to loopback.
        Instance::from_url(&org.login.url)?;
        let instance_override = org
            .instance_url
            .as_ref()
            .map(Instance::from_url)
            .transpose()
            .map_err(SetUpError::InstanceUrl)?
            .map(Arc::new);
        Ok(Self {
            client: client(&org.login.url, tls, egress)?,
            login: org.login.url.clone(),
            grant: Arc::new(org.grant.clone()),
            instance_override,
            longest: org.token.lifetime,
            timeout: org.token.exchange_timeout,
            proxy: egress.https.clone().map(SecretString::from),
            clock,
        })
    }

    async fn attempt(&self) -> Result<Minted, Refusal> {
        let mut attempt = self.prepared().await?;
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
            .map_err(|_| Refusal::of("unexpected_answer", None))?;
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
        let response = request.send().await.map_err(|e| self.broken(e, &sent))?;
        self.judged(response, &sent).await
    }

    /// Reads secrets and signs, on a thread that may block.
    async fn prepared(&self) -> Result<Attempt, Refusal> {
        let (grant, login, now) = (Arc::clone(&self.grant), self.login.clone(), self.clock.now());
        let inputs = move || {
            let inputs = Inputs {
                login: &login,
                refresh_token: None,
                now,
            };
            grant::attempt(&grant, inputs)
        };
        tokio::task::spawn_blocking(inputs)
            .await
            .map_err(|_| Refusal::of("secret_unreadable", None))?
    }

    async fn judged(&self, mut response: reqwest::Response, sent: &Sent) -> Result<Minted, Refusal> {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let mut body = Zeroizing::new(Vec::new());
        let mut whole = true;
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(e, sent))? {
            let room = BODY_MAX - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                whole = false;
                break;
            }
        }
        if !status.is_success() {
            return Err(Refusal {
                retry_after,
                ..refusal(status.as_u16(), &body, sent)
            });
        }
        if !whole {
            return Err(Refusal::of("malformed_answer", format!("longer than {BODY_MAX} bytes")));
        }
        let answer = answer::read(&body).ok_or_else(|| refusal(status.as_u16(), &body, sent))?;
        answer.minted(self.instance_override.as_ref(), self.longest, self.clock.now())
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

impl Exchange for HttpExchange {
    async fn exchange(&self) -> Result<Minted, Refusal> {
        // Beside the client's own limits: reading the secret counts as well.
        tokio::time::timeout(self.timeout, self.attempt())
            .await
            .unwrap_or_else(|_| Err(Refusal::of("timeout", None)))
    }

    fn grant_word(&self) -> &'static str {
        grant::word(&self.grant)
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

/// Seconds; the other form, a date, is not used by Salesforce and not read.
fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

const BODY_MAX: usize = 64 * 1024;
const DESCRIPTION_MAX: usize = 200;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
