//! How request bodies are streamed, and how much of one is kept for a repeat.
//!
//! Owns: a [`Upload`] per call with a body; the [`Store`] counts what all of them keep together.
//! Invariants: nothing is buffered ahead of the reader: a chunk is asked of the caller when the org takes it. What is kept
//! is bounded per call and in total; when a bound is passed, what was kept is let go at once and the call is no longer
//! repeatable. A repeat sends the same bytes: first those kept, then what the caller has still to send. Of two
//! attempts only the newer reads; the older one's next read fails. Where the credential goes into the body, what was read
//! ahead to find its place is held until it is sent, and each attempt carries a credential of its own (`splice.rs`).
//! Units: bytes. Fails with: [`UploadError`].
//! Source: `design.md` §6.5; the idea is linkerd's `ReplayBody`.

use std::{
    future::poll_fn,
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

use super::{
    headers,
    inflate::Inflate,
    splice::{Replacement, Splice},
};

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
    #[error("the request body is no whole gzip, as its Content-Encoding says: send it as it is, or compress all of it")]
    NotGzip,
}

/// What the org's connection is told of it: over HTTP/2 the stream is no longer needed, which is nobody's error.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Interrupted {
    why: UploadError,
    #[source]
    reset: h2::Error,
}

impl From<UploadError> for Interrupted {
    fn from(why: UploadError) -> Self {
        let reset = h2::Reason::CANCEL.into();
        Self { why, reset }
    }
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
    source: Source,
    /// The attempt that may read.
    attempt: u32,
    /// Every chunk so far, while the call is repeatable; else what was read ahead and not sent yet.
    kept: Vec<Bytes>,
    kept_bytes: u64,
    /// What that is charged with.
    kept_cost: u64,
    trailers: Option<HeaderMap>,
    not_kept: Option<NotKept>,
    /// There will be no repeat: nothing more is kept.
    settled: bool,
    /// The attempt that reads has had all that is kept.
    caught_up: bool,
    /// The source has been read to its end.
    complete: bool,
    failed: Option<UploadError>,
    last_progress: Instant,
    /// Wakes the attempt that waits for the caller.
    reader: Option<Waker>,
}

/// The caller's body.
enum Source {
    Plain(Incoming),
    /// The credential goes into it, so it must be read.
    Gzip(Box<Inflate<Incoming>>),
}

impl Source {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self {
            Self::Plain(source) => {
                let frame = ready!(Pin::new(source).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|_| UploadError::Broke)))
            }
            Self::Gzip(source) => source.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(source) => source.is_end_stream(),
            Self::Gzip(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain(source) => source.size_hint(),
            Self::Gzip(_) => SizeHint::new(),
        }
    }
}

impl Upload {
    /// A body whose known length is above the bound is never kept.
    pub fn new(source: Incoming, store: &Store, idle: Duration) -> Self {
        if source.is_end_stream() {
            return Self(None);
        }
        Self::of(Source::Plain(source), store, idle)
    }

    /// A gzipped body, read and sent as what is in it.
    pub fn inflated(source: Incoming, store: &Store, idle: Duration) -> Self {
        if source.is_end_stream() {
            return Self(None);
        }
        Self::of(Source::Gzip(Box::new(Inflate::new(source))), store, idle)
    }

    fn of(source: Source, store: &Store, idle: Duration) -> Self {
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
                settled: false,
                caught_up: false,
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

    /// Reads up to `limit` bytes before the first attempt, until `judge` makes something of them; it is told whether they
    /// are the whole body. `None`: it never did. What was read is sent all the same.
    pub async fn look_ahead<T>(
        &self,
        limit: usize,
        mut judge: impl FnMut(&[u8], bool) -> Option<T>,
    ) -> Result<Option<T>, UploadError> {
        let Some(shared) = &self.0 else {
            return Ok(judge(&[], true));
        };
        let mut seen = Vec::new();
        let mut judged = 0;
        let mut patience = Patience::default();
        loop {
            let chunk = poll_fn(|cx| shared.lock().poll_ahead(shared, &mut patience, cx)).await?;
            seen.extend_from_slice(chunk.as_deref().unwrap_or_default());
            let whole = shared.lock().complete;
            let full = seen.len() >= limit;
            if whole || full || is_worth_judging(seen.len(), judged) {
                judged = seen.len();
                let found = judge(&seen, whole);
                if found.is_some() || whole || full {
                    return Ok(found);
                }
            }
        }
    }

    /// The body for the next attempt; the previous one, if it still reads, ends with an error.
    pub fn attempt(&self, replacements: Vec<Replacement>) -> OutBody {
        let Some(shared) = &self.0 else {
            return OutBody::empty();
        };
        let splice = (!replacements.is_empty()).then(|| Box::new(Splice::new(replacements)));
        let mut state = shared.lock();
        state.supersede();
        let rest = match state.complete {
            true => SizeHint::with_exact(0),
            false => state.source.size_hint(),
        };
        let becomes = |length: u64| splice.as_ref().map_or(length, |splice| splice.length(length));
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(becomes(upper + state.kept_bytes));
        }
        hint.set_lower(becomes(rest.lower() + state.kept_bytes));
        OutBody {
            attempt: state.attempt,
            next: 0,
            trailers_sent: false,
            hint,
            patience: Patience::default(),
            shared: Some(Arc::clone(shared)),
            splice,
        }
    }

