//! `/cometd/XX.X`: the Streaming API, Bayeux 1.0 by long polling.
//!
//! Owns: nothing. Invariants: every message has its reply, in order; a dead token is told inside HTTP 200, unless the settings say otherwise.
//! Units: at most 32,768 bytes a request.
//! Fails with: HTTP 400 or 413 when there is no Bayeux in it; else with [`Refusal`] in a reply.
//! Source: Streaming API guide (error codes, handling errors, how the client connects); SF §4.2, §5.2; the Bayeux protocol.

mod clients;
mod poll;

use std::sync::atomic::Ordering::Relaxed;

use hyper::{HeaderMap, Method, http::request::Parts};
use serde_json::{Value, json};

use super::{
    answer::Answer,
    bus::Start,
    events, identity,
    settings::letters,
    world::{Door, World},
};
pub(crate) use clients::Clients;

/// Who sent the messages of one request.
pub(super) struct Caller {
    /// `None`: no credential at all.
    token: Option<String>,
    at_home: bool,
    browser: Option<String>,
    stream: Option<String>,
    /// What it is given when it has none, or is to have another.
    new_browser: String,
    new_stream: String,
}

/// Why a message was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The 401 text.
    Token(&'static str),
    UnknownClient,
    NoCookie(String),
    OtherUser,
    /// Whatever else is wrong with it.
    Other(String),
}

const BROWSER: &str = "BAYEUX_BROWSER";
const STREAM: &str = "sfdc-stream";
const MOST_BYTES: usize = 32_768;
const OLDEST: u32 = 37;
const DEAD: &str = "401::Authentication invalid";
const WITHOUT: &str = "401::Request requires authentication";

pub(crate) fn is_path(path: &str) -> bool {
    path == "/cometd" || path.starts_with("/cometd/")
}

pub(crate) async fn answer(world: &World, door: Door, path: &str, parts: &Parts, body: &[u8]) -> Answer {
    // Also for a WebSocket's upgrade: long polling is all there is. The text is not confirmed.
    if parts.method != Method::POST {
        return Answer::text(400, "text/plain;charset=UTF-8", "Unknown Bayeux Transport");
    }
    if body.len() > MOST_BYTES {
        return Answer::text(413, "text/plain;charset=UTF-8", "Maximum Request Size Exceeded");
    }
    let messages = match serde_json::from_slice(body) {
        Ok(Value::Array(messages)) => messages,
        Ok(message @ Value::Object(_)) => vec![message],
        _ => return Answer::text(400, "text/plain;charset=UTF-8", "Unparseable Bayeux message"),
    };
    if let Some(problem) = wrong_version(path) {
        let refusal = Refusal::Other(problem);
        return Answer::json(400, messages.iter().map(|message| refusal.reply(message)).collect());
    }
    let caller = Caller::new(world, door, &parts.headers);
    let mut replies = Vec::new();
    let (mut dead, mut lost, mut shaken) = (false, false, false);
    for message in &messages {
        let done = match message["channel"].as_str() {
            Some("/meta/handshake") => handshake(world, &caller, message).inspect(|_| shaken = true),
            // A poll among others is not held, so that their replies are not either: not confirmed.
            Some("/meta/connect") => poll::connect(world, &caller, message, messages.len() == 1).await,
            Some("/meta/subscribe") => subscribe(world, &caller, message),
            Some("/meta/unsubscribe") => unsubscribe(world, &caller, message),
            Some("/meta/disconnect") => disconnect(world, &caller, message),
            // What a client hears when it publishes is not confirmed; the bus is fed by REST and Pub/Sub only.
            Some(_) => Err(Refusal::Other("403::Restricted channel".into())),
            None => Err(Refusal::Other("400::Channel name not specified".into())),
        };
        match done {
            Ok(done) => replies.extend(done),
            Err(refusal) => {
                if matches!(refusal, Refusal::Token(_)) {
                    world.counters.cometd_401.fetch_add(1, Relaxed);
                    dead = true;
                }
                lost |= refusal == Refusal::UnknownClient;
                replies.push(refusal.reply(message));
            }
        }
    }
    if dead && world.settings.streaming.http_401 {
        return Answer::session_expired();
    }
    let mut answer = Answer::json(200, Value::Array(replies));
    if shaken && caller.browser.is_none() {
        let cookie = format!("{BROWSER}={}; Path=/; Secure; HttpOnly", caller.new_browser);
        answer = answer.with("set-cookie", &cookie);
    }
    // The balancer gives its cookie to whoever has none, and another to whoever reached a server that does not know the client.
    if lost || caller.stream.is_none() {
        let cookie = format!("{STREAM}={}; path=/; SameSite=None; Secure", caller.new_stream);
        answer = answer.with("set-cookie", &cookie);
    }
    answer
}

