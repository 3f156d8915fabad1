//! How a connection is closed on which a body is still coming.
//!
//! A caller that is still sending when its answer is there (a refusal, the org's early 401) would find the connection reset under it,
//! and the answer lost: most clients send all of a body before they read. What it sends is read and thrown away for a while, as nginx
//! does.
//!
//! Owns: the stream. Invariants: everything is passed through until the writing side is shut down; then nobody is waited for longer
//! than [`ALL`]. An error is the close's end, not the connection's. Units: `Duration`.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// Who has nothing on its way reads the end, and closes. Idle connections are not held for who does not.
const FIRST: Duration = Duration::from_millis(200);
/// Between two pieces.
const NEXT: Duration = Duration::from_secs(1);
const ALL: Duration = Duration::from_secs(5);

/// A stream that lingers when it is closed, if the last call on it had a body.
pub(super) struct Lingering<T> {
    io: T,
    /// What the last call was.
    last: Arc<AtomicU64>,
    with_body: u64,
    closing: Option<Box<Closing>>,
}

struct Closing {
    until: Instant,
    patience: Pin<Box<Sleep>>,
}

impl<T> Lingering<T> {
    /// Lingers if `last` is `with_body` then.
    pub(super) fn new(io: T, last: Arc<AtomicU64>, with_body: u64) -> Self {
        Self {
            io,
            last,
            with_body,
            closing: None,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if this.last.load(Ordering::Relaxed) != this.with_body {
                return Poll::Ready(Ok(()));
            }
        }
        let closing = this.closing.get_or_insert_with(|| {
            Box::new(Closing {
                until: Instant::now() + ALL,
                patience: Box::pin(sleep(FIRST)),
            })
        });
        let mut waste = [0; 8 * 1024];
        loop {
            let mut waste = ReadBuf::new(&mut waste);
            match Pin::new(&mut this.io).poll_read(cx, &mut waste) {
                Poll::Ready(Ok(())) if !waste.filled().is_empty() => {
                    let now = Instant::now();
                    if now >= closing.until {
                        return Poll::Ready(Ok(()));
                    }
                    closing.patience.as_mut().reset(closing.until.min(now + NEXT));
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return closing.patience.as_mut().poll(cx).map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        task::JoinSet,
    };

    use super::*;

    const WITH_BODY: u64 = 7;

    /// How long a close lasts, of a connection whose other side sends a byte each so many milliseconds, or nothing.
    async fn closes_after(last: u64, each: Option<u64>, gone: bool) -> Duration {
        let (ours, mut theirs) = duplex(64);
        let mut others = JoinSet::new();
        others.spawn(async move {
            if gone {
                return;
            }
            match each {
                None => drop(theirs.read_u8().await),
                Some(each) => loop {
                    tokio::time::sleep(Duration::from_millis(each)).await;
                    if theirs.write_all(b"x").await.is_err() {
                        return;
                    }
                },
            }
            std::future::pending::<()>().await;
        });
        let mut io = Lingering::new(ours, Arc::new(AtomicU64::new(last)), WITH_BODY);
        let started = Instant::now();
        io.shutdown().await.unwrap();
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_comes_is_read_for_a_while() {
        let near = |found: Duration, expected: Duration| {
            assert!(
                found >= expected && found < expected + Duration::from_millis(150),
                "{found:?}, not {expected:?}"
            );
        };
        near(closes_after(WITH_BODY, None, false).await, FIRST);
        near(closes_after(WITH_BODY, Some(100), false).await, ALL);
        near(closes_after(WITH_BODY, Some(300), false).await, FIRST);
        near(closes_after(WITH_BODY, None, true).await, Duration::ZERO);
        near(closes_after(WITH_BODY - 1, Some(100), false).await, Duration::ZERO);
    }
}
