//! Generated envelopes, and what has to hold of each; checked by a reader of its own.

use proptest::{prelude::*, sample::select};
use quick_xml::{NsReader, events::Event, name::ResolveResult};

use super::*;

/// In every credential that the caller sends.
const OLD: &str = "OLDSECRET";

/// The namespaces of what stands in the header; the first is the operation's.
const NAMESPACES: [&str; 3] = [PARTNER, "urn:other", ""];

/// What may stand between any two tags.
fn between() -> impl Strategy<Value = String> {
    let one = select(vec!["", " ", "\r\n\t", "<!-- <e:Body> & -->", "<?pi <x> ?>", "\n  "]);
    prop::collection::vec(one, 0..3).prop_map(|parts| parts.concat())
}

fn quote() -> impl Strategy<Value = char> {
    select(vec!['"', '\''])
}

/// What may stand in a `sessionId`.
fn value() -> impl Strategy<Value = String> {
    let one = select(vec![
        "OLDSECRET",
        "",
        " ",
        "<![CDATA[OLDSECRET</sessionId>]]>",
        "<!-- OLDSECRET -->",
        "&amp;&#65;OLDSECRET",
        "<x>OLDSECRET<sessionId/></x>",
        "<?pi OLDSECRET?>",
        "Zürich OLDSECRET",
    ]);
    prop::collection::vec(one, 0..4).prop_map(|parts| parts.concat())
}

/// A `sessionId`; `{p}` is the holder's prefix with its colon.
fn session_id() -> impl Strategy<Value = String> {
    let attributes = select(vec!["", " a='1'", " xsi:type=\"xsd:string\" ", " xsi:nil='false'"]);
    let nil = select(vec!["xsi:nil='true'", "xsi:nil=\"1\" b='\"'", "a='>' xsi:nil='true'"]);
    prop_oneof![
        4 => (value(), attributes.clone()).prop_map(|(value, attributes)| format!("<{{p}}sessionId{attributes}>{value}</{{p}}sessionId>")),
        1 => attributes.prop_map(|attributes| format!("<{{p}}sessionId{attributes}/>")),
        1 => nil.clone().prop_map(|nil| format!("<{{p}}sessionId {nil}/>")),
        1 => (nil, value()).prop_map(|(nil, value)| format!("<{{p}}sessionId {nil}>{value}</{{p}}sessionId>")),
        1 => (value(), select(vec!["urn:third", ""])).prop_map(|(value, other)| format!("<sessionId xmlns='{other}'>{value}</sessionId>")),
    ]
}

/// What is in a `SessionHeader`. `None`: it is an empty element.
fn content() -> impl Strategy<Value = Option<String>> {
    let some = prop::collection::vec(
        (
            between(),
            prop_oneof![3 => session_id(), 1 => Just("<{p}x><{p}y/></{p}x>".to_owned())],
        ),
        0..3,
    );
    prop_oneof![
        1 => Just(None),
        4 => (some, between()).prop_map(|(parts, last)| {
            let parts: String = parts.into_iter().map(|(before, part)| before + &part).collect();
            Some(parts + &last)
        }),
    ]
}

/// A `SessionHeader` of one of the namespaces, its prefix declared on it or on the envelope (`p0`, `p1`).
fn holder() -> impl Strategy<Value = String> {
    let attributes = select(vec!["", " e:mustUnderstand='1'", " e:actor=\"x\" ", " xsi:nil='true'"]);
    (content(), select(vec![0_usize, 0, 1, 2]), 0..3, attributes, quote()).prop_map(
        |(content, namespace, declared, attributes, quote)| {
            let uri = NAMESPACES[namespace];
            let (prefix, xmlns) = match declared {
                0 if namespace < 2 => (format!("p{namespace}:"), String::new()),
                1 if namespace < 2 => ("own:".to_owned(), format!(" xmlns:own={quote}{uri}{quote}")),
                _ => (String::new(), format!(" xmlns={quote}{uri}{quote}")),
            };
            let name = format!("{prefix}SessionHeader");
            match content {
                None => format!("<{name}{xmlns}{attributes}/>"),
                Some(content) => format!(
                    "<{name}{xmlns}{attributes}>{}</{name}>",
                    content.replace("{p}", &prefix)
                ),
            }
        },
    )
}

fn other_header() -> impl Strategy<Value = String> {
    select(vec![
        "<p0:CallOptions><p0:client>x</p0:client></p0:CallOptions>",
        "<QueryOptions xmlns='urn:partner.soap.sforce.com'><batchSize>2000</batchSize></QueryOptions>",
        "<p0:AllOrNoneHeader ><p0:allOrNone>true</p0:allOrNone></p0:AllOrNoneHeader >",
        "<p1:x><p0:SessionHeader><p0:sessionId>not a session</p0:sessionId></p0:SessionHeader></p1:x>",
        "<p0:EmailHeader/>",
    ])
    .prop_map(str::to_owned)
}

