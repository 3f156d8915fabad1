//! `healthcheck`: is the proxy that runs here (or there) well? For exec probes and `helm test`: the image has no curl.
//!
//! Fails with: 1 and what came, in one line; 78 when the configuration, which says where to ask, is wrong.

use std::{process::ExitCode, time::Duration};

use super::{ask::Place, complain, last_words::refuse, run};
use crate::config::units::parse_span;

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    place: Place,
    /// Ask /readyz: started, and not told to end.
    #[arg(long, conflicts_with = "startup")]
    ready: bool,
    /// Ask /startupz: the org has had a token.
    #[arg(long)]
    startup: bool,
    /// How long the connection and the answer may take together.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_span)]
    timeout: Duration,
}

pub(super) fn healthcheck(options: &Options) -> ExitCode {
    let path = match (options.ready, options.startup) {
        (true, _) => "/readyz",
        (_, true) => "/startupz",
        _ => "/livez",
    };
    let question = match options.place.question(path) {
        Ok(question) => question,
        Err(problems) => return refuse(&problems),
    };
    let runtime = match run::runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("healthcheck: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let answered = runtime.block_on(question.ask(options.timeout));
    // A name look-up that hangs must not hold the end up.
    runtime.shutdown_background();
    let wrong = match answered {
        Ok(answer) if answer.good() => return ExitCode::SUCCESS,
        Ok(answer) => answer.said(),
        Err(why) => why,
    };
    complain(&format!("healthcheck: {wrong}"));
    ExitCode::FAILURE
}
