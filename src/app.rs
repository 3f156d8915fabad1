//! What runs: binds everything, owns every task, drains.
//!
//! [`App::bind`] takes every socket and builds every room, so that a port in use or a bad CA file ends the program before
//! anything runs. [`Bound::run`] returns when every task has been joined.
//!
//! Owns: the listeners' tasks, the keepers, the pools' sweepers, the admin port.
//! Order of the end: the listeners drain while the keeper still renews (a call in flight may need it); then the rest.
//! A task that ends early takes the program with it: half a proxy is worse than a restart.

use std::{
    collections::BTreeMap,
    future::ready,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    cache::Cache,
    clock::Clock,
    config::{self, ApiHost, Config, Grant, Org, OrgName, Problems},
    metrics::Metrics,
    proxy::{
        Door, Proxy, account::Account, body, guard::Rules, record::Calls, surface::Serves, upstream::Upstream,
        users::Users,
    },
    ready::Health,
    server::{self, Limits, Tls},
    shutdown::Stop,
    store::{Store, StoreError},
    tls::{self, TlsError},
    token::{
        self, Instance, Keeper, Tokens,
        audit::Audit,
        budget::Bucket,
        data_cloud::DataCloudExchange,
        exchange::{Exchange as _, HttpExchange, SetUpError},
        kept::Kept,
        lifetime::Renewal,
    },
};

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{setting}")]
    Listen { setting: &'static str, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Exchange(#[from] SetUpError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Listener(#[from] Problems),
    #[error("reading a certificate was broken off")]
    Task(#[source] tokio::task::JoinError),
}

/// Why the program ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    #[error("{0} ended by itself")]
    TaskEnded(&'static str),
    #[error("{task} failed")]
    TaskFailed {
        task: &'static str,
        #[source]
        cause: io::Error,
    },
}

pub struct App;

/// Everything is ours; nothing runs yet.
pub struct Bound {
    /// Where the app calls.
    pub proxy: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    config: Config,
    doors: Vec<Entrance>,
    admin_listeners: Vec<TcpListener>,
    admin_room: Admin,
    health: Health,
    keepers: Vec<AnyKeeper>,
    upstreams: Vec<Arc<Upstream>>,
    proxies: Vec<Arc<Proxy>>,
    users: Vec<Arc<Users>>,
    last: CancellationToken,
}

/// One address that apps call.
struct Entrance {
    listener: TcpListener,
    door: Arc<Door>,
    limits: Limits,
    /// It speaks https.
    tls: Option<Tls>,
}

impl Entrance {
    async fn serve(self, stop: Stop) -> io::Result<()> {
        let Self {
            listener,
            door,
            limits,
            tls,
        } = self;
        let plain = Arc::clone(&door);
        let handler = move |request| door.handle(request);
        match tls {
            None => server::serve(listener, handler, limits, stop).await,
            Some(tls) => {
                let refuse = move |request: Request<Incoming>| ready(plain.refuse_plain(&request));
                server::serve_tls(listener, tls, handler, refuse, limits, stop).await
            }
        }
    }
}

/// An org's own tokens, or those of its Data Cloud.
enum AnyKeeper {
    Org(Box<Keeper<Kept>>),
    DataCloud(Box<Keeper<DataCloudExchange>>),
}

impl AnyKeeper {
    async fn run(self, stop: CancellationToken) {
        match self {
            Self::Org(keeper) => keeper.run(stop).await,
            Self::DataCloud(keeper) => keeper.run(stop).await,
        }
    }
}

impl App {
    pub async fn bind(config: Config) -> Result<Bound, BindError> {
        let metrics = Metrics::new();
        let tls = tls::client_config(config.upstream.ca_file.as_deref())?;
        let store = Store::open(&config.store)?;
        let replay = body::Store::new(&config.replay, metrics.replay_bytes.clone());
        let last = CancellationToken::new();
        let shared = Shared {
            last: last.clone(),
            config: &config,
            metrics: &metrics,
            clock: Clock::system(),
            tls,
            store,
            replay,
        };
        let mut rooms = BTreeMap::new();
        for (name, org) in &config.orgs {
            rooms.insert(name.clone(), OrgRoom::new(name, org, &shared)?);
        }

        let mut doors = Vec::new();
        let mut users = Vec::new();
        for (index, settings) in config.listeners.iter().enumerate() {
            let tls = listener_tls(index, settings, &shared.clock, &metrics).await?;
            let room = rooms
                .get(&settings.org)
                .expect("a checked listener must lead to a configured org");
            let limits = Limits::new(settings.max_connections, settings.idle_timeout);
            let of_listener = settings.users.as_ref().map(|settings| room.users(settings, &metrics));
            users.extend(of_listener.clone());
            for listener in bind("listeners[].address", &settings.addresses).await? {
                let mut own = settings.clone();
                own.addresses.extend(listener.local_addr());
                let door = Door {
                    rules: Rules::new(&own, room.serves),
                    plain: tls.is_none(),
                    proxy: Arc::clone(&room.proxy),
                    users: of_listener.clone(),
                };
                doors.push(Entrance {
                    listener,
                    door: Arc::new(door),
                    limits: limits.clone(),
                    tls: tls.clone(),
                });
            }
        }
        let admin_listeners = bind("admin.address", &config.admin.addresses).await?;
        let tokens = rooms.values().map(|room| room.tokens.clone()).collect();
        let beside = rooms.values().filter_map(|room| room.data_cloud.clone()).collect();
        let caches = rooms
            .iter()
            .map(|(name, room)| (name.clone(), room.cache.clone()))
            .collect();
        let health = Health::new(tokens, beside, &config.admin);
        Ok(Bound {
            proxy: doors
                .iter()
                .filter_map(|entrance| entrance.listener.local_addr().ok())
                .collect(),
            admin: admin_listeners.iter().filter_map(|l| l.local_addr().ok()).collect(),
            admin_room: Admin {
                registry: metrics.registry.clone(),
                health: health.clone(),
                caches: Arc::new(caches),
                quit: config.admin.quit_endpoint.then(CancellationToken::new),
            },
            doors,
            admin_listeners,
            health,
            upstreams: rooms.values().map(|room| Arc::clone(&room.upstream)).collect(),
            proxies: rooms.values().map(|room| Arc::clone(&room.proxy)).collect(),
            keepers: rooms.into_values().flat_map(|room| room.keepers).collect(),
            users,
            last,
            config,
        })
    }
}

/// What every org's room is built with.
struct Shared<'a> {
    /// Cancelled when the keepers are told to end.
    last: CancellationToken,
    config: &'a Config,
    metrics: &'a Metrics,
    clock: Clock,
    tls: rustls::ClientConfig,
    store: Store,
    replay: body::Store,
}

