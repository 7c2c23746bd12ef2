//! Starts a zone ingress.

use anyhow::{Context, bail};
use runtime::{logs, shutdown};
use tracing::info;
use zone_ingress::open_files;
use zone_ingress::options::{Mode, Options};
use zone_ingress::{run_control, run_static};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut options = runtime::options::parse::<Options>();
    logs::install(options.log_format, &options.log).context("logs cannot be set up")?;
    let room = open_files::make_room();
    if room < options.max_connections {
        info!(asked = options.max_connections, room, "the limit of open files allows fewer connections");
        options.max_connections = room;
    }
    let stop = shutdown::requested()?;
    match options.mode() {
        Some(Mode::Static(file)) => run_static(file, &options, stop).await,
        Some(Mode::Control(control)) => run_control(*control, stop).await,
        None => bail!("no configuration: name a zone with --zone-cp, or a file with --static"),
    }
}
