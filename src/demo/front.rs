//! What happens to one request to the org.
//!
//! Owns: nothing. Invariants: a request is recorded before anything is decided; a session is checked before any work is done, and its use counts;
//! a repeat of a refused call is therefore harmless.
//! Units: at most 16,384 bytes of target, and of target and headers together.
//! Fails with: [`Cut`], when the connection is to end without an answer.
//! Source: SF §3.1, §3.4 (414, 431), §4.1, §6, §8.6 (calls to a host that is not the instance).

use std::sync::{Arc, atomic::Ordering::Relaxed};

use hyper::{
    HeaderMap, Request, Response, Version,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    http::request::Parts,
};

use super::{
    a360,
    answer::{Answer, Said, Wish},
    apex,
    body::{OrgBody, Upload, UploadError},
    bulk1, cometd,
    connections::Connection,
    events,
    faults::Reply,
    grant::TokenRequest,
    identity,
    rest::{self, Call, small},
    soap, tenant,
    world::{Door, World},
};

/// End the connection; say nothing.
#[derive(Debug, thiserror::Error)]
#[error("cut")]
pub(crate) struct Cut;

const TOKEN_PATH: &str = "/services/oauth2/token";
const DATA_CLOUD_TOKEN_PATH: &str = "/services/a360/token";
const MAX_TARGET: usize = 16_384;

pub(crate) async fn serve(
    world: Arc<World>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<OrgBody>, Cut> {
    let busy = connection.busy();
    let at_tenant = connection.door == Door::Tenant;
    let path = clean(request.uri().path());
    let known = credential(&path, at_tenant, request.headers()).is_some_and(|token| {
        if at_tenant {
            a360::living(&world, token).is_some()
        } else {
            world.sessions().peek(token, world.now()).is_some()
        }
    });
    let seen = match path.as_str() {
        TOKEN_PATH if !at_tenant => None,
        _ => world.recorder.note(&request, known),
    };
    let (parts, incoming) = request.into_parts();
    let mut upload = Upload::new(incoming, seen);
    let answer = if at_tenant {
        tenant_call(&world, &path, &parts, &mut upload).await
    } else if path == TOKEN_PATH {
        token(&world, &parts, &mut upload).await
    } else if path == DATA_CLOUD_TOKEN_PATH {
        data_cloud_token(&world, &connection, &parts, &mut upload).await
    } else if cometd::is_path(&path) {
        streaming_call(&world, &connection, &path, &parts, &mut upload).await
    } else if let Some(answer) = other_identity(&world, &path, &parts, &mut upload).await {
        answer
    } else if soap::is_path(&path) {
        soap::call(&world, &connection, &path, &parts, &mut upload).await
    } else if bulk1::is_path(&path) {
        bulk1::call(&world, &connection, &path, &parts, &mut upload).await
    } else {
        api(&world, &connection, &path, &parts, &mut upload).await
    };
    events::publish_changes(&world);
    let answer = answer.inspect_err(|Cut| connection.cut())?;
    let mut wish = Wish::of(&parts.headers);
    if !world.settings.gzip {
        (wish.gzip, wish.deflate) = (false, false);
    }
    let mut response = answer.into_response(wish);
    let closes = response.status() == 401 && world.settings.close_on_401 && parts.version != Version::HTTP_2;
    if closes {
        response
            .headers_mut()
            .insert("connection", HeaderValue::from_static("close"));
    }
    response.body_mut().busy = Some(busy);
    Ok(response)
}

/// The path with a doubled leading slash made one, as real orgs accept it.
fn clean(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

/// What the request shows of a credential before its body is read: nothing, for SOAP.
fn credential<'a>(path: &str, at_tenant: bool, headers: &'a HeaderMap) -> Option<&'a str> {
    match path {
        _ if at_tenant => identity::bearer(headers),
        path if soap::is_path(path) => None,
        path if bulk1::is_path(path) => bulk1::session(headers),
        _ => identity::bearer(headers),
    }
}

