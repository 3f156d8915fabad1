//! The store that ends with the process.
//!
//! Owns: the records and a lock for each, made at first use; as many as there are identities.
//! Invariants: as [`super`]; nothing here fails but a lock that does not come.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard},
    time::timeout,
};

use super::{Holder, Key, Record, StoreError};

/// All records. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<HashMap<Key, Arc<Slot>>>>);

#[derive(Default)]
struct Slot {
    turn: Arc<Turn<()>>,
    record: Mutex<Option<Record>>,
}

/// A record's lock.
pub(super) struct Hold {
    slot: Arc<Slot>,
    _turn: OwnedMutexGuard<()>,
}

impl Memory {
    pub(super) async fn lock(&self, key: &Key, patience: Duration) -> Result<Hold, StoreError> {
        let slot = self.slot(key);
        let turn = timeout(patience, Arc::clone(&slot.turn).lock_owned())
            .await
            .map_err(|_| StoreError::Busy {
                file: PathBuf::from(format!("{} (in memory)", key.name)),
                holder: Holder::Task,
                waited: patience,
            })?;
        Ok(Hold { slot, _turn: turn })
    }

    pub(super) fn read(&self, key: &Key) -> Option<Record> {
        self.slot(key).record().clone()
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(key.clone()).or_default())
    }
}

impl Hold {
    pub(super) fn read(&self) -> Option<Record> {
        self.slot.record().clone()
    }

    pub(super) fn set(&self, record: Option<Record>) {
        *self.slot.record() = record;
    }
}

impl Slot {
    fn record(&self) -> MutexGuard<'_, Option<Record>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}
