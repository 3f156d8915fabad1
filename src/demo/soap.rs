//! `POST /services/Soap/…`: what happens to one SOAP call.
//!
//! | File | Operations |
//! |---|---|
//! | here | whose session, which operation |
//! | `fault` | how a refusal is said |
//! | `login` | `login`, `logout`, `getUserInfo`, `getServerTimestamp` |
//! | `rows` `write` `describe` | queries, rows and objects, of the partner and the enterprise WSDL |
//! | `metadata` `types` `deploy` `zip` | the Metadata API |
//! | `code` | Apex, Tooling, and the sample web service |
//!
//! Owns: nothing; the components are in [`Metadata`], the world's.
//! Invariants: the session is taken from `SessionHeader/sessionId` in the namespace of the WSDL in use and nowhere else: what `Authorization`
//! does here is not confirmed (SF §5.1); it is checked before any work is done, and its use counts; no answer holds a session but that of
//! `login`; no answer has `Sforce-Limit-Info` or a `LimitInfoHeader` (not confirmed, SF §6).
//! Fails with: a SOAP fault, HTTP 500.
//! Source: SF §3.6, §4.2, §5.1; the partner and metadata WSDLs; captured faults in public test suites.

mod code;
mod deploy;
mod describe;
mod fault;
mod login;
mod metadata;
mod rows;
mod types;
mod write;
pub(crate) mod zip;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use hyper::{Method, http::request::Parts};

use super::{
    answer::Answer,
    body::Upload,
    connections::Connection,
    front::{Cut, misbehave, no_such_url, too_long, unreadable},
    rest::{NEWEST, OLDEST},
    world::World,
    xml::{self, Element, Writer},
};
use fault::Fault;
pub(crate) use metadata::Metadata;

const PREFIX: &str = "/services/Soap/";
const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";
const CONTENT_TYPE: &str = "text/xml;charset=UTF-8";

/// The WSDL in use, as the path tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Api {
    Enterprise,
    Partner,
    Metadata,
    Tooling,
    Apex,
    /// A web service of this Apex class.
    Class(String),
}

/// Where a call is addressed to.
struct Target<'a> {
    api: Api,
    /// `66.0`, if it is one we have; classes have none.
    version: Option<&'a str>,
}

/// One call whose session is good (or that needs none).
struct Call<'a> {
    world: &'a Arc<World>,
    api: &'a Api,
    version: &'a str,
    header: Option<&'a Element>,
    operation: &'a Element,
    token: &'a str,
    username: String,
}

