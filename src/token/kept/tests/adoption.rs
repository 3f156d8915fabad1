//! What is taken from the store, and what is not.

use super::*;

#[tokio::test]
async fn a_stored_token_is_taken_if_it_is_newer_and_lives_and_no_other() {
    type Change = fn(&Room, &mut Record);
    fn token(record: &mut Record) -> &mut StoredToken {
        record.token.as_mut().unwrap()
    }
    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    let table: [(&str, Option<u64>, Change, bool); 17] = [
        ("just minted", None, |_, _| {}, true),
        ("newer than ours", Some(4), |_, _| {}, true),
        ("as ours", Some(5), |_, _| {}, false),
        ("older than ours", Some(6), |_, _| {}, false),
        ("nothing stored", None, |_, r| r.token = None, false),
        (
            "31 s left",
            None,
            |room, r| token(r).minted_at = room.now() - s(5400 - 31),
            true,
        ),
        (
            "29 s left",
            None,
            |room, r| token(r).minted_at = room.now() - s(5400 - 29),
            false,
        ),
        (
            "long past",
            None,
            |room, r| token(r).minted_at = room.now() - s(54_000),
            false,
        ),
        (
            "told: 31 s left",
            None,
            |room, r| token(r).known_expiry = Some(room.now() + s(31)),
            true,
        ),
        (
            "told: 29 s left",
            None,
            |room, r| token(r).known_expiry = Some(room.now() + s(29)),
            false,
        ),
        (
            "old, but told to live",
            None,
            |room, r| {
                token(r).minted_at = room.now() - s(54_000);
                token(r).known_expiry = Some(room.now() + s(600));
            },
            true,
        ),
        (
            "clocks apart",
            None,
            |room, r| token(r).minted_at = room.now() + s(299),
            true,
        ),
        (
            "from the future",
            None,
            |room, r| token(r).minted_at = room.now() + s(301),
            false,
        ),
        (
            "no safe host",
            None,
            |_, r| token(r).instance_url = "http://acme.example".into(),
            false,
        ),
        (
            "no host at all",
            None,
            |_, r| token(r).instance_url = String::new(),
            false,
        ),
        (
            "another safe host",
            None,
            |_, r| token(r).also = vec![("/Service.asmx".into(), "https://soap.example".into())],
            true,
        ),
        (
            "another host that is not safe",
            None,
            |_, r| token(r).also = vec![("/Service.asmx".into(), "http://soap.example".into())],
            false,
        ),
    ];
    for (what, ours, change, adopted) in table {
        let (room, host) = (Room::new(), Host::start().await);
        // Both kinds of grant look there first.
        for grant in [room.credentials(), Grant::RefreshToken(room.refresh())] {
            let org = room.org(&host, grant);
            let store = Store::open(&config::Store::Memory).unwrap();
            let mut record = Record {
                serial: 5,
                token: Some(room.stored()),
                grant: Some(room.descended("old")),
            };
            change(&room, &mut record);
            put(&store, &org, &record).await;
            host.says([ok("new")]);
            let token = ours.map(|serial| held_with("ours", serial));
            let ask = Ask {
                why: Why::Refused,
                held: token.as_ref(),
            };
            let minted = room.kept(&org, &store).exchange(ask).await.unwrap();
            assert_eq!(minted.adopted, adopted, "{what}");
            assert_eq!(
                minted.secret.expose_secret(),
                if adopted { "stored" } else { "new" },
                "{what}"
            );
            assert_eq!(host.saw().len(), usize::from(!adopted), "{what}");
            let now = store.read(&key_of(&org)).await.unwrap().unwrap();
            let serial = if adopted { 5 } else { ours.unwrap_or(0).max(5) + 1 };
            assert_eq!((now.serial, minted.serial), (serial, serial), "{what}");
            host.script.tokens.lock().unwrap().clear();
        }
    }
}

#[tokio::test]
async fn after_a_restart_a_token_is_what_it_was() {
    let (room, host) = (Room::new(), Host::start().await);
    let mut org = room.org(&host, room.credentials());
    org.api.host = ApiHost::Other {
        field: Some("rest_instance_url".into()),
        also: vec![("/Service.asmx".into(), "soap_instance_url".into())],
    };
    let answer = serde_json::json!({
        "access_token": "a", "rest_instance_url": "https://rest.example", "soap_instance_url": "https://soap.example",
        "expires_in": 1000, "id": "https://login.salesforce.com/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS",
    });
    host.says([Say::Json(200, answer.to_string())]);
    let first = room.kept(&org, &room.store()).exchange(START).await.unwrap();
    assert!(!first.adopted);
    let minted_at = room.now();
    *room.now.lock().unwrap() += Duration::from_secs(100);
    let again = room.kept(&org, &room.store()).exchange(START).await.unwrap();
    assert!(again.adopted);
    assert_eq!(host.saw().len(), 1);
    let hosts = |minted: &Minted| {
        let also = minted.also.iter().map(|(prefix, host)| (prefix.clone(), host.url()));
        (minted.instance.url(), also.collect::<Vec<_>>())
    };
    assert_eq!(hosts(&again), hosts(&first));
    assert_eq!(again.also.len(), 1);
    assert_eq!(again.secret.expose_secret(), "a");
    assert_eq!(again.known_expiry, first.known_expiry);
    assert!(again.known_expiry.is_some());
    assert_eq!((again.identity, again.serial), (first.identity, first.serial));
    assert_eq!((first.minted_at, again.minted_at), (None, Some(minted_at)));
}

#[tokio::test]
async fn a_token_that_cannot_call_the_api_is_known_as_such_after_a_restart() {
    let (room, host) = (Room::new(), Host::start().await);
    let org = room.org(&host, room.credentials());
    host.says([Say::Json(200, granted("a", None).replace("\"api\"", "\"id\""))]);
    assert!(
        !room
            .kept(&org, &room.store())
            .exchange(START)
            .await
            .unwrap()
            .reaches_api
    );
    assert!(
        !room
            .kept(&org, &room.store())
            .exchange(START)
            .await
            .unwrap()
            .reaches_api
    );
    assert_eq!(host.saw().len(), 1);
}
