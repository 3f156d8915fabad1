//! What is spoken on a connection, to its end.
//!
//! Owns: nothing; polls what hyper makes of a stream. Invariants: while leaving, each HTTP/1.1 answer is its connection's last; on
//! drain idle connections close at once, and calls in flight finish; on force everything is dropped.
//! Units: `Duration`, bytes. Fails with: nothing; a connection's errors (reset, bad request line) concern its caller alone, who has been told.

use std::{
    convert::Infallible,
    error::Error as StdError,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
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
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{Answer, Handler, linger::Lingering};
use crate::shutdown::Stop;

/// A connection, with TLS on the right. Boxed there: most listeners speak plain http, and hold no room for it.
pub(super) type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Windows for callers that speak HTTP/2: small enough that stalled streams cannot starve the others
/// (`performance.md`: with hyper's defaults eight of them can).
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const H2_STREAMS: u32 = H2_CONNECTION_WINDOW / H2_STREAM_WINDOW;
/// The org takes 16 KiB of target and headers each (SF §3.4); what is too long is for it to say.
const H2_HEADERS: u32 = 64 * 1024;
const H2_PING: Duration = Duration::from_secs(30);
/// For a connection that never had a call, to say goodbye; and for the rest of its first call's head.
const GOODBYE: Duration = Duration::from_secs(1);

pub(super) enum Protocol {
    Http1,
    Http2,
}

/// How both protocols are spoken on one listener.
pub(super) struct Speaker {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    pub(super) idle_timeout: Duration,
}

impl Speaker {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(idle_timeout);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_concurrent_streams(H2_STREAMS)
            .max_header_list_size(H2_HEADERS)
            // A peer that has vanished is found out.
            .keep_alive_interval(H2_PING)
            .keep_alive_timeout(H2_PING);
        Self {
            http1,
            http2,
            idle_timeout,
        }
    }

    /// Sees what a caller speaks; `None`: nothing came in time, or nothing that is spoken here.
    pub(super) async fn greet(&self, stream: TcpStream, stop: &Stop) -> Option<(Io, Protocol)> {
        // Dropped half-way, looking at the first bytes has taken none.
        let seen = tokio::select! {
            biased;
            () = stop.drain.cancelled() => return None,
            seen = timeout(self.idle_timeout, seen(&stream)) => seen,
        };
        match seen {
            Ok(Ok(Seen::Http1)) => Some((Io::Left(stream), Protocol::Http1)),
            Ok(Ok(Seen::Http2)) => Some((Io::Left(stream), Protocol::Http2)),
            Ok(Ok(Seen::Tls)) => {
                tracing::debug!(
                    address = stream.local_addr().ok().map(tracing::field::display),
                    "closed a connection that began with a TLS handshake: this address speaks plain http, call it with http:// \
                     (or give the listener a tls section)"
                );
                None
            }
            // Nothing came in time, or the caller went away.
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// HTTP/1.1 to the connection's end.
    pub(super) async fn http1<B>(&self, io: Io, handler: Handler<B>, stop: &Stop)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let leave = stop.leave.clone();
        let last = Arc::new(AtomicU64::new(NO_CALL));
        let noted = Arc::clone(&last);
        let service = service_fn(move |request: Request<Incoming>| {
            let kind = if request.body().is_end_stream() {
                BARE_CALL
            } else {
                CALL_WITH_BODY
            };
            noted.store(kind, Ordering::Relaxed);
            Answering {
                leaving: leave.is_cancelled(),
                answer: handler(request),
            }
        });
        let io = Lingering::new(io, Arc::clone(&last), CALL_WITH_BODY);
        let connection = self.http1.serve_connection(TokioIo::new(io), service);
        let mut connection = pin!(connection);
        if until_drain(connection.as_mut(), stop).await.is_pending() {
            connection.as_mut().graceful_shutdown();
            // Boxed: while a connection lives, it holds no room for its end.
            Box::pin(end(connection, stop, &last)).await;
        }
    }

    /// HTTP/2 to the connection's end.
    pub(super) async fn http2<B>(&self, io: Io, handler: Handler<B>, stop: &Stop)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&calls);
        let service = service_fn(move |request: Request<Incoming>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = handler(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = self.http2.serve_connection(TokioIo::new(io), service);
        drive_until_idle(
            connection,
            |connection| connection.graceful_shutdown(),
            stop,
            &calls,
            self.idle_timeout,
        )
        .await;
    }
}

/// What the last call on a connection of HTTP/1.1 was.
const NO_CALL: u64 = 0;
const BARE_CALL: u64 = 1;
const CALL_WITH_BODY: u64 = 2;

/// The answer to one call; while leaving, the connection's last.
struct Answering<B> {
    answer: Answer<B>,
    leaving: bool,
}

impl<B> Future for Answering<B> {
    type Output = Result<Response<B>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.answer.as_mut().poll(cx));
        if self.leaving {
            // The caller goes elsewhere before the drain closes idle connections, perhaps under its next call. HTTP/2
            // needs no such warning: its goodbye, sent by the drain, loses no call.
            let last = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, last);
        }
        Poll::Ready(Ok(response))
    }
}

/// Polls a connection to its end. On drain it ends after the calls in flight; on force at once. Its own errors (reset, bad
/// request line) concern its caller alone, who has been told. One on which no call began for `idle_timeout` takes no more (hyper has
/// a timer for HTTP/1.1 alone): calls in flight finish; without any there is nothing to wait for.
async fn drive_until_idle<C: Future>(
    connection: C,
    goodbye: impl FnOnce(Pin<&mut C>),
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
    goodbye(connection.as_mut());
    end(connection, stop, calls).await;
}

/// Polls a connection, after its goodbye, to its end. hyper waits for the first call that has begun to arrive, and over HTTP/2 even
/// for the caller's preface; what has not come by now is no call in flight.
async fn end<C: Future>(mut connection: Pin<&mut C>, stop: &Stop, calls: &AtomicU64) {
    let ending = async {
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
async fn until_drain<C: Future>(mut connection: Pin<&mut C>, stop: &Stop) -> Poll<()> {
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

enum Seen {
    Http1,
    Http2,
    Tls,
}

/// How a TLS record begins that holds a handshake (RFC 8446 §5.1); no HTTP does.
pub(super) const TLS_HANDSHAKE: u8 = 22;

/// Looks at the first bytes, and leaves them: HTTP/2 by prior knowledge begins with a preface that is no HTTP/1 request.
/// (hyper-util's `auto` does the same with a buffer of its own, for twice the memory of an idle connection.)
async fn seen(stream: &TcpStream) -> io::Result<Seen> {
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
            return Ok(Seen::Tls);
        }
        if !PREFACE.starts_with(&first[..seen]) {
            return Ok(Seen::Http1);
        }
        if seen == PREFACE.len() {
            return Ok(Seen::Http2);
        }
        tokio::time::sleep(PIECES).await;
    }
}
