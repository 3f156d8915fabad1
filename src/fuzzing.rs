//! Doors for the fuzz targets of `fuzz/` to what is private: no logic, and no part of the program.

use std::time::SystemTime;

use crate::{
    config::Org,
    token::{
        Minted, Refusal,
        data_cloud::{self, Trouble},
        exchange::{Granted, Hosts, Introspected, answer},
        refusal::Sent,
    },
};

/// The token answer of a login host, read for this org. `None`: no token answer.
pub fn token_answer(body: &[u8], org: &Org, now: SystemTime) -> Option<Result<Granted, Refusal>> {
    let hosts = Hosts::new(org).ok()?;
    Some(answer::read(body)?.granted(&hosts, org.token.lifetime, now))
}

/// Stage two's token answer. `None`: no token answer.
pub fn data_cloud_answer(body: &[u8], now: SystemTime) -> Option<Result<Minted, Refusal>> {
    data_cloud::read(body, now)
}

/// What stage two's answer that is no token means, and whether another core token may help.
pub fn data_cloud_trouble(status: u16, body: &[u8], sent: &Sent) -> (bool, Refusal) {
    match data_cloud::trouble(status, body, None, sent) {
        Trouble::CoreToken(refusal) => (true, refusal),
        Trouble::Other(refusal) => (false, refusal),
    }
}

/// The answer to a question for a token's end. `None`: no such answer.
pub fn introspection_answer(body: &[u8]) -> Option<Introspected> {
    Introspected::read(body)
}
