//! An ingress as others see it: it is given the table of handles, and says when it is in force.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use snapshot::parts::Handles;
use telemetry::Telemetry;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use tracing::warn;
use traffic::Counters;
use traffic::connect::dial;
use traffic::listen::Listeners;
use traffic::metrics::Totals;
use traffic::relay::{Limits, Relay};
use traffic::worker::{Shared, Worker};

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    pub limits: Limits,
}

/// The ingress was shut down, or its worker panicked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the ingress has stopped")]
pub struct Stopped;

/// A running ingress. It relays nothing before its first table. Dropping it ends it at once.
pub struct Ingress {
    worker: Worker<Command>,
    bound: SocketAddr,
    totals: Totals,
}

enum Command {
    Listen(SocketAddr, oneshot::Sender<io::Result<SocketAddr>>),
    Handles(Handles, oneshot::Sender<()>),
    Counters(oneshot::Sender<Counters>),
    Drain(Duration, oneshot::Sender<()>),
}

impl Ingress {
    /// Opens the listener; an error means that nothing runs. Nobody is told of its connections.
    pub async fn start(options: Options) -> io::Result<Self> {
        Self::start_telling(options, &Telemetry::default()).await
    }

    pub async fn start_telling(options: Options, telemetry: &Telemetry) -> io::Result<Self> {
        let limits = options.limits;
        let run = move |shared, commands| run(shared, commands, limits);
        let totals = Totals(vec![Arc::default()]);
        let metrics = totals.0[0].clone();
        let worker = Worker::start("worker-0".into(), metrics, telemetry.worker(), run)?;
        let (reply, answer) = oneshot::channel();
        let stopped = || io::Error::other(Stopped);
        worker.commands.send(Command::Listen(options.listen, reply)).await.map_err(|_| stopped())?;
        let bound = answer.await.map_err(|_| stopped())??;
        Ok(Self { worker, bound, totals })
    }

    /// Where it listens.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Puts a table in force. Completes when the flows that it no longer allows have ended.
    pub fn handles(&self, handles: Handles) -> impl Future<Output = Result<(), Stopped>> + Send + use<> {
        self.ask(|reply| Command::Handles(handles, reply))
    }

    /// What the worker counts, to be read at any time.
    pub fn totals(&self) -> Totals {
        self.totals.clone()
    }

    pub async fn counters(&self) -> Result<Counters, Stopped> {
        self.ask(Command::Counters).await
    }

    /// Stops accepting, lets open connections go on for as long as `grace`, and ends the rest.
    pub async fn shutdown(self, grace: Duration) {
        self.drain(grace).await;
        self.end().await;
    }

    /// Stops accepting, and lets open connections go on for as long as `grace`. They go on being judged by the tables
    /// that come meanwhile.
    pub fn drain(&self, grace: Duration) -> impl Future<Output = ()> + Send + use<> {
        let asked = self.ask(move |reply| Command::Drain(grace, reply));
        async move {
            // A worker that panicked has nothing left to drain.
            let _ = asked.await;
        }
    }

    /// Ends whatever is open, and waits for the worker.
    pub async fn end(self) {
        self.worker.join().await;
    }

    fn ask<T, C>(&self, command: C) -> impl Future<Output = Result<T, Stopped>> + Send + use<T, C>
    where
        T: Send,
        C: FnOnce(oneshot::Sender<T>) -> Command + Send,
    {
        let worker: mpsc::Sender<Command> = self.worker.commands.clone();
        async move {
            let (reply, answer) = oneshot::channel();
            worker.send(command(reply)).await.map_err(|_| Stopped)?;
            answer.await.map_err(|_| Stopped)
        }
    }
}

/// What is cut off ends in the same turn of the worker; this is for the unforeseen.
const CUT: Duration = Duration::from_secs(5);

/// Runs until the last handle is gone.
async fn run(shared: Rc<Shared>, mut commands: mpsc::Receiver<Command>, limits: Limits) {
    let relay = Rc::new(Relay::new(shared.clone(), limits));
    let mut listeners = Listeners::default();
    while let Some(command) = commands.recv().await {
        // Whoever asked may not wait for the answer any more: sending it may fail.
        match command {
            Command::Listen(address, reply) => {
                let bound = listen(&mut listeners, address, &shared, &relay).await;
                let _ = reply.send(bound);
            }
            Command::Handles(handles, reply) => {
                let gone = relay.set_handles(handles);
                shared.tasks.spawn_local(async move {
                    let ended = async {
                        for standing in &gone {
                            standing.unwatched().await;
                        }
                    };
                    if time::timeout(CUT, ended).await.is_err() {
                        warn!("flows that are no longer allowed did not end in time");
                    }
                    let _ = reply.send(());
                });
            }
            Command::Counters(reply) => {
                let _ = reply.send(shared.metrics.read());
            }
            Command::Drain(grace, reply) => {
                listeners.retain(|()| false).await;
                shared.draining.cancel();
                shared.tasks.close();
                let tasks = shared.tasks.clone();
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

async fn listen(
    listeners: &mut Listeners<()>,
    address: SocketAddr,
    shared: &Rc<Shared>,
    relay: &Rc<Relay>,
) -> io::Result<SocketAddr> {
    let (shared, relay) = (shared.clone(), relay.clone());
    let take = move |_: &(), stream, from: SocketAddr| {
        shared.tasks.spawn_local(relay.clone().serve(stream, from.ip(), dial));
    };
    let problems = listeners.reconcile(BTreeSet::from([((), address)]), Rc::new(take)).await;
    match problems.into_iter().next() {
        Some(problem) => Err(problem.cause),
        None => listeners
            .bound()
            .first()
            .map(|bound| bound.address)
            .ok_or_else(|| io::Error::other("the listener is gone")),
    }
}
