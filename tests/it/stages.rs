//! What trouble of stage two does to the core's token: nothing.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use sf_token_proxy::{
    config::{self, Vars},
    demo::{ApiFault, Org, Reply as Scripted, Settings, Summary, TokenFault},
};

use crate::{
    data_cloud::{by_key, by_password},
    support::{Running, call},
};

const CORE: &str = "GET /services/data/v60.0/limits HTTP/1.1";
const QUERY: &str = "GET /api/v1/metadata HTTP/1.1";

async fn start(settings: Settings, grant: fn(&Summary) -> Value, more: Value) -> (Org, Running) {
    let mut org = Org::start(settings).await.unwrap();
    let files = org.write_files(None).unwrap();
    let mut of_org = json!({
        "login_url": files.login_url,
        "grant": grant(&files),
        "data_cloud": {},
        "login_budget": {"burst": 3600, "per_minute": 60},
    });
    for (key, value) in more.as_object().unwrap() {
        of_org[key] = value.clone();
    }
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": of_org},
        "upstream": {"ca_file": files.ca_file},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let app = Running::start_with(config, tempfile::tempdir().unwrap()).await;
    (org, app)
}

async fn status(app: &Running, line: &str) -> (u16, String) {
    let reply = call(app.proxy, line, b"").await;
    (reply.status, reply.text())
}

fn a360(status: u16, body: &str) -> ApiFault {
    ApiFault {
        fail: -1,
        path_prefix: "/services/a360/token".into(),
        reply: Scripted::json(status, body),
    }
}

fn login_host_away() -> TokenFault {
    TokenFault {
        fail: -1,
        hang: Duration::ZERO,
        reply: Some(Scripted::json(503, "{}")),
    }
}

