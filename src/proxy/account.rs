//! Whose token a call carries, and what is asked when an answer leaves open whether that token lives.
//!
//! Owns: one identity's handle and its prober. A user's account also keeps that user's keeper running: it ends with the
//! last call that holds the account, once the account was let go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::DropGuard;

use super::{
    probe::{Finding, Prober},
    upstream::Upstream,
    verdict::{
        BULK_INVALID_SESSION, RPC_UNAUTHENTICATED, SOAP_INVALID_SESSION, UNAUTHORIZED_HEAD, UNAUTHORIZED_UNREAD,
    },
};
use crate::token::{Token, Tokens};

/// An upload that cannot be repeated goes out only with a token that was seen working within this time.
const SURE_FOR: Duration = Duration::from_secs(60);

/// What follows when a repeat was refused too.
pub enum Next {
    /// The refusal is the caller's.
    PassOn,
    /// The call goes again, with this one.
    Token(Arc<Token>),
    /// The refused one is dead; the call goes again with the next.
    Renew,
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One identity as calls see it.
pub struct Account {
    /// No other account of this process has or had it.
    pub number: u64,
    pub tokens: Tokens,
    /// `None`: there is no cheap call to ask with.
    prober: Option<Prober>,
    _keeper: Option<DropGuard>,
}

impl Account {
    /// An identity of the org's own API.
    pub fn of_org(tokens: Tokens) -> Self {
        Self {
            number: next_number(),
            tokens,
            prober: Some(Prober::default()),
            _keeper: None,
        }
    }

    /// An identity elsewhere: Data Cloud, another cloud.
    pub fn elsewhere(tokens: Tokens) -> Self {
        Self {
            number: next_number(),
            tokens,
            prober: None,
            _keeper: None,
        }
    }

    /// One of many users; `keeper` ends the user's keeper.
    pub fn of_user(tokens: Tokens, elsewhere: bool, keeper: DropGuard) -> Self {
        let account = match elsewhere {
            true => Self::elsewhere(tokens),
            false => Self::of_org(tokens),
        };
        Self {
            _keeper: Some(keeper),
            ..account
        }
    }

    async fn ask(&self, upstream: &Upstream, token: &Token) -> Finding {
        match &self.prober {
            Some(prober) => prober.ask(upstream, token).await,
            None => Finding::Unknown,
        }
    }

    /// A renewed token was refused too. `None`: pass that on. A token that nobody has seen working ends the story (an
    /// org that refuses everything costs one repeat a call), unless another process minted it: that one may have died
    /// before it was looked at here. One that has worked may have died since, also when others are at home with the next
    /// one already.
    pub async fn after_a_second_refusal(&self, upstream: &Upstream, refused: &Token) -> Next {
        // In a cool-down it is the string that was refused before: a login would bring it again.
        if refused.adopted && !self.tokens.cooling_down() {
            return Next::Renew;
        }
        if !self.tokens.worked_since(refused.generation) {
            return Next::PassOn;
        }
        if let Some(newer) = self.tokens.current()
            && newer.generation > refused.generation
        {
            return Next::Token(newer);
        }
        match self.ask(upstream, refused).await {
            Finding::Dead => Next::Renew,
            Finding::Alive | Finding::Unknown => Next::PassOn,
        }
    }

    /// A 401 to `HEAD` does not tell which it is (SF §4.1), nor does one that cannot be read, or gRPC's status alone; and a token in
    /// JWT format is none to SOAP and Bulk API 1.0 however alive it is (SF §3.6, §10). One that the org takes elsewhere is not withdrawn
    /// for it.
    pub async fn only_this_resource(&self, upstream: &Upstream, refused: &Token, reason: &str) -> bool {
        match reason {
            // Only who is told that it is dead has a dead token. Where there is nobody to ask, the refusal counts.
            UNAUTHORIZED_HEAD | UNAUTHORIZED_UNREAD | RPC_UNAUTHENTICATED if self.prober.is_some() => {
                self.ask(upstream, refused).await != Finding::Dead
            }
            SOAP_INVALID_SESSION | BULK_INVALID_SESSION if refused.is_jwt() => {
                self.ask(upstream, refused).await == Finding::Alive
            }
            _ => false,
        }
    }

    /// An answer said that this token is dead, and was passed on. It is withdrawn if the org says so too.
    pub async fn suspect(&self, upstream: &Upstream, token: &Token) {
        let newest = self
            .tokens
            .current()
            .is_some_and(|now| now.generation == token.generation);
        if let Some(prober) = self.prober.as_ref().filter(|_| newest)
            && prober.ask_lately(upstream, token).await == Finding::Dead
        {
            self.tokens.reject(token.generation);
        }
    }

    /// Whether the org takes this token: by its own word now, or by what was seen lately.
    pub async fn is_alive(&self, upstream: &Upstream, token: &Token) -> bool {
        self.seen_lately(token) || self.ask(upstream, token).await == Finding::Alive
    }

    fn seen_lately(&self, token: &Token) -> bool {
        let seen = self.tokens.seen_working(token.generation);
        seen.is_some_and(|ago| ago < SURE_FOR)
    }

    /// A token that was seen working lately, for a call that cannot be repeated.
    pub async fn works(&self, upstream: &Upstream, token: &Token) -> bool {
        if self.seen_lately(token) {
            return true;
        }
        match self.ask(upstream, token).await {
            Finding::Alive => {
                self.tokens.worked(token.generation);
                true
            }
            Finding::Unknown => true,
            Finding::Dead => false,
        }
    }
}
