//! `sf-token-proxy run --config` against the practice org, as many as a test wants, on one store.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use sf_token_proxy::demo::{Org, Settings, Summary};
use tokio::time::Instant;

pub(crate) const LIMITS: &str = "/services/data/v60.0/limits";

/// A practice org, and a directory for what its proxies need.
pub(crate) struct Site {
    pub(crate) org: Org,
    pub(crate) files: Summary,
    pub(crate) folder: tempfile::TempDir,
}

impl Site {
    /// Without TLS, and with web apps that are approved without ado.
    pub(crate) async fn new(adapt: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::practice().unwrap();
        settings.plain_http = true;
        for app in &mut settings.web_apps {
            app.require_secret_for_web = false;
            app.require_pkce = false;
        }
        adapt(&mut settings);
        let mut org = Org::start(settings).await.unwrap();
        let files = org.write_files(None).unwrap();
        let site = Self {
            org,
            files,
            folder: tempfile::tempdir().unwrap(),
        };
        site.put("key", &"07".repeat(32));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in place of another; returns how a configuration calls it.
    pub(crate) fn put(&self, name: &str, text: &str) -> String {
        let next = self.path(&format!("{name}.next"));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.path(name)).unwrap();
        file(&self.path(name))
    }

    /// A grant's configuration with the first, second or third web app; its secret in the body, if it has one.
    pub(crate) fn refresh_grant(&self, app: usize, seed: Option<&str>) -> Value {
        let web = &self.files.web[app];
        let mut grant = json!({"client_id": web.client_id, "login": {"callback_url": web.callbacks[0]}});
        if let Some(secret) = &web.secret_file {
            grant["client_secret"] = file(secret).into();
        }
        if let Some(key) = &web.key_file {
            grant["private_key"] = file(key).into();
        }
        if let Some(seed) = seed {
            grant["refresh_token"] = self.put("seed", seed).into();
        }
        json!({ "refresh_token": grant })
    }

    pub(crate) fn credentials(&self) -> Value {
        let app = self.files.client_credentials.as_ref().unwrap();
        json!({"client_credentials": {"client_id": app.client_id, "client_secret": file(&app.secret_file)}})
    }

    /// One org called `main`, a file store, JSON logs of everything.
    pub(crate) fn config(&self, grant: &Value) -> Value {
        json!({
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "orgs": {"main": {"login_url": self.files.login_url, "grant": grant}},
            "store": {"file": {"directory": self.path("records"), "key": file(&self.path("key"))}},
            "log": {"format": "json", "level": "trace", "requests": true},
        })
    }

    pub(crate) fn start(&self, config: &Value) -> Program {
        self.start_with(config, &[])
    }

    pub(crate) fn start_with(&self, config: &Value, environment: &[(&str, &Path)]) -> Program {
        let path = self.path(&format!("config{}.json", fastrand::u64(..)));
        std::fs::write(&path, config.to_string()).unwrap();
        Program::start(&path, environment)
    }

    /// A person says yes to a web app; its refresh token.
    pub(crate) fn approved(&self, app: usize) -> String {
        let web = &self.files.web[app];
        let encoded: String = url::form_urlencoded::byte_serialize(web.callbacks[0].as_bytes()).collect();
        let target = format!(
            "/services/oauth2/authorize?response_type=code&client_id={}&redirect_uri={encoded}",
            web.client_id
        );
        let answer = self.post(&target, "decision=allow");
        let location = answer.lines().find_map(|line| line.strip_prefix("location: "));
        let location = location.unwrap_or_else(|| panic!("no code: {answer}"));
        let code = location.trim().split_once("code=").unwrap().1;
        let form = format!(
            "grant_type=authorization_code&code={code}&client_id={}&redirect_uri={encoded}",
            web.client_id
        );
        self.granted(&form)["refresh_token"].as_str().unwrap().to_owned()
    }

