//! Data Cloud behind the same listener: two tokens, two clocks, two hosts (SF §5.4, §9.3), against the practice org.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use sf_token_proxy::{
    config::{self, Vars},
    demo::{Org, Reply as Scripted, Settings, Stats, Summary, TokenFault},
};
use tokio::task::JoinSet;

use crate::support::{Reply, Running, call, eventually};

const SQL: &[u8] = br#"{"sql":"SELECT Id FROM Account"}"#;
const CORE: &str = "GET /services/data/v60.0/limits HTTP/1.1";

struct Room {
    org: Org,
    app: Running,
}

pub(crate) fn by_key(files: &Summary) -> Value {
    let jwt = files.jwt.as_ref().unwrap();
    json!({"jwt_bearer": {
        "client_id": jwt.client_id, "username": jwt.username, "private_key": file(&jwt.key_file),
    }})
}

pub(crate) fn by_password(files: &Summary) -> Value {
    let password = files.password.as_ref().unwrap();
    json!({"password": {
        "client_id": password.client_id,
        "client_secret": file(&password.secret_file),
        "username": password.username,
        "password": file(&password.password_file),
        "security_token": file(&password.security_token_file),
    }})
}

pub(crate) fn file(path: &Path) -> String {
    format!("file:{}", path.display())
}

impl Room {
    async fn start(settings: Settings) -> Self {
        Self::start_with(settings, by_key, json!({"dataspace": "default"})).await
    }

    async fn start_with(settings: Settings, grant: fn(&Summary) -> Value, data_cloud: Value) -> Self {
        let mut org = Org::start(settings).await.unwrap();
        let files = org.write_files(None).unwrap();
        let mut yaml = json!({
            "listeners": [{"address": "127.0.0.1:0"}],
            "admin": {"address": "127.0.0.1:0"},
            "orgs": {"main": {
                "login_url": files.login_url,
                "grant": grant(&files),
                "login_budget": {"burst": 3600, "per_minute": 60},
            }},
            "upstream": {"ca_file": files.ca_file},
        });
        if !data_cloud.is_null() {
            yaml["orgs"]["main"]["data_cloud"] = data_cloud;
        }
        let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
        let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
        Self { org, app }
    }

    async fn query(&self) -> Reply {
        query(self.app.proxy).await
    }

    /// Both tokens are there.
    async fn live(&self) -> Stats {
        let (core, tenant) = (call(self.app.proxy, CORE, b"").await, self.query().await);
        assert_eq!(
            (core.status, tenant.status),
            (200, 200),
            "{} {}",
            core.text(),
            tenant.text()
        );
        self.org.stats()
    }

    async fn stop(self) {
        self.app.stop().await;
        self.org.stop().await;
    }
}

pub(crate) async fn query(proxy: std::net::SocketAddr) -> Reply {
    let lines = format!(
        "POST /api/v2/query HTTP/1.1\nContent-Type: application/json\nContent-Length: {}",
        SQL.len()
    );
    call(proxy, &lines, SQL).await
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {}", reply.text()))
}

#[tokio::test]
async fn flow_data_cloud_is_proven() {
    for with_scheme in [false, true] {
        let room = Room::start(Settings {
            tenant_with_scheme: with_scheme,
            ..Settings::practice().unwrap()
        })
        .await;
        // As salesforce-cdp-connector asks: a query, its next pages, the metadata.
        let first = room.query().await;
        assert_eq!(first.status, 200, "{}", first.text());
        let mut page = body(&first);
        let mut rows = page["data"].as_array().unwrap().len();
        let mut pages = 1;
        while let Some(next) = page["nextBatchId"].as_str().map(str::to_owned) {
            let reply = call(room.app.proxy, &format!("GET /api/v2/query/{next} HTTP/1.1"), b"").await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            page = body(&reply);
            rows += page["data"].as_array().unwrap().len();
            pages += 1;
        }
        assert!(pages > 1 && rows == 25, "{rows} rows in {pages} pages");
        let metadata = call(room.app.proxy, "GET /api/v1/metadata HTTP/1.1", b"").await;
        assert_eq!(metadata.status, 200, "{}", metadata.text());
        // The core host serves the rest with the core's token.
        assert_eq!(call(room.app.proxy, CORE, b"").await.status, 200);
        let stats = room.org.stats();
        assert_eq!((stats.logins, stats.a360_exchanges, stats.tenant_401), (1, 1, 0));
        room.stop().await;
    }
}

#[tokio::test]
async fn flow_data_cloud_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let mut org = Org::start(Settings::practice().unwrap()).await.unwrap();
    let files = org.write_files(None).unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "store": {"file": {"directory": folder.path().join("store"), "key": file(&key)}},
        "orgs": {"main": {"login_url": files.login_url, "grant": by_key(&files), "data_cloud": {}}},
        "upstream": {"ca_file": files.ca_file},
    });
    for _ in 0..3 {
        let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
        let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
        assert_eq!(query(app.proxy).await.status, 200);
        app.stop().await;
    }
    // Stage one comes from the store; an exchange is no login.
    let stats = org.stats();
    assert_eq!((stats.logins, stats.a360_exchanges), (1, 3));
    org.stop().await;
}

