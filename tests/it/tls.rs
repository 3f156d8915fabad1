//! Listeners that speak https, on real sockets, with clients as strict as there are.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use sf_token_proxy::{
    app::App,
    config::{Config, ListenerTls},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{RawOrg, Reply, Running, Script, Trace, call, connect, eventually, read_reply, settings_for};

const LIMITS: &str = "GET /services/data/v60.0/limits HTTP/1.1\r\nHost: localhost\r\n\r\n";
const FAILURES: &str = "sf_token_proxy_tls_handshake_failures_total";

/// An app whose one listener speaks https with a certificate of its own making.
struct Site {
    org: RawOrg,
    app: Running,
    folder: tempfile::TempDir,
}

impl Site {
    async fn new(adapt: impl FnOnce(&mut Config)) -> Self {
        Self::with(|_| Script::ok(), adapt).await
    }

    async fn with(
        play: impl Fn(&crate::support::RawRequest) -> Script + Send + Sync + 'static,
        adapt: impl FnOnce(&mut Config),
    ) -> Self {
        let org = RawOrg::start(play).await;
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("tls");
        let app = Running::start(&org.url(), |config| {
            config.listeners[0].tls = Some(ListenerTls::Generated { directory });
            adapt(config);
        })
        .await;
        Self { org, app, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("tls/ca.pem")
    }

    async fn shake(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        shake(self.app.proxy, &self.ca(), alpn).await.unwrap()
    }
}

/// Trusts this authority alone.
fn client(ca: &Path, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

pub(crate) async fn shake(address: SocketAddr, ca: &Path, alpn: &[&str]) -> io::Result<TlsStream<TcpStream>> {
    shake_as(address, Arc::new(client(ca, alpn)), "localhost").await
}

async fn shake_as(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, connect(address).await).await
}

/// What happens before any deadline of the program's defaults.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let bound = Duration::from_secs(5);
    tokio::time::timeout(bound, what).await.expect("it happens soon")
}

pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>) -> Reply {
    stream.write_all(LIMITS.as_bytes()).await.unwrap();
    read_reply(stream, false).await.expect("an answer")
}

#[tokio::test]
async fn http_1_and_2_are_spoken_as_alpn_says() {
    let site = Site::new(|_| {}).await;
    for alpn in [&[][..], &["http/1.1"], &["http/1.1", "x"]] {
        let mut stream = site.shake(alpn).await;
        // Twice: the connection stays.
        for _ in 0..2 {
            let reply = ask(&mut stream).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"ok":true}"#));
        }
    }
    let stream = site.shake(&["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(connection);
    let body: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let request = Request::post("https://localhost/services/data/v60.0/x")
        .body(Full::new(Bytes::from(body.clone())))
        .unwrap();
    let reply = client.send_request(request).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.version()), (200, Version::HTTP_2));
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), r#"{"ok":true}"#);
    let seen = site.org.seen();
    assert_eq!(seen.len(), 7);
    assert_eq!(seen[6].body, body);
    assert!(seen.iter().all(|request| request.token().starts_with("Bearer 00D")));
    drop(client);
    assert_eq!(site.app.metric(FAILURES).await, 0.0);
    site.app.stop().await;
}

#[tokio::test]
async fn what_is_meant_for_https_is_kept() {
    let org_says = "HTTP/1.1 200 OK\r\nSet-Cookie: BrowserId=a; Domain=.salesforce.com; Secure; Path=/\r\n\
                    Strict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok";
    let site = Site::with(|_| Script::Say(org_says.into()), |_| {}).await;
    let reply = ask(&mut site.shake(&[]).await).await;
    assert_eq!(reply.header("set-cookie"), ["BrowserId=a; Secure; Path=/"]);
    assert_eq!(reply.header("strict-transport-security"), ["max-age=1"]);
    site.app.stop().await;
}

