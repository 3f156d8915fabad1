//! The siblings of the token endpoint: revoke, introspect, userinfo, identity, discovery.
//!
//! Owns: nothing. Invariants: a bad token is 403 with the text `Bad_OAuth_Token`, not 401; asking here is no use of the session.
//! Units: introspection's times are seconds since 1970. Fails with: an [`Answer`].
//! Source: SF §3.5, §1.1.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::{HeaderMap, Method};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{
    answer::Answer,
    grant::{client_pair, field},
    session::Session,
    store::user_id,
    world::{ORG_ID, World},
};

/// The answer, if the path is one of these.
pub(crate) fn answer(
    world: &World,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<Answer> {
    let parse = |bytes: &[u8]| url::form_urlencoded::parse(bytes).into_owned().collect::<Vec<_>>();
    let answer = match path {
        "/services/oauth2/revoke" => {
            let form = if method == Method::GET {
                parse(query.as_bytes())
            } else {
                parse(body)
            };
            revoke(world, field(&form, "token"))
        }
        "/services/oauth2/introspect" if method == Method::POST => introspect(world, headers, &parse(body)),
        "/services/oauth2/introspect" => Answer::oauth_error("invalid_request", "must use HTTP POST"),
        "/services/oauth2/userinfo" => document(world, headers, None),
        "/.well-known/openid-configuration" => discovery(world),
        _ => {
            let ids = path.strip_prefix("/id/")?;
            document(world, headers, Some(ids))
        }
    };
    Some(answer)
}

fn revoke(world: &World, token: Option<&str>) -> Answer {
    match token {
        None => Answer::oauth_error("invalid_request", "missing required parameter: token"),
        Some(token) if world.sessions().revoke(token, world.now()) => Answer::empty(200),
        Some(_) => Answer::oauth_error("invalid_token", "invalid token"),
    }
}

fn introspect(world: &World, headers: &HeaderMap, form: &Vec<(String, String)>) -> Answer {
    let (client_id, secret) = match client_pair(headers, form) {
        Ok(pair) => pair,
        Err(refusal) => return refusal,
    };
    let known = |client: &&super::settings::SecretClient| {
        client.client_id == client_id && client.secret.expose_secret() == secret
    };
    if world.settings.secret_clients.iter().find(known).is_none() {
        return Answer::oauth_error("invalid_client", "invalid client credentials");
    }
    let now = world.now();
    let sessions = world.sessions();
    let session = field(form, "token").and_then(|token| sessions.peek(token, now));
    // An app sees its own tokens only.
    let Some(session) = session.filter(|s| s.client_id == client_id) else {
        return Answer::json(200, json!({"active": false}));
    };
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Answer::json(
        200,
        json!({
            "active": true,
            "scope": session.scope,
            "client_id": session.client_id,
            "username": session.username,
            "sub": identity_url(world, &session.username),
            "token_type": "access_token",
            "exp": seconds(session.expires),
            "iat": seconds(session.issued),
            "nbf": seconds(session.issued),
        }),
    )
}

/// Userinfo, or the identity document of `ids` (`ORG/USER`).
fn document(world: &World, headers: &HeaderMap, ids: Option<&str>) -> Answer {
    let bad = || Answer::text(403, "text/html;charset=UTF-8", "Bad_OAuth_Token");
    let Some(token) = bearer(headers) else {
        return bad();
    };
    let now = world.now();
    let session: Session = match world.sessions().peek(token, now) {
        Some(session) => session.clone(),
        None => return bad(),
    };
    let user = user_id(&session.username);
    match ids {
        None => Answer::json(200, userinfo(world, &session.username, &user)),
        Some(ids) if ids == format!("{ORG_ID}/{user}") => Answer::json(200, identity(world, &session.username, &user)),
        Some(_) => Answer::text(403, "text/html;charset=UTF-8", "Wrong_Org"),
    }
}

fn userinfo(world: &World, username: &str, user: &str) -> Value {
    json!({
        "sub": identity_url(world, username),
        "user_id": user,
        "organization_id": ORG_ID,
        "preferred_username": username,
        "nickname": "practice",
        "name": "Practice User",
        "email": username,
        "email_verified": true,
        "given_name": "Practice",
        "family_name": "User",
        "zoneinfo": "Europe/Berlin",
        "user_type": "STANDARD",
        "language": "en_US",
        "locale": "en_US",
        "utcOffset": 3_600_000,
        "active": true,
        "urls": urls(world),
    })
}

fn identity(world: &World, username: &str, user: &str) -> Value {
    json!({
        "id": identity_url(world, username),
        "asserted_user": true,
        "user_id": user,
        "organization_id": ORG_ID,
        "username": username,
        "nick_name": "practice",
        "display_name": "Practice User",
        "email": username,
        "active": true,
        "user_type": "STANDARD",
        "urls": urls(world),
    })
}

/// Absolute, as Salesforce's are (SF §5.1).
fn urls(world: &World) -> Value {
    let base = world.instance_url();
    json!({
        "rest": format!("{base}/services/data/v{{version}}/"),
        "sobjects": format!("{base}/services/data/v{{version}}/sobjects/"),
        "query": format!("{base}/services/data/v{{version}}/query/"),
        "partner": format!("{base}/services/Soap/u/{{version}}/{ORG_ID}"),
        "custom_domain": base,
    })
}

fn discovery(world: &World) -> Answer {
    let login = &world.urls.login;
    let at = |name: &str| format!("{login}/services/oauth2/{name}");
    Answer::json(
        200,
        json!({
            "issuer": login,
            "authorization_endpoint": at("authorize"),
            "token_endpoint": at("token"),
            "revocation_endpoint": at("revoke"),
            "userinfo_endpoint": at("userinfo"),
            "introspection_endpoint": at("introspect"),
            "jwks_uri": format!("{login}/id/keys"),
            "registration_endpoint": at("register"),
            "response_types_supported": ["code", "token", "token id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", "private_key_jwt"],
        }),
    )
}

fn identity_url(world: &World, username: &str) -> String {
    format!("{}/id/{ORG_ID}/{}", world.urls.login, user_id(username))
}

/// The token of `Bearer T` or `OAuth T`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    let known = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("oauth");
    (known && !token.is_empty()).then_some(token)
}