#[tokio::test]
async fn each_stage_is_renewed_by_itself() {
    let room = Room::start(Settings::practice().unwrap()).await;
    let before = room.live().await;
    // The core's session ends, the tenant's token lives.
    assert!(room.org.revoke() >= 1);
    assert_eq!(room.query().await.status, 200);
    assert_eq!(room.org.stats().logins, before.logins, "a query costs no login");
    assert_eq!(call(room.app.proxy, CORE, b"").await.status, 200);
    let core_renewed = room.org.stats();
    assert_eq!(core_renewed.logins, before.logins + 1);
    assert_eq!(core_renewed.a360_requests, before.a360_requests);
    // The tenant's token ends, the core's session lives.
    assert_eq!(room.org.expire_dc(), 1);
    assert_eq!(room.query().await.status, 200);
    let both_renewed = room.org.stats();
    assert_eq!(both_renewed.logins, core_renewed.logins, "an exchange costs no login");
    assert_eq!(both_renewed.a360_requests, core_renewed.a360_requests + 1);
    room.stop().await;
}

#[tokio::test]
async fn both_stages_dead_at_once_cost_one_login_and_one_exchange_for_sixty_four_callers() {
    let room = Arc::new(Room::start(Settings::practice().unwrap()).await);
    for _ in 0..5 {
        let before = room.live().await;
        assert!(room.org.revoke() >= 1);
        room.org.expire_dc();
        let mut callers = JoinSet::new();
        for n in 0..64 {
            let proxy = room.app.proxy;
            callers.spawn(async move {
                match n % 2 {
                    0 => query(proxy).await,
                    _ => call(proxy, CORE, b"").await,
                }
            });
        }
        while let Some(reply) = callers.join_next().await {
            let reply = reply.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
        let after = room.org.stats();
        assert_eq!(after.logins, before.logins + 1, "one login");
        assert_eq!(after.a360_exchanges, before.a360_exchanges + 1, "one exchange");
        // One more may have been refused for its dead core token.
        assert!(after.a360_requests <= before.a360_requests + 2);
    }
    Arc::into_inner(room).unwrap().stop().await;
}

#[tokio::test]
async fn a_named_dataspace_gets_its_own_token() {
    let settings = Settings {
        dataspaces: vec!["default".into(), "sales".into()],
        ..Settings::practice().unwrap()
    };
    let room = Room::start_with(settings, by_key, json!({"dataspace": "sales"})).await;
    assert_eq!(room.query().await.status, 200);
    room.stop().await;
}

/// SF §9.3 1: Salesforce exchanges a core token of the password flow once.
#[tokio::test]
async fn a_core_token_of_the_password_grant_is_exchanged_once() {
    let settings = Settings {
        same_token_on_remint: false,
        ..Settings::practice().unwrap()
    };
    let room = Room::start_with(settings, by_password, json!({})).await;
    room.live().await;
    for n in 1..=3 {
        assert_eq!(room.org.expire_dc(), 1);
        assert_eq!(room.query().await.status, 200);
        let stats = room.org.stats();
        assert_eq!(
            (stats.logins, stats.a360_requests),
            (1 + n, 1 + n),
            "no exchange was refused"
        );
    }
    room.stop().await;
}

#[tokio::test]
async fn flow_data_cloud_explains_a_refusal() {
    let mut settings = Settings::practice().unwrap();
    settings.jwt_clients[0]
        .scopes
        .retain(|scope| !scope.starts_with("cdp_"));
    let room = Room::start(settings).await;
    let refused = room.query().await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("cdp_query_api"), "{}", refused.text());
    // The org itself is served, and no login was wasted.
    assert_eq!(call(room.app.proxy, CORE, b"").await.status, 200);
    assert_eq!(room.org.stats().logins, 1);
    let state = "sf_token_proxy_token_state{org=\"main/data_cloud\",state=\"refused\"}";
    assert_eq!(room.app.metric(state).await, 1.0);
    room.stop().await;
}

/// An outage of stage two says nothing of stage one: no login, and the token in use stays in use.
#[tokio::test]
async fn flow_data_cloud_follows_its_replay_rule() {
    let room = Room::start(Settings::practice().unwrap()).await;
    let before = room.live().await;
    room.org.fail_api(sf_token_proxy::demo::ApiFault {
        fail: 1,
        path_prefix: "/services/a360/token".into(),
        reply: Scripted::json(503, "{}"),
    });
    room.org.expire_dc();
    assert_eq!(
        room.query().await.status,
        200,
        "the exchange is tried again within the wait"
    );
    assert_eq!(room.org.stats().logins, before.logins);
    // And a login host that is away costs stage two nothing while the core token lives.
    room.org.fail_token(TokenFault {
        fail: -1,
        hang: Duration::ZERO,
        reply: Some(Scripted::json(503, "{}")),
    });
    room.org.expire_dc();
    assert_eq!(room.query().await.status, 200);
    room.stop().await;
}

#[tokio::test]
async fn without_data_cloud_its_paths_are_not_served() {
    let room = Room::start_with(Settings::practice().unwrap(), by_key, Value::Null).await;
    let refused = room.query().await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("SFPROXY_PATH_NOT_SERVED"));
    eventually("one login", || room.org.stats().logins, |logins| *logins == 1).await;
    assert_eq!(room.org.stats().a360_requests, 0);
    room.stop().await;
}
