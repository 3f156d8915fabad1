//! From YAML text, or a tree built from the environment, to the shape of [`File`].
//!
//! serde stops at the first thing that does not fit and quotes it. So the tree is compared with the JSON Schema of
//! [`File`] first (the one that editors use): whatever does not fit is reported and taken out, and what is left goes on
//! to `check.rs`. That way one run reports everything.
//!
//! Invariants: a value is never quoted here, and neither is a key that stands inside a secret reference; of the YAML
//! parser's message no word is kept that stands in the file (an error beside a secret could quote it).
//! Fails with: unknown keys, duplicate keys, wrong kinds of value, YAML that cannot be read.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{
    file::File,
    problem::{Problems, nearest},
};

/// `config/schema.json`; a test keeps it equal to the types.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../config/schema.json")).expect("the generated schema must be JSON")
});

/// Reads one YAML document; an empty one is an empty mapping. `name` is how problems call it.
pub(super) fn parse(yaml: &str, name: &str) -> Result<Value, Problems> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(yaml, options).map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().map_or_else(String::new, |location| {
            format!(" line {} column {}", location.line(), location.column())
        });
        let reason = without_words_of(yaml, &error.to_string());
        // The place stands in front already; the advice is for programmers.
        let reason = reason.split(" at line ").next().unwrap_or_default();
        let reason = reason.split(", set ").next().unwrap_or_default();
        Problems::one(format!("{name}{place}"), format!("not readable as YAML: {reason}"))
    })
}

/// The tree as a [`File`], and what had to be left out of it.
pub(super) fn to_file(mut tree: Value, name: &str) -> (File, Problems) {
    let mut walk = Walk {
        problems: Problems::default(),
    };
    if !walk.keep(&mut tree, &SCHEMA, "") {
        walk.problems = Problems::one(name, "expected a mapping (`key: value` lines)");
        return (File::default(), walk.problems);
    }
    match serde_json::from_value(tree) {
        Ok(file) => (file, walk.problems),
        Err(_) => {
            // The walk has taken out all that serde refuses; serde's own text could quote a value.
            walk.problems.add(name, "does not have the expected shape");
            (File::default(), walk.problems)
        }
    }
}

struct Walk {
    problems: Problems,
}

impl Walk {
    /// Notes what does not fit and takes it out; `false`: take the value itself out.
    fn keep(&mut self, value: &mut Value, schema: &Value, at: &str) -> bool {
        let forms = forms(schema);
        let Some(form) = forms.iter().find(|form| fits(value, form)) else {
            self.problems.add(at, mismatch(value, schema, &forms));
            return false;
        };
        match value {
            Value::Object(map) => self.keep_mapping(map, form, at),
            Value::Array(items) => return self.keep_list(items, form, at),
            Value::Null => *value = Value::Object(Map::new()),
            _ => {}
        }
        true
    }

    fn keep_mapping(&mut self, map: &mut Map<String, Value>, form: &Value, at: &str) {
        let known = &form["properties"];
        let any = &form["additionalProperties"];
        map.retain(|key, value| {
            let inner = join(at, key);
            let switch = SWITCHES.contains(&key.as_str()) || inner == "store.file";
            if value.is_null() && switch && known.get(key).is_some() {
                let text = "found nothing, where the key alone turns something on; give its settings (`{}` for the defaults), or take it out";
                self.problems.add(inner, text);
                return false;
            }
            if let Some(schema) = known.get(key) {
                // A key without a value (`log:` above comments) is a key that is not there.
                !value.is_null() && self.keep(value, schema, &inner)
            } else if any.is_object() {
                self.keep(value, any, &inner)
            } else {
                self.unknown_key(key, form, at);
                false
            }
        });
    }

    fn keep_list(&mut self, items: &mut [Value], form: &Value, at: &str) -> bool {
        let mut whole = true;
        for (i, item) in items.iter_mut().enumerate() {
            whole &= self.keep(item, &form["items"], &format!("{at}[{i}]"));
        }
        // Dropping one item would shift the numbers of the others in later problems.
        whole
    }