/// Promise 3: a token that still works is never withdrawn.
#[tokio::test]
async fn a_refusal_of_stage_two_does_not_withdraw_a_core_token_that_works() {
    let mut bad = vec![];
    for (code, body) in [(403, "{}"), (200, "<html>Down for maintenance</html>")] {
        let (org, app) = start(
            Settings::practice().unwrap(),
            by_key,
            json!({"token": {"refresh_wait": "2s"}}),
        )
        .await;
        assert_eq!(status(&app, CORE).await.0, 200);
        assert_eq!(status(&app, QUERY).await.0, 200);
        org.fail_api(a360(code, body));
        org.fail_token(login_host_away());
        org.expire_dc();
        let refused = status(&app, QUERY).await;
        assert_eq!(refused.0, 503, "{}", refused.1);
        let core = status(&app, CORE).await;
        if core.0 != 200 {
            bad.push(format!("{code}: {core:?}"));
        }
        app.stop().await;
        org.stop().await;
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Promise 3 for the password grant: each renewal of stage two (every 15 minutes) needs a new core token.
#[tokio::test]
async fn the_password_grants_core_token_stays_in_use_while_stage_two_needs_another() {
    let settings = Settings {
        same_token_on_remint: false,
        ..Settings::practice().unwrap()
    };
    let (org, app) = start(settings, by_password, json!({"token": {"refresh_wait": "2s"}})).await;
    assert_eq!(status(&app, CORE).await.0, 200);
    assert_eq!(status(&app, QUERY).await.0, 200);
    org.fail_token(login_host_away());
    org.expire_dc();
    assert_eq!(status(&app, QUERY).await.0, 503);
    let core = status(&app, CORE).await;
    assert_eq!(core.0, 200, "{}", core.1);
    app.stop().await;
    org.stop().await;
}

/// The password grant where Salesforce gives the same session again (SF §3.3).
#[tokio::test]
async fn the_password_grant_with_the_same_token_again() {
    let settings = Settings {
        same_token_on_remint: true,
        ..Settings::practice().unwrap()
    };
    let (org, app) = start(settings, by_password, json!({"token": {"refresh_wait": "3s"}})).await;
    assert_eq!(status(&app, CORE).await.0, 200);
    assert_eq!(status(&app, QUERY).await.0, 200);
    org.expire_dc();
    let before = org.stats();
    // The practice org does not give an exchanged session again.
    for _ in 0..20 {
        assert_eq!(status(&app, QUERY).await.0, 200);
    }
    let after = org.stats();
    assert_eq!(status(&app, CORE).await.0, 200);
    assert!(
        after.logins - before.logins <= 1,
        "{} logins",
        after.logins - before.logins
    );
    app.stop().await;
    org.stop().await;
}

/// Promise 1: stage two refuses whatever it gets; the core is served as if it were not there.
#[tokio::test]
async fn a_stage_two_that_refuses_everything_leaves_core_calls_alone() {
    for code in [401, 403] {
        let (org, app) = start(Settings::practice().unwrap(), by_key, json!({})).await;
        assert_eq!(status(&app, CORE).await.0, 200);
        assert_eq!(status(&app, QUERY).await.0, 200);
        org.fail_api(a360(code, "{}"));
        org.expire_dc();
        assert_eq!(status(&app, QUERY).await.0, 503);
        // The core's session ends.
        assert!(org.revoke() >= 1);
        let core = status(&app, CORE).await;
        assert_eq!(core.0, 200, "{code}: {}", core.1);
        app.stop().await;
        org.stop().await;
    }
}

/// The second exchange of one forced renewal meets an outage: that says nothing of the core's token.
#[tokio::test]
async fn an_outage_after_a_forced_renewal_starts_no_cool_down_of_the_core() {
    let (org, app) = start(Settings::practice().unwrap(), by_key, json!({})).await;
    assert_eq!(status(&app, CORE).await.0, 200);
    assert_eq!(status(&app, QUERY).await.0, 200);
    org.revoke();
    org.expire_dc();
    // The first exchange meets the dead core token (401); the second a 503.
    org.fail_api(ApiFault {
        fail: 1,
        path_prefix: "/services/a360/token".into(),
        reply: Scripted::json(401, "{}"),
    });
    org.fail_api(ApiFault {
        fail: 1,
        path_prefix: "/services/a360/token".into(),
        reply: Scripted::json(503, "{}"),
    });
    status(&app, QUERY).await;
    assert!(org.revoke() >= 1);
    let core = status(&app, CORE).await;
    assert_eq!(core.0, 200, "{}", core.1);
    app.stop().await;
    org.stop().await;
}

/// a360 hangs: core calls go on, and the tenant's token in use stays.
#[tokio::test]
async fn a_stage_two_that_hangs_stops_nobody() {
    let settings = Settings {
        dc_token_life: Duration::from_secs(10),
        ..Settings::practice().unwrap()
    };
    let (org, app) = start(settings, by_key, json!({"token": {"refresh_wait": "2s"}})).await;
    assert_eq!(status(&app, CORE).await.0, 200);
    assert_eq!(status(&app, QUERY).await.0, 200);
    org.advance(Duration::from_secs(11));
    for _ in 0..3 {
        let reply = status(&app, QUERY).await;
        assert_eq!(reply.0, 200, "{}", reply.1);
        org.advance(Duration::from_secs(11));
    }
    app.stop().await;
    org.stop().await;
}

#[tokio::test]
async fn a_named_user_on_a_data_cloud_path() {
    let mut org = Org::start(Settings::practice().unwrap()).await.unwrap();
    let files = org.write_files(None).unwrap();
    let jwt = files.jwt.as_ref().unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0", "users": {"allow": ["*"]}}],
        "admin": {"address": "127.0.0.1:0"},
        "orgs": {"main": {"login_url": files.login_url, "grant": by_key(&files), "data_cloud": {}}},
        "upstream": {"ca_file": files.ca_file},
    });
    let config = config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let app = Arc::new(Running::start_with(config, tempfile::tempdir().unwrap()).await);
    // The grant's own user is the org's own identity.
    let line = format!("{QUERY}\nX-SFPROXY-User: {}", jwt.username);
    assert_eq!(status(&app, &line).await.0, 200);
    let line = format!("{QUERY}\nX-SFPROXY-User: other@practice.example");
    let reply = status(&app, &line).await;
    assert_eq!(reply.0, 403, "{reply:?}");
    assert!(reply.1.contains("SFPROXY_USER_NOT_SERVED"), "{reply:?}");
    // Without a name it is the org's own.
    assert_eq!(status(&app, QUERY).await.0, 200);
    assert!(
        org.requests(50)
            .iter()
            .all(|request| request.header("x-sfproxy-user").is_none())
    );
    Arc::into_inner(app).unwrap().stop().await;
    org.stop().await;
}

/// Data Cloud was taken from the user: the first five attempts (1, 2, 4, 8 s apart) cost one login of the core.
#[tokio::test]
async fn a_lasting_403_of_stage_two_is_no_steady_stream_of_logins() {
    let (org, app) = start(Settings::practice().unwrap(), by_key, json!({})).await;
    assert_eq!(status(&app, CORE).await.0, 200);
    assert_eq!(status(&app, QUERY).await.0, 200);
    org.fail_api(a360(403, "{}"));
    org.expire_dc();
    assert_eq!(status(&app, QUERY).await.0, 503);
    let before = org.stats();
    let attempts = |org: &Org| {
        let seen = org.requests(1000);
        seen.iter().filter(|request| request.target.contains("a360")).count()
    };
    crate::support::eventually("further attempts", || attempts(&org), |n| *n >= 6).await;
    let after = org.stats();
    assert!(
        after.logins - before.logins <= 1,
        "{} core logins",
        after.logins - before.logins
    );
    app.stop().await;
    org.stop().await;
}

/// Only Data Cloud is refused: the core's app is served, but a restarted pod never gets ready.
#[tokio::test]
async fn a_refused_data_cloud_does_not_keep_the_pod_from_starting() {
    let mut settings = Settings::practice().unwrap();
    settings.jwt_clients[0]
        .scopes
        .retain(|scope| !scope.starts_with("cdp_"));
    let (org, app) = start(settings, by_key, json!({})).await;
    assert_eq!(status(&app, CORE).await.0, 200);
    assert_eq!(status(&app, QUERY).await.0, 503);
    let reply = call(app.admin, "GET /startupz HTTP/1.1", b"").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    app.stop().await;
    org.stop().await;
}
