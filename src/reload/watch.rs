//! The watch over files: one task that looks, asks for what follows, and remembers what was refused.
//!
//! Owns: [`Watch`]. Invariants: contents are remembered as digests only; a change beside a bad configuration is not
//! forgotten until a good one is taken; one thread at most waits for a disk that hangs.
//! Units: `Duration`. Fails with: nothing; [`super::Reloads`] tells what was refused. Source: `kubernetes.md` §3.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Order, Outcome, Reloader, Reloads,
    files::{self, Looked, Seen},
    prepare::{check_of, keep_equal_orgs, prepare, unchanged_keys},
};
use crate::{
    config::{Config, Listener, ListenerTls, Problems, Source},
    shutdown::Hangups,
};

/// The watch over files.
pub(crate) struct Watch {
    source: Source,
    /// As it counts now.
    config: Config,
    reloads: Reloads,
    orders: mpsc::Sender<Order>,
    asked: mpsc::Receiver<oneshot::Sender<Outcome>>,
    hangups: Hangups,
    seen: Seen,
    /// Files that a refused configuration names: when they come, it may be good.
    hoped_for: Vec<PathBuf>,
    /// Files that have changed since a configuration was last taken.
    pending: BTreeSet<PathBuf>,
    /// What was refused failed for something that no file shows, such as a port in use: it is tried again.
    again: bool,
    /// Somebody waits to be told, be it once more.
    asked_for: bool,
    /// A look that has not ended: a disk hangs, and one thread is enough to wait for it.
    looking: Option<JoinHandle<Looked>>,
}

impl Watch {
    pub(crate) fn new(
        source: Source,
        config: Config,
        reloads: Reloads,
        orders: mpsc::Sender<Order>,
        hangups: Hangups,
    ) -> (Self, Reloader) {
        let (ask, asked) = mpsc::channel(1);
        reloads.from(&source);
        let watch = Self {
            source,
            config,
            reloads,
            orders,
            asked,
            hangups,
            seen: Seen::default(),
            hoped_for: Vec::new(),
            pending: BTreeSet::new(),
            again: false,
            asked_for: false,
            looking: None,
        };
        (watch, Reloader(ask))
    }

