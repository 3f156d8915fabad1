//! The keeper's promises, in paused time with a scripted login host.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{sleep, sleep_until},
};

use super::*;
use crate::{
    metrics::Metrics,
    token::{Instance, TokenError},
};

mod changes;
mod other_ways;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// What a login takes in these tests.
const LOGIN: Duration = Duration::from_millis(200);

/// What the login host does, in order; the last is repeated.
#[derive(Clone)]
enum Reply {
    /// A token without a told life.
    Grants,
    /// One that tells.
    GrantsFor(Duration),
    /// The same string each time.
    GrantsTheSame,
    Refuses(Refusal),
    Hangs,
}
use Reply::{Grants, GrantsFor, GrantsTheSame, Hangs, Refuses};

fn outage() -> Reply {
    Refuses(Refusal::of("outage", None))
}

fn denied() -> Reply {
    Refuses(Refusal {
        code: Some("invalid_grant".into()),
        description: Some("user hasn't approved this consumer".into()),
        ..Refusal::of("refused", None)
    })
}

fn limited(retry_after: Option<Duration>) -> Reply {
    Refuses(Refusal {
        retry_after,
        ..Refusal::of("rate_limited", None)
    })
}

struct Script {
    /// The identity.
    who: &'static str,
    replies: Mutex<VecDeque<Reply>>,
    seen: Arc<Seen>,
    clock: Clock,
}

/// What the login host saw.
#[derive(Default)]
struct Seen {
    logins: Mutex<Vec<Instant>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

struct InFlight<'a>(&'a Seen);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Exchange for Script {
    async fn exchange(&self, _: Ask<'_>) -> Result<Minted, Refusal> {
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            match replies.len() {
                1 => replies[0].clone(),
                _ => replies.pop_front().unwrap(),
            }
        };
        let number = {
            let mut logins = self.seen.logins.lock().unwrap();
            logins.push(Instant::now());
            logins.len()
        };
        let now = self.seen.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let _in_flight = InFlight(&self.seen);
        sleep(LOGIN).await;
        let same = matches!(reply, GrantsTheSame);
        let life = match reply {
            Grants => None,
            GrantsFor(life) => Some(life),
            GrantsTheSame => None,
            Refuses(refusal) => return Err(refusal),
            Hangs => std::future::pending().await,
        };
        let secret = match same {
            true => "00Dxx!CANARY".to_owned(),
            false => format!("00Dxx!CANARY{number}"),
        };
        let instance = Instance::parse("https://acme.my.salesforce.com").unwrap();
        Ok(Minted {
            known_expiry: life.map(|life| self.clock.now() + life),
            ..Minted::new(secret.into(), Arc::new(instance))
        })
    }

    fn takes_over(&mut self, before: Self) -> bool {
        self.who == before.who
    }

    fn grant_word(&self) -> &'static str {
        "jwt_bearer"
    }
}

/// A keeper at work, and what one can see of it.
struct Room {
    tokens: Tokens,
    changes: Changes<Script>,
    clock: Clock,
    seen: Arc<Seen>,
    metrics: TokenMetrics,
    /// Seconds that the machine slept.
    slept: Arc<AtomicU64>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    start: Instant,
}

fn rules() -> Rules {
    let settings = TokenSettings {
        lifetime: 90 * MINUTE,
        refresh_wait: 10 * SECOND,
        cool_down: 30 * SECOND,
        max_waiters: 1000,
        exchange_timeout: 30 * SECOND,
        introspect: false,
        keep_alive: false,
    };
    let budget = Budget {
        burst: 60,
        per_minute: 4,
    };
    Rules::new(settings, budget)
}

fn script<const N: usize>(who: &'static str, replies: [Reply; N], seen: &Arc<Seen>, clock: &Clock) -> Script {
    Script {
        who,
        replies: Mutex::new(replies.into()),
        seen: Arc::clone(seen),
        clock: clock.clone(),
    }
}

fn start<const N: usize>(replies: [Reply; N]) -> Room {
    start_with(replies, rules())
}

