//! The store in one process: what is kept, what is refused, what is shown. Other processes: [`processes`].

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, RandomizedNonceKey};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use proptest::prelude::*;
use secrecy::SecretString;

use crate::config::SecretRef;

use super::{
    seal::{Keys, OpenError, SealingKey, identity_mark, open_record, seal_record},
    *,
};

mod processes;

const SECOND: Duration = Duration::from_secs(1);
const CANARY: &str = "00Dxx!canary.4d1f_do.not.show";
const IDENTITY: &str = "https://login.example|3MVG9client|jo@example.com";

/// A file store in a directory of its own, with the key in a file beside it.
struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let room = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        room.set_key("key", 1);
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn directory(&self) -> PathBuf {
        self.path("records")
    }

    fn set_key(&self, name: &str, byte: u8) -> SecretRef {
        let path = self.path(name);
        fs::write(&path, format!("{}\n", BASE64_STANDARD.encode([byte; 32]))).unwrap();
        SecretRef::file(path)
    }

    fn settings(&self) -> config::Store {
        config::Store::File {
            directory: self.directory(),
            key: SecretRef::file(self.path("key")),
            previous_key: None,
        }
    }

    fn store(&self) -> Store {
        Store::open(&self.settings()).unwrap()
    }

    /// With the key of this byte, and perhaps a previous one.
    fn store_with(&self, key: u8, previous: Option<u8>) -> Store {
        Store::open(&config::Store::File {
            directory: self.directory(),
            key: self.set_key(&format!("key{key}"), key),
            previous_key: previous.map(|byte| self.set_key(&format!("key{byte}"), byte)),
        })
        .unwrap()
    }

    fn record_path(&self) -> PathBuf {
        self.directory()
            .join(format!("main.{}.sealed", identity_mark(IDENTITY)))
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.record_path()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.directory())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn mode(&self, path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// That whoever reads, writes or forgets is refused with this word, and that the file stays as it is.
    async fn refuses(&self, store: &Store, key: &Key, path: &Path, word: &str) {
        let before = fs::read(path).unwrap();
        let locked = store.lock(key, SECOND).await.unwrap();
        let errors = [
            store.read(key).await.unwrap_err(),
            locked.read().await.unwrap_err(),
            locked.write(&record(99)).await.unwrap_err(),
            locked.forget().await.unwrap_err(),
        ];
        for error in errors {
            let text = error.to_string();
            assert_eq!(error.word(), word, "{text}");
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert!(
                !text.contains(CANARY) && !format!("{error:?}").contains(CANARY),
                "{text}"
            );
        }
        assert_eq!(fs::read(path).unwrap(), before, "{word}: the file was changed");
    }
}

fn key() -> Key {
    Key {
        name: "main".into(),
        identity: IDENTITY.into(),
    }
}

fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

fn record(serial: u64) -> Record {
    Record {
        serial,
        token: Some(StoredToken {
            secret: CANARY.into(),
            instance_url: "https://acme.my.salesforce.com".into(),
            also: vec![("/Service.asmx".into(), "https://soap.example".into())],
            known_expiry: None,
            minted_at: at(1_790_000_000_123),
            org_id: Some("00Dxx0000000001".into()),
            user_id: None,
            reaches_api: true,
        }),
        grant: Some(StoredGrant {
            refresh_token: format!("5Aep{CANARY}").into(),
            seed: Some([7; 32]),
            rotation: Rotation::On,
            in_flight: true,
            dead: None,
        }),
    }
}

async fn write(store: &Store, record: &Record) -> Result<(), StoreError> {
    store.lock(&key(), SECOND).await?.write(record).await
}

fn sealing_key(byte: u8) -> SealingKey {
    SealingKey::parse(&BASE64_STANDARD.encode([byte; 32])).unwrap()
}

fn keys(byte: u8) -> Keys {
    Keys {
        current: sealing_key(byte),
        previous: None,
    }
}

/// Whatever is done to one store is done to both kinds.
fn both() -> (Room, [Store; 2]) {
    let room = Room::new();
    let stores = [room.store(), Store::open(&config::Store::Memory).unwrap()];
    (room, stores)
}

