//! The store: where tokens live beyond the process.
//!
//! Owns: [`Store`], one record per identity ([`Key`]), in memory or as sealed files; the lock that lets one holder at a
//! time change a record, across tasks and processes.
//! Invariants: a reader sees a whole record, an old or a new one, whatever crashes and whenever; a record that cannot be
//! opened is neither overwritten nor removed; one lock holder per record; no secret in `Debug`, in an error, or in a
//! file unsealed. Operations on one [`Locked`] happen in the order in which they were begun, and what was begun is
//! finished under the lock, also when nobody waits for it any more.
//! Units: `Duration` for patience; wall time in records, to the millisecond.
//! Fails with: [`StoreError`], which names the file and what to do; its [`StoreError::word`] is one of [`STORE_ERRORS`].
//! Not defended: somebody who may write to the directory can put an old record of the same identity back.
//! Source: design §5, §11; the file's layout is in [`seal`].

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::config;

mod file;
mod memory;
mod record;
pub mod seal;
#[cfg(test)]
#[cfg(unix)]
mod tests;

pub use self::record::{Record, Rotation, StoredGrant, StoredToken};

/// Whose record it is. `Debug` shows the name only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The org's alias, `a-z0-9-_.`; begins the file name, where any other character becomes `_`.
    pub name: String,
    /// Canonical text of all that the tokens depend on: login host, client id, user, …. A record opens with the identity
    /// that it was written for and with no other.
    pub identity: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where tokens live. Cheap to clone; clones are one store.
#[derive(Debug, Clone)]
pub struct Store(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Memory(memory::Memory),
    File(Arc<file::Files>),
}

impl Store {
    /// One that ends with its last clone.
    pub fn in_memory() -> Self {
        Self(Kind::Memory(memory::Memory::default()))
    }

    /// Makes the directory (0700) if it is missing, and tells now what would fail later: a directory that cannot be
    /// written to, keys that are none. Blocks for a few file operations.
    pub fn open(settings: &config::Store) -> Result<Self, StoreError> {
        Ok(Self(match settings {
            config::Store::Memory => return Ok(Self::in_memory()),
            config::Store::File {
                directory,
                key,
                previous_key,
            } => {
                let files = file::Files::open(directory.clone(), key.clone(), previous_key.clone())?;
                Kind::File(Arc::new(files))
            }
        }))
    }

    /// Whether records outlive the process.
    pub fn is_durable(&self) -> bool {
        matches!(self.0, Kind::File(_))
    }

    /// Waits for the record's lock, at most `patience` ([`StoreError::Busy`]); tries at least once. Dropping the future
    /// leaves nothing locked.
    pub async fn lock(&self, key: &Key, patience: Duration) -> Result<Locked, StoreError> {
        Ok(Locked(match &self.0 {
            Kind::Memory(memory) => Hold::Memory(memory.lock(key, patience).await?),
            Kind::File(files) => Hold::File(files.lock(key, patience).await?),
        }))
    }

    /// The record as it is, without lock. Dropping the future changes nothing.
    pub async fn read(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        match &self.0 {
            Kind::Memory(memory) => Ok(memory.read(key)),
            Kind::File(files) => files.read(key).await,
        }
    }
}

/// A record's lock: nobody else changes the record while this lives. Released on drop, after what was begun has ended.
#[derive(Debug)]
pub struct Locked(Hold);

#[derive(Debug)]
enum Hold {
    Memory(memory::Hold),
    File(file::Hold),
}

impl Locked {
    pub async fn read(&self) -> Result<Option<Record>, StoreError> {
        match &self.0 {
            Hold::Memory(hold) => Ok(hold.read()),
            Hold::File(hold) => hold.read().await,
        }
    }

    /// Replaces the record; on the disk when this returns. An error leaves the old one, or (when only the last flush
    /// failed) the new one. A write whose future is dropped happens wholly or not at all.
    pub async fn write(&self, record: &Record) -> Result<(), StoreError> {
        match &self.0 {
            Hold::Memory(hold) => hold.set(Some(record.clone())),
            Hold::File(hold) => hold.write(record.clone()).await?,
        }
        Ok(())
    }

    /// Removes the record, if there is one. Dropping the future: as [`Self::write`].
    pub async fn forget(&self) -> Result<(), StoreError> {
        match &self.0 {
            Hold::Memory(hold) => hold.set(None),
            Hold::File(hold) => hold.forget().await?,
        }
        Ok(())
    }
}

/// Why the store failed. `Display` names the file and what to do, and shows no secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error(
        "store {}: damaged ({what}); move the file away; if the grant has a refresh token, run sf-token-proxy login \
         then",
        .file.display()
    )]
    Damaged { file: PathBuf, what: &'static str },
    #[error(
        "store {}: written for another org, client or user, or damaged; move the file away; if the grant has a refresh \
         token, run sf-token-proxy login then",
        .file.display()
    )]
    Foreign { file: PathBuf },
    #[error(
        "store {}: sealed with another key; set store.file.key or store.file.previous_key to the one it was sealed with, \
         or move the file away; if the grant has a refresh token, run sf-token-proxy login then",
        .file.display()
    )]
    OtherKey { file: PathBuf },
    #[error(
        "store {}: written by a newer sf-token-proxy (format {found}, this one reads {}); run that version, or move the \
         file away; if the grant has a refresh token, run sf-token-proxy login then",
        .file.display(), seal::FORMAT
    )]
    NewerVersion { file: PathBuf, found: u64 },
    #[error(
        "store {}: cannot be read ({reason}); let this process's user read it, or set store.file.directory",
        .file.display()
    )]
    Unreadable { file: PathBuf, reason: String },
    #[error(
        "store {}: cannot be written ({reason}); let this process's user write in store.file.directory and see that its \
         disk has room",
        .file.display()
    )]
    Unwritable { file: PathBuf, reason: String },
    #[error(
        "store {}: {holder}, after {} s of waiting; if it stays so, end the one that hangs",
        .file.display(), .waited.as_secs_f64()
    )]
    Busy {
        file: PathBuf,
        holder: Holder,
        waited: Duration,
    },
    #[error(
        "store {}: {setting} cannot be used: {reason}; it must be 32 bytes in base64 or 64 hex digits, \
         as `openssl rand -base64 32` makes them",
        .file.display()
    )]
    KeyUnusable {
        file: PathBuf,
        /// The setting's path.
        setting: &'static str,
        reason: String,
    },
}

/// The words of [`StoreError`], for metrics and logs.
pub const STORE_ERRORS: [&str; 8] = [
    "damaged",
    "foreign",
    "other_key",
    "newer_version",
    "unreadable",
    "unwritable",
    "busy",
    "key_unusable",
];

impl StoreError {
    /// One of [`STORE_ERRORS`].
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "damaged",
            Self::Foreign { .. } => "foreign",
            Self::OtherKey { .. } => "other_key",
            Self::NewerVersion { .. } => "newer_version",
            Self::Unreadable { .. } => "unreadable",
            Self::Unwritable { .. } => "unwritable",
            Self::Busy { .. } => "busy",
            Self::KeyUnusable { .. } => "key_unusable",
        }
    }

    fn unreadable(file: &Path, reason: impl fmt::Display) -> Self {
        Self::Unreadable {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn unwritable(file: &Path, reason: impl fmt::Display) -> Self {
        Self::Unwritable {
            file: file.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// Who holds a lock that did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Another task of this process; it may itself be waiting for another process.
    Task,
    Process,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Task => "another task of this process holds it or waits for it",
            Self::Process => "another process holds it",
        })
    }
}
