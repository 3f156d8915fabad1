//! The binary's `login` and `logout` against the practice org. Most tests play the browser themselves; those at the end,
//! which `make browser` runs, drive a real Chromium.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sf_token_proxy::demo::{Org, Settings, Summary};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};
use url::Url;

use crate::support::{RawOrg, Reply, Script, app::CANARY_SECRET, call, eventually, read_reply};

mod chromium;

/// A practice org, and the configuration of a proxy that logs in there as a person.
struct Stage {
    org: Org,
    files: Summary,
    dir: tempfile::TempDir,
    port: u16,
    /// The configuration, to be changed before something starts.
    config: Value,
}

/// A port that is free on both loopback addresses.
fn free_port() -> u16 {
    loop {
        let v4 = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        if std::net::TcpListener::bind(("::1", port)).is_ok() {
            return port;
        }
    }
}

impl Stage {
    /// With the app that has a secret.
    async fn new(adapt: impl FnOnce(&mut Settings)) -> Self {
        Self::of_app(0, adapt).await
    }

    async fn of_app(number: usize, adapt: impl FnOnce(&mut Settings)) -> Self {
        let port = free_port();
        let callback = format!("http://localhost:{port}/OauthRedirect");
        let mut settings = Settings::practice().unwrap();
        settings.device_interval = Duration::from_secs(1);
        settings.web_apps[0].secret = Some(CANARY_SECRET.into());
        for app in &mut settings.web_apps {
            app.callbacks = vec![callback.clone()];
        }
        adapt(&mut settings);
        let mut org = Org::start(settings).await.unwrap();
        let files = org.write_files(None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("store-key");
        std::fs::write(&key, "ab".repeat(32)).unwrap();
        let app = &files.web[number];
        let mut grant = json!({"client_id": app.client_id, "login": {"callback_url": callback}});
        if let Some(file) = &app.secret_file {
            grant["client_secret"] = json!(format!("file:{}", file.display()));
        }
        if let Some(file) = &app.key_file {
            grant["private_key"] = json!(format!("file:{}", file.display()));
        }
        let config = json!({
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "store": {"file": {"directory": dir.path().join("store"), "key": format!("file:{}", key.display())}},
            "orgs": {"main": {
                "login_url": files.login_url,
                "grant": {"refresh_token": grant},
                "login_budget": {"burst": 3600, "per_minute": 60},
            }},
            "upstream": {"ca_file": files.ca_file},
            "log": {"level": "trace", "format": "json"},
        });
        Self {
            org,
            files,
            dir,
            port,
            config,
        }
    }

    fn grant(&mut self) -> &mut Value {
        &mut self.config["orgs"]["main"]["grant"]["refresh_token"]
    }

    fn start(&self, args: &[&str]) -> Program {
        let file = self.dir.path().join("config.yaml");
        std::fs::write(&file, self.config.to_string()).unwrap();
        Program::start(&[args, &["--config", file.to_str().unwrap()]].concat(), &[])
    }

    /// Runs to its end.
    async fn ended(&self, args: &[&str]) -> Told {
        self.start(args).ended().await
    }

    /// A whole login.
    async fn log_in(&self) -> Told {
        let login = self.start(&["login"]);
        let location = self.press(&login.url().await, "allow").await;
        let page = self.follow(&location).await;
        assert!(page.text().contains("Logged in"), "{}", page.text());
        let told = login.ended().await;
        assert_eq!(told.code, 0, "{told:?}");
        told
    }

    /// What the person does at the consent page; where the browser is sent.
    async fn press(&self, url: &str, decision: &str) -> String {
        let tls = sf_token_proxy::tls::client_config(Some(&self.files.ca_file)).unwrap();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        let shown = client.get(url).send().await.unwrap();
        assert!(shown.text().await.unwrap().contains("oaapprove"));
        let answer = client.post(url).form(&[("decision", decision)]).send().await.unwrap();
        assert_eq!(answer.status(), 302);
        answer.headers()["location"].to_str().unwrap().to_owned()
    }

    /// The callback, then the page that the browser ends at.
    async fn follow(&self, location: &str) -> Reply {
        let sent = self.get(location).await;
        assert_eq!(
            (sent.status, sent.header("location")),
            (303, vec!["/done"]),
            "{}",
            sent.head
        );
        assert_eq!(sent.header("referrer-policy"), ["no-referrer"]);
        assert!(sent.body.is_empty());
        let page = self.get("/done").await;
        assert_eq!(page.status, 200, "{}", page.head);
        assert_eq!(page.header("cache-control"), ["no-store"]);
        assert_eq!(page.header("referrer-policy"), ["no-referrer"]);
        assert!(page.header("content-security-policy")[0].starts_with("default-src 'none'"));
        let code = parameter(location, "code").unwrap_or("no code".into());
        let state = parameter(location, "state").unwrap();
        assert!(!page.text().contains(&code) && !page.text().contains(&state));
        page
    }

    async fn get(&self, address: &str) -> Reply {
        let path = address.strip_prefix(&format!("http://localhost:{}", self.port));
        self.raw("GET", path.unwrap_or(address), &format!("localhost:{}", self.port))
            .await
    }

    async fn raw(&self, method: &str, target: &str, host: &str) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_reply(&mut stream, false).await.expect("an answer")
    }

