//! A changed configuration, key or certificate while the program runs.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};
use sf_token_proxy::reload::{Outcome, Reloader};
use tokio::{io::AsyncWriteExt as _, task::JoinSet};

use crate::support::{RawOrg, RawRequest, Running, Script, call, client::ask, connect, eventually, read_reply};

/// An org that answers with the token it was called with.
pub(crate) async fn org() -> RawOrg {
    RawOrg::start(|request: &RawRequest| Script::json("200 OK", &json!(request.token()).to_string())).await
}

/// A program with a configuration of its own to change.
pub(crate) struct Changing {
    pub(crate) app: Running,
    reloader: Reloader,
    pub(crate) config: Value,
}

impl Changing {
    pub(crate) async fn start(org: &RawOrg) -> Self {
        Self::start_with(org, |_| {}).await
    }

    pub(crate) async fn start_with(org: &RawOrg, adapt: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "first").unwrap();
        let mut config = json!({
            "listeners": [{"address": "127.0.0.1:0", "org": "main"}],
            "admin": {"address": "127.0.0.1:0"},
            "reload": {"interval": "0s"},
            "orgs": {"main": of(&org.url(), folder.path())},
        });
        adapt(&mut config);
        Self::begin(folder, config).await
    }

    pub(crate) async fn begin(folder: tempfile::TempDir, config: Value) -> Self {
        fs::write(folder.path().join("config.yaml"), config.to_string()).unwrap();
        let (app, reloader) = Running::start_from(folder, "config.yaml").await;
        let this = Self { app, reloader, config };
        // The first look is over once it has answered.
        assert_eq!(this.look().await, Outcome::Unchanged);
        this
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.app.folder().join(file), text).unwrap();
    }

    pub(crate) async fn look(&self) -> Outcome {
        self.reloader.reload().await.expect("the program runs")
    }

    /// Changes the file and looks.
    pub(crate) async fn change(&mut self, change: impl FnOnce(&mut Value)) -> Outcome {
        change(&mut self.config);
        self.write("config.yaml", &self.config.to_string());
        self.look().await
    }

    pub(crate) async fn get(&self) -> (u16, String) {
        get(self.app.proxy).await
    }

    /// Addresses by the listeners' order.
    async fn listeners(&self) -> Vec<SocketAddr> {
        let status = self.app.status().await;
        let listeners = status["listeners"].as_array().unwrap().iter();
        listeners
            .map(|listener| listener["addresses"][0].as_str().unwrap().parse().unwrap())
            .collect()
    }
}

fn of(url: &str, folder: &Path) -> Value {
    json!({
        "login_url": url,
        "grant": {"client_credentials": {
            "client_id": "id", "client_secret": format!("file:{}", folder.join("secret").display()), "send_secret": "body",
        }},
    })
}

async fn get(address: SocketAddr) -> (u16, String) {
    let reply = call(address, "GET /services/data/v60.0/ HTTP/1.1", b"").await;
    (reply.status, reply.text())
}

pub(crate) fn problem(outcome: Outcome) -> String {
    match outcome {
        Outcome::Refused(problems) => problems.to_string(),
        other => panic!("{other:?}"),
    }
}

const RELOADS_OK: &str = "sf_token_proxy_config_reloads_total{result=\"ok\"}";
const RELOADS_FAILED: &str = "sf_token_proxy_config_reloads_total{result=\"failed\"}";
const LAST: &str = "sf_token_proxy_config_last_reload_successful";

#[tokio::test]
async fn listeners_come_and_go_and_the_others_do_not_notice() {
    let org = org().await;
    let mut this = Changing::start(&org).await;
    let mut kept = connect(this.app.proxy).await;
    assert_eq!(ask(&mut kept, "GET /services/data/ HTTP/1.1").await.status, 200);
    let two = json!([{"address": "127.0.0.1:0", "org": "main"}, {"address": "127.0.0.1:0", "org": "main"}]);
    assert_eq!(this.change(|config| config["listeners"] = two).await, Outcome::Taken);
    let listeners = this.listeners().await;
    assert_eq!(listeners[0], this.app.proxy);
    assert_eq!(get(listeners[1]).await.0, 200);
    // The connection of before is the same, and its listener's rules are the new ones.
    assert_eq!(ask(&mut kept, "GET /services/data/ HTTP/1.1").await.status, 200);
    assert_eq!(ask(&mut kept, "GET /odd/path HTTP/1.1").await.status, 403);
    let one = json!([{"address": "127.0.0.1:0", "org": "main", "extra_paths": ["/odd/"]}]);
    assert_eq!(this.change(|config| config["listeners"] = one).await, Outcome::Taken);
    assert_eq!(ask(&mut kept, "GET /odd/path HTTP/1.1").await.status, 200);
    let gone = listeners[1];
    // The kernel closes it a moment after the task has let it go.
    eventually(
        "the port is free",
        || std::net::TcpListener::bind(gone).is_ok(),
        |free| *free,
    )
    .await;
    assert_eq!(org.logins(), 1);
    this.app.stop().await;
}

