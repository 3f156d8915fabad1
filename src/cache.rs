//! Answers of the org that are kept and given again: descriptions, version lists, and paths that the operator names.
//!
//! Off unless `orgs.NAME.cache` is set. [`policy`] says what may be kept, `proxy/cached.rs` does it in the story of a call.
//! Owns: one org's answers, bounded by bytes. What is being copied is bounded by the same number once more, so that both
//! together hold at most twice `max_size`, and what the keys and headers of the copies take.
//! Invariants: the key has the identity, so that nobody gets what another was told; an answer is whole or not there; what was
//! asked before a purge is not found after it.
//! Units: bytes; ages as `Duration`. Fails with: nothing; what cannot be kept passes.
//! Source: design §4; RFC 9111.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use moka::{Expiry, policy::EvictionPolicy, sync};
use tokio::time::Instant;

use self::policy::Pattern;
use crate::{config, metrics::CacheMetrics, token::Identity};

pub mod policy;

/// What an entry costs beside its texts: the maps, the list of the last used, the counts.
const ENTRY_COST: u64 = 512;
/// An answer whose validity the org can confirm is worth keeping longer than it may be given again.
const CONFIRMABLE_FOR: Duration = Duration::from_secs(24 * 3600);

/// What came of a call that concerns the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// Answered from the cache.
    Hit,
    /// Nothing was kept, or the caller wanted the org's own.
    Miss,
    /// What was kept was too old; the org gave another answer, or none.
    Stale,
    /// It was too old, and the org said that it still holds.
    Revalidated,
    /// The call has conditions of its own, or wants nothing kept.
    Bypass,
}

impl CacheResult {
    pub const ALL: [Self; 5] = [Self::Hit, Self::Miss, Self::Stale, Self::Revalidated, Self::Bypass];

    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Bypass => "bypass",
        }
    }
}

/// Whose answer it is, beside the account.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The login host has said it.
    Known(Arc<Identity>),
    /// It has not: whoever puts tokens in place may put another user's there, so only the one token counts.
    OfToken(u64),
}

/// What has to be the same for an answer to be given again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The purge after which it was asked.
    pub epoch: u64,
    /// The account's number, which no other account ever has.
    pub account: u64,
    pub whose: Whose,
    /// The origin that was asked.
    pub instance: String,
    /// Path and query as they were sent.
    pub target: String,
    pub shaping: Vec<(HeaderName, HeaderValue)>,
}

/// A whole 200 of the org's.
pub struct Entry {
    /// As the org sent them, but for what [`policy::kept`] takes away.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What else the request had to be like.
    pub varies: Vec<(HeaderName, Vec<HeaderValue>)>,
    /// By which the org can confirm it.
    pub conditions: Vec<(HeaderName, HeaderValue)>,
    /// When it came, or was confirmed.
    pub since: Instant,
    /// How old it was then.
    pub age: Duration,
    /// How long it may be given again.
    pub ttl: Duration,
}

impl Entry {
    /// Its age now, and how long it may still be given.
    pub fn at(&self, now: Instant) -> (Duration, Duration) {
        let kept = now.saturating_duration_since(self.since);
        (self.age + kept, self.ttl.saturating_sub(kept))
    }

    fn kept_for(&self) -> Duration {
        match self.conditions.is_empty() {
            true => self.ttl,
            false => self.ttl + CONFIRMABLE_FOR,
        }
    }
}

/// One org's kept answers.
pub struct Cache {
    entries: sync::Cache<Key, Arc<Entry>>,
    more: Vec<Pattern>,
    ttl: Duration,
    max_entry: u64,
    max_size: u64,
    /// Bytes of copies under way.
    copying: AtomicU64,
    epoch: AtomicU64,
    metrics: CacheMetrics,
}

impl Cache {
    pub fn new(settings: &config::Cache, metrics: CacheMetrics) -> Self {
        Self {
            entries: sync::Cache::builder()
                .max_capacity(settings.max_size)
                .weigher(weight)
                // By frequency, a newcomer would not be kept beside what was wanted often once.
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(Keep)
                .build(),
            more: settings.paths.iter().map(|path| Pattern::new(path)).collect(),
            ttl: settings.ttl,
            max_entry: settings.max_entry,
            max_size: settings.max_size,
            copying: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            metrics,
        }
    }

    /// Whether answers at this path may be kept.
    pub fn covers(&self, path: &str) -> bool {
        policy::covers(path, &self.more)
    }

