//! Which files have changed, by content.
//!
//! Invariants: a file is read only when its inode, size or times say that it may have changed, or when they cannot tell:
//! because it was written just now, or could not be read; only a digest of what was read is kept. A file that is not
//! there, or cannot be read, is a content like any other.
//! Units: bytes. Fails with: nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest;

use crate::disk;

/// What was there at the last look. Cheap enough to clone: a few small files.
#[derive(Clone, Default)]
pub(super) struct Seen(BTreeMap<PathBuf, File>);

#[derive(Clone, Default)]
struct File {
    stamp: Option<Stamp>,
    /// The same stamp means the same content; else the next look reads it again.
    sure: bool,
    content: Option<[u8; digest::SHA256_OUTPUT_LEN]>,
    /// Where it is, without symbolic links.
    place: Option<PathBuf>,
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
    /// Of those, the ones that may be half-written: all but those whose name leads elsewhere now.
    pub(super) unsure: BTreeSet<PathBuf>,
    /// Files of which nothing can be told, such as those on a disk that hangs, and why. They count as they were.
    pub(super) unknown: BTreeMap<PathBuf, String>,
}

impl Looked {
    pub(super) fn nothing_new(seen: Seen) -> Self {
        Self {
            seen,
            changed: BTreeSet::new(),
            unsure: BTreeSet::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// With what a look at its `unsure` files has found a little later: what is the same by now is sure.
    pub(super) fn confirmed_by(&mut self, later: Self) {
        // The same content is not enough: a file that is written again and again may be found empty each time.
        let same = |path: &PathBuf| match (self.seen.0.get(path), later.seen.0.get(path)) {
            (Some(then), Some(now)) => then.stamp == now.stamp && then.content == now.content,
            _ => false,
        };
        self.unsure
            .retain(|path| !same(path) || later.unknown.contains_key(path));
        self.seen.0.extend(later.seen.0);
    }

    /// Without what is unsure: as it was `before`, so that it is a change at the next look.
    pub(super) fn without_unsure(&mut self, before: &Seen) {
        for path in std::mem::take(&mut self.unsure) {
            self.changed.remove(&path);
            match before.0.get(&path) {
                Some(file) => self.seen.0.insert(path, file.clone()),
                None => self.seen.0.remove(&path),
            };
        }
    }
}

/// Looks at these files; `again`: reads also those that seem the same. Blocks.
pub(super) fn look(paths: &BTreeSet<PathBuf>, before: &Seen, again: bool, now: SystemTime) -> Looked {
    let mut looked = Looked::nothing_new(Seen::default());
    let mut patience = PATIENCE;
    for path in paths {
        let old = before.0.get(path);
        let (of, known) = (path.clone(), old.filter(|_| !again).cloned());
        let file = match disk::within(path, patience, move || Ok(File::at(&of, known, now))) {
            Ok(file) => file,
            Err(error) => {
                // The others are likely to be on the same disk.
                patience = LITTLE_PATIENCE;
                looked.unknown.insert(path.clone(), error.to_string());
                if let Some(old) = old {
                    let sure = false;
                    looked.seen.0.insert(path.clone(), File { sure, ..old.clone() });
                }
                continue;
            }
        };
        if old.is_none_or(|old| old.content != file.content) {
            looked.changed.insert(path.clone());
            let moved = |old: &File| old.place.is_some() && file.place.is_some() && old.place != file.place;
            if !old.is_some_and(moved) {
                looked.unsure.insert(path.clone());
            }
        }
        looked.seen.0.insert(path.clone(), file);
    }
    looked
}

impl File {
    fn at(path: &Path, known: Option<Self>, now: SystemTime) -> Self {
        let Ok(stamp) = Stamp::of(path) else {
            return Self::default();
        };
        if let Some(known) = known.filter(|known| known.sure && known.stamp.as_ref() == Some(&stamp)) {
            return known;
        }
        let content = content(path).ok();
        Self {
            // The next look may find what this one could not read, and what has come within one tick of the clock.
            sure: content.is_some() && !stamp.is_young(now),
            stamp: Some(stamp),
            content,
            place: fs::canonicalize(path).ok(),
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        // Through every symbolic link: the swap of a folder gives another inode.
        let about = fs::metadata(path)?;
        if !about.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(Self {
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

    /// Another change could leave the same stamp. So it may with a time that is yet to come.
    fn is_young(&self, now: SystemTime) -> bool {
        let young = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age < TICK) || at > now;
        #[cfg(unix)]
        if let Ok(seconds) = u64::try_from(self.inode[2])
            && young(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        {
            return true;
        }
        self.modified.is_none_or(young)
    }
}

fn content(path: &Path) -> io::Result<[u8; digest::SHA256_OUTPUT_LEN]> {
    let bytes = disk::bytes(disk::open(path)?, disk::LARGE)?;
    let digest = digest::digest(&digest::SHA256, &bytes);
    let mut content = [0; digest::SHA256_OUTPUT_LEN];
    content.copy_from_slice(digest.as_ref());
    Ok(content)
}

/// For one file.
const PATIENCE: Duration = Duration::from_secs(2);
/// For one file after another has hung.
const LITTLE_PATIENCE: Duration = Duration::from_millis(200);
/// The coarsest clock of a file system that is about (FAT's).
const TICK: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(paths: &[&Path], seen: &mut Seen) -> Vec<PathBuf> {
        let looked = look(&set(paths), seen, false, later());
        *seen = looked.seen;
        looked.changed.into_iter().collect()
    }

    fn set(paths: &[&Path]) -> BTreeSet<PathBuf> {
        paths.iter().map(|p| (*p).to_owned()).collect()
    }

    /// When what is written now is no longer young.
    fn later() -> SystemTime {
        crate::clock::Clock::system().now() + 2 * TICK
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

    #[test]
    fn a_stamp_that_is_young_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "two").unwrap();
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        let day = Duration::from_secs(24 * 3600);
        for (age, believed) in [(TICK / 2, false), (2 * TICK, true)] {
            let mut seen = look(&set(&[&path]), &Seen::default(), false, written + age).seen;
            // What was there was of the same size, and went within the same tick.
            seen.0.get_mut(&path).unwrap().content = Some([0; 32]);
            let looked = look(&set(&[&path]), &seen, false, written + day);
            assert_eq!(looked.changed.is_empty(), believed, "{age:?}");
        }
        // Nor is one of a clock that is ahead.
        let mut seen = look(&set(&[&path]), &Seen::default(), false, written - day).seen;
        seen.0.get_mut(&path).unwrap().content = Some([0; 32]);
        assert!(!look(&set(&[&path]), &seen, false, written).changed.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn what_could_not_be_read_is_read_again_at_the_next_look() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let mut seen = Seen::default();
        fs::write(&path, vec![b'x'; usize::try_from(disk::LARGE).unwrap() + 1]).unwrap();
        changed(&[&path], &mut seen);
        assert!(seen.0[&path].content.is_none() && !seen.0[&path].sure);
        fs::remove_file(&path).unwrap();
        // A pipe is not waited for.
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(changed(&[&path], &mut seen).is_empty());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "one").unwrap();
        assert_eq!(changed(&[&path], &mut seen).len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn what_another_link_leads_to_is_whole() {
        use std::os::unix::fs::symlink;
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        fs::write(at("1"), "one").unwrap();
        fs::write(at("2"), "two").unwrap();
        symlink("1", at("key")).unwrap();
        let paths = set(&[&at("key")]);
        let first = look(&paths, &Seen::default(), false, later());
        assert_eq!(first.unsure, paths, "nothing is known of it");
        symlink("2", at("next")).unwrap();
        fs::rename(at("next"), at("key")).unwrap();
        let second = look(&paths, &first.seen, false, later());
        assert!(second.changed == paths && second.unsure.is_empty());
        fs::write(at("2"), "three").unwrap();
        let third = look(&paths, &second.seen, false, later());
        assert!(third.changed == paths && third.unsure == paths);
    }
}
