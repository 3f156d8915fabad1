//! Streams and shared connections when the org, or the caller, does what it should not.

use std::{future::poll_fn, net::SocketAddr};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use sf_token_proxy::config::Config;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinSet,
};

use crate::{
    site::{Wire, metric_becomes, soon},
    support::{
        RawH2, RawOrg, Running, Script, call, connect, eventually,
        raw_h2::{CANCEL, INTERNAL_ERROR, Say},
        raw_org::token_answer,
    },
};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";
const IN_USE: &str = "sf_token_proxy_upstream_connections{org=\"main\",state=\"in_use\"}";

fn pub_sub_at(url: &str) -> impl FnOnce(&mut Config) + use<> {
    let url = url.parse().unwrap();
    move |config| config.orgs.values_mut().next().unwrap().pub_sub = url
}

/// REST over HTTP/2 with an org of raw frames.
async fn rest_at(org: &RawH2) -> (Running, RawOrg) {
    let url = org.url();
    let login = RawOrg::start(move |_| Script::json("200 OK", &token_answer(&url, 1))).await;
    login.script_logins();
    let ca = org.ca();
    let app = Running::start(&login.url(), |config| {
        config.upstream.http2 = true;
        config.upstream.ca_file = Some(ca);
    })
    .await;
    (app, login)
}

fn grpc(method: &str) -> Request<()> {
    let mut request = Request::post(format!("http://localhost/eventbus.v1.PubSub/{method}"))
        .body(())
        .unwrap();
    let kind = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", kind);
    request
}

async fn rpc(wire: &Wire, method: &str) -> Result<RecvStream, h2::Error> {
    let mut send = wire.send.clone();
    poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
    let (response, _) = send.send_request(grpc(method), true).unwrap();
    Ok(soon(response).await?.into_body())
}

/// What is looked at to judge an answer may break off; the caller must not take the piece for the whole.
#[tokio::test]
async fn an_error_that_breaks_off_while_it_is_judged_is_not_passed_on_as_whole() {
    let org = RawOrg::start(|_| {
        let head = "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        Script::SayAndClose(format!("{head}9\r\n[{{\"messag\r\n").into_bytes())
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    let mut stream = connect(app.proxy).await;
    let ask = format!("{GET}\r\nHost: localhost\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The connection ends, with a reset or not; the head may not have gone out.
    drop(soon(stream.read_to_end(&mut answer)).await);
    let answer = String::from_utf8(answer).unwrap();
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("content-length"), "{answer}");
    let broke = "sf_token_proxy_requests_total{code=\"401\",method=\"GET\",org=\"main\",outcome=\"upstream_error\",surface=\"rest\"}";
    metric_becomes(&app, broke, 1.0).await;
    app.stop().await;
}

#[tokio::test]
async fn an_rpc_that_is_reset_after_its_headers_is_reset_for_the_caller() {
    let org = RawH2::start(|_| vec![Say::Begin("200", Vec::new()), Say::Reset(INTERNAL_ERROR)]).await;
    let login = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&login.url(), pub_sub_at(&org.url())).await;
    let wire = Wire::plain(app.proxy).await;
    let mut body = match rpc(&wire, "GetTopic").await {
        Ok(body) => body,
        Err(error) => return assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR)),
    };
    let error = soon(body.data()).await.expect("no end without trailers").unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    app.stop().await;
}

/// A caller's own failure is no reason to leave a connection that others share.
#[tokio::test]
async fn an_upload_that_breaks_off_costs_no_connection() {
    let org = RawH2::start_as(true, None, |call| match call.ended {
        true => vec![Say::Answer("200", b"fine".to_vec())],
        false => vec![],
    })
    .await;
    let (app, _login) = rest_at(&org).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    let mut stream = connect(app.proxy).await;
    stream
        .write_all(b"POST /services/data/v60.0/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nten bytes.")
        .await
        .unwrap();
    eventually("it is with the org", || org.heads(), |heads| *heads == 2).await;
    drop(stream);
    eventually("reset", || org.resets(), |resets| resets == &[(3, CANCEL)]).await;
    metric_becomes(&app, IN_USE, 0.0).await;
    assert_eq!(call(app.proxy, GET, b"").await.status, 200);
    assert_eq!(org.connections(), 1);
    app.stop().await;
}

