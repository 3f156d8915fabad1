//! Subscribing and publishing: how many events come, from where, and what silence does.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use super::wire::{TOPIC, batch, by_rest, connect, fetch, ids, metadata, more, schema_id};
use crate::demo::{
    Settings,
    events::Payload,
    pubsub::messages::{ErrorCode, FetchRequest, FetchResponse, PublishRequest, PublishResponse, ReplayPreset},
    tests::{eventually, start, streaming::Bayeux},
};

#[tokio::test]
async fn no_more_events_come_than_were_asked_for() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let schema = schema_id(&mut wire, metadata.clone()).await;
    let mut rpc = wire.call("Subscribe", metadata.clone()).await;
    rpc.send(&fetch(ReplayPreset::Latest, &Bytes::new(), 2));
    eventually(|| practice.org.stats().pubsub_subscriptions == 1).await;
    let published: PublishResponse = wire
        .unary("Publish", metadata.clone(), &batch(&schema, &["a", "b", "c"]))
        .await
        .unwrap();
    let keys: Vec<_> = published
        .results
        .iter()
        .map(|r| (r.correlation_key.as_str(), r.replay_id.len(), r.error.is_none()))
        .collect();
    assert_eq!(keys, [("a", 8, true), ("b", 8, true), ("c", 8, true)]);
    assert_eq!(published.schema_id, schema);

    let first: FetchResponse = rpc.next().await.unwrap();
    assert_eq!((ids(&first), first.pending_num_requested), (vec!["a", "b"], 0));
    assert_eq!(first.latest_replay_id, published.results[1].replay_id);
    assert_eq!(first.events[0].event.as_ref().unwrap().payload, "not of the schema");
    assert_eq!(
        (&first.events[0].replay_id, first.rpc_id.len()),
        (&published.results[0].replay_id, 36)
    );
    rpc.send(&more(3));
    let second: FetchResponse = rpc.next().await.unwrap();
    assert_eq!((ids(&second), second.pending_num_requested), (vec!["c"], 2));
    rpc.send(&more(1));
    let id = by_rest(&practice, &token, "d").await;
    let third: FetchResponse = rpc.next().await.unwrap();
    assert_eq!(ids(&third), [&id[..]]);
    let payload = Payload::decode(&third.events[0].event.as_ref().unwrap().payload).unwrap();
    assert!(format!("{payload:?}").contains("message: Some(\"d\")"));

    rpc.requests.send_reset(Reason::CANCEL);
    eventually(|| practice.org.stats().pubsub_subscriptions == 0).await;
    practice.stop().await;
}

#[tokio::test]
async fn a_subscription_begins_where_it_says() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let schema = schema_id(&mut wire, metadata.clone()).await;
    let published: PublishResponse = wire
        .unary("Publish", metadata.clone(), &batch(&schema, &["a", "b", ""]))
        .await
        .unwrap();
    let last = published.results[2].correlation_key.clone();
    assert_eq!(last.len(), 36);
    let nothing = Bytes::new();
    for (preset, replay, expected) in [
        (ReplayPreset::Earliest, &nothing, vec!["a", "b", &last]),
        (ReplayPreset::Custom, &published.results[0].replay_id, vec!["b", &last]),
    ] {
        let mut rpc = wire.call("Subscribe", metadata.clone()).await;
        rpc.send(&fetch(preset, replay, 100));
        assert_eq!(ids(&rpc.next().await.unwrap()), expected);
    }
    let name = |code: &str| format!("sfdc.platform.eventbus.grpc.subscription.fetch.{code}");
    for (request, code) in [
        (
            fetch(ReplayPreset::Custom, &Bytes::from_static(b"wrong"), 1),
            "replayid.corrupted",
        ),
        (
            fetch(ReplayPreset::Custom, &Bytes::from_static(&[7; 8]), 1),
            "replayid.corrupted",
        ),
        (fetch(ReplayPreset::Custom, &nothing, 1), "replayid.validation.failed"),
        (fetch(ReplayPreset::Latest, &nothing, 0), "requested.events.invalid"),
        (fetch(ReplayPreset::Latest, &nothing, 101), "requested.events.invalid"),
    ] {
        let mut rpc = wire.call("Subscribe", metadata.clone()).await;
        rpc.send(&request);
        let ended = rpc.next::<FetchResponse>().await.unwrap_err();
        assert_eq!(
            (ended.code.as_str(), ended.error_code),
            ("3", Some(name(code))),
            "{request:?}"
        );
    }
    // In the middle: an answer has come, so the trailers are real ones.
    let mut rpc = wire.call("Subscribe", metadata).await;
    rpc.send(&fetch(ReplayPreset::Earliest, &nothing, 1));
    assert_eq!(ids(&rpc.next().await.unwrap()), ["a"]);
    rpc.send(&FetchRequest {
        topic_name: "/event/Second_Event__e".into(),
        ..more(1)
    });
    let ended = rpc.next::<FetchResponse>().await.unwrap_err();
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("3", false));
    practice.stop().await;
}

