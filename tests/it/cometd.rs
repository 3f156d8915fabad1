//! CometD through the proxy: handshakes, long polls, cookies, and tokens that die meanwhile.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sf_token_proxy::demo::{ApiFault, Reply as Scripted};

use crate::{
    site::{Site, soon},
    support::{RawOrg, RawRequest, Reply, Running, Script, call, eventually, raw_org::EXPIRED},
};

const EVENT: &str = "/event/Practice_Event__e";
const GET: &str = "GET /services/data/v60.0/limits HTTP/1.1";
const DENIED: &str = r#"[{"ext":{"sfdc":{"failureReason":"401::Authentication invalid"},"replay":true},"advice":{"reconnect":"none"},"channel":"/meta/handshake","error":"403::Handshake denied","successful":false}]"#;
const ENDED: &str = r#"[{"clientId":"c1","advice":{"interval":0,"reconnect":"none"},"channel":"/meta/connect","id":"4","error":"401::Authentication invalid","successful":false}]"#;
const SHAKEN: &str = r#"[{"channel":"/meta/handshake","clientId":"c1","successful":true}]"#;

/// A Bayeux client behind the proxy, with cookies of its own, over plain http.
#[derive(Default, Clone)]
struct Client {
    id: String,
    cookies: BTreeMap<String, String>,
}

