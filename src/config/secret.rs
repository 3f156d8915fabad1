//! Where secrets live, and reading them at use.
//!
//! Owns: of a file, the content that was last good: a rotation that goes wrong must not end what works.
//! Invariants: the configuration holds references only; a read secret is a `SecretString` (no `Debug`, wiped on drop).
//! Fails with: the reference and the system's reason, never a byte of the content.

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::disk;

/// A reference to a secret: `file:/path` or `env:NAME`.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    File(SecretFile),
    Env(String),
}

/// A secret's file. Clones remember together; two that were written down apart are the same if their paths are.
#[derive(Clone)]
pub struct SecretFile {
    path: PathBuf,
    good: Arc<Mutex<Option<SecretString>>>,
}

impl PartialEq for SecretFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for SecretFile {}

/// What is wrong with a secret, as a phrase; of a file that holds something else than it should.
pub type Check = fn(&str) -> Result<(), &'static str>;

/// The largest secret file read; a PEM key is 1.7 to 3.3 kB.
const MAX_BYTES: u64 = 64 * 1024;

/// For reading a file. A login that goes on with what was last good must not be kept from it for long.
const PATIENCE: Duration = Duration::from_secs(2);
const LONG_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read {reference}: {reason}")]
    Unreadable { reference: SecretRef, reason: String },
    #[error("{reference} is empty")]
    Empty { reference: SecretRef },
    #[error("{reference} is larger than {MAX_BYTES} bytes")]
    TooLarge { reference: SecretRef },
    #[error("{reference} is not UTF-8 text")]
    NotText { reference: SecretRef },
}

impl SecretRef {
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(SecretFile {
            path: path.into(),
            good: Arc::default(),
        })
    }

    /// Where it is, if it is a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(file) => Some(&file.path),
            Self::Env(_) => None,
        }
    }

    /// The secret as it is now if it passes `check`, and that is remembered; else what is wrong with it.
    pub fn refreshed(&self, check: Check) -> Result<SecretString, String> {
        let now = self.read_soon().map_err(|error| error.to_string())?;
        check(now.expose_secret()).map_err(|problem| format!("{self} {problem}"))?;
        if let Self::File(file) = self {
            *file.lock() = Some(now.clone());
        }
        Ok(now)
    }

    /// The secret as it is now; when that is no good, as it last was good.
    pub fn read_or_last_good(&self, check: Check) -> Result<SecretString, String> {
        self.refreshed(check).or_else(|problem| {
            let last = match self {
                Self::File(file) => file.lock().clone(),
                Self::Env(_) => None,
            };
            last.ok_or(problem)
        })
    }

    /// The secret as it is now, without trailing line ends. Blocks, for a slow disk as well: what is sealed with it may be
    /// there only once.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        self.read_within(LONG_PATIENCE)
    }

    /// As [`Self::read`], for a login, which is tried again.
    pub fn read_soon(&self) -> Result<SecretString, SecretError> {
        self.read_within(PATIENCE)
    }

    fn read_within(&self, patience: Duration) -> Result<SecretString, SecretError> {
        let reference = || self.clone();
        let unreadable = |reason: String| SecretError::Unreadable {
            reference: reference(),
            reason,
        };
        // Wiped on every way out; what is kept is the `SecretString`.
        let bytes = match self {
            Self::File(SecretFile { path, .. }) => {
                disk::read(path, MAX_BYTES, patience).map_err(|error| match error.kind() {
                    ErrorKind::FileTooLarge => SecretError::TooLarge { reference: reference() },
                    _ => unreadable(error.to_string()),
                })?
            }
            Self::Env(name) => {
                #[expect(clippy::disallowed_methods, reason = "config reads the environment")]
                let value = std::env::var(name).map_err(|e| match e {
                    std::env::VarError::NotPresent => unreadable("the variable is not set".into()),
                    std::env::VarError::NotUnicode(_) => SecretError::NotText { reference: reference() },
                })?;
                Zeroizing::new(value.into_bytes())
            }
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(SecretError::TooLarge { reference: reference() });
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| SecretError::NotText { reference: reference() })?;
        // A byte order mark of an editor is no part of it.
        let text = text.trim_start_matches('\u{feff}');
        let trimmed = text.trim_end_matches(['\r', '\n']);
        if trimmed.trim().is_empty() {
            return Err(SecretError::Empty { reference: reference() });
        }
        Ok(SecretString::from(trimmed.to_owned()))
    }
}

impl SecretFile {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SecretString>> {
        self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "file:{}", file.path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(text: &str) -> Result<(), &'static str> {
        if text.len() > 3 { Ok(()) } else { Err("is too short") }
    }

    #[test]
    fn what_was_last_good_serves_until_something_good_is_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reference = SecretRef::file(file.path());
        let clone = reference.clone();
        let read = || clone.read_or_last_good(long).map(|now| now.expose_secret().to_owned());
        std::fs::write(file.path(), "no").unwrap();
        assert_eq!(read(), Err(format!("{reference} is too short")));
        std::fs::write(file.path(), "first\n").unwrap();
        assert_eq!(read().as_deref(), Ok("first"));
        for bad in ["no", "", "\n"] {
            std::fs::write(file.path(), bad).unwrap();
            assert!(reference.refreshed(long).is_err());
            assert_eq!(read().as_deref(), Ok("first"), "{bad:?}");
        }
        std::fs::write(file.path(), "second").unwrap();
        assert_eq!(read().as_deref(), Ok("second"));
        file.close().unwrap();
        assert_eq!(read().as_deref(), Ok("second"));
        // Another reference to the same place has seen nothing.
        let other = SecretRef::file(reference.path().unwrap());
        assert_eq!(other, reference);
        assert!(other.read_or_last_good(long).is_err());
        assert!(!format!("{reference:?}").contains("second"));
    }
}
