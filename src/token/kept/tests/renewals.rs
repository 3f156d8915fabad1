//! Dead tokens, new logins, subject tokens, found tokens, and what ends half-way.

use super::*;

#[tokio::test]
async fn a_dead_refresh_token_is_remembered_over_a_restart_and_not_presented_again() {
    for rotation in [Rotation::Unknown, Rotation::On, Rotation::Off] {
        let mut this = Refreshed::new(|_| {}).await;
        this.has(StoredGrant {
            rotation,
            ..this.room.descended("r1")
        })
        .await;
        this.host.says([dead()]);
        assert_eq!(reason(this.tried().await), "refresh_token_dead");
        for restarts in [false, true] {
            if restarts {
                this.restart();
            }
            let refusal = this.tried().await.unwrap_err();
            assert_eq!(refusal.reason, "refresh_token_dead", "{rotation:?}");
            assert!(refusal.to_string().contains("sf-token-proxy login main"), "{refusal}");
            assert_eq!(refusal.class, Class::Unsent, "looked at again soon");
        }
        assert_eq!(this.host.saw(), ["present:r1"], "{rotation:?}");
        // A new one in the settings is another.
        this.room.put("seed", "seed2");
        this.host.says([ok("a2")]);
        assert_eq!(this.tried().await.unwrap(), "a2", "{rotation:?}");
        assert_eq!(this.host.saw(), ["present:seed2"]);
        assert_eq!(this.grant().await.dead, None);
    }
}

