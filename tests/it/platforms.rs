//! Clouds beside the core (SF §5.5): their token requests, their hosts, their refusals; and several orgs in one proxy.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::{Value, json};
use sf_token_proxy::config::{self, Vars};

use crate::support::{RawOrg, Reply, Running, Script, call};

/// A cloud's API: takes the newest token, and refuses with a 401 of its own while told to.
struct Cloud {
    org: RawOrg,
    refusals: Arc<AtomicU32>,
}

impl Cloud {
    async fn start() -> Self {
        let refusals = Arc::new(AtomicU32::new(0));
        let left = Arc::clone(&refusals);
        let org = RawOrg::start(move |_| {
            let refuse = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            match refuse {
                Ok(_) => Script::json("401 Unauthorized", r#"{"message":"Not Authorized","errorcode":0}"#),
                Err(_) => Script::ok(),
            }
        })
        .await;
        Self { org, refusals }
    }
}

/// A token endpoint at any path; answers what `answer` makes of the number of the login.
async fn logins(answer: impl Fn(u32) -> Value + Send + Sync + 'static) -> RawOrg {
    let count = AtomicU32::new(0);
    let org = RawOrg::start(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        Script::json("200 OK", &answer(n).to_string())
    })
    .await;
    org.script_logins();
    org
}

async fn app(orgs: Value, listeners: Value, secret: &std::path::Path) -> Running {
    std::fs::write(secret, "CANARY-secret").unwrap();
    let yaml = json!({"listeners": listeners, "admin": {"address": "127.0.0.1:0"}, "orgs": orgs});
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    Running::start_with(config, tempfile::tempdir().unwrap()).await
}

/// A call of Marketing Cloud's SOAP service.
async fn retrieve(proxy: SocketAddr) -> Reply {
    let envelope = "<Envelope xmlns=\"http://schemas.xmlsoap.org/soap/envelope/\"><Body><RetrieveRequestMsg xmlns=\"http://exacttarget.com/wsdl/partnerAPI\"/></Body></Envelope>";
    let lines = format!("POST /Service.asmx HTTP/1.1\nContent-Length: {}", envelope.len());
    call(proxy, &lines, envelope.as_bytes()).await
}

fn one_listener() -> Value {
    json!([{"address": "127.0.0.1:0"}])
}

