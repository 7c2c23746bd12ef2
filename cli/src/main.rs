//! The `tombolo` command; called as one of the programs it is that one, so that the demo can start each as a process of
//! its own wherever this one file is.

use std::io::{stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let ended = match Path::new(&called).file_name().and_then(|name| name.to_str()) {
        Some(global_cp::PROGRAM) => global_cp::program().await,
        Some(zone_cp::PROGRAM) => zone_cp::program().await,
        Some(zone_ingress::PROGRAM) => zone_ingress::program().await,
        Some(dataplane::PROGRAM) => dataplane::program().await,
        _ => {
            let environment = cli::Environment::of_process();
            return cli::run(std::env::args_os(), &environment, &mut stdout(), &mut stderr()).await;
        }
    };
    runtime::logs::exit_code(ended)
}
