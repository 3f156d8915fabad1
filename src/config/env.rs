//! The environment's form of the configuration.
//!
//! The usual settings of one org have a variable, so that a container needs no file (`SETTINGS`; other clouds, token exchange and SAML
//! need one). They are put into the same
//! tree that a file gives, and one check serves both; problems then name the variable.
//!
//! Mixing: beside a file, `SFPROXY_LISTEN`, `SFPROXY_ADMIN_LISTEN`, `SFPROXY_LOG_*` and `SFPROXY_THREADS` override the
//! file (they belong to the machine); any other is an error, since one of two places would be ignored in silence.
//! An empty variable is as good as none.
//! Of the rest of the environment only `HTTPS_PROXY` and `NO_PROXY` matter, and what `env:` references name.
//!
//! Invariants: pure over [`Vars`]; a value is never quoted when it may hold a secret.
//! Fails with: unknown `SFPROXY_…` names, values of the wrong kind, contradictions.
//! Source: `design.md` §9; `kubernetes.md` §3 (service links).

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value, json};

use super::{
    EgressProxy,
    problem::{Problems, nearest, shown},
};

/// The environment. `Debug` shows names only.
#[derive(Clone, Default)]
pub struct Vars(BTreeMap<String, String>);

impl Vars {
    /// Of this process. What is not Unicode comes with replacement characters, which no setting takes.
    pub fn of_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self(
            std::env::vars_os()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
        )
    }

    /// The value, unless it is empty.
    pub fn value(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.0.keys().map(String::as_str);
        names.filter(|name| self.value(name).is_some())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Vars {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(pairs.map(|(name, value)| (name.into(), value.into())).into())
    }
}

impl fmt::Debug for Vars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// How the text of a variable becomes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Separated by commas.
    List,
    Number,
    /// A whole number, or a word in its place.
    NumberOrWord,
    Bool,
    /// The path of a file that holds a secret.
    SecretPath,
    /// The variable itself holds the secret.
    SecretHere,
    /// An org that the Salesforce CLI knows, by its alias.
    SfOrg,
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    name: &'static str,
    /// Key path; `*` stands for the org's name, `?` for the grant, `0` for the first listener.
    path: &'static str,
    kind: Kind,
    /// The grants that it may be of.
    grants: &'static [&'static str],
}

const fn setting(name: &'static str, path: &'static str, kind: Kind) -> Setting {
    Setting {
        name,
        path,
        kind,
        grants: &[],
    }
}

const fn of_grants(grants: &'static [&'static str], name: &'static str, path: &'static str, kind: Kind) -> Setting {
    Setting {
        name,
        path,
        kind,
        grants,
    }
}

/// The grants by the variables that tell of them: the first that is set decides. The secret comes last because it goes
/// with others as well.
const TELLING: [(&str, &[&str]); 6] = [
    ("static", &["SFPROXY_ACCESS_TOKEN_FILE"]),
    ("command", &["SFPROXY_SF_ORG"]),
    ("refresh_token", &["SFPROXY_REFRESH_TOKEN_FILE", "SFPROXY_CALLBACK_URL"]),
    ("password", &["SFPROXY_PASSWORD_FILE", "SFPROXY_SECURITY_TOKEN_FILE"]),
    ("jwt_bearer", &["SFPROXY_PRIVATE_KEY_FILE", "SFPROXY_USERNAME"]),
    (
        "client_credentials",
        &["SFPROXY_CLIENT_SECRET_FILE", "SFPROXY_CLIENT_SECRET"],
    ),
];

/// Names the configuration file; `--config` goes first.
pub const CONFIG: &str = "SFPROXY_CONFIG";
const ORG: &str = "SFPROXY_ORG";

/// Variables that override a file.
const BESIDE_A_FILE: [&str; 6] = [
    "SFPROXY_LISTEN",
    "SFPROXY_ADMIN_LISTEN",
    "SFPROXY_LOG_FORMAT",
    "SFPROXY_LOG_LEVEL",
    "SFPROXY_LOG_REQUESTS",
    "SFPROXY_THREADS",
];

