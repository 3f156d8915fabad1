//! Any bytes as a sealed record, and as what a seal holds: README.md.
#![no_main]

use std::sync::LazyLock;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use libfuzzer_sys::fuzz_target;
use sf_token_proxy::store::{
    Record,
    seal::{Keys, OpenError, SealingKey, open_record, seal_record},
};

/// As the seeds of the corpus were sealed: 32 bytes of 1, and before that of 2.
const IDENTITY: &str = "https://login.example|3MVG9client|jo@example.com";
const OTHER: &str = "https://login.example|3MVG9client|joe@example.com";
const KEY: [u8; 32] = [1; 32];
const PREVIOUS: [u8; 32] = [2; 32];
const KEY_ID: std::ops::Range<usize> = 9..17;
const MARK: std::ops::Range<usize> = 17..29;
const HEAD: usize = 29;

fn key(bytes: [u8; 32]) -> SealingKey {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    SealingKey::parse(&hex).expect("64 hex digits are a key")
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    current: key(KEY),
    previous: Some(key(PREVIOUS)),
});
static STRANGERS: LazyLock<Keys> = LazyLock::new(|| Keys {
    current: key([3; 32]),
    previous: None,
});
/// Magic, format, key id and mark of a record of ours.
static HEAD_OF_OURS: LazyLock<Vec<u8>> = LazyLock::new(|| seal(&Record::default())[..HEAD].to_vec());

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = open_record(data, &KEYS, IDENTITY) {
        check(&record, data);
    }
    // Nobody can forge a seal, so what is inside is fuzzed under a good one.
    if let Ok(record) = open_record(&sealed(data), &KEYS, IDENTITY) {
        check(&record, data);
    }
});

/// What holds of a record, whatever it says; `data` chooses what is changed.
fn check(record: &Record, data: &[u8]) {
    let bytes = seal(record);
    assert_eq!(
        open_record(&bytes, &KEYS, IDENTITY).as_ref(),
        Ok(record),
        "does not open as it was sealed"
    );
    assert_eq!(open_record(&bytes, &KEYS, OTHER), Err(OpenError::Foreign));
    assert_eq!(open_record(&bytes, &STRANGERS, IDENTITY), Err(OpenError::OtherKey));

    let chosen = data.iter().fold(data.len(), |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
    });
    let at = chosen % bytes.len();
    let mut changed = bytes.clone();
    changed[at] ^= 1 << (chosen / bytes.len() % 8);
    assert!(
        open_record(&changed, &KEYS, IDENTITY).is_err(),
        "byte {at} changed, and nobody noticed"
    );
    assert!(
        open_record(&bytes[..at], &KEYS, IDENTITY).is_err(),
        "cut to {at} bytes, and nobody noticed"
    );
    let mut longer = bytes;
    longer.push(data.first().copied().unwrap_or_default());
    assert!(
        open_record(&longer, &KEYS, IDENTITY).is_err(),
        "a byte more, and nobody noticed"
    );

    if let Some(token) = &record.token {
        let shown = format!("{record:?}");
        let secret = secrecy::ExposeSecret::expose_secret(&token.secret);
        // Told from what may be shown by its length.
        if secret.len() >= 16 && !token.instance_url.contains(secret) {
            assert!(!shown.contains(secret), "Debug shows the token");
        }
    }
}

fn seal(record: &Record) -> Vec<u8> {
    seal_record(record, &KEYS.current, IDENTITY).expect("a record can be sealed")
}

/// The same seal, made here from its description: any content.
fn sealed(content: &[u8]) -> Vec<u8> {
    let head = &HEAD_OF_OURS;
    assert!(head[MARK].iter().all(u8::is_ascii_hexdigit));
    let nonce = [7; 12];
    let length = (IDENTITY.len() as u64).to_be_bytes();
    let associated = [&head[..KEY_ID.end], &length, IDENTITY.as_bytes()].concat();
    let mut content = content.to_vec();
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes are a key"));
    cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated), &mut content)
        .expect("a short text can be sealed");
    [head.as_slice(), &nonce, &content].concat()
}
