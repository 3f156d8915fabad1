//! Authorization codes: made by the consent page, turned into tokens once.
//!
//! Owns: the codes. Invariants: a code is bound to its app, its callback and its challenge; the first exchange that the app itself asks for
//! uses it up, whatever becomes of it (not confirmed; the harder case).
//! Units: 15 minutes of the org's clock. Fails with: an [`Answer`] from SF §2.
//! Source: SF §1.4.4, §2; RFC 7636 section 4.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::HeaderMap;

use super::{
    Form,
    client::{self, Need},
    field, mint, missing,
};
use crate::demo::{answer::Answer, settings::letters, world::World};

/// What was approved.
#[derive(Debug, Clone)]
pub(super) struct Consent {
    pub(super) client_id: String,
    pub(super) username: String,
    pub(super) redirect_uri: String,
    pub(super) scopes: Vec<String>,
    pub(super) challenge: Option<String>,
}

#[derive(Debug)]
struct Code {
    code: String,
    consent: Consent,
    made: SystemTime,
    used: bool,
    approval: Option<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Codes(Vec<Code>);

const LIFE: Duration = Duration::from_secs(15 * 60);
const KEPT: usize = 10_000;

impl Codes {
    /// With `==` at its end, as Salesforce's have, so that a client has to decode it.
    pub(super) fn make(&mut self, consent: Consent, now: SystemTime) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._";
        let code = format!("aPrx{}==", letters(80, ALPHABET));
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push(Code {
            code: code.clone(),
            consent,
            made: now,
            used: false,
            approval: None,
        });
        code
    }
}

pub(super) fn answer(world: &World, headers: &HeaderMap, form: &Form) -> Result<Answer, Answer> {
    let app = client::authenticate(world, headers, form, Need::Web)?;
    let code = field(form, "code").ok_or_else(|| missing("code"))?;
    let redirect_uri = field(form, "redirect_uri").ok_or_else(|| missing("redirect_uri"))?;
    let consent = take(world, code, app.client_id)?;
    if consent.redirect_uri != redirect_uri {
        return Err(Answer::oauth_error(
            "redirect_uri_mismatch",
            "redirect uri does not match configuration",
        ));
    }
    check_verifier(consent.challenge.as_deref(), field(form, "code_verifier"))?;
    let given = mint::approved(world, &app, &consent.username, &consent.scopes)?;
    let mut grants = world.grants();
    if let Some(used) = grants.codes.0.iter_mut().find(|known| known.code == code) {
        used.approval = given.approval;
    }
    Ok(Answer::json(200, given.minted.signed(world, app.secret())))
}

fn take(world: &World, code: &str, client_id: &str) -> Result<Consent, Answer> {
    let mut grants = world.grants();
    let found = grants.codes.0.iter_mut().find(|known| known.code == code);
    let Some(found) = found.filter(|known| known.consent.client_id == client_id) else {
        return Err(Answer::oauth_error("invalid_grant", "invalid authorization code"));
    };
    let expired = || Answer::oauth_error("invalid_grant", "expired authorization code");
    if found.used {
        // RFC 6749 §4.1.2 says SHOULD; whether Salesforce does is not confirmed.
        if let Some(approval) = found.approval {
            grants.approvals.revoke(approval);
            world.sessions().end_approval(approval);
        }
        return Err(expired());
    }
    found.used = true;
    if world.now() >= found.made + LIFE {
        return Err(expired());
    }
    Ok(found.consent.clone())
}

/// The kinds are Salesforce's (SF §1.4.4); the texts are not confirmed.
fn check_verifier(challenge: Option<&str>, verifier: Option<&str>) -> Result<(), Answer> {
    let wrong = || Err(Answer::oauth_error("invalid_request", "invalid code verifier"));
    match (challenge, verifier) {
        (None, None) => Ok(()),
        (Some(_), None) => Err(Answer::oauth_error("invalid_grant", "missing code verifier")),
        // A verifier that nobody asked for: not confirmed; refused, lest a stolen request go through without its challenge.
        (None, Some(_)) => wrong(),
        (Some(challenge), Some(verifier)) => {
            let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
            let right = (43..=128).contains(&verifier.len()) && hash == challenge;
            if right { Ok(()) } else { wrong() }
        }
    }
}
