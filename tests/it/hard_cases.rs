//! Cases that a hostile review found broken once. Each test states the promise.

#![allow(
    clippy::disallowed_methods,
    reason = "orgs of these tests live as long as the test's runtime, which ends their tasks"
)]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use crate::support::{
    RawOrg, Running, Script, call, connect, eventually,
    raw_org::{EXPIRED, read_until, token_answer},
    read_reply,
};
use crate::tls::soon;

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";

/// An org that answers a POST with token 1 by 401 as soon as the head is in; reads on (or not) and keeps the connection.
/// Its second login takes `renewal`.
async fn early_org(renewal: Duration, reads_on: bool) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let logins = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&bodies);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (seen, logins) = (Arc::clone(&seen), Arc::clone(&logins));
            tokio::spawn(async move { early_serve(stream, address, renewal, reads_on, &seen, &logins).await });
        }
    });
    (address, bodies)
}

async fn early_serve(
    mut stream: TcpStream,
    address: SocketAddr,
    renewal: Duration,
    reads_on: bool,
    seen: &Mutex<Vec<Vec<u8>>>,
    logins: &AtomicU32,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let head = read_until(&mut stream, &mut buffer, b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.contains("/services/oauth2/token") {
            let n = logins.fetch_add(1, Ordering::SeqCst) + 1;
            if n > 1 {
                tokio::time::sleep(renewal).await;
            }
            let answer = token_answer(&format!("http://{address}"), n);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
            stream.write_all(answer.as_bytes()).await.ok()?;
            return None;
        }
        if head.contains("token_1\r\n") {
            let no = format!(
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n{EXPIRED}",
                EXPIRED.len()
            );
            stream.write_all(no.as_bytes()).await.ok()?;
            if !reads_on {
                std::future::pending::<()>().await;
            }
            let mut sink = vec![0; 64 * 1024];
            while stream.read(&mut sink).await.ok()? > 0 {}
            return None;
        }
        let mut body = Vec::new();
        let lower = head.to_ascii_lowercase();
        if lower.contains("chunked") {
            loop {
                let size = read_until(&mut stream, &mut buffer, b"\r\n").await?;
                let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim(), 16).ok()?;
                while buffer.len() < size + 2 {
                    if stream.read_buf(&mut buffer).await.ok()? == 0 {
                        return None;
                    }
                }
                body.extend_from_slice(&buffer[..size]);
                buffer.drain(..size + 2);
                if size == 0 {
                    break;
                }
            }
        } else if let Some((_, rest)) = lower.split_once("content-length: ") {
            let length: usize = rest.lines().next()?.trim().parse().ok()?;
            while buffer.len() < length {
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            }
            body = buffer.drain(..length).collect();
        }
        seen.lock().unwrap().push(body);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .ok()?;
    }
}

