//! The seal: a record as bytes that only the key's holder can read or change.
//!
//! Pure but for the nonce. The bytes of a sealed record:
//!
//! | Bytes | What |
//! |---|---|
//! | 8 | `sfproxy1` |
//! | 1 | format, [`FORMAT`] |
//! | 8 | key id: the first bytes of SHA-256 over a fixed prefix and the key |
//! | 12 | identity mark: the first hex digits of SHA-256 over the identity |
//! | 12 | nonce, random at each write |
//! | rest | AES-256-GCM of the record's JSON, tag last |
//!
//! Associated data: magic, format, key id, the identity's length (8 bytes, big end first), the identity.
//! Invariants: a record opens only under the key and the identity that it was sealed with, and only unchanged; plain
//! text is wiped. With random nonces a key is good for 2^32 writes (NIST SP 800-38D §8.3): a century at one a second.
//! Fails with: [`OpenError`], which shows nothing of the content.
//! Source: NIST SP 800-38D; design §11.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest::{Context, SHA256, digest},
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use super::record::{Record, Unreadable};

/// The newest format read, and the one written.
pub const FORMAT: u8 = 1;

const MAGIC: &[u8; 8] = b"sfproxy1";
const KEY_ID_PREFIX: &[u8] = b"sf-token-proxy store key id\0";
const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const MARK_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// A key to seal and open with. `Debug` shows its id only.
pub struct SealingKey {
    id: [u8; KEY_ID_BYTES],
    cipher: RandomizedNonceKey,
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is neither 32 bytes in base64 nor 64 hex digits")]
pub struct NotAKey;

impl SealingKey {
    /// From base64 (standard or url-safe, padded or not) or hex; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let text = text.trim();
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if text.len() == 2 * KEY_BYTES {
            from_hex(text, &mut key)?;
        } else {
            from_base64(text, &mut key)?;
        }
        Self::new(&key)
    }

    fn new(key: &[u8; KEY_BYTES]) -> Result<Self, NotAKey> {
        let mut id = Context::new(&SHA256);
        id.update(KEY_ID_PREFIX);
        id.update(key);
        Ok(Self {
            id: first(id.finish().as_ref()),
            cipher: RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| NotAKey)?,
        })
    }

    /// Whether these bytes say that this key sealed them.
    pub fn sealed(&self, bytes: &[u8]) -> bool {
        Parts::of(bytes).is_ok_and(|parts| parts.key_id == self.id)
    }
}

fn from_hex(text: &str, key: &mut [u8; KEY_BYTES]) -> Result<(), NotAKey> {
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| (digits[at] as char).to_digit(16).ok_or(NotAKey);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).map_err(|_| NotAKey)?;
    }
    Ok(())
}

fn from_base64(text: &str, key: &mut [u8; KEY_BYTES]) -> Result<(), NotAKey> {
    let alphabet = if text.contains(['-', '_']) {
        &alphabet::URL_SAFE
    } else {
        &alphabet::STANDARD
    };
    let either = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    // Longer than a key, so that a longer text is told from one that fits.
    let mut bytes = Zeroizing::new([0; 2 * KEY_BYTES]);
    let length = GeneralPurpose::new(alphabet, either)
        .decode_slice(text, &mut *bytes)
        .map_err(|_| NotAKey)?;
    if length != KEY_BYTES {
        return Err(NotAKey);
    }
    key.copy_from_slice(&bytes[..KEY_BYTES]);
    Ok(())
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", hex(&self.id))
    }
}

/// The keys that may open a record.
#[derive(Debug)]
pub struct Keys {
    pub current: SealingKey,
    pub previous: Option<SealingKey>,
}

/// Why bytes are no record of this identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// What of it, for people.
    Damaged(&'static str),
    /// Another identity's.
    Foreign,
    OtherKey,
    NewerVersion(u64),
}

/// The system has no random bytes, or the record is beyond AES-GCM's 64 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be sealed")]
pub struct SealError;

