//! Where the session goes in a SOAP envelope.
//!
//! Pure: no I/O, no clock, and nothing is written anew: what comes out are places, by byte, and what to put there. Reading ends at
//! the start tag of the operation; the rest of the body, a zip file of 50 MB perhaps, is never looked at.
//! Owns: nothing. `envelope/tags.rs` reads the tags, this file knows what they mean.
//! Invariants: edits are in bounds, ascending, and do not overlap; outside them the envelope stays byte for byte. A session that the
//! caller sent is replaced in every `SessionHeader`, whatever its namespace. Each edit puts the credential in once. What is read
//! twice comes out alike, also when it comes out of the first reading.
//! Units: bytes, from the first of the body (a byte order mark counts).
//! Fails with: [`Unfit`], whose text quotes nothing of the message.
//! Source: SF §5.1, §5.5; SOAP 1.1 §4, SOAP 1.2 part 1 §5; XML 1.0, Namespaces in XML 1.0.

mod tags;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashSet, fmt, ops::Range};

use bytes::Bytes;

pub use self::tags::keeps_ascii;
use self::tags::{Open, Stop, Tag, Tags};

/// How much of an envelope is read to find the place. Real ones have it in the first few hundred bytes.
pub const HEAD_BYTES: usize = 256 * 1024;

/// SOAP 1.1 and 1.2.
const SOAP: [&str; 2] = [
    "http://schemas.xmlsoap.org/soap/envelope/",
    "http://www.w3.org/2003/05/soap-envelope",
];

const FUEL: &str = "http://exacttarget.com";

/// Which credential the service wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// `SessionHeader/sessionId` in the WSDL's namespace, which is the operation's. `fallback` is the namespace of the WSDL that
    /// the path names ([`namespace_of`]), used only where the body's operation has none.
    Session { fallback: &'a str },
    /// Marketing Cloud: `<fueloauth xmlns="http://exacttarget.com">` in the header.
    Fuel,
}

/// Whether the head was long enough.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// The place is not in what has come so far.
    More,
    Found(Envelope),
}

/// What the head of an envelope says.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What to put where, in ascending order, not overlapping; at least one.
    pub edits: Vec<Edit>,
    pub operation: Operation,
}

/// The first element in the body: which call it is. Both are empty if the body is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    /// Empty: none.
    pub namespace: String,
    /// The local name.
    pub name: String,
}

/// Bytes `at` of the envelope give way to `before`, the [`escaped`] credential and `after`.
#[derive(PartialEq, Eq)]
pub struct Edit {
    pub at: Range<usize>,
    pub before: Bytes,
    pub after: Bytes,
}

/// The place only: `before` may hold attributes that the caller wrote.
impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edit").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Why an envelope gets no session. The text tells the developer what to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "the envelope's encoding is none that keeps ASCII as it is: send it as UTF-8, and say so in its XML declaration or leave that out"
    )]
    Encoding,
    #[error("the envelope has a DOCTYPE, which SOAP forbids: leave it out, and write out what its entities stand for")]
    Doctype,
    #[error("the envelope is not well-formed XML: check its tags, attributes, quotes and namespace prefixes")]
    NotWellFormed,
    #[error("the body is no SOAP envelope: send an Envelope of SOAP 1.1 or 1.2 with at most one Header, then the Body")]
    NotSoap,
    #[error("the envelope has no Body: put the operation into one, after the Header")]
    NoBody,
    #[error("the envelope ends before its operation: send it whole, and check Content-Length")]
    CutShort,
    #[error(
        "the envelope's head has too many levels or namespaces, or too long ones: at most 128 declarations may be in scope, of 2 KiB each"
    )]
    TooComplex,
    #[error("the first {} KiB of the envelope do not reach its operation: send a shorter Header", HEAD_BYTES / 1024)]
    TooLong,
}

/// Looks for the place. `head` is the beginning of the body, `complete` says that it is all of it. Each call reads from the start:
/// after [`Reading::More`] wait for a good deal more (twice as much), or cost grows with the square of the number of pieces.
pub fn read(head: &[u8], complete: bool, credential: Credential<'_>) -> Result<Reading, Unfit> {
    match find(head, complete, credential) {
        Ok(envelope) => Ok(Reading::Found(envelope)),
        Err(Stop::More) => Ok(Reading::More),
        Err(Stop::Unfit(unfit)) => Err(unfit),
    }
}

