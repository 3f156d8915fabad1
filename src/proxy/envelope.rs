//! stand-in until the real one is merged
use bytes::Bytes;
use std::{borrow::Cow, ops::Range};
pub const HEAD_BYTES: usize = 256 * 1024;
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    Session { fallback: &'a str },
    Fuel,
}
pub struct Operation {
    pub namespace: String,
    pub name: String,
}
pub struct Envelope {
    pub edits: Vec<Edit>,
    pub operation: Operation,
}
#[derive(Debug, Clone)]
pub struct Edit {
    pub at: Range<usize>,
    pub before: Bytes,
    pub after: Bytes,
}
pub enum Reading {
    More,
    Found(Envelope),
}
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("x")]
    TooLong,
}
pub fn read(_: &[u8], _: bool, _: Credential<'_>) -> Result<Reading, Unfit> {
    Ok(Reading::More)
}
pub fn namespace_of(_: &str) -> Option<String> {
    None
}
pub fn escaped(credential: &str) -> Cow<'_, str> {
    credential.into()
}
