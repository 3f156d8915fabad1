//! sf-token-proxy: any app calls Salesforce as if it needed no login.
//!
//! An app sends plain calls to `http://localhost:8080`; the proxy puts a live access token on each, streams it to
//! the org and renews the token before it dies. When Salesforce refuses a token, the proxy renews it once and repeats
//! the call, so the app never sees an expired session.
//!
//! # The house
//!
//! | Room | Answers |
//! |---|---|
//! | [`cli`] | which commands there are and what they exit with |
//! | [`config`] | what an operator may write, and what the program may rely on |
//! | [`app`] | what runs: binds everything, owns every task, drains |
//! | [`token`] | how a token is minted, kept, renewed, refused |
//! | [`store`] | where tokens live beyond the process |
//! | [`proxy`] | what happens to one call; read `proxy/handle.rs` first |
//! | [`local_login`] | what SDKs are told that insist on logging in |
//! | [`server`] | how connections are accepted, limited and ended |
//! | [`cache`] | which answers are kept and given again |
//! | [`reload`] | what becomes of changed files while the program runs |
//! | [`admin`] | probes, status, metrics, the cache's purge, `/quit` |
//! | [`tls`] | whom we trust, and with which certificate a listener speaks https |
//! | [`ready`] [`metrics`] [`shutdown`] [`threads`] [`clock`] [`log`] `descriptors` `disk` `http_date` | one small thing each |
//! | `demo` | the practice org: a Salesforce to try and test against |
//!
//! Arrows go one way: `proxy` asks `token` for a token and reports a refusal; `token` knows nothing of HTTP servers;
//! `config` knows nobody; only `app` knows everybody. The practice org knows Salesforce's rules and nothing of the proxy.
//!
//! `CONTRIBUTING.md` tells the life of a request and the life of a token.

pub mod admin;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
mod descriptors;
mod disk;
#[doc(hidden)]
pub mod fuzzing;
mod http_date;
pub mod local_login;
pub mod log;
pub mod metrics;
pub mod proxy;
pub mod ready;
pub mod reload;
pub mod server;
pub mod shutdown;
pub mod store;
pub mod threads;
pub mod tls;
pub mod token;
