//! The siblings of the token endpoint: revoke, introspect, userinfo, identity, keys, discovery, and the way to the two pages.
//!
//! Owns: nothing. Invariants: a bad token is 403 with the text `Bad_OAuth_Token`, not 401; asking here is no use of the session.
//! Units: introspection's times are seconds since 1970. Fails with: an [`Answer`].
//! Source: SF §3.5, §1.1.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::KeyPair as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};

use super::{
    answer::Answer,
    approvals::Standing,
    grant::{Form, authorize, client, device, field, mint::KEY_ID},
    key::rsa_numbers,
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
        "/services/oauth2/authorize" => authorize::answer(world, method, query, body),
        "/setup/connect" => device::connect(world, method, query, body),
        "/id/keys" => keys(world),
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
    let Some(token) = token else {
        return Answer::oauth_error("invalid_request", "missing required parameter: token");
    };
    let mut grants = world.grants();
    // A spent one is not known any more; that asking for this is no misuse is not confirmed.
    let known = match grants.approvals.standing(token) {
        Standing::Living(id) => {
            world.sessions().end_approval(id);
            grants.approvals.revoke(id)
        }
        _ => world.sessions().revoke(token, world.now()),
    };
    if known {
        Answer::empty(200)
    } else {
        Answer::oauth_error("invalid_token", "invalid token")
    }
}

fn introspect(world: &World, headers: &HeaderMap, form: &Form) -> Answer {
    let (client_id, secret) = match client::pair(headers, form) {
        Ok(pair) => pair,
        Err(refusal) => return refusal,
    };
    if !client::has_secret(&world.settings, &client_id, &secret) {
        return client::wrong();
    }
    // An app sees its own tokens only. The hint is only a hint: not confirmed.
    let token = field(form, "token").unwrap_or("");
    let found = access_token(world, token, &client_id).or_else(|| refresh_token(world, token, &client_id));
    Answer::json(200, found.unwrap_or_else(|| json!({"active": false})))
}

fn access_token(world: &World, token: &str, client_id: &str) -> Option<Value> {
    let sessions = world.sessions();
    let session = sessions.peek(token, world.now())?;
    // Valid tokens of the password flow are inactive here (SF §3.5).
    if session.client_id != client_id || session.password {
        return None;
    }
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Some(json!({
        "active": true,
        "scope": session.scope,
        "client_id": session.client_id,
        "username": session.username,
        "sub": identity_url(world, &session.username),
        "token_type": "access_token",
        "exp": seconds(session.expires),
        "iat": seconds(session.issued),
        "nbf": seconds(session.issued),
    }))
}

/// Without times: a refresh token here has no end (which fields real ones have is not confirmed). Asking about a spent one presents nothing.
fn refresh_token(world: &World, token: &str, client_id: &str) -> Option<Value> {
    let grants = world.grants();
    let Standing::Living(id) = grants.approvals.standing(token) else {
        return None;
    };
    let approval = grants.approvals.get(id).filter(|a| a.client_id == client_id)?;
    Some(json!({
        "active": true,
        "scope": approval.scopes.join(" "),
        "client_id": approval.client_id,
        "username": approval.username,
        "sub": identity_url(world, &approval.username),
        "token_type": "refresh_token",
    }))
}

/// The public half of the org's key, as a JWKS.
fn keys(world: &World) -> Answer {
    let (modulus, exponent) = rsa_numbers(world.org_key().public_key().as_ref());
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key =
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": KEY_ID, "n": part(modulus), "e": part(exponent)});
    Answer::json(200, json!({"keys": [key]}))
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
