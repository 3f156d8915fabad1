//! The Pub/Sub API, over TLS with the h2 crate itself, so that every frame can be seen.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use hyper::{HeaderMap, Request};
use prost::Message;
use reqwest::Method;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use super::{DATA, Practice, eventually, got, start, tls};
use crate::demo::{
    Settings,
    events::Payload,
    pubsub::messages::{
        ErrorCode, FetchRequest, FetchResponse, ProducerEvent, PublishRequest, PublishResponse, ReplayPreset,
        SchemaInfo, SchemaRequest, TopicInfo, TopicRequest,
    },
    world::ORG_ID,
};

const TOPIC: &str = "/event/Practice_Event__e";
const SOON: Duration = Duration::from_secs(5);

/// One HTTP/2 connection.
struct Wire {
    send: SendRequest<Bytes>,
    connection: JoinSet<Result<(), h2::Error>>,
}

/// One RPC.
struct Rpc {
    requests: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    headers: HeaderMap,
    body: Option<RecvStream>,
    buffer: BytesMut,
}

/// How an RPC ended, by its trailers.
#[derive(Debug)]
struct Ended {
    code: String,
    error_code: Option<String>,
    message: String,
    rpc_id: Option<String>,
    trailers_only: bool,
}

async fn connect(practice: &Practice) -> Wire {
    let url = url::Url::parse(practice.org.pubsub_url().unwrap()).unwrap();
    let mut config = tls(&practice.org);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    Wire {
        send,
        connection: tasks,
    }
}

fn metadata(practice: &Practice, token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("accesstoken", token.parse().unwrap());
    headers.insert("instanceurl", practice.org.base_url().parse().unwrap());
    headers.insert("tenantid", ORG_ID.parse().unwrap());
    headers
}

fn framed(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut out).unwrap();
    out.freeze()
}

impl Wire {
    async fn call(&mut self, method: &str, metadata: HeaderMap) -> Rpc {
        let mut request = Request::post(format!("https://localhost/eventbus.v1.PubSub/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        request.headers_mut().extend(metadata);
        poll_fn(|cx| self.send.poll_ready(cx)).await.unwrap();
        let (response, requests) = self.send.send_request(request, false).unwrap();
        Rpc {
            requests,
            response: Some(response),
            headers: HeaderMap::new(),
            body: None,
            buffer: BytesMut::new(),
        }
    }

    async fn unary<A: Message + Default>(
        &mut self,
        method: &str,
        metadata: HeaderMap,
        message: &impl Message,
    ) -> Result<A, Ended> {
        let mut rpc = self.call(method, metadata).await;
        rpc.send(message);
        let answer = rpc.next().await?;
        let ended = rpc.next::<A>().await.err().expect("one answer only");
        assert_eq!((ended.code.as_str(), ended.trailers_only), ("0", false), "{ended:?}");
        Ok(answer)
    }
}

impl Rpc {
    fn send(&mut self, message: &impl Message) {
        self.requests.send_data(framed(message), false).unwrap();
    }

    /// The next message, or how the call ended.
    async fn next<M: Message + Default>(&mut self) -> Result<M, Ended> {
        tokio::time::timeout(SOON, self.next_or_end()).await.expect("in time")
    }

    async fn next_or_end<M: Message + Default>(&mut self) -> Result<M, Ended> {
        if let Some(response) = self.response.take() {
            let (parts, body) = response.await.unwrap().into_parts();
            assert_eq!(
                (parts.status.as_u16(), &parts.headers["content-type"]),
                (200, &"application/grpc".parse().unwrap())
            );
            self.headers = parts.headers;
            self.body = Some(body);
        }
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some(mut prefix) = self.buffer.get(..5) {
                assert_eq!(prefix.get_u8(), 0);
                let length = prefix.get_u32() as usize;
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    return Ok(M::decode(self.buffer.split_to(length)).unwrap());
                }
            }
            match body.data().await {
                Some(chunk) => {
                    let chunk = chunk.unwrap();
                    body.flow_control().release_capacity(chunk.len()).unwrap();
                    self.buffer.extend_from_slice(&chunk);
                }
                None => break,
            }
        }
        let trailers = body.trailers().await.unwrap();
        let trailers_only = trailers.is_none();
        let found = trailers.as_ref().unwrap_or(&self.headers);
        let text = |name: &str| found.get(name).map(|value| value.to_str().unwrap().to_owned());
        Err(Ended {
            code: text("grpc-status").unwrap(),
            error_code: text("error-code"),
            message: text("grpc-message").unwrap_or_default(),
            rpc_id: text("rpc-id"),
            trailers_only,
        })
    }

