//! What becomes of changed files while the program runs.
//!
//! Every `reload.interval`, and at once on SIGHUP, the configuration file and the files that it names (keys, secrets,
//! trusted authorities, certificates of listeners) are looked at. What counts is their content, by path: an edit in place, a
//! file moved over the old one, and the swap of `..data` by which Kubernetes updates a volume are all the same. A configuration that is good becomes the
//! one in use, whole; one that is not is reported, and the old one goes on. A secret that is good counts from the next
//! login on, and ends the wait of a login that failed; one that is not is reported, and the one before it serves.
//!
//! Owns: the watch over files, as one task; [`Reloads`], what became of them. Invariants: nothing is reported twice for the
//! same content; contents are remembered as digests only.
//! Units: `Duration`. Fails with: nothing; a failure is a line in the log, a metric, and in `/status`.
//! Source: `kubernetes.md` §3; design §9.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::Prepared,
    clock::{Clock, unix_seconds},
    config::{Config, Org, OrgName, Problems, Reference, Source},
    metrics::Metrics,
    server::Tls,
    shutdown::Hangups,
    tls,
    token::grant::check_key,
};

mod files;

use files::{Looked, Seen};

/// What became of the configuration and the secrets. Cheap to clone.
#[derive(Clone)]
pub struct Reloads(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    clock: Clock,
    told: Mutex<Told>,
}

struct Told {
    /// Where the configuration comes from.
    source: String,
    taken_at: SystemTime,
    tried_at: SystemTime,
    /// Why the newest is not in use.
    problems: Vec<String>,
    /// What counts only after a restart.
    restart: Vec<&'static str>,
    /// Secrets that are no good, by key path.
    secrets: BTreeMap<String, String>,
}

/// What one look brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All is as it was.
    Unchanged,
    /// A configuration was taken, or secrets were.
    Taken,
    /// The old goes on.
    Refused(Problems),
}

/// What the task that owns everything is asked to do.
pub(crate) enum Order {
    Become(Box<Prepared>, oneshot::Sender<Result<Vec<&'static str>, Problems>>),
    /// A secret of this org has changed.
    Retry(OrgName),
}

/// Asks for a look now. Cheap to clone.
#[derive(Clone)]
pub struct Reloader(mpsc::Sender<oneshot::Sender<Outcome>>);

impl Reloader {
    /// As SIGHUP does; `None` when the program ends.
    pub async fn reload(&self) -> Option<Outcome> {
        let (reply, outcome) = oneshot::channel();
        self.0.send(reply).await.ok()?;
        outcome.await.ok()
    }
}

impl Reloads {
    pub fn new(metrics: Metrics, clock: Clock) -> Self {
        let now = clock.now();
        metrics.reload.last_success.set(unix_seconds(now));
        Self(Arc::new(Inner {
            metrics,
            clock,
            told: Mutex::new(Told {
                source: "memory".into(),
                taken_at: now,
                tried_at: now,
                problems: Vec::new(),
                restart: Vec::new(),
                secrets: BTreeMap::new(),
            }),
        }))
    }

    /// For `/status`.
    pub fn status(&self) -> Value {
        let time = |at: SystemTime| humantime::format_rfc3339_seconds(at).to_string();
        let told = self.lock();
        json!({
            "source": told.source,
            "taken_at": time(told.taken_at),
            "last_reload": {
                "at": time(told.tried_at),
                "successful": told.problems.is_empty(),
                "problems": told.problems,
            },
            "needs_restart": told.restart,
            "refused_secrets": told.secrets,
        })
    }

    /// The series of an org, at zero.
    pub(crate) fn starts(&self, org: &OrgName) {
        let (metrics, org) = (&self.0.metrics.reload, org.as_str());
        for result in crate::metrics::RELOAD_RESULTS {
            metrics.secrets.with_label_values(&[org, result]);
        }
        metrics.secrets_last_success.with_label_values(&[org]);
        let bad = self.lock().secrets.keys().any(|key| is_of(key, org));
        metrics
            .secrets_last_successful
            .with_label_values(&[org])
            .set(i64::from(!bad));
    }

    fn taken(&self, restart: Vec<&'static str>) {
        let metrics = &self.0.metrics.reload;
        let now = self.0.clock.now();
        metrics.reloads.with_label_values(&["ok"]).inc();
        metrics.last_successful.set(1);
        metrics.last_success.set(unix_seconds(now));
        if !restart.is_empty() {
            tracing::warn!(settings = restart.join(", "), "these count only after a restart");
        }
        tracing::info!("the changed configuration is in use");
        let mut told = self.lock();
        (told.taken_at, told.tried_at) = (now, now);
        told.problems.clear();
        told.restart = restart;
    }

    fn refused(&self, problems: &Problems, asked: bool) {
        let metrics = &self.0.metrics.reload;
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        if !asked && self.lock().problems == lines {
            // Tried again, and no better.
            return;
        }
        metrics.reloads.with_label_values(&["failed"]).inc();
        metrics.last_successful.set(0);
        for problem in &lines {
            tracing::error!(problem, "the changed configuration is no good, the old one goes on");
        }
        let mut told = self.lock();
        told.tried_at = self.0.clock.now();
        told.problems = lines;
    }

