//! A certificate of the proxy's own making, and an authority that apps can trust without risk.
//!
//! Owns: `ca.pem` (what apps trust), `certificate.pem` and `key.pem` in a directory, and `lock`, which keeps two starting
//! processes apart and is never removed.
//! Invariants: the authority's key signs one certificate and is gone before anything is written, and the authority may
//! sign for no name but the listener's, so that whoever trusts it can be deceived about no other. Files are replaced
//! whole; key.pem is for this user alone from its first byte. What is served is what the files say: they are read back
//! together, under the lock, and judged as a client would before they are used.
//! Units: `SystemTime`, passed in.
//! Fails with: [`Failed`].
//! Source: RFC 5280 §4.2.1.9 (basic constraints), §4.2.1.10 (name constraints); Python's VERIFY_X509_STRICT.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::certificate::{Pair, chain_in, covers, key_of, pair, trusted};
use crate::disk;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longer than a proxy runs without a restart, and below the 825 days beyond which Apple's clients take none.
const LIFE: Duration = DAY.saturating_mul(730);
/// A clock beside ours may be behind.
const BACKDATED: Duration = DAY;
/// With less left at start, another is made.
const ENOUGH: Duration = DAY.saturating_mul(30);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("cannot use {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("what was made in {directory} is not usable: {reason}")]
    Unusable { directory: String, reason: String },
}

/// What was found in the directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A good certificate; it is used.
    Good,
    /// None; one was made.
    Nothing,
    /// One that could not be used for this reason; another was made.
    Bad(String),
}

/// The pair to serve with and how it came about.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) pair: Pair,
    pub(super) ca_file: PathBuf,
    pub(super) found: Found,
}

/// The certificate in the directory, or a new one if there is none for these names with enough time left. Blocks while
/// another process does the same.
pub(super) fn open(directory: &Path, names: &[String], now: SystemTime) -> Result<Opened, Failed> {
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |source| Failed::File { path, source }
    };
    make_directory(directory).map_err(at(directory))?;
    let places = Places::in_directory(directory);
    let _lock = lock(&places.lock).map_err(at(&places.lock))?;
    let found = match places.look(names, now) {
        Ok(pair) => {
            return Ok(Opened {
                pair,
                ca_file: places.ca,
                found: Found::Good,
            });
        }
        Err(why) if places.ca.exists() || places.key.exists() => Found::Bad(why),
        Err(_) => Found::Nothing,
    };
    let made = make(names, now)?;
    for (path, text, mode) in [
        (&places.key, made.key.as_str(), 0o600),
        (&places.certificate, made.certificate.as_str(), 0o644),
        (&places.ca, made.ca.as_str(), 0o644),
    ] {
        disk::sweep(path);
        disk::replace(path, text.as_bytes(), mode).map_err(at(path))?;
    }
    let unusable = |reason| Failed::Unusable {
        directory: directory.display().to_string(),
        reason,
    };
    Ok(Opened {
        pair: places.look(names, now).map_err(unusable)?,
        ca_file: places.ca,
        found,
    })
}

/// Whether other users may put their own files into the directory.
#[cfg(unix)]
pub(super) fn others_may_write(directory: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(directory).is_ok_and(|about| about.permissions().mode() & 0o022 != 0)
}

#[cfg(not(unix))]
pub(super) fn others_may_write(_: &Path) -> bool {
    false
}

struct Places {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    lock: PathBuf,
}

impl Places {
    fn in_directory(directory: &Path) -> Self {
        Self {
            ca: directory.join("ca.pem"),
            certificate: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
            lock: directory.join("lock"),
        }
    }

    /// What the three files hold, if it is good; else why it is not.
    fn look(&self, names: &[String], now: SystemTime) -> Result<Pair, String> {
        let name_it = |path: &Path, reason: String| format!("{}: {reason}", path.display());
        let ca = chain_in(&self.ca).map_err(|reason| name_it(&self.ca, reason))?;
        let chain = chain_in(&self.certificate).map_err(|reason| name_it(&self.certificate, reason))?;
        let key = self.read_key().map_err(|reason| name_it(&self.key, reason))?;
        let pair = pair(chain, key).map_err(|_| "the key does not belong to the certificate".to_owned())?;
        let ([own], [ca]) = (pair.cert.as_slice(), ca.as_slice()) else {
            return Err("expected one certificate in each file".into());
        };
        if !trusted(own, ca, now) {
            return Err("the certificate is not valid now, or not signed by the authority".into());
        }
        if !trusted(own, ca, now + ENOUGH) {
            return Err("the certificate ends within 30 days".into());
        }
        match names.iter().find(|name| !covers(own, name)) {
            Some(name) => Err(format!("the certificate does not name {name}")),
            None => Ok(Arc::new(pair)),
        }
    }

    fn read_key(&self) -> Result<rustls::pki_types::PrivateKeyDer<'static>, String> {
        let file = disk::open(&self.key).map_err(|error| error.to_string())?;
        // Who could read it may hold it still.
        if readable_by_others(&file) {
            return Err("other users have permissions on it".into());
        }
        let pem = disk::bytes(file, disk::LARGE).map_err(|error| error.to_string())?;
        key_of(&pem)
    }
}

#[cfg(unix)]
fn readable_by_others(file: &File) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    !file
        .metadata()
        .is_ok_and(|about| about.permissions().mode() & 0o077 == 0)
}

#[cfg(not(unix))]
fn readable_by_others(_: &File) -> bool {
    false
}

/// PEM texts.
struct Made {
    ca: String,
    certificate: String,
    key: Zeroizing<String>,
}

/// An authority for these names, and the one certificate that it will ever have signed.
fn make(names: &[String], now: SystemTime) -> Result<Made, rcgen::Error> {
    let ca = authority(names, now);
    let mut ca_key = KeyPair::generate()?;
    let issuer = Issuer::from_params(&ca, &ca_key);
    let mut key = KeyPair::generate()?;
    let made = Made {
        certificate: own(names, now)?.signed_by(&key, &issuer)?.pem(),
        ca: ca.self_signed(&ca_key)?.pem(),
        key: Zeroizing::new(key.serialize_pem()),
    };
    ca_key.zeroize();
    key.zeroize();
    Ok(made)
}

fn authority(names: &[String], now: SystemTime) -> CertificateParams {
    let mut ca = CertificateParams::default();
    (ca.not_before, ca.not_after) = ((now - BACKDATED).into(), (now + LIFE).into());
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Names and what lies below them (there is no narrower form). Not addresses: with those BoringSSL, and so every gRPC client in
    // Python or C++, refuses the certificate ("unsupported name constraint type").
    let is_name = |name: &&String| name.parse::<IpAddr>().is_err();
    let permitted = names.iter().filter(is_name).cloned().map(GeneralSubtree::DnsName);
    ca.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted.collect(),
        excluded_subtrees: vec![],
    });
    let dn = &mut ca.distinguished_name;
    dn.push(DnType::CommonName, "sf-token-proxy listener CA");
    ca
}

fn own(names: &[String], now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut leaf = CertificateParams::new(names)?;
    (leaf.not_before, leaf.not_after) = ((now - BACKDATED).into(), (now + LIFE).into());
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let dn = &mut leaf.distinguished_name;
    dn.push(DnType::CommonName, "sf-token-proxy listener");
    Ok(leaf)
}

/// Made for this user to write and for all to read: apps of other users need ca.pem, and key.pem has permissions of its
/// own. One that is there stays as it is.
fn make_directory(directory: &Path) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
    match builder.create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Waits for the lock; it is held for the time that it takes to make a certificate.
fn lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    file.lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests;
