//! Small files: read whole within bounds, replaced whole.
//!
//! Owns: which paths are being read; a next file is `NAME.{16 hex}.tmp` beside the one whose place it takes.
//! Invariants: only regular files are read, to a largest size, and nobody waits longer than they said; of each path one
//! thread at most waits for a disk that hangs. Who reads what was replaced finds the old bytes or the new ones; new bytes are
//! on the disk before they have the name, and until then for this user alone.
//! Units: bytes, `Duration`. Fails with: the system's error, or a text that stands after the file's name.
//! Source: open(2), fifo(7), rename(2), fsync(2).

use std::{
    collections::BTreeMap,
    fs::{self, File, FileType, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;
use zeroize::Zeroizing;

/// How the names of files end that are not finished.
pub(crate) const TMP: &str = ".tmp";

/// The largest configuration file or certificate that is read.
pub(crate) const LARGE: u64 = 4 * MIB;
const MIB: u64 = 1 << 20;

/// The bytes of a regular file, of at most `most`, within `patience`. Blocks.
pub(crate) fn read(path: &Path, most: u64, patience: Duration) -> io::Result<Zeroizing<Vec<u8>>> {
    let of = path.to_owned();
    within(path, patience, move || bytes(open(&of)?, most))
}

/// A regular file, opened for reading. A pipe is refused at once; its other end is not waited for.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    }
    let strange =
        |kind: FileType| io::Error::new(ErrorKind::InvalidInput, format!("it is {}, not a file", name_of(kind)));
    let file = options.open(path).map_err(|error| match fs::metadata(path) {
        // A socket cannot even be opened.
        Ok(about) if !about.is_file() => strange(about.file_type()),
        _ => error,
    })?;
    let about = file.metadata()?;
    match about.is_file() {
        true => Ok(file),
        false => Err(strange(about.file_type())),
    }
}

/// All that is in an open file, if it is not more than `most`.
pub(crate) fn bytes(file: File, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let too_large = || {
        let most = match most.is_multiple_of(MIB) {
            true => format!("{} MiB", most / MIB),
            false => format!("{most} bytes"),
        };
        io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {most}"))
    };
    let size = file.metadata()?.len();
    if size > most {
        return Err(too_large());
    }
    // All at once: a vector that grows leaves copies behind, and it may be a key.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).map_or(0, |size| size + 1)));
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

fn name_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        match () {
            () if kind.is_fifo() => return "a pipe",
            () if kind.is_socket() => return "a socket",
            () if kind.is_char_device() || kind.is_block_device() => return "a device",
            () => {}
        }
    }
    if kind.is_dir() { "a directory" } else { "something else" }
}

/// Does something with a path in a thread of its own, as long as that takes; who asks waits no longer than `patience`.
/// While something that took longer has not come back, nothing is begun with the path: its disk hangs.
pub(crate) fn within<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let hangs = || io::Error::new(ErrorKind::TimedOut, "no answer in time: its disk hangs");
    let until = Instant::now().checked_add(patience);
    let left = || until.map_or(patience, |until| until.saturating_duration_since(Instant::now()));
    let turn = Turn::take(path, patience).ok_or_else(hangs)?;
    let number = turn.number;
    let (tell, told) = mpsc::sync_channel(1);
    let working = thread::Builder::new().name("disk".into()).spawn(move || {
        let done = work();
        // Before it is told, so that who asks next finds nothing under way.
        drop(turn);
        // Nobody may wait any more.
        let _ = tell.send(done);
    });
    working?;
    match told.recv_timeout(left()) {
        Ok(done) => done,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            if let Some(turn) = busy().get_mut(path).filter(|turn| turn.number == number) {
                turn.late = true;
                // Whoever waits for a turn need not wait any more.
                FREE.notify_all();
            }
            Err(hangs())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(io::Error::other("its reader ended")),
    }
}

/// The right to be the one who is at a path; dropping it gives it back.
struct Turn {
    path: PathBuf,
    number: u64,
}

impl Turn {
    /// `None`: somebody is late, or not done within `patience`.
    fn take(path: &Path, patience: Duration) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let waits = |paths: &mut Paths| paths.get(path).is_some_and(|taken| !taken.late);
        #[cfg(test)]
        if busy().contains_key(path) {
            AWAITED
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(path.to_owned());
        }
        let (mut paths, _) = FREE
            .wait_timeout_while(busy(), patience, waits)
            .unwrap_or_else(PoisonError::into_inner);
        match paths.contains_key(path) {
            true => None,
            false => {
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                paths.insert(path.to_owned(), Taken { number, late: false });
                Some(Self {
                    path: path.to_owned(),
                    number,
                })
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        busy().remove(&self.path);
        FREE.notify_all();
    }
}

struct Taken {
    number: u64,
    /// Somebody has given up waiting.
    late: bool,
}

type Paths = BTreeMap<PathBuf, Taken>;

/// Of the whole process, as disks are: two configurations may name the same file.
static BUSY: Mutex<Paths> = Mutex::new(BTreeMap::new());
static FREE: Condvar = Condvar::new();
/// Paths that somebody has waited for.
#[cfg(test)]
pub(crate) static AWAITED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn busy() -> std::sync::MutexGuard<'static, Paths> {
    BUSY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts `bytes` in the place of what is there. `mode`: the permissions (Unix).
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut mark = [0; 8];
    aws_lc_rs::rand::fill(&mut mark).map_err(|_| io::Error::other("the system has no random bytes"))?;
    let next = suffixed(path, &format!(".{:016x}{TMP}", u64::from_be_bytes(mark)));
    let written = write_new(&next, bytes, mode).and_then(|()| fs::rename(&next, path));
    if let Err(error) = written {
        // If this fails too, the next writer sweeps.
        let _ = fs::remove_file(&next);
        return Err(error);
    }
    path.parent().map_or(Ok(()), flush_directory)
}

