//! What tests and benches share: an org to script byte by byte, the app in process, a raw client.
//!
//! Used by `tests/it` and, by path, by `benches`; not every user needs every part.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "each user needs a part; and it is no product code"
)]

pub mod app;
pub mod client;
pub mod raw_h2;
pub mod raw_org;
pub mod trace;

pub use self::{
    app::{Running, settings_for},
    client::{Reply, call, connect, read_reply},
    raw_h2::RawH2,
    raw_org::{RawOrg, RawRequest, Script},
    trace::Trace,
};

use std::time::Duration;

use tokio::time::Instant;

/// Waits for a condition with a bound; the message shows what was seen last.
pub async fn eventually<T: std::fmt::Debug>(what: &str, mut seen: impl FnMut() -> T, good: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = seen();
        if good(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "{what}: still {now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An address of this machine that is not loopback; none on a machine without a network.
pub fn own_address() -> Option<std::net::SocketAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only chooses the way.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then(|| std::net::SocketAddr::new(ip, 0))
}
