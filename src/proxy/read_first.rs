//! A connection on which an early answer is read before a failed write is told.
//!
//! An org may refuse a call by its head, answer and close while the body is still being sent. The next write then fails, and
//! hyper would give the connection up although the answer lies in the receive buffer. Here such a failure waits until the
//! reading side has come to its end.
//!
//! Invariants: bytes are not touched; a write fails once reading has ended. Fails with: what the system says.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct ReadFirst<T> {
    io: T,
    /// How writing failed, when reading has not ended yet.
    broken: Option<io::ErrorKind>,
    read_ended: bool,
}

impl<T> ReadFirst<T> {
    pub fn new(io: T) -> Self {
        Self {
            io,
            broken: None,
            read_ended: false,
        }
    }

    /// Whether a write has to wait for the reader, or fails at once.
    fn before_write(&self) -> Option<Poll<io::Result<usize>>> {
        let kind = self.broken?;
        // The task is woken by what it reads.
        Some(if self.read_ended {
            Poll::Ready(Err(kind.into()))
        } else {
            Poll::Pending
        })
    }

    fn after_write(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(e)) if !self.read_ended && is_reset(&e) => {
                self.broken = Some(e.kind());
                // Once more round, in case the reader looked before the answer came.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            written => written,
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
    )
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadFirst<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Poll::Ready(read) = &read {
            self.read_ended |= read.is_err() || (room > 0 && buf.filled().len() == before);
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadFirst<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(held) = self.before_write() {
            return held;
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(held) = self.before_write() {
            return held;
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.after_write(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
