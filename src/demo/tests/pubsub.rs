//! The Pub/Sub API, over TLS with the h2 crate itself, so that every frame can be seen.

mod subscriptions;
mod wire;

use std::{future::poll_fn, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use h2::Reason;
use prost::Message as _;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use super::{eventually, got, start, tls};
use crate::demo::{
    pubsub::messages::{FetchResponse, ReplayPreset, SchemaInfo, SchemaRequest, TopicInfo, TopicRequest},
    world::ORG_ID,
};
use wire::{SOON, TOPIC, Wire, by_rest, connect, fetch, framed, ids, metadata, schema_id};

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
    let stream = TcpStream::connect(("127.0.0.1", url.port().unwrap())).await.unwrap();
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
