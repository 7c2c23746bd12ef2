//! Runs an ingress by its zone: joins, says where it can be reached, and relays by the zone's table.

pub mod kept;

mod engine;
mod host;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use identity::Peer;
use joining::{Joining, KeepFile, Membership};
use model::ResourceName;
use prometheus_client::registry::Registry;
use runtime::admin::{self, AdminPages};
use runtime::{Readiness, Tasks, files};
use sync::link::{self, Handle};
use sync::session::Limits as SessionLimits;
use telemetry::{AccessLog, Settings, Telemetry};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use traffic::Counters;
use traffic::relay::Limits;

use self::engine::{Command, Engine};
use self::host::IngressHost;
use self::kept::KeptTable;
use crate::ingress::{self, Ingress};

/// What an ingress of a zone needs to start. Every port may be 0.
#[derive(Clone)]
pub struct ControlOptions {
    pub name: ResourceName,
    /// `host:port` of the zone's control plane.
    pub zone_cp: String,
    pub token_file: PathBuf,
    pub state_dir: PathBuf,
    pub listen: SocketAddr,
    /// Where other zones reach it, if not where it listens. Port 0: the one that it listens on.
    pub advertise: Option<SocketAddr>,
    pub limits: Limits,
    pub ready_address: SocketAddr,
    pub metrics_address: SocketAddr,
    /// How long open connections may take at the end.
    pub drain_time: Duration,
    pub access_log: AccessLog,
    pub clock: joining::Clock,
}

impl ControlOptions {
    /// On loopback, on ports of the kernel's choice, by the system's clock.
    pub fn new(
        name: ResourceName,
        zone_cp: impl Into<String>,
        token_file: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            name,
            zone_cp: zone_cp.into(),
            token_file: token_file.into(),
            state_dir: state_dir.into(),
            listen: any,
            advertise: None,
            limits: Limits::default(),
            ready_address: any,
            metrics_address: any,
            drain_time: Duration::from_secs(30),
            access_log: AccessLog::Off,
            clock: joining::Clock::system(),
        }
    }
}

/// An ingress that runs. Dropping it ends it at once.
pub struct Running {
    /// Where other zones connect.
    pub listen: SocketAddr,
    /// Where it says that they reach it.
    pub advertise: SocketAddr,
    /// Where `/healthz` and `/readyz` are.
    pub ready_address: SocketAddr,
    /// Where `/metrics` is.
    pub metrics_address: SocketAddr,
    readiness: Readiness,
    engine: mpsc::Sender<Command>,
    stop: CancellationToken,
    ended: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

/// How many things may wait for the engine; the session itself asks for one at a time.
const QUEUE: usize = 16;
/// What a zone may make an ingress hold, and what the ingress may ask for.
const LIMITS: SessionLimits = SessionLimits { staged_bytes: 64 << 20, ..SessionLimits::PROXY };

/// Starts an ingress. An error is one of its surroundings: a folder, an address. Everything else is tried for
/// ever.
pub async fn start(options: ControlOptions) -> anyhow::Result<Running> {
    let peer = Peer::Ingress(options.name);
    let folder = &options.state_dir;
    files::create_private_dir(folder)
        .with_context(|| format!("cannot make the state folder {}", folder.display()))?;
    let (kept, found) = KeptTable::open(folder.join("handles.json"), &peer)?;
    let ready = listen(options.ready_address).await?;
    let metrics = listen(options.metrics_address).await?;
    let (ready_address, metrics_address) = (ready.local_addr()?, metrics.local_addr()?);
    let settings = Settings { access_log: options.access_log, tracing: None };
    let (telemetry, outlets) = Telemetry::new(&settings, &peer.to_string())?;
    let to = ingress::Options { listen: options.listen, limits: options.limits };
    let ingress = Ingress::start_telling(to, &telemetry)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let bound = ingress.bound();
    let advertise = advertised(options.advertise, bound)?;

    let readiness = Readiness::new();
    let handle = Handle::new();
    let joining = Joining { clock: options.clock, ..Joining::new(peer, options.zone_cp, options.token_file) };
    let membership = Membership::open(joining, KeepFile::new(folder.join("membership.json"))).await?;
    let metrics_pages = metrics_pages(&ingress, &telemetry);
    let engine = Engine::new(ingress, kept, found, &readiness);
    let (commands, taken) = mpsc::channel(QUEUE);
    let host = Arc::new(IngressHost::new(advertise, &handle, commands.clone()));

    let mut tasks = Tasks::new();
    let pages = AdminPages { readiness: Some(readiness.clone()), ..AdminPages::default() };
    tasks.spawn("ready page", |stop| admin::serve(ready, pages, stop));
    tasks.spawn("metrics page", |stop| admin::serve(metrics, metrics_pages, stop));
    tasks.spawn("telemetry", |stop| outlets.run(stop));

    let (engine_stop, dial_stop) = (CancellationToken::new(), CancellationToken::new());
    let (given_back, ingress) = oneshot::channel();
    tasks.spawn("engine", |stop| {
        let engine_stop = engine_stop.clone();
        async move {
            let ingress = engine.run(taken, engine_stop).await?;
            let _ = given_back.send(ingress);
            stop.cancelled().await;
            Ok(())
        }
    });
    tasks.spawn("session", |stop| {
        let (handle, dial_stop) = (handle.clone(), dial_stop.clone());
        async move {
            let options = link::Options::new(env!("CARGO_PKG_VERSION"), LIMITS);
            membership.run(host, &handle, &options, &dial_stop).await;
            stop.cancelled().await;
            Ok(())
        }
    });

    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    let task = {
        let (stop, readiness, grace) = (stop.clone(), readiness.clone(), options.drain_time);
        let drained = async move {
            stop.cancelled().await;
            let _draining = readiness.guard("draining");
            // Others hear of it first; who comes before they do is served.
            joining::drain(&handle, &dial_stop).await;
            engine_stop.cancel();
            // It is given back unless the engine failed, and then there is nothing to drain.
            if let Ok(ingress) = ingress.await {
                ingress.shutdown(grace).await;
            }
        };
        let ended = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _ended = ended;
            tasks.run(drained, grace).await
        })
    };
    Ok(Running {
        listen: bound,
        advertise,
        ready_address,
        metrics_address,
        readiness,
        engine: commands,
        stop,
        ended,
        task: Some(task),
    })
}

