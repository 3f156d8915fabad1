//! A certificate that somebody else makes and puts in place.
//!
//! Reads both files; the time is passed in.
//! Invariants: nothing of the key is in a text.
//! Fails with: [`Complaint`]s, all at once.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    certificate::{self, NoPair, Pair, Untimely, chain_in, covers, key_of, pair, timely},
    listener::Complaint,
};
use crate::{clock::rfc3339, config::Listener};

/// Less left than this is worth a warning: renewals of certificates for 90 days are due with 30 days left.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

const CERTIFICATE: &str = "certificate_file";
const KEY: &str = "key_file";

/// The pair, and what is allowed and will hurt.
pub(super) fn read(
    certificate: &Path,
    key: &Path,
    listener: &Listener,
    now: SystemTime,
) -> Result<(Pair, Vec<Complaint>), Vec<Complaint>> {
    let unusable = |key: &'static str, path: &Path, reason: &str| Complaint {
        key,
        text: format!("cannot use {}: {reason}", path.display()),
    };
    let chain = chain_in(certificate).map_err(|reason| unusable(CERTIFICATE, certificate, &reason));
    let private = certificate::read(key)
        .and_then(|pem| key_of(&pem))
        .map_err(|reason| unusable(KEY, key, &reason));
    let (chain, private) = match (chain, private) {
        (Ok(chain), Ok(private)) => (chain, private),
        (chain, private) => return Err(chain.err().into_iter().chain(private.err()).collect()),
    };
    let pair = pair(chain, private).map_err(|problem| {
        vec![match problem {
            NoPair::Certificate(reason) => unusable(CERTIFICATE, certificate, &reason),
            NoPair::Key => unusable(KEY, key, "expected an RSA, ECDSA (P-256, P-384, P-521) or Ed25519 key"),
            NoPair::Strangers => {
                let reason = format!(
                    "the key does not belong to the first certificate in {}; the listener's own must come first",
                    certificate.display()
                );
                unusable(KEY, key, &reason)
            }
        }]
    })?;
    for certificate_of_chain in &pair.cert {
        if let Err(untimely) = timely(certificate_of_chain, now) {
            let reason = match untimely {
                Untimely::Ended(at) => format!("a certificate in it expired at {}", rfc3339(at)),
                Untimely::Begins(at) => format!("a certificate in it is not valid before {}", rfc3339(at)),
            };
            return Err(vec![unusable(CERTIFICATE, certificate, &reason)]);
        }
    }
    let warnings = warnings(&pair, listener, now);
    Ok((Arc::new(pair), warnings))
}

