//! A small part of XML with namespaces, and its exclusive canonical form. No document type, comment, CDATA or processing instruction: what
//! could hide a part of a name or a text is refused.
//!
//! Owns: nothing; pure. Invariants: what cannot be read is refused, never guessed at; what is signed is made from what is read, so that the
//! two cannot differ. Fails with: `None`. Source: XML 1.0 and Namespaces, the parts named; Exclusive XML Canonicalization 1.0, without
//! `InclusiveNamespaces`.

use std::collections::BTreeMap;

pub(super) struct Element<'a> {
    name: &'a str,
    /// Without declarations of namespaces.
    attributes: Vec<(&'a str, String)>,
    /// Every prefix that is declared here or around it; the empty one is the default.
    scope: Scope<'a>,
    nodes: Vec<Node<'a>>,
}

type Scope<'a> = BTreeMap<&'a str, String>;

enum Node<'a> {
    Text(String),
    Element(Element<'a>),
}

const DEEPEST: usize = 32;
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// The one element that the text is, behind a declaration or not.
pub(super) fn parse(text: &str) -> Option<Element<'_>> {
    let text = text.trim();
    let text = match text.strip_prefix("<?xml ") {
        Some(rest) => rest.split_once("?>")?.1.trim_start(),
        None => text,
    };
    let mut reader = Reader { text, at: 0 };
    let root = reader.element(0, &Scope::new())?;
    reader.rest().is_empty().then_some(root)
}

impl<'a> Element<'a> {
    pub(super) fn local(&self) -> &'a str {
        split(self.name).1
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(n, _)| *n == name)?;
        Some(&found.1)
    }

    pub(super) fn namespace(&self) -> &str {
        self.scope.get(split(self.name).0).map_or("", String::as_str)
    }

    pub(super) fn children(&self) -> impl Iterator<Item = &Self> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The only child of this local name, whatever its namespace; two are none.
    pub(super) fn child(&self, local: &str) -> Option<&Self> {
        let mut found = self.children().filter(|child| child.local() == local);
        found.next().filter(|_| found.next().is_none())
    }

    /// The text of an element that has nothing else in it.
    pub(super) fn text_at(&self, path: &[&str]) -> Option<String> {
        if let [first, rest @ ..] = path {
            return self.child(first)?.text_at(rest);
        }
        match &self.nodes[..] {
            [] => Some(String::new()),
            [Node::Text(text)] => Some(text.trim().to_owned()),
            _ => None,
        }
    }

    /// In exclusive canonical form, without one of its children.
    pub(super) fn canonical(&self, without: Option<&Self>) -> String {
        let mut out = String::new();
        self.write(&mut out, &Scope::new(), without);
        out
    }

    fn write(&self, out: &mut String, written: &Scope<'a>, without: Option<&Self>) {
        let mut written = written.clone();
        *out += "<";
        *out += self.name;
        let prefixes = self.attributes.iter().map(|(name, _)| split(name).0);
        let mut used: Vec<&str> = prefixes.filter(|prefix| !prefix.is_empty()).collect();
        used.push(split(self.name).0);
        used.sort_unstable();
        used.dedup();
        for prefix in used.into_iter().filter(|prefix| *prefix != "xml") {
            let uri = self.scope.get(prefix).cloned().unwrap_or_default();
            if written.get(prefix).map_or("", String::as_str) != uri {
                let name = if prefix.is_empty() {
                    "xmlns".to_owned()
                } else {
                    format!("xmlns:{prefix}")
                };
                write_attribute(out, &name, &uri);
                written.insert(prefix, uri);
            }
        }
        let mut attributes: Vec<_> = self.attributes.iter().collect();
        attributes.sort_by_key(|(name, _)| {
            let (prefix, local) = split(name);
            let uri = if prefix.is_empty() {
                None
            } else {
                self.scope.get(prefix)
            };
            (uri, local)
        });
        for (name, value) in attributes {
            write_attribute(out, name, value);
        }
        *out += ">";
        for node in &self.nodes {
            match node {
                Node::Text(text) => {
                    *out += &escape(text, &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('\r', "&#xD;")])
                }
                Node::Element(child) if without.is_some_and(|without| std::ptr::eq(without, child)) => {}
                Node::Element(child) => child.write(out, &written, without),
            }
        }
        *out += "</";
        *out += self.name;
        *out += ">";
    }
}

