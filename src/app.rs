//! What runs: binds everything, owns every task, drains.
//!
//! [`App::bind`] takes every socket and builds every room, so that a port in use or a bad CA file ends the program before
//! anything runs. [`Bound::run`] returns when every task has been joined.
//!
//! | File | Answers |
//! |---|---|
//! | `app/site.rs` | what stands now, and how it becomes what a changed configuration says |
//! | `app/plan.rs` | what a changed configuration changes (pure) |
//! | `app/room.rs` | what belongs to one org |
//! | `app/doors.rs` | the addresses that apps call |
//! | `app/jobs.rs` | every task |
//!
//! Order of the end: the listeners drain while the keeper still renews (a call in flight may need it); then the rest.
//! A task that ends early takes the program with it: half a proxy is worse than a restart.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    clock::Clock,
    config::{self, Config, Problems, Source},
    log,
    metrics::Metrics,
    proxy::body,
    ready::Health,
    reload::{Order, Reloader, Reloads, Watch},
    shutdown::{Hangups, Stop},
    store::{Store, StoreError},
    tls::{self, TlsError, listener::Opened},
    token::exchange::SetUpError,
};

mod doors;
mod jobs;
mod plan;
mod room;
mod site;

pub use self::site::Prepared;
use self::{
    jobs::{Ended, Group},
    room::Shared,
    site::Site,
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
    site: Site,
    admin_room: Admin,
    orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
}

impl App {
    pub async fn bind(config: Config) -> Result<Bound, BindError> {
        let metrics = Metrics::new();
        let clock = Clock::system();
        let late = Stop::new();
        let shared = Shared {
            last: CancellationToken::new(),
            late: late.drain.clone(),
            tls: tls::client_config(config.upstream.ca_file.as_deref())?,
            store: Store::open(&config.store)?,
            replay: body::Store::new(&config.replay, metrics.replay_bytes.clone()),
            clock: clock.clone(),
            metrics: metrics.clone(),
        };
        let health = Health::new();
        let reloads = Reloads::new(metrics.clone(), clock.clone());
        for org in config.orgs.keys() {
            reloads.starts(org);
        }
        let admin_room = Admin::new(metrics.registry.clone(), health.clone(), reloads);
        let mut tls = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate() {
            tls.push(Some(listener_tls(index, listener, &clock).await?));
        }
        let mut site = Site::new(config.clone(), shared, late, admin_room.clone(), health);
        site.become_as(Prepared {
            config,
            authorities: None,
            tls,
        })?;
        Ok(Bound {
            proxy: site.proxy_addresses(),
            admin: site.admin_addresses(),
            site,
            admin_room,
            orders: mpsc::channel(1),
        })
    }
}

/// With what a listener speaks https, if it does. Another process may be making the certificate meanwhile.
async fn listener_tls(index: usize, settings: &config::Listener, clock: &Clock) -> Result<Option<Opened>, BindError> {
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
    Ok(opened)
}

impl Bound {
    /// Follows changes of the configuration, and of the files that it names, while it runs.
    pub fn watching(&mut self, source: Source, hangups: Hangups) -> Reloader {
        let reloads = self.admin_room.reloads.clone();
        let (watch, reloader) = Watch::new(
            source,
            self.site.config.clone(),
            reloads,
            self.orders.0.clone(),
            hangups,
        );
        let end = self.site.late.drain.clone();
        let told = end.clone();
        self.site
            .jobs
            .add(Group::Rooms, "the watch over files", &told, async move {
                watch.run(end).await;
                Ok(())
            });
        reloader
    }

    /// Runs until `stop`, or `POST /quit`; takes calls for `shutdown.delay` yet, then drains, at most for `shutdown.drain`.
    pub async fn run(self, stop: Stop) -> Result<(), Exit> {
        let Self {
            mut site,
            admin_room,
            orders: (_keep, mut orders),
            ..
        } = self;
        let quit = admin_room.quit;
        site.jobs.start();
        let mut early = loop {
            // Dropped half-way, a join loses nothing, and an order stays where it is.
            tokio::select! {
                biased;
                () = stop.leave.cancelled() => break None,
                // Whoever quits needs no delay: the app says itself that it has finished.
                () = quit.cancelled() => break None,
                ended = site.jobs.next_early() => break Some(ended),
                Some(order) = orders.recv() => carry_out(order, &mut site),
            }
        };
        site.health.draining();
        site.stop.leave_now();
        let delay = site.config.shutdown.delay;
        if early.is_none() && !delay.is_zero() {
            early = tokio::select! {
                biased;
                () = stop.drain.cancelled() => None,
                () = quit.cancelled() => None,
                () = sleep(delay) => None,
                ended = site.jobs.next_early() => Some(ended),
            };
        }
        if let Some(ended) = &early {
            tracing::error!(task = ended.task, "ended by itself, stopping");
        }
        tracing::info!("draining");
        stop.drain_now();
        site.close();
        let drain = site.config.shutdown.drain;
        let drained = timeout(drain, site.jobs.join(Group::Callers)).await;
        if drained.is_err() {
            tracing::warn!("calls were still in flight after shutdown.drain, dropping them");
        }
        stop.force_now();
        site.stop.force_now();
        site.jobs.join(Group::Callers).await;
        site.shared.last.cancel();
        site.late.drain_now();
        // Nothing of what is left waits for anybody, but a scrape in flight may take a moment.
        drop(timeout(LAST_RESPECTS, site.jobs.join(Group::Rooms)).await);
        // A refresh token's answer must not be lost; keepers of other grants have ended by now.
        if timeout(LAST_EXCHANGE, site.jobs.join(Group::Keepers)).await.is_err() {
            tracing::warn!("a login was still under way; what it brings is lost, and the next start finds out");
        }
        site.jobs.abort(Group::Keepers).await;
        site.late.force_now();
        site.jobs.abort(Group::Rooms).await;
        match early {
            None => Ok(()),
            Some(Ended {
                task, result: Ok(()), ..
            }) => Err(Exit::TaskEnded(task)),
            Some(Ended {
                task,
                result: Err(cause),
                ..
            }) => Err(Exit::TaskFailed { task, cause }),
        }
    }
}

fn carry_out(order: Order, site: &mut Site) {
    match order {
        Order::Retry(org) => site.retry(&org),
        Order::Become(next, reply) => {
            let restart = plan::for_a_restart(&site.first, &next.config);
            let level = (site.config.log.level != next.config.log.level).then(|| next.config.log.level.clone());
            let done = site.become_as(*next);
            if done.is_ok() {
                site.jobs.start();
                if let Some(level) = level {
                    log::set_level(&level);
                }
            }
            // Whoever asked may have gone.
            drop(reply.send(done.map(|()| restart).map_err(BindError::into_problems)));
        }
    }
}

impl BindError {
    fn into_problems(self) -> Problems {
        match self {
            Self::Listen { setting, source } if source.kind() == io::ErrorKind::AddrInUse => {
                let text =
                    format!("{source}; if this program has it itself, under a broader or narrower address, restart it");
                Problems::one(setting, text)
            }
            Self::Listen { setting, source } => Problems::one(setting, source.to_string()),
            Self::Listener(problems) => problems,
            other => Problems::one("configuration", other.to_string()),
        }
    }
}

/// For another process to make a certificate, and for a disk.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(30);
/// For the admin port's last answers and connections closing.
const LAST_RESPECTS: Duration = Duration::from_secs(1);
/// For the login host's answer to a refresh token.
const LAST_EXCHANGE: Duration = Duration::from_secs(5);