    async fn reset_reason(&mut self) -> Option<Reason> {
        self.response.take().unwrap().await.unwrap_err().reason()
    }
}

fn fetch(preset: ReplayPreset, replay_id: &Bytes, count: i32) -> FetchRequest {
    FetchRequest {
        topic_name: TOPIC.into(),
        replay_preset: preset.into(),
        replay_id: replay_id.clone(),
        num_requested: count,
    }
}

fn more(count: i32) -> FetchRequest {
    FetchRequest {
        num_requested: count,
        ..FetchRequest::default()
    }
}

fn ids(answer: &FetchResponse) -> Vec<&str> {
    answer
        .events
        .iter()
        .map(|event| event.event.as_ref().unwrap().id.as_str())
        .collect()
}

async fn schema_id(wire: &mut Wire, metadata: HeaderMap) -> String {
    let topic = TopicRequest {
        topic_name: TOPIC.into(),
    };
    wire.unary::<TopicInfo>("GetTopic", metadata, &topic)
        .await
        .unwrap()
        .schema_id
}

fn batch(schema_id: &str, ids: &[&str]) -> PublishRequest {
    let event = |id: &&str| ProducerEvent {
        id: (*id).to_owned(),
        schema_id: schema_id.to_owned(),
        payload: Bytes::from_static(b"not of the schema"),
    };
    PublishRequest {
        topic_name: TOPIC.into(),
        events: ids.iter().map(event).collect(),
    }
}

async fn by_rest(practice: &Practice, token: &str, message: &str) -> String {
    let path = format!("{DATA}/sobjects/Practice_Event__e");
    let answer = practice
        .send(Method::POST, &path, token, json!({"Message__c": message}))
        .await
        .json();
    answer["errors"][0]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn topics_and_schemas_are_told() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let asked = TopicRequest {
        topic_name: TOPIC.into(),
    };
    let topic: TopicInfo = wire.unary("GetTopic", metadata.clone(), &asked).await.unwrap();
    assert_eq!(
        (topic.topic_name.as_str(), topic.tenant_guid.as_str()),
        (TOPIC, "CORE/prod/00DSB0000001pRC2AY")
    );
    assert!(topic.can_publish && topic.can_subscribe && topic.rpc_id.len() == 36);
    let asked = SchemaRequest {
        schema_id: topic.schema_id.clone(),
    };
    let schema: SchemaInfo = wire.unary("GetSchema", metadata.clone(), &asked).await.unwrap();
    assert_eq!(schema.schema_id, topic.schema_id);
    let json: serde_json::Value = serde_json::from_str(&schema.schema_json).unwrap();
    assert_eq!(
        (&json["name"], &json["fields"][0]["name"]),
        (&json!("Practice_Event__e"), &json!("CreatedDate"))
    );

    let other = TopicRequest {
        topic_name: "/event/Nothing__e".into(),
    };
    let ended = wire
        .unary::<TopicInfo>("GetTopic", metadata.clone(), &other)
        .await
        .unwrap_err();
    assert_eq!(ended.code, "5");
    assert_eq!(
        ended.error_code.as_deref(),
        Some("sfdc.platform.eventbus.grpc.subscription.topic.notfound")
    );
    let other = SchemaRequest { schema_id: "x".into() };
    assert_eq!(
        wire.unary::<SchemaInfo>("GetSchema", metadata.clone(), &other)
            .await
            .unwrap_err()
            .code,
        "5"
    );
    assert_eq!(
        wire.unary::<SchemaInfo>("ManagedSubscribe", metadata, &other)
            .await
            .unwrap_err()
            .code,
        "12"
    );
    practice.stop().await;
}

