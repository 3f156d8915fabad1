//! The Streaming API: handshake, long polls, replay, cookies, and how dead tokens are told.

mod bayeux;

use std::{collections::BTreeMap, time::Duration};

use reqwest::Method;
use serde_json::json;

use super::{DATA, eventually, got, start};
pub(super) use bayeux::Bayeux;
use bayeux::{COMETD, EVENT, SOON, error, publish, set_cookies};

#[tokio::test]
async fn a_client_shakes_hands_subscribes_and_gets_an_event_while_it_polls() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let mut client = Bayeux::new(&practice, &token);
    let shaken = client.handshake().await;
    assert_eq!(
        shaken,
        json!({"channel": "/meta/handshake", "id": "1", "successful": true, "version": "1.0", "minimumVersion": "1.0",
            "clientId": client.id, "supportedConnectionTypes": ["long-polling"], "ext": {"replay": true, "payload.format": true}})
    );
    let greeted = client.connect().await;
    assert_eq!(
        greeted,
        [
            json!({"channel": "/meta/connect", "id": "2", "successful": true, "clientId": client.id,
            "advice": {"interval": 0, "timeout": 110_000, "reconnect": "retry"}})
        ]
    );
    assert_eq!(
        client.subscribe(EVENT, None).await,
        json!({"channel": "/meta/subscribe", "id": "3", "successful": true, "clientId": client.id, "subscription": EVENT})
    );
    let (replies, ()) = tokio::join!(tokio::time::timeout(SOON, client.connect()), async {
        eventually(|| practice.org.stats().cometd_held == 1).await;
        publish(&practice, &token, "hello").await;
    });
    let replies = replies.expect("an event ends a poll");
    let data = &replies[0]["data"];
    assert_eq!(replies[0]["channel"], EVENT);
    assert_eq!(
        (&data["payload"]["Message__c"], &data["payload"]["Number__c"]),
        (&json!("hello"), &json!(2.5))
    );
    assert_eq!(data["event"]["EventApiName"], "Practice_Event__e");
    assert!(data["event"]["replayId"].as_u64().unwrap() > 0 && data["schema"].as_str().unwrap().len() == 22);
    assert_eq!(
        replies[1],
        json!({"channel": "/meta/connect", "id": "2", "successful": true, "clientId": client.id})
    );
    assert_eq!(practice.org.stats().cometd_held, 0);
    practice.stop().await;
}

#[tokio::test]
async fn a_poll_without_events_ends_at_its_time() {
    let practice = start(|settings| settings.streaming.poll = Duration::from_millis(300)).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    client.subscribe(EVENT, None).await;
    let began = tokio::time::Instant::now();
    let replies = client.connect().await;
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(
        replies,
        [json!({"channel": "/meta/connect", "id": "2", "successful": true, "clientId": client.id})]
    );
    practice.stop().await;
}

#[tokio::test]
async fn a_dead_token_is_told_inside_http_200() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    practice.org.revoke();
    let dead = client.connect().await;
    assert_eq!(
        dead,
        [
            json!({"channel": "/meta/connect", "id": "2", "successful": false, "clientId": client.id,
            "error": "401::Authentication invalid", "advice": {"reconnect": "none", "interval": 0}})
        ]
    );
    assert_eq!(
        error(&client.subscribe(EVENT, None).await),
        "401::Authentication invalid"
    );
    let denied = Bayeux::new(&practice, &token).handshake().await;
    assert_eq!(
        denied,
        json!({"channel": "/meta/handshake", "id": "1", "successful": false, "error": "403::Handshake denied",
            "advice": {"reconnect": "none"},
            "ext": {"replay": true, "payload.format": true, "sfdc": {"failureReason": "401::Authentication invalid"}}})
    );
    let url = format!("{}{COMETD}", practice.org.base_url());
    let message = json!({"channel": "/meta/handshake", "supportedConnectionTypes": ["long-polling"]});
    let without = got(practice.client.post(url).json(&message)).await.json();
    assert_eq!(
        without[0]["ext"]["sfdc"]["failureReason"],
        "401::Request requires authentication"
    );
    assert_eq!((practice.org.stats().cometd_401, practice.org.stats().api_401), (4, 0));

    let seen = got(practice
        .client
        .get(format!("{}/control/requests", practice.org.control_url())))
    .await;
    assert!(!seen.text.contains(&token));
    let known: Vec<bool> = seen
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["token_known"] == true)
        .collect();
    assert_eq!(known, [true, true, false, false, false, false]);
    practice.stop().await;
}

