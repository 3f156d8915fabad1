//! Connections to a listener that speaks https.
//!
//! Owns: nothing beside what `server.rs` does. Invariants: a handshake has a deadline and counts against the connection
//! permits; a connection that does not begin with TLS is told so in plain HTTP and gets nothing else; plain listeners
//! never come here and hold nothing of it.
//! Units: `Duration`.
//! Fails with: as `server.rs`; a failed handshake concerns its caller alone, and is counted.
//! Source: RFC 8446 §5.1 (records), RFC 7301 (ALPN).

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus::IntCounter;
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Caller,
    speak::{Io, Protocol, Speaker, TLS_HANDSHAKE},
};
use crate::shutdown::Stop;

/// From the accept to the end of the handshake, at most. A client that sends nothing holds a permit for so long.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

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

    /// Looks at the first byte, and shakes hands. Who comes without TLS is marked as such and greeted in plain HTTP.
    pub(super) async fn greet(
        &self,
        stream: TcpStream,
        brief: &Speaker,
        caller: &mut Caller,
        stop: &Stop,
    ) -> Option<(Io, Protocol)> {
        let deadline = Instant::now() + brief.idle_timeout;
        let mut first = [0];
        // Dropped half-way, looking has taken nothing; a handshake that is dropped has had no call yet.
        let seen = tokio::select! {
            biased;
            () = stop.drain.cancelled() => return None,
            seen = timeout_at(deadline, stream.peek(&mut first)) => seen,
        };
        match seen {
            Ok(Ok(0)) | Ok(Err(_)) => return None,
            Ok(Ok(_)) if first[0] != TLS_HANDSHAKE => {
                caller.without_tls = true;
                return brief.greet(stream, stop).await;
            }
            Ok(Ok(_)) => {}
            Err(_) => {
                self.failed(&late());
                return None;
            }
        }
        let accepted = tokio::select! {
            biased;
            () = stop.drain.cancelled() => return None,
            accepted = timeout_at(deadline, self.acceptor().accept(stream)) => accepted,
        };
        match accepted.unwrap_or_else(|_| Err(late())) {
            Ok(stream) => {
                let protocol = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                Some((Io::Right(Box::new(stream)), protocol))
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it took too long")
}