/// The namespace of the WSDL that a SOAP path names, as in `/services/Soap/u/60.0`. A leading `//` is as good, and so is `v60.0`.
pub fn namespace_of(path: &str) -> Option<String> {
    let inner = path.strip_prefix('/')?.trim_start_matches('/');
    let wsdl = inner
        .strip_prefix("services/Soap/")
        .or_else(|| inner.strip_prefix("services/soap/"))?;
    let (kind, rest) = wsdl.split_once('/').unwrap_or((wsdl, ""));
    let namespace = match kind {
        "u" => "urn:partner.soap.sforce.com",
        "c" => "urn:enterprise.soap.sforce.com",
        "m" => "http://soap.sforce.com/2006/04/metadata",
        "T" => "urn:tooling.soap.sforce.com",
        "s" => "http://soap.sforce.com/2006/08/apex",
        "class" => return class_namespace(rest.trim_end_matches('/')),
        _ => return None,
    };
    Some(namespace.to_owned())
}

/// `Name`, or `package/Name`. Not confirmed for packages: that their namespace has the slash, too; the operation's own comes first.
fn class_namespace(class: &str) -> Option<String> {
    let is_name =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let fits = class.split('/').count() <= 2 && class.split('/').all(is_name);
    fits.then(|| format!("http://soap.sforce.com/schemas/class/{class}"))
}

/// The credential as XML text.
pub fn escaped(credential: &str) -> Cow<'_, str> {
    quick_xml::escape::escape(credential)
}

fn find(head: &[u8], complete: bool, credential: Credential<'_>) -> Result<Envelope, Stop> {
    let window = &head[..head.len().min(HEAD_BYTES)];
    let stop = if window.len() == HEAD_BYTES && !(complete && head.len() == HEAD_BYTES) {
        Stop::Unfit(Unfit::TooLong)
    } else if complete {
        Stop::Unfit(Unfit::CutShort)
    } else {
        Stop::More
    };
    let text = tags::text(window)?;
    Search {
        tags: Tags::new(&text, stop)?,
        credential,
        edits: vec![],
        namespaces: HashSet::new(),
    }
    .envelope()
}

struct Search<'t, 'c> {
    tags: Tags<'t>,
    credential: Credential<'c>,
    edits: Vec<Edit>,
    /// Those of the holders in the header.
    namespaces: HashSet<String>,
}

/// The envelope's `Header`.
enum Header<'t> {
    Absent,
    Empty(Open<'t>),
    /// Where its end tag begins.
    Until(usize),
}

