//! Changes that meet something else: a bad file beside a good one, a budget, a second stage; and that nothing secret is told of them.

use std::{fs, path::Path};

use serde_json::{Value, json};
use sf_token_proxy::{
    demo::{Org, Settings, Summary},
    reload::Outcome,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    data_cloud::{by_key, file, query},
    reload::{Changing, org, problem},
    site::soon,
    support::{RawOrg, Trace, call, client::ask, connect, read_reply},
    tls, users,
};

/// A certificate for `localhost` that is its own authority; a listener's settings with it.
fn certificate(folder: &Path) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap();
    fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    json!({"certificate_file": folder.join("tls.crt"), "key_file": folder.join("tls.key")})
}

#[tokio::test]
async fn a_certificate_that_is_rotated_beside_a_bad_file_counts_once_the_file_is_good() {
    let org = org().await;
    let folder = tempfile::tempdir().unwrap();
    let of_listener = certificate(folder.path());
    let mut this = Changing::start_with(&org, |config| config["listeners"][0]["tls"] = of_listener).await;
    let trusted = folder.path().join("tls.crt");
    let mut old = tls::shake(this.app.proxy, &trusted, &[]).await.unwrap();
    assert_eq!(tls::ask(&mut old).await.status, 200);
    let good = this.config.to_string();
    certificate(folder.path());
    this.write("config.yaml", &good.replace("\"reload\"", "\"reloads\""));
    assert!(problem(this.look().await).contains("reloads: unknown key"));
    assert!(
        tls::shake(this.app.proxy, &trusted, &[]).await.is_err(),
        "the old one goes on, whole"
    );
    // The bad file is looked at once more, and then it is what it was before.
    assert!(problem(this.look().await).contains("reloads: unknown key"));
    assert_eq!(this.change(|_| {}).await, Outcome::Taken);
    let mut new = tls::shake(this.app.proxy, &trusted, &[])
        .await
        .expect("the new certificate");
    assert_eq!(tls::ask(&mut new).await.status, 200);
    // A connection of before goes on.
    assert_eq!(tls::ask(&mut old).await.status, 200);
    this.app.stop().await;
}

const A: &str = "127.0.0.1:0";
const B: &str = "127.0.0.2:0";

async fn plain(address: std::net::SocketAddr) -> u16 {
    call(address, "GET /services/data/v60.0/ HTTP/1.1", b"").await.status
}

#[tokio::test]
async fn tls_goes_with_its_setting_also_when_addresses_move() {
    let org = org().await;
    let folder = tempfile::tempdir().unwrap();
    let tls = certificate(folder.path());
    // Before and after; every address speaks plain http in the end.
    for (before, after) in [
        (json!([{"address": A, "tls": tls}]), json!([{"address": [A, B]}])),
        (
            json!([{"address": A, "tls": tls}, {"address": B}]),
            json!([{"address": [A, B]}]),
        ),
        (
            json!([{"address": [A, B], "tls": tls}]),
            json!([{"address": B}, {"address": A}]),
        ),
    ] {
        let mut this = Changing::start_with(&org, |config| config["listeners"] = before.clone()).await;
        let taken = this.change(|config| config["listeners"] = after.clone()).await;
        assert_eq!(taken, Outcome::Taken, "{before}");
        for address in this.app.status().await["listeners"].as_array().unwrap() {
            assert_eq!(address["tls"], false);
            for address in address["addresses"].as_array().unwrap() {
                let address = address.as_str().unwrap().parse().unwrap();
                assert_eq!(plain(address).await, 200, "{before} {address}");
            }
        }
        this.app.stop().await;
    }
}

