//! The binary's `check`, `run` with a bad configuration, `version`: exit codes and what is printed.

use std::{path::Path, process::Output};

use assert_cmd::Command;

const CANARY: &str = "Canary7f3e";

/// The binary in an environment that holds nothing else.
fn program(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::cargo_bin("sf-token-proxy").unwrap();
    command.env_clear().args(args).envs(env.iter().copied());
    command
}

struct Told {
    code: i32,
    out: String,
    err: String,
}

fn tell(args: &[&str], env: &[(&str, &str)]) -> Told {
    let Output { status, stdout, stderr } = program(args, env).output().unwrap();
    let told = Told {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    };
    assert!(
        !format!("{}{}", told.out, told.err).contains(CANARY),
        "{}{}",
        told.out,
        told.err
    );
    told
}

/// A folder with a configuration that refers to a secret file in it.
fn folder(secret: &str, more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, secret).unwrap();
    let yaml = format!(
        "orgs:\n  main:\n    login_url: https://acme.my.salesforce.com\n    grant:\n      client_credentials:\n        \
         client_id: id\n        client_secret: file:{}\n{more}",
        path.display()
    );
    std::fs::write(dir.path().join("c.yaml"), yaml).unwrap();
    dir
}

fn config_of(dir: &tempfile::TempDir) -> String {
    dir.path().join("c.yaml").display().to_string()
}

#[test]
fn a_good_file_is_ok_and_its_settings_are_printed_with_references() {
    let dir = folder(CANARY, "threads: 2\n");
    let config = config_of(&dir);
    for (args, env) in [
        (vec!["check", "--config", &config], vec![]),
        (vec!["check", "-c", &config], vec![]),
        (vec!["check"], vec![("SFPROXY_CONFIG", config.as_str())]),
    ] {
        let told = tell(&args, &env);
        assert_eq!((told.code, told.err.as_str()), (0, ""));
        assert!(told.out.starts_with("ok\n"), "{}", told.out);
        assert!(told.out.contains("threads: 2\n"), "{}", told.out);
        assert!(told.out.contains("client_secret: file:"), "{}", told.out);
        assert!(told.out.contains("drain: 20s\n"), "{}", told.out);
    }
}

#[test]
fn the_environment_alone_is_enough_and_its_secrets_stay_there() {
    let env = [
        ("SFPROXY_LOGIN_URL", "https://acme.my.salesforce.com"),
        ("SFPROXY_CLIENT_ID", "id"),
        ("SFPROXY_CLIENT_SECRET", CANARY),
        ("HTTPS_PROXY", "http://user:Canary7f3e@proxy:3128"),
    ];
    let told = tell(&["check"], &env);
    assert_eq!((told.code, told.err.as_str()), (0, ""));
    assert!(
        told.out.contains("client_secret: env:SFPROXY_CLIENT_SECRET\n"),
        "{}",
        told.out
    );
    assert!(
        told.out
            .ends_with("# calls leave through the proxy that HTTPS_PROXY names\n"),
        "{}",
        told.out
    );
}

#[test]
fn every_problem_is_printed_and_the_exit_code_is_78() {
    let dir = folder(
        CANARY,
        &format!("thread: 2\nlog: {{level: inof}}\nshutdown: {{drain: 5M}}\n{CANARY}: x\n"),
    );
    let config = config_of(&dir);
    let expected = "thread: unknown key; did you mean `threads`? (known here: admin, listeners, log, orgs, reload, replay, shutdown, store, threads, upstream)\n\
        (unusual key): unknown key (known here: admin, listeners, log, orgs, reload, replay, shutdown, store, threads, upstream)\n\
        shutdown.drain: expected a duration, found `5M`: minutes are `m`; the units are h, m, s and ms\n\
        log.level: expected error, warn, info, debug, trace or off, and `target=level` for more, separated by commas; found `inof`\n";
    for command in ["check", "run"] {
        let told = tell(&[command, "--config", &config], &[]);
        assert_eq!((told.code, told.out.as_str()), (78, ""), "{command}");
        let mut lines: Vec<_> = told.err.lines().collect();
        let mut wanted: Vec<_> = expected.lines().collect();
        lines.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(lines, wanted, "{command}");
    }
}

