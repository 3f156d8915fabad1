//! Tables for the environment form, the mixing rule and egress proxies.

use proptest::prelude::*;

use super::*;
use crate::config::{Config, from_env, from_yaml};

const URL: (&str, &str) = ("SFPROXY_LOGIN_URL", "https://acme.my.salesforce.com");
const ID: (&str, &str) = ("SFPROXY_CLIENT_ID", "id");
const SECRET: (&str, &str) = ("SFPROXY_CLIENT_SECRET_FILE", "/s");

const FILE: &str = "
orgs:
  main:
    login_url: https://acme.my.salesforce.com
    grant: {client_credentials: {client_id: id, client_secret: 'env:SFPROXY_MY_SECRET'}}
";

fn vars(pairs: &[(&str, &str)]) -> Vars {
    Vars(
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    )
}

/// A good environment and more.
fn and(more: &[(&str, &str)]) -> Vars {
    vars(&[&[URL, ID, SECRET], more].concat())
}

fn told(result: Result<Config, Problems>) -> String {
    result.map_or_else(|problems| problems.to_string(), |_| String::new())
}

#[test]
fn three_variables_are_enough() {
    let config = from_env(&and(&[])).unwrap();
    let yaml = config.to_yaml();
    assert!(yaml.contains("client_secret: file:/s\n"), "{yaml}");
    assert!(yaml.contains("  main:\n"), "{yaml}");
    let jwt = [URL, ID, ("SFPROXY_PRIVATE_KEY_FILE", "/k"), ("SFPROXY_USERNAME", "u@x")];
    let yaml = from_env(&vars(&jwt)).unwrap().to_yaml();
    assert!(
        yaml.contains("private_key: file:/k\n") && yaml.contains("client_id: id\n"),
        "{yaml}"
    );
    let here = [URL, ID, ("SFPROXY_CLIENT_SECRET", "hunter2"), ("SFPROXY_ORG", "dev")];
    let config = from_env(&vars(&here)).unwrap();
    let yaml = config.to_yaml();
    assert!(
        yaml.contains("client_secret: env:SFPROXY_CLIENT_SECRET\n") && yaml.contains("  dev:\n"),
        "{yaml}"
    );
    assert!(!format!("{yaml}{config:?}{:?}", vars(&here)).contains("hunter2"));
}

/// A good value for each variable, other than the default.
fn another(name: &str) -> &'static str {
    match name {
        "SFPROXY_LOGIN_URL" | "SFPROXY_INSTANCE_URL" => "https://b.my.salesforce.com",
        "SFPROXY_CALLBACK_URL" => "http://localhost:5/cb",
        "SFPROXY_SF_ORG" => "dev",
        "SFPROXY_API_HOST" => "platform",
        "SFPROXY_DATASPACE" => "sales",
        "SFPROXY_INTROSPECT" | "SFPROXY_KEEP_ALIVE" => "true",
        "SFPROXY_STORE_DIRECTORY" => "/other",
        name if name.ends_with("_FILE") && name != "SFPROXY_CA_FILE" => "/other",
        "SFPROXY_USERNAME" => "other@x",
        "SFPROXY_AUDIENCE" => "https://aud.example",
        "SFPROXY_CLIENT_SECRET" => "hunter2",
        "SFPROXY_SEND_SECRET" => "body",
        "SFPROXY_CLIENT_ID" => "other",
        "SFPROXY_LISTEN" => "127.0.0.1:1, [::1]:2",
        "SFPROXY_ADMIN_LISTEN" => "0.0.0.0:3",
        "SFPROXY_HOSTS" => "a.example,b.example",
        "SFPROXY_ALLOWED_ORIGINS" => "https://a.example",
        "SFPROXY_EXTRA_PATHS" => "/x/,/y",
        "SFPROXY_INSECURE_ALLOW_ANY_CALLER" | "SFPROXY_LOG_REQUESTS" | "SFPROXY_HTTP2" | "SFPROXY_QUIT_ENDPOINT" => {
            "true"
        }
        "SFPROXY_LOCAL_LOGIN" | "SFPROXY_STARTUP_HOLDS_ON_REFUSAL" => "false",
        "SFPROXY_THREADS" => "7",
        "SFPROXY_CA_FILE" => "/ca.pem",
        "SFPROXY_REPLAY_MAX_BODY" => "1MiB",
        "SFPROXY_REPLAY_TOTAL" => "100MiB",
        "SFPROXY_LOG_FORMAT" => "json",
        "SFPROXY_LOG_LEVEL" => "debug",
        "SFPROXY_PUB_SUB_ENDPOINT" => "https://api.deu.pubsub.salesforce.com",
        "SFPROXY_CACHE_MAX_SIZE" | "SFPROXY_CACHE_MAX_ENTRY" => "2MiB",
        "SFPROXY_CACHE_PATHS" => "/services/data/*/theme",
        name if SETTINGS.iter().any(|s| s.name == name && s.kind == Kind::Number) => "7",
        _ => "7s",
    }
}

