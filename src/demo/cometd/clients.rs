//! CometD's client sessions: who is known, with which cookies, subscribed to what.
//!
//! Owns: the clients. Invariants: one client for a browser cookie; a client belongs to the user who made it, not to the token.
//! Units: wall time is passed in.
//! Fails with: [`Refusal`].
//! Source: Streaming API guide (clients and timeouts, error codes: unknown client, cookies, user id); SF §4.2.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Caller, Refusal};
use crate::demo::{bus::Bus, settings::letters};

#[derive(Debug, Default)]
pub(crate) struct Clients {
    by_id: HashMap<String, Client>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
pub(super) struct Client {
    username: String,
    browser: String,
    stream: String,
    /// The last replay id given out, by channel.
    subscriptions: BTreeMap<String, u64>,
    /// Its first poll was answered.
    greeted: bool,
    /// The newest of its polls.
    poll: u64,
    /// `None` while a poll is held.
    forgotten_at: Option<SystemTime>,
}

/// A poll that goes on no longer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The client has another one.
    Newer,
    /// The client is no more.
    Gone,
}

/// As many events of a channel in one answer.
const BATCH: usize = 100;

impl Clients {
    /// A new client; its id. A browser has one client only (documented), so an older one with the same cookie is forgotten.
    /// Which of the two goes is not confirmed.
    pub(super) fn open(&mut self, caller: &Caller, username: String, until: SystemTime) -> String {
        let id = letters(27, b"abcdefghijklmnopqrstuvwxyz0123456789");
        let client = Client {
            username,
            browser: caller.browser.as_ref().unwrap_or(&caller.new_browser).clone(),
            stream: caller.stream.as_ref().unwrap_or(&caller.new_stream).clone(),
            subscriptions: BTreeMap::new(),
            greeted: false,
            poll: 0,
            forgotten_at: Some(until),
        };
        self.by_id.retain(|_, other| other.browser != client.browser);
        self.by_id.insert(id.clone(), client);
        self.changed();
        id
    }

    /// The client of that id, if the caller is who made it. Another living token of the same user serves too (not confirmed).
    pub(super) fn find(
        &mut self,
        id: &str,
        caller: &Caller,
        username: &str,
        now: SystemTime,
    ) -> Result<&mut Client, Refusal> {
        self.by_id
            .retain(|_, client| client.forgotten_at.is_none_or(|at| now < at));
        let client = self.by_id.get_mut(id).ok_or(Refusal::UnknownClient)?;
        // Without the balancer's cookie the message comes to another server, which knows nothing.
        if caller.stream.as_ref() != Some(&client.stream) {
            return Err(Refusal::UnknownClient);
        }
        match &caller.browser {
            None => return Err(Refusal::NoCookie(id.to_owned())),
            Some(browser) if *browser != client.browser => return Err(Refusal::UnknownClient),
            Some(_) => {}
        }
        if client.username != username {
            return Err(Refusal::OtherUser);
        }
        Ok(client)
    }

    pub(super) fn close(&mut self, id: &str) {
        self.by_id.remove(id);
        self.changed();
    }

    /// What the subscriptions of a client have for it; the poll must be its newest.
    pub(super) fn take(&mut self, id: &str, poll: u64, bus: &mut Bus, now: SystemTime) -> Result<Vec<Value>, Over> {
        let client = self.by_id.get_mut(id).ok_or(Over::Gone)?;
        if client.poll != poll {
            return Err(Over::Newer);
        }
        let mut messages = Vec::new();
        for (channel, position) in &mut client.subscriptions {
            for event in bus.after(channel, *position, BATCH, now) {
                *position = event.replay;
                // Nobody can show a payload that is not of the schema.
                messages.extend(event.json().map(|data| json!({"channel": channel, "data": data})));
            }
        }
        Ok(messages)
    }

    /// The poll is answered, or its connection is gone.
    pub(super) fn rest(&mut self, id: &str, poll: u64, until: SystemTime) {
        if let Some(client) = self.by_id.get_mut(id).filter(|client| client.poll == poll) {
            client.forgotten_at = Some(until);
        }
    }

    /// Speaks whenever a client came, went or changed.
    pub(super) fn news(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn changed(&self) {
        self.changed.send_replace(());
    }
}

impl Client {
    pub(super) fn subscribe(&mut self, channel: &str, position: u64) {
        self.subscriptions.insert(channel.to_owned(), position);
    }

    pub(super) fn unsubscribe(&mut self, channel: &str) {
        self.subscriptions.remove(channel);
    }

    /// The number of the poll that begins now, and whether it is the client's first.
    pub(super) fn begin_poll(&mut self) -> (u64, bool) {
        self.poll += 1;
        self.forgotten_at = None;
        (self.poll, !std::mem::replace(&mut self.greeted, true))
    }
}