#[test]
fn an_inline_secret_is_refused_and_not_shown() {
    for secret in [
        CANARY.to_owned(),
        format!("*{CANARY}"),
        format!("{{{CANARY}: x}}"),
        format!("\"{CANARY}"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.yaml");
        let yaml = format!(
            "orgs: {{main: {{login_url: https://a.my.salesforce.com, grant: {{client_credentials: {{client_id: i, client_secret: {secret}}}}}}}}}"
        );
        std::fs::write(&path, yaml).unwrap();
        let told = tell(&["check", "-c", &path.display().to_string()], &[]);
        assert_eq!(told.code, 78, "{secret}");
        assert!(!told.err.is_empty());
    }
}

#[test]
fn missing_files_and_variables_are_problems() {
    let told = tell(&["check", "-c", "/nowhere/c.yaml"], &[]);
    assert_eq!(told.code, 78);
    assert!(
        told.err
            .starts_with("/nowhere/c.yaml: cannot read the configuration file: "),
        "{}",
        told.err
    );

    let told = tell(&["check"], &[]);
    assert_eq!(told.code, 78);
    assert!(
        told.err.starts_with("configuration: none given: use --config FILE"),
        "{}",
        told.err
    );

    let dir = folder("\n", "upstream: {ca_file: /nowhere/ca.pem}\n");
    let told = tell(&["check", "-c", &config_of(&dir)], &[]);
    assert_eq!(told.code, 78);
    let lines: Vec<_> = told.err.lines().collect();
    assert_eq!(lines.len(), 2, "{}", told.err);
    assert!(
        lines[0].starts_with("orgs.main.grant.client_credentials.client_secret: file:"),
        "{}",
        told.err
    );
    assert!(lines[0].ends_with(" is empty"), "{}", told.err);
    assert!(
        lines[1].starts_with("upstream.ca_file: cannot read the certificates in /nowhere/ca.pem"),
        "{}",
        told.err
    );
}

#[test]
fn a_private_key_that_cannot_sign_is_a_problem() {
    let dir = folder(CANARY, "");
    let key = dir.path().join("secret").display().to_string();
    let told = tell(
        &["check"],
        &[
            ("SFPROXY_LOGIN_URL", "https://acme.my.salesforce.com"),
            ("SFPROXY_CLIENT_ID", "id"),
            ("SFPROXY_USERNAME", "u@acme.example"),
            ("SFPROXY_PRIVATE_KEY_FILE", &key),
        ],
    );
    assert_eq!(told.code, 78);
    assert!(told.err.contains("/secret holds no PEM private key"), "{}", told.err);
}

#[test]
fn the_shipped_examples_fail_only_for_their_absent_secrets() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut visited = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let told = tell(&["check", "-c", &path.display().to_string()], &[]);
            assert_eq!(told.code, 78, "{}", path.display());
            for line in told.err.lines() {
                let absent = line.contains("cannot read file:/run/secrets/sf/");
                // The Salesforce CLI, without a PATH.
                let no_program = line == "orgs.dev.grant.command.run: the program `sf` is not found on PATH";
                assert!(absent || no_program, "{line}");
            }
            visited += 1;
        }
    }
    assert!(visited >= 3, "only {visited} examples were visited");
}