#[tokio::test]
async fn a_held_poll_ends_with_its_session() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    let (replies, ()) = tokio::join!(tokio::time::timeout(SOON, client.connect()), async {
        eventually(|| practice.org.stats().cometd_held == 1).await;
        practice.control("revoke", json!({})).await;
    });
    let replies = replies.expect("at once");
    assert_eq!(error(&replies[0]), "401::Authentication invalid");
    assert_eq!(replies[0]["advice"]["reconnect"], "none");

    // With another token of the same user the client goes on.
    let mut client = client;
    client.token = practice.token().await;
    assert_ne!(client.token, token);
    assert_eq!(client.subscribe(EVENT, None).await["successful"], true);
    practice.stop().await;
}

#[tokio::test]
async fn a_client_is_known_by_its_cookies_and_its_user() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let mut client = Bayeux::new(&practice, &token);
    let message = json!({"channel": "/meta/handshake", "supportedConnectionTypes": ["long-polling"]});
    let answer = client.post(&message).await;
    let cookies = set_cookies(&answer);
    assert!(
        cookies[0].starts_with("BAYEUX_BROWSER=") && cookies[0].ends_with("; Path=/; Secure; HttpOnly"),
        "{cookies:?}"
    );
    assert!(
        cookies[1].starts_with("sfdc-stream=!") && cookies[1].ends_with("; path=/; SameSite=None; Secure"),
        "{cookies:?}"
    );

    client.handshake().await;
    let whole = client.cookies.clone();
    let expect = async |client: &Bayeux<'_>, text: &str| {
        let replies = client.connect().await;
        assert_eq!(error(&replies[0]), text);
        replies[0].clone()
    };
    client.cookies.clear();
    let unknown = expect(&client, "403::Unknown client").await;
    assert_eq!(unknown["advice"], json!({"interval": 0, "reconnect": "handshake"}));
    client.cookies = whole.clone();
    client.cookies.remove("sfdc-stream");
    expect(&client, "403::Unknown client").await;
    client.cookies = whole.clone();
    client.cookies.insert("BAYEUX_BROWSER".into(), "other".into());
    expect(&client, "403::Unknown client").await;
    client.cookies.remove("BAYEUX_BROWSER");
    let text = format!(
        "400::Client {} has established a session, but no BAYEUX_BROWSER cookie present",
        client.id
    );
    expect(&client, &text).await;
    client.cookies = whole;
    let other = practice.secret_login().await.json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let own = std::mem::replace(&mut client.token, other);
    expect(
        &client,
        "400::Authenticated user id does not match the session's user id",
    )
    .await;
    client.token = own;
    assert_eq!(client.connect().await[0]["successful"], true);
    practice.stop().await;
}

#[tokio::test]
async fn a_client_that_stays_away_is_forgotten() {
    let practice = start(|settings| settings.streaming.poll = Duration::from_millis(20)).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    practice.org.advance(Duration::from_secs(1));
    assert_eq!(error(&client.connect().await[0]), "403::Unknown client");

    let client = Bayeux::connected(&practice, &token).await;
    client.subscribe(EVENT, None).await;
    publish(&practice, &token, "a").await;
    assert_eq!(client.events().await, ["a"]);
    practice.org.advance(Duration::from_secs(39));
    assert_eq!(client.connect().await[0]["successful"], true, "40 s after events");
    practice.stop().await;
}

#[tokio::test]
async fn a_browser_has_one_client() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let first = Bayeux::connected(&practice, &token).await;
    let mut second = Bayeux::new(&practice, &token);
    second.cookies = first.cookies.clone();
    let (held, ()) = tokio::join!(tokio::time::timeout(SOON, first.connect()), async {
        eventually(|| practice.org.stats().cometd_held == 1).await;
        second.handshake().await;
    });
    assert_eq!(error(&held.expect("at once")[0]), "403::Unknown client");
    assert_eq!(second.connect().await[0]["successful"], true);

    let bye = second
        .say(json!({"channel": "/meta/disconnect", "clientId": second.id}))
        .await;
    assert_eq!(
        bye,
        [json!({"channel": "/meta/disconnect", "clientId": second.id, "successful": true})]
    );
    assert_eq!(error(&second.connect().await[0]), "403::Unknown client");
    practice.stop().await;
}