    /// Whether there is no body at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The call has its answer and will not be repeated: what is still to come is not kept, and what was is let go once it
    /// has been sent (a stream's request may go on for days).
    pub fn settle(&self) {
        if let Some(shared) = &self.0 {
            let mut state = shared.lock();
            state.settled = true;
            if state.caught_up {
                state.let_go(&shared.store);
            }
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
        self.caught_up = false;
        self.last_progress = Instant::now();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Keeps a chunk that is being sent, or lets everything go when a bound is passed: all of it has been sent.
    fn keep(&mut self, chunk: &Bytes, store: &Store) {
        if self.not_kept.is_some() || self.settled {
            return;
        }
        match self.charge(chunk.len(), store) {
            Ok(()) => self.hold(chunk.clone()),
            Err(why) => {
                self.give_up(why, store);
                self.forget();
            }
        }
    }

    /// Keeps a chunk that was read ahead, whatever the bounds say: it has yet to be sent.
    fn keep_ahead(&mut self, chunk: &Bytes, store: &Store) {
        if self.not_kept.is_none()
            && let Err(why) = self.charge(chunk.len(), store)
        {
            self.give_up(why, store);
        }
        self.hold(chunk.clone());
    }

    fn hold(&mut self, chunk: Bytes) {
        self.kept_bytes += chunk.len() as u64;
        self.kept.push(chunk);
    }

    fn charge(&mut self, bytes: usize, store: &Store) -> Result<(), NotKept> {
        // Tiny chunks cost more than their bytes.
        let cost = bytes.max(CHUNK_COST);
        if self.kept_cost + cost as u64 > store.max_body {
            return Err(NotKept::TooLong);
        }
        if !store.take(cost) {
            return Err(NotKept::NoRoom);
        }
        self.kept_cost += cost as u64;
        Ok(())
    }

    /// What was kept has been sent and is not needed for a repeat.
    fn let_go(&mut self, store: &Store) {
        store.give_back(self.kept_cost);
        self.kept_cost = 0;
        self.forget();
    }

    /// From here on the call is not repeatable.
    fn give_up(&mut self, why: NotKept, store: &Store) {
        store.give_back(self.kept_cost);
        self.kept_cost = 0;
        self.not_kept = Some(why);
    }

    fn forget(&mut self) {
        self.kept = Vec::new();
        self.kept_bytes = 0;
    }

    /// The next piece of the caller's body; trailers stay here.
    fn poll_source(
        &mut self,
        shared: &Shared,
        patience: &mut Patience,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, UploadError>> {
        let Poll::Ready(frame) = self.source.poll_frame(cx) else {
            self.reader = Some(cx.waker().clone());
            ready!(patience.poll_lost(shared.idle, cx));
            return Poll::Ready(Err(self.fail(UploadError::Stalled)));
        };
        patience.rewarded();
        self.last_progress = Instant::now();
        let Some(frame) = frame else {
            self.complete = true;
            return Poll::Ready(Ok(None));
        };
        let mut frame = frame.map_err(|error| self.fail(error))?;
        if let Some(trailers) = frame.trailers_mut() {
            headers::strip_trailers(trailers);
            self.trailers = Some(trailers.clone());
        }
        self.complete = !frame.is_data() || self.source.is_end_stream();
        Poll::Ready(Ok(Some(frame)))
    }

    /// The next chunk, before any attempt asked for it; `None` at the end.
    fn poll_ahead(
        &mut self,
        shared: &Shared,
        patience: &mut Patience,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, UploadError>> {
        let frame = ready!(self.poll_source(shared, patience, cx))?;
        let chunk = frame.and_then(|frame| frame.into_data().ok());
        if let Some(chunk) = &chunk {
            self.keep_ahead(chunk, &shared.store);
        }
        Poll::Ready(Ok(chunk))
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

/// Whether what was read ahead is enough more than at the last judgement, which begins anew each time: many small chunks may not
/// cost much more than few large ones.
fn is_worth_judging(seen: usize, judged: usize) -> bool {
    /// A usual head is as long; up to here each chunk is judged.
    const OFTEN: usize = 1024;
    seen <= OFTEN || seen >= 2 * judged
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
    splice: Option<Box<Splice>>,
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
            splice: None,
        }
    }

    /// The next piece as the caller sent it.
    fn poll_original(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Some(shared) = &self.shared else {
            return Poll::Ready(None);
        };
        let mut state = shared.lock();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(error) = state.failed {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(chunk) = state.kept.get(self.next) {
            let chunk = chunk.clone();
            self.next += 1;
            state.caught_up = self.next == state.kept.len();
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        state.caught_up = true;
        if state.complete {
            return Poll::Ready(match &state.trailers {
                Some(trailers) if !self.trailers_sent => {
                    self.trailers_sent = true;
                    Some(Ok(Frame::trailers(trailers.clone())))
                }
                _ => None,
            });
        }
        if state.not_kept.is_some() || state.settled {
            // What was read ahead has been sent.
            state.let_go(&shared.store);
            self.next = 0;
        }
        let frame = ready!(state.poll_source(shared, &mut self.patience, cx));
        if let Ok(Some(frame)) = &frame {
            if let Some(chunk) = frame.data_ref() {
                state.keep(chunk, &shared.store);
                if state.not_kept.is_none() {
                    self.next = state.kept.len();
                }
            }
            self.trailers_sent |= frame.is_trailers();
        }
        Poll::Ready(frame.transpose())
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        let this = &mut *self;
        loop {
            if let Some(piece) = this.splice.as_mut().and_then(|splice| splice.pop()) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let frame = ready!(this.poll_original(cx));
            let Some(splice) = &mut this.splice else {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(chunk))) => splice.feed(chunk),
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_bytes_are_not_judged_one_by_one() {
        let (mut judged, mut cost) = (0, 0);
        for seen in 1..=256 * 1024 {
            if is_worth_judging(seen, judged) {
                judged = seen;
                cost += seen;
            }
        }
        assert!(judged >= 128 * 1024, "it goes on: {judged}");
        assert!(cost < 2 * 1024 * 1024, "{cost} bytes looked at");
    }
}