#[tokio::test]
async fn silence_is_filled_and_ended() {
    let quick = |settings: &mut Settings| {
        settings.streaming.keep_alive = Duration::from_millis(50);
        settings.streaming.publish_idle = Duration::from_millis(50);
    };
    let practice = start(quick).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let schema = schema_id(&mut wire, metadata.clone()).await;
    let published: PublishResponse = wire
        .unary("Publish", metadata.clone(), &batch(&schema, &["a", "b"]))
        .await
        .unwrap();
    let mut rpc = wire.call("Subscribe", metadata.clone()).await;
    rpc.send(&fetch(ReplayPreset::Earliest, &Bytes::new(), 1));
    rpc.next::<FetchResponse>().await.unwrap();
    let empty: FetchResponse = rpc.next().await.unwrap();
    assert_eq!(
        (ids(&empty), &empty.latest_replay_id),
        (vec![], &published.results[0].replay_id),
        "b was not asked for"
    );
    rpc.send(&more(5));
    let second: FetchResponse = rpc.next().await.unwrap();
    assert_eq!(ids(&second), ["b"]);
    let empty: FetchResponse = rpc.next().await.unwrap();
    assert_eq!(
        (ids(&empty), &empty.latest_replay_id, empty.pending_num_requested),
        (vec![], &published.results[1].replay_id, 4)
    );

    let mut stream = wire.call("PublishStream", metadata).await;
    stream.send(&batch(&schema, &["c"]));
    assert_eq!(
        stream.next::<PublishResponse>().await.unwrap().results[0].correlation_key,
        "c"
    );
    assert_eq!(stream.next::<PublishResponse>().await.unwrap_err().code, "4");
    practice.stop().await;
}

#[tokio::test]
async fn a_subscriber_that_asks_for_no_more_is_let_go() {
    let practice = start(|settings| settings.streaming.fetch_idle = Duration::from_millis(50)).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    by_rest(&practice, &token, "a").await;
    let mut rpc = wire.call("Subscribe", metadata).await;
    rpc.send(&fetch(ReplayPreset::Earliest, &Bytes::new(), 1));
    rpc.next::<FetchResponse>().await.unwrap();
    assert_eq!(rpc.next::<FetchResponse>().await.unwrap_err().code, "0");
    practice.stop().await;
}

#[tokio::test]
async fn a_publish_stream_answers_each_request() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let schema = schema_id(&mut wire, metadata.clone()).await;
    let mut stream = wire.call("PublishStream", metadata.clone()).await;
    stream.send(&batch(&schema, &["a"]));
    stream.send(&PublishRequest {
        topic_name: String::new(),
        ..batch("wrong", &["b"])
    });
    stream.next::<PublishResponse>().await.unwrap();
    let second: PublishResponse = stream.next().await.unwrap();
    assert_eq!(
        second.results[0].error.as_ref().unwrap().code,
        ErrorCode::Publish as i32
    );
    stream.requests.send_data(Bytes::new(), true).unwrap();
    assert_eq!(stream.next::<PublishResponse>().await.unwrap_err().code, "0");

    let mut stream = wire.call("PublishStream", metadata).await;
    stream.send(&batch(&schema, &["a"]));
    stream.next::<PublishResponse>().await.unwrap();
    stream.send(&PublishRequest {
        topic_name: "/event/Second_Event__e".into(),
        events: Vec::new(),
    });
    assert_eq!(stream.next::<PublishResponse>().await.unwrap_err().code, "3");
    practice.stop().await;
}

#[tokio::test]
async fn an_open_subscription_outlives_its_session() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let mut wire = connect(&practice).await;
    let mut rpc = wire.call("Subscribe", metadata(&practice, &token)).await;
    rpc.send(&fetch(ReplayPreset::Latest, &Bytes::new(), 5));
    eventually(|| practice.org.stats().pubsub_subscriptions == 1).await;
    practice.org.revoke();
    let fresh = practice.token().await;
    let id = by_rest(&practice, &fresh, "a").await;
    assert_eq!(ids(&rpc.next().await.unwrap()), [&id[..]]);
    practice.stop().await;
}

#[tokio::test]
async fn events_reach_cometd_too_if_they_can_be_read() {
    let practice = start(|settings| settings.streaming.poll = Duration::from_millis(50)).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let schema = schema_id(&mut wire, metadata.clone()).await;
    by_rest(&practice, &token, "readable").await;
    let mut rpc = wire.call("Subscribe", metadata.clone()).await;
    rpc.send(&fetch(ReplayPreset::Earliest, &Bytes::new(), 1));
    let first: FetchResponse = rpc.next().await.unwrap();
    let mut request = batch(&schema, &["opaque", "copied"]);
    request.events[1].payload = first.events[0].event.as_ref().unwrap().payload.clone();
    wire.unary::<PublishResponse>("Publish", metadata, &request)
        .await
        .unwrap();

    let client = Bayeux::connected(&practice, &token).await;
    client.subscribe(TOPIC, Some(-2)).await;
    assert_eq!(client.events().await, ["readable", "readable"]);
    practice.stop().await;
}
