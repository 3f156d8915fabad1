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

mod adoption;
mod away;
mod renewals;
mod rotation;
mod unknown;

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
