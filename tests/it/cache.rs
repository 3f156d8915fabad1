//! The response cache (`orgs.NAME.cache`), on real sockets: what is given again, to whom, for how long, and what is never kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sf_token_proxy::config::{self, Cache, OrgName, Vars};
use tokio::{io::AsyncWriteExt as _, time::Instant};

use crate::{
    support::{RawOrg, RawRequest, Reply, Running, Script, call, connect, eventually, raw_org::token_answer},
    users,
};

const DESCRIBE: &str = "/services/data/v60.0/sobjects/Account/describe";

fn settings() -> Cache {
    Cache {
        ttl: Duration::from_secs(300),
        max_size: 16 << 20,
        max_entry: 1 << 20,
        paths: vec![],
    }
}

async fn app(org: &RawOrg, cache: Cache) -> Running {
    Running::start(&org.url(), |config| {
        config.orgs.get_mut(&OrgName::new("main")).unwrap().cache = Some(cache);
    })
    .await
}

async fn get(app: &Running, path: &str, headers: &str) -> Reply {
    let headers = if headers.is_empty() {
        String::new()
    } else {
        format!("\n{headers}")
    };
    call(app.proxy, &format!("GET {path} HTTP/1.1{headers}"), b"").await
}

/// An org that numbers its answers.
async fn counting(answer: impl Fn(&RawRequest, u32) -> Script + Send + Sync + 'static) -> RawOrg {
    let n = AtomicU32::new(0);
    RawOrg::start(move |request| answer(request, n.fetch_add(1, Ordering::SeqCst) + 1)).await
}

