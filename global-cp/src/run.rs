//! Runs the global control plane as a process.

use anyhow::Context;
use runtime::{logs, shutdown};

use crate::{GlobalCp, Options};

/// What the program is called.
pub const PROGRAM: &str = "tombolo-global-cp";

/// Runs as the command line says, until the process is asked to stop.
pub async fn program() -> anyhow::Result<()> {
    let options = runtime::options::parse::<Options>();
    logs::install(options.log_format, &options.log).context("logs cannot be set up")?;
    let stop = shutdown::requested()?;
    let running = GlobalCp::start(options).await?;
    running.addresses.ready_line(PROGRAM).announce()?;
    running.run_until(stop).await
}
