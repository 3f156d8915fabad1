//! What is kept for one identity, and its text inside the seal.
//!
//! Owns: [`Record`] and its JSON, version [`VERSION`].
//! Invariants: what is written is read back alike, times to the millisecond; a field that this version does not know is
//! ignored, a *meaning* that it would miss needs a new version; `Debug` shows no secret; the text is wiped
//! (but for serde_json's scratch, which sees only strings with escapes; tokens have none).
//! Units: milliseconds since 1970 in the text; earlier times become 1970.
//! Fails with: [`Unreadable`], which quotes nothing.

use std::{
    fmt, io,
    time::{Duration, SystemTime},
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Of the text; grows when an older program would misread it.
const VERSION: u64 = 1;

/// All that is kept for one identity. The default is a record that says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// Counts the writes; the writer adds one.
    pub serial: u64,
    pub token: Option<StoredToken>,
    pub grant: Option<StoredGrant>,
}

/// An access token. `Debug` does not show it.
#[derive(Clone)]
pub struct StoredToken {
    pub secret: SecretString,
    /// As the login host gave it.
    pub instance_url: String,
    /// Path prefixes whose calls go elsewhere, and where.
    pub also: Vec<(String, String)>,
    /// What the token or the login host said.
    pub known_expiry: Option<SystemTime>,
    pub minted_at: SystemTime,
    pub org_id: Option<String>,
    pub user_id: Option<String>,
    /// Whether the token may call the org's API, not only identify its user.
    pub reaches_api: bool,
}

/// A refresh token and what is known of it. `Debug` does not show it.
#[derive(Clone)]
pub struct StoredGrant {
    pub refresh_token: SecretString,
    /// SHA-256 of the configured token that this one descends from: when the configuration brings another, that is used.
    pub seed: Option<[u8; 32]>,
    pub rotation: Rotation,
    /// It was about to be presented, and nobody has recorded an answer.
    pub in_flight: bool,
    /// Why it must not be presented again; `None`: it may.
    pub dead: Option<String>,
}

/// Whether the org replaces a refresh token when it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    #[default]
    Unknown,
    Off,
    On,
}

/// A text that is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    NoRecord,
    Newer(u64),
}

impl Record {
    /// The text, with room for `spare` more bytes: growing a vector leaves copies behind that nobody wipes.
    pub(super) fn to_json(&self, spare: usize) -> Zeroizing<Vec<u8>> {
        let shape = Shape::from(self);
        let mut length = Length(0);
        serde_json::to_writer(&mut length, &shape).expect("a record must have a text");
        let mut text = Zeroizing::new(Vec::with_capacity(length.0 + spare));
        serde_json::to_writer(&mut *text, &shape).expect("a record must have a text");
        text
    }

    pub(super) fn from_json(text: &[u8]) -> Result<Self, Unreadable> {
        // The version first: the rest may have another shape.
        let Versioned { version } = serde_json::from_slice(text).map_err(|_| Unreadable::NoRecord)?;
        match version {
            VERSION => {}
            0 => return Err(Unreadable::NoRecord),
            newer => return Err(Unreadable::Newer(newer)),
        }
        let shape: Shape = serde_json::from_slice(text).map_err(|_| Unreadable::NoRecord)?;
        shape.into_record().ok_or(Unreadable::NoRecord)
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct Shape {
    version: u64,
    serial: u64,
    token: Option<TokenShape>,
    grant: Option<GrantShape>,
}

#[derive(Serialize, Deserialize)]
struct TokenShape {
    #[serde(with = "secret_text")]
    secret: SecretString,
    instance_url: String,
    #[serde(default)]
    also: Vec<(String, String)>,
    known_expiry_ms: Option<u64>,
    minted_at_ms: u64,
    org_id: Option<String>,
    user_id: Option<String>,
    reaches_api: bool,
}

#[derive(Serialize, Deserialize)]
struct GrantShape {
    #[serde(with = "secret_text")]
    refresh_token: SecretString,
    seed: Option<[u8; 32]>,
    rotation: Rotation,
    in_flight: bool,
    #[serde(default)]
    dead: Option<String>,
}

impl From<&Record> for Shape {
    fn from(record: &Record) -> Self {
        Self {
            version: VERSION,
            serial: record.serial,
            token: record.token.as_ref().map(|token| TokenShape {
                secret: token.secret.clone(),
                instance_url: token.instance_url.clone(),
                also: token.also.clone(),
                known_expiry_ms: token.known_expiry.map(millis),
                minted_at_ms: millis(token.minted_at),
                org_id: token.org_id.clone(),
                user_id: token.user_id.clone(),
                reaches_api: token.reaches_api,
            }),
            grant: record.grant.as_ref().map(|grant| GrantShape {
                refresh_token: grant.refresh_token.clone(),
                seed: grant.seed,
                rotation: grant.rotation,
                in_flight: grant.in_flight,
                dead: grant.dead.clone(),
            }),
        }
    }
}

impl Shape {
    /// `None`: a time that this machine cannot express.
    fn into_record(self) -> Option<Record> {
        let token = match self.token {
            None => None,
            Some(token) => Some(StoredToken {
                secret: token.secret,
                instance_url: token.instance_url,
                also: token.also,
                known_expiry: match token.known_expiry_ms {
                    None => None,
                    Some(millis) => Some(time(millis)?),
                },
                minted_at: time(token.minted_at_ms)?,
                org_id: token.org_id,
                user_id: token.user_id,
                reaches_api: token.reaches_api,
            }),
        };
        let grant = self.grant.map(|grant| StoredGrant {
            refresh_token: grant.refresh_token,
            seed: grant.seed,
            rotation: grant.rotation,
            in_flight: grant.in_flight,
            dead: grant.dead,
        });
        Some(Record {
            serial: self.serial,
            token,
            grant,
        })
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// A secret as text, only here.
mod secret_text {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(secret: &SecretString, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose_secret())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
        String::deserialize(from).map(SecretString::from)
    }
}

/// Counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PartialEq for StoredToken {
    fn eq(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
            && self.instance_url == other.instance_url
            && self.also == other.also
            && self.known_expiry == other.known_expiry
            && self.minted_at == other.minted_at
            && self.org_id == other.org_id
            && self.user_id == other.user_id
            && self.reaches_api == other.reaches_api
    }
}

impl PartialEq for StoredGrant {
    fn eq(&self, other: &Self) -> bool {
        self.refresh_token.expose_secret() == other.refresh_token.expose_secret()
            && self.seed == other.seed
            && self.rotation == other.rotation
            && self.in_flight == other.in_flight
            && self.dead == other.dead
    }
}

impl fmt::Debug for StoredToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredToken")
            .field("instance_url", &self.instance_url)
            .field("known_expiry", &self.known_expiry)
            .field("minted_at", &self.minted_at)
            .field("reaches_api", &self.reaches_api)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StoredGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredGrant")
            .field("rotation", &self.rotation)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}
