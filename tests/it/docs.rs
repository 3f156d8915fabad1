//! The tables of the documentation against the code.
//!
//! A table between `<!-- table NAME -->` and `<!-- end -->` is written by `UPDATE=1 cargo test --test it docs`; without
//! `UPDATE` a table that differs is a failure. The tables that people write are compared cell by cell.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use assert_cmd::Command;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sf_token_proxy::{
    cache::CacheResult,
    config::{Cache, Config, ListenerTls, OrgName, Vars, env, from_yaml},
    proxy::{
        body::{NotKept, UploadError},
        envelope::Unfit,
        error::CallError,
        guard::Refusal as Guarded,
        record::{Outcome, Repeat},
        surface::Surface,
        upstream::UpstreamError,
        verdict::REJECTION_REASONS,
    },
    token::{
        Class, REASONS, Refusal, StateWord, TokenError,
        refusal::{Sent, refusal},
    },
};

use crate::support::{RawOrg, Running, Script, call};

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

pub(crate) fn text(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// The text between the markers of a generated table.
fn between<'a>(page: &'a str, file: &str, name: &str) -> &'a str {
    let begin = format!("<!-- table {name} -->\n");
    let (_, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{file} has no table {name}"));
    rest.split_once("<!-- end -->").expect("a table must have an end").0
}

/// The generated table in `file` is `now`; with `UPDATE` it becomes so.
pub(crate) fn is_current(file: &str, name: &str, now: &str) {
    // Several tests write one file.
    static WRITING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let page = text(file);
    let kept = between(&page, file, name);
    if kept == now {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "a switch of these tests alone")]
    let update = std::env::var("UPDATE").is_ok();
    if update {
        let begin = format!("<!-- table {name} -->\n");
        let page = page.replacen(&format!("{begin}{kept}"), &format!("{begin}{now}"), 1);
        std::fs::write(path(file), page).unwrap();
        return;
    }
    let stale: Vec<&str> = now.lines().filter(|line| !kept.contains(line)).collect();
    let gone: Vec<&str> = kept.lines().filter(|line| !now.contains(line)).collect();
    panic!("{file}: table {name} is stale; run `UPDATE=1 cargo test --test it docs`\nnew: {stale:#?}\nold: {gone:#?}");
}

/// The cells of the table that follows a heading, without its two head lines; backticks are taken off.
fn cells(file: &str, heading: &str) -> Vec<Vec<String>> {
    let page = text(file);
    let (_, rest) = page
        .split_once(&format!("{heading}\n"))
        .unwrap_or_else(|| panic!("{file} has no heading {heading}"));
    let rows: Vec<Vec<String>> = rest
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let line = line.trim_matches('|');
            line.split('|').map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect();
    assert!(rows.len() > 1, "{file}: no table under {heading}");
    rows
}

// Settings

struct Key {
    path: String,
    default: String,
    meaning: String,
}

/// The settings of `config/schema.json`, which a test of its own keeps equal to the types.
fn keys() -> Vec<Key> {
    let schema: Value = serde_json::from_str(&text("config/schema.json")).unwrap();
    let mut keys = vec![];
    walk(&schema, &schema, String::new(), &mut keys);
    keys
}

fn walk(schema: &Value, node: &Value, at: String, keys: &mut Vec<Key>) {
    // Options are `anyOf` with null; secrets are `anyOf` of a text and keys, and one setting all the same.
    let secret = node.get("writeOnly").is_some() || node.to_string().contains("\"writeOnly\"");
    let options = node.get("anyOf").and_then(Value::as_array);
    let reference = node.get("$ref").or_else(|| options?.iter().find_map(|o| o.get("$ref")));
    if let Some(name) = reference.and_then(Value::as_str).filter(|_| !secret) {
        let name = name.rsplit('/').next().unwrap();
        return walk(schema, &schema["$defs"][name], at, keys);
    }
    let dot = if at.is_empty() { "" } else { "." };
    if let Some(properties) = node.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            walk(schema, property, format!("{at}{dot}{name}"), keys);
        }
    } else if let Some(named) = node.get("additionalProperties").filter(|named| named.is_object()) {
        match named.get("$ref") {
            Some(_) => walk(schema, named, format!("{at}{dot}NAME"), keys),
            // Of texts: told where the mapping is.
            None => keys.push(key(format!("{at}{dot}NAME"), node)),
        }
    } else if let Some(items) = node.get("items").filter(|items| items.get("$ref").is_some()) {
        walk(schema, items, format!("{at}[]"), keys);
    } else {
        keys.push(key(at, node));
    }
}

