//! Durations, sizes, numbers, and the log.

use super::*;

#[test]
fn durations_sizes_and_numbers_are_checked_for_unit_and_range() {
    assert_table(&[
        (GOOD.into(), ""),
        (
            and("shutdown: {drain: 5M}"),
            "shutdown.drain: expected a duration, found `5M`: minutes are `m`; the units are h, m, s and ms",
        ),
        (
            and("shutdown: {drain: 5months}"),
            "shutdown.drain: expected a duration, found `5months`: that is too long; the units are h, m, s and ms",
        ),
        (
            and("shutdown: {drain: '90'}"),
            "shutdown.drain: expected a duration, found `90`: add a unit: h, m, s or ms",
        ),
        (
            and("shutdown: {drain: 61m}"),
            "shutdown.drain: expected 0s to 1h, found 1h1m",
        ),
        (and("shutdown: {drain: 0s}"), ""),
        (and("threads: two"), "threads: expected auto or 1 to 64, found `two`"),
        (and("threads: 65"), "threads: expected 1 to 64, found 65"),
        (
            and("reload: {interval: 999ms}"),
            "reload.interval: expected 1s to 1h, or 0s for only on SIGHUP, found 999ms",
        ),
        (
            and("shutdown: {delay: 11m}"),
            "shutdown.delay: expected 0s to 10m, found 11m",
        ),
        (
            and("admin: {startup_patience: 11m}"),
            "admin.startup_patience: expected 0s to 10m, found 11m",
        ),
        (
            and("upstream: {connect_timeout: 1ms}"),
            "upstream.connect_timeout: expected 100ms to 2m, found 1ms",
        ),
        (
            and("upstream: {response_timeout: 2h}"),
            "upstream.response_timeout: expected 1s to 1h, found 2h",
        ),
        (
            and("upstream: {body_idle_timeout: 0s}"),
            "upstream.body_idle_timeout: expected 1s to 1h, found 0s",
        ),
        (
            and("upstream: {pool_idle_timeout: 1h}"),
            "upstream.pool_idle_timeout: expected 1s to 10m, found 1h",
        ),
        (
            and("upstream: {pool_max_idle: -1}"),
            "upstream.pool_max_idle: expected 0 to 100000, found -1",
        ),
        (
            and("upstream: {ca_file: ''}"),
            "upstream.ca_file: expected the path of a file, found nothing",
        ),
        (
            and("replay: {max_body: 16M}"),
            "replay.max_body: expected a size, found `16M`: write MiB (1024 × 1024 bytes) or MB (1000 × 1000 bytes)",
        ),
        (
            and("replay: {max_body: 2GiB, total: 4GiB}"),
            "replay.max_body: expected 0B to 1GiB, found 2GiB",
        ),
        (
            and("replay: {max_body: 65MiB}"),
            "replay.max_body: expected at most replay.total (64MiB), found 65MiB; lower it or raise the other",
        ),
        (and("replay: {max_body: 64MiB}"), ""),
        (and("threads: 0"), "threads: expected 1 to 64, found 0"),
        (and("threads: 65"), "threads: expected 1 to 64, found 65"),
        (
            and("    token: {lifetime: 59s}"),
            "orgs.main.token.lifetime: expected 1m to 24h, found 59s",
        ),
        (
            and("    token: {lifetime: 25h}"),
            "orgs.main.token.lifetime: expected 1m to 24h, found 25h",
        ),
        (
            and("    token: {refresh_wait: 1ms}"),
            "orgs.main.token.refresh_wait: expected 100ms to 5m, found 1ms",
        ),
        (
            and("    token: {refresh_wait: 1m}\nupstream: {response_timeout: 1m}"),
            "orgs.main.token.refresh_wait: expected less than upstream.response_timeout (1m), found 1m; lower it or raise the other",
        ),
        (
            and("    token: {cool_down: 2h}"),
            "orgs.main.token.cool_down: expected 0s to 1h, found 2h",
        ),
        (
            and("    token: {max_waiters: 0}"),
            "orgs.main.token.max_waiters: expected 1 to 1000000, found 0",
        ),
        (
            and("    token: {exchange_timeout: 6m}"),
            "orgs.main.token.exchange_timeout: expected 1s to 5m, found 6m",
        ),
        (
            and("    login_budget: {burst: 0}"),
            "orgs.main.login_budget.burst: expected 1 to 3600, found 0",
        ),
        (
            and("    login_budget: {per_minute: 61}"),
            "orgs.main.login_budget.per_minute: expected 1 to 60, found 61",
        ),
        (
            and("    login_budget: {per_minute: 0}"),
            "orgs.main.login_budget.per_minute: expected 1 to 60, found 0",
        ),
        (
            and("listeners: [{max_connections: 0}]"),
            "listeners[0].max_connections: expected 1 to 1000000, found 0",
        ),
        (
            and("listeners: [{idle_timeout: 2h}]"),
            "listeners[0].idle_timeout: expected 1s to 1h, found 2h",
        ),
    ]);
}

#[test]
fn log_settings_are_checked() {
    let level = |found: &str| {
        format!(
            "log.level: expected error, warn, info, debug, trace or off, and `target=level` for more, separated by commas; found `{found}`"
        )
    };
    assert_eq!(
        told(&and("log: {format: xml}")),
        "log.format: expected auto, text or json, found `xml`"
    );
    for bad in [
        "inof",
        "",
        "info,,debug",
        "info,a b=debug",
        "info,sf_token_proxy",
        "=info",
        "a=",
        "5",
        "info,a=[b]=c",
    ] {
        assert_eq!(told(&and(&format!("log: {{level: '{bad}'}}"))), level(bad));
    }
    for good in [
        "info",
        "WARN",
        "off",
        "info, sf_token_proxy::token=debug",
        "a=off,b-c=trace",
    ] {
        assert_eq!(told(&and(&format!("log: {{level: '{good}'}}"))), "", "{good}");
    }
}
