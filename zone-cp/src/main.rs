//! `tombolo-zone-cp`: parses flags, starts the zone control plane, and runs it until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use control::{Addresses, Clock};
use model::ZoneName;
use runtime::logs::LogFormat;
use zone_cp::{Global, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The zone control plane: turns policy and services into what the proxies of its zone run.
#[derive(Parser)]
#[command(name = "tombolo-zone-cp", version)]
struct Flags {
    /// The name of the zone.
    #[arg(long, env = "TOMBOLO_ZONE")]
    zone: ZoneName,
    /// Where the store is kept; the first start makes admin.token and ca.crt in it.
    #[arg(long, env = "TOMBOLO_DATA_DIR")]
    data_dir: PathBuf,
    /// The global control plane to join, HOST:PORT. Without it the zone stands alone.
    #[arg(long, env = "TOMBOLO_GLOBAL", requires = "token_file")]
    global: Option<String>,
    /// The file of the token by which this zone joins the global (`tombolo token zone`).
    #[arg(long, env = "TOMBOLO_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Where the REST API is served.
    #[arg(long, env = "TOMBOLO_API_ADDRESS", default_value = "127.0.0.1:5681")]
    api_address: SocketAddr,
    /// Where proxies join.
    #[arg(long, env = "TOMBOLO_SYNC_ADDRESS", default_value = "127.0.0.1:5678")]
    sync_address: SocketAddr,
    /// Where health, readiness and metrics are served.
    #[arg(long, env = "TOMBOLO_HEALTH_ADDRESS", default_value = "127.0.0.1:5680")]
    health_address: SocketAddr,
    /// How to write the log on standard error: json or text.
    #[arg(long, env = "TOMBOLO_LOG_FORMAT", default_value = "json")]
    log_format: LogFormat,
    /// What to log, such as info or zone_cp=debug,info.
    #[arg(long, env = "TOMBOLO_LOG", default_value = "info")]
    log: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    runtime::logs::install(flags.log_format, &flags.log)?;
    let shutdown = runtime::shutdown::requested()?;
    let global = flags.global.zip(flags.token_file);
    let options = Options {
        zone: flags.zone,
        data_dir: flags.data_dir,
        addresses: Addresses {
            api: flags.api_address,
            sync: flags.sync_address,
            health: flags.health_address,
        },
        global: global.map(|(address, token_file)| Global { address, token_file }),
        clock: Clock::system(),
    };
    let running = zone_cp::start(options).await?;
    running.addresses.ready_line("tombolo-zone-cp").announce()?;
    running.run_until(shutdown).await
}
