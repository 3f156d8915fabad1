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
    references::Reference,
    secret::{Check as SecretCheck, SecretRef},
};

use crate::disk;

pub mod check;
mod effective;
pub mod env;
pub mod file;
pub mod problem;
mod references;
pub mod secret;
mod shape;
pub mod units;
mod warnings;

/// Where the configuration comes from, so that it can be loaded again.
#[derive(Debug, Clone)]
pub struct Source {
    file: Option<PathBuf>,
    vars: Vars,
}

impl Source {
    /// The file given, else the one that `SFPROXY_CONFIG` names, else the environment.
    pub fn new(file: Option<&Path>, vars: Vars) -> Self {
        let file = file.or_else(|| vars.value(env::CONFIG).map(Path::new));
        Self {
            file: file.map(Path::to_owned),
            vars,
        }
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    pub fn load(&self) -> Result<Config, Problems> {
        load(self.file(), &self.vars)
    }
}

/// Loads and checks the configuration: the file given, else the one that `SFPROXY_CONFIG` names, else the environment.
pub fn load(path: Option<&Path>, vars: &Vars) -> Result<Config, Problems> {
    let path = path.or_else(|| vars.value(env::CONFIG).map(Path::new));
    let Some(path) = path else {
        return from_env(vars);
    };
    let name = path.display().to_string();
    let unreadable =
        |reason: String| Problems::one(name.as_str(), format!("cannot read the configuration file: {reason}"));
    let bytes = disk::read(path, disk::LARGE, PATIENCE).map_err(|error| unreadable(error.to_string()))?;
    let yaml = std::str::from_utf8(&bytes).map_err(|_| unreadable("it is not UTF-8 text".into()))?;
    from_yaml(yaml, &name, vars)
}

/// For reading the file.
const PATIENCE: Duration = Duration::from_secs(5);

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
                    and SFPROXY_USERNAME; or SFPROXY_SF_ORG alone)";
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

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// At least one.
    pub listeners: Vec<Listener>,
    pub admin: Admin,
    /// At least one.
    pub orgs: BTreeMap<OrgName, Org>,
    /// Where tokens live beyond the process.
    pub store: Store,
    pub upstream: Upstream,
    pub replay: Replay,
    pub shutdown: Shutdown,
    pub log: Log,
    pub reload: Reload,
    pub threads: Threads,
}

/// 1: one thread does all (the cheapest). More: a work-stealing runtime with so many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// As many as the container's CPU limit gives cores, 1 where there is none.
    Auto,
    Fixed(usize),
}

/// What becomes of changed files while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// How often they are looked at; `None`: only on SIGHUP.
    pub interval: Option<Duration>,
}

/// An address that the app calls.
#[derive(Debug, Clone, PartialEq)]
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
    /// Logins are answered here, with a placeholder.
    pub local_login: bool,
    /// The operator knows that anybody who reaches this address acts as the org's user.
    pub insecure_allow_any_caller: bool,
    /// The listener speaks https with this; `None`: plain http.
    pub tls: Option<ListenerTls>,
    /// Callers may say whose token they want.
    pub users: Option<Users>,
    /// Client connections at one time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// An idle keep-alive connection, or one whose request head does not arrive, is closed after this.
    pub idle_timeout: Duration,
}

impl Listener {
    /// What callers may call it: the loopback names, its own addresses but for those that stand for all, and `hosts`.
    pub fn names(&self) -> Vec<String> {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let own = self.addresses.iter().map(SocketAddr::ip);
        names.extend(own.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
        names.extend(self.hosts.iter().cloned());
        names.sort();
        names.dedup();
        names
    }
}

/// Where a listener's certificate comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ListenerTls {
    /// Somebody else puts both in place, PEM.
    Files {
        /// The listener's own first, then those between it and its authority.
        certificate: PathBuf,
        key: PathBuf,
    },
    /// The proxy makes it, and keeps it in this directory.
    Generated { directory: PathBuf },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// One or more.
    pub addresses: Vec<SocketAddr>,
    /// How long a passing fault of the login host may hold `/startupz` back.
    pub startup_patience: Duration,
    /// A login that is refused until somebody acts holds it back for good.
    pub startup_holds_on_refusal: bool,
    /// Callers on this machine may end the program.
    pub quit_endpoint: bool,
}

