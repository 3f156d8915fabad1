//! What the program may rely on: checked values, no strings left to parse.
//!
//! `config/file.rs` is what people may write, `config/env.rs` the environment's form of it; `config/check.rs` turns
//! either into [`Config`] and reports every problem at once with its key path. Nothing here reads a secret:
//! a [`SecretRef`] says where one lives, and it is read when it is used, so that a rotated one counts.
//!
//! Invariants: after the check no `Option` "must be" `Some`; every duration is in its range; `Debug` of every type is safe.
//! Units: `Duration`; sizes in bytes.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use self::{
    check::check,
    env::Vars,
    problem::{Problem, Problems},
    secret::SecretRef,
};

pub mod check;
mod effective;
pub mod env;
pub mod file;
pub mod problem;
pub mod secret;
mod shape;
pub mod units;

/// Loads and checks the configuration: the file given, else the one that `SFPROXY_CONFIG` names, else the environment.
pub fn load(path: Option<&Path>, vars: &Vars) -> Result<Config, Problems> {
    let path = path.or_else(|| vars.value(env::CONFIG).map(Path::new));
    let Some(path) = path else {
        return from_env(vars);
    };
    let name = path.display().to_string();
    let yaml = std::fs::read_to_string(path)
        .map_err(|e| Problems::one(name.as_str(), format!("cannot read the configuration file: {e}")))?;
    from_yaml(&yaml, &name, vars)
}

/// From the text of a file; `name` is how problems call it.
pub fn from_yaml(yaml: &str, name: &str, vars: &Vars) -> Result<Config, Problems> {
    let tree = shape::parse(yaml, name)?;
    finish(env::Tree::over_file(tree, vars), name, vars)
}

/// From the environment alone.
pub fn from_env(vars: &Vars) -> Result<Config, Problems> {
    if !env::tells_an_org(vars) {
        let text = "none given: use --config FILE or SFPROXY_CONFIG, or for one org without a file set \
                    SFPROXY_LOGIN_URL, SFPROXY_CLIENT_ID and SFPROXY_CLIENT_SECRET_FILE (or SFPROXY_PRIVATE_KEY_FILE \
                    and SFPROXY_USERNAME)";
        return Err(Problems::one("configuration", text));
    }
    finish(env::Tree::of_one_org(vars), "environment", vars)
}

/// One check for both; problems of what a variable set are told at the variable.
fn finish(mut tree: env::Tree, name: &str, vars: &Vars) -> Result<Config, Problems> {
    let (file, misfits) = shape::to_file(std::mem::take(&mut tree.value), name);
    let proxy = env::egress_proxy(vars);
    let checked = check(&file, proxy.as_ref().unwrap_or(&EgressProxy::default()));
    let (config, wrong) = match checked {
        Ok(config) => (Some(config), Problems::default()),
        Err(wrong) => (None, wrong.without(&misfits)),
    };
    let mut problems = std::mem::take(&mut tree.problems);
    problems.extend(misfits.renamed(|at| tree.name(at)));
    problems.extend(wrong.renamed(|at| tree.name(at)));
    problems.extend(proxy.err().unwrap_or_default());
    problems.or(config)
}

/// The alias of an org in the configuration; a metric label. 1 to 63 of `a-z 0-9 - _`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrgName(Arc<str>);

impl OrgName {
    /// The caller has checked the characters.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    /// At least one.
    pub listeners: Vec<Listener>,
    pub admin: Admin,
    /// At least one; in this version exactly one.
    pub orgs: BTreeMap<OrgName, Org>,
    pub upstream: Upstream,
    pub replay: Replay,
    pub shutdown: Shutdown,
    pub log: Log,
    /// 1: one thread does all (the cheapest). More: a work-stealing runtime with so many workers.
    pub threads: usize,
}

