//! A small part of XML: elements, attributes in double quotes, text. No declaration, comment, CDATA, processing or empty-element tag, since
//! canonical assertions have none of them.
//!
//! Owns: nothing; pure. Invariants: what cannot be read is refused, never guessed at. Units: places are bytes of the text.
//! Fails with: `None`. Source: XML 1.0, the parts named.

pub(super) struct Element<'a> {
    name: &'a str,
    attributes: Vec<(&'a str, String)>,
    /// Of `<` in the start tag, and after `>` in the end tag.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) children: Vec<Element<'a>>,
    text: String,
}

const DEEPEST: usize = 32;

/// The one element that the text is.
pub(super) fn parse(text: &str) -> Option<Element<'_>> {
    let mut reader = Reader { text, at: 0 };
    let root = reader.element(0)?;
    reader.rest().trim().is_empty().then_some(root)
}

impl Element<'_> {
    pub(super) fn local(&self) -> &str {
        self.name.rsplit(':').next().unwrap_or("")
    }

    pub(super) fn prefix(&self) -> Option<&str> {
        Some(self.name.split_once(':')?.0)
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(n, _)| *n == name)?;
        Some(&found.1)
    }

    /// What it declares its own prefix to be.
    pub(super) fn namespace(&self) -> Option<&str> {
        match self.prefix() {
            None => self.attribute("xmlns"),
            Some(prefix) => self.attribute(&format!("xmlns:{prefix}")),
        }
    }

    /// The only child of this local name; two are none.
    pub(super) fn child(&self, local: &str) -> Option<&Self> {
        let mut found = self.children.iter().filter(|child| child.local() == local);
        found.next().filter(|_| found.next().is_none())
    }

    pub(super) fn text_at(&self, path: &[&str]) -> Option<String> {
        match path {
            [] => Some(self.text.trim().to_owned()),
            [first, rest @ ..] => self.child(first)?.text_at(rest),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, expected: &str) -> Option<()> {
        self.rest().starts_with(expected).then(|| self.at += expected.len())
    }

    fn until(&mut self, end: &[char]) -> Option<&'a str> {
        let taken = &self.rest()[..self.rest().find(end)?];
        self.at += taken.len();
        Some(taken)
    }

    fn element(&mut self, depth: usize) -> Option<Element<'a>> {
        let start = self.at;
        self.take("<")?;
        let name = self.until(&[' ', '>'])?;
        let is_name = |c: char| c.is_alphanumeric() || ":-_.".contains(c);
        if depth > DEEPEST || name.is_empty() || !name.chars().all(is_name) {
            return None;
        }
        let mut attributes = Vec::new();
        while self.take(">").is_none() {
            self.take(" ")?;
            let attribute = self.until(&['=', '>'])?;
            self.take("=\"")?;
            let value = plain(self.until(&['"', '<'])?)?;
            self.take("\"")?;
            if attributes.iter().any(|(known, _)| *known == attribute) {
                return None;
            }
            attributes.push((attribute, value));
        }
        let (mut children, mut text) = (Vec::new(), String::new());
        while !self.rest().starts_with("</") {
            text += &plain(self.until(&['<'])?)?;
            if !self.rest().starts_with("</") {
                children.push(self.element(depth + 1)?);
            }
        }
        self.take("</")?;
        self.take(name)?;
        self.take(">")?;
        Some(Element {
            name,
            attributes,
            start,
            end: self.at,
            children,
            text,
        })
    }
}

/// With the five entities and `&#xD;` replaced; others are not known.
fn plain(text: &str) -> Option<String> {
    const KNOWN: [(&str, char); 8] = [
        ("lt;", '<'),
        ("gt;", '>'),
        ("amp;", '&'),
        ("quot;", '"'),
        ("apos;", '\''),
        ("#xD;", '\r'),
        ("#xA;", '\n'),
        ("#x9;", '\t'),
    ];
    let mut parts = text.split('&');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let (entity, letter) = KNOWN.iter().find(|(entity, _)| part.starts_with(entity))?;
        out.push(*letter);
        out += &part[entity.len()..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_reads_and_what_it_refuses() {
        let root = parse("<a:x xmlns:a=\"n\" b=\"1 &amp; 2\"><y>t &lt; u</y><z></z></a:x>").unwrap();
        assert_eq!(
            (root.local(), root.prefix(), root.namespace()),
            ("x", Some("a"), Some("n"))
        );
        assert_eq!(root.attribute("b"), Some("1 & 2"));
        assert_eq!(root.text_at(&["y"]).as_deref(), Some("t < u"));
        assert_eq!((root.start, root.children[0].start, root.children[1].end), (0, 31, 53));
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/>",
            "<a b='1'></a>",
            "<a b=\"1\" b=\"2\"></a>",
            "<a><!-- c --></a>",
            "<a><![CDATA[x]]></a>",
            "<!DOCTYPE a><a></a>",
            "<a>&x;</a>",
            "<a></a><a></a>",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
        assert!(parse("<a><b></b><b></b></a>").unwrap().child("b").is_none());
        assert!(parse(&"<a>".repeat(1000)).is_none());
    }
}
