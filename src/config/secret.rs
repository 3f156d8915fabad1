//! Where secrets live, and reading them at use.
//!
//! Invariants: the configuration holds references only; a read secret is a `SecretString` (no `Debug`, wiped on drop).
//! Fails with: the reference and the system's reason, never a byte of the content.

use std::{fmt, path::PathBuf};

use secrecy::SecretString;
use zeroize::Zeroizing;

/// A reference to a secret: `file:/path` or `env:NAME`.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretRef {
    File(PathBuf),
    Env(String),
}

/// The largest secret file read; a PEM key is 1.7 to 3.3 kB.
const MAX_BYTES: u64 = 64 * 1024;

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
    /// The secret as it is now, without trailing line ends.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        let reference = || self.clone();
        let unreadable = |reason: String| SecretError::Unreadable {
            reference: reference(),
            reason,
        };
        let bytes = match self {
            Self::File(path) => {
                use std::io::Read as _;
                let file = std::fs::File::open(path).map_err(|e| unreadable(e.to_string()))?;
                let mut bytes = Vec::new();
                file.take(MAX_BYTES + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|e| unreadable(e.to_string()))?;
                bytes
            }
            Self::Env(name) =>
            {
                #[expect(clippy::disallowed_methods, reason = "config reads the environment")]
                std::env::var(name)
                    .map_err(|e| match e {
                        std::env::VarError::NotPresent => unreadable("the variable is not set".into()),
                        std::env::VarError::NotUnicode(_) => SecretError::NotText { reference: reference() },
                    })?
                    .into_bytes()
            }
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(SecretError::TooLarge { reference: reference() });
        }
        // Wiped on every way out; what is kept is the `SecretString`.
        let bytes = Zeroizing::new(bytes);
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

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
