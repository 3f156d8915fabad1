//! Is a token alive, when an answer leaves it open?
//!
//! Two callers ask: an upload that could not be repeated, before it is sent; and a call that was refused twice although
//! other calls were taken, where the answer decides between "the token died again" and "this call is not allowed".
//!
//! Owns: the last finding, so that many who ask at once cost one call of the org's budget.
//! Source: SF §6, the cheapest authenticated call.

use std::time::Duration;

use http::{HeaderMap, Method, uri::PathAndQuery};
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
use crate::token::{Generation, Token};

/// Lists a version's resources; a dead token is answered with 401. Any version that the org still serves will do.
const PATH: &str = "/services/data/v60.0/";
/// A probe that takes longer tells nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a finding "alive" answers for others who ask.
const ALIVE_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Alive,
    Dead,
    /// The org did not say.
    Unknown,
}

#[derive(Default)]
pub struct Prober {
    last: Mutex<Option<(Generation, Finding, Instant)>>,
}

impl Prober {
    /// Asks the org. The lock is held across the call on purpose: the others who ask about the same token wait for it.
    pub async fn ask(&self, upstream: &Upstream, token: &Token) -> Finding {
        let mut last = self.last.lock().await;
        if let Some((generation, finding, at)) = *last
            && generation == token.generation
            && (finding == Finding::Dead || at.elapsed() < ALIVE_FOR)
        {
            return finding;
        }
        let finding = timeout(PATIENCE, probe(upstream, token))
            .await
            .unwrap_or(Finding::Unknown);
        *last = Some((token.generation, finding, Instant::now()));
        finding
    }
}

async fn probe(upstream: &Upstream, token: &Token) -> Finding {
    let head = Head {
        method: Method::GET,
        target: PathAndQuery::from_static(PATH),
        headers: HeaderMap::new(),
    };
    let Ok(answer) = upstream.send(token, &head, &Upload::none()).await else {
        return Finding::Unknown;
    };
    let (parts, mut body) = answer.response.into_parts();
    let seen = body.look_ahead(INSPECT_BYTES, PATIENCE).await;
    match verdict(
        Surface::Rest,
        &head.method,
        parts.status,
        &parts.headers,
        &seen,
    ) {
        Verdict::Refused(_) => Finding::Dead,
        Verdict::Pass if parts.status.is_server_error() => Finding::Unknown,
        Verdict::Pass => Finding::Alive,
    }
}