/// The 401 comes early, the renewal takes a moment, the upload goes on meanwhile and passes `replay.max_body`.
#[tokio::test]
async fn a_repeat_never_misses_its_beginning() {
    let (org, bodies) = early_org(Duration::from_millis(1500), true).await;
    let app = Running::start(&format!("http://{org}"), |config| {
        config.replay.max_body = 1 << 20;
        config.replay.total = 4 << 20;
    })
    .await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let body: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(connect(app.proxy).await);
    let sent = body.clone();
    tokio::spawn(async move {
        writer
            .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        for (n, chunk) in sent.chunks(100_000).enumerate() {
            if n == 2 {
                // the refusal has arrived by now; the renewal is under way
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            if n == 18 {
                // until the repeat runs
                tokio::time::sleep(Duration::from_millis(2500)).await;
            }
            let head = format!("{:x}\r\n", chunk.len());
            if writer.write_all(head.as_bytes()).await.is_err() {
                return;
            }
            let _ = writer.write_all(chunk).await;
            let _ = writer.write_all(b"\r\n").await;
        }
        let _ = writer.write_all(b"0\r\n\r\n").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let reply = timeout(Duration::from_secs(20), read_reply(&mut reader, false)).await;
    let status = reply.ok().flatten().map(|r| r.status);
    let lengths: Vec<usize> = bodies.lock().unwrap().iter().map(Vec::len).collect();
    let whole = bodies.lock().unwrap().iter().all(|b| *b == body);
    assert!(
        whole,
        "the org took a mutilated body: status {status:?}, lengths {lengths:?} of {}",
        body.len()
    );
}

/// An org that refuses early and never reads the rest: what was kept must be let go after the repeat.
#[tokio::test]
async fn a_superseded_attempt_lets_go_of_what_was_kept() {
    let (org, bodies) = early_org(Duration::ZERO, false).await;
    let app = Running::start(&format!("http://{org}"), |config| {
        config.upstream.body_idle_timeout = Duration::from_secs(1);
        config.upstream.response_timeout = Duration::from_secs(1);
        config.upstream.pool_idle_timeout = Duration::from_secs(1);
    })
    .await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let body = vec![b'x'; 12 << 20];
    let lines = format!("POST /services/data/v60.0/x HTTP/1.1\nContent-Length: {}", body.len());
    let reply = call(app.proxy, &lines, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(bodies.lock().unwrap().len(), 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let kept = app.metric("sf_token_proxy_replay_bytes").await;
    assert!(kept == 0.0, "{kept} bytes still kept 5 s after the call ended");
}

/// Promise 3: the 401 of an Apex class to a HEAD withdraws a token that works.
#[tokio::test]
async fn a_head_that_is_always_401_does_not_withdraw_a_working_token() {
    let org = RawOrg::start(|request| {
        if request.line().starts_with("HEAD") {
            Script::Say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 9\r\n\r\n".to_vec())
        } else {
            Script::ok()
        }
    })
    .await;
    let app = Running::start(&org.url(), |config| {
        config.orgs.values_mut().next().unwrap().token.refresh_wait = Duration::from_millis(500);
    })
    .await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    org.refuse_logins(Some(("503 Service Unavailable", "{}")));
    let _ = call(app.proxy, "HEAD /services/apexrest/mine HTTP/1.1", b"").await;
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!(reply.status, 200, "the token works all the time: {}", reply.text());
}

/// Strays: every tenth call is refused once, the same token is minted again and is taken.
#[tokio::test]
async fn repeated_strays_are_no_login_storm() {
    let n = Arc::new(AtomicU32::new(0));
    let org = RawOrg::start({
        let n = Arc::clone(&n);
        move |_| {
            if n.fetch_add(1, Ordering::SeqCst) % 10 == 9 {
                Script::expired()
            } else {
                Script::ok()
            }
        }
    })
    .await;
    let same = token_answer(&org.url(), 1);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{same}", same.len());
    for _ in 0..2000 {
        org.next_login(&answer);
    }
    let app = Running::start(&org.url(), |config| {
        config.orgs.values_mut().next().unwrap().token.refresh_wait = Duration::from_millis(300);
    })
    .await;
    let mut statuses = std::collections::BTreeMap::new();
    for _ in 0..700 {
        let status = call(app.proxy, GET, b"").await.status;
        *statuses.entry(status).or_insert(0) += 1;
        if statuses.get(&503).is_some_and(|n| *n > 3) {
            break;
        }
    }
    assert!(
        org.logins() <= 3 && !statuses.contains_key(&503),
        "{} logins for the same token; answers {statuses:?}",
        org.logins()
    );
}

type H2 = http2::SendRequest<Full<Bytes>>;

async fn h2(address: SocketAddr) -> (H2, tokio::task::JoinHandle<()>) {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(connect(address).await))
        .await
        .unwrap();
    (sender, tokio::spawn(async move { drop(connection.await) }))
}

/// `idle_timeout` holds for HTTP/2 callers, too.
#[tokio::test]
async fn an_idle_http2_connection_is_closed_after_the_setting() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| {
        config.listeners[0].idle_timeout = Duration::from_millis(500)
    })
    .await;
    let (mut sender, connection) = h2(app.proxy).await;
    let request = Request::get(format!("http://{}/services/data", app.proxy))
        .version(Version::HTTP_2)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let reply = sender.send_request(request).await.unwrap();
    assert_eq!(reply.status(), 200);
    drop(reply.into_body().collect().await.unwrap());
    let ended = timeout(Duration::from_secs(4), connection).await;
    assert!(ended.is_ok(), "still open after eight times the idle timeout");
}

/// A call that kills connections is sent at most twice, however busy the pool.
#[tokio::test]
async fn a_poisonous_call_is_sent_at_most_twice() {
    let poison = Arc::new(AtomicU32::new(0));
    let org = RawOrg::start({
        let poison = Arc::clone(&poison);
        move |request| {
            if request.target().ends_with("/poison") {
                poison.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                Script::Cut
            } else {
                Script::ok()
            }
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut noise = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let proxy = app.proxy;
        noise.spawn(async move {
            let mut stream = connect(proxy).await;
            loop {
                stream
                    .write_all(b"GET /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    .await
                    .unwrap();
                read_reply(&mut stream, false).await.unwrap();
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut most = 0;
    for _ in 0..10 {
        poison.store(0, Ordering::SeqCst);
        let _ = timeout(
            Duration::from_secs(5),
            call(
                app.proxy,
                "DELETE /services/data/v60.0/sobjects/Account/poison HTTP/1.1",
                b"",
            ),
        )
        .await;
        most = most.max(poison.load(Ordering::SeqCst));
    }
    noise.abort_all();
    assert!(most <= 2, "one DELETE reached the org {most} times");
}

/// A DELETE that the org acted on, and whose connection then died, is not sent again behind the caller's back.
#[tokio::test]
async fn a_delete_that_was_processed_is_not_repeated() {
    let org = RawOrg::start(|request| {
        if request.nth_on_connection == 0 {
            Script::ok()
        } else {
            Script::Cut
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    let _ = call(
        app.proxy,
        "DELETE /services/data/v60.0/sobjects/Account/1 HTTP/1.1",
        b"",
    )
    .await;
    let deletes = org.seen().iter().filter(|r| r.line().starts_with("DELETE")).count();
    assert_eq!(deletes, 1, "received whole by the org {deletes} times");
}

/// `pool_max_idle: 0` keeps nothing.
#[tokio::test]
async fn a_pool_of_none_keeps_none() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| config.upstream.pool_max_idle = 0).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    let idle = "sf_token_proxy_upstream_connections{org=\"main\",state=\"idle\"}";
    assert_eq!(app.metric(idle).await, 0.0);
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What is kept is bounded in memory, not in payload: a body written byte by byte.
#[tokio::test]
async fn a_body_in_tiny_chunks_is_kept_within_its_bound() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    let before = rss_kib();
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let thousand = b"1\r\nx\r\n".repeat(1000);
    for _ in 0..500 {
        stream.write_all(&thousand).await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut kept = 0.0;
    while kept < 499_000.0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
        kept = app.metric("sf_token_proxy_replay_bytes").await;
    }
    let grown = rss_kib() - before;
    assert!(grown < 24 * 1024, "{kept} bytes counted, {grown} KiB of memory used");
}

/// A request line that HTTP/1.1 callers may send (16 kB of SOQL) passes over HTTP/2 as well.
#[tokio::test]
async fn long_soql_over_http2() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut failed = Vec::new();
    for length in [15_000, 16_000, 16_300] {
        let (mut sender, _connection) = h2(app.proxy).await;
        let path = format!("/services/data/v60.0/query?q={}", "x".repeat(length));
        let request = Request::get(format!("http://{}{path}", app.proxy))
            .version(Version::HTTP_2)
            .header("sforce-query-options", "batchSize=2000")
            .header("cookie", "a".repeat(400))
            .body(Full::new(Bytes::new()))
            .unwrap();
        match sender.send_request(request).await {
            Ok(reply) if reply.status() == 200 => {}
            Ok(reply) => failed.push(format!("{length}: {}", reply.status())),
            Err(e) => failed.push(format!("{length}: {e}")),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

/// RFC 9113 §8.2.3: cookie crumbs become one field before they go to HTTP/1.1.
#[tokio::test]
async fn cookie_crumbs_are_joined() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let (mut sender, _connection) = h2(app.proxy).await;
    let request = Request::get(format!("http://{}/services/data", app.proxy))
        .version(Version::HTTP_2)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::new()))
        .unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    assert_eq!(org.seen()[0].header("cookie"), ["a=1; b=2"]);
}

/// Both lengths given: RFC 9112 §6.3, chunked wins and nothing is smuggled or cut.
#[tokio::test]
async fn chunked_wins_over_content_length() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for heads in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        let mut stream = connect(app.proxy).await;
        let text = format!(
            "POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\n{heads}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let reply = read_reply(&mut stream, false).await.unwrap();
        assert!(reply.status == 200 || reply.status == 400);
    }
    for seen in org.seen() {
        assert_eq!(seen.body, b"hello");
        assert!(seen.header("content-length").is_empty());
    }
    eventually("both", || org.seen().len(), |n| *n == 2).await;
}

/// Promise 1: a token revoked within a cool-down, in an app whose calls are all answered 304 (or 404, 300 …).
#[tokio::test]
async fn a_revocation_in_the_cool_down_reaches_no_caller_whose_answers_are_304() {
    let dead = Arc::new(AtomicU32::new(0));
    let org = RawOrg::start({
        let dead = Arc::clone(&dead);
        move |request| {
            let number: u32 = request.token().rsplit('_').next().unwrap().parse().unwrap();
            let refused = request.target().ends_with("/forbidden") || number <= dead.load(Ordering::SeqCst);
            if refused {
                Script::expired()
            } else {
                Script::Say(b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_vec())
            }
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 304);
    assert_eq!(
        call(app.proxy, "GET /services/data/v60.0/forbidden HTTP/1.1", b"")
            .await
            .status,
        401
    );
    for _ in 0..5 {
        assert_eq!(call(app.proxy, GET, b"").await.status, 304);
    }
    dead.store(2, Ordering::SeqCst);
    assert_eq!(
        call(app.proxy, GET, b"").await.status,
        304,
        "an expired session reached the app"
    );
}

/// As F1 with a known length; the store's room ends while the renewal runs: an honest 401, and nothing is sent.
#[tokio::test]
async fn a_repeat_that_lost_its_beginning_to_a_full_store_is_not_sent() {
    let (org, bodies) = early_org(Duration::from_millis(1000), true).await;
    let app = Running::start(&format!("http://{org}"), |config| {
        config.replay.max_body = 1000;
        config.replay.total = 600;
    })
    .await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&[b'a'; 500]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stream.write_all(&[b'b'; 400]).await.unwrap();
    let reply = timeout(Duration::from_secs(10), read_reply(&mut stream, false)).await;
    let reply = reply.ok().flatten();
    let good = reply
        .as_ref()
        .is_some_and(|reply| reply.status == 200 && bodies.lock().unwrap().iter().all(|body| body.len() == 900));
    assert!(
        good,
        "{reply:?}; bodies at the org: {:?}",
        bodies.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>()
    );
}

/// A drain does not wait for connections that belong to no call any more.
#[tokio::test]
async fn an_abandoned_upload_does_not_hold_up_the_end() {
    let (org, _) = early_org(Duration::ZERO, false).await;
    let app = Running::start(&format!("http://{org}"), |_| {}).await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let body = vec![b'x'; 12 << 20];
    let lines = format!("POST /services/data/v60.0/x HTTP/1.1\nContent-Length: {}", body.len());
    assert_eq!(call(app.proxy, &lines, &body).await.status, 200);
    let started = Instant::now();
    app.stop().await;
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );
}

/// What the org's connection gauge says when a superseded attempt still holds a connection.
#[tokio::test]
async fn the_connection_gauge_counts_what_is_open() {
    let (org, _) = early_org(Duration::ZERO, false).await;
    let app = Running::start(&format!("http://{org}"), |_| {}).await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let body = vec![b'x'; 12 << 20];
    let lines = format!("POST /services/data/v60.0/x HTTP/1.1\nContent-Length: {}", body.len());
    assert_eq!(call(app.proxy, &lines, &body).await.status, 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let port = format!(":{:04X}", org.port());
    let open = std::fs::read_to_string("/proc/self/net/tcp")
        .unwrap()
        .lines()
        .filter(|line| {
            let mut words = line.split_ascii_whitespace().skip(2);
            words.next().is_some_and(|remote| remote.ends_with(&port)) && words.next() == Some("01")
        })
        .count();
    let gauge = |state: &str| format!("sf_token_proxy_upstream_connections{{org=\"main\",state=\"{state}\"}}");
    let counted = app.metric(&gauge("idle")).await + app.metric(&gauge("in_use")).await;
    assert_eq!(
        counted,
        f64::from(u32::try_from(open).unwrap()),
        "counted / really open"
    );
}

/// The org reads the refused upload on; the caller paused. The first attempt is nobody's any more after the repeat.
#[tokio::test]
async fn an_attempt_waiting_for_the_caller_is_ended_by_the_repeat() {
    let (org, bodies) = early_org(Duration::ZERO, true).await;
    let app = Running::start(&format!("http://{org}"), |_| {}).await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&[b'a'; 5000]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stream.write_all(&[b'b'; 4000]).await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 200);
    assert_eq!(bodies.lock().unwrap()[0].len(), 9000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let kept = app.metric("sf_token_proxy_replay_bytes").await;
    assert!(kept == 0.0, "{kept} bytes still kept 5 s after the call ended");
}

/// An org that refuses early and closes at once (a reset for what is still on the way).
#[tokio::test]
async fn an_early_refusal_with_a_reset_is_still_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let login = RawOrg::start(|_| panic!("calls go elsewhere")).await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                let head = read_until(&mut stream, &mut buffer, b"\r\n\r\n").await?;
                let head = String::from_utf8_lossy(&head).into_owned();
                if head.contains("token_1\r\n") {
                    let no = format!(
                        "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{EXPIRED}",
                        EXPIRED.len()
                    );
                    stream.write_all(no.as_bytes()).await.ok()?;
                    return None;
                }
                while buffer.len() < 4 << 20 {
                    if stream.read_buf(&mut buffer).await.ok()? == 0 {
                        return None;
                    }
                }
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
                Some(())
            });
        }
    });
    let app = Running::start(&login.url(), |config| {
        config.orgs.values_mut().next().unwrap().instance_url = Some(format!("http://{address}").parse().unwrap());
    })
    .await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let (mut reader, mut writer) = tokio::io::split(connect(app.proxy).await);
    tokio::spawn(async move {
        let head = format!(
            "POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            4 << 20
        );
        let _ = writer.write_all(head.as_bytes()).await;
        let _ = writer.write_all(&vec![b'x'; 4 << 20]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let reply = timeout(Duration::from_secs(10), read_reply(&mut reader, false)).await;
    let reply = reply.ok().flatten().map(|reply| (reply.status, reply.text()));
    assert_eq!(
        reply.as_ref().map(|r| r.0),
        Some(200),
        "{reply:?}, logins {}",
        login.logins()
    );
}

/// `max_connections` is the listener's, not each address's.
#[tokio::test]
async fn max_connections_counts_both_loopback_addresses() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| {
        config.listeners[0].addresses = vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
        config.listeners[0].max_connections = 1;
    })
    .await;
    let mut first = connect(app.proxy).await;
    let get = b"GET /services/data HTTP/1.1\r\nHost: localhost\r\n\r\n";
    first.write_all(get).await.unwrap();
    assert_eq!(read_reply(&mut first, false).await.unwrap().status, 200);
    let mut second = connect(format!("127.0.0.2:{}", app.proxy.port()).parse().unwrap()).await;
    second.write_all(get).await.unwrap();
    let answered = timeout(Duration::from_secs(1), read_reply(&mut second, false)).await;
    assert!(answered.is_err(), "two connections with max_connections: 1");
    // The one place goes to whoever calls, at whichever address, again and again.
    drop(first);
    assert_eq!(soon(read_reply(&mut second, false)).await.unwrap().status, 200);
    drop(second);
    for address in ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.1"] {
        let mut next = connect(format!("{address}:{}", app.proxy.port()).parse().unwrap()).await;
        next.write_all(get).await.unwrap();
        assert_eq!(soon(read_reply(&mut next, false)).await.unwrap().status, 200);
    }
    // A caller in the queue does not hold the end up.
    let _holds = connect(app.proxy).await;
    let _waits = connect(app.proxy).await;
    soon(app.stop()).await;
}

/// A machine whose clock is ahead, and a token that tells its end: no login every half minute.
#[tokio::test]
async fn a_clock_that_is_ahead_is_no_login_every_half_minute() {
    use sf_token_proxy::token::lifetime::{Lifetime, Renewal, renewal_after};
    let now = std::time::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    // JWT-format token of two hours' life, minted now, seen by a clock that is three hours ahead
    let exp = now + Duration::from_secs(2 * 3600);
    let ahead = now + Duration::from_secs(3 * 3600);
    let expiry = Lifetime::new(Duration::from_secs(5400)).expiry(Some(exp), ahead);
    let pause = renewal_after(Renewal::Fraction, expiry, ahead, 0.5);
    assert!(pause >= Duration::from_secs(300), "renewal every {pause:?}, for ever");
}

/// A budget that is spent sends nothing, so `token_requests_total` ("Logins tried") does not count it.
#[tokio::test]
async fn a_login_that_was_not_sent_is_not_counted_as_tried() {
    let org = RawOrg::start(|_| Script::expired()).await;
    let app = Running::start(&org.url(), |config| {
        let org = config.orgs.values_mut().next().unwrap();
        org.budget.burst = 1;
        org.budget.per_minute = 1;
        org.token.refresh_wait = Duration::from_millis(300);
    })
    .await;
    while call(app.admin, "GET /readyz HTTP/1.1", b"").await.status != 200 {}
    let _ = call(app.proxy, GET, b"").await;
    let page = call(app.admin, "GET /metrics HTTP/1.1", b"").await.text();
    let tried: f64 = page
        .lines()
        .filter(|line| line.starts_with("sf_token_proxy_token_requests_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert_eq!(tried, f64::from(org.logins()), "counted / sent");
}

/// design §5: "when it is empty the cached token is served and forced renewals wait".
#[tokio::test]
async fn an_empty_budget_serves_the_cached_token() {
    let n = Arc::new(AtomicU32::new(0));
    let org = RawOrg::start({
        let n = Arc::clone(&n);
        move |_| {
            // one stray refusal
            if n.fetch_add(1, Ordering::SeqCst) == 3 {
                Script::expired()
            } else {
                Script::ok()
            }
        }
    })
    .await;
    let app = Running::start(&org.url(), |config| {
        let org = config.orgs.values_mut().next().unwrap();
        org.budget.burst = 1;
        org.budget.per_minute = 1;
        org.token.refresh_wait = Duration::from_millis(300);
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(call(app.proxy, GET, b"").await.status);
    }
    assert!(!statuses.contains(&503), "{statuses:?}");
}
