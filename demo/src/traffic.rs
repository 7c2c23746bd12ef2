//! What the shop's applications ask each other all the time, and how it goes.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{Client, Outcome};
use crate::members::Speaks;
use crate::shop::USUAL_PATH;

/// One service that calls another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pair {
    pub caller: &'static str,
    pub from: &'static str,
    pub called: &'static str,
    pub to: &'static str,
}

impl Pair {
    pub fn crosses_zones(&self) -> bool {
        self.from != self.to
    }

    /// Whether the service of that zone is one of both.
    pub fn concerns(&self, service: &str, zone: &str) -> bool {
        (service, zone) == (self.caller, self.from) || (service, zone) == (self.called, self.to)
    }

    /// The id that the called service is to see.
    pub fn client_id(&self) -> String {
        format!("spiffe://default.{}.mesh.local/workload/{}", self.from, self.caller)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) to {} ({})", self.caller, self.from, self.called, self.to)
    }
}

/// How often each pair asks.
const EVERY: Duration = Duration::from_millis(50);
/// An answer that takes longer is a failure.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How far back latencies are looked at.
const WINDOW: Duration = Duration::from_secs(5);

/// The load of the shop; it runs until [`Traffic::shutdown`].
#[derive(Default)]
pub struct Traffic {
    calls: Vec<Arc<Call>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub struct Call {
    pub pair: Pair,
    /// The port of the caller's sidecar that leads to the called service.
    pub through: SocketAddr,
    tally: Mutex<Tally>,
    answered: watch::Sender<bool>,
}

/// How the requests of one pair went since the beginning.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub denied: u64,
    pub failed: u64,
    pub last_failure: Option<String>,
    /// As the called service saw it.
    pub client: Option<String>,
    pub decision: Option<String>,
    recent: VecDeque<(Instant, Duration)>,
}

impl Tally {
    /// Requests per second, and the latencies that half and 99 % of them did not exceed.
    pub fn recent(&self) -> (f64, Duration, Duration) {
        let mut latencies: Vec<Duration> = self.recent.iter().map(|(_, latency)| *latency).collect();
        latencies.sort();
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            latencies.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
        };
        let span =
            self.recent.front().map_or(WINDOW, |(first, _)| first.elapsed().max(Duration::from_millis(1)));
        (latencies.len() as f64 / span.as_secs_f64(), at(0.5), at(0.99))
    }
}

impl Traffic {
    /// Begins to ask.
    pub fn add(&mut self, pair: Pair, through: SocketAddr) {
        let call =
            Arc::new(Call { pair, through, tally: Mutex::default(), answered: watch::Sender::new(false) });
        let (asking, stop) = (call.clone(), self.stop.clone());
        self.tasks.spawn(async move { stop.run_until_cancelled(asking.ask_on()).await });
        self.calls.push(call);
    }

    pub fn calls(&self) -> &[Arc<Call>] {
        &self.calls
    }

    pub fn call(&self, caller: &str, called: &str, to: &str) -> anyhow::Result<&Arc<Call>> {
        let is_it = |call: &&Arc<Call>| {
            let Pair { caller: a, called: b, to: c, .. } = call.pair;
            (a, b, c) == (caller, called, to)
        };
        self.calls.iter().find(is_it).with_context(|| format!("{caller} does not call {called} in {to}"))
    }

    /// The pairs that have had no answer yet, each with what it got instead.
    pub fn silent(&self) -> Vec<String> {
        let silent = self.calls.iter().filter(|call| !*call.answered.borrow());
        let why =
            |call: &Arc<Call>| format!("{}: {}", call.pair, call.tally().last_failure.unwrap_or_default());
        silent.map(why).collect()
    }

    /// Waits until every pair has had an answer from the application that it asked.
    pub async fn all_answered(&self) -> anyhow::Result<()> {
        let mut waiting = JoinSet::new();
        for call in &self.calls {
            let mut answered = call.answered.subscribe();
            waiting.spawn(async move { answered.wait_for(|answered| *answered).await.map(|_| ()) });
        }
        while let Some(waited) = waiting.join_next().await {
            waited??;
        }
        Ok(())
    }

    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Call {
    pub fn tally(&self) -> Tally {
        self.lock().clone()
    }

    /// One request of its own, over a connection of its own.
    pub async fn once(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Outcome> {
        Client::connect(Speaks::Http1, self.through).await?.ask(method, path, body).await
    }

    async fn ask_on(&self) {
        let mut ticks = time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        loop {
            ticks.tick().await;
            let start = Instant::now();
            let asked = time::timeout(ANSWER_LIMIT, self.ask_over(&mut connection)).await;
            let outcome = asked.unwrap_or_else(|_| bail!("no answer within {ANSWER_LIMIT:?}"));
            if outcome.is_err() {
                connection = None;
            }
            self.count(outcome, start);
        }
    }

    async fn ask_over(&self, connection: &mut Option<Client>) -> anyhow::Result<Outcome> {
        let client = Client::kept(connection, Speaks::Http1, self.through).await?;
        client.ask(Method::GET, USUAL_PATH, Bytes::new()).await
    }

    fn count(&self, outcome: anyhow::Result<Outcome>, start: Instant) {
        let mut tally = self.lock();
        match outcome {
            Ok(Outcome::Answered(answer)) => {
                tally.answered += 1;
                tally.client = answer.client;
                tally.decision = None;
                self.answered.send_replace(true);
            }
            Ok(Outcome::Denied { decision }) => {
                tally.denied += 1;
                tally.decision = Some(decision.unwrap_or_default());
            }
            Err(error) => {
                // Before the first answer the mesh is still coming up.
                tally.failed += u64::from(*self.answered.borrow());
                tally.last_failure = Some(format!("{error:#}"));
                return;
            }
        }
        let now = Instant::now();
        tally.recent.push_back((now, now - start));
        while tally.recent.front().is_some_and(|(at, _)| now - *at > WINDOW) {
            tally.recent.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
