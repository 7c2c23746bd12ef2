//! Owns the running proxy in control mode: takes in what comes from the zone, one thing after the other, and
//! puts it in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use identity::{Svid, TrustStore};
use model::{DestinationId, SpiffeId, World};
use runtime::{Readiness, ReadyGuard};
use snapshot::parts::{Endpoints, SignalName, Trust};
use sync::frame::Signal;
use sync::link::{Handle, HostError};
use sync::session::Applied;
use sync::{Batch, Place, Refused, Topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use traffic::listen::{Bound, ListenProblem};
use traffic::{Counters, Credentials, ProxyConfig};

use super::parts::Parts;
use super::plan::{Known, Missing, Plan, Routes, plan};
use super::state::{Found, Set, StateFolder};
use crate::proxy::{Proxy, Purpose, Stopped};

/// What the engine is told and asked.
pub(crate) enum Command {
    /// A session begins, and the zone wants to know what is held.
    Locate(oneshot::Sender<Place>),
    Batch(Batch, oneshot::Sender<Result<Applied, HostError>>),
    Signals(BTreeMap<String, Signal>, oneshot::Sender<()>),
    /// In use when it is answered.
    Certificate(Arc<Svid>, oneshot::Sender<()>),
    /// The zone cannot be reached.
    Unreachable,
    /// What the zone made of the own document: a reason where it was refused.
    Registered(Result<(), String>),
    Bound(oneshot::Sender<Vec<Bound<Purpose>>>),
    Counters(oneshot::Sender<Counters>),
}

/// How long the zone has to complete a set before what is in the folder is served.
const HEAD_START: Duration = Duration::from_millis(300);
/// How often listeners that could not be opened are tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The least time between two writes of endpoints.
const ENDPOINTS_PACE: Duration = Duration::from_secs(1);
/// The time of day may be set meanwhile, so waiting for one is done in pieces.
const PIECE: Duration = Duration::from_secs(60 * 60);

pub(crate) struct Engine {
    proxy: Proxy,
    /// The ports of the own inbounds.
    ports: BTreeSet<u16>,
    folder: StateFolder,
    handle: Handle,
    clock: joining::Clock,

    parts: Parts,
    world: World,
    /// What is on the disk, and so what the zone may be told.
    stored: Place,
    svid: Option<Arc<Svid>>,
    endpoints: BTreeMap<DestinationId, Word>,
    registration_refused: bool,

    /// Until this time what came from the folder waits for something newer.
    resumes: Option<Instant>,
    credentials: Option<Made>,
    /// What the proxy was last given.
    in_force: Option<Routes>,
    problems: Vec<ListenProblem<Purpose>>,
    retry: Option<Instant>,
    endpoints_changed: Option<Instant>,
    endpoints_written: Option<Instant>,

    subscribed: BTreeSet<String>,
    /// Who this proxy is to be, for who gets its certificates.
    identity: watch::Sender<Option<SpiffeId>>,
    readiness: Readiness,
    guards: BTreeMap<Missing, ReadyGuard>,
}

/// The last word about a destination.
struct Word {
    text: String,
    endpoints: Endpoints,
}

/// Credentials, and what they were made of. The same ones mean: nothing changed, connections stay.
struct Made {
    svid: Arc<Svid>,
    trust: Arc<Trust>,
    credentials: Arc<Credentials>,
}

impl Engine {
    /// What was found in the folder is served soon, unless the zone is faster.
    pub(crate) fn new(
        proxy: Proxy,
        ports: BTreeSet<u16>,
        folder: StateFolder,
        found: Found,
        handle: Handle,
        clock: joining::Clock,
        readiness: Readiness,
    ) -> Self {
        let Found { svid, set, endpoints } = found;
        let mut parts = Parts::default();
        for (name, body) in set.parts {
            if let Err(reason) = parts.put(&name, body.into()) {
                warn!(part = name, reason, "a part that was kept is of no use");
            }
        }
        let words = endpoints.into_iter().filter_map(|(id, text)| {
            let endpoints = serde_json::from_str(&text).ok()?;
            Some((id, Word { text, endpoints }))
        });
        let resumes = (!parts.is_empty()).then(|| Instant::now() + HEAD_START);
        let mut engine = Self {
            proxy,
            ports,
            folder,
            handle,
            stored: Place { have: set.world.clone(), held: parts.held(), ..Place::default() },
            svid: svid.filter(|svid| clock() <= svid.not_after()),
            clock,
            parts,
            world: set.world,
            endpoints: words.collect(),
            registration_refused: false,
            resumes,
            credentials: None,
            in_force: None,
            problems: Vec::new(),
            retry: None,
            endpoints_changed: None,
            endpoints_written: None,
            subscribed: BTreeSet::new(),
            identity: watch::Sender::new(None),
            readiness,
            guards: BTreeMap::new(),
        };
        // So that the first session begins with the right wishes.
        let plan = engine.plan();
        engine.ask_for(&plan);
        engine.show(&plan);
        engine
    }

    pub(crate) fn svid(&self) -> Option<Arc<Svid>> {
        self.svid.clone()
    }

    pub(crate) fn identity(&self) -> watch::Receiver<Option<SpiffeId>> {
        self.identity.subscribe()
    }

    /// Runs until `stop`, and gives the proxy back, which goes on as it was.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> anyhow::Result<Proxy> {
        for (id, word) in &self.endpoints {
            self.proxy.endpoints(id.clone(), word.endpoints.clone()).await?;
        }
        loop {
            let wakeup = self.next_wakeup();
            tokio::select! {
                () = stop.cancelled() => break,
                command = commands.recv() => match command {
                    Some(command) => self.take(command).await?,
                    None => break,
                },
                () = time::sleep_until(wakeup) => self.tick().await?,
            }
        }
        Ok(self.proxy)
    }

    async fn take(&mut self, command: Command) -> Result<(), Stopped> {
        // Whoever asked may not wait for the answer any more: sending it may fail.
        match command {
            Command::Locate(reply) => {
                self.parts.retain(&self.subscribed);
                let held = |name: &String| self.subscribed.contains(name);
                let mut place = self.stored.clone();
                place.held.retain(|name, _| held(name));
                let _ = reply.send(place);
            }
            Command::Batch(batch, reply) => {
                let applied = self.apply(&batch).await?;
                let _ = reply.send(applied);
            }
            Command::Signals(signals, reply) => {
                for (name, signal) in signals {
                    self.hear(&name, &signal).await?;
                }
                let _ = reply.send(());
            }
            Command::Certificate(svid, reply) => {
                self.certify(svid).await?;
                let _ = reply.send(());
            }
            Command::Unreachable => {
                if self.resumes.take().is_some() {
                    info!("the zone cannot be reached; serving by what was kept");
                    self.put_in_force().await?;
                }
            }
            Command::Registered(outcome) => {
                self.registration_refused = outcome.is_err();
                if let Err(reason) = outcome {
                    warn!(reason, "the zone refuses this Dataplane");
                }
                self.show(&self.plan());
            }
            Command::Bound(reply) => drop(reply.send(self.proxy.bound())),
            Command::Counters(reply) => drop(reply.send(self.proxy.counters().await?)),
        }
        Ok(())
    }

    /// Puts a batch in force and stores it. An error means that it is in force, but not on the disk: it must
    /// not be acknowledged.
    async fn apply(&mut self, batch: &Batch) -> Result<Result<Applied, HostError>, Stopped> {
        self.parts.apply(batch);
        self.world = batch.world.clone();
        self.resumes = None;

        // That nothing changed need not be written.
        let saved = if batch.is_empty() { Ok(()) } else { self.folder.save_set(self.set()).await };
        // A denial must not wait for a disk that is full.
        self.put_in_force().await?;
        if let Err(error) = saved {
            warn!(%error, "the parts cannot be stored, so they are not acknowledged");
            return Ok(Err(error.into()));
        }
        self.stored.have.clone_from(&self.world);
        if !batch.is_empty() {
            self.stored.held = self.parts.held();
        }
        let refused: Vec<Refused> = self.parts.refused().chain(self.problems.iter().map(refusal)).collect();
        for Refused { key, reason, .. } in &refused {
            warn!(part = key, reason, "refused");
        }
        Ok(Ok(Applied::Stored { world: batch.world.clone(), refused }))
    }

    /// What a restart needs.
    fn set(&self) -> Set {
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let parts = self.parts.bodies().map(|(name, body)| (name.to_string(), text(body)));
        Set { world: self.world.clone(), parts: parts.collect() }
    }

    /// Takes in the latest word about something. None at all, and one that cannot be read, takes nothing away.
    async fn hear(&mut self, name: &str, signal: &Signal) -> Result<(), Stopped> {
        let Ok(SignalName::Endpoints(id)) = name.parse() else {
            warn!(name, "a signal that nobody asked for");
            return Ok(());
        };
        if signal.value.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<Endpoints>(&signal.value) {
            Ok(endpoints) => {
                self.proxy.endpoints(id.clone(), endpoints.clone()).await?;
                let text = String::from_utf8_lossy(&signal.value).into_owned();
                self.endpoints.insert(id, Word { text, endpoints });
                self.endpoints_changed.get_or_insert_with(Instant::now);
            }
            Err(error) => warn!(name, %error, "endpoints that cannot be read"),
        }
        Ok(())
    }

    async fn certify(&mut self, svid: Arc<Svid>) -> Result<(), Stopped> {
        if let Err(error) = self.folder.save_leaf(svid.clone()).await {
            warn!(%error, "the certificate cannot be stored");
        }
        self.svid = Some(svid);
        if self.resumes.is_none() {
            self.put_in_force().await?;
        }
        Ok(())
    }

    /// Makes the proxy do what is known now.
    async fn put_in_force(&mut self) -> Result<(), Stopped> {
        let plan = self.plan();
        self.ask_for(&plan);
        if let Some(credentials) = self.credentials() {
            let Routes { outbound, inbounds, destinations } = plan.routes.clone();
            let config = ProxyConfig { outbound, inbounds, destinations, credentials };
            self.problems = self.proxy.apply(config).await?.problems;
            self.retry = (!self.problems.is_empty()).then(|| Instant::now() + RETRY);
            self.in_force = Some(plan.routes.clone());
        }
        self.show(&plan);
        Ok(())
    }

    fn plan(&self) -> Plan {
        let certified = self.svid.is_some();
        plan(Known { ports: &self.ports, parts: &self.parts, certified })
    }

    /// Tells the zone what is wanted from now on.
    fn ask_for(&mut self, plan: &Plan) {
        let gone: Vec<String> = self.subscribed.difference(&plan.subscriptions).cloned().collect();
        self.handle.unsubscribe(gone.iter().map(String::as_str));
        self.handle.subscribe(plan.subscriptions.difference(&self.subscribed));
        for id in gone.iter().filter_map(|name| endpoints_of(name)) {
            self.endpoints.remove(&id);
            self.endpoints_changed.get_or_insert_with(Instant::now);
        }
        self.subscribed.clone_from(&plan.subscriptions);
        self.identity.send_if_modified(|identity| {
            let changed = *identity != plan.identity;
            identity.clone_from(&plan.identity);
            changed
        });
    }

    /// The last that were made, while there is nothing to make others of: without a certificate nothing is
    /// served, and they are used to say so.
    fn credentials(&mut self) -> Option<Arc<Credentials>> {
        if let (Some(svid), Some(trust)) = (&self.svid, &self.parts.trust) {
            let as_made = |made: &Made| Arc::ptr_eq(&made.svid, svid) && Arc::ptr_eq(&made.trust, trust);
            if !self.credentials.as_ref().is_some_and(as_made) {
                self.credentials = make(svid, trust).or(self.credentials.take());
            }
        }
        self.credentials.as_ref().map(|made| made.credentials.clone())
    }

    /// Says on the readiness page what is missing.
    fn show(&mut self, plan: &Plan) {
        let mut missing = plan.missing.clone();
        // The first set may come from the folder, but it must be in force.
        missing.extend((self.resumes.is_some()).then_some(Missing::Configuration));
        missing.extend((!self.problems.is_empty()).then_some(Missing::Listeners));
        missing.extend(self.registration_refused.then_some(Missing::Registration));
        if plan.routes != Routes::default() && self.in_force.is_none() {
            missing.insert(Missing::Configuration);
        }
        for what in &missing {
            self.guards.entry(*what).or_insert_with(|| self.readiness.guard(what.as_str()));
        }
        self.guards.retain(|what, _| missing.contains(what));
    }

    fn next_wakeup(&self) -> Instant {
        let ends = self.svid.as_ref().map(|svid| {
            let left = svid.not_after().duration_since((self.clock)()).unwrap_or_default();
            // A certificate counts to the end of its last second.
            Instant::now() + (left + Duration::from_millis(1)).min(PIECE)
        });
        let wakeups = [self.resumes, self.retry, self.endpoints_due(), ends];
        wakeups.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + PIECE)
    }

    fn endpoints_due(&self) -> Option<Instant> {
        let changed = self.endpoints_changed?;
        Some(self.endpoints_written.map_or(changed, |written| changed.max(written + ENDPOINTS_PACE)))
    }

    async fn tick(&mut self) -> Result<(), Stopped> {
        let now = Instant::now();
        if self.resumes.is_some_and(|at| at <= now) {
            self.resumes = None;
            info!("the zone has not spoken yet; serving by what was kept");
            self.put_in_force().await?;
        }
        if self.svid.as_ref().is_some_and(|svid| (self.clock)() > svid.not_after()) {
            warn!("the certificate ended; nothing is served until there is another");
            self.svid = None;
            self.put_in_force().await?;
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.put_in_force().await?;
            if self.problems.is_empty() {
                // The zone was told that it could not be done.
                self.handle.reopen(&Topic::PARTS);
            }
        }
        if self.endpoints_due().is_some_and(|at| at <= now) {
            let words = self.endpoints.iter().map(|(id, word)| (id.clone(), word.text.clone())).collect();
            self.endpoints_changed = None;
            self.endpoints_written = Some(now);
            if let Err(error) = self.folder.save_endpoints(words).await {
                warn!(%error, "the endpoints cannot be stored");
            }
        }
        Ok(())
    }
}

