//! How connections are accepted, limited and ended; the proxy's listeners and the admin port alike.
//!
//! Owns: a tracked task per connection, each with a permit. Invariants: at most `max_connections` at one time (more wait
//! in the kernel's queue); while leaving, each HTTP/1.1 answer is its connection's last; on drain nothing new is accepted,
//! idle connections close at once, and calls in flight finish; on force everything is dropped.
//! Fails with: an accept error that is no single connection's fault. HTTP/1.1, and HTTP/2 by prior knowledge; over TLS
//! (`server/https.rs`) HTTP/2 by ALPN.

use std::{
    convert::Infallible,
    error::Error as StdError,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use crate::shutdown::Stop;

mod https;

pub use https::{Tls, serve_tls};

/// What one listener allows, over all its addresses.
#[derive(Debug, Clone)]
pub struct Limits {
    permits: Arc<Semaphore>,
    /// An idle connection, or one whose request head does not arrive, is closed after this.
    idle_timeout: Duration,
}

impl Limits {
    pub fn new(max_connections: usize, idle_timeout: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_connections)),
            idle_timeout,
        }
    }

    /// Whether they are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.permits, &other.permits) && self.idle_timeout == other.idle_timeout
    }
}

/// Windows for callers that speak HTTP/2: small enough that stalled streams cannot starve the others
/// (`performance.md`: with hyper's defaults eight of them can).
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const H2_STREAMS: u32 = H2_CONNECTION_WINDOW / H2_STREAM_WINDOW;
/// The org takes 16 KiB of target and headers each (SF §3.4); what is too long is for it to say.
const H2_HEADERS: u32 = 64 * 1024;
const H2_PING: Duration = Duration::from_secs(30);
/// For the goodbyes of a connection that never had a call.
const GOODBYE: Duration = Duration::from_secs(1);
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

/// Serves one listener until `stop`; returns when its last connection has ended, also when it is retired.
pub async fn serve<H, F, B>(listener: TcpListener, handler: H, limits: Limits, stop: Stop) -> io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    serve_each(listener, move |_: &TcpStream| handler.clone(), limits, stop).await
}

/// As [`serve`], with a handler made for each connection: it may want to know who calls.
pub async fn serve_each<M, H, F, B>(listener: TcpListener, handler_for: M, limits: Limits, stop: Stop) -> io::Result<()>
where
    M: Fn(&TcpStream) -> H,
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let builders = Arc::new(Builders::new(limits.idle_timeout));
    let told = stop.clone();
    let start = move |stream: TcpStream, permit| {
        let (builders, handler, stop) = (Arc::clone(&builders), handler_for(&stream), told.clone());
        async move {
            connection(stream, &builders, handler, &stop).await;
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
    start: impl Fn(TcpStream, OwnedSemaphorePermit) -> C,
) -> io::Result<()>
where
    C: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let result = loop {
        // Dropped half-way: a permit goes back; an accept that was not ready took nothing.
        let accepted = tokio::select! {
            biased;
            () = stop.drain.cancelled() => break Ok(()),
            () = stop.retire.cancelled() => break Ok(()),
            accepted = accept(&listener, &permits) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => match rest_after(&e) {
                Some(rest) => {
                    tokio::time::sleep(rest).await;
                    continue;
                }
                None => break Err(e),
            },
        };
        connections.spawn(start(stream, permit));
    };
    drop(listener);
    connections.close();
    connections.wait().await;
    result
}

/// How both protocols are spoken.
struct Builders {
    h1: http1::Builder,
    h2: http2::Builder<TokioExecutor>,
    idle_timeout: Duration,
}

impl Builders {
    fn new(idle_timeout: Duration) -> Self {
        let mut h1 = http1::Builder::new();
        h1.timer(TokioTimer::new()).header_read_timeout(idle_timeout);
        let mut h2 = http2::Builder::new(TokioExecutor::new());
        h2.timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(H2_HEADERS)
            // A peer that has vanished is found out.
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING);
        Self { h1, h2, idle_timeout }
    }
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _peer) = listener.accept().await?;
    // Fails only for a caller that has gone already; that must not pass for the listener's failure.
    drop(stream.set_nodelay(true));
    Ok((stream, permit))
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