fn start_with<const N: usize>(replies: [Reply; N], rules: Rules) -> Room {
    let start = Instant::now();
    let slept = Arc::new(AtomicU64::new(0));
    let clock = {
        let slept = Arc::clone(&slept);
        Clock::from_fn(move || {
            let slept = Duration::from_secs(slept.load(Ordering::SeqCst));
            SystemTime::UNIX_EPOCH + 500_000 * HOUR + start.elapsed() + slept
        })
    };
    let seen = Arc::new(Seen::default());
    let script = script("a", replies, &seen, &clock);
    let org = OrgName::new("acme");
    let metrics = Metrics::new().token(&org, script.grant_word());
    let (tokens, keeper) = keeper(org, rules, script, clock.clone(), metrics.clone());
    let changes = keeper.changes();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(stop.clone()));
    Room {
        tokens,
        changes,
        clock,
        seen,
        metrics,
        slept,
        stop,
        tasks,
        start,
    }
}

impl Room {
    fn logins(&self) -> usize {
        self.seen.logins.lock().unwrap().len()
    }

    /// Seconds after the start, rounded down.
    fn login_seconds(&self) -> Vec<u64> {
        let logins = self.seen.logins.lock().unwrap();
        logins.iter().map(|at| (*at - self.start).as_secs()).collect()
    }

    fn state(&self) -> StateWord {
        self.tokens.snapshot().state
    }

    async fn first(&self) -> Arc<Token> {
        self.tokens.get().await.unwrap()
    }

    async fn until(&self, after: Duration) {
        sleep_until(self.start + after).await;
    }