fn endpoints_of(name: &str) -> Option<DestinationId> {
    match name.parse() {
        Ok(SignalName::Endpoints(id)) => Some(id),
        _ => None,
    }
}

/// A certificate of a bundle that cannot be used is left out; the others count.
fn make(svid: &Arc<Svid>, trust: &Arc<Trust>) -> Option<Made> {
    let bundles = trust.domains.iter();
    let bundles = bundles.map(|(domain, trust)| (domain.clone(), trust.zone.clone(), trust.bundle.clone()));
    let (store, problems) = TrustStore::from_bundles(bundles);
    for problem in problems {
        warn!(%problem, "not believed");
    }
    match Credentials::new(svid, Arc::new(store)) {
        Ok(credentials) => {
            Some(Made { svid: svid.clone(), trust: trust.clone(), credentials: Arc::new(credentials) })
        }
        Err(error) => {
            warn!(%error, "no TLS can be made of the certificate");
            None
        }
    }
}

/// By the part that asks for the listener.
fn refusal(problem: &ListenProblem<Purpose>) -> Refused {
    let key = match &problem.purpose {
        Purpose::Outbound(_) => "listeners".to_owned(),
        Purpose::Inbound(port) => format!("inbound/{port}"),
    };
    Refused { key, version: None, reason: format!("{problem}: {}", problem.cause) }
}