fn said(headers: &str, body: &str) -> Script {
    let length = body.len();
    Script::Say(format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

fn numbered(_: &RawRequest, n: u32) -> Script {
    said("Content-Type: application/json\r\n", &format!("{{\"n\":{n}}}"))
}

async fn counted(app: &Running, result: &str) -> f64 {
    app.metric(&format!(
        "sf_token_proxy_cache_requests_total{{org=\"main\",result=\"{result}\"}}"
    ))
    .await
}

async fn entries(app: &Running) -> f64 {
    app.metric("sf_token_proxy_cache_entries{org=\"main\"}").await
}

/// Calls until an answer is as wanted: it takes as long as the kept one is fresh.
async fn until(app: &Running, path: &str, what: &str) -> Reply {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let reply = get(app, path, "").await;
        if reply.header("cache-status").iter().any(|status| status.contains(what)) {
            return reply;
        }
        assert!(Instant::now() < deadline, "{what}: {reply:?}");
    }
}

#[tokio::test]
async fn a_description_is_given_again_without_the_org() {
    let org = counting(|_, n| {
        let limits = format!(
            "Content-Type: application/json;charset=UTF-8\r\nSet-Cookie: BrowserId=x; Path=/\r\n\
             Strict-Transport-Security: max-age=1\r\nSforce-Limit-Info: api-usage={n}/5000\r\n\
             Cache-Control: no-cache,must-revalidate,max-age=0,no-store,private\r\nKeep-Alive: timeout=5\r\n"
        );
        said(&limits, &format!("{{\"n\":{n}}}"))
    })
    .await;
    let app = app(&org, settings()).await;
    let first = get(&app, DESCRIBE, "").await;
    assert_eq!(first.header("cache-status"), ["sf-token-proxy; fwd=uri-miss; stored"]);
    assert_eq!(first.header("set-cookie"), ["BrowserId=x; Path=/"]);
    assert!(first.header("age").is_empty());
    let second = get(&app, DESCRIBE, "Traceparent: 00-2").await;
    assert_eq!((second.status, second.text().as_str()), (200, "{\"n\":1}"));
    assert_eq!(second.header("content-type"), first.header("content-type"));
    assert_eq!(second.header("cache-control"), first.header("cache-control"));
    assert_eq!(second.header("content-length"), ["7"]);
    let status = second.header("cache-status")[0].to_owned();
    let left = status
        .strip_prefix("sf-token-proxy; hit; ttl=")
        .unwrap_or_else(|| panic!("{status}"));
    assert!((280..=300).contains(&left.parse::<u32>().unwrap()), "{status}");
    assert!(second.header("age")[0].parse::<u32>().unwrap() < 20);
    // What was of one call or one caller is not given again.
    for gone in [
        "set-cookie",
        "sforce-limit-info",
        "keep-alive",
        "strict-transport-security",
    ] {
        assert!(second.header(gone).is_empty(), "{gone}: {second:?}");
    }
    assert_eq!(org.seen().len(), 1);
    assert_eq!((counted(&app, "miss").await, counted(&app, "hit").await), (1.0, 1.0));
    assert_eq!(entries(&app).await, 1.0);
    assert!(app.metric("sf_token_proxy_cache_bytes{org=\"main\"}").await > 500.0);
    assert_eq!(
        app.metric("sf_token_proxy_org_api_requests_used{org=\"main\"}").await,
        1.0
    );
    let all = "sf_token_proxy_requests_total{code=\"200\",method=\"GET\",org=\"main\",outcome=\"ok\",surface=\"rest\"}";
    assert_eq!(app.metric(all).await, 2.0);
    app.stop().await;
}

#[tokio::test]
async fn without_the_setting_nothing_is_kept_and_nothing_is_said() {
    let org = counting(numbered).await;
    let app = Running::start(&org.url(), |_| {}).await;
    for n in 1..=2 {
        let reply = get(&app, DESCRIBE, "").await;
        assert_eq!(reply.text(), format!("{{\"n\":{n}}}"));
        assert!(reply.header("cache-status").is_empty() && reply.header("age").is_empty());
    }
    for result in ["hit", "miss", "stale", "revalidated", "bypass"] {
        assert_eq!(counted(&app, result).await, 0.0, "{result}");
    }
    app.stop().await;
}

#[tokio::test]
async fn other_paths_other_methods_and_other_questions_go_to_the_org() {
    let org = counting(numbered).await;
    let paths = vec!["/services/data/*/theme".to_owned(), "/services/apexrest/a/".to_owned()];
    let app = app(&org, Cache { paths, ..settings() }).await;
    let fresh = async |path: &str, headers: &str| {
        let before = org.seen().len();
        let reply = get(&app, path, headers).await;
        assert_eq!(reply.status, 200);
        (org.seen().len() > before, reply.header("cache-status").join(", "))
    };
    for path in [
        DESCRIBE,
        "/services/data",
        "/services/data/v60.0/theme",
        "/services/apexrest/a/b?x=1",
    ] {
        assert_eq!(
            fresh(path, "").await,
            (true, "sf-token-proxy; fwd=uri-miss; stored".into()),
            "{path}"
        );
        assert!(!fresh(path, "").await.0, "{path}");
    }
    for path in [
        "/services/data/v60.0/limits",
        "/services/data/v60.0/query?q=x",
        "/services/apexrest/b",
        "/id/00D/005",
    ] {
        for _ in 0..2 {
            assert_eq!(fresh(path, "").await, (true, String::new()), "{path}");
        }
    }
    let query = format!("{DESCRIBE}?x=1");
    assert!(fresh(&query, "").await.0);
    for headers in [
        "Accept: application/xml",
        "Accept-Language: de",
        "Sforce-Call-Options: client=x",
        "X-PrettyPrint: 1",
    ] {
        assert!(fresh(DESCRIBE, headers).await.0, "{headers}");
        assert!(!fresh(DESCRIBE, headers).await.0, "{headers}");
    }
    let bypass = (true, "sf-token-proxy; fwd=bypass".to_owned());
    for headers in [
        "If-None-Match: \"a\"",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
        "Range: bytes=0-1",
        "Cache-Control: no-store",
    ] {
        assert_eq!(fresh(DESCRIBE, headers).await, bypass, "{headers}");
        // As the caller sent it.
        let (name, value) = headers.split_once(": ").unwrap();
        assert_eq!(org.seen().last().unwrap().header(name), [value]);
    }
    let body = format!("GET {DESCRIBE} HTTP/1.1\nContent-Length: 2");
    assert_eq!(
        call(app.proxy, &body, b"{}").await.header("cache-status"),
        ["sf-token-proxy; fwd=bypass"]
    );
    for _ in 0..2 {
        let before = org.seen().len();
        let head = call(app.proxy, &format!("HEAD {DESCRIBE} HTTP/1.1"), b"").await;
        assert!(head.header("cache-status").is_empty());
        assert_eq!(org.seen().len(), before + 1);
    }
    assert!(!fresh(DESCRIBE, "").await.0, "the first is still there");
    assert_eq!(counted(&app, "bypass").await, 5.0);
    app.stop().await;
}

#[tokio::test]
async fn a_caller_may_want_a_newer_answer() {
    let org = counting(numbered).await;
    let app = app(&org, settings()).await;
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "{\"n\":1}");
    let anew = get(&app, DESCRIBE, "Cache-Control: no-cache").await;
    assert_eq!(anew.text(), "{\"n\":2}");
    assert_eq!(anew.header("cache-status"), ["sf-token-proxy; fwd=request; stored"]);
    assert_eq!(
        get(&app, DESCRIBE, "").await.text(),
        "{\"n\":2}",
        "the entry is refreshed"
    );
    assert_eq!(
        get(&app, DESCRIBE, "Cache-Control: max-age=100").await.text(),
        "{\"n\":2}"
    );
    app.stop().await;
}