    /// A call in the background.
    fn renewing(&self, refused: Generation, calls: &mut JoinSet<Result<Arc<Token>, TokenError>>) {
        let tokens = self.tokens.clone();
        calls.spawn(async move { tokens.renewed(refused).await });
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        assert!(self.seen.most_in_flight.load(Ordering::SeqCst) <= 1);
        assert_eq!(self.metrics.waiters.get(), 0, "waiters left behind");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_token_is_minted_before_any_call() {
    let room = start([Grants]);
    assert_eq!(room.state(), StateWord::Starting);
    assert!(room.tokens.current().is_none());
    sleep(SECOND).await;
    assert_eq!(room.logins(), 1);
    assert_eq!(room.tokens.current().unwrap().generation, Generation(1));
    assert_eq!(room.state(), StateWord::Live);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_share_one_exchange() {
    let room = start([Grants]);
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let tokens = room.tokens.clone();
        calls.spawn(async move { tokens.get().await.unwrap().generation });
    }
    sleep(LOGIN / 2).await;
    assert_eq!(room.metrics.waiters.get(), 100);
    assert!(calls.join_all().await.iter().all(|g| *g == Generation(1)));
    assert_eq!(room.logins(), 1);

    let mut calls = JoinSet::new();
    for _ in 0..100 {
        room.renewing(Generation(1), &mut calls);
    }
    let renewed = calls.join_all().await;
    assert!(renewed.iter().all(|t| t.as_ref().unwrap().generation == Generation(2)));
    assert_eq!(room.logins(), 2);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sixty_four_callers_and_twenty_revocations_cost_twenty_exchanges() {
    let room = start([Grants]);
    room.first().await;
    let (barrier, revoked) = (Arc::new(Barrier::new(64)), Arc::new(AtomicU64::new(0)));
    let mut calls = JoinSet::new();
    for caller in 0..64 {
        let (tokens, barrier, revoked) = (room.tokens.clone(), barrier.clone(), revoked.clone());
        calls.spawn(async move {
            for round in 1..=20 {
                if barrier.wait().await.is_leader() {
                    revoked.store(round, Ordering::SeqCst);
                }
                barrier.wait().await;
                sleep(Duration::from_millis(caller * 7)).await;
                let mut token = tokens.get().await.unwrap();
                if token.generation.0 <= revoked.load(Ordering::SeqCst) {
                    token = tokens.renewed(token.generation).await.unwrap();
                }
                assert_eq!(token.generation.0, round + 1, "a dead token was handed out");
                tokens.worked(token.generation);
            }
        });
    }
    calls.join_all().await;
    assert_eq!(room.logins() - 1, 20);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_old_token_even_past_its_expiry() {
    let room = start([GrantsFor(HOUR), outage()]);
    let first = room.first().await;
    room.until(55 * MINUTE).await;
    assert!(room.logins() > 3, "no renewal was tried");
    assert_eq!(room.tokens.current().unwrap().generation, first.generation);
    assert_eq!(room.state(), StateWord::LiveRenewalFailing);
    assert_eq!(room.metrics.past_expiry.get(), 0);
    room.until(HOUR + SECOND).await;
    assert_eq!(
        room.metrics.past_expiry.get(),
        1,
        "told when it passes, not at the next attempt"
    );
    let before = Instant::now();
    assert_eq!(room.tokens.get().await.unwrap().generation, first.generation);
    assert_eq!(before.elapsed(), Duration::ZERO);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_permanently_refused_renewal_keeps_the_old_token_too() {
    let room = start([GrantsFor(HOUR), denied()]);
    let first = room.first().await;
    room.until(2 * HOUR).await;
    assert_eq!(room.tokens.get().await.unwrap().generation, first.generation);
    assert_eq!(room.state(), StateWord::LiveRefused);
    // Only when the org refuses it does a caller hear of it, at once.
    let before = Instant::now();
    let error = room.tokens.renewed(first.generation).await.unwrap_err();
    assert_eq!(error.reason, "refused");
    assert_eq!(before.elapsed(), Duration::ZERO);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(room.state(), StateWord::Refused);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn renewal_comes_at_three_quarters_of_a_told_life() {
    let room = start([GrantsFor(HOUR)]);
    room.until(40 * MINUTE).await;
    assert_eq!(room.logins(), 1);
    room.until(50 * MINUTE).await;
    assert_eq!(room.logins(), 2);
    assert_eq!(
        room.tokens.current().unwrap().generation,
        Generation(2),
        "the same string, a new generation"
    );
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_older_generation_is_ignored() {
    let room = start([Grants]);
    let first = room.first().await;
    let second = room.tokens.renewed(first.generation).await.unwrap();
    for _ in 0..10 {
        let again = room.tokens.renewed(first.generation).await.unwrap();
        assert_eq!(again.generation, second.generation);
    }
    sleep(MINUTE).await;
    assert_eq!(room.logins(), 2);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_never_was_poisons_nothing() {
    let room = start([Grants]);
    room.first().await;
    let renewed = room.tokens.renewed(Generation(u64::MAX)).await.unwrap();
    assert_eq!(renewed.generation, Generation(2));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejection_while_its_renewal_is_in_flight_is_answered_by_it() {
    let room = start([GrantsFor(HOUR)]);
    let first = room.first().await;
    while room.logins() < 2 {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(
        room.seen.in_flight.load(Ordering::SeqCst) == 1,
        "the scheduled renewal is in flight"
    );
    let renewed = room.tokens.renewed(first.generation).await.unwrap();
    assert_eq!(renewed.generation, Generation(2));
    sleep(MINUTE).await;
    assert_eq!(room.logins(), 2);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_did_not_help_starts_a_cool_down() {
    let room = start([Grants]);
    let first = room.first().await;
    let second = room.tokens.renewed(first.generation).await.unwrap();
    room.tokens.did_not_help(second.generation);
    let cooled = Instant::now();
    // A steady stream of refusals, each repeated once and refused again.
    while cooled.elapsed() < 29 * SECOND {
        let token = room.tokens.get().await.unwrap();
        let same = room.tokens.renewed(token.generation).await.unwrap();
        assert_eq!(same.generation, second.generation);
        room.tokens.did_not_help(same.generation);
        sleep(SECOND / 10).await;
    }
    assert_eq!(room.logins(), 2);
    // It ends although the refusals go on: one login for each cool-down.
    while cooled.elapsed() < 10 * MINUTE {
        let token = room.tokens.get().await.unwrap();
        let next = room.tokens.renewed(token.generation).await.unwrap();
        room.tokens.did_not_help(next.generation);
        sleep(SECOND / 10).await;
    }
    let logins = room.logins();
    assert!((20..=22).contains(&logins), "{logins}");
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_older_token_that_did_not_help_starts_no_cool_down() {
    let room = start([Grants]);
    let first = room.first().await;
    let second = room.tokens.renewed(first.generation).await.unwrap();
    room.tokens.did_not_help(first.generation);
    let third = room.tokens.renewed(second.generation).await.unwrap();
    assert_eq!(third.generation, Generation(3));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_permanent_refusal_is_told_from_memory_and_tried_again_ever_more_rarely() {
    let room = start([denied()]);
    sleep(SECOND).await;
    let before = Instant::now();
    let error = room.tokens.get().await.unwrap_err();
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(error.reason, "refused");
    let text = error.to_string();
    assert!(
        text.contains("invalid_grant: user hasn't approved this consumer"),
        "{text}"
    );
    assert!(text.contains("Login History"), "no advice: {text}");
    assert!(
        error.retry_after > 3 * SECOND && error.retry_after <= 5 * SECOND,
        "{error:?}"
    );
    assert_eq!(room.state(), StateWord::Refused);
    room.until(MINUTE).await;
    assert!(room.logins() <= 6, "{:?}", room.login_seconds());
    assert!(room.logins() >= 3, "{:?}", room.login_seconds());
    room.until(HOUR).await;
    let logins = room.login_seconds();
    assert_eq!(logins[..5], [0, 5, 20, 50, 110]);
    assert!((20..=25).contains(&logins.len()), "{logins:?}");
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn callers_do_not_wait_for_a_new_attempt_at_a_known_refusal() {
    let room = start([denied(), Hangs]);
    while room.logins() < 2 {
        sleep(LOGIN).await;
    }
    let before = Instant::now();
    assert_eq!(room.tokens.get().await.unwrap_err().reason, "refused");
    assert_eq!(before.elapsed(), Duration::ZERO);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_somebody_mended_heals_within_two_minutes() {
    let room = start([denied(), denied(), denied(), denied(), denied(), denied(), Grants]);
    while room.logins() < 6 {
        sleep(LOGIN).await;
    }
    let mended = Instant::now();
    while room.tokens.current().is_none() {
        sleep(LOGIN).await;
    }
    assert!(mended.elapsed() < 2 * MINUTE, "{:?}", mended.elapsed());
    assert_eq!(room.state(), StateWord::Live);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_passing_fault_is_waited_out() {
    let room = start([outage(), outage(), Grants]);
    let token = room.tokens.get().await.unwrap();
    assert_eq!(token.generation, Generation(1));
    assert!(room.start.elapsed() < 10 * SECOND);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_wait_would_be_in_vain_is_answered_at_once() {
    let room = start([outage()]);
    room.until(40 * SECOND).await;
    assert_eq!(room.state(), StateWord::Failing);
    // The pauses are 24 s and more by now; find a moment with more than the wait to go.
    while room
        .tokens
        .snapshot()
        .next_attempt
        .is_none_or(|next| next < 12 * SECOND)
    {
        sleep(SECOND / 10).await;
    }
    let next = room.tokens.snapshot().next_attempt.unwrap();
    let before = Instant::now();
    let error = room.tokens.get().await.unwrap_err();
    assert_eq!((error.reason, before.elapsed()), ("outage", Duration::ZERO));
    assert_eq!(error.retry_after, next);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_longer_than_it_may() {
    let room = start([Hangs, outage(), Hangs]);
    let before = Instant::now();
    let error = room.tokens.get().await.unwrap_err();
    assert_eq!(error.reason, "timed_out");
    assert_eq!(before.elapsed(), 10 * SECOND);
    // With a failure known, its reason is told.
    room.until(35 * SECOND).await;
    let before = Instant::now();
    let error = room.tokens.get().await.unwrap_err();
    assert_eq!(error.reason, "outage");
    assert_eq!(before.elapsed(), 10 * SECOND);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_hangs_is_given_up() {
    let room = start([Hangs, Grants]);
    room.until(MINUTE).await;
    assert_eq!(room.login_seconds().len(), 2);
    assert_eq!(room.state(), StateWord::Live);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn waiters_are_bounded_and_give_their_places_back() {
    let mut rules = rules();
    rules.settings.max_waiters = 3;
    let room = start_with([Hangs], rules);
    let mut calls = JoinSet::new();
    for _ in 0..3 {
        room.renewing(Generation(0), &mut calls);
    }
    sleep(SECOND).await;
    assert_eq!(room.metrics.waiters.get(), 3);
    assert_eq!(room.tokens.get().await.unwrap_err().reason, "too_many_waiters");
    calls.shutdown().await;
    assert_eq!(room.metrics.waiters.get(), 0);
    assert_eq!(room.tokens.snapshot().waiting, 0);
    assert_eq!(room.tokens.get().await.unwrap_err().reason, "timed_out");
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_cancels_nothing() {
    let room = start([Grants]);
    let first = room.first().await;
    let mut calls = JoinSet::new();
    room.renewing(first.generation, &mut calls);
    sleep(LOGIN / 2).await;
    assert_eq!(room.seen.in_flight.load(Ordering::SeqCst), 1);
    calls.shutdown().await;
    sleep(LOGIN).await;
    assert_eq!(room.tokens.current().unwrap().generation, Generation(2));
    assert_eq!(room.logins(), 2);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_renews_at_its_first_use() {
    let room = start([Grants]);
    room.first().await;
    sleep(MINUTE).await;
    room.slept.store(8 * 3600, Ordering::SeqCst);
    let used = Instant::now();
    for _ in 0..10 {
        let token = room.tokens.current().expect("not withdrawn by a clock");
        assert_eq!(token.generation, Generation(1));
    }
    sleep(LOGIN + LOGIN / 2).await;
    assert_eq!(room.tokens.current().unwrap().generation, Generation(2));
    assert!(used.elapsed() < SECOND);
    assert_eq!(room.logins(), 2);
    // And not again at each use.
    for _ in 0..10 {
        room.tokens.current().unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(room.logins(), 2);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_makes_renewals_wait_for_its_refill() {
    let room = start_with(
        [Grants],
        Rules {
            budget: Budget {
                burst: 2,
                per_minute: 4,
            },
            ..rules()
        },
    );
    let first = room.first().await;
    let second = room.tokens.renewed(first.generation).await.unwrap();
    assert_eq!(room.metrics.budget.get(), 0.0);
    // Refused, and no login to be had: worth one repeat as it is.
    let again = room.tokens.renewed(second.generation).await.unwrap();
    assert_eq!(again.generation, second.generation);
    assert_eq!(room.logins(), 2);
    // Known to be dead: the refill comes after 15 s, the wait is 10 s: told at once.
    let before = Instant::now();
    let error = room.tokens.renewed_dead(second.generation).await.unwrap_err();
    assert_eq!(error.reason, "budget_spent");
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(room.tokens.current().is_none(), "a dead token is not served");
    sleep(8 * SECOND).await;
    let third = room.tokens.get().await.unwrap();
    assert_eq!(third.generation, Generation(3));
    assert_eq!(room.logins(), 3);
    room.until(5 * MINUTE).await;
    assert_eq!(room.metrics.budget.get(), 2.0, "the gauge follows the refill");
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_that_is_minted_again_starts_a_cool_down() {
    let room = start([GrantsTheSame]);
    let first = room.first().await;
    let second = room.tokens.renewed(first.generation).await.unwrap();
    assert_eq!(second.generation, Generation(2));
    for _ in 0..100 {
        let again = room.tokens.renewed(second.generation).await.unwrap();
        assert_eq!(again.generation, second.generation, "repeated without a login");
    }
    assert_eq!(room.logins(), 2);
    sleep(31 * SECOND).await;
    assert_eq!(
        room.tokens.renewed(second.generation).await.unwrap().generation,
        Generation(3)
    );
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_does_not_take_a_token_away() {
    let rules = Rules {
        budget: Budget {
            burst: 1,
            per_minute: 0,
        },
        ..rules()
    };
    let room = start_with([GrantsFor(10 * MINUTE)], rules);
    room.first().await;
    room.until(30 * MINUTE).await;
    assert_eq!(room.state(), StateWord::LiveRenewalFailing);
    let snapshot = room.tokens.snapshot();
    assert_eq!(snapshot.failure.unwrap().reason, "budget_spent");
    assert_eq!(room.tokens.get().await.unwrap().generation, Generation(1));
    assert_eq!(room.logins(), 1);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejection_brings_a_passing_fault_s_next_attempt_forward_once() {
    let room = start([GrantsFor(10 * MINUTE), outage()]);
    let first = room.first().await;
    // Far into the backoff.
    room.until(12 * MINUTE).await;
    while room
        .tokens
        .snapshot()
        .next_attempt
        .is_none_or(|next| next < 30 * SECOND)
    {
        sleep(SECOND).await;
    }
    let before = (room.logins(), Instant::now());
    assert_eq!(
        room.tokens.renewed(first.generation).await.unwrap_err().reason,
        "outage"
    );
    assert!(before.1.elapsed() <= SECOND, "the attempt failed; its successor is far");
    assert_eq!(room.logins(), before.0 + 1, "brought forward");
    for _ in 0..20 {
        room.tokens.renewed(first.generation).await.unwrap_err();
    }
    assert_eq!(room.logins(), before.0 + 1, "only once");
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rejection_never_shortens_a_rate_limit() {
    let room = start([GrantsFor(10 * MINUTE), limited(Some(20 * MINUTE)), Grants]);
    let first = room.first().await;
    room.until(10 * MINUTE).await;
    assert_eq!(room.logins(), 2);
    let error = room.tokens.renewed(first.generation).await.unwrap_err();
    assert_eq!(error.reason, "rate_limited");
    assert!(error.retry_after > 10 * MINUTE);
    room.until(26 * MINUTE).await;
    assert_eq!(room.logins(), 2);
    // Up to a quarter more than asked.
    room.until(34 * MINUTE).await;
    assert_eq!(room.tokens.current().unwrap().generation, Generation(2));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_early_refusal_is_learned_and_quiet_lives_unlearn_it() {
    let room = start([Grants]);
    let first = room.first().await;
    assert_eq!(room.metrics.assumed_lifetime.get(), 5400.0);
    sleep(20 * MINUTE).await;
    room.tokens.renewed(first.generation).await.unwrap();
    assert_eq!(room.metrics.assumed_lifetime.get(), 1200.0);
    // The next is due after 15 minutes, give or take a tenth; then half again is assumed.
    sleep(17 * MINUTE).await;
    assert_eq!(room.logins(), 3);
    assert_eq!(room.metrics.assumed_lifetime.get(), 1800.0);
    sleep(6 * HOUR).await;
    assert_eq!(room.metrics.assumed_lifetime.get(), 5400.0);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_told_life_teaches_nothing() {
    let room = start([GrantsFor(HOUR)]);
    let first = room.first().await;
    sleep(MINUTE).await;
    room.tokens.renewed(first.generation).await.unwrap();
    assert_eq!(room.metrics.assumed_lifetime.get(), 5400.0);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stopping_in_mid_exchange_is_at_once_and_waiters_are_told() {
    let room = start([GrantsFor(HOUR), Hangs]);
    let first = room.first().await;
    let mut calls = JoinSet::new();
    room.renewing(first.generation, &mut calls);
    sleep(SECOND).await;
    assert_eq!(room.seen.in_flight.load(Ordering::SeqCst), 1);
    let (before, tokens) = (Instant::now(), room.tokens.clone());
    room.stop().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    let error = calls.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason, "stopping");
    assert_eq!(tokens.get().await.unwrap_err().reason, "stopping");
}

#[tokio::test(start_paused = true)]
async fn the_last_token_outlives_the_keeper() {
    let room = start([Grants]);
    room.first().await;
    let mut tokens = room.tokens.clone();
    room.stop().await;
    assert_eq!(tokens.get().await.unwrap().generation, Generation(1));
    while tokens.changed().await {}
}

#[tokio::test(start_paused = true)]
async fn what_the_org_took_is_remembered_for_its_generation() {
    let room = start([Grants]);
    let first = room.first().await.generation;
    assert_eq!(room.tokens.seen_working(first), None);
    room.tokens.worked(first);
    sleep(MINUTE).await;
    assert_eq!(room.tokens.seen_working(first), Some(MINUTE));
    assert_eq!(room.tokens.seen_working(Generation(2)), None);
    assert!(room.tokens.worked_since(first) && !room.tokens.worked_since(Generation(2)));
    room.tokens.worked(Generation(2));
    room.tokens.worked(first);
    assert_eq!(room.tokens.seen_working(Generation(2)), Some(Duration::ZERO));
    assert!(room.tokens.worked_since(first) && room.tokens.worked_since(Generation(2)));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_refusals_never_overlaps_logins_nor_exceeds_the_budget() {
    let rules = Rules {
        budget: Budget {
            burst: 5,
            per_minute: 4,
        },
        ..rules()
    };
    let room = start_with([Grants, outage(), Grants, Grants], rules);
    let mut calls = JoinSet::new();
    for caller in 0..50 {
        let tokens = room.tokens.clone();
        calls.spawn(async move {
            for _ in 0..300 {
                if let Ok(token) = tokens.get().await {
                    let _ = tokens.renewed(token.generation).await;
                }
                sleep(Duration::from_millis(1000 + caller)).await;
            }
        });
    }
    calls.join_all().await;
    let minutes = room.start.elapsed().as_secs_f64() / 60.0;
    let logins = room.logins();
    assert!(logins > 10, "the storm was none: {logins}");
    #[expect(clippy::cast_precision_loss, reason = "few logins")]
    let logins = logins as f64;
    assert!(logins <= 5.0 + 4.0 * minutes, "{logins} in {minutes} min");
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn metrics_and_debug_tell_the_state_and_no_secret() {
    let room = start([Grants, denied()]);
    let token = room.first().await;
    assert!(room.metrics.expiry.get() > room.metrics.minted.get());
    let error = room.tokens.renewed(token.generation).await.unwrap_err();
    let all = format!("{token:?} {error:?} {error} {:?}", room.tokens.snapshot());
    assert!(!all.contains("CANARY"), "{all}");
    assert!(all.contains("refused"));
    room.stop().await;
}