    fn unknown_key(&mut self, key: &str, form: &Value, at: &str) {
        let known: Vec<&str> = properties(form).collect();
        if is_secret(form) {
            let text = format!(
                "unknown key (not shown, it may be a secret); known here: {}",
                known.join(", ")
            );
            self.problems.add(at, text);
            return;
        }
        let hint =
            nearest(key, known.iter().copied()).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        let text = format!("unknown key{hint} (known here: {})", known.join(", "));
        self.problems.add(join(at, key_shown(key)), text);
    }
}

/// Keys whose absence means something else than their defaults.
const SWITCHES: [&str; 4] = ["users", "data_cloud", "cache", "tls"];

/// The forms that a value may have: `$ref` followed, `anyOf` spread, `null` left out.
fn forms(schema: &Value) -> Vec<&Value> {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        return forms(&SCHEMA["$defs"][name]);
    }
    match schema["anyOf"].as_array() {
        Some(any) => any.iter().flat_map(forms).collect(),
        None if schema["type"] == "null" => vec![],
        None => vec![schema],
    }
}

fn fits(value: &Value, form: &Value) -> bool {
    types(form).any(|kind| match kind {
        "string" => value.is_string(),
        "integer" => value.as_i64().is_some(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        // Nothing is an empty mapping.
        "object" => value.is_object() || value.is_null(),
        _ => false,
    })
}

fn types(form: &Value) -> impl Iterator<Item = &str> {
    let one = form["type"].as_str().into_iter();
    let many = form["type"].as_array().into_iter().flatten();
    one.chain(many.filter_map(Value::as_str))
}

fn mismatch(value: &Value, schema: &Value, forms: &[&Value]) -> String {
    let found = match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    };
    let titles = std::iter::once(schema).chain(schema["anyOf"].as_array().into_iter().flatten());
    let expected = titles
        .filter_map(|schema| schema["title"].as_str())
        .next()
        .or_else(|| forms.first().and_then(|form| types(form).find_map(kind_words)))
        .unwrap_or("something else");
    let scalar = value.is_number() || value.is_boolean();
    let hint = if expected == "text" && scalar {
        "; write it in quotes"
    } else {
        ""
    };
    format!("expected {expected}, found {found}{hint}")
}

fn kind_words(kind: &str) -> Option<&'static str> {
    match kind {
        "string" => Some("text"),
        "integer" => Some("a whole number"),
        "boolean" => Some("true or false"),
        "array" => Some("a list"),
        "object" => Some("a mapping (indented `key: value` lines)"),
        _ => None,
    }
}

fn properties(form: &Value) -> impl Iterator<Item = &str> {
    let known = form["properties"].as_object().into_iter().flatten();
    known.map(|(key, _)| key.as_str())
}

fn is_secret(form: &Value) -> bool {
    form["writeOnly"] == true
}

fn join(at: &str, key: &str) -> String {
    match at {
        "" => key.to_owned(),
        _ => format!("{at}.{key}"),
    }
}

/// An unknown key, if it looks like one of ours; otherwise it may be a secret that slipped to the wrong line.
fn key_shown(key: &str) -> &str {
    let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
    match (1..=32).contains(&key.len()) && key.bytes().all(plain) {
        true => key,
        false => "(unusual key)",
    }
}

