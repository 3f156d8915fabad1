//! How connections to the org are made and reused.
//!
//! HTTP/1.1, and HTTP/2 where the family needs it (Pub/Sub) or the operator wants it (`upstream.http2`). For HTTP/1.1 a pool over `hyper::client::conn`, last in first out, so that few connections stay warm (`performance.md`:
//! a tenth cheaper than the stock client, which spawns a task per call). TCP with happy eyeballs, egress proxies and
//! their CONNECT are hyper-util's.
//!
//! Owns: a tracked task per open connection; those of HTTP/1.1 that are idle are in `pool.rs`, those of HTTP/2 in
//! `streams.rs`.
//! Invariants: TLS wherever the instance says so; a connection goes back only when both bodies have ended; a call
//! that a dead connection never took, or a safe one (GET, HEAD, OPTIONS) on a reused connection that died without a
//! byte of answer, is sent once more on another; so is a call that an HTTP/2 server says it has not processed (a refused
//! stream, one above the last of a GOAWAY), whatever its method. An answer that comes before the org resets the connection is read.
//! Fails with: [`UpstreamError`]. Every wait has a deadline of `config::Upstream`.

use std::{
    error::Error as StdError,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::{
    client::{
        legacy::connect::{HttpConnector, proxy::Tunnel},
        proxy::matcher::Matcher,
    },
    rt::TokioIo,
};
use rustls_pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tokio::{
    net::TcpStream,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

use super::{
    body::{OutBody, Upload},
    envelope::{self, Edit},
    headers,
    in_body::InBody,
    pool::{self, Pool, SWEEPS, Taken, settled},
    read_first::ReadFirst,
    splice::Replacement,
    streams::{self, Streams, Tracked},
    surface::{Host, Protocol, Surface},
};
use crate::{
    config::{self, OrgName},
    metrics::Metrics,
    token::{Instance, Token},
};

/// A connection, with TLS on the right: one type, so that the code for both protocols is there once.
type Io = Either<ReadFirst<TcpStream>, TlsStream<ReadFirst<TcpStream>>>;

type BoxError = Box<dyn StdError + Send + Sync>;

const KEEPALIVE: Duration = Duration::from_secs(60);

/// In ALPN.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// So often a call is sent again because the org says that it has not processed it.
const MOST_NOT_PROCESSED: u32 = 3;

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
    #[error("{host} does not speak HTTP/2, which this API needs; for Pub/Sub see orgs.NAME.pub_sub.endpoint")]
    NoHttp2 { host: String },
    #[error("{host} did not accept a connection within upstream.connect_timeout ({after:?})")]
    ConnectTimeout { host: String, after: Duration },
    #[error("{host} did not answer within upstream.response_timeout ({after:?})")]
    ResponseTimeout { host: String, after: Duration },
    #[error(
        "{host} does not take the call: it refuses streams or leaves its connections (GOAWAY); it has not processed the call"
    )]
    NotProcessed {
        host: String,
        #[source]
        cause: hyper::Error,
    },
    #[error("{host} answered with what cannot be passed on; it may have acted on the call")]
    Unusable {
        host: String,
        #[source]
        cause: BoxError,
    },
    #[error("{host} broke off before it answered; whether it acted on the call is not known")]
    Broke {
        host: String,
        #[source]
        cause: hyper::Error,
    },
}

/// The part of a request that is the same for each attempt.
pub struct Head {
    pub surface: Surface,
    pub method: Method,
    pub target: PathAndQuery,
    pub headers: HeaderMap,
    /// Where the credential goes into the body.
    pub edits: Vec<Edit>,
}

/// Connections to the hosts of one org.
pub struct Upstream {
    settings: config::Upstream,
    /// Each offers what its name says.
    tls_http1: TlsConnector,
    tls_http2: TlsConnector,
    tls_either: TlsConnector,
    egress: Matcher,
    http: HttpConnector,
    http1: http1::Builder,
    http2: http2::Builder<Tracked>,
    pool: Arc<Pool>,
    streams: Streams,
    /// Where Pub/Sub is.
    pub_sub: Arc<Instance>,
    /// Every open connection's task.
    tasks: TaskTracker,
}

/// The org's answer, before it is judged.
pub struct Answer {
    /// Boxed: the answer is moved through several hands.
    pub response: Response<Box<InBody>>,
    /// The call was sent twice, because a connection was dead or the org had not processed it.
    pub reconnected: bool,
}