#[tokio::test]
async fn every_call_needs_a_living_token_the_instance_and_the_tenant() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let good = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let asked = TopicRequest {
        topic_name: TOPIC.into(),
    };
    let mut wrong = Vec::new();
    for (name, value) in [
        ("accesstoken", "00Ddead"),
        ("instanceurl", "https://localhost:1"),
        ("tenantid", "00DSB0000001pRC"),
    ] {
        let mut changed = good.clone();
        changed.insert(name, value.parse().unwrap());
        let mut missing = good.clone();
        missing.remove(name);
        wrong.extend([changed, missing]);
    }
    let count = wrong.len() as u64;
    for metadata in wrong {
        for method in ["GetTopic", "Subscribe"] {
            let ended = wire
                .unary::<TopicInfo>(method, metadata.clone(), &asked)
                .await
                .unwrap_err();
            assert_eq!((ended.code.as_str(), ended.trailers_only), ("16", true), "{metadata:?}");
            assert_eq!(
                ended.error_code.as_deref(),
                Some("sfdc.platform.eventbus.grpc.service.auth.error")
            );
            let rpc_id = ended.rpc_id.unwrap();
            assert_eq!(
                ended.message,
                format!(
                    "An authentication exception occurred. Provide valid authentication via metadata headers. rpcId: {rpc_id}"
                )
            );
        }
    }
    practice.control("revoke", json!({})).await;
    let ended = wire.unary::<TopicInfo>("GetTopic", good, &asked).await.unwrap_err();
    assert_eq!(ended.code, "16");
    let stats = practice.org.stats();
    assert_eq!(
        (stats.pubsub_auth_errors, stats.pubsub_requests),
        (count * 2 + 1, count * 2 + 1)
    );
    practice.stop().await;
}

#[tokio::test]
async fn a_refusal_can_have_its_headers_first() {
    let practice = start(|settings| settings.streaming.headers_first = true).await;
    let mut wire = connect(&practice).await;
    let asked = TopicRequest {
        topic_name: TOPIC.into(),
    };
    let ended = wire
        .unary::<TopicInfo>("GetTopic", metadata(&practice, "dead"), &asked)
        .await
        .unwrap_err();
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("16", false));
    assert_eq!(
        ended.error_code.as_deref(),
        Some("sfdc.platform.eventbus.grpc.service.auth.error")
    );
    practice.stop().await;
}

#[tokio::test]
async fn tokens_are_recorded_as_living_or_not_and_never_shown() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let mut wire = connect(&practice).await;
    let asked = TopicRequest {
        topic_name: TOPIC.into(),
    };
    for token in [&token[..], "00Ddead!token"] {
        wire.unary::<TopicInfo>("GetTopic", metadata(&practice, token), &asked)
            .await
            .ok();
    }
    let seen = got(practice
        .client
        .get(format!("{}/control/requests", practice.org.control_url())))
    .await;
    assert!(
        !seen.text.contains(&token) && !seen.text.contains("00Ddead"),
        "{}",
        seen.text
    );
    let seen = seen.json();
    assert_eq!(
        (&seen[0]["token_known"], &seen[1]["token_known"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(seen[0]["body_bytes"], framed(&asked).len());
    assert!(
        practice.org.requests(1)[0]
            .header("accesstoken")
            .unwrap()
            .starts_with("sha256:")
    );
    practice.stop().await;
}

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
async fn goaway_lets_open_streams_go_on() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let mut wire = connect(&practice).await;
    let mut rpc = wire.call("Subscribe", metadata(&practice, &token)).await;
    rpc.send(&fetch(ReplayPreset::Latest, &Bytes::new(), 5));
    eventually(|| practice.org.stats().pubsub_subscriptions == 1).await;
    assert_eq!(practice.control("pubsub_goaway", json!({})).await, json!({"told": 1}));
    assert_eq!(practice.org.pubsub_goaway(), 0, "once for each connection");
    let refused = async {
        while poll_fn(|cx| wire.send.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("no new streams");
    let id = by_rest(&practice, &token, "a").await;
    assert_eq!(ids(&rpc.next().await.unwrap()), [&id[..]]);
    rpc.requests.send_data(Bytes::new(), true).unwrap();
    assert_eq!(rpc.next::<FetchResponse>().await.unwrap_err().code, "0");
    drop(rpc);
    let ended = tokio::time::timeout(SOON, wire.connection.join_next())
        .await
        .expect("then it ends");
    assert!(ended.unwrap().unwrap().is_ok());
    practice.stop().await;
}

#[tokio::test]
async fn streams_are_refused_as_told() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    practice.control("refuse_streams", json!({"count": 2})).await;
    for _ in 0..2 {
        let mut rpc = wire.call("GetTopic", metadata.clone()).await;
        assert_eq!(rpc.reset_reason().await, Some(Reason::REFUSED_STREAM));
    }
    assert_eq!(practice.org.stats().pubsub_requests, 0);
    schema_id(&mut wire, metadata).await;
    practice.stop().await;
}

#[tokio::test]
async fn faults_are_scripted_here_too() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let unavailable = json!({"status": 200, "body": "", "content_type": "application/grpc", "path_prefix": "/eventbus.v1.PubSub/",
        "headers": {"grpc-status": "14", "error-code": "sfdc.platform.eventbus.grpc.service.unavailable"}});
    practice.control("api", unavailable).await;
    let asked = TopicRequest {
        topic_name: TOPIC.into(),
    };
    let ended = wire
        .unary::<TopicInfo>("GetTopic", metadata.clone(), &asked)
        .await
        .unwrap_err();
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("14", true));
    practice.control("down", json!({"api": true})).await;
    let mut rpc = wire.call("GetTopic", metadata).await;
    assert!(rpc.response.take().unwrap().await.is_err());
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

    let client = super::streaming::Bayeux::connected(&practice, &token).await;
    client.subscribe(TOPIC, Some(-2)).await;
    assert_eq!(client.events().await, ["readable", "readable"]);
    practice.stop().await;
}

