//! Logins that SDKs insist on: answered on the listener, leading back to it, and nothing of them goes further.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use sf_token_proxy::config::ListenerTls;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::support::{RawOrg, RawRequest, Reply, Running, Script, Trace, call, connect, eventually, read_reply};

const PARTNER: &str = "urn:partner.soap.sforce.com";
const ENTERPRISE: &str = "urn:enterprise.soap.sforce.com";
/// What the scripted org's tokens are; a number follows.
const TOKEN: &str = "00Dxx0000001gER!token_";

async fn org_and_app() -> (RawOrg, Running) {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    (org, app)
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {} {}", reply.head, reply.text()))
}

/// The text of the first element of this name.
fn word(text: &str, name: &str) -> String {
    let (_, rest) = text
        .split_once(&format!("<{name}>"))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    rest.split('<').next().unwrap().to_owned()
}

/// Exactly these bytes as the call's head, but for its line ends.
async fn send(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), lines: &str, body: &[u8]) -> Reply {
    let head = format!("{lines}\nContent-Length: {}\n\n", body.len()).replace('\n', "\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    read_reply(stream, false).await.expect("an answer")
}

/// The answer is ours, tells that it is, and is kept by nobody.
#[track_caller]
fn assert_ours(reply: &Reply) {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(
        reply.header("proxy-status").join(" ").contains("local_login"),
        "{}",
        reply.head
    );
    assert_eq!(reply.header("cache-control"), ["no-store"]);
}

/// An answer of the token endpoint, as jsforce and @salesforce/core look at it.
#[track_caller]
fn assert_token(reply: &Reply, base: &str) -> String {
    assert_ours(reply);
    let fields = body(reply);
    assert_eq!(fields["instance_url"], base);
    assert_eq!(fields["id"], format!("{base}/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS"));
    assert_eq!(fields["token_type"], "Bearer");
    let session = fields["access_token"].as_str().unwrap();
    assert!(
        session.starts_with("00Dxx0000001gER!") && !session.contains("token_"),
        "{session}"
    );
    session.to_owned()
}

fn login(prefixes: bool, namespace: &str, operation: &str) -> String {
    let content = "<{p}username>CANARY-user@acme.example</{p}username><{p}password>CANARY-password</{p}password>";
    let (envelope, xmlns, p) = match prefixes {
        true => ("soapenv:", format!("xmlns:urn=\"{namespace}\""), "urn:"),
        false => ("", format!("xmlns:unused=\"{namespace}\""), ""),
    };
    let (soap, default) = match prefixes {
        true => ("xmlns:soapenv", String::new()),
        false => ("xmlns", format!(" xmlns=\"{namespace}\"")),
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><{envelope}Envelope {soap}=\"http://schemas.xmlsoap.org/soap/envelope/\" {xmlns}>\
         <{envelope}Header/><{envelope}Body><{p}{operation}{default}>{}</{p}{operation}></{envelope}Body></{envelope}Envelope>",
        content.replace("{p}", p)
    )
}

async fn post(proxy: SocketAddr, target: &str, kind: &str, body: &[u8]) -> Reply {
    let lines = format!(
        "POST {target} HTTP/1.1\nContent-Type: {kind}\nSOAPAction: \"\"\nAuthorization: Basic CANARY\nContent-Length: {}",
        body.len()
    );
    call(proxy, &lines, body).await
}

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn any_grant_gets_a_placeholder() {
    let (org, app) = org_and_app().await;
    let token = "/services/oauth2/token";
    for (target, form, has_refresh) in [
        (token, "grant_type=password&username=CANARY&password=CANARY", false),
        (token, "grant_type=client_credentials&client_secret=CANARY", false),
        (
            token,
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=CANARY",
            false,
        ),
        (token, "grant_type=refresh_token&refresh_token=CANARY", false),
        (token, "code=CANARY&grant_type=authorization_code", true),
        (token, "", false),
        ("//services/oauth2/token", "grant_type=password", false),
        ("/services/oauth2/token?grant_type=password&password=CANARY", "", false),
        (
            "/services/oauth2/token?grant_type=authorization_code&code=CANARY",
            "",
            true,
        ),
    ] {
        let reply = post(app.proxy, target, FORM, form.as_bytes()).await;
        assert_token(&reply, "http://localhost");
        assert_eq!(
            body(&reply)["refresh_token"].is_string(),
            has_refresh,
            "{target} {form}"
        );
    }
    // Longer than what is looked at.
    let long = format!("assertion={}", "CANARY".repeat(50_000));
    assert_token(&post(app.proxy, token, FORM, long.as_bytes()).await, "http://localhost");
    let gone = post(app.proxy, "/services/oauth2/revoke?token=CANARY", FORM, b"token=CANARY").await;
    assert_ours(&gone);
    assert_eq!(gone.text(), "");
    // The Data Cloud exchange is served only where it is set up.
    assert_eq!(post(app.proxy, "/services/a360/token", FORM, b"").await.status, 403);
    assert!(org.seen().is_empty(), "the org heard of it");
    assert_eq!(org.logins(), 1, "the proxy's own");
    let series = "sf_token_proxy_requests_total{code=\"200\",method=\"POST\",org=\"main\",outcome=\"ok\",surface=\"local_login\"}";
    assert_eq!(app.metric(series).await, 11.0);
    app.stop().await;
}

#[tokio::test]
async fn soap_logins_are_answered_in_their_namespace() {
    let (org, app) = org_and_app().await;
    for (path, namespace, kind) in [
        ("/services/Soap/u/60.0", PARTNER, "u/60.0"),
        ("//services/Soap/u/v59.0/00Dxx0000001gER", PARTNER, "u/v59.0"),
        ("/services/Soap/c/60.0", ENTERPRISE, "c/60.0"),
        // Misspelt: the org could only say no, and would have the password.
        ("/services/Soap/u/60.0", "urn:partner.soap.salesforce.example", "u/60.0"),
    ] {
        for prefixes in [true, false] {
            let envelope = login(prefixes, namespace, "login");
            let reply = post(app.proxy, path, "text/xml; charset=UTF-8", envelope.as_bytes()).await;
            assert_ours(&reply);
            let text = reply.text();
            assert!(text.contains(&format!("xmlns=\"{namespace}\"")), "{text}");
            assert_eq!(
                word(&text, "serverUrl"),
                format!("http://localhost/services/Soap/{kind}/00Dxx0000001gER")
            );
            assert_eq!(word(&text, "userId"), "005xx000001Sv6DAAS");
            assert!(word(&text, "sessionId").starts_with("00Dxx0000001gER!"));
            assert!(!text.contains("CANARY") && !text.contains("token_1"), "{text}");
            let envelope = login(prefixes, namespace, "logout");
            let reply = post(app.proxy, path, "text/xml", envelope.as_bytes()).await;
            assert_ours(&reply);
            assert!(reply.text().contains("<logoutResponse/>"), "{}", reply.text());
        }
    }
    // Without any namespace it is the path's.
    let bare = login(false, "", "login");
    let reply = post(app.proxy, "/services/Soap/u/60.0", "text/xml", bare.as_bytes()).await;
    assert!(
        reply.text().contains(&format!("xmlns=\"{PARTNER}\"")),
        "{}",
        reply.text()
    );
    assert!(org.seen().is_empty());
    assert_eq!(org.logins(), 1);

    // A class of the org's own may have an operation of that name, which is a call like any other.
    let own = login(true, "http://soap.sforce.com/schemas/class/Door", "login");
    let reply = post(app.proxy, "/services/Soap/class/Door", "text/xml", own.as_bytes()).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, r#"{"ok":true}"#));
    let sent = String::from_utf8(org.seen()[0].body.clone()).unwrap();
    assert!(
        sent.contains("CANARY-password") && sent.contains(&format!("{TOKEN}1")),
        "{sent}"
    );
    app.stop().await;
}

/// The answer leads back to the address that the client used, by the name it used.
#[tokio::test]
async fn answers_lead_back_to_the_address_that_was_called() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| {
        config.listeners[0].hosts = vec!["sf.internal".into()];
    })
    .await;
    let mut stream = connect(app.proxy).await;
    for host in [
        "localhost:8080",
        "127.0.0.1:1",
        "[::1]:9",
        "sf.internal",
        "SF.internal:80",
    ] {
        let lines = format!("POST /services/oauth2/token HTTP/1.1\nHost: {host}");
        let reply = send(&mut stream, &lines, b"grant_type=password").await;
        assert_token(&reply, &format!("http://{host}"));
        let lines = format!("POST /services/Soap/u/60.0 HTTP/1.1\nHost: {host}");
        let text = send(&mut stream, &lines, login(true, PARTNER, "login").as_bytes())
            .await
            .text();
        for url in ["serverUrl", "metadataServerUrl"] {
            assert!(
                word(&text, url).starts_with(&format!("http://{host}/services/Soap/")),
                "{text}"
            );
        }
    }
    let lines = format!(
        "POST http://{}/services/oauth2/token HTTP/1.1\nHost: {}",
        app.proxy, app.proxy
    );
    assert_token(&send(&mut stream, &lines, b"").await, &format!("http://{}", app.proxy));

    // HTTP/2 has its authority.
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(connect(app.proxy).await))
        .await
        .unwrap();
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(connection);
    let request = Request::post("http://sf.internal:8080/services/oauth2/token").body(Full::<Bytes>::default());
    let reply = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(reply.status(), 200);
    let fields: Value = serde_json::from_slice(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(fields["instance_url"], "http://sf.internal:8080");
    drop(client);
    app.stop().await;
}

