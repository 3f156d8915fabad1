//! `check`: is the configuration good, and are the files and variables it refers to what they should be?
//!
//! Reads every reference once, to tell; nothing is contacted.
//! Invariants: no byte of a secret is printed.
//! Fails with: 78 and every problem on stderr.

use std::process::ExitCode;

use secrecy::{ExposeSecret as _, SecretString};

use super::{refuse, say};
use crate::{
    config::{Config, Grant, Problems, SecretRef},
    tls,
    token::grant::check_key,
};

pub(super) fn check(loaded: Result<Config, Problems>) -> ExitCode {
    match loaded.and_then(with_references) {
        Ok(config) => {
            say(&format!("ok\n{}{}", config.to_yaml(), egress(&config)));
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(&problems),
    }
}

/// As a comment, so that the whole stays YAML; the URL may hold a password.
fn egress(config: &Config) -> &'static str {
    match config.upstream.proxy.https {
        Some(_) => "# calls leave through the proxy that HTTPS_PROXY names\n",
        None => "",
    }
}

/// The configuration, if what it refers to is there and usable.
fn with_references(config: Config) -> Result<Config, Problems> {
    let mut problems = Problems::default();
    for (name, org) in &config.orgs {
        let at = format!("orgs.{name}.grant");
        let (at, wrong) = match &org.grant {
            Grant::JwtBearer(grant) => (format!("{at}.jwt_bearer.private_key"), private_key(&grant.private_key)),
            Grant::ClientCredentials(grant) => {
                let at = format!("{at}.client_credentials.client_secret");
                (at, read(&grant.client_secret).map(drop))
            }
            _ => continue,
        };
        if let Err(text) = wrong {
            problems.add(at, text);
        }
    }
    if let Some(Err(error)) = config.upstream.ca_file.as_deref().map(tls::read_certificates) {
        problems.add("upstream.ca_file", error.to_string());
    }
    problems.or(Some(config))
}

fn read(reference: &SecretRef) -> Result<SecretString, String> {
    reference.read().map_err(|error| error.to_string())
}

/// Readable, an RSA key, and long enough to sign with.
fn private_key(reference: &SecretRef) -> Result<(), String> {
    let pem = read(reference)?;
    check_key(pem.expose_secret()).map_err(|problem| format!("{reference} {problem}"))
}

// rcgen comes with the practice org.
#[cfg(feature = "demo")]
#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn told(content: &[u8]) -> Result<(), String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        private_key(&SecretRef::File(file.path().into()))
            .map_err(|text| text.replace(&file.path().display().to_string(), "KEY"))
    }

    #[test]
    fn only_a_usable_rsa_key_passes() {
        let ec = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)
            .unwrap()
            .serialize_pem();
        assert_eq!(told(rsa.as_bytes()), Ok(()));
        for (content, problem) in [
            (ec.as_bytes(), "holds an elliptic-curve key"),
            (b"hunter2", "holds no PEM private key"),
            (&rsa.as_bytes()[..rsa.len() / 2], "holds no PEM private key"),
        ] {
            let text = told(content).unwrap_err();
            assert!(text.starts_with(&format!("file:KEY {problem}")), "{text}");
        }
        assert_eq!(told(b"\n"), Err("file:KEY is empty".into()));
        assert_eq!(told(b"\xff\xfe"), Err("file:KEY is not UTF-8 text".into()));
    }
}
