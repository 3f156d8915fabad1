//! Which files have changed, by content.
//!
//! Invariants: a file is read only when its inode, size or times say that it may have changed; only a digest of what was
//! read is kept. A file that is not there, or cannot be read, is a content like any other.
//! Units: bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

/// What was there at the last look. Cheap enough to clone: a few small files.
#[derive(Clone, Default)]
pub(super) struct Seen(BTreeMap<PathBuf, File>);

#[derive(Clone, PartialEq, Eq)]
struct File {
    stamp: Option<Stamp>,
    content: Option<[u8; digest::SHA256_OUTPUT_LEN]>,
}

/// What tells cheaply that a file is the same.
#[derive(Clone, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    inode: [i64; 4],
}

/// What a look has found.
pub(super) struct Looked {
    pub(super) seen: Seen,
    /// Files whose content is not what it was, or which are looked at for the first time.
    pub(super) changed: BTreeSet<PathBuf>,
}

/// Looks at these files; `again`: reads also those that seem the same. Blocks.
pub(super) fn look(paths: &BTreeSet<PathBuf>, before: &Seen, again: bool) -> Looked {
    let mut seen = Seen::default();
    let mut changed = BTreeSet::new();
    for path in paths {
        let stamp = stamp(path).ok();
        let there = stamp.is_some();
        let old = before.0.get(path);
        let file = match old {
            Some(old) if !again && old.stamp == stamp => old.clone(),
            _ => File {
                stamp,
                // What is no file (a pipe, say) is not read: it may never end.
                content: there.then(|| content(path).ok()).flatten(),
            },
        };
        if old.is_none_or(|old| old.content != file.content) {
            changed.insert(path.clone());
        }
        seen.0.insert(path.clone(), file);
    }
    Looked { seen, changed }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    // Through every symbolic link: the swap of a folder gives another inode.
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    Ok(Stamp {
        size: about.len(),
        modified: about.modified().ok(),
        #[cfg(unix)]
        inode: {
            use std::os::unix::fs::MetadataExt as _;
            [
                about.dev().cast_signed(),
                about.ino().cast_signed(),
                about.ctime(),
                about.ctime_nsec(),
            ]
        },
    })
}

fn content(path: &Path) -> io::Result<[u8; digest::SHA256_OUTPUT_LEN]> {
    // It may be a key.
    let file = fs::File::open(path)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(LONGEST).read_to_end(&mut bytes)?;
    let digest = digest::digest(&digest::SHA256, &bytes);
    let mut content = [0; digest::SHA256_OUTPUT_LEN];
    content.copy_from_slice(digest.as_ref());
    Ok(content)
}

/// More of a file is not looked at.
const LONGEST: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(paths: &[&Path], seen: &mut Seen) -> Vec<PathBuf> {
        let looked = look(&paths.iter().map(|p| (*p).to_owned()).collect(), seen, false);
        *seen = looked.seen;
        looked.changed.into_iter().collect()
    }

    #[test]
    fn the_content_counts_however_it_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let mut seen = Seen::default();
        let mut look = || !changed(&[&path], &mut seen).is_empty();
        assert!(look(), "looked at for the first time");
        assert!(!look(), "it is still not there");
        fs::write(&path, "one").unwrap();
        assert!(look());
        assert!(!look());
        // In place, and of the same length.
        fs::write(&path, "two").unwrap();
        assert!(look());
        let other = folder.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!look(), "another file with the same content");
        fs::write(&other, "three").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(look());
        fs::remove_file(&path).unwrap();
        assert!(look());
    }

    #[cfg(unix)]
    #[test]
    fn the_swap_of_a_folder_is_seen() {
        use std::os::unix::fs::symlink;
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        for (stamp, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(stamp)).unwrap();
            fs::write(at(stamp).join("key"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/key", at("key")).unwrap();
        let (path, mut seen) = (at("key"), Seen::default());
        assert_eq!(changed(&[&path], &mut seen).len(), 1);
        symlink("..2", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        assert_eq!(changed(&[&path], &mut seen).len(), 1);
        assert!(changed(&[&path], &mut seen).is_empty());
    }
}
