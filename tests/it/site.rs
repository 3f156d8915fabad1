//! The practice org and the whole program before it, for tests of what is spoken between them; and a client of HTTP/2.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use sf_token_proxy::{
    config::{self, Config, Vars},
    demo::{Org, Settings, Summary},
};
use tokio::{net::TcpStream, task::JoinSet};

use crate::support::{Reply, Running, call};

pub(crate) struct Site {
    pub(crate) org: Org,
    pub(crate) app: Running,
    pub(crate) files: Summary,
}

impl Site {
    pub(crate) async fn start(settings: impl FnOnce(&mut Settings), adapt: impl FnOnce(&mut Config)) -> Self {
        let mut chosen = Settings::practice().unwrap();
        settings(&mut chosen);
        let mut org = Org::start(chosen).await.unwrap();
        let files = org.write_files(None).unwrap();
        let secret = files.client_credentials.as_ref().unwrap();
        let yaml = json!({
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "orgs": {"main": {
                "login_url": org.login_url(),
                "grant": {"client_credentials": {
                    "client_id": secret.client_id, "client_secret": format!("file:{}", secret.secret_file.display()),
                }},
                "pub_sub": {"endpoint": org.pubsub_url().unwrap()},
            }},
            "upstream": {"ca_file": files.ca_file},
        });
        let mut config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
        // Tests end with streams open.
        config.shutdown.drain = Duration::from_millis(200);
        adapt(&mut config);
        let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
        Self { org, app, files }
    }

    pub(crate) async fn stop(self) {
        self.app.stop().await;
        self.org.stop().await;
    }

    /// A platform event.
    pub(crate) async fn publish(&self, message: &str) {
        let body = json!({"Message__c": message}).to_string();
        let lines = format!(
            "POST /services/data/v60.0/sobjects/Practice_Event__e HTTP/1.1\nContent-Type: application/json\nContent-Length: {}",
            body.len()
        );
        let reply = call(self.app.proxy, &lines, body.as_bytes()).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }

    pub(crate) async fn open(&self, state: &str) -> f64 {
        let series = format!("sf_token_proxy_upstream_connections{{org=\"main\",state=\"{state}\"}}");
        self.app.metric(&series).await
    }
}

pub(crate) fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {reply:?}"))
}

/// Waits for a metric.
pub(crate) async fn metric_becomes(app: &Running, series: &str, wanted: f64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let now = app.metric(series).await;
        if (now - wanted).abs() < f64::EPSILON {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{series}: still {now}, not {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What happens before any deadline of the program's defaults.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("it happens soon")
}

/// A caller's HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) send: SendRequest<Bytes>,
    _connection: Arc<JoinSet<Result<(), h2::Error>>>,
}

impl Wire {
    pub(crate) async fn plain(proxy: SocketAddr) -> Self {
        let stream = TcpStream::connect(proxy).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    pub(crate) async fn over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        // As gRPC clients do it: what one stream leaves unread does not hold up the others.
        let (send, connection) = h2::client::Builder::new()
            .initial_connection_window_size(16 << 20)
            .handshake(stream)
            .await
            .unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Self {
            send,
            _connection: Arc::new(tasks),
        }
    }

    /// A whole call; the body is read to its end.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &[u8]) -> (u16, HeaderMap, Vec<u8>) {
        let mut send = self.send.clone();
        poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://localhost{path}"))
            .body(())
            .unwrap();
        let (response, mut upload) = send.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            upload.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
        let (parts, mut incoming) = response.await.unwrap().into_parts();
        let mut whole = Vec::new();
        while let Some(chunk) = incoming.data().await {
            let chunk = chunk.unwrap();
            incoming.flow_control().release_capacity(chunk.len()).unwrap();
            whole.extend_from_slice(&chunk);
        }
        (parts.status.as_u16(), parts.headers, whole)
    }
}