fn key(path: String, node: &Value) -> Key {
    Key {
        path,
        default: default_of(&node["default"]),
        meaning: node["description"].as_str().unwrap_or_default().replace('\n', " "),
    }
}

fn default_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

/// Whether a variable's path means this key.
fn sets(variable: &env::Variable, key: &str) -> bool {
    let path = variable.path.replace('*', "NAME").replace("listeners.0", "listeners[]");
    let mut grants = variable.grants.iter();
    path == key || grants.any(|grant| path.replace('?', grant) == key)
}

#[test]
fn the_settings_table_is_what_the_code_says() {
    let mut keys = keys();
    assert!(keys.len() > 35, "the schema gave only {} keys", keys.len());
    let variables: Vec<env::Variable> = env::variables().collect();
    let rank = |path: &str| variables.iter().position(|v| sets(v, path)).unwrap_or(usize::MAX);
    let section = |path: &str| path.split(['.', '[']).next().unwrap_or_default().to_owned();
    let mut sections: BTreeMap<String, usize> = BTreeMap::new();
    for key in &keys {
        let first = sections.entry(section(&key.path)).or_insert(usize::MAX);
        *first = rank(&key.path).min(*first);
    }
    keys.sort_by_key(|key| (sections[&section(&key.path)], rank(&key.path), key.path.clone()));

    let mut used = BTreeSet::new();
    let mut table = "| Key | Variable | Default | Meaning |\n|---|---|---|---|\n".to_owned();
    for key in &keys {
        assert!(!key.meaning.is_empty(), "{} has no description", key.path);
        let names = variables.iter().filter(|v| sets(v, &key.path)).map(|v| {
            used.insert(v.name);
            format!("`{}`{}", v.name, if v.beside_a_file { " †" } else { "" })
        });
        let names = names.collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            table,
            "| `{}` | {names} | {} | {} |",
            key.path, key.default, key.meaning
        );
    }
    for variable in variables.iter().filter(|v| !v.path.is_empty()) {
        assert!(used.contains(variable.name), "{} sets no key", variable.name);
    }
    is_current("README.md", "settings", &table);
    for variable in &variables {
        assert!(text("README.md").contains(variable.name), "{}", variable.name);
    }
}