#[tokio::test]
async fn a_listener_that_is_cut_in_two_has_two_limits() {
    let org = org().await;
    let one = json!([{"address": [A, B], "max_connections": 1}]);
    let mut this = Changing::start_with(&org, |config| config["listeners"] = one).await;
    let two = json!([{"address": A, "max_connections": 1}, {"address": B, "max_connections": 1}]);
    assert_eq!(this.change(|config| config["listeners"] = two).await, Outcome::Taken);
    let listeners = this.app.status().await["listeners"].clone();
    let [first, second] = [0, 1].map(|n| listeners[n]["addresses"][0].as_str().unwrap().parse().unwrap());
    let mut idle = connect(first).await;
    assert_eq!(ask(&mut idle, "GET /services/data/ HTTP/1.1").await.status, 200);
    assert_eq!(soon(plain(second)).await, 200);
    this.app.stop().await;
}

/// Whoever is in the queue when limits change must not go on waiting for somebody of before, who may stay for hours.
#[tokio::test]
async fn a_caller_in_the_queue_is_served_when_the_limit_is_raised() {
    let org = org().await;
    let one = json!([{"address": A, "max_connections": 1}]);
    let mut this = Changing::start_with(&org, |config| config["listeners"] = one).await;
    let address = this.app.proxy;
    let mut stays = connect(address).await;
    assert_eq!(ask(&mut stays, "GET /services/data/ HTTP/1.1").await.status, 200);
    let mut waits = connect(address).await;
    waits
        .write_all(b"GET /services/data/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let queued = tokio::time::timeout(std::time::Duration::from_millis(300), waits.read_u8()).await;
    assert!(queued.is_err(), "there is one place");
    let more = json!([{"address": A, "max_connections": 10}]);
    assert_eq!(this.change(|config| config["listeners"] = more).await, Outcome::Taken);
    assert_eq!(soon(read_reply(&mut waits, false)).await.unwrap().status, 200);
    assert_eq!(soon(plain(address)).await, 200);
    this.app.stop().await;
}

#[tokio::test]
async fn users_get_no_new_logins_by_a_reload() {
    let org = users::org().await;
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let config = json!({
        "listeners": [{"address": "127.0.0.1:0", "users": {
            "allow": ["*@acme.example"], "login_budget": {"burst": 2, "per_minute": 1},
        }}],
        "admin": {"address": "127.0.0.1:0"},
        "reload": {"interval": "0s"},
        "orgs": {"main": {"login_url": org.url(), "token": {"refresh_wait": "200ms"}, "grant": {"jwt_bearer": {
            "client_id": "app", "username": "own@acme.example", "private_key": file(&folder.path().join("key.pem")),
        }}}},
    });
    let mut this = Changing::begin(folder, config).await;
    assert_eq!(users::whose(&this.app, Some("anna@acme.example")).await.0, 200);
    for extra in ["/one/", "/two/"] {
        let taken = this
            .change(|config| config["listeners"][0]["extra_paths"] = json!([extra]))
            .await;
        assert_eq!(taken, Outcome::Taken);
        assert_eq!(users::whose(&this.app, Some("anna@acme.example")).await.0, 200);
    }
    assert_eq!(users::whose(&this.app, Some("ben@acme.example")).await.0, 200);
    for extra in ["/three/", "/four/"] {
        let taken = this
            .change(|config| config["listeners"][0]["extra_paths"] = json!([extra]))
            .await;
        assert_eq!(taken, Outcome::Taken);
        let (status, body) = users::whose(&this.app, Some("carl@acme.example")).await;
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("budget"), "{body}");
    }
    // With an address more it is the same listener.
    let taken = this
        .change(|config| config["listeners"][0]["address"] = json!("localhost:0"))
        .await;
    assert_eq!(taken, Outcome::Taken);
    assert_eq!(users::whose(&this.app, Some("carl@acme.example")).await.0, 503);
    assert_eq!(users::whose(&this.app, Some("anna@acme.example")).await.0, 200);
    let tokens: Vec<_> = org
        .seen()
        .into_iter()
        .filter(|r| r.target().ends_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 3, "own, anna, ben");
    this.app.stop().await;
}

async fn practice() -> (Org, Summary) {
    let mut org = Org::start(Settings::practice().unwrap()).await.unwrap();
    let files = org.write_files(None).unwrap();
    (org, files)
}

