//! Any text as the query of a login's callback: README.md.
#![no_main]

use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret as _;
use sf_token_proxy::token::grant::callback::{Callback, Said};

fuzz_target!(|query: &str| {
    let came: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let all = |name: &str| came.iter().filter(|(known, _)| known == name).count();
    let only = |name: &str| came.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
    // A misfit has nowhere to put what came.
    let Ok(callback) = Callback::read(query) else { return };
    assert!(query.len() <= 4096);
    assert!(
        ["code", "state", "error", "error_description"]
            .iter()
            .all(|name| all(name) <= 1),
        "one counts, which?"
    );
    let state = callback.state.expose_secret();
    check_word(state, only("state"), 128);
    assert!(callback.answers(&state.into()));
    for other in [
        format!("{state}x"),
        state[1..].to_owned(),
        format!("x{}", &state[1..]),
        String::new(),
    ] {
        assert_eq!(callback.answers(&other.as_str().into()), other == state);
    }
    assert_eq!(format!("{callback:?}"), "Callback");
    match &callback.said {
        Said::Code(code) => {
            assert_eq!(all("error"), 0);
            check_word(code.expose_secret(), only("code"), 4096);
        }
        Said::Error { error, .. } => {
            assert_eq!(all("code"), 0);
            check_word(error, only("error"), 64);
        }
    }
});

/// What is taken is what came, short, and printable ASCII.
fn check_word(taken: &str, came: Option<&str>, longest: usize) {
    assert_eq!(Some(taken), came);
    assert!((1..=longest).contains(&taken.len()));
    assert!(taken.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{taken:?}");
}