async fn token(world: &World, parts: &Parts, upload: &mut Upload) -> Result<Answer, Cut> {
    if world.faults().token_down {
        return Err(Cut);
    }
    let _counted = world.counters.token_call();
    let body = upload.all(&parts.headers).await.map_err(|_| Cut)?;
    let request = TokenRequest::read(&parts.method, host(parts), &body);
    world.counters.asked_for(request.grant());
    let _claim = match request.claim(world) {
        Ok(claim) => claim,
        Err(refusal) => return Ok(refusal),
    };
    let (fault, latency) = {
        let mut faults = world.faults();
        (faults.next_token(), faults.latency.token)
    };
    let hang = fault.as_ref().map_or_else(Default::default, |fault| fault.hang);
    tokio::time::sleep(latency + hang).await;
    let answer = match fault.and_then(|fault| fault.reply) {
        Some(reply) => scripted(reply),
        None => request.answer(world),
    };
    if answer.status == 200 {
        world.counters.token_ok.fetch_add(1, Relaxed);
        if world.faults().loses_answer() {
            return Err(Cut);
        }
    }
    // What was decided stands, also for a caller that does not wait for it.
    let delay = world.faults().token_answer_delay;
    tokio::time::sleep(delay).await;
    Ok(answer)
}

/// The exchange for Data Cloud: a token call to clients, an API call to the org's switches.
async fn data_cloud_token(
    world: &World,
    connection: &Connection,
    parts: &Parts,
    upload: &mut Upload,
) -> Result<Answer, Cut> {
    let body = upload.all(&parts.headers).await.map_err(|_| Cut)?;
    if let Some(scripted) = misbehave(world, DATA_CLOUD_TOKEN_PATH).await? {
        return Ok(scripted);
    }
    let answer = if connection.door == world.home() {
        a360::answer(world, &parts.method, &body)
    } else {
        None
    };
    Ok(answer.unwrap_or_else(no_such_url))
}

/// A call at the Data Cloud host.
async fn tenant_call(world: &World, path: &str, parts: &Parts, upload: &mut Upload) -> Result<Answer, Cut> {
    world.counters.tenant_requests.fetch_add(1, Relaxed);
    let body = upload.all(&parts.headers).await.map_err(|_| Cut)?;
    let answer = match misbehave(world, path).await? {
        Some(scripted) => scripted,
        None => {
            let query = parts.uri.query().unwrap_or("");
            tenant::answer(world, &parts.method, path, query, &parts.headers, &body)
        }
    };
    if answer.status == 401 {
        world.counters.tenant_401.fetch_add(1, Relaxed);
    }
    Ok(answer)
}

/// A call at the Streaming API; a poll is held here.
async fn streaming_call(
    world: &World,
    connection: &Connection,
    path: &str,
    parts: &Parts,
    upload: &mut Upload,
) -> Result<Answer, Cut> {
    world.counters.api_requests.fetch_add(1, Relaxed);
    let body = upload.all(&parts.headers).await.map_err(|_| Cut)?;
    let answer = match misbehave(world, path).await? {
        Some(scripted) => scripted,
        None => cometd::answer(world, connection.door, path, parts, &body).await,
    };
    if answer.status == 401 {
        world.counters.api_401.fetch_add(1, Relaxed);
    }
    Ok(answer)
}

/// What the switches for API calls say: a cut, the latency, a scripted answer.
pub(crate) async fn misbehave(world: &World, path: &str) -> Result<Option<Answer>, Cut> {
    let (down, reply, latency) = {
        let mut faults = world.faults();
        let down = faults.api_down;
        let reply = if down { None } else { faults.next_api(path) };
        (down, reply, faults.latency.api)
    };
    if down {
        return Err(Cut);
    }
    tokio::time::sleep(latency).await;
    Ok(reply.map(scripted))
}

/// The headers, with HTTP/2's authority as `host`.
fn host(parts: &Parts) -> HeaderMap {
    let mut headers = parts.headers.clone();
    if let Some(authority) = parts
        .uri
        .authority()
        .and_then(|a| HeaderValue::from_str(a.as_str()).ok())
    {
        headers.entry("host").or_insert(authority);
    }
    headers
}

async fn other_identity(world: &World, path: &str, parts: &Parts, upload: &mut Upload) -> Option<Result<Answer, Cut>> {
    let ours = ["/services/oauth2/", "/id/", "/.well-known/", "/setup/connect"];
    if !ours.iter().any(|prefix| path.starts_with(prefix)) {
        return None;
    }
    let Ok(body) = upload.all(&parts.headers).await else {
        return Some(Err(Cut));
    };
    let query = parts.uri.query().unwrap_or("");
    let answer = identity::answer(world, &parts.method, path, query, &parts.headers, &body);
    Some(Ok(answer.unwrap_or_else(Answer::not_found)))
}