const SETTINGS: [Setting; 63] = {
    use Kind::{Bool, List, Number, NumberOrWord, SecretHere, SecretPath, SfOrg, Text};
    /// Those with the app's secret.
    const WITH_SECRET: &[&str] = &["client_credentials", "refresh_token", "password"];
    [
        setting("SFPROXY_LOGIN_URL", "orgs.*.login_url", Text),
        setting("SFPROXY_INSTANCE_URL", "orgs.*.instance_url", Text),
        // The grant is told by which of its variables are set; see `TELLING`.
        of_grants(
            &["jwt_bearer", "refresh_token"],
            "SFPROXY_PRIVATE_KEY_FILE",
            "orgs.*.grant.?.private_key",
            SecretPath,
        ),
        of_grants(
            &["jwt_bearer", "password"],
            "SFPROXY_USERNAME",
            "orgs.*.grant.?.username",
            Text,
        ),
        of_grants(&["jwt_bearer"], "SFPROXY_AUDIENCE", "orgs.*.grant.?.audience", Text),
        of_grants(
            WITH_SECRET,
            "SFPROXY_CLIENT_SECRET_FILE",
            "orgs.*.grant.?.client_secret",
            SecretPath,
        ),
        of_grants(
            WITH_SECRET,
            "SFPROXY_CLIENT_SECRET",
            "orgs.*.grant.?.client_secret",
            SecretHere,
        ),
        of_grants(WITH_SECRET, "SFPROXY_SEND_SECRET", "orgs.*.grant.?.send_secret", Text),
        of_grants(
            &["refresh_token"],
            "SFPROXY_REFRESH_TOKEN_FILE",
            "orgs.*.grant.?.refresh_token",
            SecretPath,
        ),
        of_grants(
            &["refresh_token"],
            "SFPROXY_CALLBACK_URL",
            "orgs.*.grant.?.login.callback_url",
            Text,
        ),
        of_grants(
            &["password"],
            "SFPROXY_PASSWORD_FILE",
            "orgs.*.grant.?.password",
            SecretPath,
        ),
        of_grants(
            &["password"],
            "SFPROXY_SECURITY_TOKEN_FILE",
            "orgs.*.grant.?.security_token",
            SecretPath,
        ),
        of_grants(
            &["static"],
            "SFPROXY_ACCESS_TOKEN_FILE",
            "orgs.*.grant.?.access_token",
            SecretPath,
        ),
        of_grants(&["command"], "SFPROXY_SF_ORG", "orgs.*.grant.?.run", SfOrg),
        of_grants(
            &["client_credentials", "jwt_bearer", "refresh_token", "password"],
            CLIENT_ID,
            "orgs.*.grant.?.client_id",
            Text,
        ),
        setting("SFPROXY_API_HOST", "orgs.*.api.host", Text),
        setting("SFPROXY_DATASPACE", "orgs.*.data_cloud.dataspace", Text),
        setting("SFPROXY_PUB_SUB_ENDPOINT", "orgs.*.pub_sub.endpoint", Text),
        setting("SFPROXY_CACHE_TTL", "orgs.*.cache.ttl", Text),
        setting("SFPROXY_CACHE_MAX_SIZE", "orgs.*.cache.max_size", Text),
        setting("SFPROXY_CACHE_MAX_ENTRY", "orgs.*.cache.max_entry", Text),
        setting("SFPROXY_CACHE_PATHS", "orgs.*.cache.paths", List),
        setting("SFPROXY_INTROSPECT", "orgs.*.token.introspect", Bool),
        setting("SFPROXY_KEEP_ALIVE", "orgs.*.token.keep_alive", Bool),
        setting("SFPROXY_STORE_DIRECTORY", "store.file.directory", Text),
        setting("SFPROXY_STORE_KEY_FILE", "store.file.key", SecretPath),
        setting("SFPROXY_TOKEN_LIFETIME", "orgs.*.token.lifetime", Text),
        setting("SFPROXY_REFRESH_WAIT", "orgs.*.token.refresh_wait", Text),
        setting("SFPROXY_COOL_DOWN", "orgs.*.token.cool_down", Text),
        setting("SFPROXY_MAX_WAITERS", "orgs.*.token.max_waiters", Number),
        setting("SFPROXY_EXCHANGE_TIMEOUT", "orgs.*.token.exchange_timeout", Text),
        setting("SFPROXY_LOGIN_BURST", "orgs.*.login_budget.burst", Number),
        setting("SFPROXY_LOGINS_PER_MINUTE", "orgs.*.login_budget.per_minute", Number),
        setting("SFPROXY_LISTEN", "listeners.0.address", List),
        setting("SFPROXY_HOSTS", "listeners.0.hosts", List),
        setting("SFPROXY_ALLOWED_ORIGINS", "listeners.0.allowed_origins", List),
        setting("SFPROXY_EXTRA_PATHS", "listeners.0.extra_paths", List),
        setting("SFPROXY_LOCAL_LOGIN", "listeners.0.local_login", Bool),
        setting(
            "SFPROXY_INSECURE_ALLOW_ANY_CALLER",
            "listeners.0.insecure_allow_any_caller",
            Bool,
        ),
        setting("SFPROXY_MAX_CONNECTIONS", "listeners.0.max_connections", Number),
        setting("SFPROXY_IDLE_TIMEOUT", "listeners.0.idle_timeout", Text),
        setting("SFPROXY_ADMIN_LISTEN", "admin.address", List),
        setting("SFPROXY_STARTUP_PATIENCE", "admin.startup_patience", Text),
        setting(
            "SFPROXY_STARTUP_HOLDS_ON_REFUSAL",
            "admin.startup_holds_on_refusal",
            Bool,
        ),
        setting("SFPROXY_QUIT_ENDPOINT", "admin.quit_endpoint", Bool),
        setting("SFPROXY_CONNECT_TIMEOUT", "upstream.connect_timeout", Text),
        setting("SFPROXY_RESPONSE_TIMEOUT", "upstream.response_timeout", Text),
        setting("SFPROXY_BODY_IDLE_TIMEOUT", "upstream.body_idle_timeout", Text),
        setting("SFPROXY_POOL_IDLE_TIMEOUT", "upstream.pool_idle_timeout", Text),
        setting("SFPROXY_POOL_MAX_IDLE", "upstream.pool_max_idle", Number),
        setting("SFPROXY_HTTP2", "upstream.http2", Bool),
        setting("SFPROXY_CA_FILE", "upstream.ca_file", Text),
        setting("SFPROXY_REPLAY_MAX_BODY", "replay.max_body", Text),
        setting("SFPROXY_REPLAY_TOTAL", "replay.total", Text),
        setting("SFPROXY_SHUTDOWN_DELAY", "shutdown.delay", Text),
        setting("SFPROXY_DRAIN", "shutdown.drain", Text),
        setting("SFPROXY_LOG_FORMAT", "log.format", Text),
        setting("SFPROXY_LOG_LEVEL", "log.level", Text),
        setting("SFPROXY_LOG_REQUESTS", "log.requests", Bool),
        setting("SFPROXY_RELOAD_INTERVAL", "reload.interval", Text),
        setting("SFPROXY_THREADS", "threads", NumberOrWord),
        // Special ones, listed so that they are known.
        setting(CONFIG, "", Text),
        setting(ORG, "", Text),
    ]
};

