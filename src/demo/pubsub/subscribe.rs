//! Subscribe: events as they come, as many as were asked for.
//!
//! Owns: nothing. Invariants: no event is sent that was not asked for; none that is kept is left out.
//! Units: at most 100 events asked for at once; an empty answer after 270 s of silence; 60 s to ask for more.
//! Fails with: [`Status`].
//! Source: `pubsub_api.proto`; Pub/Sub API guide (Subscribe, handling errors, limits); the 60 s by forcedotcom/pub-sub-api 28.

use std::{pin::pin, sync::Arc};

use tokio::time::{Instant, sleep_until};

use super::{
    event,
    frames::{INVALID_ARGUMENT, Replies, Requests, Status},
    messages::{ConsumerEvent, FetchRequest, FetchResponse, ProducerEvent, ReplayPreset},
    replay_bytes,
};
use crate::demo::{
    bus::{Event, Start},
    record::Counted,
    world::World,
};

const MOST_REQUESTED: i32 = 100;

pub(super) async fn subscribe(world: &World, requests: &mut Requests, replies: &Replies) -> Result<(), Status> {
    let settings = &world.settings.streaming;
    let Some(first) = requests.next::<FetchRequest>().await? else {
        return Ok(());
    };
    let topic = first.topic_name.clone();
    event(world, &topic)?;
    let mut news = world.bus().news();
    let mut position = position(world, &first)?;
    let mut pending = requested(&first)?;
    let _open = Counted::new(&world.counters.pubsub_subscriptions);
    let mut spoken = pin!(sleep_until(Instant::now() + settings.keep_alive));
    let mut idle = pin!(sleep_until(Instant::now() + settings.fetch_idle));
    loop {
        let most = usize::try_from(pending).unwrap_or(0);
        let events = {
            let mut bus = world.bus();
            let events = bus.after(&topic, position, most, world.now());
            // All has been seen, also what is not kept any more.
            if events.is_empty() && most > 0 {
                position = position.max(bus.tip(&topic));
            }
            events
        };
        let mut due = !events.is_empty();
        if let Some(last) = events.last() {
            position = last.replay;
            pending -= i32::try_from(events.len()).unwrap_or(i32::MAX);
        } else {
            // Each branch may be dropped: the reader keeps what it has read, the others are looked at again.
            tokio::select! {
                request = requests.next::<FetchRequest>() => {
                    let Some(request) = request? else {
                        return Ok(());
                    };
                    if !request.topic_name.is_empty() && request.topic_name != topic {
                        return Err(Status::new(INVALID_ARGUMENT, "The topic cannot change within a stream."));
                    }
                    pending = pending.saturating_add(requested(&request)?);
                }
                _ = news.changed() => {}
                () = spoken.as_mut() => due = true,
                // How the end is told is not confirmed.
                () = idle.as_mut(), if pending == 0 => return Ok(()),
                () = replies.closed() => return Err(Status::gone()),
            }
        }
        if due {
            let answer = FetchResponse {
                events: events.iter().filter_map(consumer_event).collect(),
                latest_replay_id: replay_bytes(position),
                rpc_id: replies.rpc_id.clone(),
                pending_num_requested: pending,
            };
            replies.send(&answer).await?;
            spoken.as_mut().reset(Instant::now() + settings.keep_alive);
            idle.as_mut().reset(Instant::now() + settings.fetch_idle);
        }
    }
}

fn position(world: &World, first: &FetchRequest) -> Result<u64, Status> {
    let preset = ReplayPreset::try_from(first.replay_preset).ok();
    let start = match preset {
        Some(ReplayPreset::Latest) => Start::Tip,
        Some(ReplayPreset::Earliest) => Start::Earliest,
        Some(ReplayPreset::Custom) if !first.replay_id.is_empty() => match first.replay_id.first_chunk() {
            Some(bytes) if first.replay_id.len() == bytes.len() => Start::After(u64::from_be_bytes(*bytes)),
            _ => return Err(corrupted()),
        },
        Some(ReplayPreset::Custom) | None => {
            let status = Status::new(INVALID_ARGUMENT, "The Replay ID validation failed.");
            return Err(status.with("subscription.fetch.replayid.validation.failed"));
        }
    };
    let position = world.bus().position(&first.topic_name, start, world.now());
    position.map_err(|_| corrupted())
}

fn corrupted() -> Status {
    let status = Status::new(INVALID_ARGUMENT, "The Replay ID is corrupted.");
    status.with("subscription.fetch.replayid.corrupted")
}

/// That more than 100 are refused, and not taken as 100, is not confirmed.
fn requested(request: &FetchRequest) -> Result<i32, Status> {
    let asked = request.num_requested;
    if (1..=MOST_REQUESTED).contains(&asked) {
        return Ok(asked);
    }
    let status = Status::new(INVALID_ARGUMENT, "The number of requested events is invalid.");
    Err(status.with("subscription.fetch.requested.events.invalid"))
}

fn consumer_event(event: &Arc<Event>) -> Option<ConsumerEvent> {
    let encoded = event.encoded.clone()?;
    Some(ConsumerEvent {
        event: Some(ProducerEvent {
            id: encoded.id,
            schema_id: encoded.schema_id,
            payload: encoded.payload,
        }),
        replay_id: replay_bytes(event.replay),
    })
}
