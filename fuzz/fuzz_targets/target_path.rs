//! Any text as the path of a call: README.md.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sf_token_proxy::proxy::surface::{Serves, Surface, surface};

static EXTRA: LazyLock<Vec<String>> = LazyLock::new(|| vec!["/b/".into(), "/sink".into()]);

fuzz_target!(|target: &str| {
    // Whatever else it is, it came as a request target.
    let Ok(target) = http::uri::PathAndQuery::try_from(target) else {
        return;
    };
    let path = target.path();
    for serves in [Serves::Core, Serves::CoreAndDataCloud, Serves::Everything] {
        let Ok(family) = surface(path, serves, &EXTRA) else {
            continue;
        };
        assert!(path.starts_with('/'));
        // What servers make of it: decoding never, once, twice, three times before they resolve it.
        let mut decoded = path.as_bytes().to_vec();
        for _ in 0..4 {
            check(path, family, &resolved(&decoded));
            decoded = once_decoded(&decoded);
        }
        // And what the WHATWG's rules make of it. A second `/` would begin a host.
        let one_slash = format!("https://org.example/{}", path.trim_start_matches('/'));
        if let Ok(url) = url::Url::parse(&one_slash) {
            assert_eq!(url.host_str(), Some("org.example"));
            check(path, family, &resolved(url.path().as_bytes()));
        }
    }
});

/// Whether the resolved path is still of the family that it was served as.
fn check(path: &str, family: Surface, resolved: &[Vec<u8>]) {
    let under = |roots: &[&str]| {
        resolved.len() >= roots.len() && roots.iter().zip(resolved).all(|(root, part)| root.as_bytes() == part)
    };
    let token_endpoints = under(&["services", "oauth2"]) || under(&["secur"]);
    let stays = match family {
        Surface::Rest => under(&["services", "data"]),
        Surface::ApexRest => under(&["services", "apexrest"]),
        Surface::Identity => under(&["id"]) || (under(&["services", "oauth2", "userinfo"]) && resolved.len() == 3),
        Surface::Bulk1 => under(&["services", "async"]),
        Surface::Soap => under(&["services", "Soap"]) || under(&["services", "soap"]),
        Surface::Cometd => under(&["cometd"]),
        Surface::PubSub => under(&["eventbus.v1.PubSub"]),
        // It goes nowhere.
        Surface::LocalLogin => true,
        Surface::DataCloud => under(&["api", "v1"]) || under(&["api", "v2"]),
        Surface::Extra => under(&["b"]) || (under(&["sink"]) && resolved.len() == 1),
        Surface::MarketingSoap | Surface::Platform => !token_endpoints,
    };
    let shown: Vec<_> = resolved.iter().map(|part| String::from_utf8_lossy(part)).collect();
    assert!(
        stays,
        "{path:?} is served as {family:?}, but resolves to /{}",
        shown.join("/")
    );
}

/// The segments that a server comes to: backslashes as slashes, no parameters, no control characters, no empty segments,
/// and dot segments followed.
fn resolved(path: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = vec![];
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        let end = segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len());
        let segment: Vec<u8> = segment[..end]
            .iter()
            .copied()
            .filter(|byte| *byte > b' ' && *byte != 0x7f)
            .collect();
        match segment.as_slice() {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(segment),
        }
    }
    parts
}

fn once_decoded(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = vec![];
    let mut at = 0;
    while at < path.len() {
        match (path[at], digit(path.get(at + 1)), digit(path.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}
