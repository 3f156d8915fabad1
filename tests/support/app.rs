//! The whole app in process, on ports of its own; joined at the end.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use sf_token_proxy::{
    app::{App, Bound, Exit},
    config::{
        Admin, Api, Budget, ClientCredentials, Config, EgressProxy, Grant, Listener, Log, LogFormat, LoginHost, Org,
        OrgName, Reload, Replay, SecretRef, SendSecret, Shutdown, Source, Store, Threads, TokenSettings, Upstream,
        Vars,
    },
    reload::Reloader,
    shutdown::{Hangups, Stop},
};
use tokio::task::JoinHandle;

/// Found in no output of any test.
pub const CANARY_SECRET: &str = "CANARY-client-secret-7f3a";

/// A running app.
pub struct Running {
    /// The first listener.
    pub proxy: SocketAddr,
    pub listeners: Vec<SocketAddr>,
    /// The first of the admin port.
    pub admin: SocketAddr,
    pub admins: Vec<SocketAddr>,
    pub stop: Stop,
    task: JoinHandle<Result<(), Exit>>,
    _secrets: tempfile::TempDir,
}

/// Defaults as the configuration's, but for ports and a client-credentials org at `login_url`.
pub fn settings_for(login_url: &str, secret_file: PathBuf) -> Config {
    let name = OrgName::new("main");
    Config {
        listeners: vec![Listener {
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            org: name.clone(),
            hosts: vec![],
            allowed_origins: vec![],
            extra_paths: vec![],
            local_login: true,
            insecure_allow_any_caller: false,
            tls: None,
            users: None,
            max_connections: 10_000,
            idle_timeout: Duration::from_secs(300),
        }],
        admin: Admin {
            addresses: vec!["127.0.0.1:0".parse().unwrap()],
            startup_patience: Duration::from_secs(15),
            startup_holds_on_refusal: true,
            quit_endpoint: false,
        },
        orgs: BTreeMap::from([(
            name,
            Org {
                login: LoginHost {
                    url: login_url.parse().unwrap(),
                },
                grant: Grant::ClientCredentials(ClientCredentials {
                    client_id: "3MVG9practice".into(),
                    client_secret: SecretRef::file(secret_file),
                    send_secret: SendSecret::Basic,
                }),
                instance_url: None,
                token: TokenSettings {
                    lifetime: Duration::from_secs(90 * 60),
                    refresh_wait: Duration::from_secs(10),
                    cool_down: Duration::from_secs(30),
                    max_waiters: 4096,
                    exchange_timeout: Duration::from_secs(30),
                    introspect: false,
                    keep_alive: false,
                },
                budget: Budget {
                    burst: 60,
                    per_minute: 4,
                },
                data_cloud: None,
                pub_sub: "https://api.pubsub.salesforce.com".parse().unwrap(),
                api: Api::default(),
                cache: None,
            },
        )]),
        store: Store::Memory,
        upstream: Upstream {
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(660),
            body_idle_timeout: Duration::from_secs(130),
            pool_idle_timeout: Duration::from_secs(60),
            pool_max_idle: 256,
            http2: false,
            ca_file: None,
            proxy: EgressProxy::default(),
        },
        replay: Replay {
            max_body: 16 << 20,
            total: 64 << 20,
        },
        shutdown: Shutdown {
            delay: Duration::ZERO,
            drain: Duration::from_secs(25),
        },
        log: Log {
            format: LogFormat::Auto,
            level: "info".into(),
            requests: false,
        },
        reload: Reload { interval: None },
        threads: Threads::Fixed(1),
    }
}

impl Running {
    /// Starts the app against a login host that takes any client secret.
    pub async fn start(login_url: &str, adapt: impl FnOnce(&mut Config)) -> Self {
        let secrets = tempfile::tempdir().unwrap();
        let secret = secrets.path().join("secret");
        std::fs::write(&secret, CANARY_SECRET).unwrap();
        let mut config = settings_for(login_url, secret);
        adapt(&mut config);
        Self::start_with(config, secrets).await
    }

    pub async fn start_with(config: Config, secrets: tempfile::TempDir) -> Self {
        let bound = App::bind(config).await.expect("the app must bind");
        Self::run(bound, secrets)
    }

    fn run(bound: Bound, folder: tempfile::TempDir) -> Self {
        let stop = Stop::new();
        Self {
            proxy: bound.proxy[0],
            listeners: bound.proxy.clone(),
            admin: bound.admin[0],
            admins: bound.admin.clone(),
            task: tokio::spawn(bound.run(stop.clone())),
            stop,
            _secrets: folder,
        }
    }

    /// Starts the app from a configuration file in the folder, and follows its changes when asked to.
    pub async fn start_from(folder: tempfile::TempDir, file: &str) -> (Self, Reloader) {
        let source = Source::new(Some(&folder.path().join(file)), Vars::default());
        let mut bound = App::bind(source.load().expect("a good configuration"))
            .await
            .expect("the app must bind");
        let reloader = bound.watching(source, Hangups::none());
        (Self::run(bound, folder), reloader)
    }

    /// Where its secrets are, and its configuration if it has a file.
    pub fn folder(&self) -> &std::path::Path {
        self._secrets.path()
    }

    /// What `/status` says.
    pub async fn status(&self) -> serde_json::Value {
        let page = super::call(self.admin, "GET /status HTTP/1.1", b"").await;
        serde_json::from_str(&page.text()).unwrap()
    }

    /// Drains and joins.
    pub async fn stop(self) {
        self.stop.drain_now();
        self.task.await.expect("no task may panic").expect("a clean end");
    }

    /// The value of one series of `/metrics`; `series` as it is printed, e.g. `x_total{a="b"}`.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = super::call(self.admin, "GET /metrics HTTP/1.1", b"").await.text();
        page.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no series {series} in\n{page}"))
    }
}
