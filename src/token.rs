//! How a token is minted, kept, renewed and refused.
//!
//! `token/keeper.rs` is the one task that keeps an org's token; callers hold a [`Tokens`] handle (`token/tokens.rs`), read
//! from it, and report refusals to it. The exchange with the login host always runs on the keeper's task, never on a
//! caller's. Decisions are pure: [`refusal`] (what a failed login means), [`backoff`] (when to try again), [`lifetime`]
//! (when to renew), [`budget`] (how many logins). I/O is in [`exchange`], which sends what a [`grant`] yields.
//!
//! Invariants: one exchange in flight per org; generations only grow; a token that still works is never withdrawn
//! because a clock or a renewal said so; a token that the org refused is not handed out until the login host has
//! vouched for it anew (be it the same string).
//! Units: `Duration`; wall time only in [`Expiry`] and metrics.
//! Source: `design.md` §5; RFC 6749 §5; RFC 7523 §2.1.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, uri::Authority};
use secrecy::{ExposeSecret, SecretString};

use crate::config::OrgName;

pub mod audit;
pub mod backoff;
pub mod budget;
pub mod data_cloud;
pub mod exchange;
pub mod grant;
mod keeper;
pub mod kept;
pub mod lifetime;
pub mod refusal;
mod tokens;

pub use self::{
    exchange::{Exchange, HttpExchange, Identity, Minted},
    keeper::{Changes, CommonBudget, Keeper, Rules, keeper},
    refusal::{Class, REASONS, Refusal},
    tokens::{Snapshot, Tokens},
};

/// Numbers the tokens of one org in the order they were minted, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// When a token ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// The token or the login host said so.
    Known(SystemTime),
    /// Nobody said; this is minted + assumed lifetime.
    Assumed(SystemTime),
}

impl Expiry {
    pub fn at(self) -> SystemTime {
        match self {
            Self::Known(at) | Self::Assumed(at) => at,
        }
    }
}

/// One access token and where it may go. `Debug` and `Display` never show it.
pub struct Token {
    pub generation: Generation,
    /// `Bearer …`, marked sensitive; cloning it copies no bytes.
    pub authorization: HeaderValue,
    /// The host that calls with this token go to.
    pub instance: Arc<Instance>,
    pub expiry: Expiry,
    pub minted_at: SystemTime,
    /// For ages.
    pub minted: tokio::time::Instant,
    /// Counts the identity's tokens in the store; 0 where none is kept.
    pub serial: u64,
    /// Another process minted it: nobody here has been vouched for.
    pub adopted: bool,
    /// Path prefixes whose calls go elsewhere.
    pub also: Arc<[(String, Arc<Instance>)]>,
    /// Whose it is, where the login host said so.
    pub identity: Option<Arc<Identity>>,
    secret: SecretString,
}

/// A token that cannot travel in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the access token has characters that no header may carry")]
pub struct TokenNotAHeader;

impl Token {
    pub fn new(
        generation: Generation,
        secret: SecretString,
        instance: Arc<Instance>,
        expiry: Expiry,
        minted_at: SystemTime,
        minted: tokio::time::Instant,
    ) -> Result<Self, TokenNotAHeader> {
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {}", secret.expose_secret())).map_err(|_| TokenNotAHeader)?;
        authorization.set_sensitive(true);
        Ok(Self {
            generation,
            authorization,
            instance,
            expiry,
            minted_at,
            minted,
            serial: 0,
            adopted: false,
            also: Arc::default(),
            identity: None,
            secret,
        })
    }

    /// The token alone as a header's value, marked sensitive.
    pub fn raw(&self) -> HeaderValue {
        // `new` has seen that a header can carry it.
        let mut raw = HeaderValue::from_str(self.secret.expose_secret()).unwrap_or(HeaderValue::from_static(""));
        raw.set_sensitive(true);
        raw
    }

