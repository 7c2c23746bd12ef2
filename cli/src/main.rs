//! The `tombolo` command; called `tombolo-dataplane` it is a sidecar, so that the demo can start one as a process of its own
//! wherever this one file is.

use std::io::{stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_name().is_some_and(|name| name == dataplane::PROGRAM) {
        return dataplane::program().await.map(|()| ExitCode::SUCCESS);
    }
    Ok(cli::run(std::env::args_os(), &cli::Environment::of_process(), &mut stdout(), &mut stderr()).await)
}