#[tokio::test]
async fn over_tls_they_lead_back_by_https() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("tls");
    let at = directory.clone();
    let app = Running::start(&org.url(), |config| {
        config.listeners[0].tls = Some(ListenerTls::Generated { directory });
    })
    .await;
    let mut stream = crate::tls::shake(app.proxy, &at.join("ca.pem"), &[]).await.unwrap();
    let base = format!("https://localhost:{}", app.proxy.port());
    let lines = format!(
        "POST /services/oauth2/token HTTP/1.1\nHost: localhost:{}",
        app.proxy.port()
    );
    assert_token(&send(&mut stream, &lines, b"").await, &base);
    let lines = lines.replace("oauth2/token", "Soap/c/60.0");
    let text = send(&mut stream, &lines, login(true, ENTERPRISE, "login").as_bytes())
        .await
        .text();
    assert_eq!(
        word(&text, "serverUrl"),
        format!("{base}/services/Soap/c/60.0/00Dxx0000001gER")
    );
    app.stop().await;
}

/// What a client does after its login: the placeholder is no credential, wherever it comes back.
#[tokio::test]
async fn the_placeholder_is_replaced_wherever_it_comes_back() {
    let (org, app) = org_and_app().await;
    let session = assert_token(
        &post(app.proxy, "/services/oauth2/token", FORM, b"").await,
        "http://localhost",
    );
    let rest = format!("GET /services/data/v60.0/limits HTTP/1.1\nAuthorization: Bearer {session}");
    let bulk = format!("GET /services/async/60.0/job/750 HTTP/1.1\nX-SFDC-Session: {session}");
    for lines in [rest, bulk] {
        assert_eq!(call(app.proxy, &lines, b"").await.status, 200);
    }
    let text = post(
        app.proxy,
        "/services/Soap/u/60.0",
        "text/xml",
        login(true, PARTNER, "login").as_bytes(),
    )
    .await
    .text();
    let (server, session) = (word(&text, "serverUrl"), word(&text, "sessionId"));
    let query = crate::soap::envelope("<query><queryString>SELECT Id FROM Account</queryString></query>")
        .replace("00DCANARY!app.session", &session);
    let path = server.strip_prefix("http://localhost").unwrap();
    assert_eq!(post(app.proxy, path, "text/xml", query.as_bytes()).await.status, 200);
    let seen = org.seen();
    assert_eq!(seen[0].token(), format!("Bearer {TOKEN}1"));
    assert_eq!(seen[1].header("x-sfdc-session"), [format!("{TOKEN}1")]);
    let sent = String::from_utf8(seen[2].body.clone()).unwrap();
    assert_eq!(sent, query.replace(&session, &format!("{TOKEN}1")));
    assert!(seen.iter().all(|request| !request.head.contains("placeholder")));
    app.stop().await;
}

