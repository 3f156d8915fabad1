//! Probes and metrics.

use std::collections::BTreeSet;

use crate::support::{RawOrg, Running, Script, call};

#[tokio::test]
async fn the_admin_port_answers_its_paths_and_no_others() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    assert_eq!(call(app.proxy, "GET /services/data HTTP/1.1", b"").await.status, 200);
    for (line, status) in [
        ("GET /livez HTTP/1.1", 200),
        ("GET /startupz HTTP/1.1", 200),
        ("GET /readyz?verbose HTTP/1.1", 200),
        ("HEAD /readyz HTTP/1.1", 200),
        ("GET /metrics HTTP/1.1", 200),
        ("GET /nothing HTTP/1.1", 404),
        ("GET /services/data HTTP/1.1", 404),
        ("POST /readyz HTTP/1.1", 405),
    ] {
        let reply = call(app.admin, line, b"").await;
        assert_eq!(reply.status, status, "{line}");
        if status == 405 {
            assert_eq!(reply.header("allow"), ["GET, HEAD"]);
        }
    }
    assert_eq!(
        call(app.admin, "GET /readyz HTTP/1.1", b"").await.text(),
        "org main: live\n"
    );
    app.stop().await;
}

/// Names, labels and help texts are public API: a change here is a breaking change.
#[tokio::test]
async fn the_metric_families_are_the_documented_ones_and_exist_from_the_start() {
    let org = RawOrg::start(|_| Script::ok()).await;
    let app = Running::start(&org.url(), |_| {}).await;
    let page = call(app.admin, "GET /metrics HTTP/1.1", b"").await.text();
    let found: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter(|line| line.starts_with("sf_token_proxy_"))
        .collect();
    let expected: BTreeSet<&str> = "\
sf_token_proxy_build_info gauge
sf_token_proxy_cache_bytes gauge
sf_token_proxy_cache_entries gauge
sf_token_proxy_cache_requests_total counter
sf_token_proxy_config_last_reload_success_timestamp_seconds gauge
sf_token_proxy_config_last_reload_successful gauge
sf_token_proxy_config_reloads_total counter
sf_token_proxy_guard_refusals_total counter
sf_token_proxy_login_budget_remaining gauge
sf_token_proxy_org_api_requests_limit gauge
sf_token_proxy_org_api_requests_used gauge
sf_token_proxy_overhead_seconds histogram
sf_token_proxy_replay_bytes gauge
sf_token_proxy_replay_skipped_total counter
sf_token_proxy_request_duration_seconds histogram
sf_token_proxy_requests_in_flight gauge
sf_token_proxy_requests_total counter
sf_token_proxy_retries_total counter
sf_token_proxy_secret_last_reload_success_timestamp_seconds gauge
sf_token_proxy_secret_last_reload_successful gauge
sf_token_proxy_secret_reloads_total counter
sf_token_proxy_store_operations_total counter
sf_token_proxy_store_up gauge
sf_token_proxy_tls_handshake_failures_total counter
sf_token_proxy_token_assumed_lifetime_seconds gauge
sf_token_proxy_token_expiry_timestamp_seconds gauge
sf_token_proxy_token_keep_alives_total counter
sf_token_proxy_token_minted_timestamp_seconds gauge
sf_token_proxy_token_past_expiry gauge
sf_token_proxy_token_rejections_total counter
sf_token_proxy_token_request_duration_seconds histogram
sf_token_proxy_token_requests_total counter
sf_token_proxy_token_state gauge
sf_token_proxy_token_waiters gauge
sf_token_proxy_tokens_adopted_total counter
sf_token_proxy_upstream_connections gauge
sf_token_proxy_user_tokens gauge"
        .lines()
        .collect();
    assert_eq!(found, expected);
    for family in &expected {
        let name = family.split(' ').next().unwrap();
        assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        let series = page.lines().filter(|line| line.starts_with(name)).count();
        assert!(series > 0, "{name} has no series at the start");
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        assert!(
            line.starts_with("sf_token_proxy_") || line.starts_with("process_"),
            "{line}"
        );
    }
    app.stop().await;
}

#[tokio::test]
async fn calls_are_counted_by_what_came_of_them() {
    let org = RawOrg::start(|request| {
        if request.target().ends_with("missing") {
            Script::json("404 Not Found", "[]")
        } else {
            Script::ok()
        }
    })
    .await;
    let app = Running::start(&org.url(), |_| {}).await;
    for _ in 0..3 {
        call(app.proxy, "GET /services/data/v60.0/x HTTP/1.1", b"").await;
    }
    call(app.proxy, "GET /services/data/v60.0/missing HTTP/1.1", b"").await;
    call(app.proxy, "BREW /services/apexrest/pot HTTP/1.1", b"").await;
    call(app.proxy, "GET /secur/frontdoor.jsp HTTP/1.1", b"").await;
    let count = async |code: &str, method: &str, outcome: &str, surface: &str| {
        app.metric(&format!(
            "sf_token_proxy_requests_total{{code=\"{code}\",method=\"{method}\",org=\"main\",outcome=\"{outcome}\",surface=\"{surface}\"}}"
        ))
        .await
    };
    assert_eq!(count("200", "GET", "ok", "rest").await, 3.0);
    assert_eq!(count("404", "GET", "client_error", "rest").await, 1.0);
    assert_eq!(count("200", "OTHER", "ok", "apex_rest").await, 1.0);
    assert_eq!(count("403", "GET", "client_error", "none").await, 1.0);
    let whole = "sf_token_proxy_request_duration_seconds_count{org=\"main\",surface=\"rest\"}";
    assert_eq!(app.metric(whole).await, 4.0);
    assert_eq!(
        app.metric("sf_token_proxy_overhead_seconds_count{org=\"main\"}").await,
        5.0
    );
    assert_eq!(app.metric("sf_token_proxy_requests_in_flight{org=\"main\"}").await, 0.0);
    let logins =
        "sf_token_proxy_token_requests_total{grant=\"client_credentials\",org=\"main\",reason=\"none\",result=\"ok\"}";
    assert_eq!(app.metric(logins).await, 1.0);
    app.stop().await;
}
