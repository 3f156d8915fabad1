//! Which app calls the token endpoint, and whether it may say so.
//!
//! Owns: nothing. Invariants: a secret that is sent must be right, also where none is required; an assertion is read only when no secret came.
//! Units: an assertion's `exp` is seconds since 1970, at most 5 min ahead; no grace after it (not confirmed).
//! Fails with: an [`Answer`] from SF §2.
//! Source: SF §1.2.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};

use super::{Form, assertion, field};
use crate::demo::{answer::Answer, key::PublicKey, settings::Settings, world::World};

/// An app that can hold refresh tokens.
pub(super) struct App<'a> {
    pub(super) client_id: &'a str,
    secret: Option<&'a SecretString>,
    key: Option<&'a PublicKey>,
    secret_for_web: bool,
    secret_for_refresh: bool,
    pub(super) rotation: bool,
}

/// When a secret (or a key's assertion) is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Web,
    Refresh,
    /// Only what is sent is checked.
    Nothing,
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const AHEAD: Duration = Duration::from_secs(5 * 60);

impl App<'_> {
    /// What the signature of an answer is keyed with.
    pub(super) fn secret(&self) -> &str {
        self.secret.map_or("", |secret| secret.expose_secret())
    }
}

fn find<'a>(settings: &'a Settings, client_id: &str) -> Option<App<'a>> {
    let web = settings.web_apps.iter().find(|app| app.client_id == client_id);
    let web = web.map(|app| App {
        client_id: &app.client_id,
        secret: app.secret.as_ref(),
        key: app.key.as_ref(),
        secret_for_web: app.require_secret_for_web,
        secret_for_refresh: app.require_secret_for_refresh,
        rotation: app.rotation,
    });
    web.or_else(|| {
        let app = settings.exchange_apps.iter().find(|app| app.client_id == client_id)?;
        Some(App {
            client_id: &app.client_id,
            secret: app.secret.as_ref(),
            key: None,
            secret_for_web: true,
            secret_for_refresh: true,
            rotation: false,
        })
    })
}

/// The app that calls, proven as its settings want it.
pub(super) fn authenticate<'a>(
    world: &'a World,
    headers: &HeaderMap,
    form: &Form,
    need: Need,
) -> Result<App<'a>, Answer> {
    let (client_id, secret) = said(headers, form)?;
    let app = find(&world.settings, &client_id).ok_or_else(unknown)?;
    if let Some(secret) = secret {
        // An app without a secret that is sent one: not confirmed; refused.
        let right = app.secret.is_some_and(|own| own.expose_secret() == secret);
        return if right { Ok(app) } else { Err(wrong()) };
    }
    if let Some(assertion) = field(form, "client_assertion") {
        let right = field(form, "client_assertion_type") == Some(ASSERTION_TYPE) && proves(world, &app, assertion);
        return if right { Ok(app) } else { Err(wrong()) };
    }
    let required = match need {
        Need::Web => app.secret_for_web,
        Need::Refresh => app.secret_for_refresh,
        Need::Nothing => false,
    };
    // The answer names no setting (SF §1.4.3); its exact text is not confirmed.
    if required && (app.secret.is_some() || app.key.is_some()) {
        return Err(wrong());
    }
    Ok(app)
}

/// `private_key_jwt`.
fn proves(world: &World, app: &App<'_>, assertion: &str) -> bool {
    let Some(key) = app.key else {
        return false;
    };
    let Ok(jwt) = assertion::read(assertion) else {
        return false;
    };
    let audiences = [&world.urls.login, &world.urls.base].map(|host| format!("{host}/services/oauth2/token"));
    let now = world.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let in_time = assertion::seconds(&jwt.claims["exp"]).is_some_and(|exp| exp > now && exp <= now + AHEAD);
    let names_itself = ["iss", "sub"].iter().all(|name| jwt.claims[name] == app.client_id);
    jwt.is_signed_by(key) && names_itself && in_time && assertion::names_one_of(&jwt.claims["aud"], &audiences)
}

/// What the caller calls itself, and its secret if it sent one: from the body or, if the body does not carry the pair, from HTTP Basic.
fn said(headers: &HeaderMap, form: &Form) -> Result<(String, Option<String>), Answer> {
    let owned = |name| field(form, name).map(str::to_owned);
    let (id, secret) = (owned("client_id"), owned("client_secret"));
    if let (Some(id), Some(secret)) = (&id, &secret) {
        return Ok((id.clone(), Some(secret.clone())));
    }
    if let Some((id, secret)) = basic(headers) {
        return Ok((id, Some(secret).filter(|secret| !secret.is_empty())));
    }
    let issuer = || {
        let jwt = assertion::read(field(form, "client_assertion")?).ok()?;
        Some(jwt.claims["iss"].as_str()?.to_owned())
    };
    match id.or_else(issuer) {
        Some(id) => Ok((id, None)),
        None => Err(Answer::oauth_error(
            "invalid_request",
            "missing required parameter: client_id",
        )),
    }
}

/// Client id and secret, both.
pub(in crate::demo) fn pair(headers: &HeaderMap, form: &Form) -> Result<(String, String), Answer> {
    let (id, secret) = said(headers, form)?;
    Ok((id, secret.ok_or_else(wrong)?))
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

/// Whether an app of any flow has this id and secret.
pub(in crate::demo) fn has_secret(settings: &Settings, client_id: &str, secret: &str) -> bool {
    let credentials = settings
        .secret_clients
        .iter()
        .map(|app| (&app.client_id, Some(&app.secret)));
    let credentials = credentials
        .chain(
            settings
                .web_apps
                .iter()
                .map(|app| (&app.client_id, app.secret.as_ref())),
        )
        .chain(
            settings
                .exchange_apps
                .iter()
                .map(|app| (&app.client_id, app.secret.as_ref())),
        )
        .chain(
            settings
                .password_users
                .iter()
                .map(|user| (&user.client_id, Some(&user.secret))),
        );
    let mut fitting = credentials.filter(|(id, _)| *id == client_id);
    fitting.any(|(_, own)| own.is_some_and(|own| own.expose_secret() == secret))
}

pub(super) fn unknown() -> Answer {
    Answer::oauth_error("invalid_client_id", "client identifier invalid")
}

pub(in crate::demo) fn wrong() -> Answer {
    Answer::oauth_error("invalid_client", "invalid client credentials")
}