    /// The org's 18-character Id: what the login host said, or what an opaque token begins with.
    pub fn org_id(&self) -> Option<String> {
        match &self.identity {
            Some(identity) => id_18(&identity.org_id),
            None => {
                let (id, _) = self.secret.expose_secret().split_once('!')?;
                id_18(id).filter(|id| id.starts_with("00D"))
            }
        }
    }

    /// Signed claims, not the name of a session.
    pub fn is_jwt(&self) -> bool {
        let secret = self.secret.expose_secret();
        // Every one begins with a JSON object in base64.
        secret.starts_with("eyJ") && secret.split('.').count() == 3
    }

    /// Where a call to this path goes.
    pub fn instance_for(&self, path: &str) -> &Arc<Instance> {
        let under = |prefix: &str| path == prefix || (prefix.ends_with('/') && path.starts_with(prefix));
        let elsewhere = self.also.iter().find(|(prefix, _)| under(prefix));
        elsewhere.map_or(&self.instance, |(_, instance)| instance)
    }

    /// The same token, whose session was seen to live just now.
    fn extended(&self, expiry: Expiry) -> Self {
        Self {
            generation: self.generation,
            authorization: self.authorization.clone(),
            instance: Arc::clone(&self.instance),
            expiry,
            minted_at: self.minted_at,
            minted: tokio::time::Instant::now(),
            serial: self.serial,
            adopted: self.adopted,
            also: Arc::clone(&self.also),
            identity: self.identity.clone(),
            secret: self.secret.clone(),
        }
    }

    pub fn secret(&self) -> &SecretString {
        &self.secret
    }
}

/// The 18-character form of a Salesforce Id of 15 or 18: three more characters tell which letters are upper case, five
/// characters each, so that the Id can be compared without case.
fn id_18(id: &str) -> Option<String> {
    const SUFFIX: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
    let plain = matches!(id.len(), 15 | 18) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let core = id.get(..15).filter(|_| plain)?;
    let suffix = core.as_bytes().chunks(5).map(|five| {
        let bits = five.iter().enumerate();
        let place = bits.fold(0, |sum, (bit, byte)| {
            sum | usize::from(byte.is_ascii_uppercase()) << bit
        });
        char::from(SUFFIX[place])
    });
    Some(core.chars().chain(suffix).collect())
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("generation", &self.generation.0)
            .field("instance", &self.instance)
            .field("expiry", &self.expiry)
            .finish_non_exhaustive()
    }
}

/// The origin that calls go to, ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub tls: bool,
    /// Host and, where it is not the scheme's default, port; lower case.
    pub authority: Authority,
    /// The same as a `Host` header.
    pub host_header: HeaderValue,
    /// Without port and without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// This machine's own; no egress proxy leads there.
    pub loopback: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    #[error("is not a URL")]
    NotAUrl,
    #[error("must begin with https:// (http:// only to a loopback address)")]
    NotHttps,
    #[error("has no host")]
    NoHost,
    #[error("carries a user name or password")]
    Credentials,
}

impl Instance {
    /// From an `instance_url` as Salesforce gives it: a trailing slash and mixed case are normalised, a path dropped,
    /// a missing scheme read as https. Plain http is taken for loopback hosts only.
    pub fn parse(instance_url: &str) -> Result<Self, InstanceError> {
        let text = instance_url.trim();
        let with_scheme;
        let text = if text.contains("://") {
            text
        } else {
            with_scheme = format!("https://{text}");
            &with_scheme
        };
        Self::from_url(&url::Url::parse(text).map_err(|_| InstanceError::NotAUrl)?)
    }

    /// The origin as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }

    pub fn from_url(url: &url::Url) -> Result<Self, InstanceError> {
        let host = url.host().ok_or(InstanceError::NoHost)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InstanceError::Credentials);
        }
        let tls = match url.scheme() {
            "https" => true,
            "http" if is_loopback(&host) => false,
            _ => return Err(InstanceError::NotHttps),
        };
        let port = url.port_or_known_default().ok_or(InstanceError::NoHost)?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        Ok(Self {
            tls,
            host_header: HeaderValue::try_from(authority.as_str()).map_err(|_| InstanceError::NotAUrl)?,
            authority: Authority::try_from(authority).map_err(|_| InstanceError::NotAUrl)?,
            host: match &host {
                url::Host::Domain(name) => (*name).to_owned(),
                url::Host::Ipv4(ip) => ip.to_string(),
                url::Host::Ipv6(ip) => ip.to_string(),
            },
            port,
            loopback: is_loopback(&host),
        })
    }
}

