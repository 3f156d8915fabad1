use super::*;
use crate::metrics::Metrics;

fn cache(max_size: u64, max_entry: u64) -> (Metrics, Arc<Cache>) {
    let metrics = Metrics::new();
    let settings = config::Cache {
        ttl: Duration::from_secs(60),
        max_size,
        max_entry,
        paths: vec![],
    };
    let of_org = metrics.cache("main");
    (metrics, Arc::new(Cache::new(&settings, of_org)))
}

fn key(cache: &Cache, target: &str) -> Key {
    Key {
        epoch: cache.epoch(),
        account: 1,
        whose: Whose::Known(Arc::new(Identity {
            org_id: "00D".into(),
            user_id: "005".into(),
        })),
        instance: "https://acme.my.salesforce.com".into(),
        target: target.into(),
        shaping: vec![],
    }
}

fn entry() -> Entry {
    Entry {
        headers: HeaderMap::new(),
        body: Bytes::new(),
        varies: vec![],
        conditions: vec![],
        since: Instant::now(),
        age: Duration::ZERO,
        ttl: Duration::from_secs(60),
    }
}

/// The body passes in pieces of this size.
fn pass(cache: &Arc<Cache>, target: &str, body: &[u8], length: Option<u64>, piece: usize) {
    let Some(mut copy) = cache.copy(key(cache, target), entry(), length) else {
        return;
    };
    body.chunks(piece).for_each(|piece| copy.see(piece));
    copy.ended();
    copy.ended();
}

#[test]
fn a_whole_answer_is_kept_in_one_piece() {
    let (_metrics, cache) = cache(1 << 20, 1 << 10);
    for (target, length) in [("/a", None), ("/b", Some(9))] {
        pass(&cache, target, b"123456789", length, 2);
        let found = cache.get(&key(&cache, target)).unwrap();
        assert_eq!(&found.body[..], b"123456789", "{target}");
    }
    assert_eq!(cache.copying.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_broken_off_too_long_or_not_as_long_as_it_said_is_not_kept() {
    let (_metrics, cache) = cache(1 << 20, 1 << 10);
    let long = vec![b'x'; (1 << 10) + 1];
    pass(&cache, "/long", &long, None, 100);
    pass(&cache, "/long", &long, Some(long.len() as u64), 100);
    pass(&cache, "/short", b"1234", Some(5), 2);
    pass(&cache, "/lies", &long, Some(7), 100);
    let mut left = cache.copy(key(&cache, "/left"), entry(), Some(4)).unwrap();
    left.see(b"1234");
    drop(left);
    let mut trailers = cache.copy(key(&cache, "/trailers"), entry(), None).unwrap();
    trailers.see(b"1234");
    trailers.give_up();
    trailers.see(b"5");
    trailers.ended();
    drop(trailers);
    for target in ["/long", "/short", "/lies", "/left", "/trailers"] {
        assert!(cache.get(&key(&cache, target)).is_none(), "{target}");
    }
    assert_eq!(cache.copying.load(Ordering::Relaxed), 0);
}

#[test]
fn another_in_any_part_of_the_key_finds_nothing() {
    let (_metrics, cache) = cache(1 << 20, 1 << 10);
    pass(&cache, "/a", b"x", None, 9);
    let own = || key(&cache, "/a");
    assert!(cache.get(&own()).is_some());
    let identity = |org: &str, user: &str| {
        Whose::Known(Arc::new(Identity {
            org_id: org.into(),
            user_id: user.into(),
        }))
    };
    let others = [
        Key { account: 2, ..own() },
        Key {
            whose: identity("00D", "006"),
            ..own()
        },
        Key {
            whose: identity("00E", "005"),
            ..own()
        },
        Key {
            whose: Whose::OfToken(1),
            ..own()
        },
        Key {
            instance: "https://other.my.salesforce.com".into(),
            ..own()
        },
        Key {
            target: "/a?x".into(),
            ..own()
        },
        Key { epoch: 1, ..own() },
        Key {
            shaping: vec![(http::header::ACCEPT, HeaderValue::from_static("x"))],
            ..own()
        },
    ];
    for (n, other) in others.iter().enumerate() {
        assert!(cache.get(other).is_none(), "{n}");
    }
}

#[test]
fn all_of_it_is_bounded_by_bytes() {
    let (metrics, cache) = cache(64 << 10, 16 << 10);
    let body = vec![b'x'; 10 << 10];
    for n in 0..100 {
        pass(&cache, &format!("/{n}"), &body, None, 4096);
        assert!(cache.entries.weighted_size() <= 64 << 10, "{n}");
    }
    assert!(
        cache.get(&key(&cache, "/99")).is_some(),
        "the last came in place of the others"
    );
    assert!(cache.get(&key(&cache, "/0")).is_none());
    let gauge = metrics.cache("main");
    assert!((5..=6).contains(&gauge.entries.get()), "{}", gauge.entries.get());
    assert!(
        (50 << 10..=64 << 10).contains(&gauge.bytes.get()),
        "{}",
        gauge.bytes.get()
    );
}

#[test]
fn copies_under_way_are_bounded_as_well() {
    let (_metrics, cache) = cache(64 << 10, 16 << 10);
    let piece = vec![b'x'; 16 << 10];
    let mut copies: Vec<_> = (0..10)
        .map(|n| {
            let length = (n % 2 == 0).then_some(16 << 10);
            cache.copy(key(&cache, &format!("/{n}")), entry(), length).unwrap()
        })
        .collect();
    copies.iter_mut().for_each(|copy| copy.see(&piece));
    let held: usize = copies.iter().map(|copy| copy.seen.len()).sum();
    assert_eq!(held, 64 << 10);
    copies.iter_mut().for_each(Copying::ended);
    drop(copies);
    assert_eq!(cache.copying.load(Ordering::Relaxed), 0);
    pass(&cache, "/later", &piece, None, 1000);
    assert!(cache.get(&key(&cache, "/later")).is_some());
}

#[test]
fn a_purge_forgets_also_what_is_on_its_way() {
    let (metrics, cache) = cache(1 << 20, 1 << 10);
    pass(&cache, "/a", b"x", None, 9);
    pass(&cache, "/b", b"x", None, 9);
    let before = key(&cache, "/a");
    let mut under_way = cache.copy(key(&cache, "/c"), entry(), None).unwrap();
    under_way.see(b"x");
    let asked = key(&cache, "/c");
    assert_eq!(cache.purge(), 2);
    under_way.ended();
    for key in [before, key(&cache, "/a"), asked, key(&cache, "/c")] {
        assert!(cache.get(&key).is_none());
    }
    let gauge = metrics.cache("main");
    assert_eq!((gauge.entries.get(), gauge.bytes.get()), (0, 0));
    assert_eq!(cache.purge(), 0);
    pass(&cache, "/a", b"x", None, 9);
    assert!(cache.get(&key(&cache, "/a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_answer_ages() {
    let entry = Entry {
        age: Duration::from_secs(5),
        ..entry()
    };
    let at = |seconds| entry.at(entry.since + Duration::from_secs(seconds));
    let both = |age, left| (Duration::from_secs(age), Duration::from_secs(left));
    assert_eq!(at(0), both(5, 60));
    assert_eq!(at(59), both(64, 1));
    assert_eq!(at(60), both(65, 0));
    assert_eq!(at(99), both(104, 0));
}
