//! `POST /services/oauth2/token`: which login is granted.
//!
//! | File | Grant |
//! |---|---|
//! | here, `assertion` | JWT bearer, client credentials |
//! | `saml` | SAML bearer |
//! | `authorize` `code` | the consent page and the code it gives |
//! | `refresh` | refresh tokens, with rotation or without |
//! | `password` `device` `exchange` | the others |
//! | `client` | which app asks, and its secret |
//! | `mint` | the session and the answer |
//!
//! Owns: nothing; sessions are the world's.
//! Invariants: every refusal is HTTP 400 with `error` and `error_description`; no answer has `expires_in`; a JWT bearer answer has neither
//! `issued_at` nor `signature`.
//! Fails with: an [`Answer`] from SF §2.
//! Source: SF §1.1–§1.4, §2, §3.3, §3.4.

pub(crate) mod assertion;
pub(crate) mod authorize;
pub(crate) mod client;
pub(crate) mod code;
pub(crate) mod device;
pub(crate) mod exchange;
pub(crate) mod mint;
mod password;
pub(crate) mod refresh;
mod saml;

use hyper::{HeaderMap, Method};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::{
    answer::Answer,
    approvals::Approvals,
    key::PublicKey,
    record::Grant,
    settings::{JwtClient, SecretClient},
    world::World,
};
use mint::{Login, is_refresh, mint};

pub(crate) type Form = Vec<(String, String)>;

/// What the grants remember beside sessions.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    pub(crate) approvals: Approvals,
    pub(crate) codes: code::Codes,
    pub(crate) devices: device::Devices,
    pub(crate) used_subjects: exchange::Used,
    /// Client ids and the callbacks registered for them since the start.
    pub(crate) callbacks: Vec<(String, String)>,
    /// Client ids and what was registered for them in place of the settings' key or secret; the last counts.
    pub(crate) certificates: Vec<(String, PublicKey)>,
    pub(crate) secrets: Vec<(String, SecretString)>,
}

/// One token call whose body has been read.
pub(crate) struct TokenRequest {
    method: Method,
    headers: HeaderMap,
    form: Form,
}

impl TokenRequest {
    pub(crate) fn read(method: &Method, headers: HeaderMap, body: &[u8]) -> Self {
        let is_form = headers
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| {
                kind.trim()
                    .to_ascii_lowercase()
                    .starts_with("application/x-www-form-urlencoded")
            });
        let form = if is_form {
            url::form_urlencoded::parse(body).into_owned().collect()
        } else {
            Form::new()
        };
        Self {
            method: method.clone(),
            headers,
            form,
        }
    }

    pub(crate) fn grant(&self) -> Grant {
        match field(&self.form, "grant_type") {
            Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => Grant::JwtBearer,
            Some("urn:ietf:params:oauth:grant-type:saml2-bearer") => Grant::SamlBearer,
            Some("client_credentials") => Grant::ClientCredentials,
            Some("authorization_code") => Grant::AuthorizationCode,
            Some("refresh_token") => Grant::RefreshToken,
            Some("password") => Grant::Password,
            Some("device") => Grant::Device,
            Some("urn:ietf:params:oauth:grant-type:token-exchange") => Grant::TokenExchange,
            None if field(&self.form, "response_type") == Some("device_code") => Grant::DeviceCode,
            _ => Grant::Other,
        }
    }

    /// Held until the answer is made, so that a refresh token is answered once at a time (SF §1.4.3).
    pub(crate) fn claim<'a>(&self, world: &'a World) -> Result<Option<refresh::Claim<'a>>, Answer> {
        refresh::Claim::of(world, &self.form)
    }

    pub(crate) fn answer(&self, world: &World) -> Answer {
        if self.method != Method::POST {
            return Answer::oauth_error("invalid_request", "must use HTTP POST");
        }
        let (headers, form) = (&self.headers, &self.form);
        let granted = match self.grant() {
            Grant::JwtBearer => jwt_bearer(world, form),
            Grant::SamlBearer => saml::answer(world, form),
            Grant::ClientCredentials => client_credentials(world, headers, form),
            Grant::AuthorizationCode => code::answer(world, headers, form),
            Grant::RefreshToken => refresh::answer(world, headers, form),
            Grant::Password => password::answer(world, headers, form),
            Grant::DeviceCode => device::begin(world, headers, form),
            Grant::Device => device::poll(world, headers, form),
            Grant::TokenExchange => exchange::answer(world, headers, form),
            Grant::Other => Err(Answer::oauth_error(
                "unsupported_grant_type",
                "grant type not supported",
            )),
        };
        granted.unwrap_or_else(|refusal| refusal)
    }
}

