//! Tables for every rule: what is written, and exactly what is said about it.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::{Vars, file::ListenerFile, from_yaml, load};

/// A good configuration; the tables change one line of it.
const GOOD: &str = "
orgs:
  main:
    login_url: https://acme.my.salesforce.com
    grant:
      jwt_bearer: {client_id: id, username: u@acme.example, private_key: 'file:/k.pem'}
";

const SECRET_GRANT: &str = "{client_credentials: {client_id: id, client_secret: 'env:S'}}";

fn told(yaml: &str) -> String {
    match from_yaml(yaml, "c.yaml", &Vars::default()) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

fn assert_table(table: &[(String, &str)]) {
    for (yaml, expected) in table {
        assert_eq!(told(yaml), *expected, "{yaml}");
    }
}

/// `GOOD` and more.
fn and(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

fn org_with(login_url: &str, grant: &str) -> String {
    format!("orgs: {{main: {{login_url: {login_url:?}, grant: {grant}}}}}")
}

fn jwt(fields: &str) -> String {
    org_with(
        "https://acme.my.salesforce.com",
        &format!("{{jwt_bearer: {{{fields}}}}}"),
    )
}

fn with_secret(secret: &str) -> String {
    org_with(
        "https://acme.my.salesforce.com",
        &format!("{{client_credentials: {{client_id: id, client_secret: {secret}}}}}"),
    )
}

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

#[test]
fn login_hosts_are_checked() {
    let jwt = "{jwt_bearer: {client_id: id, username: u@x, private_key: 'file:/k'}}";
    let table = [
        ("https://acme.my.salesforce.com", ""),
        ("https://acme.my.salesforce.com/", ""),
        ("https://ACME.my.salesforce.com:8443", ""),
        ("http://localhost:8443", ""),
        ("http://127.0.0.1:1", ""),
        ("http://[::1]:1", ""),
        ("https://login.salesforce.com", ""),
        (
            "",
            "expected the org's My Domain URL, such as `https://acme.my.salesforce.com`, found nothing",
        ),
        (
            "acme.my.salesforce.com",
            "expected a URL such as `https://acme.my.salesforce.com`, found `acme.my.salesforce.com`",
        ),
        (
            "http://acme.my.salesforce.com",
            "expected https:// (http:// only to loopback), found `http`",
        ),
        (
            "http://localhost.evil.example",
            "expected https:// (http:// only to loopback), found `http`",
        ),
        (
            "ftp://localhost",
            "expected https:// (http:// only to loopback), found `ftp`",
        ),
        (
            "https://acme.my.salesforce.com/services/oauth2/token",
            "expected only scheme, host and port, found more; write https://acme.my.salesforce.com",
        ),
        (
            "https://acme.my.salesforce.com?sid=hunter2",
            "expected only scheme, host and port, found more; write https://acme.my.salesforce.com",
        ),
        (
            "https://acme.my.salesforce.com#hunter2",
            "expected only scheme, host and port, found more; write https://acme.my.salesforce.com",
        ),
        (
            "https://me:hunter2@acme.my.salesforce.com",
            "holds a user name or password (not shown); the grant belongs under `grant`",
        ),
        (
            "https://me:hunter2@ac me",
            "expected a URL such as `https://acme.my.salesforce.com`, found something else (not shown)",
        ),
        (
            "https://acme.lightning.force.com",
            "`acme.lightning.force.com` serves web pages and takes no logins or API calls; use the My Domain URL, likely https://acme.my.salesforce.com",
        ),
        (
            "https://acme.sfcrmapps.cn",
            "`acme.sfcrmapps.cn` serves web pages and takes no logins or API calls; use the My Domain URL, likely https://acme.my.salesforce.com",
        ),
        (
            "https://acme.my.salesforce-setup.com",
            "`acme.my.salesforce-setup.com` is a set-up page, which gives no tokens; use the My Domain URL (`https://….my.salesforce.com`)",
        ),
    ];
    for (url, expected) in table {
        let expected = match expected {
            "" => String::new(),
            text => format!("orgs.main.login_url: {text}"),
        };
        assert_eq!(told(&org_with(url, jwt)), expected, "{url}");
    }
    assert_eq!(
        told(&and("    instance_url: https://acme.lightning.force.com")),
        "orgs.main.instance_url: `acme.lightning.force.com` serves web pages and takes no logins or API calls; use the My Domain URL, likely https://acme.my.salesforce.com"
    );
}

#[test]
fn client_credentials_need_my_domain() {
    for host in ["login.salesforce.com", "test.salesforce.com"] {
        assert_eq!(
            told(&org_with(&format!("https://{host}"), SECRET_GRANT)),
            format!(
                "orgs.main.login_url: client_credentials does not work on {host}; use the org's My Domain URL, such as `https://acme.my.salesforce.com`"
            )
        );
    }
    assert_eq!(told(&org_with("https://acme.my.salesforce.com", SECRET_GRANT)), "");
}

#[test]
fn orgs_and_grants_are_checked() {
    let org = "{login_url: 'https://a.my.salesforce.com', grant: {client_credentials: {client_id: id, client_secret: 'env:S'}}}";
    assert_table(&[
        (
            "".into(),
            "orgs: expected at least one org, found none; add `orgs: {main: {login_url: …, grant: …}}`",
        ),
        (
            format!("orgs: {{a: {org}, b: {org}}}\nlisteners: [{{org: a}}]"),
            "orgs.b: no listener leads to it; add one with `org: b`, or take the org out",
        ),
        (
            format!("orgs: {{a: {org}, b: {org}}}\nlisteners: [{{org: a}}, {{org: b, address: 'localhost:1'}}]"),
            "",
        ),
        (
            format!("orgs: {{a: {org}, b: {org}}}\nlisteners: [{{}}]"),
            "listeners[0].org: expected the org that calls go to, one of a, b, found nothing",
        ),
        (
            format!("orgs: {{Main: {org}}}"),
            "orgs.Main: expected a name of 1 to 63 of a-z, 0-9, - and _, found `Main`",
        ),
        (
            format!("orgs: {{a.b: {org}}}"),
            "orgs.a.b: expected a name of 1 to 63 of a-z, 0-9, - and _, found `a.b`",
        ),
        (
            org_with("https://a.my.salesforce.com", "{}"),
            "orgs.main.grant: expected exactly one of jwt_bearer, client_credentials, refresh_token, password, token_exchange, saml_bearer, oauth2_client_credentials, static, command; found none",
        ),
        (
            jwt("client_id: id, username: u@x, private_key: 'file:/k'").replace(
                "{jwt_bearer",
                "{client_credentials: {client_id: id, client_secret: 'env:S'}, jwt_bearer",
            ),
            "orgs.main.grant: expected exactly one of jwt_bearer, client_credentials, refresh_token, password, token_exchange, saml_bearer, oauth2_client_credentials, static, command; found jwt_bearer, client_credentials",
        ),
        (
            jwt(""),
            "orgs.main.grant.jwt_bearer.client_id: expected the consumer key of the app, found nothing\n\
            orgs.main.grant.jwt_bearer.username: expected a Salesforce user name, such as `integration@acme.example`, found nothing\n\
            orgs.main.grant.jwt_bearer.private_key: expected a reference: `file:/run/secrets/sf/key.pem` or `env:NAME`, found nothing",
        ),
        (
            jwt("client_id: 'a b', username: bob, private_key: 'file:/k', audience: acme"),
            "orgs.main.grant.jwt_bearer.client_id: expected the consumer key of the app, found text with blanks in it\n\
            orgs.main.grant.jwt_bearer.username: expected a Salesforce user name in the form of an e-mail address, found `bob`\n\
            orgs.main.grant.jwt_bearer.audience: expected a URL such as `https://login.salesforce.com`, found `acme`",
        ),
        (
            org_with(
                "https://a.my.salesforce.com",
                "{client_credentials: {client_id: i, client_secret: 'env:S', send_secret: header}}",
            ),
            "orgs.main.grant.client_credentials.send_secret: expected basic or body, found `header`",
        ),
        // What was taken out because it does not fit is not reported as missing.
        (
            jwt("client_id: 5, username: u@x, private_key: 'file:/k'"),
            "orgs.main.grant.jwt_bearer.client_id: expected text, found a number; write it in quotes",
        ),
    ]);
}

/// An org with this grant and more settings of it.
fn granted(grant: &str, more: &str) -> String {
    format!(
        "orgs: {{main: {{login_url: https://acme.my.salesforce.com, instance_url: https://acme.my.salesforce.com, grant: {{{grant}}}, {more}}}}}"
    )
}

/// A good one of each grant.
const GRANTS: [&str; 9] = [
    "jwt_bearer: {client_id: i, username: u@x, private_key: 'env:K'}",
    "client_credentials: {client_id: i, client_secret: 'env:S'}",
    "refresh_token: {client_id: i, client_secret: 'env:S', refresh_token: 'env:R', rotation: off, send_secret: basic, login: {callback_url: 'http://127.0.0.1:5/cb', scopes: [offline_access]}}",
    "password: {client_id: i, client_secret: 'env:S', username: u@x, password: 'env:P', security_token: 'env:T'}",
    "token_exchange: {client_id: i, client_secret: 'env:S', subject_token: 'env:T', subject_token_type: saml2, scope: 'api id', token_handler: ns__Map}",
    "saml_bearer: {client_id: i, username: u@x, private_key: 'env:K', audience: 'https://a.example'}",
    "oauth2_client_credentials: {token_path: '/t?x=1', body: json, client_id: i, client_secret: 'env:S', parameters: {'a b': '510', scope: 'x: y'}}",
    "static: {access_token: 'env:T'}",
    "command: {run: [sf, '--json', 'a b']}",
];

#[test]
fn every_grant_says_what_it_needs() {
    for good in GRANTS {
        assert_eq!(told(&granted(good, "")), "", "{good}");
    }
    let reference =
        |name: &str| format!("expected a reference: `file:/run/secrets/sf/{name}` or `env:NAME`, found nothing");
    let id = "expected the consumer key of the app, found nothing".to_owned();
    let user = "expected a Salesforce user name, such as `integration@acme.example`, found nothing".to_owned();
    for (grant, expected) in [
        ("refresh_token", vec![("client_id", id.clone())]),
        (
            "password",
            vec![
                ("client_id", id.clone()),
                ("client_secret", reference("client-secret")),
                ("username", user.clone()),
                ("password", reference("password")),
            ],
        ),
        (
            "token_exchange",
            vec![("client_id", id.clone()), ("subject_token", reference("subject-token"))],
        ),
        (
            "saml_bearer",
            vec![
                ("client_id", id.clone()),
                ("username", user),
                ("private_key", reference("key.pem")),
            ],
        ),
        (
            "oauth2_client_credentials",
            vec![
                (
                    "token_path",
                    "expected the path of the token endpoint, such as `/v2/token`, found nothing".into(),
                ),
                ("client_id", id),
                ("client_secret", reference("client-secret")),
            ],
        ),
        ("static", vec![("access_token", reference("access-token"))]),
        (
            "command",
            vec![(
                "run",
                "expected program and arguments, such as [sf, org, display, --json, --target-org, dev], found nothing"
                    .into(),
            )],
        ),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(key, text)| format!("orgs.main.grant.{grant}.{key}: {text}"))
            .collect();
        assert_eq!(told(&granted(&format!("{grant}: {{}}"), "")), expected.join("\n"));
    }
}

#[test]
fn what_a_grant_cannot_take_is_refused() {
    let at = |grant: &str, fields: &str| told(&granted(&format!("{grant}: {{{fields}}}"), ""));
    let refresh = |fields: &str| at("refresh_token", &format!("client_id: i, {fields}"));
    let exchange = |fields: &str| {
        at(
            "token_exchange",
            &format!("client_id: i, subject_token: 'env:T', {fields}"),
        )
    };
    let platform = |fields: &str| {
        at(
            "oauth2_client_credentials",
            &format!("client_id: i, client_secret: 'env:S', {fields}"),
        )
    };
    let callback = |url: &str| refresh(&format!("login: {{callback_url: '{url}'}}"));
    let expected_callback = "orgs.main.grant.refresh_token.login.callback_url: expected http, loopback and a port, such as `http://localhost:1717/OauthRedirect`, found ";
    for (text, expected) in [
        (
            refresh("client_secret: 'env:S', private_key: 'env:K'"),
            "orgs.main.grant.refresh_token: expected client_secret or private_key or neither, found both; Salesforce would not read the key's proof".to_owned(),
        ),
        (
            refresh("rotation: on"),
            "orgs.main.grant.refresh_token.rotation: expected auto or off, found `on`".into(),
        ),
        (
            refresh("send_secret: header"),
            "orgs.main.grant.refresh_token.send_secret: expected basic or body, found `header`".into(),
        ),
        (
            refresh("login: {scopes: [api]}"),
            "orgs.main.grant.refresh_token.login.scopes: expected refresh_token among them, since without it a login brings no refresh token; add it".into(),
        ),
        (
            refresh("login: {scopes: ['api refresh_token']}"),
            "orgs.main.grant.refresh_token.login.scopes: expected a list of scopes, each a word, such as [api, refresh_token]".into(),
        ),
        (
            callback("https://localhost:1717/cb"),
            format!("{expected_callback}`https://localhost:1717/cb`"),
        ),
        (
            callback("http://app.example:1717/cb"),
            format!("{expected_callback}`http://app.example:1717/cb`"),
        ),
        (
            callback("http://localhost/cb"),
            format!("{expected_callback}`http://localhost/cb`"),
        ),
        (
            callback("http://localhost:1717/cb?x=1"),
            format!("{expected_callback}something else (not shown)"),
        ),
        (
            callback("http://LOCALHOST:1717"),
            "orgs.main.grant.refresh_token.login.callback_url: expected the form `http://localhost:1717/`; write it so here and in the app's callback URLs".into(),
        ),
        (
            exchange("subject_token_type: opaque"),
            "orgs.main.grant.token_exchange.subject_token_type: expected one of jwt, id_token, access_token, refresh_token, saml2, found `opaque`".into(),
        ),
        (
            exchange("token_handler: 'a b'"),
            "orgs.main.grant.token_exchange.token_handler: expected a plain word, found `a b`".into(),
        ),
        (
            platform("token_path: '//evil.example/t'"),
            "orgs.main.grant.oauth2_client_credentials.token_path: expected a path such as `/v2/token`, found `//evil.example/t`".into(),
        ),
        (
            platform("token_path: '/a\\b'"),
            "orgs.main.grant.oauth2_client_credentials.token_path: expected a path such as `/v2/token`, found `/a\\\\b`".into(),
        ),
        (
            platform("token_path: /t, body: xml"),
            "orgs.main.grant.oauth2_client_credentials.body: expected form or json, found `xml`".into(),
        ),
        (
            platform("token_path: /t, parameters: {client_secret: hunter2}"),
            "orgs.main.grant.oauth2_client_credentials.parameters.client_secret: the grant says it itself; take it out here (not shown, it may be a secret)".into(),
        ),
        (
            platform("token_path: /t, parameters: {account_id: 510}"),
            "orgs.main.grant.oauth2_client_credentials.parameters.account_id: expected text, found a number; write it in quotes".into(),
        ),
        (
            at("command", "run: ['']"),
            "orgs.main.grant.command.run: expected program and arguments, such as [sf, org, display, --json, --target-org, dev], found an empty program".into(),
        ),
        (
            at("saml_bearer", "client_id: i, username: u@x, private_key: 'env:K', audience: \"https://a\\n.example\""),
            "orgs.main.grant.saml_bearer.audience: expected a URL such as `https://login.salesforce.com`, found `https://a\\n.example`".into(),
        ),
    ] {
        assert_eq!(text, expected);
    }
    for host in ["login.salesforce.com", "test.salesforce.com"] {
        let grant = "{token_exchange: {client_id: i, subject_token: 'env:T'}}";
        assert_eq!(
            told(&org_with(&format!("https://{host}"), grant)),
            format!(
                "orgs.main.login_url: token_exchange does not work on {host}; use the org's My Domain URL, such as `https://acme.my.salesforce.com`"
            )
        );
    }
}

#[test]
fn hosts_that_nobody_tells_are_asked_for() {
    let org = |grant: &str, more: &str| {
        from_yaml(
            &format!("orgs: {{main: {{grant: {{{grant}}}, {more}}}}}"),
            "c.yaml",
            &Vars::default(),
        )
    };
    let text = |grant: &str, more: &str| org(grant, more).err().map(|p| p.to_string()).unwrap_or_default();
    let [jwt, .., stat, command] = GRANTS;
    assert_eq!(
        text(stat, ""),
        "orgs.main.instance_url: expected the org's URL, such as `https://acme.my.salesforce.com`, found nothing; the grant static tells none"
    );
    let login = |grant: &str, more: &str| org(grant, more).unwrap().orgs.into_values().next().unwrap().login.url;
    assert_eq!(
        login(stat, "instance_url: 'https://a.example'").as_str(),
        "https://a.example/"
    );
    assert_eq!(login(command, "").as_str(), "https://login.salesforce.com/");
    assert_eq!(
        login(command, "login_url: 'https://b.example'").as_str(),
        "https://b.example/"
    );
    assert!(text(jwt, "").starts_with("orgs.main.login_url: expected the org's My Domain URL"));
    assert_eq!(
        text(jwt, "login_url: 'https://a.example', api: {host: other}"),
        "orgs.main.instance_url: expected the URL of the API, such as `https://pi.pardot.com`, found nothing; set it, or `api.host_field`"
    );
    assert_eq!(
        text(
            jwt,
            "login_url: 'https://a.example', api: {host: other, host_field: x_url}"
        ),
        ""
    );
}

#[test]
fn what_is_called_is_checked() {
    let [jwt, secret, refresh, password, .., platform, stat, command] = GRANTS;
    let header = |name: &str| format!("api: {{headers: {{{name}: x}}}}");
    let alone = "is set by the proxy or the connection alone; choose another header";
    for (grant, more, expected) in [
        (secret, "api: {host: cloud}".to_owned(), "api.host: expected instance, platform or other, found `cloud`".to_owned()),
        (secret, "api: {host: platform}".into(), String::new()),
        (secret, "api: {host: platform, url: 'http://api.example'}".into(), "api.url: expected https:// (http:// only to loopback), found `http`".into()),
        (secret, "api: {url: 'https://api.example'}".into(), "api.url: counts with `host: platform` only, found `instance`; take it out".into()),
        (secret, "api: {host_field: x}".into(), "api.host_field: counts with `host: other` only, found `instance`; take it out".into()),
        (secret, "api: {host: platform, also: {/x: y}}".into(), "api.also: counts with `host: other` only, found `platform`; take it out".into()),
        (secret, "api: {host: other, host_field: 'a b'}".into(), "api.host_field: expected the name of a field of the token answer, such as rest_instance_url, found `a b`".into()),
        (secret, "api: {host: other, also: {x: y}}".into(), "api.also.x: expected a path that begins with `/`, without `..`, `//`, `%`, `?`, `#` or blanks, found `x`".into()),
        (stat, "api: {host: other, host_field: x}".into(), "api.host_field: the grant static has no token answer to read; set `instance_url`".into()),
        (secret, header("X-Own"), String::new()),
        (secret, header("Authorization"), format!("api.headers.Authorization: authorization {alone}")),
        (secret, header("Transfer-Encoding"), format!("api.headers.Transfer-Encoding: transfer-encoding {alone}")),
        (secret, header("host"), format!("api.headers.host: host {alone}")),
        (secret, header("Cookie"), format!("api.headers.Cookie: cookie {alone}")),
        (secret, header("content-length"), format!("api.headers.content-length: content-length {alone}")),
        (secret, header("'a b'"), "api.headers.a b: expected the name of a header, found `a b`".into()),
        (secret, "api: {headers: {X-A: \"a\\nb\"}}".into(), "api.headers.X-A: expected a text that fits a header, found control characters (not shown)".into()),
        (secret, "api: {headers: {X-A: a, x-a: b}}".into(), "api.headers: x-a stands twice; keep one".into()),
        (secret, "token: {introspect: true}".into(), String::new()),
        (refresh, "token: {introspect: true}".into(), String::new()),
        (jwt, "token: {introspect: true}".into(), "token.introspect: needs the grant client_credentials, or refresh_token or token_exchange with a client_secret; found jwt_bearer; set it to false".into()),
        (password, "token: {introspect: true}".into(), "token.introspect: needs the grant client_credentials, or refresh_token or token_exchange with a client_secret; found password; set it to false".into()),
        (platform, "token: {introspect: true}".into(), "token.introspect: needs the grant client_credentials, or refresh_token or token_exchange with a client_secret; found oauth2_client_credentials; set it to false".into()),
        (command, "token: {keep_alive: true}".into(), String::new()),
        (secret, "token: {keep_alive: true}, api: {host: other}".into(), "token.keep_alive: works with `api.host: instance` only, found `other`; set it to false".into()),
        (secret, "data_cloud: {}".into(), String::new()),
        (stat, "data_cloud: {dataspace: sales_1}".into(), String::new()),
        (secret, "data_cloud: {}, api: {host: platform}".into(), "data_cloud: works with `api.host: instance` only, found `platform`; take one of them out".into()),
        (secret, "data_cloud: {dataspace: 'a b'}".into(), "data_cloud.dataspace: expected the API name of a dataspace (A-Z, a-z, 0-9, _), found `a b`".into()),
        (secret, "data_cloud: {renew_before: 29s}".into(), "data_cloud.renew_before: expected 30s to 1h, found 29s".into()),
        (secret, "cache: {}".into(), String::new()),
        (secret, "cache: {ttl: 24h, max_size: 64KiB, max_entry: 64KiB, paths: [/services/data/*/theme, /services/apexrest/a/]}".into(), String::new()),
        (secret, "cache: {}, api: {host: platform}".into(), "cache: works with `api.host: instance` only, found `platform`; take one of them out".into()),
        (secret, "cache: {ttl: 0s}".into(), "cache.ttl: expected 1s to 24h, found 0s".into()),
        (secret, "cache: {max_size: 1KiB}".into(), "cache.max_size: expected 64KiB to 4GiB, found 1KiB".into()),
        (secret, "cache: {max_size: 64KiB}".into(), "cache.max_entry: expected at most max_size (64KiB), found 1MiB; lower it or raise the other".into()),
        (secret, "cache: {paths: ['/services/data/v*/x']}".into(), "cache.paths[0]: expected `*` as a whole segment, as in `/services/data/*/theme`, found `/services/data/v*/x`".into()),
        (secret, "cache: {paths: [/services/data/]}".into(), "cache.paths[0]: expected a path under /services/data/ or /services/apexrest/, found `/services/data/`".into()),
        (secret, "cache: {paths: [/services/oauth2/userinfo]}".into(), "cache.paths[0]: expected a path under /services/data/ or /services/apexrest/, found `/services/oauth2/userinfo`".into()),
        (secret, "cache: {paths: ['/services/data/../x']}".into(), "cache.paths[0]: expected a path that begins with `/`, without `..`, `//`, `%`, `?`, `#` or blanks, found `/services/data/../x`".into()),
        (secret, "data_cloud: {renew_age: 3h}".into(), "data_cloud.renew_age: expected 1m to 2h, found 3h".into()),
    ] {
        let expected = match expected.is_empty() {
            true => expected,
            false => format!("orgs.main.{expected}"),
        };
        assert_eq!(told(&granted(grant, &more)), expected, "{more}");
    }
}

#[test]
fn users_and_stores_are_checked() {
    let [jwt, secret, ..] = GRANTS;
    let with = |grant: &str, users: &str| format!("{}\nlisteners: [{{users: {{{users}}}}}]", granted(grant, ""));
    let store = |text: &str| and(&format!("store: {text}"));
    assert_table(&[
        (with(jwt, "allow: ['*@acme.example', u@x]"), ""),
        (
            with(jwt, ""),
            "listeners[0].users.allow: expected user names or patterns, such as `*@acme.example`, found nothing",
        ),
        (
            with(jwt, "allow: [bob]"),
            "listeners[0].users.allow[0]: expected a user name or a pattern, such as `*@acme.example`, found `bob`",
        ),
        (
            with(jwt, "allow: ['*'], header: Authorization"),
            "listeners[0].users.header: authorization is set by the proxy or the connection alone; choose another header",
        ),
        (
            with(
                jwt,
                "allow: ['*'], max: 0, idle: 59s, login_budget: {burst: 0, per_minute: 3601}",
            ),
            "listeners[0].users.max: expected 1 to 100000, found 0\n\
             listeners[0].users.idle: expected 1m to 24h, found 59s\n\
             listeners[0].users.login_budget.burst: expected 1 to 3600, found 0\n\
             listeners[0].users.login_budget.per_minute: expected 1 to 3600, found 3601",
        ),
        (
            with(secret, "allow: ['*']"),
            "listeners[0].users: needs an org with the grant jwt_bearer, found client_credentials; take it out",
        ),
        (
            store("{file: {directory: /d, key: 'env:K', previous_key: 'env:P'}}"),
            "",
        ),
        (
            store("{}"),
            "store: expected `file: {directory: …, key: …}`, found nothing; leave `store` out to keep tokens in memory",
        ),
        (
            store("{file: {directory: d, key: hunter2}}"),
            "store.file.directory: expected an absolute path, found `d`\n\
             store.file.key: expected a reference: `file:/run/secrets/sf/store-key` or `env:NAME`, found something else (not shown); a secret may not stand in the configuration itself",
        ),
        (
            store("{file: {}}"),
            "store.file.directory: expected the path of a folder, found nothing\n\
             store.file.key: expected a reference: `file:/run/secrets/sf/store-key` or `env:NAME`, found nothing",
        ),
    ]);
}

#[test]
fn a_secret_is_a_reference_and_never_quoted() {
    const AT: &str = "orgs.main.grant.client_credentials.client_secret: expected ";
    let reference = "a reference: `file:/run/secrets/sf/client-secret` or `env:NAME`, found ";
    for good in ["file:/s", "'env:S'", "{file: /s}", "{env: S_1}", "'file: /s'"] {
        assert_eq!(told(&with_secret(good)), "", "{good}");
    }
    let inline = format!("{reference}something else (not shown); a secret may not stand in the configuration itself");
    let name = "the name of an environment variable after `env:` (A-Z, 0-9, _), found something else (not shown)";
    let content = "the path of a file, found its content (not shown)";
    let table = [
        ("hunter2", inline.as_str()),
        ("'vault:hunter2'", &inline),
        ("{}", &inline),
        ("{file: /hunter2, env: hunter2}", &format!("{reference}both")),
        ("'env:hunter2-x'", name),
        ("'env:2hunter2'", name),
        ("{env: ''}", name),
        ("'file:'", "the path of a file, found nothing"),
        ("\"file:-----BEGIN PRIVATE KEY-----hunter2\"", content),
        ("\"file:/a\\nhunter2\"", content),
    ];
    for (secret, expected) in table {
        let text = told(&with_secret(secret));
        assert_eq!(text, format!("{AT}{expected}"), "{secret}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn the_audience_of_every_kind_of_login_host() {
    for (login, audience) in [
        ("https://login.salesforce.com", "https://login.salesforce.com"),
        ("https://test.salesforce.com/", "https://test.salesforce.com"),
        ("https://acme.my.salesforce.com", "https://login.salesforce.com"),
        ("https://ACME.my.salesforce.com./x?y", "https://login.salesforce.com"),
        (
            "https://acme-dev-ed.develop.my.salesforce.com",
            "https://login.salesforce.com",
        ),
        (
            "https://acme.trailblaze.my.salesforce.com",
            "https://login.salesforce.com",
        ),
        (
            "https://acme--uat.sandbox.my.salesforce.com",
            "https://test.salesforce.com",
        ),
        (
            "https://page-1-dev-ed.scratch.my.salesforce.com",
            "https://test.salesforce.com",
        ),
        ("https://sandbox.my.salesforce.com", "https://login.salesforce.com"),
        ("https://acme.my.site.com/portal/", "https://acme.my.site.com"),
        ("https://acme.my.salesforce.mil", "https://acme.my.salesforce.mil"),
        ("https://acme.my.sfcrmproducts.cn", "https://acme.my.sfcrmproducts.cn"),
        ("https://login.acme.com:8443/", "https://login.acme.com:8443"),
        ("https://evilmy.salesforce.com", "https://evilmy.salesforce.com"),
        ("http://127.0.0.1:9443/", "http://127.0.0.1:9443"),
        ("http://[::1]:9443/", "http://[::1]:9443"),
    ] {
        assert_eq!(audience_for(&login.parse().unwrap()), audience, "{login}");
    }
}

#[test]
fn addresses_are_checked() {
    let bad = |at: &str, found: &str| {
        format!(
            "{at}: expected localhost:PORT, *:PORT (every address), IP:PORT or [IPv6]:PORT, found `{found}`; names other than localhost are not taken"
        )
    };
    for text in [
        "8080",
        ":8080",
        "localhost",
        "localhost:+80",
        "localhost:65536",
        "sf.internal:80",
        "127.0.0.1",
        "::1:80x",
    ] {
        assert_eq!(
            told(&and(&format!("listeners: [{{address: '{text}'}}]"))),
            bad("listeners[0].address", text)
        );
        assert_eq!(
            told(&and(&format!("admin: {{address: ['[::]:1', '{text}']}}"))),
            bad("admin.address[1]", text)
        );
    }
    assert_table(&[
        (
            and("listeners: []"),
            "listeners: expected at least one, found none; leave the key out for localhost:8080",
        ),
        (
            and("listeners: [{address: []}]"),
            "listeners[0].address: expected at least one address, found an empty list",
        ),
        (
            and("listeners: [{address: '0.0.0.0:8080'}]"),
            "listeners[0].address: 0.0.0.0:8080 is not loopback: whoever reaches it acts as the org's user, and this version cannot authenticate callers yet; use localhost:8080, or set insecure_allow_any_caller: true beside it",
        ),
        (
            and("listeners: [{address: ['127.0.0.1:1', '[2001:db8::1]:2']}]"),
            "listeners[0].address: [2001:db8::1]:2 is not loopback: whoever reaches it acts as the org's user, and this version cannot authenticate callers yet; use localhost:2, or set insecure_allow_any_caller: true beside it",
        ),
        (
            and("listeners: [{address: '0.0.0.0:8080', insecure_allow_any_caller: true}]"),
            "",
        ),
        (and("admin: {address: '[::]:9090'}"), ""),
        (and("admin: {address: '*:9090'}"), ""),
        (
            and("admin: {address: '*:8080'}"),
            "admin.address: 0.0.0.0:8080 is taken by listeners[0].address (127.0.0.1:8080); choose another port",
        ),
        (
            and("admin: {address: 'localhost:8080'}"),
            "admin.address: 127.0.0.1:8080 is taken by listeners[0].address (127.0.0.1:8080); choose another port",
        ),
        (
            and("admin: {address: '0.0.0.0:8080'}"),
            "admin.address: 0.0.0.0:8080 is taken by listeners[0].address (127.0.0.1:8080); choose another port",
        ),
        (
            and("listeners: [{}, {}]"),
            "listeners[1].address: 127.0.0.1:8080 is taken by listeners[0].address (127.0.0.1:8080); choose another port",
        ),
        (
            and("listeners: [{address: '127.0.0.1:0'}, {address: '127.0.0.1:0'}]"),
            "",
        ),
        (
            and("listeners: [{org: dev}]"),
            "listeners[0].org: expected one of the configured orgs (main), found `dev`",
        ),
    ]);
}

#[test]
fn names_origins_and_paths_are_checked() {
    let host = |found: &str| {
        format!("listeners[0].hosts[0]: expected a host name without scheme, port or wildcard, found `{found}`")
    };
    for bad in ["", "a:80", "https://a", "*.a", "a..b", "a/b", "a b"] {
        assert_eq!(told(&and(&format!("listeners: [{{hosts: ['{bad}']}}]"))), host(bad));
    }
    let long = "a".repeat(64);
    assert!(told(&and(&format!("listeners: [{{hosts: ['{long}']}}]"))).starts_with("listeners[0].hosts[0]: expected"));
    let origin = |found: &str| {
        format!("listeners[0].allowed_origins[0]: expected an origin such as `https://app.example`, found {found}")
    };
    for bad in [
        "*",
        "null",
        "app.example",
        "https://app.example/x",
        "https://*.example",
        "https://a/b c",
        "file:///x",
    ] {
        assert_eq!(
            told(&and(&format!("listeners: [{{allowed_origins: ['{bad}']}}]"))),
            origin(&format!("`{bad}`"))
        );
    }
    assert_eq!(
        told(&and("listeners: [{allowed_origins: ['https://u:hunter2@a']}]")),
        origin("something else (not shown)")
    );
    let path = |found: &str| {
        format!(
            "listeners[0].extra_paths[0]: expected a path that begins with `/`, without `..`, `//`, `%`, `?`, `#` or blanks, found `{found}`"
        )
    };
    for bad in [
        "", "a", "/a/../b", "/a/..", "/a//b", "/a%2e/", "/a?b", "/a#b", "/a b", "/./a",
    ] {
        assert_eq!(
            told(&and(&format!("listeners: [{{extra_paths: ['{bad}']}}]"))),
            path(bad)
        );
    }
    let never = |found: &str, never: &str| {
        format!(
            "listeners[0].extra_paths[0]: `{found}` would open {never}, where a token may never go; name a narrower path"
        )
    };
    for (bad, reached) in [
        ("/", "/secur/"),
        ("/secur/", "/secur/"),
        ("/SECUR/frontdoor.jsp", "/secur/"),
        ("/services/", "/services/oauth2/"),
        ("/services/oauth2/", "/services/oauth2/"),
        ("/services/oauth2/singleaccess", "/services/oauth2/"),
        ("/services/oauth2", "/services/oauth2/"),
    ] {
        assert_eq!(
            told(&and(&format!("listeners: [{{extra_paths: ['{bad}']}}]"))),
            never(bad, reached)
        );
    }
    let good = and(
        "listeners: [{hosts: [SF.example.internal], allowed_origins: ['https://App.example:443/'], extra_paths: [/services/other/, /security, /x]}]",
    );
    let config = from_yaml(&good, "c.yaml", &Vars::default()).unwrap();
    let listener = &config.listeners[0];
    assert_eq!(listener.hosts, ["sf.example.internal"]);
    assert_eq!(listener.allowed_origins, ["https://app.example"]);
    assert_eq!(listener.extra_paths, ["/services/other/", "/security", "/x"]);
}

#[test]
fn tls_takes_exactly_one_form() {
    let table = [
        ("{certificate_file: /c, key_file: k}", ""),
        ("{generate_in: /a}", ""),
        (
            "{}",
            "listeners[0].tls: expected certificate_file and key_file, or generate_in, found nothing; leave `tls` out for plain http",
        ),
        (
            "",
            "listeners[0].tls: found nothing, where the key alone turns something on; give its settings (`{}` for the defaults), or take it out",
        ),
        (
            "{certificate_file: /c}",
            "listeners[0].tls.key_file: expected the path of a file beside certificate_file, found nothing",
        ),
        (
            "{key_file: /k}",
            "listeners[0].tls.certificate_file: expected the path of a file beside key_file, found nothing",
        ),
        (
            "{generate_in: /a, key_file: /k}",
            "listeners[0].tls: expected either generate_in, or certificate_file and key_file, found both; take one out",
        ),
        (
            "{generate_in: a}",
            "listeners[0].tls.generate_in: expected an absolute path, found `a`",
        ),
        (
            "{certificate_file: /c, key_file: '-----BEGIN hunter2'}",
            "listeners[0].tls.key_file: expected the path of a file, found its content (not shown)",
        ),
        (
            "{generate_to: /a}",
            "listeners[0].tls.generate_to: unknown key; did you mean `generate_in`? (known here: certificate_file, generate_in, key_file)",
        ),
    ];
    for (tls, expected) in table {
        let text = told(&and(&format!("listeners:\n  - tls: {tls}")));
        // An unknown key leaves nothing, which is told as well.
        assert_eq!(text.lines().next().unwrap_or_default(), expected, "{tls}");
    }
    let two = |second: &str| {
        told(&and(&format!(
            "listeners:\n  - tls: {{generate_in: /a/b}}\n  - {{address: 'localhost:1', tls: {{generate_in: {second}}}}}"
        )))
    };
    assert_eq!(two("/a/c"), "");
    for same in ["/a/b", "/a/b/", "/a/./b"] {
        assert_eq!(
            two(same),
            "listeners[1].tls.generate_in: listeners[0] makes its certificate there; choose a folder for this listener alone"
        );
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let yaml = "
thread: 2
threads: 0
log: {level: inof, requests: 1}
shutdown: {drain: 5M}
orgs:
  main:
    login_url: http://acme.my.salesforce.com
    login_ulr: x
    grant: {client_credentials: {client_secret: hunter2}}
";
    let text = told(yaml);
    let mut places: Vec<_> = text.lines().map(|line| line.split(": ").next().unwrap()).collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            "log.level",
            "log.requests",
            "orgs.main.grant.client_credentials.client_id",
            "orgs.main.grant.client_credentials.client_secret",
            "orgs.main.login_ulr",
            "orgs.main.login_url",
            "shutdown.drain",
            "thread",
            "threads",
        ]
    );
    assert!(!text.contains("hunter2"), "{text}");
}

/// The shipped examples; `full.yaml` says the defaults.
#[test]
fn the_examples_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut visited = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let config = load(Some(&path), &Vars::default());
            assert!(config.is_ok(), "{}:\n{}", path.display(), config.unwrap_err());
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("# yaml-language-server: $schema=schema.json\n"),
                "{}",
                path.display()
            );
            visited += 1;
        }
    }
    assert!(visited >= 13, "only {visited} examples were visited");
}

