//! `tombolo-zone-cp`: parses flags, starts the zone control plane, and runs it until it is told to stop.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    runtime::logs::exit_code(zone_cp::program().await)
}
