//! Pub/Sub through the proxy: gRPC from the caller's frames to the org's, and back.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use sf_token_proxy::{
    config::{Config, ListenerTls},
    demo::{
        Settings,
        pubsub_messages::{
            FetchRequest, FetchResponse, ProducerEvent, PublishRequest, PublishResponse, ReplayPreset, SchemaInfo,
            SchemaRequest, TopicInfo, TopicRequest,
        },
    },
};
use tokio::{task::JoinSet, time::Instant};
use tokio_rustls::TlsConnector;

use crate::{
    site::{Site, Wire, json_of, metric_becomes, soon},
    support::{
        RawH2, RawOrg, Running, Script, call, connect, eventually,
        raw_h2::{CANCEL, Say},
    },
};

const TOPIC: &str = "/event/Practice_Event__e";
const SECOND: &str = "/event/Second_Event__e";
const SERVICE: &str = "/eventbus.v1.PubSub";
const REPLAY_BYTES: &str = "sf_token_proxy_replay_bytes";
const IN_USE: &str = "sf_token_proxy_upstream_connections{org=\"main\",state=\"in_use\"}";

/// One RPC.
struct Rpc {
    requests: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    headers: HeaderMap,
    body: Option<RecvStream>,
    buffer: BytesMut,
}

/// How an RPC ended, by its trailers.
#[derive(Debug, Clone)]
struct Ended {
    code: String,
    trailers: HeaderMap,
    trailers_only: bool,
}

