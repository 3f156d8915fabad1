//! The handle that callers hold: reading an org's token, waiting for one, reporting a refused one.
//!
//! Owns: [`Tokens`], and what it shares with the keeper beside the published state: the newest rejection, the cool-down,
//! when the org last took a token, the count of waiters.
//! Invariants: [`Tokens::current`] never waits; no wait is longer than `refresh_wait`; at most `max_waiters` wait; a
//! caller that goes away leaves nothing behind and stops nothing; a rejected token is not handed out again.
//! Units: `Duration`; milliseconds where an atomic holds a time.
//! Fails with: [`TokenError`], from memory when the keeper knows that waiting is useless.
//! Source: design §5.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus::IntGauge;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

use super::{Expiry, Generation, Identity, Instance, Refusal, StateWord, Token, TokenError};
use crate::{
    clock::Clock,
    config::{OrgName, TokenSettings},
};

/// One org's tokens. Cheap to clone; outlives its keeper, with the last token.
#[derive(Clone)]
pub struct Tokens {
    shared: Arc<Shared>,
    published: watch::Receiver<Published>,
}

/// What is known of an org's token, for probes and people. Shows no secret.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub state: StateWord,
    /// Of the newest token, also of one that was refused.
    pub generation: Option<Generation>,
    pub minted_at: Option<SystemTime>,
    pub expiry: Option<Expiry>,
    pub instance: Option<Arc<Instance>>,
    pub identity: Option<Arc<Identity>>,
    /// The last login's, if it failed.
    pub failure: Option<Arc<Refusal>>,
    /// The time to the next login; `None` while one is under way.
    pub next_attempt: Option<Duration>,
    pub waiting: usize,
}

impl Tokens {
    pub(super) fn new(shared: Arc<Shared>, published: watch::Receiver<Published>) -> Self {
        Self { shared, published }
    }

    pub fn org(&self) -> &OrgName {
        &self.shared.org
    }

    /// The token to use now: the newest, unless the org refused it. Also wakes the keeper when the wall clock says that
    /// a renewal is overdue, as after a suspension of the machine.
    pub fn current(&self) -> Option<Arc<Token>> {
        self.shared.nudge();
        self.usable(Generation(0))
    }

    /// The current token, or the next. Dropping the future cancels nothing.
    pub async fn get(&self) -> Result<Arc<Token>, TokenError> {
        match self.current() {
            Some(token) => Ok(token),
            None => self.wait(Generation(0)).await,
        }
    }

    /// The org refused this generation: a newer one. In the cool-down, and when the login budget is spent, it may be the
    /// same one, which is then worth one repeat. Dropping the future cancels nothing.
    pub async fn renewed(&self, refused: Generation) -> Result<Arc<Token>, TokenError> {
        let refused = refused.min(self.newest());
        if let Some(token) = self.current()
            && (token.generation > refused || self.shared.no_login_for_refusals())
        {
            return Ok(token);
        }
        self.shared.reject(refused);
        self.wait(refused).await
    }

    /// As [`Self::renewed`], for a token that the org has been asked about and called dead: not even a cool-down stands
    /// against a login then.
    pub async fn renewed_dead(&self, dead: Generation) -> Result<Arc<Token>, TokenError> {
        let dead = dead.min(self.newest());
        match self.current() {
            Some(token) if token.generation > dead => Ok(token),
            _ => {
                self.shared.reject(dead);
                self.wait(dead).await
            }
        }
    }

    /// A newer token than this one, which is not withdrawn: it stays in use, also when no newer one comes. In the
    /// cool-down and when the login budget is spent it may be the same one. Dropping the future cancels nothing.
    pub async fn newer_than(&self, generation: Generation) -> Result<Arc<Token>, TokenError> {
        let generation = generation.min(self.newest());
        if let Some(token) = self.current()
            && (token.generation > generation || self.shared.no_login_for_refusals())
        {
            return Ok(token);
        }
        self.shared.want_newer(generation);
        self.wait(generation).await
    }

    /// The org refused this generation, and the call cannot be repeated: as [`Self::renewed`], without waiting.
    pub fn reject(&self, refused: Generation) {
        if refused <= self.newest() && !self.shared.no_login_for_refusals() {
            self.shared.reject(refused);
        }
    }

