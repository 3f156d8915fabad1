//! A made certificate through its life: real files, times passed in.

use super::*;

const NOW: u64 = 1_800_000_000;

fn at(days: i64) -> SystemTime {
    let seconds = i64::try_from(NOW).unwrap() + days * 24 * 3600;
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
}

fn names(more: &[&str]) -> Vec<String> {
    let all = ["127.0.0.1", "::1", "localhost"].iter().chain(more);
    all.map(|name| (*name).to_owned()).collect()
}

fn read(directory: &Path) -> [String; 3] {
    ["ca.pem", "certificate.pem", "key.pem"].map(|name| fs::read_to_string(directory.join(name)).unwrap())
}

fn bad(directory: &Path, names: &[String], now: SystemTime) -> String {
    match open(directory, names, now).unwrap().found {
        Found::Bad(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_is_made_once_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("a/tls");
    let first = open(&directory, &names(&["sf.internal", "10.1.2.3"]), at(0)).unwrap();
    assert_eq!(first.found, Found::Nothing);
    assert_eq!(first.ca_file, directory.join("ca.pem"));
    for name in ["localhost", "127.0.0.1", "::1", "sf.internal", "10.1.2.3"] {
        assert!(covers(&first.pair.cert[0], name), "{name}");
    }
    assert!(!covers(&first.pair.cert[0], "evil.example"));
    let files = read(&directory);
    // Also with fewer names, and with a clock that has gone on.
    for (names, now) in [
        (names(&["sf.internal", "10.1.2.3"]), at(0)),
        (names(&[]), at(0)),
        (names(&[]), at(699)),
    ] {
        let again = open(&directory, &names, now).unwrap();
        assert_eq!(again.found, Found::Good);
        assert_eq!(again.pair.cert, first.pair.cert);
        assert_eq!(read(&directory), files);
    }
}

#[test]
fn one_that_ends_soon_or_lacks_a_name_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    assert_eq!(open(directory, &names(&[]), at(0)).unwrap().found, Found::Nothing);
    let mut before = read(directory);
    for (names, now, why) in [
        (names(&[]), at(701), "ends within 30 days"),
        (names(&["sf.internal"]), at(701), "does not name sf.internal"),
        (names(&["sf.internal"]), at(3000), "not valid now"),
        (names(&["sf.internal"]), at(2990), "not valid now"),
    ] {
        let text = bad(directory, &names, now);
        assert!(text.contains(why), "{text}");
        let after = read(directory);
        for (before, after) in before.iter().zip(&after) {
            assert_ne!(before, after);
        }
        before = after;
        assert_eq!(open(directory, &names, now).unwrap().found, Found::Good);
    }
    // A clock that is a little behind takes it.
    let opened = open(directory, &names(&[]), at(2990)).unwrap();
    let ca = chain_in(&opened.ca_file).unwrap();
    let earlier = at(2990) - Duration::from_secs(12 * 3600);
    assert!(trusted(&opened.pair.cert[0], &ca[0], earlier));
}

#[test]
fn files_that_do_not_belong_together_are_not_served() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (one.path(), other.path());
    open(other, &names(&[]), at(0)).unwrap();
    let mix = |name: &'static str| move |one: &Path, other: &Path| drop(fs::copy(other.join(name), one.join(name)));
    type Spoil<'a> = Box<dyn Fn(&Path, &Path) + 'a>;
    let table: [(Spoil, &str); 6] = [
        (Box::new(mix("key.pem")), "the key does not belong to the certificate"),
        (
            Box::new(mix("certificate.pem")),
            "the key does not belong to the certificate",
        ),
        (Box::new(mix("ca.pem")), "not signed by the authority"),
        (
            Box::new(|one, _| fs::remove_file(one.join("certificate.pem")).unwrap()),
            "certificate.pem: ",
        ),
        (
            Box::new(|one, _| fs::write(one.join("key.pem"), "").unwrap()),
            "key.pem: no PEM private key",
        ),
        (
            Box::new(|one, _| fs::write(one.join("ca.pem"), "half").unwrap()),
            "ca.pem: no PEM certificate",
        ),
    ];
    open(one, &names(&[]), at(0)).unwrap();
    for (spoil, why) in table {
        spoil(one, other);
        let text = bad(one, &names(&[]), at(0));
        assert!(text.contains(why), "{text}");
        assert_eq!(open(one, &names(&[]), at(0)).unwrap().found, Found::Good);
    }
}

#[cfg(unix)]
#[test]
fn the_key_is_for_one_user_and_the_authority_for_all() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("tls");
    let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    open(&directory, &names(&[]), at(0)).unwrap();
    let modes = ["", "ca.pem", "certificate.pem", "key.pem", "lock"].map(mode);
    assert_eq!(modes, [0o755, 0o644, 0o644, 0o600, 0o600], "{modes:?}");
    assert!(!others_may_write(&directory));

    fs::set_permissions(directory.join("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    let text = bad(&directory, &names(&[]), at(0));
    assert!(text.contains("other users have permissions"), "{text}");
    assert_eq!(mode("key.pem"), 0o600);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o775)).unwrap();
    assert!(others_may_write(&directory));
}

#[test]
fn whoever_starts_at_the_same_time_serves_what_the_files_say() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("tls");
    for round in 0..5 {
        let opened: Vec<Opened> = std::thread::scope(|scope| {
            let tasks: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| open(&directory, &names(&[]), at(round * 710)).unwrap()))
                .collect();
            tasks.into_iter().map(|task| task.join().unwrap()).collect()
        });
        let made = opened.iter().filter(|opened| opened.found != Found::Good).count();
        assert_eq!(made, 1);
        let certificate = chain_in(&directory.join("certificate.pem")).unwrap();
        for opened in opened {
            assert_eq!(opened.pair.cert, certificate);
            opened.pair.keys_match().unwrap();
        }
    }
}

/// Were its key not gone, the authority could vouch for no name but the listener's, and make no authority below it. Of
/// addresses it says nothing: BoringSSL could not read it.
#[test]
fn the_authority_is_good_for_the_listeners_names_alone() {
    let key = KeyPair::generate().unwrap();
    let ca = authority(&names(&["sf.internal", "10.1.2.3"]), at(0));
    let issuer = Issuer::from_params(&ca, &key);
    let permitted = &ca.name_constraints.as_ref().unwrap().permitted_subtrees;
    assert!(
        permitted
            .iter()
            .all(|of| matches!(of, rcgen::GeneralSubtree::DnsName(_)))
    );
    let ca = ca.self_signed(&key).unwrap();
    let signed = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = own(&names, at(0)).unwrap().signed_by(&key, &issuer).unwrap();
        trusted(certificate.der(), ca.der(), at(0))
    };
    assert!(signed(&["localhost"]));
    assert!(signed(&["localhost", "127.0.0.1", "::1", "sf.internal", "10.1.2.3"]));
    for foreign in [
        "login.salesforce.com",
        "internal",
        "salesforce.com.",
        "sf.internal.example",
    ] {
        assert!(!signed(&[foreign]), "{foreign}");
        assert!(!signed(&["localhost", foreign]), "{foreign}");
    }
}

#[test]
fn a_place_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = open(file.path(), &names(&[]), at(0)).unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("cannot use {}", file.path().display())),
        "{text}"
    );
}
