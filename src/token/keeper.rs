//! Keeps one org's token fresh.
//!
//! Owns: the current token and the only task that talks to the org's login host.
//! Invariants: one exchange at a time, and none beyond the budget; generations only grow; a token still taken by the org
//! is never withdrawn, be its renewal failing or its expiry past; one that the org refused is published again only as a
//! new generation that the login host vouched for (be it the same string).
//! Units: timers are `Instant`; wall time decides beside them what a suspended machine would miss.
//! Fails with: nothing; failures are published as state and tried again for ever. Stops at once, also in mid-exchange,
//! unless the exchange spends something: then it is awaited, and recorded.
//! Source: design §5; RFC 6749 §5.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use secrecy::ExposeSecret as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Class, Exchange, Expiry, Generation, Minted, Refusal, StateWord, Token,
    audit::Audit,
    backoff::Backoff,
    budget::Bucket,
    exchange::{Ask, Touch, Why},
    lifetime::{self, Lifetime, Renewal},
    tokens::{Published, Shared, Tokens},
};
use crate::{
    clock::{Clock, unix_seconds},
    config::{Budget, OrgName, TokenSettings},
    metrics::TokenMetrics,
};

#[cfg(test)]
mod tests;

/// The task of one org; see [`Keeper::run`].
pub struct Keeper<E> {
    exchange: E,
    shared: Arc<Shared>,
    published: watch::Sender<Published>,
    /// What is published next.
    now: Published,
    budget: Bucket,
    /// Of all users of an org together.
    common: Option<CommonBudget>,
    backoff: Backoff,
    lifetime: Lifetime,
    renewal: Renewal,
    audit: Audit,
    next: Instant,
    /// The same on the wall clock.
    next_wall: SystemTime,
    metrics: TokenMetrics,
    /// The newest generation for whose sake a newer one was made due.
    outdated: Generation,
    /// The last state in the log.
    logged: Option<(StateWord, Option<&'static str>)>,
    scope_warned: bool,
    changes: Arc<Mutex<Option<Box<Change<E>>>>>,
    /// The identity is another than that of the token at hand, which serves until the new one has its first.
    anew: bool,
}

/// What a keeper goes by from now on.
struct Change<E> {
    exchange: E,
    rules: Rules,
    metrics: TokenMetrics,
    /// One that the keeper has not seen was for another identity.
    another: bool,
}

/// Changes what a keeper goes by while it runs. Cheap to clone.
pub struct Changes<E> {
    shared: Arc<Shared>,
    mailbox: Arc<Mutex<Option<Box<Change<E>>>>>,
}

impl<E> Clone for Changes<E> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            mailbox: Arc::clone(&self.mailbox),
        }
    }
}

impl<E: Exchange> Changes<E> {
    /// Counts from the next login on; a login that failed is tried again at once. For another identity one is due at
    /// once, and the token at hand serves until it has succeeded. Of two changes that the keeper has not seen the newer
    /// counts.
    pub fn change(&self, exchange: E, rules: Rules, metrics: TokenMetrics) {
        let mut change = Change {
            exchange,
            rules,
            metrics,
            another: false,
        };
        {
            let mut mailbox = lock(&self.mailbox);
            if let Some(unseen) = mailbox.take() {
                change.another = !change.exchange.takes_over(unseen.exchange) || unseen.another;
            }
            *mailbox = Some(Box::new(change));
        }
        self.shared.wake.notify_one();
    }
}

/// A budget that several keepers draw on.
pub type CommonBudget = Arc<Mutex<Bucket>>;

/// What one keeper goes by.
#[derive(Debug, Clone)]
pub struct Rules {
    pub settings: TokenSettings,
    pub budget: Budget,
    /// Beside the keeper's own.
    pub common: Option<CommonBudget>,
    pub renewal: Renewal,
}

impl Rules {
    /// Of an org's own tokens.
    pub fn new(settings: TokenSettings, budget: Budget) -> Self {
        Self {
            settings,
            budget,
            common: None,
            renewal: Renewal::Fraction,
        }
    }
}