#[test]
fn every_command_is_in_the_readme() {
    let mut program = Command::cargo_bin("sf-token-proxy").unwrap();
    let help = program.arg("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let commands: BTreeSet<String> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect();
    let mut documented: BTreeSet<String> = cells("README.md", "## Commands")
        .iter()
        .filter_map(|row| row[0].split_whitespace().next().map(str::to_owned))
        .collect();
    if cfg!(not(feature = "demo")) {
        documented.remove("demo");
    }
    assert_eq!(documented, commands);
}

// API families

#[test]
fn the_table_of_families_is_what_the_code_says() {
    use sf_token_proxy::proxy::surface::{Host, Placement, Protocol, TABLE, Told};
    let mut table =
        "| Paths | In metrics | The token goes | To | A dead one is told by |\n|---|---|---|---|---|\n".to_owned();
    for row in &TABLE {
        let paths: Vec<String> = row.paths.split(", ").map(quoted_path).collect();
        let token = match row.token {
            Placement::Bearer => "into `Authorization`",
            Placement::SessionHeader => "into `X-SFDC-Session`",
            Placement::Envelope => "into the envelope, `SessionHeader/sessionId`",
            Placement::Fuel => "into the envelope, `fueloauth`",
            Placement::Metadata => "into the metadata: `accesstoken`, `instanceurl`, `tenantid`",
            Placement::Nowhere => "nowhere",
        };
        let host = match (row.host, row.protocol) {
            (Host::Here, _) => "nobody: it is answered here",
            (Host::PubSub, _) => "`pub_sub.endpoint`, over HTTP/2",
            (Host::Instance, Protocol::Http1) => "the token's host, over HTTP/1.1 always",
            (Host::Instance, _) => "the token's host",
        };
        let told = match row.told {
            Told::RestError => "401 `INVALID_SESSION_ID`",
            Told::IdentityText => "403 `Bad_OAuth_Token`, or as REST",
            Told::BulkError => "400 `InvalidSessionId`",
            Told::SoapFault => "500 with the fault `INVALID_SESSION_ID`",
            Told::BayeuxMessage => "200 with a message `401::…`",
            Told::RpcStatus => "a status with the code `…service.auth.error`",
            Told::Any401 => "any 401",
            Told::FuelFault => "any 401, or a fault that says so (not confirmed)",
            Told::Never => "",
        };
        table.push_str(&format!(
            "| {} | `{}` | {token} | {host} | {told} |\n",
            paths.join(", "),
            row.word
        ));
    }
    is_current("README.md", "families", &table);
}

fn quoted_path(path: &str) -> String {
    match path.starts_with('/') {
        true => format!("`{path}`"),
        false => path.to_owned(),
    }
}

// Failures

/// A broken connection's error; hyper gives none without a connection.
async fn broken_connection() -> hyper::Error {
    let (here, there) = tokio::io::duplex(1024);
    drop(there);
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(here))
        .await
        .unwrap();
    let request = http::Request::new(Empty::new());
    let (sent, _) = tokio::join!(sender.send_request(request), connection);
    sent.expect_err("nobody is there")
}

#[tokio::test]
async fn the_failure_table_lists_every_error_of_ours() {
    let host = || "acme.my.salesforce.com".to_owned();
    let after = Duration::from_secs(1);
    let mut errors: Vec<CallError> = Guarded::ALL.into_iter().map(CallError::Guard).collect();
    errors.extend([
        CallError::Token(TokenError {
            org: OrgName::new("main"),
            reason: "timed_out",
            message: String::new(),
            retry_after: after,
        }),
        CallError::Upstream(UpstreamError::Unreachable {
            host: host(),
            cause: "refused".into(),
        }),
        CallError::Upstream(UpstreamError::Tls {
            host: host(),
            cause: std::io::Error::other("certificate"),
        }),
        CallError::Upstream(UpstreamError::ConnectTimeout { host: host(), after }),
        CallError::Upstream(UpstreamError::ResponseTimeout { host: host(), after }),
        CallError::Upstream(UpstreamError::Broke {
            host: host(),
            cause: broken_connection().await,
        }),
        CallError::Upstream(UpstreamError::NoHttp2 { host: host() }),
        CallError::Upstream(UpstreamError::Unusable {
            host: host(),
            cause: "101".into(),
        }),
        CallError::Upload(UploadError::Broke),
        CallError::Envelope(Unfit::NoBody),
        CallError::EnvelopeEncoding,
        CallError::NeedsHttp2,
        CallError::TransferCoding,
    ]);
    let told: BTreeSet<(String, String)> = errors
        .iter()
        .map(|error| {
            let response = error.response(None);
            let body: Value = serde_json::from_slice(response.body()).unwrap();
            let code = body[0]["errorCode"].as_str().unwrap().to_owned();
            (response.status().as_u16().to_string(), code)
        })
        .collect();
    // Nothing that the table of the code has was left out above.
    let source = text("src/proxy/error.rs");
    let in_source: BTreeSet<&str> = source
        .split('"')
        .filter(|word| word.starts_with("SFPROXY_") && *word != "SFPROXY_")
        .collect();
    let codes: BTreeSet<&str> = told.iter().map(|(_, code)| code.as_str()).collect();
    assert_eq!(codes, in_source);

    let documented: BTreeSet<(String, String)> = cells("README.md", "## When a call fails")
        .into_iter()
        .filter(|row| row[1].starts_with("SFPROXY_"))
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(documented, told);
}

