//! Where and how it listens, and who may call.

use super::*;

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