const CLIENT_ID: &str = "SFPROXY_CLIENT_ID";

/// A variable as the documentation lists it.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    pub name: &'static str,
    /// The key path it sets: `*` stands for the org's name, `?` for the grant, `0` for the first listener; empty for
    /// those that set no key.
    pub path: &'static str,
    /// What `?` may stand for.
    pub grants: &'static [&'static str],
    /// Whether it overrides a file.
    pub beside_a_file: bool,
}

/// Every variable of this program's own.
pub fn variables() -> impl Iterator<Item = Variable> {
    SETTINGS.iter().map(|setting| Variable {
        name: setting.name,
        path: setting.path,
        grants: setting.grants,
        beside_a_file: BESIDE_A_FILE.contains(&setting.name),
    })
}

/// The tree of settings, and which variable stands for which key path.
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) problems: Problems,
    names: Vec<(String, &'static str)>,
    /// Key paths that are the variable's, what lies inside them not.
    exact: Vec<(String, &'static str)>,
}

impl Tree {
    /// One org, from the environment alone.
    pub(super) fn of_one_org(vars: &Vars) -> Self {
        let org = vars.value(ORG).unwrap_or("main").to_owned();
        let mut tree = Self::over(json!({ "orgs": { &org: {} }, "listeners": [{}] }));
        tree.unknown(vars, &[]);
        let (grant, culprit) = tree.grant(vars, &org);
        for setting in settings() {
            let path = setting.path.replace('*', &org).replace('?', grant);
            if setting.grants.is_empty() || setting.grants.contains(&grant) {
                tree.take(vars, setting, &path);
            } else if vars.value(setting.name).is_some() {
                let text = format!("does not count with the {grant} grant, which {culprit} chooses; unset one of them");
                tree.problems.add(setting.name, text);
            }
        }
        tree.exact = vec![
            (format!("orgs.{org}"), ORG),
            (format!("orgs.{org}.grant"), culprit),
            (format!("orgs.{org}.grant.{grant}"), culprit),
            (format!("orgs.{org}.data_cloud"), "SFPROXY_DATASPACE"),
            (format!("orgs.{org}.cache"), "SFPROXY_CACHE_TTL"),
        ];
        tree
    }

    /// A file's tree, with the variables that may override it.
    pub(super) fn over_file(value: Value, vars: &Vars) -> Self {
        let mut tree = Self::over(value);
        let mut references = vec![];
        env_references(&tree.value, &mut references);
        tree.unknown(vars, &references);
        // Anything else is reported as it stands.
        let overridable = tree.value.is_object() || tree.value.is_null();
        for setting in settings() {
            if BESIDE_A_FILE.contains(&setting.name) {
                if overridable {
                    tree.override_file(vars, setting);
                }
            } else if vars.value(setting.name).is_some() && !references.iter().any(|r| r == setting.name) {
                let text = format!(
                    "does not count beside a configuration file: the file wins; unset it and write {} there",
                    setting
                        .path
                        .replace('*', "NAME")
                        .replace('?', "…")
                        .replace("listeners.0", "listeners[0]")
                );
                tree.problems.add(setting.name, text);
            }
        }
        if vars.value(ORG).is_some() && !references.iter().any(|r| r == ORG) {
            tree.problems.add(
                ORG,
                "does not count beside a configuration file: the file names the org; unset it",
            );
        }
        tree
    }

    fn over(value: Value) -> Self {
        Self {
            value,
            problems: Problems::default(),
            names: vec![],
            exact: vec![],
        }
    }

    /// The variable for a key path in a problem, if one set it or could have.
    pub(super) fn name(&self, at: &str) -> Option<String> {
        let inside = |path: &str| {
            at.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let exact = self.exact.iter().find(|(path, _)| path == at);
        let hit = exact.or_else(|| self.names.iter().find(|(path, _)| inside(path)));
        hit.map(|(_, name)| (*name).to_owned())
    }

    fn override_file(&mut self, vars: &Vars, setting: &Setting) {
        if vars.value(setting.name).is_none() {
            return;
        }
        let listeners = self.value["listeners"].as_array().map_or(0, Vec::len);
        if setting.path.starts_with("listeners.") && listeners > 1 {
            let text = format!(
                "the file has {listeners} listeners, so it is not clear which is meant; unset it and write listeners[…].address there"
            );
            self.problems.add(setting.name, text);
            return;
        }
        self.take(vars, setting, setting.path);
    }

    fn take(&mut self, vars: &Vars, setting: &Setting, path: &str) {
        let place = path.replace(".0.", "[0].");
        if let Some(text) = vars.value(setting.name) {
            match value_of(setting, text) {
                Ok(value) => put(&mut self.value, path, value),
                Err(text) => self.problems.add(setting.name, text),
            }
            // Before a mere candidate for the same path.
            self.names.insert(0, (place, setting.name));
        } else {
            self.names.push((place, setting.name));
        }
    }

    /// Exactly one grant, and the variable that told of it.
    fn grant(&mut self, vars: &Vars, org: &str) -> (&'static str, &'static str) {
        let set = |name: &str| vars.value(name).is_some();
        let file = set("SFPROXY_CLIENT_SECRET_FILE");
        if file && set("SFPROXY_CLIENT_SECRET") {
            let text = "set beside SFPROXY_CLIENT_SECRET_FILE; unset one of them";
            self.problems.add("SFPROXY_CLIENT_SECRET", text);
        }
        let told = TELLING.iter().find_map(|(grant, names)| {
            let name = names.iter().copied().find(|name| set(name))?;
            Some((*grant, name))
        });
        let Some((grant, culprit)) = told else {
            let text = "expected this, or SFPROXY_PRIVATE_KEY_FILE and SFPROXY_USERNAME, or a variable of another grant \
                        (the README lists them), found none of them";
            self.problems.add("SFPROXY_CLIENT_SECRET_FILE", text);
            return ("client_credentials", "SFPROXY_CLIENT_SECRET_FILE");
        };
        // There, whatever its variables hold.
        put(&mut self.value, &format!("orgs.{org}.grant.{grant}"), json!({}));
        let secret = ["SFPROXY_CLIENT_SECRET_FILE", "SFPROXY_CLIENT_SECRET"]
            .into_iter()
            .find(|name| set(name));
        if let Some(secret) = secret.filter(|_| grant == "jwt_bearer") {
            let text = "set beside SFPROXY_PRIVATE_KEY_FILE or SFPROXY_USERNAME; choose client credentials or the JWT \
                        bearer grant and unset the variables of the other";
            self.problems.add(secret, text);
        }
        (grant, culprit)
    }

    fn unknown(&mut self, vars: &Vars, references: &[String]) {
        let known = || SETTINGS.iter().map(|setting| setting.name);
        for name in vars.names().filter(|name| name.starts_with("SFPROXY_")) {
            let referred = references.iter().any(|reference| reference == name);
            if referred || known().any(|k| k == name) || is_service_link(name) {
                continue;
            }
            let hint = nearest(name, known()).map_or_else(
                || "; the README lists the variables".to_owned(),
                |near| format!("; did you mean {near}?"),
            );
            self.problems.add(name, format!("unknown variable{hint}"));
        }
    }
}

/// Whether the environment says anything of an org.
pub(super) fn tells_an_org(vars: &Vars) -> bool {
    settings().any(|setting| setting.path.starts_with("orgs.") && vars.value(setting.name).is_some())
}

/// Those with a key path.
fn settings() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| !setting.path.is_empty())
}

