//! `login`: a person says yes once, in a browser, and the refresh token goes into the store.
//!
//! Owns: the login's `state` and PKCE verifier, in memory only; the listener for the callback.
//! Invariants: all that can be known to be wrong is told before the browser is opened; a code is presented once; nothing
//! is stored without a refresh token; the record is changed under its lock, as the next of its kind, so that a running
//! proxy takes it up. No secret in any output (the address that is printed has the state and the challenge).
//! Units: [`PATIENCE`] for the person. Fails with: [`Ended`].
//! Source: SF §1.4.4, §1.4.6; design §5.

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;

use self::{listener::Listening, page::Page, place::Place};
use super::{Source, USAGE, complain, refuse, run, say};
use crate::{
    config::{Config, Problems, Vars},
    log,
    shutdown::Signals,
    store::{Record, Rotation, StoredGrant, StoredToken},
    token::{
        Generation, Minted,
        exchange::{Granted, Why},
        grant::{authorization_code, callback::Said},
        kept,
        refusal::{Refusal, Sent, refusal},
    },
};

mod browser;
mod device;
mod listener;
mod page;
pub(super) mod place;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The org's name in the configuration; may be left out when there is one.
    org: Option<String>,
    #[command(flatten)]
    source: Source,
    /// Without a browser on this machine: a code to type on another.
    #[arg(long)]
    device: bool,
    /// Only print the address.
    #[arg(long, conflicts_with = "device")]
    no_browser: bool,
}

