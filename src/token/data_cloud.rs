//! Stage two: a token of the Data Cloud tenant for a token of the org.
//!
//! Owns: which core token was exchanged last, and which did not help. The keeper of stage two is like any other, with its own clock (renewed at
//! 300 s left or 900 s old) and its own generations; this is what it exchanges.
//! Invariants: at most one renewal of stage one for an exchange, and only when stage two's answer says that the core
//! token is no good; that one stays in use for the core's own calls, for the org alone says that it is dead; a core token of the password grant is exchanged once, for Salesforce takes it once; an outage of
//! stage two costs no login. The tenant is https, whether or not the answer says so.
//! Units: `Duration`. Fails with: [`Refusal`].
//! Source: SF §5.4, §9.3.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Class, Exchange, Generation, Instance, Minted, Refusal, Token, TokenError, Tokens,
    exchange::{Ask, HttpExchange},
    grant::{Attempt, Body, field},
    lifetime,
    refusal::{Sent, data_cloud_refusal},
};
use crate::config::Grant;

/// Stage two of one org.
pub struct DataCloudExchange {
    http: HttpExchange,
    core: Tokens,
    dataspace: Option<String>,
    /// Core tokens up to this one are of another identity.
    after: Generation,
    memory: Mutex<Memory>,
}

/// What one exchange leaves for the next.
#[derive(Default)]
struct Memory {
    /// The core token that the password grant's single exchange has been spent on.
    spent: Option<Arc<Token>>,
    /// A core token that was minted for stage two and did not help, and until when no other is asked for.
    in_vain: Option<(Generation, Instant)>,
}

/// Why an exchange failed, by what helps.
pub(crate) enum Trouble {
    /// The core token is no good: stage one first.
    CoreToken(Refusal),
    /// Another core token changes nothing.
    Other(Refusal),
}

impl DataCloudExchange {
    /// `core`: stage one's tokens; `http`: its conversation with the login host.
    pub fn new(http: HttpExchange, core: Tokens, dataspace: Option<String>) -> Self {
        Self {
            http,
            core,
            dataspace,
            after: Generation(0),
            memory: Mutex::default(),
        }
    }

    /// For a core whose identity changes: no token that it has now is exchanged.
    pub fn after_those_of_now(self) -> Self {
        let newest = self.core.snapshot().generation;
        Self {
            after: newest.unwrap_or_default(),
            ..self
        }
    }

    /// The core token to exchange. The core's own calls go on with the one they have, whatever comes of it.
    async fn core_token(&self) -> Result<Arc<Token>, Refusal> {
        let token = match self.core.get().await.map_err(of_core)? {
            old if old.generation <= self.after => self.core.newer_than(self.after).await.map_err(of_core)?,
            token => token,
        };
        if token.generation <= self.after {
            return Err(Refusal::of("core_token", None));
        }
        if !matches!(self.http.grant(), Grant::Password(_)) {
            return Ok(token);
        }
        let spent = self.lock().spent.clone();
        let Some(spent) = spent.filter(|spent| same(spent, &token)) else {
            return Ok(token);
        };
        let next = self.core.newer_than(token.generation).await.map_err(of_core)?;
        match same(&spent, &next) {
            false => Ok(next),
            true => Err(Refusal {
                class: Class::Permanent,
                ..Refusal::of("core_token", ONCE_ONLY.to_owned())
            }),
        }
    }

    /// Whether a newer core token is worth a login for stage two's sake.
    fn may_renew(&self, refused: &Token) -> bool {
        let in_vain = self.lock().in_vain;
        in_vain.is_none_or(|(generation, until)| generation != refused.generation || Instant::now() >= until)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange_once(&self, core: &Arc<Token>) -> Result<Minted, Trouble> {
        self.lock().spent = Some(Arc::clone(core));
        let mut sent = Sent::default();
        sent.secret(core.secret().expose_secret());
        let mut form = vec![
            field("grant_type", GRANT_TYPE),
            field("subject_token", core.secret().clone()),
            field("subject_token_type", SUBJECT_TYPE),
        ];
        if let Some(dataspace) = &self.dataspace {
            form.push(field("dataspace", dataspace.clone()));
        }
        let attempt = Attempt {
            path: PATH.into(),
            body: Body::Form(form),
            authorization: None,
            sent,
        };
        let at = core.instance.url();
        let (status, retry_after, body, sent) = self
            .http
            .conversation_with(&at, attempt)
            .await
            .map_err(|failed| Trouble::Other(failed.refusal))?;
        if status.is_success()
            && let Some(minted) = read(&body, self.http.clock().now())
        {
            return minted.map_err(Trouble::Other);
        }
        Err(trouble(status.as_u16(), &body, retry_after, &sent))
    }
}

impl Exchange for DataCloudExchange {
    async fn exchange(&self, _: Ask<'_>) -> Result<Minted, Refusal> {
        let core = self.core_token().await?;
        let refused = match self.exchange_once(&core).await {
            Ok(minted) => return Ok(minted),
            Err(Trouble::Other(refusal)) => return Err(refusal),
            Err(Trouble::CoreToken(refusal)) => refusal,
        };
        if !self.may_renew(&core) {
            return Err(refused);
        }
        tracing::info!(org = %self.core.org(), reason = refused.reason, "stage two refused the core token");
        let next = self.core.newer_than(core.generation).await.map_err(of_core)?;
        match self.exchange_once(&next).await {
            Ok(minted) => Ok(minted),
            Err(Trouble::Other(refusal)) => Err(refusal),
            Err(Trouble::CoreToken(refusal)) => {
                self.lock().in_vain = Some((next.generation, Instant::now() + PEACE));
                Err(refusal)
            }
        }
    }

