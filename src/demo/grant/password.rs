//! The username-password grant.
//!
//! Owns: nothing. Invariants: every wrong thing about the user is the same `authentication failure`, as is a flow that is switched off; the
//! answer has neither scopes nor a refresh token; its token cannot be introspected.
//! Fails with: an [`Answer`] from SF §2.
//! Source: SF §1.4.5.

use hyper::HeaderMap;
use secrecy::ExposeSecret as _;

use super::{
    Form, client, field,
    mint::{Login, mint},
    missing,
};
use crate::demo::{answer::Answer, world::World};

pub(super) fn answer(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    let (client_id, secret) = client::pair(headers, form)?;
    let users = &world.settings.password_users;
    let app = users.iter().find(|user| user.client_id == client_id);
    let app = app.ok_or_else(client::unknown)?;
    if app.secret.expose_secret() != secret {
        return Err(client::wrong());
    }
    let username = field(form, "username").ok_or_else(|| missing("username"))?;
    let password = field(form, "password").ok_or_else(|| missing("password"))?;
    let user = users.iter().find(|user| {
        let whole = [&user.password, &user.security_token].map(|part| part.expose_secret());
        user.client_id == client_id && user.username == username && whole.concat() == password
    });
    let Some(user) = user.filter(|_| world.faults().password_flow) else {
        return Err(Answer::oauth_error("invalid_grant", "authentication failure"));
    };
    let login = Login {
        client_id: &client_id,
        username,
        scopes: &user.scopes,
        approval: None,
        password: true,
    };
    let mut answer = mint(world, login)?.signed(world, &secret);
    if let Some(fields) = answer.as_object_mut() {
        // "No scopes" (SF §1.4.5) against "documented in every flow" (§1.3): the harder case.
        fields.remove("scope");
    }
    Ok(Answer::json(200, answer))
}
