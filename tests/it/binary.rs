//! The binary itself: start, signals, big bodies, memory, and what it prints.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use sf_token_proxy::demo::{Org, Settings, Summary};
use tokio::time::Instant;

use crate::support::{app::CANARY_SECRET, eventually};

/// A running `sf-token-proxy run`, killed if the test forgets it.
struct Binary {
    child: Child,
    proxy: SocketAddr,
    admin: SocketAddr,
    /// Collects everything it prints.
    output: std::sync::Arc<std::sync::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Binary {
    /// Against the practice org with the client-credentials app, configured by the environment alone.
    fn start(files: &Summary, more: &[(&str, &str)]) -> Self {
        let secret = files.client_credentials.as_ref().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"));
        command
            .arg("run")
            .env_clear()
            .env("SFPROXY_LISTEN", "127.0.0.1:0")
            .env("SFPROXY_ADMIN_LISTEN", "127.0.0.1:0")
            .env("SFPROXY_LOGIN_URL", &files.login_url)
            .env("SFPROXY_CLIENT_ID", &secret.client_id)
            .env("SFPROXY_CLIENT_SECRET_FILE", &secret.secret_file)
            .env("SFPROXY_CA_FILE", &files.ca_file)
            .env("SFPROXY_LOG_FORMAT", "json")
            .envs(more.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let output = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let addresses = loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "ended before it listened");
            output.lock().unwrap().push_str(&line);
            let event: serde_json::Value = serde_json::from_str(&line).expect("one JSON object a line");
            if event["message"] == "listening" {
                break (event["proxy"].clone(), event["admin"].clone());
            }
        };
        let collected = std::sync::Arc::clone(&output);
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap_or(0) > 0 {
                collected.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        Self {
            child,
            proxy: addresses.0.as_str().unwrap().parse().unwrap(),
            admin: addresses.1.as_str().unwrap().parse().unwrap(),
            output,
            reader: Some(reader),
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// The exit code, within `limit`.
    fn exit(&mut self, limit: Duration) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status.code().expect("an exit code, not a signal");
            }
            assert!(began.elapsed() < limit, "still running after {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn printed(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// `VmRSS` or `VmHWM`, in KiB.
    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Starts `VmHWM` over.
    fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.proxy).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        read_all(&mut stream)
    }

    fn ready(&self) {
        for _ in 0..2000 {
            let mut stream = TcpStream::connect(self.admin).unwrap();
            write!(
                stream,
                "GET /startupz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            if read_all(&mut stream).0 == 200 {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("never started:\n{}", self.printed());
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(stream: &mut TcpStream) -> (u16, String) {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text)
}

async fn practice() -> (Org, Summary) {
    let mut settings = Settings::practice().unwrap();
    settings.secret_clients[0].secret = CANARY_SECRET.into();
    let mut org = Org::start(settings).await.unwrap();
    let files = org.write_files(None).unwrap();
    (org, files)
}

const LIMITS: &str = "/services/data/v60.0/limits";
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn it_starts_serves_drains_and_exits_0() {
    let (org, files) = practice().await;
    let mut binary = Binary::start(
        &files,
        &[("SFPROXY_LOG_REQUESTS", "true"), ("SFPROXY_LOG_LEVEL", "trace")],
    );
    assert_eq!(binary.get(LIMITS).0, 200);
    org.revoke();
    assert_eq!(binary.get(LIMITS).0, 200);
    assert_eq!(binary.get("/secur/frontdoor.jsp").0, 403);

    // a call in flight when the signal comes is finished; a new connection is not taken
    let mut slow = TcpStream::connect(binary.proxy).unwrap();
    write!(
        slow,
        "GET /services/apexrest/practice/silent/2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    let idle = TcpStream::connect(binary.proxy).unwrap();
    in_flight(&binary).await;
    binary.signal("TERM");
    assert_eq!(read_all(&mut slow).0, 200, "the call in flight was finished");
    assert_eq!(binary.exit(SOON), 0);
    drop(idle);
    let printed = binary.printed();
    assert!(printed.contains("draining"), "{printed}");
    assert!(printed.lines().last().unwrap().contains("stopped"), "{printed}");

    // nothing of what it printed at the loudest level holds a secret
    for line in printed.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("one JSON object a line");
    }
    assert!(printed.contains("sf_token_proxy::access"), "or this proves little");
    for secret in [CANARY_SECRET, "00DSB", "Bearer 00D", &basic(&files)] {
        assert!(!printed.contains(secret), "{secret} was printed:\n{printed}");
    }
    org.stop().await;
}

fn basic(files: &Summary) -> String {
    use base64::Engine as _;
    let id = &files.client_credentials.as_ref().unwrap().client_id;
    base64::prelude::BASE64_STANDARD.encode(format!("{id}:{CANARY_SECRET}"))
}

#[tokio::test]
async fn with_nothing_in_flight_it_leaves_at_once_and_a_second_signal_does_not_wait() {
    let (org, files) = practice().await;
    let mut binary = Binary::start(&files, &[]);
    binary.ready();
    // one that never said anything, and one that is kept after a call
    let _silent = TcpStream::connect(binary.proxy).unwrap();
    let mut kept = TcpStream::connect(binary.proxy).unwrap();
    write!(kept, "GET {LIMITS} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut head = [0; 12];
    kept.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let told = Instant::now();
    binary.signal("INT");
    assert_eq!(binary.exit(SOON), 0);
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());

    let mut binary = Binary::start(&files, &[]);
    binary.ready();
    let mut slow = TcpStream::connect(binary.proxy).unwrap();
    write!(
        slow,
        "GET /services/apexrest/practice/silent/60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    in_flight(&binary).await;
    binary.signal("TERM");
    eventually("the drain", || binary.printed(), |printed| printed.contains("draining")).await;
    binary.signal("TERM");
    assert_eq!(binary.exit(SOON), 1);
    org.stop().await;
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_cut_short() {
    let (org, files) = practice().await;
    let mut binary = Binary::start(&files, &[("SFPROXY_DRAIN", "1s")]);
    binary.ready();
    let mut slow = TcpStream::connect(binary.proxy).unwrap();
    write!(
        slow,
        "GET /services/apexrest/practice/silent/60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
    .unwrap();
    in_flight(&binary).await;
    binary.signal("TERM");
    assert_eq!(binary.exit(SOON), 0);
    org.stop().await;
}

/// A process that does not outlive its test.
struct Leashed(Child);

impl Drop for Leashed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_practice_org_runs_alone_until_a_signal_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let summary = folder.path().join("summary.json");
    let org = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"))
        .args(["demo", "--org-only", "--summary"])
        .arg(&summary)
        .stdout(Stdio::null())
        .spawn();
    let mut org = Leashed(org.unwrap());
    let read = || std::fs::read_to_string(&summary).unwrap_or_default();
    let said = eventually("the summary", read, |said| !said.is_empty()).await;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let control = said["control"].as_str().unwrap().strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(control).unwrap();
    write!(
        stream,
        "GET /control/stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    assert_eq!(read_all(&mut stream).0, 200);
    let key = Path::new(said["apps"]["jwt"]["key_file"].as_str().unwrap()).to_owned();
    assert!(key.exists());
    assert!(said.get("proxy").is_none(), "no proxy stands before it");

    let told = Command::new("kill")
        .args(["-s", "TERM", &org.0.id().to_string()])
        .status();
    assert!(told.unwrap().success());
    assert_eq!(org.0.wait().unwrap().code(), Some(0));
    assert!(!key.exists(), "the keys go with it");
}

async fn in_flight(binary: &Binary) {
    let calls = || metric(binary, "sf_token_proxy_requests_in_flight");
    eventually("the call is in", calls, |n| *n >= 1.0).await;
}

fn metric(binary: &Binary, family: &str) -> f64 {
    let mut stream = TcpStream::connect(binary.admin).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let page = read_all(&mut stream).1;
    page.lines()
        .find(|line| line.starts_with(family) && !line.starts_with('#'))
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {family} in\n{page}"))
}

#[tokio::test]
async fn a_port_in_use_is_said_and_ends_it() {
    let (org, files) = practice().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let secret = files.client_credentials.as_ref().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"))
        .arg("run")
        .env_clear()
        .env("SFPROXY_LISTEN", &address)
        .env("SFPROXY_LOGIN_URL", &files.login_url)
        .env("SFPROXY_CLIENT_ID", &secret.client_id)
        .env("SFPROXY_CLIENT_SECRET_FILE", &secret.secret_file)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(
        told.contains(&address) && told.contains("listeners[].address"),
        "{told}"
    );
    org.stop().await;
}

const MIB: usize = 1 << 20;

/// Sends `mib` MiB; returns the answer and how much the process grew at its peak, in KiB.
fn upload(binary: &Binary, mib: usize, chunked: bool, path: &Path) -> (u16, String, u64) {
    let mut stream = TcpStream::connect(binary.proxy).unwrap();
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", mib * MIB)
    };
    binary.forget_peak();
    let before = binary.memory("VmRSS");
    write!(
        stream,
        "POST {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{framing}\r\n\r\n",
        path.display()
    )
    .unwrap();
    let piece = vec![b'x'; MIB];
    let mut reading = stream.try_clone().unwrap();
    let answer = std::thread::spawn(move || read_all(&mut reading));
    for _ in 0..mib {
        // an answer may come before all was taken
        let sent = if chunked {
            write!(stream, "{MIB:x}\r\n")
                .and_then(|()| stream.write_all(&piece))
                .and_then(|()| stream.write_all(b"\r\n"))
        } else {
            stream.write_all(&piece)
        };
        if sent.is_err() {
            break;
        }
    }
    if chunked {
        let _ = stream.write_all(b"0\r\n\r\n");
    }
    let (status, text) = answer.join().unwrap();
    (status, text, binary.memory("VmHWM").saturating_sub(before))
}

const SINK: &str = "/services/apexrest/practice/sink";

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_streams_through_in_both_directions() {
    let (org, files) = practice().await;
    let binary = Binary::start(&files, &[]);
    binary.ready();
    binary.get(LIMITS);

    let (status, text, grown) = upload(&binary, 1024, false, Path::new(SINK));
    assert_eq!(status, 200, "{text}");
    assert!(text.contains(&format!("\"bytes\":{}", 1024 * MIB)), "{text}");
    assert!(grown < 8 * 1024, "an upload of known length took {grown} KiB");

    let (status, text, grown) = upload(&binary, 1024, true, Path::new(SINK));
    assert_eq!(status, 200, "{text}");
    assert!(text.contains(&format!("\"bytes\":{}", 1024 * MIB)), "{text}");
    assert!(grown < (16 + 8) * 1024, "a chunked upload took {grown} KiB");

    binary.forget_peak();
    let before = binary.memory("VmRSS");
    let mut stream = TcpStream::connect(binary.proxy).unwrap();
    write!(
        stream,
        "GET /services/apexrest/practice/bytes/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        1024 * MIB
    )
    .unwrap();
    let mut piece = vec![0; MIB];
    let mut total = 0;
    loop {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            n => total += n,
        }
    }
    assert!(total > 1024 * MIB, "{total} bytes came");
    let grown = binary.memory("VmHWM").saturating_sub(before);
    assert!(grown < 8 * 1024, "a download took {grown} KiB");
    drop(binary);
    org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_the_bound_that_meets_a_dead_token_is_told_and_the_next_call_works() {
    let (org, files) = practice().await;
    let binary = Binary::start(&files, &[]);
    binary.ready();
    // seen working just now, then revoked: nothing can know before the upload
    assert_eq!(binary.get(LIMITS).0, 200);
    org.revoke();
    let (status, text, _) = upload(&binary, 300, false, Path::new(SINK));
    assert_eq!(status, 401, "{text}");
    assert!(text.contains("INVALID_SESSION_ID"), "{text}");
    assert!(text.to_lowercase().contains("proxy-status: sf-token-proxy"), "{text}");
    assert!(text.contains("body_too_long"), "{text}");
    let (status, text, _) = upload(&binary, 300, false, Path::new(SINK));
    assert_eq!(status, 200, "{text}");
    drop(binary);
    org.stop().await;
}

/// The limits are those of the release; the debug build keeps them as well.
/// The lines of the audit log: event, who, why.
fn audit(printed: &str) -> Vec<[String; 3]> {
    let lines = printed.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|event: &serde_json::Value| event["target"] == "audit")
        .map(|event| ["event", "by", "why"].map(|key| event[key].as_str().unwrap_or("-").to_owned()))
        .collect()
}

#[tokio::test]
async fn the_audit_log_says_who_got_a_token_when_and_why() {
    let (org, files) = practice().await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let store = folder.path().join("store");
    let more = [
        ("SFPROXY_STORE_DIRECTORY", store.to_str().unwrap()),
        ("SFPROXY_STORE_KEY_FILE", key.to_str().unwrap()),
    ];
    let query = |binary: &Binary| {
        let mut stream = TcpStream::connect(binary.proxy).unwrap();
        stream
            .write_all(b"GET /services/data/v60.0/limits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        assert_eq!(read_all(&mut stream).0, 200);
    };
    let said = |events: &[[&str; 3]]| events.iter().map(|event| event.map(str::to_owned)).collect::<Vec<_>>();

    let mut first = Binary::start(&files, &more);
    query(&first);
    org.revoke();
    query(&first);
    first.signal("TERM");
    assert_eq!(first.exit(Duration::from_secs(10)), 0);
    let expected = said(&[
        ["store_write", "proxy", "-"],
        ["minted", "proxy", "start"],
        ["rejected", "org", "-"],
        ["store_write", "proxy", "-"],
        ["renewed", "proxy", "refused"],
    ]);
    assert_eq!(audit(&first.printed()), expected);

    org.down(true, false);
    let mut second = Binary::start(&files, &more);
    query(&second);
    org.revoke();
    second.signal("TERM");
    assert_eq!(second.exit(Duration::from_secs(10)), 0);
    assert_eq!(audit(&second.printed()), said(&[["store_read", "proxy", "start"]]));
    let printed = first.printed() + &second.printed();
    for secret in [&files.client_credentials.as_ref().unwrap().secret_file, &key] {
        assert!(!printed.contains(&std::fs::read_to_string(secret).unwrap()));
    }
    assert!(!printed.contains("00DSB0000001pRC!"), "a token is in the log");
    org.stop().await;
}

#[tokio::test]
async fn it_is_small() {
    let (org, files) = practice().await;
    let binary = Binary::start(&files, &[]);
    binary.ready();
    assert_eq!(binary.get(LIMITS).0, 200);
    // A debug build is mostly pages of its own file, which the kernel takes back; there only what was allocated counts.
    let (key, idle_limit, callers_limit) = match cfg!(debug_assertions) {
        true => ("RssAnon", 4, 20),
        false => ("VmRSS", 12, 30),
    };
    let idle = binary.memory(key);
    let mut callers = Vec::new();
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(binary.proxy).unwrap();
        write!(stream, "GET {LIMITS} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        callers.push(stream);
    }
    let with_callers = binary.memory(key);
    println!("{key} idle {idle} KiB, with 1,000 idle connections {with_callers} KiB");
    assert!(
        with_callers < callers_limit * 1024,
        "{with_callers} KiB with 1,000 connections"
    );
    assert!(idle < idle_limit * 1024, "{idle} KiB idle");
    drop(binary);
    org.stop().await;
}
