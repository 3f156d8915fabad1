//! From the start to the end: `healthcheck`, `wait`, the delay, `/quit`, and what the program says last.

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use serde_json::{Value, json};
use sf_token_proxy::config::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};

use crate::support::{RawOrg, Running, Script, call, client::ask, connect, eventually};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";
/// Of what has to come before a timeout of its own ends it.
const LONG: Duration = Duration::from_secs(600);
/// That machines under load keep.
const SOON: Duration = Duration::from_secs(30);

/// Asks the admin port until its answer has `part` in it.
async fn says(app: &Running, path: &str, part: &str) -> (u16, String) {
    let deadline = Instant::now() + SOON;
    loop {
        let reply = call(app.admin, &format!("GET {path} HTTP/1.1"), b"").await;
        if reply.text().contains(part) {
            return (reply.status, reply.text());
        }
        assert!(Instant::now() < deadline, "{path}: still {}", reply.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn in_the_delay_calls_are_taken_and_each_answer_is_its_connections_last() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| config.shutdown.delay = LONG).await;
    let mut kept = connect(app.proxy).await;
    let before = ask(&mut kept, GET).await;
    assert_eq!((before.status, before.header("connection").len()), (200, 0));

    app.stop.leave_now();
    assert_eq!(says(&app, "/readyz", "draining").await.0, 503);
    for path in ["/livez", "/startupz"] {
        let reply = call(app.admin, &format!("GET {path} HTTP/1.1"), b"").await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.header("connection").is_empty(), "probes go on");
    }
    let last = ask(&mut kept, GET).await;
    assert_eq!((last.status, last.header("connection")), (200, vec!["close"]));
    assert_eq!(kept.read(&mut [0]).await.unwrap(), 0, "closed after it");
    assert_eq!(call(app.proxy, GET, b"").await.status, 200, "new connections are taken");

    let told = Instant::now();
    app.stop().await;
    assert!(told.elapsed() < SOON, "a drain cuts the delay short");
}

#[tokio::test]
async fn quit_is_off_unless_it_is_set() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for line in ["POST /quit HTTP/1.1", "GET /quit HTTP/1.1"] {
        let reply = call(app.admin, line, b"").await;
        assert_eq!(reply.status, 404, "{line}");
        assert!(reply.text().contains("admin.quit_endpoint"), "{}", reply.text());
    }
    assert_eq!(says(&app, "/readyz", "live").await.0, 200, "it goes on");
    app.stop().await;
}

#[tokio::test]
async fn only_a_caller_on_this_machine_quits_and_twice_is_no_harm() {
    let org = RawOrg::start(|_| Script::Hang).await;
    let app = Running::start(&org.url(), |config| {
        config.admin.quit_endpoint = true;
        config.admin.addresses.extend(crate::support::own_address());
        // Not waited for: whoever quits has finished.
        config.shutdown.delay = LONG;
    })
    .await;
    for (lines, status) in [
        ("GET /quit HTTP/1.1", 405),
        ("POST /quit HTTP/1.1\nX-Forwarded-For: 10.0.0.1", 403),
        ("POST /quit HTTP/1.1\nForwarded: for=10.0.0.1", 403),
        ("POST /quit HTTP/1.1\nOrigin: http://localhost:3000", 403),
        ("POST /quit HTTP/1.1\nSec-Fetch-Site: same-site", 403),
        ("POST http://evil.example/quit HTTP/1.1", 403),
    ] {
        assert_eq!(call(app.admin, lines, b"").await.status, status, "{lines}");
    }
    if let Some(foreign) = app.admins.get(1) {
        assert_eq!(call(*foreign, "POST /quit HTTP/1.1", b"").await.status, 403);
    }
    assert_eq!(says(&app, "/readyz", "live").await.0, 200, "it goes on");

    let mut slow = connect(app.proxy).await;
    let hangs = format!("{GET}\r\nHost: localhost\r\n\r\n");
    slow.write_all(hangs.as_bytes()).await.unwrap();
    eventually("the call is in", || org.seen().len(), |n| *n == 1).await;
    for _ in 0..2 {
        let reply = call(app.admin, "POST /quit HTTP/1.1", b"").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "{\"ending\":true}\n"));
        assert_eq!(says(&app, "/readyz", "draining").await.0, 503);
    }
    let refused = async || tokio::net::TcpStream::connect(app.proxy).await.is_err();
    let deadline = Instant::now() + SOON;
    while !refused().await {
        assert!(Instant::now() < deadline, "it drains at once");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    app.stop.force_now();
    app.stop().await;
}