    /// A call that was repeated with this generation was refused again: the renewal did not help. Starts the cool-down,
    /// once for each generation: were it restarted by every refusal, a steady stream of them would prevent any renewal.
    pub fn did_not_help(&self, refused_again: Generation) {
        if refused_again == self.newest() && self.shared.cool_down(refused_again) {
            tracing::warn!(
                org = %self.shared.org,
                generation = refused_again.0,
                seconds = self.shared.settings().cool_down.as_secs(),
                "a renewed token was refused as well; no login for other refused calls until the cool-down ends"
            );
        }
    }

    /// A login that failed is tried again now: a secret has changed. Costs nothing where none failed.
    pub fn retry(&self) {
        self.shared.retry.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }

    /// Whether refused calls are repeated without a login now: in the cool-down, and when the budget is spent.
    pub fn cooling_down(&self) -> bool {
        self.shared.no_login_for_refusals()
    }

    /// The org took this generation.
    pub fn worked(&self, generation: Generation) {
        self.shared.worked(generation);
    }

    /// How long ago the org last took this generation.
    pub fn seen_working(&self, generation: Generation) -> Option<Duration> {
        self.shared.seen_working(generation)
    }

    /// Whether the org has taken this generation, or a later one.
    pub fn worked_since(&self, generation: Generation) -> bool {
        self.shared.worked.load(Ordering::Relaxed) >= generation.0
    }

    pub fn snapshot(&self) -> Snapshot {
        let seen = self.published.borrow().clone();
        let token = seen.token.as_ref();
        Snapshot {
            state: seen.word(self.shared.rejected()),
            generation: token.map(|token| token.generation),
            minted_at: token.map(|token| token.minted_at),
            expiry: token.map(|token| token.expiry),
            instance: token.map(|token| Arc::clone(&token.instance)),
            identity: seen.identity.clone(),
            next_attempt: seen.next.map(|next| next.saturating_duration_since(Instant::now())),
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            failure: seen.failure,
        }
    }

    /// Waits until the [`Self::snapshot`] may have changed since this handle last waited; `false`: it never will again,
    /// because the keeper has ended. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> bool {
        self.published.changed().await.is_ok()
    }

    fn newest(&self) -> Generation {
        self.published.borrow().newest()
    }

    fn usable(&self, after: Generation) -> Option<Arc<Token>> {
        self.published
            .borrow()
            .usable(self.shared.rejected().max(after))
            .cloned()
    }

    async fn wait(&self, after: Generation) -> Result<Arc<Token>, TokenError> {
        let deadline = Instant::now() + self.shared.settings().refresh_wait;
        let Some(_place) = Place::take(&self.shared) else {
            return Err(self.shared.too_many_waiters());
        };
        let mut published = self.published.clone();
        loop {
            // No borrow may live across the await: it would hold up the keeper.
            let seen = published.borrow_and_update().clone();
            let rejected = self.shared.rejected();
            if let Some(token) = seen.usable(rejected.max(after)) {
                return Ok(Arc::clone(token));
            }
            if let Some(failure) = seen.hopeless(rejected, deadline) {
                return Err(self.shared.login_failed(failure, seen.next));
            }
            match timeout_at(deadline, published.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(self.shared.stopping()),
                Err(_) => return Err(self.shared.out_of_time(&seen)),
            }
        }
    }
}

/// What the keeper publishes; all of it cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Published {
    /// The newest, be it refused.
    pub(super) token: Option<Arc<Token>>,
    pub(super) identity: Option<Arc<Identity>>,
    /// Why the last login failed.
    pub(super) failure: Option<Arc<Refusal>>,
    /// When the next login is tried; `None` while one is under way.
    pub(super) next: Option<Instant>,
    /// The newest rejection that `next` takes into account.
    pub(super) noticed: Generation,
}

impl Published {
    pub(super) fn newest(&self) -> Generation {
        self.token.as_ref().map_or(Generation(0), |token| token.generation)
    }

    /// The token, if it is newer than what was rejected.
    pub(super) fn usable(&self, rejected: Generation) -> Option<&Arc<Token>> {
        self.token.as_ref().filter(|token| token.generation > rejected)
    }

