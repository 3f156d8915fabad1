//! Tables for every rule: what is written, and exactly what is said about it.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::{Vars, file::ListenerFile, from_yaml, load};

mod listeners;
mod orgs;
mod values;
/// A good configuration; the tables change one line of it.
const GOOD: &str = "
orgs:
  main:
    login_url: https://acme.my.salesforce.com
    grant:
      jwt_bearer: {client_id: id, username: u@acme.example, private_key: 'file:/k.pem'}
";

const SECRET_GRANT: &str = "{client_credentials: {client_id: id, client_secret: 'env:S'}}";

fn told(yaml: &str) -> String {
    match from_yaml(yaml, "c.yaml", &Vars::default()) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

fn assert_table(table: &[(String, &str)]) {
    for (yaml, expected) in table {
        assert_eq!(told(yaml), *expected, "{yaml}");
    }
}

/// `GOOD` and more.
fn and(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

fn org_with(login_url: &str, grant: &str) -> String {
    format!("orgs: {{main: {{login_url: {login_url:?}, grant: {grant}}}}}")
}

fn jwt(fields: &str) -> String {
    org_with(
        "https://acme.my.salesforce.com",
        &format!("{{jwt_bearer: {{{fields}}}}}"),
    )
}

fn with_secret(secret: &str) -> String {
    org_with(
        "https://acme.my.salesforce.com",
        &format!("{{client_credentials: {{client_id: id, client_secret: {secret}}}}}"),
    )
}

/// An org with this grant and more settings of it.
fn granted(grant: &str, more: &str) -> String {
    format!(
        "orgs: {{main: {{login_url: https://acme.my.salesforce.com, instance_url: https://acme.my.salesforce.com, grant: {{{grant}}}, {more}}}}}"
    )
}

/// A good one of each grant.
const GRANTS: [&str; 9] = [
    "jwt_bearer: {client_id: i, username: u@x, private_key: 'env:K'}",
    "client_credentials: {client_id: i, client_secret: 'env:S'}",
    "refresh_token: {client_id: i, client_secret: 'env:S', refresh_token: 'env:R', rotation: off, send_secret: basic, login: {callback_url: 'http://127.0.0.1:5/cb', scopes: [offline_access]}}",
    "password: {client_id: i, client_secret: 'env:S', username: u@x, password: 'env:P', security_token: 'env:T'}",
    "token_exchange: {client_id: i, client_secret: 'env:S', subject_token: 'env:T', subject_token_type: saml2, scope: 'api id', token_handler: ns__Map}",
    "saml_bearer: {client_id: i, username: u@x, private_key: 'env:K', audience: 'https://a.example'}",
    "oauth2_client_credentials: {token_path: '/t?x=1', body: json, client_id: i, client_secret: 'env:S', parameters: {'a b': '510', scope: 'x: y'}}",
    "static: {access_token: 'env:T'}",
    "command: {run: [sf, '--json', 'a b']}",
];

#[test]
fn every_problem_is_told_at_once() {
    let yaml = "
thread: 2
threads: 0
log: {level: inof, requests: 1}
shutdown: {drain: 5M}
orgs:
  main:
    login_url: http://acme.my.salesforce.com
    login_ulr: x
    grant: {client_credentials: {client_secret: hunter2}}
";
    let text = told(yaml);
    let mut places: Vec<_> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            "log.level",
            "log.requests",
            "orgs.main.grant.client_credentials.client_id",
            "orgs.main.grant.client_credentials.client_secret",
            "orgs.main.login_ulr",
            "orgs.main.login_url",
            "shutdown.drain",
            "thread",
            "threads",
        ]
    );
    assert!(!text.contains("hunter2"), "{text}");
}

/// The shipped examples; `full.yaml` says the defaults.
#[test]
fn the_examples_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut visited = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let config = load(Some(&path), &Vars::default());
            assert!(config.is_ok(), "{}:\n{}", path.display(), config.unwrap_err());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("# yaml-language-server: $schema=schema.json\n"),
                "{}",
                path.display()
            );
            visited += 1;
        }
    }
    assert!(visited >= 13, "only {visited} examples were visited");
}

