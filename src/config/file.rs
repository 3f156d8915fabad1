//! What people may write: the shape of the YAML file, and every default with its reason.
//!
//! Owns: the names of the settings and their defaults. `config/schema.json` is generated from here (test below).
//! Invariants: unknown keys are refused; a missing key means its default; units are text until `check.rs` reads them,
//! so that one bad duration does not hide the next problem; `Debug` never shows what stands where a secret belongs.
//! Units: durations and sizes carry theirs in the text.
//! Fails with: nothing itself; `shape.rs` reports what does not fit.
//! Source: `design.md` §9.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The configuration of sf-token-proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The addresses that apps call.
    pub listeners: Vec<ListenerFile>,
    /// Probes and metrics.
    pub admin: AdminFile,
    /// The Salesforce orgs, by a name of your choice (`a-z 0-9 - _`). Exactly one in this version.
    pub orgs: BTreeMap<String, OrgFile>,
    /// Connections to Salesforce.
    pub upstream: UpstreamFile,
    /// How much of request bodies is kept, so that a call can be repeated with a new token.
    pub replay: ReplayFile,
    pub shutdown: ShutdownFile,
    pub log: LogFile,
    /// 1 to 64 worker threads.
    pub threads: i64,
}

impl Default for File {
    fn default() -> Self {
        Self {
            listeners: vec![ListenerFile::default()],
            admin: AdminFile::default(),
            orgs: BTreeMap::new(),
            upstream: UpstreamFile::default(),
            replay: ReplayFile::default(),
            shutdown: ShutdownFile::default(),
            log: LogFile::default(),
            // A sidecar seldom has more than a core; one thread needs no hand-over between cores.
            threads: 1,
        }
    }
}

/// One address (or several) that apps call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ListenerFile {
    /// `localhost:8080` (127.0.0.1 and ::1), `127.0.0.1:8080` or `[::1]:8080`; one or a list.
    pub address: OneOrMany,
    /// The org that calls go to; may be left out when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Host names accepted in `Host`, beside the loopback names and the bound addresses.
    pub hosts: Vec<String>,
    /// Web origins whose pages may call, e.g. `https://app.example`.
    pub allowed_origins: Vec<String>,
    /// Paths served beside Salesforce's API families; a prefix ends with `/`.
    pub extra_paths: Vec<String>,
    /// Serve an address that is not loopback although callers are not authenticated.
    pub insecure_allow_any_caller: bool,
    /// 1 to 1000000 connections at one time.
    pub max_connections: i64,
    /// An idle connection is closed after this; 1s to 1h.
    pub idle_timeout: Span,
}

impl Default for ListenerFile {
    fn default() -> Self {
        Self {
            // Both loopback addresses: some clients try ::1 first for `localhost`.
            address: OneOrMany::One("localhost:8080".into()),
            org: None,
            hosts: vec![],
            // A page of a foreign site must not act as the org's user.
            allowed_origins: vec![],
            extra_paths: vec![],
            insecure_allow_any_caller: false,
            // Half of the usual limit of 20,000 descriptors: each call may need one upstream as well.
            max_connections: 10_000,
            // Longer than the keep-alive of common client pools (60 to 90 s), so that the client closes first.
            idle_timeout: Span::new("5m"),
        }
    }
}

/// Probes and metrics. Holds no secret and changes nothing, so any address will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdminFile {
    /// `localhost:9090`, `0.0.0.0:9090`, `[::]:9090`; one or a list.
    pub address: OneOrMany,
    /// How long a passing fault of the login host may hold `/startupz` back; 0s to 10m.
    pub startup_patience: Span,
}

impl Default for AdminFile {
    fn default() -> Self {
        Self {
            // Nobody outside sees it unless the operator says so; a chart says `[::]:9090`.
            address: OneOrMany::One("localhost:9090".into()),
            // An outage of the login host must not stop restarts and scale-ups for longer.
            startup_patience: Span::new("15s"),
        }
    }
}

