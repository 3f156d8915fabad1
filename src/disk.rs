//! Files that are replaced whole.
//!
//! Owns: nothing; a next file is `NAME.{16 hex}.tmp` beside the one whose place it takes.
//! Invariants: who reads finds the old bytes or the new ones; new bytes are on the disk before they have the name, and
//! until then for this user alone.
//! Fails with: the system's error.
//! Source: rename(2), fsync(2).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

/// How the names of files end that are not finished.
pub(crate) const TMP: &str = ".tmp";

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