fn example(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    load(Some(&path), &Vars::default()).unwrap()
}

#[test]
fn the_full_example_says_every_key_and_its_default() {
    assert_eq!(example("full.yaml").to_json(), example("minimal.yaml").to_json());
    // Every key of the shape stands in the text, be it in a comment.
    let text = include_str!("../../../config/full.yaml");
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../../config/schema.json")).unwrap();
    let forms = schema["$defs"].as_object().unwrap();
    let forms = forms
        .iter()
        .filter(|(name, _)| *name != "SecretKeys")
        .map(|(_, form)| form);
    let mut visited = 0;
    for form in forms.chain([&schema]) {
        for key in form["properties"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("{key}:")), "full.yaml does not say {key}");
            visited += 1;
        }
    }
    assert!(visited > 40, "only {visited} keys were visited");
}

#[test]
fn the_effective_settings_read_back_as_the_same() {
    let odd = "
listeners:
  - {address: '127.0.0.1:2', tls: {certificate_file: 'c d.pem', key_file: /k}}
  - {address: '127.0.0.1:3', tls: {generate_in: '/a b'}}
  - {address: ['[::1]:0', '127.0.0.1:1'], hosts: [a.b, '::1'], allowed_origins: ['https://a.example'], extra_paths: [/x/]}
admin: {address: '0.0.0.0:9', startup_patience: 1m5ms, startup_holds_on_refusal: false, quit_endpoint: true}
shutdown: {delay: 3s, drain: 4s}
reload: {interval: 0s}
threads: 3
upstream: {ca_file: '/etc/a b: #c.pem', pool_max_idle: 0}
replay: {max_body: 1000B, total: 1MB}
log: {level: 'off', format: json, requests: true}
orgs:
  on:
    login_url: https://acme.my.salesforce.com:8443/
    instance_url: http://localhost:1
    grant: {client_credentials: {client_id: 'true', client_secret: {file: '/x y'}, send_secret: body}}
";
    let config = from_yaml(odd, "c.yaml", &Vars::default()).unwrap();
    let mut all = vec![config];
    for grant in GRANTS {
        for more in [
            "api: {host: other, headers: {X-B: 'a: b', x-A: '1'}, also: {/a: f_1}}, token: {cool_down: 1s}",
            "token: {keep_alive: true}, data_cloud: {dataspace: 'On', renew_before: 1m}, cache: {ttl: 7s, max_entry: 3KiB, paths: [/services/data/*/theme]}",
            "api: {host: platform}",
        ] {
            // Only what fits the grant.
            let more = match grant.starts_with("static") || grant.starts_with("command") {
                true => more.replace(", also: {/a: f_1}", ""),
                false => more.to_owned(),
            };
            let users = match grant.starts_with("jwt") {
                true => "listeners: [{users: {allow: ['*@A.example'], required: true, max: 7}}]",
                false => "store: {file: {directory: '/a b', key: 'env:K', previous_key: 'file:/p'}}",
            };
            let yaml = format!("{}\n{users}", granted(grant, &more));
            all.push(
                from_yaml(&yaml, "c.yaml", &Vars::default()).unwrap_or_else(|problems| panic!("{problems}\n{yaml}")),
            );
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") {
            all.push(example(&name));
        }
    }
    assert!(all.len() > 35, "only {} were visited", all.len());
    for config in all {
        let yaml = config.to_yaml();
        let again = from_yaml(&yaml, "effective", &Vars::default());
        let again = again.unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
        assert_eq!(format!("{again:?}"), format!("{config:?}"), "{yaml}");
    }
}