/// As many as one connection takes: each holds its own window, and the connection's has room for all of them.
#[tokio::test]
async fn ninety_nine_stalled_answers_do_not_starve_the_hundredth() {
    let org = RawH2::start_as(true, None, |call| match call.stream {
        1..=197 => vec![Say::Begin("200", vec![b'x'; 250_000])],
        _ => vec![Say::Answer("200", b"fine".to_vec())],
    })
    .await;
    let (app, _login) = rest_at(&org).await;
    let mut connections = JoinSet::new();
    let mut stalled = Vec::new();
    for n in 0..99 {
        if n % 50 == 0 {
            // A caller that reads nothing.
            let stream = TcpStream::connect(app.proxy).await.unwrap();
            let built = h2::client::Builder::new()
                .initial_window_size(0)
                .handshake::<_, Bytes>(stream)
                .await
                .unwrap();
            connections.spawn(built.1);
            stalled.push((built.0, Vec::new()));
        }
        let (send, answers) = stalled.last_mut().unwrap();
        poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
        let request = Request::get("http://localhost/services/data/v60.0/x").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        answers.push(soon(response).await.unwrap().into_body());
    }
    assert_eq!(org.connections(), 1);
    let reply = soon(call(app.proxy, GET, b"")).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "fine"));
    assert_eq!(org.connections(), 1);
    drop(stalled);
    metric_becomes(&app, IN_USE, 0.0).await;
    app.stop().await;
}

const AUTH_ERROR: Option<&str> = Some("sfdc.platform.eventbus.grpc.service.auth.error");

/// Pub/Sub whose RPCs all end so, with an `error-code` perhaps.
async fn ends_with(status: &'static str, code: Option<&'static str>, trailers_only: bool) -> (SocketAddr, JoinSet<()>) {
    let mut end = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))]);
    if let Some(code) = code {
        end.insert("error-code", HeaderValue::from_static(code));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let end = end.clone();
            connections.spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    let mut head = Response::new(());
                    if trailers_only {
                        *head.headers_mut() = end.clone();
                        respond.send_response(head, true).unwrap();
                    } else {
                        let mut body = respond.send_response(head, false).unwrap();
                        body.send_trailers(end.clone()).unwrap();
                    }
                }
            });
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn a_refusal_in_trailers_is_counted_once() {
    let (address, _tasks) = ends_with("16", AUTH_ERROR, false).await;
    let login = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&login.url(), pub_sub_at(&format!("http://{address}"))).await;
    let wire = Wire::plain(app.proxy).await;
    let mut body = rpc(&wire, "GetTopic").await.unwrap();
    while soon(body.data()).await.is_some() {}
    let trailers = soon(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "16");
    // Two attempts, one login more.
    let series = "sf_token_proxy_token_rejections_total{org=\"main\",reason=\"rpc_auth_error\",surface=\"pub_sub\"}";
    assert_eq!((app.metric(series).await, login.logins()), (2.0, 2));
    app.stop().await;
}

/// Who gets UNAUTHENTICATED without Salesforce's code may have a dead token, or one that may not do this.
#[tokio::test]
async fn grpcs_own_word_for_a_refusal_leaves_it_to_the_org() {
    for (trailers_only, alive) in [(true, false), (false, false), (true, true)] {
        let (address, _tasks) = ends_with("16", None, trailers_only).await;
        let org = RawOrg::start(move |request| match !alive && request.token().ends_with("token_1") {
            true => Script::expired(),
            false => Script::ok(),
        })
        .await;
        let app = Running::start(&org.url(), pub_sub_at(&format!("http://{address}"))).await;
        let wire = Wire::plain(app.proxy).await;
        let mut body = rpc(&wire, "GetTopic").await.unwrap();
        while soon(body.data()).await.is_some() {}
        // Renewed and repeated, or neither.
        let series =
            "sf_token_proxy_token_rejections_total{org=\"main\",reason=\"rpc_unauthenticated\",surface=\"pub_sub\"}";
        let expected = if alive { (1.0, 1) } else { (2.0, 2) };
        assert_eq!(
            (app.metric(series).await, org.logins()),
            expected,
            "{trailers_only} {alive}"
        );
        app.stop().await;
    }
}