#[test]
fn every_new_reference_is_read_and_a_warning_does_not_fail() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("file:{}", path.display())
    };
    let (good, empty) = (file("good", CANARY), file("empty", "\n"));
    let key = file("key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let check = |grant: &str, more: &str| {
        let config = file(
            "c.yaml",
            &format!(
                "orgs: {{main: {{login_url: https://a.my.salesforce.com, instance_url: https://a.my.salesforce.com, grant: {grant}}}}}\n{more}"
            ),
        );
        let told = tell(
            &["check", "-c", config.trim_start_matches("file:")],
            &[("PATH", "/bin")],
        );
        (told.code, told.err)
    };
    for (grant, places) in [
        (
            "{refresh_token: {client_id: i, client_secret: S, refresh_token: S}}",
            &["refresh_token.client_secret", "refresh_token.refresh_token"][..],
        ),
        (
            "{refresh_token: {client_id: i, private_key: S}}",
            &["refresh_token.private_key"],
        ),
        (
            "{password: {client_id: i, client_secret: S, username: u@x, password: S, security_token: S}}",
            &["password.client_secret", "password.password", "password.security_token"],
        ),
        (
            "{token_exchange: {client_id: i, client_secret: S, subject_token: S}}",
            &["token_exchange.client_secret", "token_exchange.subject_token"],
        ),
        (
            "{saml_bearer: {client_id: i, username: u@x, private_key: S}}",
            &["saml_bearer.private_key"],
        ),
        (
            "{oauth2_client_credentials: {token_path: /t, client_id: i, client_secret: S}}",
            &["oauth2_client_credentials.client_secret"],
        ),
        ("{static: {access_token: S}}", &["static.access_token"]),
    ] {
        let (code, told) = check(&grant.replace('S', &empty), "");
        let expected: Vec<_> = places
            .iter()
            .map(|place| format!("orgs.main.grant.{place}: {empty} is empty"))
            .collect();
        assert_eq!(
            (code, told.lines().collect::<Vec<_>>()),
            (78, expected.iter().map(String::as_str).collect())
        );
        if !grant.contains("private_key") {
            assert_eq!(check(&grant.replace('S', &good), "").0, 0, "{grant}");
        }
    }
    assert_eq!(check("{command: {run: [sh, -c, x]}}", ""), (0, String::new()));
    let (code, told) = check("{command: {run: [no-such-program]}}", "");
    assert_eq!(
        (code, told.as_str()),
        (
            78,
            "orgs.main.grant.command.run: the program `no-such-program` is not found on PATH\n"
        )
    );
    let store = |key: &str| format!("store: {{file: {{directory: /x, key: '{key}', previous_key: '{key}'}}}}");
    let (code, told) = check("{command: {run: [sh]}}", &store(&good));
    assert_eq!((code, told.lines().count()), (78, 2), "{told}");
    assert!(told.contains("store.file.previous_key: file:"), "{told}");
    assert_eq!(check("{command: {run: [sh]}}", &store(&key)), (0, String::new()));

    let refresh = format!("{{refresh_token: {{client_id: i, refresh_token: '{good}'}}}}");
    let (code, told) = check(&refresh, "");
    assert_eq!(code, 0);
    assert!(
        told.starts_with("warning: orgs.main.grant.refresh_token: with the memory store"),
        "{told}"
    );
    assert_eq!(check(&refresh, &store(&key)), (0, String::new()));
}

#[test]
fn usage_errors_exit_64_and_help_and_version_0() {
    for args in [
        &[][..],
        &["serve"],
        &["check", "--confg", "x"],
        &["check", "-c"],
        &["run", "extra"],
    ] {
        let told = tell(args, &[]);
        assert_eq!((told.code, told.out.as_str()), (64, ""), "{args:?}");
        assert!(!told.err.is_empty(), "{}", told.err);
    }
    let version = format!("sf-token-proxy {}\n", env!("CARGO_PKG_VERSION"));
    for args in [["version"], ["--version"], ["-V"]] {
        let told = tell(&args, &[]);
        assert_eq!((told.code, told.out.as_str()), (0, version.as_str()));
    }
    assert_eq!(tell(&["--help"], &[]).code, 0);
}

#[test]
fn run_logs_the_warnings() {
    // A port that is taken, so that it ends by itself.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let env = [
        ("SFPROXY_LISTEN", address.as_str()),
        ("SFPROXY_ADMIN_LISTEN", "127.0.0.1:0"),
        ("SFPROXY_LOG_LEVEL", "warn"),
        ("SFPROXY_LOGIN_URL", "https://acme.my.salesforce.com"),
        ("SFPROXY_CLIENT_ID", "id"),
        ("SFPROXY_CALLBACK_URL", "http://localhost:1717/OauthRedirect"),
    ];
    let told = tell(&["run"], &env);
    assert_eq!(told.code, 1, "{}", told.err);
    assert!(told.out.contains("set `store.file`"), "{}", told.out);
}

#[test]
fn a_port_that_is_taken_is_told_once_and_the_exit_code_is_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = folder(CANARY, "log: {level: off}\n");
    let env = [
        ("SFPROXY_LISTEN", address.as_str()),
        ("SFPROXY_ADMIN_LISTEN", "127.0.0.1:0"),
    ];
    let told = tell(&["run", "-c", &config_of(&dir)], &env);
    assert_eq!((told.code, told.out.as_str()), (1, ""));
    let expected = format!("listeners[].address: cannot listen on {address}: Address already in use");
    assert!(told.err.starts_with(&expected), "{}", told.err);
    assert_eq!(told.err.matches("cannot listen").count(), 1, "{}", told.err);
}
