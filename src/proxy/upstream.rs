//! How connections to the org are made and reused.
//!
//! An HTTP/1.1 pool over `hyper::client::conn`, last in first out, so that few connections stay warm (`performance.md`:
//! a tenth cheaper than the stock client, which spawns a task per call). TCP with happy eyeballs, egress proxies and
//! their CONNECT are hyper-util's.
//!
//! Owns: the idle connections, and a tracked task per open connection.
//! Invariants: TLS wherever the instance says so; a connection goes back only when both bodies have ended; a call
//! that a dead connection never took, or a safe one (GET, HEAD, OPTIONS) on a reused connection that died without a
//! byte of answer, is sent once more on another. An answer that comes before the org resets the connection is read.
//! Fails with: [`UpstreamError`]. Every wait has a deadline of `config::Upstream`.

use std::{
    collections::VecDeque,
    error::Error as StdError,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::Matcher,
    },
    rt::TokioIo,
};
use prometheus::IntGauge;
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
    body::{OutBody, Patience, Upload},
    headers,
    read_first::ReadFirst,
};
use crate::{
    config::{self, OrgName},
    metrics::Metrics,
    token::{Instance, Token},
};

type BoxError = Box<dyn StdError + Send + Sync>;
type Sender = http1::SendRequest<OutBody>;

const KEEPALIVE: Duration = Duration::from_secs(60);
/// The sweeper comes so often in `pool_idle_timeout`: that is how exactly it is kept.
const SWEEPS: u32 = 4;

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

struct Pool {
    /// By instance; normally one. An org's old hosts empty by themselves.
    hosts: Mutex<Vec<Host>>,
    max_idle: usize,
    /// Counts the sweeper's rounds, a clock that costs nothing to read.
    round: AtomicU64,
    idle: IntGauge,
    in_use: IntGauge,
}

struct Host {
    instance: Arc<Instance>,
    /// The most recently used last.
    idle: Vec<Idle>,
}

struct Idle {
    sender: Sender,
    task: AbortHandle,
    /// The sweeper's round in which it became idle.
    since: u64,
}

/// A connection in use; counted until it is dropped.
struct Lease {
    /// `None` once it has gone back.
    sender: Option<Sender>,
    /// The connection's.
    task: AbortHandle,
    instance: Arc<Instance>,
    pool: Arc<Pool>,
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
            pool: Arc::new(Pool {
                hosts: Mutex::default(),
                max_idle: settings.pool_max_idle,
                round: AtomicU64::new(0),
                idle: gauge("idle"),
                in_use: gauge("in_use"),
            }),
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
        let instance = &token.instance;
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
                None => head.request(token, upload),
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
    fn request(&self, token: &Token, upload: &Upload) -> Request<OutBody> {
        let mut request = Request::new(upload.attempt());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        let mut headers = self.headers.clone();
        headers::set_credential(&mut headers, token);
        *request.headers_mut() = headers;
        request
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Host>> {
        // Nothing panics while holding it.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(self: &Arc<Self>, sender: Sender, task: AbortHandle, instance: &Arc<Instance>) -> Lease {
        self.in_use.inc();
        Lease {
            sender: Some(sender),
            task,
            instance: Arc::clone(instance),
            pool: Arc::clone(self),
        }
    }

    /// The most recently used connection that is still open.
    fn take(self: &Arc<Self>, instance: &Arc<Instance>) -> Option<Taken> {
        loop {
            let idle = self.pop(instance)?;
            if idle.sender.is_closed() {
                continue;
            }
            let ready = idle.sender.is_ready();
            let lease = self.lease(idle.sender, idle.task, instance);
            return Some(if ready {
                Taken::Ready(lease)
            } else {
                Taken::Settling(lease)
            });
        }
    }

    fn pop(&self, instance: &Arc<Instance>) -> Option<Idle> {
        let mut hosts = self.lock();
        let host = hosts.iter_mut().find(|host| same(&host.instance, instance))?;
        let idle = host.idle.pop();
        self.idle.sub(i64::from(idle.is_some()));
        idle
    }

    fn put_back(&self, sender: Sender, task: AbortHandle, instance: &Arc<Instance>) {
        if sender.is_closed() || self.max_idle == 0 {
            return;
        }
        let idle = Idle {
            sender,
            task,
            since: self.round.load(Ordering::Relaxed),
        };
        let mut hosts = self.lock();
        if let Some(host) = hosts.iter_mut().find(|host| same(&host.instance, instance)) {
            if host.idle.len() < self.max_idle {
                host.idle.push(idle);
                self.idle.inc();
            }
        } else {
            self.idle.inc();
            hosts.push(Host {
                instance: Arc::clone(instance),
                idle: vec![idle],
            });
        }
    }

    /// One round: closes what has been idle for [`SWEEPS`] of them, and forgets hosts without connections.
    fn sweep(&self) {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        let mut closed = 0;
        self.lock().retain_mut(|host| {
            let before = host.idle.len();
            host.idle
                .retain(|idle| !idle.sender.is_closed() && round.saturating_sub(idle.since) < u64::from(SWEEPS));
            closed += before - host.idle.len();
            !host.idle.is_empty()
        });
        self.idle.sub(i64::try_from(closed).unwrap_or(0));
    }

    fn close_all(&self) {
        self.lock().clear();
        self.idle.set(0);
    }

    fn forget(&self, instance: &Arc<Instance>) {
        let mut hosts = self.lock();
        if let Some(index) = hosts.iter().position(|host| same(&host.instance, instance)) {
            let host = hosts.swap_remove(index);
            self.idle.sub(i64::try_from(host.idle.len()).unwrap_or(0));
        }
    }
}

fn same(a: &Arc<Instance>, b: &Arc<Instance>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// A connection from the pool.
enum Taken {
    Ready(Lease),
    /// Its last answer has been read, but its task has not come round yet.
    Settling(Lease),
}

/// `None`: the connection turned out to be closed.
async fn settled(mut lease: Lease) -> Option<Lease> {
    const SOON: Duration = Duration::from_millis(100);
    let ready = timeout(SOON, lease.sender().ready()).await;
    matches!(ready, Ok(Ok(()))).then_some(lease)
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.in_use.dec();
    }
}

impl Lease {
    fn sender(&mut self) -> &mut Sender {
        self.sender
            .as_mut()
            .expect("a lease must hold its connection until it goes back")
    }