/// An address that the app calls.
#[derive(Debug, Clone)]
pub struct Listener {
    /// One or more; `localhost:8080` has become both loopback addresses.
    pub addresses: Vec<SocketAddr>,
    /// The org that calls on this listener go to.
    pub org: OrgName,
    /// Host names (lower case, no port) accepted beside the loopback names and the bound addresses.
    pub hosts: Vec<String>,
    /// Web origins (`https://app.example`) that may call from a page; empty: none.
    pub allowed_origins: Vec<String>,
    /// Path prefixes served beside Salesforce's API families; each begins and ends with `/`, or is one exact path.
    pub extra_paths: Vec<String>,
    /// The operator knows that anybody who reaches this address acts as the org's user.
    pub insecure_allow_any_caller: bool,
    /// Client connections at one time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// An idle keep-alive connection, or one whose request head does not arrive, is closed after this.
    pub idle_timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct Admin {
    /// One or more.
    pub addresses: Vec<SocketAddr>,
    /// How long a passing fault of the login host may hold `/startupz` back.
    pub startup_patience: Duration,
}

#[derive(Debug, Clone)]
pub struct Org {
    pub login: LoginHost,
    pub grant: Grant,
    /// Overrides the `instance_url` of token answers; for tests and unusual hosts.
    pub instance_url: Option<url::Url>,
    pub token: TokenSettings,
    pub budget: Budget,
}

/// Where the grant is presented.
#[derive(Debug, Clone)]
pub struct LoginHost {
    /// Origin only, no path; https, or http on loopback.
    pub url: url::Url,
}

/// How a token is minted.
#[derive(Debug, Clone)]
pub enum Grant {
    JwtBearer(JwtBearer),
    ClientCredentials(ClientCredentials),
}

#[derive(Debug, Clone)]
pub struct JwtBearer {
    pub client_id: String,
    pub username: String,
    /// PEM, PKCS#8 or PKCS#1, RSA of 2048 bits or more.
    pub private_key: SecretRef,
    /// The `aud` claim: given, or derived from the login host.
    pub audience: String,
}

#[derive(Debug, Clone)]
pub struct ClientCredentials {
    pub client_id: String,
    pub client_secret: SecretRef,
    pub send_secret: SendSecret,
}

/// Where the client secret travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendSecret {
    /// `Authorization: Basic`, as Salesforce recommends.
    Basic,
    /// In the form body.
    Body,
}

#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// The life assumed of a token whose answer does not tell (Salesforce's does not).
    pub lifetime: Duration,
    /// How long a call waits for a token.
    pub refresh_wait: Duration,
    /// After a renewal that did not help, refused calls are repeated without a login for this long.
    pub cool_down: Duration,
    /// Calls that may wait for a token at one time.
    pub max_waiters: usize,
    /// One exchange with the login host, whole.
    pub exchange_timeout: Duration,
}

/// The login budget: a bucket of `burst` that refills by `per_minute`.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub burst: u32,
    pub per_minute: u32,
}

#[derive(Debug, Clone)]
pub struct Upstream {
    pub connect_timeout: Duration,
    /// From the end of the request to the head of the response.
    pub response_timeout: Duration,
    /// Between two pieces of a body, either way.
    pub body_idle_timeout: Duration,
    /// A pooled connection is not used again after this long idle.
    pub pool_idle_timeout: Duration,
    /// Idle connections kept per host.
    pub pool_max_idle: usize,
    /// PEM bundle trusted beside the system's roots, for the org and the login host.
    pub ca_file: Option<PathBuf>,
    /// Egress proxies of `HTTPS_PROXY`/`NO_PROXY`.
    pub proxy: EgressProxy,
}

/// What the environment says of egress proxies. `Debug` hides the proxy's password.
#[derive(Clone, Default)]
pub struct EgressProxy {
    /// `http://[user:password@]host:port`.
    pub https: Option<String>,
    pub no_proxy: Option<String>,
}

impl fmt::Debug for EgressProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressProxy")
            .field("https", &self.https.as_ref().map(|_| "set"))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// How much of request bodies is kept for a repeat.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Bytes of one call.
    pub max_body: u64,
    /// Bytes of all calls together.
    pub total: u64,
}

#[derive(Debug, Clone)]
pub struct Shutdown {
    /// How long calls in flight may take to finish after SIGTERM.
    pub drain: Duration,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub format: LogFormat,
    /// `tracing` targets, e.g. `info` or `info,sf_token_proxy::proxy=debug`.
    pub level: String,
    /// One line per call.
    pub requests: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}
