//! What is refused, and how little it costs.

use std::{thread, time::Duration};

use tokio::time::Instant;

use super::*;

#[test]
fn what_is_unfit_is_refused() {
    found(GOOD.as_bytes(), SESSION);
    let replaced = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to).into_bytes()
    };
    let utf16 = |big: bool, mark: bool| -> Vec<u8> {
        let units = mark.then_some(0xfeff).into_iter().chain(GOOD.encode_utf16());
        units
            .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
            .collect()
    };
    let utf32 = |big: bool| -> Vec<u8> {
        GOOD.chars()
            .flat_map(|c| {
                if big {
                    (c as u32).to_be_bytes()
                } else {
                    (c as u32).to_le_bytes()
                }
            })
            .collect()
    };
    let mut mark_32 = vec![0, 0, 0xfe, 0xff];
    mark_32.extend(utf32(true));
    for (big, mark) in [(true, true), (false, true), (true, false), (false, false)] {
        let bytes = utf16(big, mark);
        // One byte is enough, but for a `<`.
        let first = if !big && !mark { 2 } else { 1 };
        for end in first..bytes.len() {
            assert_eq!(
                read(&bytes[..end], false, SESSION),
                Err(Unfit::Encoding),
                "{end} of {big} {mark}"
            );
        }
    }
    let encoded = |name: &str| replaced("\"1.0\"", &format!("\"1.0\" encoding=\"{name}\""));
    let in_name = {
        let mut bytes = replaced("p:query", "p:qu?ry");
        let at = bytes.iter().rposition(|byte| *byte == b'?').unwrap();
        bytes[at] = 0xe9;
        bytes
    };
    let in_namespace = {
        let mut bytes = replaced("\"urn:p\"", "\"urn:?\"");
        let at = bytes.iter().rposition(|byte| *byte == b'?').unwrap();
        bytes[at] = 0xe9;
        bytes
    };
    let table: Vec<(&str, Vec<u8>, Unfit)> = vec![
        ("UTF-16 BE with a mark", utf16(true, true), Unfit::Encoding),
        ("UTF-16 LE with a mark", utf16(false, true), Unfit::Encoding),
        ("UTF-16 BE", utf16(true, false), Unfit::Encoding),
        ("UTF-16 LE", utf16(false, false), Unfit::Encoding),
        ("UTF-32 BE with a mark", mark_32, Unfit::Encoding),
        ("UTF-32 BE", utf32(true), Unfit::Encoding),
        ("UTF-32 LE", utf32(false), Unfit::Encoding),
        ("said to be UTF-16", encoded("UTF-16"), Unfit::Encoding),
        ("said to be UTF-7", encoded("utf-7"), Unfit::Encoding),
        ("said to be ISO-2022-JP", encoded("ISO-2022-JP"), Unfit::Encoding),
        ("said to be EBCDIC", encoded("cp037"), Unfit::Encoding),
        ("a namespace that cannot be read", in_namespace, Unfit::Encoding),
        ("a name that cannot be read", in_name, Unfit::NotWellFormed),
        (
            "DOCTYPE",
            replaced("<e:Envelope", "<!DOCTYPE e:Envelope><e:Envelope"),
            Unfit::Doctype,
        ),
        (
            "doctype",
            replaced("<e:Envelope", "<!doctype x><e:Envelope"),
            Unfit::Doctype,
        ),
        (
            "nameless DOCTYPE",
            replaced("<e:Envelope", "<!DOCTYPE><e:Envelope"),
            Unfit::Doctype,
        ),
        (
            "DOCTYPE without an end",
            replaced("<e:Envelope", "<!DOCTYPE x [ <e:Envelope"),
            Unfit::Doctype,
        ),
        ("nothing", vec![], Unfit::CutShort),
        ("a mark only", b"\xef\xbb\xbf".to_vec(), Unfit::CutShort),
        (
            "two marks, and the root at once",
            "\u{feff}\u{feff}<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'><Body/></Envelope>".into(),
            Unfit::NotWellFormed,
        ),
        (
            "two marks",
            [b"\xef\xbb\xbf\xef\xbb\xbf", GOOD.as_bytes()].concat(),
            Unfit::NotWellFormed,
        ),
        ("JSON", b"{\"a\": 1}".to_vec(), Unfit::NotWellFormed),
        (
            "text before the root",
            replaced("<e:Envelope", "x<e:Envelope"),
            Unfit::NotWellFormed,
        ),
        (
            "a reference before the root",
            replaced("<e:Envelope", "&#32;<e:Envelope"),
            Unfit::NotWellFormed,
        ),
        (
            "a declaration in the middle",
            replaced("<e:Header>", "<e:Header><?xml version='1.0'?>"),
            Unfit::NotWellFormed,
        ),
        (
            "another end tag",
            replaced("</p:sessionId>", "</p:sessionID>"),
            Unfit::NotWellFormed,
        ),
        (
            "an end tag too many",
            replaced("<e:Header>", "</e:Header>"),
            Unfit::NotWellFormed,
        ),
        (
            "an attribute without quotes",
            replaced("<e:Header>", "<e:Header a=b>"),
            Unfit::NotWellFormed,
        ),
        (
            "an attribute twice",
            replaced("<e:Header>", "<e:Header a='1' a='2'>"),
            Unfit::NotWellFormed,
        ),
        (
            "a namespace after a bad attribute",
            replaced("<p:query/>", "<query a xmlns='urn:a'/>"),
            Unfit::NotWellFormed,
        ),
        (
            "no name",
            replaced("<e:Header>", "<e:Header>< x/>"),
            Unfit::NotWellFormed,
        ),
        (
            "two colons",
            replaced("<p:query/>", "<p:q:query/>"),
            Unfit::NotWellFormed,
        ),
        ("a number", replaced("<p:query/>", "<p:1/>"), Unfit::NotWellFormed),
        (
            "an unknown prefix",
            replaced("<p:query/>", "<x:query/>"),
            Unfit::NotWellFormed,
        ),
        (
            "an unknown prefix in the holder",
            replaced("p:sessionId", "x:sessionId"),
            Unfit::NotWellFormed,
        ),
        (
            "a comment in a comment",
            replaced("<e:Header>", "<e:Header><!-- a -- b -->"),
            Unfit::NotWellFormed,
        ),
        (
            "markup that is none",
            replaced("<e:Header>", "<e:Header><!x>"),
            Unfit::NotWellFormed,
        ),
        (
            "a comment that is none",
            replaced("<e:Header>", "<e:Header><!-x-->"),
            Unfit::NotWellFormed,
        ),
        (
            "a reference without an end",
            replaced("CANARY", "a&b c"),
            Unfit::NotWellFormed,
        ),
        (
            "another root",
            GOOD.replace("e:Envelope", "e:envelope").into_bytes(),
            Unfit::NotSoap,
        ),
        ("HTML", b"<html><body>x</body></html>".to_vec(), Unfit::NotSoap),
        (
            "SOAP of nowhere",
            replaced("xmlsoap.org", "example.org"),
            Unfit::NotSoap,
        ),
        (
            "two headers",
            replaced("<e:Body>", "<e:Header/><e:Body>"),
            Unfit::NotSoap,
        ),
        ("something else", replaced("<e:Body>", "<p:x/><e:Body>"), Unfit::NotSoap),
        (
            "a header of another namespace",
            GOOD.replace("e:Header", "p:Header").into_bytes(),
            Unfit::NotSoap,
        ),
        ("no body", replaced("<e:Body><p:query/></e:Body>", ""), Unfit::NoBody),
        (
            "an empty envelope",
            b"<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/'/>".to_vec(),
            Unfit::NoBody,
        ),
    ];
    for (name, envelope, expected) in table {
        assert_eq!(read(&envelope, true, SESSION), Err(expected), "{name}");
        assert_eq!(
            read(&envelope, true, Credential::Fuel).is_err(),
            !name.contains("in the holder"),
            "{name}"
        );
        // What is not all there may still become good; what is bad at sight is not waited for.
        let early = read(&envelope, false, SESSION);
        let waits = matches!(expected, Unfit::CutShort);
        assert_eq!(
            early,
            if waits { Ok(Reading::More) } else { Err(expected) },
            "{name}, early"
        );
    }
}

