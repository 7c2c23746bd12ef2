//! Runs the zone control plane as a process.

use crate::{Options, ZoneCp};

/// What the program is called.
pub const PROGRAM: &str = "tombolo-zone-cp";

/// Runs as the command line says, until the process is asked to stop.
pub async fn program() -> anyhow::Result<()> {
    let options = runtime::options::parse::<Options>();
    runtime::logs::install(options.log_format, &options.log)?;
    let shutdown = runtime::shutdown::requested()?;
    let running = ZoneCp::start(options).await?;
    running.addresses.ready_line(PROGRAM).announce()?;
    running.run_until(shutdown).await
}
