//! Callers of a listener that speaks https who stop half-way.

use std::{path::PathBuf, time::Duration};

use sf_token_proxy::config::{Config, ListenerTls};
use tokio::{io::AsyncReadExt as _, time::Instant};

use crate::{
    support::{RawOrg, Running, Script},
    tls::shake,
};

struct Site {
    app: Running,
    _org: RawOrg,
    folder: tempfile::TempDir,
}

impl Site {
    async fn new(adapt: impl FnOnce(&mut Config)) -> Self {
        let org = RawOrg::start(|_| Script::ok()).await;
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("tls");
        let app = Running::start(&org.url(), |config| {
            config.listeners[0].tls = Some(ListenerTls::Generated { directory });
            adapt(config);
        })
        .await;
        Self { app, _org: org, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("tls/ca.pem")
    }
}

/// They hold a place each, and must not hold it for ever: not after `idle_timeout`, and not when the program ends.
#[tokio::test]
async fn a_caller_that_shakes_hands_and_says_nothing_is_let_go() {
    for protocol in ["h2", "http/1.1"] {
        let site = Site::new(|config| config.listeners[0].idle_timeout = Duration::from_millis(300)).await;
        let mut stream = shake(site.app.proxy, &site.ca(), &[protocol]).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "{protocol}: still open");
        site.app.stop().await;

        let site = Site::new(|config| config.shutdown.drain = Duration::from_secs(20)).await;
        let stream = shake(site.app.proxy, &site.ca(), &[protocol]).await.unwrap();
        let told = Instant::now();
        site.app.stop().await;
        assert!(
            told.elapsed() < Duration::from_secs(5),
            "{protocol}: {:?}",
            told.elapsed()
        );
        drop(stream);
    }
}
