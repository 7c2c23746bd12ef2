//! One worker of a sidecar: takes commands, and connections from the one that accepts.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use model::DestinationId;
use snapshot::parts::Endpoints;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use traffic::access::Denial;
use traffic::inbound::Inbounds;
use traffic::listen::{Bound, ListenProblem, Listeners};
use traffic::outbound::Outbound;
use traffic::standing::Standing;
use traffic::worker::Shared;
use traffic::{Counters, ProxyConfig, http, tcp};

use crate::proxy::Purpose;

pub(crate) enum Command {
    Apply(Arc<ProxyConfig>, oneshot::Sender<Outcome>),
    Endpoints(DestinationId, Arc<Endpoints>, oneshot::Sender<()>),
    /// From the worker that accepts.
    Connection(Purpose, StdStream),
    Counters(oneshot::Sender<Counters>),
    Denial(String, oneshot::Sender<Option<Denial>>),
    Drain(Side, Duration, oneshot::Sender<()>),
}

/// Of the two sides of a sidecar, the one that comes to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Inbound,
    /// What of the inbound side is still open comes to its end, too.
    Outbound,
}

/// What came of a configuration on one worker.
pub(crate) struct Outcome {
    pub(crate) bound: Vec<Bound<Purpose>>,
    pub(crate) problems: Vec<ListenProblem<Purpose>>,
}

/// How often connections to applications are looked through for idle ones.
const SWEEP: Duration = Duration::from_secs(10);
/// What is cut off ends in the same turn of the worker; this is for the unforeseen.
const CUT: Duration = Duration::from_secs(5);

/// Runs until the last handle is gone. The worker with number 0 accepts.
pub(crate) async fn run(
    shared: Rc<Shared>,
    mut commands: mpsc::Receiver<Command>,
    number: usize,
    others: Vec<mpsc::Sender<Command>>,
    loads: Arc<[AtomicUsize]>,
) {
    let carrier = Rc::new(Carrier {
        outbound: Outbound::new(shared.clone()),
        inbounds: Inbounds::new(shared.clone()),
        shared: shared.clone(),
        number,
        others,
        loads,
        peers: TaskTracker::new(),
    });
    let mut listeners = Listeners::default();
    let mut sweep = time::interval(SWEEP);
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = sweep.tick() => {
                carrier.inbounds.sweep(time::Instant::now(), SystemTime::now());
                continue;
            }
        };
        // Whoever asked may not wait for the answer any more: sending it may fail.
        match command {
            None => break,
            Some(Command::Apply(config, reply)) => {
                let outcome = apply(&carrier, &mut listeners, &config).await;
                let (problems, gone) = outcome;
                let outcome = Outcome { bound: listeners.bound(), problems };
                shared.tasks.spawn_local(async move {
                    all_ended(gone).await;
                    let _ = reply.send(outcome);
                });
            }
            Some(Command::Endpoints(id, endpoints, reply)) => {
                carrier.outbound.set_endpoints(&id, endpoints);
                let _ = reply.send(());
            }
            Some(Command::Connection(purpose, stream)) => match TcpStream::from_std(stream) {
                Ok(stream) => carrier.carry(&purpose, stream),
                Err(error) => warn!(%error, "a connection was lost between workers"),
            },
            Some(Command::Counters(reply)) => {
                let _ = reply.send(shared.metrics.read());
            }
            Some(Command::Denial(id, reply)) => {
                let _ = reply.send(carrier.inbounds.denials().find(&id));
            }
            Some(Command::Drain(side, grace, reply)) => {
                let (told, tasks) = match side {
                    Side::Inbound => (&shared.draining, carrier.peers.clone()),
                    Side::Outbound => (&shared.ending, shared.tasks.clone()),
                };
                told.cancel();
                listeners.retain(|purpose| carrier.is_open(purpose)).await;
                tasks.close();
                // It is none of the tasks that it waits for, and commands are taken meanwhile.
                tokio::task::spawn_local(async move {
                    if time::timeout(grace, tasks.wait()).await.is_err() {
                        warn!(left = tasks.len(), "grace period over, dropping the rest");
                    }
                    let _ = reply.send(());
                });
            }
        }
    }
}

