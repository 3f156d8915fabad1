//! A store that is away, or held by somebody.

use super::*;

type Breaks = fn(&Room, &Org);

/// Ways in which a store with a record fails; each returns its word.
const AWAY: [(&str, Breaks); 4] = [
    ("damaged", |room, org| {
        let file = record_file(room, org);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
    }),
    ("other_key", |room, _| {
        room.put("key", &"08".repeat(32));
    }),
    ("key_unusable", |room, _| fs::remove_file(room.path("key")).unwrap()),
    ("unwritable", |room, _| std::mem::forget(room.store_away())),
];

fn record_file(room: &Room, org: &Org) -> PathBuf {
    let mark = crate::store::seal::identity_mark(&key_of(org).identity);
    room.path("records").join(format!("main.{mark}.sealed"))
}

#[tokio::test]
async fn a_grant_that_may_be_repeated_does_without_a_store_that_is_away_and_leaves_it_alone() {
    for (word, breaks) in AWAY {
        let (room, host) = (Room::new(), Host::start().await);
        let org = room.org(&host, room.credentials());
        let store = room.store();
        let kept = room.kept(&org, &store);
        host.says([ok("first"), ok("second")]);
        tried(&kept, &host, START).await.unwrap();
        breaks(&room, &org);
        let before = fs::read(record_file(&room, &org)).ok();
        let token = held_with("first", 1);
        assert_eq!(
            tried(&kept, &host, ask(Why::Refused, &token)).await.unwrap(),
            "second",
            "{word}"
        );
        assert_eq!(fs::read(record_file(&room, &org)).ok(), before, "{word}");
    }
}

#[tokio::test]
async fn a_refresh_token_waits_for_a_store_that_is_away_and_nothing_is_sent() {
    for (word, breaks) in AWAY {
        let this = Refreshed::new(|_| {}).await;
        this.has(this.room.descended("r1")).await;
        breaks(&this.room, &this.org);
        let refusal = this.tried().await.unwrap_err();
        assert_eq!((refusal.reason, refusal.class), ("store", Class::Transient), "{word}");
        assert!(refusal.to_string().contains("store"), "{refusal}");
        assert_eq!(this.host.saw(), [] as [&str; 0], "{word}");
    }
}

#[tokio::test]
async fn a_store_that_somebody_holds_is_waited_for_only_so_long() {
    let (room, host) = (Room::new(), Host::start().await);
    for (grant, goes_on) in [(room.credentials(), true), (Grant::RefreshToken(room.refresh()), false)] {
        let mut org = room.org(&host, grant);
        // Also the bound of the login, which is real.
        org.token.exchange_timeout = Duration::from_millis(700);
        let store = Store::open(&config::Store::Memory).unwrap();
        let _somebody = store.lock(&key_of(&org), Duration::ZERO).await.unwrap();
        let kept = room.kept(&org, &store);
        host.says([ok("a")]);
        let outcome = tried(&kept, &host, START).await;
        assert_eq!(outcome.as_deref().ok(), goes_on.then_some("a"));
        assert_eq!(host.saw().len(), usize::from(goes_on));
    }
}

#[tokio::test]
async fn a_token_of_a_repeatable_grant_counts_also_if_it_cannot_be_recorded() {
    let (room, host) = (Room::new(), Host::start().await);
    let org = room.org(&host, room.credentials());
    let store = room.store();
    let (here, away) = (room.path("records"), room.path("records.away"));
    host.does_and_says(move || fs::rename(here, away).unwrap(), ok("a"));
    assert_eq!(tried(&room.kept(&org, &store), &host, START).await.unwrap(), "a");
}