impl Ended {
    fn text(&self, name: &str) -> &str {
        self.trailers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn framed(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut out).unwrap();
    out.freeze()
}

async fn rpc(wire: &Wire, method: &str, metadata: &[(&'static str, &str)]) -> Rpc {
    let mut request = Request::post(format!("http://localhost{SERVICE}/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    for (name, value) in metadata {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(*name, value);
    }
    let mut send = wire.send.clone();
    soon(poll_fn(|cx| send.poll_ready(cx))).await.unwrap();
    let (response, requests) = send.send_request(request, false).unwrap();
    Rpc {
        requests,
        response: Some(response),
        headers: HeaderMap::new(),
        body: None,
        buffer: BytesMut::new(),
    }
}

async fn unary<A: Message + Default>(wire: &Wire, method: &str, message: &impl Message) -> Result<A, Ended> {
    let mut rpc = rpc(wire, method, &[]).await;
    rpc.last(message);
    let answer = rpc.next().await?;
    let ended = rpc.next::<A>().await.err().expect("one answer only");
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("0", false), "{ended:?}");
    Ok(answer)
}

impl Rpc {
    fn send(&mut self, message: &impl Message) {
        self.requests.send_data(framed(message), false).unwrap();
    }

    /// There is no more to come.
    fn last(&mut self, message: &impl Message) {
        self.requests.send_data(framed(message), true).unwrap();
    }

    /// As the windows allow.
    async fn send_slowly(&mut self, message: &impl Message) {
        let mut rest = framed(message);
        while !rest.is_empty() {
            self.requests.reserve_capacity(rest.len());
            let room = soon(poll_fn(|cx| self.requests.poll_capacity(cx)))
                .await
                .unwrap()
                .unwrap();
            let piece = rest.split_to(room.min(rest.len()));
            self.requests.send_data(piece, false).unwrap();
        }
    }

    async fn next<M: Message + Default>(&mut self) -> Result<M, Ended> {
        soon(self.next_or_end()).await
    }

    async fn head(&mut self) {
        if let Some(response) = self.response.take() {
            let (parts, body) = response.await.unwrap().into_parts();
            assert_eq!(parts.status.as_u16(), 200);
            assert_eq!(parts.headers["content-type"], "application/grpc");
            self.headers = parts.headers;
            self.body = Some(body);
        }
    }

    async fn next_or_end<M: Message + Default>(&mut self) -> Result<M, Ended> {
        self.head().await;
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
        let trailers = trailers.unwrap_or_else(|| self.headers.clone());
        let code = trailers["grpc-status"].to_str().unwrap().to_owned();
        Err(Ended {
            code,
            trailers,
            trailers_only,
        })
    }
}

fn topic() -> TopicRequest {
    TopicRequest {
        topic_name: TOPIC.into(),
    }
}

fn fetch(count: i32) -> FetchRequest {
    FetchRequest {
        topic_name: TOPIC.into(),
        replay_preset: ReplayPreset::Latest.into(),
        replay_id: Bytes::new(),
        num_requested: count,
    }
}

fn more(count: i32) -> FetchRequest {
    FetchRequest {
        num_requested: count,
        ..FetchRequest::default()
    }
}

fn batch(topic: &str, schema_id: &str, ids: &[String], length: usize) -> PublishRequest {
    let event = |id: &String| ProducerEvent {
        id: id.clone(),
        schema_id: schema_id.to_owned(),
        payload: vec![b'x'; length].into(),
    };
    PublishRequest {
        topic_name: topic.into(),
        events: ids.iter().map(event).collect(),
    }
}

fn ids(answer: &FetchResponse) -> Vec<String> {
    let events = answer.events.iter();
    events.map(|event| event.event.as_ref().unwrap().id.clone()).collect()
}

async fn schema_id(wire: &Wire, topic: &str) -> String {
    let asked = TopicRequest {
        topic_name: topic.into(),
    };
    unary::<TopicInfo>(wire, "GetTopic", &asked).await.unwrap().schema_id
}

async fn start() -> (Site, Wire) {
    start_as(|_| {}, |_| {}).await
}

async fn start_as(settings: impl FnOnce(&mut Settings), adapt: impl FnOnce(&mut Config)) -> (Site, Wire) {
    let site = Site::start(settings, adapt).await;
    let wire = Wire::plain(site.app.proxy).await;
    (site, wire)
}

/// A subscription that the org knows of.
async fn subscribed(site: &Site, wire: &Wire, count: i32) -> Rpc {
    let before = site.org.stats().pubsub_subscriptions;
    let mut subscription = rpc(wire, "Subscribe", &[]).await;
    subscription.send(&fetch(count));
    eventually(
        "subscribed",
        || site.org.stats().pubsub_subscriptions,
        |n| *n == before + 1,
    )
    .await;
    subscription
}

async fn all_rpcs(wire: &Wire) {
    let info: TopicInfo = unary(wire, "GetTopic", &topic()).await.unwrap();
    assert_eq!((info.topic_name.as_str(), info.can_publish), (TOPIC, true));
    let asked = SchemaRequest {
        schema_id: info.schema_id.clone(),
    };
    let schema: SchemaInfo = unary(wire, "GetSchema", &asked).await.unwrap();
    assert!(schema.schema_json.contains("Message__c"));

    let mut subscription = rpc(wire, "Subscribe", &[]).await;
    let mut first = fetch(10);
    first.replay_preset = ReplayPreset::Earliest.into();
    subscription.send(&first);
    let one = batch(TOPIC, &info.schema_id, &["one".into()], 20);
    let published: PublishResponse = unary(wire, "Publish", &one).await.unwrap();
    assert_eq!(published.results[0].correlation_key, "one");
    let got: FetchResponse = subscription.next().await.unwrap();
    assert_eq!(ids(&got), ["one"]);

    let mut stream = rpc(wire, "PublishStream", &[]).await;
    for id in ["two", "three"] {
        stream.send(&batch(TOPIC, &info.schema_id, &[id.into()], 20));
        let published: PublishResponse = stream.next().await.unwrap();
        assert_eq!(published.results[0].correlation_key, id);
        let got: FetchResponse = subscription.next().await.unwrap();
        assert_eq!(ids(&got), [id]);
    }
    stream.requests.send_data(Bytes::new(), true).unwrap();
    assert_eq!(stream.next::<PublishResponse>().await.unwrap_err().code, "0");
    subscription.requests.send_data(Bytes::new(), true).unwrap();
    assert_eq!(subscription.next::<FetchResponse>().await.unwrap_err().code, "0");
}

#[tokio::test]
async fn all_rpcs_pass_over_cleartext() {
    let (site, wire) = start().await;
    all_rpcs(&wire).await;
    metric_becomes(&site.app, IN_USE, 0.0).await;
    site.stop().await;
}

#[tokio::test]
async fn all_rpcs_pass_over_tls_with_alpn() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("tls");
    let site = Site::start(
        |_| {},
        |config| {
            config.listeners[0].tls = Some(ListenerTls::Generated {
                directory: directory.clone(),
            });
        },
    )
    .await;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(directory.join("ca.pem")).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(sf_token_proxy::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(site.app.proxy).await;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    all_rpcs(&Wire::over(stream).await).await;
    site.stop().await;
}

#[tokio::test]
async fn the_metadata_is_the_proxys_whatever_the_caller_sent() {
    let (site, wire) = start().await;
    let sets: [&[(&str, &str)]; 4] = [
        &[],
        &[
            ("accesstoken", "dummy"),
            ("instanceurl", "http://localhost:1"),
            ("tenantid", "00D000000000000"),
        ],
        &[
            ("accesstoken", "a"),
            ("accesstoken", "b"),
            ("instanceurl", "a"),
            ("instanceurl", "b"),
            ("tenantid", "a"),
            ("tenantid", "b"),
        ],
        &[("accesstoken", ""), ("authorization", "Bearer x"), ("x-mine", "kept")],
    ];
    for metadata in sets {
        let mut rpc = rpc(&wire, "GetTopic", metadata).await;
        rpc.last(&topic());
        let info: TopicInfo = rpc.next().await.unwrap_or_else(|e| panic!("{metadata:?}: {e:?}"));
        assert_eq!(info.topic_name, TOPIC);
        let seen = site.org.requests(1).remove(0);
        for (name, value) in [("instanceurl", site.org.base_url()), ("tenantid", site.org.org_id())] {
            let found: Vec<&str> = seen
                .headers
                .iter()
                .filter(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
                .collect();
            assert_eq!(found, [value], "{metadata:?}");
        }
        assert_eq!(seen.headers.iter().filter(|(name, _)| name == "accesstoken").count(), 1);
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.header("te"), Some("trailers"));
    }
    assert_eq!(site.org.requests(1)[0].header("x-mine"), Some("kept"));
    assert_eq!(
        (site.org.stats().token_requests, site.org.stats().pubsub_auth_errors),
        (1, 0)
    );
    site.stop().await;
}

#[tokio::test]
async fn trailers_and_messages_of_errors_pass() {
    for headers_first in [false, true] {
        let (site, wire) = start_as(|settings| settings.streaming.headers_first = headers_first, |_| {}).await;
        let other = TopicRequest {
            topic_name: "/event/Nothing__e".into(),
        };
        let ended = unary::<TopicInfo>(&wire, "GetTopic", &other).await.unwrap_err();
        assert_eq!((ended.code.as_str(), ended.trailers_only), ("5", !headers_first));
        assert_eq!(
            ended.text("error-code"),
            "sfdc.platform.eventbus.grpc.subscription.topic.notfound"
        );
        assert!(
            ended
                .text("grpc-message")
                .starts_with("The topic information for org CORE/prod/"),
            "{ended:?}"
        );
        assert_eq!(ended.text("rpc-id").len(), 36);
        let mut subscription = rpc(&wire, "Subscribe", &[]).await;
        subscription.send(&fetch(0));
        let ended = subscription.next::<FetchResponse>().await.unwrap_err();
        assert_eq!(ended.code, "3");
        assert_eq!(site.org.stats().token_requests, 1);
        site.stop().await;
    }
}

#[tokio::test]
async fn a_dead_token_at_the_start_of_an_rpc_is_not_noticed() {
    let (site, wire) = start().await;
    let schema = schema_id(&wire, TOPIC).await;
    assert_eq!(site.org.revoke(), 1);
    unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
    site.org.revoke();
    unary::<PublishResponse>(&wire, "Publish", &batch(TOPIC, &schema, &["a".into()], 9))
        .await
        .unwrap();
    site.org.revoke();
    let mut subscription = subscribed(&site, &wire, 5).await;
    site.org.revoke();
    let mut stream = rpc(&wire, "PublishStream", &[]).await;
    stream.send(&batch(TOPIC, &schema, &["b".into()], 9));
    let published: PublishResponse = stream.next().await.unwrap();
    assert_eq!(published.results[0].correlation_key, "b");
    assert_eq!(ids(&subscription.next().await.unwrap()), ["b"]);
    let stats = site.org.stats();
    assert_eq!((stats.token_requests, stats.pubsub_auth_errors), (5, 4));
    site.stop().await;
}

/// As servers do it that are not written in Java: not confirmed for Salesforce.
#[tokio::test]
async fn a_dead_token_told_after_the_headers_is_repeated_where_it_can_be() {
    let (site, wire) = start_as(|settings| settings.streaming.headers_first = true, |_| {}).await;
    let schema = schema_id(&wire, TOPIC).await;
    site.org.revoke();
    unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
    site.org.revoke();
    unary::<PublishResponse>(&wire, "Publish", &batch(TOPIC, &schema, &["a".into()], 9))
        .await
        .unwrap();
    assert_eq!(site.org.stats().token_requests, 3);
    site.org.revoke();
    let mut subscription = rpc(&wire, "Subscribe", &[]).await;
    subscription.send(&fetch(5));
    let ended = subscription.next::<FetchResponse>().await.unwrap_err();
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("16", false));
    assert_eq!(
        ended.text("error-code"),
        "sfdc.platform.eventbus.grpc.service.auth.error"
    );
    eventually(
        "the token is renewed unasked",
        || site.org.stats().token_requests,
        |n| *n == 4,
    )
    .await;
    let mut again = subscribed(&site, &wire, 5).await;
    site.publish("hello").await;
    assert_eq!(again.next::<FetchResponse>().await.unwrap().events.len(), 1);
    assert_eq!(site.org.stats().token_requests, 4);
    site.stop().await;
}

/// An app that makes no other calls: that a token worked is seen here, too, so that one that dies at once is renewed.
#[tokio::test]
async fn sixteen_callers_and_revocations_with_no_failed_rpc() {
    let (site, _) = start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let wire = Wire::plain(site.app.proxy).await;
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        callers.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for round in 1..=10 {
        let before = answered.load(Ordering::SeqCst);
        eventually("RPCs go on", || answered.load(Ordering::SeqCst), |n| *n > before + 32).await;
        assert_eq!(site.org.revoke(), 1);
        eventually("the renewal", || site.org.stats().token_requests, |n| *n == round + 1).await;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(
        (site.org.stats().token_requests, site.org.stats().token_max_concurrent),
        (11, 1)
    );
    site.stop().await;
}

/// Before an upload that is too long to be kept, a token is asked about that was not seen working.
#[tokio::test]
async fn an_rpc_that_works_shows_that_the_token_lives() {
    let (site, wire) = start().await;
    unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
    let body = vec![b'x'; 17 << 20];
    let lines = format!("POST /services/apexrest/echo HTTP/1.1\nContent-Length: {}", body.len());
    assert_eq!(soon(call(site.app.proxy, &lines, &body)).await.status, 200);
    assert_eq!(site.org.stats().api_requests, 1, "no probe was needed");
    site.stop().await;
}

#[tokio::test]
async fn an_open_subscription_survives_revocation_and_renewal() {
    let (site, wire) = start().await;
    let mut subscription = subscribed(&site, &wire, 10).await;
    site.publish("before").await;
    assert_eq!(subscription.next::<FetchResponse>().await.unwrap().events.len(), 1);
    for round in 1..=3 {
        site.org.revoke();
        // By a call of another family.
        site.publish("after").await;
        assert_eq!(subscription.next::<FetchResponse>().await.unwrap().events.len(), 1);
        assert_eq!(site.org.stats().token_requests, round + 1);
    }
    subscription.send(&more(5));
    site.publish("more").await;
    assert_eq!(subscription.next::<FetchResponse>().await.unwrap().events.len(), 1);
    assert_eq!(site.org.stats().pubsub_requests, 1, "it is the same stream");
    site.stop().await;
}

#[tokio::test]
async fn a_thousand_events_pass_each_way() {
    let (site, wire) = start().await;
    let schema = schema_id(&wire, TOPIC).await;
    let mut subscription = subscribed(&site, &wire, 100).await;
    let mut stream = rpc(&wire, "PublishStream", &[]).await;
    let publish = async {
        for round in 0..100 {
            let names: Vec<String> = (0..10).map(|n| (round * 10 + n).to_string()).collect();
            stream.send_slowly(&batch(TOPIC, &schema, &names, 3_000)).await;
            let published: PublishResponse = stream.next().await.unwrap();
            assert_eq!(published.results.len(), 10);
        }
    };
    let receive = async {
        let mut got: Vec<String> = Vec::new();
        while got.len() < 1000 {
            let answer: FetchResponse = subscription.next().await.unwrap();
            got.extend(ids(&answer));
            subscription.send(&more(i32::try_from(answer.events.len()).unwrap().max(1)));
        }
        let expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert_eq!(got, expected);
    };
    tokio::join!(publish, receive);
    site.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stalls_only_its_own_stream() {
    let (site, wire) = start().await;
    let schema = schema_id(&wire, TOPIC).await;
    // Nobody reads these.
    let mut stalled = Vec::new();
    for _ in 0..3 {
        stalled.push(subscribed(&site, &wire, 100).await);
    }
    let mut second = rpc(&wire, "Subscribe", &[]).await;
    let mut asked = fetch(100);
    asked.topic_name = SECOND.into();
    second.send(&asked);
    eventually("subscribed", || site.org.stats().pubsub_subscriptions, |n| *n == 4).await;
    // More than a stream's window.
    for n in 0..20 {
        let event = batch(TOPIC, &schema, &[n.to_string()], 100_000);
        unary::<PublishResponse>(&wire, "Publish", &event).await.unwrap();
    }
    let schema = schema_id(&wire, SECOND).await;
    unary::<PublishResponse>(&wire, "Publish", &batch(SECOND, &schema, &["x".into()], 9))
        .await
        .unwrap();
    assert_eq!(ids(&second.next().await.unwrap()), ["x"]);
    // Late, and whole.
    let mut got = Vec::new();
    while got.len() < 20 {
        got.extend(ids(&stalled[0].next().await.unwrap()));
    }
    assert_eq!(got, (0..20).map(|n: i32| n.to_string()).collect::<Vec<_>>());
    site.stop().await;
}

#[tokio::test]
async fn a_client_that_cancels_ends_the_orgs_stream() {
    let (site, wire) = start().await;
    let mut subscription = subscribed(&site, &wire, 10).await;
    site.publish("one").await;
    subscription.next::<FetchResponse>().await.unwrap();
    let before_its_head = subscribed(&site, &wire, 10).await;
    subscription.requests.send_reset(Reason::CANCEL);
    eventually("one is left", || site.org.stats().pubsub_subscriptions, |n| *n == 1).await;
    drop(before_its_head);
    eventually("none is left", || site.org.stats().pubsub_subscriptions, |n| *n == 0).await;
    metric_becomes(&site.app, IN_USE, 0.0).await;
    // The connection is as good as before.
    unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
    site.stop().await;
}

/// The login at a raw org, Pub/Sub at an org of raw frames.
async fn scripted(
    play: impl Fn(&crate::support::raw_h2::Call) -> Vec<Say> + Send + Sync + 'static,
) -> (RawH2, RawOrg, Running) {
    let org = RawH2::start(play).await;
    let login = RawOrg::start(|_| Script::ok()).await;
    let url = org.url();
    let app = Running::start(&login.url(), |config| {
        config.orgs.values_mut().next().unwrap().pub_sub = url.parse().unwrap();
    })
    .await;
    (org, login, app)
}

#[tokio::test]
async fn a_cancelled_stream_is_told_to_the_org_as_such() {
    let (org, _login, app) = scripted(|_| vec![Say::Begin("200", Vec::new())]).await;
    let wire = Wire::plain(app.proxy).await;
    let mut request = Request::post(format!("http://localhost{SERVICE}/Subscribe"))
        .body(())
        .unwrap();
    request
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let (response, mut requests) = wire.send.clone().send_request(request, false).unwrap();
    let body = soon(response).await.unwrap();
    requests.send_reset(Reason::CANCEL);
    drop(body);
    eventually("reset", || org.resets(), |resets| resets == &[(1, CANCEL)]).await;
    app.stop().await;
}

#[tokio::test]
async fn the_orgs_reset_keeps_its_reason() {
    let (org, _login, app) = scripted(|_| vec![Say::Begin("200", b"12345".to_vec())]).await;
    let wire = Wire::plain(app.proxy).await;
    let mut subscription = rpc_raw(&wire).await;
    assert_eq!(soon(subscription.data()).await.unwrap().unwrap(), "12345");
    org.say(0, 1, Say::Reset(11));
    let error = soon(subscription.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    app.stop().await;
}

async fn rpc_raw(wire: &Wire) -> RecvStream {
    let request = Request::post(format!("http://localhost{SERVICE}/Subscribe"))
        .body(())
        .unwrap();
    let (response, _) = wire.send.clone().send_request(request, true).unwrap();
    soon(response).await.unwrap().into_body()
}

#[tokio::test]
async fn a_subscription_outlives_the_goaway_of_its_connection() {
    let (site, wire) = start().await;
    let mut subscription = subscribed(&site, &wire, 10).await;
    site.publish("one").await;
    subscription.next::<FetchResponse>().await.unwrap();
    assert_eq!(site.org.pubsub_goaway(), 1);
    for _ in 0..5 {
        unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
    }
    site.publish("two").await;
    assert_eq!(subscription.next::<FetchResponse>().await.unwrap().events.len(), 1);
    site.org.refuse_streams(3);
    unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
    site.org.refuse_streams(9);
    let ended = unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap_err();
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("14", true));
    assert!(
        ended.text("grpc-message").contains("has not processed the call"),
        "{ended:?}"
    );
    site.stop().await;
}

#[tokio::test]
async fn silence_does_not_end_a_subscription() {
    let (site, wire) = start_as(
        |settings| settings.streaming.keep_alive = Duration::from_millis(2500),
        |config| {
            config.upstream.body_idle_timeout = Duration::from_secs(1);
            config.upstream.pool_idle_timeout = Duration::from_secs(1);
            config.listeners[0].idle_timeout = Duration::from_secs(1);
        },
    )
    .await;
    let mut subscription = subscribed(&site, &wire, 10).await;
    let began = Instant::now();
    // Two answers without events: one that brings the head, one in the body.
    for _ in 0..2 {
        let empty: FetchResponse = subscription.next().await.unwrap();
        assert!(empty.events.is_empty());
    }
    assert!(began.elapsed() > Duration::from_secs(4));
    site.publish("at last").await;
    assert_eq!(subscription.next::<FetchResponse>().await.unwrap().events.len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn an_org_that_is_away_is_told_as_a_status() {
    let (site, wire) = start().await;
    site.org.down(false, true);
    site.org.cut(false);
    let ended = unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap_err();
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("14", true));
    assert!(ended.text("grpc-message").starts_with("SFPROXY_ORG_"), "{ended:?}");
    assert!(
        ended.text("proxy-status").starts_with("sf-token-proxy; error="),
        "{ended:?}"
    );
    site.org.down(false, false);
    unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap();
    site.stop().await;
}

#[tokio::test]
async fn without_a_token_the_reason_is_told_as_a_status() {
    let login = RawOrg::start(|_| Script::ok()).await;
    login.refuse_logins(Some((
        "400 Bad Request",
        r#"{"error":"invalid_client","error_description":"invalid client credentials"}"#,
    )));
    let app = Running::start(&login.url(), |_| {}).await;
    let wire = Wire::plain(app.proxy).await;
    let ended = unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap_err();
    assert_eq!((ended.code.as_str(), ended.trailers_only), ("14", true));
    let message = ended.text("grpc-message");
    assert!(
        message.starts_with("SFPROXY_NO_TOKEN: ") && message.contains("invalid_client"),
        "{message}"
    );
    app.stop().await;
}

#[tokio::test]
async fn http_1_is_told_that_http_2_is_needed() {
    let (site, _) = start().await;
    let lines = format!("POST {SERVICE}/GetTopic HTTP/1.1\nContent-Type: application/grpc\nContent-Length: 5");
    let reply = call(site.app.proxy, &lines, &[0; 5]).await;
    assert_eq!(reply.status, 400, "{}", reply.head);
    assert!(reply.header("grpc-status").is_empty());
    let error = json_of(&reply);
    assert_eq!(error[0]["errorCode"], "SFPROXY_NEEDS_HTTP2");
    assert!(
        error[0]["message"].as_str().unwrap().contains("needs HTTP/2"),
        "{error}"
    );
    assert_eq!(site.org.stats().pubsub_requests, 0);
    site.stop().await;
}

#[tokio::test]
async fn an_endpoint_without_http_2_is_a_clear_error() {
    // Its instance speaks HTTP/1.1 alone.
    let site = Site::start(|settings| settings.http2 = false, |_| {}).await;
    let base = site.org.base_url().to_owned();
    let (ca, login) = (site.files.ca_file.clone(), RawOrg::start(|_| Script::ok()).await);
    let app = Running::start(&login.url(), |config| {
        config.orgs.values_mut().next().unwrap().pub_sub = base.parse().unwrap();
        config.upstream.ca_file = Some(ca);
    })
    .await;
    let wire = Wire::plain(app.proxy).await;
    let ended = unary::<TopicInfo>(&wire, "GetTopic", &topic()).await.unwrap_err();
    assert_eq!(ended.code, "14");
    assert!(
        ended.text("grpc-message").contains("does not speak HTTP/2"),
        "{ended:?}"
    );
    app.stop().await;
    site.stop().await;
}

#[tokio::test]
async fn fifty_megabytes_through_one_stream_are_not_kept() {
    let (site, wire) = start().await;
    let schema = schema_id(&wire, TOPIC).await;
    let mut stream = rpc(&wire, "PublishStream", &[]).await;
    for n in 0..25 {
        let event = batch(TOPIC, &schema, &[n.to_string()], 2 << 20);
        stream.send_slowly(&event).await;
        let published: PublishResponse = stream.next().await.unwrap();
        assert_eq!(published.results.len(), 1);
        metric_becomes(&site.app, REPLAY_BYTES, 0.0).await;
    }
    let bytes = site.org.requests(9).iter().map(|seen| seen.body_bytes).max();
    assert!(bytes > Some(50 << 20), "{bytes:?}");
    site.stop().await;
}
