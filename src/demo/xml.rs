//! XML as SOAP and Bulk API 1.0 read and write it: a tree with namespaces in, text out.
//!
//! Owns: nothing; pure. Invariants: a document type is refused, so nothing is expanded but characters and the five entities of XML; what is
//! written is escaped.
//! Units: elements at most 64 deep. Fails with: [`Malformed`].
//! Source: XML 1.0, Namespaces in XML 1.0. (`grant/saml/xml.rs` has a form of its own, since a signature is over its bytes.)

use quick_xml::{
    NsReader, XmlVersion,
    escape::{escape, resolve_predefined_entity},
    events::{BytesRef, BytesStart, Event},
    name::ResolveResult,
};

const DEEPEST: usize = 64;
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// One element. Attributes are forgotten but `xsi:type` and `xsi:nil`, which SOAP gives a meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) namespace: String,
    /// Without its prefix.
    pub(crate) name: String,
    /// `xsi:type`, without its prefix.
    pub(crate) kind: Option<String>,
    pub(crate) nil: bool,
    /// All text that stands directly in it.
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("Premature end of file.")]
    Empty,
    #[error("DOCTYPE is not allowed.")]
    DocType,
    #[error("XML document structures must start and end within the same entity.")]
    Open,
    #[error("The markup in the document must be well-formed.")]
    Markup,
    #[error("The document is nested too deeply.")]
    Deep,
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Element, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Markup)?;
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(Malformed::Empty);
    }
    let mut reader = NsReader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    loop {
        let event = reader.read_event().map_err(|_| Malformed::Markup)?;
        let empty = matches!(event, Event::Empty(_));
        let closed = match event {
            Event::Start(start) | Event::Empty(start) => {
                if root.is_some() {
                    return Err(Malformed::Markup);
                }
                if open.len() == DEEPEST {
                    return Err(Malformed::Deep);
                }
                open.push(element(&reader, &start)?);
                empty
            }
            Event::End(_) => true,
            Event::Text(text) => {
                text_into(&mut open, &text.xml10_content())?;
                false
            }
            Event::CData(text) => {
                text_into(&mut open, &text.xml10_content())?;
                false
            }
            Event::GeneralRef(reference) => {
                text_into(&mut open, &resolved(&reference)?)?;
                false
            }
            Event::DocType(_) => return Err(Malformed::DocType),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => false,
            Event::Eof => break,
        };
        if closed {
            let element = open.pop().ok_or(Malformed::Markup)?;
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => root = Some(element),
            }
        }
    }
    if open.is_empty() {
        root.ok_or(Malformed::Markup)
    } else {
        Err(Malformed::Open)
    }
}

fn element(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Element, Malformed> {
    let (namespace, name) = reader.resolver().resolve_element(start.name());
    let mut element = Element {
        namespace: bound(&namespace)?.to_owned(),
        name: name.into_inner().to_owned(),
        ..Element::default()
    };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|_| Malformed::Markup)?;
        let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
        if bound(&namespace)? != INSTANCE {
            continue;
        }
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|_| Malformed::Markup)?;
        match name.into_inner() {
            "type" => element.kind = Some(value.rsplit(':').next().unwrap_or("").to_owned()),
            "nil" => element.nil = matches!(&*value, "true" | "1"),
            _ => {}
        }
    }
    Ok(element)
}

fn bound<'a>(namespace: &'a ResolveResult<'_>) -> Result<&'a str, Malformed> {
    match namespace {
        ResolveResult::Bound(namespace) => Ok(namespace.0),
        ResolveResult::Unbound => Ok(""),
        ResolveResult::Unknown(_) => Err(Malformed::Markup),
    }
}

fn text_into(open: &mut [Element], text: &str) -> Result<(), Malformed> {
    match open.last_mut() {
        Some(element) => element.text.push_str(text),
        None if text.trim().is_empty() => {}
        None => return Err(Malformed::Markup),
    }
    Ok(())
}

/// `&lt;`, `&#60;`; no others exist without a document type.
fn resolved(reference: &BytesRef<'_>) -> Result<String, Malformed> {
    match reference.resolve_char_ref() {
        Ok(Some(character)) => Ok(character.to_string()),
        Ok(None) => resolve_predefined_entity(reference)
            .map(str::to_owned)
            .ok_or(Malformed::Markup),
        Err(_) => Err(Malformed::Markup),
    }
}