#[test]
fn every_variable_counts_and_every_setting_has_one() {
    let mut visited = 0;
    for setting in settings() {
        // Each with the grants that it may be of.
        let any: &[&str] = &["client_credentials"];
        let grants = if setting.grants.is_empty() { any } else { setting.grants };
        for grant in grants {
            counts(setting, grant);
            visited += 1;
        }
    }
    assert!(visited > SETTINGS.len() - 2, "{visited}");
}

/// What each grant needs from the environment beside the login URL and the client's id.
fn needs(grant: &str) -> Vec<(&'static str, &'static str)> {
    match grant {
        "client_credentials" => vec![SECRET],
        "jwt_bearer" => vec![("SFPROXY_PRIVATE_KEY_FILE", "/k"), ("SFPROXY_USERNAME", "u@x")],
        "refresh_token" => vec![("SFPROXY_REFRESH_TOKEN_FILE", "/r")],
        "password" => vec![("SFPROXY_PASSWORD_FILE", "/p"), ("SFPROXY_USERNAME", "u@x"), SECRET],
        "static" => vec![("SFPROXY_ACCESS_TOKEN_FILE", "/t"), ("SFPROXY_INSTANCE_URL", URL.1)],
        "command" => vec![("SFPROXY_SF_ORG", "main")],
        other => panic!("no variable tells of {other}"),
    }
}

fn counts(setting: &Setting, grant: &str) {
    let mut pairs = match grant {
        "static" | "command" => vec![],
        _ => vec![URL, ID],
    };
    pairs.extend(needs(grant));
    // One of the two forms of one key.
    let rivals: &[&str] = match setting.name {
        "SFPROXY_CLIENT_SECRET" => &["SFPROXY_CLIENT_SECRET_FILE"],
        "SFPROXY_PRIVATE_KEY_FILE" if grant == "refresh_token" => &["SFPROXY_CLIENT_SECRET_FILE"],
        _ => &[],
    };
    pairs.retain(|(name, _)| !rivals.contains(name));
    if setting.name == "SFPROXY_SEND_SECRET" && grant == "refresh_token" {
        pairs.push(SECRET);
    }
    if setting.name == "SFPROXY_STORE_DIRECTORY" {
        pairs.push(("SFPROXY_STORE_KEY_FILE", "/key"));
    }
    if setting.name == "SFPROXY_STORE_KEY_FILE" {
        pairs.push(("SFPROXY_STORE_DIRECTORY", "/folder"));
    }
    let place = setting.path.replace('*', "main").replace('?', grant).replace('.', "/");
    let place = format!("/{place}");
    let before = from_env(&vars(&pairs))
        .map(|config| config.to_json())
        .unwrap_or_default();
    pairs.retain(|(name, _)| *name != setting.name);
    let value = match setting.name {
        "SFPROXY_TOKEN_LIFETIME" | "SFPROXY_RESPONSE_TIMEOUT" => "7m",
        "SFPROXY_SEND_SECRET" if grant != "client_credentials" => "basic",
        name => another(name),
    };
    pairs.push((setting.name, value));
    let after = from_env(&vars(&pairs)).unwrap_or_else(|problems| panic!("{problems}"));
    let after = after.to_json();
    let (before, after) = (before.pointer(&place), after.pointer(&place));
    assert!(
        after.is_some() && before != after,
        "{} does not change {place}",
        setting.name
    );
}

#[test]
fn every_file_setting_has_a_variable() {
    let file = from_env(&and(&[("SFPROXY_INSTANCE_URL", URL.1), ("SFPROXY_CA_FILE", "/c")]))
        .unwrap()
        .to_json();
    let mut paths = vec![];
    leaves(&file, String::new(), &mut paths);
    assert!(paths.len() > 30, "{paths:?}");
    for path in paths {
        let path = path.replace("orgs.main", "orgs.*");
        let special = path == "listeners.0.org";
        assert!(
            special || settings().any(|setting| is_of(setting, &path)),
            "no variable for {path}"
        );
    }
}

fn is_of(setting: &Setting, path: &str) -> bool {
    let mut grants = setting.grants.iter();
    setting.path == path || grants.any(|grant| setting.path.replace('?', grant) == path)
}

