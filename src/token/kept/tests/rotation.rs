//! A refresh token that changes with each use.

use super::*;

#[tokio::test]
async fn a_refresh_token_is_noted_before_it_goes_and_its_successor_recorded_before_the_token_is_handed_out() {
    let this = Refreshed::new(|_| {}).await;
    let (records, copy) = (this.room.path("records"), this.room.path("copy"));
    let at_arrival = move || {
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(records).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    };
    this.host.does_and_says(at_arrival, rotated("a1", "r1"));
    assert_eq!(this.tried().await.unwrap(), "a1");
    let arrived = Store::open(&config::Store::File {
        directory: this.room.path("copy"),
        key: this.room.file("key"),
        previous_key: None,
    });
    let arrived = arrived.unwrap().read(&key_of(&this.org)).await.unwrap().unwrap();
    let noted = arrived.grant.unwrap();
    assert_eq!((noted.refresh_token.expose_secret(), noted.in_flight), ("seed", true));
    assert!(arrived.token.is_none());
    let now = this.record().await;
    let (token, grant) = (now.token.unwrap(), now.grant.unwrap());
    assert_eq!(token.secret.expose_secret(), "a1");
    assert_eq!(
        (grant.refresh_token.expose_secret(), grant.in_flight, grant.rotation),
        ("r1", false, Rotation::On)
    );
    assert_eq!(grant.seed, Some(fingerprint(&"seed".into())));
}

#[tokio::test]
async fn each_renewal_presents_the_newest_refresh_token_also_over_restarts() {
    let mut this = Refreshed::new(|_| {}).await;
    let mut token = None;
    for n in 1..=6 {
        this.host.says([rotated(&format!("a{n}"), &format!("r{n}"))]);
        let ask = Ask {
            why: Why::Refused,
            held: token.as_ref(),
        };
        let minted = this.kept.exchange(ask).await.unwrap();
        assert_eq!(minted.serial, n);
        let presented = if n == 1 { "seed".into() } else { format!("r{}", n - 1) };
        assert_eq!(this.host.saw(), [format!("present:{presented}")]);
        token = Some(held(&minted));
        if n % 2 == 0 {
            this.restart();
        }
    }
}

#[tokio::test]
async fn a_token_whose_successor_cannot_be_recorded_is_held_back_and_handed_out_without_another_login_when_it_can() {
    let this = Refreshed::new(|_| {}).await;
    let (here, away) = (this.room.path("records"), this.room.path("records.away"));
    let (from, to) = (here.clone(), away.clone());
    this.host
        .does_and_says(move || fs::rename(from, to).unwrap(), rotated("a1", "r1"));
    for _ in 0..3 {
        assert_eq!(reason(this.tried().await), "store");
    }
    fs::rename(away, here).unwrap();
    assert_eq!(this.tried().await.unwrap(), "a1");
    assert_eq!(this.grant().await.refresh_token.expose_secret(), "r1");
    assert_eq!(this.host.saw(), ["present:seed"]);
    // Handed out once; from now on it is the store's.
    this.host.says([rotated("a2", "r2")]);
    let token = held_with("a1", this.record().await.serial);
    let next = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
    assert_eq!(next.unwrap(), "a2");
    assert_eq!(this.host.saw(), ["present:r1"]);
}

#[tokio::test]
async fn what_could_not_be_recorded_does_not_replace_a_login_made_since() {
    let this = Refreshed::new(|g| g.refresh_token = None).await;
    this.has(StoredGrant {
        seed: None,
        ..this.room.descended("r1")
    })
    .await;
    let (here, away) = (this.room.path("records"), this.room.path("records.away"));
    let (from, to) = (here.clone(), away.clone());
    this.host
        .does_and_says(move || fs::rename(from, to).unwrap(), rotated("a2", "r2"));
    assert_eq!(reason(this.tried().await), "store");
    fs::rename(away, here).unwrap();
    // Somebody ran `login`.
    let record = Record {
        serial: 9,
        token: Some(this.room.stored()),
        grant: Some(StoredGrant {
            seed: None,
            ..this.room.descended("of-the-login")
        }),
    };
    this.put(&record).await;
    assert_eq!(this.tried().await.unwrap(), "stored");
    assert_eq!(this.record().await, record);
    assert_eq!(this.host.saw(), ["present:r1"]);
}

#[tokio::test]
async fn a_successor_is_kept_although_nobody_waits_for_its_recording() {
    let this = Refreshed::new(|_| {}).await;
    // A disk that is slow to give the key holds the recording up.
    let key = this.room.path("key");
    let arrived = Arc::new(Notify::new());
    let told = Arc::clone(&arrived);
    let (comes_back, slow) = std::sync::mpsc::channel::<()>();
    let of_disk = key.clone();
    this.host.does_and_says(
        move || {
            let (begins, begun) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                disk::within(&of_disk, Duration::from_secs(60), move || {
                    begins.send(()).unwrap();
                    let _ = slow.recv();
                    Ok(())
                })
            });
            begun.recv().unwrap();
            told.notify_one();
        },
        rotated("a1", "r1"),
    );
    {
        let attempt = this.kept.exchange(START);
        tokio::pin!(attempt);
        let awaited = async {
            arrived.notified().await;
            // The answer came, and is being recorded.
            while !disk::AWAITED.lock().unwrap().contains(&key) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut attempt => panic!("it must wait for the store"),
            () = awaited => {}
        }
    }
    drop(comes_back);
    let token = this.tried().await.unwrap();
    assert_eq!(token, "a1");
    assert_eq!(this.grant().await.refresh_token.expose_secret(), "r1");
    assert_eq!(this.host.saw(), ["present:seed"]);
}
