//! Any text as a configuration, and in the places of secrets: README.md.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use sf_token_proxy::config::{Vars, from_yaml};
use sf_token_proxy_fuzz::shows;

/// Each grant with a secret in it, but for the secret itself.
const PLACES: [&str; 6] = [
    "jwt_bearer:\n        client_id: x\n        username: y@z.example\n        private_key",
    "client_credentials:\n        client_id: x\n        client_secret",
    "refresh_token:\n        client_id: x\n        refresh_token",
    "password:\n        client_id: x\n        client_secret: env:X\n        username: y@z.example\n        password",
    "static:\n        access_token",
    "token_exchange:\n        client_id: x\n        subject_token_type: access_token\n        subject_token",
];

fuzz_target!(|text: &str| {
    if let Err(told) = read(text) {
        // One line a problem, and something to say.
        assert!(!told.is_empty());
        assert!(
            !told.contains(|c: char| c.is_control() && c != '\n'),
            "unprintable: {told:?}"
        );
    }
    if text.len() > 120 || text.contains("CANARY") {
        return;
    }
    let place = PLACES[text.len() % PLACES.len()];
    // As the value, whatever YAML's own characters it has.
    if !text.trim_start().starts_with("file:") && !text.trim_start().starts_with("env:") {
        for value in [
            format!("{text}CANARY"),
            format!("CANARY{text}"),
            format!("{text}CANARY{text}"),
        ] {
            check_hidden(place, &json!(value).to_string());
        }
    }
    for value in [
        json!({format!("{text}CANARY"): text}),
        json!({text: "CANARY"}),
        json!([text, "CANARY"]),
    ] {
        if text != "file" && text != "env" {
            check_hidden(place, &value.to_string());
        }
    }
    // And as it is, on one line, where it is no reference.
    if !text.contains(['\n', '\r', '\\', '\u{85}', '\u{2028}', '\u{2029}'])
        && !text.contains("file")
        && !text.contains("env")
    {
        check_hidden(place, &format!("{text}CANARY"));
        check_hidden(place, &format!("CANARY{text}"));
    }
});

/// The effective configuration, or the problems as they are told.
fn read(yaml: &str) -> Result<String, String> {
    let vars = Vars::default();
    let config = from_yaml(yaml, "config.yaml", &vars).map_err(|problems| problems.to_string())?;
    let effective = config.to_yaml();
    let again = from_yaml(&effective, "effective", &vars)
        .unwrap_or_else(|problems| panic!("the effective configuration is refused:\n{problems}\n{effective}"));
    assert_eq!(again.to_yaml(), effective, "it does not read back alike");
    assert_eq!(
        format!("{again:?}"),
        format!("{config:?}"),
        "it does not read back alike"
    );
    Ok(format!("{effective}\n{config:?}"))
}

fn check_hidden(place: &str, value: &str) {
    let yaml =
        format!("orgs:\n  main:\n    login_url: https://acme.my.salesforce.com\n    grant:\n      {place}: {value}\n");
    let (Ok(told) | Err(told)) = read(&yaml);
    assert!(!shows(&told, "CANARY"), "a secret is shown:\n{yaml}\n{told}");
}
