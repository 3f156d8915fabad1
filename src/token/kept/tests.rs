//! Every branch of what is kept, against a login host that answers as a test says, and stores in memory and on disk.
//!
//! Waits are for events; a deadline of the program passes by virtual time, once the request is at the login host.

use std::{collections::VecDeque, fs, path::PathBuf};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

use super::*;
use crate::{
    clock::Clock,
    config::{
        ApiHost, Budget, ClientAuth, ClientCredentials, EgressProxy, LoginHost, RefreshToken, SecretRef, SendSecret,
        TokenExchange, TokenSettings,
    },
    disk,
    metrics::Metrics,
    token::{Expiry, Generation},
};

/// One answer of the login host.
enum Say {
    Json(u16, String),
    /// The connection ends when the request is there.
    Cut,
    /// The connection ends in the middle of the answer.
    Half,
    /// Nothing, for ever.
    Nothing,
}

type Before = Box<dyn FnOnce() + Send>;

/// A request, as path and body.
type Seen = (String, String);

#[derive(Default)]
struct Script {
    tokens: Mutex<VecDeque<(Say, Option<Before>)>>,
    introspections: Mutex<VecDeque<Say>>,
    /// Of the cheapest call.
    touches: Mutex<VecDeque<u16>>,
    seen: Mutex<Vec<Seen>>,
    hanging: Notify,
}

/// A login host, and the org.
struct Host {
    url: url::Url,
    script: Arc<Script>,
    tasks: JoinSet<()>,
}

impl Host {
    async fn start() -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn serve(listener: TcpListener) -> Self {
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let script = Arc::new(Script::default());
        let mut tasks = JoinSet::new();
        let of_all = Arc::clone(&script);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answered(stream, Arc::clone(&of_all)));
            }
        });
        Self { url, script, tasks }
    }

    /// The next answers of the token endpoint.
    fn says(&self, answers: impl IntoIterator<Item = Say>) {
        let answers = answers.into_iter().map(|say| (say, None));
        self.script.tokens.lock().unwrap().extend(answers);
    }

    /// Does something between the request and the answer.
    fn does_and_says(&self, before: impl FnOnce() + Send + 'static, say: Say) {
        let step: (Say, Option<Before>) = (say, Some(Box::new(before)));
        self.script.tokens.lock().unwrap().push_back(step);
    }

    fn introspects(&self, answers: impl IntoIterator<Item = Say>) {
        self.script.introspections.lock().unwrap().extend(answers);
    }

    fn touched(&self, status: u16) {
        self.script.touches.lock().unwrap().push_back(status);
    }

    /// What came since the last time, as `present:TOKEN`, `ask:TOKEN`, `touch`.
    fn saw(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.script.seen.lock().unwrap());
        seen.iter()
            .map(|(path, body)| {
                let form: std::collections::HashMap<_, _> =
                    url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
                let presented = ["refresh_token", "subject_token"]
                    .iter()
                    .find_map(|name| form.get(*name));
                match path.as_str() {
                    "/services/oauth2/token" => match presented {
                        Some(token) => format!("present:{token}"),
                        None => form["grant_type"].clone(),
                    },
                    "/services/oauth2/introspect" => format!("ask:{}", form["token"]),
                    _ => "touch".to_owned(),
                }
            })
            .collect()
    }
}