/// All that belongs to one org.
struct OrgRoom {
    proxy: Arc<Proxy>,
    upstream: Arc<Upstream>,
    serves: Serves,
    tokens: Tokens,
    data_cloud: Option<Tokens>,
    cache: Option<Arc<Cache>>,
    keepers: Vec<AnyKeeper>,
    name: OrgName,
    org: Org,
    http: HttpExchange,
    store: Store,
}

impl OrgRoom {
    fn new(name: &OrgName, org: &Org, shared: &Shared<'_>) -> Result<Self, BindError> {
        let Shared {
            config, metrics, clock, ..
        } = shared;
        metrics.user_tokens.with_label_values(&[name.as_str()]);
        metrics.store(name.as_str()).starts();
        let http = HttpExchange::new(org, shared.tls.clone(), &config.upstream.proxy, clock.clone())?;
        let kept = kept(name, org, http.clone(), &shared.store, metrics, None).until(shared.last.clone());
        let rules = token::Rules::new(org.token.clone(), org.budget);
        let token_metrics = metrics.token(name, kept.grant_word());
        let (tokens, keeper) = token::keeper(name.clone(), rules, kept, clock.clone(), token_metrics);
        let (org_tokens, mut data_cloud_tokens) = (tokens.clone(), None);
        let mut keepers = vec![AnyKeeper::Org(Box::new(keeper))];

        let data_cloud = org.data_cloud.as_ref().map(|settings| {
            let exchange = DataCloudExchange::new(http.clone(), tokens.clone(), settings.dataspace.clone());
            let label = OrgName::new(format!("{name}/data_cloud"));
            let rules = token::Rules {
                renewal: Renewal::Margin {
                    before: settings.renew_before,
                    age: settings.renew_age,
                },
                ..token::Rules::new(org.token.clone(), org.budget)
            };
            let token_metrics = metrics.token(&label, exchange.grant_word());
            let (tokens, keeper) = token::keeper(label, rules, exchange, clock.clone(), token_metrics);
            data_cloud_tokens = Some(tokens.clone());
            keepers.push(AnyKeeper::DataCloud(Box::new(keeper)));
            Account::elsewhere(tokens)
        });
        let (serves, own) = match (&org.api.host, &data_cloud) {
            (ApiHost::Instance, None) => (Serves::Core, Account::of_org(tokens)),
            (ApiHost::Instance, Some(_)) => (Serves::CoreAndDataCloud, Account::of_org(tokens)),
            (ApiHost::Platform { .. } | ApiHost::Other { .. }, _) => (Serves::Everything, Account::elsewhere(tokens)),
        };
        let pub_sub = Instance::from_url(&org.pub_sub).map_err(SetUpError::PubSub)?;
        let upstream = Arc::new(Upstream::new(name, &config.upstream, pub_sub, &shared.tls, metrics));
        let calls = Calls::new(name.clone(), metrics, config.log.requests);
        let proxy = Proxy::new(
            own,
            data_cloud,
            Arc::clone(&upstream),
            calls,
            shared.replay.clone(),
            config.upstream.body_idle_timeout,
            org.api.headers.clone(),
        );
        let cache_metrics = metrics.cache(name.as_str());
        let cache = org
            .cache
            .as_ref()
            .map(|settings| Arc::new(Cache::new(settings, cache_metrics)));
        Ok(Self {
            proxy: Arc::new(proxy.with_cache(cache.clone())),
            cache,
            upstream,
            serves,
            tokens: org_tokens,
            data_cloud: data_cloud_tokens,
            keepers,
            name: name.clone(),
            org: org.clone(),
            http,
            store: shared.store.clone(),
        })
    }

