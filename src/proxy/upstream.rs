//! How connections to the org are made and reused.
//!
//! An HTTP/1.1 pool over `hyper::client::conn`, last in first out, so that few connections stay warm (`performance.md`:
//! a tenth cheaper than the stock client, which spawns a task per call). TCP with happy eyeballs, egress proxies and
//! their CONNECT are hyper-util's.
//!
//! Owns: a tracked task per open connection; the idle ones are in `pool.rs`.
//! Invariants: TLS wherever the instance says so; a connection goes back only when both bodies have ended; a call
//! that a dead connection never took, or a safe one (GET, HEAD, OPTIONS) on a reused connection that died without a
//! byte of answer, is sent once more on another. An answer that comes before the org resets the connection is read.
//! Fails with: [`UpstreamError`]. Every wait has a deadline of `config::Upstream`.

use std::{
    error::Error as StdError,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Method, Request, Response, Uri, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::Matcher,
    },
    rt::TokioIo,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

use super::{
    body::{OutBody, Upload},
    headers,
    in_body::InBody,
    pool::{Lease, Pool, SWEEPS, Sender, Taken, settled},
    read_first::ReadFirst,
};
use crate::{
    config::{self, OrgName},
    metrics::Metrics,
    token::{Instance, Token},
};

type BoxError = Box<dyn StdError + Send + Sync>;

const KEEPALIVE: Duration = Duration::from_secs(60);

/// Why the org gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("cannot connect to {host}")]
    Unreachable {
        host: String,
        #[source]
        cause: BoxError,
    },
    #[error("no TLS with {host}; a private certificate authority goes into upstream.ca_file")]
    Tls {
        host: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("{host} did not accept a connection within upstream.connect_timeout ({after:?})")]
    ConnectTimeout { host: String, after: Duration },
    #[error("{host} did not answer within upstream.response_timeout ({after:?})")]
    ResponseTimeout { host: String, after: Duration },
    #[error("{host} broke off before it answered; whether it acted on the call is not known")]
    Broke {
        host: String,
        #[source]
        cause: hyper::Error,
    },
}

/// The part of a request that is the same for each attempt.
pub struct Head {
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
}

/// Connections to the hosts of one org.
pub struct Upstream {
    settings: config::Upstream,
    tls: TlsConnector,
    egress: Matcher,
    http: HttpConnector,
    builder: http1::Builder,
    pool: Arc<Pool>,
    /// Every open connection's task.
    tasks: TaskTracker,
}

/// The org's answer, before it is judged.
pub struct Answer {
    /// Boxed: the answer is moved through several hands.
    pub response: Response<Box<InBody>>,
    /// The call was sent twice, because a connection was dead.
    pub reconnected: bool,
}