    pub(super) fn word(&self, rejected: Generation) -> StateWord {
        let failure = self.failure.as_ref().map(|failure| failure.class);
        match (self.usable(rejected), failure) {
            (Some(_), None) => StateWord::Live,
            (Some(_), Some(class)) if class.needs_somebody() => StateWord::LiveRefused,
            (Some(_), Some(_)) => StateWord::LiveRenewalFailing,
            (None, None) if self.token.is_none() => StateWord::Starting,
            (None, None) => StateWord::Renewing,
            (None, Some(class)) if class.needs_somebody() => StateWord::Refused,
            (None, Some(_)) => StateWord::Failing,
        }
    }

    /// The failure that makes waiting until `deadline` useless.
    fn hopeless(&self, rejected: Generation, deadline: Instant) -> Option<&Refusal> {
        let failure = self.failure.as_deref()?;
        if failure.class.needs_somebody() {
            return Some(failure);
        }
        // The keeper has yet to hear of a rejection, which may bring the next attempt forward; it publishes then.
        let next = self.next.filter(|_| self.noticed >= rejected)?;
        (next > deadline).then_some(failure)
    }
}

/// What callers and keeper share beside the published state.
pub(super) struct Shared {
    pub(super) org: OrgName,
    settings: RwLock<TokenSettings>,
    pub(super) clock: Clock,
    /// Wakes the keeper; one permit is kept, so that a wake during an exchange is not lost.
    pub(super) wake: Notify,
    /// The newest generation that the org refused.
    rejected: AtomicU64,
    /// The newest generation that somebody wants a newer one than.
    outdated: AtomicU64,
    /// Something that a failed login may have failed for is different now.
    retry: AtomicBool,
    /// Wall-clock milliseconds after which the keeper's timer is overdue; [`NOT_DUE`] once somebody has said so.
    overdue_at: AtomicU64,
    cool_down: Mutex<CoolDown>,
    budget_spent: AtomicBool,
    /// The generation that the org last took, and when, in milliseconds after `born`. Two stores that are not one: a
    /// reader between them is told of a success that is about to be recorded anyway.
    worked: AtomicU64,
    worked_at: AtomicU64,
    born: Instant,
    waiting: AtomicUsize,
    waiters: IntGauge,
}

struct CoolDown {
    /// The generation whose failure to help started it.
    generation: Generation,
    until: Instant,
}

impl Shared {
    pub(super) fn new(org: OrgName, settings: TokenSettings, clock: Clock, waiters: IntGauge) -> Self {
        let born = Instant::now();
        Self {
            org,
            settings: RwLock::new(settings),
            clock,
            wake: Notify::new(),
            rejected: AtomicU64::new(0),
            outdated: AtomicU64::new(0),
            retry: AtomicBool::new(false),
            overdue_at: AtomicU64::new(NOT_DUE),
            cool_down: Mutex::new(CoolDown {
                generation: Generation(0),
                until: born,
            }),
            budget_spent: AtomicBool::new(false),
            worked: AtomicU64::new(0),
            worked_at: AtomicU64::new(0),
            born,
            waiting: AtomicUsize::new(0),
            waiters,
        }
    }

