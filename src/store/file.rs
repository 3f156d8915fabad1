//! The store in a directory: one sealed file per identity, and a lock file beside it.
//!
//! `main.0123456789ab.sealed` is the record; `….sealed.lock` is locked by whoever changes it, and never removed;
//! `….sealed.{16 hex}.tmp` is the next record while it is written.
//!
//! Owns: the directory; for each identity in use an in-process turn, so that of many tasks one asks the system for the
//! lock.
//! Invariants: a record is replaced by rename, after its bytes are on the disk; what cannot be opened is not replaced;
//! files 0600, directory 0700 (Unix). All file operations run on blocking threads. A [`Hold`]'s operation owns the hold
//! while it runs, so the lock is not released under it when its future is dropped, and the next one comes after it.
//! Units: `Duration`.
//! Fails with: [`StoreError`].
//! Source: design §11; flock(2), rename(2), fsync(2).

use std::{
    collections::HashMap,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use secrecy::ExposeSecret as _;
use tokio::{
    sync::{Mutex as Turn, OwnedMutexGuard},
    time::{Instant, sleep, timeout},
};

use super::{
    Holder, Key, Record, StoreError,
    seal::{self, Keys, OpenError, SealingKey},
};
use crate::{config::SecretRef, disk};

/// A directory of sealed records.
pub(super) struct Files {
    directory: PathBuf,
    key: SecretRef,
    previous_key: Option<SecretRef>,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// One identity's place in the directory.
struct Slot {
    identity: String,
    record: PathBuf,
    lock: PathBuf,
    turn: Arc<Turn<()>>,
    /// Its permissions have been complained about.
    warned: AtomicBool,
}

/// A record's lock.
pub(super) struct Hold(Arc<Turn<Held>>);

/// What a hold holds; the fields are released in this order.
struct Held {
    _lock: OsLock,
    _turn: OwnedMutexGuard<()>,
    files: Arc<Files>,
    slot: Arc<Slot>,
}

impl Files {
    pub(super) fn open(
        directory: PathBuf,
        key: SecretRef,
        previous_key: Option<SecretRef>,
    ) -> Result<Self, StoreError> {
        make_directory(&directory)
            .and_then(|()| try_to_write(&directory))
            .map_err(|error| StoreError::unwritable(&directory, error))?;
        let files = Self {
            directory,
            key,
            previous_key,
            slots: Mutex::default(),
        };
        files.current_key(&files.directory)?;
        files.previous_key(&files.directory)?;
        Ok(files)
    }

    pub(super) async fn lock(self: &Arc<Self>, key: &Key, patience: Duration) -> Result<Hold, StoreError> {
        let began = Instant::now();
        let slot = self.slot(key);
        let busy = |holder| StoreError::Busy {
            file: slot.lock.clone(),
            holder,
            waited: patience,
        };
        let turn = timeout(patience, Arc::clone(&slot.turn).lock_owned())
            .await
            .map_err(|_| busy(Holder::Task))?;
        let mut pause = FIRST_PAUSE;
        loop {
            let this = Arc::clone(&slot);
            if let Some(lock) = blocking(&slot, move || this.try_lock()).await? {
                let held = Held {
                    _lock: lock,
                    _turn: turn,
                    files: Arc::clone(self),
                    slot,
                };
                return Ok(Hold(Arc::new(Turn::new(held))));
            }
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(busy(Holder::Process));
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(super) async fn read(self: &Arc<Self>, key: &Key) -> Result<Option<Record>, StoreError> {
        let (files, slot) = (Arc::clone(self), self.slot(key));
        let this = Arc::clone(&slot);
        blocking(&slot, move || files.look(&this)).await
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Slot::new(&self.directory, key)));
        Arc::clone(slot)
    }

    /// The record that is there.
    fn look(&self, slot: &Slot) -> Result<Option<Record>, StoreError> {
        // Also when there is no record: who reads one will write one, and had better know now.
        let mut keys = Keys {
            current: self.current_key(&slot.record)?,
            previous: None,
        };
        let Some(bytes) = slot.bytes(&self.directory)? else {
            return Ok(None);
        };
        // A previous key that has been thrown away harms nobody until it is needed.
        if !keys.current.sealed(&bytes) {
            keys.previous = self.previous_key(&slot.record)?;
        }
        let record = seal::open_record(&bytes, &keys, &slot.identity).map_err(|error| slot.refused(error))?;
        Ok(Some(record))
    }

    fn replace(&self, slot: &Slot, record: &Record) -> Result<(), StoreError> {
        self.look(slot)?;
        let bytes = seal::seal_record(record, &self.current_key(&slot.record)?, &slot.identity)
            .map_err(|error| StoreError::unwritable(&slot.record, error))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(StoreError::unwritable(
                &slot.record,
                format_args!("the record is larger than {MAX_BYTES} bytes"),
            ));
        }
        disk::sweep(&slot.record);
        disk::replace(&slot.record, &bytes, 0o600).map_err(|error| StoreError::unwritable(&slot.record, error))
    }

    fn forget(&self, slot: &Slot) -> Result<(), StoreError> {
        let there = self.look(slot)?.is_some();
        disk::sweep(&slot.record);
        if !there {
            return Ok(());
        }
        fs::remove_file(&slot.record)
            .and_then(|()| disk::flush_directory(&self.directory))
            .map_err(|error| StoreError::unwritable(&slot.record, error))
    }

    fn current_key(&self, file: &Path) -> Result<SealingKey, StoreError> {
        read_key(&self.key, "store.file.key", file)
    }

    fn previous_key(&self, file: &Path) -> Result<Option<SealingKey>, StoreError> {
        self.previous_key
            .as_ref()
            .map(|key| read_key(key, "store.file.previous_key", file))
            .transpose()
    }
}

impl Hold {
    pub(super) async fn read(&self) -> Result<Option<Record>, StoreError> {
        self.work(|files, slot| files.look(slot)).await
    }

    pub(super) async fn write(&self, record: Record) -> Result<(), StoreError> {
        self.work(move |files, slot| files.replace(slot, &record)).await
    }

    pub(super) async fn forget(&self) -> Result<(), StoreError> {
        self.work(|files, slot| files.forget(slot)).await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, &Slot) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let held = Arc::clone(&self.0).lock_owned().await;
        let slot = Arc::clone(&held.slot);
        blocking(&slot, move || work(&held.files, &held.slot)).await
    }
}