#[test]
fn the_defaults_are_good() {
    let config = from_yaml(GOOD, "c.yaml", &Vars::default()).unwrap();
    let addresses: Vec<_> = config.listeners[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:8080", "[::1]:8080"]);
    assert_eq!(config.listeners[0].org.as_str(), "main");
    assert_eq!(config.replay.max_body, 16 << 20);
    assert_eq!(config.upstream.response_timeout, 11 * MINUTE);
    assert_eq!(ListenerFile::default().idle_timeout.0, "5m");
}

/// Places where a secret may stand by mistake.
fn planted(place: usize, canary: &str) -> String {
    match place {
        0 => with_secret(&format!("{canary:?}")),
        1 => with_secret(&format!("[{canary:?}]")),
        2 => with_secret(&format!("{{{canary:?}: x}}")),
        3 => with_secret(&format!("{{file: '/x', env: {canary:?}}}")),
        4 => with_secret(&format!("{{env: '9{}'}}", canary.replace('\'', ""))),
        5 => with_secret(canary),
        6 => with_secret(&format!("|\n  {canary}")),
        7 => with_secret(&format!("'env:{canary}!'")),
        8 => org_with(&format!("https://u:{canary}@acme.my.salesforce.com"), SECRET_GRANT),
        9 => org_with(&format!("https://acme.my.salesforce.com/?sid={canary}"), SECRET_GRANT),
        10 => and(&format!("listeners: [{{allowed_origins: ['https://u:{canary}@x']}}]")),
        11 => and(&format!("    instance_url: 'https://u:{canary}@x y'")),
        12 => and(&format!("{canary}:")),
        13 => jwt(&format!("client_id: 'x {canary}', private_key: \"file:{canary}\\n\"")),
        14 => jwt(&format!("username: u@x, audience: 'https://u:{canary}@x'")),
        15 => granted(
            &format!("password: {{password: {canary:?}, security_token: [{canary:?}]}}"),
            "",
        ),
        16 => granted(
            &format!(
                "refresh_token: {{refresh_token: {canary:?}, login: {{callback_url: 'http://u:{canary}@localhost:1/'}}}}"
            ),
            "",
        ),
        17 => granted(
            &format!(
                "oauth2_client_credentials: {{token_path: '/t#{canary}', parameters: {{client_secret: {canary:?}}}}}"
            ),
            "",
        ),
        18 => granted(&format!("static: {{access_token: {{{canary:?}: x}}}}"), ""),
        19 => and(&format!("store: {{file: {{directory: /d, key: {canary:?}}}}}")),
        _ => format!("orgs:\n  main:\n    client_secret: {canary}: {canary}\n  *{canary}"),
    }
}

proptest! {
    #[test]
    fn a_planted_secret_shows_nowhere(place in 0..21usize, tail in "[!-~]{0,12}") {
        let canary = "Canary7f3e";
        let yaml = planted(place, &format!("{canary}{tail}"));
        let shown = match from_yaml(&yaml, "c.yaml", &Vars::default()) {
            Ok(config) => format!("{config:?} {}", config.to_yaml()),
            Err(problems) => format!("{problems} {problems:?}"),
        };
        prop_assert!(!shown.contains(canary), "{}\n{}", yaml, shown);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}", place in 0..12usize) {
        let quoted = format!("{text:?}");
        let yaml = match place {
            0 => text,
            1 => org_with(&text, SECRET_GRANT),
            2 => and(&format!("listeners: [{{address: {quoted}}}]")),
            3 => and(&format!("listeners: [{{hosts: [{quoted}]}}]")),
            4 => and(&format!("listeners: [{{extra_paths: [{quoted}]}}]")),
            5 => and(&format!("listeners: [{{allowed_origins: [{quoted}]}}]")),
            6 => and(&format!("log: {{level: {quoted}}}")),
            7 => and(&format!("shutdown: {{drain: {quoted}}}")),
            8 => and(&format!("replay: {{total: {quoted}}}")),
            9 => with_secret(&quoted),
            10 => jwt(&format!("username: {quoted}, audience: {quoted}")),
            _ => format!("orgs: {{{quoted}: {{}}}}"),
        };
        let _ = told(&yaml);
    }
}