fn value_of(setting: &Setting, text: &str) -> Result<Value, String> {
    match setting.kind {
        Kind::Text => Ok(text.into()),
        Kind::List => Ok(text.split(',').map(str::trim).filter(|t| !t.is_empty()).collect()),
        Kind::Number => match text.parse::<i64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => Err(format!("expected a whole number, found {}", shown(text))),
        },
        Kind::NumberOrWord => Ok(text.parse::<i64>().map_or_else(|_| text.into(), Into::into)),
        Kind::Bool => match text {
            "true" => Ok(true.into()),
            "false" => Ok(false.into()),
            _ => Err(format!("expected true or false, found {}", shown(text))),
        },
        Kind::SfOrg if text.starts_with('-') || text.contains(char::is_whitespace) => Err(format!(
            "expected an alias or user name that `sf` knows, found {}",
            shown(text)
        )),
        Kind::SfOrg => Ok(json!(["sf", "org", "display", "--json", "--target-org", text])),
        Kind::SecretPath => Ok(json!({ "file": text })),
        Kind::SecretHere => Ok(json!({ "env": setting.name })),
    }
}

/// Puts a value at `a.b.0.c`, making mappings on the way; what is in the way goes (it is reported elsewhere or empty).
fn put(tree: &mut Value, path: &str, value: Value) {
    let mut place = tree;
    for key in path.split('.') {
        place = match key {
            "0" => first_item(place),
            _ => mapping(place).entry(key).or_insert(Value::Null),
        };
    }
    *place = value;
}