impl<'t> Search<'t, '_> {
    fn envelope(mut self) -> Result<Envelope, Stop> {
        let Tag::Open(root) = self.tags.next()? else {
            return Err(Unfit::NotWellFormed.into());
        };
        let Some(soap) = SOAP.into_iter().find(|soap| self.tags.is(&root, soap, "Envelope")) else {
            return Err(Unfit::NotSoap.into());
        };
        let mut header = Header::Absent;
        let body = loop {
            if root.empty {
                return Err(Unfit::NoBody.into());
            }
            let Tag::Open(child) = self.tags.next()? else {
                return Err(Unfit::NoBody.into());
            };
            if self.tags.is(&child, soap, "Body") {
                break child;
            }
            // A second one would be a place where the org looks and we did not, or the other way round.
            if !matches!(header, Header::Absent) || !self.tags.is(&child, soap, "Header") {
                return Err(Unfit::NotSoap.into());
            }
            header = self.header(child)?;
        };
        let operation = self.operation(&body)?;
        self.insert_if_missing(&header, &root, &body, &operation);
        Ok(Envelope {
            edits: self.edits,
            operation,
        })
    }

    /// Fills every holder of a credential in the header.
    fn header(&mut self, header: Open<'t>) -> Result<Header<'t>, Stop> {
        if header.empty {
            return Ok(Header::Empty(header));
        }
        let holder = match self.credential {
            Credential::Session { .. } => "SessionHeader",
            Credential::Fuel => "fueloauth",
        };
        loop {
            let child = match self.tags.next()? {
                Tag::Close(at) => return Ok(Header::Until(at.start)),
                Tag::Open(child) => child,
            };
            if child.local() != holder {
                self.skip(&child)?;
                continue;
            }
            let namespace = self.tags.namespace(&child)?.into_owned();
            match self.credential {
                Credential::Session { .. } => self.session_header(&child, &namespace)?,
                Credential::Fuel => self.fill(&child)?,
            }
            self.namespaces.insert(namespace);
        }
    }

    /// Fills every `sessionId` in it; without one, it gets one.
    fn session_header(&mut self, holder: &Open<'t>, namespace: &str) -> Result<(), Stop> {
        let name = holder.sibling("sessionId");
        let (start, end) = (format!("<{name}>"), format!("</{name}>"));
        if holder.is_nil() {
            // A nil element may not have content.
            let to = self.skip(holder)?.end;
            let (before, after) = (holder.without_nil() + &start, end + &holder.end_tag());
            self.edit(holder.at.start..to, before, after);
            return Ok(());
        }
        if holder.empty {
            self.edit(holder.slash(), format!(">{start}"), end + &holder.end_tag());
            return Ok(());
        }
        let mut filled = false;
        loop {
            let child = match self.tags.next()? {
                Tag::Close(_) if filled => return Ok(()),
                Tag::Close(at) => {
                    self.edit(at.start..at.start, start, end);
                    return Ok(());
                }
                Tag::Open(child) => child,
            };
            if child.local() != "sessionId" {
                self.skip(&child)?;
                continue;
            }
            filled = true;
            if self.tags.namespace(&child)? == namespace {
                self.fill(&child)?;
            } else {
                // Of another namespace it is none to the org, and a credential all the same.
                let to = self.skip(&child)?.end;
                self.edit(child.at.start..to, start.clone(), end.clone());
            }
        }
    }

    /// Replaces what is in this element.
    fn fill(&mut self, element: &Open<'t>) -> Result<(), Stop> {
        let close = self.skip(element)?;
        if element.is_nil() {
            self.edit(element.at.start..close.end, element.without_nil(), element.end_tag());
        } else if element.empty {
            self.edit(element.slash(), ">".to_owned(), element.end_tag());
        } else {
            self.edit(element.at.end..close.start, String::new(), String::new());
        }
        Ok(())
    }

    /// Past the element's end tag; its place, which for an empty element is an empty range at its end.
    fn skip(&mut self, element: &Open<'t>) -> Result<Range<usize>, Stop> {
        if element.empty {
            return Ok(element.at.end..element.at.end);
        }
        let mut depth = 0_usize;
        loop {
            match self.tags.next()? {
                Tag::Open(inner) if inner.empty => {}
                Tag::Open(_) => depth += 1,
                Tag::Close(at) if depth == 0 => return Ok(at),
                Tag::Close(_) => depth -= 1,
            }
        }
    }

    fn operation(&mut self, body: &Open<'t>) -> Result<Operation, Stop> {
        if body.empty {
            return Ok(Operation::default());
        }
        let Tag::Open(operation) = self.tags.next()? else {
            return Ok(Operation::default());
        };
        Ok(Operation {
            namespace: self.tags.namespace(&operation)?.into_owned(),
            name: operation.local().to_owned(),
        })
    }

    /// The org looks for the holder in the namespace of its WSDL. One of another namespace was filled, since it may hold a credential,
    /// but is none to the org: so the right one joins it.
    fn insert_if_missing(&mut self, header: &Header<'_>, root: &Open<'_>, body: &Open<'_>, operation: &Operation) {
        let namespace = match self.credential {
            Credential::Fuel => FUEL,
            Credential::Session { fallback } if operation.namespace.is_empty() => fallback,
            Credential::Session { .. } => &operation.namespace,
        };
        if self.namespaces.contains(namespace) {
            return;
        }
        let xmlns = escaped(namespace);
        let (start, end) = match self.credential {
            Credential::Session { .. } => (
                format!("<SessionHeader xmlns=\"{xmlns}\"><sessionId>"),
                "</sessionId></SessionHeader>",
            ),
            Credential::Fuel => (format!("<fueloauth xmlns=\"{xmlns}\">"), "</fueloauth>"),
        };
        match header {
            Header::Until(at) => self.edit(*at..*at, start, end.to_owned()),
            Header::Empty(header) => self.edit(
                header.slash(),
                format!(">{start}"),
                format!("{end}{}", header.end_tag()),
            ),
            Header::Absent => {
                let name = root.sibling("Header");
                let at = body.at.start;
                self.edit(at..at, format!("<{name}>{start}"), format!("{end}</{name}>"));
            }
        }
    }

    fn edit(&mut self, at: Range<usize>, before: String, after: String) {
        self.edits.push(Edit {
            at,
            before: before.into(),
            after: after.into(),
        });
    }
}