/// Answers after a while to what asks for it.
async fn slow_org() -> RawOrg {
    let play = |request: &RawRequest| {
        let Script::Say(answer) = Script::json("200 OK", &json!(request.token()).to_string()) else {
            unreachable!("an answer");
        };
        match request.target().contains("slow") {
            true => Script::Slowly(vec![(Duration::from_millis(400), answer)]),
            false => Script::Say(answer),
        }
    };
    RawOrg::start(play).await
}

const SLOW: &[u8] = b"GET /services/data/v60.0/slow HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn calls_in_flight_finish_under_what_they_began_with() {
    let (first, second) = (slow_org().await, slow_org().await);
    let mut this = Changing::start_with(&first, |config| {
        config["listeners"] = json!([
            {"address": "127.0.0.1:0", "org": "main"}, {"address": "127.0.0.1:0", "org": "main"}
        ]);
    })
    .await;
    let listeners = this.listeners().await;
    let (mut stays, mut goes) = (connect(listeners[0]).await, connect(listeners[1]).await);
    for stream in [&mut stays, &mut goes] {
        stream.write_all(SLOW).await.unwrap();
    }
    eventually("both are under way", || first.seen().len(), |seen| *seen == 2).await;
    let other = of(&second.url(), this.app.folder());
    let changed = this
        .change(|config| {
            config["orgs"] = json!({"other": other});
            config["listeners"] = json!([{"address": "127.0.0.1:0", "org": "other"}]);
        })
        .await;
    assert_eq!(changed, Outcome::Taken);
    assert_eq!(get(listeners[0]).await.0, 200);
    assert_eq!(second.seen().len(), 1, "new calls go to the new org");
    for stream in [&mut stays, &mut goes] {
        assert_eq!(read_reply(stream, false).await.unwrap().status, 200);
    }
    // What nobody needs any more ends.
    eventually("the org's connections end", || first.seen().len(), |seen| *seen == 2).await;
    let page = call(this.app.admin, "GET /metrics HTTP/1.1", b"").await.text();
    assert!(!page.contains("org=\"main\""), "{page}");
    assert!(
        page.contains("sf_token_proxy_token_state{org=\"other\",state=\"live\"} 1"),
        "{page}"
    );
    this.app.stop().await;
}

#[tokio::test]
async fn what_is_no_good_is_told_and_the_old_goes_on() {
    let org = org().await;
    let this = Changing::start(&org).await;
    assert_eq!(this.app.metric(LAST).await, 1.0);
    let good = this.config.to_string();
    for (text, expected) in [
        ("listeners: [".to_owned(), "not readable as YAML"),
        (good.replace("\"reload\"", "\"reloads\""), "reloads: unknown key"),
        (good.replace("127.0.0.1:0", "example.com:1"), "listeners[0].address"),
        (
            good.replace("/secret", "/not-there"),
            "orgs.main.grant.client_credentials.client_secret",
        ),
        (
            good.replacen("127.0.0.1:0", &this.app.admin.to_string(), 1),
            "admin.address: cannot listen on",
        ),
        (
            good.replace("\"admin\"", "\"upstream\":{\"ca_file\":\"/nowhere.pem\"},\"admin\""),
            "upstream.ca_file",
        ),
    ] {
        let failed = this.app.metric(RELOADS_FAILED).await;
        this.write("config.yaml", &text);
        let told = problem(this.look().await);
        assert!(told.contains(expected), "{told}");
        assert_eq!(this.app.metric(RELOADS_FAILED).await, failed + 1.0);
        assert_eq!(this.app.metric(LAST).await, 0.0);
        let status = this.app.status().await;
        let last = &status["configuration"]["last_reload"];
        assert_eq!(last["successful"], false);
        assert!(last["problems"][0].as_str().unwrap().contains(expected), "{status}");
        assert_eq!(this.get().await.0, 200);
    }
    let ok = this.app.metric(RELOADS_OK).await;
    this.write("config.yaml", &good);
    assert_eq!(this.look().await, Outcome::Unchanged);
    assert_eq!(this.app.metric(LAST).await, 1.0);
    assert_eq!(this.app.metric(RELOADS_OK).await, ok + 1.0);
    assert_eq!(
        this.app.status().await["configuration"]["last_reload"]["problems"],
        json!([])
    );
    assert_eq!(org.logins(), 1);
    this.app.stop().await;
}

