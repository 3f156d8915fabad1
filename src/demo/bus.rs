//! The event bus: what was published on which channel, and from where a subscriber goes on.
//!
//! Owns: the kept events. Invariants: a replay id is never given twice and rises; nobody who reads with a position misses an event that is kept.
//! Units: 24 hours for push topics, 72 for platform and change events, and at most 10,000 events a channel.
//! Fails with: [`UnknownReplay`].
//! Source: Streaming API guide, Message Durability (ids rise, are not contiguous; retention); Pub/Sub API guide, event message durability.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::settings::letters;

#[derive(Debug, Default)]
pub(crate) struct Bus {
    logs: HashMap<String, Log>,
    last: u64,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Log {
    kept: VecDeque<Arc<Event>>,
    /// The newest one that is not kept any more.
    floor: u64,
}

/// Makes an event's `data` when somebody reads it: a bulk job changes more rows than anybody listens to.
pub(crate) type Make = Box<dyn Fn() -> Value + Send + Sync>;

pub(crate) struct Event {
    pub(crate) replay: u64,
    at: SystemTime,
    make: Option<Make>,
    /// As the Pub/Sub API shows it; `None` for what has no Avro schema here.
    pub(crate) encoded: Option<Encoded>,
}

#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) id: String,
    pub(crate) schema_id: String,
    pub(crate) payload: Bytes,
}

/// Where a subscriber begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    Tip,
    Earliest,
    After(u64),
}

/// Never given on this channel, or older than what is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownReplay;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MOST: usize = 10_000;

impl Bus {
    /// The replay id of what was published. `make`: `data` as CometD shows it; `None` for a payload that nobody could read.
    pub(crate) fn publish(
        &mut self,
        channel: &str,
        now: SystemTime,
        make: Option<Make>,
        encoded: Option<Encoded>,
    ) -> u64 {
        self.last += fastrand::u64(1..=3);
        let replay = self.last;
        let log = match self.logs.get_mut(channel) {
            Some(log) => log,
            None => self.logs.entry(channel.to_owned()).or_default(),
        };
        log.forget(channel, now);
        if log.kept.len() == MOST {
            log.drop_oldest();
        }
        log.kept.push_back(Arc::new(Event {
            replay,
            at: now,
            make,
            encoded,
        }));
        self.news.send_replace(());
        replay
    }

    /// Speaks whenever something was published. To miss nothing: ask for this, then read.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// The position from which [`Bus::after`] goes on.
    pub(crate) fn position(&mut self, channel: &str, start: Start, now: SystemTime) -> Result<u64, UnknownReplay> {
        match start {
            Start::Tip => Ok(self.tip(channel)),
            Start::Earliest => Ok(0),
            Start::After(replay) => {
                let log = self.logs.entry(channel.to_owned()).or_default();
                log.forget(channel, now);
                let known = replay == log.floor || log.kept.iter().any(|event| event.replay == replay);
                known.then_some(replay).ok_or(UnknownReplay)
            }
        }
    }

    /// The newest replay id of a channel, 0 before the first.
    pub(crate) fn tip(&self, channel: &str) -> u64 {
        self.logs.get(channel).map_or(0, Log::tip)
    }

    /// The next ones, oldest first.
    pub(crate) fn after(&mut self, channel: &str, position: u64, most: usize, now: SystemTime) -> Vec<Arc<Event>> {
        let Some(log) = self.logs.get_mut(channel) else {
            return Vec::new();
        };
        log.forget(channel, now);
        let from = log.kept.partition_point(|event| event.replay <= position);
        log.kept.range(from..).take(most).cloned().collect()
    }
}

impl Event {
    /// `data` as CometD shows it, if it can be read.
    pub(crate) fn json(&self) -> Option<Value> {
        let mut data = self.make.as_ref()?();
        data["event"]["replayId"] = json!(self.replay);
        Some(data)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.replay)
    }
}

impl Log {
    fn tip(&self) -> u64 {
        self.kept.back().map_or(self.floor, |event| event.replay)
    }

    fn forget(&mut self, channel: &str, now: SystemTime) {
        let days = if channel.starts_with("/topic/") { 1 } else { 3 };
        while self.kept.front().is_some_and(|event| event.at + days * DAY <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.kept.pop_front() {
            self.floor = event.replay;
        }
    }
}

/// `8-4-4-4-12` digits.
pub(crate) fn uuid() -> String {
    [8, 4, 4, 4, 12]
        .map(|count| letters(count, b"0123456789abcdef"))
        .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn publish(bus: &mut Bus, channel: &str, count: usize, now: SystemTime) -> Vec<u64> {
        (0..count)
            .map(|_| bus.publish(channel, now, Some(Box::new(|| json!({}))), None))
            .collect()
    }

    fn replays(bus: &mut Bus, channel: &str, position: u64, now: SystemTime) -> Vec<u64> {
        let events = bus.after(channel, position, 100, now);
        events.iter().map(|event| event.replay).collect()
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let mut bus = Bus::default();
        let ids = publish(&mut bus, "/event/A__e", 4, START);
        publish(&mut bus, "/event/B__e", 1, START);
        assert!(ids.is_sorted() && ids[0] > 0, "{ids:?}");
        assert_eq!(replays(&mut bus, "/event/A__e", 0, START), ids);
        assert_eq!(replays(&mut bus, "/event/A__e", ids[1], START), ids[2..]);
        assert_eq!(bus.after("/event/A__e", 0, 2, START).len(), 2);
        assert_eq!(
            bus.after("/event/A__e", 0, 1, START)[0].json().unwrap()["event"]["replayId"],
            ids[0]
        );
        assert_eq!(bus.position("/event/A__e", Start::Tip, START), Ok(ids[3]));
        assert_eq!(bus.position("/event/A__e", Start::Earliest, START), Ok(0));
        assert_eq!(bus.position("/event/A__e", Start::After(ids[1]), START), Ok(ids[1]));
        assert_eq!(
            bus.position("/event/A__e", Start::After(ids[3] + 9), START),
            Err(UnknownReplay)
        );
    }

    #[test]
    fn events_are_kept_for_their_time_and_number() {
        let mut bus = Bus::default();
        let old = publish(&mut bus, "/topic/T", 1, START)[0];
        publish(&mut bus, "/event/A__e", 1, START);
        let hour = Duration::from_secs(60 * 60);
        assert_eq!(replays(&mut bus, "/topic/T", 0, START + 23 * hour), [old]);
        assert_eq!(replays(&mut bus, "/topic/T", 0, START + 24 * hour), [0; 0]);
        assert_eq!(replays(&mut bus, "/event/A__e", 0, START + 71 * hour).len(), 1);
        assert_eq!(replays(&mut bus, "/event/A__e", 0, START + 72 * hour).len(), 0);
        let ids = publish(&mut bus, "/event/A__e", MOST + 2, START);
        assert_eq!(bus.after("/event/A__e", 0, usize::MAX, START).len(), MOST);
        assert_eq!(
            bus.position("/event/A__e", Start::After(ids[0]), START),
            Err(UnknownReplay)
        );
        assert_eq!(bus.position("/event/A__e", Start::After(ids[2]), START), Ok(ids[2]));
    }
}
