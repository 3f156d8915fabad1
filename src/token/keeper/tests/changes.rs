//! A keeper whose settings, secrets or identity are changed while it runs.

use super::*;

impl Room {
    /// Another exchange, for `who`, with a login host of its own; what that one sees.
    fn change<const N: usize>(&self, who: &'static str, replies: [Reply; N], rules: Rules) -> Arc<Seen> {
        let seen = Arc::new(Seen::default());
        let script = script(who, replies, &seen, &self.clock);
        self.changes.change(script, rules, self.metrics.clone());
        seen
    }

    fn generation(&self) -> u64 {
        self.tokens.current().expect("a token").generation.0
    }
}

fn logins(seen: &Seen) -> usize {
    seen.logins.lock().unwrap().len()
}

#[tokio::test(start_paused = true)]
async fn a_change_costs_no_login_and_counts_from_the_next() {
    let room = start([GrantsFor(HOUR)]);
    room.first().await;
    let mut shorter = rules();
    shorter.settings.lifetime = 10 * MINUTE;
    let second = room.change("a", [Grants], shorter);
    room.until(30 * MINUTE).await;
    assert_eq!((room.logins(), logins(&second)), (1, 0));
    // The token's own hour, then lives of ten minutes.
    room.until(56 * MINUTE).await;
    assert_eq!((room.logins(), room.generation()), (1, 2 + logins(&second) as u64 - 1));
    room.until(2 * HOUR).await;
    let renewals = logins(&second);
    assert!((6..=12).contains(&renewals), "{renewals}");
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_ends_the_wait_after_a_refusal() {
    let room = start([denied()]);
    sleep(SECOND).await;
    assert_eq!((room.state(), room.logins()), (StateWord::Refused, 1));
    let second = room.change("a", [Grants], rules());
    sleep(LOGIN * 2).await;
    assert_eq!((room.state(), logins(&second)), (StateWord::Live, 1));
    assert_eq!(room.logins(), 1);
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_identity_logs_in_at_once_and_the_token_before_serves_until_it_has() {
    let room = start([GrantsFor(HOUR)]);
    room.first().await;
    let second = room.change("b", [denied(), Grants], rules());
    sleep(SECOND).await;
    assert_eq!((room.generation(), logins(&second)), (1, 1));
    assert_eq!(room.state(), StateWord::LiveRefused);
    // The first retry.
    room.until(10 * SECOND).await;
    assert_eq!((room.generation(), logins(&second)), (2, 2));
    assert_eq!((room.state(), room.logins()), (StateWord::Live, 1));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn of_changes_that_nobody_saw_the_newest_counts() {
    let room = start([GrantsFor(HOUR)]);
    room.first().await;
    // There and back: what came between may have been handed out to nobody, but it is another identity's.
    let between = room.change("b", [Grants], rules());
    let back = room.change("a", [Grants], rules());
    sleep(SECOND).await;
    assert_eq!((logins(&between), logins(&back), room.generation()), (0, 1, 2));
    // The same twice is one change.
    let again = room.change("b", [Grants], rules());
    let newest = room.change("b", [Grants], rules());
    sleep(SECOND).await;
    assert_eq!((logins(&again), logins(&newest), room.generation()), (0, 1, 3));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_gives_back_no_login_that_was_spent() {
    let budget = |burst| Rules {
        budget: Budget { burst, per_minute: 0 },
        ..rules()
    };
    let room = start_with([GrantsFor(HOUR)], budget(2));
    room.first().await;
    let same = room.change("b", [Grants], budget(2));
    sleep(SECOND).await;
    assert_eq!(logins(&same), 1);
    let third = room.change("c", [Grants], budget(2));
    room.until(HOUR).await;
    assert_eq!((logins(&third), room.generation()), (0, 2));
    let one_more = room.change("d", [Grants], budget(3));
    sleep(SECOND).await;
    assert_eq!((logins(&one_more), room.generation()), (1, 3));
    room.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_login_brings_that_a_change_overtook_is_not_used() {
    let room = start([Grants]);
    sleep(LOGIN / 2).await;
    let second = room.change("b", [GrantsFor(HOUR)], rules());
    let token = room.first().await;
    // The login of before is not broken off: it may spend something.
    assert_eq!((room.logins(), logins(&second)), (1, 1));
    assert!(matches!(token.expiry, Expiry::Known(_)), "of the identity before");
    room.stop().await;
}
