//! `wait`: until the proxy is ready; for postStart hooks and for scripts that start an app after it.
//!
//! Asks every [`PAUSE`], from another process: there is no event to wait for.
//! Fails with: 1 and the last answer when time is up, 78 when the configuration, which says where to ask, is wrong, 130
//! when a signal ends it.

use std::{process::ExitCode, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    ask::{PATIENCE, Place, Question},
    last_words::refuse,
    login::Ended,
    run,
};
use crate::{
    config::units::{parse_span, span_text},
    shutdown::Signals,
};

const PAUSE: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    place: Place,
    /// How long to wait at most.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_span)]
    timeout: Duration,
}

pub(super) fn wait(options: &Options) -> ExitCode {
    let question = match options.place.question("/readyz") {
        Ok(question) => question,
        Err(problems) => return refuse(&problems),
    };
    let runtime = match run::runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return Ended::failed(format!("{error:#}")).told("wait"),
    };
    let ended = runtime.block_on(async {
        let mut signals = Signals::install().map_err(Ended::failed)?;
        // Dropped half-way, a question is forgotten; waiting for a signal loses none: the handler keeps it.
        tokio::select! {
            done = until_good(&question, options.timeout) => done,
            signal = signals.next() => Err(Ended::Interrupted(signal)),
        }
    });
    // A name look-up that hangs must not hold the end up.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => ended.told("wait"),
    }
}

async fn until_good(question: &Question, patience: Duration) -> Result<(), Ended> {
    let mut last = None;
    let asking = async {
        loop {
            last = Some(match question.ask(PATIENCE).await {
                Ok(answer) if answer.good() => return,
                Ok(answer) => answer.said(),
                Err(why) => why,
            });
            sleep(PAUSE).await;
        }
    };
    // A question that time cuts short says nothing; the answer before it does.
    match timeout(patience, asking).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Ended::failed(format!(
            "not ready within {}: {}",
            span_text(patience),
            last.as_deref().unwrap_or("no answer yet")
        ))),
    }
}
