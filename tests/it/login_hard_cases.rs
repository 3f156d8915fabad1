//! Logins and the store in hard cases: clocks, kills, stopped processes, odd answers, odd commands.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::program::{LIMITS, Program, Site, file, until};

/// What a scripted org was asked.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    head: String,
    form: HashMap<String, String>,
}

struct Say {
    after: Duration,
    status: u16,
    body: String,
}

fn say(status: u16, body: Value) -> Say {
    Say {
        after: Duration::ZERO,
        status,
        body: body.to_string(),
    }
}

impl Say {
    fn after(self, millis: u64) -> Self {
        Self {
            after: Duration::from_millis(millis),
            ..self
        }
    }
}

#[derive(Clone)]
struct Fake {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    fn new(answer: impl Fn(&Asked, &str) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (answer, seen, own) = (Arc::new(answer), Arc::clone(&asked), url.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer, seen, own) =
                    (stream.unwrap(), Arc::clone(&answer), Arc::clone(&seen), own.clone());
                std::thread::spawn(move || {
                    while let Some(asked) = read_request(&mut stream) {
                        seen.lock().unwrap().push(asked.clone());
                        let Say { after, status, body } = answer(&asked, &own);
                        std::thread::sleep(after);
                        let text = format!(
                            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if stream.write_all(text.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, asked }
    }

    fn seen(&self, path: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|a| a.path == path).cloned().collect()
    }
}

fn read_request(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = vec![];
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head
        .lines()
        .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let form = url::form_urlencoded::parse(&body).into_owned().collect();
    let path = head.split(' ').nth(1)?.split('?').next()?.to_owned();
    Some(Asked { path, head, form })
}

const TOKEN: &str = "/services/oauth2/token";
const INTROSPECT: &str = "/services/oauth2/introspect";

/// A folder with what a proxy of a scripted org needs.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        place.put("key", &"07".repeat(32));
        place.put("secret", "CANARYapp");
        place
    }

    fn put(&self, name: &str, text: &str) -> String {
        fs::write(self.dir.path().join(name), text).unwrap();
        file(&self.dir.path().join(name))
    }

    fn refresh(&self, seed: bool) -> Value {
        let mut grant = json!({"client_id": "3MVG9", "client_secret": self.put("secret", "CANARYapp")});
        if seed {
            grant["refresh_token"] = self.put("seed", "R0").into();
        }
        json!({ "refresh_token": grant })
    }

    fn config(&self, fake: &Fake, grant: &Value, token: &Value) -> Value {
        json!({
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "orgs": {"main": {"login_url": fake.url, "grant": grant, "token": token}},
            "store": {"file": {"directory": self.dir.path().join("records"), "key": file(&self.dir.path().join("key"))}},
            "log": {"format": "json", "level": "trace", "requests": true},
            "shutdown": {"drain": "1s"},
        })
    }

    fn start(&self, config: &Value) -> Program {
        Program::start(&self.written(config), &[])
    }

    fn written(&self, config: &Value) -> std::path::PathBuf {
        let path = self.dir.path().join(format!("config{}.json", fastrand::u64(..)));
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn records(&self) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("records")).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|p| p.extension().is_some_and(|e| e == "sealed")).collect()
    }

    /// Somebody else holds every record's lock.
    fn lock(&self) -> fs::File {
        let entries = fs::read_dir(self.dir.path().join("records")).unwrap();
        let path = entries
            .map(|e| e.unwrap().path())
            .find(|p| p.extension().is_some_and(|e| e == "lock"))
            .expect("a lock file");
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        file.lock().unwrap();
        file
    }
}

/// An org that rotates: `R0` -> `R1` -> …; introspection tells the truth.
fn rotating(beside: impl Fn(&Asked) -> Option<Say> + Send + Sync + 'static) -> Fake {
    let now = Mutex::new(0);
    Fake::new(move |asked, own| {
        if let Some(said) = beside(asked) {
            if asked.path == TOKEN {
                *now.lock().unwrap() += 1;
            }
            return said;
        }
        let mut now = now.lock().unwrap();
        match asked.path.as_str() {
            TOKEN if asked.form.get("refresh_token") == Some(&format!("R{now}")) => {
                *now += 1;
                say(
                    200,
                    json!({"access_token": format!("00D!A{now}"), "refresh_token": format!("R{now}"), "instance_url": own}),
                )
            }
            TOKEN => say(
                400,
                json!({"error": "invalid_grant", "error_description": "expired access/refresh token"}),
            ),
            INTROSPECT => say(200, json!({"active": asked.form["token"] == format!("R{now}")})),
            _ => say(200, json!({"ok": true})),
        }
    })
}

