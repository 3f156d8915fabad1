//! `eventbus.v1.PubSub`: the Pub/Sub API, gRPC over HTTP/2 at a host of its own.
//!
//! Owns: nothing. Invariants: every RPC needs a living session in its metadata; one that is open is not ended with its session.
//! Fails with: a gRPC status in the trailers, or REFUSED_STREAM when told to.
//! Source: forcedotcom/pub-sub-api, `pubsub_api.proto`; Pub/Sub API guide (handling errors, supported authentication); SF §4.2, §5.3. The
//! status and the text of an authentication error, and those of an unknown topic, are as clients reported them (pozil/pub-sub-api-node-client
//! 67, pozil/pub-sub-api-java-client 2 and 3). ManagedSubscribe, a beta, is not here: UNIMPLEMENTED.

mod frames;
pub mod messages;
mod publish;
mod subscribe;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::HeaderValue,
};
use tokio::sync::mpsc;

use super::{
    answer::Wish,
    body::{OrgBody, Upload},
    bus::uuid,
    connections::Connection,
    events,
    front::misbehave,
    world::{ORG_ID, World},
};
use frames::{INTERNAL, NOT_FOUND, Replies, Requests, Status, UNAUTHENTICATED, UNIMPLEMENTED};
use messages::{SchemaInfo, SchemaRequest, TopicInfo, TopicRequest};