/// How each reason shows itself: what the login host answers.
enum Told {
    /// `error` and `error_description`.
    Says(&'static str, &'static str),
    /// A status, whatever the body.
    Status(u16, &'static str),
    /// Found out here.
    Here(&'static str, &'static str),
}

/// One for each reason or more, in the order of [`REASONS`].
const TOLD: &[Told] = {
    use Told::{Here, Says, Status};
    &[
        Says("invalid_grant", "user hasn't approved this consumer"),
        Says("invalid_app_access", "user is not admin approved to access this app"),
        Says("invalid_grant", "authentication failure"),
        Says("invalid_grant", "audience is invalid"),
        Says("invalid_grant", "invalid assertion"),
        Says("invalid_grant", "expired authorization code"),
        Says("invalid_grant", "token request is already being processed"),
        Says("invalid_grant", "expired access/refresh token"),
        Says("invalid_grant", "invalid authorization code"),
        Says("invalid_grant", "ip restricted"),
        Says("invalid_grant", "request not supported on this domain"),
        Says("invalid_grant", "no client credentials user enabled"),
        Says("invalid_grant", "no valid scopes defined"),
        Says("invalid_scope", ""),
        Says("invalid_grant", "maximum logins exceeded"),
        Says("invalid_grant", "login rate exceeded"),
        Says("invalid_grant", "inactive user"),
        Says("invalid_grant", "user is locked"),
        Says("inactive_user", ""),
        Says("invalid_grant", "data not available"),
        Says("inactive_org", ""),
        Status(429, "429"),
        Says("rate_limit_exceeded", ""),
        Says("invalid_client_id", ""),
        Says("invalid_client", "invalid client credentials"),
        Says("invalid_grant", "client credentials flow not enabled"),
        Says("unauthorized_client", ""),
        Says("unsupported_grant_type", ""),
        Says("invalid_request", "refresh_token scope is required"),
        Says("invalid_request", ""),
        Says("redirect_uri_mismatch", ""),
        Says("access_denied", ""),
        Says("authorization_pending", ""),
        Says("invalid_grant", "anything else"),
        Says("any_other_code", ""),
        Status(503, "5xx"),
        Says("server_error", ""),
        Status(420, "420"),
        Status(302, "3xx"),
        Status(404, "another status without an error in its body"),
        Status(200, "2xx without a token"),
        Here("unsafe_instance_url", "an `instance_url` that is not https"),
        Here("unreachable", "no connection"),
        Here("timeout", "no answer within `token.exchange_timeout`"),
        Here("tls", "a certificate that is not trusted"),
        Here("budget_spent", "nothing is sent"),
        Here("secret_unreadable", "nothing is sent"),
        Here("key_unusable", "nothing is sent"),
        Here("needs_login", "nothing is sent"),
        Here("subject_token", "nothing is sent"),
        Here("command_failed", "nobody is asked"),
        Here("static_token_dead", "nobody is asked; the org refused the token"),
        Here(
            "refresh_outcome_unknown",
            "no answer to a refresh token that serves once",
        ),
        Here("core_token", "nothing is sent to Data Cloud"),
        Here("store", "nothing is sent"),
        Here("data_cloud_scope", "`invalid_scope`, from Data Cloud's exchange"),
    ]
};

impl Told {
    fn refusal(&self) -> Refusal {
        match *self {
            Self::Says(error, description) => says(error, description),
            Self::Status(status, _) => refusal(status, b"", &Sent::default()),
            Self::Here(reason, _) => Refusal::of(reason, None),
        }
    }