impl Slot {
    fn new(directory: &Path, key: &Key) -> Self {
        let name: String = key.name.chars().take(LONGEST_NAME).map(plain).collect();
        let record = format!("{name}.{}.sealed", seal::identity_mark(&key.identity));
        Self {
            identity: key.identity.clone(),
            lock: directory.join(format!("{record}.lock")),
            record: directory.join(record),
            turn: Arc::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// The bytes that are there. A directory that is gone (an unmounted volume) is not a store without records.
    fn bytes(&self, directory: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let unreadable = |error: io::Error| StoreError::unreadable(&self.record, error);
        match fs::metadata(&self.record) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return fs::metadata(directory).map(|_| None).map_err(unreadable);
            }
            Err(error) => return Err(unreadable(error)),
            // Opening a pipe would wait for its other end.
            Ok(metadata) if !metadata.is_file() => {
                return Err(StoreError::unreadable(&self.record, "it is not a regular file"));
            }
            Ok(_) => {}
        }
        let file = match File::open(&self.record) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(unreadable)?,
        };
        self.narrow(&file);
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(self.refused(OpenError::Damaged("it is larger than any record")));
        }
        Ok(Some(bytes))
    }

    /// Takes a record's permissions for others away, if it may; the next write makes them 0600 in any case.
    #[cfg(unix)]
    fn narrow(&self, file: &File) {
        use std::os::unix::fs::PermissionsExt as _;
        let Ok(metadata) = file.metadata() else { return };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 == 0 {
            return;
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                file = %self.record.display(),
                mode = %format_args!("{mode:04o}"),
                "other users have permissions on a stored record; it is used, and made 0600"
            );
        }
        if let Err(error) = file.set_permissions(fs::Permissions::from_mode(0o600)) {
            tracing::debug!(file = %self.record.display(), %error, "the record stays as it is until it is written");
        }
    }

    #[cfg(not(unix))]
    fn narrow(&self, _: &File) {
        self.warned.store(true, Ordering::Relaxed);
    }

    fn try_lock(&self) -> Result<Option<OsLock>, StoreError> {
        OsLock::attempt(&self.lock).map_err(|error| StoreError::unwritable(&self.lock, error))
    }

    fn refused(&self, error: OpenError) -> StoreError {
        let file = self.record.clone();
        match error {
            OpenError::Damaged(what) => StoreError::Damaged { file, what },
            OpenError::Foreign => StoreError::Foreign { file },
            OpenError::OtherKey => StoreError::OtherKey { file },
            OpenError::NewerVersion(found) => StoreError::NewerVersion { file, found },
        }
    }
}

/// A locked lock file.
struct OsLock(File);

impl OsLock {
    /// `None`: somebody else has it.
    fn attempt(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Self::take(options.open(path)?, path)
    }

    fn take(file: File, path: &Path) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let lock = Self(file);
        // Nobody of us removes a lock file. If somebody did, a lock on the removed one keeps nobody out.
        Ok(lock.is_at(path).then_some(lock))
    }

    #[cfg(unix)]
    fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        match (self.0.metadata(), fs::metadata(path)) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    #[cfg(not(unix))]
    fn is_at(&self, path: &Path) -> bool {
        path.exists()
    }
}

impl Drop for OsLock {
    fn drop(&mut self) {
        // Closing is not enough while a child between fork and exec has the same open file.
        let _ = self.0.unlock();
    }
}

/// Runs file operations where they hold nobody up. They go on when the future is dropped.
async fn blocking<T: Send + 'static>(
    slot: &Slot,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::unreadable(&slot.record, "the program is stopping")),
        },
    }
}

fn read_key(reference: &SecretRef, setting: &'static str, file: &Path) -> Result<SealingKey, StoreError> {
    let unusable = |reason: String| StoreError::KeyUnusable {
        file: file.to_owned(),
        setting,
        reason,
    };
    let text = reference.read().map_err(|error| unusable(error.to_string()))?;
    SealingKey::parse(text.expose_secret()).map_err(|error| unusable(format!("{reference}: {error}")))
}

fn make_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Writes a file and removes it. Several processes may do so at once with the same file.
fn try_to_write(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".writable{}", disk::TMP));
    OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A character that a file name may have anywhere.
fn plain(c: char) -> char {
    match c {
        'a'..='z' | '0'..='9' | '-' | '_' | '.' => c,
        _ => '_',
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// A record is 1 to 10 kB; a file beyond this is none.
const MAX_BYTES: u64 = 1024 * 1024;
/// File names end at 255 bytes.
const LONGEST_NAME: usize = 128;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_a_file_that_was_removed_meanwhile_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let opened = |path: &Path| File::create(path).unwrap();
        assert!(OsLock::take(opened(&path), &path).unwrap().is_some());
        let early = opened(&path);
        fs::remove_file(&path).unwrap();
        assert!(OsLock::take(early.try_clone().unwrap(), &path).unwrap().is_none());
        let _held = OsLock::attempt(&path).unwrap().unwrap();
        assert!(OsLock::take(early, &path).unwrap().is_none());
        assert!(OsLock::attempt(&path).unwrap().is_none());
    }
}
