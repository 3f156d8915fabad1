//! The body of the org's answer, on its way to the caller.
//!
//! Owns: the connection it comes on, until both bodies have ended. Invariants: what is looked at to judge an answer is
//! passed on all the same. Units: bytes. Fails with: [`InBodyError`].

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{task::AbortHandle, time::timeout};

use super::{
    body::{Patience, Upload},
    upstream::Lease,
    watch::Watch,
};

/// The org's answer body: streamed, but for what was looked at to judge it.
pub struct InBody {
    /// Frames that were looked at; they are passed on first.
    seen: VecDeque<Frame<Bytes>>,
    /// `None` when it has ended.
    source: Option<Incoming>,
    /// It broke off while it was looked at; the reader meets this after what was seen.
    broken: Option<InBodyError>,
    lease: Option<Lease>,
    /// The connection's, where it is this call's alone.
    task: Option<AbortHandle>,
    upload: Upload,
    /// Looks at what passes.
    watch: Option<Box<Watch>>,
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
    pub(super) fn new(source: Incoming, lease: Lease, upload: Upload, idle_limit: Duration) -> Self {
        let mut body = Self {
            seen: VecDeque::new(),
            source: Some(source),
            broken: None,
            task: lease.task(),
            lease: Some(lease),
            upload,
            watch: None,
            idle_limit,
            patience: Patience::default(),
        };
        if body.source.as_ref().is_some_and(Body::is_end_stream) {
            body.ended();
        }
        body
    }

    /// From here on `watch` sees what passes; what was looked at before has been judged.
    pub fn watch(&mut self, mut watch: Watch) {
        if self.source.is_none() {
            watch.ended();
        }
        self.watch = Some(Box::new(watch));
    }

    /// Reads one frame ahead, which is still passed on: an RPC that fails at once has its trailers there.
    pub async fn look_for_trailers(&mut self, patience: Duration) -> Option<HeaderMap> {
        let next = timeout(patience, poll_fn(|cx| self.poll_source(cx))).await;
        match next {
            Ok(Some(Ok(frame))) => {
                let trailers = frame.trailers_ref().cloned();
                self.seen.push_back(frame);
                trailers
            }
            Ok(Some(Err(error))) => {
                self.broken = Some(error);
                None
            }
            Ok(None) | Err(_) => None,
        }
    }

    /// Whether bytes of the answer were looked at.
    pub fn has_begun(&self) -> bool {
        self.seen.iter().any(Frame::is_data)
    }

    /// A copy of what was looked at, as far as nobody has read it yet.
    pub fn looked_at(&self) -> Vec<u8> {
        self.seen
            .iter()
            .filter_map(Frame::data_ref)
            .flatten()
            .copied()
            .collect()
    }

    /// The source has ended; the connection goes back if the request has, too.
    fn ended(&mut self) {
        self.source = None;
        if let Some(watch) = &mut self.watch {
            watch.ended();
        }
        if let Some(lease) = self.lease.take()
            && self.upload.is_complete()
        {
            lease.give_back();
        }
    }

    /// The answer is not passed on. A connection that still sends the request's body is ended: nobody waits for it, and
    /// an org that does not read would hold it, and what it holds, for ever.
    pub fn abandon(self) {
        if let Some(task) = &self.task
            && !self.upload.is_complete()
        {
            task.abort();
        }
    }

    /// Reads up to `limit` bytes ahead and returns a copy; they are still passed on. Ends early when the body breaks
    /// off or stalls: the reader of the body will meet the error.
    pub async fn look_ahead(&mut self, limit: usize, patience: Duration) -> Vec<u8> {
        let mut copy = Vec::new();
        let reading = async {
            while copy.len() < limit {
                let frame = match poll_fn(|cx| self.poll_source(cx)).await {
                    Some(Ok(frame)) => frame,
                    Some(Err(error)) => {
                        self.broken = Some(error);
                        break;
                    }
                    None => break,
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
                if let Some(watch) = &mut self.watch {
                    watch.see(&frame);
                }
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
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        self.poll_source(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.seen.is_empty() && self.broken.is_none() && self.source.as_ref().is_none_or(Body::is_end_stream)
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
            // How long it would have been is not known: what there is must not pass for all.
            None if self.broken.is_some() => SizeHint::new(),
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
