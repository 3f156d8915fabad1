//! The tags of an envelope's head, each with its place.
//!
//! Pure. Owns: the position of the reader. Invariants: one pass, no recursion; a tag is handed out whole or not at all, so that more
//! bytes never change what was read. DOCTYPE is refused and so no entity has a meaning; what is between tags is skipped unread.
//! Stricter than quick-xml where another reader could see other tags: names, attributes, comments, text before the root.
//! Units: bytes from the first of the body. Fails with: [`Stop`].
//! Source: XML 1.0 (fifth edition), appendix F for encodings; Namespaces in XML 1.0.

use std::{borrow::Cow, ops::Range, str};

use quick_xml::{
    NsReader,
    errors::{Error, IllFormedError, SyntaxError},
    escape::unescape,
    events::{BytesDecl, BytesStart, Event},
    name::{NamespaceError, QName, ResolveResult},
};

use super::Unfit;

/// Why there is no further tag.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    /// It has not come yet.
    More,
    Unfit(Unfit),
}

impl From<Unfit> for Stop {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

pub(super) enum Tag<'t> {
    Open(Open<'t>),
    /// An end tag's place.
    Close(Range<usize>),
}

/// A start tag, or that of an empty element.
pub(super) struct Open<'t> {
    /// As it is written.
    name: &'t str,
    /// `<a/>`.
    pub(super) empty: bool,
    pub(super) at: Range<usize>,
    start: BytesStart<'t>,
}

pub(super) struct Tags<'t> {
    xml: NsReader<&'t [u8]>,
    text: &'t str,
    /// How long the byte order mark is.
    skipped: usize,
    inside: bool,
    /// What it means that the text ends.
    at_end: Stop,
}

/// Stands for a byte that is no UTF-8. No XML has this character.
const UNREADABLE: char = '\u{1}';

/// As it is written, in bytes. Salesforce's have fewer than a hundred.
const LONGEST_NAMESPACE: usize = 2048;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The head as text, byte for byte. Encodings that are supersets of ASCII have the same tags; what of their letters is no UTF-8 is
/// masked. A character that is cut off at the end is left out.
pub(super) fn text(head: &[u8]) -> Result<Cow<'_, str>, Unfit> {
    // UTF-16 and UTF-32, by their marks or by the zeros of their first `<`.
    if matches!(head, [0xfe | 0xff, ..]) || head.iter().take(4).any(|byte| *byte == 0) {
        return Err(Unfit::Encoding);
    }
    let error = match str::from_utf8(head) {
        Ok(text) => return Ok(text.into()),
        Err(error) => error,
    };
    if error.error_len().is_none() {
        let whole = str::from_utf8(&head[..error.valid_up_to()]);
        return Ok(whole.unwrap_or_default().into());
    }
    let mut masked = String::with_capacity(head.len());
    for chunk in head.utf8_chunks() {
        masked.push_str(chunk.valid());
        masked.extend(chunk.invalid().iter().map(|_| UNREADABLE));
    }
    Ok(masked.into())
}

/// Those beside UTF-8 in which the bytes of ASCII always mean ASCII's marks `<`, `>`, `&` and quotes: names begin so. ISO-2022 and
/// UTF-7 are none, and of those not listed it is not known.
const SUPERSETS_OF_ASCII: [&str; 16] = [
    "utf-8",
    "utf8",
    "us-ascii",
    "ascii",
    "iso-8859-",
    "iso8859-",
    "iso_8859-",
    "latin",
    "windows-",
    "cp125",
    "shift_jis",
    "euc-",
    "gb",
    "big5",
    "koi8-",
    "tis-620",
];

impl<'t> Tags<'t> {
    pub(super) fn new(text: &'t str, at_end: Stop) -> Result<Self, Unfit> {
        let inner = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        // quick-xml would pass over a second one, and its places would be wrong.
        if inner.starts_with(BYTE_ORDER_MARK) {
            return Err(Unfit::NotWellFormed);
        }
        let mut xml = NsReader::from_str(inner);
        xml.config_mut().check_comments = true;
        Ok(Self {
            xml,
            text: inner,
            skipped: text.len() - inner.len(),
            inside: false,
            at_end,
        })
    }

