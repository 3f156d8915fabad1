//! `/meta/connect`: the long poll.
//!
//! Owns: nothing. Invariants: a poll ends with the first event, with its session, with its client, or at its time, whichever comes first;
//! whatever ends it, its client's time to come back begins.
//! Units: 110 s, and 40 s to come back after events, unless the settings say otherwise.
//! Fails with: [`Refusal`].
//! Source: Streaming API guide, How the Client Connects and Handling Streaming API Errors; SF §5.2. A poll counts as use of the session (there).

use std::{pin::pin, time::Duration};

use serde_json::{Value, json};

use super::{Caller, Refusal, client_id, clients::Over, reply_to};
use crate::demo::{record::Counted, world::World};

/// A poll under way.
struct Held<'a> {
    world: &'a World,
    client: &'a str,
    poll: u64,
    /// How long the client may stay away when it is over.
    away: Duration,
    _counted: Counted<'a>,
}

pub(super) async fn connect(
    world: &World,
    caller: &Caller,
    message: &Value,
    alone: bool,
) -> Result<Vec<Value>, Refusal> {
    let settings = &world.settings.streaming;
    let id = client_id(message);
    let mut news = world.bus().news();
    let mut ended = world.sessions().ended();
    let (mut held, first, mut clients) = begin(world, caller, message)?;
    let patient = alone && !first && message["advice"]["timeout"] != 0;
    let mut time_up = pin!(tokio::time::sleep(settings.poll));
    let mut waiting = patient;
    loop {
        caller.user(world)?;
        let taken = {
            let mut clients = world.cometd();
            clients.take(id, held.poll, &mut world.bus(), world.now())
        };
        let events = match taken {
            Ok(events) => events,
            Err(Over::Gone) => return Err(Refusal::UnknownClient),
            // What the older of two polls is told is not confirmed.
            Err(Over::Newer) => {
                waiting = false;
                Vec::new()
            }
        };
        if !events.is_empty() || !waiting {
            if !events.is_empty() {
                held.away = settings.reconnect;
            }
            let mut reply = reply_to(message, true);
            reply["clientId"] = json!(id);
            if first {
                let timeout = u64::try_from(settings.poll.as_millis()).unwrap_or(u64::MAX);
                reply["advice"] = json!({"interval": 0, "timeout": timeout, "reconnect": "retry"});
            }
            return Ok(events.into_iter().chain([reply]).collect());
        }
        // Each is only a reason to look again; nothing is lost with the others. The senders live as long as the world.
        tokio::select! {
            () = &mut time_up => waiting = false,
            _ = news.changed() => {}
            _ = ended.changed() => {}
            _ = clients.changed() => {}
        }
    }
}

/// The poll, whether it is the client's first, and what speaks when clients change.
fn begin<'a>(
    world: &'a World,
    caller: &Caller,
    message: &'a Value,
) -> Result<(Held<'a>, bool, tokio::sync::watch::Receiver<()>), Refusal> {
    let username = caller.user(world)?;
    let kind = message["connectionType"].as_str().unwrap_or("");
    if kind != "long-polling" {
        return Err(Refusal::Other(format!("400::Invalid connection type {kind}")));
    }
    let id = client_id(message);
    let mut clients = world.cometd();
    let (poll, first) = clients.find(id, caller, &username, world.now())?.begin_poll();
    // An older poll of this client learns that it is over; this one asks afterwards.
    clients.changed();
    let held = Held {
        world,
        client: id,
        poll,
        away: world.settings.streaming.poll,
        _counted: Counted::new(&world.counters.cometd_held),
    };
    Ok((held, first, clients.news()))
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let until = self.world.now() + self.away;
        self.world.cometd().rest(self.client, self.poll, until);
    }
}