    pub(super) fn settings(&self) -> TokenSettings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_settings(&self, settings: TokenSettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Whether somebody asked for that since the last look.
    pub(super) fn retry_wanted(&self) -> bool {
        self.retry.swap(false, Ordering::AcqRel)
    }

    pub(super) fn rejected(&self) -> Generation {
        Generation(self.rejected.load(Ordering::Acquire))
    }

    pub(super) fn outdated(&self) -> Generation {
        Generation(self.outdated.load(Ordering::Acquire))
    }

    fn want_newer(&self, generation: Generation) {
        let before = self.outdated.fetch_max(generation.0, Ordering::AcqRel);
        if before < generation.0 {
            self.wake.notify_one();
        }
    }

    /// The org refused this generation, at its first use or at a repeat.
    pub(super) fn was_refused(&self, generation: Generation) -> bool {
        self.rejected() >= generation || self.lock().generation >= generation
    }

    /// The keeper's timer fires at `at`; `None`: it is at work.
    pub(super) fn expect_keeper(&self, at: Option<SystemTime>) {
        let at = at.map_or(NOT_DUE, |at| millis(at + TIMER_SLACK));
        self.overdue_at.store(at, Ordering::Relaxed);
    }

    fn nudge(&self) {
        let overdue_at = self.overdue_at.load(Ordering::Relaxed);
        if overdue_at != NOT_DUE && millis(self.clock.now()) >= overdue_at {
            // One of many callers is enough.
            let first = self
                .overdue_at
                .compare_exchange(overdue_at, NOT_DUE, Ordering::Relaxed, Ordering::Relaxed);
            if first.is_ok() {
                self.wake.notify_one();
            }
        }
    }

    fn reject(&self, generation: Generation) {
        let before = self.rejected.fetch_max(generation.0, Ordering::AcqRel);
        if before < generation.0 {
            self.wake.notify_one();
        }
    }

    /// Refused calls are repeated with the token at hand: in the cool-down, and when the budget is spent, because a token
    /// withdrawn then would be missed until it is refilled.
    fn no_login_for_refusals(&self) -> bool {
        self.budget_spent.load(Ordering::Relaxed) || Instant::now() < self.lock().until
    }

    pub(super) fn set_budget_spent(&self, spent: bool) {
        self.budget_spent.store(spent, Ordering::Relaxed);
    }

    /// Whether this started one.
    pub(super) fn cool_down(&self, generation: Generation) -> bool {
        let mut cool_down = self.lock();
        if generation <= cool_down.generation {
            return false;
        }
        *cool_down = CoolDown {
            generation,
            until: Instant::now() + self.settings().cool_down,
        };
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CoolDown> {
        self.cool_down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worked(&self, generation: Generation) {
        // An answer to an older generation must not hide that the newest works.
        if generation.0 >= self.worked.load(Ordering::Relaxed) {
            self.worked_at.store(self.since_born(), Ordering::Relaxed);
            self.worked.store(generation.0, Ordering::Relaxed);
        }
    }

    fn seen_working(&self, generation: Generation) -> Option<Duration> {
        let seen = self.worked.load(Ordering::Relaxed) == generation.0 && generation.0 > 0;
        let at = self.worked_at.load(Ordering::Relaxed);
        seen.then(|| Duration::from_millis(self.since_born().saturating_sub(at)))
    }

    fn since_born(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn login_failed(&self, failure: &Refusal, next: Option<Instant>) -> TokenError {
        self.error(failure.reason, format!("login failed: {failure}"), next)
    }

    fn out_of_time(&self, seen: &Published) -> TokenError {
        let waited = self.settings().refresh_wait.as_secs_f64();
        match &seen.failure {
            Some(failure) => self.login_failed(failure, seen.next),
            None => {
                let message =
                    format!("no token after {waited} s: the login host has not answered yet; see `token.refresh_wait`");
                self.error("timed_out", message, seen.next)
            }
        }
    }

    fn too_many_waiters(&self) -> TokenError {
        let message = format!(
            "{} calls wait for a token already; see `token.max_waiters`",
            self.settings().max_waiters
        );
        self.error("too_many_waiters", message, None)
    }

    fn stopping(&self) -> TokenError {
        self.error("stopping", "the proxy is stopping".to_owned(), None)
    }

    fn error(&self, reason: &'static str, message: String, next: Option<Instant>) -> TokenError {
        let until = next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()));
        TokenError {
            org: self.org.clone(),
            reason,
            message,
            retry_after: until.max(SHORTEST_RETRY),
        }
    }
}

/// A waiter's place; given back on drop.
struct Place<'a>(&'a Shared);

impl<'a> Place<'a> {
    fn take(shared: &'a Shared) -> Option<Self> {
        // Counted first, so that the bound holds without a loop; one too many is taken back at once.
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= shared.settings().max_waiters {
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        shared.waiters.inc();
        Some(Self(shared))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.waiters.dec();
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(NOT_DUE - 1)
}

const NOT_DUE: u64 = u64::MAX;
/// The keeper's own timer comes first unless the machine slept.
const TIMER_SLACK: Duration = Duration::from_secs(1);
const SHORTEST_RETRY: Duration = Duration::from_secs(1);
