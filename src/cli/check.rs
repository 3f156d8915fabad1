//! `check`: is the configuration good, and are the files and variables it refers to what they should be?
//!
//! Reads every reference once, to tell; nothing is contacted.
//! Invariants: no byte of a secret is printed.
//! Fails with: 78 and every problem on stderr. Warnings go to stderr as well, and do not fail.

use std::{path::Path, process::ExitCode, time::SystemTime};

use secrecy::{ExposeSecret as _, SecretString};

use super::{complain, refuse, say};
use crate::{
    clock::Clock,
    config::{Config, Problems, Reference, SecretRef, Store, Vars},
    store::seal::SealingKey,
    tls,
    token::grant::check_key,
};

pub(super) fn check(loaded: Result<Config, Problems>, vars: &Vars) -> ExitCode {
    let now = Clock::system().now();
    match loaded.and_then(|config| with_references(config, vars, now)) {
        Ok((config, warnings)) => {
            for warning in config.warnings(now).into_iter().chain(warnings) {
                complain(&format!("warning: {warning}"));
            }
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

/// The configuration, if what it refers to is there and usable, and what will hurt all the same.
fn with_references(config: Config, vars: &Vars, now: SystemTime) -> Result<(Config, Vec<String>), Problems> {
    let mut problems = Problems::default();
    let mut warnings = vec![];
    for (index, listener) in config.listeners.iter().enumerate() {
        let (wrong, odd) = tls::listener::check(index, listener, now);
        problems.extend(wrong);
        warnings.extend(odd);
    }
    let mut note = |at: String, checked: Result<(), String>| {
        if let Err(text) = checked {
            problems.add(at, text);
        }
    };
    for (name, org) in &config.orgs {
        for (key, reference) in org.grant.references() {
            note(format!("orgs.{name}.grant.{key}"), checked(reference, vars));
        }
    }
    if let Store::File { key, previous_key, .. } = &config.store {
        note("store.file.key".into(), store_key(key));
        if let Some(previous) = previous_key {
            note("store.file.previous_key".into(), store_key(previous));
        }
    }
    if let Some(Err(error)) = config.upstream.ca_file.as_deref().map(tls::read_certificates) {
        note("upstream.ca_file".into(), Err(error.to_string()));
    }
    problems.or(Some((config, warnings)))
}

fn checked(reference: Reference<'_>, vars: &Vars) -> Result<(), String> {
    match reference {
        Reference::Secret(secret) => read(secret).map(drop),
        Reference::PrivateKey(key) => private_key(key),
        Reference::Program(program) => is_found(program, vars.value("PATH").unwrap_or_default()),
    }
}

/// Whether a program can be started: a path as it is, a name in one of the folders of `PATH`.
fn is_found(program: &str, path: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let runs = |file: &Path| {
        let about = std::fs::metadata(file);
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    let (found, place) = match program.contains('/') {
        true => (runs(Path::new(program)), ""),
        false => (
            std::env::split_paths(path).any(|folder| runs(&folder.join(program))),
            " on PATH",
        ),
    };
    match found {
        true => Ok(()),
        false => Err(format!("the program `{}` is not found{place}", program.escape_debug())),
    }
}

/// 32 bytes in base64 (standard or for URLs, padded or not) or hexadecimal.
fn store_key(reference: &SecretRef) -> Result<(), String> {
    let text = read(reference)?;
    let text = text.expose_secret().trim();
    match SealingKey::parse(text).is_ok() {
        true => Ok(()),
        false => Err(format!(
            "{reference} holds no key of 32 bytes in base64 or hexadecimal; make one with `openssl rand -base64 32`"
        )),
    }
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
        private_key(&SecretRef::file(file.path()))
            .map_err(|text| text.replace(&file.path().display().to_string(), "KEY"))
    }

    #[test]
    fn a_store_key_is_32_bytes_in_one_of_the_forms() {
        let key = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            store_key(&SecretRef::file(file.path()))
        };
        for good in [
            "/+8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
            "/+8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "_-8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            &"0aF9".repeat(16),
        ] {
            assert_eq!(key(good), Ok(()), "{good}");
        }
        for bad in ["hunter2", &"0a".repeat(31), &"0a".repeat(33), &"zz".repeat(32), "AAAA"] {
            let text = key(bad).unwrap_err();
            assert!(
                text.contains("holds no key of 32 bytes") && !text.contains(bad),
                "{text}"
            );
        }
    }

    #[test]
    fn a_program_is_looked_for_as_it_will_be_started() {
        assert_eq!(is_found("/bin/sh", ""), Ok(()));
        assert_eq!(is_found("sh", "/nowhere:/bin"), Ok(()));
        for (program, path) in [("sh", ""), ("sh", "/nowhere"), ("/bin", ""), ("/etc/passwd", "")] {
            assert!(is_found(program, path).is_err(), "{program}");
        }
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
