//! The JWT bearer grant: an assertion signed with the app's key says which user.
//!
//! Invariants: a new assertion for every attempt, valid for less than three minutes; RS256 only; header and claims are
//! the few that Salesforce documents (no `jti`, no `iat`).
//! Units: `exp` in seconds since 1970.
//! Fails with: `secret_unreadable`; `key_unusable` with what the file holds instead of an RSA key.
//! Source: SF §1.4.1; RFC 7523 §2.1, §3; RFC 8017 §8.2.

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::RsaKeyPair;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{Attempt, Body, TOKEN_PATH, field, read_key};
use crate::{
    clock::unix_seconds,
    config::JwtBearer,
    token::refusal::{Refusal, Sent},
};

pub(super) fn attempt(grant: &JwtBearer, now: SystemTime) -> Result<Attempt, Refusal> {
    let pem = read_key(&grant.private_key)?;
    let assertion = assertion(grant, pem.expose_secret(), now)
        .map_err(|problem| Refusal::of("key_unusable", format!("`private_key` {problem}")))?;
    let mut sent = Sent::default();
    sent.assertion(assertion.expose_secret());
    Ok(Attempt {
        path: TOKEN_PATH.into(),
        body: Body::Form(vec![field("grant_type", GRANT_TYPE), field("assertion", assertion)]),
        authorization: None,
        sent,
    })
}

fn assertion(grant: &JwtBearer, pem: &str, now: SystemTime) -> Result<SecretString, &'static str> {
    signed(pem, &grant.client_id, &grant.username, &grant.audience, now)
}

/// A JWT with the four claims that Salesforce documents.
pub(super) fn signed(
    pem: &str,
    issuer: &str,
    subject: &str,
    audience: &str,
    now: SystemTime,
) -> Result<SecretString, &'static str> {
    // jsonwebtoken would take a shorter key and say less of a wrong one.
    check_key(pem)?;
    let key = EncodingKey::from_rsa_pem(key_block(pem).as_bytes()).map_err(|_| UNUSABLE)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time of this age"
    )]
    let exp = unix_seconds(now + LIFETIME) as u64;
    let claims = json!({
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "exp": exp,
    });
    let mut header = Header::new(Algorithm::RS256);
    header.typ = None;
    let assertion = jsonwebtoken::encode(&header, &claims, &key);
    assertion.map(SecretString::from).map_err(|_| "cannot sign")
}

/// Whether a PEM text holds a key to sign with; if not, what is wrong with it, as a phrase that follows its name.
pub fn check_key(pem: &str) -> Result<(), &'static str> {
    rsa_key(pem).map(drop)
}

pub(super) fn rsa_key(pem: &str) -> Result<RsaKeyPair, &'static str> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| instead_of_a_key(pem))?;
    let (der, parsed) = match &key {
        PrivateKeyDer::Pkcs1(key) => {
            let der = key.secret_pkcs1_der();
            (der, RsaKeyPair::from_der(der))
        }
        PrivateKeyDer::Pkcs8(key) => {
            let der = key.secret_pkcs8_der();
            (der, RsaKeyPair::from_pkcs8(der))
        }
        PrivateKeyDer::Sec1(_) => return Err(EC_KEY),
        _ => return Err(NO_KEY),
    };
    // PKCS#1 may be encrypted under the same label; its headers say so.
    parsed.map_err(|e| match e.to_string().as_str() {
        _ if pem.contains("Proc-Type: 4,ENCRYPTED") => ENCRYPTED,
        _ if holds(der, EC_OID) => EC_KEY,
        _ if holds(der, ED25519_OID) => "holds an Ed25519 key; Salesforce takes RSA keys only",
        "TooSmall" => "holds an RSA key of fewer than 2048 bits; Salesforce takes 2048 or more",
        _ => UNUSABLE,
    })
}

/// The private key of a bundle that may hold certificates, too; jsonwebtoken looks at the first block alone.
fn key_block(pem: &str) -> &str {
    let ends = || {
        let label = pem.find("PRIVATE KEY-----")?;
        let begin = pem[..label].rfind("-----BEGIN ")?;
        let end = begin + pem[begin..].find("-----END ")?;
        let whole = end + pem[end..].find('\n').unwrap_or(pem.len() - end);
        Some(&pem[begin..whole])
    };
    ends().unwrap_or(pem)
}

