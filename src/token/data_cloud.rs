//! Stage two: a token of the Data Cloud tenant for a token of the org.
//!
//! Owns: which core token was exchanged last. The keeper of stage two is like any other, with its own clock (renewed at
//! 300 s left or 900 s old) and its own generations; this is what it exchanges.
//! Invariants: at most one forced renewal of stage one for an exchange, and only when stage two's answer says that the
//! core token is no good; a core token of the password grant is exchanged once, for Salesforce takes it once; an outage of
//! stage two costs no login. The tenant is https, whether or not the answer says so.
//! Units: `Duration`. Fails with: [`Refusal`].
//! Source: SF §5.4, §9.3.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{
    Exchange, Instance, Minted, Refusal, Token, TokenError, Tokens,
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
    /// The core token that the password grant's single exchange has been spent on.
    spent: AtomicU64,
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
            spent: AtomicU64::new(0),
        }
    }

    async fn core_token(&self) -> Result<Arc<Token>, Refusal> {
        let token = self.core.get().await.map_err(of_core)?;
        let single_use = matches!(self.http.grant(), Grant::Password(_));
        if single_use && self.spent.load(Ordering::Relaxed) >= token.generation.0 {
            return self.core.renewed_dead(token.generation).await.map_err(of_core);
        }
        Ok(token)
    }

    async fn exchange_once(&self, core: &Token) -> Result<Minted, Trouble> {
        self.spent.fetch_max(core.generation.0, Ordering::Relaxed);
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
        tracing::info!(org = %self.core.org(), reason = refused.reason, "stage two refused the core token");
        let next = self.core.renewed(core.generation).await.map_err(of_core)?;
        match self.exchange_once(&next).await {
            Ok(minted) => Ok(minted),
            Err(Trouble::CoreToken(refusal)) => {
                self.core.did_not_help(next.generation);
                Err(refusal)
            }
            // That says nothing of the core token.
            Err(Trouble::Other(refusal)) => Err(refusal),
        }
    }

    /// Two conversations, and two waits for stage one.
    fn longest(&self, once: Duration) -> Duration {
        4 * once
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

/// Stage one's word for why it has no token.
fn of_core(error: TokenError) -> Refusal {
    Refusal::of("core_token", error.message)
}

const PATH: &str = "/services/a360/token";
const GRANT_TYPE: &str = "urn:salesforce:grant-type:external:cdp";
const SUBJECT_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
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
