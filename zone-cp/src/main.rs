//! `tombolo-zone-cp`: parses flags, starts the zone control plane, and runs it until it is told to stop.

use zone_cp::{Options, ZoneCp};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = runtime::options::parse::<Options>();
    runtime::logs::install(options.log_format, &options.log)?;
    let shutdown = runtime::shutdown::requested()?;
    let running = ZoneCp::start(options).await?;
    running.addresses.ready_line("tombolo-zone-cp").announce()?;
    running.run_until(shutdown).await
}