/// The documented text, if the path names no version that serves this.
fn wrong_version(path: &str) -> Option<String> {
    let mut segments = path
        .strip_prefix("/cometd")
        .unwrap_or("")
        .split('/')
        .filter(|s| !s.is_empty());
    let first = segments.next().unwrap_or("");
    let replay = first == "replay";
    let version = if replay { segments.next().unwrap_or("") } else { first };
    let number = version.strip_suffix(".0").and_then(|v| v.parse::<u32>().ok());
    match number {
        None => Some("400::API version in the URI is mandatory. URI format: '/cometd/66.0'".into()),
        Some(36) if replay => None,
        Some(number) if number < OLDEST => Some(format!(
            "400::Unsupported API version. Only API versions '{OLDEST}.0' and later are supported. URI format: '/cometd/66.0'"
        )),
        Some(_) => None,
    }
}

fn handshake(world: &World, caller: &Caller, message: &Value) -> Result<Vec<Value>, Refusal> {
    let username = caller.user(world)?;
    let offered = message["supportedConnectionTypes"].as_array();
    if !offered.is_some_and(|types| types.iter().any(|kind| kind == "long-polling")) {
        return Err(Refusal::Other("400::Invalid connection type".into()));
    }
    let until = world.now() + world.settings.streaming.poll;
    let client_id = world.cometd().open(caller, username, until);
    let mut reply = reply_to(message, true);
    reply["ext"] = extensions();
    reply["minimumVersion"] = json!("1.0");
    reply["version"] = json!("1.0");
    reply["clientId"] = json!(client_id);
    reply["supportedConnectionTypes"] = json!(["long-polling"]);
    Ok(vec![reply])
}

fn subscribe(world: &World, caller: &Caller, message: &Value) -> Result<Vec<Value>, Refusal> {
    let username = caller.user(world)?;
    let mut replies = Vec::new();
    for channel in channels(message)? {
        known_channel(world, channel).map_err(Refusal::Other)?;
        let now = world.now();
        let start = start(&message["ext"]["replay"][channel])?;
        let mut clients = world.cometd();
        let client = clients.find(client_id(message), caller, &username, now)?;
        let position = world.bus().position(channel, start, now);
        let position = position.map_err(|_| unknown_replay(&message["ext"]["replay"][channel]))?;
        client.subscribe(channel, position);
        clients.changed();
        let mut reply = reply_to(message, true);
        reply["clientId"] = message["clientId"].clone();
        reply["subscription"] = json!(channel);
        replies.push(reply);
    }
    Ok(replies)
}

fn unsubscribe(world: &World, caller: &Caller, message: &Value) -> Result<Vec<Value>, Refusal> {
    let username = caller.user(world)?;
    let mut replies = Vec::new();
    for channel in channels(message)? {
        let mut clients = world.cometd();
        clients
            .find(client_id(message), caller, &username, world.now())?
            .unsubscribe(channel);
        let mut reply = reply_to(message, true);
        reply["clientId"] = message["clientId"].clone();
        reply["subscription"] = json!(channel);
        replies.push(reply);
    }
    Ok(replies)
}

fn disconnect(world: &World, caller: &Caller, message: &Value) -> Result<Vec<Value>, Refusal> {
    let username = caller.user(world)?;
    let mut clients = world.cometd();
    clients.find(client_id(message), caller, &username, world.now())?;
    clients.close(client_id(message));
    let mut reply = reply_to(message, true);
    reply["clientId"] = message["clientId"].clone();
    Ok(vec![reply])
}

fn client_id(message: &Value) -> &str {
    message["clientId"].as_str().unwrap_or("")
}