#[test]
fn the_texts_quote_nothing_and_debug_shows_no_attribute() {
    let broken = GOOD.replace("<p:query/>", "</CANARY>");
    let unfit = read(broken.as_bytes(), true, SESSION).unwrap_err();
    assert!(!format!("{unfit} {unfit:?}").contains("CANARY"));
    let nil = GOOD.replace("<p:sessionId>CANARY", "<p:sessionId e:nil='true' a='CANARY'>");
    let found = found(nil.as_bytes(), SESSION);
    assert!(
        String::from_utf8_lossy(&found.edits[0].before).contains("CANARY"),
        "the attribute is kept"
    );
    assert!(!format!("{found:?}").contains("CANARY"));
}

/// A body of any size changes nothing, and nothing behind the operation is looked at.
#[test]
fn what_follows_the_operation_is_not_read() {
    let end = GOOD.find("<p:query/>").unwrap() + "<p:query/>".len();
    let all = found(GOOD.as_bytes(), SESSION);
    for rest in [
        &b"\xff\xfe</not><well <formed &&&"[..],
        &[0; 64],
        &vec![b'A'; 2 * HEAD_BYTES],
    ] {
        let envelope = [&GOOD.as_bytes()[..end], rest].concat();
        for complete in [false, true] {
            assert_eq!(
                read(&envelope, complete, SESSION).unwrap(),
                Reading::Found(found(GOOD.as_bytes(), SESSION))
            );
        }
    }
    assert_eq!(all.operation.name, "query");
}

