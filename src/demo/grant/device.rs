//! The device flow: a code for the screen, a page to type it in, and polling.
//!
//! Owns: the devices that wait. Invariants: a device that polls too early has to wait 5 s more from then on; a code is answered with tokens once.
//! Units: both codes live 10 minutes of the org's clock. Fails with: an [`Answer`] from SF §2; the texts are not confirmed.
//! Source: SF §1.4.6.

use std::time::{Duration, SystemTime};

use hyper::{HeaderMap, Method};
use serde_json::json;
use url::form_urlencoded::parse;

use super::{
    Form, authorize,
    client::{self, Need},
    field, mint, missing,
};
use crate::demo::{
    answer::Answer,
    page::{BUTTONS, escape, page},
    settings::letters,
    world::World,
};

#[derive(Debug)]
struct Device {
    device_code: String,
    user_code: String,
    client_id: String,
    username: String,
    scopes: Vec<String>,
    made: SystemTime,
    interval: Duration,
    polled: Option<SystemTime>,
    allowed: Option<bool>,
    done: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Devices(Vec<Device>);

const LIFE: Duration = Duration::from_secs(10 * 60);
const SLOWER: Duration = Duration::from_secs(5);

impl Devices {
    /// Whether a device waits for this answer.
    pub(crate) fn decide(&mut self, user_code: &str, allow: bool, now: SystemTime) -> bool {
        let mut waiting = self.0.iter_mut();
        let found = waiting.find(|d| d.user_code == user_code && d.allowed.is_none() && now < d.made + LIFE);
        match found {
            Some(device) => {
                device.allowed = Some(allow);
                true
            }
            None => false,
        }
    }
}

/// `response_type=device_code`.
pub(super) fn begin(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    let app = client::authenticate(world, headers, form, Need::Nothing)?;
    let app = world
        .settings
        .web_apps
        .iter()
        .find(|a| a.client_id == app.client_id && a.device_flow);
    let Some(app) = app else {
        return Err(Answer::oauth_error("unauthorized_client", "device flow not enabled"));
    };
    let scopes: Vec<String> = match field(form, "scope") {
        None => app.scopes.clone(),
        Some(scope) => scope.split_whitespace().map(str::to_owned).collect(),
    };
    if !scopes.iter().all(|scope| authorize::may_have(app, scope)) {
        return Err(Answer::oauth_error(
            "invalid_scope",
            "the requested scope is not allowed",
        ));
    }
    let device = Device {
        device_code: letters(80, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"),
        user_code: letters(8, b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789"),
        client_id: app.client_id.clone(),
        username: app.username.clone(),
        scopes,
        made: world.now(),
        interval: world.settings.device_interval,
        polled: None,
        allowed: None,
        done: false,
    };
    let answer = json!({
        "device_code": device.device_code,
        "user_code": device.user_code,
        "verification_uri": format!("{}/setup/connect", world.urls.login),
        "interval": device.interval.as_secs(),
    });
    world.grants().devices.0.push(device);
    Ok(Answer::json(200, answer))
}

/// `grant_type=device`.
pub(super) fn poll(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    let app = client::authenticate(world, headers, form, Need::Nothing)?;
    let code = field(form, "code").ok_or_else(|| missing("code"))?;
    let (username, scopes) = {
        let now = world.now();
        let mut grants = world.grants();
        let mut devices = grants.devices.0.iter_mut();
        let Some(device) = devices.find(|d| d.device_code == code && d.client_id == app.client_id) else {
            return Err(Answer::oauth_error("invalid_request", "invalid device code"));
        };
        if device.done || now >= device.made + LIFE {
            return Err(Answer::oauth_error("invalid_grant", "expired device code"));
        }
        let early = device.polled.is_some_and(|at| now < at + device.interval);
        device.polled = Some(now);
        if early {
            device.interval += SLOWER;
            return Err(Answer::oauth_error("slow_down", "polling too quickly"));
        }
        let Some(allowed) = device.allowed else {
            return Err(Answer::oauth_error("authorization_pending", "authorization is pending"));
        };
        device.done = true;
        if !allowed {
            return Err(Answer::oauth_error("access_denied", "end-user denied authorization"));
        }
        (device.username.clone(), device.scopes.clone())
    };
    // Neither `signature` nor `issued_at` is documented for this flow (SF §1.3).
    let given = mint::approved(world, &app, &username, &scopes)?;
    Ok(Answer::json(200, given.minted.answer))
}

/// `/setup/connect`, where a person types the code: the form of a POST is `user_code` and `decision`.
pub(in crate::demo) fn connect(world: &World, method: &Method, query: &str, body: &[u8]) -> Answer {
    let bytes = if method == Method::POST { body } else { query.as_bytes() };
    let said: Form = parse(bytes).into_owned().collect();
    let user_code = field(&said, "user_code").unwrap_or("");
    let decision = match (method, field(&said, "decision")) {
        (&Method::POST, Some("allow")) => Some(true),
        (&Method::POST, Some("deny")) => Some(false),
        _ => None,
    };
    let Some(allow) = decision else {
        let body = format!(
            "<form method=\"post\" action=\"/setup/connect\">\n<label>Code <input id=\"user_code\" name=\"user_code\" value=\"{}\"></label>\n{BUTTONS}\n</form>",
            escape(user_code)
        );
        return page(200, "Connect Your Device", &body);
    };
    if !world.grants().devices.decide(user_code, allow, world.now()) {
        return page(400, "Connect Your Device", "<p>That code is not valid.</p>");
    }
    let text = if allow {
        "<p>You're connected.</p>"
    } else {
        "<p>You refused access.</p>"
    };
    page(200, "Connect Your Device", text)
}