fn example(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    load(Some(&path), &Vars::default()).unwrap()
}

#[test]
fn the_full_example_says_every_key_and_its_default() {
    assert_eq!(example("full.yaml").to_json(), example("minimal.yaml").to_json());
    // Every key of the shape stands in the text, be it in a comment.
    let text = include_str!("../../../config/full.yaml");
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../../config/schema.json")).unwrap();
    let forms = schema["$defs"].as_object().unwrap();
    let forms = forms
        .iter()
        .filter(|(name, _)| *name != "SecretKeys")
        .map(|(_, form)| form);
    let mut visited = 0;
    for form in forms.chain([&schema]) {
        for key in form["properties"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("{key}:")), "full.yaml does not say {key}");
            visited += 1;
        }
    }
    assert!(visited > 40, "only {visited} keys were visited");
}

#[test]
fn the_effective_settings_read_back_as_the_same() {
    let odd = "
listeners:
  - {address: '127.0.0.1:2', tls: {certificate_file: 'c d.pem', key_file: /k}}
  - {address: '127.0.0.1:3', tls: {generate_in: '/a b'}}
  - {address: ['[::1]:0', '127.0.0.1:1'], hosts: [a.b, '::1'], allowed_origins: ['https://a.example'], extra_paths: [/x/]}
admin: {address: '0.0.0.0:9', startup_patience: 1m5ms, startup_holds_on_refusal: false, quit_endpoint: true}
shutdown: {delay: 3s, drain: 4s}
reload: {interval: 0s}
threads: 3
upstream: {ca_file: '/etc/a b: #c.pem', pool_max_idle: 0}
replay: {max_body: 1000B, total: 1MB}
log: {level: 'off', format: json, requests: true}
orgs:
  on:
    login_url: https://acme.my.salesforce.com:8443/
    instance_url: http://localhost:1
    grant: {client_credentials: {client_id: 'true', client_secret: {file: '/x y'}, send_secret: body}}
";
    let config = from_yaml(odd, "c.yaml", &Vars::default()).unwrap();
    let mut all = vec![config];
    for grant in GRANTS {
        for more in [
            "api: {host: other, headers: {X-B: 'a: b', x-A: '1'}, also: {/a: f_1}}, token: {cool_down: 1s}",
            "token: {keep_alive: true}, data_cloud: {dataspace: 'On', renew_before: 1m}, cache: {ttl: 7s, max_entry: 3KiB, paths: [/services/data/*/theme]}",
            "api: {host: platform}",
        ] {
            // Only what fits the grant.
            let more = match grant.starts_with("static") || grant.starts_with("command") {
                true => more.replace(", also: {/a: f_1}", ""),
                false => more.to_owned(),
            };
            let users = match grant.starts_with("jwt") {
                true => "listeners: [{users: {allow: ['*@A.example'], required: true, max: 7}}]",
                false => "store: {file: {directory: '/a b', key: 'env:K', previous_key: 'file:/p'}}",
            };
            let yaml = format!("{}\n{users}", granted(grant, &more));
            all.push(
                from_yaml(&yaml, "c.yaml", &Vars::default()).unwrap_or_else(|problems| panic!("{problems}\n{yaml}")),
            );
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") {
            all.push(example(&name));
        }
    }
    assert!(all.len() > 35, "only {} were visited", all.len());
    for config in all {
        let yaml = config.to_yaml();
        let again = from_yaml(&yaml, "effective", &Vars::default());
        let again = again.unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
        assert_eq!(format!("{again:?}"), format!("{config:?}"), "{yaml}");
    }
}