#[test]
fn the_head_is_bounded() {
    let padded = |to: usize| {
        let at = GOOD.find("<e:Body>").unwrap();
        let end = GOOD.find("<p:query/>").unwrap() + "<p:query/>".len();
        [&GOOD[..at], &" ".repeat(to - end), &GOOD[at..]].concat().into_bytes()
    };
    assert!(
        matches!(read(&padded(HEAD_BYTES), false, SESSION), Ok(Reading::Found(_))),
        "just fits"
    );
    for complete in [false, true] {
        assert_eq!(read(&padded(HEAD_BYTES + 1), complete, SESSION), Err(Unfit::TooLong));
    }
    let head = &padded(HEAD_BYTES + 1)[..HEAD_BYTES];
    assert_eq!(
        read(head, false, SESSION),
        Err(Unfit::TooLong),
        "there is no use in waiting"
    );
    assert_eq!(read(head, true, SESSION), Err(Unfit::CutShort));
    assert_eq!(read(&head[..HEAD_BYTES - 1], false, SESSION), Ok(Reading::More));
}

/// What is made to cost much costs a moment, and little stack.
#[test]
fn bombs_are_cheap() {
    let at = GOOD.find("<p:SessionHeader>").unwrap();
    let with = |bomb: String| [&GOOD[..at], &bomb, &GOOD[at..]].concat();
    let many = |each: &dyn Fn(usize) -> String| (0..100_000).map(each).collect::<String>();
    let entities = (0..50)
        .map(|i| format!("<!ENTITY a{} '&a{i};&a{i};&a{i};'>", i + 1))
        .collect::<String>();
    let bombs = [
        (
            "entities",
            format!("<!DOCTYPE x [<!ENTITY a0 'x'>{entities}]>{}", with("&a50;".into())),
            Err(Unfit::Doctype),
        ),
        ("references", with("&a;".repeat(50_000)), Ok(())),
        ("nested", with("<a>".repeat(100_000)), Err(Unfit::TooComplex)),
        (
            "nested, less",
            with("<a>".repeat(50_000) + &"</a>".repeat(40_000)),
            Err(Unfit::TooLong),
        ),
        (
            "nested in the session",
            GOOD.replace("CANARY", &("<a>".repeat(30_000) + &"</a>".repeat(30_000))),
            Ok(()),
        ),
        (
            "attributes",
            with(format!("<a {}/>", many(&|i| format!(" a{i}=''")))),
            Err(Unfit::TooLong),
        ),
        (
            "attributes that fit",
            with(format!(
                "<a {}/>",
                (0..20_000).map(|i| format!(" a{i}=''")).collect::<String>()
            )),
            Ok(()),
        ),
        (
            "namespaces",
            with(format!(
                "<a {}/>",
                (0..10_000).map(|i| format!(" xmlns:a{i}='u'")).collect::<String>()
            )),
            Err(Unfit::TooComplex),
        ),
        (
            "namespaces, level by level",
            with(many(&|i| format!("<a xmlns:a{i}='u'>"))),
            Err(Unfit::TooComplex),
        ),
        (
            "namespaces, again and again",
            with("<a xmlns='u' xmlns:b='v'/>".repeat(9_000)),
            Ok(()),
        ),
        ("holders", with("<p:SessionHeader/>".repeat(14_000)), Ok(())),
        (
            "a long namespace over many holders",
            with(format!("<SessionHeader xmlns='{}'/>", "&#110;".repeat(20_000)) + &"<SessionHeader/>".repeat(8_000)),
            Err(Unfit::TooComplex),
        ),
        (
            "holders of many namespaces",
            with((0..6_000).map(|i| format!("<SessionHeader xmlns='u{i}'/>")).collect()),
            Ok(()),
        ),
        ("a long name", with(format!("<{}/>", "a".repeat(200_000))), Ok(())),
        ("quotes", with("<a b='".repeat(40_000)), Err(Unfit::NotWellFormed)),
        ("openings", with("<".repeat(200_000)), Err(Unfit::NotWellFormed)),
        ("half comments", with("<!-- ->".repeat(36_000)), Err(Unfit::CutShort)),
        (
            "half CDATA",
            with(format!("<![CDATA[{}", "]]".repeat(120_000))),
            Err(Unfit::CutShort),
        ),
    ];
    for (name, envelope, expected) in bombs {
        let started = Instant::now();
        let small = thread::Builder::new().stack_size(128 * 1024);
        let reading = small
            .spawn(move || read(envelope.as_bytes(), true, SESSION).map(drop))
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(reading, expected, "{name}");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{name}: {:?}",
            started.elapsed()
        );
    }
}
