//! Starts a sidecar.

use anyhow::{Context, bail};
use clap::Parser;
use dataplane::options::{Mode, Options};
use dataplane::{run_control, run_static};
use runtime::{logs, shutdown};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    logs::install(options.log_format, &options.log).context("logs cannot be set up")?;
    let stop = shutdown::requested()?;
    match options.mode() {
        Some(Mode::Static(file)) => run_static(file, &options, stop).await,
        Some(Mode::Control(control)) => run_control(*control, stop).await,
        None => bail!("no configuration: name a zone with --zone-cp, or a file with --static"),
    }
}
