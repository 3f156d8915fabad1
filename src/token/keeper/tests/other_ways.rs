//! Tokens that cost no login, logins that must not be abandoned, and budgets that several keepers share.

use std::sync::atomic::AtomicBool;

use super::*;

/// A login host of few words, and the store beside it.
#[derive(Default)]
struct Host {
    logins: AtomicUsize,
    asked: Mutex<Vec<(Why, u64)>>,
    /// Answered from the store, without a login.
    stored: Mutex<Option<Minted>>,
    unsent: AtomicBool,
    spends: AtomicBool,
    touch: Mutex<Option<Touch>>,
    touches: AtomicUsize,
}

#[derive(Clone, Default)]
struct Link(Arc<Host>);

impl Exchange for Link {
    async fn exchange(&self, ask: Ask<'_>) -> Result<Minted, Refusal> {
        let host = &self.0;
        host.asked
            .lock()
            .unwrap()
            .push((ask.why, ask.held.map_or(0, |held| held.serial)));
        if let Some(minted) = host.stored.lock().unwrap().take() {
            return Ok(minted);
        }
        if host.unsent.load(Ordering::SeqCst) {
            return Err(Refusal::of("needs_login", None));
        }
        sleep(LOGIN).await;
        let n = host.logins.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(token(n))
    }

    fn abandonable(&self) -> bool {
        !self.0.spends.load(Ordering::SeqCst)
    }

    async fn keep_alive(&self, _: &Token) -> Touch {
        self.0.touches.fetch_add(1, Ordering::SeqCst);
        self.0.touch.lock().unwrap().unwrap_or(Touch::Unknown)
    }

    fn takes_over(&mut self, _: Self) -> bool {
        true
    }

    fn grant_word(&self) -> &'static str {
        "refresh_token"
    }
}

fn token(n: usize) -> Minted {
    let instance = Instance::parse("https://acme.my.salesforce.com").unwrap();
    Minted {
        serial: n as u64,
        ..Minted::new(format!("00Dxx!{n}").into(), Arc::new(instance))
    }
}

/// As the store gives it: minted an hour before the clock's beginning.
fn adopted(serial: usize, age: Duration) -> Minted {
    Minted {
        adopted: true,
        minted_at: Some(beginning() - age),
        ..token(serial)
    }
}

fn beginning() -> SystemTime {
    SystemTime::UNIX_EPOCH + 500_000 * HOUR
}

struct At {
    tokens: Tokens,
    metrics: TokenMetrics,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn at(host: &Link, rules: Rules) -> At {
    let start = Instant::now();
    let clock = Clock::from_fn(move || beginning() + start.elapsed());
    let org = OrgName::new("acme");
    let metrics = Metrics::new().token(&org, "refresh_token");
    let (tokens, keeper) = keeper(org, rules, host.clone(), clock, metrics.clone());
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(stop.clone()));
    At {
        tokens,
        metrics,
        stop,
        tasks,
    }
}

fn budget_of(burst: u32) -> Rules {
    Rules {
        budget: Budget { burst, per_minute: 0 },
        ..rules()
    }
}

