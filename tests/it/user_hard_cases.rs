//! Users and other clouds in hard cases.

use std::{sync::Mutex, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sf_token_proxy::config::{self, Vars};

use crate::support::{RawOrg, Running, Script, call};

const TOKEN: &str = "/services/oauth2/token";

async fn org() -> RawOrg {
    let minted: Mutex<u32> = Mutex::default();
    let org = RawOrg::start(move |request| {
        if request.target() == TOKEN {
            let form: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
            let assertion = &form.iter().find(|(name, _)| name == "assertion").unwrap().1;
            let claims = BASE64_URL_SAFE_NO_PAD
                .decode(assertion.split('.').nth(1).unwrap())
                .unwrap();
            let user = serde_json::from_slice::<Value>(&claims).unwrap()["sub"]
                .as_str()
                .unwrap()
                .to_owned();
            let mut minted = minted.lock().unwrap();
            *minted += 1;
            let host = request.header("host")[0];
            let answer =
                json!({"access_token": format!("00D!{user}!{minted}"), "instance_url": format!("http://{host}")});
            return Script::json("200 OK", &answer.to_string());
        }
        Script::json(
            "200 OK",
            &json!({"token": request.token(), "target": request.target()}).to_string(),
        )
    })
    .await;
    org.script_logins();
    org
}

async fn app(org: &RawOrg, listeners: Value) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let yaml = json!({
        "listeners": listeners,
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": {"login_url": org.url(), "grant": {"jwt_bearer": {
            "client_id": "app", "username": "own@acme.example", "private_key": format!("file:{}", key.display()),
        }}}},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    Running::start_with(config, folder).await
}

async fn as_user(at: std::net::SocketAddr, user: &str) -> (u16, String) {
    let reply = call(
        at,
        &format!("GET /services/data/v60.0/x HTTP/1.1\nX-SFPROXY-User: {user}"),
        b"",
    )
    .await;
    (reply.status, reply.text())
}

fn logins(org: &RawOrg) -> usize {
    org.seen().iter().filter(|r| r.target() == TOKEN).count()
}

