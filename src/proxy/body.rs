//! How bodies are streamed, and how much of a request body is kept for a repeat.
//!
//! Owns: a [`Upload`] per call with a body; the [`Store`] counts what all of them keep together.
//! Invariants: nothing is buffered ahead of the reader: a chunk is asked of the caller when the org takes it. What is kept
//! is bounded per call and in total; when a bound is passed, what was kept is let go at once and the call is no longer
//! repeatable. A repeat sends the same bytes: first those kept, then what the caller has still to send. Of two
//! attempts only the newer reads; the older one's next read fails.
//! Units: bytes. Fails with: [`UploadError`].
//! Source: `design.md` §6.5; the idea is linkerd's `ReplayBody`.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus::IntGauge;
use tokio::time::{Instant, Sleep};

/// The least that a kept chunk is charged with: what it takes beside its bytes.
const CHUNK_COST: usize = 64;

/// The bounds of what is kept, and the count of what is.
#[derive(Clone)]
pub struct Store {
    max_body: u64,
    total: u64,
    /// The metric is the count.
    kept: IntGauge,
}

impl Store {
    pub fn new(settings: &crate::config::Replay, kept: IntGauge) -> Self {
        Self {
            max_body: settings.max_body,
            total: settings.total,
            kept,
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.kept.add(bytes);
        if u64::try_from(self.kept.get()).unwrap_or(0) <= self.total {
            return true;
        }
        self.kept.sub(bytes);
        false
    }

    fn give_back(&self, bytes: u64) {
        self.kept.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Why a call cannot be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotKept {
    /// Longer than `replay.max_body`.
    TooLong,
    /// `replay.total` is used up by other calls.
    NoRoom,
}

impl NotKept {
    pub const ALL: [Self; 2] = [Self::TooLong, Self::NoRoom];

    /// The word in metrics and `Proxy-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "body_too_long",
            Self::NoRoom => "replay_store_full",
        }
    }
}

/// Why a request body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    #[error("the caller's request body broke off")]
    Broke,
    #[error("the caller sent nothing of its request body for too long")]
    Stalled,
    #[error("a newer attempt of this call reads the body")]
    Superseded,
}

/// One call's request body: hands out an [`OutBody`] for each attempt. Cheap to clone.
#[derive(Clone)]
pub struct Upload(Option<Arc<Shared>>);

struct Shared {
    state: Mutex<State>,
    store: Store,
    idle: Duration,
}

struct State {
    source: Incoming,
    /// The attempt that may read.
    attempt: u32,
    /// Every chunk so far, while the call is repeatable.
    kept: Vec<Bytes>,
    kept_bytes: u64,
    /// What that is charged with.
    kept_cost: u64,
    trailers: Option<HeaderMap>,
    not_kept: Option<NotKept>,
    /// The source has been read to its end.
    complete: bool,
    failed: Option<UploadError>,
    last_progress: Instant,
    /// Wakes the attempt that waits for the caller.
    reader: Option<Waker>,
}

impl Upload {
    /// A body whose known length is above the bound is never kept.
    pub fn new(source: Incoming, store: &Store, idle: Duration) -> Self {
        if source.is_end_stream() {
            return Self(None);
        }
        let too_long = source.size_hint().lower() > store.max_body;
        Self(Some(Arc::new(Shared {
            state: Mutex::new(State {
                source,
                attempt: 0,
                kept: Vec::new(),
                kept_bytes: 0,
                kept_cost: 0,
                trailers: None,
                not_kept: too_long.then_some(NotKept::TooLong),
                complete: false,
                failed: None,
                last_progress: Instant::now(),
                reader: None,
            }),
            store: store.clone(),
            idle,
        })))
    }

    /// No body.
    pub fn none() -> Self {
        Self(None)
    }

    /// The body for the next attempt; the previous one, if it still reads, ends with an error.
    pub fn attempt(&self) -> OutBody {
        let Some(shared) = &self.0 else {
            return OutBody::empty();
        };
        let mut state = shared.lock();
        state.supersede();
        let (lower, upper) = (state.source.size_hint().lower(), state.source.size_hint().upper());
        let mut hint = SizeHint::new();
        if let Some(upper) = upper {
            hint.set_upper(upper + state.kept_bytes);
        }
        hint.set_lower(lower + state.kept_bytes);
        OutBody {
            attempt: state.attempt,
            next: 0,
            trailers_sent: false,
            hint,
            patience: Patience::default(),
            shared: Some(Arc::clone(shared)),
        }
    }