async fn api(
    world: &Arc<World>,
    connection: &Connection,
    path: &str,
    parts: &Parts,
    upload: &mut Upload,
) -> Result<Answer, Cut> {
    world.counters.api_requests.fetch_add(1, Relaxed);
    let refusal = match misbehave(world, path).await? {
        Some(scripted) => Some(scripted),
        None => refused(world, connection, path, parts),
    };
    let answer = match refusal {
        Some(refusal) => {
            if !world.settings.early_401 {
                upload.drain().await.map_err(|_| Cut)?;
            }
            refusal
        }
        None => match work(world, path, parts, upload).await {
            Ok(answer) => answer,
            Err(e) => unreadable(&e)?,
        },
    };
    if answer.status == 401 {
        world.counters.api_401.fetch_add(1, Relaxed);
    }
    Ok(limit_info(world, path, answer))
}

/// The answer to a body that could not be read.
pub(crate) fn unreadable(error: &UploadError) -> Result<Answer, Cut> {
    match error {
        UploadError::Broken => Err(Cut),
        UploadError::TooLarge => Ok(Answer::error(413, "CONTENT_TOO_LARGE", "The request is too large")),
        UploadError::Encoding => Ok(Answer::error(400, "INVALID_CONTENT", error.to_string())),
    }
}

/// Target or headers over the edge's limit.
pub(crate) fn too_long(parts: &Parts) -> Option<Answer> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if target > MAX_TARGET {
        return Some(Answer::error(
            414,
            "URI_TOO_LONG",
            "The length of the URI exceeds the 16,384 byte limit",
        ));
    }
    if target + headers > MAX_TARGET {
        return Some(Answer::error(
            431,
            "REQUEST_HEADER_FIELDS_TOO_LARGE",
            "The combined length of the URI and headers exceeds the 16,384 byte limit",
        ));
    }
    None
}

/// Why the call is not let in, if it is not.
fn refused(world: &World, connection: &Connection, path: &str, parts: &Parts) -> Option<Answer> {
    if let Some(refusal) = too_long(parts) {
        return Some(refusal);
    }
    if is_version_list(path) {
        return None;
    }
    if !path.starts_with("/services/data/") && !path.starts_with("/services/apexrest/") {
        return Some(no_such_url());
    }
    // Whether a call without the header is told the same as one with a dead session is not confirmed (SF §11).
    let Some(header) = parts.headers.get("authorization") else {
        return Some(Answer::session_expired());
    };
    let Some(token) = identity::bearer(&parts.headers) else {
        let malformed = Answer::error(401, "INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE");
        return Some(if header.is_empty() {
            Answer::session_expired()
        } else {
            malformed
        });
    };
    let at_home = connection.door == world.home();
    let living = at_home && world.sessions().touch(token, world.now()).is_some();
    (!living).then(Answer::session_expired)
}

async fn work(world: &Arc<World>, path: &str, parts: &Parts, upload: &mut Upload) -> Result<Answer, UploadError> {
    if is_version_list(path) {
        upload.drain().await?;
        return Ok(small::versions());
    }
    if let Some(rest) = path.strip_prefix("/services/apexrest/") {
        return apex::answer(world, rest, parts, upload).await;
    }
    let body = upload.all(&parts.headers).await?;
    let rest = path.strip_prefix("/services/data/").unwrap_or("");
    let query = parts.uri.query().unwrap_or("");
    let call = Call::new(parts.method.clone(), rest, query, parts.headers.clone(), body);
    Ok(match call {
        Ok(call) => rest::answer(world, &call),
        Err(refusal) => refusal,
    })
}

pub(crate) fn no_such_url() -> Answer {
    let page = "<html><head><title>URL No Longer Exists</title></head><body>URL No Longer Exists</body></html>";
    Answer::text(404, "text/html;charset=UTF-8", page)
}

fn is_version_list(path: &str) -> bool {
    path.trim_end_matches('/') == "/services/data"
}

/// Counted and told on good answers only; not on the versions list (SF §6).
fn limit_info(world: &World, path: &str, answer: Answer) -> Answer {
    if is_version_list(path) || answer.status.as_u16() >= 400 {
        return answer;
    }
    let used = world.counters.api_usage.fetch_add(1, Relaxed) + 1;
    answer.with("sforce-limit-info", &format!("api-usage={used}/{}", small::DAILY_CALLS))
}

fn scripted(reply: Reply) -> Answer {
    let mut answer = Answer::new(reply.status, Said::Text("text/plain", reply.body.into()));
    let kind = ("content-type".to_owned(), reply.content_type);
    for (name, value) in std::iter::once(kind).chain(reply.headers) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            answer.headers.push((name, value));
        }
    }
    answer
}