/// Tokens of many users of one org, chosen by a header of the call; the org's grant is JWT bearer.
#[derive(Debug, Clone, PartialEq)]
pub struct Users {
    /// The request header that names the user; it ends at the proxy.
    pub header: http::HeaderName,
    /// User names that may be asked for; `*` stands for any run of characters. Compared in lower case. At least one.
    pub allow: Vec<String>,
    /// A call without the header is refused; else it gets the grant's own user.
    pub required: bool,
    /// Users whose tokens are kept at one time.
    pub max: u64,
    /// A user's token is let go when nobody asked for it for this long.
    pub idle: Duration,
    /// Of all users together, beside each user's own.
    pub budget: Budget,
}

/// Where tokens live beyond the process.
#[derive(Debug, Clone, PartialEq)]
pub enum Store {
    /// Nowhere.
    Memory,
    /// One sealed file for each identity.
    File {
        directory: PathBuf,
        /// 32 bytes, in base64 or hexadecimal.
        key: SecretRef,
        /// The key before, while records sealed with it are about.
        previous_key: Option<SecretRef>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Org {
    pub login: LoginHost,
    pub grant: Grant,
    /// Overrides the `instance_url` of token answers; for tests, and for hosts whose answer names none.
    pub instance_url: Option<url::Url>,
    pub token: TokenSettings,
    pub budget: Budget,
    /// Calls to `/api/v1|v2/…` go to the Data Cloud tenant.
    pub data_cloud: Option<DataCloud>,
    /// Where Pub/Sub is.
    pub pub_sub: url::Url,
    pub api: Api,
    /// Answers that are kept and given again.
    pub cache: Option<Cache>,
}

/// Which answers are kept, how many and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// How long one is given again without asking the org.
    pub ttl: Duration,
    /// Bytes of all that is kept.
    pub max_size: u64,
    /// Bytes of one answer's body.
    pub max_entry: u64,
    /// More paths than the usual ones; a prefix ends with `/`, `*` is any one segment.
    pub paths: Vec<String>,
}

/// What is particular about an org's API.
#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    pub host: ApiHost,
    /// Set on every call, in place of the caller's, e.g. `Pardot-Business-Unit-Id`.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            host: ApiHost::Instance,
            headers: vec![],
        }
    }
}

/// Which host calls go to, and what they look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiHost {
    /// The org's own: `instance_url` of the token answer. Salesforce's API families are served.
    Instance,
    /// The Salesforce API Platform (Agentforce, Models): `api_instance_url` of the token answer, or this.
    Platform { fallback: url::Url },
    /// Another cloud's: every path is served, any 401 means that the token is dead.
    Other {
        /// The host named by this field of the token answer; `None`: [`Org::instance_url`].
        field: Option<String>,
        /// Path prefixes that go to the host named by another field, e.g. `/Service.asmx` to `soap_instance_url`.
        also: Vec<(String, String)>,
    },
}

/// The second stage: a token of the Data Cloud tenant for a token of the org.
#[derive(Debug, Clone, PartialEq)]
pub struct DataCloud {
    /// `None`: the default one.
    pub dataspace: Option<String>,
    /// Renewed when so much of the life is left …
    pub renew_before: Duration,
    /// … or at this age, whichever comes first.
    pub renew_age: Duration,
}

/// Where the grant is presented.
#[derive(Debug, Clone, PartialEq)]
pub struct LoginHost {
    /// Origin only, no path; https, or http on loopback.
    pub url: url::Url,
}

/// How a token is minted, or where it is found.
#[derive(Debug, Clone, PartialEq)]
pub enum Grant {
    JwtBearer(JwtBearer),
    ClientCredentials(ClientCredentials),
    RefreshToken(RefreshToken),
    Password(Password),
    TokenExchange(TokenExchange),
    SamlBearer(SamlBearer),
    PlatformCredentials(PlatformCredentials),
    Static(Static),
    Command(Command),
}