/// The header; empty if there is none. `{e}` is the envelope's prefix with its colon.
fn header() -> impl Strategy<Value = String> {
    let block = prop_oneof![holder(), other_header()];
    let attributes = select(vec!["", " ", " id='h'", " xmlns='urn:partner.soap.sforce.com'"]);
    prop_oneof![
        1 => Just(String::new()),
        1 => attributes.clone().prop_map(|attributes| format!("<{{e}}Header{attributes}/>")),
        6 => (attributes, prop::collection::vec((between(), block), 0..4), between()).prop_map(|(attributes, blocks, last)| {
            let blocks: String = blocks.into_iter().map(|(before, block)| before + &block).collect();
            // A default namespace of the header's own must not change what the blocks are.
            format!("<{{e}}Header{attributes}>{blocks}{last}</{{e}}Header>")
        }),
    ]
}

/// The body. The operation has the first namespace, or none.
fn body() -> impl Strategy<Value = String> {
    select(vec![
        "<{e}Body>{m}<p0:query><p0:queryString>OLD is fine here</p0:queryString></p0:query></{e}Body>",
        "<{e}Body>{m}<query xmlns='urn:partner.soap.sforce.com'/></{e}Body>",
        "<{e}Body xmlns=\"urn:partner.soap.sforce.com\">{m}<SessionHeader><sessionId>data</sessionId></SessionHeader></{e}Body>",
        "<{e}Body a='b'>{m}<m:query xmlns:m='urn:partner.soap.sforce.com' a=\">\"></m:query></{e}Body>",
        "<{e}Body>{m}<query xmlns=''/></{e}Body>",
        "<{e}Body>{m}</{e}Body>",
        "<{e}Body/>",
    ])
    .prop_map(str::to_owned)
}

prop_compose! {
    fn envelope()(
        prefix in select(vec!["e:", "e:", "soap-env:", "SOAP-ENV:", ""]),
        soap in select(SOAP.to_vec()),
        first in select(vec!["", "\u{feff}", "<?xml version='1.0'?>", "\u{feff}<?xml version=\"1.0\" encoding='UTF-8'?>\n"]),
        header in header(),
        body in body(),
        spaces in prop::collection::vec(between(), 5),
        quote in quote(),
    ) -> String {
        // Without a prefix another default namespace would be the body's and the header's own.
        let (header, body) = match prefix {
            "" => (header.replace("{e}Header xmlns=", "{e}Header id="), body.replace("{e}Body xmlns=", "{e}Body id=")),
            _ => (header, body),
        };
        // What was the operation of that body's default namespace, then.
        let body = match prefix {
            "" => body.replace("<SessionHeader><sessionId>", "<p0:SessionHeader><sessionId>").replace("</SessionHeader>", "</p0:SessionHeader>"),
            _ => body,
        };
        let xmlns = match prefix.strip_suffix(':') {
            Some(prefix) => format!("xmlns:{prefix}={quote}{soap}{quote}"),
            None => format!("xmlns={quote}{soap}{quote}"),
        };
        let declared = if prefix == "e:" { "" } else { " xmlns:e='urn:e'" };
        let start = format!("<{prefix}Envelope {xmlns}{declared} xmlns:p0={quote}{}{quote} xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance' xmlns:p1=\"{}\">", NAMESPACES[0], NAMESPACES[1]);
        let inner = format!("{}{}{}{}{}", spaces[1], header, spaces[2], body.replace("{m}", &spaces[3]), spaces[4]);
        format!("{first}{}{start}{}</{prefix}Envelope>\n", spaces[0], inner.replace("{e}", prefix))
    }
}

/// A `SessionHeader` in the header.
#[derive(Debug)]
struct Holder {
    namespace: String,
    nil: bool,
    /// The namespace and the content of each `sessionId`.
    sessions: Vec<(String, String)>,
}

/// By way of the whole document: the holders, and all that is neither theirs nor the header's own tags. `nil`: how often it says so.
struct Look {
    holders: Vec<Holder>,
    rest: String,
    nil: usize,
}

