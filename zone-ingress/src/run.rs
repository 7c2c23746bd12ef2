//! Runs an ingress as a process: by its zone, or by a static file.

use std::path::Path;

use anyhow::{Context, bail};
use runtime::admin::Pages;
use runtime::{Readiness, ReadyLine, Tasks, logs, shutdown};
use telemetry::{Settings, Telemetry};
use tracing::info;

use crate::control::{self, ControlOptions};
use crate::options::{Mode, Options};
use crate::{Ingress, ingress, open_files, static_file};

/// What the program is called.
pub const PROGRAM: &str = "tombolo-zone-ingress";

/// Runs as the command line says, until the process is asked to stop.
pub async fn program() -> anyhow::Result<()> {
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

/// Relays by a zone's table until `stop`, then drains. The ready line is written when the ingress is ready for
/// the first time.
pub async fn run_control(options: ControlOptions, stop: impl Future) -> anyhow::Result<()> {
    let running = control::start(options).await?;
    let announce = async |running: &control::Running| {
        let line = ReadyLine::new(PROGRAM)
            .with("health", running.ready_address)
            .with("metrics", running.metrics_address)
            .with("listen", running.listen);
        info!(listen = %running.listen, advertise = %running.advertise, "relaying");
        line.announce()
    };
    running.serve(stop, announce).await
}

/// Relays by a file until `stop`, then drains.
pub async fn run_static(file: &Path, options: &Options, stop: impl Future) -> anyhow::Result<()> {
    let handles = static_file::read(file)?;
    let mut tasks = Tasks::new();
    let readiness = Readiness::new();
    let starting = readiness.guard("handles");

    let pages = Pages::bind(options.ready_address, options.metrics_address).await?;
    let line =
        ReadyLine::new(PROGRAM).with("health", pages.ready_address).with("metrics", pages.metrics_address);

    let settings = Settings { access_log: options.access_log.clone(), tracing: None };
    let (telemetry, outlets) = Telemetry::new(&settings, PROGRAM)?;
    let to = ingress::Options { listen: options.listen, limits: options.limits() };
    let ingress = Ingress::start_telling(to, &telemetry)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    pages.serve(&mut tasks, readiness.clone(), control::metrics(&ingress, &telemetry));
    tasks.spawn("telemetry", |stop| outlets.run(stop));
    ingress.handles(handles).await?;
    drop(starting);
    line.with("listen", ingress.bound()).announce()?;
    info!(listen = %ingress.bound(), "relaying");

    let drained = async {
        stop.await;
        let _draining = readiness.guard("draining");
        ingress.shutdown(options.drain_time()).await;
    };
    tasks.run(drained, options.drain_time()).await
}
