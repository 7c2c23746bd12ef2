//! Runs an ingress as a process: by its zone, or by a static file.

use std::path::Path;

use anyhow::Context;
use runtime::admin::Pages;
use runtime::{Readiness, ReadyLine, Tasks};
use telemetry::{Settings, Telemetry};
use tracing::info;

use crate::control::{self, ControlOptions};
use crate::options::Options;
use crate::{Ingress, ingress, static_file};

/// Relays by a zone's table until `stop`, then drains. The ready line is written when the ingress is ready for
/// the first time.
pub async fn run_control(options: ControlOptions, stop: impl Future) -> anyhow::Result<()> {
    let running = control::start(options).await?;
    let announce = async |running: &control::Running| {
        let line = ReadyLine::new("tombolo-zone-ingress")
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
    let line = ReadyLine::new("tombolo-zone-ingress")
        .with("health", pages.ready_address)
        .with("metrics", pages.metrics_address);

    let settings = Settings { access_log: options.access_log.clone(), tracing: None };
    let (telemetry, outlets) = Telemetry::new(&settings, "tombolo-zone-ingress")?;
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