fn look(document: &str) -> Look {
    let document = document.trim_start_matches('\u{feff}');
    let mut xml = NsReader::from_str(document);
    let mut path: Vec<(String, String)> = vec![];
    let mut look = Look {
        holders: vec![],
        rest: String::new(),
        nil: 0,
    };
    loop {
        let from = usize::try_from(xml.buffer_position()).unwrap();
        let event = xml.read_event().unwrap();
        let piece = &document[from..usize::try_from(xml.buffer_position()).unwrap()];
        let mut nil = false;
        match &event {
            Event::Start(start) | Event::Empty(start) => {
                let (namespace, local) = xml.resolver().resolve_element(start.name());
                let namespace = match namespace {
                    ResolveResult::Bound(uri) => uri.into_inner(),
                    ResolveResult::Unbound => "",
                    ResolveResult::Unknown(_) => panic!("an unknown prefix in {document}"),
                };
                path.push((namespace.to_owned(), local.into_inner().to_owned()));
                let mut attributes = start.attributes().map(Result::unwrap);
                nil = attributes.any(|attribute| attribute.key.0 == "xsi:nil" && &*attribute.value != "false");
            }
            Event::Eof => return look,
            _ => {}
        }
        let locals: Vec<&str> = path.iter().map(|(_, local)| local.as_str()).collect();
        let is_start = matches!(event, Event::Start(_) | Event::Empty(_));
        match locals.as_slice() {
            ["Envelope", "Header"] if is_start || matches!(event, Event::End(_)) => {}
            ["Envelope", "Header", "SessionHeader"] if is_start => {
                look.nil += usize::from(nil);
                let namespace = path[2].0.clone();
                look.holders.push(Holder {
                    namespace,
                    nil,
                    sessions: vec![],
                });
            }
            ["Envelope", "Header", "SessionHeader", "sessionId"] if is_start => {
                look.nil += usize::from(nil);
                let sessions = &mut look.holders.last_mut().unwrap().sessions;
                sessions.push((path[3].0.clone(), String::new()));
            }
            ["Envelope", "Header", "SessionHeader", "sessionId"] if matches!(event, Event::End(_)) => {}
            ["Envelope", "Header", "SessionHeader", "sessionId", ..] => {
                look.holders
                    .last_mut()
                    .unwrap()
                    .sessions
                    .last_mut()
                    .unwrap()
                    .1
                    .push_str(piece);
            }
            ["Envelope", "Header", "SessionHeader"] if matches!(event, Event::End(_)) => {}
            // What a nil element holds is no content.
            ["Envelope", "Header", "SessionHeader", ..] if look.holders.last().unwrap().nil => {}
            _ => look.rest.push_str(piece),
        }
        if matches!(event, Event::End(_) | Event::Empty(_)) {
            path.pop();
        }
    }
}

fn check(envelope: &str) -> Result<(), TestCaseError> {
    let found = super::found(envelope.as_bytes(), SESSION);
    let result = String::from_utf8(apply(envelope.as_bytes(), &found.edits, TOKEN)).unwrap();
    let (before, after) = (look(envelope), look(&result));

    // Each session is the credential, and as many are where the org looks as the caller had there, at least one.
    let is_right = |holder: &&Holder| holder.namespace == PARTNER;
    let expected: usize = before
        .holders
        .iter()
        .filter(is_right)
        .map(|holder| if holder.nil { 1 } else { holder.sessions.len().max(1) })
        .sum();
    let right: usize = after
        .holders
        .iter()
        .filter(is_right)
        .map(|holder| holder.sessions.len())
        .sum();
    prop_assert_eq!(right, expected.max(1), "{}", result);
    for holder in &after.holders {
        prop_assert!(!holder.sessions.is_empty(), "{}", result);
        for (namespace, value) in &holder.sessions {
            prop_assert_eq!(value, ESCAPED, "{}", result);
            prop_assert_eq!(namespace, &holder.namespace, "{}", result);
        }
    }
    prop_assert_eq!(after.nil, 0, "{}", result);
    prop_assert!(!result.contains(OLD), "the caller's is left in {}", result);
    prop_assert_eq!(before.rest, after.rest);

    let again = super::found(result.as_bytes(), SESSION);
    prop_assert_eq!(&again.operation, &found.operation);
    prop_assert_eq!(
        String::from_utf8(apply(result.as_bytes(), &again.edits, TOKEN)).unwrap(),
        result
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_envelope_gets_its_session_and_stays_what_it_is(envelope in envelope()) {
        check(&envelope)?;
    }

    #[test]
    fn any_beginning_of_an_envelope_is_fine(envelope in envelope(), at: prop::sample::Index) {
        let end = at.index(envelope.len());
        let all = super::found(envelope.as_bytes(), SESSION);
        match read(&envelope.as_bytes()[..end], false, SESSION) {
            Ok(Reading::More) => {}
            Ok(Reading::Found(found)) => prop_assert_eq!(found, all),
            Err(unfit) => prop_assert!(false, "{:?} at {} of {}", unfit, end, envelope),
        }
    }

    #[test]
    fn damaged_envelopes_do_no_harm(envelope in envelope(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), complete: bool) {
        let mut bytes = envelope.into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        harmless(&bytes, complete)?;
    }

    #[test]
    fn any_bytes_do_no_harm(bytes: Vec<u8>, complete: bool) {
        harmless(&bytes, complete)?;
    }
}

fn harmless(bytes: &[u8], complete: bool) -> Result<(), TestCaseError> {
    for credential in [SESSION, Credential::Fuel] {
        match read(bytes, complete, credential) {
            Ok(Reading::Found(found)) => {
                prop_assert!(!found.edits.is_empty());
                // Asserts that they are in bounds and ascending.
                let result = apply(bytes, &found.edits, TOKEN);
                let again = super::found(&result, credential);
                prop_assert_eq!(apply(&result, &again.edits, TOKEN), result);
            }
            Ok(Reading::More) => prop_assert!(!complete),
            Err(_) => {}
        }
    }
    Ok(())
}
