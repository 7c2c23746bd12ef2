//! An application of the mesh, as a process that can be killed.

use std::net::SocketAddr;

use anyhow::Context;
use demo::shop::App;
use runtime::ReadyLine;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// What it says that it is
    #[arg(long)]
    name: String,
    /// Where it takes requests
    #[arg(long)]
    listen: SocketAddr,
}

/// Answers every request with its name until the process is asked to stop.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let stop = runtime::shutdown::requested()?;
    let any = SocketAddr::new(options.listen.ip(), 0);
    // It lives as long as the process.
    let app = App::start(options.name.leak(), "", options.listen, any).await?;
    ReadyLine::new("application").with("listen", options.listen).announce().context("the ready line")?;
    stop.await;
    app.shutdown().await;
    Ok(())
}
