//! HTTP/2 to the org: shared connections, and what an org may do to them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use sf_token_proxy::config::Config;
use tokio::{io::AsyncWriteExt as _, task::JoinSet, time::Instant};

use crate::{
    site::{Site, Wire, metric_becomes, soon},
    support::{
        RawH2, RawOrg, Reply, Running, Script, call, connect, eventually,
        raw_h2::{Call, INTERNAL_ERROR, REFUSED_STREAM, Say},
        raw_org::token_answer,
        read_reply,
    },
};

const LIMITS: &str = "GET /services/data/v60.0/limits HTTP/1.1";
const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";
const IDLE: &str = "sf_token_proxy_upstream_connections{org=\"main\",state=\"idle\"}";
const IN_USE: &str = "sf_token_proxy_upstream_connections{org=\"main\",state=\"in_use\"}";

fn http2(config: &mut Config) {
    config.upstream.http2 = true;
}

async fn practice(adapt: impl FnOnce(&mut Config)) -> Site {
    Site::start(
        |settings| settings.http2 = true,
        |config| {
            http2(config);
            adapt(config);
        },
    )
    .await
}

/// The program before an org of raw frames, over TLS.
struct Scripted {
    org: RawH2,
    app: Running,
    _login: RawOrg,
}

async fn scripted(
    most_streams: Option<u32>,
    adapt: impl FnOnce(&mut Config),
    play: impl Fn(&Call) -> Vec<Say> + Send + Sync + 'static,
) -> Scripted {
    let org = RawH2::start_as(true, most_streams, play).await;
    let url = org.url();
    let login = RawOrg::start(move |_| Script::json("200 OK", &token_answer(&url, 1))).await;
    login.script_logins();
    let ca = org.ca();
    let app = Running::start(&login.url(), |config| {
        http2(config);
        config.upstream.ca_file = Some(ca);
        adapt(config);
    })
    .await;
    Scripted {
        org,
        app,
        _login: login,
    }
}

fn ok() -> Vec<Say> {
    vec![Say::Answer("200", b"fine".to_vec())]
}

/// Waits for the whole request.
fn when_ended(call: &Call, say: impl FnOnce() -> Vec<Say>) -> Vec<Say> {
    if call.ended { say() } else { Vec::new() }
}

fn with_body(method: &str, length: usize) -> String {
    format!("{method} /services/data/v60.0/x HTTP/1.1\nContent-Length: {length}")
}

/// Many at once, each on a connection of its own to the proxy.
async fn at_once(app: &Running, count: usize, lines: &str, body: &[u8]) -> Vec<Reply> {
    let mut callers = JoinSet::new();
    for _ in 0..count {
        let (proxy, lines, body) = (app.proxy, lines.to_owned(), body.to_vec());
        callers.spawn(async move { call(proxy, &lines, &body).await });
    }
    soon(callers.join_all()).await
}

#[tokio::test]
async fn many_calls_share_a_connection_that_is_counted_and_closed_when_idle() {
    let site = practice(|config| config.upstream.pool_idle_timeout = Duration::from_millis(400)).await;
    assert_eq!(call(site.app.proxy, LIMITS, b"").await.status, 200);
    let logged_in = site.org.stats().connections - 1;
    site.org.set_latency(sf_token_proxy::demo::Latency {
        api: Duration::from_millis(300),
        token: Duration::ZERO,
    });
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let proxy = site.app.proxy;
        callers.spawn(async move { call(proxy, LIMITS, b"").await.status });
    }
    metric_becomes(&site.app, IN_USE, 1.0).await;
    assert_eq!(site.open("idle").await, 0.0);
    assert!(callers.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(site.org.stats().connections - logged_in, 1);
    let seen = site.org.requests(60);
    assert!(
        seen.iter().all(|request| request.version.ends_with("2.0")),
        "{:?}",
        seen[0]
    );
    metric_becomes(&site.app, IDLE, 1.0).await;
    assert_eq!(site.open("in_use").await, 0.0);
    metric_becomes(&site.app, IDLE, 0.0).await;
    let stats = || site.org.stats().open_connections;
    eventually("the idle connection is closed", stats, |open| *open == 0).await;
    site.stop().await;
}