fn instead_of_a_key(pem: &str) -> &'static str {
    let has = |label: &str| pem.contains(&format!("-----BEGIN {label}"));
    if has("ENCRYPTED PRIVATE KEY") || pem.contains("Proc-Type: 4,ENCRYPTED") {
        ENCRYPTED
    } else if has("OPENSSH PRIVATE KEY") {
        "is in OpenSSH's format; convert it with `ssh-keygen -p -m PEM`"
    } else if has("EC PRIVATE KEY") {
        EC_KEY
    } else if has("CERTIFICATE") {
        "holds a certificate; set it to the private key that belongs to it"
    } else if has("PUBLIC KEY") || has("RSA PUBLIC KEY") {
        "holds a public key; set it to the private key that belongs to it"
    } else {
        NO_KEY
    }
}

fn holds(der: &[u8], oid: &[u8]) -> bool {
    der.windows(oid.len()).any(|window| window == oid)
}

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// Salesforce allows five minutes; less leaves room for a clock that is ahead.
pub(super) const LIFETIME: Duration = Duration::from_secs(170);
const UNUSABLE: &str = "holds no RSA key that can be used (2048 to 8192 bits, PKCS#8 or PKCS#1)";
const EC_KEY: &str = "holds an elliptic-curve key; Salesforce takes RSA keys only";
const ENCRYPTED: &str = "is encrypted; decrypt it with `openssl pkey -in KEY -out NEW`";
const NO_KEY: &str = "holds no PEM private key (-----BEGIN PRIVATE KEY-----)";
/// 1.2.840.10045.2.1 and 1.3.101.112 in DER.
const EC_OID: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519_OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

#[cfg(test)]
pub(in crate::token) mod tests {
    use std::sync::LazyLock;

    use aws_lc_rs::{
        encoding::{AsDer as _, Pkcs8V1Der},
        rsa::{KeyPair, KeySize},
        signature::KeyPair as _,
    };
    use base64::{
        Engine as _,
        prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
    };

    use super::*;
    use crate::config::SecretRef;

    const SANDBOX: &str = "https://test.salesforce.com";