    fn shown(&self) -> String {
        match *self {
            Self::Says(error, "") => format!("`{error}`"),
            Self::Says(error, description) => format!("`{error}: {description}`"),
            Self::Status(_, shown) | Self::Here(_, shown) => shown.to_owned(),
        }
    }
}

fn says(error: &str, description: &str) -> Refusal {
    let body = serde_json::json!({"error": error, "error_description": description});
    refusal(400, body.to_string().as_bytes(), &Sent::default())
}

fn class_word(class: Class) -> &'static str {
    match class {
        Class::Permanent => "permanent",
        Class::Propagating => "propagating",
        Class::Transient => "transient",
        Class::RateLimited => "rate limited",
        Class::Unsent => "unsent",
    }
}

#[test]
fn the_table_of_refusals_is_what_the_code_says() {
    let mut table = "| Reason | Class | The login host says | Advice |\n|---|---|---|---|\n".to_owned();
    for reason in REASONS {
        let mut told: Vec<(Refusal, String)> = TOLD
            .iter()
            .map(|told| (told.refusal(), told.shown()))
            .filter(|(refusal, _)| refusal.reason == *reason)
            .collect();
        assert!(!told.is_empty(), "no text leads to {reason}");
        // Texts with one advice share a row.
        told.dedup_by(|later, first| {
            let same = later.0.class == first.0.class && later.0.advice == first.0.advice;
            if same {
                first.1 = format!("{}, {}", first.1, later.1);
            }
            same
        });
        for (refusal, shown) in told {
            let class = class_word(refusal.class);
            let advice = refusal.advice.replace('<', "\\<");
            let _ = writeln!(table, "| `{reason}` | {class} | {shown} | {advice} |");
        }
    }
    is_current("docs/tokens.md", "refusals", &table);
}

#[test]
fn the_common_refusals_in_the_readme_mean_what_it_says() {
    let mut seen = 0;
    for row in cells("README.md", "### Why there is no token") {
        let (told, reason) = (&row[0], row[1].as_str());
        assert!(REASONS.contains(&reason), "{reason} is no reason");
        if let Some((error, description)) = told.split_once(": ") {
            assert_eq!(says(error, description).reason, reason, "{told}");
            seen += 1;
        } else if told.starts_with("invalid_") {
            assert_eq!(says(told, "").reason, reason, "{told}");
            seen += 1;
        }
    }
    assert!(seen > 5, "only {seen} texts were tried");
}

#[test]
fn the_page_of_logins_is_true() {
    let page = text("docs/logins.md");
    let blocks: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() >= 9, "only {} examples", blocks.len());
    for yaml in blocks {
        let config = from_yaml(yaml, "docs/logins.md", &Vars::default());
        assert!(config.is_ok(), "{}\n{yaml}", config.unwrap_err());
    }
    let mut reasons = 0;
    for table in page.split("| Refusal | Usually |\n").skip(1) {
        for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
            for word in row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2) {
                assert!(REASONS.contains(&word), "{word} is no reason");
                reasons += 1;
            }
        }
    }
    assert!(reasons > 25, "only {reasons} reasons were visited");
    for variable in page.split('`').filter(|word| word.starts_with("SFPROXY_")) {
        let name = variable.split('=').next().unwrap();
        assert!(
            env::variables().any(|known| known.name == name),
            "{name} is no variable"
        );
    }
    for grant in shown_grants() {
        assert!(page.contains(&format!("      {grant}:")), "no example of {grant}");
    }
}

