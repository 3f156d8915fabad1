//! `demo`: the practice org and the proxy before it, a short tour, then as long as you like; or the org alone, for a
//! configuration of one's own.
//!
//! Owns: the practice org, a private folder with its keys, the tour's task.
//! Fails with: 1 when a step of the tour goes wrong, with what was expected and what came.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::task::JoinSet;

use super::{run, say};
use crate::{
    app::{App, BindError, Bound},
    config::{self, Config, Vars},
    demo::{Org, Settings, Summary},
    log,
    shutdown::{Signals, Stop},
    tls,
};

#[derive(clap::Args)]
pub(super) struct Options {
    /// Take the tour and exit: 0 when every step was as it should be, else 1.
    #[arg(long)]
    once: bool,
    /// Where the app calls; localhost:8080, or any free port when that is taken.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Probes and metrics; localhost:9090, or any free port when that is taken.
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Write the addresses to this file as JSON when everything is up.
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Only the practice org, for `run` with a configuration of your own.
    #[arg(long, conflicts_with_all = ["once", "listen", "admin_listen"])]
    org_only: bool,
}

/// The addresses that people and scripts need.
struct Addresses {
    proxy: String,
    admin: String,
    org: String,
    control: String,
    ca_file: PathBuf,
    /// Client ids, user names, and where keys and secrets are.
    apps: serde_json::Value,
}

pub(super) fn demo(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = run::runtime(1)?;
    let code = runtime.block_on(async {
        match options.org_only {
            true => org_only(options.summary.as_deref()).await,
            false => demo_on(options).await,
        }
    });
    runtime.shutdown_background();
    code
}