#[tokio::test]
async fn the_file_is_looked_at_by_itself() {
    let org = org().await;
    let this = Changing::start_with(&org, |config| config["reload"]["interval"] = json!("1s")).await;
    let mut config = this.config.clone();
    config["listeners"][0]["extra_paths"] = json!(["/odd/"]);
    this.write("new", &config.to_string());
    fs::rename(this.app.folder().join("new"), this.app.folder().join("config.yaml")).unwrap();
    let started = tokio::time::Instant::now();
    while call(this.app.proxy, "GET /odd/path HTTP/1.1", b"").await.status != 200 {
        assert!(started.elapsed() < Duration::from_secs(15), "nobody looks");
    }
    this.app.stop().await;
}

#[tokio::test]
async fn a_changed_secret_counts_from_the_next_login_on_and_a_bad_one_does_not() {
    let org = org().await;
    let this = Changing::start(&org).await;
    assert!(this.get().await.1.contains("token_1"));
    this.write("secret", "second");
    assert_eq!(this.look().await, Outcome::Taken);
    assert_eq!(org.logins(), 1, "the token at hand is as good as before");
    let series = |name: &str| format!("sf_token_proxy_secret_{name}");
    assert_eq!(
        this.app
            .metric(&series("reloads_total{org=\"main\",result=\"ok\"}"))
            .await,
        1.0
    );
    this.write("secret", "\n");
    assert_eq!(this.look().await, Outcome::Taken);
    assert_eq!(
        this.app.metric(&series("last_reload_successful{org=\"main\"}")).await,
        0.0
    );
    let status = this.app.status().await;
    let refused = &status["configuration"]["refused_secrets"]["orgs.main.grant.client_credentials.client_secret"];
    assert!(refused.as_str().unwrap().ends_with("is empty"), "{status}");
    this.write("secret", "third");
    assert_eq!(this.look().await, Outcome::Taken);
    assert_eq!(
        this.app.metric(&series("last_reload_successful{org=\"main\"}")).await,
        1.0
    );
    assert_eq!(
        this.app
            .metric(&series("reloads_total{org=\"main\",result=\"failed\"}"))
            .await,
        1.0
    );
    let shown = this.app.status().await.to_string();
    assert!(!shown.contains("third"), "{shown}");
    this.app.stop().await;
}

const WRONG: &str = r#"{"error":"invalid_client","error_description":"invalid client credentials"}"#;

#[tokio::test]
async fn a_changed_secret_ends_a_refusal_at_once() {
    let org = org().await;
    org.refuse_logins(Some(("400 Bad Request", WRONG)));
    let this = Changing::start(&org).await;
    let state = "sf_token_proxy_token_state{org=\"main\",state=\"refused\"}";
    assert_eq!(this.get().await.0, 503);
    assert_eq!(this.app.metric(state).await, 1.0);
    // The first retries after a refusal come after 5, 15 and 30 s; none of them is waited for.
    org.refuse_logins(None);
    this.write("secret", "the right one");
    assert_eq!(this.look().await, Outcome::Taken);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
    while this.get().await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the refusal stays");
    }
    assert!(String::from_utf8_lossy(&org.last_login().body).contains("client_secret=the+right+one"));
    this.app.stop().await;
}

#[tokio::test]
async fn a_changed_setting_of_the_org_costs_no_login() {
    let org = org().await;
    let mut this = Changing::start(&org).await;
    assert_eq!(this.get().await.0, 200);
    for change in [
        json!({"token": {"lifetime": "5m"}}),
        json!({"token": {"lifetime": "5m"}, "login_budget": {"burst": 9}}),
        json!({"cache": {}}),
        json!({}),
    ] {
        let mut of_org = of(&org.url(), this.app.folder());
        of_org
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let changed = this.change(|config| config["orgs"]["main"] = of_org).await;
        assert_eq!(changed, Outcome::Taken, "{change}");
        assert!(this.get().await.1.contains("token_1"));
    }
    for upstream in [json!({"connect_timeout": "3s"}), json!({"response_timeout": "3m"})] {
        assert_eq!(
            this.change(|config| config["upstream"] = upstream).await,
            Outcome::Taken
        );
        assert!(this.get().await.1.contains("token_1"));
    }
    assert_eq!(org.logins(), 1);
    this.app.stop().await;
}