#[tokio::test]
async fn what_the_org_confirms_is_given_again_and_what_it_replaces_is_not() {
    let changed = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&changed);
    let org = counting(move |request, n| {
        let tag = if now.load(Ordering::SeqCst) { "\"two\"" } else { "\"one\"" };
        if request.header("if-none-match") == [tag] {
            return Script::Say(
                format!("HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\nX-Seen: {n}\r\nSet-Cookie: a=b\r\nSforce-Limit-Info: api-usage=77/5000\r\n\r\n")
                    .into_bytes(),
            );
        }
        said(&format!("ETag: {tag}\r\nContent-Type: text/x\r\n"), tag)
    })
    .await;
    let ttl = Duration::from_secs(1);
    let app = app(&org, Cache { ttl, ..settings() }).await;
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "\"one\"");
    let confirmed = until(&app, DESCRIBE, "fwd=stale").await;
    assert_eq!(
        confirmed.header("cache-status"),
        ["sf-token-proxy; fwd=stale; fwd-status=304; stored"]
    );
    assert_eq!((confirmed.status, confirmed.text().as_str()), (200, "\"one\""));
    assert_eq!(
        (confirmed.header("content-type"), confirmed.header("age")),
        (vec!["text/x"], vec!["0"])
    );
    assert_eq!(confirmed.header("x-seen").len(), 1, "the 304's headers count");
    assert!(confirmed.header("set-cookie").is_empty() && confirmed.header("sforce-limit-info").is_empty());
    assert_eq!(
        app.metric("sf_token_proxy_org_api_requests_used{org=\"main\"}").await,
        77.0
    );
    let before = org.seen().len();
    let hit = get(&app, DESCRIBE, "").await;
    assert!(hit.header("cache-status")[0].contains("; hit;"), "a new life: {hit:?}");
    assert_eq!(org.seen().len(), before);
    assert_eq!(
        (counted(&app, "revalidated").await, counted(&app, "stale").await),
        (1.0, 0.0)
    );
    changed.store(true, Ordering::SeqCst);
    let replaced = until(&app, DESCRIBE, "fwd=stale").await;
    assert_eq!(
        replaced.header("cache-status"),
        ["sf-token-proxy; fwd=stale; fwd-status=200; stored"]
    );
    assert_eq!(replaced.text(), "\"two\"");
    assert_eq!(counted(&app, "stale").await, 1.0);
    assert_eq!(until(&app, DESCRIBE, "fwd-status=304").await.text(), "\"two\"");
    app.stop().await;
}

