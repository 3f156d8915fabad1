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
    /// The Salesforce orgs, by a name of your choice (`a-z 0-9 - _`). At least one.
    pub orgs: BTreeMap<String, OrgFile>,
    /// Where tokens live beyond the process; left out: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreFile>,
    /// Connections to Salesforce.
    pub upstream: UpstreamFile,
    /// How much of request bodies is kept, so that a call can be repeated with a new token.
    pub replay: ReplayFile,
    pub shutdown: ShutdownFile,
    pub log: LogFile,
    pub reload: ReloadFile,
    /// `auto` (as many as the container's CPU limit gives cores, 1 where there is none), or 1 to 64 worker threads.
    pub threads: ThreadsFile,
}

impl Default for File {
    fn default() -> Self {
        Self {
            listeners: vec![ListenerFile::default()],
            admin: AdminFile::default(),
            orgs: BTreeMap::new(),
            // Nothing on a disk unless somebody says so.
            store: None,
            upstream: UpstreamFile::default(),
            replay: ReplayFile::default(),
            shutdown: ShutdownFile::default(),
            log: LogFile::default(),
            reload: ReloadFile::default(),
            // A sidecar seldom has more than a core; one thread needs no hand-over between cores.
            threads: ThreadsFile::Word("auto".into()),
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
    /// The org that calls go to; may be left out when there is one, and only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Host names accepted in `Host`, beside the loopback names and the bound addresses.
    pub hosts: Vec<String>,
    /// Web origins whose pages may call, e.g. `https://app.example`.
    pub allowed_origins: Vec<String>,
    /// Paths served beside Salesforce's API families; a prefix ends with `/`.
    pub extra_paths: Vec<String>,
    /// Answer the logins that SDKs insist on with a placeholder; off: refuse them.
    pub local_login: bool,
    /// Serve an address that is not loopback although callers are not authenticated.
    pub insecure_allow_any_caller: bool,
    /// Speak https; left out: plain http.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTlsFile>,
    /// Callers may say whose token they want; only with the grant jwt_bearer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<UsersFile>,
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
            // It gives nothing away: whoever may call needs no login.
            local_login: true,
            insecure_allow_any_caller: false,
            // On loopback nobody listens in, and few clients insist on https.
            tls: None,
            users: None,
            // Half of the usual limit of 20,000 descriptors: each call may need one upstream as well.
            max_connections: 10_000,
            // Longer than the keep-alive of common client pools (60 to 90 s), so that the client closes first.
            idle_timeout: Span::new("5m"),
        }
    }
}

/// The certificate of a listener that speaks https: either certificate_file and key_file, or generate_in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTlsFile {
    /// The listener's certificate and those between it and its authority, PEM; a changed file counts for new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// The certificate's private key, PEM, without a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// A folder for a certificate of the proxy's own making; apps trust the `ca.pem` in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_in: Option<String>,
}

/// Tokens of many users, chosen by a header of the call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct UsersFile {
    /// User names that may be asked for; `*` stands for any run of characters, e.g. `*@acme.example`. Required.
    pub allow: Vec<String>,
    /// The request header that names the user; it is not passed on.
    pub header: String,
    /// Refuse a call without the header; otherwise it gets the grant's own user.
    pub required: bool,
    /// 1 to 100000 users whose tokens are kept at one time.
    pub max: i64,
    /// A user's token is let go when nobody asked for it for this long; 1m to 24h.
    pub idle: Span,
    pub login_budget: UsersBudgetFile,
}

impl Default for UsersFile {
    fn default() -> Self {
        Self {
            // Whom callers may be is never guessed.
            allow: vec![],
            header: "X-SFPROXY-User".into(),
            required: false,
            // A token and its task cost some kB.
            max: 1000,
            // Shorter than the life of a token, so that the quiet ones are not renewed for nobody.
            idle: Span::new("1h"),
            login_budget: UsersBudgetFile::default(),
        }
    }
}

/// How often the proxy may log in for all users together, beside each user's own budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct UsersBudgetFile {
    /// Logins at once after a quiet time; 1 to 3600.
    pub burst: i64,
    /// Logins a minute in the long run; 1 to 3600.
    pub per_minute: i64,
}

impl Default for UsersBudgetFile {
    fn default() -> Self {
        // A caller that invents names must not become a flood at the login host.
        Self {
            burst: 60,
            per_minute: 60,
        }
    }
}