#[tokio::test]
async fn where_logins_are_not_served_they_are_refused() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| config.listeners[0].local_login = false).await;
    for target in ["/services/oauth2/token", "//services/oauth2/revoke"] {
        let reply = post(app.proxy, target, FORM, b"grant_type=password&password=CANARY").await;
        assert_eq!(reply.status, 403);
        let fields = body(&reply);
        assert_eq!(fields["error"], "SFPROXY_LOGIN_NOT_SERVED");
        let advice = fields["error_description"].as_str().unwrap();
        assert!(advice.contains("listeners[].local_login"), "{advice}");
    }
    for operation in ["login", "logout"] {
        let reply = post(
            app.proxy,
            "/services/Soap/u/60.0",
            "text/xml",
            login(true, PARTNER, operation).as_bytes(),
        )
        .await;
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("content-type"), ["text/xml;charset=UTF-8"]);
        assert_eq!(word(&reply.text(), "faultcode"), "sfproxy:SFPROXY_LOGIN_NOT_SERVED");
        assert!(!reply.text().contains("CANARY"));
    }
    assert!(org.seen().is_empty());
    let refusals = "sf_token_proxy_guard_refusals_total{reason=\"login_not_served\"}";
    assert_eq!(app.metric(refusals).await, 4.0);
    app.stop().await;
}

