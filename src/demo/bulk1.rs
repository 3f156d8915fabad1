//! Bulk API 1.0: `/services/async/XX.X/job…`.
//!
//! | File | Answers |
//! |---|---|
//! | here | whose session, which resource, how refusals are said |
//! | `job` | jobs: create, show, close, abort |
//! | `batch` `work` | batches: add, show, what they do to the rows |
//! | `results` | what they give back, in the job's content type |
//!
//! Owns: the jobs. Invariants: the session is taken from `X-SFDC-Session` and nowhere else, and one in JWT format is none (inferred, SF §3.6);
//! it is checked before any work is done, and its use counts; no answer has `Sforce-Limit-Info` (not confirmed, SF §6).
//! Fails with: [`Refusal`], HTTP 400, in XML, or in JSON for a request that speaks it (the JSON form is not confirmed, SF §4.2).
//! Source: SF §3.6, §4.2, §5.1; Bulk API 1.0 developer guide; what jsforce, salesforce-bulk, simple-salesforce and tap-salesforce send and read.

mod batch;
mod job;
mod results;
mod work;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use hyper::{HeaderMap, Method, http::request::Parts};
use serde_json::{Map, Value, json};

use super::{
    answer::Answer,
    body::Upload,
    connections::Connection,
    front::{Cut, misbehave, too_long, unreadable},
    rest::{NEWEST, OLDEST},
    store::id18,
    world::World,
    xml::{self, Writer},
};

const PREFIX: &str = "/services/async/";
const NAMESPACE: &str = "http://www.force.com/2009/06/asyncapi/dataload";
/// Clients compare these as they are.
const XML: &str = "application/xml";
const JSON: &str = "application/json";

#[derive(Default)]
pub(crate) struct Jobs {
    jobs: BTreeMap<String, job::Job>,
    made: usize,
    batches: usize,
}

/// How a request speaks, and so how it is answered where the job's content type does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Xml,
    Json,
}

/// One request whose session is good.
struct Call<'a> {
    world: &'a Arc<World>,
    version: &'a str,
    form: Form,
    /// Without parameters; lower case.
    content_type: String,
    body: Bytes,
}

