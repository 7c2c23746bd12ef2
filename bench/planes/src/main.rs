//! `planes`: measures control planes. Called `tombolo-zone-cp` it is that program, so that its own test needs no
//! other file.

use std::io::{IsTerminal, stdout};
use std::path::Path;

use clap::{Parser, Subcommand};
use planes::{proxies, scale};

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
}

fn main() -> anyhow::Result<()> {
    let called = std::env::args_os().next().unwrap_or_default();
    if Path::new(&called).file_name().is_some_and(|name| name == zone_cp::PROGRAM) {
        return tokio::runtime::Runtime::new()?.block_on(zone_cp::program());
    }
    let Options { work } = Options::parse();
    // One thread is cheapest, and leaves the processors to those who are measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match work {
        Work::Scale(options) => {
            let rows = runtime.block_on(scale::run(&options))?;
            options.output.print(&rows, stdout().is_terminal(), &mut stdout())
        }
        Work::Proxies(options) => runtime.block_on(proxies::run(options)),
    }
}