    /// The users of one of the org's listeners.
    fn users(&self, settings: &config::Users, metrics: &Metrics) -> Arc<Users> {
        let common = Arc::new(Mutex::new(Bucket::new(settings.budget, Instant::now())));
        let (name, org) = (self.name.clone(), self.org.clone());
        let (http, store, all_metrics) = (self.http.clone(), self.store.clone(), metrics.clone());
        let make = move |user: &str| {
            let http = match &org.grant {
                Grant::JwtBearer(grant) => http.with_grant(Grant::JwtBearer(config::JwtBearer {
                    username: user.to_owned(),
                    ..grant.clone()
                })),
                _ => http.clone(),
            };
            let clock = http.clock().clone();
            // What memory holds of a user goes with the user.
            let store = if store.is_durable() {
                store.clone()
            } else {
                Store::in_memory()
            };
            let kept = kept(&name, &org, http, &store, &all_metrics, Some(user));
            let rules = token::Rules {
                common: Some(Arc::clone(&common)),
                ..token::Rules::new(org.token.clone(), org.budget)
            };
            let token_metrics = all_metrics.user_token(&name, kept.grant_word());
            token::keeper(name.clone(), rules, kept, clock, token_metrics)
        };
        let kept = metrics.user_tokens.with_label_values(&[self.name.as_str()]);
        let own = match &self.org.grant {
            Grant::JwtBearer(grant) => grant.username.as_str(),
            _ => "",
        };
        let elsewhere = self.serves == Serves::Everything;
        Arc::new(Users::new(settings, own, elsewhere, Box::new(make), kept))
    }
}

fn kept(name: &OrgName, org: &Org, http: HttpExchange, store: &Store, metrics: &Metrics, user: Option<&str>) -> Kept {
    Kept::new(
        http,
        store.clone(),
        token::kept::key(name, org, user),
        org.token.lifetime,
        Audit::new(name.as_str(), "proxy"),
        metrics.store(name.as_str()),
    )
}

