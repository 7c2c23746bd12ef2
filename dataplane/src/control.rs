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

use joining::{Joining, Membership, Program};
use prometheus_client::registry::Registry;
use runtime::admin::Pages;
use runtime::{Readiness, Tasks};
use sync::link::Handle;
use sync::session::Limits;
use telemetry::{Settings, Telemetry};
use tokio::sync::{mpsc, oneshot};
use traffic::Counters;
use traffic::listen::Bound;

use self::certificate::Have;
use self::document::OwnDocument;
use self::engine::{Command, Engine};
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
pub type Running = joining::Running<Sidecar>;

/// What a running sidecar can be asked.
pub struct Sidecar(mpsc::Sender<Command>);

/// How many things may wait for the engine; the session itself asks for a handful at a time.
const QUEUE: usize = 64;
/// What a zone may make a proxy hold, and what the proxy may ask for.
const LIMITS: Limits = Limits { staged_bytes: 64 << 20, ..Limits::PROXY };

/// Starts a sidecar. An error is one of its surroundings: a file, a folder, an address. Everything else is
/// tried for ever.
pub async fn start(options: ControlOptions) -> anyhow::Result<Running> {
    let own = OwnDocument::read(&options.dataplane)?;
    let (folder, found) = StateFolder::open(&options.state_dir, &own.peer())?;
    let pages = Pages::bind(options.ready_address, options.metrics_address).await?;
    let (telemetry, outlets) = Telemetry::new(&options.telemetry, &own.peer().to_string())?;
    let proxy = Proxy::start_telling(proxy::Options { workers: options.workers }, &telemetry)?;
    let metrics = metrics(&proxy, &telemetry);

    let readiness = Readiness::new();
    let handle = Handle::new();
    let clock = options.clock;
    let joining =
        Joining { clock: clock.clone(), ..Joining::new(own.peer(), options.zone_cp, options.token_file) };
    let membership = Arc::new(Membership::open(joining, folder.clone()).await?);
    let (ports, ready) = (own.ports.clone(), readiness.clone());
    let engine = Engine::new(proxy, ports, folder, found, handle.clone(), clock.clone(), ready);
    let (commands, taken) = mpsc::channel(QUEUE);
    let host = Arc::new(ProxyHost::new(own, membership.clone(), commands.clone()));

    let mut tasks = Tasks::new();
    tasks.spawn("telemetry", |stop| outlets.run(stop));
    spawn_certificates(&mut tasks, &engine, handle.clone(), clock, commands.clone());
    let (limits, drain_time) = (LIMITS, options.drain_time);
    let program = Program { tasks, pages, metrics, readiness, handle, membership, limits, drain_time };
    Ok(program.run(Sidecar(commands), host, |drain, stop| engine.run(taken, drain, stop)))
}

impl Sidecar {
    /// The listeners, at the addresses that they really have.
    pub async fn bound(&self) -> Vec<Bound<Purpose>> {
        self.ask(Command::Bound).await.unwrap_or_default()
    }

    /// None when it has failed.
    pub async fn counters(&self) -> Option<Counters> {
        self.ask(Command::Counters).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.ok()?;
        answer.await.ok()
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
    let have = engine.svid().map(|svid| Have::new(&svid));
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
pub(crate) fn metrics(proxy: &Proxy, telemetry: &Telemetry) -> Registry {
    let mut registry = Registry::default();
    telemetry.register(&mut registry);
    registry.register_collector(Box::new(proxy.totals()));
    registry
}