/// Swaps the configuration in, judges what is open, and opens and closes listeners.
async fn apply(
    carrier: &Rc<Carrier>,
    listeners: &mut Listeners<Purpose>,
    config: &ProxyConfig,
) -> (Vec<ListenProblem<Purpose>>, Vec<Rc<Standing>>) {
    // One turn of the worker: nothing sees a half of it.
    carrier.shared.credentials.replace(Some(config.credentials.clone()));
    let mut gone = carrier.outbound.apply(config);
    gone.extend(carrier.inbounds.apply(config));
    if carrier.number != 0 {
        return (Vec::new(), gone);
    }

    let (mut want, mut problems) = wanted(config);
    want.retain(|(purpose, _)| carrier.is_open(purpose));
    let taker = carrier.clone();
    let take = move |purpose: &Purpose, stream, from| taker.take(purpose, stream, from);
    problems.extend(listeners.reconcile(want, Rc::new(take)).await);
    for problem in &problems {
        warn!(purpose = %problem.purpose, address = %problem.address, cause = %problem.cause, "cannot listen");
    }
    (problems, gone)
}

/// The listeners that a configuration asks for, without those that cannot be.
fn wanted(config: &ProxyConfig) -> (BTreeSet<(Purpose, SocketAddr)>, Vec<ListenProblem<Purpose>>) {
    let outbound = config.outbound.iter().map(|listener| {
        let protocol = config.destinations.get(&listener.destination).map(|part| part.protocol);
        (Purpose::Outbound(listener.destination.clone()), listener.address, protocol)
    });
    let inbound = config
        .inbounds
        .iter()
        .map(|(name, part)| (Purpose::Inbound(*name), part.listen, Some(part.protocol)));
    let (mut want, mut problems) = (BTreeSet::new(), Vec::new());
    for (purpose, address, protocol) in outbound.chain(inbound) {
        let cause = match protocol {
            Some(_) => {
                want.insert((purpose, address));
                continue;
            }
            None => "its destination is not part of the configuration",
        };
        let cause = std::io::Error::other(cause);
        problems.push(ListenProblem { purpose, address, cause });
    }
    (want, problems)
}

/// Waits until nothing depends on what was revoked.
async fn all_ended(gone: Vec<Rc<Standing>>) {
    let ended = async {
        for standing in &gone {
            standing.unwatched().await;
        }
    };
    if time::timeout(CUT, ended).await.is_err() {
        warn!("connections that are no longer allowed did not end in time");
    }
}

/// What carries the connections of one worker.
struct Carrier {
    shared: Rc<Shared>,
    outbound: Outbound,
    inbounds: Inbounds,
    number: usize,
    others: Vec<mpsc::Sender<Command>>,
    loads: Arc<[AtomicUsize]>,
    /// Connections of other proxies; they are among the tasks of the worker as well.
    peers: TaskTracker,
}

impl Carrier {
    /// Whether new connections are taken.
    fn is_open(&self, purpose: &Purpose) -> bool {
        match purpose {
            Purpose::Inbound(_) => !self.shared.draining.is_cancelled(),
            Purpose::Outbound(_) => !self.shared.ending.is_cancelled(),
        }
    }

    /// Gives a new connection to the least loaded worker.
    fn take(self: &Rc<Self>, purpose: &Purpose, stream: TcpStream, from: SocketAddr) {
        debug!(%purpose, %from, "accepted");
        let load = |number: &usize| self.loads[*number].load(Ordering::Relaxed);
        let least = (0..self.loads.len()).min_by_key(load).unwrap_or_default();
        let Some(other) = least.checked_sub(1).and_then(|other| self.others.get(other)) else {
            return self.carry(purpose, stream);
        };
        match stream.into_std() {
            // A worker that cannot take it now, or is gone, is one that nothing should be given to.
            Ok(stream) => {
                let _ = other.try_send(Command::Connection(purpose.clone(), stream));
            }
            Err(error) => warn!(%error, "a connection was lost between workers"),
        }
    }

    fn carry(self: &Rc<Self>, purpose: &Purpose, stream: TcpStream) {
        let load = Load::new(self.loads.clone(), self.number);
        match purpose {
            Purpose::Outbound(id) => {
                // It was taken away while the connection was on its way.
                let Some(destination) = self.outbound.destination(id) else { return };
                destination.accepted();
                self.shared.tasks.spawn_local(async move {
                    let _load = load;
                    if destination.part().protocol.is_http() {
                        http::outbound::serve(stream, destination).await;
                    } else {
                        tcp::outbound::serve(stream, destination).await;
                    }
                });
            }
            Purpose::Inbound(name) => {
                let Some(inbound) = self.inbounds.inbound(*name) else { return };
                self.shared.tasks.spawn_local(self.peers.track_future(async move {
                    let _load = load;
                    inbound.serve(stream).await;
                }));
            }
        }
    }
}

/// One connection more on a worker, while it lives.
struct Load {
    loads: Arc<[AtomicUsize]>,
    number: usize,
}

impl Load {
    fn new(loads: Arc<[AtomicUsize]>, number: usize) -> Self {
        loads[number].fetch_add(1, Ordering::Relaxed);
        Self { loads, number }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.loads[self.number].fetch_sub(1, Ordering::Relaxed);
    }
}