/// An identity at one login host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OrgFile {
    /// The org's My Domain URL, e.g. `https://acme.my.salesforce.com`. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_url: Option<String>,
    /// Overrides the `instance_url` of token answers; for tests and unusual hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_url: Option<String>,
    /// How the token is minted. Required, exactly one.
    pub grant: GrantFile,
    pub token: TokenFile,
    pub login_budget: BudgetFile,
}

/// How the token is minted: exactly one of the keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct GrantFile {
    /// A signed assertion (JWT) for one user; no password, no browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_bearer: Option<JwtBearerFile>,
    /// Client id and secret; the run-as user is set in Salesforce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_credentials: Option<ClientCredentialsFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct JwtBearerFile {
    /// The consumer key of the app. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The Salesforce user name, e.g. `integration@acme.example`. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the private key is: an RSA key of 2048 bits or more, PEM. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretFile>,
    /// The `aud` claim; derived from `login_url` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ClientCredentialsFile {
    /// The consumer key of the app. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Where the consumer secret is. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretFile>,
    /// `basic`: in the Authorization header; `body`: in the form.
    #[cfg_attr(test, schemars(extend("enum" = ["basic", "body"])))]
    pub send_secret: String,
}

impl Default for ClientCredentialsFile {
    fn default() -> Self {
        Self {
            client_id: None,
            client_secret: None,
            // What Salesforce recommends (SF §1.4.2); bodies are logged more often than headers.
            send_secret: "basic".into(),
        }
    }
}

/// The life of a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TokenFile {
    /// Assumed when the answer does not tell (Salesforce's does not); 1m to 24h.
    pub lifetime: Span,
    /// How long a call waits for a token; 100ms to 5m, less than `upstream.response_timeout`.
    pub refresh_wait: Span,
    /// After a renewal that did not help, refused calls are repeated without a login for this long; 0s to 1h.
    pub cool_down: Span,
    /// 1 to 1000000 calls that may wait for a token at one time.
    pub max_waiters: i64,
    /// One exchange with the login host, whole; 1s to 5m.
    pub exchange_timeout: Span,
}

impl Default for TokenFile {
    fn default() -> Self {
        Self {
            // Under Salesforce's default session time-out of two hours (SF §3.1).
            lifetime: Span::new("90m"),
            // Long enough for a slow login, shorter than most clients' own time-outs.
            refresh_wait: Span::new("10s"),
            cool_down: Span::new("30s"),
            // Each waiter is an open connection with its request; this many cost some tens of MB.
            max_waiters: 4096,
            // Longer than refresh_wait: the exchange goes on for the calls that come next.
            exchange_timeout: Span::new("30s"),
        }
    }
}

/// How often the proxy may log in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BudgetFile {
    /// Logins at once after a quiet time; 1 to 3600.
    pub burst: i64,
    /// Logins a minute in the long run; 1 to 60 (the org allows 3,600 an hour for one user, all replicas together).
    pub per_minute: i64,
}

impl Default for BudgetFile {
    fn default() -> Self {
        // 60 + 4 × 60 = 300 in the worst hour: a twelfth of what the org allows the user.
        Self {
            burst: 60,
            per_minute: 4,
        }
    }
}

/// Connections to Salesforce.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamFile {
    /// To open a connection to the org, with TLS; 100ms to 2m.
    pub connect_timeout: Span,
    /// From the end of the request to the head of the response; 1s to 1h.
    pub response_timeout: Span,
    /// Between two pieces of a body, either way; 1s to 1h.
    pub body_idle_timeout: Span,
    /// A pooled connection is not used again after this long idle; 1s to 10m.
    pub pool_idle_timeout: Span,
    /// Idle connections kept per host; 0 to 100000.
    pub pool_max_idle: i64,
    /// PEM bundle trusted beside the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

impl Default for UpstreamFile {
    fn default() -> Self {
        Self {
            connect_timeout: Span::new("10s"),
            // Salesforce ends a call after ten minutes; its own answer is better than ours.
            response_timeout: Span::new("11m"),
            // CometD polls are silent for 110 s.
            body_idle_timeout: Span::new("130s"),
            // Middle boxes forget idle connections after a few minutes.
            pool_idle_timeout: Span::new("60s"),
            pool_max_idle: 256,
            ca_file: None,
        }
    }
}