#[tokio::test]
async fn a_new_seed_counts_more_than_the_record_and_the_same_seed_does_not() {
    let this = Refreshed::new(|_| {}).await;
    let record = Record {
        serial: 5,
        token: None,
        grant: Some(StoredGrant {
            in_flight: true,
            ..this.room.descended("r7")
        }),
    };
    this.put(&record).await;
    this.host.introspects([active(true)]);
    this.host.says([rotated("a8", "r8")]);
    assert_eq!(this.tried().await.unwrap(), "a8");
    assert_eq!(this.host.saw(), ["ask:r7", "present:r7"]);

    // The stored access token is the old grant's, perhaps of another user.
    this.room.put("seed", "seed2");
    this.host.says([rotated("b1", "q1")]);
    assert_eq!(this.tried().await.unwrap(), "b1");
    assert_eq!(this.host.saw(), ["present:seed2"]);
    let grant = this.grant().await;
    assert_eq!(grant.seed, Some(fingerprint(&"seed2".into())));
    assert_eq!(grant.refresh_token.expose_secret(), "q1");
    // The new seed's own token is adopted.
    assert_eq!(this.tried().await.unwrap(), "b1");
    assert_eq!(this.host.saw(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_login_of_another_process_is_taken_up() {
    let this = Refreshed::new(|g| g.refresh_token = None).await;
    let refusal = this.tried().await.unwrap_err();
    assert_eq!((refusal.reason, refusal.class), ("needs_login", Class::Unsent));
    assert!(refusal.to_string().contains("sf-token-proxy login main"), "{refusal}");
    let of_login = |token: &str| StoredGrant {
        seed: None,
        rotation: Rotation::Unknown,
        ..this.room.descended(token)
    };
    // Only the grant …
    this.has(of_login("l1")).await;
    this.host.says([dead()]);
    assert_eq!(reason(this.tried().await), "refresh_token_dead");
    assert_eq!(reason(this.tried().await), "refresh_token_dead");
    assert_eq!(this.host.saw(), ["present:l1"]);
    // … or its token as well.
    let record = Record {
        serial: 6,
        token: Some(this.room.stored()),
        grant: Some(of_login("l2")),
    };
    this.put(&record).await;
    assert_eq!(this.tried().await.unwrap(), "stored");
    assert_eq!(this.host.saw(), [] as [&str; 0]);
    let token = held_with("stored", 6);
    this.host.says([ok("a")]);
    let next = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
    assert_eq!(next.unwrap(), "a");
    assert_eq!(this.host.saw(), ["present:l2"]);
}

#[tokio::test]
async fn two_on_one_store_log_in_once() {
    let (room, host) = (Room::new(), Host::start().await);
    for grant in [room.credentials(), Grant::RefreshToken(room.refresh())] {
        let org = room.org(&host, grant);
        // Two stores, as of two processes.
        let (one, two) = (room.kept(&org, &room.store()), room.kept(&org, &room.store()));
        host.says([rotated("a", "r")]);
        let (first, second) = tokio::join!(one.exchange(START), two.exchange(START));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.serial, second.serial), (1, 1));
        assert!(first.adopted != second.adopted);
        assert_eq!(host.saw().len(), 1);
    }
}

#[tokio::test]
async fn a_subject_token_without_an_answer_is_not_presented_again_until_it_changes() {
    for (what, say) in unknown() {
        let (room, host) = (Room::new(), Host::start().await);
        let org = room.org(&host, room.exchange());
        let kept = room.kept(&org, &Store::open(&config::Store::Memory).unwrap());
        host.says([say]);
        tried(&kept, &host, START).await.unwrap_err();
        for _ in 0..2 {
            let refusal = tried(&kept, &host, START).await.unwrap_err();
            assert_eq!(
                (refusal.reason, refusal.class),
                ("subject_token", Class::Unsent),
                "{what}"
            );
            assert!(refusal.to_string().contains("subject"), "{refusal}");
        }
        assert_eq!(host.saw(), ["present:subject"], "{what}");
        room.put("subject", "subject2");
        host.says([ok("a")]);
        assert_eq!(tried(&kept, &host, START).await.unwrap(), "a", "{what}");
        assert_eq!(host.saw(), ["present:subject2"], "{what}");
    }
}

#[tokio::test]
async fn a_subject_token_that_was_refused_or_never_left_may_be_presented_again() {
    let (room, host) = (Room::new(), Host::start().await);
    let org = room.org(&host, room.exchange());
    let kept = room.kept(&org, &Store::open(&config::Store::Memory).unwrap());
    host.says([refused("invalid_grant", "login rate exceeded"), ok("a"), ok("b")]);
    assert_eq!(reason(tried(&kept, &host, START).await), "login_rate");
    assert_eq!(tried(&kept, &host, START).await.unwrap(), "a");
    let token = held_with("a", 1);
    let again = tried(&kept, &host, ask(Why::Refused, &token)).await;
    assert_eq!(again.unwrap(), "b");
    assert_eq!(host.saw(), ["present:subject"; 3]);
}

#[tokio::test]
async fn a_found_token_that_was_refused_and_is_still_there_is_asked_about_by_one_cheap_call() {
    let (room, host) = (Room::new(), Host::start().await);
    let instance = host.url.as_str().trim_end_matches('/').to_owned();
    let json = |token: &str| format!(r#"{{"result":{{"accessToken":"{token}","instanceUrl":"{instance}"}}}}"#);
    let script = room.path("json");
    let by_file = Grant::Static(config::Static {
        access_token: room.file("static"),
    });
    let by_command = Grant::Command(config::Command {
        argv: vec!["cat".into(), script.display().to_string()],
    });
    for (grant, word) in [(by_file, "static_token_dead"), (by_command, "command_failed")] {
        let is = |token: &str| {
            room.put("static", token);
            fs::write(&script, json(token)).unwrap();
        };
        is("found");
        let mut org = room.org(&host, grant);
        org.instance_url = Some(host.url.clone());
        let kept = room.kept(&org, &Store::open(&config::Store::Memory).unwrap());
        let first = kept.exchange(START).await.unwrap();
        assert_eq!(first.secret.expose_secret(), "found");
        let token = held(&first);
        // Not refused: no reason to ask.
        assert_eq!(tried(&kept, &host, ask(Why::Due, &token)).await.unwrap(), "found");
        assert_eq!(host.saw(), [] as [&str; 0]);
        for (status, again) in [(200, true), (403, true), (500, true), (401, false)] {
            host.touched(status);
            let next = tried(&kept, &host, ask(Why::Refused, &token)).await;
            match again {
                true => assert_eq!(next.unwrap(), "found", "{word} {status}"),
                false => assert_eq!(reason(next), word),
            }
            assert_eq!(host.saw(), ["touch"], "{word} {status}");
        }
        is("another");
        let next = tried(&kept, &host, ask(Why::Refused, &token)).await;
        assert_eq!(next.unwrap(), "another", "{word}");
        assert_eq!(host.saw(), [] as [&str; 0]);
    }
}

/// With rotation the presented token is spent by an answer, be the rest of that answer useless.
#[tokio::test]
async fn a_successor_in_an_answer_that_is_no_good_is_not_lost() {
    for (text, reason) in [
        (
            r#"{"access_token":"a","refresh_token":"r","instance_url":"http://evil.example"}"#,
            "unsafe_instance_url",
        ),
        (r#"{"access_token":"a","refresh_token":"r"}"#, "malformed_answer"),
    ] {
        let mut this = Refreshed::new(|_| {}).await;
        this.host.says([Say::Json(200, text.to_owned()), rotated("b", "s")]);
        assert_eq!(this.kept.exchange(START).await.unwrap_err().reason, reason);
        this.restart();
        this.kept.exchange(START).await.unwrap();
        assert_eq!(this.host.saw(), ["present:seed", "present:r"]);
    }
}

#[tokio::test]
async fn a_token_whose_end_nobody_told_is_asked_about_if_the_operator_wants_it() {
    for (wanted, told, expected) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut this = Refreshed::new(|_| {}).await;
        this.org.token.introspect = wanted;
        this.restart();
        let end = this.room.now() + Duration::from_secs(1234);
        let seconds = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let says = serde_json::json!({"active": true, "exp": seconds}).to_string();
        let no = Say::Json(500, String::new());
        this.host.introspects([if told { Say::Json(200, says) } else { no }]);
        this.host.says([rotated("a", "r")]);
        let minted = this.kept.exchange(START).await.unwrap();
        assert_eq!(minted.known_expiry, expected.then_some(end));
        let asked: &[&str] = if wanted {
            &["present:seed", "ask:a"]
        } else {
            &["present:seed"]
        };
        assert_eq!(this.host.saw(), asked);
        assert_eq!(this.record().await.token.unwrap().known_expiry, minted.known_expiry);
    }
}

#[tokio::test]
async fn what_is_spent_by_its_use_is_not_abandoned_half_way() {
    let (room, host) = (Room::new(), Host::start().await);
    let store = Store::open(&config::Store::Memory).unwrap();
    for (grant, abandonable) in [
        (room.credentials(), true),
        (Grant::RefreshToken(room.refresh()), false),
        (room.exchange(), false),
    ] {
        let kept = room.kept(&room.org(&host, grant), &store);
        assert_eq!(kept.abandonable(), abandonable, "{}", kept.grant_word());
        assert!(kept.longest(Duration::from_secs(1)) >= Duration::from_secs(3));
    }
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_renewal_waits_for_its_record() {
    let this = Refreshed::new(|_| {}).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    this.host.does_and_says(move || stopped.cancel(), rotated("a1", "r1"));
    let kept = this.room.kept(&this.org, &this.store);
    let name = OrgName::new("main");
    let rules = crate::token::Rules::new(this.org.token.clone(), this.org.budget);
    let metrics = Metrics::new().token(&name, kept.grant_word());
    let clock = kept.http.clock().clone();
    let (_tokens, keeper) = crate::token::keeper(name, rules, kept, clock, metrics);
    keeper.run(stop).await;
    let grant = this.grant().await;
    assert_eq!((grant.refresh_token.expose_secret(), grant.in_flight), ("r1", false));
}

#[tokio::test]
async fn what_is_adopted_costs_nothing_of_the_budget() {
    let this = Refreshed::new(|_| {}).await;
    let record = Record {
        serial: 5,
        token: Some(this.room.stored()),
        grant: Some(this.room.descended("r1")),
    };
    this.put(&record).await;
    let kept = this.room.kept(&this.org, &this.store);
    let name = OrgName::new("main");
    let rules = crate::token::Rules::new(this.org.token.clone(), this.org.budget);
    let metrics = Metrics::new().token(&name, kept.grant_word());
    let (budget, expiry) = (metrics.budget.clone(), metrics.expiry.clone());
    let clock = kept.http.clock().clone();
    let (_tokens, keeper) = crate::token::keeper(name, rules, kept, clock, metrics);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(stop.clone()));
    while expiry.get() == 0.0 {
        tokio::task::yield_now().await;
    }
    assert!(budget.get() >= 60.0, "{}", budget.get());
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(this.host.saw(), [] as [&str; 0]);
}

#[test]
fn other_settings_have_another_key() {
    let room = Room::new();
    let host = |url: &str| Org {
        login: LoginHost {
            url: url.parse().unwrap(),
        },
        ..room.org(
            &Host {
                url: url.parse().unwrap(),
                script: Arc::default(),
                tasks: JoinSet::new(),
            },
            room.credentials(),
        )
    };
    let base = host("https://a.example");
    let mut others = vec![host("https://b.example")];
    let mut change = |change: fn(&mut Org, &Room)| {
        let mut org = base.clone();
        change(&mut org, &room);
        others.push(org);
    };
    change(|org, room| org.grant = Grant::RefreshToken(room.refresh()));
    change(|org, room| org.grant = room.exchange());
    change(|org, _| {
        if let Grant::ClientCredentials(grant) = &mut org.grant {
            grant.client_id.push('x');
        }
    });
    change(|org, _| org.instance_url = Some("https://i.example".parse().unwrap()));
    change(|org, _| {
        org.api.host = ApiHost::Other {
            field: None,
            also: vec![],
        };
    });
    let mut keys: Vec<_> = others.iter().map(|org| key_of(org).identity).collect();
    keys.push(key_of(&base).identity);
    keys.push(key(&OrgName::new("main"), &base, Some("user")).identity);
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all);
    assert!(!keys.concat().contains("secret"));
}