impl Element {
    /// The first child of this name, whatever its namespace.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of this name, without space around it; empty if there is none.
    pub(crate) fn word(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.trim())
    }

    pub(crate) fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all(name).map(|child| child.text.trim())
    }
}

/// A text of XML in the making.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) String);

impl Writer {
    /// `<name>text</name>`.
    pub(crate) fn word(&mut self, name: &str, text: &str) {
        self.group(name, |inside| inside.0.push_str(&escape(text)));
    }

    pub(crate) fn show(&mut self, name: &str, value: impl std::fmt::Display) {
        self.word(name, &value.to_string());
    }

    pub(crate) fn nil(&mut self, name: &str) {
        self.0.push_str(&format!("<{name} xsi:nil=\"true\"/>"));
    }

    pub(crate) fn word_or_nil(&mut self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => self.word(name, text),
            None => self.nil(name),
        }
    }

    /// `open` may have attributes behind the name.
    pub(crate) fn group(&mut self, open: &str, inside: impl FnOnce(&mut Self)) {
        let name = open.split(' ').next().unwrap_or(open);
        self.0.push_str(&format!("<{open}>"));
        inside(self);
        self.0.push_str(&format!("</{name}>"));
    }

    /// An element that came in, in the namespace that is the default here.
    pub(crate) fn copy(&mut self, element: &Element) {
        if element.nil {
            return self.nil(&element.name);
        }
        self.group(&element.name, |inside| {
            if element.children.is_empty() {
                inside.0.push_str(&escape(&element.text));
            }
            element.children.iter().for_each(|child| inside.copy(child));
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_told_by_their_namespace_and_text_is_unescaped() {
        let root = parse(
            b"<?xml version=\"1.0\"?>\n<a xmlns=\"urn:one\" xmlns:t=\"urn:two\" xmlns:x=\"http://www.w3.org/2001/XMLSchema-instance\">\
            <t:b x:type=\"t:Account\"> &lt;&#65;<![CDATA[<&]]> </t:b><c x:nil=\"true\"/></a>\n",
        )
        .unwrap();
        assert_eq!((root.namespace.as_str(), root.name.as_str()), ("urn:one", "a"));
        let b = root.child("b").unwrap();
        assert_eq!(
            (b.namespace.as_str(), b.kind.as_deref(), root.word("b")),
            ("urn:two", Some("Account"), "<A<&")
        );
        assert!(root.child("c").unwrap().nil);
        assert_eq!(root.word("none"), "");
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let deep = "<a>".repeat(65);
        for (text, reason) in [
            ("", Malformed::Empty),
            ("  \n", Malformed::Empty),
            ("<a>", Malformed::Open),
            ("<a></b>", Malformed::Markup),
            ("<a/><b/>", Malformed::Markup),
            ("<a/>x", Malformed::Markup),
            ("x<a/>", Malformed::Markup),
            ("</a>", Malformed::Markup),
            ("<p:a/>", Malformed::Markup),
            ("<a>&nbsp;</a>", Malformed::Markup),
            ("<a b=\"1\" b=\"2\"/>", Malformed::Markup),
            ("<!DOCTYPE a [<!ENTITY e \"x\">]><a>&e;</a>", Malformed::DocType),
            ("<!DOCTYPE a><a/>", Malformed::DocType),
            (&deep, Malformed::Deep),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(reason), "{text}");
        }
        assert_eq!(parse(b"<a>\xff</a>"), Err(Malformed::Markup));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "[a-z<>&\"']{0,20}") {
            let mut out = Writer::default();
            out.group("a xmlns=\"urn:x\"", |out| out.word("b", &text));
            let read = parse(out.0.as_bytes()).unwrap();
            prop_assert_eq!(&read.child("b").unwrap().text, &text);
            let mut copy = Writer::default();
            copy.copy(read.child("b").unwrap());
            let again = parse(copy.0.as_bytes()).unwrap();
            prop_assert_eq!(again.text, text);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _: Result<Element, Malformed> = parse(&bytes);
        }
    }
}