    /// Stops the attempt that reads, so that what is kept stays whole until the repeat; or says why there can be none.
    pub fn hold_for_repeat(&self) -> Result<(), NotKept> {
        let Some(shared) = &self.0 else {
            return Ok(());
        };
        let mut state = shared.lock();
        match state.not_kept {
            Some(why) => Err(why),
            None => {
                state.supersede();
                Ok(())
            }
        }
    }

    /// `None` when the call can be repeated, as far as its body goes.
    pub fn not_kept(&self) -> Option<NotKept> {
        self.0.as_ref().and_then(|shared| shared.lock().not_kept)
    }

    /// Why the caller's side failed, if it did.
    pub fn failure(&self) -> Option<UploadError> {
        self.0.as_ref().and_then(|shared| shared.lock().failed)
    }

    /// Whether nothing is left to read of the caller.
    pub fn is_complete(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.lock().complete)
    }

    /// When the body last moved; `None` without a body.
    pub fn last_progress(&self) -> Option<Instant> {
        self.0.as_ref().map(|shared| shared.lock().last_progress)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; if something did, the counts would still be right.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// From here on only a new attempt may read; the old one is told.
    fn supersede(&mut self) {
        self.attempt += 1;
        self.last_progress = Instant::now();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Keeps a chunk, or lets everything go when a bound is passed.
    fn keep(&mut self, chunk: &Bytes, store: &Store) {
        if self.not_kept.is_some() {
            return;
        }
        // Tiny chunks cost more than their bytes.
        let cost = chunk.len().max(CHUNK_COST);
        if self.kept_cost + cost as u64 > store.max_body {
            self.let_go(NotKept::TooLong, store);
        } else if store.take(cost) {
            self.kept_cost += cost as u64;
            self.kept_bytes += chunk.len() as u64;
            self.kept.push(chunk.clone());
        } else {
            self.let_go(NotKept::NoRoom, store);
        }
    }

    fn let_go(&mut self, why: NotKept, store: &Store) {
        store.give_back(self.kept_cost);
        self.kept = Vec::new();
        self.kept_bytes = 0;
        self.kept_cost = 0;
        self.not_kept = Some(why);
    }

    fn fail(&mut self, error: UploadError) -> UploadError {
        self.failed = Some(error);
        error
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let kept = self.lock().kept_cost;
        self.store.give_back(kept);
    }
}

/// The body of one attempt, as the org's connection reads it.
pub struct OutBody {
    shared: Option<Arc<Shared>>,
    attempt: u32,
    /// The next kept chunk to send.
    next: usize,
    trailers_sent: bool,
    hint: SizeHint,
    patience: Patience,
}

impl OutBody {
    pub fn empty() -> Self {
        Self {
            shared: None,
            attempt: 0,
            next: 0,
            trailers_sent: false,
            hint: SizeHint::with_exact(0),
            patience: Patience::default(),
        }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        let Some(shared) = &this.shared else {
            return Poll::Ready(None);
        };
        let mut state = shared.lock();
        if state.attempt != this.attempt {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(error) = state.failed {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(chunk) = state.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if state.complete {
            return Poll::Ready(match &state.trailers {
                Some(trailers) if !this.trailers_sent => {
                    this.trailers_sent = true;
                    Some(Ok(Frame::trailers(trailers.clone())))
                }
                _ => None,
            });
        }
        let Poll::Ready(frame) = Pin::new(&mut state.source).poll_frame(cx) else {
            state.reader = Some(cx.waker().clone());
            ready!(this.patience.poll_lost(shared.idle, cx));
            return Poll::Ready(Some(Err(state.fail(UploadError::Stalled))));
        };
        this.patience.rewarded();
        state.last_progress = Instant::now();
        let Some(frame) = frame else {
            state.complete = true;
            return Poll::Ready(None);
        };
        let Ok(frame) = frame else {
            return Poll::Ready(Some(Err(state.fail(UploadError::Broke))));
        };
        match frame.into_data() {
            Ok(chunk) => {
                state.keep(&chunk, &shared.store);
                if state.not_kept.is_none() {
                    this.next = state.kept.len();
                }
                if state.source.is_end_stream() {
                    state.complete = true;
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Err(frame) => {
                state.trailers = frame.trailers_ref().cloned();
                state.complete = true;
                this.trailers_sent = true;
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.shared.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// How long a body has kept its reader waiting. The clock is read when a wait begins, not for each piece; the timer is
/// set once and looks again when it fires, so that a body in motion costs no timer work.
#[derive(Default)]
pub(super) struct Patience {
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Something came.
    pub(super) fn rewarded(&mut self) {
        self.waiting_since = None;
    }

    /// Nothing came: ready when that has been so for `limit`.
    pub(super) fn poll_lost(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.waiting_since.get_or_insert_with(Instant::now) + limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}
