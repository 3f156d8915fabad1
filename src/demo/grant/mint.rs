//! One login: the session behind a grant, and the answer that tells it.
//!
//! Owns: nothing; sessions are the world's.
//! Invariants: every grant counts as a login of its user before anything is opened; nothing is opened when the user is over the limit.
//! Units: `issued_at` is milliseconds since 1970 as a string; times in JWTs are seconds.
//! Fails with: `login rate exceeded`.
//! Source: SF §1.3, §3.2, §3.3, §3.4.

use std::{sync::atomic::Ordering::Relaxed, time::UNIX_EPOCH};

use aws_lc_rs::{hmac, rand::SystemRandom, signature::RSA_PKCS1_SHA256};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::client::App;
use crate::demo::{
    answer::Answer,
    session::{Policy, Session, opaque_token},
    settings::{TokenFormat, letters},
    store::{unix_millis, user_id},
    world::{ORG_ID, World},
};

/// Who logs in, by which app, with what.
#[derive(Clone, Copy)]
pub(super) struct Login<'a> {
    pub(super) client_id: &'a str,
    pub(super) username: &'a str,
    pub(super) scopes: &'a [String],
    /// The refresh token's, if there is one.
    pub(super) approval: Option<u64>,
    pub(super) password: bool,
}

pub(super) struct Minted {
    pub(super) answer: Value,
    id: String,
}

/// The living session's token again, or a new one.
pub(super) fn mint(world: &World, login: Login<'_>) -> Result<Minted, Answer> {
    let settings = &world.settings;
    let now = world.now();
    let scope = login.scopes.join(" ");
    let policy = Policy {
        timeout: settings.session_timeout,
        same_token: world.faults().same_on_remint,
        remint_extends: settings.remint_extends,
    };
    let id = format!("{}/id/{ORG_ID}/{}", world.urls.login, user_id(login.username));
    let mut session = Session::new(
        login.client_id,
        login.username,
        &scope,
        now,
        policy.timeout,
        settings.token_format,
    );
    session.approval = login.approval;
    session.password = login.password;
    let token = {
        let mut sessions = world.sessions();
        sessions
            .login(login.username, settings.login_limit, now)
            .map_err(|_| Answer::oauth_error("invalid_grant", "login rate exceeded"))?;
        world.counters.logins.fetch_add(1, Relaxed);
        let again = match settings.token_format {
            TokenFormat::Opaque => sessions.again(&session, policy, now),
            TokenFormat::Jwt { .. } => None,
        };
        again.unwrap_or_else(|| {
            let token = match settings.token_format {
                TokenFormat::Opaque => opaque_token(ORG_ID),
                TokenFormat::Jwt { .. } => jwt_token(world, &session, &id),
            };
            sessions.open(token.clone(), session);
            token
        })
    };
    let mut answer = json!({
        "access_token": token,
        "scope": scope,
        "instance_url": world.instance_url(),
        "id": id,
        "token_type": "Bearer",
    });
    if matches!(settings.token_format, TokenFormat::Jwt { .. }) {
        answer["token_format"] = json!("jwt");
    }
    Ok(Minted { answer, id })
}

/// The answer of a flow that can give a refresh token: gives one if the scopes have it, as an approval of its own.
pub(super) fn approved(world: &World, app: &App<'_>, username: &str, scopes: &[String]) -> Result<Given, Answer> {
    let mut grants = world.grants();
    let lasting = scopes.iter().any(|s| is_refresh(s));
    let approval = lasting.then(|| grants.approvals.next());
    let mut minted = mint(
        world,
        Login {
            client_id: app.client_id,
            username,
            scopes,
            approval,
            password: false,
        },
    )?;
    if let Some(approval) = approval {
        let (token, oldest) = grants.approvals.approve(approval, app.client_id, username, scopes);
        if let Some(oldest) = oldest {
            world.sessions().end_approval(oldest);
        }
        minted.answer["refresh_token"] = json!(token);
    }
    Ok(Given { minted, approval })
}

pub(super) struct Given {
    pub(super) minted: Minted,
    pub(super) approval: Option<u64>,
}

pub(super) fn is_refresh(scope: &str) -> bool {
    scope == "refresh_token" || scope == "offline_access"
}

impl Minted {
    /// With `issued_at` and the HMAC-SHA256 over it and the id, keyed with the app's secret (SF §1.3). With what it is keyed for an app without
    /// a secret is not confirmed; here with nothing.
    pub(super) fn signed(mut self, world: &World, secret: &str) -> Value {
        let issued_at = unix_millis(world.now()).to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, format!("{}{issued_at}", self.id).as_bytes()));
        self.answer["signature"] = json!(signature);
        self.answer["issued_at"] = json!(issued_at);
        self.answer
    }
}

/// An access token in JWT form (SF §3.2).
fn jwt_token(world: &World, session: &Session, id: &str) -> String {
    let seconds = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    org_jwt(
        world,
        &json!({
            "iss": world.urls.base,
            "sub": format!("uid:{}", id.rsplit('/').next().unwrap_or("")),
            "aud": [world.urls.base],
            "client_id": session.client_id,
            "scp": session.scope,
            "iat": seconds(session.issued),
            "nbf": seconds(session.issued),
            "exp": seconds(session.expires),
            "jti": letters(22, b"abcdefghijklmnopqrstuvwxyz0123456789"),
        }),
    )
}

/// A JWT signed with the org's key.
pub(in crate::demo) fn org_jwt(world: &World, claims: &Value) -> String {
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": KEY_ID, "tnk": format!("core/prod/{ORG_ID}")});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(claims));
    let key = world.org_key();
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        signed.as_bytes(),
        &mut signature,
    )
    .expect("an RSA-2048 key must sign");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Of the org's key, in `/id/keys`.
pub(in crate::demo) const KEY_ID: &str = "practice";