async fn answered(mut stream: TcpStream, script: Arc<Script>) {
    let mut text = Vec::new();
    let (head, body) = loop {
        let all = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0_usize) {
                break (head.to_owned(), body.to_owned());
            }
        }
        if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let path = head.split(' ').nth(1).unwrap().to_owned();
    script.seen.lock().unwrap().push((path.clone(), body));
    let unscripted = || (Say::Json(500, "unscripted".into()), None);
    let (say, before) = match path.as_str() {
        "/services/oauth2/token" => script.tokens.lock().unwrap().pop_front().unwrap_or_else(unscripted),
        "/services/oauth2/introspect" => {
            let next = script.introspections.lock().unwrap().pop_front();
            next.map_or_else(unscripted, |say| (say, None))
        }
        _ => {
            let status = script.touches.lock().unwrap().pop_front().unwrap_or(500);
            (Say::Json(status, "[]".into()), None)
        }
    };
    if let Some(before) = before {
        before();
    }
    let whole = |status: u16, body: &str| {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nLocation: /x\r\nConnection: close\r\n\r\n{body}"
        )
    };
    match say {
        Say::Json(status, body) => {
            let _ = stream.write_all(whole(status, &body).as_bytes()).await;
        }
        Say::Cut => {}
        Say::Half => {
            let whole = whole(200, &granted("lost", Some("lost")));
            let _ = stream.write_all(&whole.as_bytes()[..whole.len() - 20]).await;
        }
        Say::Nothing => {
            script.hanging.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

fn granted(access: &str, refresh: Option<&str>) -> String {
    let mut answer = serde_json::json!({
        "access_token": access, "instance_url": "https://acme.my.salesforce.com", "scope": "api",
        "id": "https://login.salesforce.com/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS",
    });
    if let Some(refresh) = refresh {
        answer["refresh_token"] = refresh.into();
    }
    answer.to_string()
}

fn ok(access: &str) -> Say {
    Say::Json(200, granted(access, None))
}

fn rotated(access: &str, refresh: &str) -> Say {
    Say::Json(200, granted(access, Some(refresh)))
}

fn refused(error: &str, text: &str) -> Say {
    Say::Json(
        400,
        serde_json::json!({"error": error, "error_description": text}).to_string(),
    )
}

fn dead() -> Say {
    refused("invalid_grant", "expired access/refresh token")
}

fn active(active: bool) -> Say {
    Say::Json(200, serde_json::json!({ "active": active }).to_string())
}

/// What a conversation that ended without a usable answer looks like.
fn unknown() -> Vec<(&'static str, Say)> {
    vec![
        ("500", Say::Json(500, String::new())),
        ("503 with words", Say::Json(503, r#"{"error":"invalid_grant"}"#.into())),
        ("429", Say::Json(429, String::new())),
        ("a cut", Say::Cut),
        ("half an answer", Say::Half),
        ("silence", Say::Nothing),
        ("a redirect", Say::Json(307, String::new())),
        ("a malformed 200", Say::Json(200, "<html>".into())),
        ("no instance", Say::Json(200, r#"{"access_token":"a"}"#.into())),
    ]
}

/// Files, settings and the time.
struct Room {
    folder: tempfile::TempDir,
    now: Arc<Mutex<SystemTime>>,
}

impl Room {
    fn new() -> Self {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let room = Self {
            folder: tempfile::tempdir().unwrap(),
            now: Arc::new(Mutex::new(start)),
        };
        room.put("key", &"07".repeat(32));
        room.put("secret", "s");
        room.put("seed", "seed");
        room.put("subject", "subject");
        room.put("static", "found");
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) -> SecretRef {
        fs::write(self.path(name), text).unwrap();
        SecretRef::file(self.path(name))
    }

    fn file(&self, name: &str) -> SecretRef {
        SecretRef::file(self.path(name))
    }

    fn store(&self) -> Store {
        Store::open(&config::Store::File {
            directory: self.path("records"),
            key: self.file("key"),
            previous_key: None,
        })
        .unwrap()
    }

    fn now(&self) -> SystemTime {
        *self.now.lock().unwrap()
    }

    fn org(&self, host: &Host, grant: Grant) -> Org {
        Org {
            login: LoginHost { url: host.url.clone() },
            grant,
            instance_url: None,
            token: TokenSettings {
                lifetime: Duration::from_secs(5400),
                refresh_wait: Duration::from_secs(10),
                cool_down: Duration::from_secs(30),
                max_waiters: 10,
                exchange_timeout: Duration::from_secs(30),
                introspect: false,
                keep_alive: false,
            },
            budget: Budget {
                burst: 60,
                per_minute: 4,
            },
            data_cloud: None,
            pub_sub: "https://api.pubsub.salesforce.com".parse().unwrap(),
            api: config::Api::default(),
            cache: None,
        }
    }

    fn kept(&self, org: &Org, store: &Store) -> Kept {
        let now = Arc::clone(&self.now);
        let clock = Clock::from_fn(move || *now.lock().unwrap());
        let tls = crate::tls::client_config(None).unwrap();
        let http = HttpExchange::new(org, tls, &EgressProxy::default(), clock).unwrap();
        Kept::new(
            http,
            store.clone(),
            key_of(org),
            org.token.lifetime,
            Audit::new("main", "proxy"),
            Metrics::new().store("main"),
        )
    }

    fn credentials(&self) -> Grant {
        Grant::ClientCredentials(ClientCredentials {
            client_id: "3MVG9".into(),
            client_secret: self.file("secret"),
            send_secret: SendSecret::Body,
        })
    }

    /// With a seed and a secret.
    fn refresh(&self) -> RefreshToken {
        RefreshToken {
            client_id: "3MVG9".into(),
            auth: ClientAuth::Secret(self.file("secret"), SendSecret::Body),
            refresh_token: Some(self.file("seed")),
            rotation: RotationPolicy::Auto,
            login: config::Login {
                callback_url: "http://localhost:1717/OauthRedirect".parse().unwrap(),
                scopes: vec!["api".into()],
            },
        }
    }

    fn exchange(&self) -> Grant {
        Grant::TokenExchange(TokenExchange {
            client_id: "3MVG9".into(),
            client_secret: None,
            send_secret: SendSecret::Body,
            subject_token: self.file("subject"),
            subject_token_type: "urn:ietf:params:oauth:token-type:jwt".into(),
            scope: None,
            token_handler: None,
        })
    }

    /// A stored token of now, of serial 5.
    fn stored(&self) -> StoredToken {
        StoredToken {
            secret: "stored".into(),
            instance_url: "https://acme.my.salesforce.com".into(),
            also: vec![],
            known_expiry: None,
            minted_at: self.now(),
            org_id: None,
            user_id: None,
            reaches_api: true,
        }
    }

    fn descended(&self, refresh_token: &str) -> StoredGrant {
        StoredGrant {
            refresh_token: refresh_token.into(),
            seed: Some(fingerprint(&"seed".into())),
            rotation: Rotation::On,
            in_flight: false,
            dead: None,
        }
    }

    /// The store fails from now on, until what this returns is called.
    fn store_away(&self) -> impl FnOnce() + Send + use<> {
        let (here, away) = (self.path("records"), self.path("records.away"));
        fs::rename(&here, &away).unwrap();
        move || fs::rename(away, here).unwrap()
    }
}

fn key_of(org: &Org) -> Key {
    key(&OrgName::new("main"), org, None)
}

/// A refresh token grant of rotation's kind, a file store, and the host.
struct Refreshed {
    room: Room,
    host: Host,
    org: Org,
    store: Store,
    kept: Kept,
}

impl Refreshed {
    async fn new(adapt: impl FnOnce(&mut RefreshToken)) -> Self {
        let (room, host) = (Room::new(), Host::start().await);
        let mut grant = room.refresh();
        adapt(&mut grant);
        let org = room.org(&host, Grant::RefreshToken(grant));
        let store = room.store();
        let kept = room.kept(&org, &store);
        Self {
            room,
            host,
            org,
            store,
            kept,
        }
    }

    fn restart(&mut self) {
        self.store = self.room.store();
        self.kept = self.room.kept(&self.org, &self.store);
    }

    async fn record(&self) -> Record {
        self.store.read(&key_of(&self.org)).await.unwrap().unwrap()
    }

    async fn grant(&self) -> StoredGrant {
        self.record().await.grant.unwrap()
    }

    async fn put(&self, record: &Record) {
        put(&self.store, &self.org, record).await;
    }

    /// A stored grant alone, so that nothing is adopted.
    async fn has(&self, grant: StoredGrant) {
        let record = Record {
            serial: 5,
            token: None,
            grant: Some(grant),
        };
        self.put(&record).await;
    }

    /// One attempt; a deadline passes at once when the login host has the request and says nothing.
    async fn tried(&self) -> Result<String, Refusal> {
        tried(&self.kept, &self.host, START).await
    }
}

async fn put(store: &Store, org: &Org, record: &Record) {
    let locked = store.lock(&key_of(org), Duration::from_secs(5)).await.unwrap();
    locked.write(record).await.unwrap();
}

const START: Ask<'static> = Ask {
    why: Why::Start,
    held: None,
};

async fn tried(kept: &Kept, host: &Host, ask: Ask<'_>) -> Result<String, Refusal> {
    let exchange = kept.exchange(ask);
    tokio::pin!(exchange);
    let outcome = tokio::select! {
        outcome = &mut exchange => outcome,
        () = host.script.hanging.notified() => {
            tokio::time::pause();
            let began = tokio::time::Instant::now();
            let outcome = exchange.await;
            assert!(began.elapsed() <= Duration::from_secs(31), "one conversation has one deadline");
            tokio::time::resume();
            outcome
        }
    };
    outcome.map(|minted| minted.secret.expose_secret().to_owned())
}

fn held(minted: &Minted) -> Token {
    let mut token = Token::new(
        Generation(1),
        minted.secret.clone(),
        Arc::clone(&minted.instance),
        Expiry::Assumed(SystemTime::UNIX_EPOCH),
        SystemTime::UNIX_EPOCH,
        tokio::time::Instant::now(),
    )
    .unwrap();
    token.serial = minted.serial;
    token
}

fn held_with(secret: &str, serial: u64) -> Token {
    let instance = Arc::new(Instance::parse("https://acme.my.salesforce.com").unwrap());
    held(&Minted {
        serial,
        ..Minted::new(secret.into(), instance)
    })
}

fn ask(why: Why, held: &Token) -> Ask<'_> {
    Ask { why, held: Some(held) }
}

fn reason(outcome: Result<String, Refusal>) -> &'static str {
    outcome.map_or_else(|refusal| refusal.reason, |token| panic!("{token} was handed out"))
}

// ---- adoption

#[tokio::test]
async fn a_stored_token_is_taken_if_it_is_newer_and_lives_and_no_other() {
    type Change = fn(&Room, &mut Record);
    fn token(record: &mut Record) -> &mut StoredToken {
        record.token.as_mut().unwrap()
    }
    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }
    let table: [(&str, Option<u64>, Change, bool); 17] = [
        ("just minted", None, |_, _| {}, true),
        ("newer than ours", Some(4), |_, _| {}, true),
        ("as ours", Some(5), |_, _| {}, false),
        ("older than ours", Some(6), |_, _| {}, false),
        ("nothing stored", None, |_, r| r.token = None, false),
        (
            "31 s left",
            None,
            |room, r| token(r).minted_at = room.now() - s(5400 - 31),
            true,
        ),
        (
            "29 s left",
            None,
            |room, r| token(r).minted_at = room.now() - s(5400 - 29),
            false,
        ),
        (
            "long past",
            None,
            |room, r| token(r).minted_at = room.now() - s(54_000),
            false,
        ),
        (
            "told: 31 s left",
            None,
            |room, r| token(r).known_expiry = Some(room.now() + s(31)),
            true,
        ),
        (
            "told: 29 s left",
            None,
            |room, r| token(r).known_expiry = Some(room.now() + s(29)),
            false,
        ),
        (
            "old, but told to live",
            None,
            |room, r| {
                token(r).minted_at = room.now() - s(54_000);
                token(r).known_expiry = Some(room.now() + s(600));
            },
            true,
        ),
        (
            "clocks apart",
            None,
            |room, r| token(r).minted_at = room.now() + s(299),
            true,
        ),
        (
            "from the future",
            None,
            |room, r| token(r).minted_at = room.now() + s(301),
            false,
        ),
        (
            "no safe host",
            None,
            |_, r| token(r).instance_url = "http://acme.example".into(),
            false,
        ),
        (
            "no host at all",
            None,
            |_, r| token(r).instance_url = String::new(),
            false,
        ),
        (
            "another safe host",
            None,
            |_, r| token(r).also = vec![("/Service.asmx".into(), "https://soap.example".into())],
            true,
        ),
        (
            "another host that is not safe",
            None,
            |_, r| token(r).also = vec![("/Service.asmx".into(), "http://soap.example".into())],
            false,
        ),
    ];
    for (what, ours, change, adopted) in table {
        let (room, host) = (Room::new(), Host::start().await);
        // Both kinds of grant look there first.
        for grant in [room.credentials(), Grant::RefreshToken(room.refresh())] {
            let org = room.org(&host, grant);
            let store = Store::open(&config::Store::Memory).unwrap();
            let mut record = Record {
                serial: 5,
                token: Some(room.stored()),
                grant: Some(room.descended("old")),
            };
            change(&room, &mut record);
            put(&store, &org, &record).await;
            host.says([ok("new")]);
            let token = ours.map(|serial| held_with("ours", serial));
            let ask = Ask {
                why: Why::Refused,
                held: token.as_ref(),
            };
            let minted = room.kept(&org, &store).exchange(ask).await.unwrap();
            assert_eq!(minted.adopted, adopted, "{what}");
            assert_eq!(
                minted.secret.expose_secret(),
                if adopted { "stored" } else { "new" },
                "{what}"
            );
            assert_eq!(host.saw().len(), usize::from(!adopted), "{what}");
            let now = store.read(&key_of(&org)).await.unwrap().unwrap();
            let serial = if adopted { 5 } else { ours.unwrap_or(0).max(5) + 1 };
            assert_eq!((now.serial, minted.serial), (serial, serial), "{what}");
            host.script.tokens.lock().unwrap().clear();
        }
    }
}

#[tokio::test]
async fn after_a_restart_a_token_is_what_it_was() {
    let (room, host) = (Room::new(), Host::start().await);
    let mut org = room.org(&host, room.credentials());
    org.api.host = ApiHost::Other {
        field: Some("rest_instance_url".into()),
        also: vec![("/Service.asmx".into(), "soap_instance_url".into())],
    };
    let answer = serde_json::json!({
        "access_token": "a", "rest_instance_url": "https://rest.example", "soap_instance_url": "https://soap.example",
        "expires_in": 1000, "id": "https://login.salesforce.com/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS",
    });
    host.says([Say::Json(200, answer.to_string())]);
    let first = room.kept(&org, &room.store()).exchange(START).await.unwrap();
    assert!(!first.adopted);
    let minted_at = room.now();
    *room.now.lock().unwrap() += Duration::from_secs(100);
    let again = room.kept(&org, &room.store()).exchange(START).await.unwrap();
    assert!(again.adopted);
    assert_eq!(host.saw().len(), 1);
    let hosts = |minted: &Minted| {
        let also = minted.also.iter().map(|(prefix, host)| (prefix.clone(), host.url()));
        (minted.instance.url(), also.collect::<Vec<_>>())
    };
    assert_eq!(hosts(&again), hosts(&first));
    assert_eq!(again.also.len(), 1);
    assert_eq!(again.secret.expose_secret(), "a");
    assert_eq!(again.known_expiry, first.known_expiry);
    assert!(again.known_expiry.is_some());
    assert_eq!((again.identity, again.serial), (first.identity, first.serial));
    assert_eq!((first.minted_at, again.minted_at), (None, Some(minted_at)));
}

#[tokio::test]
async fn a_token_that_cannot_call_the_api_is_known_as_such_after_a_restart() {
    let (room, host) = (Room::new(), Host::start().await);
    let org = room.org(&host, room.credentials());
    host.says([Say::Json(200, granted("a", None).replace("\"api\"", "\"id\""))]);
    assert!(
        !room
            .kept(&org, &room.store())
            .exchange(START)
            .await
            .unwrap()
            .reaches_api
    );
    assert!(
        !room
            .kept(&org, &room.store())
            .exchange(START)
            .await
            .unwrap()
            .reaches_api
    );
    assert_eq!(host.saw().len(), 1);
}

// ---- a store that is away

type Breaks = fn(&Room, &Org);

/// Ways in which a store with a record fails; each returns its word.
const AWAY: [(&str, Breaks); 4] = [
    ("damaged", |room, org| {
        let file = record_file(room, org);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
    }),
    ("other_key", |room, _| {
        room.put("key", &"08".repeat(32));
    }),
    ("key_unusable", |room, _| fs::remove_file(room.path("key")).unwrap()),
    ("unwritable", |room, _| std::mem::forget(room.store_away())),
];

fn record_file(room: &Room, org: &Org) -> PathBuf {
    let mark = crate::store::seal::identity_mark(&key_of(org).identity);
    room.path("records").join(format!("main.{mark}.sealed"))
}

#[tokio::test]
async fn a_grant_that_may_be_repeated_does_without_a_store_that_is_away_and_leaves_it_alone() {
    for (word, breaks) in AWAY {
        let (room, host) = (Room::new(), Host::start().await);
        let org = room.org(&host, room.credentials());
        let store = room.store();
        let kept = room.kept(&org, &store);
        host.says([ok("first"), ok("second")]);
        tried(&kept, &host, START).await.unwrap();
        breaks(&room, &org);
        let before = fs::read(record_file(&room, &org)).ok();
        let token = held_with("first", 1);
        assert_eq!(
            tried(&kept, &host, ask(Why::Refused, &token)).await.unwrap(),
            "second",
            "{word}"
        );
        assert_eq!(fs::read(record_file(&room, &org)).ok(), before, "{word}");
    }
}

#[tokio::test]
async fn a_refresh_token_waits_for_a_store_that_is_away_and_nothing_is_sent() {
    for (word, breaks) in AWAY {
        let this = Refreshed::new(|_| {}).await;
        this.has(this.room.descended("r1")).await;
        breaks(&this.room, &this.org);
        let refusal = this.tried().await.unwrap_err();
        assert_eq!((refusal.reason, refusal.class), ("store", Class::Transient), "{word}");
        assert!(refusal.to_string().contains("store"), "{refusal}");
        assert_eq!(this.host.saw(), [] as [&str; 0], "{word}");
    }
}

#[tokio::test]
async fn a_store_that_somebody_holds_is_waited_for_only_so_long() {
    let (room, host) = (Room::new(), Host::start().await);
    for (grant, goes_on) in [(room.credentials(), true), (Grant::RefreshToken(room.refresh()), false)] {
        let mut org = room.org(&host, grant);
        // Also the bound of the login, which is real.
        org.token.exchange_timeout = Duration::from_millis(700);
        let store = Store::open(&config::Store::Memory).unwrap();
        let _somebody = store.lock(&key_of(&org), Duration::ZERO).await.unwrap();
        let kept = room.kept(&org, &store);
        host.says([ok("a")]);
        let outcome = tried(&kept, &host, START).await;
        assert_eq!(outcome.as_deref().ok(), goes_on.then_some("a"));
        assert_eq!(host.saw().len(), usize::from(goes_on));
    }
}

#[tokio::test]
async fn a_token_of_a_repeatable_grant_counts_also_if_it_cannot_be_recorded() {
    let (room, host) = (Room::new(), Host::start().await);
    let org = room.org(&host, room.credentials());
    let store = room.store();
    let (here, away) = (room.path("records"), room.path("records.away"));
    host.does_and_says(move || fs::rename(here, away).unwrap(), ok("a"));
    assert_eq!(tried(&room.kept(&org, &store), &host, START).await.unwrap(), "a");
}

// ---- rotation

#[tokio::test]
async fn a_refresh_token_is_noted_before_it_goes_and_its_successor_recorded_before_the_token_is_handed_out() {
    let this = Refreshed::new(|_| {}).await;
    let (records, copy) = (this.room.path("records"), this.room.path("copy"));
    let at_arrival = move || {
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(records).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
    };
    this.host.does_and_says(at_arrival, rotated("a1", "r1"));
    assert_eq!(this.tried().await.unwrap(), "a1");
    let arrived = Store::open(&config::Store::File {
        directory: this.room.path("copy"),
        key: this.room.file("key"),
        previous_key: None,
    });
    let arrived = arrived.unwrap().read(&key_of(&this.org)).await.unwrap().unwrap();
    let noted = arrived.grant.unwrap();
    assert_eq!((noted.refresh_token.expose_secret(), noted.in_flight), ("seed", true));
    assert!(arrived.token.is_none());
    let now = this.record().await;
    let (token, grant) = (now.token.unwrap(), now.grant.unwrap());
    assert_eq!(token.secret.expose_secret(), "a1");
    assert_eq!(
        (grant.refresh_token.expose_secret(), grant.in_flight, grant.rotation),
        ("r1", false, Rotation::On)
    );
    assert_eq!(grant.seed, Some(fingerprint(&"seed".into())));
}

#[tokio::test]
async fn each_renewal_presents_the_newest_refresh_token_also_over_restarts() {
    let mut this = Refreshed::new(|_| {}).await;
    let mut token = None;
    for n in 1..=6 {
        this.host.says([rotated(&format!("a{n}"), &format!("r{n}"))]);
        let ask = Ask {
            why: Why::Refused,
            held: token.as_ref(),
        };
        let minted = this.kept.exchange(ask).await.unwrap();
        assert_eq!(minted.serial, n);
        let presented = if n == 1 { "seed".into() } else { format!("r{}", n - 1) };
        assert_eq!(this.host.saw(), [format!("present:{presented}")]);
        token = Some(held(&minted));
        if n % 2 == 0 {
            this.restart();
        }
    }
}

#[tokio::test]
async fn a_token_whose_successor_cannot_be_recorded_is_held_back_and_handed_out_without_another_login_when_it_can() {
    let this = Refreshed::new(|_| {}).await;
    let (here, away) = (this.room.path("records"), this.room.path("records.away"));
    let (from, to) = (here.clone(), away.clone());
    this.host
        .does_and_says(move || fs::rename(from, to).unwrap(), rotated("a1", "r1"));
    for _ in 0..3 {
        assert_eq!(reason(this.tried().await), "store");
    }
    fs::rename(away, here).unwrap();
    assert_eq!(this.tried().await.unwrap(), "a1");
    assert_eq!(this.grant().await.refresh_token.expose_secret(), "r1");
    assert_eq!(this.host.saw(), ["present:seed"]);
    // Handed out once; from now on it is the store's.
    this.host.says([rotated("a2", "r2")]);
    let token = held_with("a1", this.record().await.serial);
    let next = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
    assert_eq!(next.unwrap(), "a2");
    assert_eq!(this.host.saw(), ["present:r1"]);
}

#[tokio::test]
async fn what_could_not_be_recorded_does_not_replace_a_login_made_since() {
    let this = Refreshed::new(|g| g.refresh_token = None).await;
    this.has(StoredGrant {
        seed: None,
        ..this.room.descended("r1")
    })
    .await;
    let (here, away) = (this.room.path("records"), this.room.path("records.away"));
    let (from, to) = (here.clone(), away.clone());
    this.host
        .does_and_says(move || fs::rename(from, to).unwrap(), rotated("a2", "r2"));
    assert_eq!(reason(this.tried().await), "store");
    fs::rename(away, here).unwrap();
    // Somebody ran `login`.
    let record = Record {
        serial: 9,
        token: Some(this.room.stored()),
        grant: Some(StoredGrant {
            seed: None,
            ..this.room.descended("of-the-login")
        }),
    };
    this.put(&record).await;
    assert_eq!(this.tried().await.unwrap(), "stored");
    assert_eq!(this.record().await, record);
    assert_eq!(this.host.saw(), ["present:r1"]);
}

#[tokio::test]
async fn a_successor_is_kept_although_nobody_waits_for_its_recording() {
    let this = Refreshed::new(|_| {}).await;
    // A disk that is slow to give the key holds the recording up.
    let key = this.room.path("key");
    let arrived = Arc::new(Notify::new());
    let told = Arc::clone(&arrived);
    let (comes_back, slow) = std::sync::mpsc::channel::<()>();
    let of_disk = key.clone();
    this.host.does_and_says(
        move || {
            let (begins, begun) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                disk::within(&of_disk, Duration::from_secs(60), move || {
                    begins.send(()).unwrap();
                    let _ = slow.recv();
                    Ok(())
                })
            });
            begun.recv().unwrap();
            told.notify_one();
        },
        rotated("a1", "r1"),
    );
    {
        let attempt = this.kept.exchange(START);
        tokio::pin!(attempt);
        let awaited = async {
            arrived.notified().await;
            // The answer came, and is being recorded.
            while !disk::AWAITED.lock().unwrap().contains(&key) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = &mut attempt => panic!("it must wait for the store"),
            () = awaited => {}
        }
    }
    drop(comes_back);
    let token = this.tried().await.unwrap();
    assert_eq!(token, "a1");
    assert_eq!(this.grant().await.refresh_token.expose_secret(), "r1");
    assert_eq!(this.host.saw(), ["present:seed"]);
}

