//! The watch over files: one task that looks, asks for what follows, and remembers what was refused.
//!
//! Owns: [`Watch`]. Invariants: contents are remembered as digests only; a change beside a bad configuration is not
//! forgotten until a good one is taken; what was refused is tried again at each look, and told once; a file that nobody
//! asked about is taken when it is left alone.
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
    app::Prepared,
    config::{Config, Listener, ListenerTls, Problems, Source},
    shutdown::Hangups,
};

#[cfg(test)]
mod tests;

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
    /// The newest configuration was refused. It is tried again at each look: the reason may be one that no file shows (a port
    /// in use, no descriptor left), or the file was read while it was written.
    again: bool,
    /// Somebody waits to be told, be it once more.
    asked_for: bool,
    /// What has not ended in time: one thread is enough to wait for it.
    preparing: Option<JoinHandle<Result<Prepared, Problems>>>,
    /// Files that were not left alone at the last look.
    restless: BTreeSet<PathBuf>,
    /// Files of which the last look could tell nothing.
    unknown: BTreeSet<PathBuf>,
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
            preparing: None,
            restless: BTreeSet::new(),
            unknown: BTreeSet::new(),
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
        let mut looked = self.looked(paths, self.seen.clone(), self.asked_for).await;
        let unknown = std::mem::take(&mut looked.unknown);
        for (file, error) in unknown.iter().filter(|(file, _)| !self.unknown.contains(*file)) {
            tracing::warn!(file = %file.display(), error, "a file cannot be looked at; it counts as it was");
        }
        self.unknown = unknown.into_keys().collect();
        if why == Why::Time {
            self.wait_for_writers(&mut looked).await;
        }
        let Looked { seen, changed, .. } = looked;
        self.seen = seen;
        let to_try_again = self.again || self.reloads.refuses_secrets();
        if changed.is_empty() && why != Why::Asked && !to_try_again {
            return Outcome::Unchanged;
        }
        if why != Why::Start {
            self.pending.extend(changed.iter().cloned());
        }
        let of_config = match why == Why::Time && self.is_being_written() {
            true => {
                // What has changed beside waits for it.
                self.again |= !changed.is_empty();
                Outcome::Unchanged
            }
            false => self.reload(&changed, why).await,
        };
        let of_secrets = why != Why::Start && self.secrets(&changed, why).await;
        match of_config {
            Outcome::Unchanged if of_secrets => Outcome::Taken,
            other => other,
        }
    }

    /// Looks where it may block, for a bounded time.
    async fn looked(&self, paths: BTreeSet<PathBuf>, seen: Seen, again: bool) -> Looked {
        let clock = self.reloads.clock();
        let before = seen.clone();
        let looking = tokio::task::spawn_blocking(move || files::look(&paths, &before, again, clock.now()));
        // It does not panic; the program ends.
        looking.await.unwrap_or_else(|_| Looked::nothing_new(seen))
    }

    /// Waits until changed files are left alone: half a configuration may be a good one. What is written all the while does
    /// not count.
    async fn wait_for_writers(&mut self, looked: &mut Looked) {
        for _ in 0..LOOKS {
            if looked.unsure.is_empty() {
                break;
            }
            tokio::time::sleep(LEFT_ALONE).await;
            let later = self.looked(looked.unsure.clone(), looked.seen.clone(), true).await;
            looked.confirmed_by(later);
        }
        for file in looked.unsure.difference(&self.restless) {
            tracing::warn!(file = %file.display(), "a file is changed again and again; it counts as it was until it is left alone");
        }
        self.restless = looked.unsure.clone();
        looked.without_unsure(&self.seen);
    }

    /// Whether the configuration, or what it refers to beside secrets, may be half-written now.
    fn is_being_written(&self) -> bool {
        let grants = self.config.orgs.values().flat_map(|org| org.grant.references());
        let secrets: BTreeSet<PathBuf> = grants
            .filter_map(|(_, reference)| Some(reference.secret()?.path()?.to_owned()))
            .collect();
        self.restless.difference(&secrets).next().is_some()
    }

    /// The configuration, and what it refers to beside secrets.
    async fn reload(&mut self, changed: &BTreeSet<PathBuf>, why: Why) -> Outcome {
        let loaded = match self.source.file() {
            Some(file) if changed.contains(file) || why == Why::Asked || self.again => {
                let (source, name) = (self.source.clone(), file.display().to_string());
                // Read and checked where it may block, for a bounded time.
                let loading = tokio::task::spawn_blocking(move || source.load()).await;
                loading.unwrap_or_else(|_| Err(Problems::one(name, "cannot be read")))
            }
            _ => Ok(self.config.clone()),
        };
        if let Some(file) = self.source.file().filter(|_| why == Why::Time) {
            // Written anew since it was looked at, it may have been half there.
            let file = BTreeSet::from([file.to_owned()]);
            if !self.looked(file, self.seen.clone(), true).await.changed.is_empty() {
                self.again = true;
                return Outcome::Unchanged;
            }
        }
        let mut config = match loaded {
            Ok(config) => config,
            Err(problems) => return self.refuse(problems, Vec::new()),
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
        let clock = self.reloads.clock();
        let out_of_time = "no certificate in time: its folder is locked, or its disk hangs";
        let out_of_time = || Problems::one("listeners[].tls", out_of_time);
        if self.preparing.as_ref().is_some_and(|before| !before.is_finished()) {
            return self.refuse(out_of_time(), hopes);
        }
        self.preparing = None;
        let mut preparing =
            tokio::task::spawn_blocking(move || prepare(&before, config, authorities, &certificates, &clock));
        let prepared = match timeout(PREPARATION, &mut preparing).await {
            Ok(Ok(Ok(prepared))) => prepared,
            Ok(Ok(Err(problems))) => return self.refuse(problems, hopes),
            ended => {
                self.preparing = ended.is_err().then_some(preparing);
                return self.refuse(out_of_time(), hopes);
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
            Ok(Err(problems)) => self.refuse(problems, hopes),
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

    fn refuse(&mut self, problems: Problems, hoped_for: Vec<PathBuf>) -> Outcome {
        self.hoped_for = hoped_for;
        self.again = true;
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

    /// Secrets whose files have changed, and those that were no good; whether there is something new of one.
    async fn secrets(&self, changed: &BTreeSet<PathBuf>, why: Why) -> bool {
        let mut any = false;
        for (name, org) in &self.config.orgs {
            let mut good = false;
            for (key, reference) in org.grant.references() {
                let Some(secret) = reference.secret() else { continue };
                let is_in = |paths: &BTreeSet<PathBuf>| secret.path().is_some_and(|path| paths.contains(path));
                if why == Why::Time && is_in(&self.restless) {
                    continue;
                }
                let has_changed = is_in(changed);
                if !has_changed && !self.reloads.refuses(name, key) {
                    continue;
                }
                let (secret, check) = (secret.clone(), check_of(reference));
                let read = tokio::task::spawn_blocking(move || secret.refreshed(check).map(drop)).await;
                let read = read.unwrap_or_else(|_| Err("cannot be read".to_owned()));
                good |= read.is_ok();
                any |= has_changed || read.is_ok();
                self.reloads.secret(name, key, read.err(), has_changed);
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

/// A file that is the same for so long is left alone.
const LEFT_ALONE: Duration = Duration::from_millis(500);
/// So often it is looked for that.
const LOOKS: usize = 6;
/// For certificates: another process may be making one.
const PREPARATION: Duration = Duration::from_secs(30);