/// Why a command ended without what it was for.
pub(super) enum Ended {
    Usage(String),
    Config(Problems),
    Failed(String),
    Interrupted(&'static str),
}

pub(super) fn login(options: &Options) -> ExitCode {
    on_the_spot(&options.source, options.org.as_deref(), "login", async |place| {
        log_in(&place, options).await
    })
}

/// Loads the configuration and runs one command on one org, until a signal.
pub(super) fn on_the_spot(
    source: &Source,
    org: Option<&str>,
    command: &'static str,
    act: impl AsyncFnOnce(Place) -> Result<(), Ended>,
) -> ExitCode {
    let config = match source.load() {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let runtime = match start(&config) {
        Ok(runtime) => runtime,
        Err(error) => return Ended::failed(format!("{error:#}")).told(command),
    };
    let ended = runtime.block_on(async {
        let mut signals = Signals::install().map_err(Ended::failed)?;
        let place = Place::find(&config, org, command)?;
        // Dropped half-way: what the store has begun it finishes; a token that came and was not stored is not kept by
        // anybody. Dropped waiting for a signal: the handler keeps it.
        tokio::select! {
            done = act(place) => done,
            signal = signals.next() => Err(Ended::Interrupted(signal)),
        }
    });
    // A look-up or a browser that hangs must not hold the end up.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => ended.told(command),
    }
}

/// What people ask for goes to stdout; so the log, with the audit lines, goes to stderr here.
fn start(config: &Config) -> anyhow::Result<tokio::runtime::Runtime> {
    let to = std::io::stderr;
    let subscriber = log::subscriber(&config.log, to().is_terminal(), to)?;
    tracing::subscriber::set_global_default(subscriber).context("a log is set up already")?;
    run::runtime(1)
}

impl Ended {
    pub(super) fn told(self, command: &str) -> ExitCode {
        match self {
            Self::Usage(text) => {
                complain(&format!("{command}: {text}"));
                ExitCode::from(USAGE)
            }
            Self::Config(problems) => refuse(&problems),
            Self::Failed(text) => {
                complain(&format!("{command} failed: {text}"));
                ExitCode::FAILURE
            }
            Self::Interrupted(signal) => {
                complain(&format!("{command} ended by {signal}"));
                ExitCode::from(INTERRUPTED)
            }
        }
    }
}

async fn log_in(place: &Place, options: &Options) -> Result<(), Ended> {
    let seed = place.secrets()?;
    // A record that cannot be opened is found now, not after somebody has logged in.
    place.store.read(&place.key).await.map_err(Ended::failed)?;
    let seed = seed.as_ref();
    if options.device {
        let granted = device::log_in(place).await?;
        say(&keep(place, granted, seed).await?);
        return Ok(());
    }
    let (text, listening) = in_browser(place, options, seed).await?;
    let (page, told) = match text {
        Ok(text) => (
            Page::new("Logged in", format!("{text}\nYou can close this page.")),
            Ok(text),
        ),
        Err(Ended::Failed(text)) => (Page::new("Not logged in", text.clone()), Err(Ended::Failed(text))),
        Err(other) => (Page::new("Not logged in", ""), Err(other)),
    };
    if let Ok(text) = &told {
        say(text);
    }
    listening.finish(page).await;
    told.map(drop)
}

/// The login's outcome, and the listener whose browser waits for it. Fails before anybody has come back.
async fn in_browser(
    place: &Place,
    options: &Options,
    seed: Option<&SecretString>,
) -> Result<(Result<String, Ended>, Listening), Ended> {
    let callback = &place.grant.login.callback_url;
    let bound = listener::bind(callback).await.map_err(|error| {
        let at = format!("orgs.{}.grant.refresh_token.login.callback_url", place.name);
        Ended::failed(format!(
            "{at} is {callback}: {error}; end what uses the port, or set another callback URL here and in the app"
        ))
    })?;
    let address = |verifier: &SecretString, state: &str| {
        authorization_code::authorize_url(&place.grant, &place.org.login.url, verifier, state)
    };
    // With a state of its own: this one nobody has to answer.
    let looked = place
        .http
        .preview(address(&authorization_code::verifier(), "preview"))
        .await;
    looked.map_err(|refusal| told(place, &refusal))?;

    let (verifier, state) = (authorization_code::verifier(), authorization_code::verifier());
    let url = address(&verifier, state.expose_secret());
    let mut listening = bound.serve(state.clone());
    say(&format!(
        "\nOpen this address in a browser on this machine and allow access:\n\n  {url}\n\n\
         Waiting at {callback} for 10 minutes at most; Ctrl-C ends it.\n"
    ));
    // Kept until the end, so that its process is not left to nobody.
    let _browser = match options.no_browser {
        true => None,
        false => browser::open(url.as_str(), &Vars::of_process()),
    };
    let Ok(said) = timeout(PATIENCE, listening.said()).await else {
        return Err(Ended::failed(
            "nobody came back from the browser within 10 minutes; if it shows an error, that says why: \
             redirect_uri_mismatch means `login.callback_url`, invalid_client_id means `client_id` or `login_url`",
        ));
    };
    let outcome = match said {
        Said::Code(code) => match redeem(place, code, verifier).await {
            Ok(granted) => keep(place, granted, seed).await,
            Err(refusal) => Err(told(place, &refusal)),
        },
        Said::Error { error, description } => {
            let mut sent = Sent::default();
            sent.secret(state.expose_secret());
            sent.secret(verifier.expose_secret());
            let answer = serde_json::json!({"error": error, "error_description": description});
            Err(told(place, &refusal(400, answer.to_string().as_bytes(), &sent)))
        }
    };
    Ok((outcome, listening))
}

/// The code for tokens, once.
async fn redeem(place: &Place, code: SecretString, verifier: SecretString) -> Result<Granted, Refusal> {
    let (grant, login, now) = (
        place.grant.clone(),
        place.org.login.url.clone(),
        place.http.clock().now(),
    );
    // Reads secrets and may sign.
    let attempt =
        tokio::task::spawn_blocking(move || authorization_code::attempt(&grant, &login, &code, &verifier, now));
    let attempt = attempt.await.map_err(|_| Refusal::of("secret_unreadable", None))??;
    place.http.present(attempt).await.map_err(|failed| failed.refusal)
}

/// Seals the tokens; what to tell of them.
async fn keep(place: &Place, granted: Granted, seed: Option<&SecretString>) -> Result<String, Ended> {
    let Granted { minted, refresh_token } = granted;
    let Some(refresh_token) = refresh_token else {
        fail(place, "no_refresh_token_scope");
        return Err(Ended::failed(format!(
            "Salesforce gave no refresh token, so nothing was stored; add the scope \"Perform requests at any time \
             (refresh_token, offline_access)\" to the app's OAuth Scopes, and keep refresh_token in \
             `orgs.{}.grant.refresh_token.login.scopes`",
            place.name
        )));
    };
    let grant = StoredGrant {
        refresh_token,
        seed: seed.map(kept::fingerprint),
        rotation: Rotation::Unknown,
        in_flight: false,
        dead: None,
    };
    let locked = place
        .store
        // A renewal of the proxy holds it for two conversations: the question whether the token lives, and the login.
        .lock(&place.key, 3 * place.http.timeout())
        .await
        .map_err(unkept)?;
    let old = locked.read().await.map_err(unkept)?.unwrap_or_default();
    let record = Record {
        serial: old.serial + 1,
        token: Some(token(place, &minted)),
        grant: Some(grant),
    };
    let generation = Generation(record.serial);
    place.audit.minted(Why::Start, generation, minted.identity.as_ref());
    let written = locked.write(&record).await;
    place.audit.stored(record.serial, written.as_ref().err());
    written.map_err(unkept)?;
    drop(locked);
    // Afterwards: whoever tells the name may be slow, and the tokens are safe by now.
    let username = place.http.username(&minted).await;
    Ok(success(place, &minted, username.as_deref()))
}

/// As the running proxy records what it mints itself.
fn token(place: &Place, minted: &Minted) -> StoredToken {
    let now = place.http.clock().now();
    let identity = minted.identity.as_ref();
    let also = minted.also.iter();
    StoredToken {
        secret: minted.secret.clone(),
        instance_url: minted.instance.url(),
        also: also.map(|(prefix, to)| (prefix.clone(), to.url())).collect(),
        known_expiry: minted.known_expiry,
        minted_at: now,
        org_id: identity.map(|identity| identity.org_id.clone()),
        user_id: identity.map(|identity| identity.user_id.clone()),
        reaches_api: minted.reaches_api,
    }
}

fn success(place: &Place, minted: &Minted, username: Option<&str>) -> String {
    let identity = minted.identity.as_ref();
    let unknown = "not told";
    let mut text = format!(
        "Logged in: org `{}` as {}.\nUser id: {}\nOrg id: {}\nInstance: {}\nSealed in {}.\n\
         A running proxy that was waiting for this takes it up within seconds, any other at its next renewal.\n",
        place.name,
        username.unwrap_or("a user whose name was not told"),
        identity.map_or(unknown, |identity| &identity.user_id),
        identity.map_or(unknown, |identity| &identity.org_id),
        minted.instance.authority,
        place.directory.display(),
    );
    if !minted.reaches_api {
        text.push_str(
            "Warning: the token may not call the API: add the scope \"Manage user data via APIs (api)\" to the app's OAuth \
             Scopes and api to `login.scopes`, and log in again.\n",
        );
    }
    text
}

fn told(place: &Place, refusal: &Refusal) -> Ended {
    fail(place, refusal.reason);
    place.refused(refusal)
}

fn fail(place: &Place, reason: &'static str) {
    place.audit.failed(Why::Start, reason);
}

fn unkept(error: crate::store::StoreError) -> Ended {
    Ended::failed(format!("{error}; the tokens that came are lost, log in again"))
}

/// For the person; an authorization code and a device code live as long or longer (SF §1.4.4, §1.4.6).
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// As shells tell a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Nothing travels here, so time may be paused: the login host takes connections and says nothing.
    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_longer_than_ten_minutes() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let callback = format!("http://{}/OauthRedirect", free.local_addr().unwrap());
        drop(free);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "ab".repeat(32)).unwrap();
        let yaml = serde_json::json!({
            "store": {"file": {"directory": dir.path(), "key": format!("file:{}", dir.path().join("key").display())}},
            "orgs": {"main": {
                "login_url": format!("http://{}", silent.local_addr().unwrap()),
                "grant": {"refresh_token": {"client_id": "3MVG9", "login": {"callback_url": callback}}},
            }},
        });
        let none: [(&str, &str); 0] = [];
        let config = crate::config::from_yaml(&yaml.to_string(), "test", &Vars::from(none)).unwrap();
        let Ok(place) = Place::find(&config, None, "login") else {
            panic!("the org must be found");
        };
        let options = Options {
            org: None,
            source: Source { config: None },
            device: false,
            no_browser: true,
        };
        let began = Instant::now();
        let ended = log_in(&place, &options).await;
        assert!(matches!(ended, Err(Ended::Failed(text)) if text.contains("within 10 minutes")));
        let took = began.elapsed();
        assert!(
            (PATIENCE..PATIENCE + Duration::from_secs(60)).contains(&took),
            "{took:?}"
        );
    }
}
