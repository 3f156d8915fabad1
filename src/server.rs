//! How connections are accepted, limited and ended; the proxy's listeners and the admin port alike.
//!
//! Owns: a tracked task per connection, each with a permit. Invariants: at most `max_connections` at one time (more wait
//! in the kernel's queue); on drain nothing new is accepted, idle connections close at once, and calls in flight finish;
//! on force everything is dropped.
//! Fails with: an accept error that is no single connection's fault. HTTP/1.1, and HTTP/2 by prior knowledge.

use std::{convert::Infallible, error::Error as StdError, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;

use crate::shutdown::Stop;

/// What one listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_connections: usize,
    /// An idle connection, or one whose request head does not arrive, is closed after this.
    pub idle_timeout: Duration,
}

/// Windows for callers that speak HTTP/2: small enough that stalled streams cannot starve the others
/// (`performance.md`: with hyper's defaults eight of them can).
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const H2_STREAMS: u32 = H2_CONNECTION_WINDOW / H2_STREAM_WINDOW;
/// Pause when the process has no descriptors left; accepting again at once would only spin.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);

/// Binds every address, or says which one cannot be had. `localhost` became two addresses; on a machine without IPv6 the
/// second is left out. Addresses with port 0 share the port that the first one gets.
pub async fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut bound: Vec<TcpListener> = Vec::new();
    for address in addresses {
        let mut address = *address;
        if address.port() == 0
            && let Some(first) = bound.first()
        {
            address.set_port(first.local_addr()?.port());
        }
        match TcpListener::bind(address).await {
            Ok(listener) => bound.push(listener),
            Err(e) if !bound.is_empty() && address.is_ipv6() && no_ipv6(&e) => {
                tracing::info!(%address, "no IPv6 on this machine, not listening there");
            }
            Err(e) => {
                return Err(io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")));
            }
        }
    }
    Ok(bound)
}

fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

/// Serves one listener until `stop`; returns when its last connection has ended.
pub async fn serve<H, F, B>(listener: TcpListener, handler: H, limits: Limits, stop: Stop) -> io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let builder = Arc::new(builder(limits));
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let connections = TaskTracker::new();
    let result = loop {
        // Dropped half-way: a permit goes back; an accept that was not ready took nothing.
        let accepted = tokio::select! {
            biased;
            () = stop.drain.cancelled() => break Ok(()),
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
        let (builder, handler, stop) = (Arc::clone(&builder), handler.clone(), stop.clone());
        connections.spawn(async move {
            connection(stream, &builder, handler, stop).await;
            drop(permit);
        });
    };
    drop(listener);
    connections.close();
    connections.wait().await;
    result
}

fn builder(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_concurrent_streams(H2_STREAMS);
    builder
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

/// How long to rest after an accept error, `None` when the listener itself is broken.
fn rest_after(error: &io::Error) -> Option<Duration> {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    match error.kind() {
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => Some(Duration::ZERO),
        _ if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
            tracing::warn!(
                error = %error,
                "no file descriptors left: raise the limit (ulimit -n) or lower listeners[].max_connections"
            );
            Some(OUT_OF_DESCRIPTORS)
        }
        _ => None,
    }
}

async fn connection<H, F, B>(stream: TcpStream, builder: &auto::Builder<TokioExecutor>, handler: H, stop: Stop)
where
    H: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    // A connection's own errors (reset, bad request line) concern its caller alone, who has been told.
    tokio::select! {
        biased;
        () = stop.drain.cancelled() => connection.as_mut().graceful_shutdown(),
        ended = connection.as_mut() => return drop(ended),
    }
    tokio::select! {
        biased;
        () = stop.force.cancelled() => {}
        ended = connection => drop(ended),
    }
}
