//! Any bytes as a SOAP envelope: README.md.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quick_xml::{NsReader, events::Event};
use sf_token_proxy::proxy::envelope::{Credential, Envelope, Reading, escaped, read};
use sf_token_proxy_fuzz::CANARY;

fuzz_target!(|envelope: &[u8]| {
    let session = Credential::Session {
        fallback: "urn:partner.soap.sforce.com",
    };
    for (credential, path) in [
        (session, &["SessionHeader", "sessionId"][..]),
        (Credential::Fuel, &["fueloauth"]),
    ] {
        match read(envelope, true, credential) {
            Ok(Reading::Found(found)) => check(envelope, &found, credential, path),
            Ok(Reading::More) => panic!("more than all is asked for"),
            Err(unfit) => {
                assert!(!unfit.to_string().is_empty());
                // What is not all there is judged alike, or not yet.
                let early = read(envelope, false, credential);
                assert!(matches!(early, Ok(Reading::More)) || early == Err(unfit));
            }
        }
    }
});

fn check(envelope: &[u8], found: &Envelope, credential: Credential<'_>, path: &[&str]) {
    assert!(!found.edits.is_empty());
    let result = apply(envelope, found);
    let again = reading(&result, true, credential).expect("what comes out is an envelope");
    assert_eq!(again.operation, found.operation);
    assert_eq!(apply(&result, &again), result, "twice is not once");
    // Beginnings: of every length would be slow.
    for parts in 1..8 {
        let beginning = &envelope[..envelope.len() * parts / 8];
        if let Some(early) = reading(beginning, false, credential) {
            assert_eq!(early, *found);
        }
    }
    check_credentials(&result, path);
}

fn reading(envelope: &[u8], complete: bool, credential: Credential<'_>) -> Option<Envelope> {
    match read(envelope, complete, credential) {
        Ok(Reading::Found(found)) => Some(found),
        Ok(Reading::More) => None,
        Err(unfit) => panic!("a good envelope became unfit: {unfit:?}"),
    }
}

/// The envelope with the canary in it; in bounds, ascending, not overlapping.
fn apply(envelope: &[u8], found: &Envelope) -> Vec<u8> {
    let mut result = vec![];
    let mut from = 0;
    for edit in &found.edits {
        assert!(from <= edit.at.start && edit.at.start <= edit.at.end && edit.at.end <= envelope.len());
        result.extend_from_slice(&envelope[from..edit.at.start]);
        result.extend_from_slice(&edit.before);
        result.extend_from_slice(escaped(CANARY).as_bytes());
        result.extend_from_slice(&edit.after);
        from = edit.at.end;
    }
    result.extend_from_slice(&envelope[from..]);
    result
}

/// By another way through the header: at least one credential, and each is the canary.
fn check_credentials(envelope: &[u8], path: &[&str]) {
    // What is no UTF-8 must not vanish: `?\xc4>` ends nothing.
    let text = String::from_utf8_lossy(envelope);
    let mut xml = NsReader::from_str(&text);
    let (mut names, mut found, mut value) = (vec![], 0, String::new());
    loop {
        let event = xml.read_event().expect("well-formed up to the body");
        if let Event::Start(start) | Event::Empty(start) = &event {
            names.push(start.local_name().into_inner().to_owned());
        }
        let is_body = names.len() == 2 && names[1] == "Body";
        if is_body {
            break;
        }
        let inside = names.get(2..).is_some_and(|inner| inner == path) && names[1] == "Header";
        match &event {
            Event::Start(_) if inside => value.clear(),
            Event::Empty(_) if inside => panic!("an empty credential"),
            Event::Text(text) => value.push_str(text),
            Event::End(_) if inside => {
                assert_eq!(value, CANARY);
                found += 1;
            }
            _ => {}
        }
        if matches!(event, Event::End(_) | Event::Empty(_)) {
            names.pop();
        }
    }
    assert!(found > 0, "no credential is there");
}
