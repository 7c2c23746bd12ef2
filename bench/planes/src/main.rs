//! `planes`: measures control planes. Called as one of the programs of the product it is that one, so that its own test
//! needs no other file.

use std::io::{IsTerminal, stdout};
use std::path::Path;

use anyhow::bail;
use clap::{Parser, Subcommand};
use planes::{application, figures, proxies, scale};
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "planes", version, about = "Measures control planes, by the real programs")]
struct Options {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// One zone control plane with many proxies: memory, idle and per change, bytes, and its death
    Scale(scale::Options),
    /// The process of the simulated proxies; 'scale' starts it
    Proxies(proxies::Options),
    /// A whole mesh of processes: how fast policies, services and instances travel, and what fails when something dies
    Figures(figures::Options),
    /// The process of an application; 'figures' starts it
    Application(application::Options),
}

fn main() -> anyhow::Result<()> {
    let called = std::env::args_os().next().unwrap_or_default();
    match Path::new(&called).file_name().and_then(|name| name.to_str()) {
        Some(global_cp::PROGRAM) => return Runtime::new()?.block_on(global_cp::program()),
        Some(zone_cp::PROGRAM) => return Runtime::new()?.block_on(zone_cp::program()),
        Some(zone_ingress::PROGRAM) => return Runtime::new()?.block_on(zone_ingress::program()),
        Some(dataplane::PROGRAM) => return Runtime::new()?.block_on(dataplane::program()),
        _ => {}
    }
    let Options { work } = Options::parse();
    // One thread is cheapest, and leaves the processors to those who are measured.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    match work {
        Work::Scale(options) => {
            let rows = runtime.block_on(until_stopped(scale::run(&options)))?;
            options.output.print(&rows, stdout().is_terminal(), &mut stdout())
        }
        Work::Proxies(options) => runtime.block_on(proxies::run(options)),
        Work::Figures(options) => {
            let rows = runtime.block_on(until_stopped(figures::run(&options)))?;
            options.output.print(&rows, stdout().is_terminal(), &mut stdout())
        }
        Work::Application(options) => runtime.block_on(application::run(options)),
    }
}

/// Whoever stops it ends what it has started, too.
async fn until_stopped<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = runtime::shutdown::requested()? => bail!("stopped before it was done"),
    }
}
