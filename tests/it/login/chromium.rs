//! A real Chromium at the consent page, by the WebDriver protocol (chromedriver).
//!
//! `make browser` runs these; `.ci/tools` installs Debian's `chromium` and `chromium-driver`.

use std::io::Write as _;

use super::*;

/// chromedriver and one headless browser with a profile of its own; both end with this.
struct Chromium {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
}

impl Chromium {
    async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver must be there; .ci/tools installs it");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .find_map(|line| {
                let line = line.unwrap();
                let rest = line.split_once("started successfully on port ")?.1;
                rest.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("chromedriver says its port");
        // It goes on printing.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _profile: profile,
        };
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        // The practice org's certificate is of its own CA.
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"args": arguments},
        }}});
        let made = browser.ask("POST", "/session", wanted).await;
        browser.session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        browser
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let lines = format!(
            "{method} {path} HTTP/1.1\nContent-Type: application/json\nConnection: close\nContent-Length: {}",
            body.len()
        );
        let asking = call(self.address, &lines, body.as_bytes());
        let reply = tokio::time::timeout(Duration::from_secs(60), asking).await;
        let reply = reply.expect("chromedriver answers within a minute");
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
        serde_json::from_slice::<Value>(&reply.body).unwrap()["value"].take()
    }

    async fn go(&self, url: &str) {
        let path = format!("{}/url", self.session);
        self.ask("POST", &path, json!({"url": url})).await;
    }

    async fn url(&self) -> String {
        let path = format!("{}/url", self.session);
        self.ask("GET", &path, Value::Null).await.as_str().unwrap().to_owned()
    }

    async fn element(&self, selector: &str) -> String {
        let path = format!("{}/element", self.session);
        let found = self
            .ask("POST", &path, json!({"using": "css selector", "value": selector}))
            .await;
        let id = found.as_object().unwrap().values().next().unwrap();
        format!("{}/element/{}", self.session, id.as_str().unwrap())
    }

    async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.ask("POST", &format!("{element}/click"), json!({})).await;
    }

    async fn text(&self) -> String {
        let element = self.element("body").await;
        let text = self.ask("GET", &format!("{element}/text"), Value::Null).await;
        text.as_str().unwrap().to_owned()
    }

    /// Waits for the page after a click.
    async fn arrives(&self, url: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.url().await != url {
            assert!(Instant::now() < deadline, "still at {}", self.url().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn script(&self, script: &str) -> Value {
        let path = format!("{}/execute/sync", self.session);
        self.ask("POST", &path, json!({"script": script, "args": []})).await
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The browser ends with its session, not with the driver; also when a test fails.
        let ended = std::net::TcpStream::connect(self.address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "DELETE {} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.session)?;
            stream.read(&mut [0; 64])
        });
        drop(ended);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[tokio::test]
#[ignore = "needs Chromium; `make browser` runs it"]
async fn chromium_allows_and_the_proxy_serves() {
    let stage = Stage::new(|_| {}).await;
    let login = stage.start(&["login", "--no-browser"]);
    let browser = Chromium::start().await;
    browser.go(&login.url().await).await;
    assert!(browser.text().await.contains("person@practice.example"));
    browser.click("#oaapprove").await;
    // the address bar has no code
    browser.arrives(&format!("http://localhost:{}/done", stage.port)).await;
    let page = browser.text().await;
    for part in ["Logged in", "person@practice.example", stage.org.org_id(), "main"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(browser.script("return document.referrer").await, "");
    let told = login.ended().await;
    assert_eq!(told.code, 0, "{told:?}");
    drop(browser);

    let before = stage.org.stats().token_requests;
    let proxy = stage.run().await;
    let reply = proxy.query().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(stage.org.stats().token_requests, before);
    proxy.stop().await;
    stage.org.stop().await;
}

#[tokio::test]
#[ignore = "needs Chromium; `make browser` runs it"]
async fn chromium_denies_and_sees_why() {
    let stage = Stage::new(|_| {}).await;
    let login = stage.start(&["login", "--no-browser"]);
    let browser = Chromium::start().await;
    browser.go(&login.url().await).await;
    browser.click("#oadeny").await;
    browser.arrives(&format!("http://localhost:{}/done", stage.port)).await;
    let page = browser.text().await;
    for part in [
        "Not logged in",
        "access_denied: end-user denied authorization",
        "Connected Apps OAuth Usage",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let told = login.ended().await;
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.err.contains("access_denied"), "{}", told.err);
    assert!(stage.records().is_empty());
    drop(browser);
    stage.org.stop().await;
}