/// A handle for callers and the task that serves them; nothing happens until the task runs.
pub fn keeper<E: Exchange>(
    org: OrgName,
    rules: Rules,
    exchange: E,
    clock: Clock,
    metrics: TokenMetrics,
) -> (Tokens, Keeper<E>) {
    let Rules {
        settings,
        budget,
        common,
        renewal,
    } = rules;
    let audit = Audit::new(org.as_str(), "proxy");
    let now = Instant::now();
    let lifetime = Lifetime::new(settings.lifetime);
    let next_wall = clock.now();
    let waiters = metrics.waiters.clone();
    let shared = Arc::new(Shared::new(org, settings, clock, waiters));
    let (sender, receiver) = watch::channel(Published::default());
    let tokens = Tokens::new(Arc::clone(&shared), receiver);
    let mut keeper = Keeper {
        exchange,
        shared,
        published: sender,
        now: Published::default(),
        budget: Bucket::new(budget, now),
        common,
        backoff: Backoff::default(),
        lifetime,
        renewal,
        audit,
        next: now,
        next_wall,
        metrics,
        outdated: Generation(0),
        logged: None,
        scope_warned: false,
        changes: Arc::default(),
        anew: false,
    };
    keeper.metrics.state(StateWord::Starting);
    keeper.measure(now);
    (tokens, keeper)
}

impl<E: Exchange> Keeper<E> {
    /// A handle that changes what this keeper goes by.
    pub fn changes(&self) -> Changes<E> {
        Changes {
            shared: Arc::clone(&self.shared),
            mailbox: Arc::clone(&self.changes),
        }
    }