/// Whether a host is this machine's own: `localhost`, `*.localhost`, 127.0.0.0/8, ::1.
pub fn is_loopback(host: &url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
    }
}

/// The state of an org's token, alike in metrics, logs and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateWord {
    /// No token yet, and nothing known against getting one.
    Starting,
    /// A token is in use.
    Live,
    /// A token is in use, but its renewal fails for a reason that may pass by itself.
    LiveRenewalFailing,
    /// A token is in use, but the login host refuses its renewal until somebody acts.
    LiveRefused,
    /// No token to use; a renewal is under way or will be tried soon.
    Renewing,
    /// No token to use, and getting one fails for a reason that may pass by itself.
    Failing,
    /// No token to use, and the login host refuses until somebody acts.
    Refused,
}

impl StateWord {
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Live,
        Self::LiveRenewalFailing,
        Self::LiveRefused,
        Self::Renewing,
        Self::Failing,
        Self::Refused,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Live => "live",
            Self::LiveRenewalFailing => "live_renewal_failing",
            Self::LiveRefused => "live_refused",
            Self::Renewing => "renewing",
            Self::Failing => "failing",
            Self::Refused => "refused",
        }
    }
}

/// Why a caller gets no token. `Display` is fit for the app's developer and the operator; it shows no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("org {org}: {message}")]
pub struct TokenError {
    pub org: OrgName,
    /// One of [`REASONS`], or `too_many_waiters`, `timed_out`, `stopping`.
    pub reason: &'static str,
    /// What happened, in Salesforce's words where there are some, and what to do.
    pub message: String,
    /// When asking again may help.
    pub retry_after: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_15_becomes_one_of_18() {
        // Salesforce's own examples have both forms.
        assert_eq!(id_18("00DSB0000001pRC").as_deref(), Some("00DSB0000001pRC2AY"));
        assert_eq!(id_18("001A0000006Vm9r").as_deref(), Some("001A0000006Vm9rIAC"));
        assert_eq!(id_18("001A0000006Vm9rIAC").as_deref(), Some("001A0000006Vm9rIAC"));
        assert_eq!(id_18("001A0000006Vm9"), None);
        assert_eq!(id_18("001A0000006Vm9-"), None);
        assert_eq!(id_18(""), None);
    }

    #[test]
    fn an_opaque_token_tells_its_org() {
        let token = |secret: &str| {
            Token::new(
                Generation(1),
                SecretString::from(secret),
                Arc::new(Instance::parse("https://acme.my.salesforce.com").unwrap()),
                Expiry::Assumed(SystemTime::UNIX_EPOCH),
                SystemTime::UNIX_EPOCH,
                tokio::time::Instant::now(),
            )
            .unwrap()
        };
        assert_eq!(
            token("00DSB0000001pRC!AQ.x").org_id().as_deref(),
            Some("00DSB0000001pRC2AY")
        );
        assert_eq!(token("eyJhbGciOi.eyJ.x").org_id(), None);
        assert_eq!(token("005SB0000001pRC!AQ.x").org_id(), None);
        let mut jwt = token("eyJhbGciOi.eyJ.x");
        assert!(jwt.is_jwt());
        for other in ["00Dxx0000001gER!AQ.x.y", "eyJ", "eyJhbGciOi.x"] {
            assert!(!token(other).is_jwt(), "{other}");
        }
        jwt.identity = Some(Arc::new(Identity {
            org_id: "00DSB0000001pRC2AY".into(),
            user_id: "005SB0000001pRC2AY".into(),
        }));
        assert_eq!(jwt.org_id().as_deref(), Some("00DSB0000001pRC2AY"));
    }
}
