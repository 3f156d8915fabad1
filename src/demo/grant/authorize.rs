//! `/services/oauth2/authorize`: the page on which a person says yes or no.
//!
//! A GET shows the page; a POST to the same address with `decision=allow` or `decision=deny` is what its buttons do. Nobody logs in: the
//! app's settings say whose page it is.
//!
//! Owns: nothing; codes are the world's.
//! Invariants: the browser is never sent to an address that is not registered for the app, letter for letter; nothing is shown unescaped.
//! Fails with: an error page, or the callback with `error`.
//! Source: SF §1.4.4, §2.

use hyper::Method;
use url::form_urlencoded::{Serializer, parse};

use super::{Form, code::Consent, field, mint::is_refresh};
use crate::demo::{
    answer::Answer,
    page::{BUTTONS, escape, page},
    settings::WebApp,
    world::World,
};

pub(in crate::demo) fn answer(world: &World, method: &Method, query: &str, body: &[u8]) -> Answer {
    let asked: Form = parse(query.as_bytes()).into_owned().collect();
    let consent = match read(world, &asked) {
        Ok(consent) => consent,
        Err(refusal) => return refusal,
    };
    if method != Method::POST {
        return consent_page(&consent, query);
    }
    let said: Form = parse(body).into_owned().collect();
    match field(&said, "decision") {
        Some("allow") => {
            let callback = consent.redirect_uri.clone();
            let code = world.grants().codes.make(consent, world.now());
            back(&callback, &asked, &[("code", &code)])
        }
        Some("deny") => back_with_error(
            &consent.redirect_uri,
            &asked,
            "access_denied",
            "end-user denied authorization",
        ),
        _ => consent_page(&consent, query),
    }
}

/// What is to be approved; else an error page, or the callback with the error once it is known to be the app's.
fn read(world: &World, asked: &Form) -> Result<Consent, Answer> {
    let Some(client_id) = field(asked, "client_id") else {
        return Err(error_page("invalid_request", "missing required parameter: client_id"));
    };
    let app = world.settings.web_apps.iter().find(|app| app.client_id == client_id);
    let Some(app) = app else {
        return Err(error_page("invalid_client_id", "client identifier invalid"));
    };
    let callback = field(asked, "redirect_uri").filter(|uri| is_registered(world, app, uri));
    let Some(callback) = callback else {
        return Err(error_page(
            "redirect_uri_mismatch",
            "redirect_uri must match configuration",
        ));
    };
    let refuse = |error: &str, text: &str| Err(back_with_error(callback, asked, error, text));
    if field(asked, "response_type") != Some("code") {
        return refuse("unsupported_response_type", "response type not supported");
    }
    // Only S256, said or not; that `plain` is refused here and not at the exchange is not confirmed, nor are the texts.
    if !matches!(field(asked, "code_challenge_method"), None | Some("S256")) {
        return refuse("invalid_request", "code challenge method not supported");
    }
    let challenge = field(asked, "code_challenge");
    match challenge {
        None if app.require_pkce => return refuse("invalid_request", "missing required code challenge"),
        Some(text) if !is_hash(text) => return refuse("invalid_request", "invalid code challenge"),
        _ => {}
    }
    let scopes: Vec<String> = match field(asked, "scope") {
        None => app.scopes.clone(),
        Some(scope) => scope.split_whitespace().map(str::to_owned).collect(),
    };
    if !scopes.iter().all(|scope| may_have(app, scope)) {
        return refuse("invalid_scope", "the requested scope is not allowed");
    }
    Ok(Consent {
        client_id: app.client_id.clone(),
        username: app.username.clone(),
        redirect_uri: callback.to_owned(),
        scopes,
        challenge: challenge.map(str::to_owned),
    })
}

fn is_registered(world: &World, app: &WebApp, uri: &str) -> bool {
    let later = &world.grants().callbacks;
    let later = later.iter().filter(|(id, _)| *id == app.client_id).map(|(_, uri)| uri);
    app.callbacks.iter().chain(later).any(|own| own == uri)
}

/// The two names of the refresh scope are one.
pub(super) fn may_have(app: &WebApp, scope: &str) -> bool {
    app.scopes
        .iter()
        .any(|own| own == scope || (is_refresh(own) && is_refresh(scope)))
}

/// SHA-256 in base64url without padding.
fn is_hash(challenge: &str) -> bool {
    let letter = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    challenge.len() == 43 && challenge.bytes().all(letter)
}

/// The page's status is not confirmed.
fn error_page(error: &str, text: &str) -> Answer {
    page(
        400,
        "Authorization Error",
        &format!(
            "<pre>{}</pre>",
            escape(&format!("error={error}&error_description={text}"))
        ),
    )
}

fn consent_page(consent: &Consent, query: &str) -> Answer {
    let scopes: String = consent
        .scopes
        .iter()
        .map(|s| format!("<li>{}</li>", escape(s)))
        .collect();
    let body = format!(
        "<p>Logged in as <b id=\"username\">{}</b></p>\n<p>The app <code>{}</code> asks for:</p>\n<ul>{scopes}</ul>\n\
         <form method=\"post\" action=\"/services/oauth2/authorize?{}\">\n{BUTTONS}\n</form>",
        escape(&consent.username),
        escape(&consent.client_id),
        escape(query),
    );
    page(200, "Allow Access?", &body)
}

fn back_with_error(callback: &str, asked: &Form, error: &str, text: &str) -> Answer {
    back(callback, asked, &[("error", error), ("error_description", text)])
}

/// To the callback, with the `state` that was asked with.
fn back(callback: &str, asked: &Form, said: &[(&str, &str)]) -> Answer {
    let mut query = Serializer::new(String::new());
    query.extend_pairs(said);
    if let Some(state) = field(asked, "state") {
        query.append_pair("state", state);
    }
    let joint = if callback.contains('?') { '&' } else { '?' };
    Answer::empty(302).with("location", &format!("{callback}{joint}{}", query.finish()))
}
