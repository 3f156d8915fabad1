//! How connections are accepted and limited; the proxy's listeners and the admin port alike.
//!
//! `server/speak.rs` says what is spoken on one: HTTP/1.1, and HTTP/2 by prior knowledge; `server/https.rs` how TLS is begun, with
//! HTTP/2 by ALPN; `server/linger.rs` how a connection is closed on which a body is still coming.
//!
//! Owns: a tracked task per connection, each with a permit. Invariants: at most `max_connections` at one time (more wait
//! in the kernel's queue, and the first of each address here); on drain nothing new is accepted.
//! Fails with: an accept error that is no single connection's fault.

use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;

use self::speak::{Protocol, Speaker};
use crate::shutdown::Stop;

mod https;
mod linger;
mod speak;

pub use self::https::Tls;

/// What one listener allows, over all its addresses.
#[derive(Debug, Clone)]
pub struct Limits {
    permits: Arc<Semaphore>,
    max_connections: usize,
    /// An idle connection, or one whose request head does not arrive, is closed after this.
    idle_timeout: Duration,
}

impl Limits {
    pub fn new(max_connections: usize, idle_timeout: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_connections)),
            max_connections,
            idle_timeout,
        }
    }

    /// Whether new ones would be the same.
    pub fn are(&self, max_connections: usize, idle_timeout: Duration) -> bool {
        (self.max_connections, self.idle_timeout) == (max_connections, idle_timeout)
    }

    /// Whether they are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.permits, &other.permits) && self.idle_timeout == other.idle_timeout
    }
}

/// Connections that wait to be accepted; the kernel has a limit of its own.
const BACKLOG: u32 = 1024;
/// Pause when the process has no descriptors left; accepting again at once would only spin.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Binds every address, or says which one cannot be had. `localhost` became two addresses; on a machine without IPv6 the
/// second is left out. Addresses with port 0 share the port that the first one gets.
pub fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let bound = bind_each(addresses, &[])?;
    Ok(bound.into_iter().map(|(_, listener)| listener).collect())
}

/// As [`bind`], each with the address as it was asked for. `open`: what is open for the same purpose already.
pub fn bind_each(addresses: &[SocketAddr], open: &[SocketAddr]) -> io::Result<Vec<(SocketAddr, TcpListener)>> {
    let mut bound: Vec<(SocketAddr, TcpListener)> = Vec::new();
    for asked in addresses {
        let mut address = *asked;
        if address.port() == 0
            && let Some((_, first)) = bound.first()
        {
            address.set_port(first.local_addr()?.port());
        }
        let others = bound.iter().filter_map(|(_, listener)| listener.local_addr().ok());
        let others: Vec<SocketAddr> = others.chain(open.iter().copied()).collect();
        match listen(address, both_families(address, &others)) {
            Ok(listener) => bound.push((*asked, listener)),
            Err(e) if !others.is_empty() && address.is_ipv6() && no_ipv6(&e) => {
                tracing::info!(%address, "no IPv6 on this machine, not listening there");
            }
            Err(e) => {
                return Err(io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")));
            }
        }
    }
    Ok(bound)
}

/// `[::]` beside `0.0.0.0`: by itself it would take IPv4 as well, where the system does not say otherwise.
fn both_families(address: SocketAddr, others: &[SocketAddr]) -> bool {
    let same = |other: &SocketAddr| other.port() == address.port() && other.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && others.iter().any(same)
}

fn listen(address: SocketAddr, ipv6_only: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart need not wait for connections of the run before to be forgotten.
    socket.set_reuseaddr(true)?;
    if ipv6_only {
        SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// What answers a call. Boxed: an idle connection holds no room for it, and one code speaks for all who answer.
pub type Answer<B> = Pin<Box<dyn Future<Output = Response<B>> + Send>>;

/// Answers the calls of one connection.
pub type Handler<B> = Box<dyn Fn(Request<Incoming>) -> Answer<B> + Send + Sync>;

/// Who has come. The addresses are asked for by [`serve_http1`] alone: they cost two system calls for each connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    pub peer: Option<SocketAddr>,
    /// Where this caller has come to.
    pub local: Option<SocketAddr>,
    /// Has come without TLS to a listener that speaks https.
    pub without_tls: bool,
}

impl Caller {
    fn of(stream: &TcpStream) -> Self {
        Self {
            peer: stream.peer_addr().ok(),
            local: stream.local_addr().ok(),
            without_tls: false,
        }
    }
}

/// Serves one listener until `stop`; returns when its last connection has ended, also when it is retired. With `tls` over
/// TLS; those who come without are the handler's to refuse.
pub async fn serve<M, B>(
    listener: TcpListener,
    tls: Option<Tls>,
    handler_for: M,
    limits: Limits,
    stop: Stop,
) -> io::Result<()>
where
    M: Fn(&Caller) -> Handler<B> + Send + Sync + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    // Those who come without TLS need not stay.
    let brief = Speaker::new(limits.idle_timeout.min(https::HANDSHAKE));
    let speakers = Arc::new((Speaker::new(limits.idle_timeout), brief, handler_for));
    let told = stop.clone();
    let start = move |stream: TcpStream, permit| {
        let (speakers, tls, stop) = (Arc::clone(&speakers), tls.clone(), told.clone());
        async move {
            let (speaker, brief, handler_for) = &*speakers;
            let mut caller = Caller::default();
            let greeted = match &tls {
                None => speaker.greet(stream, &stop).await,
                Some(tls) => Box::pin(tls.greet(stream, brief, &mut caller, &stop)).await,
            };
            let speaker = if caller.without_tls { brief } else { speaker };
            match greeted {
                Some((io, Protocol::Http1)) => speaker.http1(io, handler_for(&caller), &stop).await,
                Some((io, Protocol::Http2)) => Box::pin(speaker.http2(io, handler_for(&caller), &stop)).await,
                None => {}
            }
            drop(permit);
        }
    };
    accept_all(listener, limits.permits, stop, start).await
}

/// As [`serve`], in HTTP/1.1 and without TLS.
pub async fn serve_http1<M, B>(listener: TcpListener, handler_for: M, limits: Limits, stop: Stop) -> io::Result<()>
where
    M: Fn(&Caller) -> Handler<B>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let speaker = Arc::new(Speaker::new(limits.idle_timeout));
    let told = stop.clone();
    let start = move |stream: TcpStream, permit| {
        let (speaker, handler, stop) = (Arc::clone(&speaker), handler_for(&Caller::of(&stream)), told.clone());
        async move {
            if let Some((io, _)) = speaker.greet(stream, &stop).await {
                speaker.http1(io, handler, &stop).await;
            }
            drop(permit);
        }
    };
    accept_all(listener, limits.permits, stop, start).await
}

