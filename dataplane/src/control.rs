//! Runs a sidecar by its zone: joins, holds the parts that concern it, and says when they are in force.
//!
//! `document` is what the proxy says of itself, `parts` what the zone says to it, `plan` decides what follows
//! from both, `certificate` has it certified, `engine` puts all of it in force, and `state` keeps it for a
//! restart without the zone.

pub mod certificate;
pub mod document;
pub mod parts;
pub mod plan;
pub mod state;

mod engine;
mod host;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use joining::{Joining, Membership};
use prometheus_client::registry::Registry;
use runtime::admin::{self, AdminPages};
use runtime::{Readiness, Tasks};
use sync::link::{self, Handle};
use sync::session::Limits;
use telemetry::{Settings, Telemetry};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use traffic::Counters;
use traffic::listen::Bound;

use self::certificate::Have;
use self::document::OwnDocument;
use self::engine::{Command, Drain, Engine};
use self::host::ProxyHost;
use self::state::StateFolder;
use crate::proxy::{self, Proxy, Purpose};

/// What a sidecar of a zone needs to start. Every port may be 0.
#[derive(Clone)]
pub struct ControlOptions {
    /// `host:port` of the zone's control plane.
    pub zone_cp: String,
    pub token_file: PathBuf,
    /// The file with its Dataplane document.
    pub dataplane: PathBuf,
    pub state_dir: PathBuf,
    pub ready_address: SocketAddr,
    pub metrics_address: SocketAddr,
    pub workers: usize,
    /// How long open requests and connections may take at the end.
    pub drain_time: Duration,
    pub telemetry: Settings,
    pub clock: joining::Clock,
}

impl ControlOptions {
    /// With one worker, on ports of the kernel's choice, by the system's clock.
    pub fn new(
        zone_cp: impl Into<String>,
        token_file: impl Into<PathBuf>,
        dataplane: impl Into<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            zone_cp: zone_cp.into(),
            token_file: token_file.into(),
            dataplane: dataplane.into(),
            state_dir: state_dir.into(),
            ready_address: any,
            metrics_address: any,
            workers: 1,
            drain_time: Duration::from_secs(30),
            telemetry: Settings::default(),
            clock: joining::Clock::system(),
        }
    }
}

/// A sidecar that runs. Dropping it ends it at once.
pub struct Running {
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

/// How many things may wait for the engine; the session itself asks for a handful at a time.
const QUEUE: usize = 64;
/// What a zone may make a proxy hold, and what the proxy may ask for.
const LIMITS: Limits = Limits { staged_bytes: 64 << 20, ..Limits::PROXY };

/// Starts a sidecar. An error is one of its surroundings: a file, a folder, an address. Everything else is
/// tried for ever.
pub async fn start(options: ControlOptions) -> anyhow::Result<Running> {
    let own = OwnDocument::read(&options.dataplane)?;
    let (folder, found) = StateFolder::open(&options.state_dir, &own.peer())?;
    let ready = listen(options.ready_address).await?;
    let metrics = listen(options.metrics_address).await?;
    let (ready_address, metrics_address) = (ready.local_addr()?, metrics.local_addr()?);
    let (telemetry, outlets) = Telemetry::new(&options.telemetry, &own.peer().to_string())?;
    let proxy = Proxy::start_telling(proxy::Options { workers: options.workers }, &telemetry)?;
    let metrics_pages = metrics_pages(&proxy, &telemetry);

    let readiness = Readiness::new();
    let handle = Handle::new();
    let joining = Joining {
        clock: options.clock.clone(),
        ..Joining::new(own.peer(), options.zone_cp, options.token_file)
    };
    let membership = Arc::new(Membership::open(joining, folder.clone()).await?);
    let clock = options.clock.clone();
    let engine =
        Engine::new(proxy, own.ports.clone(), folder, found, handle.clone(), clock, readiness.clone());
    let (commands, taken) = mpsc::channel(QUEUE);
    let host = Arc::new(ProxyHost::new(own, membership.clone(), commands.clone()));

    let mut tasks = Tasks::new();
    let pages = AdminPages { readiness: Some(readiness.clone()), ..AdminPages::default() };
    tasks.spawn("ready page", |stop| admin::serve(ready, pages, stop));
    tasks.spawn("metrics page", |stop| admin::serve(metrics, metrics_pages, stop));
    tasks.spawn("telemetry", |stop| outlets.run(stop));
    spawn_certificates(&mut tasks, &engine, handle.clone(), options.clock, commands.clone());

    let (begin, dial_stop) = (CancellationToken::new(), CancellationToken::new());
    let (done, drained) = oneshot::channel();
    let drain = Drain { begin: begin.clone(), grace: options.drain_time, done };
    tasks.spawn("engine", |stop| engine.run(taken, drain, stop));
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
            begin.cancel();
            // The zone counts on what is open until nothing is. An engine that failed says no word.
            match drained.await {
                Ok(()) => joining::drain(&handle, &dial_stop).await,
                Err(_) => dial_stop.cancel(),
            }
        };
        let ended = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _ended = ended;
            tasks.run(drained, grace).await
        })
    };
    let task = Some(task);
    Ok(Running { ready_address, metrics_address, readiness, engine: commands, stop, ended, task })
}

impl Running {
    /// Completes when the sidecar is ready: it has its identity and a set, and its listeners are open.
    pub async fn ready(&self) {
        self.readiness.ready().await;
    }

    /// What it waits for, while it is not ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.readiness.pending()
    }

    /// The listeners, at the addresses that they really have.
    pub async fn bound(&self) -> Vec<Bound<Purpose>> {
        self.ask(Command::Bound).await.unwrap_or_default()
    }

    /// None when it has failed.
    pub async fn counters(&self) -> Option<Counters> {
        self.ask(Command::Counters).await
    }

    /// Completes when it ended by itself; [`Self::shutdown`] then says why.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Stops accepting, lets what is open finish for the drain time, says `drained` to the zone, and ends.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.task.take() {
            Some(task) => task.await.context("the sidecar panicked")?,
            None => Ok(()),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.engine.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn spawn_certificates(
    tasks: &mut Tasks,
    engine: &Engine,
    handle: Handle,
    clock: joining::Clock,
    commands: mpsc::Sender<Command>,
) {
    let identity = engine.identity();
    let have = engine
        .svid()
        .map(|svid| Have { id: svid.id().clone(), renew_at: svid.renew_at(rand::random_range(0.0..1.0)) });
    tasks.spawn("certificates", |stop| async move {
        let put = async |svid| {
            let (reply, in_use) = oneshot::channel();
            if commands.send(Command::Certificate(svid, reply)).await.is_ok() {
                let _ = in_use.await;
            }
        };
        let renewing = certificate::renew(&handle, &clock, identity, have, put);
        let _ = stop.run_until_cancelled(renewing).await;
        // It ends with the engine, which is not its failure.
        stop.cancelled().await;
        Ok(())
    });
}

/// What the metrics page shows of a proxy.
pub(crate) fn metrics_pages(proxy: &Proxy, telemetry: &Telemetry) -> AdminPages {
    let mut registry = Registry::default();
    telemetry.register(&mut registry);
    registry.register_collector(Box::new(proxy.totals()));
    AdminPages { metrics: Some(Arc::new(registry)), ..AdminPages::default() }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}