#[test]
fn the_defaults_are_good() {
    let config = from_yaml(GOOD, "c.yaml", &Vars::default()).unwrap();
    let addresses: Vec<_> = config.listeners[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:8080", "[::1]:8080"]);
    assert_eq!(config.listeners[0].org.as_str(), "main");
    assert_eq!(config.replay.max_body, 16 << 20);
    assert_eq!(config.upstream.response_timeout, 11 * MINUTE);
    assert_eq!(ListenerFile::default().idle_timeout.0, "5m");
}

/// Places where a secret may stand by mistake.
fn planted(place: usize, canary: &str) -> String {
    match place {
        0 => with_secret(&format!("{canary:?}")),
        1 => with_secret(&format!("[{canary:?}]")),
        2 => with_secret(&format!("{{{canary:?}: x}}")),
        3 => with_secret(&format!("{{file: '/x', env: {canary:?}}}")),
        4 => with_secret(&format!("{{env: '9{}'}}", canary.replace('\'', ""))),
        5 => with_secret(canary),
        6 => with_secret(&format!("|\n  {canary}")),
        7 => with_secret(&format!("'env:{canary}!'")),
        8 => org_with(&format!("https://u:{canary}@acme.my.salesforce.com"), SECRET_GRANT),
        9 => org_with(&format!("https://acme.my.salesforce.com/?sid={canary}"), SECRET_GRANT),
        10 => and(&format!("listeners: [{{allowed_origins: ['https://u:{canary}@x']}}]")),
        11 => and(&format!("    instance_url: 'https://u:{canary}@x y'")),
        12 => and(&format!("{canary}:")),
        13 => jwt(&format!("client_id: 'x {canary}', private_key: \"file:{canary}\\n\"")),
        14 => jwt(&format!("username: u@x, audience: 'https://u:{canary}@x'")),
        15 => granted(
            &format!("password: {{password: {canary:?}, security_token: [{canary:?}]}}"),
            "",
        ),
        16 => granted(
            &format!(
                "refresh_token: {{refresh_token: {canary:?}, login: {{callback_url: 'http://u:{canary}@localhost:1/'}}}}"
            ),
            "",
        ),
        17 => granted(
            &format!(
                "oauth2_client_credentials: {{token_path: '/t#{canary}', parameters: {{client_secret: {canary:?}}}}}"
            ),
            "",
        ),
        18 => granted(&format!("static: {{access_token: {{{canary:?}: x}}}}"), ""),
        19 => and(&format!("store: {{file: {{directory: /d, key: {canary:?}}}}}")),
        _ => format!("orgs:\n  main:\n    client_secret: {canary}: {canary}\n  *{canary}"),
    }
}

proptest! {
    #[test]
    fn a_planted_secret_shows_nowhere(place in 0..21usize, tail in "[!-~]{0,12}") {
        let canary = "Canary7f3e";
        let yaml = planted(place, &format!("{canary}{tail}"));
        let shown = match from_yaml(&yaml, "c.yaml", &Vars::default()) {
            Ok(config) => format!("{config:?} {}", config.to_yaml()),
            Err(problems) => format!("{problems} {problems:?}"),
        };
        prop_assert!(!shown.contains(canary), "{}\n{}", yaml, shown);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}", place in 0..12usize) {
        let quoted = format!("{text:?}");
        let yaml = match place {
            0 => text,
            1 => org_with(&text, SECRET_GRANT),
            2 => and(&format!("listeners: [{{address: {quoted}}}]")),
            3 => and(&format!("listeners: [{{hosts: [{quoted}]}}]")),
            4 => and(&format!("listeners: [{{extra_paths: [{quoted}]}}]")),
            5 => and(&format!("listeners: [{{allowed_origins: [{quoted}]}}]")),
            6 => and(&format!("log: {{level: {quoted}}}")),
            7 => and(&format!("shutdown: {{drain: {quoted}}}")),
            8 => and(&format!("replay: {{total: {quoted}}}")),
            9 => with_secret(&quoted),
            10 => jwt(&format!("username: {quoted}, audience: {quoted}")),
            _ => format!("orgs: {{{quoted}: {{}}}}"),
        };
        let _ = told(&yaml);
    }
}