/// `exceptionCode`, `exceptionMessage`.
#[derive(Debug)]
struct Refusal(&'static str, String);

pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// The session id that the request brings.
pub(crate) fn session(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("x-sfdc-session")?.to_str().ok()?.trim();
    (!value.is_empty()).then_some(value)
}

pub(crate) async fn call(
    world: &Arc<World>,
    connection: &Connection,
    path: &str,
    parts: &Parts,
    upload: &mut Upload,
) -> Result<Answer, Cut> {
    world.counters.api_requests.fetch_add(1, Relaxed);
    let form = Form::of(&parts.headers);
    let refusal = match misbehave(world, path).await? {
        Some(scripted) => Some(scripted),
        None => too_long(parts).or_else(|| refused(world, connection, &parts.headers, form)),
    };
    if let Some(refusal) = refusal {
        if !world.settings.early_401 {
            upload.drain().await.map_err(|_| Cut)?;
        }
        return Ok(refusal);
    }
    let body = match upload.all(&parts.headers).await {
        Ok(body) => body,
        Err(e) => return unreadable(&e),
    };
    let mut segments = path[PREFIX.len()..].split('/').filter(|segment| !segment.is_empty());
    let call = Call {
        world,
        version: segments.next().unwrap_or(""),
        form,
        content_type: content_type(&parts.headers),
        body,
    };
    let segments: Vec<&str> = segments.collect();
    Ok(match route(&call, &parts.method, &segments) {
        Ok(answer) => {
            world.counters.api_usage.fetch_add(1, Relaxed);
            answer
        }
        Err(refusal) => refusal.answer(form),
    })
}

/// No living session came.
fn refused(world: &World, connection: &Connection, headers: &HeaderMap, form: Form) -> Option<Answer> {
    let now = world.now();
    let living = connection.door == world.home()
        && session(headers).is_some_and(|token| {
            let mut sessions = world.sessions();
            let fits = sessions.peek(token, now).is_some_and(|session| !session.is_jwt());
            fits && sessions.touch(token, now).is_some()
        });
    if living {
        return None;
    }
    world.counters.bulk1_invalid_session.fetch_add(1, Relaxed);
    Some(Refusal("InvalidSessionId", "Invalid session id".into()).answer(form))
}

fn route(call: &Call<'_>, method: &Method, path: &[&str]) -> Result<Answer, Refusal> {
    let number = call.version.strip_suffix(".0").and_then(|v| v.parse().ok());
    if number.is_none_or(|number: u32| !(OLDEST..=NEWEST).contains(&number)) {
        return Err(Refusal(
            "InvalidVersion",
            format!("API version {} is not supported", call.version),
        ));
    }
    let (get, post) = (method == Method::GET || method == Method::HEAD, method == Method::POST);
    match *path {
        ["job"] if post => job::create(call),
        ["job", id] if get => job::show(call, id),
        ["job", id] if post => job::change(call, id),
        ["job", id, "batch"] if post => batch::add(call, id),
        ["job", id, "batch"] if get => batch::list(call, id),
        ["job", id, "batch", batch] if get => batch::show(call, id, batch),
        ["job", id, "batch", batch, "request"] if get => batch::request(call, id, batch),
        ["job", id, "batch", batch, "result"] if get => results::answer(call, id, batch, None),
        ["job", id, "batch", batch, "result", result] if get => results::answer(call, id, batch, Some(result)),
        _ => Err(Refusal("InvalidUrl", "Destination URL is not valid".into())),
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get("content-type").and_then(|value| value.to_str().ok());
    let kind = value.unwrap_or("").split(';').next().unwrap_or("");
    kind.trim().to_ascii_lowercase()
}

impl Form {
    /// JSON for those who send or ask for it; XML is what the API spoke first.
    fn of(headers: &HeaderMap) -> Self {
        let accepts = headers
            .get("accept")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        if content_type(headers) == JSON || accepts.contains(JSON) {
            Self::Json
        } else {
            Self::Xml
        }
    }
}

impl Call<'_> {
    /// The request's own fields, of an XML element or a JSON object, as text.
    fn fields(&self) -> Result<Map<String, Value>, Refusal> {
        let bad = || Refusal("ClientInputError", "The request body cannot be parsed".into());
        if self.form == Form::Json && self.content_type == JSON {
            return match serde_json::from_slice(&self.body) {
                Ok(Value::Object(fields)) => Ok(fields),
                _ => Err(bad()),
            };
        }
        let root = xml::parse(&self.body).map_err(|_| bad())?;
        if root.namespace != NAMESPACE || root.name != "jobInfo" {
            return Err(bad());
        }
        let field = |child: &xml::Element| (child.name.clone(), json!(child.text.trim()));
        Ok(root.children.iter().map(field).collect())
    }
}

impl Refusal {
    fn answer(self, form: Form) -> Answer {
        let Self(code, message) = self;
        if form == Form::Json {
            let body = json!({"exceptionCode": code, "exceptionMessage": message});
            return Answer::text(400, JSON, body.to_string());
        }
        let mut out = Writer::default();
        out.word("exceptionCode", code);
        out.word("exceptionMessage", &message);
        Answer::text(400, XML, document("error", &out.0))
    }
}

impl Jobs {
    fn next_id(&mut self, prefix: &str) -> String {
        self.made += 1;
        id18(prefix, self.made)
    }
}

fn document(root: &str, inside: &str) -> String {
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{root} xmlns=\"{NAMESPACE}\">{inside}</{root}>")
}

/// Fields as JSON shows them, written as XML: dates are `xsd:dateTime` there. In order of their names, which no client minds.
fn elements(fields: &Map<String, Value>, out: &mut Writer) {
    for (name, value) in fields {
        match value {
            Value::String(text) if name.ends_with("Date") || name == "systemModstamp" => {
                out.word(name, &text.replace("+0000", "Z"));
            }
            Value::String(text) => out.word(name, text),
            other => out.show(name, other),
        }
    }
}

/// A `jobInfo` or a `batchInfo`.
fn info(status: u16, form: Form, root: &str, fields: &Map<String, Value>) -> Answer {
    if form == Form::Json {
        return Answer::text(status, JSON, json!(fields).to_string());
    }
    let mut out = Writer::default();
    elements(fields, &mut out);
    Answer::text(status, XML, document(root, &out.0))
}
