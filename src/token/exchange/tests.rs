//! The real exchange against small real servers on loopback.

use std::{
    convert::Infallible,
    io::Write,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

use super::*;
use crate::{
    config::{Budget, ClientCredentials, JwtBearer, LoginHost, SecretRef, SendSecret, TokenSettings},
    token::grant::jwt_bearer::tests::{PKCS8, pem},
};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A login host that answers everything alike.
struct LoginServer {
    url: url::Url,
    hits: Arc<AtomicUsize>,
    last: Arc<Mutex<Option<(Parts, String)>>>,
    tasks: JoinSet<()>,
}

async fn login_server(answer: impl Fn(&Parts, &str) -> Option<Answer> + Clone + Send + Sync + 'static) -> LoginServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (hits, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
    let mut tasks = JoinSet::new();
    let (counted, kept) = (Arc::clone(&hits), Arc::clone(&last));
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (answer, counted, kept) = (answer.clone(), Arc::clone(&counted), Arc::clone(&kept));
            connections.spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let (answer, kept) = (answer.clone(), Arc::clone(&kept));
                    counted.fetch_add(1, Ordering::SeqCst);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let body = String::from_utf8(body.to_vec()).unwrap();
                        let response = answer(&head, &body);
                        *kept.lock().unwrap() = Some((head, body));
                        match response {
                            Some(response) => Ok::<_, Infallible>(response),
                            None => std::future::pending().await,
                        }
                    }
                });
                // Broken connections are what some tests make.
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    LoginServer {
        url: url.parse().unwrap(),
        hits,
        last,
        tasks,
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
    answer
}

fn token_answer() -> Answer {
    answer(
        200,
        r#"{"access_token":"00Dxx!CANARYtoken","scope":"api","instance_url":"https://acme.my.salesforce.com","id":"https://login.salesforce.com/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS"}"#,
    )
}

/// Sixteen kilobytes again and again.
struct Endless(Arc<AtomicUsize>);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b' '; 16 * 1024])))))
    }
}

const SECRET: &str = "CANARY/s3cret+=";

/// An org with the secret in a file that lives as long as the test.
fn org(login: &url::Url) -> (tempfile::NamedTempFile, Org) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    let org = Org {
        login: LoginHost { url: login.clone() },
        grant: Grant::ClientCredentials(ClientCredentials {
            client_id: "3MVG9.id".into(),
            client_secret: SecretRef::file(file.path().to_owned()),
            send_secret: SendSecret::Basic,
        }),
        instance_url: None,
        token: TokenSettings {
            lifetime: Duration::from_secs(5400),
            refresh_wait: Duration::from_secs(10),
            cool_down: Duration::from_secs(30),
            max_waiters: 10,
            exchange_timeout: Duration::from_secs(10),
            introspect: false,
            keep_alive: false,
        },
        budget: Budget {
            burst: 60,
            per_minute: 4,
        },
        data_cloud: None,
        pub_sub: "https://api.pubsub.salesforce.com".parse().unwrap(),
        api: crate::config::Api::default(),
        cache: None,
    };
    (file, org)
}

fn exchange_with(org: &Org, egress: &EgressProxy) -> Result<HttpExchange, SetUpError> {
    let tls = crate::tls::client_config(None).unwrap();
    HttpExchange::new(org, tls, egress, Clock::system())
}

async fn exchange(org: &Org) -> Result<Minted, Refusal> {
    once(&exchange_with(org, &EgressProxy::default()).unwrap()).await
}

async fn once(exchange: &HttpExchange) -> Result<Minted, Refusal> {
    let granted = exchange.login(None).await;
    granted.map(|granted| granted.minted).map_err(|failed| failed.refusal)
}

#[tokio::test]
async fn a_login_is_sent_as_documented_and_its_answer_taken() {
    let server = login_server(|_, _| Some(token_answer())).await;
    let (_file, org) = org(&server.url);
    let minted = exchange(&org).await.unwrap();
    assert_eq!(minted.secret.expose_secret(), "00Dxx!CANARYtoken");
    assert_eq!(minted.instance.host, "acme.my.salesforce.com");
    assert_eq!(minted.identity.as_ref().unwrap().org_id, "00Dxx0000001gEREAY");
    assert!(!format!("{minted:?}").contains("CANARY"));
    let (head, body) = server.last.lock().unwrap().take().unwrap();
    assert_eq!(
        (head.method.as_str(), head.uri.to_string()),
        ("POST", "/services/oauth2/token".into())
    );
    assert_eq!(head.headers["accept"], "application/json");
    assert_eq!(head.headers["content-type"], "application/x-www-form-urlencoded");
    assert!(head.headers["authorization"].to_str().unwrap().starts_with("Basic "));
    assert_eq!(body, "grant_type=client_credentials");
}

