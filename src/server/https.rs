//! Connections to a listener that speaks https.
//!
//! Owns: nothing beside what `server.rs` does. Invariants: a handshake has a deadline and counts against the connection
//! permits; a connection that does not begin with TLS is told so in plain HTTP and gets nothing else; plain listeners
//! never come here and hold nothing of it.
//! Units: `Duration`.
//! Fails with: as `server.rs`; a failed handshake concerns its caller alone, and is counted.
//! Source: RFC 8446 §5.1 (records), RFC 7301 (ALPN).

use std::{
    error::Error as StdError,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use prometheus::IntCounter;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Builders, Limits, TLS_HANDSHAKE, accept_all, connection, speak_h1, speak_h2};
use crate::shutdown::Stop;

/// From the accept to the end of the handshake, at most. A client that sends nothing holds a permit for so long.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// With what a listener speaks TLS. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    /// When the certificate ends.
    pub ends: Option<SystemTime>,
    failures: IntCounter,
}

impl Tls {
    pub fn new(config: Arc<ServerConfig>, ends: Option<SystemTime>, failures: IntCounter) -> Self {
        Self { config, ends, failures }
    }

    /// Whether they are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// What the next connection is greeted with; asked for each, so that it need not stay the same.
    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    fn failed(&self, error: &io::Error) {
        self.failures.inc();
        tracing::debug!(%error, "a TLS handshake failed; of an unknown authority: the app does not trust this certificate");
    }
}

/// As [`super::serve`], over TLS; `refuse` answers those who come without.
pub async fn serve_tls<H, F, R, G, B>(
    listener: TcpListener,
    tls: Tls,
    handler: H,
    refuse: R,
    limits: Limits,
    stop: Stop,
) -> io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    R: Fn(Request<Incoming>) -> G + Clone + Send + Sync + 'static,
    G: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let builders = Arc::new(Builders::new(limits.idle_timeout));
    let patience = limits.idle_timeout.min(HANDSHAKE);
    // Those who came to the wrong place need not stay.
    let brief = Arc::new(Builders::new(patience));
    let told = stop.clone();
    let start = move |stream, permit| {
        let (builders, brief, tls) = (Arc::clone(&builders), Arc::clone(&brief), tls.clone());
        let (handler, refuse, stop) = (handler.clone(), refuse.clone(), told.clone());
        async move {
            match greet(stream, &tls, patience, &stop).await {
                Greeted::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                    Box::pin(speak_h2(*stream, &builders, handler, &stop)).await;
                }
                Greeted::Tls(stream) => Box::pin(speak_h1(*stream, &builders, handler, &stop)).await,
                Greeted::Plain(stream) => Box::pin(connection(stream, &brief, refuse, &stop)).await,
                Greeted::Gone => {}
            }
            drop(permit);
        }
    };
    accept_all(listener, limits.permits, stop, start).await
}

enum Greeted {
    Tls(Box<TlsStream<TcpStream>>),
    /// It did not begin with TLS; nothing has been read.
    Plain(TcpStream),
    /// It went, or failed, or the listener drains: there is no call in flight.
    Gone,
}

/// Looks at the first byte, and shakes hands.
async fn greet(stream: TcpStream, tls: &Tls, patience: Duration, stop: &Stop) -> Greeted {
    let deadline = Instant::now() + patience;
    let mut first = [0];
    // Dropped half-way, looking has taken nothing; a handshake that is dropped has had no call yet.
    let seen = tokio::select! {
        biased;
        () = stop.drain.cancelled() => return Greeted::Gone,
        seen = timeout_at(deadline, stream.peek(&mut first)) => seen,
    };
    match seen {
        Ok(Ok(0)) | Ok(Err(_)) => return Greeted::Gone,
        Ok(Ok(_)) if first[0] != TLS_HANDSHAKE => return Greeted::Plain(stream),
        Ok(Ok(_)) => {}
        Err(_) => {
            tls.failed(&late());
            return Greeted::Gone;
        }
    }
    let accepting = Box::pin(tls.acceptor().accept(stream));
    let accepted = tokio::select! {
        biased;
        () = stop.drain.cancelled() => return Greeted::Gone,
        accepted = timeout_at(deadline, accepting) => accepted,
    };
    match accepted.unwrap_or_else(|_| Err(late())) {
        Ok(stream) => Greeted::Tls(Box::new(stream)),
        Err(error) => {
            tls.failed(&error);
            Greeted::Gone
        }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it took too long")
}
