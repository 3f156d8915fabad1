//! HTTP/1.1 connections to the org between two calls.
//!
//! Owns: the idle connections, most recently used last, by instance. Invariants: what is taken is open as far as can be
//! seen; a connection is counted as idle or in use; one that has been idle for `pool_idle_timeout` is closed.
//! Units: time in the sweeper's rounds.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http1;
use prometheus::IntGauge;
use tokio::{task::AbortHandle, time::timeout};

use super::body::OutBody;
use crate::token::Instance;

pub(super) type Sender = http1::SendRequest<OutBody>;

/// The sweeper comes so often in `pool_idle_timeout`: that is how exactly it is kept.
pub(super) const SWEEPS: u32 = 4;

pub(super) struct Pool {
    /// By instance; normally one. An org's old hosts empty by themselves.
    hosts: Mutex<Vec<Host>>,
    max_idle: usize,
    /// Counts the sweeper's rounds, a clock that costs nothing to read.
    round: AtomicU64,
    /// Nobody will call again: what comes back is closed. Read and written under the lock.
    closed: AtomicBool,
    idle: IntGauge,
    in_use: IntGauge,
}

struct Host {
    instance: Arc<Instance>,
    /// The most recently used last.
    idle: Vec<Idle>,
}

struct Idle {
    sender: Sender,
    task: AbortHandle,
    /// The sweeper's round in which it became idle.
    since: u64,
}

/// A connection in use; counted until it is dropped.
pub(super) struct Lease {
    /// `None` once it has gone back.
    sender: Option<Sender>,
    /// The connection's.
    pub(super) task: AbortHandle,
    instance: Arc<Instance>,
    pool: Arc<Pool>,
}

impl Pool {
    pub(super) fn new(max_idle: usize, idle: IntGauge, in_use: IntGauge) -> Arc<Self> {
        Arc::new(Self {
            hosts: Mutex::default(),
            max_idle,
            round: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            idle,
            in_use,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Host>> {
        // Nothing panics while holding it.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(self: &Arc<Self>, sender: Sender, task: AbortHandle, instance: &Arc<Instance>) -> Lease {
        self.in_use.inc();
        Lease {
            sender: Some(sender),
            task,
            instance: Arc::clone(instance),
            pool: Arc::clone(self),
        }
    }

    /// The most recently used connection that is still open.
    pub(super) fn take(self: &Arc<Self>, instance: &Arc<Instance>) -> Option<Taken<Lease>> {
        loop {
            let idle = self.pop(instance)?;
            if idle.sender.is_closed() {
                continue;
            }
            let ready = idle.sender.is_ready();
            let lease = self.lease(idle.sender, idle.task, instance);
            return Some(if ready {
                Taken::Ready(lease)
            } else {
                Taken::Settling(lease)
            });
        }
    }

    fn pop(&self, instance: &Arc<Instance>) -> Option<Idle> {
        let mut hosts = self.lock();
        let host = hosts.iter_mut().find(|host| same(&host.instance, instance))?;
        let idle = host.idle.pop();
        self.idle.sub(i64::from(idle.is_some()));
        idle
    }

    fn put_back(&self, sender: Sender, task: AbortHandle, instance: &Arc<Instance>) {
        if sender.is_closed() || self.max_idle == 0 {
            return;
        }
        let idle = Idle {
            sender,
            task,
            since: self.round.load(Ordering::Relaxed),
        };
        let mut hosts = self.lock();
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        if let Some(host) = hosts.iter_mut().find(|host| same(&host.instance, instance)) {
            if host.idle.len() < self.max_idle {
                host.idle.push(idle);
                self.idle.inc();
            }
        } else {
            self.idle.inc();
            hosts.push(Host {
                instance: Arc::clone(instance),
                idle: vec![idle],
            });
        }
    }

    /// One round: closes what has been idle for [`SWEEPS`] of them, and forgets hosts without connections.
    pub(super) fn sweep(&self) {
        let round = self.round.fetch_add(1, Ordering::Relaxed);
        let mut closed = 0;
        self.lock().retain_mut(|host| {
            let before = host.idle.len();
            host.idle
                .retain(|idle| !idle.sender.is_closed() && round.saturating_sub(idle.since) < u64::from(SWEEPS));
            closed += before - host.idle.len();
            !host.idle.is_empty()
        });
        self.idle.sub(i64::try_from(closed).unwrap_or(0));
    }

    /// For good.
    pub(super) fn close_all(&self) {
        let mut hosts = self.lock();
        self.closed.store(true, Ordering::Relaxed);
        let closed: usize = hosts.drain(..).map(|host| host.idle.len()).sum();
        self.idle.sub(i64::try_from(closed).unwrap_or(0));
    }

    pub(super) fn forget(&self, instance: &Arc<Instance>) {
        let mut hosts = self.lock();
        if let Some(index) = hosts.iter().position(|host| same(&host.instance, instance)) {
            let host = hosts.swap_remove(index);
            self.idle.sub(i64::try_from(host.idle.len()).unwrap_or(0));
        }
    }
}

fn same(a: &Arc<Instance>, b: &Arc<Instance>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// A connection from the pool.
pub(super) enum Taken<L> {
    Ready(L),
    /// Its last answer has been read, but its task has not come round yet.
    Settling(Lease),
}

/// `None`: the connection turned out to be closed.
pub(super) async fn settled(mut lease: Lease) -> Option<Lease> {
    const SOON: Duration = Duration::from_millis(100);
    let ready = timeout(SOON, lease.sender().ready()).await;
    matches!(ready, Ok(Ok(()))).then_some(lease)
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.in_use.dec();
    }
}

impl Lease {
    pub(super) fn sender(&mut self) -> &mut Sender {
        self.sender
            .as_mut()
            .expect("a lease must hold its connection until it goes back")
    }

    /// Both bodies have ended: the connection can serve another call.
    pub(super) fn give_back(mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.put_back(sender, self.task.clone(), &self.instance);
        }
    }
}