    /// A token that this proxy did not mint.
    pub(crate) fn foreign_token(&self) -> String {
        let app = self.files.client_credentials.as_ref().unwrap();
        let secret = std::fs::read_to_string(&app.secret_file).unwrap();
        let form = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            app.client_id,
            secret.trim()
        );
        self.granted(&form)["access_token"].as_str().unwrap().to_owned()
    }

    fn granted(&self, form: &str) -> Value {
        let answer = self.post("/services/oauth2/token", form);
        // The one object of a body that may come in chunks.
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let (from, to) = (body.find('{').unwrap_or(0), body.rfind('}').map_or(0, |at| at + 1));
        serde_json::from_str(&body[from..to]).unwrap_or_else(|_| panic!("{answer}"))
    }

    fn post(&self, target: &str, form: &str) -> String {
        let host = self.files.login_url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        write!(
            stream,
            "POST {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        )
        .unwrap();
        read_all(&mut stream).1
    }

    /// All the sealed records.
    pub(crate) fn records(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("records")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|e| e == "sealed"))
            .collect()
    }
}

pub(crate) fn file(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// A running proxy; killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    /// Of each listener, in the order of the configuration.
    pub(crate) listeners: Vec<SocketAddr>,
    pub(crate) admin: SocketAddr,
    output: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Program {
    pub(crate) fn start(config: &Path, environment: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"));
        command.args(["run", "--config"]).arg(config);
        Self::start_by(command, environment)
    }

    /// `command` becomes the program.
    pub(crate) fn start_by(mut command: Command, environment: &[(&str, &Path)]) -> Self {
        let mut child = command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let (mut listeners, mut admin) = (Vec::new(), None);
        loop {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "ended before it listened");
            output.lock().unwrap().push_str(&line);
            let event: Value = serde_json::from_str(&line).expect("one JSON object a line");
            if event["message"] == "listening" {
                let address = |name: &str| event[name].as_str().map(str::to_owned);
                for text in address("proxy").iter().flat_map(|text| text.split([',', ' '])) {
                    listeners.extend(text.trim_matches(['[', ']', '"']).parse::<SocketAddr>());
                }
                admin = admin.or_else(|| address("admin")?.parse().ok());
                if admin.is_some() && !listeners.is_empty() {
                    break;
                }
            }
        }
        let collected = Arc::clone(&output);
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap_or(0) > 0 {
                collected.lock().unwrap().push_str(&line);
                line.clear();
            }
        });
        Self {
            child,
            listeners,
            admin: admin.unwrap(),
            output,
            reader: Some(reader),
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn proxy(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Status and text of one call.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.proxy(), path).expect("an answer")
    }

    /// One call that has to be served.
    pub(crate) fn serves(&self) {
        let (status, text) = self.get(LIMITS);
        assert_eq!(status, 200, "{text}\n{}", self.printed());
    }

    /// Calls until one is served; for what heals by itself.
    pub(crate) fn serves_soon(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.get(LIMITS).0 != 200 {
            assert!(Instant::now() < deadline, "{}", self.get(LIMITS).1);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn metrics(&self) -> String {
        get(self.admin, "/metrics").unwrap().1
    }

    pub(crate) fn metric(&self, series: &str) -> f64 {
        let page = self.metrics();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        line.unwrap_or_else(|| panic!("no {series} in\n{page}"))
    }

    pub(crate) fn printed(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// SIGKILL; what it printed.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.ended()
    }

    /// SIGKILL, where the test goes on with it.
    pub(crate) fn strike(&mut self) {
        self.child.kill().unwrap();
        self.ended();
    }

    /// Waits for its end; what it printed.
    pub(crate) fn ended(&mut self) -> String {
        self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.printed()
    }

    /// Its exit code and what it printed; it must end within `limit`.
    pub(crate) fn exit(&mut self, limit: Duration) -> (i32, String) {
        let deadline = Instant::now() + limit;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "still running:\n{}", self.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
        let code = self.child.wait().unwrap().code();
        (code.expect("an exit code, not a signal"), self.ended())
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `None`: the connection ended without an answer.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    Some(read_all(&mut stream)).filter(|(status, _)| *status != 0)
}

fn read_all(stream: &mut TcpStream) -> (u16, String) {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text)
}

/// Waits for something that happens elsewhere.
pub(crate) fn until(what: &str, mut good: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !good() {
        assert!(Instant::now() < deadline, "{what}: never");
        std::thread::sleep(Duration::from_millis(2));
    }
}
