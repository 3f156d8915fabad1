//! What must be known of a request body before it is sent.
//!
//! A SOAP call has its session in the envelope, and its first element says whether it is a login, which is answered here. A
//! CometD handshake may be repeated, other messages may not. What is read is held and sent all the same.
//!
//! Owns: nothing. Units: bytes; at most [`HEAD_BYTES`] of an envelope, 16 KiB of Bayeux messages.
//! Fails with: [`CallError`]: an envelope in which no session can be set is not sent.

use std::time::Duration;

use http::{HeaderMap, header};
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    body::{Store, Upload},
    envelope::{self, Credential, Edit, HEAD_BYTES, Operation, Reading, Unfit},
    error::CallError,
    surface::Surface,
};

/// A handshake alone has far less.
const MESSAGES: usize = 16 * 1024;

/// What the body's beginning says of the call.
pub enum Ahead {
    /// Nothing that matters.
    Plain,
    /// The credential goes there.
    Edits(Vec<Edit>),
    /// SOAP's `login` or `logout`.
    Session(Operation),
    /// Bayeux messages that do nothing but shake hands.
    Handshake,
}

/// Whether this family's bodies are read ahead.
pub fn wanted(surface: Surface) -> bool {
    matches!(surface, Surface::Soap | Surface::MarketingSoap | Surface::Cometd)
}

/// A body into which the credential goes: it must be readable, and its length changes.
pub fn upload(headers: &mut HeaderMap, body: Incoming, store: &Store, idle: Duration) -> Result<Upload, CallError> {
    // What the header says of the characters goes before what the envelope says of itself. Said twice, nobody knows which counts.
    let mut content_types = headers.get_all(header::CONTENT_TYPE).iter();
    if !content_types.all(|kind| charsets(kind.to_str().unwrap_or_default()).all(envelope::keeps_ascii)) {
        return Err(Unfit::Encoding.into());
    }
    headers.remove(header::CONTENT_LENGTH);
    if headers.get_all(header::CONTENT_ENCODING).iter().nth(1).is_some() {
        return Err(CallError::EnvelopeEncoding);
    }
    let encoding = headers.remove(header::CONTENT_ENCODING);
    match encoding
        .as_ref()
        .map(|encoding| encoding.as_bytes().trim_ascii().to_ascii_lowercase())
    {
        None => Ok(Upload::new(body, store, idle)),
        Some(encoding) if encoding == b"identity" => Ok(Upload::new(body, store, idle)),
        Some(encoding) if encoding == b"gzip" || encoding == b"x-gzip" => Ok(Upload::inflated(body, store, idle)),
        Some(_) => Err(CallError::EnvelopeEncoding),
    }
}

pub async fn read_ahead(surface: Surface, path: &str, upload: &Upload) -> Result<Ahead, CallError> {
    let namespace;
    let credential = match surface {
        Surface::MarketingSoap => Credential::Fuel,
        Surface::Soap => {
            namespace = envelope::namespace_of(path).unwrap_or_default();
            Credential::Session { fallback: &namespace }
        }
        Surface::Cometd => {
            let shakes = upload.look_ahead(MESSAGES, |seen, whole| whole.then(|| is_handshake(seen)));
            return match shakes.await.map_err(CallError::Upload)? {
                Some(true) => Ok(Ahead::Handshake),
                Some(false) | None => Ok(Ahead::Plain),
            };
        }
        _ => return Ok(Ahead::Plain),
    };
    let found = upload.look_ahead(HEAD_BYTES, |seen, whole| {
        match envelope::read(seen, whole, credential) {
            Ok(Reading::More) => None,
            Ok(Reading::Found(envelope)) => Some(Ok(envelope)),
            Err(unfit) => Some(Err(unfit)),
        }
    });
    let mut envelope = found.await.map_err(CallError::Upload)?.unwrap_or(Err(Unfit::TooLong))?;
    if let Credential::Session { fallback } = credential {
        if envelope.operation.namespace.is_empty() {
            fallback.clone_into(&mut envelope.operation.namespace);
        }
        if is_session(&envelope.operation, fallback) {
            return Ok(Ahead::Session(envelope.operation));
        }
    }
    Ok(Ahead::Edits(envelope.edits))
}

/// The org's own operations. Only a class may have one of the same name, in a namespace of its own; elsewhere one with a wrong
/// namespace, or at a path that has none, would take the app's password to the org for nothing.
fn is_session(operation: &Operation, path_namespace: &str) -> bool {
    let of_a_class = |namespace: &str| namespace.starts_with("http://soap.sforce.com/schemas/");
    let is_one = matches!(operation.name.as_str(), "login" | "logout");
    let of_the_org = operation.namespace.starts_with("urn:") && operation.namespace.ends_with(".soap.sforce.com");
    is_one && (of_the_org || !(of_a_class(&operation.namespace) || of_a_class(path_namespace)))
}

fn is_handshake(body: &[u8]) -> bool {
    let shakes = |message: &Value| message.get("channel").and_then(Value::as_str) == Some("/meta/handshake");
    match serde_json::from_slice(body) {
        Ok(Value::Array(messages)) => !messages.is_empty() && messages.iter().all(shakes),
        Ok(message) => shakes(&message),
        Err(_) => false,
    }
}

/// Each `charset` of a `Content-Type`. Some clients put it in the wrong quotes.
fn charsets(content_type: &str) -> impl Iterator<Item = &str> {
    content_type.split(';').skip(1).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches(['"', '\'']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_orgs_own_logins_are_logins() {
        let at = |path_namespace: &str, namespace: &str, name: &str| {
            let operation = Operation {
                namespace: namespace.into(),
                name: name.into(),
            };
            is_session(&operation, path_namespace)
        };
        let is = |namespace: &str, name: &str| at("", namespace, name);
        assert!(is("urn:partner.soap.sforce.com", "login"));
        assert!(is("urn:enterprise.soap.sforce.com", "logout"));
        assert!(!is("urn:partner.soap.sforce.com", "query"));
        assert!(!is("http://soap.sforce.com/schemas/class/Account", "login"));
        assert!(at("urn:partner.soap.sforce.com", "urn:misspelt", "login"));
        assert!(!at("urn:partner.soap.sforce.com", "urn:misspelt", "query"));
        // The Metadata API has no login: a client that asks it for one has the wrong path.
        let metadata = "http://soap.sforce.com/2006/04/metadata";
        assert!(at(metadata, metadata, "login"));
        assert!(at("", "", "login"));
        let class = "http://soap.sforce.com/schemas/class/Echo";
        assert!(!at(class, class, "login"));
        assert!(!at(class, "urn:of.the.class", "login"));
        assert!(at(class, "urn:partner.soap.sforce.com", "logout"));
    }

    #[test]
    fn only_handshakes_alone_are_handshakes() {
        assert!(is_handshake(br#"[{"channel":"/meta/handshake","version":"1.0"}]"#));
        assert!(is_handshake(br#"{"channel":"/meta/handshake"}"#));
        assert!(!is_handshake(
            br#"[{"channel":"/meta/handshake"},{"channel":"/meta/connect"}]"#
        ));
        assert!(!is_handshake(b"[]"));
        assert!(!is_handshake(b""));
        assert!(!is_handshake(br#""/meta/handshake""#));
    }
}
