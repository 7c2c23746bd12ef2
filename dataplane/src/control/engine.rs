//! Owns the running proxy in control mode: takes in what comes from the zone, one thing after the other, and
//! puts it in force.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{io, mem};

use identity::{Svid, TrustStore};
use joining::Drain;
use model::{DestinationId, Origin, SpiffeId, World};
use runtime::{Readiness, ReadyGuard};
use snapshot::parts::{Endpoints, PartName, SignalName, Trust};
use sync::frame::Signal;
use sync::line::Judged;
use sync::link::{Handle, HostError};
use sync::session::Applied;
use sync::{Batch, Digest, Place, Refused, Topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use traffic::listen::{Bound, ListenProblem};
use traffic::{Counters, Credentials, ProxyConfig};

use super::parts::Parts;
use super::plan::{Awaited, Known, Missing, Plan, Routes, plan};
use super::state::{Found, Reached, Set, StateFolder};
use crate::proxy::{Proxy, Purpose, Stopped};

/// What the engine is told and asked.
pub(crate) enum Command {
    /// A session begins, and the zone wants to know what is held.
    Locate(Origin, oneshot::Sender<Place>),
    /// From this zone.
    Batch(Origin, Batch, oneshot::Sender<Result<Applied, HostError>>),
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

/// How long a batch waits for the certificate that it needs to be in force. The zone issues it meanwhile.
const CERTIFIED_WITHIN: Duration = Duration::from_secs(5);
/// How long routes wait for what they name: it comes soon, or is not there.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
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
    reached: Reached,
    /// Up to where the zone may be told that it is stored.
    stored: Reached,
    /// What is in force is not on the disk.
    unsaved: bool,
    /// What the zone was told last of what is refused; none while it is about to be told.
    told: Option<Vec<Refused>>,
    unanswered: Option<Unanswered>,
    svid: Option<Arc<Svid>>,
    endpoints: BTreeMap<DestinationId, Word>,
    /// About which the first word came, also where it said nothing.
    heard: BTreeSet<DestinationId>,
    registration_refused: bool,

    /// Until this time what came from the folder waits for something newer.
    resumes: Option<Instant>,
    credentials: Option<Made>,
    /// What the proxy was last given.
    in_force: Option<Routes>,
    problems: Vec<ListenProblem<Purpose>>,
    /// What the routes of each destination wait for, if they do.
    awaited: BTreeMap<DestinationId, Waiting>,
    retry: Option<Instant>,
    endpoints_changed: Option<Instant>,
    endpoints_written: Option<Instant>,

    subscribed: BTreeSet<String>,
    /// Who this proxy is to be, for who gets its certificates.
    identity: watch::Sender<Option<SpiffeId>>,
    readiness: Readiness,
    guards: BTreeMap<Missing, ReadyGuard>,
}

struct Waiting {
    what: BTreeSet<Awaited>,
    until: Instant,
}

/// The last word about a destination.
struct Word {
    text: String,
    endpoints: Endpoints,
}

/// A batch that is stored, and waits for a certificate before it is acknowledged.
struct Unanswered {
    world: World,
    reply: oneshot::Sender<Result<Applied, HostError>>,
    until: Instant,
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
        let endpoints: BTreeMap<DestinationId, Word> = words.collect();
        let resumes = (!parts.is_empty()).then(|| Instant::now() + HEAD_START);
        let mut engine = Self {
            proxy,
            ports,
            folder,
            handle,
            stored: set.reached.clone(),
            unsaved: false,
            told: None,
            unanswered: None,
            svid: svid.filter(|svid| clock.now() <= svid.not_after()),
            clock,
            parts,
            reached: set.reached,
            heard: endpoints.keys().cloned().collect(),
            endpoints,
            registration_refused: false,
            resumes,
            credentials: None,
            in_force: None,
            problems: Vec::new(),
            awaited: BTreeMap::new(),
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

    /// Runs until `stop`. While the proxy drains, what it still carries is judged by what the zone says.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        drain: Drain,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let drained = self.proxy.drain(drain.grace);
        let draining = drain.follow(drained);
        {
            let mut draining = pin!(draining);
            let mut is_drained = false;
            loop {
                let wakeup = self.next_wakeup();
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = &mut draining, if !is_drained => is_drained = true,
                    command = commands.recv() => match command {
                        Some(command) => self.take(command).await?,
                        None => {
                            stop.cancelled().await;
                            break;
                        }
                    },
                    () = time::sleep_until(wakeup) => self.tick().await?,
                }
            }
        }
        // What came last is not on the disk yet; who starts next may have nobody else to ask.
        if self.endpoints_changed.is_some() {
            self.save_endpoints().await;
        }
        self.proxy.end().await;
        Ok(())
    }

    async fn take(&mut self, command: Command) -> Result<(), Stopped> {
        // Whoever asked may not wait for the answer any more: sending it may fail.
        match command {
            Command::Locate(zone, reply) => {
                self.parts.retain(&self.subscribed);
                self.parts.opens();
                self.told = None;
                let mut held = self.parts.held();
                if self.unsaved {
                    // All of it is to come again: what is not on the disk must not pass for held.
                    held.values_mut().for_each(|digest| *digest = Digest([0; 32]));
                }
                let Reached { world: have, .. } = self.stored.clone();
                let _ = reply.send(Place { have, hash: self.stored.hash(&zone), held, ..Place::default() });
            }
            Command::Batch(zone, batch, reply) => {
                match self.stored.judge(&zone, &batch) {
                    Judged::Follows | Judged::Unproven => {}
                    Judged::Diverges(reason) => {
                        warn!(%zone, reason, "going on by what is in force: the zone's history is another one");
                        let _ = reply.send(Ok(Applied::Held { reason }));
                        return Ok(());
                    }
                    Judged::Absurd(reason) => {
                        let _ = reply.send(Err(reason.into()));
                        return Ok(());
                    }
                }
                if let Err(error) = self.apply(&zone, &batch).await? {
                    warn!(%error, "the parts cannot be stored, so they are not acknowledged");
                    let _ = reply.send(Err(error.into()));
                    return Ok(());
                }
                let until = Instant::now() + CERTIFIED_WITHIN;
                self.unanswered = Some(Unanswered { world: batch.world, reply, until });
                self.answer();
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
    async fn apply(&mut self, zone: &Origin, batch: &Batch) -> Result<io::Result<()>, Stopped> {
        self.parts.apply(batch);
        self.reached = Reached::by(batch, zone);
        self.resumes = None;
        self.told = None;

        // That nothing changed need not be written.
        let is_to_save = self.unsaved || !batch.is_empty();
        let saved = if is_to_save { self.folder.save_set(self.set()).await } else { Ok(()) };
        self.unsaved = saved.is_err();
        // A denial must not wait for a disk that is full.
        self.put_in_force().await?;
        if saved.is_ok() {
            self.stored.clone_from(&self.reached);
        }
        Ok(saved)
    }

    /// Acknowledges the last batch, when all of it is in force or its time is over. For a part that routes wait
    /// for, the zone counts from the subscription, and the next batch brings it: that must not wait for this one.
    fn answer(&mut self) {
        let only_endpoints = self.awaits(Awaited::Endpoints) && !self.awaits(Awaited::Part);
        let waits = only_endpoints || matches!(self.lacking(), Some(Lacking::Certificate));
        let is_due = |unanswered: &mut Unanswered| !waits || unanswered.until <= Instant::now();
        let Some(Unanswered { world, reply, .. }) = self.unanswered.take_if(is_due) else { return };
        let refused = self.refused();
        for Refused { key, reason, .. } in &refused {
            warn!(part = key, reason, "refused");
        }
        self.told = Some(refused.clone());
        let _ = reply.send(Ok(Applied::Stored { world, refused }));
    }

    /// Has the zone ask again, if it was told something else of what is refused.
    fn tell_again(&mut self) {
        if self.told.as_ref().is_some_and(|told| *told != self.refused()) {
            self.told = None;
            self.handle.reopen(&Topic::PARTS);
        }
    }

    /// What the zone must not take for enforced. Where a part has several reasons, the last counts.
    fn refused(&self) -> Vec<Refused> {
        let lacking = self.lacking().map(|lacking| {
            let has_none = self.credentials.is_none() || self.svid.is_none();
            let names = self.parts.bodies().map(|(name, _)| name);
            // By the credentials of before everything else is in force.
            let names = names.filter(move |name| has_none || lacking.concerns(name));
            names.map(move |name| Refused::new(name.to_string(), None, lacking.reason()))
        });
        let problems = self.problems.iter().map(refusal);
        lacking.into_iter().flatten().chain(problems).chain(self.parts.refused()).collect()
    }

    /// Why parts that are held are not in force. Nobody lacks nothing: all service has ended, as the zone wants.
    fn lacking(&self) -> Option<Lacking> {
        let (identity, trust) = (self.parts.identity.as_ref()?, self.parts.trust.as_ref()?);
        let Some(svid) = self.svid.as_ref().filter(|svid| *svid.id() == identity.id) else {
            return Some(Lacking::Certificate);
        };
        let made = self.credentials.as_ref().is_some_and(|made| made.is_of(svid, trust));
        (!made).then_some(Lacking::Tls)
    }

    /// What a restart needs.
    fn set(&self) -> Set {
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        let parts = self.parts.bodies().map(|(name, body)| (name.to_string(), text(body)));
        Set { reached: self.reached.clone(), parts: parts.collect() }
    }

    /// Takes in the latest word about something. None at all, and one that cannot be read, takes nothing away.
    async fn hear(&mut self, name: &str, signal: &Signal) -> Result<(), Stopped> {
        let Ok(SignalName::Endpoints(id)) = name.parse() else {
            warn!(name, "a signal that nobody asked for");
            return Ok(());
        };
        let is_first = self.heard.insert(id.clone());
        if !signal.value.is_empty() {
            match serde_json::from_slice::<Endpoints>(&signal.value) {
                Ok(endpoints) => {
                    self.proxy.endpoints(id.clone(), endpoints.clone()).await?;
                    let text = String::from_utf8_lossy(&signal.value).into_owned();
                    self.endpoints.insert(id, Word { text, endpoints });
                    self.endpoints_changed.get_or_insert_with(Instant::now);
                }
                Err(error) => warn!(name, %error, "endpoints that cannot be read"),
            }
        }
        if is_first && self.awaits(Awaited::Endpoints) {
            self.put_in_force().await?;
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
        let before = mem::take(&mut self.awaited);
        let new = Instant::now() + CLOSED_WITHIN;
        let waiting = plan.awaited.iter().map(|(id, what)| {
            let until = before.get(id).map_or(new, |waiting| waiting.until);
            (id.clone(), Waiting { what: what.clone(), until })
        });
        self.awaited = waiting.collect();
        self.ask_for(&plan);
        let credentials = if plan.is_someone() { self.credentials() } else { self.as_nobody() };
        if let Some(credentials) = credentials {
            let before = self.in_force.as_ref().map(|routes| &routes.destinations);
            let is_new = |id: &DestinationId| !before.is_some_and(|before| before.contains_key(id));
            // The proxy knows endpoints for as long as it knows their destination.
            for id in plan.routes.destinations.keys().filter(|id| is_new(id)) {
                if let Some(word) = self.endpoints.get(id) {
                    self.proxy.endpoints(id.clone(), word.endpoints.clone()).await?;
                }
            }
            let Routes { outbound, inbounds, destinations } = plan.routes.clone();
            let config = ProxyConfig { outbound, inbounds, destinations, credentials };
            self.problems = self.proxy.apply(config).await?.problems;
            self.retry = (!self.problems.is_empty()).then(|| Instant::now() + RETRY);
            self.in_force = Some(plan.routes.clone());
        }
        self.show(&plan);
        self.answer();
        self.tell_again();
        Ok(())
    }

    fn plan(&self) -> Plan {
        let now = Instant::now();
        let overdue = self.awaited.iter().filter(|(_, waiting)| waiting.until <= now);
        let overdue = overdue.map(|(id, _)| id.clone()).collect();
        plan(Known {
            ports: &self.ports,
            parts: &self.parts,
            certified: self.svid.is_some(),
            in_force: self.in_force.as_ref(),
            heard: &self.heard,
            overdue: &overdue,
        })
    }

    fn awaits(&self, what: Awaited) -> bool {
        self.awaited.values().any(|waiting| waiting.what.contains(&what))
    }

    /// When the next routes will have waited for long enough.
    fn awaited_until(&self) -> Option<Instant> {
        self.awaited.values().map(|waiting| waiting.until).min()
    }

    /// Tells the zone what is wanted from now on.
    fn ask_for(&mut self, plan: &Plan) {
        let gone: Vec<String> = self.subscribed.difference(&plan.subscriptions).cloned().collect();
        self.handle.unsubscribe(gone.iter().map(String::as_str));
        self.handle.subscribe(plan.subscriptions.difference(&self.subscribed));
        for id in gone.iter().filter_map(|name| endpoints_of(name)) {
            self.heard.remove(&id);
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

    /// The last that could be made.
    fn credentials(&mut self) -> Option<Arc<Credentials>> {
        if let (Some(svid), Some(trust)) = (&self.svid, &self.parts.trust)
            && !self.credentials.as_ref().is_some_and(|made| made.is_of(svid, trust))
        {
            self.credentials = make(svid, trust).or(self.credentials.take());
        }
        self.credentials.as_ref().map(|made| made.credentials.clone())
    }

    /// The last that were made, but trusting nobody: so nothing that is open stays so. None where nothing was
    /// ever served.
    fn as_nobody(&self) -> Option<Arc<Credentials>> {
        let made = self.credentials.as_ref()?;
        Some(
            make(&made.svid, &Arc::default())
                .map_or_else(|| made.credentials.clone(), |made| made.credentials),
        )
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
            let left = svid.not_after().duration_since(self.clock.now()).unwrap_or_default();
            // A certificate counts to the end of its last second.
            Instant::now() + (left + Duration::from_millis(1)).min(PIECE)
        });
        let answers = self.unanswered.as_ref().map(|unanswered| unanswered.until);
        let wakeups = [self.resumes, self.retry, self.awaited_until(), self.endpoints_due(), answers, ends];
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
        if self.svid.as_ref().is_some_and(|svid| self.clock.now() > svid.not_after()) {
            warn!("the certificate ended; nothing is served until there is another");
            self.svid = None;
            self.put_in_force().await?;
        }
        if [self.retry, self.awaited_until()].into_iter().flatten().any(|at| at <= now) {
            self.put_in_force().await?;
        }
        self.answer();
        if self.endpoints_due().is_some_and(|at| at <= now) {
            self.save_endpoints().await;
        }
        Ok(())
    }

    async fn save_endpoints(&mut self) {
        let words = self.endpoints.iter().map(|(id, word)| (id.clone(), word.text.clone())).collect();
        self.endpoints_changed = None;
        self.endpoints_written = Some(Instant::now());
        if let Err(error) = self.folder.save_endpoints(words).await {
            warn!(%error, "the endpoints cannot be stored");
        }
    }
}

impl Made {
    fn is_of(&self, svid: &Arc<Svid>, trust: &Arc<Trust>) -> bool {
        Arc::ptr_eq(&self.svid, svid) && Arc::ptr_eq(&self.trust, trust)
    }
}

/// What keeps parts from being in force.
#[derive(Clone, Copy)]
enum Lacking {
    /// There is none yet, or it is of another identity.
    Certificate,
    /// No TLS can be made of the certificate and the trust.
    Tls,
}

impl Lacking {
    fn reason(self) -> &'static str {
        match self {
            Self::Certificate => "the proxy waits for a certificate",
            Self::Tls => "no TLS can be made of the certificate",
        }
    }

    /// Whether a part says what is lacking.
    fn concerns(self, name: &PartName) -> bool {
        match self {
            Self::Certificate => *name == PartName::Identity,
            Self::Tls => matches!(name, PartName::Identity | PartName::Trust),
        }
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
    Refused::new(key, None, format!("{problem}: {}", problem.cause))
}