#[test]
fn the_page_of_the_cache_is_true() {
    let page = text("docs/cache.md");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks: Vec<&str> = blocks.map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    let shown = |yaml: &str| from_yaml(yaml, "docs/cache.md", &Vars::default()).unwrap_or_else(|e| panic!("{e}"));
    let [bare, full] = [0, 1].map(|n| shown(blocks[n]).orgs[&OrgName::new("main")].cache.clone().unwrap());
    let defaults = Cache {
        paths: full.paths.clone(),
        ..bare
    };
    assert_eq!(full, defaults, "the numbers shown are the defaults");
    for code in page.split('`').filter(|word| word.starts_with("SFPROXY_")) {
        assert!(text("README.md").contains(&format!("`{code}`")), "{code}");
    }
    let rows = cells(
        "docs/cache.md",
        "`Cache-Status` ([RFC 9211](https://www.rfc-editor.org/rfc/rfc9211)) says what happened, on paths whose answers are kept:",
    );
    let told: BTreeSet<&str> = rows.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(told, CacheResult::ALL.map(CacheResult::as_str).into());
}

#[test]
fn the_page_of_https_is_true() {
    let page = text("docs/tls.md");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks: Vec<&str> = blocks.map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2);
    for yaml in blocks {
        let config = from_yaml(yaml, "docs/tls.md", &Vars::default());
        assert!(config.is_ok(), "{}\n{yaml}", config.unwrap_err());
    }
    for code in page.split('`').filter(|word| word.starts_with("SFPROXY_")) {
        assert!(text("README.md").contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn the_page_of_the_lifecycle_is_true() {
    let page = text("docs/lifecycle.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let yaml = rest.split("```").next().unwrap();
    let config = from_yaml(yaml, "docs/lifecycle.md", &Vars::default()).unwrap();
    assert!(config.admin.quit_endpoint);
    let default = from_yaml(&yaml.replace("quit_endpoint: true", ""), "default", &Vars::default());
    let default = default.unwrap();
    assert!(!default.admin.quit_endpoint);
    let shown = |span: Duration| format!("({} s)", span.as_secs());
    assert!(page.contains(&format!("`shutdown.delay` {}", shown(default.shutdown.delay))));
    assert!(page.contains(&format!("`shutdown.drain` {}", shown(default.shutdown.drain))));
    let keys: BTreeSet<String> = keys().into_iter().map(|key| key.path).collect();
    for word in page.split('`') {
        let word = word.split(':').next().unwrap();
        if ["admin.", "shutdown.", "log.", "upstream."]
            .iter()
            .any(|section| word.starts_with(section))
        {
            assert!(keys.contains(word), "{word} is no setting");
        }
    }
}

/// The keys of `grant` in the schema, without the one that other files show.
fn shown_grants() -> Vec<String> {
    let schema: Value = serde_json::from_str(&text("config/schema.json")).unwrap();
    let keys = schema["$defs"]["GrantFile"]["properties"].as_object().unwrap().keys();
    let keys: Vec<_> = keys
        .filter(|key| *key != "oauth2_client_credentials")
        .cloned()
        .collect();
    assert_eq!(keys.len(), 8);
    keys
}

// Metrics

#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            families.entry(name.into()).or_default().help = help.into();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            families.entry(name.into()).or_default().kind = kind.into();
        } else if let Some((series, _)) = line.rsplit_once(' ') {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let whole = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
                let name = name.strip_suffix(end)?;
                families.contains_key(name).then_some(name)
            });
            let family = families.get_mut(whole.unwrap_or(name)).expect("HELP comes first");
            let names = labels
                .trim_end_matches('}')
                .split("\",")
                .filter_map(|l| l.split_once('='));
            family
                .labels
                .extend(names.map(|(l, _)| l.to_owned()).filter(|l| l != "le"));
        }
    }
    families.retain(|name, _| name.starts_with("sf_token_proxy_"));
    families
}

#[tokio::test]
async fn the_metrics_table_is_what_the_admin_port_says() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let certificates = tempfile::tempdir().unwrap();
    // So that every family has a series.
    let tls = |config: &mut Config| {
        config.listeners[0].tls = Some(ListenerTls::Generated {
            directory: certificates.path().to_owned(),
        });
    };
    let app = Running::start(&org.url(), tls).await;
    let page = call(app.admin, "GET /metrics HTTP/1.1", b"").await.text();
    app.stop().await;
    let families = families(&page);
    assert!(families.len() > 20, "only {} families were found", families.len());
    let mut table = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
    for (name, Family { kind, help, labels }) in &families {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(table, "| `{name}` | {kind} | {} | {help} |", labels.join(" "));
    }
    is_current("README.md", "metrics", &table);
}

