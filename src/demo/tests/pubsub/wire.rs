//! A client of the Pub/Sub API that sees every frame, and what its tests say again and again.
//!
//! Owns: its connections. Invariants: waiting for an answer has an end.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use hyper::{HeaderMap, Request};
use prost::Message;
use reqwest::Method;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

use crate::demo::{
    pubsub::messages::{
        FetchRequest, FetchResponse, ProducerEvent, PublishRequest, ReplayPreset, TopicInfo, TopicRequest,
    },
    tests::{DATA, Practice, tls},
    world::ORG_ID,
};

pub(super) const TOPIC: &str = "/event/Practice_Event__e";
pub(super) const SOON: Duration = Duration::from_secs(5);

/// One HTTP/2 connection.
pub(super) struct Wire {
    pub(super) send: SendRequest<Bytes>,
    pub(super) connection: JoinSet<Result<(), h2::Error>>,
}

/// One RPC.
pub(super) struct Rpc {
    pub(super) requests: SendStream<Bytes>,
    pub(super) response: Option<ResponseFuture>,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<RecvStream>,
    pub(super) buffer: BytesMut,
}

/// How an RPC ended, by its trailers.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: String,
    pub(super) error_code: Option<String>,
    pub(super) message: String,
    pub(super) rpc_id: Option<String>,
    pub(super) trailers_only: bool,
}

pub(super) async fn connect(practice: &Practice) -> Wire {
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

pub(super) fn metadata(practice: &Practice, token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("accesstoken", token.parse().unwrap());
    headers.insert("instanceurl", practice.org.base_url().parse().unwrap());
    headers.insert("tenantid", ORG_ID.parse().unwrap());
    headers
}

pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut out).unwrap();
    out.freeze()
}

impl Wire {
    pub(super) async fn call(&mut self, method: &str, metadata: HeaderMap) -> Rpc {
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

    pub(super) async fn unary<A: Message + Default>(
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
    pub(super) fn send(&mut self, message: &impl Message) {
        self.requests.send_data(framed(message), false).unwrap();
    }

    /// The next message, or how the call ended.
    pub(super) async fn next<M: Message + Default>(&mut self) -> Result<M, Ended> {
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

    pub(super) async fn reset_reason(&mut self) -> Option<Reason> {
        self.response.take().unwrap().await.unwrap_err().reason()
    }
}

pub(super) fn fetch(preset: ReplayPreset, replay_id: &Bytes, count: i32) -> FetchRequest {
    FetchRequest {
        topic_name: TOPIC.into(),
        replay_preset: preset.into(),
        replay_id: replay_id.clone(),
        num_requested: count,
    }
}

pub(super) fn more(count: i32) -> FetchRequest {
    FetchRequest {
        num_requested: count,
        ..FetchRequest::default()
    }
}

pub(super) fn ids(answer: &FetchResponse) -> Vec<&str> {
    answer
        .events
        .iter()
        .map(|event| event.event.as_ref().unwrap().id.as_str())
        .collect()
}

pub(super) async fn schema_id(wire: &mut Wire, metadata: HeaderMap) -> String {
    let topic = TopicRequest {
        topic_name: TOPIC.into(),
    };
    wire.unary::<TopicInfo>("GetTopic", metadata, &topic)
        .await
        .unwrap()
        .schema_id
}

pub(super) fn batch(schema_id: &str, ids: &[&str]) -> PublishRequest {
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

pub(super) async fn by_rest(practice: &Practice, token: &str, message: &str) -> String {
    let path = format!("{DATA}/sobjects/Practice_Event__e");
    let answer = practice
        .send(Method::POST, &path, token, json!({"Message__c": message}))
        .await
        .json();
    answer["errors"][0]["message"].as_str().unwrap().to_owned()
}