#[tokio::test]
async fn plain_http_is_told_to_come_with_https() {
    let site = Site::new(|_| {}).await;
    let mut stream = connect(site.app.proxy).await;
    stream.write_all(LIMITS.as_bytes()).await.unwrap();
    let reply = read_reply(&mut stream, false).await.unwrap();
    assert_eq!(reply.status, 400);
    assert!(reply.head.starts_with("HTTP/1.1 "), "{}", reply.head);
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body[0]["errorCode"], "SFPROXY_PLAIN_HTTP");
    assert!(
        body[0]["message"].as_str().unwrap().contains("listeners[].tls"),
        "{body}"
    );
    assert!(
        reply.header("proxy-status")[0].contains("SFPROXY_PLAIN_HTTP"),
        "{}",
        reply.head
    );
    let ended = soon(stream.read(&mut [0])).await;
    assert_eq!(ended.unwrap(), 0, "the connection ends");

    let io = TokioIo::new(connect(site.app.proxy).await);
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(connection);
    let request = Request::get("http://localhost/services/data").body(Full::<Bytes>::default());
    let reply = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!((reply.status().as_u16(), reply.version()), (400, Version::HTTP_2));

    let refused = "sf_token_proxy_guard_refusals_total{reason=\"plain_http\"}";
    assert_eq!(site.app.metric(refused).await, 2.0);
    assert_eq!(site.app.metric(FAILURES).await, 0.0);
    assert!(site.org.seen().is_empty(), "no call went on");
    site.app.stop().await;
}

#[tokio::test]
async fn a_tls_handshake_at_a_plain_listener_is_closed_with_a_line_in_the_log() {
    let log = Trace::start();
    let site = Site::new(|config| {
        let mut plain = config.listeners[0].clone();
        plain.tls = None;
        config.listeners.push(plain);
    })
    .await;
    let plain = site.app.listeners[1];
    assert!(shake(plain, &site.ca(), &[]).await.is_err());
    let line = "began with a TLS handshake: this address speaks plain http";
    let seen = eventually("a line", || log.text(), |text| text.contains(line)).await;
    assert_eq!(seen.matches(line).count(), 1, "{seen}");
    assert!(seen.contains(&plain.to_string()), "{seen}");
    // Nothing is said to a client that would not understand it.
    let mut stream = connect(plain).await;
    stream.write_all(&[22, 3, 1]).await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert_eq!(said, b"");
    assert_eq!(
        call(plain, "GET /services/data/v60.0/x HTTP/1.1", b"").await.status,
        200
    );
    site.app.stop().await;
}

#[tokio::test]
async fn a_slow_handshake_is_cut_and_gives_its_place_back() {
    let site = Site::new(|config| {
        config.listeners[0].max_connections = 1;
        config.listeners[0].idle_timeout = Duration::from_millis(300);
    })
    .await;
    for (n, beginning) in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0, 1, 252]]
        .into_iter()
        .enumerate()
    {
        let mut slow = connect(site.app.proxy).await;
        slow.write_all(beginning).await.unwrap();
        let mut waiting = soon(site.shake(&[])).await;
        assert_eq!(ask(&mut waiting).await.status, 200);
        drop(waiting);
        let _ = slow.read_to_end(&mut Vec::new()).await;
        assert_eq!(site.app.metric(FAILURES).await, (n + 1) as f64);
    }
    // An idle connection is closed as on any other listener.
    let mut idle = site.shake(&[]).await;
    assert_eq!(ask(&mut idle).await.status, 200);
    // hyper's timer drops it without the word that ends TLS; no answer is cut off by that.
    let ended = soon(idle.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)));
    let h2 = site.shake(&["h2"]).await;
    let (client, connection) = http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(h2))
        .await
        .unwrap();
    soon(connection).await.unwrap();
    drop(client);
    site.app.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_certificate_is_counted() {
    let log = Trace::start();
    let site = Site::new(|config| config.listeners[0].hosts = vec!["sf.internal".into()]).await;
    let trusting = Arc::new(client(&site.ca(), &[]));
    for name in ["localhost", "127.0.0.1", "::1", "sf.internal"] {
        let shaken = shake_as(site.app.proxy, Arc::clone(&trusting), name).await;
        assert!(shaken.is_ok(), "{name}: {shaken:?}");
    }
    for name in ["evil.example", "internal", "127.0.0.2"] {
        assert!(
            shake_as(site.app.proxy, Arc::clone(&trusting), name).await.is_err(),
            "{name}"
        );
    }
    let other = Site::new(|_| {}).await;
    assert!(shake(site.app.proxy, &other.ca(), &[]).await.is_err());
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.app.metric(FAILURES).await != 4.0 {
        assert!(Instant::now() < deadline, "{}", site.app.metric(FAILURES).await);
    }
    assert!(log.text().contains("a TLS handshake failed"), "{}", log.text());
    // The guard is where it was.
    let mut stream = site.shake(&[]).await;
    let foreign = LIMITS.replace("localhost", "evil.example");
    stream.write_all(foreign.as_bytes()).await.unwrap();
    assert_eq!(read_reply(&mut stream, false).await.unwrap().status, 421);
    site.app.stop().await;
    other.app.stop().await;
}

