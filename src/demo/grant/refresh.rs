//! The refresh grant: a new access token for a refresh token, with rotation or without.
//!
//! Owns: [`Claim`], one refresh token being answered.
//! Invariants: one refresh token is answered once at a time; a refresh token is spent in the same moment as its successor is made; presenting
//! a spent one ends the approval and its access tokens, and is counted.
//! Fails with: an [`Answer`] from SF §2.
//! Source: SF §1.4.3, §1.5.

use std::sync::atomic::Ordering::Relaxed;

use hyper::HeaderMap;
use serde_json::json;

use super::{
    Form,
    client::{self, Need},
    field,
    mint::{Login, mint},
    missing,
};
use crate::demo::{answer::Answer, approvals::Standing, world::World};

/// Says that one refresh token is being answered, while it lives.
pub(crate) struct Claim<'a> {
    world: &'a World,
    token: String,
}

impl<'a> Claim<'a> {
    /// `None` when the call is no refresh.
    pub(super) fn of(world: &'a World, form: &Form) -> Result<Option<Self>, Answer> {
        let (Some("refresh_token"), Some(token)) = (field(form, "grant_type"), field(form, "refresh_token")) else {
            return Ok(None);
        };
        if !world.grants().approvals.begin(token) {
            world.counters.refused_parallel.fetch_add(1, Relaxed);
            return Err(Answer::oauth_error(
                "invalid_grant",
                "token request is already being processed",
            ));
        }
        Ok(Some(Self {
            world,
            token: token.to_owned(),
        }))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.world.grants().approvals.answered(&self.token);
    }
}

/// A `scope` parameter is not looked at: whether it can narrow is not confirmed.
pub(super) fn answer(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    let app = client::authenticate(world, headers, form, Need::Refresh)?;
    let Some(token) = field(form, "refresh_token") else {
        return Err(missing("refresh_token"));
    };
    let dead = || Answer::oauth_error("invalid_grant", "expired access/refresh token");
    let mut grants = world.grants();
    let standing = grants.approvals.standing(token);
    let approval = match standing {
        Standing::Unknown => return Err(dead()),
        Standing::Living(id) | Standing::Spent(id) => grants.approvals.get(id).ok_or_else(dead)?,
    };
    // Another app's: not confirmed what becomes of it; nothing here.
    if approval.client_id != app.client_id {
        return Err(dead());
    }
    let (id, username, scopes) = (approval.id, approval.username.clone(), approval.scopes.clone());
    if let Standing::Spent(_) = standing {
        world.counters.spent_refresh.fetch_add(1, Relaxed);
        grants.approvals.revoke(id);
        world.sessions().end_approval(id);
        return Err(dead());
    }
    // Refused for the rate, nothing is spent (not confirmed).
    let mut minted = mint(
        world,
        Login {
            client_id: app.client_id,
            username: &username,
            scopes: &scopes,
            approval: Some(id),
            password: false,
        },
    )?;
    let rotates = world.faults().rotation.unwrap_or(app.rotation);
    if rotates && let Some(token) = grants.approvals.rotate(id) {
        minted.answer["refresh_token"] = json!(token);
    }
    Ok(Answer::json(200, minted.signed(world, app.secret())))
}