fn warnings(pair: &rustls::sign::CertifiedKey, listener: &Listener, now: SystemTime) -> Vec<Complaint> {
    let ends = pair
        .cert
        .iter()
        .filter_map(|certificate| match timely(certificate, now + SOON) {
            Err(Untimely::Ended(at)) => Some(at),
            _ => None,
        });
    let soon = ends
        .min()
        .map(|at| format!("it expires at {}; put another in its place", rfc3339(at)));
    let own = pair.cert.first();
    let covered = |name: &&String| own.is_some_and(|own| covers(own, name));
    // Names that somebody chose must all be there; of the others one is enough.
    let missing: Vec<&str> = match listener.hosts.as_slice() {
        [] => match listener.names().iter().any(|name| covered(&name)) {
            true => vec![],
            false => vec!["localhost"],
        },
        hosts => hosts.iter().filter(|name| !covered(name)).map(String::as_str).collect(),
    };
    let missing = (!missing.is_empty()).then(|| {
        format!(
            "it does not name {}: clients that call the listener so will refuse it",
            missing.join(", ")
        )
    });
    let texts = soon.into_iter().chain(missing);
    texts.map(|text| Complaint { key: CERTIFICATE, text }).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config::OrgName;

    fn at(days: i32) -> SystemTime {
        let day = Duration::from_secs(24 * 3600);
        SystemTime::UNIX_EPOCH + day * u32::try_from(20_000 + days).unwrap()
    }

    fn listener(hosts: &[&str]) -> Listener {
        Listener {
            addresses: vec!["127.0.0.1:8443".parse().unwrap()],
            org: OrgName::new("main"),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            allowed_origins: vec![],
            extra_paths: vec![],
            local_login: true,
            insecure_allow_any_caller: false,
            tls: None,
            users: None,
            max_connections: 1,
            idle_timeout: Duration::from_secs(1),
        }
    }

    /// A certificate of its own authority for these names, from day 0 to day 90, and its key.
    fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (at(0).into(), at(90).into());
        // As `openssl req -x509` makes them.
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// What is told, with the names of the files in place of their paths: problems, else warnings.
    fn told(certificate: &str, key: &str, hosts: &[&str], now: SystemTime) -> (bool, String) {
        let folder = tempfile::tempdir().unwrap();
        let (crt, pem) = (folder.path().join("C"), folder.path().join("K"));
        std::fs::write(&crt, certificate).unwrap();
        std::fs::write(&pem, key).unwrap();
        let read = read(&crt, &pem, &listener(hosts), now);
        let (good, complaints) = match read {
            Ok((_, warnings)) => (true, warnings),
            Err(problems) => (false, problems),
        };
        let lines: Vec<String> = complaints
            .iter()
            .map(|Complaint { key, text }| format!("{key}: {text}"))
            .collect();
        let text = lines.join("\n").replace(&format!("{}/", folder.path().display()), "");
        (good, text)
    }

    #[test]
    fn a_good_pair_has_its_time_and_its_names() {
        let (certificate, key) = made(&["sf.internal", "localhost"]);
        let warned = |hosts: &[&str], days| {
            let (good, text) = told(&certificate, &key, hosts, at(days));
            assert!(good, "{text}");
            text
        };
        assert_eq!(warned(&[], 1), "");
        assert_eq!(warned(&["sf.internal"], 75), "");
        let soon = format!(
            "certificate_file: it expires at {}T00:00:00Z; put another in its place",
            day(90)
        );
        assert_eq!(warned(&[], 77), soon);
        assert_eq!(
            warned(&["sf.internal", "a.example", "10.0.0.1"], 1),
            "certificate_file: it does not name a.example, 10.0.0.1: clients that call the listener so will refuse it"
        );
        let (other, key) = made(&["a.example"]);
        let (good, text) = told(&other, &key, &[], at(1));
        assert!(good && text.contains("does not name localhost"), "{text}");
    }

    fn day(days: i32) -> String {
        rfc3339(at(days))[..10].to_owned()
    }

    #[test]
    fn what_cannot_be_served_is_told_at_its_setting() {
        let (certificate, key) = made(&["localhost"]);
        let (_, strange) = made(&["localhost"]);
        let (old, _) = made(&["x"]);
        let refused = |certificate: &str, key: &str, days| {
            let (good, text) = told(certificate, key, &[], at(days));
            assert!(!good, "{text}");
            assert!(!text.contains("BEGIN"), "{text}");
            text
        };
        let expired = format!(
            "certificate_file: cannot use C: a certificate in it expired at {}T00:00:00Z",
            day(90)
        );
        assert_eq!(refused(&certificate, &key, 91), expired);
        // Of the others in the chain as well.
        assert_eq!(refused(&format!("{certificate}{old}"), &key, 91), expired);
        assert_eq!(
            refused(&certificate, &key, -1),
            format!(
                "certificate_file: cannot use C: a certificate in it is not valid before {}T00:00:00Z",
                day(0)
            )
        );
        assert_eq!(
            refused(&certificate, &strange, 1),
            "key_file: cannot use K: the key does not belong to the first certificate in C; the listener's own must come first"
        );
        assert_eq!(
            refused(&format!("{old}{certificate}"), &key, 1),
            "key_file: cannot use K: the key does not belong to the first certificate in C; the listener's own must come first"
        );
        assert_eq!(
            refused(&key, &certificate, 1),
            "certificate_file: cannot use C: no PEM certificate in it\nkey_file: cannot use K: no PEM private key in it"
        );
        let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert!(refused(&certificate, &locked, 1).contains("has a password"));
        let broken = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(refused(&certificate, broken, 1).contains("expected an RSA, ECDSA"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(refused(broken, &key, 1).starts_with("certificate_file: cannot use C: invalid peer certificate"));
    }

    #[test]
    fn both_files_are_looked_for_at_once() {
        let nowhere = Path::new("/nowhere/x.pem");
        let complaints = read(nowhere, nowhere, &listener(&[]), at(0)).unwrap_err();
        let keys: Vec<_> = complaints.iter().map(|complaint| complaint.key).collect();
        assert_eq!(keys, [CERTIFICATE, KEY]);
        assert!(complaints[0].text.contains("/nowhere/x.pem"), "{complaints:?}");
    }
}