    pub(in crate::token) fn pem(label: &str, der: &[u8]) -> String {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            BASE64_STANDARD.encode(der)
        )
    }

    /// One key for all tests: making one takes long.
    pub(in crate::token) static PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        der.as_ref().to_vec()
    });

    /// What PKCS#8 wraps: 26 bytes of header, then PKCS#1.
    fn pkcs1() -> &'static [u8] {
        &PKCS8[26..]
    }

    fn grant(key: &str) -> (tempfile::NamedTempFile, JwtBearer) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), key).unwrap();
        let grant = JwtBearer {
            client_id: "3MVG9.id".into(),
            username: "i@acme.com".into(),
            private_key: SecretRef::file(file.path().to_owned()),
            audience: SANDBOX.into(),
        };
        (file, grant)
    }

    #[test]
    fn the_assertion_says_what_salesforce_documents_and_verifies() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_900);
        for key in [pem("PRIVATE KEY", &PKCS8), pem("RSA PRIVATE KEY", pkcs1())] {
            let (_file, grant) = grant(&key);
            let attempt = attempt(&grant, now).unwrap();
            assert!(attempt.authorization.is_none());
            let Body::Form(form) = attempt.body else {
                panic!("expected a form");
            };
            assert_eq!(form[0].1.expose_secret(), GRANT_TYPE);
            let assertion = form[1].1.expose_secret();
            let parts: Vec<_> = assertion
                .split('.')
                .map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap())
                .collect();
            assert_eq!(parts[0], br#"{"alg":"RS256"}"#);
            let claims: serde_json::Value = serde_json::from_slice(&parts[1]).unwrap();
            assert_eq!(
                claims,
                json!({"iss": "3MVG9.id", "sub": "i@acme.com", "aud": SANDBOX, "exp": 1_790_000_170})
            );
            let public = RsaKeyPair::from_pkcs8(&PKCS8).unwrap().public_key().as_ref().to_vec();
            let key = jsonwebtoken::DecodingKey::from_rsa_der(&public);
            let mut rules = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256);
            rules.set_audience(&[SANDBOX]);
            rules.validate_exp = false;
            jsonwebtoken::decode::<serde_json::Value>(assertion, &key, &rules).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_no_rsa_key_is_called_what_it_is() {
        let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let small = SMALL.replace(char::is_whitespace, "");
        let small = BASE64_STANDARD.decode(small).unwrap();
        let rsa = pem("PRIVATE KEY", &PKCS8);
        let encrypted = pem("RSA PRIVATE KEY", b"ciphertext").replacen(
            "-----\n",
            "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
            1,
        );
        for (text, expected) in [
            (ec.serialize_pem(), "elliptic-curve"),
            (pem("EC PRIVATE KEY", b"x"), "elliptic-curve"),
            (ed.serialize_pem(), "Ed25519"),
            (pem("ENCRYPTED PRIVATE KEY", b"x"), "is encrypted"),
            (encrypted, "is encrypted"),
            (pem("CERTIFICATE", b"x"), "a certificate"),
            (pem("PUBLIC KEY", b"x"), "a public key"),
            (pem("RSA PUBLIC KEY", b"x"), "a public key"),
            (pem("OPENSSH PRIVATE KEY", b"x"), "OpenSSH"),
            (pem("RSA PRIVATE KEY", &small), "fewer than 2048 bits"),
            (pem("PRIVATE KEY", b"CANARY"), "no RSA key"),
            ("CANARY".to_owned(), "no PEM private key"),
            (rsa.replace("-----END", "-----"), "no PEM private key"),
        ] {
            let (_file, grant) = grant(&text);
            let refusal = attempt(&grant, SystemTime::UNIX_EPOCH).err().expect(expected);
            assert_eq!(refusal.reason, "key_unusable");
            let description = refusal.description.unwrap();
            assert!(
                description.starts_with("`private_key` ") && description.contains(expected),
                "{expected}: {description}"
            );
            assert!(!description.contains("CANARY"));
        }
        let (_file, grant) = grant(&format!("{}{rsa}", pem("CERTIFICATE", b"x")));
        assert!(
            attempt(&grant, SystemTime::UNIX_EPOCH).is_ok(),
            "a bundle with the key in it"
        );
    }

    /// A 1024-bit key, PKCS#1; made for this test, used nowhere.
    const SMALL: &str = "
        MIICXQIBAAKBgQC0kUOkcFHssi7ZfJq0AqSmewVMHha2yPKVq1u1tuy6DNAwGKFy
        sskkn2+x/TxZ4tNmShEgPOKuqZOyVWzoTAESQNtQpZpRj7P4DGS5XkrenVIYvilv
        LmSgwm3iAxGOBGqlMANXFKZAiguKg3Fx/XV6PLUPB7piMeMz2PbMa29ULwIDAQAB
        AoGACOm+wAg3Uwq8m0m2TTpwLDOYYFh/4IfsyYyK215rMwfc4vLkTUgb+63PEqcg
        aoNy0fLIA6Jdwidmvf/Pf2v5BXtl6Ky4Q3VhYegWVKeo8+OP6f2N5PfKO46ybmEW
        BNaAICqiYKJxxU/cTnga7Wdnn1O5mTNmbKGt2DvvMsUxDKkCQQDfzwA4y4kFWQuO
        fZtdAL83/0BtWjv0RH+TWKIFgi6pV68YH2ciN0mjnqYK6EiYsr0vFctjNcMI9wSp
        PucEBMPtAkEAzooNlfZqZguHeqO3DUUX/twtvmtzCM8RhVcptnc+FAOitGAT95/P
        SGyMwdyv+ZxM5GYikIbVwSO+W67RqyttCwJAZbH2hNgfO7nZYXa7qMfVG4m1abrt
        sTGK0pYckOo1b6czHX/vagG7SUimZCBmFFRrWEDL+RmNtL4hdRHrAM11hQJBAL97
        QAMzFAuNTspFc9UKpKd0y7gJd/nHt8+uMo7m2BfIExU1Ke3eLFdRw+GLT16UKLlr
        c0oYp53LHJV1aw9NUGcCQQCKRDzzX7l4SPwIuZltuQoWquSSoJSfgHxuCe0mT08f
        DK4UP8cpgysHKxqXIN/Ex0MM04pX9+qgHV7XGnIOQ19L";
}