#[test]
fn the_label_values_are_what_the_code_says() {
    let rows: [(&str, Vec<&str>); 8] = [
        ("`surface`", Surface::ALL.map(Surface::as_str).into()),
        (
            "`outcome` of `requests_total`",
            Outcome::ALL.map(Outcome::as_str).into(),
        ),
        ("`result` of `retries_total`", Repeat::ALL.map(Repeat::as_str).into()),
        (
            "`result` of `cache_requests_total`",
            CacheResult::ALL.map(CacheResult::as_str).into(),
        ),
        ("`state` of `token_state`", StateWord::ALL.map(StateWord::as_str).into()),
        ("`reason` of `token_rejections_total`", REJECTION_REASONS.into()),
        (
            "`reason` of `guard_refusals_total`",
            Guarded::ALL.map(Guarded::as_str).into(),
        ),
        (
            "`reason` of `replay_skipped_total`",
            NotKept::ALL.map(NotKept::as_str).into(),
        ),
    ];
    let mut table = "| Label | Values |\n|---|---|\n".to_owned();
    for (label, values) in rows {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        let _ = writeln!(table, "| {label} | {} |", values.join(" "));
    }
    is_current("README.md", "labels", &table);
}

/// The flows, by the words of the documentation, and the tests that prove each of the four things.
const FLOWS: [(&str, [&str; 4]); 12] = {
    macro_rules! flow {
        ($name:literal) => {
            (
                $name,
                [
                    concat!("flow_", $name, "_is_proven"),
                    concat!("flow_", $name, "_survives_a_restart"),
                    concat!("flow_", $name, "_explains_a_refusal"),
                    concat!("flow_", $name, "_follows_its_replay_rule"),
                ],
            )
        };
    }
    [
        flow!("client_credentials"),
        flow!("jwt_bearer"),
        flow!("refresh_token"),
        flow!("password"),
        flow!("token_exchange"),
        flow!("saml_bearer"),
        flow!("static"),
        flow!("command"),
        flow!("oauth2_client_credentials"),
        flow!("data_cloud"),
        (
            "authorization_code",
            [
                "a_person_allows_and_the_proxy_serves_without_a_login_of_its_own",
                "a_person_allows_and_the_proxy_serves_without_a_login_of_its_own",
                "a_person_denies_and_nothing_is_stored",
                "a_callback_that_is_not_ours_changes_nothing_and_ours_counts_once",
            ],
        ),
        (
            "device",
            [
                "a_device_is_allowed_denied_or_too_late",
                "a_device_is_allowed_denied_or_too_late",
                "a_device_is_allowed_denied_or_too_late",
                "what_a_poll_means",
            ],
        ),
    ]
};

/// No cell is empty, and each names a test that is there.
#[test]
fn every_flow_is_proven() {
    let entries = ["tests/it", "src/cli/login"].map(|folder| std::fs::read_dir(path(folder)).unwrap());
    let sources: String = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        // This file names them all.
        .filter(|path| path.file_name().is_some_and(|name| name != "docs.rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let words: BTreeSet<&str> = sources
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .collect();
    let mut table = String::from(
        "| Flow | Request proven against the org | Restart survived | Refusal explained | Replay rule tested |\n|---|---|---|---|---|\n",
    );
    for (flow, tests) in FLOWS {
        let _ = write!(table, "| `{flow}`");
        for test in tests {
            assert!(words.contains(test), "{flow}: there is no test {test}");
            let _ = write!(table, " | `{test}`");
        }
        table.push_str(" |\n");
    }
    is_current("docs/logins.md", "flows", &table);
}