/// Probes and metrics. Holds no secret, and changes nothing but for callers on this machine, so any address will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdminFile {
    /// `localhost:9090`, `*:9090` (every address of the machine, IPv4 and IPv6), `0.0.0.0:9090`, `[::]:9090`; one or a list.
    pub address: OneOrMany,
    /// How long a passing fault of the login host may hold `/startupz` back; 0s to 10m.
    pub startup_patience: Span,
    /// A login that is refused until somebody acts holds `/startupz` back for good; false: like a passing fault.
    pub startup_holds_on_refusal: bool,
    /// `POST /quit` ends the program, for callers on this machine: for Jobs whose sidecar Kubernetes does not end.
    pub quit_endpoint: bool,
}

impl Default for AdminFile {
    fn default() -> Self {
        Self {
            // Nobody outside sees it unless the operator says so; a chart says `*:9090`.
            address: OneOrMany::One("localhost:9090".into()),
            // An outage of the login host must not stop restarts and scale-ups for longer.
            startup_patience: Span::new("15s"),
            // A bad roll-out stops before it replaces good pods.
            startup_holds_on_refusal: true,
            quit_endpoint: false,
        }
    }
}

/// Where tokens live beyond the process: exactly one of the keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct StoreFile {
    /// One sealed file for each identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileStoreFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct FileStoreFile {
    /// The folder for the files; the proxy alone may read it. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Where the key that seals them is: 32 bytes in base64 or hexadecimal. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretFile>,
    /// Where the key before is, while files sealed with it are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_key: Option<SecretFile>,
}

/// An identity at one login host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OrgFile {
    /// The org's My Domain URL, e.g. `https://acme.my.salesforce.com`. Required, but for the grants static and command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_url: Option<String>,
    /// Overrides the `instance_url` of token answers; required for the grant static, and for `api.host: other` without `api.host_field`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_url: Option<String>,
    /// How the token is minted. Required, exactly one.
    pub grant: GrantFile,
    pub api: ApiFile,
    pub token: TokenFile,
    /// Serve `/api/v1/…` and `/api/v2/…` from the org's Data Cloud tenant; `{}` turns it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_cloud: Option<DataCloudFile>,
    pub pub_sub: PubSubFile,
    /// Keep answers to descriptions and version lists, and give them again; `{}` turns it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheFile>,
    pub login_budget: BudgetFile,
}

/// Where Pub/Sub API (gRPC) calls go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PubSubFile {
    /// `https://api.pubsub.salesforce.com`; in the EU operating zone `https://api.deu.pubsub.salesforce.com`.
    pub endpoint: String,
}

impl Default for PubSubFile {
    fn default() -> Self {
        Self {
            // Salesforce has one for all orgs but the EU's (SF §5.3); 7443 is served as well.
            endpoint: "https://api.pubsub.salesforce.com".into(),
        }
    }
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
    /// A refresh token that `sf-token-proxy login` or an administrator got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<RefreshTokenFile>,
    /// User name and password; Salesforce ends it on 20 February 2027.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordFile>,
    /// A token of an external identity provider for one of Salesforce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_exchange: Option<TokenExchangeFile>,
    /// A signed assertion (SAML) for one user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saml_bearer: Option<SamlBearerFile>,
    /// Client id and secret, as clouds other than the core take them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth2_client_credentials: Option<PlatformCredentialsFile>,
    /// A token that somebody else puts in place.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_token: Option<StaticFile>,
    /// A program that prints a token, such as `sf org display --json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandFile>,
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

/// Of client_secret and private_key one or neither: an app that requires no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RefreshTokenFile {
    /// The consumer key of the app. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Where the consumer secret is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretFile>,
    /// `basic`: in the Authorization header; `body`: in the form.
    #[cfg_attr(test, schemars(extend("enum" = ["basic", "body"])))]
    pub send_secret: String,
    /// Where the private key is with which the app proves to be itself, in place of a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretFile>,
    /// Where the first refresh token is; left out: `sf-token-proxy login` puts it into the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<SecretFile>,
    /// `auto`: the answers tell whether each use brings a new refresh token; `off`: you know that none does.
    #[cfg_attr(test, schemars(extend("enum" = ["auto", "off"])))]
    pub rotation: String,
    pub login: LoginFile,
}