/// gRPC's clients take an answer that is nothing but a status for one only if the stream ends with its headers.
#[tokio::test]
async fn our_own_status_ends_with_its_headers() {
    let login = RawOrg::start(|_| Script::ok()).await;
    login.refuse_logins(Some(("400 Bad Request", r#"{"error":"invalid_client"}"#)));
    let app = Running::start(&login.url(), |_| {}).await;
    let wire = Wire::plain(app.proxy).await;
    let mut send = wire.send.clone();
    poll_fn(|cx| send.poll_ready(cx)).await.unwrap();
    let (response, _) = send.send_request(grpc("GetTopic"), true).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    assert!(response.body().is_end_stream());
    app.stop().await;
}

/// What servers take unread if they say nothing else.
const WINDOW: u32 = 65_535;

/// Pub/Sub that reads nothing of what is sent to it, and does not answer. Tells how each stream ended.
async fn never_reads() -> (SocketAddr, UnboundedReceiver<Reason>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, reasons) = unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut streams = JoinSet::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let told = told.clone();
            streams.spawn(async move {
                let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                drop(request);
                told.send(reason).unwrap();
            });
        }
    });
    (address, reasons, tasks)
}

/// What was kept for a repeat goes with the caller, also while the org's window is shut.
#[tokio::test]
async fn a_caller_that_gives_up_ends_an_upload_that_nobody_reads() {
    const KEPT: &str = "sf_token_proxy_replay_bytes";
    let (address, mut reasons, _tasks) = never_reads().await;
    let login = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&login.url(), pub_sub_at(&format!("http://{address}"))).await;
    let wire = Wire::plain(app.proxy).await;
    let (response, mut requests) = wire.send.clone().send_request(grpc("PublishStream"), false).unwrap();
    requests.send_data(vec![0; 300_000].into(), false).unwrap();
    // More than the window: something waits for it.
    let waits = async {
        while app.metric(KEPT).await <= f64::from(WINDOW) {
            tokio::task::yield_now().await;
        }
    };
    soon(waits).await;
    drop(response);
    requests.send_reset(Reason::CANCEL);
    assert_eq!(soon(reasons.recv()).await, Some(Reason::CANCEL));
    metric_becomes(&app, IN_USE, 0.0).await;
    metric_becomes(&app, KEPT, 0.0).await;
    app.stop().await;
}

/// The HTTP status of an RPC is 200 whatever came of it.
#[tokio::test]
async fn an_rpc_that_fails_is_not_counted_as_good() {
    for (status, outcome) in [("0", "ok"), ("5", "client_error"), ("13", "upstream_error")] {
        for trailers_only in [true, false] {
            let (address, _tasks) = ends_with(status, None, trailers_only).await;
            let login = RawOrg::start(|_| Script::ok()).await;
            let app = Running::start(&login.url(), pub_sub_at(&format!("http://{address}"))).await;
            let wire = Wire::plain(app.proxy).await;
            let mut body = rpc(&wire, "Subscribe").await.unwrap();
            while soon(body.data()).await.is_some() {}
            soon(body.trailers()).await.unwrap();
            let series = format!(
                "sf_token_proxy_requests_total{{code=\"200\",method=\"POST\",org=\"main\",outcome=\"{outcome}\",surface=\"pub_sub\"}}"
            );
            metric_becomes(&app, &series, 1.0).await;
            app.stop().await;
        }
    }
}