    /// Goes into keys: after a purge it is another.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.entries.get(key)
    }

    pub fn put(&self, key: Key, entry: Arc<Entry>) {
        if key.epoch != self.epoch() {
            return;
        }
        self.entries.insert(key, entry);
        self.observe();
    }

    pub fn count(&self, result: CacheResult) {
        self.metrics.count(result);
    }

    /// Forgets everything, also what is being copied. How many answers that were.
    pub fn purge(&self) -> u64 {
        self.entries.run_pending_tasks();
        let kept = self.entries.entry_count();
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.entries.invalidate_all();
        self.observe();
        kept
    }

    /// Lets what is too much or too old go now, and shows what is left.
    pub fn observe(&self) {
        self.entries.run_pending_tasks();
        let (entries, bytes) = (self.entries.entry_count(), self.entries.weighted_size());
        self.metrics.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A copy of an answer that begins to pass; `None`: it says that it is too long.
    pub fn copy(self: &Arc<Self>, key: Key, entry: Entry, length: Option<u64>) -> Option<Copying> {
        let fits = length.unwrap_or(0) <= self.max_entry;
        fits.then(|| Copying {
            cache: Arc::clone(self),
            seen: Vec::new(),
            taken: 0,
            length,
            becomes: Some((key, entry)),
        })
    }
}

/// An answer's body on its way, copied as it passes. Dropped before the end, it leaves nothing.
pub struct Copying {
    cache: Arc<Cache>,
    seen: Vec<u8>,
    /// Of the bytes that all copies may have.
    taken: u64,
    length: Option<u64>,
    /// `None`: it will not be kept.
    becomes: Option<(Key, Entry)>,
}

impl Copying {
    pub fn see(&mut self, data: &[u8]) {
        if self.becomes.is_none() {
            return;
        }
        let more = data.len() as u64;
        // What is known to come is taken at once.
        let wanted = match self.length {
            Some(length) if self.taken == 0 => length,
            Some(_) => 0,
            None => more,
        };
        if self.seen.len() as u64 + more > self.cache.max_entry || !self.take(wanted) {
            self.give_up();
            return;
        }
        if self.seen.is_empty() {
            self.seen.reserve_exact(usize::try_from(wanted).unwrap_or(0));
        }
        self.seen.extend_from_slice(data);
    }

    /// It is not to be kept after all.
    pub fn give_up(&mut self) {
        self.becomes = None;
        self.seen = Vec::new();
        self.give_back();
    }

    /// The org has said that this was all.
    pub fn ended(&mut self) {
        let Some((key, mut entry)) = self.becomes.take() else {
            return;
        };
        if self.length.is_none_or(|length| length == self.seen.len() as u64) {
            entry.body = std::mem::take(&mut self.seen).into_boxed_slice().into();
            self.cache.put(key, Arc::new(entry));
        }
        self.give_back();
    }

    fn take(&mut self, bytes: u64) -> bool {
        let all = self.cache.copying.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.taken += bytes;
        all <= self.cache.max_size
    }

    fn give_back(&mut self) {
        self.cache.copying.fetch_sub(self.taken, Ordering::Relaxed);
        self.taken = 0;
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Each answer goes when it may not be given again and cannot be confirmed.
struct Keep;

impl Expiry<Key, Arc<Entry>> for Keep {
    fn expire_after_create(&self, _: &Key, entry: &Arc<Entry>, _: std::time::Instant) -> Option<Duration> {
        Some(entry.kept_for())
    }

    fn expire_after_update(
        &self,
        _: &Key,
        entry: &Arc<Entry>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.kept_for())
    }
}

fn weight(key: &Key, entry: &Arc<Entry>) -> u32 {
    let line = |name: &HeaderName, value: &HeaderValue| (name.as_str().len() + value.len() + 64) as u64;
    let lines = |lines: &[(HeaderName, HeaderValue)]| lines.iter().map(|(name, value)| line(name, value)).sum::<u64>();
    let varies = entry
        .varies
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| line(name, value)));
    let texts = key.target.len() + key.instance.len() + entry.body.len();
    let headers = entry.headers.iter().map(|(name, value)| line(name, value)).sum::<u64>();
    let all =
        ENTRY_COST + texts as u64 + headers + lines(&key.shaping) + lines(&entry.conditions) + varies.sum::<u64>();
    u32::try_from(all).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