#[tokio::test]
async fn a_session_is_resumed() {
    let site = Site::new(|_| {}).await;
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(site.ca()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = shake_as(site.app.proxy, Arc::clone(&config), "localhost")
                .await
                .unwrap();
            assert_eq!(ask(&mut stream).await.status, 200);
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
        }
    }
    site.app.stop().await;
}

#[tokio::test]
async fn the_second_start_serves_the_same_certificate() {
    let log = Trace::start();
    let first = Site::new(|_| {}).await;
    let served =
        |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let certificate = served(&first.shake(&[]).await);
    first.app.stop().await;
    assert!(log.text().contains("speaks https"), "{}", log.text());
    let ca = first.folder.path().join("tls/ca.pem");
    assert!(log.text().contains(&ca.display().to_string()), "{}", log.text());

    let again = Running::start(&first.org.url(), |config| {
        let directory = first.folder.path().join("tls");
        config.listeners[0].tls = Some(ListenerTls::Generated { directory });
    })
    .await;
    assert_eq!(served(&shake(again.proxy, &ca, &[]).await.unwrap()), certificate);
    assert!(!log.text().contains("apps have to load"), "{}", log.text());
    again.stop().await;

    // Another name: another certificate, of another authority.
    let more = Running::start(&first.org.url(), |config| {
        let directory = first.folder.path().join("tls");
        config.listeners[0].tls = Some(ListenerTls::Generated { directory });
        config.listeners[0].hosts = vec!["sf.internal".into()];
    })
    .await;
    assert!(log.text().contains("apps have to load ca.pem again"), "{}", log.text());
    assert!(log.text().contains("does not name sf.internal"), "{}", log.text());
    assert_ne!(served(&shake(more.proxy, &ca, &[]).await.unwrap()), certificate);
    more.stop().await;
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_lets_a_call_finish() {
    let (arrived, goes_on) = (Arc::new(Notify::new()), Duration::from_millis(600));
    let told = Arc::clone(&arrived);
    let slow = move |request: &crate::support::RawRequest| match request.target().contains("/slow") {
        true => {
            told.notify_one();
            Script::Slowly(vec![(
                goes_on,
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            )])
        }
        false => Script::ok(),
    };
    let site = Site::with(slow, |_| {}).await;
    let mut idle = site.shake(&[]).await;
    assert_eq!(ask(&mut idle).await.status, 200);
    let mut half = connect(site.app.proxy).await;
    half.write_all(&[22]).await.unwrap();
    let mut busy = site.shake(&[]).await;
    busy.write_all(LIMITS.replace("/limits", "/slow").as_bytes())
        .await
        .unwrap();
    arrived.notified().await;
    site.app.stop.drain_now();
    let began = Instant::now();
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "closed, and said so");
    let _ = half.read_to_end(&mut Vec::new()).await;
    assert!(began.elapsed() < goes_on / 2, "{:?}", began.elapsed());
    let reply = read_reply(&mut busy, false).await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    assert_eq!(busy.read(&mut [0]).await.unwrap(), 0);
    site.app.stop().await;
}

// Certificates of others

/// A certificate for these names that ends after `days` (may be negative), and its key, in files.
fn given(folder: &Path, names: &[&str], days: i64) -> (PathBuf, PathBuf) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    let now = sf_token_proxy::clock::Clock::system().now();
    let day = |n: i64| Duration::from_secs(n.unsigned_abs() * 24 * 3600);
    params.not_before = (now - day(100)).into();
    params.not_after = if days < 0 { now - day(days) } else { now + day(days) }.into();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let paths = (folder.join("crt.pem"), folder.join("key.pem"));
    std::fs::write(&paths.0, certificate.pem()).unwrap();
    std::fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

#[tokio::test]
async fn a_given_certificate_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = given(folder.path(), &["localhost"], 60);
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| {
        let certificate = certificate.clone();
        config.listeners[0].tls = Some(ListenerTls::Files { certificate, key });
    })
    .await;
    assert_eq!(
        ask(&mut shake(app.proxy, &certificate, &[]).await.unwrap())
            .await
            .status,
        200
    );
    app.stop().await;
}