    /// Two conversations, and two waits for stage one.
    fn longest(&self, once: Duration) -> Duration {
        4 * once
    }

    fn takes_over(&mut self, before: Self) -> bool {
        let same =
            self.after == Generation(0) && self.dataspace == before.dataspace && self.http.leads_where(&before.http);
        if same {
            self.memory = before.memory;
            self.after = before.after;
        }
        same
    }

    fn grant_word(&self) -> &'static str {
        "data_cloud"
    }
}

/// What stage two's answer that is no token means (SF §9.3 2).
pub(crate) fn trouble(status: u16, body: &[u8], retry_after: Option<Duration>, sent: &Sent) -> Trouble {
    let refusal = Refusal {
        retry_after,
        ..data_cloud_refusal(status, body, sent)
    };
    let html = body.trim_ascii_start().starts_with(b"<");
    match (status, refusal.code.as_deref()) {
        (_, Some("invalid_scope" | "invalid_request")) => Trouble::Other(refusal),
        (401 | 403, _) | (400, Some("invalid_grant" | "invalid_token")) => Trouble::CoreToken(refusal),
        // A redirect page in place of a token: the core token has been exchanged before, or is dead (SF §9.3 1).
        (200..=399, _) if html || (300..=399).contains(&status) => Trouble::CoreToken(refusal),
        _ => Trouble::Other(refusal),
    }
}

/// `None`: no token answer.
pub(crate) fn read(body: &[u8], now: SystemTime) -> Option<Result<Minted, Refusal>> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| value.get(name)?.as_str().map(str::trim).filter(|text| !text.is_empty());
    let token = text("access_token")?;
    let Some(tenant) = text("instance_url") else {
        let text = "no instance_url in stage two's answer".to_owned();
        return Some(Err(Refusal::of("malformed_answer", text)));
    };
    let told = value.get("expires_in").and_then(lifetime::seconds);
    let life = told.unwrap_or(ASSUMED_LIFE);
    let instance = Instance::parse(tenant)
        .map_err(|e| Refusal::of("unsafe_instance_url", format!("stage two's instance_url {e}")));
    Some(instance.map(|instance| Minted {
        known_expiry: lifetime::known_expiry(token, Some(life), life, now),
        ..Minted::new(SecretString::from(token.to_owned()), Arc::new(instance))
    }))
}

/// Whether Salesforce would take one for the other.
fn same(one: &Token, other: &Token) -> bool {
    one.secret().expose_secret() == other.secret().expose_secret()
}

/// Stage one's word for why it has no token.
fn of_core(error: TokenError) -> Refusal {
    Refusal::of("core_token", error.message)
}

const PATH: &str = "/services/a360/token";
const GRANT_TYPE: &str = "urn:salesforce:grant-type:external:cdp";
const SUBJECT_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
const ONCE_ONLY: &str = "Salesforce exchanges a core token of the password grant once, and gave the same one again: use another grant for Data Cloud";
/// No further login for stage two after one that did not help.
const PEACE: Duration = Duration::from_secs(300);
/// Where the answer does not tell (SF §9.2).
const ASSUMED_LIFE: Duration = Duration::from_secs(1800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_tenant_and_the_told_life_are_taken() {
        let now = SystemTime::UNIX_EPOCH;
        for tenant in ["Mzrtg.c360a.salesforce.com", "https://mzrtg.c360a.salesforce.com/"] {
            let body = serde_json::json!({"access_token": "CANARY", "instance_url": tenant, "expires_in": 7193});
            let minted = read(body.to_string().as_bytes(), now).unwrap().unwrap();
            assert!(minted.instance.tls);
            assert_eq!(minted.instance.host, "mzrtg.c360a.salesforce.com");
            assert_eq!(minted.known_expiry, Some(now + Duration::from_secs(7193)));
        }
        let body = br#"{"access_token":"t","instance_url":"a.example"}"#;
        let minted = read(body, now).unwrap().unwrap();
        assert_eq!(minted.known_expiry, Some(now + ASSUMED_LIFE));
        let unsafe_tenant = br#"{"access_token":"t","instance_url":"http://a.example"}"#;
        assert_eq!(
            read(unsafe_tenant, now).unwrap().unwrap_err().reason,
            "unsafe_instance_url"
        );
        assert!(read(b"<html>", now).is_none());
    }

    #[test]
    fn only_a_bad_core_token_is_minted_again() {
        let sent = Sent::default();
        let table: [(u16, &str, bool, &str); 9] = [
            (401, "", true, "unexpected_answer"),
            (403, "<html>", true, "unexpected_answer"),
            (
                400,
                r#"{"error":"invalid_grant","error_description":"x"}"#,
                true,
                "refused",
            ),
            (200, "<html>redirect</html>", true, "malformed_answer"),
            (302, "", true, "redirected"),
            (400, r#"{"error":"invalid_scope"}"#, false, "data_cloud_scope"),
            (400, r#"{"error":"invalid_request"}"#, false, "invalid_request"),
            (503, r#"{"error":"invalid_grant"}"#, false, "outage"),
            (429, "", false, "rate_limited"),
        ];
        for (status, body, again, reason) in table {
            let (found, refusal) = match trouble(status, body.as_bytes(), None, &sent) {
                Trouble::CoreToken(refusal) => (true, refusal),
                Trouble::Other(refusal) => (false, refusal),
            };
            assert_eq!((found, refusal.reason), (again, reason), "{status} {body}");
        }
    }
}
