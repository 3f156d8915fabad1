//! The command line: which commands there are and what they exit with.
//!
//! | Code | Meaning |
//! |---|---|
//! | 0 | done; for `run`: drained |
//! | 1 | failed while running; `healthcheck`, `wait`: the answer is not good |
//! | 64 | the command line is wrong (EX_USAGE) |
//! | 78 | the configuration is wrong (EX_CONFIG); every problem is on stderr, one a line, and after many how many |
//! | 130 | `login`, `logout`, `wait`: ended by Ctrl-C or SIGTERM |
//!
//! What is said last when it is not 0: `cli/last_words.rs`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use self::last_words::refuse;
use crate::{
    clock::Clock,
    config::{self, Config, Problems, Vars},
};

mod ask;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod healthcheck;
mod last_words;
mod login;
mod logout;
mod run;
mod wait;

const USAGE: u8 = 64;
const CONFIG: u8 = 78;

/// Calls Salesforce for apps that have no login: adds live access tokens, renews them, repeats what an expired session refused.
#[derive(Parser)]
#[command(name = "sf-token-proxy", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run(Source),
    /// Check the configuration and the secrets it refers to; print the settings that count, or every problem.
    Check(Source),
    /// Ask a running proxy whether it is well: exit 0 or 1. For exec probes and `helm test`.
    Healthcheck(healthcheck::Options),
    /// Wait until a running proxy is ready.
    Wait(wait::Options),
    /// Log a person in once, in a browser; the refresh token goes into the store. For the grant refresh_token.
    Login(login::Options),
    /// Revoke what `login` brought, and forget it.
    Logout(logout::Options),
    /// Try it: a practice org in this process, the proxy before it, and a short tour. No account is needed.
    #[cfg(feature = "demo")]
    Demo(demo::Options),
    /// Print the version.
    Version,
}

#[derive(clap::Args)]
struct Source {
    /// The configuration file; without it SFPROXY_CONFIG names one, else the SFPROXY_… variables are the configuration.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    fn load(&self) -> Result<Config, Problems> {
        self.as_config().load()
    }

    fn as_config(&self) -> config::Source {
        config::Source::new(self.config.as_deref(), Vars::of_process())
    }
}

/// Runs the command of this process's arguments.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    match args.command {
        Command::Run(source) => match source.load() {
            Ok(config) => start(config, source.as_config()),
            Err(problems) => refuse(&problems),
        },
        Command::Check(source) => check::check(source.load(), &Vars::of_process()),
        Command::Healthcheck(options) => healthcheck::healthcheck(&options),
        Command::Wait(options) => wait::wait(&options),
        Command::Login(options) => login::login(&options),
        Command::Logout(options) => logout::logout(&options),
        #[cfg(feature = "demo")]
        Command::Demo(options) => demo::demo(&options).unwrap_or_else(|error| {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }),
        Command::Version => {
            say(concat!("sf-token-proxy ", env!("CARGO_PKG_VERSION"), "\n"));
            ExitCode::SUCCESS
        }
    }
}

fn start(config: Config, source: config::Source) -> ExitCode {
    if let Err(error) = crate::log::init_serving(&config.log) {
        complain(&error.to_string());
        return ExitCode::FAILURE;
    }
    crate::log::log_effective(&config);
    for warning in config.warnings(Clock::system().now()) {
        tracing::warn!("{warning}");
    }
    let code = run::run(config, source).unwrap_or_else(|error| last_words::failed(&error));
    crate::log::flush();
    code
}

/// Help and version are asked for and go to stdout; anything else is a mistake.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed terminal is no reason to fail differently.
    let _ = error.print();
    match error.use_stderr() {
        true => ExitCode::from(USAGE),
        false => ExitCode::SUCCESS,
    }
}

/// To stdout; `println!` would panic when nobody reads.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// To stderr, as whole lines.
fn complain(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
