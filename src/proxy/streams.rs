//! HTTP/2 connections to the org, each shared by many calls.
//!
//! Owns: the open connections, by instance, and the count of calls on each. Invariants: a connection takes at most
//! 100 calls at one time, and no more than its server allows; the next call gets another connection; one without
//! calls for `pool_idle_timeout` is closed; one that the org is leaving (GOAWAY) takes no new calls; of those who need a
//! connection to the same host one makes it, and the others wait for it. Units: time in the sweeper's rounds.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::TokioTimer;
use prometheus::IntGauge;
use tokio_util::task::TaskTracker;

use super::{body::OutBody, pool::SWEEPS};
use crate::token::Instance;

pub(super) type Sender = http2::SendRequest<OutBody>;

/// What servers usually allow, and RFC 9113 advises them not to go below.
const MOST_STREAMS: usize = 100;

/// With hyper's windows a few stalled streams starve all others (`performance.md`).
const STREAM_WINDOW: u32 = 256 * 1024;
/// Room for what each of a connection's calls may leave unread.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
const MOST_HEADERS: u32 = 64 * 1024;
/// A peer that has vanished is found out, also between the events of a subscription.
const PING: Duration = Duration::from_secs(30);

pub(super) struct Streams {
    open: Mutex<Vec<Open>>,
    hosts: Mutex<Vec<Arc<Host>>>,
    /// Counts the sweeper's rounds.
    round: AtomicU64,
    /// Nobody will call again. Read and written under the lock.
    closed: AtomicBool,
    idle: IntGauge,
    in_use: IntGauge,
}

/// What is known of a host beside its connections. An org has few.
pub(super) struct Host {
    instance: Arc<Instance>,
    /// Whoever makes a connection that many can share has the turn meanwhile.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// It chose HTTP/1.1 when it was offered both.
    pub(super) prefers_http1: AtomicBool,
}

struct Open {
    instance: Arc<Instance>,
    sender: Sender,
    connection: Arc<Connection>,
    /// The sweeper's round in which it was last seen with calls.
    used: u64,
}

/// Counts the calls of one connection; counted itself, as idle or in use, until the last who holds it lets go.
struct Connection {
    calls: AtomicUsize,
    /// How many it takes at one time.
    most: Arc<AtomicUsize>,
    idle: IntGauge,
    in_use: IntGauge,
}

/// A call's place on a connection.
pub(super) struct Lease {
    sender: Sender,
    connection: Arc<Connection>,
}

/// How many calls a connection takes.
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// Runs the connection to its end, and notes what its server allows.
    pub(super) async fn kept<C, T>(self, mut connection: C, allowed: impl Fn(&C) -> usize) -> T
    where
        C: Future<Output = T> + Unpin,
    {
        poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            let most = allowed(&connection).clamp(1, MOST_STREAMS);
            self.0.store(most, Ordering::Relaxed);
            polled
        })
        .await
    }
}

/// How HTTP/2 is spoken; its tasks are tracked.
pub(super) fn builder(tasks: TaskTracker) -> http2::Builder<Tracked> {
    let mut builder = http2::Builder::new(Tracked(tasks));
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_HEADERS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// Runs what a connection needs beside itself.
#[derive(Clone)]
pub(super) struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Streams {
    pub(super) fn new(idle: IntGauge, in_use: IntGauge) -> Self {
        Self {
            open: Mutex::default(),
            hosts: Mutex::default(),
            round: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            idle,
            in_use,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        // Nothing panics while holding it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on an open connection, if one has room.
    pub(super) fn take(&self, instance: &Arc<Instance>) -> Option<Lease> {
        let mut open = self.lock();
        let round = self.round.load(Ordering::Relaxed);
        let found = open
            .iter_mut()
            .find(|open| open.instance == *instance && open.has_room())?;
        found.used = round;
        Some(found.lease())
    }

    pub(super) fn host(&self, instance: &Arc<Instance>) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.iter().find(|host| host.instance == *instance) {
            return Arc::clone(host);
        }
        let host = Arc::new(Host {
            instance: Arc::clone(instance),
            turn: tokio::sync::Mutex::default(),
            prefers_http1: AtomicBool::new(false),
        });
        hosts.push(Arc::clone(&host));
        host
    }

    /// Takes a new connection in, with the place of the call that it was made for.
    pub(super) fn add(&self, sender: Sender, instance: &Arc<Instance>) -> Lease {
        self.idle.inc();
        let open = Open {
            instance: Arc::clone(instance),
            sender,
            connection: Arc::new(Connection {
                calls: AtomicUsize::new(0),
                most: Arc::new(AtomicUsize::new(MOST_STREAMS)),
                idle: self.idle.clone(),
                in_use: self.in_use.clone(),
            }),
            used: self.round.load(Ordering::Relaxed),
        };
        let lease = open.lease();
        let mut all = self.lock();
        if !self.closed.load(Ordering::Relaxed) {
            all.push(open);
        }
        lease
    }

    /// A connection that broke takes no more calls, also before its end is seen.
    pub(super) fn forget(&self, lease: &Lease) {
        self.lock()
            .retain(|open| !Arc::ptr_eq(&open.connection, &lease.connection));
    }

    /// One round: forgets what is closed, and closes what had no calls for [`SWEEPS`] of them.
    pub(super) fn sweep(&self) {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        self.lock().retain_mut(|open| {
            if open.connection.calls.load(Ordering::Relaxed) > 0 {
                open.used = round;
            }
            !open.sender.is_closed() && round.saturating_sub(open.used) < u64::from(SWEEPS)
        });
    }

    /// For good; what is in use ends with its calls.
    pub(super) fn close_all(&self) {
        let mut all = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        all.clear();
    }
}

impl Open {
    /// More calls than the server allows would wait for the others' end: a subscription has none.
    fn has_room(&self) -> bool {
        let most = self.connection.most.load(Ordering::Relaxed);
        self.connection.calls.load(Ordering::Relaxed) < most && !self.sender.is_closed()
    }

    fn lease(&self) -> Lease {
        let connection = Arc::clone(&self.connection);
        if connection.calls.fetch_add(1, Ordering::Relaxed) == 0 {
            connection.idle.dec();
            connection.in_use.inc();
        }
        Lease {
            sender: self.sender.clone(),
            connection,
        }
    }
}

impl Lease {
    /// To be told how many calls the server allows, when it says so.
    pub(super) fn allowance(&self) -> Allowance {
        Allowance(Arc::clone(&self.connection.most))
    }

    pub(super) fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        if connection.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            connection.in_use.dec();
            connection.idle.inc();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.idle.dec();
    }
}
