//! What can be told of a certificate: its chain, its key, its time, its names.
//!
//! But for reading a file, pure: the time is passed in. The judge is the verifier that clients of this program use as
//! well (webpki).
//! Fails with: what is wrong, in words that quote nothing of a key.
//! Source: RFC 5280 §4.1.2.5 (validity), §4.2.1.6 (names), §6 (paths).

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, Error, InconsistentKeys, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject as _},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use zeroize::Zeroizing;

use super::provider;
use crate::disk;

/// Every certificate of a PEM file; at least one.
pub(super) fn chain_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    if certificates.is_empty() {
        return Err("no PEM certificate in it".into());
    }
    Ok(certificates)
}

/// A PEM file, whole.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    disk::read(path, disk::LARGE, PATIENCE).map_err(|error| error.to_string())
}

/// For reading one file.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first private key of a PEM text.
pub(super) fn key_of(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound if contains(pem, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            "its key has a password; take it off (`openssl pkey`)".into()
        }
        pem::Error::NoItemsFound => "no PEM private key in it".into(),
        _ => "no readable PEM".into(),
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Why a key and a chain are no pair to serve with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoPair {
    /// The certificate, in the library's words.
    Certificate(String),
    /// The key is of no kind that TLS signs with.
    Key,
    /// Each is good, and they do not belong together.
    Strangers,
}

/// A chain with its key, for rustls.
pub(super) fn pair(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, NoPair> {
    let signer = provider().key_provider.load_private_key(key);
    let pair = CertifiedKey::new(chain, signer.map_err(|_| NoPair::Key)?);
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(NoPair::Strangers),
        Err(error) => Err(NoPair::Certificate(error.to_string())),
    }
}

/// When a certificate is no good at some time: because it ended, or has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untimely {
    Ended(SystemTime),
    Begins(SystemTime),
}

/// Whether a certificate's time has come at `at`, and has not passed. Says nothing of what else may be wrong with it.
pub(super) fn timely(certificate: &CertificateDer<'_>, at: SystemTime) -> Result<(), Untimely> {
    // The time is looked at before an authority is looked for.
    match verified(certificate, &RootCertStore::empty(), at) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
            Err(Untimely::Ended(system(not_after)))
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            Err(Untimely::Begins(system(not_before)))
        }
        _ => Ok(()),
    }
}

/// When a certificate ends.
pub(super) fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    match timely(certificate, SystemTime::UNIX_EPOCH + LAST_OF_ALL) {
        Err(Untimely::Ended(at)) => Some(at),
        _ => None,
    }
}

/// The end of the year 9999, after which no certificate ends (RFC 5280 §4.1.2.5), since 1970.
const LAST_OF_ALL: Duration = Duration::from_secs(253_402_300_799);

/// Whether a client that trusts `ca` alone takes the certificate at `at`, whatever it calls the server.
pub(super) fn trusted(certificate: &CertificateDer<'_>, ca: &CertificateDer<'static>, at: SystemTime) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).is_ok() && verified(certificate, &roots, at).is_ok()
}

fn verified(certificate: &CertificateDer<'_>, roots: &RootCertStore, at: SystemTime) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(since);
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, &[], at, algorithms)
}

/// Whether the certificate is good for a host name or address. One that no certificate could name counts as covered.
pub(super) fn covers(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else {
        return true;
    };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

fn system(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs())
}

/// What a listener serves with.
pub(super) type Pair = Arc<CertifiedKey>;