#[tokio::test]
async fn another_identity_takes_over_when_it_has_logged_in() {
    let (first, second) = (org().await, org().await);
    let mut this = Changing::start(&first).await;
    assert_eq!(this.get().await.0, 200);
    second.refuse_logins(Some(("400 Bad Request", WRONG)));
    let other = of(&second.url(), this.app.folder());
    assert_eq!(
        this.change(|config| config["orgs"]["main"] = other).await,
        Outcome::Taken
    );
    let failing = "sf_token_proxy_token_state{org=\"main\",state=\"live_refused\"}";
    let started = tokio::time::Instant::now();
    while this.app.metric(failing).await < 1.0 {
        assert!(started.elapsed() < Duration::from_secs(10), "no login is tried");
    }
    // The token that works is not withdrawn.
    assert_eq!(this.get().await.0, 200);
    assert!(second.seen().is_empty());
    second.refuse_logins(None);
    this.write("secret", "of the second");
    assert_eq!(this.look().await, Outcome::Taken);
    while second.seen().is_empty() {
        assert_eq!(this.get().await.0, 200);
        assert!(started.elapsed() < Duration::from_secs(20), "the second never comes");
    }
    assert_eq!((first.logins(), second.logins()), (1, 2));
    this.app.stop().await;
}

#[tokio::test]
async fn what_needs_a_restart_is_said_and_the_rest_counts() {
    let org = org().await;
    let mut this = Changing::start(&org).await;
    let changed = this
        .change(|config| {
            config["threads"] = json!(2);
            config["log"] = json!({"format": "text", "level": "warn"});
            config["admin"]["quit_endpoint"] = json!(true);
        })
        .await;
    assert_eq!(changed, Outcome::Taken);
    let status = this.app.status().await;
    assert_eq!(
        status["configuration"]["needs_restart"],
        json!(["threads", "log.format"])
    );
    // It counts as changed until the restart, and is no reason to begin again.
    assert_eq!(this.look().await, Outcome::Unchanged);
    let level = json!({"format": "text", "level": "error"});
    assert_eq!(this.change(|config| config["log"] = level).await, Outcome::Taken);
    let status = this.app.status().await;
    assert_eq!(
        status["configuration"]["needs_restart"],
        json!(["threads", "log.format"])
    );
    let reply = call(this.app.admin, "POST /quit HTTP/1.1\nContent-Length: 0", b"").await;
    assert_eq!(reply.status, 200);
    this.app.stop().await;
}

#[tokio::test]
async fn the_admin_port_moves() {
    let org = org().await;
    let mut this = Changing::start(&org).await;
    let before = this.app.admin;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        this.change(|config| config["admin"]["address"] = json!(free.to_string()))
            .await,
        Outcome::Taken
    );
    this.app.admin = free;
    assert_eq!(this.app.metric(LAST).await, 1.0);
    eventually(
        "the old one is closed",
        || std::net::TcpStream::connect(before).is_err(),
        |closed| *closed,
    )
    .await;
    this.app.stop().await;
}

#[tokio::test]
async fn a_changed_setting_ends_a_refusal_at_once() {
    let org = org().await;
    org.refuse_logins(Some(("400 Bad Request", WRONG)));
    let mut this = Changing::start(&org).await;
    assert_eq!(this.get().await.0, 503);
    org.refuse_logins(None);
    let mut of_org = of(&org.url(), this.app.folder());
    of_org["token"] = json!({"exchange_timeout": "9s"});
    assert_eq!(
        this.change(|config| config["orgs"]["main"] = of_org).await,
        Outcome::Taken
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3);
    while this.get().await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the refusal stays");
    }
    this.app.stop().await;
}

