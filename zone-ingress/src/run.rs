//! Runs an ingress by a static file.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;
use runtime::admin::{self, AdminPages};
use runtime::{Readiness, ReadyLine, Tasks};
use tokio::net::TcpListener;
use tracing::info;
use traffic::relay::Limits;

use crate::options::Options;
use crate::{Ingress, ingress, static_file};

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
    tasks.spawn("metrics page", |stop| admin::serve(metrics, AdminPages::default(), stop));

    let limits = Limits {
        connections: options.max_connections,
        connections_per_peer: options.max_connections_per_peer,
        ..Limits::default()
    };
    let ingress = Ingress::start(ingress::Options { listen: options.listen, limits })
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
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