/// Removes what writers that died left behind. Only for who keeps other writers out; what cannot be removed is only in the
/// way of tidiness.
pub(crate) fn sweep(path: &Path) {
    let (Some(name), Some(directory)) = (path.file_name().and_then(|name| name.to_str()), path.parent()) else {
        return;
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let mark = found
            .to_str()
            .and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(TMP));
        // A file whose name begins with this one's has dots there.
        if mark.is_some_and(|mark| mark.len() == 16 && mark.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A new file with these bytes, on the disk.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    permit(&file, mode)?;
    file.sync_all()
}

/// Sets the permissions, whatever the umask.
#[cfg(unix)]
fn permit(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // Not every file system can; 0600 needs no more than the umask has left.
    match mode {
        0o600 => Ok(()),
        _ => file.set_permissions(fs::Permissions::from_mode(mode)),
    }
}

#[cfg(not(unix))]
fn permit(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// Makes renames and removals last. Some network file systems cannot; theirs last when the server says so.
#[cfg(unix)]
pub(crate) fn flush_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        flushed => flushed,
    }
}

#[cfg(not(unix))]
pub(crate) fn flush_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn refused(path: &Path) -> String {
        read(path, 10, SOON).unwrap_err().to_string()
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused_at_once_and_named() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(refused(&pipe), "it is a pipe, not a file");
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(refused(&socket), "it is a socket, not a file");
        assert_eq!(refused(folder.path()), "it is a directory, not a file");
        assert_eq!(refused(Path::new("/dev/zero")), "it is a device, not a file");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        assert_eq!(refused(&link), "it is a pipe, not a file");
        let missing = read(&folder.path().join("missing"), 10, SOON).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_read_to_its_largest_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [0, 1, 10] {
            fs::write(&path, vec![b'x'; size]).unwrap();
            assert_eq!(read(&path, 10, SOON).unwrap().len(), size);
        }
        fs::write(&path, [b'x'; 11]).unwrap();
        assert_eq!(refused(&path), "it is larger than 10 bytes");
        // Of a file with holes nothing is read.
        File::create(&path).unwrap().set_len(900 << 20).unwrap();
        let error = read(&path, LARGE, SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "it is larger than 4 MiB");
    }

    #[test]
    fn one_thread_waits_for_a_disk_that_hangs_and_nobody_else_does() {
        let path = Path::new("/nowhere/hangs");
        let (comes_back, hanging) = mpsc::channel::<()>();
        let begun = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = || begun.load(std::sync::atomic::Ordering::SeqCst);
        let seen = std::sync::Arc::clone(&begun);
        let hangs = within(path, Duration::from_millis(50), move || {
            seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = hanging.recv();
            Ok(())
        });
        assert_eq!(hangs.unwrap_err().kind(), ErrorKind::TimedOut);
        for _ in 0..3 {
            let seen = std::sync::Arc::clone(&begun);
            // Told at once: whoever waited so long here would not come back.
            let again = within(path, Duration::MAX, move || {
                seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            });
            assert_eq!(again.unwrap_err().kind(), ErrorKind::TimedOut);
        }
        assert_eq!(count(), 1);
        // Other paths are not concerned.
        assert!(within(Path::new("/nowhere/else"), SOON, || Ok(())).is_ok());
        drop(comes_back);
        let deadline = tokio::time::Instant::now() + SOON;
        while within(path, SOON, || Ok(())).is_err() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "it is still taken for one that hangs"
            );
        }
    }

    #[test]
    fn who_asks_at_the_same_time_has_a_turn_each() {
        let path = Path::new("/nowhere/shared");
        let inside = std::sync::Arc::new(Mutex::new(()));
        let ask = || {
            let inside = std::sync::Arc::clone(&inside);
            within(path, SOON, move || {
                let _alone = inside.try_lock().expect("alone");
                thread::yield_now();
                Ok(())
            })
        };
        thread::scope(|scope| {
            let asking: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            for asked in asking {
                asked.join().unwrap().unwrap();
            }
        });
    }
}
