//! Open connections, so that they can be cut.
//!
//! Owns: the list of open connections. Invariants: an entry leaves the list when its connection ends, however it ends.
//! Fails with: nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio_util::sync::CancellationToken;

use super::world::Door;

/// One connection as its requests see it.
pub(crate) struct Connection {
    pub(crate) door: Door,
    cut: CancellationToken,
    goaway: CancellationToken,
    busy: AtomicUsize,
}

#[derive(Default, Clone)]
pub(crate) struct Connections {
    open: Arc<Mutex<HashMap<u64, Arc<Connection>>>>,
    next: Arc<AtomicU64>,
}

/// Leaves the list on drop.
pub(crate) struct Listed {
    id: u64,
    list: Connections,
    pub(crate) connection: Arc<Connection>,
}

/// Makes its connection busy while it lives.
pub(crate) struct Busy(Arc<Connection>);

impl Connections {
    pub(crate) fn list(&self, door: Door) -> Listed {
        let connection = Arc::new(Connection {
            door,
            cut: CancellationToken::new(),
            goaway: CancellationToken::new(),
            busy: AtomicUsize::new(0),
        });
        let id = self.next.fetch_add(1, Relaxed);
        self.lock().insert(id, Arc::clone(&connection));
        Listed {
            id,
            list: self.clone(),
            connection,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Cuts all, or those with no request in flight; says how many.
    pub(crate) fn cut(&self, idle_only: bool) -> usize {
        let open = self.lock();
        let chosen = open.values().filter(|c| !idle_only || c.busy.load(Relaxed) == 0);
        chosen.map(|c| c.cut()).count()
    }

    /// Tells the clients behind a door to open new connections; says how many were told. Open streams go on.
    pub(crate) fn goaway(&self, door: Door) -> usize {
        let open = self.lock();
        let chosen = open.values().filter(|c| c.door == door && !c.goaway.is_cancelled());
        chosen.map(|c| c.goaway.cancel()).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    pub(crate) async fn was_cut(&self) {
        self.cut.cancelled().await;
    }

    pub(crate) async fn was_told_to_go(&self) {
        self.goaway.cancelled().await;
    }

    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.lock().remove(&self.id);
    }
}
