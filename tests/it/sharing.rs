//! Two proxies on one store, in one process: what they cost an org that misbehaves.

use std::path::Path;

use serde_json::json;
use sf_token_proxy::config::{self, Vars};

use crate::support::{RawOrg, Running, Script, call};

const GET: &str = "GET /services/data/v60.0/x HTTP/1.1";

async fn two(org: &RawOrg, folder: &Path) -> [Running; 2] {
    let (secret, key) = (folder.join("secret"), folder.join("key"));
    std::fs::write(&secret, "s").unwrap();
    std::fs::write(&key, "0123456789abcdef".repeat(4)).unwrap();
    let yaml = json!({
        "listeners": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
        "store": {"file": {"directory": folder.join("store"), "key": format!("file:{}", key.display())}},
        "orgs": {"main": {"login_url": org.url(), "grant": {"client_credentials": {
            "client_id": "app", "client_secret": format!("file:{}", secret.display()),
        }}}},
    });
    let config = || config::from_yaml(&yaml.to_string(), "test", &Vars::default()).unwrap();
    let first = Running::start_with(config(), tempfile::tempdir().unwrap()).await;
    assert!(call(first.proxy, GET, b"").await.status > 0);
    let second = Running::start_with(config(), tempfile::tempdir().unwrap()).await;
    [first, second]
}

/// The cool-down of each holds, whoever minted the refused token.
#[tokio::test]
async fn an_org_that_refuses_everything_costs_two_proxies_no_storm_of_logins() {
    for same in [false, true] {
        let org = RawOrg::start(|_| Script::expired()).await;
        if same {
            for _ in 0..100 {
                let body = format!(r#"{{"access_token":"00Dxx!same","instance_url":"{}"}}"#, org.url());
                org.next_login(&format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ));
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let apps = two(&org, folder.path()).await;
        for _ in 0..20 {
            for app in &apps {
                let reply = call(app.proxy, GET, b"").await;
                assert_eq!(reply.status, 401, "{}", reply.text());
            }
        }
        assert!(org.logins() <= 5, "{} logins, same: {same}", org.logins());
        for app in apps {
            app.stop().await;
        }
    }
}

/// A token of the other's may have died before it was looked at here.
#[tokio::test]
async fn a_token_of_the_others_that_died_meanwhile_is_renewed_within_the_call() {
    use std::sync::{Arc, Mutex};
    let dead: Arc<Mutex<Vec<String>>> = Arc::default();
    let refused = Arc::clone(&dead);
    let org = RawOrg::start(
        move |request| match refused.lock().unwrap().contains(&request.token().to_owned()) {
            true => Script::expired(),
            false => Script::ok(),
        },
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = two(&org, folder.path()).await;
    assert_eq!(call(second.proxy, GET, b"").await.status, 200);
    assert_eq!(org.logins(), 1, "the second took the first's");
    let revoke = || {
        let newest = org.seen().last().unwrap().token().to_owned();
        dead.lock().unwrap().push(newest);
    };
    for _ in 0..5 {
        revoke();
        assert_eq!(call(first.proxy, GET, b"").await.status, 200);
        revoke();
        // Its own is dead, and the one that it finds in the store is dead, too.
        assert_eq!(call(second.proxy, GET, b"").await.status, 200);
    }
    assert_eq!(org.logins(), 11, "one for each revocation");
    first.stop().await;
    second.stop().await;
}