/// `message` without the words (of four letters or more) that stand in `text`, but for our own keys and YAML's terms.
fn without_words_of(text: &str, message: &str) -> String {
    const TERMS: [&str; 22] = [
        "block",
        "character",
        "column",
        "could",
        "document",
        "duplicate",
        "expected",
        "find",
        "flow",
        "found",
        "invalid",
        "line",
        "mapping",
        "parsing",
        "scalar",
        "scanning",
        "sequence",
        "simple",
        "start",
        "token",
        "value",
        "while",
    ];
    let known = |word: &str| {
        let defs = SCHEMA["$defs"].as_object().into_iter().flatten();
        let forms = defs.map(|(_, form)| form).chain([&*SCHEMA]);
        TERMS.contains(&word) || forms.flat_map(properties).any(|key| key == word)
    };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut kept = String::new();
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let hide = is_word(first) && word.len() > 3 && text.contains(word) && !known(word);
        kept.push_str(if hide { "…" } else { word });
        rest = after;
    }
    kept.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problems(yaml: &str) -> String {
        match parse(yaml, "c.yaml") {
            Ok(tree) => to_file(tree, "c.yaml").1.to_string(),
            Err(problems) => problems.to_string(),
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_path() {
        let table = [
            ("", ""),
            ("log:\n  # level: info\n", ""),
            ("orgs:\n  main:\n", ""),
            ("just text", "c.yaml: expected a mapping (`key: value` lines)"),
            (
                "thread: 2",
                "thread: unknown key; did you mean `threads`? (known here: admin, listeners, log, orgs, reload, replay, shutdown, store, threads, upstream)",
            ),
            (
                "listeners: [{adress: x}]",
                "listeners[0].adress: unknown key; did you mean `address`? (known here: address, allowed_origins, extra_paths, hosts, idle_timeout, insecure_allow_any_caller, local_login, max_connections, org, tls, users)",
            ),
            (
                "log: {requests: no}",
                "log.requests: expected true or false, found text",
            ),
            (
                "log: {level: 3}",
                "log.level: expected text, found a number; write it in quotes",
            ),
            (
                "threads: 1.5",
                "threads: expected `auto` or a whole number, found a number",
            ),
            (
                "threads: 99999999999999999999",
                "threads: expected `auto` or a whole number, found a number",
            ),
            (
                "shutdown: {drain: 25}",
                "shutdown.drain: expected a duration with its unit, such as `500ms`, `90s`, `10m` or `1h30m`, found a number",
            ),
            (
                "replay: {total: 64}",
                "replay.total: expected a size with its unit, such as `64KiB`, `16MiB`, `500MB` or `1GiB`, found a number",
            ),
            (
                "admin: {address: {a: b}}",
                "admin.address: expected an address or a list of addresses, found a mapping",
            ),
            (
                "admin: {address: [1]}",
                "admin.address[0]: expected text, found a number; write it in quotes",
            ),
            (
                "upstream: []",
                "upstream: expected a mapping (indented `key: value` lines), found a list",
            ),
            (
                "orgs: {main: {grant: {client_credentials: {client_secret: 12345678}}}}",
                "orgs.main.grant.client_credentials.client_secret: expected a reference to a secret: `file:/path` or `env:NAME`, found a number",
            ),
            (
                "orgs: {main: {grant: {client_credentials: {client_secret: {hunter2: x}}}}}",
                "orgs.main.grant.client_credentials.client_secret: unknown key (not shown, it may be a secret); known here: env, file",
            ),
            (
                "\"a b\": 1",
                "(unusual key): unknown key (known here: admin, listeners, log, orgs, reload, replay, shutdown, store, threads, upstream)",
            ),
        ];
        for (yaml, expected) in table {
            assert_eq!(problems(yaml), expected, "{yaml}");
        }
    }

    #[test]
    fn every_misfit_is_told_at_once() {
        let text = problems("thread: 1\nlog: {level: 3, x: 1}\nupstream: []\nadmin: {address: [1]}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn unreadable_yaml_names_the_line_and_quotes_nothing() {
        let table = [
            "orgs:\n  main: {client_secret: *hunter2canary}",
            "orgs:\n  main: {client_secret: @hunter2canary}",
            "orgs:\n  main: {client_secret: !hunter2canary!x y}",
            "orgs:\n  client_secret: hunter2canary: x",
            "orgs:\n  client_secret: \"hunter2canary",
            "hunter2canary: 1\nhunter2canary: 2",
            "client_secret: \"hunter2canary\\q\"",
            "a: b\n\thunter2canary",
            "client_secret: [hunter2canary\nx: y",
        ];
        for yaml in table {
            let text = problems(yaml);
            assert!(text.contains("c.yaml line "), "{yaml} -> {text}");
            assert!(!text.contains("hunter2canary"), "{yaml} -> {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        assert_eq!(
            problems("threads: 1\nthreads: 2"),
            "c.yaml line 2 column 1: not readable as YAML: duplicate mapping key: threads"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(orgs|main|listeners|[-:{}\\[\\]&*!|>'\"#,? \n\t]|\\PC){0,40}") {
            let _ = problems(&text);
        }

        #[test]
        fn a_message_keeps_no_long_word_of_the_file(
            before in "[a-z :\n{}\"'*&!|-]{0,12}", after in "[a-z :\n{}\"'*&!|-]{0,12}"
        ) {
            let text = problems(&format!("client_secret: {before}hunter2canary{after}"));
            prop_assert!(!text.contains("hunter2"), "{}", text);
        }
    }
}