    /// The file says again what is in use.
    fn as_before(&self, asked: bool) {
        let mut told = self.lock();
        let was_bad = !told.problems.is_empty();
        if was_bad || asked {
            let metrics = &self.0.metrics.reload;
            metrics.reloads.with_label_values(&["ok"]).inc();
            metrics.last_successful.set(1);
            told.tried_at = self.0.clock.now();
            told.problems.clear();
            tracing::info!("the configuration is what is in use already");
        }
    }

    fn secret(&self, org: &OrgName, key: &str, problem: Option<String>) {
        let metrics = &self.0.metrics.reload;
        let name = org.as_str();
        let at = format!("orgs.{name}.grant.{key}");
        let mut told = self.lock();
        match problem {
            None => {
                tracing::info!(%org, setting = at, "a changed secret is in use from the next login on");
                metrics.secrets.with_label_values(&[name, "ok"]).inc();
                let now = unix_seconds(self.0.clock.now());
                metrics.secrets_last_success.with_label_values(&[name]).set(now);
                told.secrets.remove(&at);
            }
            Some(problem) => {
                tracing::error!(%org, setting = at, problem, "a changed secret is no good, the one before it serves");
                metrics.secrets.with_label_values(&[name, "failed"]).inc();
                told.secrets.insert(at, problem);
            }
        }
        let bad = told.secrets.keys().any(|key| is_of(key, name));
        metrics
            .secrets_last_successful
            .with_label_values(&[name])
            .set(i64::from(!bad));
    }

    /// Forgets secrets that the configuration does not name any more.
    fn only(&self, keys: &BTreeSet<String>) {
        self.lock().secrets.retain(|key, _| keys.contains(key));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of(key: &str, org: &str) -> bool {
    key.strip_prefix("orgs.")
        .and_then(|key| key.strip_prefix(org))
        .is_some_and(|key| key.starts_with(".grant."))
}

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
        reloads.lock().source = source
            .file()
            .map_or_else(|| "environment".to_owned(), |file| file.display().to_string());
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
        let (clock, metrics) = (self.reloads.0.clock.clone(), self.reloads.0.metrics.clone());
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
    fn needs_tls(&self, listener: &crate::config::Listener, touched: &impl Fn(&Path) -> bool) -> bool {
        let before = self.config.listeners.iter().find(|l| l.addresses == listener.addresses);
        let same = before.is_some_and(|before| before.tls == listener.tls && before.names() == listener.names());
        let files = match &listener.tls {
            Some(crate::config::ListenerTls::Files { certificate, key }) => touched(certificate) || touched(key),
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

/// What is the same stays the same object: a secret remembers what it last was.
fn keep_equal_orgs(before: &Config, config: &mut Config) {
    for (name, org) in &mut config.orgs {
        if let Some(before) = before.orgs.get(name).filter(|before| *before == org) {
            *org = before.clone();
        } else if let Some(before) = before.orgs.get(name).filter(|before| before.grant == org.grant) {
            org.grant = before.grant.clone();
        }
    }
}

/// Everything that takes time or may fail, before anything changes. Blocks.
fn prepare(
    before: &Config,
    config: Config,
    authorities: bool,
    certificates: &[bool],
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Prepared, Problems> {
    let mut problems = Problems::default();
    for (name, org) in &config.orgs {
        if before.orgs.get(name).is_none_or(|before| before.grant != org.grant) {
            problems.extend(check_secrets(name, org));
        }
    }
    let authorities = match authorities {
        true => match tls::client_config(config.upstream.ca_file.as_deref()) {
            Ok(authorities) => Some(authorities),
            Err(error) => {
                problems.add("upstream.ca_file", error.to_string());
                None
            }
        },
        false => None,
    };
    let mut opened: Vec<Option<Option<Tls>>> = Vec::new();
    for (index, (listener, needed)) in config.listeners.iter().zip(certificates).enumerate() {
        opened.push(match needed {
            false => None,
            true => match tls::listener::open(index, listener, clock.now()) {
                Ok(tls) => Some(tls.map(|tls| {
                    tls.tell();
                    Tls::new(tls.config, tls.ends, metrics.tls_handshake_failures.clone())
                })),
                Err(wrong) => {
                    problems.extend(wrong);
                    None
                }
            },
        });
    }
    problems.or(Some(Prepared {
        config,
        authorities,
        tls: opened,
    }))
}

fn check_secrets(name: &OrgName, org: &Org) -> Problems {
    let mut problems = Problems::default();
    for (key, reference) in org.grant.references() {
        if let Some(secret) = reference.secret()
            && let Err(problem) = secret.refreshed(check_of(reference))
        {
            problems.add(format!("orgs.{name}.grant.{key}"), problem);
        }
    }
    problems
}

fn check_of(reference: Reference<'_>) -> crate::config::SecretCheck {
    match reference {
        Reference::PrivateKey(_) => check_key,
        _ => |_| Ok(()),
    }
}

/// The key paths of secrets that are what they were.
fn unchanged_keys(before: &Config, config: &Config) -> BTreeSet<String> {
    let same = |name: &OrgName, org: &Org| before.orgs.get(name).is_some_and(|before| before.grant == org.grant);
    let orgs = config.orgs.iter().filter(|(name, org)| same(name, org));
    orgs.flat_map(|(name, org)| {
        let references = org.grant.references().into_iter();
        references.map(move |(key, _)| format!("orgs.{name}.grant.{key}"))
    })
    .collect()
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