#[tokio::test]
async fn a_jwt_login_sends_the_assertion_form_encoded() {
    let server = login_server(|_, _| Some(token_answer())).await;
    let (file, mut org) = org(&server.url);
    std::fs::write(file.path(), pem("PRIVATE KEY", &PKCS8)).unwrap();
    org.grant = Grant::JwtBearer(JwtBearer {
        client_id: "3MVG9.id".into(),
        username: "i@acme.com".into(),
        private_key: SecretRef::file(file.path().to_owned()),
        audience: "https://test.salesforce.com".into(),
    });
    org.instance_url = Some("http://localhost:9443/".parse().unwrap());
    let minted = exchange(&org).await.unwrap();
    assert_eq!(
        (minted.instance.tls, minted.instance.port),
        (false, 9443),
        "the override"
    );
    let (head, body) = server.last.lock().unwrap().take().unwrap();
    assert!(!head.headers.contains_key("authorization"));
    let expected = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJhbGciOiJSUzI1NiJ9.";
    assert!(body.starts_with(expected), "{body}");
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let server = login_server(|head, _| {
        let mut answer = answer(307, "");
        let host = head.headers["host"].to_str().unwrap();
        let location = format!("http://{host}/elsewhere").parse().unwrap();
        answer.headers_mut().insert("location", location);
        Some(answer)
    })
    .await;
    let (_file, org) = org(&server.url);
    assert_eq!(exchange(&org).await.unwrap_err().reason, "redirected");
    assert_eq!(server.hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_more_than_64_kib_of_an_answer_are_read() {
    for (status, reason) in [(200, "malformed_answer"), (400, "unexpected_answer")] {
        let frames = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&frames);
        let server = login_server(move |_, _| {
            let mut endless = answer(status, "");
            *endless.body_mut() = Endless(Arc::clone(&counted)).boxed();
            Some(endless)
        })
        .await;
        let (_file, org) = org(&server.url);
        let refusal = tokio::time::timeout(Duration::from_secs(5), exchange(&org)).await;
        assert_eq!(refusal.expect("must end").unwrap_err().reason, reason);
        // What is beyond our 64 KiB lay in socket buffers.
        assert!(frames.load(Ordering::SeqCst) < 2000);
    }
}

#[tokio::test]
async fn a_full_answer_of_just_64_kib_is_read() {
    let server = login_server(|_, _| {
        let mut body = br#"{"access_token":"t","instance_url":"https://a.example"}"#.to_vec();
        body.resize(BODY_MAX, b' ');
        Some(answer(200, body))
    })
    .await;
    let (_file, org) = org(&server.url);
    exchange(&org).await.unwrap();
}

#[tokio::test]
async fn a_slow_answer_times_out() {
    let server = login_server(|_, _| None).await;
    let (_file, mut org) = org(&server.url);
    org.token.exchange_timeout = Duration::from_millis(300);
    let refusal = exchange(&org).await.unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.class),
        ("timeout", crate::token::Class::Transient)
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a_secret_that_has_become_a_pipe_or_hangs_ends_no_login() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let server = login_server(|_, _| Some(token_answer())).await;
    let (file, org) = org(&server.url);
    let this = exchange_with(&org, &EgressProxy::default()).unwrap();
    once(&this).await.unwrap();
    std::fs::remove_file(file.path()).unwrap();
    mknodat(CWD, file.path(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let soon = Duration::from_secs(2);
    let login = tokio::time::timeout(soon, once(&this)).await;
    login
        .expect("a pipe is not waited for")
        .expect("the last good one serves");
    // Another one that has read nothing yet.
    let (other, of_other) = {
        let (other, mut of_other) = self::org(&server.url);
        let Grant::ClientCredentials(grant) = &mut of_other.grant else {
            unreachable!("as made above");
        };
        grant.client_secret = SecretRef::file(file.path().to_owned());
        (other, exchange_with(&of_other, &EgressProxy::default()).unwrap())
    };
    let refusal = tokio::time::timeout(soon, once(&of_other)).await.unwrap().unwrap_err();
    assert_eq!(refusal.reason, "secret_unreadable");
    assert!(
        format!("{refusal:?}").contains("it is a pipe, not a file"),
        "{refusal:?}"
    );
    drop(other);
    // A disk that hangs.
    std::fs::remove_file(file.path()).unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    // One whose time is up before that is known has not waited for the login host either.
    let (ends, waits) = std::sync::mpsc::channel::<()>();
    let (begins, begun) = std::sync::mpsc::channel();
    let path = file.path().to_owned();
    let slow = std::thread::spawn(move || {
        crate::disk::within(&path, Duration::from_secs(60), move || {
            begins.send(()).unwrap();
            let _ = waits.recv();
            Ok(())
        })
    });
    begun.recv().unwrap();
    // One that remembers for itself: it reads on when nobody waits any more.
    let mut hasty = of_other.clone();
    hasty.grant = Arc::new(Grant::ClientCredentials(ClientCredentials {
        client_id: "3MVG9.id".into(),
        client_secret: SecretRef::file(file.path().to_owned()),
        send_secret: SendSecret::Basic,
    }));
    hasty.timeout = Duration::from_millis(20);
    assert_eq!(once(&hasty).await.unwrap_err().reason, "secret_unreadable");
    drop(ends);
    slow.join().unwrap().unwrap();
    let (comes_back, hanging) = std::sync::mpsc::channel::<()>();
    let late = crate::disk::within(file.path(), Duration::from_millis(300), move || {
        let _ = hanging.recv();
        Ok(())
    });
    assert!(late.is_err());
    once(&this).await.expect("the last good one serves");
    let refusal = once(&of_other).await.unwrap_err();
    assert_eq!(refusal.reason, "secret_unreadable");
    assert!(format!("{refusal:?}").contains("its disk hangs"), "{refusal:?}");
    drop(comes_back);
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let (_file, org) = org(&url);
    let refusal = exchange(&org).await.unwrap_err();
    assert_eq!(refusal.reason, "unreachable");
    assert!(refusal.description.unwrap().contains("refused"));
}

#[tokio::test]
async fn a_server_that_hangs_up_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { while listener.accept().await.is_ok() {} });
    let (_file, org) = org(&url);
    assert_eq!(exchange(&org).await.unwrap_err().reason, "unreachable");
}