impl Answer {
    /// It is not passed on.
    pub(super) fn abandon(self) {
        self.response.into_body().abandon();
    }
}

/// A connection, or a place on one, for one call.
pub(super) enum Lease {
    Http1(pool::Lease),
    Http2(streams::Lease),
}

impl Lease {
    /// Both bodies have ended: the connection can serve another call.
    pub(super) fn give_back(self) {
        match self {
            Self::Http1(lease) => lease.give_back(),
            Self::Http2(lease) => drop(lease),
        }
    }

    /// The connection's task, if the connection is this call's alone.
    pub(super) fn task(&self) -> Option<AbortHandle> {
        match self {
            Self::Http1(lease) => Some(lease.task.clone()),
            Self::Http2(_) => None,
        }
    }
}

impl Upstream {
    pub fn new(
        org: &OrgName,
        settings: &config::Upstream,
        pub_sub: Instance,
        tls: &rustls::ClientConfig,
        metrics: &Metrics,
    ) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(tls))
        };
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
        let tasks = TaskTracker::new();
        Self {
            tls_http1: offering(&[HTTP1]),
            tls_http2: offering(&[HTTP2]),
            tls_either: offering(&[HTTP2, HTTP1]),
            settings: settings.clone(),
            egress: egress.build(),
            http,
            http1: http1::Builder::new(),
            http2: streams::builder(tasks.clone()),
            pool: Pool::new(settings.pool_max_idle, gauge("idle"), gauge("in_use")),
            streams: Streams::new(gauge("idle"), gauge("in_use")),
            pub_sub: Arc::new(pub_sub),
            tasks,
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
                () = tokio::time::sleep(period) => {
                    self.pool.sweep();
                    self.streams.sweep();
                }
            }
        }
        self.pool.close_all();
        self.streams.close_all();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Sends one attempt and waits for the head of the answer.
    pub async fn send(&self, token: &Token, head: &Head, upload: &Upload) -> Result<Answer, UpstreamError> {
        let instance = match head.surface.row().host {
            Host::PubSub => &self.pub_sub,
            Host::Instance | Host::Here => token.instance_for(head.target.path()),
        };
        let mut reconnected = false;
        let mut not_processed = 0;
        loop {
            let (mut lease, reused) = match self.at_hand(head.surface, instance) {
                Some(Taken::Ready(lease)) => (lease, true),
                Some(Taken::Settling(lease)) => match Box::pin(settled(lease)).await {
                    Some(lease) => (Lease::Http1(lease), true),
                    None => continue,
                },
                // Boxed: a handshake's state is large, and most calls need none.
                None => Box::pin(self.connect(head.surface, instance)).await?,
            };
            let sent = match &mut lease {
                Lease::Http1(lease) => {
                    let request = head.request(token, instance, upload);
                    // Boxed, as below: with it, the future of a call would be too large for the allocator's quick ways.
                    let sent = Box::pin(lease.sender().try_send_request(request));
                    self.answer_in_time(pin!(sent), upload, instance).await?
                }
                Lease::Http2(lease) => {
                    let request = head.request_http2(token, instance, upload);
                    // Boxed: HTTP/1.1 calls should not pay for its size.
                    let sent = Box::pin(lease.sender().try_send_request(request));
                    self.answer_in_time(pin!(sent), upload, instance).await?
                }
            };
            let mut broke = match sent {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(UpstreamError::Unusable {
                        host: instance.authority.to_string(),
                        cause: "it switches protocols (101), which nobody asked for".into(),
                    });
                }
                Ok(response) if !headers::is_plainly_transferred(response.headers()) => {
                    return Err(UpstreamError::Unusable {
                        host: instance.authority.to_string(),
                        cause: "its Transfer-Encoding is not chunked alone, which nobody asked for".into(),
                    });
                }
                Ok(response) => {
                    let response = self.receive(response, lease, head.surface, upload);
                    return Ok(Answer { response, reconnected });
                }
                Err(broke) => broke,
            };
            reconnected = true;
            let given_back = broke.take_message().is_some();
            let cause = broke.into_error();
            let end = End::of(&cause);
            let shared = matches!(lease, Lease::Http2(_));
            if let Lease::Http2(lease) = &lease
                && !matches!(end, End::Stream | End::RefusedStream)
            {
                self.streams.forget(lease);
            }
            if reused && given_back {
                continue;
            }
            let not_taken = end == End::RefusedStream || end == End::GoAway || (shared && given_back);
            let may_repeat = given_back || (upload.failure().is_none() && upload.hold_for_repeat().is_ok());
            let host = || instance.authority.to_string();
            if may_repeat && not_taken && not_processed < MOST_NOT_PROCESSED {
                not_processed += 1;
                tracing::debug!(host = host(), "the org did not process the call, sending it again");
            } else if not_taken {
                return Err(UpstreamError::NotProcessed { host: host(), cause });
            } else if may_repeat && reused && end == End::Connection && !cause.is_parse() && head.method.is_safe() {
                // The others in the pool are as old: do not try them one by one.
                self.pool.forget(instance);
            } else if cause.is_parse() {
                let cause: BoxError = match cause.is_parse_too_large() {
                    true => "its head has more than 100 header lines, or is longer than 400 KiB".into(),
                    false => cause.into(),
                };
                return Err(UpstreamError::Unusable { host: host(), cause });
            } else {
                return Err(UpstreamError::Broke { host: host(), cause });
            }
        }
    }

    /// A connection that is open already.
    fn at_hand(&self, surface: Surface, instance: &Arc<Instance>) -> Option<Taken<Lease>> {
        let wanted = self.wanted(surface, instance);
        let shared = match wanted {
            Protocol::Http1 => None,
            Protocol::Http2 | Protocol::Either => self.streams.take(instance),
        };
        match (shared, wanted) {
            (Some(lease), _) => Some(Taken::Ready(Lease::Http2(lease))),
            (None, Protocol::Http2) => None,
            (None, _) => self.pool.take(instance).map(|taken| match taken {
                Taken::Ready(lease) => Taken::Ready(Lease::Http1(lease)),
                Taken::Settling(lease) => Taken::Settling(lease),
            }),
        }
    }

    /// What is to be spoken: without TLS nobody can be asked what they speak.
    fn wanted(&self, surface: Surface, instance: &Instance) -> Protocol {
        match surface.row().protocol {
            Protocol::Either if !self.settings.http2 || !instance.tls => Protocol::Http1,
            wanted => wanted,
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

    fn receive(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        surface: Surface,
        upload: &Upload,
    ) -> Response<Box<InBody>> {
        let idle = surface.body_idle(self.settings.body_idle_timeout);
        response.map(|incoming| Box::new(InBody::new(incoming, lease, upload.clone(), idle)))
    }

    /// A new connection, ready for one request; or, with HTTP/2, one that somebody else has made meanwhile.
    async fn connect(&self, surface: Surface, instance: &Arc<Instance>) -> Result<(Lease, bool), UpstreamError> {
        let wanted = self.wanted(surface, instance);
        let after = self.settings.connect_timeout;
        // Waiting for somebody else's handshake counts: many who wait for a host that is away must not do so one by one.
        let connected = timeout(after, self.connect_untimed(wanted, instance)).await;
        connected.map_err(|_| UpstreamError::ConnectTimeout {
            host: instance.authority.to_string(),
            after,
        })?
    }

    async fn connect_untimed(
        &self,
        wanted: Protocol,
        instance: &Arc<Instance>,
    ) -> Result<(Lease, bool), UpstreamError> {
        if wanted == Protocol::Http1 {
            return Ok((self.connect_as(wanted, instance, None).await?, false));
        }
        let host = self.streams.host(instance);
        let alone = || wanted == Protocol::Either && host.prefers_http1.load(Ordering::Relaxed);
        if !alone() {
            // Held across the handshake on purpose: all who wait can share what it brings.
            let turn = host.turn.lock().await;
            if let Some(lease) = self.streams.take(instance) {
                return Ok((Lease::Http2(lease), true));
            }
            // The one before may have learned that nothing can be shared: then nobody waits any more.
            if !alone() {
                let lease = self.connect_as(wanted, instance, Some(&host)).await?;
                drop(turn);
                return Ok((lease, false));
            }
        }
        Ok((self.connect_as(wanted, instance, Some(&host)).await?, false))
    }

    async fn connect_as(
        &self,
        wanted: Protocol,
        instance: &Arc<Instance>,
        known: Option<&streams::Host>,
    ) -> Result<Lease, UpstreamError> {
        let host = || instance.authority.to_string();
        let unreachable = |cause: BoxError| UpstreamError::Unreachable { host: host(), cause };
        let tcp = self.connect_tcp(instance).await.map_err(unreachable)?;
        if !instance.tls {
            return self
                .handshake(Either::Left(tcp), wanted == Protocol::Http2, instance)
                .await;
        }
        let tls = match wanted {
            Protocol::Http1 => &self.tls_http1,
            Protocol::Http2 => &self.tls_http2,
            Protocol::Either => &self.tls_either,
        };
        let name = ServerName::try_from(instance.host.clone()).map_err(|e| unreachable(e.into()))?;
        let tls = tls.connect(name, tcp).await;
        let tls = tls.map_err(|cause| match none_of_the_protocols(&cause) {
            true if wanted == Protocol::Http2 => UpstreamError::NoHttp2 { host: host() },
            _ => UpstreamError::Tls { host: host(), cause },
        })?;
        let http2 = tls.get_ref().1.alpn_protocol() == Some(HTTP2);
        if wanted == Protocol::Http2 && !http2 {
            return Err(UpstreamError::NoHttp2 { host: host() });
        }
        if let Some(known) = known.filter(|_| wanted == Protocol::Either) {
            known.prefers_http1.store(!http2, Ordering::Relaxed);
        }
        self.handshake(Either::Right(tls), http2, instance).await
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

    async fn handshake(&self, io: Io, http2: bool, instance: &Arc<Instance>) -> Result<Lease, UpstreamError> {
        let failed = |cause: hyper::Error| UpstreamError::Unreachable {
            host: instance.authority.to_string(),
            cause: cause.into(),
        };
        let io = TokioIo::new(io);
        // A connection's errors reach whoever waits for an answer; one that ends idle is nobody's concern.
        if http2 {
            let (sender, connection) = self.http2.handshake(io).await.map_err(failed)?;
            let lease = self.streams.add(sender, instance);
            let allowance = lease.allowance();
            self.tasks.spawn(async move {
                drop(
                    allowance
                        .kept(connection, http2::Connection::current_max_send_streams)
                        .await,
                );
            });
            return Ok(Lease::Http2(lease));
        }
        let (sender, connection) = self.http1.handshake(io).await.map_err(failed)?;
        let task = self.tasks.spawn(async move { drop(connection.await) });
        Ok(Lease::Http1(self.pool.lease(sender, task.abort_handle(), instance)))
    }
}

/// Whether a server says that it speaks nothing of what ALPN offers; others choose HTTP/1.1 all the same.
fn none_of_the_protocols(error: &std::io::Error) -> bool {
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
    let found = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    found == Some(&alert)
}

/// What ended a call without an answer. Two of them are HTTP/2's ways to say that it was not processed (RFC 9113 §8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Connection,
    /// The call's stream alone; others on the connection go on.
    Stream,
    RefusedStream,
    /// The call's stream is above the last one that the server will process.
    GoAway,
}

impl End {
    fn of(error: &hyper::Error) -> Self {
        let http2 = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
        match http2 {
            Some(error) if error.is_go_away() && error.is_remote() => Self::GoAway,
            Some(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) && error.is_remote() => {
                Self::RefusedStream
            }
            // Also by ourselves: the caller broke off its upload, or the answer's headers are too long.
            Some(error) if error.is_reset() => Self::Stream,
            _ => Self::Connection,
        }
    }
}

impl Head {
    /// The request of one attempt: the caller's headers with the org's host and the token's credential.
    fn request(&self, token: &Token, instance: &Instance, upload: &Upload) -> Request<OutBody> {
        let mut request = Request::new(upload.attempt(self.replacements(token)));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.target.clone());
        let mut headers = self.headers.clone();
        headers.insert(header::HOST, instance.host_header.clone());
        headers::set_credential(&mut headers, token, self.surface.row().token);
        *request.headers_mut() = headers;
        request
    }

    /// The same for HTTP/2, where the host is part of the target and a connection has no headers of its own.
    fn request_http2(&self, token: &Token, instance: &Instance, upload: &Upload) -> Request<OutBody> {
        let mut request = self.request(token, instance, upload);
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if instance.tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(instance.authority.clone());
        parts.path_and_query = Some(self.target.clone());
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(header::HOST);
        request.headers_mut().remove(header::CONNECTION);
        request
    }

    fn replacements(&self, token: &Token) -> Vec<Replacement> {
        if self.edits.is_empty() {
            return Vec::new();
        }
        let credential = envelope::escaped(token.secret().expose_secret());
        let text = |edit: &Edit| [&edit.before, credential.as_bytes(), &edit.after].concat();
        self.edits
            .iter()
            .map(|edit| (edit.at.clone(), text(edit).into()))
            .collect()
    }
}