fn leaves(value: &Value, path: String, found: &mut Vec<String>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| leaves(value, join(key), found)),
        Value::Array(items) if items.first().is_some_and(Value::is_object) => leaves(&items[0], join("0"), found),
        _ => found.push(path),
    }
}

#[test]
fn problems_name_the_variable() {
    let grant = "SFPROXY_CLIENT_SECRET_FILE: expected this, or SFPROXY_PRIVATE_KEY_FILE and SFPROXY_USERNAME, or a variable of another grant (the README lists them), found none of them";
    let table = [
        (and(&[]), ""),
        (
            vars(&[]),
            "configuration: none given: use --config FILE or SFPROXY_CONFIG, or for one org without a file set SFPROXY_LOGIN_URL, SFPROXY_CLIENT_ID and SFPROXY_CLIENT_SECRET_FILE (or SFPROXY_PRIVATE_KEY_FILE and SFPROXY_USERNAME; or SFPROXY_SF_ORG alone)",
        ),
        (vars(&[URL]), grant),
        (
            vars(&[ID, SECRET]),
            "SFPROXY_LOGIN_URL: expected the org's My Domain URL, such as `https://acme.my.salesforce.com`, found nothing",
        ),
        (
            vars(&[URL, ID, SECRET, ("SFPROXY_CLIENT_ID", " ")]),
            "SFPROXY_CLIENT_ID: expected the consumer key of the app, found nothing",
        ),
        (
            vars(&[URL, ID, ("SFPROXY_USERNAME", "u@x")]),
            "SFPROXY_PRIVATE_KEY_FILE: expected a reference: `file:/run/secrets/sf/key.pem` or `env:NAME`, found nothing",
        ),
        (
            vars(&[
                URL,
                ID,
                ("SFPROXY_PRIVATE_KEY_FILE", "-----BEGIN hunter2"),
                ("SFPROXY_USERNAME", "bob"),
            ]),
            "SFPROXY_USERNAME: expected a Salesforce user name in the form of an e-mail address, found `bob`\nSFPROXY_PRIVATE_KEY_FILE: expected the path of a file, found its content (not shown)",
        ),
        (
            and(&[("SFPROXY_CLIENT_SECRET", "hunter2")]),
            "SFPROXY_CLIENT_SECRET: set beside SFPROXY_CLIENT_SECRET_FILE; unset one of them",
        ),
        (
            and(&[("SFPROXY_USERNAME", "u@x"), ("SFPROXY_PRIVATE_KEY_FILE", "/k")]),
            "SFPROXY_CLIENT_SECRET_FILE: set beside SFPROXY_PRIVATE_KEY_FILE or SFPROXY_USERNAME; choose client credentials or the JWT bearer grant and unset the variables of the other",
        ),
        (
            and(&[("SFPROXY_AUDIENCE", "https://x")]),
            "SFPROXY_AUDIENCE: does not count with the client_credentials grant, which SFPROXY_CLIENT_SECRET_FILE chooses; unset one of them",
        ),
        (
            and(&[("SFPROXY_ACCESS_TOKEN_FILE", "/t"), ("SFPROXY_INSTANCE_URL", URL.1)]),
            "SFPROXY_CLIENT_SECRET_FILE: does not count with the static grant, which SFPROXY_ACCESS_TOKEN_FILE chooses; unset one of them\n\
             SFPROXY_CLIENT_ID: does not count with the static grant, which SFPROXY_ACCESS_TOKEN_FILE chooses; unset one of them",
        ),
        (
            vars(&[("SFPROXY_SF_ORG", "dev"), ("SFPROXY_PASSWORD_FILE", "/p")]),
            "SFPROXY_PASSWORD_FILE: does not count with the command grant, which SFPROXY_SF_ORG chooses; unset one of them",
        ),
        (
            vars(&[("SFPROXY_SF_ORG", "--help")]),
            "SFPROXY_SF_ORG: expected an alias or user name that `sf` knows, found `--help`",
        ),
        (
            vars(&[("SFPROXY_ACCESS_TOKEN_FILE", "/t")]),
            "SFPROXY_INSTANCE_URL: expected the org's URL, such as `https://acme.my.salesforce.com`, found nothing; the grant static tells none",
        ),
        (
            vars(&[URL, ID, ("SFPROXY_PASSWORD_FILE", "/p"), SECRET]),
            "SFPROXY_USERNAME: expected a Salesforce user name, such as `integration@acme.example`, found nothing",
        ),
        (
            vars(&[
                URL,
                ID,
                SECRET,
                ("SFPROXY_REFRESH_TOKEN_FILE", "/r"),
                ("SFPROXY_USERNAME", "u@x"),
            ]),
            "SFPROXY_USERNAME: does not count with the refresh_token grant, which SFPROXY_REFRESH_TOKEN_FILE chooses; unset one of them",
        ),
        (and(&[("SFPROXY_CALLBACK_URL", "http://localhost:1717/cb")]), ""),
        (
            and(&[("SFPROXY_STORE_DIRECTORY", "/d")]),
            "SFPROXY_STORE_KEY_FILE: expected a reference: `file:/run/secrets/sf/store-key` or `env:NAME`, found nothing",
        ),
        (
            and(&[("SFPROXY_REFRESH_TOKEN_FILE", "/r"), ("SFPROXY_PRIVATE_KEY_FILE", "/k")]),
            "SFPROXY_REFRESH_TOKEN_FILE: expected client_secret or private_key or neither, found both; Salesforce would not read the key's proof",
        ),
        (
            and(&[("SFPROXY_DATASPACE", "sales"), ("SFPROXY_API_HOST", "platform")]),
            "SFPROXY_DATASPACE: works with `api.host: instance` only, found `platform`; take one of them out",
        ),
        (
            and(&[("SFPROXY_DATASPACE", "a b")]),
            "SFPROXY_DATASPACE: expected the API name of a dataspace (A-Z, a-z, 0-9, _), found `a b`",
        ),
        (
            and(&[("SFPROXY_ORG", "My Org")]),
            "SFPROXY_ORG: expected a name of 1 to 63 of a-z, 0-9, - and _, found `My Org`",
        ),
        (
            and(&[("SFPROXY_THREADS", "two")]),
            "SFPROXY_THREADS: expected auto or 1 to 64, found `two`",
        ),
        (
            and(&[("SFPROXY_THREADS", "65")]),
            "SFPROXY_THREADS: expected 1 to 64, found 65",
        ),
        (
            and(&[("SFPROXY_LOG_REQUESTS", "yes")]),
            "SFPROXY_LOG_REQUESTS: expected true or false, found `yes`",
        ),
        (
            and(&[("SFPROXY_DRAIN", "25")]),
            "SFPROXY_DRAIN: expected a duration, found `25`: add a unit: h, m, s or ms",
        ),
        (
            and(&[("SFPROXY_LISTEN", "localhost:1,foo")]),
            "SFPROXY_LISTEN: expected localhost:PORT, *:PORT (every address), IP:PORT or [IPv6]:PORT, found `foo`; names other than localhost are not taken",
        ),
        (
            and(&[("SFPROXY_LISTEN", ",")]),
            "SFPROXY_LISTEN: expected at least one address, found an empty list",
        ),
        (
            and(&[("SFPROXY_HOSTS", "a,b:80")]),
            "SFPROXY_HOSTS: expected a host name without scheme, port or wildcard, found `b:80`",
        ),
        (
            and(&[("SFPROXY_LOGINURL", "hunter2")]),
            "SFPROXY_LOGINURL: unknown variable; did you mean SFPROXY_LOGIN_URL?",
        ),
        (
            and(&[("SFPROXY_WHATEVER_ELSE", "hunter2")]),
            "SFPROXY_WHATEVER_ELSE: unknown variable; the README lists the variables",
        ),
        (and(&[("SFPROXY_LOGINURL", "")]), ""),
        (
            and(&[
                ("SFPROXY_SERVICE_HOST", "10.0.0.1"),
                ("SFPROXY_PORT", "tcp://10.0.0.1:8080"),
                ("SFPROXY_SERVICE_PORT_HTTP", "1"),
                ("SFPROXY_PORT_8080_TCP_ADDR", "10.0.0.1"),
                ("SF_TOKEN_PROXY_PORT", "x"),
            ]),
            "",
        ),
        (
            and(&[("HTTPS_PROXY", "https://u:hunter2@p:1")]),
            "HTTPS_PROXY: only http:// proxies are supported (the call inside stays TLS); use one, or exempt Salesforce with NO_PROXY",
        ),
        (
            and(&[("https_proxy", "http://u:hunter2@p:1/x")]),
            "https_proxy: expected `http://[user:password@]host:port`, found something else (not shown: it may hold a password)",
        ),
    ];
    for (vars, expected) in table {
        let text = told(from_env(&vars));
        assert_eq!(text, expected, "{vars:?}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn beside_a_file_only_the_machines_variables_count() {
    let with = |more: &[(&str, &str)]| from_yaml(FILE, "c.yaml", &vars(more));
    let config = with(&[
        ("SFPROXY_LISTEN", "127.0.0.1:1"),
        ("SFPROXY_ADMIN_LISTEN", "127.0.0.1:2"),
        ("SFPROXY_LOG_LEVEL", "debug"),
        ("SFPROXY_LOG_FORMAT", "json"),
        ("SFPROXY_LOG_REQUESTS", "true"),
        ("SFPROXY_THREADS", "2"),
        ("SFPROXY_MY_SECRET", "hunter2"),
    ])
    .unwrap();
    assert_eq!(config.listeners[0].addresses, ["127.0.0.1:1".parse().unwrap()]);
    assert_eq!(config.admin.addresses, ["127.0.0.1:2".parse().unwrap()]);
    assert_eq!(
        (config.log.level.as_str(), config.log.requests, config.threads),
        ("debug", true, crate::config::Threads::Fixed(2))
    );

    assert_eq!(
        told(with(&[
            URL,
            ("SFPROXY_DRAIN", "1s"),
            ("SFPROXY_ORG", "x"),
            ("SFPROXY_HOSTS", "a")
        ])),
        "SFPROXY_LOGIN_URL: does not count beside a configuration file: the file wins; unset it and write orgs.NAME.login_url there\n\
         SFPROXY_HOSTS: does not count beside a configuration file: the file wins; unset it and write listeners[0].hosts there\n\
         SFPROXY_DRAIN: does not count beside a configuration file: the file wins; unset it and write shutdown.drain there\n\
         SFPROXY_ORG: does not count beside a configuration file: the file names the org; unset it"
    );
    assert_eq!(
        told(with(&[("SFPROXY_THREADS", "0")])),
        "SFPROXY_THREADS: expected 1 to 64, found 0"
    );
    let two = format!("{FILE}listeners: [{{}}, {{address: 'localhost:1'}}]");
    assert_eq!(
        told(from_yaml(&two, "c.yaml", &vars(&[("SFPROXY_LISTEN", "127.0.0.1:1")]))),
        "SFPROXY_LISTEN: the file has 2 listeners, so it is not clear which is meant; unset it and write listeners[…].address there"
    );
    // A variable that the file refers to is the file's business, whatever its name.
    let own = FILE.replace("SFPROXY_MY_SECRET", "SFPROXY_CLIENT_SECRET");
    assert_eq!(
        told(from_yaml(
            &own,
            "c.yaml",
            &vars(&[("SFPROXY_CLIENT_SECRET", "hunter2")])
        )),
        ""
    );
    // An override does not hide that the file is no mapping.
    assert_eq!(
        told(from_yaml("just text", "c.yaml", &vars(&[("SFPROXY_THREADS", "2")]))),
        told(from_yaml("just text", "c.yaml", &vars(&[])))
    );
}

#[test]
fn egress_proxies_are_read_as_curl_does() {
    let of = |pairs: &[(&str, &str)]| egress_proxy(&vars(pairs)).unwrap();
    assert_eq!(of(&[]).https, None);
    assert_eq!(
        of(&[("HTTPS_PROXY", "proxy:3128")]).https.as_deref(),
        Some("http://proxy:3128")
    );
    assert_eq!(
        of(&[("HTTPS_PROXY", "http://u:p@proxy:3128/")]).https.as_deref(),
        Some("http://u:p@proxy:3128")
    );
    let both = of(&[
        ("HTTPS_PROXY", "a:1"),
        ("https_proxy", "b:1"),
        ("NO_PROXY", "x"),
        ("no_proxy", "y"),
    ]);
    assert_eq!(
        (both.https.as_deref(), both.no_proxy.as_deref()),
        (Some("http://b:1"), Some("y"))
    );
    assert_eq!(of(&[("HTTP_PROXY", "a:1"), ("ALL_PROXY", "a:1")]).https, None);
    for bad in [
        "https://p:1",
        "socks5://p:1",
        "http://",
        "http://p/x",
        "p q",
        "file:///x",
    ] {
        assert!(egress_proxy(&vars(&[("HTTPS_PROXY", bad)])).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_value_panics_or_shows_a_secret(index in 0..SETTINGS.len(), text in "[!-~]{0,10}", name in "SFPROXY_[A-Z_]{0,10}") {
        let canary = format!("Canary7f3e{text}");
        let setting = SETTINGS[index].name;
        let _ = from_env(&and(&[(setting, &canary), (&name, &canary)]));
        let secret = vars(&[URL, ID, ("SFPROXY_CLIENT_SECRET", &canary), ("HTTPS_PROXY", &format!("ftp://u:{canary}@p")), (&name, "x")]);
        let shown = format!("{secret:?} {}", told(from_env(&secret)));
        prop_assert!(!shown.contains("Canary7f3e"), "{}", shown);
    }
}
