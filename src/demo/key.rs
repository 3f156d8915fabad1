//! RSA keys of the practice apps, in the two PEM forms people have.
//!
//! Owns: nothing.
//! Invariants: RSA, 2048 bits (SF §1.4.1); both forms hold the same key.
//! Fails with: [`KeyError`]; only on a broken key or certificate.
//! Source: RFC 5208 (PKCS#8), RFC 8017 appendix A (PKCS#1), RFC 7468 (PEM); SF §8.5.

use std::fmt;

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// A private key. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct RsaKey {
    pkcs8: Vec<u8>,
    public: Vec<u8>,
}

/// A public key as an admin uploads it (SubjectPublicKeyInfo, DER).
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("cannot make an RSA key")]
    Generate,
    #[error("not a certificate in PEM form with an RSA key")]
    Certificate,
}

impl RsaKey {
    /// A new 2048-bit key; takes some tens of milliseconds.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyError::Generate)?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Generate)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| KeyError::Generate)?;
        Ok(Self {
            pkcs8: pkcs8.as_ref().to_vec(),
            public: public.as_ref().to_vec(),
        })
    }

    /// `BEGIN PRIVATE KEY`.
    pub fn pkcs8_pem(&self) -> String {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// `BEGIN RSA PRIVATE KEY`.
    pub fn pkcs1_pem(&self) -> String {
        pem("RSA PRIVATE KEY", self.pkcs1())
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.public.clone())
    }

    /// SEQUENCE { INTEGER 0, SEQUENCE algorithm, OCTET STRING pkcs1 }.
    pub(crate) fn pkcs1(&self) -> &[u8] {
        let (outer, _) = der_value(&self.pkcs8);
        let (_, after_version) = der_value(outer);
        let (_, after_algorithm) = der_value(after_version);
        der_value(after_algorithm).0
    }
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RsaKey")
    }
}

impl PublicKey {
    /// The key of an uploaded X.509 certificate.
    pub fn from_certificate_pem(pem: &str) -> Result<Self, KeyError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Certificate)?;
        let certificate = rustls::server::ParsedCertificate::try_from(&der).map_err(|_| KeyError::Certificate)?;
        Ok(Self(certificate.subject_public_key_info().to_vec()))
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey")
    }
}

/// Modulus and exponent of a PKCS#1 public key: SEQUENCE { INTEGER n, INTEGER e }.
pub(crate) fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    let (numbers, _) = der_value(der);
    let (modulus, rest) = der_value(numbers);
    // A leading zero says that the number is positive.
    (modulus.strip_prefix(&[0]).unwrap_or(modulus), der_value(rest).0)
}

/// The content of the first DER element and what follows it.
fn der_value(bytes: &[u8]) -> (&[u8], &[u8]) {
    let first = usize::from(bytes[1]);
    let (start, length) = if first < 0x80 {
        (2, first)
    } else {
        let digits = first & 0x7f;
        let length = bytes[2..2 + digits]
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (2 + digits, length)
    };
    (&bytes[start..start + length], &bytes[start + length..])
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pem_forms_hold_the_same_key() {
        let key = RsaKey::generate().unwrap();
        assert!(key.pkcs8_pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert!(key.pkcs1_pem().starts_with("-----BEGIN RSA PRIVATE KEY-----\n"));
        let from_pkcs1 = KeyPair::from_der(key.pkcs1()).unwrap();
        let public: PublicKeyX509Der<'_> = from_pkcs1.public_key().as_der().unwrap();
        assert_eq!(public.as_ref(), key.public().der());
    }

    #[test]
    fn a_certificate_yields_its_key() {
        let key = RsaKey::generate().unwrap();
        let pair = rcgen::KeyPair::from_pem(&key.pkcs8_pem()).unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["practice".to_owned()])
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        let read = PublicKey::from_certificate_pem(&certificate.pem()).unwrap();
        assert_eq!(read, key.public());
        assert_eq!(
            PublicKey::from_certificate_pem("nothing").unwrap_err(),
            KeyError::Certificate
        );
    }
}