#[tokio::test]
async fn what_was_written_is_read_until_it_is_forgotten() {
    let (_room, stores) = both();
    for store in stores {
        assert_eq!(store.read(&key()).await.unwrap(), None);
        let locked = store.lock(&key(), SECOND).await.unwrap();
        locked.forget().await.unwrap();
        for serial in 1..=3 {
            locked.write(&record(serial)).await.unwrap();
            assert_eq!(locked.read().await.unwrap(), Some(record(serial)));
            assert_eq!(store.clone().read(&key()).await.unwrap(), Some(record(serial)));
        }
        let other = Key {
            identity: "another".into(),
            ..key()
        };
        assert_eq!(store.read(&other).await.unwrap(), None);
        locked.forget().await.unwrap();
        assert_eq!(store.read(&key()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn only_files_outlive_the_store() {
    let (room, [file, memory]) = both();
    assert!(file.is_durable() && !memory.is_durable());
    write(&file, &record(5)).await.unwrap();
    drop(file);
    assert_eq!(room.store().read(&key()).await.unwrap(), Some(record(5)));
}

fn any_time() -> impl Strategy<Value = SystemTime> {
    // To the year 10,000.
    (0..253_402_300_800_000_u64).prop_map(at)
}

fn any_secret() -> impl Strategy<Value = SecretString> {
    ".{0,300}".prop_map(SecretString::from)
}

prop_compose! {
    fn any_token()(
        secret in any_secret(),
        instance_url in ".{0,60}",
        known_expiry in proptest::option::of(any_time()),
        minted_at in any_time(),
        org_id in proptest::option::of(".{0,18}"),
        user_id in proptest::option::of(".{0,18}"),
        reaches_api: bool,
        also in proptest::collection::vec((".{0,20}", ".{0,20}"), 0..3),
    ) -> StoredToken {
        StoredToken { secret, instance_url, also, known_expiry, minted_at, org_id, user_id, reaches_api }
    }
}

prop_compose! {
    fn any_grant()(
        refresh_token in any_secret(),
        seed: Option<[u8; 32]>,
        rotation in prop_oneof![Just(Rotation::Unknown), Just(Rotation::Off), Just(Rotation::On)],
        in_flight: bool,
        dead in proptest::option::of("[a-z_]{0,20}"),
    ) -> StoredGrant {
        StoredGrant { refresh_token, seed, rotation, in_flight, dead }
    }
}

prop_compose! {
    fn any_record()(
        serial: u64,
        token in proptest::option::of(any_token()),
        grant in proptest::option::of(any_grant()),
    ) -> Record {
        Record { serial, token, grant }
    }
}

proptest! {
    #[test]
    fn every_record_opens_as_it_was_sealed(record in any_record(), identity in ".{0,80}") {
        let sealed = seal_record(&record, &sealing_key(1), &identity).unwrap();
        prop_assert_eq!(open_record(&sealed, &keys(1), &identity), Ok(record));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>, from in 0..64_usize) {
        prop_assert!(open_record(&bytes, &keys(1), IDENTITY).is_err());
        // Behind a head that is right as far as it goes.
        let mut sealed = seal_record(&record(1), &sealing_key(1), IDENTITY).unwrap();
        let whole = sealed.clone();
        sealed.truncate(from);
        sealed.extend_from_slice(&bytes);
        prop_assert!(sealed == whole || open_record(&sealed, &keys(1), IDENTITY).is_err());
    }

    /// What the key's holder sealed may still be no record.
    #[test]
    fn any_sealed_text_is_read_or_refused_without_a_panic(text in r#"\{"version":[012],"serial":[0-9]{1,20},"token":(null|\{.{0,40}\}),"grant":.{0,20}\}|.{0,60}"#) {
        let _ = open_record(&seal_text(&text), &keys(1), IDENTITY);
    }
}

/// Any text under the seal of key 1: what a program with the key but of another version might write.
fn seal_text(text: &str) -> Vec<u8> {
    let whole = seal_record(&record(1), &sealing_key(1), IDENTITY).unwrap();
    let (head, key_id) = (&whole[..29], &whole[9..17]);
    let length = (IDENTITY.len() as u64).to_be_bytes();
    let associated = [b"sfproxy1\x01", key_id, &length, IDENTITY.as_bytes()].concat();
    let mut content = text.as_bytes().to_vec();
    let nonce = RandomizedNonceKey::new(&AES_256_GCM, &[1; 32])
        .unwrap()
        .seal_in_place_append_tag(Aad::from(associated), &mut content)
        .unwrap();
    [head, nonce.as_ref(), &content].concat()
}

#[test]
fn an_unknown_field_is_ignored_and_a_missing_one_is_not_guessed() {
    let open = |text: &str| open_record(&seal_text(text), &keys(1), IDENTITY);
    let token = |field: &str| {
        format!(
            r#"{{"version":1,"serial":3,"surprise":{{}},"grant":null,"token":{{"secret":"s","instance_url":"u",
            "assumed_expiry_ms":1,{field}"reaches_api":false,"hue":"blue"}}}}"#
        )
    };
    let read = open(&token(r#""minted_at_ms":2,"#)).unwrap();
    assert_eq!((read.serial, read.token.unwrap().minted_at), (3, at(2)));
    let damaged = Err(OpenError::Damaged("what it seals is no record"));
    assert_eq!(open(&token("")), damaged);
    assert_eq!(open(&token(r#""minted_at_ms":-1,"#)), damaged);
    assert_eq!(open(r#"{"version":0,"serial":1}"#), damaged);
    assert_eq!(open(r#"{"serial":1,"token":null,"grant":null}"#), damaged);
    // A newer text may have another shape altogether.
    assert_eq!(open(r#"{"version":2,"token":7}"#), Err(OpenError::NewerVersion(2)));
    // The time is more than this machine knows, or is taken as it is: no panic.
    let _ = open(&token(r#""minted_at_ms":18446744073709551615,"#));
}

#[tokio::test]
async fn each_damaged_byte_is_refused_and_the_file_stays_as_it_is() {
    let room = Room::new();
    let store = room.store();
    write(&store, &record(1)).await.unwrap();
    let whole = room.bytes();
    assert!(whole.len() > 300);
    for position in 0..whole.len() {
        for change in [0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[position] ^= change;
            let word = match position {
                // 1 ^ 1 is format 0, which never was.
                8 if change == 0x80 => "newer_version",
                9..=16 => "other_key",
                // Another digit is another identity's; what is no digit is nobody's.
                17..=28 if bytes[position].is_ascii_hexdigit() => "foreign",
                _ => "damaged",
            };
            fs::write(room.record_path(), &bytes).unwrap();
            room.refuses(&store, &key(), &room.record_path(), word).await;
        }
    }
    fs::write(room.record_path(), whole).unwrap();
    assert_eq!(store.read(&key()).await.unwrap(), Some(record(1)));
}

#[tokio::test]
async fn a_cut_off_an_overlong_and_an_empty_file_are_damaged() {
    let room = Room::new();
    let store = room.store();
    write(&store, &record(1)).await.unwrap();
    let whole = room.bytes();
    let longer = [whole.clone(), vec![0]].concat();
    let huge = [whole.clone(), vec![0; 2 << 20]].concat();
    let cuts = (0..whole.len()).map(|end| whole[..end].to_vec());
    for bytes in cuts.chain([longer, huge]) {
        fs::write(room.record_path(), bytes).unwrap();
        room.refuses(&store, &key(), &room.record_path(), "damaged").await;
    }
}

#[tokio::test]
async fn a_record_of_another_identity_is_foreign() {
    let room = Room::new();
    let store = room.store();
    write(&store, &record(1)).await.unwrap();
    let other = Key {
        name: "main".into(),
        // As long as the first: the length is sealed as well, and shall not be what tells.
        identity: IDENTITY.replace("login", "logon"),
    };
    let path = room
        .directory()
        .join(format!("main.{}.sealed", identity_mark(&other.identity)));
    fs::rename(room.record_path(), &path).unwrap();
    room.refuses(&store, &other, &path, "foreign").await;

    // Also when its head is made to fit: the seal knows the identity.
    let mut bytes = fs::read(&path).unwrap();
    bytes[17..29].copy_from_slice(identity_mark(&other.identity).as_bytes());
    fs::write(&path, bytes).unwrap();
    room.refuses(&store, &other, &path, "damaged").await;
}

#[tokio::test]
async fn a_record_under_another_key_is_refused() {
    let room = Room::new();
    write(&room.store_with(1, None), &record(1)).await.unwrap();
    let store = room.store_with(2, Some(3));
    room.refuses(&store, &key(), &room.record_path(), "other_key").await;
    let text = store.read(&key()).await.unwrap_err().to_string();
    assert!(text.contains("set store.file.key or store.file.previous_key"), "{text}");
    assert!(text.contains("run sf-token-proxy login"), "{text}");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let room = Room::new();
    let store = room.store();
    write(&store, &record(1)).await.unwrap();
    let mut bytes = room.bytes();
    bytes[8] = 2;
    fs::write(room.record_path(), &bytes).unwrap();
    room.refuses(&store, &key(), &room.record_path(), "newer_version").await;
    fs::write(room.record_path(), seal_text(r#"{"version":2}"#)).unwrap();
    room.refuses(&store, &key(), &room.record_path(), "newer_version").await;
}

#[tokio::test]
async fn a_previous_keys_record_is_read_and_the_next_write_is_under_the_new_key() {
    let room = Room::new();
    for (old, new) in [(1, 2), (2, 1)] {
        let _ = fs::remove_file(room.record_path());
        write(&room.store_with(old, None), &record(1)).await.unwrap();
        let both = room.store_with(new, Some(old));
        assert_eq!(both.read(&key()).await.unwrap(), Some(record(1)));
        assert!(sealing_key(old).sealed(&room.bytes()), "reading is not writing");
        write(&both, &record(2)).await.unwrap();
        assert_eq!(room.store_with(new, None).read(&key()).await.unwrap(), Some(record(2)));
        let old_only = room.store_with(old, None).read(&key()).await.unwrap_err();
        assert_eq!(old_only.word(), "other_key");
    }
}

#[tokio::test]
async fn keys_are_read_at_each_operation() {
    let room = Room::new();
    let store = Store::open(&config::Store::File {
        directory: room.directory(),
        key: room.set_key("key", 1),
        previous_key: Some(room.set_key("previous", 1)),
    })
    .unwrap();
    write(&store, &record(1)).await.unwrap();
    room.set_key("key", 2);
    assert_eq!(store.read(&key()).await.unwrap(), Some(record(1)));
    write(&store, &record(2)).await.unwrap();
    assert!(sealing_key(2).sealed(&room.bytes()));

    // Thrown away after use: nobody needs it.
    fs::remove_file(room.path("previous")).unwrap();
    assert_eq!(store.read(&key()).await.unwrap(), Some(record(2)));
    room.set_key("key", 3);
    room.refuses(&store, &key(), &room.record_path(), "key_unusable").await;
    fs::write(room.path("key"), CANARY).unwrap();
    room.refuses(&store, &key(), &room.record_path(), "key_unusable").await;
    room.set_key("key", 2);
    assert_eq!(store.read(&key()).await.unwrap(), Some(record(2)));
}

#[tokio::test]
async fn an_unusable_key_is_told_also_when_there_is_no_record() {
    let room = Room::new();
    let store = room.store();
    fs::remove_file(room.path("key")).unwrap();
    assert_eq!(store.read(&key()).await.unwrap_err().word(), "key_unusable");
}

#[test]
fn a_key_is_32_bytes_in_base64_or_hex() {
    let sealed = seal_record(&record(1), &SealingKey::parse(&hex_of([0xfb; 32])).unwrap(), IDENTITY).unwrap();
    let standard = BASE64_STANDARD.encode([0xfb; 32]);
    assert!(standard.contains('+') && standard.contains('/') && standard.ends_with('='));
    let url_safe = standard.replace('+', "-").replace('/', "_");
    for text in [
        standard.clone(),
        url_safe.clone(),
        standard.replace('=', ""),
        url_safe.replace('=', ""),
        format!("  {standard}\r\n"),
        hex_of([0xfb; 32]),
        hex_of([0xfb; 32]).to_uppercase(),
    ] {
        let current = SealingKey::parse(&text).unwrap_or_else(|_| panic!("{text}"));
        let keys = Keys {
            current,
            previous: None,
        };
        assert_eq!(open_record(&sealed, &keys, IDENTITY), Ok(record(1)), "{text}");
    }
    for text in [
        "".to_owned(),
        "correct horse battery staple".to_owned(),
        BASE64_STANDARD.encode([1; 31]),
        BASE64_STANDARD.encode([1; 33]),
        BASE64_STANDARD.encode([1; 48]),
        BASE64_STANDARD.encode([1; 500]),
        hex_of([1; 32])[..62].to_owned(),
        hex_of([1; 32]) + "01",
        hex_of([1; 32]).replace("01", "é"),
        hex_of([1; 32]).replace("01", "+1"),
        standard.replace('+', "-"),
        standard.replacen('+', " ", 1),
    ] {
        assert!(SealingKey::parse(&text).is_err(), "{text}");
    }
}

fn hex_of(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn opening_tells_of_an_unusable_key() {
    let room = Room::new();
    for (previous, setting) in [(false, "store.file.key "), (true, "store.file.previous_key ")] {
        for content in [None, Some(CANARY), Some("")] {
            let bad = room.path("bad");
            let _ = fs::remove_file(&bad);
            if let Some(content) = content {
                fs::write(&bad, content).unwrap();
            }
            let (good, bad) = (room.set_key("key", 1), SecretRef::file(bad));
            let error = Store::open(&config::Store::File {
                directory: room.directory(),
                key: if previous { good } else { bad.clone() },
                previous_key: previous.then_some(bad),
            })
            .unwrap_err();
            let text = error.to_string();
            assert_eq!(error.word(), "key_unusable");
            for part in [setting, "openssl rand -base64 32", room.path("bad").to_str().unwrap()] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains(CANARY));
        }
    }
}

#[tokio::test]
async fn directories_are_0700_and_files_0600() {
    let room = Room::new();
    let config::Store::File { key: secret, .. } = room.settings() else {
        unreachable!()
    };
    let directory = room.path("a/b");
    let store = Store::open(&config::Store::File {
        directory: directory.clone(),
        key: secret,
        previous_key: None,
    })
    .unwrap();
    write(&store, &record(1)).await.unwrap();
    assert_eq!(room.mode(&directory), 0o700);
    assert_eq!(room.mode(&room.path("a")), 0o700);
    let files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for path in files {
        assert_eq!(room.mode(&path), 0o600, "{}", path.display());
    }
}

/// What is logged, for tests that look at it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_record_that_others_may_read_is_used_warned_about_once_and_narrowed() {
    let room = Room::new();
    write(&room.store(), &record(1)).await.unwrap();
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .finish();
    // A subscriber is a thread's own, and the store works on others: a runtime whose every thread has it.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dispatch = tracing::Dispatch::new(subscriber);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .on_thread_start({
                    let dispatch = dispatch.clone();
                    move || std::mem::forget(tracing::dispatcher::set_default(&dispatch))
                })
                .build()
                .unwrap();
            runtime.block_on(async {
                let store = room.store();
                for mode in [0o644, 0o640, 0o604] {
                    fs::set_permissions(room.record_path(), fs::Permissions::from_mode(mode)).unwrap();
                    assert_eq!(store.read(&key()).await.unwrap(), Some(record(1)));
                    assert_eq!(room.mode(&room.record_path()), 0o600);
                }
            });
        });
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(
        log.contains(room.record_path().to_str().unwrap()) && log.contains("0644"),
        "{log}"
    );
    assert!(!log.contains(CANARY));
}

#[tokio::test]
async fn what_a_crash_left_is_removed_by_the_next_writer_and_nothing_else_is() {
    let room = Room::new();
    let store = room.store();
    let record_name = format!("main.{}.sealed", identity_mark(IDENTITY));
    let stays = [
        "other.0123456789ab.sealed.0123456789abcdef.tmp".to_owned(),
        // Of an org whose name begins like our file.
        format!("{record_name}.0123456789ab.sealed.0123456789abcdef.tmp"),
        format!("{record_name}.backup"),
    ];
    for forget in [false, true] {
        let left = format!("{record_name}.0123456789abcdef.tmp");
        for name in stays.iter().chain([&left]) {
            fs::write(room.directory().join(name), "half a rec").unwrap();
        }
        let locked = store.lock(&key(), SECOND).await.unwrap();
        assert_eq!(locked.read().await.unwrap().is_some(), forget);
        assert!(room.names().contains(&left), "reading is not writing");
        if forget {
            locked.forget().await.unwrap();
        } else {
            locked.write(&record(1)).await.unwrap();
            assert_eq!(locked.read().await.unwrap(), Some(record(1)));
        }
        let names = room.names();
        assert!(!names.contains(&left), "{names:?}");
        assert!(stays.iter().all(|name| names.contains(name)), "{names:?}");
        assert_eq!(names.len(), stays.len() + if forget { 1 } else { 2 }, "{names:?}");
    }
}

#[tokio::test]
async fn a_refused_writer_leaves_also_the_leftovers() {
    let room = Room::new();
    let store = room.store();
    let left = room
        .directory()
        .join(format!("main.{}.sealed.0123456789abcdef.tmp", identity_mark(IDENTITY)));
    fs::write(&left, "half").unwrap();
    fs::write(room.record_path(), "no record").unwrap();
    room.refuses(&store, &key(), &room.record_path(), "damaged").await;
    assert!(left.exists());
}

#[tokio::test]
async fn the_lock_is_one_holders_and_busy_names_it() {
    let (room, stores) = both();
    for store in stores {
        let held = store.lock(&key(), SECOND).await.unwrap();
        let error = store.lock(&key(), Duration::from_millis(30)).await.unwrap_err();
        assert_eq!(error.word(), "busy");
        assert!(
            error.to_string().contains("another task of this process holds it"),
            "{error}"
        );
        assert!(error.to_string().contains("main"), "{error}");
        let other = Key {
            identity: "another".into(),
            ..key()
        };
        store.lock(&other, Duration::ZERO).await.unwrap();
        drop(held);
        store.lock(&key(), Duration::ZERO).await.unwrap();
        store.lock(&key(), Duration::MAX).await.unwrap();
    }

    // Another store on the same directory has but the file to go by.
    let held = room.store().lock(&key(), SECOND).await.unwrap();
    let began = tokio::time::Instant::now();
    let error = room.store().lock(&key(), Duration::from_millis(80)).await.unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
    assert_eq!(error.word(), "busy");
    assert!(error.to_string().contains("another process holds it"), "{error}");
    assert!(error.to_string().contains(".sealed.lock"), "{error}");
    drop(held);
    room.store().lock(&key(), Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_removed_lock_file_is_made_again_and_guards() {
    let room = Room::new();
    let store = room.store();
    drop(store.lock(&key(), SECOND).await.unwrap());
    let path = room
        .directory()
        .join(format!("main.{}.sealed.lock", identity_mark(IDENTITY)));
    fs::remove_file(&path).unwrap();
    let _held = store.lock(&key(), SECOND).await.unwrap();
    assert!(path.exists());
    assert_eq!(
        room.store().lock(&key(), Duration::ZERO).await.unwrap_err().word(),
        "busy"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_tasks_one_at_a_time_holds_the_lock() {
    let (room, [file, memory]) = both();
    let second = room.store();
    for stores in [[file.clone(), second], [memory.clone(), memory]] {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..8 {
            let store = stores[task % 2].clone();
            tasks.spawn(async move {
                for _ in 0..10 {
                    let locked = store.lock(&key(), 60 * SECOND).await.unwrap();
                    let serial = locked.read().await.unwrap().unwrap_or_default().serial;
                    tokio::task::yield_now().await;
                    locked.write(&record(serial + 1)).await.unwrap();
                }
            });
        }
        while let Some(joined) = tasks.join_next().await {
            joined.unwrap();
        }
        assert_eq!(stores[0].read(&key()).await.unwrap(), Some(record(80)));
    }
}

#[tokio::test]
async fn an_operation_that_nobody_waits_for_happens_whole_under_the_lock_and_in_order() {
    let room = Room::new();
    let store = room.store();
    write(&store, &record(0)).await.unwrap();
    let mut last = 0;
    for serial in 1..=100 {
        let locked = store.lock(&key(), 10 * SECOND).await.unwrap();
        let begun = tokio::time::timeout(Duration::from_micros(serial * 20), locked.write(&record(serial))).await;
        if serial % 2 == 0 {
            // The lock is given back at once; whoever gets it comes after what was begun.
            drop(locked);
            let other = room.store().lock(&key(), 10 * SECOND).await.unwrap();
            let seen = other.read().await.unwrap().unwrap().serial;
            assert!(
                seen == serial || (seen == last && begun.is_err()),
                "{seen} after {serial}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert_eq!(
                other.read().await.unwrap().unwrap().serial,
                seen,
                "written without the lock"
            );
            last = seen;
        } else {
            locked.write(&record(1000 + serial)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
            last = locked.read().await.unwrap().unwrap().serial;
            assert_eq!(last, 1000 + serial, "an older write came after a newer one");
        }
    }
    assert_eq!(room.names().len(), 2, "{:?}", room.names());
}

#[tokio::test]
async fn what_was_begun_earlier_does_not_end_later() {
    let room = Room::new();
    let store = room.store();
    let locked = store.lock(&key(), SECOND).await.unwrap();
    let mut given_up = 0;
    for round in 1..=30 {
        for early in (1..=6).map(record) {
            // Polled once: begun, or in the queue, and then given up, which is what is tested.
            tokio::select! {
                biased;
                _ = locked.write(&early) => {}
                () = std::future::ready(()) => given_up += 1,
            }
        }
        locked.write(&record(1000 + round)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        let seen = locked.read().await.unwrap().unwrap().serial;
        assert_eq!(seen, 1000 + round, "an older write came after a newer one");
    }
    assert!(given_up > 100, "only {given_up} were given up");
}

#[tokio::test]
async fn what_is_in_the_way_of_reading_is_told() {
    let room = Room::new();
    let store = room.store();
    fs::create_dir(room.record_path()).unwrap();
    let error = store.read(&key()).await.unwrap_err();
    assert_eq!(error.word(), "unreadable");
    assert!(error.to_string().contains("not a regular file"), "{error}");
    assert_eq!(write(&store, &record(1)).await.unwrap_err().word(), "unreadable");

    // The volume is gone: that is not a store in which nobody has logged in.
    fs::remove_dir_all(room.directory()).unwrap();
    assert_eq!(store.read(&key()).await.unwrap_err().word(), "unreadable");
    assert_eq!(write(&store, &record(1)).await.unwrap_err().word(), "unwritable");
}

#[test]
fn opening_tells_of_a_directory_that_is_none() {
    let room = Room::new();
    fs::write(room.directory(), "a file").unwrap();
    let error = Store::open(&room.settings()).unwrap_err();
    assert_eq!(error.word(), "unwritable");
    assert!(
        error.to_string().contains(room.directory().to_str().unwrap()),
        "{error}"
    );
    // Where not even root can make files.
    let error = Store::open(&config::Store::File {
        directory: "/proc/self/store".into(),
        key: SecretRef::file(room.path("key")),
        previous_key: None,
    });
    assert_eq!(error.unwrap_err().word(), "unwritable");
}

#[tokio::test]
async fn a_record_too_large_to_be_read_again_is_not_written() {
    let room = Room::new();
    let store = room.store();
    write(&store, &record(1)).await.unwrap();
    let mut large = record(2);
    large.token.as_mut().unwrap().secret = "x".repeat(2 << 20).into();
    assert_eq!(write(&store, &large).await.unwrap_err().word(), "unwritable");
    assert_eq!(store.read(&key()).await.unwrap(), Some(record(1)));
}

#[tokio::test]
async fn a_name_cannot_leave_the_directory() {
    let room = Room::new();
    let store = room.store();
    for name in [
        "../../etc/main",
        "..",
        "",
        "/etc/passwd",
        "Größe\0\n",
        &"long".repeat(100),
    ] {
        let key = Key {
            name: name.into(),
            identity: name.into(),
        };
        let locked = store.lock(&key, SECOND).await.unwrap();
        locked.write(&record(1)).await.unwrap();
        assert_eq!(store.read(&key).await.unwrap(), Some(record(1)), "{name}");
    }
    assert_eq!(room.names().len(), 12, "{:?}", room.names());
}

#[tokio::test]
async fn no_secret_is_shown_or_stored_plainly() {
    let room = Room::new();
    let store = room.store();
    write(&store, &record(1)).await.unwrap();
    let key_text = fs::read_to_string(room.path("key")).unwrap();
    let locked = store.lock(&key(), SECOND).await.unwrap();
    let shown = format!(
        "{:?} {:#?} {store:?} {locked:?} {:?} {:?} {:?}",
        record(1),
        record(1),
        key(),
        room.settings(),
        keys(1)
    );
    assert!(
        shown.contains("acme.my.salesforce.com") && shown.contains("SealingKey"),
        "{shown}"
    );
    for secret in [CANARY, key_text.trim(), IDENTITY, "jo@example.com", "7, 7"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    let secrets = [
        CANARY.as_bytes(),
        b"salesforce",
        b"jo@example.com",
        b"refresh",
        &[1; 32],
        key_text.trim().as_bytes(),
    ];
    for file in room.names() {
        let bytes = fs::read(room.directory().join(&file)).unwrap();
        for secret in secrets {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret), "{file}");
        }
    }
}

#[test]
fn the_same_record_is_never_sealed_alike() {
    let sealed = || seal_record(&record(1), &sealing_key(1), IDENTITY).unwrap();
    let (one, two) = (sealed(), sealed());
    assert_eq!(one[..29], two[..29]);
    assert_ne!(one[29..41], two[29..41], "the nonce");
    assert_ne!(one[41..], two[41..]);
}

#[test]
fn each_error_has_its_word_and_says_what_to_do() {
    let file = PathBuf::from("/x/main.ab12.sealed");
    let reason = || "a reason".to_owned();
    let errors = [
        (
            StoreError::Damaged {
                file: file.clone(),
                what: "cut",
            },
            "sf-token-proxy login",
        ),
        (StoreError::Foreign { file: file.clone() }, "sf-token-proxy login"),
        (StoreError::OtherKey { file: file.clone() }, "store.file.previous_key"),
        (
            StoreError::NewerVersion {
                file: file.clone(),
                found: 2,
            },
            "run that version",
        ),
        (StoreError::unreadable(&file, reason()), "store.file.directory"),
        (StoreError::unwritable(&file, reason()), "store.file.directory"),
        (
            StoreError::Busy {
                file: file.clone(),
                holder: Holder::Process,
                waited: SECOND,
            },
            "end the one that hangs",
        ),
        (
            StoreError::KeyUnusable {
                file,
                setting: "store.file.key",
                reason: reason(),
            },
            "openssl rand -base64 32",
        ),
    ];
    assert_eq!(errors.each_ref().map(|(error, _)| error.word()), STORE_ERRORS);
    for (error, advice) in errors {
        let text = error.to_string();
        assert!(
            text.starts_with("store /x/main.ab12.sealed: ") && text.contains(advice),
            "{text}"
        );
        assert!(!text.contains("  ") && !text.contains('\n'), "{text}");
    }
}