    /// Both bodies have ended: the connection can serve another call.
    fn give_back(mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.put_back(sender, self.task.clone(), &self.instance);
        }
    }
}

/// The org's answer body: streamed, but for what was looked at to judge it.
pub struct InBody {
    /// Frames that were looked at; they are passed on first.
    seen: VecDeque<Frame<Bytes>>,
    /// `None` when it has ended.
    source: Option<Incoming>,
    lease: Option<Lease>,
    /// The connection's.
    task: AbortHandle,
    upload: Upload,
    idle_limit: Duration,
    patience: Patience,
}

/// Why an answer's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum InBodyError {
    #[error("the org broke off in its answer")]
    Broke(#[source] hyper::Error),
    #[error("the org sent nothing of its answer for too long")]
    Stalled,
}

impl InBody {
    fn new(source: Incoming, lease: Lease, upload: Upload, idle_limit: Duration) -> Self {
        let mut body = Self {
            seen: VecDeque::new(),
            source: Some(source),
            task: lease.task.clone(),
            lease: Some(lease),
            upload,
            idle_limit,
            patience: Patience::default(),
        };
        if body.source.as_ref().is_some_and(Body::is_end_stream) {
            body.ended();
        }
        body
    }

    /// The source has ended; the connection goes back if the request has, too.
    fn ended(&mut self) {
        self.source = None;
        if let Some(lease) = self.lease.take()
            && self.upload.is_complete()
        {
            lease.give_back();
        }
    }

    /// The answer is not passed on. A connection that still sends the request's body is ended: nobody waits for it, and
    /// an org that does not read would hold it, and what it holds, for ever.
    pub fn abandon(self) {
        if !self.upload.is_complete() {
            self.task.abort();
        }
    }

    /// Reads up to `limit` bytes ahead and returns a copy; they are still passed on. Ends early when the body breaks
    /// off or stalls: the reader of the body will meet the error.
    pub async fn look_ahead(&mut self, limit: usize, patience: Duration) -> Vec<u8> {
        let mut copy = Vec::new();
        let reading = async {
            while copy.len() < limit {
                let next = poll_fn(|cx| self.poll_source(cx)).await;
                let Some(Ok(frame)) = next else {
                    break;
                };
                if let Some(data) = frame.data_ref() {
                    copy.extend_from_slice(data);
                }
                self.seen.push_back(frame);
            }
        };
        // Dropped half-way, it has lost nothing: each frame is kept as soon as it is read.
        drop(timeout(patience, reading).await);
        copy
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InBodyError>>> {
        let Some(source) = &mut self.source else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = Pin::new(&mut *source).poll_frame(cx) else {
            let lost = self.patience.poll_lost(self.idle_limit, cx);
            return lost.map(|()| Some(Err(InBodyError::Stalled)));
        };
        self.patience.rewarded();
        let ended = source.is_end_stream();
        match frame {
            Some(Ok(frame)) => {
                if ended {
                    self.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(cause)) => {
                self.source = None;
                self.lease = None;
                Poll::Ready(Some(Err(InBodyError::Broke(cause))))
            }
            None => {
                self.ended();
                Poll::Ready(None)
            }
        }
    }
}

impl Body for InBody {
    type Data = Bytes;
    type Error = InBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InBodyError>>> {
        if let Some(frame) = self.seen.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        self.poll_source(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.seen.is_empty() && self.source.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let seen: u64 = self
            .seen
            .iter()
            .filter_map(Frame::data_ref)
            .map(|data| data.len() as u64)
            .sum();
        let rest = match &self.source {
            Some(source) => source.size_hint(),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + seen);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + seen);
        }
        hint
    }
}
