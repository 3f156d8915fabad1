//! An exchange whose outcome is not known.

use super::*;

#[tokio::test]
async fn after_an_unknown_outcome_a_refresh_token_that_lives_is_presented_again_and_only_then() {
    for rotation in [Rotation::Unknown, Rotation::On] {
        for restarts in [false, true] {
            for (what, say) in unknown() {
                let mut this = Refreshed::new(|_| {}).await;
                this.has(StoredGrant {
                    rotation,
                    ..this.room.descended("r1")
                })
                .await;
                this.host.says([say]);
                let first = this.tried().await.unwrap_err();
                assert_ne!(first.reason, "refresh_outcome_unknown", "{what}: nobody was asked yet");
                assert_eq!(this.host.saw(), ["present:r1"], "{what}");
                assert!(this.grant().await.in_flight, "{what}");
                if restarts {
                    this.restart();
                }
                this.host.introspects([active(true)]);
                this.host.says([rotated("a2", "r2")]);
                assert_eq!(this.tried().await.unwrap(), "a2", "{what}");
                assert_eq!(this.host.saw(), ["ask:r1", "present:r1"], "{what}");
                assert!(!this.grant().await.in_flight, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn after_an_unknown_outcome_a_refresh_token_that_is_spent_is_never_presented_again() {
    for (what, say) in unknown() {
        let mut this = Refreshed::new(|_| {}).await;
        this.has(this.room.descended("r1")).await;
        this.host.says([say]);
        this.tried().await.unwrap_err();
        this.host.introspects([active(false), active(false)]);
        for _ in 0..3 {
            let refusal = this.tried().await.unwrap_err();
            assert_eq!(refusal.reason, "refresh_outcome_unknown", "{what}");
            assert!(refusal.to_string().contains("sf-token-proxy login main"), "{refusal}");
        }
        assert_eq!(this.host.saw(), ["present:r1", "ask:r1"], "{what}: asked once");
        this.restart();
        assert_eq!(reason(this.tried().await), "refresh_outcome_unknown", "{what}");
        assert_eq!(this.host.saw(), ["ask:r1"], "{what}");
    }
}

#[tokio::test]
async fn an_app_without_a_secret_cannot_ask_and_presents_nothing_twice() {
    for (what, say) in unknown() {
        let mut this = Refreshed::new(|g| g.auth = ClientAuth::None).await;
        this.host.says([say]);
        this.tried().await.unwrap_err();
        for restarts in [false, true] {
            if restarts {
                this.restart();
            }
            assert_eq!(reason(this.tried().await), "refresh_outcome_unknown", "{what}");
        }
        assert_eq!(this.host.saw(), ["present:seed"], "{what}");
    }
}

#[tokio::test]
async fn while_nobody_can_be_asked_nothing_is_presented_and_it_is_asked_again() {
    let table = [
        ("500", Say::Json(500, String::new())),
        ("429", Say::Json(429, String::new())),
        ("a cut", Say::Cut),
        ("silence", Say::Nothing),
    ];
    for (what, away) in table {
        let this = Refreshed::new(|_| {}).await;
        this.has(StoredGrant {
            in_flight: true,
            ..this.room.descended("r1")
        })
        .await;
        this.host.introspects([away, active(true)]);
        this.host.says([rotated("a2", "r2")]);
        let refusal = this.tried().await.unwrap_err();
        assert!(!refusal.class.needs_somebody(), "{what}: {refusal:?}");
        assert!(this.grant().await.in_flight, "{what}");
        assert_eq!(this.tried().await.unwrap(), "a2", "{what}");
        assert_eq!(this.host.saw(), ["ask:r1", "ask:r1", "present:r1"], "{what}");
    }
}

#[tokio::test]
async fn an_introspection_that_says_nothing_of_the_token_condemns_it_no_longer_than_it_says_so() {
    for (what, nothing) in [
        (
            "a wrong secret",
            refused("invalid_client", "invalid client credentials"),
        ),
        ("a page", Say::Json(200, "<html>".into())),
    ] {
        let this = Refreshed::new(|_| {}).await;
        this.has(StoredGrant {
            in_flight: true,
            ..this.room.descended("r1")
        })
        .await;
        this.host.introspects([nothing, active(true)]);
        this.host.says([rotated("a2", "r2")]);
        assert_eq!(reason(this.tried().await), "refresh_outcome_unknown", "{what}");
        assert_eq!(this.host.saw(), ["ask:r1"], "{what}");
        assert_eq!(this.tried().await.unwrap(), "a2", "{what}");
    }
    // A secret that cannot be read right now.
    let this = Refreshed::new(|_| {}).await;
    this.has(StoredGrant {
        in_flight: true,
        ..this.room.descended("r1")
    })
    .await;
    fs::remove_file(this.room.path("secret")).unwrap();
    assert_eq!(reason(this.tried().await), "refresh_outcome_unknown");
    this.room.put("secret", "s");
    this.host.introspects([active(true)]);
    this.host.says([rotated("a2", "r2")]);
    assert_eq!(this.tried().await.unwrap(), "a2");
}

#[tokio::test]
async fn what_never_left_or_was_plainly_refused_is_presented_again_without_asking() {
    let mut this = Refreshed::new(|_| {}).await;
    this.has(this.room.descended("r1")).await;
    // A secret that cannot be read.
    fs::remove_file(this.room.path("secret")).unwrap();
    assert_eq!(reason(this.tried().await), "secret_unreadable");
    assert!(!this.grant().await.in_flight);
    this.room.put("secret", "s");
    // Nobody listens.
    let address = format!("127.0.0.1:{}", this.host.url.port().unwrap());
    this.host.tasks.shutdown().await;
    assert_eq!(reason(this.tried().await), "unreachable");
    assert!(!this.grant().await.in_flight);
    this.host = Host::serve(TcpListener::bind(address).await.unwrap());
    for (error, text, word) in [
        ("invalid_grant", "login rate exceeded", "login_rate"),
        ("invalid_grant", "ip restricted", "ip_restricted"),
        ("invalid_client", "invalid client credentials", "client_credentials"),
    ] {
        this.host.says([refused(error, text)]);
        assert_eq!(reason(this.tried().await), word);
        assert!(!this.grant().await.in_flight, "{word}");
        assert_eq!(this.host.saw(), ["present:r1"], "{word}");
    }
    this.restart();
    this.host.says([rotated("a2", "r2")]);
    assert_eq!(this.tried().await.unwrap(), "a2");
    assert_eq!(this.host.saw(), ["present:r1"]);
}

#[tokio::test]
async fn without_rotation_an_unknown_outcome_is_repeated() {
    for policy in [RotationPolicy::Auto, RotationPolicy::Off] {
        for (what, say) in unknown() {
            let mut this = Refreshed::new(|g| g.rotation = policy).await;
            if policy == RotationPolicy::Auto {
                // One answer without a new token is what tells.
                this.host.says([ok("a0")]);
                this.tried().await.unwrap();
                assert_eq!(this.grant().await.rotation, Rotation::Off);
                assert_eq!(this.host.saw(), ["present:seed"]);
            }
            let token = held_with("a0", 1);
            this.host.says([say]);
            tried(&this.kept, &this.host, ask(Why::Refused, &token))
                .await
                .unwrap_err();
            this.restart();
            this.host.says([ok("a1")]);
            let again = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
            assert_eq!(again.unwrap(), "a1", "{what}");
            // Asked, because an administrator may have switched rotation on; nobody could tell.
            let asked: &[&str] = match policy {
                RotationPolicy::Auto => &["present:seed", "ask:seed", "present:seed"],
                RotationPolicy::Off => &["present:seed", "present:seed"],
            };
            assert_eq!(this.host.saw(), asked, "{what}");
        }
    }
}

#[tokio::test]
async fn the_same_refresh_token_in_the_answer_is_no_rotation() {
    let this = Refreshed::new(|_| {}).await;
    this.host.says([rotated("a", "seed")]);
    this.tried().await.unwrap();
    assert_eq!(this.grant().await.rotation, Rotation::Off);
}

#[tokio::test]
async fn an_answer_that_rotates_counts_more_than_what_was_known_or_set() {
    for policy in [RotationPolicy::Auto, RotationPolicy::Off] {
        let this = Refreshed::new(|g| g.rotation = policy).await;
        this.has(StoredGrant {
            rotation: Rotation::Off,
            ..this.room.descended("r1")
        })
        .await;
        this.host.says([rotated("a2", "r2"), Say::Cut]);
        this.tried().await.unwrap();
        assert_eq!(this.grant().await.rotation, Rotation::On);
        let token = held_with("a2", this.record().await.serial);
        tried(&this.kept, &this.host, ask(Why::Refused, &token))
            .await
            .unwrap_err();
        this.host.introspects([active(false)]);
        let next = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
        assert_eq!(reason(next), "refresh_outcome_unknown", "{policy:?}");
        assert_eq!(this.host.saw(), ["present:r1", "present:r2", "ask:r2"], "{policy:?}");
    }
}

#[tokio::test]
async fn a_refresh_that_somebody_else_makes_is_waited_for_and_its_loser_presents_nothing_spent() {
    let busy = || refused("invalid_grant", "token request is already being processed");
    for lives in [true, false] {
        let this = Refreshed::new(|_| {}).await;
        this.has(this.room.descended("r1")).await;
        this.host.says([busy(), rotated("a2", "r2")]);
        let refusal = this.tried().await.unwrap_err();
        assert_eq!((refusal.reason, refusal.class), ("refresh_busy", Class::Transient));
        assert!(this.grant().await.in_flight);
        this.host.introspects([active(lives)]);
        let next = this.tried().await;
        if lives {
            assert_eq!(next.unwrap(), "a2");
            assert_eq!(this.host.saw(), ["present:r1", "ask:r1", "present:r1"]);
        } else {
            assert_eq!(reason(next), "refresh_outcome_unknown");
            assert_eq!(this.host.saw(), ["present:r1", "ask:r1"]);
        }
    }
}