fn write_attribute(out: &mut String, name: &str, value: &str) {
    const SPECIAL: [(char, &str); 6] = [
        ('&', "&amp;"),
        ('<', "&lt;"),
        ('"', "&quot;"),
        ('\t', "&#x9;"),
        ('\n', "&#xA;"),
        ('\r', "&#xD;"),
    ];
    *out += &format!(" {name}=\"{}\"", escape(value, &SPECIAL));
}

fn escape(text: &str, special: &[(char, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match special.iter().find(|(from, _)| *from == letter) {
            Some((_, to)) => out += to,
            None => out.push(letter),
        }
    }
    out
}

/// Prefix, which may be empty, and local name.
fn split(name: &str) -> (&str, &str) {
    name.split_once(':').unwrap_or(("", name))
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

    /// Whether there was any.
    fn space(&mut self) -> bool {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches(SPACE);
        self.at += rest.len() - trimmed.len();
        trimmed.len() < rest.len()
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = self.until(&[' ', '\t', '\r', '\n', '=', '/', '>'])?;
        let (prefix, local) = split(name);
        let fits = |part: &str| part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        (fits(prefix) && fits(local) && !local.is_empty()).then_some(name)
    }

    fn element(&mut self, depth: usize, around: &Scope<'a>) -> Option<Element<'a>> {
        self.take("<")?;
        let name = self.name().filter(|_| depth < DEEPEST)?;
        let (mut attributes, mut scope) = (Vec::<(&str, String)>::new(), around.clone());
        let mut declared = Vec::new();
        let empty = loop {
            let space = self.space();
            if self.take("/>").is_some() {
                break true;
            }
            if self.take(">").is_some() {
                break false;
            }
            let attribute = self.name().filter(|_| space)?;
            self.take("=")?;
            let quote = if self.take("\"").is_some() {
                '"'
            } else {
                self.take("'").map(|()| '\'')?
            };
            // A line end in the source is a space, as the parser of XML has it.
            let raw = self
                .until(&[quote, '<'])?
                .replace("\r\n", " ")
                .replace(['\t', '\r', '\n'], " ");
            let value = plain(&raw)?;
            self.take(if quote == '"' { "\"" } else { "'" })?;
            match split(attribute) {
                ("", "xmlns") => {
                    declared.push("");
                    scope.insert("", value);
                }
                ("xmlns", prefix) => {
                    declared.push(prefix);
                    scope.insert(prefix, value);
                }
                _ if attributes.iter().any(|(known, _)| *known == attribute) => return None,
                _ => attributes.push((attribute, value)),
            }
        };
        let count = declared.len();
        declared.sort_unstable();
        declared.dedup();
        let mut prefixes = attributes.iter().map(|(name, _)| split(name).0).chain([split(name).0]);
        let known = prefixes.all(|prefix| prefix.is_empty() || prefix == "xml" || scope.contains_key(prefix));
        if declared.len() < count || !known {
            return None;
        }
        let nodes = if empty {
            Vec::new()
        } else {
            self.nodes(depth, name, &scope)?
        };
        Some(Element {
            name,
            attributes,
            scope,
            nodes,
        })
    }

    /// Up to and with the end tag.
    fn nodes(&mut self, depth: usize, name: &str, scope: &Scope<'a>) -> Option<Vec<Node<'a>>> {
        let mut nodes = Vec::new();
        loop {
            let text = self.until(&['<'])?;
            if !text.is_empty() {
                nodes.push(Node::Text(plain(&text.replace("\r\n", "\n").replace('\r', "\n"))?));
            }
            if self.take("</").is_some() {
                self.take(name)?;
                self.space();
                self.take(">")?;
                return Some(nodes);
            }
            nodes.push(Node::Element(self.element(depth + 1, scope)?));
        }
    }
}

/// With the five entities and the characters of white space replaced; others are not known.
fn plain(text: &str) -> Option<String> {
    const KNOWN: [(&str, char); 11] = [
        ("lt;", '<'),
        ("gt;", '>'),
        ("amp;", '&'),
        ("quot;", '"'),
        ("apos;", '\''),
        ("#xD;", '\r'),
        ("#xA;", '\n'),
        ("#x9;", '\t'),
        ("#13;", '\r'),
        ("#10;", '\n'),
        ("#9;", '\t'),
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
        let root =
            parse("<?xml version='1.0'?>\n<a:x xmlns:a=\"n\" b='1 &amp; 2'><y>t &lt; u</y><z/></a:x>\n").unwrap();
        assert_eq!((root.local(), root.namespace()), ("x", "n"));
        assert_eq!(root.attribute("b"), Some("1 & 2"));
        assert_eq!(root.text_at(&["y"]).as_deref(), Some("t < u"));
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a b=\"1\" b=\"2\"></a>",
            "<a b=\"1\"c=\"2\"></a>",
            "<a xmlns=\"1\" xmlns=\"2\"></a>",
            "<a><!-- c --></a>",
            "<a><![CDATA[x]]></a>",
            "<a><?pi?></a>",
            "<!DOCTYPE a><a></a>",
            "<a>&x;</a>",
            "<p:a></p:a>",
            "<a!></a!>",
            "<a b!=\"1\"></a>",
            "<a></a><a></a>",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
        assert!(parse("<a><b></b><b></b></a>").unwrap().child("b").is_none());
        assert!(parse("<a>x<b/>y</a>").unwrap().text_at(&[]).is_none());
        assert!(parse(&"<a>".repeat(1000)).is_none());
    }

    /// Exclusive XML Canonicalization, sections 2.2 and 3; Canonical XML, sections 2.2, 3.1 to 3.4.
    #[test]
    fn the_canonical_form_is_the_exclusive_one() {
        for (text, expected) in [
            ("<a/>", "<a></a>"),
            ("<a  b = '1'/>".replace(" = ", "=").as_str(), "<a b=\"1\"></a>"),
            ("<a c=\"2\" b=\"1\"></a >", "<a b=\"1\" c=\"2\"></a>"),
            (
                "<a xmlns:u=\"unused\"><b xmlns:p=\"n\"><p:c/></b></a>",
                "<a><b><p:c xmlns:p=\"n\"></p:c></b></a>",
            ),
            (
                "<p:a xmlns:p=\"n\"><p:b/><c p:d=\"1\"/></p:a>",
                "<p:a xmlns:p=\"n\"><p:b></p:b><c p:d=\"1\"></c></p:a>",
            ),
            (
                "<a xmlns=\"n\"><b xmlns=\"\"/></a>",
                "<a xmlns=\"n\"><b xmlns=\"\"></b></a>",
            ),
            (
                "<a xmlns:y=\"1\" xmlns:x=\"2\" x:q=\"3\" y:p=\"4\" r=\"5\"/>",
                "<a xmlns:x=\"2\" xmlns:y=\"1\" r=\"5\" y:p=\"4\" x:q=\"3\"></a>",
            ),
            (
                "<a b=\"&#10;&quot;&gt;'\">&gt;&quot;&#13;</a>",
                "<a b=\"&#xA;&quot;>'\">&gt;\"&#xD;</a>",
            ),
            ("<a>\r\n b\t</a>", "<a>\n b\t</a>"),
        ] {
            assert_eq!(parse(text).unwrap().canonical(None), expected, "{text}");
        }
        let root = parse("<a xmlns:p=\"n\">1<p:b>2</p:b>3</a>").unwrap();
        let child = root.child("b").unwrap();
        assert_eq!(root.canonical(Some(child)), "<a>13</a>");
        assert_eq!(child.canonical(None), "<p:b xmlns:p=\"n\">2</p:b>");
    }
}
