//! `POST /services/oauth2/token`: which login is granted.
//!
//! Owns: nothing; sessions are the world's.
//! Invariants: every refusal is HTTP 400 with `error` and `error_description`; no answer has `expires_in`; a JWT bearer answer has neither
//! `issued_at` nor `signature`.
//! Units: `issued_at` is milliseconds since 1970 as a string.
//! Fails with: an [`Answer`] from SF §2.
//! Source: SF §1.1–§1.4.2, §2, §3.3, §3.4.

pub(crate) mod assertion;

use std::time::UNIX_EPOCH;

use aws_lc_rs::{hmac, rand::SystemRandom, signature::RSA_PKCS1_SHA256};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hyper::{HeaderMap, Method};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{
    answer::Answer,
    session::{Policy, Session, opaque_token},
    settings::{SecretClient, TokenFormat, letters},
    store::user_id,
    world::{ORG_ID, World},
};

type Form = Vec<(String, String)>;

/// Decides one token call whose body has been read.
pub(crate) fn answer(world: &World, method: &Method, headers: &HeaderMap, body: &[u8]) -> Answer {
    if method != Method::POST {
        return Answer::oauth_error("invalid_request", "must use HTTP POST");
    }
    let is_form = headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| {
            kind.trim()
                .to_ascii_lowercase()
                .starts_with("application/x-www-form-urlencoded")
        });
    let form: Form = if is_form {
        url::form_urlencoded::parse(body).into_owned().collect()
    } else {
        Form::new()
    };
    let granted = match field(&form, "grant_type") {
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => jwt_bearer(world, &form),
        Some("client_credentials") => client_credentials(world, headers, &form),
        _ => Err(Answer::oauth_error(
            "unsupported_grant_type",
            "grant type not supported",
        )),
    };
    granted.unwrap_or_else(|refusal| refusal)
}

fn jwt_bearer(world: &World, form: &Form) -> Result<Answer, Answer> {
    let Some(assertion) = field(form, "assertion") else {
        return Err(Answer::oauth_error(
            "invalid_request",
            "missing required parameter: assertion",
        ));
    };
    let mut audiences = world.settings.audiences.clone();
    audiences.extend([world.urls.base.clone(), world.urls.login.clone()]);
    audiences.extend(world.urls.second.clone());
    let client = assertion::verify(assertion, &world.settings.jwt_clients, &audiences, world.now())
        .map_err(|refusal| Answer::oauth_error(refusal.0, refusal.1))?;
    if !world.faults().approved {
        let (error, text) = assertion::NOT_APPROVED;
        return Err(Answer::oauth_error(error, text));
    }
    let can_refresh = |scope: &String| scope == "refresh_token" || scope == "offline_access";
    if !client.scopes.iter().any(can_refresh) || client.scopes.len() < 2 {
        return Err(Answer::oauth_error(
            "invalid_request",
            "The JWT bearer and SAML assertion bearer flows require a refresh_token scope.",
        ));
    }
    let minted = mint(world, &client.client_id, &client.username, &client.scopes)?;
    Ok(Answer::json(200, minted.answer))
}

fn client_credentials(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    let host = headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or("");
    let name = host.split(':').next().unwrap_or("").to_ascii_lowercase();
    let generic = ["login.salesforce.com", "test.salesforce.com"].contains(&name.as_str());
    if generic || name.ends_with(".salesforce-setup.com") {
        return Err(Answer::oauth_error(
            "invalid_grant",
            "request not supported on this domain",
        ));
    }
    let (client_id, secret) = client_pair(headers, form)?;
    let Some(client) = world.settings.secret_clients.iter().find(|c| c.client_id == client_id) else {
        return Err(Answer::oauth_error("invalid_client_id", "client identifier invalid"));
    };
    if client.secret.expose_secret() != secret {
        return Err(Answer::oauth_error("invalid_client", "invalid client credentials"));
    }
    if !client.flow_enabled {
        return Err(Answer::oauth_error(
            "invalid_grant",
            "client credentials flow not enabled",
        ));
    }
    let Some(run_as) = &client.run_as else {
        return Err(Answer::oauth_error(
            "invalid_grant",
            "no client credentials user enabled",
        ));
    };
    if !world.faults().approved {
        return Err(Answer::oauth_error(
            "invalid_app_access",
            "user is not admin approved to access this app",
        ));
    }
    let dropped = ["full", "web", "refresh_token", "offline_access"];
    let mut scopes = client.scopes.clone();
    scopes.retain(|scope| !dropped.contains(&scope.as_str()));
    if scopes.is_empty() {
        return Err(Answer::oauth_error("invalid_grant", "no valid scopes"));
    }
    let mut minted = mint(world, &client.client_id, run_as, &scopes)?;
    let issued_at = millis(world).to_string();
    minted.answer["signature"] = json!(signature(client, &minted.id, &issued_at));
    minted.answer["issued_at"] = json!(issued_at);
    minted.answer["api_instance_url"] = json!("https://api.salesforce.com");
    Ok(Answer::json(200, minted.answer))
}

