//! A client of the Streaming API, and what its tests say again and again.
//!
//! Owns: its cookies and its id. Invariants: it sends nothing that cometd.js and Faye would not.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};

use crate::demo::tests::{DATA, Got, Practice, got};

pub(super) const COMETD: &str = "/cometd/60.0";
pub(super) const EVENT: &str = "/event/Practice_Event__e";
pub(super) const SOON: Duration = Duration::from_secs(5);

/// A client as cometd.js and Faye are: it keeps its cookies and its id.
pub(in crate::demo::tests) struct Bayeux<'a> {
    pub(super) practice: &'a Practice,
    pub(super) token: String,
    pub(super) cookies: BTreeMap<String, String>,
    pub(super) id: String,
}

impl<'a> Bayeux<'a> {
    pub(super) fn new(practice: &'a Practice, token: &str) -> Self {
        Self {
            practice,
            token: token.to_owned(),
            cookies: BTreeMap::new(),
            id: String::new(),
        }
    }

    /// With its handshake and its first poll done.
    pub(in crate::demo::tests) async fn connected(practice: &'a Practice, token: &str) -> Self {
        let mut client = Self::new(practice, token);
        let shaken = client.handshake().await;
        assert_eq!(shaken["successful"], true, "{shaken}");
        let greeted = client.connect().await;
        assert_eq!(greeted.last().unwrap()["successful"], true, "{greeted:?}");
        client
    }

    pub(super) async fn post(&self, body: &Value) -> Got {
        let mut request = self.practice.call(Method::POST, COMETD, &self.token).json(body);
        if !self.cookies.is_empty() {
            let pairs = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
            request = request.header("cookie", pairs.collect::<Vec<_>>().join("; "));
        }
        got(request).await
    }

    pub(super) async fn say(&self, message: Value) -> Vec<Value> {
        let answer = self.post(&json!([message])).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json().as_array().unwrap().clone()
    }

    pub(super) async fn handshake(&mut self) -> Value {
        let message = json!({"channel": "/meta/handshake", "id": "1", "version": "1.0",
            "supportedConnectionTypes": ["websocket", "long-polling"], "ext": {"replay": true}});
        let answer = self.post(&json!([message])).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        for cookie in set_cookies(&answer) {
            let (pair, _) = cookie.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        let reply = answer.json()[0].clone();
        self.id = reply["clientId"].as_str().unwrap_or("").to_owned();
        reply
    }

    /// Events, then the poll's own reply.
    pub(super) async fn connect(&self) -> Vec<Value> {
        let message =
            json!({"channel": "/meta/connect", "id": "2", "clientId": self.id, "connectionType": "long-polling"});
        self.say(message).await
    }

    pub(in crate::demo::tests) async fn subscribe(&self, channel: &str, replay: Option<i64>) -> Value {
        let mut message =
            json!({"channel": "/meta/subscribe", "id": "3", "clientId": self.id, "subscription": channel});
        if let Some(replay) = replay {
            message["ext"] = json!({"replay": {channel: replay}});
        }
        self.say(message).await.remove(0)
    }

    /// The messages that the next poll brings.
    pub(in crate::demo::tests) async fn events(&self) -> Vec<String> {
        let mut replies = self.connect().await;
        assert_eq!(replies.pop().unwrap()["successful"], true);
        let texts = replies
            .iter()
            .map(|reply| reply["data"]["payload"]["Message__c"].as_str().unwrap());
        texts.map(str::to_owned).collect()
    }
}

pub(super) fn set_cookies(answer: &Got) -> Vec<&str> {
    let cookies = answer
        .headers
        .get_all("set-cookie")
        .into_iter()
        .map(|c| c.to_str().unwrap());
    cookies
        .filter(|c| c.starts_with("BAYEUX") || c.starts_with("sfdc-stream"))
        .collect()
}

pub(super) async fn publish(practice: &Practice, token: &str, message: &str) {
    let path = format!("{DATA}/sobjects/Practice_Event__e");
    let answer = practice
        .send(
            Method::POST,
            &path,
            token,
            json!({"Message__c": message, "Number__c": 2.5}),
        )
        .await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let body = answer.json();
    assert_eq!(
        (&body["success"], &body["errors"][0]["statusCode"]),
        (&json!(true), &json!("OPERATION_ENQUEUED"))
    );
}

pub(super) fn error(reply: &Value) -> &str {
    assert_eq!(reply["successful"], false, "{reply}");
    reply["error"].as_str().unwrap()
}