#[tokio::test]
async fn without_anything_to_ask_by_the_org_is_asked_as_usual() {
    let org = counting(numbered).await;
    let ttl = Duration::from_millis(20);
    let app = app(&org, Cache { ttl, ..settings() }).await;
    let mut last = get(&app, DESCRIBE, "").await.text();
    for _ in 0..2 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = get(&app, DESCRIBE, "").await.text();
            if now != last {
                last = now;
                break;
            }
            assert!(Instant::now() < deadline);
        }
    }
    assert!(org.seen().iter().all(|r| !r.head.to_lowercase().contains("\nif-")));
    app.stop().await;
}

#[tokio::test]
async fn an_org_that_fails_is_not_covered_up() {
    let down = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&down);
    let org = counting(move |_, n| match now.load(Ordering::SeqCst) {
        true => Script::json("503 Service Unavailable", "[]"),
        false => said("ETag: \"a\"\r\n", &n.to_string()),
    })
    .await;
    let ttl = Duration::from_millis(1);
    let app = app(&org, Cache { ttl, ..settings() }).await;
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "1");
    down.store(true, Ordering::SeqCst);
    let failed = until(&app, DESCRIBE, "fwd-status=503").await;
    assert_eq!(failed.status, 503);
    assert_eq!(
        failed.header("cache-status"),
        ["sf-token-proxy; fwd=stale; fwd-status=503"]
    );
    assert_eq!(get(&app, DESCRIBE, "").await.status, 503);
    app.stop().await;
}