#[tokio::test]
async fn without_a_token_a_login_fails_with_the_reason_and_a_logout_does_not() {
    let org = RawOrg::start(|_| Script::ok()).await;
    org.refuse_logins(Some((
        "400 Bad Request",
        r#"{"error":"invalid_client_id","error_description":"client identifier invalid"}"#,
    )));
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = post(app.proxy, "/services/oauth2/token", FORM, b"grant_type=password").await;
    assert_eq!(reply.status, 503);
    let fields = body(&reply);
    assert_eq!(fields["error"], "SFPROXY_NO_TOKEN");
    let reason = fields["error_description"].as_str().unwrap();
    assert!(reason.contains("client identifier invalid"), "{reason}");
    assert_eq!(reply.header("retry-after").len(), 1);
    let soap = "/services/Soap/u/60.0";
    let reply = post(app.proxy, soap, "text/xml", login(true, PARTNER, "login").as_bytes()).await;
    assert_eq!(reply.status, 503);
    let text = reply.text();
    assert_eq!(word(&text, "faultcode"), "sfproxy:SFPROXY_NO_TOKEN");
    assert!(
        word(&text, "faultstring").contains("client identifier invalid"),
        "{text}"
    );
    // Who leaves needs none.
    assert_ours(&post(app.proxy, soap, "text/xml", login(true, PARTNER, "logout").as_bytes()).await);
    assert_ours(&post(app.proxy, "/services/oauth2/revoke", FORM, b"token=x").await);
    // It counts as a login, whatever the shape.
    let series = "sf_token_proxy_requests_total{code=\"503\",method=\"POST\",org=\"main\",outcome=\"token_error\",surface=\"local_login\"}";
    assert_eq!(app.metric(series).await, 2.0);
    app.stop().await;
}

