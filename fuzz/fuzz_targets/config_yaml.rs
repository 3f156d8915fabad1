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
    if text.len() > 120 || text.contains("canary") {
        return;
    }
    let reference = |prefix| text.trim_start().starts_with(prefix);
    let one_line = !text.contains(['\n', '\r', '\\', '\u{85}', '\u{2028}', '\u{2029}']);
    let mut values = vec![];
    if !reference("file:") && !reference("env:") {
        // As the value, whatever YAML's own characters it has.
        values.extend([
            json!(format!("{text}canary")).to_string(),
            json!(format!("canary{text}")).to_string(),
        ]);
    }
    if text != "file" && text != "env" {
        // In the places of the keys and items of a reference.
        values.extend([json!({format!("{text}canary"): text}), json!({text: "canary"})].map(|value| value.to_string()));
        values.push(json!([text, "canary"]).to_string());
    }
    if one_line && !text.contains("file") && !text.contains("env") {
        // And as it is, where it is no reference.
        values.extend([format!("{text}canary"), format!("canary{text}")]);
    }
    let chosen = text
        .bytes()
        .fold(text.len(), |sum, byte| sum.wrapping_add(usize::from(byte)));
    if !values.is_empty() {
        check_hidden(
            PLACES[chosen % PLACES.len()],
            &values[chosen / PLACES.len() % values.len()],
        );
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
    assert!(!shows(&told, "canary"), "a secret is shown:\n{yaml}\n{told}");
}