/// With what a listener speaks https, if it does. Another process may be making the certificate meanwhile.
async fn listener_tls(
    index: usize,
    settings: &config::Listener,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Option<Tls>, BindError> {
    if settings.tls.is_none() {
        return Ok(None);
    }
    let (settings, now) = (settings.clone(), clock.now());
    let opening = tokio::task::spawn_blocking(move || tls::listener::open(index, &settings, now));
    let opened = match timeout(CERTIFICATE_PATIENCE, opening).await {
        Ok(Ok(opened)) => opened?,
        Ok(Err(failed)) => return Err(BindError::Task(failed)),
        Err(_) => {
            let text = format!(
                "no certificate within {} s: the folder is locked, or its disk hangs",
                CERTIFICATE_PATIENCE.as_secs()
            );
            return Err(Problems::one(format!("listeners[{index}].tls"), text).into());
        }
    };
    Ok(opened.map(|opened| {
        opened.tell();
        Tls::new(opened.config, metrics.tls_handshake_failures.clone())
    }))
}

async fn bind(setting: &'static str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    server::bind(addresses)
        .await
        .map_err(|source| BindError::Listen { setting, source })
}

/// A task's name and how it ended.
type Ended = (&'static str, io::Result<()>);

impl Bound {
    /// Runs until `stop`, or `POST /quit`; takes calls for `shutdown.delay` yet, then drains, at most for `shutdown.drain`.
    pub async fn run(self, stop: Stop) -> Result<(), Exit> {
        // Without the setting nobody cancels it. Whoever quits needs no delay: the app says itself that it has finished.
        let quit = self.admin_room.quit.clone().unwrap_or_default();
        let mut callers: JoinSet<Ended> = JoinSet::new();
        for entrance in self.doors {
            let stop = stop.clone();
            callers.spawn(async move { ("a listener", entrance.serve(stop).await) });
        }
        // These outlive the callers.
        let late = Stop::new();
        let mut rooms: JoinSet<Ended> = JoinSet::new();
        let mut keepers: JoinSet<Ended> = JoinSet::new();
        for keeper in self.keepers {
            let stop = late.drain.clone();
            keepers.spawn(async move {
                keeper.run(stop).await;
                ("a keeper", Ok(()))
            });
        }
        for users in self.users {
            let stop = late.drain.clone();
            keepers.spawn(async move {
                users.run(stop).await;
                ("the users' keepers", Ok(()))
            });
        }
        for upstream in self.upstreams {
            let stop = late.drain.clone();
            rooms.spawn(async move {
                upstream.run(stop).await;
                ("a connection pool", Ok(()))
            });
        }
        for proxy in self.proxies {
            let stop = late.drain.clone();
            rooms.spawn(async move {
                proxy.run(stop).await;
                ("the watch over suspected tokens", Ok(()))
            });
        }
        let admin_limits = Limits::new(ADMIN_CONNECTIONS, ADMIN_IDLE);
        for listener in self.admin_listeners {
            let limits = admin_limits.clone();
            let (admin, stop) = (self.admin_room.clone(), late.clone());
            let handler = move |stream: &TcpStream| {
                let (admin, peer) = (admin.clone(), stream.peer_addr().ok());
                move |request| ready(admin.answer(request, peer))
            };
            rooms.spawn(async move {
                (
                    "the admin port",
                    server::serve_each(listener, handler, limits, stop).await,
                )
            });
        }

        // Dropped half-way, a join loses nothing: the set keeps the task.
        let mut early = tokio::select! {
            biased;
            () = stop.leave.cancelled() => None,
            () = quit.cancelled() => None,
            ended = first([&mut callers, &mut keepers, &mut rooms]) => Some(ended),
        };
        self.health.draining();
        let delay = self.config.shutdown.delay;
        if early.is_none() && !delay.is_zero() {
            early = tokio::select! {
                biased;
                () = stop.drain.cancelled() => None,
                () = quit.cancelled() => None,
                () = sleep(delay) => None,
                ended = first([&mut callers, &mut keepers, &mut rooms]) => Some(ended),
            };
        }
        if let Some((task, _)) = &early {
            tracing::error!(task, "ended by itself, stopping");
        }
        tracing::info!("draining");
        stop.drain_now();
        let drained = timeout(self.config.shutdown.drain, join_all(&mut callers)).await;
        if drained.is_err() {
            tracing::warn!("calls were still in flight after shutdown.drain, dropping them");
        }
        stop.force_now();
        join_all(&mut callers).await;
        self.last.cancel();
        late.drain_now();
        // Nothing of what is left waits for anybody, but a scrape in flight may take a moment.
        drop(timeout(LAST_RESPECTS, join_all(&mut rooms)).await);
        // A refresh token's answer must not be lost; keepers of other grants have ended by now.
        if timeout(LAST_EXCHANGE, join_all(&mut keepers)).await.is_err() {
            tracing::warn!("a login was still under way; what it brings is lost, and the next start finds out");
        }
        keepers.shutdown().await;
        late.force_now();
        rooms.shutdown().await;
        match early {
            None => Ok(()),
            Some((task, Ok(()))) => Err(Exit::TaskEnded(task)),
            Some((task, Err(cause))) => Err(Exit::TaskFailed { task, cause }),
        }
    }
}

/// For another process to make a certificate, and for a disk.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(30);
const ADMIN_CONNECTIONS: usize = 100;
const ADMIN_IDLE: Duration = Duration::from_secs(120);
/// For the admin port's last answers and connections closing.
const LAST_RESPECTS: Duration = Duration::from_secs(1);

/// For the login host's answer to a refresh token.
const LAST_EXCHANGE: Duration = Duration::from_secs(5);

/// The next task of any of these that ends.
async fn first([a, b, c]: [&mut JoinSet<Ended>; 3]) -> Ended {
    tokio::select! {
        biased;
        ended = next(a) => ended,
        ended = next(b) => ended,
        ended = next(c) => ended,
    }
}

/// The next task that ends; for ever when there is none.
async fn next(tasks: &mut JoinSet<Ended>) -> Ended {
    match tasks.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(e)) => ("a task", Err(io::Error::other(e))),
        None => std::future::pending().await,
    }
}

async fn join_all(tasks: &mut JoinSet<Ended>) {
    while tasks.join_next().await.is_some() {}
}