fn serves_within(program: &Program, seconds: u64) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let (status, text) = program.get(LIMITS);
        if status == 200 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(text);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_rotated_token_is_stored_before_its_access_token_is_introspected() {
    let fake = rotating(|asked| {
        let slow = asked.path == INTROSPECT && asked.form["token_type_hint"] == "access_token";
        slow.then(|| say(200, json!({"active": true})).after(4000))
    });
    let place = Place::new();
    let config = place.config(&fake, &place.refresh(true), &json!({"introspect": true}));
    let program = place.start(&config);
    until("the access token is introspected", || !fake.seen(INTROSPECT).is_empty());
    program.kill();
    let program = place.start(&config);
    serves_within(&program, 15).expect("the refresh token that the org gave is not lost");
}

#[test]
fn a_new_refresh_token_is_kept_though_the_rest_of_the_answer_is_no_good() {
    let first = Mutex::new(true);
    let fake = rotating(move |asked| {
        let mut first = first.lock().unwrap();
        (asked.path == TOKEN && std::mem::take(&mut *first)).then(|| {
            say(
                200,
                json!({"access_token": "00D!A1", "refresh_token": "R1", "instance_url": "http://proxy.example"}),
            )
        })
    });
    let place = Place::new();
    let program = place.start(&place.config(&fake, &place.refresh(true), &json!({})));
    serves_within(&program, 20).expect("the refresh token that the org gave is not lost");
}

