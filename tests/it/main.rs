//! The whole program, from outside. One binary: linking is the slow part.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests; helpers of an integration binary count as well"
)]

mod check;