/// Writes what stands in the operation's response.
type Operation = fn(&Call<'_>, &mut Writer) -> Result<(), Fault>;

pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// The body is read before the org misbehaves, so that the record can tell whose session came; with `early_401` a scripted answer goes out
/// before that. A refusal of the session never does: the session is in the body.
pub(crate) async fn call(
    world: &Arc<World>,
    connection: &Connection,
    path: &str,
    parts: &Parts,
    upload: &mut Upload,
) -> Result<Answer, Cut> {
    world.counters.api_requests.fetch_add(1, Relaxed);
    if world.faults().api_down {
        return Err(Cut);
    }
    if world.settings.early_401
        && let Some(scripted) = misbehave(world, path).await?
    {
        return Ok(scripted);
    }
    let target = target(path);
    let bytes = match upload.all(&parts.headers).await {
        Ok(bytes) => bytes,
        Err(e) => return unreadable(&e),
    };
    let envelope = xml::parse(&bytes);
    let token = match (&target, &envelope) {
        (Some(target), Ok(envelope)) => session(&target.api, envelope),
        _ => "",
    };
    if world.sessions().peek(token, world.now()).is_some() {
        upload.knows_token();
    }
    if !world.settings.early_401
        && let Some(scripted) = misbehave(world, path).await?
    {
        return Ok(scripted);
    }
    if let Some(refusal) = too_long(parts) {
        return Ok(refusal);
    }
    let Some(target) = target else {
        return Ok(no_such_url());
    };
    if parts.method != Method::POST {
        // The shape is not confirmed.
        return Ok(Answer::method_not_allowed(&parts.method, "POST"));
    }
    let at_home = connection.door == world.home();
    let done = match (parts.headers.contains_key("soapaction"), &envelope) {
        // Its value does not matter; real orgs insist on the header.
        (false, _) => Err(Fault::client("SOAPAction HTTP header missing")),
        (_, Err(e)) => Err(Fault::client(&e.to_string())),
        (true, Ok(envelope)) => answer(world, &target, envelope, token, at_home),
    };
    Ok(match done {
        Ok(text) => {
            world.counters.api_usage.fetch_add(1, Relaxed);
            Answer::text(200, CONTENT_TYPE, text)
        }
        Err(fault) => {
            if fault.is_about_the_session() {
                world.counters.soap_invalid_session.fetch_add(1, Relaxed);
            }
            Answer::text(500, CONTENT_TYPE, fault.envelope(&target.api))
        }
    })
}

fn target(path: &str) -> Option<Target<'_>> {
    let rest = path.strip_prefix(PREFIX)?;
    let mut segments = rest.split('/').filter(|segment| !segment.is_empty());
    let letter = segments.next()?;
    if letter == "class" {
        let name: Vec<&str> = segments.collect();
        return (!name.is_empty()).then(|| Target {
            api: Api::Class(name.join("/")),
            version: None,
        });
    }
    let api = match letter {
        "c" => Api::Enterprise,
        "u" => Api::Partner,
        "m" => Api::Metadata,
        "T" => Api::Tooling,
        "s" => Api::Apex,
        _ => return None,
    };
    // Clients append the org's id, or a word of their own.
    let version = segments.next().and_then(|version| {
        let digits = version.strip_prefix('v').unwrap_or(version);
        let number: u32 = digits.strip_suffix(".0")?.parse().ok()?;
        (OLDEST..=NEWEST).contains(&number).then_some(digits)
    });
    Some(Target { api, version })
}

/// The session id the envelope brings, in the right namespace; empty if there is none.
fn session<'a>(api: &Api, envelope: &'a Element) -> &'a str {
    let namespace = api.namespace();
    let header = envelope.child("Header").filter(|header| header.namespace == ENVELOPE);
    let ours = |element: &&Element| element.namespace == namespace;
    header
        .into_iter()
        .flat_map(|header| header.all("SessionHeader").filter(ours))
        .flat_map(|header| header.all("sessionId").filter(ours))
        .map(|id| id.text.trim())
        .next()
        .unwrap_or("")
}

fn answer(
    world: &Arc<World>,
    target: &Target<'_>,
    envelope: &Element,
    token: &str,
    at_home: bool,
) -> Result<String, Fault> {
    let api = &target.api;
    let version = match (target.version, api) {
        (Some(version), _) => version,
        (None, Api::Class(_)) => "",
        (None, _) => {
            return Err(Fault::new(
                "UNSUPPORTED_API_VERSION",
                "Invalid Api version specified on URL",
            ));
        }
    };
    if envelope.namespace != ENVELOPE || envelope.name != "Envelope" {
        return Err(Fault::client("The root element is not a SOAP 1.1 Envelope"));
    }
    let body = envelope.child("Body").filter(|body| body.namespace == ENVELOPE);
    let operation = body
        .and_then(|body| body.children.first())
        .ok_or_else(|| Fault::client("No operation found in the Body"))?;
    let Some((work, needs_session)) = api.operation(operation) else {
        let Element { namespace, name, .. } = operation;
        return Err(Fault::client(&format!(
            "No operation available for request {{{namespace}}}{name}, please check the WSDL for the service."
        )));
    };
    let username = if needs_session {
        user_of(world, token, at_home)?
    } else {
        String::new()
    };
    let call = Call {
        world,
        api,
        version,
        header: envelope.child("Header"),
        operation,
        token,
        username,
    };
    let mut inside = Writer::default();
    work(&call, &mut inside)?;
    Ok(api.response(&operation.name, &inside.0))
}

/// Whose session it is; used now. One in JWT format is none here (SF §3.6).
fn user_of(world: &World, token: &str, at_home: bool) -> Result<String, Fault> {
    let now = world.now();
    let mut sessions = world.sessions();
    let fits = at_home && sessions.peek(token, now).is_some_and(|session| !session.is_jwt());
    let session = if fits { sessions.touch(token, now) } else { None };
    session
        .map(|session| session.username.clone())
        .ok_or_else(|| Fault::session(token))
}