/// One channel, or several in an array.
fn channels(message: &Value) -> Result<Vec<&str>, Refusal> {
    let asked = match &message["subscription"] {
        Value::String(channel) => vec![channel.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if asked.iter().any(|channel| channel.is_empty()) || asked.is_empty() {
        return Err(Refusal::Other("400::Channel name not specified".into()));
    }
    Ok(asked)
}

fn known_channel(world: &World, channel: &str) -> Result<(), String> {
    if !channel.starts_with('/') {
        return Err("400::Channel subscriptions must start with a leading '/'".into());
    }
    let topics = &world.settings.streaming.push_topics;
    let topic = channel.strip_prefix("/topic/");
    let known = [events::ALL_CHANGES, events::ACCOUNT_CHANGES].contains(&channel)
        || events::of_channel(world, channel).is_some()
        || topic.is_some_and(|topic| topics.iter().any(|known| known == topic));
    match known {
        true => Ok(()),
        // No generic channels here.
        false if channel.starts_with("/u/") => Err("404::Unknown channel".into()),
        false => Err(format!(
            "400::The channel you requested to subscribe to doesn't exist {channel}"
        )),
    }
}

/// What the replay extension asks for; without it, new events only.
fn start(replay: &Value) -> Result<Start, Refusal> {
    match replay.as_i64() {
        None if replay.is_null() => Ok(Start::Tip),
        Some(-1) => Ok(Start::Tip),
        Some(-2) => Ok(Start::Earliest),
        Some(id) => u64::try_from(id).map(Start::After).map_err(|_| unknown_replay(replay)),
        None => Err(unknown_replay(replay)),
    }
}

fn unknown_replay(replay: &Value) -> Refusal {
    Refusal::Other(format!(
        "400::The replayId {replay} you provided was invalid. Please provide a valid ID, -2 to replay all events, or -1 to replay only new \
         events."
    ))
}

fn reply_to(message: &Value, successful: bool) -> Value {
    let mut reply = json!({"channel": message["channel"], "successful": successful});
    if let Some(id) = message.get("id") {
        reply["id"] = id.clone();
    }
    reply
}

fn extensions() -> Value {
    json!({"replay": true, "payload.format": true})
}

impl Caller {
    fn new(world: &World, door: Door, headers: &HeaderMap) -> Self {
        let token = identity::bearer(headers).map(str::to_owned);
        let malformed = headers.get("authorization").is_some_and(|value| !value.is_empty());
        Self {
            token: token.or_else(|| malformed.then(String::new)),
            at_home: door == world.home(),
            browser: cookie(headers, BROWSER),
            stream: cookie(headers, STREAM),
            new_browser: letters(26, b"abcdefghijklmnopqrstuvwxyz0123456789"),
            new_stream: format!(
                "!{}=",
                letters(55, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
            ),
        }
    }

    /// The user of the living session, which is used by this.
    fn user(&self, world: &World) -> Result<String, Refusal> {
        let token = self.token.as_deref().ok_or(Refusal::Token(WITHOUT))?;
        let mut sessions = world.sessions();
        let session = sessions.touch(token, world.now()).filter(|_| self.at_home);
        session.map(|s| s.username.clone()).ok_or(Refusal::Token(DEAD))
    }
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Self::Token(text) => (*text).to_owned(),
            Self::UnknownClient => "403::Unknown client".to_owned(),
            Self::NoCookie(client) => {
                format!("400::Client {client} has established a session, but no {BROWSER} cookie present")
            }
            Self::OtherUser => "400::Authenticated user id does not match the session's user id".to_owned(),
            Self::Other(text) => text.clone(),
        }
    }

    fn reply(&self, message: &Value) -> Value {
        let mut reply = reply_to(message, false);
        let channel = message["channel"].as_str().unwrap_or("");
        if channel == "/meta/handshake" && !matches!(self, Self::UnknownClient) {
            reply["error"] = json!("403::Handshake denied");
            reply["ext"] = extensions();
            reply["ext"]["sfdc"] = json!({"failureReason": self.text()});
            reply["advice"] = json!({"reconnect": "none"});
            return reply;
        }
        reply["error"] = json!(self.text());
        match self {
            Self::UnknownClient => reply["advice"] = json!({"interval": 0, "reconnect": "handshake"}),
            // Documented for a poll. That other messages have no advice is not confirmed; a client then learns it by its next poll.
            Self::Token(_) if channel == "/meta/connect" => {
                reply["clientId"] = message["clientId"].clone();
                reply["advice"] = json!({"reconnect": "none", "interval": 0});
            }
            _ => {}
        }
        if let Some(subscription) = message.get("subscription") {
            reply["subscription"] = subscription.clone();
        }
        reply
    }
}

/// A cookie's value; over HTTP/2 there may be a header for each.
fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers
        .get_all("cookie")
        .into_iter()
        .filter_map(|line| line.to_str().ok());
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(n, value)| *n == name && !value.is_empty())?;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_wanted_in_the_path() {
        for good in [
            "/cometd/60.0",
            "/cometd/37.0/",
            "/cometd/60.0/connect",
            "/cometd/replay/36.0",
            "/cometd/replay/60.0/handshake",
        ] {
            assert_eq!(wrong_version(good), None, "{good}");
        }
        for (bad, text) in [
            ("/cometd", "mandatory"),
            ("/cometd/", "mandatory"),
            ("/cometd/60", "mandatory"),
            ("/cometd/handshake", "mandatory"),
            ("/cometd/36.0", "Unsupported"),
            ("/cometd/replay/35.0", "Unsupported"),
        ] {
            assert!(wrong_version(bad).is_some_and(|t| t.contains(text)), "{bad}");
        }
    }
}
