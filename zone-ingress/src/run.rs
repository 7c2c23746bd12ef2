//! Runs an ingress as a process: by its zone, or by a static file.

use std::future;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use runtime::admin::{self, AdminPages};
use runtime::{Readiness, ReadyLine, Tasks};
use telemetry::{Settings, Telemetry};
use tokio::net::TcpListener;
use tracing::info;

use crate::control::{self, ControlOptions};
use crate::options::Options;
use crate::{Ingress, ingress, static_file};

/// Relays by a zone's table until `stop`, then drains. The ready line is written when the ingress is ready for
/// the first time.
pub async fn run_control(options: ControlOptions, stop: impl Future) -> anyhow::Result<()> {
    let running = control::start(options).await?;
    let serving = async {
        running.ready().await;
        let line = ReadyLine::new("tombolo-zone-ingress")
            .with("health", running.ready_address)
            .with("metrics", running.metrics_address)
            .with("listen", running.listen);
        let announced = line.announce();
        info!(listen = %running.listen, advertise = %running.advertise, "relaying");
        match announced {
            Ok(()) => future::pending().await,
            Err(error) => error,
        }
    };
    let failed = tokio::select! {
        _ = stop => None,
        () = running.ended() => None,
        error = serving => Some(error),
    };
    running.shutdown().await?;
    failed.map_or(Ok(()), |error| Err(error).context("the ready line cannot be written"))
}

/// Relays by a file until `stop`, then drains.
pub async fn run_static(file: &Path, options: &Options, stop: impl Future) -> anyhow::Result<()> {
    let handles = static_file::read(file)?;
    let mut tasks = Tasks::new();
    let readiness = Readiness::new();
    let starting = readiness.guard("handles");

    let ready = listen(options.ready_address).await?;
    let metrics = listen(options.metrics_address).await?;
    let line = ReadyLine::new("tombolo-zone-ingress")
        .with("health", ready.local_addr()?)
        .with("metrics", metrics.local_addr()?);
    let pages = AdminPages { readiness: Some(readiness.clone()), ..AdminPages::default() };
    tasks.spawn("ready page", |stop| admin::serve(ready, pages, stop));

    let settings = Settings { access_log: options.access_log.clone(), tracing: None };
    let (telemetry, outlets) = Telemetry::new(&settings, "tombolo-zone-ingress")?;
    let to = ingress::Options { listen: options.listen, limits: options.limits() };
    let ingress = Ingress::start_telling(to, &telemetry)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let metrics_pages = control::metrics_pages(&ingress, &telemetry);
    tasks.spawn("metrics page", |stop| admin::serve(metrics, metrics_pages, stop));
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

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}