#[tokio::test]
async fn errors_broken_answers_and_answers_for_one_caller_are_not_kept() {
    let org = counting(|request, n| match request.target().rsplit('/').next() {
        Some("v1.0") => Script::json("404 Not Found", "[]"),
        Some("v2.0") => Script::SayAndClose(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234".to_vec()),
        Some("v3.0") => {
            Script::SayAndClose(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n".to_vec())
        }
        // Nobody can tell whether this is all of it.
        Some("v4.0") => Script::SayAndClose(format!("HTTP/1.1 200 OK\r\n\r\n{n}").into_bytes()),
        Some("v5.0") => said("Vary: *\r\n", "x"),
        Some("v6.0") => said("", &"x".repeat(3000)),
        Some("v7.0") => {
            let piece = format!("800\r\n{}\r\n", "x".repeat(0x800));
            Script::Say(
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{piece}{piece}0\r\n\r\n").into_bytes(),
            )
        }
        Some("v8.0") => Script::Say(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n1\r\nx\r\n0\r\nx: y\r\n\r\n".to_vec(),
        ),
        _ => Script::ok(),
    })
    .await;
    let app = app(
        &org,
        Cache {
            max_entry: 2500,
            ..settings()
        },
    )
    .await;
    for version in 1..=8 {
        for _ in 0..2 {
            let before = org.seen().len();
            let mut stream = connect(app.proxy).await;
            let line = format!("GET /services/data/v{version}.0 HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(line.as_bytes()).await.unwrap();
            drop(crate::support::read_reply(&mut stream, false).await);
            assert!(org.seen().len() > before, "v{version}.0 came from the cache");
        }
    }
    assert_eq!(entries(&app).await, 0.0);
    // And what is whole is kept, in chunks as well.
    assert_eq!(get(&app, DESCRIBE, "").await.status, 200);
    assert_eq!(entries(&app).await, 1.0);
    app.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing() {
    let org = RawOrg::start(|request| match request.target().ends_with("/describe") {
        true => Script::Slowly(vec![
            (
                Duration::ZERO,
                b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n1234".to_vec(),
            ),
            (Duration::from_secs(600), b"5678".to_vec()),
        ]),
        false => Script::ok(),
    })
    .await;
    let app = app(&org, settings()).await;
    let mut stream = connect(app.proxy).await;
    let line = format!("GET {DESCRIBE} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(line.as_bytes()).await.unwrap();
    // The beginning is there although the rest is not: nothing waits for the copy.
    let mut seen = Vec::new();
    while !seen.ends_with(b"1234") {
        assert!(tokio::io::AsyncReadExt::read_buf(&mut stream, &mut seen).await.unwrap() > 0);
    }
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(20);
    while app.metric("sf_token_proxy_requests_in_flight{org=\"main\"}").await > 0.0 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(entries(&app).await, 0.0);
    assert_eq!(counted(&app, "miss").await, 1.0);
    app.stop().await;
}

#[tokio::test]
async fn encodings_are_told_apart() {
    let org = counting(|request, n| match request.header("accept-encoding").first() {
        Some(&"gzip") => said(
            "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n",
            &format!("zipped {n}"),
        ),
        _ => said("Vary: Accept-Encoding, X-Own\r\n", &format!("plain {n}")),
    })
    .await;
    let app = app(&org, settings()).await;
    for _ in 0..2 {
        let zipped = get(&app, DESCRIBE, "Accept-Encoding: gzip").await;
        assert_eq!(
            (zipped.text().as_str(), zipped.header("content-encoding")),
            ("zipped 1", vec!["gzip"])
        );
        let plain = get(&app, DESCRIBE, "").await;
        assert_eq!(
            (plain.text().as_str(), plain.header("content-encoding")),
            ("plain 2", vec![])
        );
    }
    let other = get(&app, DESCRIBE, "X-Own: 1").await;
    assert_eq!(other.text(), "plain 3");
    assert_eq!(other.header("cache-status"), ["sf-token-proxy; fwd=vary-miss; stored"]);
    app.stop().await;
}

#[tokio::test]
async fn many_long_answers_stay_within_the_bound() {
    let org = counting(|_, _| said("", &"x".repeat(50 << 10))).await;
    let app = app(
        &org,
        Cache {
            max_size: 256 << 10,
            ..settings()
        },
    )
    .await;
    for n in 0..30 {
        assert_eq!(
            get(&app, &format!("/services/data/v{n}.0"), "").await.body.len(),
            50 << 10
        );
        let bytes = app.metric("sf_token_proxy_cache_bytes{org=\"main\"}").await;
        assert!(bytes <= f64::from(256 << 10), "{bytes}");
    }
    assert!((4.0..=5.0).contains(&entries(&app).await));
    assert!(get(&app, "/services/data/v29.0", "").await.header("cache-status")[0].contains("hit"));
    app.stop().await;
}

#[tokio::test]
async fn callers_at_one_time_all_get_whole_answers() {
    let body = Arc::new("y".repeat(200 << 10));
    let org = counting(move |_, _| said("", &body)).await;
    let app = Arc::new(app(&org, settings()).await);
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..40 {
        let app = Arc::clone(&app);
        callers.spawn(async move { get(&app, &format!("/services/data/v{}.0", n % 4), "").await.body.len() });
    }
    while let Some(length) = callers.join_next().await {
        assert_eq!(length.unwrap(), 200 << 10);
    }
    assert_eq!(entries(&app).await, 4.0);
    assert_eq!(counted(&app, "hit").await + counted(&app, "miss").await, 40.0);
    Arc::into_inner(app).unwrap().stop().await;
}

/// An app whose callers name their user.
async fn of_users(org: &RawOrg, max: u32) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0", "users": {"allow": ["*@acme.example"], "max": max}}],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": {"login_url": org.url(), "cache": {}, "grant": {"jwt_bearer": {
            "client_id": "app", "username": "own@acme.example", "private_key": format!("file:{}", key.display()),
        }}}},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    Running::start_with(config, folder).await
}

#[tokio::test]
async fn nobody_gets_what_another_was_told() {
    let org = users::org().await;
    // One place: the users push each other out.
    for max in [10, 1] {
        let app = of_users(&org, max).await;
        for _ in 0..3 {
            for user in [Some("anna"), None, Some("ben"), Some("own")] {
                let header = user.map_or_else(String::new, |user| format!("X-SFPROXY-User: {user}@acme.example"));
                let reply = get(&app, DESCRIBE, &header).await;
                let owner = user.unwrap_or("own");
                assert!(
                    reply.text().contains(&format!("00D!{owner}@")),
                    "{owner}: {}",
                    reply.text()
                );
            }
        }
        assert!(counted(&app, "hit").await > 0.0);
        app.stop().await;
    }
}

fn login(instance: &str, n: u32, user: &str) -> String {
    let answer = token_answer(instance, n).replace("005xx000001Sv6DAAS", user);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
        answer.len()
    )
}

/// Answers with the token's number; those before `dead` are refused.
async fn org_of(dead: &Arc<AtomicU32>) -> RawOrg {
    let dead = Arc::clone(dead);
    RawOrg::start(move |request| {
        let n: u32 = request.token().rsplit('_').next().unwrap().parse().unwrap();
        if n <= dead.load(Ordering::SeqCst) {
            return Script::expired();
        }
        // It takes any condition for met, as an org does that knows the tag.
        if !request.header("if-none-match").is_empty() {
            return Script::Say(b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec());
        }
        said("ETag: \"same\"\r\n", &format!("told {n}"))
    })
    .await
}

#[tokio::test]
async fn a_renewed_token_finds_what_is_kept_and_another_users_does_not() {
    let dead = Arc::new(AtomicU32::new(0));
    let org = org_of(&dead).await;
    let app = app(&org, settings()).await;
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 1");
    dead.store(1, Ordering::SeqCst);
    assert_eq!(get(&app, "/services/data/v60.0/limits", "").await.text(), "told 2");
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 1", "the same user");
    org.next_login(&login(&org.url(), 3, "005xx000001Sv6EAAS"));
    dead.store(2, Ordering::SeqCst);
    assert_eq!(get(&app, "/services/data/v60.0/limits", "").await.text(), "told 3");
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 3", "another user");
    app.stop().await;
}

#[tokio::test]
async fn a_token_of_nobody_known_counts_for_itself_alone() {
    let dead = Arc::new(AtomicU32::new(0));
    let org = org_of(&dead).await;
    for n in 1..=2 {
        let answer = login(&org.url(), n, "nobody");
        org.next_login(&answer);
    }
    let app = app(&org, settings()).await;
    for _ in 0..2 {
        assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 1");
    }
    dead.store(1, Ordering::SeqCst);
    assert_eq!(get(&app, "/services/data/v60.0/limits", "").await.text(), "told 2");
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 2");
    app.stop().await;
}

#[tokio::test]
async fn an_org_that_moved_is_asked_anew() {
    let dead = Arc::new(AtomicU32::new(0));
    let (org, elsewhere) = (org_of(&dead).await, org_of(&dead).await);
    let app = app(&org, settings()).await;
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 1");
    org.next_login(&login(&elsewhere.url(), 2, "005xx000001Sv6DAAS"));
    dead.store(1, Ordering::SeqCst);
    assert_eq!(get(&app, "/services/data/v60.0/limits", "").await.text(), "told 2");
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 2");
    assert_eq!(elsewhere.seen().last().unwrap().target(), DESCRIBE);
    app.stop().await;
}

#[tokio::test]
async fn what_the_org_confirms_to_another_user_is_not_confirmed() {
    let dead = Arc::new(AtomicU32::new(0));
    let org = org_of(&dead).await;
    let ttl = Duration::from_millis(1);
    let app = app(&org, Cache { ttl, ..settings() }).await;
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "told 1");
    assert_eq!(until(&app, DESCRIBE, "fwd-status=304").await.text(), "told 1");
    // The next call is conditional, its token is refused, and the renewed one is another user's.
    org.next_login(&login(&org.url(), 2, "005xx000001Sv6EAAS"));
    dead.store(1, Ordering::SeqCst);
    let reply = until(&app, DESCRIBE, "fwd=stale").await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "told 2"));
    let asked: Vec<_> = org
        .seen()
        .iter()
        .rev()
        .take(2)
        .map(|r| r.header("if-none-match").len())
        .collect();
    assert_eq!(asked, [0, 1], "asked with the condition, then without");
    app.stop().await;
}