impl Default for RefreshTokenFile {
    fn default() -> Self {
        Self {
            client_id: None,
            client_secret: None,
            // As in Salesforce's own sample of this flow (SF §1.4.3).
            send_secret: "body".into(),
            private_key: None,
            refresh_token: None,
            // An administrator can switch rotation on at any time; a token presented twice would end the session.
            rotation: "auto".into(),
            login: LoginFile::default(),
        }
    }
}

/// What `sf-token-proxy login` asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LoginFile {
    /// One of the app's callback URLs, letter for letter: http, loopback, with a port.
    pub callback_url: String,
    /// `refresh_token` has to be among them.
    pub scopes: Vec<String>,
}

impl Default for LoginFile {
    fn default() -> Self {
        Self {
            // The Salesforce CLI's, so that many apps have it already (SF §1.4.4).
            callback_url: "http://localhost:1717/OauthRedirect".into(),
            scopes: vec!["api".into(), "refresh_token".into()],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PasswordFile {
    /// The consumer key of the app. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Where the consumer secret is. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretFile>,
    /// `basic`: in the Authorization header; `body`: in the form.
    #[cfg_attr(test, schemars(extend("enum" = ["basic", "body"])))]
    pub send_secret: String,
    /// The Salesforce user name. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the user's password is. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretFile>,
    /// Where the user's security token is; not needed from a trusted address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_token: Option<SecretFile>,
}

impl Default for PasswordFile {
    fn default() -> Self {
        Self {
            client_id: None,
            client_secret: None,
            // Salesforce documents no other way for this flow (SF §1.2).
            send_secret: "body".into(),
            username: None,
            password: None,
            security_token: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TokenExchangeFile {
    /// The consumer key of the app. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Where the consumer secret is, if the app requires one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretFile>,
    /// `basic`: in the Authorization header; `body`: in the form.
    #[cfg_attr(test, schemars(extend("enum" = ["basic", "body"])))]
    pub send_secret: String,
    /// Where the identity provider's token is; read anew at each login. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_token: Option<SecretFile>,
    /// What kind of token it is.
    #[cfg_attr(test, schemars(extend("enum" = ["jwt", "id_token", "access_token", "refresh_token", "saml2"])))]
    pub subject_token_type: String,
    /// Scopes to ask for, separated by blanks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The name of the org's Apex handler that maps the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_handler: Option<String>,
}

impl Default for TokenExchangeFile {
    fn default() -> Self {
        Self {
            client_id: None,
            client_secret: None,
            send_secret: "body".into(),
            subject_token: None,
            subject_token_type: "jwt".into(),
            scope: None,
            token_handler: None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct SamlBearerFile {
    /// The consumer key of the app. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The Salesforce user name. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the private key is: an RSA key of 2048 bits or more, PEM. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretFile>,
    /// The Audience of the assertion; derived from `login_url` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PlatformCredentialsFile {
    /// Path of the token endpoint at `login_url`, e.g. `/v2/token`. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_path: Option<String>,
    /// `form` or `json`.
    #[cfg_attr(test, schemars(extend("enum" = ["form", "json"])))]
    pub body: String,
    /// Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Where the client secret is. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretFile>,
    /// `basic`: in the Authorization header; `body`: in the body.
    #[cfg_attr(test, schemars(extend("enum" = ["basic", "body"])))]
    pub send_secret: String,
    /// More fields of the body, e.g. `scope` or `account_id`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

impl Default for PlatformCredentialsFile {
    fn default() -> Self {
        Self {
            token_path: None,
            body: "form".into(),
            client_id: None,
            client_secret: None,
            // RFC 6749 §2.3.1 recommends it.
            send_secret: "basic".into(),
            parameters: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct StaticFile {
    /// Where the access token is; a replaced one counts within seconds. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<SecretFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CommandFile {
    /// Program and arguments; no shell. Required.
    pub run: Vec<String>,
}

/// What is particular about the org's API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ApiFile {
    /// `instance`: the org's own host; `platform`: the Salesforce API Platform (Agentforce, Models); `other`: another cloud's.
    #[cfg_attr(test, schemars(extend("enum" = ["instance", "platform", "other"])))]
    pub host: String,
    /// Only for `host: platform`: where calls go when the token answer names no host; `https://api.salesforce.com` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Only for `host: other`: the field of the token answer that names the host, e.g. `rest_instance_url`; left out: `instance_url` of the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_field: Option<String>,
    /// Only for `host: other`: path prefixes that go to the host in another field, e.g. `/Service.asmx: soap_instance_url`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, String>,
    /// Headers set on every call in place of the caller's, e.g. `Pardot-Business-Unit-Id`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

impl Default for ApiFile {
    fn default() -> Self {
        Self {
            host: "instance".into(),
            url: None,
            host_field: None,
            also: BTreeMap::new(),
            headers: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DataCloudFile {
    /// The dataspace that the tenant's token is for.
    pub dataspace: String,
    /// The tenant's token is renewed when so much of its life is left; 30s to 1h.
    pub renew_before: Span,
    /// It is renewed at this age at the latest; 1m to 2h.
    pub renew_age: Span,
}

impl Default for DataCloudFile {
    fn default() -> Self {
        Self {
            dataspace: "default".into(),
            // Both as Salesforce's own client does it (SF §9).
            renew_before: Span::new("5m"),
            renew_age: Span::new("15m"),
        }
    }
}

/// Answers kept for each identity, in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct CacheFile {
    /// How long an answer is given again without asking the org; 1s to 24h.
    pub ttl: Span,
    /// Bytes of all answers kept; 64KiB to 4GiB.
    pub max_size: Size,
    /// Bytes of one answer's body; 1KiB to 64MiB, at most `max_size`. A longer answer passes and is not kept.
    pub max_entry: Size,
    /// More paths under `/services/data/` or `/services/apexrest/` whose GETs are kept; a prefix ends with `/`, `*` stands for one segment.
    pub paths: Vec<String>,
}

impl Default for CacheFile {
    fn default() -> Self {
        Self {
            // A new field is seen soon after it is made; a client that describes before each call is answered here all the same.
            ttl: Span::new("5m"),
            // Some hundred descriptions; one of a large object has some hundred KiB.
            max_size: Size::new("16MiB"),
            max_entry: Size::new("1MiB"),
            paths: vec![],
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
    /// One exchange with the login host, whole; 1s to 5m. Of the grant command: its run.
    pub exchange_timeout: Span,
    /// Ask the login host when a new token ends; needs a grant with the app's secret.
    pub introspect: bool,
    /// When the renewal is due, use the session once instead, which extends it (an API call in place of a login).
    pub keep_alive: bool,
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
            // One more request for each login; most orgs' tokens live as long as assumed.
            introspect: false,
            // A login is proven to work each time it is due; a session kept alive proves nothing of the credential.
            keep_alive: false,
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
    /// Offer HTTP/2 to the org. Pub/Sub has it always, CometD never.
    pub http2: bool,
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
            // Bulk data costs less over HTTP/1.1, and connections do not share their fate (`performance.md`).
            http2: false,
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
    /// After SIGTERM new calls are still taken for so long, the least that the end takes; 0s to 10m. For what does not hear at once that this
    /// instance goes: a Service (5s), or an app that is told to end at the same time.
    pub delay: Span,
    /// How long calls in flight may then take to finish, at most; 0s to 1h. Keep delay and drain together 10 s below the pod's grace period: a login under way may take 5 s more.
    pub drain: Span,
}

impl Default for ShutdownFile {
    fn default() -> Self {
        Self {
            // A native sidecar is told when the apps have gone.
            delay: Span::new("0s"),
            // Below Kubernetes' usual grace period of 30 s, with what comes after the drain.
            drain: Span::new("20s"),
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

/// What becomes of changed files while the program runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ReloadFile {
    /// How often the configuration file and the files that it names are looked at; 1s to 1h, or 0s: only on SIGHUP.
    pub interval: Span,
}

impl Default for ReloadFile {
    fn default() -> Self {
        Self {
            // Kubernetes takes up to a minute or so itself to bring a changed Secret.
            interval: Span::new("10s"),
        }
    }
}

/// `auto`, or how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(inline, extend("title" = "`auto` or a whole number")))]
#[serde(untagged)]
pub enum ThreadsFile {
    Number(i64),
    Word(String),
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
                ..Default::default()
            },
            ..Default::default()
        };
        let text = format!("{org:?}");
        assert!(text.contains("client_secret"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