    /// Looks until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        // Dropped half-way: the program ends, and nobody needs the answer.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.watch() => {}
        }
    }

    async fn watch(&mut self) {
        // The file may have changed since it was read at the start.
        self.look(Why::Start).await;
        loop {
            // Dropped half-way: a signal and a question stay where they are, and a sleep is made anew.
            tokio::select! {
                biased;
                Some(reply) = self.asked.recv() => {
                    let outcome = self.look(Why::Asked).await;
                    drop(reply.send(outcome));
                }
                () = self.hangups.next() => {
                    tracing::info!("SIGHUP: looking at the configuration");
                    self.look(Why::Asked).await;
                }
                () = interval(self.config.reload.interval) => {
                    self.look(Why::Time).await;
                }
            }
        }
    }

    /// Looks once, and does what follows.
    async fn look(&mut self, why: Why) -> Outcome {
        let mut paths: BTreeSet<PathBuf> = self.config.files().into_iter().map(Path::to_owned).collect();
        paths.extend(self.source.file().map(Path::to_owned));
        paths.extend(self.hoped_for.iter().cloned());
        self.asked_for = why == Why::Asked;
        let (seen, again) = (self.seen.clone(), self.asked_for);
        let mut looking = match self.looking.take() {
            Some(looking) => looking,
            None => tokio::task::spawn_blocking(move || files::look(&paths, &seen, again)),
        };
        let looked = timeout(PATIENCE, &mut looking).await;
        if looked.is_err() {
            self.looking = Some(looking);
        }
        let Ok(Ok(Looked { seen, changed })) = looked else {
            tracing::warn!(
                seconds = PATIENCE.as_secs(),
                "the files of the configuration could not be read: a disk hangs"
            );
            return Outcome::Unchanged;
        };
        self.seen = seen;
        if changed.is_empty() && why != Why::Asked && !self.again {
            return Outcome::Unchanged;
        }
        if why != Why::Start {
            self.pending.extend(changed.iter().cloned());
        }
        let of_config = self.reload(&changed, why).await;
        let of_secrets = why != Why::Start && self.secrets(&changed).await;
        match of_config {
            Outcome::Unchanged if of_secrets => Outcome::Taken,
            other => other,
        }
    }

    /// The configuration, and what it refers to beside secrets.
    async fn reload(&mut self, changed: &BTreeSet<PathBuf>, why: Why) -> Outcome {
        let loaded = match self.source.file() {
            Some(file) if changed.contains(file) || why == Why::Asked || self.again || !self.hoped_for.is_empty() => {
                let source = self.source.clone();
                // Read and checked where it may block.
                match timeout(PATIENCE, tokio::task::spawn_blocking(move || source.load())).await {
                    Ok(Ok(loaded)) => loaded,
                    _ => Err(Problems::one(
                        file.display().to_string(),
                        "cannot be read: a disk hangs",
                    )),
                }
            }
            _ => Ok(self.config.clone()),
        };
        let mut config = match loaded {
            Ok(config) => config,
            Err(problems) => return self.refuse(problems, Vec::new(), false),
        };
        keep_equal_orgs(&self.config, &mut config);
        // At the start the files are those that have just been read.
        let touched = |path: &Path| self.pending.contains(path);
        let authorities = config.upstream.ca_file != self.config.upstream.ca_file
            || config.upstream.ca_file.as_deref().is_some_and(touched);
        let certificates: Vec<bool> = config
            .listeners
            .iter()
            .map(|listener| self.needs_tls(listener, &touched))
            .collect();
        if config == self.config && !authorities && !certificates.contains(&true) {
            self.settled();
            self.reloads.as_before(why == Why::Asked);
            return Outcome::Unchanged;
        }
        let hopes = config.files().into_iter().map(Path::to_owned).collect();
        let before = self.config.clone();
        let (clock, metrics) = self.reloads.clock_and_metrics();
        let preparing =
            tokio::task::spawn_blocking(move || prepare(&before, config, authorities, &certificates, &clock, &metrics));
        let prepared = match timeout(PREPARATION, preparing).await {
            Ok(Ok(Ok(prepared))) => prepared,
            Ok(Ok(Err(problems))) => return self.refuse(problems, hopes, false),
            _ => {
                let text = "no certificate in time: its folder is locked, or its disk hangs";
                return self.refuse(Problems::one("listeners[].tls", text), hopes, true);
            }
        };
        let (reply, done) = oneshot::channel();
        let config = prepared.config.clone();
        if self
            .orders
            .send(Order::Become(Box::new(prepared), reply))
            .await
            .is_err()
        {
            return Outcome::Unchanged;
        }
        match done.await {
            Ok(Ok(restart)) => {
                self.reloads.only(&unchanged_keys(&self.config, &config));
                for org in config.orgs.keys() {
                    self.reloads.starts(org);
                }
                self.config = config;
                self.settled();
                self.reloads.taken(restart);
                Outcome::Taken
            }
            Ok(Err(problems)) => self.refuse(problems, hopes, true),
            // The program ends.
            Err(_) => Outcome::Unchanged,
        }
    }

    /// What is in use is what the files say.
    fn settled(&mut self) {
        self.hoped_for.clear();
        self.pending.clear();
        self.again = false;
    }

    fn refuse(&mut self, problems: Problems, hoped_for: Vec<PathBuf>, again: bool) -> Outcome {
        self.hoped_for = hoped_for;
        self.again = again;
        self.reloads.refused(&problems, self.asked_for);
        Outcome::Refused(problems)
    }

    /// Whether the listener's certificate has to be read.
    fn needs_tls(&self, listener: &Listener, touched: &impl Fn(&Path) -> bool) -> bool {
        let before = self.config.listeners.iter().find(|l| l.addresses == listener.addresses);
        let same = before.is_some_and(|before| before.tls == listener.tls && before.names() == listener.names());
        let files = match &listener.tls {
            Some(ListenerTls::Files { certificate, key }) => touched(certificate) || touched(key),
            _ => false,
        };
        !same && (listener.tls.is_some() || before.is_some_and(|before| before.tls.is_some())) || files
    }

    /// Secrets whose files have changed; whether there was one.
    async fn secrets(&self, changed: &BTreeSet<PathBuf>) -> bool {
        let mut any = false;
        for (name, org) in &self.config.orgs {
            let mut good = false;
            for (key, reference) in org.grant.references() {
                let Some(secret) = reference
                    .secret()
                    .filter(|s| s.path().is_some_and(|path| changed.contains(path)))
                else {
                    continue;
                };
                let (secret, check) = (secret.clone(), check_of(reference));
                let read = tokio::task::spawn_blocking(move || secret.refreshed(check).map(drop));
                let read = match timeout(PATIENCE, read).await {
                    Ok(Ok(read)) => read,
                    _ => Err("cannot be read: a disk hangs".to_owned()),
                };
                good |= read.is_ok();
                any = true;
                self.reloads.secret(name, key, read.err());
            }
            if good && self.orders.send(Order::Retry(name.clone())).await.is_err() {
                return any;
            }
        }
        any
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Start,
    Time,
    /// By SIGHUP, or by [`Reloader`].
    Asked,
}

async fn interval(interval: Option<Duration>) {
    match interval {
        Some(interval) => tokio::time::sleep(interval).await,
        None => std::future::pending().await,
    }
}

/// For reading a few small files.
const PATIENCE: Duration = Duration::from_secs(10);
/// For certificates: another process may be making one.
const PREPARATION: Duration = Duration::from_secs(30);