#[tokio::test]
async fn a_change_at_a_kept_path_empties_the_cache() {
    let org = counting(|request, n| match request.header("x-fail").is_empty() {
        true => said("", &n.to_string()),
        false => Script::json("400 Bad Request", "[]"),
    })
    .await;
    let paths = vec!["/services/apexrest/a".to_owned()];
    let app = app(&org, Cache { paths, ..settings() }).await;
    let path = "/services/apexrest/a";
    assert_eq!(get(&app, path, "").await.text(), "1");
    let refused = "PATCH /services/apexrest/a HTTP/1.1\nX-Fail: 1\nContent-Length: 2";
    assert_eq!(call(app.proxy, refused, b"{}").await.status, 400);
    assert_eq!(get(&app, path, "").await.text(), "1", "nothing was changed");
    let changed = "PATCH /services/apexrest/a HTTP/1.1\nContent-Length: 2";
    let reply = call(app.proxy, changed, b"{}").await;
    assert!(reply.status == 200 && reply.header("cache-status").is_empty());
    assert_eq!(get(&app, path, "").await.text(), "4");
    app.stop().await;
}

async fn purge(app: &Running, rest: &str) -> (u16, Value) {
    let reply = call(app.admin, &format!("POST /cache/purge{rest}"), b"").await;
    let body = serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {reply:?}"));
    (reply.status, body)
}

