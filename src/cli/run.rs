//! `run`: serve until told to stop.

use std::process::ExitCode;

use crate::config::Config;

pub(super) fn run(_config: Config) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