/// A full cache must not turn a newcomer's every call into a login.
#[tokio::test]
async fn a_newcomer_beside_busy_users_logs_in_once() {
    let org = org().await;
    let users = json!({"allow": ["*"], "max": 8, "login_budget": {"burst": 100, "per_minute": 100}});
    let app = app(&org, json!([{"address": "127.0.0.1:0", "users": users}])).await;
    for _ in 0..20 {
        for n in 0..8 {
            assert_eq!(as_user(app.proxy, &format!("u{n}@x.example")).await.0, 200);
        }
    }
    // They fall silent, but for less than `idle`.
    let mut cost = vec![];
    for _ in 0..8 {
        let before = logins(&org);
        assert_eq!(as_user(app.proxy, "new@x.example").await.0, 200);
        cost.push(logins(&org) - before);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let kept = app.metric("sf_token_proxy_user_tokens{org=\"main\"}").await;
    println!("{cost:?}, {kept} kept, {} logins in all", logins(&org));
    assert_eq!(
        cost.iter().sum::<usize>(),
        1,
        "eight calls of one newcomer, logins: {cost:?}"
    );
    app.stop().await;
}

#[tokio::test]
async fn the_orgs_own_user_named_costs_no_second_login() {
    let org = org().await;
    let app = app(&org, json!([{"address": "127.0.0.1:0", "users": {"allow": ["*"]}}])).await;
    assert_eq!(
        call(app.proxy, "GET /services/data/v60.0/x HTTP/1.1", b"").await.status,
        200
    );
    assert_eq!(as_user(app.proxy, "own@acme.example").await.0, 200);
    assert_eq!(logins(&org), 1);
    app.stop().await;
}

#[tokio::test]
async fn a_list_of_names_is_no_name() {
    let org = org().await;
    let app = app(
        &org,
        json!([{"address": "127.0.0.1:0", "users": {"allow": ["*@acme.example"]}}]),
    )
    .await;
    let mut taken = vec![];
    for name in [
        "ceo@evil.example,anna@acme.example",
        "anna@acme.example,ben@acme.example",
        "\"anna\"@acme.example",
        "a%40b@acme.example",
        "a@b@acme.example",
        "@acme.example",
        "<x>@acme.example",
        "*@acme.example",
    ] {
        if as_user(app.proxy, name).await.0 != 403 {
            taken.push(name);
        }
    }
    assert!(taken.is_empty(), "cost a login each: {taken:?}");
    app.stop().await;
}

/// Without `users` the header is not for the org, and must not be ignored in silence.
#[tokio::test]
async fn a_user_named_where_users_are_off() {
    let org = org().await;
    let app = app(&org, json!([{"address": "127.0.0.1:0"}])).await;
    let reply = as_user(app.proxy, "anna@acme.example").await;
    assert_eq!(reply.0, 403, "{}", reply.1);
    assert!(reply.1.contains("SFPROXY_USER_NOT_SERVED"), "{}", reply.1);
    assert!(
        org.seen()
            .iter()
            .all(|request| request.header("x-sfproxy-user").is_empty())
    );
    app.stop().await;
}

async fn cloud(also: Value, rest: &RawOrg, soap: &RawOrg) -> Running {
    let (rest_url, soap_url) = (rest.url(), soap.url());
    let login = RawOrg::start(move |_| {
        Script::json(
            "200 OK",
            &json!({"access_token": "mc", "rest": rest_url, "soap": soap_url}).to_string(),
        )
    })
    .await;
    login.script_logins();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s").unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
        "orgs": {"mc": {"login_url": login.url(), "grant": {"oauth2_client_credentials": {
            "token_path": "/v2/token", "client_id": "p", "client_secret": format!("file:{}", secret.display())}},
            "api": {"host": "other", "host_field": "rest", "also": also}}},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let app = Running::start_with(config, folder).await;
    assert_eq!(call(app.proxy, "GET /warm HTTP/1.1", b"").await.status, 200);
    drop(login);
    app
}

#[tokio::test]
async fn also_takes_its_path_and_no_other() {
    let (rest, soap) = (
        RawOrg::start(|_| Script::ok()).await,
        RawOrg::start(|_| Script::ok()).await,
    );
    let app = cloud(json!({"/Service.asmx": "soap"}), &rest, &soap).await;
    for path in [
        "/Service.asmxfoo",
        "/Service.asmx.evil",
        "/Service.asmx%2f..",
        "/service.asmx",
        "//Service.asmx",
        "/Service.asmx",
        "/Service.asmx?wsdl",
    ] {
        let _ = call(app.proxy, &format!("GET {path} HTTP/1.1"), b"").await;
    }
    let targets = |org: &RawOrg| org.seen().iter().map(|r| r.target().to_owned()).collect::<Vec<_>>();
    println!("rest {:?}\nsoap {:?}", targets(&rest), targets(&soap));
    assert_eq!(targets(&soap), ["/Service.asmx", "/Service.asmx?wsdl"]);
    app.stop().await;
}

#[tokio::test]
async fn the_longest_prefix_of_also_wins() {
    let (rest, soap) = (
        RawOrg::start(|_| Script::ok()).await,
        RawOrg::start(|_| Script::ok()).await,
    );
    let app = cloud(json!({"/hub/": "rest", "/hub/soap/": "soap"}), &rest, &soap).await;
    assert_eq!(call(app.proxy, "GET /hub/soap/x HTTP/1.1", b"").await.status, 200);
    assert_eq!(soap.seen().len(), 1, "went to the host of /hub/");
    app.stop().await;
}

/// A token is of the business unit (`account_id`), or of the scopes, that it was asked for.
#[tokio::test]
async fn a_stored_token_of_another_business_unit_is_not_taken_up() {
    let rest = RawOrg::start(|request| Script::json("200 OK", &json!({"token": request.token()}).to_string())).await;
    let rest_url = rest.url();
    let login = RawOrg::start(move |request| {
        let form: Value = serde_json::from_slice(&request.body).unwrap();
        let token = format!("mc-of-{}", form["account_id"].as_str().unwrap());
        Script::json(
            "200 OK",
            &json!({"access_token": token, "expires_in": 1079, "rest": rest_url}).to_string(),
        )
    })
    .await;
    login.script_logins();
    let folder = tempfile::tempdir().unwrap();
    let (secret, key) = (folder.path().join("secret"), folder.path().join("key"));
    std::fs::write(&secret, "s").unwrap();
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    for unit in ["111", "222"] {
        let yaml = json!({
            "listeners": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
            "orgs": {"mc": {"login_url": login.url(), "grant": {"oauth2_client_credentials": {
                "token_path": "/v2/token", "body": "json", "send_secret": "body", "client_id": "p",
                "client_secret": format!("file:{}", secret.display()), "parameters": {"account_id": unit}}},
                "api": {"host": "other", "host_field": "rest"}}},
            "store": {"file": {"directory": folder.path().join("store"), "key": format!("file:{}", key.display())}},
        });
        let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
        let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
        let reply = call(app.proxy, "GET /x HTTP/1.1", b"").await;
        assert!(
            reply.text().contains(&format!("mc-of-{unit}")),
            "unit {unit} was served with {}",
            reply.text()
        );
        app.stop().await;
    }
}

/// A user of another cloud: no probe with a core path, which says nothing there.
#[tokio::test]
async fn a_user_of_another_cloud_is_not_probed_with_a_core_path() {
    let api = RawOrg::start(|request| match request.target() {
        "/services/data/v60.0/" => Script::json("404 Not Found", "{}"),
        "/upload" if request.token().ends_with("!1") => Script::json("401 Unauthorized", "{}"),
        _ => Script::ok(),
    })
    .await;
    let api_url = api.url();
    let count = std::sync::atomic::AtomicU32::new(0);
    let login = RawOrg::start(move |_| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Script::json(
            "200 OK",
            &json!({"access_token": format!("t!{n}"), "api_instance_url": api_url}).to_string(),
        )
    })
    .await;
    login.script_logins();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0", "users": {"allow": ["*"]}}],
        "admin": {"address": "127.0.0.1:0"},
        "replay": {"max_body": "1KiB", "total": "1KiB"},
        "orgs": {"main": {"login_url": login.url(), "api": {"host": "platform"}, "grant": {"jwt_bearer": {
            "client_id": "app", "username": "own@acme.example", "private_key": format!("file:{}", key.display()),
        }}}},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let app = Running::start_with(config, folder).await;
    let body = vec![b'x'; 4096];
    let lines = "POST /upload HTTP/1.1\nX-SFPROXY-User: a@x.example\nContent-Length: 4096";
    let reply = call(app.proxy, lines, &body).await;
    let targets: Vec<_> = api.seen().iter().map(|r| r.target().to_owned()).collect();
    assert!(
        !targets.iter().any(|t| t.starts_with("/services/data")),
        "{} {targets:?}",
        reply.status
    );
    app.stop().await;
}