#[tokio::test]
async fn an_operator_purges_what_is_kept() {
    let org = counting(numbered).await;
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("secret");
    std::fs::write(&file, "x").unwrap();
    let org_of = |cache: Option<Value>| {
        let mut org = json!({"login_url": org.url(), "grant": {"client_credentials": {
            "client_id": "app", "client_secret": format!("file:{}", file.display()),
        }}});
        if let Some(cache) = cache {
            org["cache"] = cache;
        }
        org
    };
    let listener = |org: &str| json!({"address": "127.0.0.1:0", "org": org});
    let yaml = json!({
        "listeners": [listener("one"), listener("two"), listener("bare")],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"one": org_of(Some(json!({}))), "two": org_of(Some(json!({}))), "bare": org_of(None)},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let app = Running::start_with(config, secrets).await;
    let fill = async || {
        for listener in [app.listeners[0], app.listeners[1]] {
            for path in [DESCRIBE, "/services/data"] {
                call(listener, &format!("GET {path} HTTP/1.1"), b"").await;
            }
        }
    };
    fill().await;
    let one = purge(&app, "?org=one HTTP/1.1").await;
    assert_eq!(one, (200, json!({"purged": 2, "orgs": {"one": 2}})));
    let before = org.seen().len();
    fill().await;
    assert_eq!(org.seen().len(), before + 2, "the other org's are still there");
    let all = purge(&app, " HTTP/1.1").await;
    assert_eq!(all, (200, json!({"purged": 4, "orgs": {"one": 2, "two": 2}})));
    fill().await;
    for (rest, status) in [
        ("?org=none HTTP/1.1", 404),
        ("?org=bare HTTP/1.1", 404),
        ("?organisation=one HTTP/1.1", 400),
        ("?org=one&org=two HTTP/1.1", 400),
        (" HTTP/1.1\nOrigin: http://localhost:9090", 403),
        (" HTTP/1.1\nOrigin: null", 403),
        (" HTTP/1.1\nSec-Fetch-Site: cross-site", 403),
        (" HTTP/1.1\nX-Forwarded-For: 10.0.0.1", 403),
        (" HTTP/1.1\nForwarded: for=10.0.0.1", 403),
    ] {
        let (found, body) = purge(&app, rest).await;
        assert_eq!(found, status, "{rest}: {body}");
        assert!(body["error"].as_str().unwrap().len() > 10);
    }
    let wrong = call(app.admin, "GET /cache/purge HTTP/1.1", b"").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, vec!["POST"]));
    let mut stream = connect(app.admin).await;
    let foreign = b"POST /cache/purge HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    stream.write_all(foreign).await.unwrap();
    assert_eq!(
        crate::support::read_reply(&mut stream, false).await.unwrap().status,
        403
    );
    assert_eq!(app.metric("sf_token_proxy_cache_entries{org=\"one\"}").await, 2.0);
    app.stop().await;
}

