//! A sidecar as others see it: it is given configurations and signals, and says when they are in force.

use std::fmt;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::DestinationId;
use snapshot::parts::Endpoints;
use telemetry::Telemetry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use traffic::access::Denial;
use traffic::listen::{Bound, ListenProblem};
use traffic::metrics::{Metrics, Totals};
use traffic::worker::Worker;
use traffic::{Counters, ProxyConfig};

use crate::worker::{Command, Side, run};

/// What a listener is for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Purpose {
    Outbound(DestinationId),
    /// By the name of the part.
    Inbound(u16),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbound(destination) => write!(f, "destination/{destination}"),
            Self::Inbound(port) => write!(f, "inbound/{port}"),
        }
    }
}

/// What came of a configuration. It is in force, open connections included.
#[derive(Debug, Default)]
pub struct Applied {
    /// Listeners that could not be opened. Everything else serves; they are tried again with the next
    /// configuration.
    pub problems: Vec<ListenProblem<Purpose>>,
}

/// The proxy was shut down, or a worker of it panicked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the proxy has stopped")]
pub struct Stopped;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that carry traffic. A second one costs a sixth to two fifths more processor time per request.
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { workers: 1 }
    }
}

/// A running sidecar. It carries nothing before its first configuration. Dropping it ends it at once.
pub struct Proxy {
    /// The first accepts connections, and hands them to the least loaded.
    workers: Vec<Worker<Command>>,
    totals: Totals,
    bound: Arc<Mutex<Vec<Bound<Purpose>>>>,
}

impl Proxy {
    /// Nobody is told of its requests and connections.
    pub fn start(options: Options) -> io::Result<Self> {
        Self::start_telling(options, &Telemetry::default())
    }

    pub fn start_telling(options: Options, telemetry: &Telemetry) -> io::Result<Self> {
        let count = options.workers.max(1);
        let metrics: Vec<Arc<Metrics>> = (0..count).map(|_| Arc::default()).collect();
        let loads: Arc<[AtomicUsize]> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        let mut workers: Vec<Worker<Command>> = Vec::new();
        // The first is started last, when it can know the others.
        for number in (0..count).rev() {
            let others = if number == 0 {
                workers.iter().rev().map(|other| other.commands.clone()).collect()
            } else {
                Vec::new()
            };
            let loads = loads.clone();
            let (name, metrics) = (format!("worker-{number}"), metrics[number].clone());
            workers.push(Worker::start(name, metrics, telemetry.worker(), move |shared, commands| {
                run(shared, commands, number, others, loads)
            })?);
        }
        workers.reverse();
        Ok(Self { workers, totals: Totals(metrics), bound: Arc::default() })
    }

    /// Puts a configuration in force. Completes when every worker has swapped it in, has judged its open
    /// connections by it, and has ended those that it no longer allows: what a proxy may acknowledge.
    ///
    /// Configurations take effect in the order in which the futures are first polled.
    pub fn apply(
        &self,
        config: ProxyConfig,
    ) -> impl Future<Output = Result<Applied, Stopped>> + Send + use<> {
        let config = Arc::new(config);
        let bound = self.bound.clone();
        // The worker that accepts comes last, so that the others know what is handed to them.
        let asked = self.ask_all(move |reply| Command::Apply(config.clone(), reply));
        async move {
            let mut problems = Vec::new();
            let mut now_bound = Vec::new();
            for outcome in asked.await? {
                problems.extend(outcome.problems);
                now_bound.extend(outcome.bound);
            }
            *bound.lock().unwrap_or_else(PoisonError::into_inner) = now_bound;
            Ok(Applied { problems })
        }
    }

    /// Replaces the endpoints of a destination. They may come before the configuration that names it.
    pub fn endpoints(
        &self,
        id: DestinationId,
        endpoints: Endpoints,
    ) -> impl Future<Output = Result<(), Stopped>> + Send + use<> {
        let endpoints = Arc::new(endpoints);
        let asked = self.ask_all(move |reply| Command::Endpoints(id.clone(), endpoints.clone(), reply));
        async move { asked.await.map(drop) }
    }

    /// The listeners of the last configuration in force, at the addresses that they really have.
    pub fn bound(&self) -> Vec<Bound<Purpose>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the workers count, to be read at any time.
    pub fn totals(&self) -> Totals {
        self.totals.clone()
    }

    /// The sum over all workers.
    pub async fn counters(&self) -> Result<Counters, Stopped> {
        let all = self.ask_all(Command::Counters).await?;
        Ok(all.into_iter().fold(Counters::default(), |sum, one| sum + one))
    }

    /// What a decision id stands for, if it is among the latest denials.
    pub async fn denial(&self, id: &str) -> Result<Option<Denial>, Stopped> {
        let id = id.to_owned();
        let found = self.ask_all(move |reply| Command::Denial(id.clone(), reply)).await?;
        Ok(found.into_iter().flatten().next())
    }

    /// Stops accepting, lets open requests and connections finish for as long as `grace`, and ends the rest.
    pub async fn shutdown(self, grace: Duration) {
        self.drain(grace).await;
        self.end().await;
    }

    /// Stops accepting, and lets open requests and connections finish for as long as `grace`: first those of other
    /// proxies, while the own application, which may need others to answer them, goes on as before; and then the
    /// application's own, for which a quarter of `grace` is left whatever the others do. What is open goes on being
    /// judged by the configurations that come meanwhile.
    pub fn drain(&self, grace: Duration) -> impl Future<Output = ()> + Send + use<> {
        let workers: Vec<mpsc::Sender<Command>> = self.accepting_last().collect();
        async move {
            let begun = Instant::now();
            for (side, until) in [(Side::Inbound, begun + grace * 3 / 4), (Side::Outbound, begun + grace)] {
                let left = until.saturating_duration_since(Instant::now());
                // A worker that panicked has nothing left to drain.
                let _ = ask_all(&workers, |reply| Command::Drain(side, left, reply)).await;
            }
        }
    }

    /// Ends whatever is open, and waits for the workers.
    pub async fn end(self) {
        for worker in self.workers {
            worker.join().await;
        }
    }

    fn ask_all<T, C>(&self, command: C) -> impl Future<Output = Result<Vec<T>, Stopped>> + Send + use<T, C>
    where
        T: Send,
        C: Fn(oneshot::Sender<T>) -> Command + Send,
    {
        let workers: Vec<mpsc::Sender<Command>> = self.accepting_last().collect();
        async move { ask_all(&workers, command).await }
    }

    fn accepting_last(&self) -> impl Iterator<Item = mpsc::Sender<Command>> + '_ {
        self.workers.iter().rev().map(|worker| worker.commands.clone())
    }
}

/// Sends a command to one worker after the other, and collects the answers.
async fn ask_all<T: Send>(
    workers: &[mpsc::Sender<Command>],
    command: impl Fn(oneshot::Sender<T>) -> Command + Send,
) -> Result<Vec<T>, Stopped> {
    let mut waiting = Vec::with_capacity(workers.len());
    for worker in workers {
        let (reply, answer) = oneshot::channel();
        worker.send(command(reply)).await.map_err(|_| Stopped)?;
        waiting.push(answer);
    }
    let mut answers = Vec::with_capacity(waiting.len());
    for answer in waiting {
        answers.push(answer.await.map_err(|_| Stopped)?);
    }
    Ok(answers)
}