async fn connection<H, F, B>(stream: TcpStream, builders: &Builders, handler: H, stop: &Stop)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    // Dropped half-way, looking at the first bytes has taken none.
    let protocol = tokio::select! {
        biased;
        () = stop.drain.cancelled() => return,
        protocol = timeout(builders.idle_timeout, protocol(&stream)) => protocol,
    };
    match protocol {
        Ok(Ok(Protocol::H1)) => speak_h1(stream, builders, handler, stop).await,
        Ok(Ok(Protocol::H2)) => Box::pin(speak_h2(stream, builders, handler, stop)).await,
        Ok(Ok(Protocol::Tls)) => tracing::debug!(
            address = stream.local_addr().ok().map(tracing::field::display),
            "closed a connection that began with a TLS handshake: this address speaks plain http, call it with http:// \
             (or give the listener a tls section)"
        ),
        // Nothing came in time, or the caller went away.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// HTTP/1.1 on a stream, to its end.
fn speak_h1<I, H, F, B>(io: I, builders: &Builders, handler: H, stop: &Stop) -> impl Future<Output = ()>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let leave = stop.leave.clone();
    let service = service_fn(move |request| {
        let leaving = leave.is_cancelled();
        // Boxed here, an idle connection holds no room for a call, and hyper moves a pointer.
        let answer = Box::pin(handler(request));
        async move {
            let mut response = answer.await;
            if leaving {
                // The caller goes elsewhere before the drain closes idle connections, perhaps under its next call. HTTP/2
                // needs no such warning: its goodbye, sent by the drain, loses no call.
                let last = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, last);
            }
            Ok::<_, Infallible>(response)
        }
    });
    drive(builders.h1.serve_connection(TokioIo::new(io), service), stop)
}

/// HTTP/2 on a stream, to its end.
async fn speak_h2<I, H, F, B>(io: I, builders: &Builders, handler: H, stop: &Stop)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let service = service_fn(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        let answer = Box::pin(handler(request));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = builders.h2.serve_connection(TokioIo::new(io), service);
    drive_until_idle(connection, stop, &calls, builders.idle_timeout).await;
}

/// Polls a connection to its end. On drain it ends after the call in flight; on force at once. Its own errors (reset, bad
/// request line) concern its caller alone, who has been told.
async fn drive<C: GracefulConnection>(connection: C, stop: &Stop) {
    let mut connection = pin!(connection);
    if until_drain(connection.as_mut(), stop).await.is_ready() {
        return;
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = stop.force.cancelled() => {}
        ended = connection => drop(ended),
    }
}

/// As [`drive`]; and a connection on which no call began for `idle_timeout` takes no more (hyper has a timer for HTTP/1.1
/// alone). Calls in flight finish; without any there is nothing to wait for.
async fn drive_until_idle<C: GracefulConnection>(
    connection: C,
    stop: &Stop,
    calls: &AtomicU64,
    idle_timeout: Duration,
) {
    let mut connection = pin!(connection);
    let mut seen = calls.load(Ordering::Relaxed);
    loop {
        // Dropped half-way, neither has lost anything: the connection stays here.
        match timeout(idle_timeout, until_drain(connection.as_mut(), stop)).await {
            Ok(Poll::Ready(())) => return,
            Ok(Poll::Pending) => break,
            Err(_) => {
                let now = calls.load(Ordering::Relaxed);
                if now == seen {
                    break;
                }
                seen = now;
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let ending = async {
        // hyper says goodbye only to a caller that has sent its preface; one that never will is not waited for.
        if timeout(GOODBYE, connection.as_mut()).await.is_err() && calls.load(Ordering::Relaxed) > 0 {
            drop(connection.await);
        }
    };
    tokio::select! {
        biased;
        () = stop.force.cancelled() => {}
        () = ending => {}
    }
}

/// Ready with the connection's end, pending when the drain comes first. A select would look at the drain at every
/// wake-up; its waker is registered once, and this task's waker stays the same.
async fn until_drain<C: GracefulConnection>(mut connection: Pin<&mut C>, stop: &Stop) -> Poll<()> {
    let mut drain = pin!(stop.drain.cancelled());
    let mut registered = false;
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Poll::Ready(()));
        }
        if !registered || stop.drain.is_cancelled() {
            registered = true;
            return drain.as_mut().poll(cx).map(|()| Poll::Pending);
        }
        Poll::Pending
    })
    .await
}

enum Protocol {
    H1,
    H2,
    Tls,
}

/// How a TLS record begins that holds a handshake (RFC 8446 §5.1); no HTTP does.
const TLS_HANDSHAKE: u8 = 22;

/// Looks at the first bytes, and leaves them: HTTP/2 by prior knowledge begins with a preface that is no HTTP/1 request.
/// (hyper-util's `auto` does the same with a buffer of its own, for twice the memory of an idle connection.)
async fn protocol(stream: &TcpStream) -> io::Result<Protocol> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Until more of a preface that came in pieces may be there; a peek cannot wait for it.
    const PIECES: Duration = Duration::from_millis(5);
    let mut first = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] == TLS_HANDSHAKE {
            return Ok(Protocol::Tls);
        }
        if !PREFACE.starts_with(&first[..seen]) {
            return Ok(Protocol::H1);
        }
        if seen == PREFACE.len() {
            return Ok(Protocol::H2);
        }
        tokio::time::sleep(PIECES).await;
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
