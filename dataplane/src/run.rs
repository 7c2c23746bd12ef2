//! Runs a sidecar by a static file.

use std::path::Path;

use anyhow::{Context, bail};
use runtime::admin::{self, AdminPages};
use runtime::{Readiness, ReadyLine, Tasks};
use tokio::net::TcpListener;
use tracing::info;

use crate::Proxy;
use crate::options::Options;
use crate::proxy;
use crate::static_file::{self, Static};

/// Serves by a file until `stop`, then drains. A listener that cannot be opened is an error: there is nobody
/// who would correct it while we run.
pub async fn run_static(file: &Path, options: &Options, stop: impl Future) -> anyhow::Result<()> {
    let Static { config, endpoints } = static_file::read(file)?;
    let id = config.credentials.id.clone();
    let mut tasks = Tasks::new();
    let readiness = Readiness::new();
    let starting = readiness.guard("configuration");

    let ready = listen(options.ready_address).await?;
    let metrics = listen(options.metrics_address).await?;
    let mut line = ReadyLine::new("tombolo-dataplane")
        .with("ready", ready.local_addr()?)
        .with("metrics", metrics.local_addr()?);
    let pages = AdminPages { readiness: Some(readiness.clone()), ..AdminPages::default() };
    tasks.spawn("ready page", |stop| admin::serve(ready, pages, stop));
    tasks.spawn("metrics page", |stop| admin::serve(metrics, AdminPages::default(), stop));

    let proxy = Proxy::start(proxy::Options { workers: options.workers })?;
    for (id, endpoints) in endpoints {
        proxy.endpoints(id, endpoints).await?;
    }
    let applied = proxy.apply(config).await?;
    if let Some(problem) = applied.problems.into_iter().next() {
        bail!(anyhow::Error::new(problem));
    }
    line = line.with_all("listen", proxy.bound().iter().map(|bound| bound.address));
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

async fn listen(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}