/// Marketing Cloud Engagement: JSON, the hosts of the answer, a real `expires_in`.
#[tokio::test]
async fn flow_oauth2_client_credentials_is_proven() {
    let (rest, soap) = (Cloud::start().await, Cloud::start().await);
    let (rest_url, soap_url) = (rest.org.url() + "/", soap.org.url() + "/");
    let login = logins(move |n| {
        json!({
            "access_token": format!("mc{n}.CANARY"), "token_type": "Bearer", "expires_in": 1079,
            "scope": "email_read", "soap_instance_url": soap_url, "rest_instance_url": rest_url,
        })
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let orgs = json!({"mc": {
        "login_url": login.url(),
        "grant": {"oauth2_client_credentials": {
            "token_path": "/v2/token", "body": "json", "send_secret": "body",
            "client_id": "package", "client_secret": format!("file:{}", secret.display()),
            "parameters": {"account_id": "510001234"},
        }},
        "api": {"host": "other", "host_field": "rest_instance_url", "also": {"/Service.asmx": "soap_instance_url"}},
    }});
    let app = app(orgs, one_listener(), &secret).await;

    let reply = call(app.proxy, "GET /asset/v1/content/assets?$page=1 HTTP/1.1", b"").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = retrieve(app.proxy).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let sent = login.seen();
    assert_eq!(sent[0].line(), "POST /v2/token HTTP/1.1");
    assert_eq!(sent[0].header("content-type"), ["application/json"]);
    assert!(sent[0].header("authorization").is_empty());
    assert_eq!(
        serde_json::from_slice::<Value>(&sent[0].body).unwrap(),
        json!({"grant_type": "client_credentials", "client_id": "package", "client_secret": "CANARY-secret", "account_id": "510001234"})
    );
    assert_eq!(rest.org.seen()[0].target(), "/asset/v1/content/assets?$page=1");
    assert_eq!(rest.org.seen()[0].token(), "Bearer mc1.CANARY");
    assert_eq!(soap.org.seen()[0].target(), "/Service.asmx");
    assert_eq!(
        format!("http://{}", soap.org.seen()[0].header("host")[0]),
        soap.org.url(),
        "each host is called by its own name"
    );
    // The told life counts.
    let minted = app
        .metric("sf_token_proxy_token_minted_timestamp_seconds{org=\"mc\"}")
        .await;
    let expiry = app
        .metric("sf_token_proxy_token_expiry_timestamp_seconds{org=\"mc\"}")
        .await;
    assert!((expiry - minted - 1079.0).abs() < 2.0);

    // Any 401 there means that the token is dead.
    rest.refusals.store(1, Ordering::SeqCst);
    let reply = call(app.proxy, "GET /asset/v1/content/assets HTTP/1.1", b"").await;
    assert_eq!(reply.status, 200);
    assert_eq!(rest.org.seen().last().unwrap().token(), "Bearer mc2.CANARY");
    // One that stays is the caller's to see, and costs no storm of logins.
    rest.refusals.store(u32::MAX, Ordering::SeqCst);
    for _ in 0..5 {
        let reply = call(app.proxy, "GET /asset/v1/content/assets HTTP/1.1", b"").await;
        assert_eq!(reply.status, 401);
        assert!(reply.text().contains("Not Authorized"));
    }
    assert!(login.seen().len() <= 4, "{} logins", login.seen().len());
    // What would turn a token into a session is served nowhere.
    let reply = call(app.proxy, "GET /secur/frontdoor.jsp HTTP/1.1", b"").await;
    assert_eq!(reply.status, 403);
    app.stop().await;
}

#[tokio::test]
async fn account_engagement_gets_a_core_token_and_its_business_unit() {
    let pardot = Cloud::start().await;
    let core = RawOrg::start(|_| Script::ok()).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let orgs = json!({"pardot": {
        "login_url": core.url(),
        "instance_url": pardot.org.url(),
        "grant": {"client_credentials": {"client_id": "app", "client_secret": format!("file:{}", secret.display())}},
        "api": {"host": "other", "headers": {"Pardot-Business-Unit-Id": "0Uv000000000001AAA"}},
    }});
    let app = app(orgs, one_listener(), &secret).await;
    let lines = "GET /api/v5/objects/prospects HTTP/1.1\npardot-business-unit-id: the caller's";
    assert_eq!(call(app.proxy, lines, b"").await.status, 200);
    let seen = &pardot.org.seen()[0];
    assert_eq!(seen.header("Pardot-Business-Unit-Id"), ["0Uv000000000001AAA"]);
    assert_eq!(seen.token(), "Bearer 00Dxx0000001gER!token_1");
    assert_eq!(core.seen().len(), 0, "only the login went to the core");
    app.stop().await;
}

#[tokio::test]
async fn agentforce_calls_go_to_the_host_that_the_answer_names_or_to_the_configured_one() {
    for named in [true, false] {
        let api = Cloud::start().await;
        let api_url = api.org.url();
        let answered = api_url.clone();
        let core = logins(move |n| {
            let mut answer = json!({
                "access_token": format!("e30.e30.{n}"), "instance_url": "https://acme.my.salesforce.com",
                "scope": "sfap_api chatbot_api", "token_format": "jwt",
            });
            if named {
                answer["api_instance_url"] = json!(answered);
            }
            answer
        })
        .await;
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        let fallback = if named { "https://api.salesforce.com" } else { &api_url };
        let orgs = json!({"agents": {
            "login_url": core.url(),
            "grant": {"client_credentials": {"client_id": "app", "client_secret": format!("file:{}", secret.display())}},
            "api": {"host": "platform", "url": fallback},
        }});
        let app = app(orgs, one_listener(), &secret).await;
        let line = "POST /einstein/ai-agent/v1/agents/0Xx/sessions HTTP/1.1\nContent-Length: 2";
        let reply = call(app.proxy, line, b"{}").await;
        assert_eq!(reply.status, 200, "{named} {}", reply.text());
        assert_eq!(api.org.seen()[0].token(), "Bearer e30.e30.1");
        app.stop().await;
    }
}

#[tokio::test]
async fn several_orgs_have_listeners_and_tokens_of_their_own() {
    let (one, two) = (
        RawOrg::start(|_| Script::ok()).await,
        RawOrg::start(|_| Script::ok()).await,
    );
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let org = |url: String| {
        json!({"login_url": url, "grant": {"client_credentials": {
            "client_id": "app", "client_secret": format!("file:{}", secret.display()),
        }}})
    };
    let orgs = json!({"one": org(one.url()), "two": org(two.url())});
    let listeners = json!([
        {"address": "127.0.0.1:0", "org": "one"}, {"address": "127.0.0.1:0", "org": "two"},
    ]);
    let app = app(orgs, listeners, &secret).await;
    for (n, listener) in app.listeners.iter().enumerate() {
        let reply = call(*listener, &format!("GET /services/data/v60.0/{n} HTTP/1.1"), b"").await;
        assert_eq!(reply.status, 200);
    }
    assert_eq!(one.seen()[0].target(), "/services/data/v60.0/0");
    assert_eq!(two.seen()[0].target(), "/services/data/v60.0/1");
    assert_eq!((one.logins(), two.logins()), (1, 1));
    // A refusal of one leaves the other alone.
    two.refuse_logins(Some(("400 Bad Request", r#"{"error":"invalid_client"}"#)));
    assert_eq!(
        call(app.listeners[0], "GET /services/data/v60.0/x HTTP/1.1", b"")
            .await
            .status,
        200
    );
    for org in ["one", "two"] {
        let state = format!("sf_token_proxy_token_state{{org=\"{org}\",state=\"live\"}}");
        assert_eq!(app.metric(&state).await, 1.0);
    }
    app.stop().await;
}

/// A Marketing Cloud at `login` and, beside `settings`, its one org.
fn marketing_cloud(login: &str, secret: &std::path::Path) -> Value {
    json!({"mc": {
        "login_url": login,
        "grant": {"oauth2_client_credentials": {
            "token_path": "/v2/token", "body": "json", "send_secret": "body",
            "client_id": "package", "client_secret": format!("file:{}", secret.display()),
        }},
        "api": {"host": "other", "host_field": "rest_instance_url", "also": {"/Service.asmx": "soap_instance_url"}},
    }})
}

/// The stored token knows both of its hosts.
#[tokio::test]
async fn flow_oauth2_client_credentials_survives_a_restart() {
    let (rest, soap) = (Cloud::start().await, Cloud::start().await);
    let (rest_url, soap_url) = (rest.org.url(), soap.org.url());
    let login = logins(move |n| {
        json!({"access_token": format!("mc{n}"), "expires_in": 1079, "soap_instance_url": soap_url, "rest_instance_url": rest_url})
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (secret, key) = (folder.path().join("secret"), folder.path().join("key"));
    std::fs::write(&secret, "CANARY-secret").unwrap();
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let yaml = json!({
        "listeners": one_listener(), "admin": {"address": "127.0.0.1:0"},
        "orgs": marketing_cloud(&login.url(), &secret),
        "store": {"file": {"directory": folder.path().join("store"), "key": format!("file:{}", key.display())}},
    });
    for n in 1..=3 {
        let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
        let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
        assert_eq!(call(app.proxy, "GET /asset/v1/x HTTP/1.1", b"").await.status, 200);
        assert_eq!(retrieve(app.proxy).await.status, 200);
        app.stop().await;
        assert_eq!((rest.org.seen().len(), soap.org.seen().len()), (n, n));
    }
    assert_eq!(login.seen().len(), 1, "logins");
}

#[tokio::test]
async fn flow_oauth2_client_credentials_explains_a_refusal() {
    let login = RawOrg::start(|_| {
        let body = r#"{"error":"invalid_client","error_description":"Invalid client ID. Use the client ID in Marketing Cloud Installed Packages. CANARY-secret","error_uri":"x"}"#;
        Script::json("401 Unauthorized", body)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let app = app(marketing_cloud(&login.url(), &secret), one_listener(), &secret).await;
    let reply = call(app.proxy, "GET /asset/v1/x HTTP/1.1", b"").await;
    let text = reply.text();
    assert_eq!(reply.status, 503);
    assert!(
        text.contains("Invalid client ID") && text.contains("client_secret"),
        "{text}"
    );
    assert!(!text.contains("CANARY"), "{text}");
    app.stop().await;
}

/// Safe to repeat: an answer that was cut off is asked for again.
#[tokio::test]
async fn flow_oauth2_client_credentials_follows_its_replay_rule() {
    let rest = Cloud::start().await;
    let rest_url = rest.org.url();
    let count = AtomicU32::new(0);
    let login = RawOrg::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Script::Cut,
        _ => Script::json(
            "200 OK",
            &json!({"access_token": "t", "soap_instance_url": rest_url, "rest_instance_url": rest_url}).to_string(),
        ),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let app = app(marketing_cloud(&login.url(), &secret), one_listener(), &secret).await;
    assert_eq!(call(app.proxy, "GET /asset/v1/x HTTP/1.1", b"").await.status, 200);
    assert_eq!(login.seen().len(), 2);
    app.stop().await;
}