    /// The sealed records.
    fn records(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join("store")) else {
            return vec![];
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|e| e == "sealed"))
            .collect()
    }

    async fn run(&self) -> Proxy {
        let program = self.start(&["run"]);
        let line = program.line(|line| line.contains("\"listening\"")).await;
        let event: Value = serde_json::from_str(&line).unwrap();
        Proxy {
            address: event["proxy"].as_str().unwrap().parse().unwrap(),
            program,
        }
    }
}

fn parameter(address: &str, name: &str) -> Option<String> {
    let url = Url::parse(address).unwrap();
    let found = url.query_pairs().find(|(known, _)| known == name)?;
    Some(found.1.into_owned())
}

/// A program that runs; killed if the test forgets it.
struct Program {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Told {
    code: i32,
    out: String,
    err: String,
}

impl Program {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"))
            .args(args)
            .env_clear()
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (out, err) = <(Arc<Mutex<String>>, Arc<Mutex<String>>)>::default();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let (to_out, to_err) = (Arc::clone(&out), Arc::clone(&err));
        let readers = vec![
            std::thread::spawn(move || {
                let mut line = String::new();
                while lines.read_line(&mut line).unwrap_or(0) > 0 {
                    to_out.lock().unwrap().push_str(&line);
                    line.clear();
                }
            }),
            std::thread::spawn(move || {
                let mut text = String::new();
                errors.read_to_string(&mut text).unwrap();
                *to_err.lock().unwrap() = text;
            }),
        ];
        Self {
            child,
            out,
            err,
            readers,
        }
    }

    /// The first line on stdout that fits.
    async fn line(&self, fits: impl Fn(&str) -> bool) -> String {
        let found = || {
            self.out
                .lock()
                .unwrap()
                .lines()
                .find(|line| fits(line))
                .map(str::to_owned)
        };
        eventually("the line is printed", found, Option::is_some).await.unwrap()
    }