#[test]
fn a_token_that_fits_no_header_is_not_taken_from_the_store_again_and_again() {
    let fake = {
        let n = Mutex::new(0);
        Fake::new(move |asked, own| match asked.path.as_str() {
            TOKEN => {
                let mut n = n.lock().unwrap();
                *n += 1;
                let token = if *n == 1 {
                    "00D!bad\u{1}token".to_owned()
                } else {
                    format!("00D!good{n}")
                };
                say(200, json!({"access_token": token, "instance_url": own}))
            }
            _ => say(200, json!({})),
        })
    };
    let place = Place::new();
    let grant = json!({"client_credentials": {"client_id": "x", "client_secret": place.put("secret", "CANARYapp")}});
    let program = place.start(&place.config(&fake, &grant, &json!({})));
    let served = serves_within(&program, 12);
    println!("logins: {}", fake.seen(TOKEN).len());
    served.expect("the next login is tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_that_is_switched_on_later_and_a_lost_answer_spend_nothing_twice() {
    let site = Site::new(|settings| settings.web_apps[0].rotation = false).await;
    let program = site.start(&site.config(&site.refresh_grant(0, Some(&site.approved(0)))));
    program.serves();
    site.org.set_rotation(true);
    site.org.lose_token_answers(1);
    site.org.revoke();
    for _ in 0..20 {
        let _ = program.get(LIMITS);
        std::thread::sleep(Duration::from_millis(200));
    }
    let stats = site.org.stats();
    assert_eq!(
        stats.spent_refresh_presented, 0,
        "SF 1.4.3, 1.5: rotation on or unknown"
    );
    drop(program);
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_away_brings_no_dead_token_back() {
    let site = Site::new(|_| {}).await;
    let program = site.start(&site.config(&site.credentials()));
    program.serves();
    site.put("key", "no key");
    site.org.revoke();
    program.serves();
    let before = site.org.stats();
    site.put("key", &"07".repeat(32));
    site.org.revoke();
    let (status, text) = program.get(LIMITS);
    let after = site.org.stats();
    println!(
        "{status} {text}; 401s {} -> {}, logins {} -> {}",
        before.api_401, after.api_401, before.token_ok, after.token_ok
    );
    assert_eq!(status, 200);
    assert_eq!(
        after.api_401 - before.api_401,
        1,
        "only the token that was just revoked is refused"
    );
    drop(program);
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_deleted_does_not_make_the_spent_seed_be_presented() {
    let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
    let program = site.start(&site.config(&site.refresh_grant(0, Some(&site.approved(0)))));
    program.serves();
    for record in site.records() {
        fs::remove_file(record).unwrap();
    }
    site.org.revoke();
    let (_, text) = program.get(LIMITS);
    println!("{text}");
    assert_eq!(site.org.stats().spent_refresh_presented, 0);
    drop(program);
    site.org.stop().await;
}

#[test]
fn two_processes_and_a_slow_introspection_make_one_login() {
    let fake = Fake::new(|asked, own| match asked.path.as_str() {
        TOKEN => say(200, json!({"access_token": "00D!A", "instance_url": own})).after(200),
        INTROSPECT => say(200, json!({"active": true})).after(3000),
        _ => say(200, json!({})),
    });
    let place = Place::new();
    let grant = json!({"client_credentials": {"client_id": "x", "client_secret": place.put("secret", "CANARYapp")}});
    let config = place.config(&fake, &grant, &json!({"introspect": true, "exchange_timeout": "1s"}));
    let (one, two) = (place.start(&config), place.start(&config));
    serves_within(&one, 10).unwrap();
    serves_within(&two, 10).unwrap();
    assert_eq!(fake.seen(TOKEN).len(), 1, "one login for both");
}

/// `login --no-browser`, up to the callback.
struct Login {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

fn log_in(place: &Place, config: &Value) -> Login {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"))
        .args(["login", "--no-browser", "--config"])
        .arg(place.written(config))
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let url = loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).unwrap() > 0, "no address");
        if line.contains("/authorize?") {
            break line.trim().to_owned();
        }
    };
    let url = url::Url::parse(&url).unwrap();
    let of = |name: &str| url.query_pairs().find(|(n, _)| n == name).unwrap().1.into_owned();
    let callback = url::Url::parse(&of("redirect_uri")).unwrap();
    let (port, state) = (callback.port().unwrap(), of("state"));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {}?code=CODE&state={state} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n",
        callback.path()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 303"), "{text}");
    Login { child, lines }
}

impl Login {
    fn ended(mut self) -> (bool, String) {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().success(), text)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An org for `login`: any code gives R-login; the API takes every token.
fn org_for_login(beside: impl Fn(&Asked) -> Option<Say> + Send + Sync + 'static) -> Fake {
    Fake::new(move |asked, own| {
        if let Some(said) = beside(asked) {
            return said;
        }
        let id = format!("{own}/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS");
        match asked.path.as_str() {
            TOKEN if asked.form["grant_type"] == "authorization_code" => say(
                200,
                json!({"access_token": "00D!LOGIN", "refresh_token": "R-login", "instance_url": own, "id": id}),
            ),
            TOKEN => say(
                200,
                json!({"access_token": "00D!RENEWED", "instance_url": own, "id": id}),
            ),
            INTROSPECT => say(200, json!({"active": true})),
            _ => say(200, json!({"username": "a@b.example"})),
        }
    })
}

fn login_config(place: &Place, fake: &Fake, seed: bool, token: &Value) -> Value {
    let mut config = place.config(fake, &place.refresh(seed), token);
    config["orgs"]["main"]["grant"]["refresh_token"]["login"] =
        json!({"callback_url": format!("http://localhost:{}/cb", free_port())});
    config
}

#[test]
fn a_login_is_stored_before_anybody_is_asked_for_the_name() {
    let fake = org_for_login(|asked| asked.path.starts_with("/id/").then(|| say(200, json!({})).after(5000)));
    let place = Place::new();
    let mut login = log_in(&place, &login_config(&place, &fake, false, &json!({})));
    until("the name is asked for", || {
        fake.asked.lock().unwrap().iter().any(|a| a.path.starts_with("/id/"))
    });
    let stored = place.records().len();
    login.child.kill().unwrap();
    login.child.wait().unwrap();
    assert_eq!(
        stored, 1,
        "the refresh token is in the store before the access token is used"
    );
}

#[test]
fn a_login_survives_a_renewal_of_the_proxy_at_the_same_time() {
    let fake = org_for_login(|asked| {
        let renewal = asked.path == TOKEN && asked.form["grant_type"] == "refresh_token";
        // Within `exchange_timeout` each: one introspection and one login of the proxy hold the lock for longer than one.
        match asked.path.as_str() {
            INTROSPECT => Some(say(200, json!({"active": true})).after(1700)),
            _ if renewal => Some(say(503, json!({})).after(1700)),
            _ => None,
        }
    });
    let place = Place::new();
    let config = login_config(&place, &fake, true, &json!({"exchange_timeout": "2s"}));
    let proxy = place.start(&config);
    // The first attempt ends with 503, outcome unknown; the next one asks first, then tries.
    until("it asks", || !fake.seen(INTROSPECT).is_empty());
    let login = log_in(&place, &config);
    let (good, text) = login.ended();
    drop(proxy);
    assert!(good, "{text}");
}

#[test]
fn sigterm_starts_no_exchange_that_it_then_abandons() {
    let fake = rotating(|_| None);
    let place = Place::new();
    let config = place.config(&fake, &place.refresh(true), &json!({}));
    let program = place.start(&config);
    serves_within(&program, 10).unwrap();
    program.kill();
    // The stored token is not taken: another life.
    let slow = Fake::new({
        let inner = Mutex::new(1);
        move |asked, own| match asked.path.as_str() {
            TOKEN => {
                let mut n = inner.lock().unwrap();
                *n += 1;
                say(
                    200,
                    json!({"access_token": "00D!B", "refresh_token": format!("R{n}"), "instance_url": own}),
                )
                .after(3000)
            }
            _ => say(200, json!({"active": false})),
        }
    });
    let _ = fs::remove_dir_all(place.dir.path().join("records"));
    fs::create_dir(place.dir.path().join("records")).unwrap();
    let config = place.config(&slow, &place.refresh(true), &json!({}));
    // Once, for the lock file's name.
    let first = place.start(&config);
    until("a lock file", || {
        fs::read_dir(place.dir.path().join("records")).unwrap().count() > 0
    });
    first.kill();
    let before = slow.seen(TOKEN).len();
    let held = place.lock();
    for record in place.records() {
        fs::remove_file(record).unwrap();
    }
    let mut program = place.start(&config);
    std::thread::sleep(Duration::from_millis(500));
    program.signal("TERM");
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(3500));
    drop(held);
    program.ended();
    println!("ended after {:?}", began.elapsed());
    let after = slow.seen(TOKEN).len();
    assert_eq!(after, before, "no refresh token is presented seconds after SIGTERM");
}

#[test]
fn sigterm_while_the_refresh_hangs_ends_in_time_and_the_next_start_asks() {
    let fake = Fake::new(|asked, own| match asked.path.as_str() {
        TOKEN => say(200, json!({"access_token": "00D!B", "instance_url": own})).after(60_000),
        INTROSPECT => say(200, json!({"active": false})),
        _ => say(200, json!({})),
    });
    let place = Place::new();
    let config = place.config(&fake, &place.refresh(true), &json!({}));
    let mut program = place.start(&config);
    until("it is sent", || fake.seen(TOKEN).len() == 1);
    let began = Instant::now();
    program.signal("TERM");
    program.ended();
    let took = began.elapsed();
    println!("ended after {took:?}");
    assert!(took < Duration::from_secs(1 + 5 + 2));
    let program = place.start(&config);
    let (status, text) = program.get(LIMITS);
    assert_eq!(status, 503);
    assert!(text.contains("may be spent"), "{text}");
    assert_eq!(fake.seen(TOKEN).len(), 1);
}

fn processes(mark: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.trim() == format!("sleep {mark}")
    })
    .collect()
}

