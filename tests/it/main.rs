//! The whole program, from outside. One binary: linking is the slow part.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests; helpers of an integration binary count as well"
)]

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod answer_hard_cases;
#[cfg(feature = "demo")]
mod binary;
mod bulk1;
mod cache;
mod check;
#[cfg(feature = "demo")]
mod cometd;
mod conformance;
#[cfg(feature = "demo")]
mod data_cloud;
mod docs;
mod egress;
#[cfg(all(feature = "demo", unix))]
mod flows;
mod guard;
mod hard_cases;
#[cfg(feature = "demo")]
mod http2;
mod lifecycle;
mod lifecycle_hard_cases;
mod local_login;
#[cfg(unix)]
mod log;
#[cfg(feature = "demo")]
mod login;
#[cfg(all(feature = "demo", target_os = "linux"))]
mod login_hard_cases;
mod org_trouble;
#[cfg(feature = "demo")]
mod outage;
mod passthrough;
mod platforms;
#[cfg(feature = "demo")]
mod practice;
#[cfg(feature = "demo")]
mod program;
#[cfg(feature = "demo")]
mod pub_sub;
mod refusal;
mod reload;
#[cfg(target_os = "linux")]
mod reload_disks;
#[cfg(feature = "demo")]
mod reload_hard_cases;
#[cfg(all(feature = "demo", target_os = "linux"))]
mod rotation;
mod sharing;
#[cfg(feature = "demo")]
mod site;
mod soap;
mod soap_hard_cases;
#[cfg(feature = "demo")]
mod stages;
#[cfg(all(feature = "demo", unix))]
mod store;
#[cfg(feature = "demo")]
mod stream_hard_cases;
mod tls;
mod tls_hard_cases;
#[cfg(feature = "demo")]
mod user_hard_cases;
mod users;