#[derive(Debug, Clone, PartialEq)]
pub struct JwtBearer {
    pub client_id: String,
    pub username: String,
    /// PEM, PKCS#8 or PKCS#1, RSA of 2048 bits or more.
    pub private_key: SecretRef,
    /// The `aud` claim: given, or derived from the login host.
    pub audience: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ClientCredentials {
    pub client_id: String,
    pub client_secret: SecretRef,
    pub send_secret: SendSecret,
}

/// A refresh token that `login` or an administrator got.
#[derive(Debug, Clone, PartialEq)]
pub struct RefreshToken {
    pub client_id: String,
    pub auth: ClientAuth,
    /// The first one; `None`: `sf-token-proxy login` puts it into the store.
    pub refresh_token: Option<SecretRef>,
    pub rotation: RotationPolicy,
    pub login: Login,
}

/// How the app proves to be itself.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientAuth {
    Secret(SecretRef, SendSecret),
    /// `private_key_jwt`: an assertion signed with the app's key.
    PrivateKey(SecretRef),
    /// The app requires no secret.
    None,
}

/// Whether each use of a refresh token brings a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationPolicy {
    /// The answers tell; until one has, and once one brought a new token, an attempt of unknown outcome is not repeated.
    Auto,
    /// The operator knows that it is off: a refresh token may be presented again.
    Off,
}

/// What `sf-token-proxy login` asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Login {
    /// One of the app's callback URLs, letter for letter; http on loopback.
    pub callback_url: url::Url,
    pub scopes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Password {
    pub client_id: String,
    pub client_secret: SecretRef,
    pub send_secret: SendSecret,
    pub username: String,
    pub password: SecretRef,
    /// Appended to the password, unless this machine's address is trusted.
    pub security_token: Option<SecretRef>,
}

/// A token of an external identity provider for one of Salesforce.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenExchange {
    pub client_id: String,
    pub client_secret: Option<SecretRef>,
    pub send_secret: SendSecret,
    /// Read anew for each login; whoever fetches it keeps it fresh.
    pub subject_token: SecretRef,
    /// The URN.
    pub subject_token_type: String,
    pub scope: Option<String>,
    /// The Apex class that maps the user.
    pub token_handler: Option<String>,
}

/// An assertion in SAML's form, signed with the app's key.
#[derive(Debug, Clone, PartialEq)]
pub struct SamlBearer {
    pub client_id: String,
    pub username: String,
    pub private_key: SecretRef,
    pub audience: String,
}

/// Client credentials as clouds other than the core take them.
#[derive(Debug, Clone, PartialEq)]
pub struct PlatformCredentials {
    /// Path (and query) of the token endpoint at [`LoginHost`].
    pub token_path: String,
    pub body: BodyFormat,
    pub client_id: String,
    pub client_secret: SecretRef,
    pub send_secret: SendSecret,
    /// More fields of the body, e.g. `scope`, `account_id`.
    pub parameters: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    Form,
    Json,
}

/// A token that somebody else puts in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Static {
    pub access_token: SecretRef,
}

/// A program that prints a token, such as `sf org display --json --target-org X`.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Program and arguments; no shell. At least one.
    pub argv: Vec<String>,
}

/// Where the client secret travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendSecret {
    /// `Authorization: Basic`, as Salesforce recommends.
    Basic,
    /// In the form body.
    Body,
}

#[derive(Debug, Clone, PartialEq)]
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
    /// Ask the login host when a new token ends; it needs the app's secret.
    pub introspect: bool,
    /// When the renewal is due, use the session once instead, which extends it (an API call for a login).
    pub keep_alive: bool,
}

/// The login budget: a bucket of `burst` that refills by `per_minute`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    pub burst: u32,
    pub per_minute: u32,
}

#[derive(Debug, Clone, PartialEq)]
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
    /// The org may choose HTTP/2.
    pub http2: bool,
    /// PEM bundle trusted beside the system's roots, for the org and the login host.
    pub ca_file: Option<PathBuf>,
    /// Egress proxies of `HTTPS_PROXY`/`NO_PROXY`.
    pub proxy: EgressProxy,
}

/// What the environment says of egress proxies. `Debug` hides the proxy's password.
#[derive(Clone, Default, PartialEq)]
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
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Bytes of one call.
    pub max_body: u64,
    /// Bytes of all calls together.
    pub total: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Shutdown {
    /// After SIGTERM new calls are still taken for so long.
    pub delay: Duration,
    /// How long calls in flight may then take to finish, at most.
    pub drain: Duration,
}

#[derive(Debug, Clone, PartialEq)]
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