/// A token without the scope for it: its owner is known from the login.
#[tokio::test]
async fn userinfo_is_answered_here_if_the_org_will_not() {
    // The token lives: the API takes it.
    let missing = |request: &RawRequest| match request.target().starts_with("/services/data/") {
        true => Script::ok(),
        false => Script::Say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 19\r\n\r\nMissing_OAuth_Token".to_vec()),
    };
    let ask = "GET /services/oauth2/userinfo HTTP/1.1";
    let org = RawOrg::start(missing).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let reply = call(app.proxy, ask, b"").await;
    assert_ours(&reply);
    let fields = body(&reply);
    assert_eq!(fields["user_id"], "005xx000001Sv6DAAS");
    assert_eq!(fields["organization_id"], "00Dxx0000001gEREAY");
    assert_eq!(
        fields["sub"],
        "http://localhost/id/00Dxx0000001gEREAY/005xx000001Sv6DAAS"
    );
    // The token works: nobody logs in for it. The identity's own page is the org's to give.
    assert_eq!(org.logins(), 1);
    let id = "GET /id/00Dxx0000001gEREAY/005xx000001Sv6DAAS HTTP/1.1";
    assert_eq!(call(app.proxy, id, b"").await.text(), "Missing_OAuth_Token");
    app.stop().await;

    // Off, or nobody said whose token it is: the org's answer.
    for known in [true, false] {
        let org = RawOrg::start(missing).await;
        if !known {
            let body = json!({"access_token": "opaque", "instance_url": org.url(), "token_type": "Bearer"}).to_string();
            org.next_login(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
        let app = Running::start(&org.url(), |config| config.listeners[0].local_login = !known).await;
        let reply = call(app.proxy, ask, b"").await;
        assert_eq!((reply.status, reply.text().as_str()), (403, "Missing_OAuth_Token"));
        app.stop().await;
    }

    // Bad_OAuth_Token is a dead token first; a renewed one that gets the same is one that may not ask.
    let org = RawOrg::start(|request| match request.target().starts_with("/services/data/") {
        true => Script::ok(),
        false => Script::Say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 15\r\n\r\nBad_OAuth_Token".to_vec()),
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_ours(&call(app.proxy, ask, b"").await);
    // Twice, and the cheapest call.
    assert_eq!((org.seen().len(), org.logins()), (3, 2));
    app.stop().await;
}

/// Whose token it is, the listener's header says; and a stranger gets no login.
#[tokio::test]
async fn a_login_is_the_named_users() {
    let org = crate::users::org().await;
    let app = crate::users::app(&org, json!({"allow": ["*@acme.example"], "required": true})).await;
    let lines = |user: &str| format!("POST /services/oauth2/token HTTP/1.1\nContent-Length: 0\n{user}");
    let own_logins = || {
        org.seen()
            .iter()
            .filter(|request| request.target() == "/services/oauth2/token")
            .count()
    };
    let reply = call(app.proxy, &lines("X-SFPROXY-User: anna@acme.example"), b"").await;
    assert_ours(&reply);
    // Anna's and the org's own, which nobody has waited for yet.
    eventually("both have logged in", own_logins, |logins| *logins == 2).await;
    let before = own_logins();
    for (user, code) in [
        ("X-SFPROXY-User: eve@evil.example", "SFPROXY_USER_NOT_ALLOWED"),
        ("X-Other: 1", "SFPROXY_USER_MISSING"),
    ] {
        let reply = call(app.proxy, &lines(user), b"").await;
        assert_eq!(reply.status, 403);
        assert_eq!(body(&reply)["error"], code);
    }
    assert_eq!(own_logins(), before);
    // The reason is the user's own.
    let reply = call(app.proxy, &lines("X-SFPROXY-User: unknown@acme.example"), b"").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("approved"), "{}", reply.text());
    let soap = format!(
        "POST /services/Soap/u/60.0 HTTP/1.1\nX-SFPROXY-User: unknown@acme.example\nContent-Length: {}",
        login(true, PARTNER, "login").len()
    );
    let reply = call(app.proxy, &soap, login(true, PARTNER, "login").as_bytes()).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(
        word(&reply.text(), "faultstring").contains("approved"),
        "{}",
        reply.text()
    );
    app.stop().await;
}

/// At the loudest level, with a line for each call.
#[tokio::test]
async fn what_the_app_presents_is_written_nowhere() {
    let trace = Trace::start();
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |config| config.log.requests = true).await;
    let mut told = String::new();
    let target = "/services/oauth2/token?grant_type=password&password=CANARY";
    for (target, kind, sent) in [
        (target, FORM, "client_secret=CANARY&assertion=CANARY".to_owned()),
        ("/services/oauth2/revoke?token=CANARY", FORM, "token=CANARY".to_owned()),
        ("/services/Soap/u/60.0", "text/xml", login(true, PARTNER, "login")),
        ("/services/Soap/u/60.0", "text/xml", login(false, PARTNER, "logout")),
        (
            "/services/Soap/u/60.0",
            "text/xml",
            login(false, PARTNER, "login").replace("</login>", "</CANARY>"),
        ),
    ] {
        let reply = post(app.proxy, target, kind, sent.as_bytes()).await;
        told.push_str(&reply.head);
        told.push_str(&reply.text());
    }
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(connect(app.proxy).await))
        .await
        .unwrap();
    let mut connections = tokio::task::JoinSet::new();
    connections.spawn(connection);
    let request =
        Request::post("http://localhost/services/oauth2/token").body(Full::new(Bytes::from("password=CANARY")));
    assert_eq!(client.send_request(request.unwrap()).await.unwrap().status(), 200);
    drop(client);
    told.push_str(&call(app.admin, "GET /metrics HTTP/1.1", b"").await.text());
    app.stop().await;
    let log = trace.text();
    assert!(
        log.contains("sf_token_proxy::access") && log.contains("local_login"),
        "or this proves little"
    );
    told.push_str(&log);
    for secret in ["CANARY", "!token_"] {
        let at = told.find(secret);
        let at = at.map(|at| String::from_utf8_lossy(&told.as_bytes()[at.saturating_sub(300)..]).into_owned());
        assert_eq!(at, None, "{secret}");
    }
    assert!(org.seen().is_empty());
}

#[cfg(feature = "demo")]
mod practice {
    use sf_token_proxy::demo::{Org, Settings};

    use super::*;

    /// As salesforce-cdp-connector logs in: the core, the exchange, then it revokes its core token.
    #[tokio::test]
    async fn data_clouds_own_login_goes_round_in_a_circle() {
        let mut org = Org::start(Settings::practice().unwrap()).await.unwrap();
        let files = org.write_files(None).unwrap();
        let yaml = json!({
            "listeners": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
            "orgs": {"main": {
                "login_url": files.login_url, "grant": crate::data_cloud::by_key(&files), "data_cloud": {"dataspace": "default"},
            }},
            "upstream": {"ca_file": files.ca_file},
        });
        let vars = sf_token_proxy::config::Vars::default();
        let config = sf_token_proxy::config::from_yaml(&yaml.to_string(), "test", &vars).unwrap();
        let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
        let login = post(
            app.proxy,
            "/services/oauth2/token?grant_type=password&password=CANARY",
            FORM,
            b"",
        )
        .await;
        assert_ours(&login);
        let core = body(&login)["access_token"].as_str().unwrap().to_owned();
        let target =
            format!("/services/a360/token?subject_token={core}&grant_type=urn:salesforce:grant-type:external:cdp");
        let exchange = post(app.proxy, &target, FORM, b"").await;
        assert_ours(&exchange);
        assert_eq!(body(&exchange)["instance_url"], "localhost");
        let tenant = body(&exchange)["access_token"].as_str().unwrap().to_owned();
        assert_ours(&post(app.proxy, &format!("/services/oauth2/revoke?token={core}"), FORM, b"").await);
        let sql = r#"{"sql":"SELECT Id FROM Account"}"#;
        let lines = format!(
            "POST /api/v2/query HTTP/1.1\nAuthorization: Bearer {tenant}\nContent-Type: application/json\nContent-Length: {}",
            sql.len()
        );
        for _ in 0..2 {
            let reply = call(app.proxy, &lines, sql.as_bytes()).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        let rest = format!("GET /services/data/v60.0/limits HTTP/1.1\nAuthorization: Bearer {core}");
        assert_eq!(call(app.proxy, &rest, b"").await.status, 200);
        let stats = org.stats();
        assert_eq!(
            (stats.token_requests, stats.a360_exchanges),
            (1, 1),
            "the proxy's own, once each"
        );
        let seen = format!("{:?}", org.requests(1000));
        assert!(!seen.contains("CANARY") && !seen.contains("revoke"), "{seen}");
        app.stop().await;
        org.stop().await;
    }

    /// SOAP login, calls with what it gave, logout; the real session lives on.
    #[tokio::test]
    async fn a_soap_client_logs_in_works_and_logs_out() {
        let (org, app) = crate::soap::practice::start().await;
        let text = post(
            app.proxy,
            "/services/Soap/u/60.0",
            "text/xml",
            login(true, PARTNER, "login").as_bytes(),
        )
        .await
        .text();
        let path = word(&text, "serverUrl").replace("http://localhost", "");
        assert!(path.contains(&org.org_id()[..15]), "{path}");
        let query = crate::soap::envelope("<getUserInfo/>").replace("00DCANARY!app.session", &word(&text, "sessionId"));
        for _ in 0..2 {
            let reply = post(app.proxy, &path, "text/xml", query.as_bytes()).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(
                word(&reply.text(), "userId"),
                word(&text, "userId"),
                "the login told whose session it is"
            );
            let out = post(app.proxy, &path, "text/xml", login(false, PARTNER, "logout").as_bytes()).await;
            assert_ours(&out);
        }
        let stats = org.stats();
        assert_eq!(
            (stats.token_requests, stats.soap_invalid_session, stats.api_requests),
            (1, 0, 2)
        );
        app.stop().await;
        org.stop().await;
    }
}