#[tokio::test]
async fn a_refusal_holds_the_start_back_unless_it_must_not() {
    let org = RawOrg::start(|_| Script::ok()).await;
    org.refuse_logins(Some((
        "400 Bad Request",
        r#"{"error":"invalid_client_id","error_description":"client identifier invalid"}"#,
    )));
    let url = org.url();
    let start = async |holds| {
        let adapt = move |config: &mut Config| {
            config.admin.startup_patience = Duration::from_secs(3);
            config.admin.startup_holds_on_refusal = holds;
        };
        Running::start(&url, adapt).await
    };
    let (strict, lax) = (start(true).await, start(false).await);
    for app in [&strict, &lax] {
        assert_eq!(
            says(app, "/startupz", "refused").await.0,
            503,
            "it is waited out, not passed over"
        );
    }
    let deadline = Instant::now() + SOON;
    while call(lax.admin, "GET /startupz HTTP/1.1", b"").await.status != 200 {
        assert!(Instant::now() < deadline, "the patience is over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(says(&lax, "/readyz", "refused").await.0, 200);
    // Its patience began before.
    for path in ["/startupz", "/readyz"] {
        assert_eq!(says(&strict, path, "refused").await.0, 503, "{path}");
    }
    strict.stop().await;
    lax.stop().await;
}

// Commands that ask

/// The binary in an environment that holds nothing else.
async fn ours(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"));
    command.args(args).env_clear().envs(env.iter().copied());
    let Output { status, stdout, stderr } = command.kill_on_drop(true).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// A configuration whose admin port is at `address`, one or a list.
fn config_at(folder: &Path, name: &str, address: Value) -> String {
    let path = folder.join(name);
    let config = json!({
        "admin": {"address": address},
        "orgs": {"main": {"login_url": "https://acme.my.salesforce.com", "grant": {"client_credentials": {
            "client_id": "id", "client_secret": "file:/nowhere",
        }}}},
    });
    std::fs::write(&path, config.to_string()).unwrap();
    path.display().to_string()
}

fn plain(status: &str, body: &str) -> Script {
    Script::Say(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

#[tokio::test]
async fn healthcheck_exits_with_0_for_a_good_answer_wherever_the_address_comes_from() {
    let admin = RawOrg::start(|_| plain("200 OK", "ok\n")).await;
    let url = admin.url();
    let port = url.rsplit(':').next().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let all = config_at(folder.path(), "all", json!(format!("0.0.0.0:{port}")));
    let both = config_at(folder.path(), "both", json!(format!("*:{port}")));
    // The first of these is not there.
    let second = config_at(
        folder.path(),
        "second",
        json!(["127.0.0.1:1", format!("127.0.0.1:{port}")]),
    );
    let listen = format!("127.0.0.1:{port}");
    let environment = [
        ("SFPROXY_LOGIN_URL", "https://acme.my.salesforce.com"),
        ("SFPROXY_CLIENT_ID", "id"),
        ("SFPROXY_CLIENT_SECRET_FILE", "/nowhere"),
        ("SFPROXY_ADMIN_LISTEN", listen.as_str()),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
    ];
    let with_path = format!("{url}/elsewhere?x=1");
    for (args, env, asked) in [
        (vec!["healthcheck", "--url", &url], &[][..], "/livez"),
        (vec!["healthcheck", "--config", &all], &[], "/livez"),
        (vec!["healthcheck", "--config", &both], &[], "/livez"),
        (vec!["healthcheck", "--config", &second], &[], "/livez"),
        (vec!["healthcheck", "--ready"], &environment, "/readyz"),
        (vec!["healthcheck", "--startup"], &environment, "/startupz"),
        (vec!["healthcheck", "--url", &with_path], &[], "/elsewhere?x=1"),
    ] {
        let before = admin.seen().len();
        assert_eq!(ours(&args, env).await, (0, String::new(), String::new()), "{args:?}");
        let seen = admin.seen();
        assert_eq!(seen.len(), before + 1, "{args:?}");
        assert_eq!(seen[before].line(), format!("GET {asked} HTTP/1.1"));
    }
}

#[tokio::test]
async fn healthcheck_says_in_one_line_what_came_and_from_where() {
    let admin = RawOrg::start(|_| plain("503 Service Unavailable", "draining\norg main: live\n")).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let url = admin.url();
    let nobody = "http://127.0.0.1:1";
    for (args, code, told) in [
        (
            vec!["healthcheck", "--ready", "--url", &url],
            1,
            format!("healthcheck: {url}/readyz answered 503: draining; org main: live\n"),
        ),
        (
            vec!["healthcheck", "--url", nobody],
            1,
            "healthcheck: http://127.0.0.1:1/livez: Connection refused (os error 111)\n".to_owned(),
        ),
        (
            vec!["healthcheck", "--url", &silent, "--timeout", "300ms"],
            1,
            format!("healthcheck: {silent}/livez: no answer within 300ms\n"),
        ),
    ] {
        assert_eq!(ours(&args, &[]).await, (code, String::new(), told), "{args:?}");
    }
    for (args, code) in [
        (vec!["healthcheck", "--url", "https://localhost:9090"], 64),
        (vec!["healthcheck", "--url", "localhost:9090"], 64),
        (vec!["healthcheck", "--ready", "--startup"], 64),
        (vec!["healthcheck", "--timeout", "2"], 64),
        (vec!["healthcheck"], 78),
        (vec!["healthcheck", "--config", "/nowhere"], 78),
        (vec!["wait"], 78),
    ] {
        let (found, out, err) = ours(&args, &[]).await;
        assert_eq!((found, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(!err.is_empty(), "{args:?}");
    }
}

#[tokio::test]
async fn wait_ends_with_the_first_good_answer() {
    let asked = std::sync::atomic::AtomicU32::new(0);
    let admin = RawOrg::start(move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Script::Cut,
        1 => plain("503 Service Unavailable", "org main: starting\n"),
        _ => plain("200 OK", "org main: live\n"),
    })
    .await;
    let url = admin.url();
    assert_eq!(
        ours(&["wait", "--url", &url], &[]).await,
        (0, String::new(), String::new())
    );
    let seen: Vec<String> = admin.seen().iter().map(|request| request.line().to_owned()).collect();
    assert_eq!(seen, vec!["GET /readyz HTTP/1.1"; 3]);
}

#[tokio::test]
async fn wait_tells_the_last_answer_when_time_is_up() {
    let admin = RawOrg::start(|_| plain("503 Service Unavailable", "org main: refused (user_not_approved)\n")).await;
    let url = admin.url();
    let (code, out, err) = ours(&["wait", "--url", &url, "--timeout", "1s"], &[]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        format!("wait failed: not ready within 1s: {url}/readyz answered 503: org main: refused (user_not_approved)\n")
    );
    assert!(admin.seen().len() > 1);

    let (code, _, err) = ours(&["wait", "--url", "http://127.0.0.1:1", "--timeout", "500ms"], &[]).await;
    assert_eq!(code, 1);
    assert!(err.contains("http://127.0.0.1:1/readyz: Connection refused"), "{err}");
}

#[tokio::test]
async fn a_signal_ends_the_wait() {
    let admin = RawOrg::start(|_| plain("503 Service Unavailable", "")).await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"));
    command
        .args(["wait", "--timeout", "10m", "--url", &admin.url()])
        .env_clear();
    let child = command
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("it asks", || admin.seen().len(), |n| *n > 0).await;
    let pid = child.id().unwrap().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", "TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let ended = child.wait_with_output().await.unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "wait ended by SIGTERM\n");
}

// The last words

/// `run` with this configuration, which must end it: its code, stdout, stderr.
async fn run(config: &Value) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    std::fs::write(&path, config.to_string()).unwrap();
    ours(&["run", "--config", &path.display().to_string()], &[]).await
}

fn config() -> Value {
    json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "log": {"format": "json"},
        "orgs": {"main": {"login_url": "https://acme.my.salesforce.com", "grant": {"client_credentials": {
            "client_id": "id", "client_secret": "file:/nowhere",
        }}}},
    })
}

#[tokio::test]
async fn what_ends_the_start_is_the_last_line_and_names_the_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let no_ca = folder.path().join("ca.pem");
    std::fs::write(&no_ca, "hunter2").unwrap();
    let not_a_folder = no_ca.join("store").display().to_string();
    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    for (section, value, setting) in [
        ("admin", json!({"address": taken}), "admin.address: cannot listen on"),
        (
            "listeners",
            json!([{"address": taken}]),
            "listeners[].address: cannot listen on",
        ),
        ("upstream", json!({"ca_file": no_ca}), "(setting upstream.ca_file)"),
        (
            "store",
            json!({"file": {"directory": not_a_folder, "key": format!("file:{}", key.display())}}),
            "store.file.directory",
        ),
    ] {
        let mut config = config();
        config[section] = value;
        let (code, out, err) = run(&config).await;
        assert_eq!((code, err.as_str()), (1, ""), "{section}");
        let last = out.lines().last().unwrap();
        assert!(last.len() < 2048, "{section}: {} bytes", last.len());
        let event: Value = serde_json::from_str(last).expect("JSON to the last line");
        assert_eq!(
            (&event["level"], &event["exit_code"]),
            (&json!("ERROR"), &json!(1)),
            "{event}"
        );
        assert!(event["message"].as_str().unwrap().contains(setting), "{event}");
    }
    for (log, on_stdout) in [
        (json!({"format": "text"}), true),
        (json!({"format": "json", "level": "off"}), false),
        (
            json!({"format": "json", "level": "info,sf_token_proxy::cli=off"}),
            false,
        ),
    ] {
        let mut config = config();
        config["admin"] = json!({"address": taken});
        config["log"] = log.clone();
        let (code, out, err) = run(&config).await;
        let (told, other) = if on_stdout { (&out, &err) } else { (&err, &out) };
        assert_eq!(code, 1, "{log}");
        assert!(
            told.lines().last().unwrap().contains("admin.address: cannot listen on"),
            "{log}: {told}"
        );
        assert!(!other.contains("cannot listen"), "said once");
    }
}

#[tokio::test]
async fn many_problems_are_counted_in_the_last_line() {
    let mut config = config();
    for (first, second) in (b'a'..=b'j').flat_map(|first| (b'a'..=b'j').map(move |second| (first, second))) {
        config[format!("odd_{}{}", char::from(first), char::from(second))] = json!(1);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.json");
    std::fs::write(&path, config.to_string()).unwrap();
    for command in ["run", "check", "healthcheck"] {
        let (code, out, err) = ours(&[command, "--config", &path.display().to_string()], &[]).await;
        assert_eq!((code, out.as_str(), err.lines().count()), (78, "", 101), "{command}");
        let last = err.lines().last().unwrap();
        assert!(
            last.starts_with(
                "the configuration has 100 problems; all of them stand in the lines above, and `sf-token-proxy check`"
            ),
            "{last}"
        );
    }
}

// The running program

#[cfg(feature = "demo")]
mod of_the_program {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;
    use crate::program::{LIMITS, Program, Site, get, until};

    /// A call that the org leaves open for so many seconds.
    fn slow(program: &Program, seconds: u32) -> TcpStream {
        let mut stream = TcpStream::connect(program.proxy()).unwrap();
        write!(
            stream,
            "GET /services/apexrest/practice/silent/{seconds} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let in_flight = || program.metric("sf_token_proxy_requests_in_flight{org=\"main\"}");
        until("the call is in", || in_flight() >= 1.0);
        stream
    }

    #[tokio::test]
    async fn after_a_signal_it_serves_for_the_delay_and_then_leaves_with_0() {
        let site = Site::new(|_| {}).await;
        let mut config = site.config(&site.credentials());
        config["shutdown"] = json!({"delay": "3s"});
        let mut program = site.start(&config);
        program.serves();
        let told = Instant::now();
        program.signal("TERM");
        until("not ready", || {
            let (status, text) = get(program.admin, "/readyz").unwrap();
            status == 503 && text.contains("draining")
        });
        let (status, text) = program.get(LIMITS);
        assert_eq!(status, 200, "{text}");
        assert!(
            !program.printed().contains("\"draining\""),
            "it was served in the delay"
        );
        let (code, printed) = program.exit(SOON);
        assert_eq!(code, 0, "{printed}");
        assert!(told.elapsed() >= Duration::from_secs(3), "{:?}", told.elapsed());
        assert!(printed.lines().last().unwrap().contains("stopped"), "{printed}");
        site.org.stop().await;
    }

    #[tokio::test]
    async fn a_second_signal_ends_at_once_even_in_the_delay_and_says_so_last() {
        let site = Site::new(|_| {}).await;
        let mut config = site.config(&site.credentials());
        config["shutdown"] = json!({"delay": "10m"});
        for threads in [1, 2] {
            config["threads"] = threads.into();
            let mut program = site.start(&config);
            program.serves();
            let lost = slow(&program, 60);
            program.signal("TERM");
            until("it was heard", || program.printed().contains("told to end"));
            program.signal("TERM");
            let (code, printed) = program.exit(SOON);
            assert_eq!(code, 1);
            let event = |line: &str| serde_json::from_str::<Value>(line).unwrap();
            let last = event(printed.lines().last().unwrap());
            assert_eq!(last["level"], "ERROR", "{last}");
            let message = last["message"].as_str().unwrap();
            assert!(
                message.contains("SIGTERM") && message.contains("shutdown.drain"),
                "{message}"
            );
            // the call that was lost is told of, before
            let lines = printed.lines().map(event);
            let calls = lines.filter(|line| line["target"] == "sf_token_proxy::access");
            assert_eq!(calls.count(), 2, "{printed}");
            let started = printed
                .lines()
                .map(event)
                .find(|line| line["message"] == "worker threads");
            let started = started.expect("how many threads there are");
            assert_eq!(
                (&started["threads"], &started["why"]),
                (&json!(threads), &json!("as set"))
            );
            drop(lost);
        }
        site.org.stop().await;
    }

    #[tokio::test]
    async fn an_app_that_has_finished_ends_it_with_0_without_the_delay() {
        let site = Site::new(|_| {}).await;
        let mut config = site.config(&site.credentials());
        config["shutdown"] = json!({"delay": "10m"});
        config["admin"]["quit_endpoint"] = true.into();
        let mut program = site.start(&config);
        program.serves();
        let mut in_flight = slow(&program, 1);
        let mut asking = TcpStream::connect(program.admin).unwrap();
        write!(asking, "POST /quit HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let mut finished = String::new();
        in_flight.read_to_string(&mut finished).unwrap();
        assert!(finished.starts_with("HTTP/1.1 200 "), "{finished}");
        let (code, printed) = program.exit(SOON);
        assert_eq!(code, 0, "{printed}");
        assert!(printed.contains("asked to end by POST /quit"), "{printed}");
        site.org.stop().await;
    }
}