// ---- unknown outcomes

#[tokio::test]
async fn after_an_unknown_outcome_a_refresh_token_that_lives_is_presented_again_and_only_then() {
    for rotation in [Rotation::Unknown, Rotation::On] {
        for restarts in [false, true] {
            for (what, say) in unknown() {
                let mut this = Refreshed::new(|_| {}).await;
                this.has(StoredGrant {
                    rotation,
                    ..this.room.descended("r1")
                })
                .await;
                this.host.says([say]);
                let first = this.tried().await.unwrap_err();
                assert_ne!(first.reason, "refresh_outcome_unknown", "{what}: nobody was asked yet");
                assert_eq!(this.host.saw(), ["present:r1"], "{what}");
                assert!(this.grant().await.in_flight, "{what}");
                if restarts {
                    this.restart();
                }
                this.host.introspects([active(true)]);
                this.host.says([rotated("a2", "r2")]);
                assert_eq!(this.tried().await.unwrap(), "a2", "{what}");
                assert_eq!(this.host.saw(), ["ask:r1", "present:r1"], "{what}");
                assert!(!this.grant().await.in_flight, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn after_an_unknown_outcome_a_refresh_token_that_is_spent_is_never_presented_again() {
    for (what, say) in unknown() {
        let mut this = Refreshed::new(|_| {}).await;
        this.has(this.room.descended("r1")).await;
        this.host.says([say]);
        this.tried().await.unwrap_err();
        this.host.introspects([active(false), active(false)]);
        for _ in 0..3 {
            let refusal = this.tried().await.unwrap_err();
            assert_eq!(refusal.reason, "refresh_outcome_unknown", "{what}");
            assert!(refusal.to_string().contains("sf-token-proxy login main"), "{refusal}");
        }
        assert_eq!(this.host.saw(), ["present:r1", "ask:r1"], "{what}: asked once");
        this.restart();
        assert_eq!(reason(this.tried().await), "refresh_outcome_unknown", "{what}");
        assert_eq!(this.host.saw(), ["ask:r1"], "{what}");
    }
}

#[tokio::test]
async fn an_app_without_a_secret_cannot_ask_and_presents_nothing_twice() {
    for (what, say) in unknown() {
        let mut this = Refreshed::new(|g| g.auth = ClientAuth::None).await;
        this.host.says([say]);
        this.tried().await.unwrap_err();
        for restarts in [false, true] {
            if restarts {
                this.restart();
            }
            assert_eq!(reason(this.tried().await), "refresh_outcome_unknown", "{what}");
        }
        assert_eq!(this.host.saw(), ["present:seed"], "{what}");
    }
}

#[tokio::test]
async fn while_nobody_can_be_asked_nothing_is_presented_and_it_is_asked_again() {
    let table = [
        ("500", Say::Json(500, String::new())),
        ("429", Say::Json(429, String::new())),
        ("a cut", Say::Cut),
        ("silence", Say::Nothing),
    ];
    for (what, away) in table {
        let this = Refreshed::new(|_| {}).await;
        this.has(StoredGrant {
            in_flight: true,
            ..this.room.descended("r1")
        })
        .await;
        this.host.introspects([away, active(true)]);
        this.host.says([rotated("a2", "r2")]);
        let refusal = this.tried().await.unwrap_err();
        assert!(!refusal.class.needs_somebody(), "{what}: {refusal:?}");
        assert!(this.grant().await.in_flight, "{what}");
        assert_eq!(this.tried().await.unwrap(), "a2", "{what}");
        assert_eq!(this.host.saw(), ["ask:r1", "ask:r1", "present:r1"], "{what}");
    }
}

#[tokio::test]
async fn an_introspection_that_says_nothing_of_the_token_condemns_it_no_longer_than_it_says_so() {
    for (what, nothing) in [
        (
            "a wrong secret",
            refused("invalid_client", "invalid client credentials"),
        ),
        ("a page", Say::Json(200, "<html>".into())),
    ] {
        let this = Refreshed::new(|_| {}).await;
        this.has(StoredGrant {
            in_flight: true,
            ..this.room.descended("r1")
        })
        .await;
        this.host.introspects([nothing, active(true)]);
        this.host.says([rotated("a2", "r2")]);
        assert_eq!(reason(this.tried().await), "refresh_outcome_unknown", "{what}");
        assert_eq!(this.host.saw(), ["ask:r1"], "{what}");
        assert_eq!(this.tried().await.unwrap(), "a2", "{what}");
    }
    // A secret that cannot be read right now.
    let this = Refreshed::new(|_| {}).await;
    this.has(StoredGrant {
        in_flight: true,
        ..this.room.descended("r1")
    })
    .await;
    fs::remove_file(this.room.path("secret")).unwrap();
    assert_eq!(reason(this.tried().await), "refresh_outcome_unknown");
    this.room.put("secret", "s");
    this.host.introspects([active(true)]);
    this.host.says([rotated("a2", "r2")]);
    assert_eq!(this.tried().await.unwrap(), "a2");
}

#[tokio::test]
async fn what_never_left_or_was_plainly_refused_is_presented_again_without_asking() {
    let mut this = Refreshed::new(|_| {}).await;
    this.has(this.room.descended("r1")).await;
    // A secret that cannot be read.
    fs::remove_file(this.room.path("secret")).unwrap();
    assert_eq!(reason(this.tried().await), "secret_unreadable");
    assert!(!this.grant().await.in_flight);
    this.room.put("secret", "s");
    // Nobody listens.
    let address = format!("127.0.0.1:{}", this.host.url.port().unwrap());
    this.host.tasks.shutdown().await;
    assert_eq!(reason(this.tried().await), "unreachable");
    assert!(!this.grant().await.in_flight);
    this.host = Host::serve(TcpListener::bind(address).await.unwrap());
    for (error, text, word) in [
        ("invalid_grant", "login rate exceeded", "login_rate"),
        ("invalid_grant", "ip restricted", "ip_restricted"),
        ("invalid_client", "invalid client credentials", "client_credentials"),
    ] {
        this.host.says([refused(error, text)]);
        assert_eq!(reason(this.tried().await), word);
        assert!(!this.grant().await.in_flight, "{word}");
        assert_eq!(this.host.saw(), ["present:r1"], "{word}");
    }
    this.restart();
    this.host.says([rotated("a2", "r2")]);
    assert_eq!(this.tried().await.unwrap(), "a2");
    assert_eq!(this.host.saw(), ["present:r1"]);
}

#[tokio::test]
async fn without_rotation_an_unknown_outcome_is_repeated() {
    for policy in [RotationPolicy::Auto, RotationPolicy::Off] {
        for (what, say) in unknown() {
            let mut this = Refreshed::new(|g| g.rotation = policy).await;
            if policy == RotationPolicy::Auto {
                // One answer without a new token is what tells.
                this.host.says([ok("a0")]);
                this.tried().await.unwrap();
                assert_eq!(this.grant().await.rotation, Rotation::Off);
                assert_eq!(this.host.saw(), ["present:seed"]);
            }
            let token = held_with("a0", 1);
            this.host.says([say]);
            tried(&this.kept, &this.host, ask(Why::Refused, &token))
                .await
                .unwrap_err();
            this.restart();
            this.host.says([ok("a1")]);
            let again = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
            assert_eq!(again.unwrap(), "a1", "{what}");
            // Asked, because an administrator may have switched rotation on; nobody could tell.
            let asked: &[&str] = match policy {
                RotationPolicy::Auto => &["present:seed", "ask:seed", "present:seed"],
                RotationPolicy::Off => &["present:seed", "present:seed"],
            };
            assert_eq!(this.host.saw(), asked, "{what}");
        }
    }
}

#[tokio::test]
async fn the_same_refresh_token_in_the_answer_is_no_rotation() {
    let this = Refreshed::new(|_| {}).await;
    this.host.says([rotated("a", "seed")]);
    this.tried().await.unwrap();
    assert_eq!(this.grant().await.rotation, Rotation::Off);
}

#[tokio::test]
async fn an_answer_that_rotates_counts_more_than_what_was_known_or_set() {
    for policy in [RotationPolicy::Auto, RotationPolicy::Off] {
        let this = Refreshed::new(|g| g.rotation = policy).await;
        this.has(StoredGrant {
            rotation: Rotation::Off,
            ..this.room.descended("r1")
        })
        .await;
        this.host.says([rotated("a2", "r2"), Say::Cut]);
        this.tried().await.unwrap();
        assert_eq!(this.grant().await.rotation, Rotation::On);
        let token = held_with("a2", this.record().await.serial);
        tried(&this.kept, &this.host, ask(Why::Refused, &token))
            .await
            .unwrap_err();
        this.host.introspects([active(false)]);
        let next = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
        assert_eq!(reason(next), "refresh_outcome_unknown", "{policy:?}");
        assert_eq!(this.host.saw(), ["present:r1", "present:r2", "ask:r2"], "{policy:?}");
    }
}

#[tokio::test]
async fn a_refresh_that_somebody_else_makes_is_waited_for_and_its_loser_presents_nothing_spent() {
    let busy = || refused("invalid_grant", "token request is already being processed");
    for lives in [true, false] {
        let this = Refreshed::new(|_| {}).await;
        this.has(this.room.descended("r1")).await;
        this.host.says([busy(), rotated("a2", "r2")]);
        let refusal = this.tried().await.unwrap_err();
        assert_eq!((refusal.reason, refusal.class), ("refresh_busy", Class::Transient));
        assert!(this.grant().await.in_flight);
        this.host.introspects([active(lives)]);
        let next = this.tried().await;
        if lives {
            assert_eq!(next.unwrap(), "a2");
            assert_eq!(this.host.saw(), ["present:r1", "ask:r1", "present:r1"]);
        } else {
            assert_eq!(reason(next), "refresh_outcome_unknown");
            assert_eq!(this.host.saw(), ["present:r1", "ask:r1"]);
        }
    }
}

// ---- dead tokens, seeds, logins

#[tokio::test]
async fn a_dead_refresh_token_is_remembered_over_a_restart_and_not_presented_again() {
    for rotation in [Rotation::Unknown, Rotation::On, Rotation::Off] {
        let mut this = Refreshed::new(|_| {}).await;
        this.has(StoredGrant {
            rotation,
            ..this.room.descended("r1")
        })
        .await;
        this.host.says([dead()]);
        assert_eq!(reason(this.tried().await), "refresh_token_dead");
        for restarts in [false, true] {
            if restarts {
                this.restart();
            }
            let refusal = this.tried().await.unwrap_err();
            assert_eq!(refusal.reason, "refresh_token_dead", "{rotation:?}");
            assert!(refusal.to_string().contains("sf-token-proxy login main"), "{refusal}");
            assert_eq!(refusal.class, Class::Unsent, "looked at again soon");
        }
        assert_eq!(this.host.saw(), ["present:r1"], "{rotation:?}");
        // A new one in the settings is another.
        this.room.put("seed", "seed2");
        this.host.says([ok("a2")]);
        assert_eq!(this.tried().await.unwrap(), "a2", "{rotation:?}");
        assert_eq!(this.host.saw(), ["present:seed2"]);
        assert_eq!(this.grant().await.dead, None);
    }
}

#[tokio::test]
async fn a_new_seed_counts_more_than_the_record_and_the_same_seed_does_not() {
    let this = Refreshed::new(|_| {}).await;
    let record = Record {
        serial: 5,
        token: None,
        grant: Some(StoredGrant {
            in_flight: true,
            ..this.room.descended("r7")
        }),
    };
    this.put(&record).await;
    this.host.introspects([active(true)]);
    this.host.says([rotated("a8", "r8")]);
    assert_eq!(this.tried().await.unwrap(), "a8");
    assert_eq!(this.host.saw(), ["ask:r7", "present:r7"]);

    // The stored access token is the old grant's, perhaps of another user.
    this.room.put("seed", "seed2");
    this.host.says([rotated("b1", "q1")]);
    assert_eq!(this.tried().await.unwrap(), "b1");
    assert_eq!(this.host.saw(), ["present:seed2"]);
    let grant = this.grant().await;
    assert_eq!(grant.seed, Some(fingerprint(&"seed2".into())));
    assert_eq!(grant.refresh_token.expose_secret(), "q1");
    // The new seed's own token is adopted.
    assert_eq!(this.tried().await.unwrap(), "b1");
    assert_eq!(this.host.saw(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_login_of_another_process_is_taken_up() {
    let this = Refreshed::new(|g| g.refresh_token = None).await;
    let refusal = this.tried().await.unwrap_err();
    assert_eq!((refusal.reason, refusal.class), ("needs_login", Class::Unsent));
    assert!(refusal.to_string().contains("sf-token-proxy login main"), "{refusal}");
    let of_login = |token: &str| StoredGrant {
        seed: None,
        rotation: Rotation::Unknown,
        ..this.room.descended(token)
    };
    // Only the grant …
    this.has(of_login("l1")).await;
    this.host.says([dead()]);
    assert_eq!(reason(this.tried().await), "refresh_token_dead");
    assert_eq!(reason(this.tried().await), "refresh_token_dead");
    assert_eq!(this.host.saw(), ["present:l1"]);
    // … or its token as well.
    let record = Record {
        serial: 6,
        token: Some(this.room.stored()),
        grant: Some(of_login("l2")),
    };
    this.put(&record).await;
    assert_eq!(this.tried().await.unwrap(), "stored");
    assert_eq!(this.host.saw(), [] as [&str; 0]);
    let token = held_with("stored", 6);
    this.host.says([ok("a")]);
    let next = tried(&this.kept, &this.host, ask(Why::Refused, &token)).await;
    assert_eq!(next.unwrap(), "a");
    assert_eq!(this.host.saw(), ["present:l2"]);
}

#[tokio::test]
async fn two_on_one_store_log_in_once() {
    let (room, host) = (Room::new(), Host::start().await);
    for grant in [room.credentials(), Grant::RefreshToken(room.refresh())] {
        let org = room.org(&host, grant);
        // Two stores, as of two processes.
        let (one, two) = (room.kept(&org, &room.store()), room.kept(&org, &room.store()));
        host.says([rotated("a", "r")]);
        let (first, second) = tokio::join!(one.exchange(START), two.exchange(START));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert_eq!((first.serial, second.serial), (1, 1));
        assert!(first.adopted != second.adopted);
        assert_eq!(host.saw().len(), 1);
    }
}

// ---- token exchange

#[tokio::test]
async fn a_subject_token_without_an_answer_is_not_presented_again_until_it_changes() {
    for (what, say) in unknown() {
        let (room, host) = (Room::new(), Host::start().await);
        let org = room.org(&host, room.exchange());
        let kept = room.kept(&org, &Store::open(&config::Store::Memory).unwrap());
        host.says([say]);
        tried(&kept, &host, START).await.unwrap_err();
        for _ in 0..2 {
            let refusal = tried(&kept, &host, START).await.unwrap_err();
            assert_eq!(
                (refusal.reason, refusal.class),
                ("subject_token", Class::Unsent),
                "{what}"
            );
            assert!(refusal.to_string().contains("subject"), "{refusal}");
        }
        assert_eq!(host.saw(), ["present:subject"], "{what}");
        room.put("subject", "subject2");
        host.says([ok("a")]);
        assert_eq!(tried(&kept, &host, START).await.unwrap(), "a", "{what}");
        assert_eq!(host.saw(), ["present:subject2"], "{what}");
    }
}

#[tokio::test]
async fn a_subject_token_that_was_refused_or_never_left_may_be_presented_again() {
    let (room, host) = (Room::new(), Host::start().await);
    let org = room.org(&host, room.exchange());
    let kept = room.kept(&org, &Store::open(&config::Store::Memory).unwrap());
    host.says([refused("invalid_grant", "login rate exceeded"), ok("a"), ok("b")]);
    assert_eq!(reason(tried(&kept, &host, START).await), "login_rate");
    assert_eq!(tried(&kept, &host, START).await.unwrap(), "a");
    let token = held_with("a", 1);
    let again = tried(&kept, &host, ask(Why::Refused, &token)).await;
    assert_eq!(again.unwrap(), "b");
    assert_eq!(host.saw(), ["present:subject"; 3]);
}

// ---- found tokens

#[tokio::test]
async fn a_found_token_that_was_refused_and_is_still_there_is_asked_about_by_one_cheap_call() {
    let (room, host) = (Room::new(), Host::start().await);
    let instance = host.url.as_str().trim_end_matches('/').to_owned();
    let json = |token: &str| format!(r#"{{"result":{{"accessToken":"{token}","instanceUrl":"{instance}"}}}}"#);
    let script = room.path("json");
    let by_file = Grant::Static(config::Static {
        access_token: room.file("static"),
    });
    let by_command = Grant::Command(config::Command {
        argv: vec!["cat".into(), script.display().to_string()],
    });
    for (grant, word) in [(by_file, "static_token_dead"), (by_command, "command_failed")] {
        let is = |token: &str| {
            room.put("static", token);
            fs::write(&script, json(token)).unwrap();
        };
        is("found");
        let mut org = room.org(&host, grant);
        org.instance_url = Some(host.url.clone());
        let kept = room.kept(&org, &Store::open(&config::Store::Memory).unwrap());
        let first = kept.exchange(START).await.unwrap();
        assert_eq!(first.secret.expose_secret(), "found");
        let token = held(&first);
        // Not refused: no reason to ask.
        assert_eq!(tried(&kept, &host, ask(Why::Due, &token)).await.unwrap(), "found");
        assert_eq!(host.saw(), [] as [&str; 0]);
        for (status, again) in [(200, true), (403, true), (500, true), (401, false)] {
            host.touched(status);
            let next = tried(&kept, &host, ask(Why::Refused, &token)).await;
            match again {
                true => assert_eq!(next.unwrap(), "found", "{word} {status}"),
                false => assert_eq!(reason(next), word),
            }
            assert_eq!(host.saw(), ["touch"], "{word} {status}");
        }
        is("another");
        let next = tried(&kept, &host, ask(Why::Refused, &token)).await;
        assert_eq!(next.unwrap(), "another", "{word}");
        assert_eq!(host.saw(), [] as [&str; 0]);
    }
}

// ---- the rest

/// With rotation the presented token is spent by an answer, be the rest of that answer useless.
#[tokio::test]
async fn a_successor_in_an_answer_that_is_no_good_is_not_lost() {
    for (text, reason) in [
        (
            r#"{"access_token":"a","refresh_token":"r","instance_url":"http://evil.example"}"#,
            "unsafe_instance_url",
        ),
        (r#"{"access_token":"a","refresh_token":"r"}"#, "malformed_answer"),
    ] {
        let mut this = Refreshed::new(|_| {}).await;
        this.host.says([Say::Json(200, text.to_owned()), rotated("b", "s")]);
        assert_eq!(this.kept.exchange(START).await.unwrap_err().reason, reason);
        this.restart();
        this.kept.exchange(START).await.unwrap();
        assert_eq!(this.host.saw(), ["present:seed", "present:r"]);
    }
}

#[tokio::test]
async fn a_token_whose_end_nobody_told_is_asked_about_if_the_operator_wants_it() {
    for (wanted, told, expected) in [(true, true, true), (true, false, false), (false, true, false)] {
        let mut this = Refreshed::new(|_| {}).await;
        this.org.token.introspect = wanted;
        this.restart();
        let end = this.room.now() + Duration::from_secs(1234);
        let seconds = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let says = serde_json::json!({"active": true, "exp": seconds}).to_string();
        let no = Say::Json(500, String::new());
        this.host.introspects([if told { Say::Json(200, says) } else { no }]);
        this.host.says([rotated("a", "r")]);
        let minted = this.kept.exchange(START).await.unwrap();
        assert_eq!(minted.known_expiry, expected.then_some(end));
        let asked: &[&str] = if wanted {
            &["present:seed", "ask:a"]
        } else {
            &["present:seed"]
        };
        assert_eq!(this.host.saw(), asked);
        assert_eq!(this.record().await.token.unwrap().known_expiry, minted.known_expiry);
    }
}

#[tokio::test]
async fn what_is_spent_by_its_use_is_not_abandoned_half_way() {
    let (room, host) = (Room::new(), Host::start().await);
    let store = Store::open(&config::Store::Memory).unwrap();
    for (grant, abandonable) in [
        (room.credentials(), true),
        (Grant::RefreshToken(room.refresh()), false),
        (room.exchange(), false),
    ] {
        let kept = room.kept(&room.org(&host, grant), &store);
        assert_eq!(kept.abandonable(), abandonable, "{}", kept.grant_word());
        assert!(kept.longest(Duration::from_secs(1)) >= Duration::from_secs(3));
    }
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_renewal_waits_for_its_record() {
    let this = Refreshed::new(|_| {}).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    this.host.does_and_says(move || stopped.cancel(), rotated("a1", "r1"));
    let kept = this.room.kept(&this.org, &this.store);
    let name = OrgName::new("main");
    let rules = crate::token::Rules::new(this.org.token.clone(), this.org.budget);
    let metrics = Metrics::new().token(&name, kept.grant_word());
    let clock = kept.http.clock().clone();
    let (_tokens, keeper) = crate::token::keeper(name, rules, kept, clock, metrics);
    keeper.run(stop).await;
    let grant = this.grant().await;
    assert_eq!((grant.refresh_token.expose_secret(), grant.in_flight), ("r1", false));
}

#[tokio::test]
async fn what_is_adopted_costs_nothing_of_the_budget() {
    let this = Refreshed::new(|_| {}).await;
    let record = Record {
        serial: 5,
        token: Some(this.room.stored()),
        grant: Some(this.room.descended("r1")),
    };
    this.put(&record).await;
    let kept = this.room.kept(&this.org, &this.store);
    let name = OrgName::new("main");
    let rules = crate::token::Rules::new(this.org.token.clone(), this.org.budget);
    let metrics = Metrics::new().token(&name, kept.grant_word());
    let (budget, expiry) = (metrics.budget.clone(), metrics.expiry.clone());
    let clock = kept.http.clock().clone();
    let (_tokens, keeper) = crate::token::keeper(name, rules, kept, clock, metrics);
    let stop = tokio_util::sync::CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keeper.run(stop.clone()));
    while expiry.get() == 0.0 {
        tokio::task::yield_now().await;
    }
    assert!(budget.get() >= 60.0, "{}", budget.get());
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(this.host.saw(), [] as [&str; 0]);
}

#[test]
fn other_settings_have_another_key() {
    let room = Room::new();
    let host = |url: &str| Org {
        login: LoginHost {
            url: url.parse().unwrap(),
        },
        ..room.org(
            &Host {
                url: url.parse().unwrap(),
                script: Arc::default(),
                tasks: JoinSet::new(),
            },
            room.credentials(),
        )
    };
    let base = host("https://a.example");
    let mut others = vec![host("https://b.example")];
    let mut change = |change: fn(&mut Org, &Room)| {
        let mut org = base.clone();
        change(&mut org, &room);
        others.push(org);
    };
    change(|org, room| org.grant = Grant::RefreshToken(room.refresh()));
    change(|org, room| org.grant = room.exchange());
    change(|org, _| {
        if let Grant::ClientCredentials(grant) = &mut org.grant {
            grant.client_id.push('x');
        }
    });
    change(|org, _| org.instance_url = Some("https://i.example".parse().unwrap()));
    change(|org, _| {
        org.api.host = ApiHost::Other {
            field: None,
            also: vec![],
        };
    });
    let mut keys: Vec<_> = others.iter().map(|org| key_of(org).identity).collect();
    keys.push(key_of(&base).identity);
    keys.push(key(&OrgName::new("main"), &base, Some("user")).identity);
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all);
    assert!(!keys.concat().contains("secret"));
}