fn mapping(place: &mut Value) -> &mut Map<String, Value> {
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    place.as_object_mut().expect("it must be a mapping by now")
}

fn first_item(place: &mut Value) -> &mut Value {
    if place.as_array().is_none_or(Vec::is_empty) {
        *place = json!([{}]);
    }
    &mut place[0]
}

/// The names in `env:NAME` and `{env: NAME}`, wherever they stand.
fn env_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.extend(text.strip_prefix("env:").map(|name| name.trim().to_owned())),
        Value::Array(items) => items.iter().for_each(|item| env_references(item, found)),
        Value::Object(map) => {
            found.extend(
                map.get("env")
                    .and_then(Value::as_str)
                    .map(|name| name.trim().to_owned()),
            );
            map.values().for_each(|value| env_references(value, found));
        }
        _ => {}
    }
}

/// Kubernetes sets `X_SERVICE_HOST`, `X_SERVICE_PORT`, `X_PORT` and `X_PORT_8080_TCP…` for each Service; one may be called `sfproxy`.
fn is_service_link(name: &str) -> bool {
    let numbered = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let protocol = |p: &str| ["TCP", "UDP", "SCTP"].iter().any(|known| p.starts_with(known));
        let (port, after) = rest.split_once('_').unwrap_or_default();
        !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && protocol(after)
    });
    numbered || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.ends_with("_PORT")
}