#[tokio::test]
async fn headers_and_path_are_http_2s_and_the_callers() {
    let site = practice(|_| {}).await;
    let lines = "GET //services/data/v60.0/query?q=SELECT+Id,Name+FROM+Account+LIMIT+1&x=%2f%20 HTTP/1.1\n\
                 Connection: keep-alive, x-named\nKeep-Alive: timeout=5\nX-Named: 1\nX-Kept: 2\nTE: trailers\nUpgrade: h2c\n\
                 HTTP2-Settings: AAMAAABk\nCookie: a=b; sid=secret\nAuthorization: OAuth undefined";
    let reply = call(site.app.proxy, lines, b"").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = site.org.requests(1).remove(0);
    assert!(seen.version.ends_with("2.0"), "{}", seen.version);
    let expected = "//services/data/v60.0/query?q=SELECT+Id,Name+FROM+Account+LIMIT+1&x=%2f%20";
    assert_eq!(seen.target, format!("{}{expected}", site.org.base_url()));
    for gone in [
        "host",
        "connection",
        "keep-alive",
        "x-named",
        "upgrade",
        "http2-settings",
        "transfer-encoding",
    ] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(
        (seen.header("te"), seen.header("x-kept")),
        (Some("trailers"), Some("2"))
    );
    assert_eq!(seen.header("cookie"), Some("a=b"));
    assert!(seen.token_known);
    site.stop().await;
}

#[tokio::test]
async fn more_than_a_hundred_calls_open_a_second_connection() {
    let scripted = scripted(None, |_| {}, |_| Vec::new()).await;
    let mut callers = JoinSet::new();
    for _ in 0..150 {
        let proxy = scripted.app.proxy;
        callers.spawn(async move { call(proxy, GET, b"").await.status });
    }
    eventually("all calls are with the org", || scripted.org.heads(), |n| *n == 150).await;
    assert_eq!(scripted.org.connections(), 2);
    metric_becomes(&scripted.app, IN_USE, 2.0).await;
    for call in scripted.org.calls() {
        scripted
            .org
            .say(call.connection, call.stream, Say::Answer("200", Vec::new()));
    }
    assert!(soon(callers.join_all()).await.iter().all(|status| *status == 200));
    metric_becomes(&scripted.app, IDLE, 2.0).await;
    scripted.app.stop().await;
    eventually("nothing is left open", || scripted.org.open(), |n| *n == 0).await;
}

/// Calls above what a server allows would wait for others that may not end.
#[tokio::test]
async fn a_server_that_allows_few_calls_gets_more_connections() {
    let first = AtomicBool::new(true);
    let scripted = scripted(
        Some(3),
        |_| {},
        move |_| {
            if first.swap(false, Ordering::SeqCst) {
                ok()
            } else {
                Vec::new()
            }
        },
    )
    .await;
    assert_eq!(call(scripted.app.proxy, GET, b"").await.status, 200);
    let mut callers = JoinSet::new();
    for n in 1..=7 {
        let proxy = scripted.app.proxy;
        callers.spawn(async move { call(proxy, GET, b"").await.status });
        eventually(
            "one more call is with the org",
            || scripted.org.heads(),
            |heads| *heads == n + 1,
        )
        .await;
    }
    assert_eq!(scripted.org.connections(), 3);
    scripted.app.stop.force_now();
    callers.shutdown().await;
    scripted.app.stop().await;
}

