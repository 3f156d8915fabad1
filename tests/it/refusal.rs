//! When the org refuses a token.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use crate::support::{RawOrg, RawRequest, Running, Script, call, connect, eventually, raw_org::EXPIRED, read_reply};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";

/// Refuses the first token and takes the others.
fn first_token_is_dead(request: &RawRequest) -> Script {
    if request.token().ends_with("token_1") {
        Script::expired()
    } else {
        Script::ok()
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_and_the_call_repeated_with_any_method() {
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let org = RawOrg::start(first_token_is_dead).await;
        let app = Running::start(&org.url(), |_| {}).await;
        let lines = format!("{method} /services/data/v60.0/x?a=%20b HTTP/1.1\nContent-Length: 9\nX-Mine: 1");
        let reply = call(app.proxy, &lines, b"some body").await;
        assert_eq!(reply.status, 200, "{method}: {}", reply.text());
        assert!(reply.header("proxy-status").is_empty());
        let seen = org.seen();
        assert_eq!(seen.len(), 2);
        for request in &seen {
            assert_eq!(request.body, b"some body");
            assert_eq!(request.header("x-mine"), ["1"]);
            assert_eq!(
                request.line(),
                format!("{method} /services/data/v60.0/x?a=%20b HTTP/1.1")
            );
        }
        assert_eq!(org.logins(), 2);
        let accepted = "sf_token_proxy_retries_total{org=\"main\",result=\"accepted\",surface=\"rest\"}";
        assert_eq!(app.metric(accepted).await, 1.0);
        app.stop().await;
    }
}

#[tokio::test]
async fn a_head_call_is_repeated_too() {
    let org = RawOrg::start(|request| {
        match (request.line().starts_with("HEAD"), request.token().ends_with("token_1")) {
            (true, true) => Script::Say(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 75\r\n\r\n".to_vec()),
            (true, false) => Script::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec()),
            // The cheapest call, which tells.
            (false, _) => Script::expired(),
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, "HEAD /services/data HTTP/1.1", b"").await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn an_org_that_always_refuses_costs_one_repeat_a_call_and_one_login_a_cool_down() {
    let org = RawOrg::start(|_| {
        Script::Say(
            format!(
                "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json;charset=UTF-8\r\nX-Request-Id: abc\r\nContent-Length: {}\r\n\r\n{EXPIRED}",
                EXPIRED.len()
            )
            .into_bytes(),
        )
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    for _ in 0..20 {
        let reply = call(app.proxy, GET, b"").await;
        assert_eq!(reply.status, 401);
        assert_eq!(reply.text(), EXPIRED);
        assert_eq!(reply.header("x-request-id"), ["abc"]);
        assert_eq!(reply.header("content-type"), ["application/json;charset=UTF-8"]);
        assert!(reply.header("proxy-status").is_empty());
    }
    assert_eq!(org.seen().len(), 40, "exactly one repeat per call");
    assert_eq!(org.logins(), 2, "one forced login, then the cool-down");
    app.stop().await;
}

#[tokio::test]
async fn the_cool_down_ends() {
    let org = RawOrg::start(|_| Script::expired()).await;
    let app = Running::start(&org.url(), |config| {
        config.orgs.values_mut().next().unwrap().token.cool_down = Duration::from_millis(300);
    })
    .await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 401);
    assert_eq!(org.logins(), 2);
    // waits for the setting that is under test, not for an event: nothing else tells that a cool-down is over
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 401);
    assert_eq!(org.logins(), 3);
    app.stop().await;
}

#[tokio::test]
async fn a_stray_refusal_with_the_same_token_minted_again_is_healed() {
    let strays = Arc::new(AtomicU32::new(1));
    let org = RawOrg::start({
        let strays = Arc::clone(&strays);
        move |_| {
            let stray = strays.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if stray.is_ok() { Script::expired() } else { Script::ok() }
        }
    })
    .await;
    let same = crate::support::raw_org::token_answer(&org.url(), 1);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{same}", same.len());
    let app = Running::start(&org.url(), |_| {}).await;
    eventually("the first login", || org.logins(), |n| *n == 1).await;
    for _ in 0..5 {
        org.next_login(&answer);
    }
    for _ in 0..10 {
        assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    }
    assert_eq!(org.logins(), 2, "one login for one stray refusal");
    assert_eq!(org.seen()[1].token(), "Bearer 00Dxx0000001gER!token_1");
    app.stop().await;
}

#[tokio::test]
async fn answers_that_are_not_about_the_token_cost_no_login() {
    let bodies = [
        r#"[{"message":"This session is not valid for use with the REST API","errorCode":"INVALID_SESSION_ID"}]"#,
        r#"[{"errorCode":"INVALID_OPERATION_WITH_EXPIRED_PASSWORD"}]"#,
        r#"{"mine":"an Apex class may say 401 too"}"#,
        "",
    ];
    for body in bodies {
        let org = RawOrg::start(move |_| Script::json("401 Unauthorized", body)).await;
        let app = Running::start(&org.url(), |_| {}).await;
        let reply = call(app.proxy, GET, b"").await;
        assert_eq!((reply.status, reply.text().as_str()), (401, body));
        assert_eq!((org.seen().len(), org.logins()), (1, 1), "{body}");
        app.stop().await;
    }
}

#[tokio::test]
async fn a_failed_renewal_is_our_503_with_the_reason() {
    let org = RawOrg::start(|_| Script::expired()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    eventually("the first login", || org.logins(), |n| *n == 1).await;
    let no = r#"{"error":"invalid_grant","error_description":"user hasn't approved this consumer"}"#;
    org.next_login(&format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{no}",
        no.len()
    ));
    let reply = call(app.proxy, GET, b"").await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("SFPROXY_NO_TOKEN"), "{}", reply.text());
    assert!(
        reply.text().contains("user hasn't approved this consumer"),
        "{}",
        reply.text()
    );
    assert!(!reply.text().contains("INVALID_SESSION_ID"));
    assert_eq!(reply.header("retry-after").len(), 1);
    assert!(reply.header("proxy-status")[0].starts_with("sf-token-proxy; error="));
    app.stop().await;
}

/// A token revoked again and again while many call: nobody sees it, and every revocation costs one login.
#[tokio::test]
async fn sixty_four_callers_and_twenty_revocations() {
    // tokens with a number above this one live
    let dead = Arc::new(AtomicU32::new(0));
    let org = Arc::new(
        RawOrg::start({
            let dead = Arc::clone(&dead);
            move |request| {
                let number: u32 = request.token().rsplit('_').next().unwrap().parse().unwrap();
                if number <= dead.load(Ordering::SeqCst) {
                    Script::expired()
                } else {
                    Script::ok()
                }
            }
        })
        .await,
    );
    let app = Running::start(&org.url(), |_| {}).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU32::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (stop, answered, proxy) = (Arc::clone(&stop), Arc::clone(&answered), app.proxy);
        callers.spawn(async move {
            let mut stream = connect(proxy).await;
            while !stop.load(Ordering::SeqCst) {
                stream
                    .write_all(
                        b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
                    )
                    .await
                    .unwrap();
                let reply = read_reply(&mut stream, false).await.expect("an answer");
                assert_eq!(reply.status, 200, "{}", reply.text());
                answered.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    for round in 1..=20 {
        let before = answered.load(Ordering::SeqCst);
        eventually("calls go on", || answered.load(Ordering::SeqCst), |n| *n > before + 64).await;
        dead.store(round, Ordering::SeqCst);
        eventually("the renewal", || org.logins(), |n| *n == round + 1).await;
    }
    let before = answered.load(Ordering::SeqCst);
    eventually("calls go on", || answered.load(Ordering::SeqCst), |n| *n > before + 64).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(org.logins(), 21, "one login a revocation");
    app.stop().await;
}

/// A repeat may be refused late (the org reads a long upload first), when its token has died and others are at home with the
/// next one: that is no second refusal of a token that never worked.
#[tokio::test]
async fn a_repeat_that_was_refused_while_others_got_on_is_sent_with_their_token() {
    // as in `sixty_four_callers_and_twenty_revocations`
    let dead = Arc::new(AtomicU32::new(1));
    let org = RawOrg::start({
        let dead = Arc::clone(&dead);
        move |request| {
            let number: u32 = request.token().rsplit('_').next().unwrap().parse().unwrap();
            if number > dead.load(Ordering::SeqCst) {
                return Script::ok();
            }
            if request.target().ends_with("/slow") && number == 2 {
                let Script::Say(refusal) = Script::expired() else {
                    unreachable!()
                };
                return Script::Slowly(vec![(Duration::from_millis(500), refusal)]);
            }
            Script::expired()
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    dead.store(2, Ordering::SeqCst);
    let mut slow = tokio::task::JoinSet::new();
    slow.spawn(call(app.proxy, "GET /services/data/v60.0/slow HTTP/1.1", b""));
    eventually("the slow repeat", || org.seen().len(), |n| *n == 2).await;
    // The cool-down has not begun: nobody was refused twice yet.
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!(slow.join_next().await.unwrap().unwrap().status, 200);
    assert_eq!(org.logins(), 3);
    app.stop().await;
}

/// The list of versions is answered without a login (SF §6), also with a dead token.
#[tokio::test]
async fn the_list_of_versions_does_not_prove_that_a_token_works() {
    let org = RawOrg::start(|request| match request.target().trim_end_matches('/') {
        "/services/data" | "//services/data?x" => Script::ok(),
        _ => Script::expired(),
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    for target in ["/services/data", "/services/data/", "//services/data?x"] {
        let versions = format!("GET {target} HTTP/1.1");
        assert_eq!(call(app.proxy, &versions, b"").await.status, 200);
        assert_eq!(call(app.proxy, GET, b"").await.status, 401);
        assert_eq!(call(app.proxy, &versions, b"").await.status, 200);
        assert_eq!(call(app.proxy, GET, b"").await.status, 401);
    }
    assert_eq!(org.logins(), 2, "one forced login, then the cool-down");
    app.stop().await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_repeated_with_the_same_bytes() {
    let body: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
    let org = RawOrg::start(first_token_is_dead).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = post_chunked(app.proxy, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = org.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|request| request.body == body));
    eventually_nothing_kept(&app).await;
    app.stop().await;
}

#[tokio::test]
async fn a_refusal_that_comes_before_the_body_has_ended_is_repeated_too() {
    let body: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    for (chunked, stays) in [(true, false), (false, false), (true, true), (false, true)] {
        let org = RawOrg::start_as(|_| Script::ok(), 1, stays).await;
        let app = Running::start(&org.url(), |_| {}).await;
        let reply = if chunked {
            post_chunked(app.proxy, &body).await
        } else {
            let lines = format!("POST /services/data/v60.0/x HTTP/1.1\nContent-Length: {}", body.len());
            call(app.proxy, &lines, &body).await
        };
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = org.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen[1].body == body, "the repeat is whole");
        app.stop().await;
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_not_repeated_and_the_caller_is_told() {
    let org = RawOrg::start(first_token_is_dead).await;
    let app = Running::start(&org.url(), |config| {
        config.replay.max_body = 1 << 20;
        config.replay.total = 2 << 20;
    })
    .await;
    let body = vec![b'x'; 3 << 20];
    let reply = post_chunked(app.proxy, &body).await;
    assert_eq!((reply.status, reply.text().as_str()), (401, EXPIRED));
    let status = reply.header("proxy-status").join(" ");
    assert!(status.contains("not repeated: body_too_long"), "{status}");
    let skipped = "sf_token_proxy_replay_skipped_total{reason=\"body_too_long\"}";
    assert_eq!(app.metric(skipped).await, 1.0);
    // the next one works: the token is being renewed
    assert_eq!(post_chunked(app.proxy, &body).await.status, 200);
    assert_eq!(org.logins(), 2);
    eventually_nothing_kept(&app).await;
    app.stop().await;
}

#[tokio::test]
async fn an_upload_known_to_be_too_long_asks_first_whether_the_token_lives() {
    let org = RawOrg::start(first_token_is_dead).await;
    let app = Running::start(&org.url(), |config| config.replay.max_body = 1000).await;
    let lines = "POST /services/data/v60.0/x HTTP/1.1\nContent-Length: 2000";
    let reply = call(app.proxy, lines, &[b'x'; 2000]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen: Vec<String> = org.seen().iter().map(|request| request.line().to_owned()).collect();
    assert_eq!(
        seen,
        [
            "GET /services/data/v60.0/ HTTP/1.1",
            "POST /services/data/v60.0/x HTTP/1.1"
        ],
        "the dead token met the probe, not the upload"
    );
    // seen working just now: no more questions
    assert_eq!(call(app.proxy, lines, &[b'x'; 2000]).await.status, 200);
    assert_eq!(org.seen().len(), 3);
    app.stop().await;
}

#[tokio::test]
async fn what_all_calls_keep_together_is_bounded() {
    let org = RawOrg::start(first_token_is_dead).await;
    let app = Running::start(&org.url(), |config| {
        config.replay.max_body = 1000;
        config.replay.total = 1000;
    })
    .await;
    // one call holds the room: its body has not ended
    let mut holder = connect(app.proxy).await;
    holder
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n")
        .await
        .unwrap();
    holder.write_all(&[b'x'; 800]).await.unwrap();
    let kept = async || app.metric("sf_token_proxy_replay_bytes").await;
    while kept().await < 800.0 {
        tokio::task::yield_now().await;
    }
    let other = "POST /services/data/v60.0/x HTTP/1.1\nContent-Length: 500";
    let reply = call(app.proxy, other, &[b'y'; 500]).await;
    assert_eq!(reply.status, 401);
    assert!(reply.header("proxy-status")[0].contains("replay_store_full"));
    holder.write_all(&[b'x'; 100]).await.unwrap();
    assert_eq!(read_reply(&mut holder, false).await.unwrap().status, 200);
    eventually_nothing_kept(&app).await;
    app.stop().await;
}

#[tokio::test]
async fn a_resource_that_always_refuses_does_not_take_the_others_down() {
    let dead = Arc::new(AtomicU32::new(0));
    let org = RawOrg::start({
        let dead = Arc::clone(&dead);
        move |request| {
            let number: u32 = request.token().rsplit('_').next().unwrap().parse().unwrap();
            let refused = request.target().ends_with("/forbidden") || number <= dead.load(Ordering::SeqCst);
            if refused { Script::expired() } else { Script::ok() }
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let forbidden = "GET /services/data/v60.0/forbidden HTTP/1.1";
    for _ in 0..5 {
        assert_eq!(call(app.proxy, GET, b"").await.status, 200);
        assert_eq!(call(app.proxy, forbidden, b"").await.status, 401);
    }
    assert_eq!(org.logins(), 2, "the cool-down holds");
    // within the cool-down the token really dies: it was seen working, so the org is asked and the token renewed
    dead.store(2, Ordering::SeqCst);
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!(org.logins(), 3);
    app.stop().await;
}

#[tokio::test]
async fn a_moved_instance_is_followed() {
    let new_home = RawOrg::start(|_| Script::ok()).await;
    let old_home = RawOrg::start(|_| Script::expired()).await;
    let app = Running::start(&old_home.url(), |_| {}).await;
    eventually("the first login", || old_home.logins(), |n| *n == 1).await;
    let moved = crate::support::raw_org::token_answer(&new_home.url(), 2);
    old_home.next_login(&format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{moved}",
        moved.len()
    ));
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!((old_home.seen().len(), new_home.seen().len()), (1, 2));
    let host = new_home.seen()[0].header("host")[0].to_owned();
    assert_eq!(format!("http://{host}"), new_home.url());
    app.stop().await;
}

async fn post_chunked(proxy: std::net::SocketAddr, body: &[u8]) -> crate::support::Reply {
    let (mut reader, mut writer) = tokio::io::split(connect(proxy).await);
    let body = body.to_vec();
    let mut writing = tokio::task::JoinSet::new();
    writing.spawn(async move {
        let head = "POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        writer.write_all(head.as_bytes()).await?;
        for chunk in body.chunks(50_000) {
            writer.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
            writer.write_all(chunk).await?;
            writer.write_all(b"\r\n").await?;
        }
        writer.write_all(b"0\r\n\r\n").await?;
        std::io::Result::Ok(writer)
    });
    let reply = read_reply(&mut reader, false).await.expect("an answer");
    // an answer may come before all was written
    drop(writing.join_next().await);
    reply
}

async fn eventually_nothing_kept(app: &Running) {
    for _ in 0..1000 {
        if app.metric("sf_token_proxy_replay_bytes").await == 0.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("replay bytes are still counted");
}