#[tokio::test]
async fn tls_that_fails_is_called_so() {
    // Not TLS at all.
    let server = login_server(|_, _| Some(token_answer())).await;
    let url = format!("https://localhost:{}/", server.url.port().unwrap());
    let (_file, org_of_plain) = org(&url.parse().unwrap());
    assert_eq!(exchange(&org_of_plain).await.unwrap_err().reason, "tls");

    // A certificate that nobody trusts.
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let (_file, org) = org(&url.parse().unwrap());
    let refusal = exchange(&org).await.unwrap_err();
    assert_eq!(refusal.reason, "tls", "{refusal:?}");
    assert!(refusal.advice.contains("ca_file"));
}

#[tokio::test]
async fn retry_after_is_read() {
    let dated = [
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT"),
    ];
    for (headers, expected) in [
        (&[("retry-after", "90")][..], Some(90)),
        // By the clock of who says it.
        (&dated, Some(30)),
        // By our own; that is past.
        (&dated[1..], Some(0)),
        (&[("retry-after", "soon")], None),
    ] {
        let headers = headers.to_vec();
        let server = login_server(move |_, _| {
            let mut answer = answer(429, "");
            for (name, value) in &headers {
                answer.headers_mut().insert(*name, value.parse().unwrap());
            }
            Some(answer)
        })
        .await;
        let (_file, org) = org(&server.url);
        let refusal = exchange(&org).await.unwrap_err();
        assert_eq!(refusal.retry_after, expected.map(Duration::from_secs));
        assert_eq!(refusal.class, crate::token::Class::RateLimited);
    }
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_login_host_that_echoes_everything_betrays_nothing() {
    let captured = Captured::default();
    let log = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::info!("the capture works");
    let echoed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&echoed);
    let server = login_server(move |head, body| {
        let authorization = head
            .headers
            .get("authorization")
            .map(|v| v.to_str().unwrap().to_owned());
        let text = format!("{body} {} {SECRET}", authorization.unwrap_or_default());
        counted.fetch_add(usize::from(text.contains(SECRET)), Ordering::SeqCst);
        Some(answer(
            400,
            serde_json::json!({"error": "invalid_client", "error_description": text}).to_string(),
        ))
    })
    .await;
    let (_file, mut org) = org(&server.url);
    let encoded = percent(SECRET);
    for send_secret in [SendSecret::Basic, SendSecret::Body] {
        if let Grant::ClientCredentials(grant) = &mut org.grant {
            grant.send_secret = send_secret;
        }
        let exchange = exchange_with(&org, &EgressProxy::default()).unwrap();
        let refusal = once(&exchange).await.unwrap_err();
        let all = format!("{refusal:?} {refusal} {:?}", org);
        assert!(refusal.description.as_ref().unwrap().contains("[removed]"), "{all}");
        assert!(!all.contains("CANARY") && !all.contains(&encoded), "{all}");
        let (head, _) = server.last.lock().unwrap().take().unwrap();
        if let Some(basic) = head.headers.get("authorization") {
            let pair = basic.to_str().unwrap().trim_start_matches("Basic ");
            assert!(!all.contains(pair), "{all}");
        }
    }
    assert_eq!(echoed.load(Ordering::SeqCst), 2);
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("the capture works"));
    assert!(!log.contains("CANARY"), "{log}");
}

