//! What the cache has to do with one call: before it, whether the answer is kept; after it, whether this one is.
//!
//! `handle.rs` comes here only where an org has a cache, after the guard and with the identity's live token in hand.
//! Owns: a [`Lookup`] from the look to the answer, which counts when it is dropped. Invariants: what is kept is found by the
//! account, by whom the login host says it is, and by where calls go; an answer to a condition counts only for the identity
//! that the condition was made for; the body streams to its caller and is copied on the way.
//! There is no answer from the cache in place of an error: when the org fails, the caller hears of it.
//! Source: RFC 9111 §4; RFC 9211 (`Cache-Status`).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};
use http_body::Body as _;
use tokio::time::Instant;

use super::{account::Account, headers, in_body::InBody, surface::Surface, upstream::Head, watch::Watch};
use crate::{
    cache::{
        Cache, CacheResult, Entry, Key, Whose,
        policy::{self, Asks},
    },
    token::Token,
};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// How we call ourselves there.
const NAME: &str = "sf-token-proxy";

/// What the look brought.
pub(super) enum Found {
    Kept(Response<Bytes>),
    /// The org has to be asked; `None`: the cache has nothing to do with it.
    Ask(Option<Box<Lookup>>),
}

/// What is to be done with the org's answer.
pub(super) struct Lookup {
    cache: Arc<Cache>,
    result: Option<CacheResult>,
    plan: Plan,
}

enum Plan {
    /// It passes.
    Pass,
    /// The call may have changed what is kept.
    Forget,
    /// It is kept, if it can be.
    Keep {
        key: Key,
        /// Why the org was asked, in RFC 9211's words.
        why: &'static str,
        /// What the org may confirm.
        stale: Option<Arc<Entry>>,
    },
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if let Some(result) = self.result {
            self.cache.count(result);
        }
        // Nobody knows what the org made of it.
        if matches!(self.plan, Plan::Forget) {
            self.cache.purge();
        }
    }
}

/// What the call wants of the cache; `None`: it does not concern it.
pub(super) fn concerns(cache: &Cache, head: &Head, has_body: bool) -> Option<Asks> {
    // Others are of other hosts, or of one moment and one caller.
    let family = matches!(head.surface, Surface::Rest | Surface::ApexRest);
    if !family || !cache.covers(head.target.path()) {
        return None;
    }
    Some(policy::asks(&head.method, &head.headers, has_body)).filter(|asks| *asks != Asks::Nothing)
}

/// Looks for the answer. Where the org is asked whether a kept one still holds, `head` gets the conditions.
pub(super) fn look_up(
    cache: &Arc<Cache>,
    asks: Asks,
    account: &Account,
    head: &mut Head,
    token: &Token,
    plain: bool,
) -> Found {
    let ask = |result, plan| {
        Found::Ask(Some(Box::new(Lookup {
            cache: Arc::clone(cache),
            result,
            plan,
        })))
    };
    let at_most = match asks {
        Asks::Any { at_most } => at_most,
        Asks::Anew => {
            let key = key(cache, account, head, token);
            let plan = Plan::Keep {
                key,
                why: "request",
                stale: None,
            };
            return ask(Some(CacheResult::Miss), plan);
        }
        Asks::Past => return ask(Some(CacheResult::Bypass), Plan::Pass),
        Asks::Change | Asks::Nothing => return ask(None, Plan::Forget),
    };
    let key = key(cache, account, head, token);
    let miss = |key, why| ask(Some(CacheResult::Miss), Plan::Keep { key, why, stale: None });
    let Some(entry) = cache.get(&key) else {
        return miss(key, "uri-miss");
    };
    if !policy::is_alike(&entry.varies, &head.headers) {
        return miss(key, "vary-miss");
    }
    let (age, left) = entry.at(Instant::now());
    if left.is_zero() {
        for (name, value) in &entry.conditions {
            head.headers.insert(name.clone(), value.clone());
        }
        let stale = (!entry.conditions.is_empty()).then_some(entry);
        let plan = Plan::Keep {
            key,
            why: "stale",
            stale,
        };
        return ask(Some(CacheResult::Stale), plan);
    }
    if at_most.is_some_and(|at_most| age > at_most) {
        return miss(key, "request");
    }
    cache.count(CacheResult::Hit);
    let status = format!("{NAME}; hit; ttl={}", left.as_secs());
    Found::Kept(replayed(&entry, head, token, plain, &status))
}

/// A kept answer as the caller gets it.
fn replayed(entry: &Entry, head: &Head, token: &Token, plain: bool, status: &str) -> Response<Bytes> {
    let (age, _) = entry.at(Instant::now());
    let mut response = Response::new(entry.body.clone());
    let fields = response.headers_mut();
    *fields = entry.headers.clone();
    headers::from_org(fields, token.instance_for(head.target.path()), plain);
    fields.insert(header::AGE, HeaderValue::from(age.as_secs()));
    tell(fields, status);
    response
}

fn tell(fields: &mut http::HeaderMap, status: &str) {
    if let Ok(status) = HeaderValue::try_from(status) {
        fields.append(CACHE_STATUS, status);
    }
}