#[tokio::test]
async fn messages_are_read_as_grpc_has_them() {
    let practice = start(|_| {}).await;
    let token = practice.token().await;
    let metadata = metadata(&practice, &token);
    let mut wire = connect(&practice).await;
    let message = TopicRequest {
        topic_name: TOPIC.into(),
    }
    .encode_to_vec();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut encoder, &message).unwrap();
    let packed = encoder.finish().unwrap();
    let with_prefix = |flag: u8, message: &[u8], length: usize| {
        let mut out = BytesMut::new();
        out.put_u8(flag);
        out.put_u32(u32::try_from(length).unwrap());
        out.put_slice(message);
        out.freeze()
    };
    let mut zipped = metadata.clone();
    zipped.insert("grpc-encoding", "gzip".parse().unwrap());
    for (headers, bytes, ends, code) in [
        (&zipped, with_prefix(1, &packed, packed.len()), false, "0"),
        (&metadata, with_prefix(1, &packed, packed.len()), false, "13"),
        (&metadata, with_prefix(0, &message, message.len() + 1), true, "13"),
        (&metadata, with_prefix(0, b"", 5 * 1024 * 1024), false, "8"),
        (&metadata, Bytes::new(), true, "13"),
    ] {
        let mut rpc = wire.call("GetTopic", headers.clone()).await;
        for byte in bytes.chunks(7) {
            rpc.requests.send_data(Bytes::copy_from_slice(byte), false).unwrap();
        }
        if ends {
            rpc.requests.send_data(Bytes::new(), true).unwrap();
        }
        let ended = match rpc.next::<TopicInfo>().await {
            Ok(_) => rpc.next::<TopicInfo>().await.unwrap_err(),
            Err(ended) => ended,
        };
        assert_eq!(ended.code, code);
    }
    practice.stop().await;
}

#[tokio::test]
async fn only_http2_is_spoken_there() {
    let practice = start(|_| {}).await;
    let url = practice.org.pubsub_url().unwrap();
    assert!(practice.client.get(url).send().await.is_err(), "HTTP/1.1");
    let mut config = tls(&practice.org);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let port = url::Url::parse(url).unwrap().port().unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let refused = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    assert!(refused.is_err(), "by ALPN");
    practice.stop().await;

    let practice = start(|settings| settings.plain_http = true).await;
    let url = url::Url::parse(practice.org.pubsub_url().unwrap()).unwrap();
    assert_eq!(url.scheme(), "http");
    let mut stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.unwrap();
    stream.flush().await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let mut wire = Wire {
        send,
        connection: tasks,
    };
    let token = practice.token().await;
    schema_id(&mut wire, metadata(&practice, &token)).await;
    practice.stop().await;
}

#[tokio::test]
async fn the_summary_says_where_it_is_and_for_whom() {
    let mut practice = start(|_| {}).await;
    let url = practice.org.pubsub_url().unwrap().to_owned();
    let summary = practice.org.write_files(None).unwrap();
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!((&json["pubsub_url"], &json["org_id"]), (&json!(url), &json!(ORG_ID)));
    assert!(summary.to_string().contains(&format!(
        "Pub/Sub          {url}\n                 tenant id {ORG_ID}\n"
    )));
    practice.stop().await;

    let practice = start(|settings| settings.pubsub_port = None).await;
    assert_eq!(practice.org.pubsub_url(), None);
    practice.stop().await;
}