fn percent(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn an_answer_without_instance_betrays_no_token() {
    let server = login_server(|_, _| Some(answer(200, r#"{"access_token":"CANARY"}"#))).await;
    let (_file, org) = org(&server.url);
    let refusal = exchange(&org).await.unwrap_err();
    assert_eq!(refusal.reason, "malformed_answer");
    assert!(!format!("{refusal:?}").contains("CANARY"));
}

#[tokio::test]
async fn plain_http_beyond_this_machine_is_refused_at_set_up() {
    let (_file, mut org) = org(&"http://acme.my.salesforce.com".parse().unwrap());
    let egress = EgressProxy::default();
    assert!(matches!(
        exchange_with(&org, &egress),
        Err(SetUpError::LoginUrl(InstanceError::NotHttps))
    ));
    org.login.url = "https://acme.my.salesforce.com".parse().unwrap();
    org.instance_url = Some("http://acme.my.salesforce.com".parse().unwrap());
    assert!(matches!(
        exchange_with(&org, &egress),
        Err(SetUpError::InstanceUrl(InstanceError::NotHttps))
    ));
}

#[tokio::test]
async fn the_configured_egress_proxy_is_used_but_for_excluded_and_local_hosts() {
    let proxy = login_server(|_, _| Some(answer(403, "no"))).await;
    let egress = |no_proxy: Option<&str>| EgressProxy {
        https: Some(format!("http://user:CANARY@127.0.0.1:{}", proxy.url.port().unwrap())),
        no_proxy: no_proxy.map(str::to_owned),
    };
    let (_file, mut org) = org(&"https://login.invalid".parse().unwrap());
    let refusal = once(&exchange_with(&org, &egress(None)).unwrap()).await.unwrap_err();
    assert_eq!(refusal.reason, "unreachable");
    assert!(!format!("{refusal:?}").contains("CANARY"));
    let (head, _) = proxy.last.lock().unwrap().take().unwrap();
    assert_eq!(
        (head.method.as_str(), head.uri.to_string()),
        ("CONNECT", "login.invalid:443".into())
    );
    assert!(head.headers.contains_key("proxy-authorization"));

    org.token.exchange_timeout = Duration::from_millis(500);
    once(&exchange_with(&org, &egress(Some("example.com,.invalid"))).unwrap())
        .await
        .unwrap_err();
    assert_eq!(proxy.hits.load(Ordering::SeqCst), 1, "NO_PROXY");
    org.login.url = "https://localhost:1".parse().unwrap();
    once(&exchange_with(&org, &egress(None)).unwrap()).await.unwrap_err();
    assert_eq!(proxy.hits.load(Ordering::SeqCst), 1, "loopback");
    assert_eq!(proxy.tasks.len(), 1);
}