#[tokio::test]
async fn goaway_while_calls_are_in_flight_loses_none() {
    for method in ["GET", "POST", "PATCH", "DELETE"] {
        // The first connection takes one call, and none above it.
        let scripted = scripted(
            None,
            |_| {},
            |call| {
                when_ended(call, || match (call.connection, call.stream) {
                    (0, 1) => Vec::new(),
                    (0, 3) => vec![Say::GoAway { last: 1, close: false }],
                    (0, _) => Vec::new(),
                    _ => ok(),
                })
            },
        )
        .await;
        let lines = with_body(method, 7);
        let mut first = JoinSet::new();
        let (proxy, line) = (scripted.app.proxy, lines.clone());
        first.spawn(async move { call(proxy, &line, b"payload").await });
        eventually("the first is with the org", || scripted.org.calls().len(), |n| *n >= 2).await;
        for reply in at_once(&scripted.app, 20, &lines, b"payload").await {
            assert_eq!((reply.status, reply.text().as_str()), (200, "fine"), "{method}");
        }
        // What was taken goes on where it is.
        scripted.org.say(0, 1, Say::Answer("200", b"late".to_vec()));
        assert_eq!(soon(first.join_next()).await.unwrap().unwrap().text(), "late");
        let ended: Vec<Call> = scripted.org.calls().into_iter().filter(|call| call.ended).collect();
        assert!(ended.iter().all(|call| call.body == b"payload"));
        assert_eq!(
            ended.iter().filter(|call| call.connection > 0).count(),
            20,
            "{method}: each once"
        );
        scripted.app.stop().await;
    }
}

/// It was above no limit that the org gave: it may have been done.
#[tokio::test]
async fn a_post_that_the_org_may_have_done_is_not_sent_twice() {
    for end in [true, false] {
        let scripted = scripted(
            None,
            |_| {},
            move |call| {
                when_ended(call, || match (call.stream, end) {
                    (1, _) => ok(),
                    (last, true) => vec![Say::GoAway { last, close: true }],
                    (_, false) => vec![Say::Close],
                })
            },
        )
        .await;
        let lines = with_body("POST", 3);
        assert_eq!(call(scripted.app.proxy, &lines, b"abc").await.status, 200);
        let reply = call(scripted.app.proxy, &lines, b"abc").await;
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains("is not known"), "{}", reply.text());
        assert_eq!(scripted.org.heads(), 2);
        scripted.app.stop().await;
    }
}

#[tokio::test]
async fn refused_streams_are_sent_again_whatever_the_method() {
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let refusals = AtomicU32::new(3);
        let scripted = scripted(
            None,
            |_| {},
            move |call| {
                when_ended(call, || {
                    let left = refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                    match left {
                        Ok(_) => vec![Say::Reset(REFUSED_STREAM)],
                        Err(_) => ok(),
                    }
                })
            },
        )
        .await;
        let reply = call(scripted.app.proxy, &with_body(method, 5), b"12345").await;
        assert_eq!(reply.status, 200, "{method}: {}", reply.text());
        let ended: Vec<Call> = scripted.org.calls().into_iter().filter(|call| call.ended).collect();
        assert_eq!(ended.len(), 4);
        assert!(ended.iter().all(|call| call.body == b"12345"));
        assert_eq!(
            scripted.org.connections(),
            1,
            "a refused stream is no reason to leave the connection"
        );
        scripted.app.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_given_up_with_a_clear_error() {
    type Play = fn(&Call) -> Vec<Say>;
    let refuses: Play = |_| vec![Say::Reset(REFUSED_STREAM)];
    let leaves: Play = |_| vec![Say::GoAway { last: 0, close: true }];
    let leaves_and_stays: Play = |_| vec![Say::GoAway { last: 0, close: false }];
    for play in [refuses, leaves, leaves_and_stays] {
        let scripted = scripted(None, |_| {}, play).await;
        let reply = soon(call(scripted.app.proxy, &with_body("POST", 3), b"abc")).await;
        assert_eq!(reply.status, 502, "{}", reply.text());
        assert!(reply.text().contains("has not processed the call"), "{}", reply.text());
        assert_eq!(scripted.org.heads(), 4, "one and three repeats");
        metric_becomes(&scripted.app, IN_USE, 0.0).await;
        scripted.app.stop().await;
    }
}

/// One call's stream that breaks is no reason to leave the connection, nor to send the call again.
#[tokio::test]
async fn a_reset_stream_fails_its_call_alone() {
    let scripted = scripted(
        None,
        |_| {},
        |call| match call.stream {
            3 => vec![Say::Reset(INTERNAL_ERROR)],
            _ => ok(),
        },
    )
    .await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(call(scripted.app.proxy, GET, b"").await.status);
    }
    assert_eq!(statuses, [200, 502, 200]);
    assert_eq!((scripted.org.connections(), scripted.org.heads()), (1, 3));
    scripted.app.stop().await;
}

