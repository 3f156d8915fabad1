//! What runs: binds everything, owns every task, drains.
//!
//! [`App::bind`] takes every socket and builds every room, so that a port in use or a bad CA file ends the program before
//! anything runs. [`Bound::run`] returns when every task has been joined.
//!
//! Owns: the listeners' tasks, the keeper, the pool's sweeper, the admin port.
//! Order of the end: the listeners drain while the keeper still renews (a call in flight may need it); then the rest.
//! A task that ends early takes the program with it: half a proxy is worse than a restart.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use crate::{
    admin::Admin,
    clock::Clock,
    config::{Config, OrgName},
    metrics::Metrics,
    proxy::{self, Door, Proxy, body::Store, guard::Rules, record::Calls, upstream::Upstream},
    ready::Health,
    server::{self, Limits},
    shutdown::Stop,
    tls::{self, TlsError},
    token::{
        self, Keeper, Tokens,
        exchange::{Exchange as _, HttpExchange, SetUpError},
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
    doors: Vec<(TcpListener, Arc<Door>, Limits)>,
    admin_listeners: Vec<TcpListener>,
    admin_room: Admin,
    health: Health,
    keeper: Keeper<HttpExchange>,
    upstream: Arc<Upstream>,
}

impl App {
    pub async fn bind(config: Config) -> Result<Bound, BindError> {
        let metrics = Metrics::new();
        let clock = Clock::system();
        // One org in this version; the check has seen to it.
        let (name, org) = config
            .orgs
            .first_key_value()
            .expect("a checked configuration must have an org");
        let tls = tls::client_config(config.upstream.ca_file.as_deref())?;
        let exchange = HttpExchange::new(org, tls.clone(), &config.upstream.proxy, clock.clone())?;
        let token_metrics = metrics.token(name, exchange.grant_word());
        let (tokens, keeper) = token::keeper(
            name.clone(),
            org.token.clone(),
            org.budget,
            exchange,
            clock,
            token_metrics,
        );
        let upstream = Arc::new(Upstream::new(name, &config.upstream, tls, &metrics));
        let proxy = Arc::new(proxy_room(
            name,
            &config,
            &metrics,
            tokens.clone(),
            Arc::clone(&upstream),
        ));

        let mut doors = Vec::new();
        for settings in &config.listeners {
            let limits = Limits::new(settings.max_connections, settings.idle_timeout);
            for listener in bind("listeners[].address", &settings.addresses).await? {
                let mut own = settings.clone();
                own.addresses.extend(listener.local_addr());
                let door = Door {
                    rules: Rules::new(&own),
                    plain: true,
                    proxy: Arc::clone(&proxy),
                };
                doors.push((listener, Arc::new(door), limits.clone()));
            }
        }
        let admin_listeners = bind("admin.address", &config.admin.addresses).await?;
        let health = Health::new(vec![tokens], config.admin.startup_patience);
        Ok(Bound {
            proxy: doors
                .iter()
                .filter_map(|(listener, ..)| listener.local_addr().ok())
                .collect(),
            admin: admin_listeners.iter().filter_map(|l| l.local_addr().ok()).collect(),
            admin_room: Admin {
                registry: metrics.registry.clone(),
                health: health.clone(),
            },
            config,
            doors,
            admin_listeners,
            health,
            keeper,
            upstream,
        })
    }
}

fn proxy_room(org: &OrgName, config: &Config, metrics: &Metrics, tokens: Tokens, upstream: Arc<Upstream>) -> Proxy {
    let calls = Calls::new(org.clone(), metrics, config.log.requests);
    let store = Store::new(&config.replay, metrics.replay_bytes.clone());
    proxy::Proxy::new(tokens, upstream, calls, store, config.upstream.body_idle_timeout)
}

async fn bind(setting: &'static str, addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    server::bind(addresses)
        .await
        .map_err(|source| BindError::Listen { setting, source })
}

/// A task's name and how it ended.
type Ended = (&'static str, io::Result<()>);

impl Bound {
    /// Runs until `stop`; then drains, at most for `shutdown.drain`.
    pub async fn run(self, stop: Stop) -> Result<(), Exit> {
        let mut callers: JoinSet<Ended> = JoinSet::new();
        for (listener, door, limits) in self.doors {
            let stop = stop.clone();
            let handler = move |request| door.handle(request);
            callers.spawn(async move { ("a listener", server::serve(listener, handler, limits, stop).await) });
        }
        // These outlive the callers.
        let late = Stop::new();
        let mut rooms: JoinSet<Ended> = JoinSet::new();
        let (keeper, keeper_stop) = (self.keeper, late.drain.clone());
        rooms.spawn(async move {
            keeper.run(keeper_stop).await;
            ("the keeper", Ok(()))
        });
        let (upstream, upstream_stop) = (self.upstream, late.drain.clone());
        rooms.spawn(async move {
            upstream.run(upstream_stop).await;
            ("the connection pool", Ok(()))
        });
        let admin_limits = Limits::new(ADMIN_CONNECTIONS, ADMIN_IDLE);
        for listener in self.admin_listeners {
            let limits = admin_limits.clone();
            let (admin, stop) = (self.admin_room.clone(), late.clone());
            let handler = move |request| std::future::ready(admin.answer(&request));
            rooms.spawn(async move { ("the admin port", server::serve(listener, handler, limits, stop).await) });
        }

        // Dropped half-way, a join loses nothing: the set keeps the task.
        let early = tokio::select! {
            biased;
            () = stop.drain.cancelled() => None,
            ended = next(&mut callers) => Some(ended),
            ended = next(&mut rooms) => Some(ended),
        };
        if let Some((task, _)) = &early {
            tracing::error!(task, "ended by itself, stopping");
        }
        self.health.draining();
        stop.drain_now();
        let drained = timeout(self.config.shutdown.drain, join_all(&mut callers)).await;
        if drained.is_err() {
            tracing::warn!("calls were still in flight after shutdown.drain, dropping them");
        }
        stop.force_now();
        join_all(&mut callers).await;
        late.drain_now();
        // Nothing of what is left waits for anybody, but a scrape in flight may take a moment.
        drop(timeout(LAST_RESPECTS, join_all(&mut rooms)).await);
        late.force_now();
        rooms.shutdown().await;
        match early {
            None => Ok(()),
            Some((task, Ok(()))) => Err(Exit::TaskEnded(task)),
            Some((task, Err(cause))) => Err(Exit::TaskFailed { task, cause }),
        }
    }
}

const ADMIN_CONNECTIONS: usize = 100;
const ADMIN_IDLE: Duration = Duration::from_secs(120);
/// For the admin port's last answers and connections closing.
const LAST_RESPECTS: Duration = Duration::from_secs(1);

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