/// Accepts until `stop`, and gives each connection a task of its own: what `start` makes of it, which keeps the permit.
async fn accept_all<C>(
    listener: TcpListener,
    permits: Arc<Semaphore>,
    stop: Stop,
    start: impl Fn(TcpStream, Option<OwnedSemaphorePermit>) -> C,
) -> io::Result<()>
where
    C: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    // Accepted, and waiting for a permit. The caller comes first: a permit kept ready at an address where nobody calls would be missing
    // where somebody does.
    let mut waiting = None;
    let result = loop {
        // Dropped half-way: an accept that was not ready took nothing.
        let accepted = tokio::select! {
            biased;
            () = stop.drain.cancelled() => break Ok(()),
            () = stop.retire.cancelled() => break Ok(()),
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _peer)) => waiting.insert(stream),
            Err(e) => match rest_after(&e) {
                Some(rest) => {
                    tokio::time::sleep(rest).await;
                    continue;
                }
                None => break Err(e),
            },
        };
        // Fails only for a caller that has gone already; that must not pass for the listener's failure.
        drop(stream.set_nodelay(true));
        // Dropped half-way: a permit goes back.
        let permit = tokio::select! {
            biased;
            permit = permit(&permits) => permit,
            () = stop.drain.cancelled() => break Ok(()),
            () = stop.retire.cancelled() => break Ok(()),
        };
        if let Some(stream) = waiting.take() {
            connections.spawn(start(stream, Some(permit)));
        }
    };
    drop(listener);
    // Who was accepted is served though the address goes or its limits change, but not when all ends. Whom it waited for may stay for hours;
    // it counts for nobody.
    if let Some(stream) = waiting
        && !stop.drain.is_cancelled()
    {
        connections.spawn(start(stream, None));
    }
    connections.close();
    connections.wait().await;
    result
}

async fn permit(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = Arc::clone(permits).acquire_owned().await;
    permit.expect("nobody closes the semaphore")
}

/// How long to rest after an accept error, `None` when the listener itself is broken. The others are one connection's, or
/// pass (accept(2) hands out what befell the connection in the queue).
fn rest_after(error: &io::Error) -> Option<Duration> {
    const EBADF: i32 = 9;
    const EINVAL: i32 = 22;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOTSOCK: i32 = 88;
    const ANOTHER: Duration = Duration::from_millis(5);
    match error.raw_os_error() {
        Some(EBADF | EINVAL | ENOTSOCK) => None,
        Some(EMFILE | ENFILE) => {
            tracing::warn!(
                error = %error,
                "no file descriptors left: raise the limit (ulimit -n) or lower listeners[].max_connections"
            );
            Some(OUT_OF_DESCRIPTORS)
        }
        _ => Some(ANOTHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_ipv6_is_forgiven_beside_another_address_also_of_before() {
        // For documentation: no machine has it.
        let nowhere: SocketAddr = "[2001:db8::1]:0".parse().unwrap();
        assert!(bind_each(&[nowhere], &[]).is_err());
        let open = "127.0.0.1:1".parse().unwrap();
        assert!(bind_each(&[nowhere], &[open]).unwrap().is_empty());
        let both = bind_each(&["127.0.0.1:0".parse().unwrap(), nowhere], &[]).unwrap();
        assert_eq!(both.len(), 1);
    }

    #[tokio::test]
    async fn every_address_of_both_families_can_be_had_at_one_port() {
        let all = bind_each(&["0.0.0.0:0".parse().unwrap(), "[::]:0".parse().unwrap()], &[]).unwrap();
        let ports: Vec<u16> = all.iter().map(|(_, l)| l.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
        if all.len() == 2 {
            let (first, second) = (all[0].1.local_addr().unwrap(), "[::]:0".parse::<SocketAddr>().unwrap());
            drop(all);
            // Also when the one is open already.
            let v4 = bind_each(&[first], &[]).unwrap();
            let v6 = SocketAddr::new(second.ip(), first.port());
            assert_eq!(bind_each(&[v6], &[first]).unwrap().len(), 1);
            drop(v4);
        }
    }
}
