//! The handle that makes the org misbehave, and shows what it saw.
//!
//! Owns: nothing; it is a view of the org, cheap to clone and usable from any thread.
//! Invariants: each method is done when it returns. Units: `Duration`. Fails with: nothing.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use secrecy::SecretString;

use super::{
    faults::{ApiFault, Faults, TokenFault},
    key::{KeyError, PublicKey},
    record::{Recorded, Stats},
    settings::Latency,
    world::{Door, ORG_ID, World},
};

#[derive(Clone)]
pub struct Control(pub(crate) Arc<World>);

impl Control {
    /// `https://localhost:PORT`: where the API is, and the login unless that has a host of its own.
    pub fn base_url(&self) -> &str {
        &self.0.urls.base
    }

    /// Where tokens are minted.
    pub fn login_url(&self) -> &str {
        &self.0.urls.login
    }

    /// The instance the org can move to, if the settings asked for one.
    pub fn second_url(&self) -> Option<&str> {
        self.0.urls.second.as_deref()
    }

    /// Data Cloud's host, with its scheme, if the settings asked for one.
    pub fn tenant_url(&self) -> Option<&str> {
        self.0.urls.tenant.as_deref()
    }

    /// The Pub/Sub API's host, with its scheme, if the settings asked for one.
    pub fn pubsub_url(&self) -> Option<&str> {
        self.0.urls.pubsub.as_deref()
    }

    /// The control API, plain HTTP.
    pub fn control_url(&self) -> &str {
        &self.0.urls.control
    }

    /// 18 characters.
    pub fn org_id(&self) -> &'static str {
        ORG_ID
    }

    /// Ends all sessions; says how many lived.
    pub fn revoke(&self) -> usize {
        self.0.sessions().revoke_all(self.0.now())
    }

    pub fn fail_token(&self, fault: TokenFault) {
        self.0.faults().token = Some(fault);
    }

    /// Added to the faults already set.
    pub fn fail_api(&self, fault: ApiFault) {
        self.0.faults().api.push(fault);
    }

    pub fn set_latency(&self, latency: Latency) {
        self.0.faults().latency = latency;
    }

    /// Cuts every open connection, or those without a request in flight; says how many.
    pub fn cut(&self, idle_only: bool) -> usize {
        self.0.connections.cut(idle_only)
    }

    /// Connections to what is down are closed without an answer.
    pub fn down(&self, token: bool, api: bool) {
        let mut faults = self.0.faults();
        (faults.token_down, faults.api_down) = (token, api);
    }

    /// Whether the users are pre-authorised for the apps.
    pub fn approve(&self, approved: bool) {
        self.0.faults().approved = approved;
    }

    /// Whether a mint gives the living session's token again.
    pub fn remint(&self, same: bool) {
        self.0.faults().same_on_remint = same;
    }

    /// Moves the org to its second instance, or back.
    pub fn move_instance(&self, to_second: bool) {
        self.0.faults().moved = to_second && self.0.urls.second.is_some();
    }

    /// Makes the org's clock run ahead.
    pub fn advance(&self, by: Duration) {
        self.0.advance(by);
    }

    /// Revokes all refresh tokens and the access tokens made from them; says how many refresh tokens lived.
    pub fn revoke_refresh_tokens(&self) -> usize {
        let mut grants = self.0.grants();
        let living = grants.approvals.living();
        for id in &living {
            grants.approvals.revoke(*id);
            self.0.sessions().end_approval(*id);
        }
        living.len()
    }

    /// Spends all refresh tokens, as if somebody else had refreshed with rotation and kept the new ones; says how many.
    pub fn spend(&self) -> usize {
        let mut grants = self.0.grants();
        let living = grants.approvals.living();
        living
            .iter()
            .filter(|id| grants.approvals.rotate(**id).is_some())
            .count()
    }

    /// Rotation of refresh tokens for all apps, whatever their settings say.
    pub fn set_rotation(&self, on: bool) {
        self.0.faults().rotation = Some(on);
    }

    /// Whether the org allows the username-password flow.
    pub fn password_flow(&self, on: bool) {
        self.0.faults().password_flow = on;
    }

    /// The next `count` token calls that are granted end without an answer: the org has done them, the caller never knows.
    pub fn lose_token_answers(&self, count: u32) {
        self.0.faults().lost_answers = count;
    }

    /// Every token call is done at once and answered so much later: a caller that gives up meanwhile has its refresh token rotated all the same.
    /// [`Latency::token`] is the other case, where the org has not begun.
    pub fn delay_token_answers(&self, by: Duration) {
        self.0.faults().token_answer_delay = by;
    }

    /// Ends all Data Cloud tokens; says how many lived. Core sessions stay.
    pub fn expire_dc(&self) -> usize {
        self.0.dc_tokens().expire_all(self.0.now())
    }

    /// GOAWAY on every open connection at the Pub/Sub host; says how many. Open streams go on, new ones need a new connection.
    pub fn pubsub_goaway(&self) -> usize {
        self.0.connections.goaway(Door::PubSub)
    }

    /// The next `count` streams at the Pub/Sub host end with REFUSED_STREAM: nothing of them was done.
    pub fn refuse_streams(&self, count: u32) {
        self.0.faults().refused_streams = count;
    }

    /// A person's answer at `/setup/connect`; says whether a device waited for it.
    pub fn approve_device(&self, user_code: &str, allow: bool) -> bool {
        self.0.grants().devices.decide(user_code, allow, self.0.now())
    }

    /// Registers one more callback for a web app; for callers whose port is known only when they run.
    pub fn register_callback(&self, client_id: &str, uri: &str) {
        let callback = (client_id.to_owned(), uri.to_owned());
        self.0.grants().callbacks.push(callback);
    }

    /// Replaces the certificate uploaded for a JWT app, as an admin does: the key before is refused from now on, sessions stay.
    pub fn upload_certificate(&self, client_id: &str, pem: &str) -> Result<(), KeyError> {
        let certificate = (client_id.to_owned(), PublicKey::from_certificate_pem(pem)?);
        self.0.grants().certificates.push(certificate);
        Ok(())
    }

    /// Replaces the consumer secret of an app with the client credentials flow: the one before is refused from now on, sessions stay.
    pub fn rotate_secret(&self, client_id: &str, secret: SecretString) {
        let secret = (client_id.to_owned(), secret);
        self.0.grants().secrets.push(secret);
    }

    /// Switches, counters and recorded requests as at the start; sessions, refresh tokens, callbacks, certificates, secrets and rows stay.
    pub fn reset(&self) {
        *self.0.faults() = Faults::new(&self.0.settings);
        self.0.counters.reset();
        self.0.recorder.clear();
    }

    pub fn stats(&self) -> Stats {
        let living = self.0.sessions().living(self.0.now());
        self.0.counters.stats(self.0.connections.count(), living)
    }

    /// The last requests, oldest first; token calls are not among them.
    pub fn requests(&self, last: usize) -> Vec<Recorded> {
        self.0.recorder.last(last)
    }

    /// Whether `token` is a living session; asking is no use of it.
    pub fn knows(&self, token: &str) -> bool {
        self.0.sessions().peek(token, self.0.now()).is_some()
    }

    /// API calls counted against the day's limit.
    pub fn api_usage(&self) -> u64 {
        self.0.counters.api_usage.load(Relaxed)
    }
}
