//! A log that nobody reads.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::support::{call, client::ask, connect};

/// That machines under load keep.
const LONG: Duration = Duration::from_secs(120);
/// More lines than fit into the pipe and the queue behind it.
const CALLS: usize = 6000;

/// A program that logs each call; how far its log was read.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) config: Value,
    pub(crate) folder: tempfile::TempDir,
    lines: Lines<BufReader<ChildStdout>>,
    proxy: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

impl Program {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "log": {"requests": true, "format": "json"},
            "reload": {"interval": "1s"},
            // Nobody is there, and nobody needs a token.
            "orgs": {"main": {"login_url": "http://127.0.0.1:9", "grant": {"client_credentials": {
                "client_id": "id", "client_secret": "env:SECRET",
            }}}},
        });
        std::fs::write(folder.path().join("config.yaml"), config.to_string()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"))
            .args(["run", "--config"])
            .arg(folder.path().join("config.yaml"))
            .env_clear()
            .env("SECRET", "secret")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addresses = loop {
            let line = lines.next_line().await.unwrap().expect("it listens");
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"] == "listening" {
                break [&event["proxy"], &event["admin"]].map(|at| at.as_str().unwrap().parse().unwrap());
            }
        };
        Self {
            child,
            lines,
            proxy: addresses[0],
            admin: addresses[1],
            config,
            folder,
        }
    }

    /// Calls that are refused here, over and over, with a line each.
    async fn calls(&self) {
        let calling = async {
            let mut kept = connect(self.proxy).await;
            for n in 0..CALLS {
                assert_eq!(ask(&mut kept, "GET /no/such/path HTTP/1.1").await.status, 403, "{n}");
            }
            let alive = call(self.admin, "GET /livez HTTP/1.1", b"").await;
            assert_eq!(alive.status, 200);
        };
        timeout(LONG, calling).await.expect("calls and probes go on");
    }

    /// The next event that says so.
    pub(crate) async fn says(&mut self, message: &str) -> Value {
        loop {
            let line = timeout(LONG, self.lines.next_line()).await.expect("it is told");
            let event: Value = serde_json::from_str(&line.unwrap().expect("it runs")).unwrap();
            if event["message"] == message {
                return event;
            }
        }
    }

    fn terminate(&self) {
        let id = self.child.id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(sent.unwrap().success());
    }

    async fn ends(&mut self) -> i32 {
        let ended = timeout(LONG, self.child.wait()).await;
        ended.expect("it ends").unwrap().code().unwrap()
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_ends_no_call_and_not_the_end() {
    let mut program = Program::start().await;
    program.calls().await;
    program.terminate();
    assert_eq!(program.ends().await, 0);
}

#[tokio::test]
async fn what_is_lost_is_counted_and_told_when_somebody_reads_again() {
    let mut program = Program::start().await;
    program.calls().await;
    let (mut calls, mut lost) = (0, 0);
    while lost == 0 {
        let line = timeout(LONG, program.lines.next_line()).await.expect("it is told");
        let event: Value = serde_json::from_str(&line.unwrap().expect("it runs")).expect("whole lines");
        calls += usize::from(event["status"] == 403);
        if event["message"] == "log lines lost, because nobody read them" {
            lost = usize::try_from(event["lines"].as_u64().unwrap()).unwrap();
        }
    }
    assert!((1..CALLS).contains(&lost), "{lost}");
    program.terminate();
    let mut last = String::new();
    while let Some(line) = timeout(LONG, program.lines.next_line()).await.unwrap().unwrap() {
        let event: Value = serde_json::from_str(&line).expect("whole lines");
        calls += usize::from(event["status"] == 403);
        last = event["message"].as_str().unwrap().to_owned();
    }
    assert_eq!(program.ends().await, 0);
    assert_eq!(last, "stopped", "the last line comes out");
    // A failed login beside them may have been lost as well.
    assert!((CALLS..CALLS + 100).contains(&(calls + lost)), "{calls} and {lost}");
}
