//! Publish and PublishStream.
//!
//! Owns: nothing. Invariants: a result for each event, in order; the payload is kept as it came.
//! Units: 70 s of silence end a stream. Fails with: [`Status`]; a bad event fails alone, in its result.
//! Source: `pubsub_api.proto`; Pub/Sub API guide.

use bytes::Bytes;

use super::{
    event,
    frames::{DEADLINE_EXCEEDED, INVALID_ARGUMENT, Replies, Requests, Status},
    messages::{Error, ErrorCode, ProducerEvent, PublishRequest, PublishResponse, PublishResult},
    replay_bytes,
};
use crate::demo::{bus::uuid, events, world::World};

pub(super) fn publish(world: &World, request: &PublishRequest, rpc_id: &str) -> Result<PublishResponse, Status> {
    let name = event(world, &request.topic_name)?;
    let schema_id = events::schema_id(&events::schema(name));
    let results = request.events.iter().map(|event| one(world, name, &schema_id, event));
    Ok(PublishResponse {
        results: results.collect(),
        rpc_id: rpc_id.to_owned(),
        schema_id,
    })
}

fn one(world: &World, name: &str, schema_id: &str, event: &ProducerEvent) -> PublishResult {
    let correlation_key = match event.id.is_empty() {
        true => uuid(),
        false => event.id.clone(),
    };
    // Whether a wrong schema is told in the result or ends the call is not confirmed.
    let (replay_id, error) = if event.schema_id == schema_id {
        let replay = events::publish(world, name, correlation_key.clone(), event.payload.clone());
        (replay_bytes(replay), None)
    } else {
        let error = Error {
            code: ErrorCode::Publish.into(),
            msg: "The schema ID is not that of the topic".into(),
        };
        (Bytes::new(), Some(error))
    };
    PublishResult {
        replay_id,
        error,
        correlation_key,
    }
}

/// Until the client is done, says nothing for too long, or goes away.
pub(super) async fn stream(world: &World, requests: &mut Requests, replies: &Replies) -> Result<(), Status> {
    let mut topic = String::new();
    loop {
        // The reader keeps what it has when it is dropped; after the other branches nothing is read any more.
        let request: Option<PublishRequest> = tokio::select! {
            request = tokio::time::timeout(world.settings.streaming.publish_idle, requests.next()) => {
                // How the end is told is not confirmed.
                let silent = || Status::new(DEADLINE_EXCEEDED, "No publish request came in time; the stream is closed.");
                request.map_err(|_| silent())??
            }
            () = replies.closed() => return Err(Status::gone()),
        };
        let Some(mut request) = request else {
            return Ok(());
        };
        if request.topic_name.is_empty() {
            request.topic_name.clone_from(&topic);
        } else if topic.is_empty() {
            topic.clone_from(&request.topic_name);
        } else if topic != request.topic_name {
            return Err(Status::new(
                INVALID_ARGUMENT,
                "The topic cannot change within a stream.",
            ));
        }
        let answer = publish(world, &request, &replies.rpc_id)?;
        replies.send(&answer).await?;
    }
}
