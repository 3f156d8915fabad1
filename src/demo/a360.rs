//! `POST /services/a360/token`: a core session for a Data Cloud token.
//!
//! Owns: which Data Cloud tokens live. Invariants: a token is bound to one dataspace; an exchange is no login and no use of the core session
//! (whether it is one is not confirmed, SF §9.1); a core token of the password flow is exchanged once.
//! Units: `expires_in` and `exp` are seconds. Fails with: an [`Answer`]; a refused core token is 401 (not confirmed), a spent one of the
//! password flow an HTML page.
//! Source: SF §3.6, §4.2, §5.4, §9.

use std::{
    collections::HashMap,
    sync::atomic::Ordering::Relaxed,
    time::{SystemTime, UNIX_EPOCH},
};

use hyper::Method;
use serde_json::json;

use super::{
    answer::Answer,
    grant::{Form, field, mint::org_jwt},
    page,
    settings::letters,
    store::user_id,
    world::{ORG_ID, World},
};

/// What a living token may see.
#[derive(Debug, Clone)]
pub(crate) struct DcToken {
    pub(crate) dataspace: String,
    expires: SystemTime,
    core: String,
}

#[derive(Debug, Default)]
pub(crate) struct DcTokens(HashMap<String, DcToken>);

/// The tenant, as `audienceTenantId` says it.
pub(crate) const TENANT_ID: &str = "a360/prod/practice0000000000000000000000";

const GRANT: &str = "urn:salesforce:grant-type:external:cdp";
const SUBJECT: &str = "urn:ietf:params:oauth:token-type:access_token";
const SCOPE: &str = "cdp_query_api";

impl DcTokens {
    pub(crate) fn living(&self, token: &str, now: SystemTime) -> Option<&DcToken> {
        self.0.get(token).filter(|t| now < t.expires)
    }

    /// Ends all; says how many lived.
    pub(crate) fn expire_all(&mut self, now: SystemTime) -> usize {
        let living = self.0.values().filter(|t| now < t.expires).count();
        self.0.clear();
        living
    }
}

/// The Data Cloud token, if it lives.
pub(crate) fn living(world: &World, token: &str) -> Option<DcToken> {
    let found = world.dc_tokens().living(token, world.now()).cloned()?;
    let core_lives = || world.sessions().peek(&found.core, world.now()).is_some();
    (world.settings.dc_outlives_core || core_lives()).then_some(found)
}

/// `None`: an org without Data Cloud.
pub(crate) fn answer(world: &World, method: &Method, body: &[u8]) -> Option<Answer> {
    let tenant = world.urls.tenant.as_ref()?;
    world.counters.a360_requests.fetch_add(1, Relaxed);
    if method != Method::POST {
        return Some(Answer::oauth_error("invalid_request", "must use HTTP POST"));
    }
    let form: Form = url::form_urlencoded::parse(body).into_owned().collect();
    Some(exchange(world, tenant, &form).unwrap_or_else(|refusal| refusal))
}

fn exchange(world: &World, tenant: &str, form: &Form) -> Result<Answer, Answer> {
    let bad = |text: &str| Answer::oauth_error("invalid_request", text);
    if field(form, "grant_type") != Some(GRANT) {
        return Err(Answer::oauth_error(
            "unsupported_grant_type",
            "grant type not supported",
        ));
    }
    let core = field(form, "subject_token").ok_or_else(|| bad("missing required parameter: subject_token"))?;
    if field(form, "subject_token_type") != Some(SUBJECT) {
        return Err(bad("invalid subject_token_type"));
    }
    let now = world.now();
    let session = world.sessions().peek(core, now).cloned();
    let Some(session) = session else {
        let dead = json!({"error": "invalid_grant", "error_description": "expired access/refresh token"});
        return Err(Answer::json(401, dead));
    };
    // Data Cloud wants the option for JWT-format tokens off (SF §3.6); how it says so is not confirmed.
    if session.is_jwt() {
        return Err(bad("JWT-based access tokens are not supported"));
    }
    // A `scope` that is sent does no good (SF §5.4); that it is refused is not confirmed.
    let has_scope = session.scope.split(' ').any(|scope| scope == SCOPE);
    if !has_scope || field(form, "scope").is_some() {
        return Err(Answer::oauth_error(
            "invalid_scope",
            "the requested scope is invalid, unknown, or malformed",
        ));
    }
    let dataspace = field(form, "dataspace").unwrap_or("default");
    if !world.settings.dataspaces.iter().any(|space| space == dataspace) {
        // Not confirmed.
        return Err(bad("invalid dataspace"));
    }
    let again = world.sessions().exchange(core);
    if again && session.password {
        return Err(page::to_login(&world.urls.login));
    }
    let life = world.settings.dc_token_life;
    let expires = now + life;
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let token = org_jwt(
        world,
        &json!({
            "iss": world.urls.base,
            "sub": user_id(&session.username),
            "aud": tenant,
            "orgId": ORG_ID,
            "audienceTenantId": TENANT_ID,
            "scp": SCOPE,
            "sfoid": ORG_ID,
            "custom_attributes": {"dataspace": dataspace},
            "iat": seconds(now),
            "nbf": seconds(now),
            "exp": seconds(expires),
            "jti": letters(22, b"abcdefghijklmnopqrstuvwxyz0123456789"),
        }),
    );
    let known = DcToken {
        dataspace: dataspace.to_owned(),
        expires,
        core: core.to_owned(),
    };
    let mut tokens = world.dc_tokens();
    tokens.0.retain(|_, old| now < old.expires);
    tokens.0.insert(token.clone(), known);
    drop(tokens);
    world.counters.a360_exchanges.fetch_add(1, Relaxed);
    let with_scheme = world.settings.tenant_with_scheme || world.settings.plain_http;
    let host = if with_scheme {
        tenant
    } else {
        tenant.split_once("://").map_or(tenant, |(_, host)| host)
    };
    Ok(Answer::json(
        200,
        json!({
            "access_token": token,
            "instance_url": host,
            "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "expires_in": life.as_secs(),
        }),
    ))
}
