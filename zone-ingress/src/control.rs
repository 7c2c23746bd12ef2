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
use joining::{Joining, KeepFile, Membership, Program};
use model::ResourceName;
use prometheus_client::registry::Registry;
use runtime::admin::Pages;
use runtime::{Readiness, Tasks, files};
use sync::link::Handle;
use sync::session::Limits as SessionLimits;
use telemetry::{AccessLog, Settings, Telemetry};
use tokio::sync::{mpsc, oneshot};
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
pub type Running = joining::Running<Door>;

/// What is known of a running ingress, and can be asked of it.
pub struct Door {
    /// Where other zones connect.
    pub listen: SocketAddr,
    /// Where it says that they reach it.
    pub advertise: SocketAddr,
    engine: mpsc::Sender<Command>,
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
    let pages = Pages::bind(options.ready_address, options.metrics_address).await?;
    let settings = Settings { access_log: options.access_log, tracing: None };
    let (telemetry, outlets) = Telemetry::new(&settings, &peer.to_string())?;
    let to = ingress::Options { listen: options.listen, limits: options.limits };
    let ingress = Ingress::start_telling(to, &telemetry)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let (listen, metrics) = (ingress.bound(), metrics(&ingress, &telemetry));
    let advertise = advertised(options.advertise, listen)?;

    let readiness = Readiness::new();
    let handle = Handle::new();
    let joining = Joining { clock: options.clock, ..Joining::new(peer, options.zone_cp, options.token_file) };
    let membership = Membership::open(joining, KeepFile::new(folder.join("membership.json"))).await?;
    let membership = Arc::new(membership);
    let engine = Engine::new(ingress, kept, found, &readiness);
    let (commands, taken) = mpsc::channel(QUEUE);
    let host = Arc::new(IngressHost::new(advertise, &handle, commands.clone()));

    let mut tasks = Tasks::new();
    tasks.spawn("telemetry", |stop| outlets.run(stop));
    let (limits, drain_time) = (LIMITS, options.drain_time);
    let program = Program { tasks, pages, metrics, readiness, handle, membership, limits, drain_time };
    let door = Door { listen, advertise, engine: commands };
    Ok(program.run(door, host, |drain, stop| engine.run(taken, drain, stop)))
}

impl Door {
    /// None when it has failed.
    pub async fn counters(&self) -> Option<Counters> {
        let (reply, answer) = oneshot::channel();
        self.engine.send(Command::Counters(reply)).await.ok()?;
        answer.await.ok()
    }
}

/// What the metrics page shows of an ingress.
pub(crate) fn metrics(ingress: &Ingress, telemetry: &Telemetry) -> Registry {
    let mut registry = Registry::default();
    telemetry.register(&mut registry);
    registry.register_collector(Box::new(ingress.totals()));
    registry
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