fn handshake() -> Value {
    json!([{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"], "id": "1"}])
}

async fn post(app: &Running, message: &Value, headers: &str) -> Reply {
    let body = message.to_string();
    let lines = format!(
        "POST /cometd/60.0 HTTP/1.1\nContent-Type: application/json\nContent-Length: {}{headers}",
        body.len()
    );
    call(app.proxy, &lines, body.as_bytes()).await
}

impl Client {
    async fn post(&mut self, app: &Running, message: &Value) -> Reply {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let line = if cookies.is_empty() {
            String::new()
        } else {
            format!("\nCookie: {}", cookies.join("; "))
        };
        let reply = post(app, message, &line).await;
        for cookie in reply.header("set-cookie") {
            let mut parts = cookie.split(';').map(str::trim);
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            for attribute in parts {
                let attribute = attribute.to_ascii_lowercase();
                assert!(attribute != "secure" && !attribute.starts_with("domain"), "{cookie}");
            }
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        reply
    }

    async fn replies(&mut self, app: &Running, message: &Value) -> Vec<Value> {
        let reply = self.post(app, message).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        serde_json::from_slice(&reply.body).unwrap()
    }

    async fn shake_hands(app: &Running) -> Self {
        let mut client = Self::default();
        let replies = client.replies(app, &handshake()).await;
        assert_eq!(replies[0]["successful"], true, "{replies:?}");
        client.id = replies[0]["clientId"].as_str().unwrap().to_owned();
        for name in ["BAYEUX_BROWSER", "sfdc-stream"] {
            assert!(client.cookies.contains_key(name), "{:?}", client.cookies);
        }
        client
    }

    /// Shaken hands, polled once, and subscribed to the event.
    async fn connected(app: &Running) -> Self {
        let mut client = Self::shake_hands(app).await;
        assert_eq!(client.poll(app).await[0]["successful"], true);
        let subscribe =
            json!([{"channel": "/meta/subscribe", "clientId": client.id, "subscription": EVENT, "id": "3"}]);
        let replies = client.replies(app, &subscribe).await;
        assert_eq!(replies[0]["successful"], true, "{replies:?}");
        client
    }

    fn connect(&self) -> Value {
        json!([{"channel": "/meta/connect", "clientId": self.id, "connectionType": "long-polling", "id": "2"}])
    }

    async fn poll(&mut self, app: &Running) -> Vec<Value> {
        let message = self.connect();
        soon(self.replies(app, &message)).await
    }
}

async fn held(site: &Site, count: u64) {
    eventually("polls are held", || site.org.stats().cometd_held, |held| *held == count).await;
}

#[tokio::test]
async fn clients_with_cookies_of_their_own_get_what_is_published() {
    let site = Site::start(|_| {}, |_| {}).await;
    let mut one = Client::connected(&site.app).await;
    let mut two = Client::connected(&site.app).await;
    assert_ne!((&one.id, &one.cookies), (&two.id, &two.cookies));
    for round in ["first", "second"] {
        let (got, other, ()) = tokio::join!(one.poll(&site.app), two.poll(&site.app), async {
            held(&site, 2).await;
            site.publish(round).await;
        });
        for replies in [got, other] {
            assert_eq!(replies[0]["data"]["payload"]["Message__c"], round);
            assert_eq!(replies[1]["successful"], true);
        }
    }
    // With the other's cookies a client is not known: the proxy has none of its own to lend.
    let mut mixed = Client {
        id: one.id.clone(),
        cookies: two.cookies.clone(),
    };
    assert_eq!(mixed.poll(&site.app).await[0]["error"], "403::Unknown client");
    assert_eq!(site.org.stats().token_requests, 1);
    site.stop().await;
}

#[tokio::test]
async fn a_silent_poll_outlives_the_idle_timeouts() {
    let brief = Duration::from_millis(300);
    let site = Site::start(
        |settings| settings.streaming.poll = Duration::from_millis(2000),
        |config| {
            config.upstream.pool_idle_timeout = brief;
            config.upstream.body_idle_timeout = brief;
            config.listeners[0].idle_timeout = brief;
        },
    )
    .await;
    let mut client = Client::connected(&site.app).await;
    let began = tokio::time::Instant::now();
    let replies = client.poll(&site.app).await;
    assert!(began.elapsed() >= Duration::from_millis(2000));
    assert_eq!((replies.len(), &replies[0]["successful"]), (1, &json!(true)));
    site.stop().await;
}

#[tokio::test]
async fn a_token_that_dies_during_a_poll_is_told_and_renewed_once() {
    let site = Site::start(|_| {}, |_| {}).await;
    let mut client = Client::connected(&site.app).await;
    let (replies, ()) = tokio::join!(client.poll(&site.app), async {
        held(&site, 1).await;
        site.org.revoke();
    });
    assert_eq!(replies[0]["error"], "401::Authentication invalid");
    assert_eq!(replies[0]["advice"], json!({"interval": 0, "reconnect": "none"}));
    eventually(
        "renewed without being asked",
        || site.org.stats().token_requests,
        |n| *n == 2,
    )
    .await;
    let told = "sf_token_proxy_token_rejections_total{org=\"main\",reason=\"bayeux_401\",surface=\"cometd\"}";
    assert_eq!(site.app.metric(told).await, 1.0);
    let refused = site.org.stats().cometd_401;
    Client::connected(&site.app).await;
    assert_eq!(call(site.app.proxy, GET, b"").await.status, 200);
    let stats = site.org.stats();
    assert_eq!((stats.token_requests, stats.cometd_401, refused), (2, 1, 1));
    site.stop().await;
}

/// Without waiting for the renewal that its poll's end began.
#[tokio::test]
async fn clients_that_shake_hands_at_once_cost_one_login() {
    let site = Site::start(|_| {}, |_| {}).await;
    let mut one = Client::connected(&site.app).await;
    let mut two = Client::connected(&site.app).await;
    let (a, b, ()) = tokio::join!(
        async {
            assert_eq!(one.poll(&site.app).await[0]["error"], "401::Authentication invalid");
            Client::connected(&site.app).await
        },
        async {
            assert_eq!(two.poll(&site.app).await[0]["error"], "401::Authentication invalid");
            Client::connected(&site.app).await
        },
        async {
            held(&site, 2).await;
            site.org.revoke();
        }
    );
    assert_ne!(a.id, b.id);
    assert_eq!(call(site.app.proxy, GET, b"").await.status, 200);
    assert_eq!(site.org.stats().token_requests, 2);
    site.stop().await;
}

#[tokio::test]
async fn a_handshake_with_a_dead_token_is_repeated_unnoticed() {
    for http_401 in [false, true] {
        let site = Site::start(
            |settings| {
                settings.streaming.http_401 = http_401;
                settings.streaming.poll = Duration::from_millis(500);
            },
            |_| {},
        )
        .await;
        Client::shake_hands(&site.app).await;
        site.org.revoke();
        let mut client = Client::connected(&site.app).await;
        assert_eq!((site.org.stats().token_requests, site.org.stats().cometd_401), (2, 1));
        // A poll that is told by 401 may be repeated; told within 200 it is the client's.
        site.org.revoke();
        let replies = client.poll(&site.app).await;
        assert_eq!(replies[0]["successful"], http_401, "{replies:?}");
        eventually("renewed", || site.org.stats().token_requests, |n| *n == 3).await;
        site.stop().await;
    }
}

fn is(request: &RawRequest, channel: &str) -> bool {
    String::from_utf8_lossy(&request.body).contains(channel)
}

fn first_token(request: &RawRequest) -> bool {
    request.token().ends_with("token_1")
}

/// Each way in which a dead token may be told to a handshake.
#[tokio::test]
async fn every_form_of_a_refused_handshake_is_repeated() {
    let plain = r#"[{"channel":"/meta/handshake","error":"401::Request requires authentication","successful":false}]"#;
    let single = DENIED.trim_matches(['[', ']']);
    for (status, body) in [
        ("200 OK", DENIED),
        ("200 OK", single),
        ("200 OK", plain),
        ("401 Unauthorized", DENIED),
        ("401 Unauthorized", plain),
        ("401 Unauthorized", EXPIRED),
    ] {
        for gzip in [false, true] {
            let org = RawOrg::start(move |request| match first_token(request) {
                true => said(status, body, gzip),
                false => said("200 OK", SHAKEN, gzip),
            })
            .await;
            let app = Running::start(&org.url(), |_| {}).await;
            let reply = post(&app, &handshake(), "\nAccept-Encoding: gzip").await;
            assert_eq!(
                (reply.status, unzipped(&reply)),
                (200, SHAKEN.to_owned()),
                "{status} {body}"
            );
            let seen = org.seen();
            assert_eq!((seen.len(), org.logins()), (2, 2));
            assert_eq!(seen[0].body, seen[1].body);
            app.stop().await;
        }
    }
}

fn said(status: &str, body: &str, gzip: bool) -> Script {
    let (encoding, bytes) = match gzip {
        true => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(body.as_bytes()).unwrap();
            ("Content-Encoding: gzip\r\n", encoder.finish().unwrap())
        }
        false => ("", body.as_bytes().to_vec()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{encoding}Content-Length: {}\r\n\r\n",
        bytes.len()
    );
    Script::Say([head.into_bytes(), bytes].concat())
}

fn unzipped(reply: &Reply) -> String {
    if reply.header("content-encoding") != ["gzip"] {
        return reply.text();
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&reply.body[..]), &mut text).unwrap();
    text
}

/// What ends a poll passes byte for byte, however it is packed; the token is asked about and renewed.
#[tokio::test]
async fn the_end_of_a_poll_passes_as_it_came() {
    for gzip in [false, true] {
        let org = RawOrg::start(
            move |request| match (first_token(request), is(request, "/meta/connect")) {
                (true, true) => said("200 OK", ENDED, gzip),
                (true, false) => Script::expired(),
                (false, _) => Script::ok(),
            },
        )
        .await;
        let app = Running::start(&org.url(), |_| {}).await;
        let client = Client {
            id: "c1".into(),
            ..Client::default()
        };
        let reply = post(&app, &client.connect(), "").await;
        assert_eq!((reply.status, unzipped(&reply)), (200, ENDED.to_owned()));
        let Script::Say(expected) = said("200 OK", ENDED, gzip) else {
            unreachable!()
        };
        assert!(expected.ends_with(&reply.body) && !reply.body.is_empty());
        eventually("renewed", || org.logins(), |n| *n == 2).await;
        let connects = org.seen().iter().filter(|request| is(request, "/meta/connect")).count();
        assert_eq!(connects, 1, "a poll is not repeated");
        app.stop().await;
    }
}

#[tokio::test]
async fn an_event_that_speaks_of_401_means_nothing() {
    let events = r#"[{"channel":"/event/X__e","data":{"payload":{"Message__c":"401::Authentication invalid"}}},{"channel":"/event/X__e","successful":false,"error":"401::"},{"channel":"/meta/connect","successful":true,"clientId":"c1"}]"#;
    let org = RawOrg::start(move |_| said("200 OK", events, false)).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let client = Client {
        id: "c1".into(),
        ..Client::default()
    };
    for message in [client.connect(), handshake(), client.connect()] {
        assert_eq!(post(&app, &message, "").await.text(), events);
    }
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!((org.seen().len(), org.logins()), (4, 1), "nor was the org asked");
    app.stop().await;
}

#[tokio::test]
async fn an_org_that_denies_every_handshake_costs_no_storm_of_logins() {
    for (message, first) in [
        (handshake(), DENIED),
        (
            Client {
                id: "c1".into(),
                ..Client::default()
            }
            .connect(),
            ENDED,
        ),
    ] {
        let org = RawOrg::start(move |request| match request.target() {
            "/cometd/60.0" => said("200 OK", first, false),
            _ => Script::ok(),
        })
        .await;
        let app = Running::start(&org.url(), |_| {}).await;
        for _ in 0..20 {
            assert_eq!(post(&app, &message, "").await.text(), first);
            assert_eq!(call(app.proxy, GET, b"").await.status, 200);
        }
        // A question about the token may be under way; its answer is that it lives.
        let asked = org.seen().len();
        assert!(org.logins() <= 2, "{} logins", org.logins());
        assert!(asked <= 20 * 4, "{asked} calls");
        app.stop().await;
    }
}

/// Each question is a call of the org's daily allowance.
#[tokio::test]
async fn polls_that_end_with_401_for_reasons_of_their_own_cost_few_questions() {
    let org = RawOrg::start(move |request| match request.target() {
        "/cometd/60.0" => said("200 OK", ENDED, false),
        _ => Script::ok(),
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let poll = Client {
        id: "c1".into(),
        ..Client::default()
    }
    .connect();
    for _ in 0..20 {
        assert_eq!(post(&app, &poll, "").await.text(), ENDED);
    }
    let asked = || {
        org.seen()
            .iter()
            .filter(|seen| !seen.target().contains("cometd"))
            .count()
    };
    eventually("a question", asked, |asked| *asked > 0).await;
    assert!(asked() <= 3, "{}", asked());
    assert_eq!(org.logins(), 1);
    app.stop().await;
}

#[tokio::test]
async fn cometd_speaks_http_1_also_where_http_2_is_wanted() {
    let site = Site::start(|settings| settings.http2 = true, |config| config.upstream.http2 = true).await;
    assert_eq!(call(site.app.proxy, GET, b"").await.status, 200);
    Client::connected(&site.app).await;
    assert_eq!(call(site.app.proxy, GET, b"").await.status, 200);
    for seen in site.org.requests(9) {
        let expected = if seen.target.contains("/cometd/") { "1.1" } else { "2.0" };
        assert!(seen.version.ends_with(expected), "{} {}", seen.target, seen.version);
    }
    site.stop().await;
}

#[tokio::test]
async fn an_upgrade_to_a_web_socket_is_not_passed_on() {
    let upgrades = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&upgrades);
    let org = RawOrg::start(move |request| {
        let names = ["upgrade", "connection"];
        let any = names.iter().any(|name| !request.header(name).is_empty());
        seen.fetch_add(usize::from(any), Ordering::SeqCst);
        Script::json("400 Bad Request", "Unknown Bayeux Transport")
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let lines = "GET /cometd/60.0 HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let reply = call(app.proxy, lines, b"").await;
    assert_eq!((reply.status, reply.text().as_str()), (400, "Unknown Bayeux Transport"));
    assert_eq!((org.seen().len(), upgrades.load(Ordering::SeqCst)), (1, 0));
    app.stop().await;
}

/// It is the one that is told in an answer of the org's, and the client's own to heed.
#[tokio::test]
async fn what_is_not_about_the_token_passes_and_costs_nothing() {
    let site = Site::start(|_| {}, |_| {}).await;
    Client::connected(&site.app).await;
    for (status, body) in [
        (
            200,
            r#"[{"channel":"/meta/connect","successful":false,"error":"403::Unknown client","advice":{"reconnect":"handshake"}}]"#,
        ),
        (
            503,
            r#"[{"channel":"/meta/handshake","successful":false,"error":"503::Server is too busy"}]"#,
        ),
        (401, "no"),
    ] {
        site.org.fail_api(ApiFault {
            fail: 1,
            path_prefix: "/cometd".into(),
            reply: Scripted::json(status, body),
        });
        let reply = post(&site.app, &handshake(), "").await;
        assert_eq!((reply.status, reply.text().as_str()), (status, body));
    }
    assert_eq!(site.org.stats().token_requests, 1);
    site.stop().await;
}
