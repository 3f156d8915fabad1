//! What the system allows, who else is on the machine, and signals at odd moments.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    support::{RawOrg, Running, Script, call, connect, own_address, read_reply},
    tls::soon,
};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";

/// So many connections on which nothing is said.
async fn idle(to: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for _ in 0..connections {
        idle.push(connect(to).await);
    }
    idle
}

/// A call from this address of the machine; its status.
async fn quit_from(source: &str, to: SocketAddr) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(source.parse().unwrap()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let call = "POST /quit HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(call.as_bytes()).await.unwrap();
    read_reply(&mut stream, false).await.unwrap().status
}

#[tokio::test]
async fn what_a_mesh_passes_on_from_elsewhere_is_no_caller_of_this_machine() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| {
        config.admin.quit_endpoint = true;
        config.admin.addresses.extend(own_address().filter(SocketAddr::is_ipv4));
    })
    .await;
    // Istio's sidecar calls so.
    assert_eq!(quit_from("127.0.0.6:0", app.admin).await, 403);
    if let Some(foreign) = app.admins.get(1) {
        assert_eq!(quit_from("127.0.0.1:0", *foreign).await, 403);
        assert_eq!(quit_from("127.0.0.6:0", *foreign).await, 403);
    }
    assert_eq!(
        call(app.admin, "POST /quit HTTP/1.1\nX-Real-IP: 10.0.0.1", b"")
            .await
            .status,
        403
    );
    assert_eq!(call(app.admin, "GET /livez HTTP/1.1", b"").await.status, 200);
    assert_eq!(quit_from("127.0.0.1:0", app.admin).await, 200);
    app.stop().await;
}

#[tokio::test]
async fn idle_connections_to_the_admin_port_do_not_keep_a_probe_out() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut idle = idle(app.admin, 300).await;
    // Sooner than they are closed.
    assert_eq!(soon(call(app.admin, "GET /livez HTTP/1.1", b"")).await.status, 200);
    // They are closed soon: they hold descriptors.
    let closed = tokio::time::timeout(Duration::from_secs(30), idle[0].read(&mut [0])).await;
    assert_eq!(closed.expect("closed in time").unwrap(), 0);
    app.stop().await;
}

#[tokio::test]
async fn half_a_request_does_not_hold_the_end_up() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut half = connect(app.proxy).await;
    half.write_all(b"GET /services/data/v60.0/x HTTP/1.1\r\nHost: local")
        .await
        .unwrap();
    let mut probe = connect(app.admin).await;
    probe.write_all(b"GET /liv").await.unwrap();
    // The one has been seen when a later one has its answer.
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!(call(app.admin, "GET /livez HTTP/1.1", b"").await.status, 200);
    soon(app.stop()).await;
}