impl Upstream {
    pub fn new(org: &OrgName, settings: &config::Upstream, mut tls: rustls::ClientConfig, metrics: &Metrics) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // A middlebox that forgets the connection during a long silence is noticed before the deadline.
        http.set_keepalive(Some(KEEPALIVE));
        let mut egress = Matcher::builder();
        if let Some(proxy) = &settings.proxy.https {
            egress = egress.https(proxy.clone());
        }
        if let Some(no) = &settings.proxy.no_proxy {
            egress = egress.no(no.clone());
        }
        let gauge = |state| metrics.upstream_connections.with_label_values(&[org.as_str(), state]);
        Self {
            settings: settings.clone(),
            tls: TlsConnector::from(Arc::new(tls)),
            egress: egress.build(),
            http,
            builder: http1::Builder::new(),
            pool: Pool::new(settings.pool_max_idle, gauge("idle"), gauge("in_use")),
            tasks: TaskTracker::new(),
        }
    }

    /// Closes connections that have been idle too long, until `stop`; then all idle ones, and waits for the rest.
    pub async fn run(&self, stop: CancellationToken) {
        let period = self.settings.pool_idle_timeout / SWEEPS;
        loop {
            // Either branch may be dropped: a sleep and a flag.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(period) => self.pool.sweep(),
            }
        }
        self.pool.close_all();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Sends one attempt and waits for the head of the answer.
    pub async fn send(&self, token: &Token, head: &Head, upload: &Upload) -> Result<Answer, UpstreamError> {
        let instance = token.instance_for(head.target.path());
        let mut reconnected = false;
        // A request that a dead connection gave back.
        let mut untouched: Option<Box<Request<OutBody>>> = None;
        loop {
            let (mut lease, reused) = match self.pool.take(instance) {
                Some(Taken::Ready(lease)) => (lease, true),
                Some(Taken::Settling(lease)) => match Box::pin(settled(lease)).await {
                    Some(lease) => (lease, true),
                    None => continue,
                },
                // Boxed: a handshake's state is large, and most calls need none.
                None => (Box::pin(self.connect(instance)).await?, false),
            };
            let request = match untouched.take() {
                Some(request) => *request,
                None => head.request(token, instance, upload),
            };
            let sent = pin!(lease.sender().try_send_request(request));
            let mut broke = match self.answer_in_time(sent, upload, instance).await? {
                Ok(response) => {
                    let response = self.receive(response, lease, upload);
                    return Ok(Answer { response, reconnected });
                }
                Err(broke) => broke,
            };
            reconnected = true;
            match broke.take_message() {
                Some(request) if reused => untouched = Some(Box::new(request)),
                _ => {
                    let cause = broke.into_error();
                    let may_repeat = reused
                        && !cause.is_parse()
                        && head.method.is_safe()
                        && upload.not_kept().is_none()
                        && upload.failure().is_none();
                    if !may_repeat {
                        let host = instance.authority.to_string();
                        return Err(UpstreamError::Broke { host, cause });
                    }
                    // The others in the pool are as old: do not try them one by one.
                    self.pool.forget(instance);
                }
            }
        }
    }

    /// Waits for the head of the answer; the time counts from the last movement of the request body.
    async fn answer_in_time<F: Future>(
        &self,
        mut sent: Pin<&mut F>,
        upload: &Upload,
        instance: &Instance,
    ) -> Result<F::Output, UpstreamError> {
        let after = self.settings.response_timeout;
        let mut deadline = Instant::now() + after;
        loop {
            if let Ok(output) = timeout_at(deadline, sent.as_mut()).await {
                return Ok(output);
            }
            match upload.last_progress() {
                Some(moved) if moved + after > deadline => deadline = moved + after,
                _ => {
                    let host = instance.authority.to_string();
                    return Err(UpstreamError::ResponseTimeout { host, after });
                }
            }
        }
    }

    fn receive(&self, response: Response<Incoming>, lease: Lease, upload: &Upload) -> Response<Box<InBody>> {
        let idle = self.settings.body_idle_timeout;
        response.map(|incoming| Box::new(InBody::new(incoming, lease, upload.clone(), idle)))
    }

    /// A new connection, ready for one request.
    async fn connect(&self, instance: &Arc<Instance>) -> Result<Lease, UpstreamError> {
        let after = self.settings.connect_timeout;
        let connected = timeout(after, self.connect_untimed(instance)).await;
        let (sender, task) = connected.map_err(|_| UpstreamError::ConnectTimeout {
            host: instance.authority.to_string(),
            after,
        })??;
        Ok(self.pool.lease(sender, task, instance))
    }

    async fn connect_untimed(&self, instance: &Instance) -> Result<(Sender, AbortHandle), UpstreamError> {
        let host = || instance.authority.to_string();
        let unreachable = |cause: BoxError| UpstreamError::Unreachable { host: host(), cause };
        let tcp = self.connect_tcp(instance).await.map_err(unreachable)?;
        if !instance.tls {
            return self.handshake(tcp).await.map_err(|e| unreachable(e.into()));
        }
        let name = ServerName::try_from(instance.host.clone()).map_err(|e| unreachable(e.into()))?;
        let tls = self.tls.connect(name, tcp).await;
        let tls = tls.map_err(|cause| UpstreamError::Tls { host: host(), cause })?;
        self.handshake(tls).await.map_err(|e| unreachable(e.into()))
    }

    /// TCP to the host, through the egress proxy if the environment names one for it.
    async fn connect_tcp(&self, instance: &Instance) -> Result<ReadFirst<TcpStream>, BoxError> {
        let scheme = if instance.tls { "https" } else { "http" };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(instance.authority.clone())
            .path_and_query("/")
            .build()?;
        let mut http = self.http.clone();
        let egress = if instance.loopback {
            None
        } else {
            self.egress.intercept(&uri)
        };
        let io = match egress {
            None => http.call(uri).await?,
            Some(egress) => {
                let mut tunnel = Tunnel::new(egress.uri().clone(), http);
                if let Some(auth) = egress.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(uri).await?
            }
        };
        Ok(ReadFirst::new(io.into_inner()))
    }

    async fn handshake<T>(&self, io: T) -> hyper::Result<(Sender, AbortHandle)>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = self.builder.handshake(TokioIo::new(io)).await?;
        // Its errors reach whoever waits for an answer; a connection that ends idle is nobody's concern.
        let task = self.tasks.spawn(async move { drop(connection.await) });
        Ok((sender, task.abort_handle()))
    }
}

impl Head {
    /// The request of one attempt: the caller's headers with the org's host and the token's credential.
    fn request(&self, token: &Token, instance: &Instance, upload: &Upload) -> Request<OutBody> {
        let mut request = Request::new(upload.attempt());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        let mut headers = self.headers.clone();
        headers::set_credential(&mut headers, token, instance);
        *request.headers_mut() = headers;
        request
    }
}