fn with_data_cloud(files: &Summary) -> Value {
    json!({"login_url": files.login_url, "grant": by_key(files), "data_cloud": {"dataspace": "default"}})
}

#[tokio::test]
async fn data_cloud_follows_an_identity_that_was_changed() {
    let ((first, of_first), (second, of_second)) = (practice().await, practice().await);
    let folder = tempfile::tempdir().unwrap();
    let both = [&of_first, &of_second].map(|files| fs::read_to_string(&files.ca_file).unwrap());
    fs::write(folder.path().join("ca.pem"), both.concat()).unwrap();
    let config = json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "reload": {"interval": "0s"},
        "orgs": {"main": with_data_cloud(&of_first)},
        "upstream": {"ca_file": folder.path().join("ca.pem")},
    });
    let mut this = Changing::begin(folder, config).await;
    assert_eq!(query(this.app.proxy).await.status, 200);
    let before = first.stats();
    assert_eq!(
        this.change(|config| config["orgs"]["main"] = with_data_cloud(&of_second))
            .await,
        Outcome::Taken
    );
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while second.stats().tenant_requests == 0 {
        assert_eq!(query(this.app.proxy).await.status, 200);
        assert!(
            tokio::time::Instant::now() < deadline,
            "calls still go to the org before"
        );
    }
    // From then on all of them do, and both of its tokens are there.
    let calls = first.stats().tenant_requests;
    for _ in 0..5 {
        assert_eq!(query(this.app.proxy).await.status, 200);
    }
    let after = first.stats();
    assert_eq!(after.tenant_requests, calls);
    assert_eq!(after.logins, before.logins, "the org before sees no login");
    this.app.stop().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn nothing_secret_is_told_of_a_change() {
    const CANARY: &str = "CANARY-reload-5e1f";
    let trace = Trace::start();
    let org = RawOrg::start(|_| crate::support::Script::ok()).await;
    let mut this = Changing::start(&org).await;
    let folder = this.app.folder().to_owned();
    let mut told = String::new();
    // A good one, an empty one, one with a line break within, one that is no text.
    for secret in [
        CANARY.to_owned(),
        String::new(),
        format!("{CANARY}\n{CANARY}"),
        format!("{CANARY}\u{0}"),
    ] {
        this.write("secret", &secret);
        told += &format!("{:?}", this.look().await);
    }
    this.write("secret", CANARY);
    told += &format!("{:?}", this.look().await);
    // Written into the file itself, in every place where somebody might; a file of text that is none; a key that is none.
    this.write(
        "key.pem",
        &format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"),
    );
    let inline = [
        json!({"client_credentials": {"client_id": "id", "client_secret": CANARY}}),
        json!({"client_credentials": {"client_id": "id", "client_secret": {"inline": CANARY}}}),
        json!({"client_credentials": {"client_id": "id", "client_secret": format!("file:{}", folder.join("secret").display()), "secret": CANARY}}),
        json!({"jwt_bearer": {"client_id": "id", "username": "u@acme.example", "private_key": file(&folder.join("key.pem"))}}),
        json!({"jwt_bearer": {"client_id": "id", "username": "u@acme.example", "private_key": CANARY}}),
        json!(CANARY),
    ];
    for grant in inline {
        let outcome = this
            .change(|config| config["orgs"]["main"]["grant"] = grant.clone())
            .await;
        assert!(matches!(outcome, Outcome::Refused(_)), "{grant}: {outcome:?}");
        told += &format!("{outcome:?}");
        told += &this.app.status().await.to_string();
        told += &call(this.app.admin, "GET /metrics HTTP/1.1", b"").await.text();
    }
    this.write("config.yaml", &format!("orgs: [\n  client_secret: {CANARY}\n"));
    told += &format!("{:?}", this.look().await);
    told += &this.app.status().await.to_string();
    this.app.stop().await;
    told += &trace.text();
    assert!(told.contains("is no good"), "nothing was told");
    assert!(
        !told.contains(CANARY),
        "{}",
        told.lines().filter(|line| line.contains(CANARY)).collect::<String>()
    );
}
