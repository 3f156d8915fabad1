//! Out through a company's proxy: HTTPS_PROXY for logins and calls, NO_PROXY and loopback past it.

use std::sync::{Arc, Mutex};

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sf_token_proxy::config::EgressProxy;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{RawOrg, Running, Script, call, raw_org::read_until};

const ORG: &str = "acme.my.salesforce.com";

/// A proxy that takes `CONNECT` and speaks for the org itself, with a certificate for it.
struct EgressHost {
    address: std::net::SocketAddr,
    ca_pem: String,
    seen: Arc<Mutex<Vec<String>>>,
    _serving: JoinSet<()>,
}

impl EgressHost {
    async fn start(answer: &'static [u8]) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![ORG.to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let tls = rustls::ServerConfig::builder_with_provider(sf_token_proxy::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let log = Arc::clone(&seen);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(tunnel(stream, acceptor.clone(), answer, Arc::clone(&log)));
            }
        });
        Self {
            address,
            ca_pem: made.cert.pem(),
            seen,
            _serving: serving,
        }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn tunnel(mut stream: TcpStream, acceptor: TlsAcceptor, answer: &'static [u8], seen: Arc<Mutex<Vec<String>>>) {
    let mut buffer = Vec::new();
    let head = read_until(&mut stream, &mut buffer, b"\r\n\r\n").await.unwrap();
    seen.lock().unwrap().push(String::from_utf8(head).unwrap());
    stream
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .unwrap();
    let Ok(mut tls) = acceptor.accept(stream).await else {
        return;
    };
    let mut buffer = Vec::new();
    while read_until(&mut tls, &mut buffer, b"\r\n\r\n").await.is_some() {
        if tls.write_all(answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn calls_leave_through_the_proxy_that_the_environment_names() {
    let egress = EgressHost::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, &egress.ca_pem).unwrap();
    // the login host is on loopback, where no egress proxy leads
    let login = RawOrg::start(|_| panic!("calls go elsewhere")).await;
    let app = Running::start(&login.url(), |config| {
        config.orgs.values_mut().next().unwrap().instance_url = Some(format!("https://{ORG}").parse().unwrap());
        config.upstream.ca_file = Some(ca_file);
        config.upstream.proxy = EgressProxy {
            https: Some(format!("http://user:CANARY-proxy-password@{}", egress.address)),
            no_proxy: Some("other.example".into()),
        };
    })
    .await;
    for _ in 0..3 {
        let reply = call(app.proxy, "GET /services/data/v60.0/limits HTTP/1.1", b"").await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
    }
    let seen = egress.seen();
    assert_eq!(seen.len(), 1, "the tunnel is kept: {seen:?}");
    assert!(
        seen[0].starts_with(&format!("CONNECT {ORG}:443 HTTP/1.1\r\n")),
        "{}",
        seen[0]
    );
    assert!(
        seen[0].to_lowercase().contains("proxy-authorization: basic"),
        "{}",
        seen[0]
    );
    assert!(!seen[0].contains("Bearer"), "the token is for the org alone");
    assert_eq!(login.logins(), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_and_its_password_is_not() {
    let refusing = RawOrg::start(|_| Script::json("403 Forbidden", "no")).await;
    let login = RawOrg::start(|_| panic!("calls go elsewhere")).await;
    let app = Running::start(&login.url(), |config| {
        config.orgs.values_mut().next().unwrap().instance_url = Some(format!("https://{ORG}").parse().unwrap());
        config.upstream.proxy.https = Some(refusing.url().replace("http://", "http://user:CANARY-proxy-password@"));
    })
    .await;
    let reply = call(app.proxy, "GET /services/data/v60.0/limits HTTP/1.1", b"").await;
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert!(reply.text().contains("SFPROXY_ORG_UNREACHABLE"), "{}", reply.text());
    assert!(!reply.text().contains("CANARY"), "{}", reply.text());
    app.stop().await;
}