    /// Mints, publishes, waits until the renewal is due or the org refuses the token; for ever. Returns at once after
    /// `stop`, or when an exchange that may not be abandoned has ended; then waiting callers are told, and the last token
    /// stays readable.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // May be dropped anywhere: waiting keeps its state in `self`, which ends here.
                () = self.until_due() => {}
            }
            if self.exchange.abandonable() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    // Dropped half-way it leaves a login without its answer, which this grant forgives (SF §1.5).
                    () = self.attempt() => {}
                }
            } else {
                self.attempt().await;
            }
        }
    }

    async fn until_due(&mut self) {
        loop {
            self.notice_change();
            self.notice_rejection();
            self.notice_want();
            let now = Instant::now();
            self.measure(now);
            if now >= self.next || self.shared.clock.now() >= self.next_wall {
                return;
            }
            let wake_up = self.next.min(self.changes_at(now).unwrap_or(self.next));
            tokio::select! {
                biased;
                // Either may be dropped: a permit not taken stays, and a timer is made anew.
                () = self.shared.wake.notified() => {}
                () = sleep_until(wake_up) => {}
            }
        }
    }

    /// Other settings, or a secret that has changed: a login that failed may succeed now.
    fn notice_change(&mut self) {
        let mut retry = self.shared.retry_wanted();
        let change = lock(&self.changes).take();
        if let Some(change) = change {
            let Change {
                exchange,
                rules,
                metrics,
                another,
            } = *change;
            // Whatever a login failed for may be what has changed.
            retry = true;
            let before = std::mem::replace(&mut self.exchange, exchange);
            if !self.exchange.takes_over(before) || another {
                self.anew = self.now.token.is_some();
                self.scope_warned = false;
                tracing::info!(org = %self.shared.org, "another identity: logging in");
                self.schedule(Duration::ZERO);
            }
            let now = Instant::now();
            self.budget.resize(rules.budget, now);
            self.lifetime.set(rules.settings.lifetime);
            self.shared.set_settings(rules.settings);
            self.renewal = rules.renewal;
            self.common = rules.common;
            self.metrics = metrics;
            self.metrics.state(self.now.word(self.shared.rejected()));
        }
        if retry {
            self.backoff = Backoff::default();
            if self.now.failure.is_some() {
                self.schedule(Duration::ZERO);
            }
        }
    }

    /// A rejection of the newest token makes a renewal due, unless the login host has to be left in peace.
    fn notice_rejection(&mut self) {
        if !self.take_rejection() {
            return;
        }
        let in_peace = |failure: &Arc<Refusal>| failure.class != Class::Transient;
        if !self.now.failure.as_ref().is_some_and(in_peace) {
            self.schedule(Duration::ZERO);
        }
        self.tell();
    }

    /// Somebody wants a newer token than the newest: due now, unless renewals fail anyhow.
    fn notice_want(&mut self) {
        let outdated = self.shared.outdated();
        if outdated > self.outdated && outdated >= self.now.newest() {
            self.outdated = outdated;
            if self.now.failure.is_none() {
                self.schedule(Duration::ZERO);
            }
        }
    }

    /// Whether there is a new rejection of the newest token; it teaches the assumed lifetime.
    fn take_rejection(&mut self) -> bool {
        let rejected = self.shared.rejected();
        let new = rejected > self.now.noticed;
        self.now.noticed = rejected;
        let Some(token) = self.now.token.as_ref().filter(|_| new) else {
            return false;
        };
        if token.generation > rejected {
            return false;
        }
        let age = token.minted.elapsed();
        if matches!(token.expiry, Expiry::Assumed(_)) {
            self.lifetime.refused_at(age);
        }
        self.audit.rejected(rejected);
        tracing::info!(org = %self.shared.org, generation = rejected.0, age_seconds = age.as_secs(), "the org refused the token");
        true
    }

    async fn attempt(&mut self) {
        let why = self.why();
        if why == Why::Due && !self.anew && self.keep_alive().await {
            return;
        }
        let started = Instant::now();
        if let Err(wait) = self.take_login(started) {
            match timeout(RECALL, self.exchange.recall(self.ask(why))).await {
                Ok(Some(minted)) => self.keep(minted, why),
                _ => self.postpone(wait),
            }
            return;
        }
        self.now.next = None;
        self.shared.expect_keeper(None);
        self.tell();
        // The exchange bounds itself; this holds also when it does not.
        let limit = self.exchange.longest(self.shared.settings().exchange_timeout) + EXCHANGE_SLACK;
        let outcome = timeout(limit, self.exchange.exchange(self.ask(why)))
            .await
            .unwrap_or_else(|_| Err(Refusal::of("timeout", None)));
        self.metrics.duration.observe(started.elapsed().as_secs_f64());
        // One that came during the exchange asked for just this exchange.
        self.take_rejection();
        if lock(&self.changes).is_some() {
            // It may be another identity's. If not, it is in the store, and the next look there costs no login.
            match outcome {
                Ok(minted) if minted.adopted => self.give_login_back(),
                Ok(_) => self.metrics.granted(),
                Err(refusal) => {
                    self.metrics.failed(refusal.reason);
                    if refusal.class == Class::Unsent {
                        self.give_login_back();
                    }
                }
            }
            self.schedule(Duration::ZERO);
            return;
        }
        match outcome {
            Ok(minted) => {
                if minted.adopted {
                    self.give_login_back();
                }
                self.keep(minted, why);
            }
            Err(refusal) => {
                self.audit.failed(why, refusal.reason);
                self.failed(refusal);
            }
        }
    }

    /// Another identity's token is nothing to compare with.
    fn ask(&self, why: Why) -> Ask<'_> {
        Ask {
            why,
            held: self.now.token.as_deref().filter(|_| !self.anew),
        }
    }

    fn why(&self) -> Why {
        match &self.now.token {
            None => Why::Start,
            Some(_) if self.anew => Why::Start,
            Some(token) if token.generation > self.shared.rejected() => Why::Due,
            Some(_) => Why::Refused,
        }
    }

    /// One login of the budget, and of the common one.
    fn take_login(&mut self, now: Instant) -> Result<(), Duration> {
        self.budget.take(now)?;
        let common = self.common.as_ref().map_or(Ok(()), |common| lock(common).take(now));
        if common.is_err() {
            self.budget.give_back(now);
        }
        common
    }

    /// Nothing was sent.
    fn give_login_back(&mut self) {
        let now = Instant::now();
        self.budget.give_back(now);
        if let Some(common) = &self.common {
            lock(common).give_back(now);
        }
    }

    /// Uses the session in place of a login, if the operator wants it and nothing speaks against it; whether that did.
    async fn keep_alive(&mut self) -> bool {
        let newer = self.outdated >= self.now.newest();
        let wanted = self.shared.settings().keep_alive && self.now.failure.is_none() && !newer;
        let Some(token) = self.now.token.clone().filter(|_| wanted) else {
            return false;
        };
        if matches!(token.expiry, Expiry::Known(_)) {
            return false;
        }
        let touched = timeout(
            self.shared.settings().exchange_timeout,
            self.exchange.keep_alive(&token),
        )
        .await;
        let alive = touched == Ok(Touch::Alive) && token.generation > self.shared.rejected();
        self.metrics.kept_alive(alive);
        if alive {
            let now = self.shared.clock.now();
            let expiry = self.lifetime.expiry(None, now);
            self.now.token = Some(Arc::new(token.extended(expiry)));
            self.schedule(lifetime::renewal_after(self.renewal, expiry, now, fastrand::f64()));
            self.tell();
        }
        alive
    }

    fn keep(&mut self, minted: Minted, why: Why) {
        if let Some(old) = &self.now.token
            && !self.anew
            && matches!(old.expiry, Expiry::Assumed(_))
            && !self.shared.was_refused(old.generation)
        {
            self.lifetime.lived_undisturbed();
        }
        let now = self.shared.clock.now();
        let minted_at = minted.minted_at.unwrap_or(now);
        let generation = Generation(self.now.newest().0 + 1);
        self.cool_down_if_same(&minted, generation);
        let expiry = self.lifetime.expiry(minted.known_expiry, minted_at);
        // One from the store may be older than now.
        let age = now.duration_since(minted_at).unwrap_or(Duration::ZERO);
        let born = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let token = Token::new(generation, minted.secret, minted.instance, expiry, minted_at, born);
        let Ok(mut token) = token else {
            return self.failed(Refusal::of("malformed_answer", super::TokenNotAHeader.to_string()));
        };
        token.serial = minted.serial;
        token.adopted = minted.adopted;
        token.also = minted.also;
        let identity = minted.identity.map(Arc::new);
        token.identity.clone_from(&identity);
        self.warn_of_scope(minted.reaches_api);
        if minted.adopted {
            self.metrics.adopted();
        } else {
            self.metrics.granted();
            self.audit.minted(why, generation, identity.as_deref());
        }
        self.backoff = Backoff::default();
        self.anew = false;
        self.now.token = Some(Arc::new(token));
        self.now.identity = identity;
        self.now.failure = None;
        let due = lifetime::renewal_after(self.renewal, expiry, minted_at, fastrand::f64());
        self.schedule(due.saturating_sub(age));
        self.tell();
    }

    /// A forced renewal that brought the same string: the session lives, and the refusal was about something else (SF
    /// §3.3). More logins would bring it again.
    fn cool_down_if_same(&self, minted: &Minted, generation: Generation) {
        let Some(old) = &self.now.token else { return };
        let same = old.secret().expose_secret() == minted.secret.expose_secret();
        if same && self.shared.rejected() >= old.generation && self.shared.cool_down(generation) {
            tracing::info!(
                org = %self.shared.org,
                generation = generation.0,
                "a refused token was minted again; refused calls are repeated without a login until the cool-down ends"
            );
        }
    }

    fn failed(&mut self, refusal: Refusal) {
        self.metrics.failed(refusal.reason);
        if refusal.class == Class::Unsent {
            self.give_login_back();
        }
        let mut pause = self.backoff.pause(&refusal, fastrand::f64());
        if self.common.is_some() && self.now.token.is_none() && refusal.class.needs_somebody() {
            // One of many users, who never had a token: the logins of all are not spent on that name.
            pause = pause.max(NAMELESS);
        }
        self.now.failure = Some(Arc::new(refusal));
        self.schedule(pause);
        self.tell();
    }

    /// The budget is spent: nothing was sent. A refusal that somebody must act on stays the reason.
    fn postpone(&mut self, wait: Duration) {
        let stays = |failure: &Arc<Refusal>| failure.class.needs_somebody();
        if !self.now.failure.as_ref().is_some_and(stays) {
            self.now.failure = Some(Arc::new(Refusal::of("budget_spent", None)));
        }
        self.metrics.failed("budget_spent");
        self.schedule(wait);
        self.tell();
    }

    fn schedule(&mut self, pause: Duration) {
        self.next = Instant::now() + pause;
        self.next_wall = self.shared.clock.now() + pause;
        self.now.next = Some(self.next);
        self.shared.expect_keeper(Some(self.next_wall));
    }

    /// Publishes and measures the state, and logs it when it changed.
    fn tell(&mut self) {
        self.published.send_replace(self.now.clone());
        self.measure(Instant::now());
        let state = self.now.word(self.shared.rejected());
        self.metrics.state(state);
        let reason = self.now.failure.as_ref().map(|failure| failure.reason);
        if self.logged.replace((state, reason)) != Some((state, reason)) {
            self.log(state);
        }
    }

    fn log(&self, state: StateWord) {
        let org = &self.shared.org;
        let generation = self.now.newest().0;
        let next = self.next.saturating_duration_since(Instant::now());
        match &self.now.failure {
            Some(failure) => tracing::warn!(
                %org,
                state = state.as_str(),
                generation,
                reason = failure.reason,
                code = failure.code,
                description = failure.description,
                advice = failure.advice,
                next_attempt_seconds = next.as_secs(),
                "token state"
            ),
            None => tracing::info!(
                %org,
                state = state.as_str(),
                generation,
                next_attempt_seconds = next.as_secs(),
                "token state"
            ),
        }
    }

    fn warn_of_scope(&mut self, reaches_api: bool) {
        if !reaches_api && !self.scope_warned {
            self.scope_warned = true;
            tracing::warn!(
                org = %self.shared.org,
                "the token's scopes lack `api`: calls will be refused; add \"Manage user data via APIs (api)\" to the app's OAuth Scopes"
            );
        }
    }

    fn measure(&mut self, now: Instant) {
        let metrics = &self.metrics;
        let left = self.budget.left(now);
        metrics.budget.set(left);
        self.shared.set_budget_spent(left < 1.0);
        metrics.assumed_lifetime.set(self.lifetime.assumed().as_secs_f64());
        if let Some(token) = &self.now.token {
            metrics.expiry.set(unix_seconds(token.expiry.at()));
            metrics.minted.set(unix_seconds(token.minted_at));
            let past = self.shared.clock.now() >= token.expiry.at() && token.generation > self.shared.rejected();
            metrics.past_expiry.set(i64::from(past));
        }
    }

    /// When a measure changes by itself: the budget grows, or the expiry passes.
    fn changes_at(&mut self, now: Instant) -> Option<Instant> {
        let wall = self.shared.clock.now();
        let expiry = self.now.token.as_ref().and_then(|token| {
            let left = token.expiry.at().duration_since(wall).ok()?;
            (!left.is_zero()).then(|| now.checked_add(left)).flatten()
        });
        let budget = self.budget.grows_at(now);
        match (expiry, budget) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between two logins of a user who is refused and never had a token.
const NAMELESS: Duration = Duration::from_secs(300);
/// For a look into the store.
const RECALL: Duration = Duration::from_secs(2);
/// What an exchange may take beyond its own limit.
const EXCHANGE_SLACK: Duration = Duration::from_secs(1);