    pub(super) fn next(&mut self) -> Result<Tag<'t>, Stop> {
        loop {
            let from = self.position();
            match self.xml.read_event() {
                Ok(Event::Start(start)) => return self.open(start, false, from),
                Ok(Event::Empty(start)) => return self.open(start, true, from),
                Ok(Event::End(_)) => return Ok(Tag::Close(self.place(from))),
                Ok(Event::Decl(declaration)) if !self.inside => check_encoding(&declaration)?,
                Ok(Event::Comment(_) | Event::PI(_)) => {}
                Ok(Event::Text(text)) if self.inside || is_blank(&text) => {}
                Ok(Event::CData(_) | Event::GeneralRef(_)) if self.inside => {}
                Ok(Event::DocType(_)) => return Err(Unfit::Doctype.into()),
                Ok(Event::Eof) => return Err(self.at_end),
                Ok(_) => return Err(Unfit::NotWellFormed.into()),
                Err(error) => return Err(self.stop(&error)),
            }
        }
    }

    fn open(&mut self, start: BytesStart<'t>, empty: bool, from: usize) -> Result<Tag<'t>, Stop> {
        self.inside = true;
        let text = self.text;
        // Behind the `<`.
        let name = &text[from + 1..][..start.name().as_ref().len()];
        if !is_name(name) || start.attributes().any(|attribute| attribute.is_err()) {
            return Err(Unfit::NotWellFormed.into());
        }
        let at = self.place(from);
        Ok(Tag::Open(Open { name, empty, at, start }))
    }

    /// The namespace of the tag that was read last; empty if it has none.
    pub(super) fn namespace(&self, tag: &Open<'_>) -> Result<Cow<'_, str>, Unfit> {
        match self.xml.resolver().resolve_element(QName(tag.name)).0 {
            ResolveResult::Unbound => Ok(Cow::Borrowed("")),
            ResolveResult::Unknown(_) => Err(Unfit::NotWellFormed),
            ResolveResult::Bound(namespace) => match namespace.into_inner() {
                // It is compared, copied and kept for each holder in its scope.
                long if long.len() > LONGEST_NAMESPACE => Err(Unfit::TooComplex),
                unreadable if unreadable.contains(UNREADABLE) => Err(Unfit::Encoding),
                raw => unescape(raw).map_err(|_| Unfit::NotWellFormed),
            },
        }
    }

    pub(super) fn is(&self, tag: &Open<'_>, namespace: &str, local: &str) -> bool {
        tag.local() == local && self.namespace(tag).is_ok_and(|found| found == namespace)
    }

    fn stop(&self, error: &Error) -> Stop {
        match error {
            Error::Syntax(SyntaxError::UnclosedDoctype) | Error::IllFormed(IllFormedError::MissingDoctypeName) => {
                Unfit::Doctype.into()
            }
            Error::Syntax(_) | Error::IllFormed(IllFormedError::UnclosedReference) if self.has_read_all() => {
                self.at_end
            }
            Error::Namespace(NamespaceError::TooManyBindings(_) | NamespaceError::TooDeeplyNested(_)) => {
                Unfit::TooComplex.into()
            }
            _ => Unfit::NotWellFormed.into(),
        }
    }

    /// Whether what could not be read may only not be all.
    fn has_read_all(&self) -> bool {
        matches!(&self.text[self.position()..], "" | "<" | "<!")
    }

    fn position(&self) -> usize {
        usize::try_from(self.xml.buffer_position()).unwrap_or(usize::MAX)
    }

    fn place(&self, from: usize) -> Range<usize> {
        self.skipped + from..self.skipped + self.position()
    }
}

impl Open<'_> {
    pub(super) fn local(&self) -> &str {
        self.name.split_once(':').map_or(self.name, |(_, local)| local)
    }

    /// `local` with this tag's prefix.
    pub(super) fn sibling(&self, local: &str) -> String {
        match self.name.split_once(':') {
            Some((prefix, _)) => format!("{prefix}:{local}"),
            None => local.to_owned(),
        }
    }

    pub(super) fn end_tag(&self) -> String {
        format!("</{}>", self.name)
    }

    /// The `/>` of an empty element.
    pub(super) fn slash(&self) -> Range<usize> {
        self.at.end - "/>".len()..self.at.end
    }

    /// `xsi:nil="true"`, whatever its prefix: content may not follow it.
    pub(super) fn is_nil(&self) -> bool {
        self.attributes()
            .any(|(key, value)| is_nil(key) && !matches!(value.trim(), "false" | "0"))
    }

    /// As a start tag, without `xsi:nil`.
    pub(super) fn without_nil(&self) -> String {
        let mut tag = format!("<{}", self.name);
        for (key, value) in self.attributes().filter(|(key, _)| !is_nil(key)) {
            let quote = if value.contains('"') { '\'' } else { '"' };
            tag.extend([" ", key, "="]);
            tag.push(quote);
            tag.push_str(&value);
            tag.push(quote);
        }
        tag.push('>');
        tag
    }

    /// As they are written. The tag was checked: none is left out.
    fn attributes(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let mut attributes = self.start.attributes();
        attributes.with_checks(false);
        attributes
            .flatten()
            .map(|attribute| (attribute.key.into_inner(), attribute.value))
    }
}

fn is_nil(key: &str) -> bool {
    key.split_once(':').is_some_and(|(_, local)| local == "nil")
}

fn check_encoding(declaration: &BytesDecl<'_>) -> Result<(), Unfit> {
    let Some(encoding) = declaration.encoding() else {
        return Ok(());
    };
    match keeps_ascii(&encoding.map_err(|_| Unfit::NotWellFormed)?) {
        true => Ok(()),
        false => Err(Unfit::Encoding),
    }
}

/// Whether a text in this encoding has its tags where its bytes look like tags.
pub fn keeps_ascii(encoding: &str) -> bool {
    let encoding = encoding.to_ascii_lowercase();
    SUPERSETS_OF_ASCII.iter().any(|name| encoding.starts_with(name))
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// `local` or `prefix:local`. Beyond ASCII any letter will do: no two names are taken for one.
fn is_name(name: &str) -> bool {
    let (prefix, local) = name
        .split_once(':')
        .map_or((None, name), |(prefix, local)| (Some(prefix), local));
    let is_part = |part: &str| {
        let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii();
        let later = |byte: u8| first(byte) || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        part.bytes().next().is_some_and(first) && part.bytes().all(later)
    };
    is_part(local) && prefix.is_none_or(is_part)
}