impl Running {
    /// Completes when the ingress is ready: it has a word of its zone, or the table it kept.
    pub async fn ready(&self) {
        self.readiness.ready().await;
    }

    /// What it waits for, while it is not ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.readiness.pending()
    }

    /// None when it has failed.
    pub async fn counters(&self) -> Option<Counters> {
        let (reply, answer) = oneshot::channel();
        self.engine.send(Command::Counters(reply)).await.ok()?;
        answer.await.ok()
    }

    /// Completes when it ended by itself; [`Self::shutdown`] then says why.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Says `drained` to the zone, stops accepting, lets what is open finish for the drain time, and ends.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.task.take() {
            Some(task) => task.await.context("the ingress panicked")?,
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What the metrics page shows of an ingress.
pub(crate) fn metrics_pages(ingress: &Ingress, telemetry: &Telemetry) -> AdminPages {
    let mut registry = Registry::default();
    telemetry.register(&mut registry);
    registry.register_collector(Box::new(ingress.totals()));
    AdminPages { metrics: Some(Arc::new(registry)), ..AdminPages::default() }
}

/// Where other zones are told to dial.
fn advertised(asked: Option<SocketAddr>, bound: SocketAddr) -> anyhow::Result<SocketAddr> {
    let mut address = asked.unwrap_or(bound);
    ensure!(
        !address.ip().is_unspecified(),
        "{address} is no address at which other zones can reach this ingress: give one with --advertise"
    );
    if address.port() == 0 {
        address.set_port(bound.port());
    }
    Ok(address)
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_can_be_dialled() {
        let cases = [
            (None, "192.0.2.7:10001", Some("192.0.2.7:10001")),
            (None, "0.0.0.0:10001", None),
            (Some("192.0.2.7:443"), "0.0.0.0:10001", Some("192.0.2.7:443")),
            (Some("192.0.2.7:0"), "0.0.0.0:10001", Some("192.0.2.7:10001")),
            (Some("[::]:443"), "192.0.2.7:10001", None),
        ];
        for (asked, bound, want) in cases {
            let asked = asked.map(|address| address.parse().unwrap());
            let found = advertised(asked, bound.parse().unwrap()).ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), want, "{asked:?} {bound}");
        }
    }
}