#[tokio::test]
async fn who_came_before_a_change_goes_with_the_address() {
    let org = org().await;
    let two = |connections: u32| {
        json!([
            {"address": "127.0.0.1:0", "org": "main"},
            {"address": "127.0.0.1:0", "org": "main", "max_connections": connections, "hosts": ["two"]}
        ])
    };
    let mut this = Changing::start_with(&org, |config| config["listeners"] = two(10)).await;
    let second = this.listeners().await[1];
    let mut early = connect(second).await;
    assert_eq!(ask(&mut early, "GET /services/data/ HTTP/1.1").await.status, 200);
    assert_eq!(
        this.change(|config| config["listeners"] = two(20)).await,
        Outcome::Taken
    );
    // Other limits are for those who come now; nobody is sent away for them.
    assert_eq!(ask(&mut early, "GET /services/data/ HTTP/1.1").await.status, 200);
    assert_eq!(get(second).await.0, 200);
    let one = json!([{"address": "127.0.0.1:0", "org": "main"}]);
    assert_eq!(this.change(|config| config["listeners"] = one).await, Outcome::Taken);
    early
        .write_all(b"GET /services/data/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .ok();
    assert!(
        read_reply(&mut early, false).await.is_none(),
        "an address that is gone still serves"
    );
    this.app.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_tried_again() {
    let org = org().await;
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap();
    let mut this = Changing::start_with(&org, |config| config["reload"]["interval"] = json!("1s")).await;
    let two = json!([{"address": "127.0.0.1:0", "org": "main"}, {"address": port.to_string(), "org": "main"}]);
    let told = problem(this.change(|config| config["listeners"] = two).await);
    assert!(told.contains("Address already in use"), "{told}");
    drop(other);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while this.app.metric(LAST).await < 1.0 {
        assert!(tokio::time::Instant::now() < deadline, "it is not tried again");
    }
    assert_eq!(get(port).await.0, 200);
    // Told once, however often it was tried.
    assert_eq!(this.app.metric(RELOADS_FAILED).await, 1.0);
    this.app.stop().await;
}

/// Descriptors, tasks and memory of this process.
fn footprint() -> (usize, u64) {
    let files = fs::read_dir("/proc/self/fd").unwrap().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = rss.split_whitespace().next().unwrap().parse().unwrap();
    (files, kib)
}

/// 10,000 changes of every kind, with calls all the while. A minute or so in a debug build.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_reloads_lose_no_call_and_leave_nothing_behind() {
    const RELOADS: usize = 10_000;
    let org = org().await;
    org.forget();
    let mut this = Changing::start(&org).await;
    let (proxy, done) = (this.app.proxy, tokio_util::sync::CancellationToken::new());
    let mut callers = JoinSet::new();
    for n in 0..4 {
        let done = done.clone();
        callers.spawn(async move {
            let mut stream = connect(proxy).await;
            let mut calls = 0;
            while !done.is_cancelled() {
                // Kept connections and new ones.
                let reply = match n % 2 {
                    0 => ask(&mut stream, "GET /services/data/v60.0/ HTTP/1.1").await,
                    _ => call(proxy, "GET /services/data/v60.0/ HTTP/1.1", b"").await,
                };
                assert_eq!(reply.status, 200, "{}", reply.text());
                calls += 1;
            }
            calls
        });
    }
    let mut footprints = Vec::new();
    for n in 0..RELOADS {
        let folder = this.app.folder().to_owned();
        if n % 5 == 4 {
            this.write("secret", &format!("secret {n}"));
            assert_eq!(this.look().await, Outcome::Taken);
        } else {
            let changed = this
                .change(|config| match n % 5 {
                    0 => config["listeners"][0]["extra_paths"] = json!([format!("/odd{n}/")]),
                    1 => config["upstream"] = json!({"connect_timeout": format!("{}s", 5 + n % 50)}),
                    2 => {
                        let mut changed = of(&org.url(), &folder);
                        changed["token"] = json!({"lifetime": format!("{}s", 4000 + n % 500)});
                        config["orgs"]["main"] = changed;
                    }
                    _ => {
                        // A second org with a listener of its own comes, and goes.
                        let there = config["orgs"]["second"].is_object();
                        let (orgs, listeners) = (&mut config["orgs"], 1);
                        match there {
                            true => drop(orgs.as_object_mut().unwrap().remove("second")),
                            false => orgs["second"] = of(&org.url(), &folder),
                        }
                        let list = config["listeners"].as_array_mut().unwrap();
                        list.truncate(listeners);
                        if !there {
                            list.push(json!({"address": "127.0.0.1:0", "org": "second"}));
                        }
                    }
                })
                .await;
            assert_eq!(changed, Outcome::Taken, "{n}");
        }
        if (n + 1) % (RELOADS / 10) == 0 {
            footprints.push(footprint());
        }
    }
    done.cancel();
    let mut calls = 0;
    while let Some(of_one) = callers.join_next().await {
        calls += of_one.expect("no call may fail");
    }
    assert!(calls > 1000, "{calls} calls");
    // The second org logs in each time that it comes; the first never again.
    let adopted = this
        .app
        .metric("sf_token_proxy_tokens_adopted_total{org=\"main\"}")
        .await;
    assert!(adopted <= 1.0, "{adopted}");
    // The second half stays where the first has come to; a few connections come and go.
    let (before, after) = (&footprints[4], &footprints[9]);
    assert!(after.0 <= before.0 + 20, "descriptors: {footprints:?}");
    assert!(after.1 <= before.1 + 8 * 1024, "KiB: {footprints:?}");
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(tasks < 100, "{tasks} tasks");
    this.app.stop().await;
}