#[tokio::test]
async fn an_org_that_has_had_a_token_has_started_though_nobody_asked_then() {
    let org = RawOrg::start(|request| match request.nth_on_connection {
        0 => Script::ok(),
        _ => Script::expired(),
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    org.refuse_logins(Some(("400 Bad Request", r#"{"error":"invalid_client"}"#)));
    assert_eq!(call(app.proxy, GET, b"").await.status, 503);
    let started = call(app.admin, "GET /startupz HTTP/1.1", b"").await;
    assert_eq!(started.status, 200, "{}", started.text());
    assert!(started.text().contains("refused"), "{}", started.text());
    app.stop().await;
}

#[cfg(feature = "demo")]
mod of_the_program {
    use std::process::Command;

    use serde_json::json;

    use super::*;
    use crate::program::{LIMITS, Program, Site, get, until};

    /// As started from a shell with these limits.
    fn start_limited(site: &Site, config: &serde_json::Value, limits: &str) -> Program {
        let path = site.path("limited.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new("/bin/sh");
        let run = format!("{limits}; exec \"$0\" run --config \"$1\"");
        command
            .args(["-c", &run, env!("CARGO_BIN_EXE_sf-token-proxy")])
            .arg(&path);
        Program::start_by(command, &[])
    }

    #[tokio::test]
    async fn the_soft_limit_of_open_files_is_raised() {
        let site = Site::new(|_| {}).await;
        let config = site.config(&site.credentials());
        let mut program = start_limited(&site, &config, "ulimit -Sn 64 && ulimit -Hn 2000");
        let _idle = idle(program.proxy(), 300).await;
        let limits = format!("GET {LIMITS} HTTP/1.1");
        for (address, lines) in [(program.proxy(), &*limits), (program.admin, "GET /livez HTTP/1.1")] {
            assert_eq!(soon(call(address, lines, b"")).await.status, 200, "{lines}");
        }
        program.signal("TERM");
        assert_eq!(program.exit(Duration::from_secs(30)).0, 0);
        site.org.stop().await;
    }

    #[tokio::test]
    async fn more_callers_than_files_are_told_and_the_probes_go_on() {
        let site = Site::new(|_| {}).await;
        let config = site.config(&site.credentials());
        let mut program = start_limited(&site, &config, "ulimit -n 200");
        program.serves();
        let told = program.printed();
        assert!(
            told.contains("listeners[].max_connections") && told.contains("\"affordable\":52"),
            "{told}"
        );
        let idle = idle(program.proxy(), 150).await;
        for path in ["/livez", "/startupz", "/metrics"] {
            let lines = format!("GET {path} HTTP/1.1");
            assert_eq!(soon(call(program.admin, &lines, b"")).await.status, 200, "{path}");
        }
        drop(idle);
        program.serves();
        program.signal("TERM");
        assert_eq!(program.exit(Duration::from_secs(30)).0, 0);
        site.org.stop().await;
    }

    /// Another process makes a certificate in the same folder, and does not come to an end.
    #[tokio::test]
    async fn a_signal_ends_a_start_that_waits() {
        let site = Site::new(|_| {}).await;
        let mut config = site.config(&site.credentials());
        let folder = site.path("tls");
        config["listeners"][0]["tls"] = json!({"generate_in": folder});
        let mut first = site.start(&config);
        first.signal("TERM");
        assert_eq!(first.exit(Duration::from_secs(30)).0, 0);
        let locks = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let lock = locks.into_iter().find(|path| path.to_string_lossy().contains("lock"));
        let held = std::fs::File::options()
            .write(true)
            .open(lock.expect("a lock file"))
            .unwrap();
        held.lock().unwrap();
        let path = site.path("waits.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"))
            .args(["run", "--config"])
            .arg(&path)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The handlers are there once it says how many threads it has.
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        assert!(lines.by_ref().any(|line| line.unwrap().contains("worker threads")));
        until("it waits for the lock", || waits(child.id()));
        let told = Command::new("kill")
            .args(["-s", "TERM", &child.id().to_string()])
            .status();
        assert!(told.unwrap().success());
        let mut ended = None;
        until("it ends", || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(0));
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert!(
            rest.last().unwrap().contains("told to end before it listened"),
            "{rest:?}"
        );
        drop(held);
        site.org.stop().await;
    }

    /// Whether one of its threads waits for a file's lock.
    fn waits(pid: u32) -> bool {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("->") && line.contains(&format!(" {pid} ")))
    }

    #[tokio::test]
    async fn the_last_words_come_out_also_when_the_log_was_silenced_meanwhile() {
        let site = Site::new(|_| {}).await;
        let mut config = site.config(&site.credentials());
        config["reload"] = json!({"interval": "0s"});
        config["shutdown"] = json!({"delay": "10m"});
        let path = site.path("silenced.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new("/bin/sh");
        let run = "exec \"$0\" run --config \"$1\" 2>&1";
        command
            .args(["-c", run, env!("CARGO_BIN_EXE_sf-token-proxy")])
            .arg(&path);
        let mut program = Program::start_by(command, &[]);
        config["log"]["level"] = json!("off");
        std::fs::write(&path, config.to_string()).unwrap();
        program.signal("HUP");
        until("it is taken", || {
            program.metric("sf_token_proxy_config_reloads_total{result=\"ok\"}") >= 1.0
        });
        program.signal("TERM");
        until("it was heard", || get(program.admin, "/readyz").unwrap().0 == 503);
        program.signal("TERM");
        let (code, printed) = program.exit(Duration::from_secs(30));
        assert_eq!(code, 1, "{printed}");
        assert!(
            printed
                .lines()
                .last()
                .unwrap()
                .contains("ended at once by a second signal"),
            "{printed}"
        );
        site.org.stop().await;
    }
}