#[tokio::test]
async fn whoever_is_not_on_this_machine_purges_nothing() {
    let Some(address) = crate::support::own_address() else {
        return;
    };
    let org = counting(numbered).await;
    let app = Running::start(&org.url(), |config| {
        config.admin.addresses = vec![address];
        config.orgs.get_mut(&OrgName::new("main")).unwrap().cache = Some(settings());
    })
    .await;
    get(&app, DESCRIBE, "").await;
    let (status, body) = purge(&app, " HTTP/1.1").await;
    assert_eq!(status, 403, "{body}");
    assert_eq!(entries(&app).await, 1.0);
    app.stop().await;
}

#[tokio::test]
async fn a_purge_forgets_an_answer_that_is_on_its_way() {
    let org = counting(|_, n| match n {
        1 => Script::Slowly(vec![
            (
                Duration::ZERO,
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nold".to_vec(),
            ),
            (Duration::from_millis(500), b"old".to_vec()),
        ]),
        _ => said("", "new"),
    })
    .await;
    let app = Arc::new(app(&org, settings()).await);
    let calling = Arc::clone(&app);
    let mut first = tokio::task::JoinSet::new();
    first.spawn(async move { get(&calling, DESCRIBE, "").await.text() });
    eventually("the org is asked", || org.seen().len(), |n| *n == 1).await;
    assert_eq!(purge(&app, " HTTP/1.1").await.0, 200);
    assert_eq!(first.join_next().await.unwrap().unwrap(), "oldold");
    assert_eq!(get(&app, DESCRIBE, "").await.text(), "new");
    Arc::into_inner(app).unwrap().stop().await;
}

/// Descriptions of a real-looking org: no `Last-Modified`, no `ETag`, and `If-Modified-Since` counts.
#[cfg(feature = "demo")]
#[tokio::test]
async fn the_practice_org_confirms_its_descriptions() {
    use sf_token_proxy::demo::{Org, Settings};

    let mut org = Org::start(Settings::practice().unwrap()).await.unwrap();
    let files = org.write_files(None).unwrap();
    let secret = files.client_credentials.as_ref().unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": {"login_url": files.login_url, "cache": {"ttl": "1s"}, "grant": {"client_credentials": {
            "client_id": secret.client_id, "client_secret": format!("file:{}", secret.secret_file.display()),
        }}}},
        "upstream": {"ca_file": files.ca_file},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
    for path in [DESCRIBE, "/services/data/v60.0/sobjects"] {
        let first = get(&app, path, "Accept-Encoding: gzip").await;
        assert_eq!((first.status, first.header("content-encoding")), (200, vec!["gzip"]));
        let second = get(&app, path, "Accept-Encoding: gzip").await;
        assert_eq!(second.body, first.body);
        let plain = get(&app, path, "").await;
        assert!(plain.body.len() > first.body.len() && plain.body[0] == b'{', "{path}");
        let confirmed = until(&app, path, "fwd-status=304").await;
        assert_eq!((confirmed.status, &confirmed.body), (200, &plain.body), "{path}");
    }
    // Nothing is documented of dates here: asked as usual.
    let versions = get(&app, "/services/data", "").await;
    let again = until(&app, "/services/data", "fwd=").await;
    assert!(!again.header("cache-status")[0].contains("fwd-status"), "{again:?}");
    assert_eq!(again.body, versions.body);
    app.stop().await;
    org.stop().await;
}