/// README: `instance_url` "Overrides the `instance_url` of token answers".
#[tokio::test]
async fn instance_url_overrides_the_answer_of_the_platform_too() {
    let (told, set) = (
        RawOrg::start(|_| Script::ok()).await,
        RawOrg::start(|_| Script::ok()).await,
    );
    let told_url = told.url();
    let login = RawOrg::start(move |_| {
        Script::json(
            "200 OK",
            &json!({"access_token": "t", "instance_url": told_url, "api_instance_url": told_url}).to_string(),
        )
    })
    .await;
    login.script_logins();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s").unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": {"login_url": login.url(), "instance_url": set.url(), "api": {"host": "platform"},
            "grant": {"client_credentials": {"client_id": "p", "client_secret": format!("file:{}", secret.display())}}}},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let app = Running::start_with(config, folder).await;
    assert_eq!(call(app.proxy, "GET /x HTTP/1.1", b"").await.status, 200);
    assert_eq!((told.seen().len(), set.seen().len()), (0, 1));
    app.stop().await;
}

/// "never a secret": what `parameters` and `api.headers` hold may be one.
#[test]
fn the_effective_settings_show_no_parameter_and_no_header_value() {
    let yaml = r#"
orgs:
  mc:
    login_url: https://a.example
    instance_url: https://b.example
    grant: {oauth2_client_credentials: {token_path: /t, client_id: a, client_secret: 'env:S', parameters: {password: CANARY1}}}
    api: {host: other, headers: {accesstoken: CANARY2, X-Api-Key: CANARY3}}
"#;
    let Ok(config) = config::from_yaml(yaml, "c.yaml", &Vars::default()) else {
        return;
    };
    let shown = config.to_yaml();
    assert!(!shown.contains("CANARY"), "{shown}");
}

