//! Runs a sidecar as a process: by its zone, or by a static file.

use std::path::Path;

use anyhow::{Context, bail};
use runtime::admin::Pages;
use runtime::{Readiness, ReadyLine, Tasks, logs, shutdown};
use telemetry::Telemetry;
use tracing::info;
use traffic::ProxyConfig;

use crate::control::{self, ControlOptions};
use crate::options::{Mode, Options};
use crate::static_file::{self, Static};
use crate::{Proxy, Purpose, proxy};

/// What the program is called.
pub const PROGRAM: &str = "tombolo-dataplane";

/// Runs as the command line says, until the process is asked to stop.
pub async fn program() -> anyhow::Result<()> {
    let options = runtime::options::parse::<Options>();
    logs::install(options.log_format, &options.log).context("logs cannot be set up")?;
    let stop = shutdown::requested()?;
    match options.mode() {
        Some(Mode::Static(file)) => run_static(file, &options, stop).await,
        Some(Mode::Control(control)) => run_control(*control, stop).await,
        None => bail!("no configuration: name a zone with --zone-cp, or a file with --static"),
    }
}

/// Serves by a zone until `stop`, then drains. The ready line is written when the sidecar is ready for the first
/// time.
pub async fn run_control(options: ControlOptions, stop: impl Future) -> anyhow::Result<()> {
    let running = control::start(options).await?;
    let announce = async |running: &control::Running| {
        let listen = running.bound().await.into_iter().map(|bound| bound.address);
        let line = ReadyLine::new(PROGRAM)
            .with("health", running.ready_address)
            .with("metrics", running.metrics_address)
            .with_all("listen", listen);
        info!("serving");
        line.announce()
    };
    running.serve(stop, announce).await
}

/// Serves by a file until `stop`, then drains. A listener that cannot be opened is an error: there is nobody
/// who would correct it while we run.
pub async fn run_static(file: &Path, options: &Options, stop: impl Future) -> anyhow::Result<()> {
    let Static { config, endpoints } = static_file::read(file)?;
    let id = config.credentials.id.clone();
    let listeners = purposes(&config);
    let mut tasks = Tasks::new();
    let readiness = Readiness::new();
    let starting = readiness.guard("configuration");

    let pages = Pages::bind(options.ready_address, options.metrics_address).await?;
    let mut line =
        ReadyLine::new(PROGRAM).with("health", pages.ready_address).with("metrics", pages.metrics_address);

    let (telemetry, outlets) = Telemetry::new(&options.telemetry(), id.as_str())?;
    let proxy = Proxy::start_telling(proxy::Options { workers: options.workers }, &telemetry)?;
    pages.serve(&mut tasks, readiness.clone(), control::metrics(&proxy, &telemetry));
    tasks.spawn("telemetry", |stop| outlets.run(stop));
    for (id, endpoints) in endpoints {
        proxy.endpoints(id, endpoints).await?;
    }
    let applied = proxy.apply(config).await?;
    if let Some(problem) = applied.problems.into_iter().next() {
        bail!(anyhow::Error::new(problem));
    }
    let bound = proxy.bound();
    let address = |purpose| bound.iter().find(|bound| bound.purpose == purpose).map(|bound| bound.address);
    line = line.with_all("listen", listeners.into_iter().filter_map(address));
    drop(starting);
    line.announce()?;
    info!(%id, "serving");

    let drained = async {
        stop.await;
        let _draining = readiness.guard("draining");
        proxy.shutdown(options.drain_time()).await;
    };
    tasks.run(drained, options.drain_time()).await
}

/// The outbound listeners in the order of the file, and then the inbounds by name: the order of the ready line.
fn purposes(config: &ProxyConfig) -> Vec<Purpose> {
    let outbound = config.outbound.iter().map(|listener| Purpose::Outbound(listener.destination.clone()));
    outbound.chain(config.inbounds.keys().map(|name| Purpose::Inbound(*name))).collect()
}