/// How much of request bodies is kept for a repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ReplayFile {
    /// Bytes of one call's body; 0B to 1GiB. A longer body is not repeatable.
    pub max_body: Size,
    /// Bytes of all calls' bodies together; 0B to 64GiB, at least `max_body`.
    pub total: Size,
}

impl Default for ReplayFile {
    fn default() -> Self {
        Self {
            // Holds every REST and composite body, and most uploads.
            max_body: Size::new("16MiB"),
            // Fits a sidecar's memory limit.
            total: Size::new("64MiB"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownFile {
    /// How long calls in flight may take to finish after SIGTERM; 0s to 1h. Keep it below the pod's grace period.
    pub drain: Span,
}

impl Default for ShutdownFile {
    fn default() -> Self {
        Self {
            // Below Kubernetes' usual grace period of 30 s.
            drain: Span::new("25s"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LogFile {
    /// `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
    #[cfg_attr(test, schemars(extend("enum" = ["auto", "text", "json"])))]
    pub format: String,
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`; more by target: `info,sf_token_proxy::token=debug`.
    pub level: String,
    /// One line per call, without path, query or headers.
    pub requests: bool,
}

impl Default for LogFile {
    fn default() -> Self {
        Self {
            format: "auto".into(),
            level: "info".into(),
            // Metrics count calls; lines cost money where logs are kept.
            requests: false,
        }
    }
}

/// A duration as written: `90s`, `1h30m`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(inline, extend(
    "title" = "a duration with its unit, such as `500ms`, `90s`, `10m` or `1h30m`",
    "pattern" = "^([0-9]+(h|m|s|ms))+$"
)))]
#[serde(transparent)]
pub struct Span(pub String);

impl Span {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A size as written: `16MiB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(inline, extend(
    "title" = "a size with its unit, such as `64KiB`, `16MiB`, `500MB` or `1GiB`",
    "pattern" = "^[0-9]+(B|KiB|MiB|GiB|[kK]B|MB|GB)$"
)))]
#[serde(transparent)]
pub struct Size(pub String);

impl Size {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// One text or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(inline, extend("title" = "an address or a list of addresses")))]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// Where a secret lives: `file:/path`, `env:NAME`, `{file: /path}` or `{env: NAME}`.
///
/// Until it is checked it may hold the secret itself, so it has no readable `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(inline, extend(
    "title" = "a reference to a secret: `file:/path` or `env:NAME`",
    "writeOnly" = true
)))]
#[serde(untagged)]
pub enum SecretFile {
    Text(String),
    Keys(SecretKeys),
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(extend("writeOnly" = true)))]
#[serde(default, deny_unknown_fields)]
pub struct SecretKeys {
    /// The path of a file that holds the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The name of an environment variable that holds the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretFile(…)")
    }
}

impl fmt::Debug for SecretKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKeys(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `UPDATE=1 cargo test schema` writes it.
    #[test]
    fn the_schema_file_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/schema.json");
        let mut now = serde_json::to_string_pretty(&schemars::schema_for!(File)).expect("a schema is JSON");
        now.push('\n');
        #[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
        if std::env::var("UPDATE").is_ok() {
            std::fs::write(path, &now).expect("the schema file is writable");
        }
        let kept = std::fs::read_to_string(path).expect("the schema file is there");
        assert!(
            kept == now,
            "config/schema.json is stale: run `UPDATE=1 cargo test schema`"
        );
    }

    #[test]
    fn debug_hides_what_stands_where_a_secret_belongs() {
        let inline = SecretFile::Text("hunter2".into());
        let keys = SecretFile::Keys(SecretKeys {
            file: None,
            env: Some("hunter2".into()),
        });
        let org = OrgFile {
            grant: GrantFile {
                client_credentials: Some(ClientCredentialsFile {
                    client_secret: Some(inline),
                    ..Default::default()
                }),
                jwt_bearer: Some(JwtBearerFile {
                    private_key: Some(keys),
                    ..Default::default()
                }),
            },
            ..Default::default()
        };
        let text = format!("{org:?}");
        assert!(text.contains("client_secret"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
