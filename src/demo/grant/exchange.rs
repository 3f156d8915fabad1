//! Token exchange: a token of another identity provider for one of ours.
//!
//! Owns: which single-use subject tokens are used. Invariants: the handler of the org, not the caller, says who the user is.
//! Units: a subject token has at most 10,000 characters. Fails with: an [`Answer`] from SF §2; the texts are not confirmed.
//! Source: SF §1.4.7.

use std::collections::HashSet;

use hyper::HeaderMap;
use secrecy::ExposeSecret as _;

use super::{
    Form,
    client::{self, Need},
    field, mint, missing, only_on_my_domain,
};
use crate::demo::{answer::Answer, world::World};

#[derive(Debug, Default)]
pub(crate) struct Used(HashSet<String>);

const MOST: usize = 10_000;
const URN: &str = "urn:ietf:params:oauth:token-type:";
const KINDS: [&str; 5] = ["access_token", "refresh_token", "id_token", "saml2", "jwt"];

pub(super) fn answer(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    only_on_my_domain(headers)?;
    let app = client::authenticate(world, headers, form, Need::Web)?;
    let exchanges = &world.settings.exchange_apps;
    let Some(allowed) = exchanges.iter().find(|a| a.client_id == app.client_id) else {
        return Err(Answer::oauth_error(
            "unauthorized_client",
            "token exchange flow not enabled",
        ));
    };
    let bad = |text| Err(Answer::oauth_error("invalid_request", text));
    let token = field(form, "subject_token").ok_or_else(|| missing("subject_token"))?;
    let kind = field(form, "subject_token_type").ok_or_else(|| missing("subject_token_type"))?;
    if token.chars().count() > MOST {
        return bad("subject_token is too long");
    }
    let Some(kind) = kind.strip_prefix(URN).filter(|kind| KINDS.contains(kind)) else {
        return bad("invalid subject_token_type");
    };
    if field(form, "token_handler").is_some_and(|handler| handler != allowed.handler) {
        return bad("invalid token_handler");
    }
    let scopes: Vec<String> = match field(form, "scope") {
        None => allowed.scopes.clone(),
        Some(scope) => scope.split_whitespace().map(str::to_owned).collect(),
    };
    if !scopes.iter().all(|scope| allowed.scopes.contains(scope)) {
        return Err(Answer::oauth_error(
            "invalid_scope",
            "the requested scope is not allowed",
        ));
    }
    let mut subjects = allowed.subjects.iter();
    let subject = subjects.find(|s| s.token.expose_secret() == token && s.kind == kind);
    let refused = || Answer::oauth_error("invalid_grant", "invalid subject token");
    let subject = subject.ok_or_else(refused)?;
    // Used up also if the login is then refused: not confirmed; the harder case.
    if subject.single_use && !world.grants().used_subjects.0.insert(token.to_owned()) {
        return Err(refused());
    }
    let given = mint::approved(world, &app, &subject.username, &scopes)?;
    Ok(Answer::json(200, given.minted.signed(world, app.secret())))
}