/// Ends the stream without an answer; with the reason in it that HTTP/2 is to give.
#[derive(Debug, thiserror::Error)]
#[error("reset")]
pub(crate) struct Reset(#[source] h2::Error);

const SERVICE: &str = "/eventbus.v1.PubSub/";
/// Messages made and not yet taken by the connection.
const AHEAD: usize = 4;

pub(crate) async fn serve(
    world: Arc<World>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<OrgBody>, Reset> {
    let busy = connection.busy();
    if world.faults().refuses_stream() {
        return Err(Reset(h2::Reason::REFUSED_STREAM.into()));
    }
    world.counters.pubsub_requests.fetch_add(1, Relaxed);
    let known = metadata(request.headers(), "accesstoken")
        .is_some_and(|token| world.sessions().peek(token, world.now()).is_some());
    let seen = world.recorder.note(&request, known);
    let (parts, incoming) = request.into_parts();
    match misbehave(&world, parts.uri.path()).await {
        Ok(None) => {}
        Ok(Some(scripted)) => return Ok(scripted.into_response(Wish::default())),
        Err(_) => {
            connection.cut();
            return Err(Reset(h2::Reason::INTERNAL_ERROR.into()));
        }
    }
    if parts.method != Method::POST || !is_grpc(&parts.headers) {
        let mut response = Response::new(OrgBody::sized(Bytes::new()));
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Ok(response);
    }
    let (frames, mut answer) = mpsc::channel(AHEAD);
    let requests = Requests::new(Upload::new(incoming, seen), &parts.headers);
    let replies = Replies::new(frames, uuid());
    let shared = Arc::clone(&world);
    world.tasks.spawn(async move {
        let name = parts.uri.path().strip_prefix(SERVICE).unwrap_or("");
        let done = call(&shared, name, &parts.headers, requests, &replies).await;
        replies.end(&done.err().unwrap_or_else(Status::ok)).await;
    });
    // As servers in Java do: nothing is sent before the first message or the end. Not confirmed for Salesforce, and the harder case.
    let first = answer.recv().await.ok_or(Reset(h2::Reason::INTERNAL_ERROR.into()))?;
    let mut response = respond(first, answer, world.settings.streaming.headers_first);
    response.body_mut().busy = Some(busy);
    Ok(response)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// A failure before any message is Trailers-Only, unless the settings want headers first.
fn respond(first: Frame<Bytes>, rest: mpsc::Receiver<Frame<Bytes>>, headers_first: bool) -> Response<OrgBody> {
    let mut response = match first.into_trailers() {
        Ok(trailers) if !headers_first => {
            let mut response = Response::new(OrgBody::sized(Bytes::new()));
            *response.headers_mut() = trailers;
            response
        }
        Ok(trailers) => Response::new(OrgBody::frames(Frame::trailers(trailers), rest)),
        Err(message) => Response::new(OrgBody::frames(message, rest)),
    };
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
    response
}

async fn call(
    world: &World,
    name: &str,
    headers: &HeaderMap,
    mut requests: Requests,
    replies: &Replies,
) -> Result<(), Status> {
    authenticate(world, headers)?;
    match name {
        "GetTopic" => {
            let request: TopicRequest = one(&mut requests).await?;
            replies.send(&topic(world, request, &replies.rpc_id)?).await
        }
        "GetSchema" => {
            let request: SchemaRequest = one(&mut requests).await?;
            replies.send(&schema(world, request, &replies.rpc_id)?).await
        }
        "Publish" => {
            let request = one(&mut requests).await?;
            replies.send(&publish::publish(world, &request, &replies.rpc_id)?).await
        }
        "PublishStream" => publish::stream(world, &mut requests, replies).await,
        "Subscribe" => subscribe::subscribe(world, &mut requests, replies).await,
        _ => {
            let message = format!("Method not found: eventbus.v1.PubSub/{name}");
            Err(Status::new(UNIMPLEMENTED, message))
        }
    }
}

/// Token, instance and tenant must all be right; that wrong ones of the last two are the same error is not confirmed.
fn authenticate(world: &World, headers: &HeaderMap) -> Result<(), Status> {
    let instance = metadata(headers, "instanceurl").unwrap_or("").trim_end_matches('/');
    let right_org = metadata(headers, "tenantid") == Some(ORG_ID) && instance == world.instance_url();
    let token = metadata(headers, "accesstoken").unwrap_or("");
    let living = world.sessions().touch(token, world.now()).is_some();
    if living && right_org {
        return Ok(());
    }
    world.counters.pubsub_auth_errors.fetch_add(1, Relaxed);
    let message = "An authentication exception occurred. Provide valid authentication via metadata headers.";
    Err(Status::new(UNAUTHENTICATED, message).with("service.auth.error"))
}

fn metadata<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The one message of a call that is no stream.
async fn one<M: prost::Message + Default>(requests: &mut Requests) -> Result<M, Status> {
    let message = requests.next().await?;
    message.ok_or_else(|| Status::new(INTERNAL, "Half-closed without a request"))
}

fn topic(world: &World, request: TopicRequest, rpc_id: &str) -> Result<TopicInfo, Status> {
    let name = event(world, &request.topic_name)?;
    Ok(TopicInfo {
        tenant_guid: tenant_guid(),
        can_publish: true,
        can_subscribe: true,
        schema_id: events::schema_id(&events::schema(name)),
        rpc_id: rpc_id.to_owned(),
        topic_name: request.topic_name,
    })
}

fn schema(world: &World, request: SchemaRequest, rpc_id: &str) -> Result<SchemaInfo, Status> {
    // Its error code is not known.
    let unknown = || Status::new(NOT_FOUND, format!("The schema {} was not found.", request.schema_id));
    Ok(SchemaInfo {
        schema_json: events::schema_of(world, &request.schema_id).ok_or_else(unknown)?,
        rpc_id: rpc_id.to_owned(),
        schema_id: request.schema_id,
    })
}

/// The platform event of a topic. Change events have no Avro schema here, so they are no topics.
fn event<'a>(world: &'a World, topic: &str) -> Result<&'a str, Status> {
    events::of_channel(world, topic).ok_or_else(|| {
        let message = format!(
            "The topic information for org {} and topic {topic} not found. Ensure the topic name is correct and that the topic exists.",
            tenant_guid()
        );
        Status::new(NOT_FOUND, message).with("subscription.topic.notfound")
    })
}

fn tenant_guid() -> String {
    format!("CORE/prod/{ORG_ID}")
}

/// Eight bytes that nobody but the org is to read.
fn replay_bytes(replay: u64) -> Bytes {
    Bytes::copy_from_slice(&replay.to_be_bytes())
}