    /// The address that was printed.
    async fn url(&self) -> String {
        let line = self.line(|line| line.contains("/services/oauth2/authorize?")).await;
        line.trim().to_owned()
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Its end; no secret may have been printed.
    async fn ended(mut self) -> Told {
        let status = eventually(
            "the program ends",
            || self.child.try_wait().unwrap().map(|status| status.code()),
            Option::is_some,
        );
        let code = status.await.flatten().expect("an exit code");
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let told = Told {
            code,
            out: self.out.lock().unwrap().clone(),
            err: self.err.lock().unwrap().clone(),
        };
        told.holds_no_secret();
        told
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Told {
    /// Neither the app's secret nor any code, access token or refresh token of the practice org; the state is in the
    /// printed address only.
    fn holds_no_secret(&self) {
        let all = format!("{}{}", self.out, self.err);
        for secret in [CANARY_SECRET, "CANARY", "aPrx", "!AQ4AQ", "5Aep861", "code_verifier"] {
            assert!(!all.contains(secret), "{secret}:\n{all}");
        }
        if let Some(url) = self.out.lines().find(|line| line.contains("/authorize?")) {
            let state = parameter(url.trim(), "state").unwrap();
            assert_eq!(state.len(), 43, "256 bits");
            assert_eq!(all.matches(&state).count(), 1, "{all}");
            // nor the verifier that the challenge is the hash of
            let challenge = parameter(url.trim(), "code_challenge").unwrap();
            let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            for text in all.split(|c| !word(c)).filter(|text| text.len() == 43) {
                let hash = digest(&SHA256, text.as_bytes());
                assert_ne!(BASE64_URL_SAFE_NO_PAD.encode(hash), challenge, "{all}");
            }
        }
    }
}

struct Proxy {
    address: SocketAddr,
    program: Program,
}

const QUERY: &str = "GET /services/data/v60.0/query?q=SELECT+Id+FROM+Account+LIMIT+1 HTTP/1.1";

impl Proxy {
    async fn query(&self) -> Reply {
        call(self.address, QUERY, b"").await
    }

    /// Calls until the answer has this status, for at most `limit`.
    async fn until(&self, status: u16, limit: Duration) -> Reply {
        let began = Instant::now();
        loop {
            let reply = self.query().await;
            if reply.status == status {
                return reply;
            }
            assert!(began.elapsed() < limit, "still {}: {}", reply.status, reply.text());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(self) {
        self.program.signal("TERM");
        assert_eq!(self.program.ended().await.code, 0);
    }
}

#[tokio::test]
async fn a_person_allows_and_the_proxy_serves_without_a_login_of_its_own() {
    for app in 0..3 {
        let stage = Stage::of_app(app, |_| {}).await;
        let told = stage.log_in().await;
        let user = &stage.files.web[app].username;
        let host = stage.files.base_url.strip_prefix("https://").unwrap();
        for part in [
            "org `main`",
            user,
            stage.org.org_id(),
            "User id: 005",
            host,
            "running proxy",
            stage.dir.path().join("store").to_str().unwrap(),
        ] {
            assert!(told.out.contains(part), "{part}: {}", told.out);
        }
        assert!(!told.out.contains("Warning"), "{}", told.out);
        for event in ["\"event\":\"minted\"", "\"event\":\"store_write\"", "\"by\":\"login\""] {
            assert!(told.err.contains(event), "{event}: {}", told.err);
        }
        let sealed = std::fs::read(&stage.records()[0]).unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("5Aep861"), "sealed");

        let before = stage.org.stats().token_requests;
        let proxy = stage.run().await;
        assert_eq!(proxy.query().await.status, 200);
        assert_eq!(stage.org.stats().token_requests, before, "taken from the store");
        // and it renews with the refresh token
        stage.org.revoke();
        assert_eq!(proxy.query().await.status, 200);
        assert_eq!(stage.org.stats().token_requests, before + 1);
        proxy.stop().await;
        stage.org.stop().await;
    }
}

#[tokio::test]
async fn a_person_denies_and_nothing_is_stored() {
    let stage = Stage::new(|_| {}).await;
    let login = stage.start(&["login", "main", "--no-browser"]);
    let location = stage.press(&login.url().await, "deny").await;
    assert!(location.contains("error=access_denied"));
    let page = stage.follow(&location).await.text();
    let told = login.ended().await;
    assert_eq!(told.code, 1);
    for part in [
        "access_denied: end-user denied authorization",
        "Connected Apps OAuth Usage",
    ] {
        assert!(
            told.err.contains(part) && page.contains(part),
            "{part}: {page}\n{}",
            told.err
        );
    }
    assert!(told.err.contains("\"reason\":\"browser_flow\""), "{}", told.err);
    assert!(stage.records().is_empty());
    assert_eq!(stage.org.stats().token_requests, 0);
    stage.org.stop().await;
}

#[tokio::test]
async fn a_callback_that_is_not_ours_changes_nothing_and_ours_counts_once() {
    let stage = Stage::new(|_| {}).await;
    let mut login = stage.start(&["login"]);
    let location = stage.press(&login.url().await, "allow").await;
    let target = location
        .strip_prefix(&format!("http://localhost:{}", stage.port))
        .unwrap();
    let state = parameter(&location, "state").unwrap();
    let here = format!("localhost:{}", stage.port);

    let foreign = format!("/OauthRedirect?code=x&state={}", "A".repeat(43));
    assert_eq!(stage.get(&foreign).await.status, 400);
    let foreign = format!("/OauthRedirect?error=access_denied&state={}", "A".repeat(43));
    assert_eq!(stage.get(&foreign).await.status, 400);
    for host in ["evil.example", &format!("evil.example:{}", stage.port), "localhost"] {
        assert_eq!(stage.raw("GET", target, host).await.status, 400, "{host}");
    }
    assert_eq!(stage.raw("POST", target, &here).await.status, 400);
    let twice = format!("/OauthRedirect?code=x&state={state}&state={state}");
    assert_eq!(stage.get(&twice).await.status, 400);
    for elsewhere in ["/", "/done", "/favicon.ico", "/OauthRedirect/"] {
        assert_eq!(stage.get(elsewhere).await.status, 404, "{elsewhere}");
    }
    assert!(login.is_running());
    assert_eq!(stage.org.stats().token_requests, 0, "nothing was exchanged");

    assert_eq!(stage.get(&location).await.status, 303);
    let again = stage.get(&location).await;
    assert_eq!(again.status, 400);
    assert!(again.text().contains("used already"), "{}", again.text());
    assert!(stage.get("/done").await.text().contains("Logged in"));
    assert_eq!(login.ended().await.code, 0);
    assert_eq!(stage.org.stats().token_requests, 1);
    stage.org.stop().await;
}

#[tokio::test]
async fn what_the_org_would_tell_the_browser_alone_is_explained_before_it_is_opened() {
    let mut stage = Stage::new(|settings| settings.web_apps[1].scopes = vec!["api".into(), "id".into()]).await;
    let other = format!("http://localhost:{}/another", stage.port);
    let callback = stage.grant()["login"]["callback_url"].clone();
    stage.grant()["login"]["callback_url"] = json!(other);
    let told = stage.ended(&["login"]).await;
    assert_eq!(told.code, 1);
    for part in ["redirect_uri_mismatch", "`login.callback_url`", &other] {
        assert!(told.err.contains(part), "{part}: {}", told.err);
    }
    assert!(!told.out.contains("http"), "no address: {}", told.out);

    stage.grant()["login"]["callback_url"] = callback;
    stage.grant()["client_id"] = json!("3MVG9wrong");
    let told = stage.ended(&["login"]).await;
    assert_eq!(told.code, 1);
    for part in [
        "invalid_client_id: client identifier invalid",
        "Consumer Key",
        "3MVG9wrong",
    ] {
        assert!(told.err.contains(part), "{part}: {}", told.err);
    }
    assert!(!told.out.contains("http"), "no address: {}", told.out);

    // an app that may not give refresh tokens
    let id = stage.files.web[1].client_id.clone();
    stage.grant()["client_id"] = json!(id);
    let told = stage.ended(&["login"]).await;
    assert_eq!(told.code, 1);
    assert!(
        told.err.contains("invalid_scope") && told.err.contains("api refresh_token"),
        "{}",
        told.err
    );
    assert!(stage.records().is_empty());
    stage.org.stop().await;
}

#[tokio::test]
async fn a_wrong_secret_is_explained_in_the_browser_and_on_the_terminal() {
    let mut stage = Stage::new(|_| {}).await;
    let secret = stage.dir.path().join("wrong");
    std::fs::write(&secret, "CANARYwrong").unwrap();
    stage.grant()["client_secret"] = json!(format!("file:{}", secret.display()));
    let login = stage.start(&["login"]);
    let location = stage.press(&login.url().await, "allow").await;
    let page = stage.follow(&location).await.text();
    let told = login.ended().await;
    assert_eq!(told.code, 1);
    for part in ["invalid_client: invalid client credentials", "Consumer Secret"] {
        assert!(
            told.err.contains(part) && page.contains(part),
            "{part}: {page}\n{}",
            told.err
        );
    }
    assert!(page.contains("Not logged in") && stage.records().is_empty());
    stage.org.stop().await;
}

#[tokio::test]
async fn an_answer_without_a_refresh_token_is_not_stored() {
    let mut stage = Stage::new(|_| {}).await;
    let org = RawOrg::start(|_| Script::ok()).await;
    stage.config["orgs"]["main"]["login_url"] = json!(org.url());
    let login = stage.start(&["login"]);
    let state = parameter(&login.url().await, "state").unwrap();
    let location = format!(
        "http://localhost:{}/OauthRedirect?code=aPrxCANARY&state={state}",
        stage.port
    );
    let page = stage.follow(&location).await.text();
    let told = login.ended().await;
    assert_eq!(told.code, 1);
    for part in [
        "no refresh token",
        "refresh_token, offline_access",
        "grant.refresh_token.login.scopes",
    ] {
        assert!(
            told.err.contains(part) && page.contains(part),
            "{part}: {page}\n{}",
            told.err
        );
    }
    assert!(stage.records().is_empty());
    stage.org.stop().await;
}

#[tokio::test]
async fn a_token_that_may_not_call_the_api_is_stored_with_a_warning() {
    let mut stage = Stage::new(|_| {}).await;
    stage.grant()["login"]["scopes"] = json!(["id", "refresh_token"]);
    let told = stage.log_in().await;
    assert!(
        told.out.contains("Warning: the token may not call the API"),
        "{}",
        told.out
    );
    stage.org.stop().await;
}

#[tokio::test]
async fn what_the_configuration_has_wrong_is_told_with_78_and_the_place() {
    let mut stage = Stage::new(|_| {}).await;
    let good = stage.config.clone();
    let key = stage.files.jwt.as_ref().unwrap();
    let jwt = json!({"client_id": "3MVG9", "username": "a@b.example", "private_key": format!("file:{}", key.key_file.display())});
    type Change<'a> = (&'a str, Value, &'a [&'a str]);
    let missing = "file:/nonexistent/secret";
    let rows: &[Change<'_>] = &[
        (
            "/store",
            Value::Null,
            &["store:", "store:\n  file:\n    directory:", "key: file:"],
        ),
        (
            "/orgs/main/grant",
            json!({"jwt_bearer": jwt}),
            &["orgs.main.grant", "jwt_bearer", "private key"],
        ),
        (
            "/orgs/main/grant/refresh_token/client_secret",
            json!(missing),
            &["orgs.main.grant.refresh_token.client_secret", missing],
        ),
        ("/orgs/main/login_url", json!("ftp://x"), &["orgs.main.login_url"]),
    ];
    for (at, value, parts) in rows {
        stage.config = good.clone();
        *stage.config.pointer_mut(at).unwrap() = value.clone();
        stage.config.as_object_mut().unwrap().retain(|_, part| !part.is_null());
        let told = stage.ended(&["login"]).await;
        assert_eq!(told.code, 78, "{at}: {told:?}");
        for part in *parts {
            assert!(told.err.contains(part), "{part}: {}", told.err);
        }
        assert!(!told.out.contains("http"), "{}", told.out);
    }
    stage.config = good.clone();
    stage.grant()["refresh_token"] = json!(missing);
    let told = stage.ended(&["login"]).await;
    assert_eq!(told.code, 78, "{told:?}");
    assert!(
        told.err.contains("orgs.main.grant.refresh_token.refresh_token"),
        "{}",
        told.err
    );

    stage.config = good;
    for command in ["login", "logout"] {
        let told = stage.ended(&[command, "mian"]).await;
        assert_eq!(told.code, 64, "{told:?}");
        assert!(
            told.err.contains("no org `mian`") && told.err.contains("main"),
            "{}",
            told.err
        );
    }
    let org = stage.config["orgs"]["main"].clone();
    stage.config["orgs"]["second"] = org;
    let listener = |org: &str| json!({"address": "127.0.0.1:0", "org": org});
    stage.config["listeners"] = json!([listener("main"), listener("second")]);
    let told = stage.ended(&["login"]).await;
    assert_eq!(told.code, 64, "{told:?}");
    assert!(told.err.contains("say which org: main, second"), "{}", told.err);
    stage.org.stop().await;
}

#[tokio::test]
async fn a_taken_port_and_a_damaged_record_are_told_before_the_address() {
    let stage = Stage::new(|_| {}).await;
    for address in ["127.0.0.1", "::1"] {
        let _taken = std::net::TcpListener::bind((address, stage.port)).unwrap();
        let told = stage.ended(&["login"]).await;
        assert_eq!(told.code, 1);
        assert!(
            told.err.contains("orgs.main.grant.refresh_token.login.callback_url")
                && told.err.contains(&stage.port.to_string()),
            "{}",
            told.err
        );
        assert!(!told.out.contains("http"), "{}", told.out);
    }
    stage.log_in().await;
    let record = &stage.records()[0];
    std::fs::write(record, "garbage").unwrap();
    for command in ["login", "logout"] {
        let told = stage.ended(&[command]).await;
        assert_eq!(told.code, 1);
        assert!(told.err.contains(record.to_str().unwrap()), "{}", told.err);
        assert!(!told.out.contains("http"), "{}", told.out);
    }
    assert_eq!(std::fs::read(record).unwrap(), b"garbage", "left as it is");
    stage.org.stop().await;
}

#[tokio::test]
async fn ctrl_c_ends_it_at_once() {
    let stage = Stage::new(|_| {}).await;
    for args in [&["login"][..], &["login", "--device"]] {
        let login = stage.start(args);
        login.line(|line| line.contains("Ctrl-C")).await;
        let told = Instant::now();
        login.signal("INT");
        assert_eq!(login.ended().await.code, 130);
        assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    }
    stage.org.stop().await;
}

#[tokio::test]
async fn the_persons_browser_is_given_the_address_unless_told_not_to() {
    let stage = Stage::new(|_| {}).await;
    let dir = stage.dir.path();
    let file = dir.join("config.yaml");
    std::fs::write(&file, stage.config.to_string()).unwrap();
    let (script, opened) = (dir.join("browser"), dir.join("opened"));
    std::fs::write(
        &script,
        format!(
            "#!/bin/sh\nprintf %s \"$1\" > {0}.part && mv {0}.part {0}\n",
            opened.display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let env = [("BROWSER", script.to_str().unwrap()), ("PATH", "/usr/bin:/bin")];
    let login = ["login", "--config", file.to_str().unwrap()];
    let program = Program::start(&login, &env);
    let url = program.url().await;
    let seen = || std::fs::read_to_string(&opened).unwrap_or_default();
    assert_eq!(eventually("it is opened", seen, |text| !text.is_empty()).await, url);
    program.signal("INT");
    program.ended().await;
    std::fs::remove_file(&opened).unwrap();
    let program = Program::start(&[&login[..], &["--no-browser"]].concat(), &env);
    stage.follow(&stage.press(&program.url().await, "allow").await).await;
    assert_eq!(program.ended().await.code, 0);
    assert!(!opened.exists());
    stage.org.stop().await;
}

#[tokio::test]
async fn a_device_is_allowed_denied_or_too_late() {
    let stage = Stage::new(|_| {}).await;
    let code = async |login: &Program| {
        login.line(|line| line.contains("/setup/connect")).await;
        let code = |line: &str| line.len() == 10 && line.starts_with("  ");
        login.line(code).await.trim().to_owned()
    };
    let login = stage.start(&["login", "--device"]);
    let user_code = code(&login).await;
    assert!(stage.org.approve_device(&user_code, false));
    let told = login.ended().await;
    assert_eq!(told.code, 1);
    assert!(
        told.err.contains("access_denied: end-user denied authorization"),
        "{}",
        told.err
    );
    assert!(stage.records().is_empty());

    let login = stage.start(&["login", "--device"]);
    code(&login).await;
    stage.org.advance(Duration::from_secs(601));
    let told = login.ended().await;
    assert_eq!(told.code, 1);
    assert!(
        told.err.contains("expired device code") && told.err.contains("run the command again"),
        "{}",
        told.err
    );

    let login = stage.start(&["login", "--device"]);
    let user_code = code(&login).await;
    assert!(stage.org.approve_device(&user_code, true));
    let told = login.ended().await;
    assert_eq!(told.code, 0, "{told:?}");
    for part in ["30 November 2026", "person@practice.example", "org `main`"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    let proxy = stage.run().await;
    assert_eq!(proxy.query().await.status, 200);
    proxy.stop().await;
    stage.org.stop().await;
}

#[tokio::test]
async fn a_running_proxy_heals_after_login_and_needs_one_again_after_logout() {
    let stage = Stage::new(|_| {}).await;
    let proxy = stage.run().await;
    let reply = proxy.query().await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("sf-token-proxy login main"), "{}", reply.text());
    stage.log_in().await;
    proxy.until(200, Duration::from_secs(15)).await;

    let told = stage.ended(&["logout", "main"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("Revoked at Salesforce"), "{}", told.out);
    for event in [
        "\"event\":\"revoked\"",
        "\"event\":\"store_forget\"",
        "\"by\":\"logout\"",
    ] {
        assert!(told.err.contains(event), "{event}: {}", told.err);
    }
    assert!(stage.records().is_empty());
    assert_eq!(stage.org.revoke_refresh_tokens(), 0, "it was revoked at the org");
    let reply = proxy.until(503, Duration::from_secs(15)).await;
    assert!(reply.text().contains("sf-token-proxy login main"), "{}", reply.text());

    // nothing is left to forget
    let told = stage.ended(&["logout"]).await;
    assert_eq!(told.code, 0);
    assert!(told.out.contains("Nothing is stored for org `main`"), "{}", told.out);

    stage.log_in().await;
    proxy.until(200, Duration::from_secs(15)).await;
    proxy.stop().await;
    stage.org.stop().await;
}

#[tokio::test]
async fn what_cannot_be_revoked_is_kept_unless_forced() {
    let stage = Stage::new(|_| {}).await;
    stage.log_in().await;
    stage.org.down(true, true);
    let told = stage.ended(&["logout"]).await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(
        told.err.contains("not revoked") && told.err.contains("--force"),
        "{}",
        told.err
    );
    assert_eq!(stage.records().len(), 1);
    let told = stage.ended(&["logout", "--force"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("Not revoked"), "{}", told.out);
    assert!(stage.records().is_empty());

    // one that the org does not know any more is gone anyway
    stage.org.down(false, false);
    stage.log_in().await;
    stage.org.revoke_refresh_tokens();
    let told = stage.ended(&["logout"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.out.contains("knew the token no more"), "{}", told.out);
    assert!(stage.records().is_empty());
    stage.org.stop().await;
}

#[tokio::test]
async fn a_login_counts_before_the_refresh_token_of_the_configuration() {
    let mut stage = Stage::new(|_| {}).await;
    let seed = stage.dir.path().join("seed");
    std::fs::write(&seed, "5Aep861CANARYold").unwrap();
    stage.grant()["refresh_token"] = json!(format!("file:{}", seed.display()));
    stage.log_in().await;
    let proxy = stage.run().await;
    assert_eq!(proxy.query().await.status, 200);
    stage.org.revoke();
    assert_eq!(proxy.query().await.status, 200, "renewed with what the login brought");
    proxy.stop().await;
    let told = stage.ended(&["logout"]).await;
    assert!(
        told.out.contains("refresh_token is still configured")
            || told.out.contains("refresh_token` is still configured"),
        "{}",
        told.out
    );
    stage.org.stop().await;
}

#[tokio::test]
async fn each_login_is_the_next_of_its_kind_for_a_proxy_that_holds_an_older_token() {
    let stage = Stage::new(|_| {}).await;
    stage.log_in().await;
    let proxy = stage.run().await;
    assert_eq!(proxy.query().await.status, 200);
    // somebody else ends everything; the stored refresh token is dead, then a person logs in again
    stage.org.revoke_refresh_tokens();
    proxy.until(503, Duration::from_secs(15)).await;
    stage.log_in().await;
    let before = stage.org.stats().token_requests;
    proxy.until(200, Duration::from_secs(15)).await;
    assert_eq!(
        stage.org.stats().token_requests,
        before,
        "the login's own token was taken up"
    );
    proxy.stop().await;
    stage.org.stop().await;
}