#[tokio::test]
async fn a_newer_poll_ends_the_older_one_and_gets_the_events() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    client.subscribe(EVENT, None).await;
    let (older, newer, ()) = tokio::join!(
        tokio::time::timeout(SOON, client.connect()),
        async {
            eventually(|| practice.org.stats().cometd_held == 1).await;
            tokio::time::timeout(SOON, client.events()).await
        },
        async {
            eventually(|| practice.org.stats().api_requests == 5 && practice.org.stats().cometd_held == 1).await;
            publish(&practice, &token, "a").await;
        }
    );
    assert_eq!(older.expect("at once").len(), 1);
    assert_eq!(newer.expect("at once"), ["a"]);
    practice.stop().await;
}

#[tokio::test]
async fn events_are_replayed_from_where_the_client_says() {
    let practice = start(|settings| settings.streaming.poll = Duration::from_millis(50)).await;
    let token = practice.token().await;
    for message in ["a", "b", "c"] {
        publish(&practice, &token, message).await;
    }
    let client = Bayeux::connected(&practice, &token).await;
    client.subscribe(EVENT, Some(-1)).await;
    assert_eq!(client.events().await, [""; 0]);
    client.subscribe(EVENT, Some(-2)).await;
    let replies = client.connect().await;
    let first = replies[0]["data"]["event"]["replayId"].as_i64().unwrap();
    assert_eq!(replies.len(), 4);
    client.subscribe(EVENT, Some(first)).await;
    assert_eq!(client.events().await, ["b", "c"]);
    assert_eq!(client.events().await, [""; 0], "once");
    assert_eq!(
        error(&client.subscribe(EVENT, Some(first + 1_000)).await),
        format!(
            "400::The replayId {} you provided was invalid. Please provide a valid ID, -2 to replay all events, or -1 to replay only new events.",
            first + 1_000
        )
    );
    let left = client
        .say(json!({"channel": "/meta/unsubscribe", "clientId": client.id, "subscription": EVENT}))
        .await;
    assert_eq!(left[0]["successful"], true);
    publish(&practice, &token, "d").await;
    assert_eq!(client.events().await, [""; 0]);
    practice.org.advance(Duration::from_secs(3 * 24 * 60 * 60));
    let token = practice.secret_login().await.json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let client = Bayeux::connected(&practice, &token).await;
    client.subscribe(EVENT, Some(-2)).await;
    assert_eq!(client.events().await, [""; 0], "72 hours");
    practice.stop().await;
}