/// The org until a signal; whoever needs to log in to it reads how from the summary.
async fn org_only(summary: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::install().context("cannot install signal handlers")?;
    let mut org = Org::start(Settings::practice()?).await?;
    let files = org.write_files(None).context("cannot write the practice org's files")?;
    if let Some(file) = summary {
        let apps = serde_json::to_value(&files).context("cannot describe the practice org")?;
        let text = serde_json::json!({
            "org": files.base_url, "control": files.control_url, "ca_file": files.ca_file, "apps": apps,
        });
        write_whole(file, &text)?;
    }
    say(&format!("{files}\nCtrl-C ends it.\n"));
    signals.next().await;
    org.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn demo_on(options: &Options) -> anyhow::Result<ExitCode> {
    let signals = Signals::install().context("cannot install signal handlers")?;
    let mut org = Org::start(Settings::practice()?).await?;
    let files = org.write_files(None).context("cannot write the practice org's files")?;
    let bound = bind(options, &files).await?;
    let addresses = Addresses {
        proxy: format!("http://{}", readable(bound.proxy[0])),
        admin: format!("http://{}", readable(bound.admin[0])),
        org: files.base_url.clone(),
        control: files.control_url.clone(),
        ca_file: files.ca_file.clone(),
        apps: serde_json::to_value(&files).context("cannot describe the practice org")?,
    };
    say(&welcome(&addresses));

    let stop = Stop::new();
    let mut tour: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let (once, summary) = (options.once, options.summary.clone());
    let ending = stop.clone();
    tour.spawn(async move {
        let taken = take_tour(&addresses).await;
        match (&taken, once) {
            (_, true) => ending.drain_now(),
            (Ok(()), false) => {
                if let Some(file) = summary {
                    write_summary(&file, &addresses)?;
                }
                say(&farewell(&addresses));
            }
            (Err(_), false) => ending.drain_now(),
        }
        taken
    });
    let code = run::serve(bound, signals, stop).await?;
    // A signal may come in the middle of it; then it is not the tour's fault that it did not end.
    let toured = match tour.try_join_next() {
        Some(ended) => ended.context("the tour broke off")?,
        None => Ok(()),
    };
    tour.shutdown().await;
    org.stop().await;
    match toured {
        Ok(()) => Ok(code),
        Err(wrong) => {
            say(&format!("\nThe tour went wrong: {wrong:#}\n"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The proxy, on the usual ports if they are free and nobody asked for others.
async fn bind(options: &Options, org: &Summary) -> anyhow::Result<Bound> {
    let usual = configuration(options, org, "localhost:8080", "localhost:9090")?;
    log::init(&usual.log)?;
    match App::bind(usual).await {
        Err(BindError::Listen { .. }) if options.listen.is_none() || options.admin_listen.is_none() => {
            let free = configuration(options, org, "localhost:0", "localhost:0")?;
            Ok(App::bind(free).await?)
        }
        bound => Ok(bound?),
    }
}

/// Through the same door as everybody's configuration.
fn configuration(options: &Options, org: &Summary, listen: &str, admin: &str) -> anyhow::Result<Config> {
    let jwt = org.jwt.as_ref().context("the practice org must have a JWT app")?;
    // JSON is YAML, and quotes whatever a path may hold.
    let file = serde_json::json!({
        "listeners": [{"address": options.listen.as_deref().unwrap_or(listen)}],
        "admin": {"address": options.admin_listen.as_deref().unwrap_or(admin)},
        "orgs": {"practice": {
            "login_url": org.login_url,
            "pub_sub": {"endpoint": org.pubsub_url},
            "grant": {"jwt_bearer": {
                "client_id": jwt.client_id,
                "username": jwt.username,
                "private_key": format!("file:{}", jwt.key_file.display()),
            }},
            // Here somebody revokes for fun, or a test does several times a second; no real org is to be spared.
            "login_budget": {"burst": 3600, "per_minute": 60},
        }},
        "upstream": {"ca_file": org.ca_file},
        "log": {"level": "warn"},
    });
    let none: [(&str, &str); 0] = [];
    Ok(config::from_yaml(&file.to_string(), "demo", &Vars::from(none))?)
}

fn readable(address: SocketAddr) -> String {
    match address.ip().is_loopback() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    }
}

const QUERY: &str = "/services/data/v60.0/query?q=SELECT+Id,Name+FROM+Account+LIMIT+2";

fn welcome(at: &Addresses) -> String {
    format!(
        "\nA practice org is up at {org}: a small Salesforce in this process. No account is needed.\n\
         The proxy is up at {proxy}. It logged in with a key made just now (JWT bearer).\n\
         Your app calls {proxy} as if it were the org, without a login.\n\n\
         A short tour:\n",
        org = at.org,
        proxy = at.proxy,
    )
}

fn farewell(at: &Addresses) -> String {
    format!(
        "\nNow you. These lines work when pasted:\n\n\
         \x20 curl '{proxy}{QUERY}'\n\
         \x20 curl {proxy}/services/data/v60.0/limits\n\
         \x20 curl {proxy}/services/data/v60.0/sobjects/Account -H 'Content-Type: application/json' -d '{{\"Name\":\"Acme\"}}'\n\
         \x20 curl -X POST {control}/control/revoke      # revoke every session, then call again\n\
         \x20 curl -X POST {control}/control/approve -d '{{\"approved\":false}}'   # then revoke and call: what a refused login looks like\n\
         \x20 curl {admin}/metrics\n\
         \x20 curl {admin}/readyz\n\n\
         Ctrl-C ends it.\n",
        proxy = at.proxy,
        admin = at.admin,
        control = at.control,
    )
}

fn write_summary(file: &Path, at: &Addresses) -> anyhow::Result<()> {
    let text = serde_json::json!({
        "proxy": at.proxy, "admin": at.admin, "org": at.org, "control": at.control, "ca_file": at.ca_file,
        "apps": at.apps,
    });
    write_whole(file, &text)
}

/// Whoever waits for the file must find it whole.
fn write_whole(file: &Path, text: &serde_json::Value) -> anyhow::Result<()> {
    let parts = file.with_extension("part");
    std::fs::write(&parts, format!("{text:#}\n")).context("cannot write the summary")?;
    std::fs::rename(&parts, file).context("cannot write the summary")
}

/// Call, revoke, call again, metrics; each step says what it did and is checked.
async fn take_tour(at: &Addresses) -> anyhow::Result<()> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config(None)?)
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()?;
    let query = format!("{}{QUERY}", at.proxy);

    step(1, "a call without any credential", &format!("curl '{query}'"));
    say(&format!("     {}\n", answered(&client, &query).await?));

    step(2, "somebody revokes every session of the org", "");
    let revoke = client.post(format!("{}/control/revoke", at.control)).send().await?;
    let revoked: serde_json::Value = serde_json::from_slice(&revoke.error_for_status()?.bytes().await?)?;
    ensure!(
        revoked["revoked"].as_u64() >= Some(1),
        "expected a session to revoke, found {revoked}"
    );
    say(&format!("     {revoked}\n"));

    step(
        3,
        "the same call again: the proxy logs in anew and repeats it",
        &format!("curl '{query}'"),
    );
    say(&format!("     {}\n", answered(&client, &query).await?));

    step(4, "what the metrics say of it", &format!("curl {}/metrics", at.admin));
    let page = client.get(format!("{}/metrics", at.admin)).send().await?.text().await?;
    for (series, least) in [
        (
            "sf_token_proxy_token_rejections_total{org=\"practice\",reason=\"invalid_session_id\",surface=\"rest\"}",
            1.0,
        ),
        (
            "sf_token_proxy_retries_total{org=\"practice\",result=\"accepted\",surface=\"rest\"}",
            1.0,
        ),
        (
            "sf_token_proxy_token_requests_total{grant=\"jwt_bearer\",org=\"practice\",reason=\"none\",result=\"ok\"}",
            2.0,
        ),
    ] {
        let value = metric(&page, series).with_context(|| format!("no {series} in the metrics"))?;
        ensure!(value >= least, "expected {series} to be {least} or more, found {value}");
        say(&format!("     {series} {value}\n"));
    }
    Ok(())
}

fn step(number: u32, what: &str, command: &str) {
    let mut text = format!("\n  {number}. {what}\n");
    if !command.is_empty() {
        let _ = writeln!(text, "     $ {command}");
    }
    say(&text);
}

/// The status and the beginning of an answer that must be good.
async fn answered(client: &reqwest::Client, url: &str) -> anyhow::Result<String> {
    let response = client.get(url).send().await.context("the proxy did not answer")?;
    let status = response.status();
    let text = response.text().await?;
    if status != reqwest::StatusCode::OK {
        bail!("expected 200, found {status}: {text}");
    }
    let head: String = text.chars().take(160).collect();
    Ok(format!(
        "{}  {head}{}",
        status.as_u16(),
        if head.len() < text.len() { "…" } else { "" }
    ))
}

fn metric(page: &str, series: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}