/// Client id and secret from the body or, if the body does not carry the pair, from HTTP Basic.
pub(crate) fn client_pair(headers: &HeaderMap, form: &Form) -> Result<(String, String), Answer> {
    let owned = |name| field(form, name).map(str::to_owned);
    let (id, secret) = (owned("client_id"), owned("client_secret"));
    if let (Some(id), Some(secret)) = (&id, &secret) {
        return Ok((id.clone(), secret.clone()));
    }
    if let Some(pair) = basic(headers) {
        return Ok(pair);
    }
    match id {
        Some(_) => Err(Answer::oauth_error("invalid_client", "invalid client credentials")),
        None => Err(Answer::oauth_error(
            "invalid_request",
            "missing required parameter: client_id",
        )),
    }
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, coded) = value.split_once(' ')?;
    let plain = String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok()?;
    let (id, secret) = plain.split_once(':')?;
    scheme
        .eq_ignore_ascii_case("basic")
        .then(|| (id.to_owned(), secret.to_owned()))
}

struct Minted {
    answer: serde_json::Value,
    id: String,
}

/// One login: the living session's token again, or a new one.
fn mint(world: &World, client_id: &str, username: &str, scopes: &[String]) -> Result<Minted, Answer> {
    let settings = &world.settings;
    let now = world.now();
    let scope = scopes.join(" ");
    let policy = Policy {
        timeout: settings.session_timeout,
        same_token: world.faults().same_on_remint,
        remint_extends: settings.remint_extends,
    };
    let id = format!("{}/id/{ORG_ID}/{}", world.urls.login, user_id(username));
    let token = {
        let mut sessions = world.sessions();
        sessions
            .login(username, settings.login_limit, now)
            .map_err(|_| Answer::oauth_error("invalid_grant", "login rate exceeded"))?;
        let again = match settings.token_format {
            TokenFormat::Opaque => sessions.again(client_id, username, policy, now),
            TokenFormat::Jwt { .. } => None,
        };
        again.unwrap_or_else(|| {
            let session = Session::new(client_id, username, &scope, now, policy.timeout, settings.token_format);
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

/// An access token in JWT form, signed by the org (SF §3.2).
fn jwt_token(world: &World, session: &Session, id: &str) -> String {
    let seconds = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "practice", "tnk": format!("core/prod/{ORG_ID}")});
    let claims = json!({
        "iss": world.urls.base,
        "sub": format!("uid:{}", id.rsplit('/').next().unwrap_or("")),
        "aud": [world.urls.base],
        "client_id": session.client_id,
        "scp": session.scope,
        "iat": seconds(session.issued),
        "nbf": seconds(session.issued),
        "exp": seconds(session.expires),
        "jti": letters(22, b"abcdefghijklmnopqrstuvwxyz0123456789"),
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
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

/// HMAC-SHA256 over id and issued_at, keyed with the secret (SF §1.3).
fn signature(client: &SecretClient, id: &str, issued_at: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, client.secret.expose_secret().as_bytes());
    STANDARD.encode(hmac::sign(&key, format!("{id}{issued_at}").as_bytes()))
}

fn millis(world: &World) -> u128 {
    let since = world.now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}

/// The first value of that name that is not empty.
pub(crate) fn field<'a>(form: &'a Form, name: &str) -> Option<&'a str> {
    let found = form.iter().find(|(n, v)| n == name && !v.is_empty())?;
    Some(&found.1)
}