#[tokio::test]
async fn a_certificate_that_no_client_would_take_ends_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let strange = tempfile::tempdir().unwrap();
    let start = async |certificate: PathBuf, key: PathBuf| {
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        let mut config = settings_for("http://127.0.0.1:1", secret);
        config.listeners[0].tls = Some(ListenerTls::Files { certificate, key });
        match App::bind(config).await {
            Ok(_) => panic!("it starts"),
            Err(error) => error.to_string(),
        }
    };
    let (certificate, key) = given(folder.path(), &["localhost"], -1);
    let text = start(certificate, key).await;
    assert!(
        text.starts_with("listeners[0].tls.certificate_file: cannot use "),
        "{text}"
    );
    assert!(text.contains("expired at 20"), "{text}");
    let (certificate, _) = given(folder.path(), &["localhost"], 60);
    let (_, key) = given(strange.path(), &["localhost"], 60);
    let text = start(certificate, key).await;
    assert!(text.starts_with("listeners[0].tls.key_file: cannot use "), "{text}");
    assert!(
        text.contains("the key does not belong to the first certificate"),
        "{text}"
    );
}

fn check(folder: &Path, listener: &str) -> (i32, String, String) {
    std::fs::write(folder.join("secret"), "x").unwrap();
    let yaml = format!(
        "listeners: [{listener}]\norgs: {{main: {{login_url: 'https://acme.my.salesforce.com', grant: {{client_credentials: \
         {{client_id: id, client_secret: 'file:{}'}}}}}}}}\n",
        folder.join("secret").display()
    );
    std::fs::write(folder.join("c.yaml"), yaml).unwrap();
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_sf-token-proxy"))
        .env_clear()
        .args(["check", "--config"])
        .arg(folder.join("c.yaml"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn check_tells_what_is_wrong_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (certificate, key) = given(at, &["localhost"], 5);
    let files = |more: &str| {
        format!(
            "{{tls: {{certificate_file: '{}', key_file: '{}'}}{more}}}",
            certificate.display(),
            key.display()
        )
    };
    let (code, out, err) = check(at, &files(", hosts: [sf.internal]"));
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains(&format!("certificate_file: \"{}\"", certificate.display())),
        "{out}"
    );
    assert!(
        err.contains("warning: listeners[0].tls.certificate_file: it expires at "),
        "{err}"
    );
    assert!(err.contains("it does not name sf.internal"), "{err}");
    given(at, &["localhost"], -5);
    let (code, _, err) = check(at, &files(""));
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("listeners[0].tls.certificate_file: cannot use "), "{err}");
    std::fs::remove_file(&certificate).unwrap();
    std::fs::write(&key, "").unwrap();
    let (code, _, err) = check(at, &files(""));
    assert_eq!((code, err.lines().count()), (78, 2), "{err}");

    let directory = at.join("made");
    let generated = format!("{{tls: {{generate_in: '{}'}}}}", directory.display());
    let (code, out, err) = check(at, &generated);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.contains(&format!("generate_in: \"{}\"", directory.display())),
        "{out}"
    );
    assert!(!directory.exists(), "check makes nothing");
    std::fs::write(&directory, "").unwrap();
    assert_eq!(check(at, &generated).0, 78);
}

#[cfg(unix)]
#[test]
fn a_folder_that_others_may_write_to_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, _, err) = check(
        folder.path(),
        &format!("{{tls: {{generate_in: '{}'}}}}", shared.display()),
    );
    assert_eq!(code, 0, "{err}");
    assert!(
        err.contains("warning: listeners[0].tls.generate_in: other users may write to "),
        "{err}"
    );
}

// Clients of others

/// Python as strict as 3.13 is by default: every rule of RFC 5280.
const PYTHON: &str = r#"
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
for host in ["localhost", "127.0.0.1"]:
    with urllib.request.urlopen(f"https://{host}:{sys.argv[2]}/services/data/v60.0/limits", context=context) as answer:
        print(answer.status, answer.read().decode())
"#;

#[tokio::test]
async fn curl_and_a_strict_python_take_the_certificate() {
    let site = Site::new(|_| {}).await;
    let (ca, port) = (site.ca(), site.app.proxy.port().to_string());
    let run = async |program: &'static str, args: Vec<String>| {
        let output = tokio::process::Command::new(program).args(args).output().await.unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let ca = ca.display().to_string();
    for (more, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let said = run(
            "curl",
            ["-sS", more, "--noproxy", "*", "--cacert", &ca, "-w", " %{http_version}"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("https://localhost:{port}/services/data/v60.0/limits")])
                .collect(),
        )
        .await;
        assert_eq!(said, format!("{{\"ok\":true}} {version}"));
    }
    let said = run("python3", vec!["-c".into(), PYTHON.into(), ca, port]).await;
    assert_eq!(said, "200 {\"ok\":true}\n200 {\"ok\":true}\n");
    site.app.stop().await;
}