/// A user name is told in a header; the allow-list is the boundary.
#[tokio::test]
async fn tricks_with_the_user_header_get_nobodys_token() {
    let org = org().await;
    let app = app(&org, json!([{"address": "127.0.0.1:0", "users": {"allow": ["kim@acme.example", "*@team.example"], "required": true}}])).await;
    for lines in [
        "X-SFPROXY-User: \u{212a}im@acme.example",
        "X-SFPROXY-User: k\u{131}m@acme.example",
        "X-SFPROXY-User: kim@acme.example\nConnection: X-SFPROXY-User\nX-SFPROXY-User: eve@acme.example",
        "X-SFPROXY-User: kim@acme.example, eve@team.example",
        "X-SFPROXY-User: eve@evil.example#@team.example.",
        "X-SFPROXY-User: kim%40acme.example",
        "X_SFPROXY_User: kim@acme.example",
        "X-SFPROXY-User: kim@acme.example\tx@team.example",
    ] {
        let reply = call(app.proxy, &format!("GET /services/data/v60.0/x HTTP/1.1\n{lines}"), b"").await;
        assert!(
            matches!(reply.status, 400 | 403),
            "{lines}: {} {}",
            reply.status,
            reply.text()
        );
    }
    for lines in [
        "X-SFPROXY-User:   KIM@acme.example \t",
        "X-SFPROXY-User: kim@acme.example\nConnection: X-SFPROXY-User",
        "x-sfproxy-user: kim@acme.example\nConnection: keep-alive, Authorization, Host",
    ] {
        let reply = call(app.proxy, &format!("GET /services/data/v60.0/x HTTP/1.1\n{lines}"), b"").await;
        assert_eq!(reply.status, 200, "{lines}");
        assert!(
            reply.text().contains("00D!kim@acme.example!"),
            "{lines}: {}",
            reply.text()
        );
    }
    assert_eq!(logins(&org), 2);
    app.stop().await;
}

/// One name that no app was approved for, asked for once: it must not eat what all users share.
#[tokio::test]
async fn a_user_who_is_never_approved_leaves_the_common_budget_alone() {
    let org = RawOrg::start(|request| {
        if request.target() != TOKEN {
            return Script::ok();
        }
        let form: Vec<(String, String)> = url::form_urlencoded::parse(&request.body).into_owned().collect();
        let assertion = &form.iter().find(|(name, _)| name == "assertion").unwrap().1;
        let claims = BASE64_URL_SAFE_NO_PAD
            .decode(assertion.split('.').nth(1).unwrap())
            .unwrap();
        let host = request.header("host")[0];
        match String::from_utf8_lossy(&claims).contains("unknown") {
            true => Script::json(
                "400 Bad Request",
                r#"{"error":"invalid_grant","error_description":"user hasn't approved this consumer"}"#,
            ),
            false => Script::json(
                "200 OK",
                &json!({"access_token": "t", "instance_url": format!("http://{host}")}).to_string(),
            ),
        }
    })
    .await;
    org.script_logins();
    let users = json!({"allow": ["*"], "login_budget": {"burst": 3, "per_minute": 1}});
    let app = app(&org, json!([{"address": "127.0.0.1:0", "users": users}])).await;
    assert_eq!(as_user(app.proxy, "unknown@x.example").await.0, 503);
    tokio::time::sleep(Duration::from_secs(23)).await;
    println!("{} logins after one call", logins(&org));
    let (status, text) = as_user(app.proxy, "anna@x.example").await;
    assert_eq!(status, 200, "{text}");
    app.stop().await;
}

/// A `Location` of the other host stays with that host.
#[tokio::test]
async fn cookies_and_locations_of_two_hosts_stay_apart() {
    let rest = RawOrg::start(|_| {
        Script::Say(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: r=1; Domain=.marketingcloudapis.com; Path=/\r\nContent-Length: 0\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let rest_url = rest.url();
    let soap = RawOrg::start(move |request| {
        let own = request.header("host")[0].to_owned();
        let to = match request.target() {
            "/soap/own" => format!("http://{own}/other"),
            _ => format!("{rest_url}/rest"),
        };
        Script::Say(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    })
    .await;
    let app = cloud(json!({"/soap/": "soap"}), &rest, &soap).await;
    let own = call(app.proxy, "GET /soap/own HTTP/1.1", b"").await;
    println!("{:?}", own.header("location"));
    // Relative, it would lead to the other host with the token.
    assert!(
        !own.header("location").iter().any(|to| to.starts_with("/other")),
        "{:?}",
        own.header("location")
    );
    app.stop().await;
}
