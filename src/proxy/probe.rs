//! Is a token alive, when an answer leaves it open?
//!
//! Two callers ask: an upload that could not be repeated, before it is sent; and a call that was refused twice although
//! other calls were taken, where the answer decides between "the token died again" and "this call is not allowed".
//!
//! Owns: the last finding, so that many who ask at once cost one call of the org's budget.
//! Source: SF §6, the cheapest authenticated call.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, uri::PathAndQuery};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    body::Upload,
    surface::Surface,
    upstream::{Head, Upstream},
    verdict::{INSPECT_BYTES, Verdict, verdict},
};
use crate::token::{Generation, Token, exchange::CHEAPEST_CALL};

/// For who can wait.
const LATELY: Duration = Duration::from_secs(5);
/// A probe that takes longer tells nothing.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Alive,
    Dead,
    /// The org did not say.
    Unknown,
}

#[derive(Default)]
pub struct Prober {
    /// With the time at which the probe began.
    last: Mutex<Option<(Generation, Finding, Instant)>>,
}

impl Prober {
    /// Asks the org whether the token lives now. The lock is held across the call on purpose: others who ask meanwhile
    /// wait for it, and one probe then answers for all who wait. "Alive" counts only for those who asked before it began.
    pub async fn ask(&self, upstream: &Upstream, token: &Token) -> Finding {
        self.ask_since(Instant::now(), upstream, token).await
    }

    /// As [`Prober::ask`], content with an "alive" from the last moments: for who can wait, and would else ask with every
    /// message of a client that is told 401 for reasons of its own.
    pub async fn ask_lately(&self, upstream: &Upstream, token: &Token) -> Finding {
        let now = Instant::now();
        self.ask_since(now.checked_sub(LATELY).unwrap_or(now), upstream, token)
            .await
    }

    async fn ask_since(&self, asked: Instant, upstream: &Upstream, token: &Token) -> Finding {
        let mut last = self.last.lock().await;
        if let Some((generation, finding, began)) = *last
            && generation == token.generation
            && (finding == Finding::Dead || began >= asked)
        {
            return finding;
        }
        let began = Instant::now();
        let finding = timeout(PATIENCE, probe(upstream, token))
            .await
            .unwrap_or(Finding::Unknown);
        *last = Some((token.generation, finding, began));
        finding
    }
}

async fn probe(upstream: &Upstream, token: &Token) -> Finding {
    let head = Head {
        surface: Surface::Rest,
        method: Method::GET,
        target: PathAndQuery::from_static(CHEAPEST_CALL),
        headers: HeaderMap::new(),
        edits: Vec::new(),
    };
    let Ok(answer) = upstream.send(token, &head, &Upload::none()).await else {
        return Finding::Unknown;
    };
    let (parts, mut body) = answer.response.into_parts();
    let seen = body.look_ahead(INSPECT_BYTES, PATIENCE).await;
    match verdict(Surface::Rest, &head.method, parts.status, &parts.headers, &seen) {
        Verdict::Refused(_) => Finding::Dead,
        // A version that the org has retired is told to those whom it knows.
        Verdict::Pass if parts.status.is_success() || parts.status == StatusCode::NOT_FOUND => Finding::Alive,
        Verdict::Pass => Finding::Unknown,
    }
}