/// The record, sealed.
pub fn seal_record(record: &Record, key: &SealingKey, identity: &str) -> Result<Vec<u8>, SealError> {
    let mut content = record.to_json(TAG_BYTES);
    let nonce = key
        .cipher
        .seal_in_place_append_tag(Aad::from(associated(&key.id, identity)), &mut *content)
        .map_err(|_| SealError)?;
    let mark = identity_mark(identity);
    Ok([
        MAGIC.as_slice(),
        &[FORMAT],
        &key.id,
        mark.as_bytes(),
        nonce.as_ref(),
        &content,
    ]
    .concat())
}

/// The record in these bytes, which may be anything.
pub fn open_record(bytes: &[u8], keys: &Keys, identity: &str) -> Result<Record, OpenError> {
    let parts = Parts::of(bytes)?;
    if !parts.mark.iter().all(u8::is_ascii_hexdigit) {
        return Err(OpenError::Damaged("its head is garbled"));
    }
    if parts.mark != identity_mark(identity).as_bytes() {
        return Err(OpenError::Foreign);
    }
    let key = [Some(&keys.current), keys.previous.as_ref()]
        .into_iter()
        .flatten()
        .find(|key| key.id == parts.key_id)
        .ok_or(OpenError::OtherKey)?;
    let mut content = Zeroizing::new(parts.content.to_vec());
    let text = key
        .cipher
        .open_in_place(
            Nonce::assume_unique_for_key(parts.nonce),
            Aad::from(associated(&key.id, identity)),
            &mut content,
        )
        // The mark is short and not sealed, so who wrote this is not certain either.
        .map_err(|_| OpenError::Damaged("its seal is broken: changed bytes, or another identity's"))?;
    Record::from_json(text).map_err(|reason| match reason {
        Unreadable::NoRecord => OpenError::Damaged("what it seals is no record"),
        Unreadable::Newer(version) => OpenError::NewerVersion(version),
    })
}

/// The first 12 hex digits of the identity's SHA-256: in the file's name and its head.
pub fn identity_mark(identity: &str) -> String {
    hex(&first::<{ MARK_BYTES / 2 }>(
        digest(&SHA256, identity.as_bytes()).as_ref(),
    ))
}

/// A sealed record's parts, as they stand there.
struct Parts<'a> {
    key_id: [u8; KEY_ID_BYTES],
    mark: [u8; MARK_BYTES],
    nonce: [u8; NONCE_LEN],
    content: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self, OpenError> {
        const SHORT: OpenError = OpenError::Damaged("it is cut off");
        if bytes.is_empty() {
            return Err(OpenError::Damaged("it is empty"));
        }
        let (magic, rest) = bytes.split_first_chunk::<{ MAGIC.len() }>().ok_or(SHORT)?;
        if magic != MAGIC {
            return Err(OpenError::Damaged("it does not begin as a sealed record"));
        }
        let (&format, rest) = rest.split_first().ok_or(SHORT)?;
        match format {
            FORMAT => {}
            0 => return Err(OpenError::Damaged("its head is garbled")),
            newer => return Err(OpenError::NewerVersion(newer.into())),
        }
        let (&key_id, rest) = rest.split_first_chunk().ok_or(SHORT)?;
        let (&mark, rest) = rest.split_first_chunk().ok_or(SHORT)?;
        let (&nonce, content) = rest.split_first_chunk().ok_or(SHORT)?;
        if content.len() < TAG_BYTES {
            return Err(SHORT);
        }
        Ok(Self {
            key_id,
            mark,
            nonce,
            content,
        })
    }
}

fn associated(key_id: &[u8; KEY_ID_BYTES], identity: &str) -> Vec<u8> {
    let length = (identity.len() as u64).to_be_bytes();
    [MAGIC.as_slice(), &[FORMAT], key_id, &length, identity.as_bytes()].concat()
}

/// The first bytes of a digest.
fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    *digest.first_chunk().expect("a digest must be longer than its part")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