/// What `HTTPS_PROXY` and `NO_PROXY` say; the lower-case form goes first, as in curl.
pub(super) fn egress_proxy(vars: &Vars) -> Result<EgressProxy, Problems> {
    let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, vars.value(name)?)));
    let https = match first(["https_proxy", "HTTPS_PROXY"]) {
        Some((name, text)) => Some(proxy_url(text).map_err(|text| Problems::one(name, text))?),
        None => None,
    };
    Ok(EgressProxy {
        https,
        no_proxy: first(["no_proxy", "NO_PROXY"]).map(|(_, text)| text.to_owned()),
    })
}

/// `host:port` is read as `http://host:port`, as curl does. The text may hold a password: it is never quoted.
fn proxy_url(text: &str) -> Result<String, &'static str> {
    const EXPECTED: &str =
        "expected `http://[user:password@]host:port`, found something else (not shown: it may hold a password)";
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = url::Url::parse(&text).map_err(|_| EXPECTED)?;
    match url.scheme() {
        "http" => {}
        "https" | "socks4" | "socks4a" | "socks5" | "socks5h" => {
            return Err(
                "only http:// proxies are supported (the call inside stays TLS); use one, or exempt Salesforce with NO_PROXY",
            );
        }
        _ => return Err(EXPECTED),
    }
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    match bare && url.host_str().is_some_and(|host| !host.is_empty()) {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(EXPECTED),
    }
}

#[cfg(test)]
mod tests;
