//! Orgs, their login hosts, grants, users and stores.

use super::*;

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