fn key(cache: &Cache, account: &Account, head: &Head, token: &Token) -> Key {
    Key {
        epoch: cache.epoch(),
        account: account.number,
        whose: whose(token),
        instance: token.instance_for(head.target.path()).url(),
        target: head.target.to_string(),
        shaping: policy::shaping(&head.headers),
    }
}

fn whose(token: &Token) -> Whose {
    match &token.identity {
        Some(identity) => Whose::Known(Arc::clone(identity)),
        None => Whose::OfToken(token.generation.0),
    }
}

impl Lookup {
    /// The org has confirmed what another identity was told: the token was renewed on the way and is another user's, or leads
    /// elsewhere. That answer is not the caller's.
    pub(super) fn is_of_another(&self, account: &Account, head: &Head, token: &Token, status: StatusCode) -> bool {
        let Plan::Keep {
            key, stale: Some(_), ..
        } = &self.plan
        else {
            return false;
        };
        status == StatusCode::NOT_MODIFIED && !self.is_key_of(key, account, head, token)
    }

    fn is_key_of(&self, own: &Key, account: &Account, head: &Head, token: &Token) -> bool {
        let now = key(&self.cache, account, head, token);
        // Not the epoch: a purge does not change whose it is.
        (now.account, &now.whose, &now.instance) == (own.account, &own.whose, &own.instance)
    }

    /// Asks for the whole answer.
    pub(super) fn withdraw_conditions(&self, head: &mut Head) {
        if let Plan::Keep { stale: Some(entry), .. } = &self.plan {
            for (name, _) in &entry.conditions {
                head.headers.remove(name);
            }
        }
    }

    /// The org has answered. `Some`: it confirmed what is kept, which is the answer then. Otherwise its own passes, and is
    /// copied on its way if it may be.
    pub(super) fn settle(
        mut self,
        account: &Account,
        head: &Head,
        token: &Token,
        response: &mut Response<Box<InBody>>,
        plain: bool,
    ) -> Option<Response<Bytes>> {
        let status = response.status();
        match std::mem::replace(&mut self.plan, Plan::Pass) {
            Plan::Forget => {
                if !status.is_client_error() {
                    self.cache.purge();
                }
                None
            }
            Plan::Pass => {
                tell(response.headers_mut(), &format!("{NAME}; fwd=bypass"));
                None
            }
            Plan::Keep {
                key,
                stale: Some(entry),
                ..
            } if status == StatusCode::NOT_MODIFIED => {
                self.result = Some(CacheResult::Revalidated);
                Some(self.confirmed(key, &entry, head, token, response, plain))
            }
            Plan::Keep { key: asked, why, stale } => {
                // The token may have been renewed on the way; the answer is that one's. The epoch is that of the question.
                let key = Key {
                    whose: whose(token),
                    instance: token.instance_for(head.target.path()).url(),
                    account: account.number,
                    ..asked
                };
                let forwarded = stale
                    .map(|_| format!("; fwd-status={}", status.as_u16()))
                    .unwrap_or_default();
                let stored = match self.copy(key, head, response) {
                    true => "; stored",
                    false => "",
                };
                tell(response.headers_mut(), &format!("{NAME}; fwd={why}{forwarded}{stored}"));
                None
            }
        }
    }

    fn confirmed(
        &self,
        key: Key,
        entry: &Entry,
        head: &Head,
        token: &Token,
        response: &Response<Box<InBody>>,
        plain: bool,
    ) -> Response<Bytes> {
        let mut headers = entry.headers.clone();
        policy::renew(&mut headers, response.headers());
        let conditions = policy::conditions(head.target.path(), &headers);
        let entry = Entry {
            conditions,
            headers,
            body: entry.body.clone(),
            varies: entry.varies.clone(),
            since: Instant::now(),
            age: policy::age(response.headers()),
            ttl: self.cache.ttl(),
        };
        let entry = Arc::new(entry);
        self.cache.put(key, Arc::clone(&entry));
        let status = format!("{NAME}; fwd=stale; fwd-status=304; stored");
        replayed(&entry, head, token, plain, &status)
    }

    /// Begins to copy the answer; whether it does.
    fn copy(&self, key: Key, head: &Head, response: &mut Response<Box<InBody>>) -> bool {
        let (fields, length) = (response.headers(), response.body().size_hint().exact());
        let framed = response.version() == Version::HTTP_2
            || fields.contains_key(header::CONTENT_LENGTH)
            || fields.contains_key(header::TRANSFER_ENCODING);
        if !policy::may_be_kept(response.status(), fields, framed) {
            return false;
        }
        let Some(varies) = policy::varies(fields, &head.headers) else {
            return false;
        };
        let headers = policy::kept(fields);
        let entry = Entry {
            conditions: policy::conditions(head.target.path(), &headers),
            age: policy::age(fields),
            headers,
            body: Bytes::new(),
            varies,
            since: Instant::now(),
            ttl: self.cache.ttl(),
        };
        let Some(copy) = self.cache.copy(key, entry, length) else {
            return false;
        };
        response.body_mut().watch(Watch::copy(copy));
        true
    }
}
