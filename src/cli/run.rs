//! `run`: serve until told to stop.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use tokio::runtime::Runtime;

use crate::{
    app::{App, Bound},
    config::{Config, Source},
    descriptors,
    shutdown::{Hangups, Signals, Stop},
    threads,
};

pub(super) fn run(config: Config, source: Source) -> anyhow::Result<ExitCode> {
    descriptors::raise();
    let choice = threads::choose(config.threads, Path::new("/"));
    tracing::info!(threads = choice.threads, why = choice.why, "worker threads");
    let runtime = runtime(choice.threads)?;
    let code = runtime.block_on(async {
        // Before the sockets: from the first moment a signal means a clean end.
        let mut signals = Signals::install().context("cannot install signal handlers")?;
        let hangups = Hangups::install().context("cannot install signal handlers")?;
        let Some(mut bound) = begin(config, &mut signals).await? else {
            return Ok(ExitCode::SUCCESS);
        };
        // By signal and by time; nobody here asks for more.
        drop(bound.watching(source, hangups));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            proxy = addresses(&bound.proxy),
            admin = addresses(&bound.admin),
            "listening"
        );
        serve(bound, signals, Stop::new()).await
    });
    // What tasks on other threads log when they are dropped comes before the last words. A name look-up that hangs in its
    // thread must not hold the end up.
    runtime.shutdown_timeout(LAST_TASKS);
    code
}

/// Binds everything, unless a signal comes first: a certificate's folder may be locked, or a disk hang.
async fn begin(config: Config, signals: &mut Signals) -> anyhow::Result<Option<Bound>> {
    let runtime = tokio::runtime::Handle::current();
    let binding = tokio::task::spawn_blocking(move || runtime.block_on(App::bind(config)));
    tokio::select! {
        bound = binding => Ok(Some(bound.context("the start broke off")??)),
        signal = signals.next() => {
            tracing::info!(signal, "told to end before it listened");
            Ok(None)
        }
    }
}

/// One thread does all by default: the cheapest, and enough for 40,000 calls a second (`performance.md`).
pub(super) fn runtime(threads: usize) -> anyhow::Result<Runtime> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the runtime (threads: {threads})"))
}

/// Runs until a signal or `stop`, then ends in order; a second signal ends the process at once.
pub(super) async fn serve(bound: Bound, mut signals: Signals, stop: Stop) -> anyhow::Result<ExitCode> {
    let mut running = std::pin::pin!(bound.run(stop.clone()));
    // Dropped half-way, waiting for a signal loses none: the handler keeps it.
    tokio::select! {
        ended = &mut running => return finished(ended),
        signal = signals.next() => {
            tracing::info!(signal, "told to end; a second signal ends at once");
            stop.leave_now();
        }
    }
    tokio::select! {
        ended = running => finished(ended),
        signal = signals.next() => bail!(
            "ended at once by a second signal, {signal}; what was in flight is lost. \
             If the end takes too long, lower shutdown.delay or shutdown.drain"
        ),
    }
}

fn finished(ended: Result<(), crate::app::Exit>) -> anyhow::Result<ExitCode> {
    ended?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn addresses(addresses: &[std::net::SocketAddr]) -> String {
    let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    words.join(" ")
}

const LAST_TASKS: Duration = Duration::from_millis(100);