#[tokio::test]
async fn a_safe_call_on_a_connection_that_died_is_sent_again() {
    let scripted = scripted(
        None,
        |_| {},
        |call| match (call.connection, call.stream) {
            (0, 3) => vec![Say::Close],
            _ => ok(),
        },
    )
    .await;
    for _ in 0..3 {
        assert_eq!(call(scripted.app.proxy, GET, b"").await.status, 200);
    }
    assert_eq!((scripted.org.connections(), scripted.org.heads()), (2, 4));
    scripted.app.stop().await;
}

/// Those who wait for somebody else's connection learn that there will be none, and connect at the same time.
#[tokio::test]
async fn an_org_that_chooses_http_1_is_served_without_lock_step() {
    const SLOW: Duration = Duration::from_millis(300);
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", front.local_addr().unwrap().port());
    let site = Site::start(
        |settings| {
            settings.http2 = false;
            settings.instance_url = Some(url);
        },
        http2,
    )
    .await;
    let org = site.org.base_url().rsplit(':').next().unwrap().parse::<u16>().unwrap();
    // Every handshake takes its time.
    let mut connections = JoinSet::new();
    connections.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (mut near, _) = front.accept().await.unwrap();
            open.spawn(async move {
                tokio::time::sleep(SLOW).await;
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", org)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    let began = Instant::now();
    for reply in at_once(&site.app, 12, LIMITS, b"").await {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert!(began.elapsed() < 6 * SLOW, "{:?}", began.elapsed());
    assert!(site.org.requests(12).iter().all(|seen| seen.version.ends_with("1.1")));
    connections.shutdown().await;
    site.stop().await;
}

/// Somebody waits for a handshake with a host that is away; the others do so with them, not after them.
#[tokio::test]
async fn a_host_that_never_shakes_hands_costs_each_caller_one_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let login = RawOrg::start(move |_| Script::json("200 OK", &token_answer(&url, 1))).await;
    login.script_logins();
    let app = Running::start(&login.url(), |config| {
        http2(config);
        config.upstream.connect_timeout = Duration::from_millis(500);
    })
    .await;
    let began = Instant::now();
    for reply in at_once(&app, 10, GET, b"").await {
        assert_eq!(reply.status, 504, "{}", reply.text());
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    app.stop().await;
}

#[tokio::test]
async fn sixty_four_callers_and_ten_revocations_over_http_2() {
    let site = practice(|_| {}).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU32::new(0));
    let mut callers = JoinSet::new();
    for n in 0..64 {
        let (stop, answered, proxy) = (Arc::clone(&stop), Arc::clone(&answered), site.app.proxy);
        callers.spawn(async move {
            let mut stream = connect(proxy).await;
            let body = format!("{{\"Name\":\"caller {n}\"}}");
            let create = format!(
                "POST /services/data/v60.0/sobjects/Account HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            while !stop.load(Ordering::SeqCst) {
                stream.write_all(create.as_bytes()).await.unwrap();
                let reply = read_reply(&mut stream, false).await.expect("an answer");
                assert_eq!(reply.status, 201, "{}", reply.text());
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let go_on = async || {
        let before = answered.load(Ordering::SeqCst);
        eventually("calls go on", || answered.load(Ordering::SeqCst), |n| *n > before + 64).await;
    };
    for round in 1..=10 {
        go_on().await;
        assert_eq!(site.org.revoke(), 1);
        eventually("the renewal", || site.org.stats().token_requests, |n| *n == round + 1).await;
    }
    go_on().await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let stats = site.org.stats();
    assert_eq!((stats.token_requests, stats.token_max_concurrent), (11, 1));
    assert!(
        site.org
            .requests(10)
            .iter()
            .all(|request| request.version.ends_with("2.0"))
    );
    site.stop().await;
}

#[tokio::test]
async fn a_large_upload_that_is_refused_early_is_repeated_whole() {
    let site = Site::start(
        |settings| {
            settings.http2 = true;
            settings.early_401 = true;
        },
        http2,
    )
    .await;
    assert_eq!(call(site.app.proxy, LIMITS, b"").await.status, 200);
    site.org.revoke();
    let body: Vec<u8> = (0..=255u8).cycle().take(8 << 20).collect();
    let lines = format!(
        "POST /services/apexrest/echo HTTP/1.1\nContent-Type: application/octet-stream\nContent-Length: {}",
        body.len()
    );
    let reply = soon(call(site.app.proxy, &lines, &body)).await;
    assert_eq!(reply.status, 200, "{}", &reply.text()[..200.min(reply.body.len())]);
    let seen = site.org.requests(1).remove(0);
    assert_eq!((seen.body_bytes, seen.version.ends_with("2.0")), (8 << 20, true));
    assert_eq!(site.org.stats().token_requests, 2);
    site.stop().await;
}

/// Answers that nobody reads hold their own window and no more.
#[tokio::test]
async fn stalled_answers_do_not_starve_the_others() {
    let scripted = scripted(
        None,
        |_| {},
        |call| match call.stream {
            1..=79 => vec![Say::Begin("200", vec![b'x'; 250_000])],
            _ => ok(),
        },
    )
    .await;
    let wire = Wire::plain(scripted.app.proxy).await;
    let mut stalled = Vec::new();
    for n in 1..=40 {
        let request = http::Request::get("http://localhost/services/data/v60.0/x")
            .body(())
            .unwrap();
        let (response, _) = wire.send.clone().send_request(request, true).unwrap();
        stalled.push(soon(response).await.unwrap());
        eventually("it is with the org", || scripted.org.heads(), |heads| *heads == n).await;
    }
    for reply in at_once(&scripted.app, 20, GET, b"").await {
        assert_eq!((reply.status, reply.text().as_str()), (200, "fine"));
    }
    assert_eq!(scripted.org.connections(), 1);
    drop((stalled, wire));
    metric_becomes(&scripted.app, IN_USE, 0.0).await;
    scripted.app.stop().await;
}

#[tokio::test]
async fn a_drain_lets_open_streams_end_and_takes_the_rest_with_it() {
    let scripted = scripted(
        None,
        |config| config.shutdown.drain = Duration::from_millis(1500),
        |_| Vec::new(),
    )
    .await;
    let wire = Wire::plain(scripted.app.proxy).await;
    let mut calls = JoinSet::new();
    for _ in 0..2 {
        let wire = wire.clone();
        calls.spawn(async move { wire.call("GET", "/services/data/v60.0/x", b"").await });
    }
    eventually("both are with the org", || scripted.org.heads(), |n| *n == 2).await;
    scripted.app.stop.drain_now();
    scripted.org.say(0, 1, Say::Answer("200", b"done".to_vec()));
    let done = soon(calls.join_next()).await.unwrap().unwrap();
    assert_eq!((done.0, done.2), (200, b"done".to_vec()));
    // The other never ends: the drain's time does.
    soon(scripted.app.stop()).await;
    assert!(soon(calls.join_next()).await.unwrap().is_err());
    eventually("nothing is left open", || scripted.org.open(), |n| *n == 0).await;
}