fn keeping_alive() -> Rules {
    let mut rules = rules();
    rules.settings.keep_alive = true;
    rules
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_costs_no_login_and_its_renewal_counts_from_its_mint() {
    let host = Link::default();
    *host.0.stored.lock().unwrap() = Some(adopted(7, HOUR));
    let room = at(&host, budget_of(1));
    let first = room.tokens.get().await.unwrap();
    assert!(first.adopted && first.serial == 7);
    assert_eq!(
        (host.0.logins.load(Ordering::SeqCst), room.metrics.budget.get()),
        (0, 1.0)
    );
    assert_eq!(room.tokens.snapshot().minted_at, Some(beginning() - HOUR));
    // 75 % of 90 minutes, less the hour that it had lived: within a quarter of an hour.
    sleep(15 * MINUTE).await;
    assert_eq!(host.0.logins.load(Ordering::SeqCst), 1, "not renewed in time");
    assert_eq!(
        *host.0.asked.lock().unwrap(),
        [(Why::Start, 0), (Why::Due, 7)],
        "the store is told what is held already"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_costs_no_login_of_the_budget() {
    let host = Link::default();
    host.0.unsent.store(true, Ordering::SeqCst);
    let room = at(&host, budget_of(1));
    let refused = room.tokens.get().await.unwrap_err();
    assert_eq!(refused.reason, "needs_login");
    sleep(MINUTE).await;
    assert!(host.0.asked.lock().unwrap().len() >= 5, "looked at again every 10 s");
    assert_eq!(room.metrics.budget.get(), 1.0);
    host.0.unsent.store(false, Ordering::SeqCst);
    sleep(11 * SECOND).await;
    assert!(room.tokens.current().is_some(), "heals by itself");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_spends_something_is_awaited_at_the_end() {
    for spends in [true, false] {
        let host = Link::default();
        host.0.spends.store(spends, Ordering::SeqCst);
        let mut room = at(&host, rules());
        sleep(LOGIN / 2).await;
        room.stop.cancel();
        room.tasks.join_next().await.unwrap().unwrap();
        assert_eq!(host.0.logins.load(Ordering::SeqCst), usize::from(spends));
        assert_eq!(room.tokens.current().is_some(), spends, "what came is readable");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_used_once_needs_no_login() {
    let host = Link::default();
    *host.0.touch.lock().unwrap() = Some(Touch::Alive);
    let room = at(&host, keeping_alive());
    let first = room.tokens.get().await.unwrap();
    sleep(24 * HOUR).await;
    assert_eq!(host.0.logins.load(Ordering::SeqCst), 1);
    let touches = host.0.touches.load(Ordering::SeqCst);
    assert!((19..=24).contains(&touches), "{touches} uses in a day");
    let now = room.tokens.current().unwrap();
    assert_eq!(now.generation, first.generation, "it is the same token");
    assert!(now.expiry.at() > first.expiry.at(), "with more life before it");
    assert_eq!(room.metrics.past_expiry.get(), 0);
    // The org refuses it all the same.
    let next = room.tokens.renewed(now.generation).await.unwrap();
    assert!(next.generation > now.generation);
    assert_eq!(host.0.logins.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_kept_alive_is_renewed() {
    for touch in [Touch::Dead, Touch::Unknown] {
        let host = Link::default();
        *host.0.touch.lock().unwrap() = Some(touch);
        let room = at(&host, keeping_alive());
        room.tokens.get().await.unwrap();
        sleep(75 * MINUTE).await;
        assert_eq!(host.0.logins.load(Ordering::SeqCst), 2, "{touch:?}");
    }
    // And none is used that nobody asked to keep alive.
    let host = Link::default();
    let room = at(&host, rules());
    room.tokens.get().await.unwrap();
    sleep(75 * MINUTE).await;
    assert_eq!(host.0.touches.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn keepers_that_share_a_budget_log_in_no_more_than_it_allows() {
    let host = Link::default();
    let common = Arc::new(Mutex::new(Bucket::new(
        Budget {
            burst: 3,
            per_minute: 0,
        },
        Instant::now(),
    )));
    let rooms: Vec<At> = (0..5)
        .map(|_| {
            at(
                &host,
                Rules {
                    common: Some(Arc::clone(&common)),
                    ..budget_of(60)
                },
            )
        })
        .collect();
    sleep(MINUTE).await;
    assert_eq!(host.0.logins.load(Ordering::SeqCst), 3);
    let waiting: Vec<_> = rooms.iter().filter(|room| room.tokens.current().is_none()).collect();
    assert_eq!(waiting.len(), 2);
    for room in waiting {
        assert_eq!(room.tokens.get().await.unwrap_err().reason, "budget_spent");
        assert_eq!(room.metrics.budget.get(), 60.0, "its own was given back");
    }
}