#[tokio::test]
async fn changed_accounts_are_told_and_rolled_back_ones_are_not() {
    let practice = start(|settings| settings.streaming.poll = Duration::from_millis(50)).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    let channels = [
        "/topic/PracticeAccounts",
        "/data/AccountChangeEvent",
        "/data/ChangeEvents",
    ];
    for channel in channels {
        assert_eq!(client.subscribe(channel, None).await["successful"], true, "{channel}");
    }
    let made = practice
        .send(
            Method::POST,
            &format!("{DATA}/sobjects/Account"),
            &token,
            json!({"Name": "Acme"}),
        )
        .await
        .json();
    let id = made["id"].as_str().unwrap();
    let mut replies = client.connect().await;
    replies.pop();
    let by_channel: BTreeMap<_, _> = replies
        .iter()
        .map(|r| (r["channel"].as_str().unwrap(), &r["data"]))
        .collect();
    assert_eq!((replies.len(), by_channel.len()), (3, 3), "{replies:?}");
    let pushed = by_channel[channels[0]];
    assert_eq!(
        (&pushed["event"]["type"], &pushed["sobject"]),
        (&json!("created"), &json!({"Id": id, "Name": "Acme"}))
    );
    for channel in &channels[1..] {
        let payload = &by_channel[channel]["payload"];
        let header = &payload["ChangeEventHeader"];
        assert_eq!(
            (&payload["Name"], &header["recordIds"], &header["changeType"]),
            (&json!("Acme"), &json!([id]), &json!("CREATE"))
        );
    }
    let bad = json!({"allOrNone": true, "compositeRequest": [
        {"method": "POST", "url": format!("{DATA}/sobjects/Account"), "referenceId": "a", "body": {"Name": "Gone"}},
        {"method": "POST", "url": format!("{DATA}/sobjects/Account"), "referenceId": "b", "body": {}},
    ]});
    practice
        .send(Method::POST, &format!("{DATA}/composite"), &token, bad)
        .await;
    practice
        .call(Method::DELETE, &format!("{DATA}/sobjects/Account/{id}"), &token)
        .send()
        .await
        .unwrap();
    let replies = client.connect().await;
    let kinds: Vec<_> = replies
        .iter()
        .filter(|r| r["channel"] == channels[0])
        .map(|r| r["data"]["event"]["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["deleted"]);
    practice.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_in_salesforces_words() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    for (channel, text) in [
        (
            "/event/Nothing__e",
            "400::The channel you requested to subscribe to doesn't exist /event/Nothing__e",
        ),
        (
            "/topic/Nothing",
            "400::The channel you requested to subscribe to doesn't exist /topic/Nothing",
        ),
        ("event", "400::Channel subscriptions must start with a leading '/'"),
        ("", "400::Channel name not specified"),
        ("/u/Generic", "404::Unknown channel"),
    ] {
        let reply = client.subscribe(channel, None).await;
        assert_eq!((error(&reply), &reply["subscription"]), (text, &json!(channel)));
    }
    let websocket = json!({"channel": "/meta/connect", "clientId": client.id, "connectionType": "websocket"});
    assert_eq!(
        error(&client.say(websocket).await[0]),
        "400::Invalid connection type websocket"
    );
    assert_eq!(
        error(&client.say(json!({"channel": EVENT, "data": {}})).await[0]),
        "403::Restricted channel"
    );

    let shake = json!({"channel": "/meta/handshake", "supportedConnectionTypes": ["long-polling"]});
    let old = practice.send(Method::POST, "/cometd/36.0", &token, shake.clone()).await;
    assert_eq!(old.status, 400);
    assert!(
        old.json()[0]["ext"]["sfdc"]["failureReason"]
            .as_str()
            .unwrap()
            .contains("Unsupported API version")
    );
    for path in ["/cometd/replay/36.0", "/cometd/60.0/handshake", "//cometd/60.0/"] {
        let shaken = practice.send(Method::POST, path, &token, shake.clone()).await;
        assert_eq!(shaken.json()[0]["successful"], true, "{path}");
    }
    let upgrade = practice
        .call(Method::GET, COMETD, &token)
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    assert_eq!(got(upgrade).await.status, 400);
    assert_eq!(
        got(practice.call(Method::POST, COMETD, &token).body("{")).await.status,
        400
    );
    let long = "x".repeat(32_768);
    assert_eq!(
        practice
            .send(Method::POST, COMETD, &token, json!({"channel": long}))
            .await
            .status,
        413
    );
    let unknown = practice
        .send(
            Method::POST,
            &format!("{DATA}/sobjects/Practice_Event__e"),
            &token,
            json!({"Other__c": 1}),
        )
        .await;
    assert_eq!(
        (unknown.status, &unknown.json()[0]["errorCode"]),
        (400, &json!("INVALID_FIELD"))
    );
    practice.stop().await;
}

#[tokio::test]
async fn the_server_can_be_busy_and_a_dead_token_plain_http_401() {
    let practice = start(|settings| settings.streaming.http_401 = true).await;
    let token = practice.token().await;
    let client = Bayeux::connected(&practice, &token).await;
    let busy = json!([{"channel": "/meta/connect", "successful": false, "error": "503::Server is too busy."}]);
    practice
        .control("api", json!({"status": 200, "body": busy, "path_prefix": "/cometd/"}))
        .await;
    assert_eq!(error(&client.connect().await[0]), "503::Server is too busy.");
    let poll = json!({"channel": "/meta/connect", "clientId": client.id, "connectionType": "long-polling"});
    let (held, ()) = tokio::join!(tokio::time::timeout(SOON, client.post(&poll)), async {
        eventually(|| practice.org.stats().cometd_held == 1).await;
        practice.org.revoke();
    });
    let held = held.expect("at once");
    assert_eq!(
        (held.status, &held.json()[0]["errorCode"]),
        (401, &json!("INVALID_SESSION_ID"))
    );
    assert_eq!((practice.org.stats().cometd_401, practice.org.stats().api_401), (1, 1));
    practice.stop().await;
}