fn jwt_bearer(world: &World, form: &Form) -> Result<Answer, Answer> {
    let Some(assertion) = field(form, "assertion") else {
        return Err(missing("assertion"));
    };
    let clients = jwt_clients(world);
    let client = assertion::verify(assertion, &clients, &audiences(world), world.now())
        .map_err(|refusal| Answer::oauth_error(refusal.0, refusal.1))?;
    bearer(world, &client.client_id, &client.username, &client.scopes)
}

/// The apps with the certificates that count now.
fn jwt_clients(world: &World) -> Vec<JwtClient> {
    let mut clients = world.settings.jwt_clients.clone();
    for (client_id, key) in &world.grants().certificates {
        for client in clients.iter_mut().filter(|client| client.client_id == *client_id) {
            client.key = key.clone();
        }
    }
    clients
}

/// The app with the secret that counts now.
fn secret_client(world: &World, client_id: &str) -> Option<SecretClient> {
    let mut client = world
        .settings
        .secret_clients
        .iter()
        .find(|c| c.client_id == client_id)?
        .clone();
    for (_, secret) in world.grants().secrets.iter().filter(|(id, _)| id == client_id) {
        client.secret = secret.clone();
    }
    Some(client)
}

/// What an assertion may be meant for.
fn audiences(world: &World) -> Vec<String> {
    let mut audiences = world.settings.audiences.clone();
    audiences.extend([world.urls.base.clone(), world.urls.login.clone()]);
    audiences.extend(world.urls.second.clone());
    audiences
}

/// What a good assertion, JWT or SAML, is granted.
fn bearer(world: &World, client_id: &str, username: &str, scopes: &[String]) -> Result<Answer, Answer> {
    if !world.faults().approved {
        let (error, text) = assertion::NOT_APPROVED;
        return Err(Answer::oauth_error(error, text));
    }
    if !scopes.iter().any(|scope| is_refresh(scope)) || scopes.len() < 2 {
        return Err(Answer::oauth_error(
            "invalid_request",
            "The JWT bearer and SAML assertion bearer flows require a refresh_token scope.",
        ));
    }
    let login = Login {
        client_id,
        username,
        scopes,
        approval: None,
        password: false,
    };
    Ok(Answer::json(200, mint(world, login)?.answer))
}

fn client_credentials(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    only_on_my_domain(headers)?;
    let (client_id, secret) = client::pair(headers, form)?;
    let Some(client) = secret_client(world, &client_id) else {
        return Err(client::unknown());
    };
    if client.secret.expose_secret() != secret {
        return Err(client::wrong());
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
    let login = Login {
        client_id: &client.client_id,
        username: run_as,
        scopes: &scopes,
        approval: None,
        password: false,
    };
    let mut answer = mint(world, login)?.signed(world, client.secret.expose_secret());
    answer["api_instance_url"] = json!("https://api.salesforce.com");
    Ok(Answer::json(200, answer))
}

fn only_on_my_domain(headers: &HeaderMap) -> Result<(), Answer> {
    let host = headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or("");
    let name = host.split(':').next().unwrap_or("").to_ascii_lowercase();
    let generic = ["login.salesforce.com", "test.salesforce.com"].contains(&name.as_str());
    if generic || name.ends_with(".salesforce-setup.com") {
        return Err(Answer::oauth_error(
            "invalid_grant",
            "request not supported on this domain",
        ));
    }
    Ok(())
}

fn missing(name: &str) -> Answer {
    Answer::oauth_error("invalid_request", &format!("missing required parameter: {name}"))
}

/// The first value of that name that is not empty.
pub(crate) fn field<'a>(form: &'a Form, name: &str) -> Option<&'a str> {
    let found = form.iter().find(|(n, v)| n == name && !v.is_empty())?;
    Some(&found.1)
}