impl Api {
    fn namespace(&self) -> String {
        match self {
            Self::Enterprise => "urn:enterprise.soap.sforce.com".into(),
            Self::Partner => "urn:partner.soap.sforce.com".into(),
            Self::Metadata => "http://soap.sforce.com/2006/04/metadata".into(),
            Self::Tooling => "urn:tooling.soap.sforce.com".into(),
            Self::Apex => "http://soap.sforce.com/2006/08/apex".into(),
            Self::Class(name) => format!("http://soap.sforce.com/schemas/class/{name}"),
        }
    }

    /// What `sf` stands for in an answer.
    fn rows_namespace(&self) -> Option<&'static str> {
        match self {
            Self::Enterprise => Some("urn:sobject.enterprise.soap.sforce.com"),
            Self::Partner => Some("urn:sobject.partner.soap.sforce.com"),
            Self::Tooling => Some("urn:sobject.tooling.soap.sforce.com"),
            Self::Metadata | Self::Apex | Self::Class(_) => None,
        }
    }

    /// What to do, and whether a session is needed for it.
    fn operation(&self, operation: &Element) -> Option<(Operation, bool)> {
        if operation.namespace != self.namespace() {
            return None;
        }
        let work: Operation = match self {
            Self::Enterprise | Self::Partner => match operation.name.as_str() {
                "login" => return Some((login::login, false)),
                "logout" => login::logout,
                "getUserInfo" => login::user_info,
                "getServerTimestamp" => login::server_timestamp,
                "query" => rows::query,
                "queryAll" => rows::query_all,
                "queryMore" => rows::query_more,
                "retrieve" => rows::retrieve,
                "create" => write::create,
                "update" => write::update,
                "upsert" => write::upsert,
                "delete" => write::delete,
                "describeGlobal" => describe::global,
                "describeSObject" => describe::one,
                "describeSObjects" => describe::several,
                _ => return None,
            },
            Self::Metadata => match operation.name.as_str() {
                "describeMetadata" => metadata::describe,
                "listMetadata" => metadata::list,
                "readMetadata" => metadata::read,
                "createMetadata" => metadata::create,
                "updateMetadata" => metadata::update,
                "upsertMetadata" => metadata::upsert,
                "deleteMetadata" => metadata::delete,
                "deploy" => deploy::deploy,
                "checkDeployStatus" => deploy::check_deploy,
                "retrieve" => deploy::retrieve,
                "checkRetrieveStatus" => deploy::check_retrieve,
                _ => return None,
            },
            Self::Tooling => match operation.name.as_str() {
                "query" => code::tooling_query,
                "executeAnonymous" => code::execute_anonymous,
                "getUserInfo" => login::user_info,
                _ => return None,
            },
            Self::Apex if operation.name == "executeAnonymous" => code::execute_anonymous,
            Self::Class(class) if class == "Echo" && operation.name == "echo" => code::echo,
            Self::Apex | Self::Class(_) => return None,
        };
        Some((work, true))
    }

    fn response(&self, operation: &str, inside: &str) -> String {
        let (namespace, rows) = (self.namespace(), self.rows_namespace());
        let rows = rows.map_or_else(String::new, |rows| format!(" xmlns:sf=\"{rows}\""));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"{ENVELOPE}\" xmlns=\"{namespace}\"{rows} \
            xmlns:xsi=\"{INSTANCE}\"><soapenv:Body><{operation}Response>{inside}</{operation}Response></soapenv:Body></soapenv:Envelope>"
        )
    }
}

impl Call<'_> {
    /// A word of one of the headers, in the namespace of the WSDL.
    fn header_word<'a>(&'a self, header: &'a str, name: &'a str) -> &'a str {
        let namespace = self.api.namespace();
        let found = self.header.and_then(|all| {
            let mut ours = all.all(header).filter(|header| header.namespace == namespace);
            ours.next()
        });
        found.map_or("", |header| header.word(name))
    }
}

/// `xsd:boolean`, and Python's way of writing it.
fn is_true(word: &str) -> bool {
    word.eq_ignore_ascii_case("true") || word == "1"
}