#[test]
fn a_command_leaves_no_process_behind() {
    let fake = rotating(|_| None);
    let place = Place::new();
    let mark = format!("{}.77", 1000 + fastrand::u32(..9000));
    let script = format!("sleep {mark}; true");
    let grant = json!({"command": {"run": ["/bin/sh", "-c", script]}});
    let mut config = place.config(&fake, &grant, &json!({"exchange_timeout": "1s"}));
    config["orgs"]["main"]["instance_url"] = fake.url.clone().into();
    let program = place.start(&config);
    std::thread::sleep(Duration::from_secs(9));
    let left = processes(&mark);
    program.kill();
    for pid in &left {
        let _ = Command::new("kill").arg(pid.to_string()).status();
    }
    assert!(left.len() <= 1, "{} of its processes live on", left.len());
}

#[test]
fn a_command_that_has_ended_with_a_token_is_not_waited_for() {
    let fake = rotating(|_| None);
    let place = Place::new();
    let script = r#"echo '{"access_token":"00D!x"}'; sleep 20 & exit 0"#;
    let grant = json!({"command": {"run": ["/bin/sh", "-c", script]}});
    let mut config = place.config(&fake, &grant, &json!({"exchange_timeout": "3s"}));
    config["orgs"]["main"]["instance_url"] = fake.url.clone().into();
    let program = place.start(&config);
    serves_within(&program, 8).expect("it printed a token and ended with 0");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_token() {
    let fake = rotating(|_| None);
    let place = Place::new();
    let grant = json!({"static": {"access_token": place.put("token", "\u{feff}00D!static\r\n")}});
    let mut config = place.config(&fake, &grant, &json!({}));
    config["orgs"]["main"]["instance_url"] = fake.url.clone().into();
    config["orgs"]["main"].as_object_mut().unwrap().remove("login_url");
    let program = place.start(&config);
    let (status, text) = program.get(LIMITS);
    let sent = fake.seen(LIMITS).iter().map(|a| a.head.clone()).collect::<String>();
    println!("{status} {text}\n{sent:?}");
    assert!(!sent.contains('\u{feff}'), "{sent:?}");
}

#[test]
fn six_processes_on_an_empty_store_make_one_login() {
    let fake = Fake::new(|asked, own| match asked.path.as_str() {
        TOKEN => say(200, json!({"access_token": "00D!B", "instance_url": own})).after(3000),
        _ => say(200, json!({})),
    });
    let place = Place::new();
    let grant = json!({"client_credentials": {"client_id": "x", "client_secret": place.put("secret", "CANARYapp")}});
    let config = place.config(&fake, &grant, &json!({}));
    let programs: Vec<Program> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..6).map(|_| scope.spawn(|| place.start(&config))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    for program in &programs {
        serves_within(program, 15).unwrap();
    }
    assert_eq!(fake.seen(TOKEN).len(), 1);
}

#[test]
fn a_stopped_lock_holder_costs_no_grant() {
    let fake = rotating(|_| None);
    let place = Place::new();
    let config = place.config(&fake, &place.refresh(true), &json!({"exchange_timeout": "1s"}));
    let one = place.start(&config);
    serves_within(&one, 10).unwrap();
    let two = place.start(&config);
    serves_within(&two, 10).unwrap();
    assert_eq!(fake.seen(TOKEN).len(), 1);
    one.signal("STOP");
    let held = place.lock();
    std::thread::sleep(Duration::from_secs(2));
    drop(held);
    two.serves();
    one.signal("CONT");
    one.serves();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_changes_does_not_make_the_spent_seed_be_presented() {
    let mut lost = vec![];
    for change in ["instance_url"] {
        let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
        let mut config = site.config(&site.refresh_grant(0, Some(&site.approved(0))));
        let program = site.start(&config);
        program.serves();
        program.kill();
        // As the advice of `unsafe_instance_url` has it.
        config["orgs"]["main"]["instance_url"] = site.files.base_url.clone().into();
        let program = site.start(&config);
        let (status, text) = program.get(LIMITS);
        println!("{change}: {status} {text}");
        if site.org.stats().spent_refresh_presented > 0 {
            lost.push(change);
        }
        drop(program);
        site.org.stop().await;
    }
    assert!(lost.is_empty(), "the grant was ended by another {lost:?}");
}

/// The CLI prints its warnings as it likes.
#[test]
fn a_command_may_print_warnings_with_braces_before_and_after() {
    for script in [
        r#"echo 'Warning: {beta} is old'; echo '{"access_token":"00D!x"}'"#,
        r#"echo '{"access_token":"00D!x"}'; echo 'update available'"#,
    ] {
        let fake = rotating(|_| None);
        let place = Place::new();
        let grant = json!({"command": {"run": ["/bin/sh", "-c", script]}});
        let mut config = place.config(&fake, &grant, &json!({}));
        config["orgs"]["main"]["instance_url"] = fake.url.clone().into();
        let program = place.start(&config);
        serves_within(&program, 2).expect(script);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_does_not_hide_the_token_that_another_process_stored() {
    let site = Site::new(|_| {}).await;
    let mut config = site.config(&site.credentials());
    let rich = config.clone();
    config["orgs"]["main"]["login_budget"] = json!({"burst": 1, "per_minute": 1});
    let poor = site.start(&config);
    poor.serves();
    let other = site.start(&rich);
    other.serves();
    site.org.revoke();
    other.serves();
    let logins = site.org.stats().token_ok;
    let (status, text) = poor.get(LIMITS);
    assert_eq!(site.org.stats().token_ok, logins);
    assert_eq!(
        status, 200,
        "a token is in the store, and taking it costs no login: {text}"
    );
    drop((poor, other));
    site.org.stop().await;
}

#[test]
fn a_token_of_16_kb_is_served_and_stored() {
    let long = format!("00D!{}", "x".repeat(16 * 1024));
    let token = long.clone();
    let fake = Fake::new(move |asked, own| match asked.path.as_str() {
        TOKEN => say(
            200,
            json!({"access_token": token, "instance_url": own, "expires_in": "-5"}),
        ),
        _ => say(200, json!({})),
    });
    let place = Place::new();
    let grant = json!({"client_credentials": {"client_id": "x", "client_secret": place.put("secret", "CANARYapp")}});
    let config = place.config(&fake, &grant, &json!({}));
    for _ in 0..2 {
        let program = place.start(&config);
        serves_within(&program, 5).unwrap();
        assert!(!program.kill().contains("xxxx"));
    }
    assert!(fake.seen(LIMITS).iter().all(|asked| asked.head.contains(&long)));
    assert_eq!(fake.seen(TOKEN).len(), 1);
}

/// Takes a minute or two.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long"]
async fn thousands_of_renewals_cost_no_memory() {
    let site = Site::new(|settings| {
        settings.web_apps[0].rotation = true;
        settings.login_limit = 100_000;
        settings.keep_requests = 0;
    })
    .await;
    let mut config = site.config(&site.refresh_grant(0, Some(&site.approved(0))));
    config["orgs"]["main"]["login_budget"] = json!({"burst": 3600, "per_minute": 60});
    config["log"] = json!({"format": "json", "level": "info,audit=off"});
    let program = site.start(&config);
    let rss = || {
        let status = fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let files = fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
        (of("VmRSS"), files, of("Threads"))
    };
    for round in 0..3400 {
        if round % 400 == 0 {
            println!("{round}: kB, files, threads {:?}", rss());
        }
        site.org.revoke();
        program.serves();
    }
    println!("end: {:?} {:?}", rss(), site.org.stats());
    assert_eq!(site.org.stats().spent_refresh_presented, 0);
    drop(program);
    site.org.stop().await;
}

#[test]
fn silent_connections_do_not_hold_the_callback_up() {
    let fake = org_for_login(|asked| {
        // The preview gives the attacker time.
        asked
            .path
            .ends_with("/authorize")
            .then(|| say(200, json!({})).after(1500))
    });
    let place = Place::new();
    let config = login_config(&place, &fake, false, &json!({}));
    let callback = config["orgs"]["main"]["grant"]["refresh_token"]["login"]["callback_url"]
        .as_str()
        .unwrap();
    let port = url::Url::parse(callback).unwrap().port().unwrap();
    let attack = std::thread::spawn(move || {
        let mut silent: Vec<TcpStream> = vec![];
        let until = Instant::now() + Duration::from_secs(5);
        while silent.len() < 200 && Instant::now() < until {
            silent.extend(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok());
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("{} silent connections", silent.len());
        std::thread::sleep(Duration::from_secs(100));
        drop(silent);
    });
    let began = Instant::now();
    let (good, text) = log_in(&place, &config).ended();
    drop(attack);
    println!("took {:?}", began.elapsed());
    assert!(good, "{text}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// A preloaded library that moves the wall clock by what is in the file `clock`.
fn clock_shim(site: &Site) -> std::path::PathBuf {
    let shim = site.path("clock.so");
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .arg(&shim)
        .arg(source)
        .arg("-ldl")
        .status();
    assert!(made.unwrap().success());
    shim
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_token_teaches_its_whole_age() {
    let site = Site::new(|_| {}).await;
    let (shim, clock) = (clock_shim(&site), site.path("clock"));
    let environment = [("LD_PRELOAD", shim.as_path()), ("REVIEW_CLOCK", clock.as_path())];
    let config = site.config(&site.credentials());
    site.put("clock", "0");
    let program = site.start_with(&config, &environment);
    program.serves();
    program.kill();
    site.put("clock", "3600");
    let program = site.start_with(&config, &environment);
    program.serves();
    assert_eq!(site.org.stats().token_ok, 1, "taken from the store, an hour old");
    site.org.revoke();
    program.serves();
    let assumed = program.metric("sf_token_proxy_token_assumed_lifetime_seconds{org=\"main\"}");
    assert!(
        assumed > 3500.0,
        "it was an hour old when it was refused, and taught {assumed} s"
    );
    drop(program);
    site.org.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_costs_one_login_at_most_and_no_grant() {
    let site = Site::new(|settings| settings.web_apps[0].rotation = true).await;
    let (shim, clock) = (clock_shim(&site), site.path("clock"));
    let environment = [("LD_PRELOAD", shim.as_path()), ("REVIEW_CLOCK", clock.as_path())];
    let config = site.config(&site.refresh_grant(0, Some(&site.approved(0))));
    site.put("clock", "0");
    site.org.reset();
    let mut program = site.start_with(&config, &environment);
    program.serves();
    let day = 86_400;
    for (round, jump) in [10 * day, 0, -10 * day, 0, 5000 * day, 0].into_iter().enumerate() {
        site.put("clock", &jump.to_string());
        for _ in 0..10 {
            program.serves();
            std::thread::sleep(Duration::from_millis(200));
        }
        let running = site.org.stats().token_ok;
        program.kill();
        program = site.start_with(&config, &environment);
        program.serves();
        println!(
            "{round}: {jump} s: logins {running}, after a restart {}",
            site.org.stats().token_ok
        );
    }
    let stats = site.org.stats();
    assert!(stats.token_ok <= 13 && stats.spent_refresh_presented == 0, "{stats:?}");
    drop(program);
    site.org.stop().await;
}

#[test]
fn an_answer_in_another_format_leaks_nothing() {
    for (format, body) in [
        (
            "form",
            "access_token=00DCANARY%21AQ&refresh_token=5AepCANARY&token_type=Bearer",
        ),
        ("form with mistakes", "\u{feff}refresh_token=5AepCANARY"),
        ("text", "00DCANARY!AQ"),
        ("a JSON string", "\"00DCANARY!AQ\""),
        ("XML after a comment", "-- <access_token>00DCANARY!AQ</access_token>"),
    ] {
        let fake = Fake::new(move |asked, _| Say {
            after: Duration::ZERO,
            status: 200,
            body: if asked.path == TOKEN {
                body.to_owned()
            } else {
                "{}".to_owned()
            },
        });
        let place = Place::new();
        let mut config = place.config(&fake, &place.refresh(true), &json!({}));
        config["log"]["level"] = "info".into();
        let program = place.start(&config);
        until("it has answered", || !fake.seen(TOKEN).is_empty());
        let (_, text) = program.get(LIMITS);
        let all = format!("{text}\n{}", program.kill());
        assert!(!all.contains("CANARY"), "{format}: {all}");
    }
}

#[test]
fn two_processes_and_a_login_host_that_hangs_do_not_log_in_at_the_same_time() {
    let arrivals = Arc::<Mutex<Vec<Instant>>>::default();
    let seen = Arc::clone(&arrivals);
    let fake = Fake::new(move |asked, own| match asked.path.as_str() {
        TOKEN => {
            seen.lock().unwrap().push(Instant::now());
            say(200, json!({"access_token": "00D!A", "instance_url": own})).after(60_000)
        }
        _ => say(200, json!({})),
    });
    let place = Place::new();
    let grant = json!({"client_credentials": {"client_id": "x", "client_secret": place.put("secret", "CANARYapp")}});
    let config = place.config(&fake, &grant, &json!({"exchange_timeout": "2s"}));
    let _programs = (place.start(&config), place.start(&config));
    std::thread::sleep(Duration::from_secs(20));
    let arrivals = arrivals.lock().unwrap().clone();
    let gaps: Vec<_> = arrivals.windows(2).map(|two| (two[1] - two[0]).as_millis()).collect();
    println!("{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap >= 1900), "each takes 2 s: {gaps:?}");
}
