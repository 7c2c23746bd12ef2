//! Starts a global control plane.

use anyhow::Context;
use global_cp::{GlobalCp, Options};
use runtime::{logs, shutdown};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = runtime::options::parse::<Options>();
    logs::install(options.log_format, &options.log).context("logs cannot be set up")?;
    let stop = shutdown::requested()?;
    let running = GlobalCp::start(options).await?;
    running.addresses.ready_line("tombolo-global-cp").announce()?;
    running.run_until(stop).await
}
