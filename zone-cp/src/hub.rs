//! Carries out what the planner decides: plans to sessions, signals to subscribers, wishes to the global.
//!
//! Everything goes through one lock, held only while the planner thinks: nothing waits in it, and nothing
//! queues before it, so a proxy that talks much makes no queue grow.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::shapes::{InspectDataplane, InspectPart, InspectSignal, ProxyCounts, ProxyState};
use bytes::Bytes;
use control::Clock;
use control::questions::exports_signal;
use futures::future::join_all;
use model::kinds::Dataplane;
use model::kinds::mesh_identity::Provider;
use model::{Origin, ResourceName, SpiffeId, Version, World, ZoneName};
use runtime::tasks::Children;
use snapshot::{Proxy, View};
use sync::frame::Signal;
use sync::link::Handle;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::memory::Memory;
use crate::planner::{Client, Input, Look, Output, Plan, Planner, Proof, ProxyId, SessionNumber};
use crate::{proof, settling};

/// How long a proxy whose session was lost still counts as it did.
const LOSS_COUNTS_AFTER: Duration = Duration::from_secs(5);

/// How much later the next signals are told for each that was.
const EACH_SIGNAL: Duration = Duration::from_micros(100);
/// How long a signal waits at the most.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// How often at the most it is looked who runs a version.
const LOOK: Duration = Duration::from_millis(10);

pub struct Hub {
    zone: ZoneName,
    state: Mutex<State>,
    /// Moves with every input, for those who wait for something to become true.
    ticks: watch::Sender<u64>,
    children: Children,
    clock: Clock,
}

struct State {
    planner: Planner,
    /// Before this time signals wait, so that telling them leaves time for everything else.
    tell_at: Instant,
    /// Somebody is waiting for it.
    will_tell: bool,
    links: BTreeMap<Client, Link>,
    sessions: SessionNumber,
    /// When somebody came for the first time last.
    last_news: Option<Instant>,
    /// The session with the global, for a zone that has one.
    upstream: Option<Handle>,
}

/// The way to a client.
struct Link {
    session: SessionNumber,
    handle: Handle,
    plan: watch::Sender<Plan>,
}

/// A session that is about to begin. Dropped before it has begun, it is over as if it had been lost.
pub struct Attachment {
    hub: Arc<Hub>,
    client: Client,
    session: SessionNumber,
    /// None once it has begun.
    plan: Option<watch::Receiver<Plan>>,
}

impl Attachment {
    /// From here on somebody else says when it is over.
    pub fn begin(mut self) -> (SessionNumber, watch::Receiver<Plan>) {
        (self.session, self.plan.take().expect("it begins once"))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.plan.is_some() {
            self.hub.detach(&self.client, self.session, false);
        }
    }
}

/// Who a proxy is to be, and for how long at a time.
pub struct Assigned {
    pub id: SpiffeId,
    pub lifetime: Duration,
}

impl Hub {
    pub fn new(
        zone: ZoneName,
        planner: Planner,
        upstream: Option<Handle>,
        children: Children,
        clock: Clock,
    ) -> Arc<Self> {
        let (links, tell_at) = (BTreeMap::new(), Instant::now());
        let state =
            State { planner, tell_at, will_tell: false, links, sessions: 0, last_news: None, upstream };
        Arc::new(Self { zone, state: Mutex::new(state), ticks: watch::Sender::new(0), children, clock })
    }

    /// Begins the time in which proxies may come back without having been missed.
    pub fn start_settling(self: &Arc<Self>) {
        let hub = self.clone();
        self.children.spawn("settling", move |stop| async move {
            let start = Instant::now();
            let mut ends = settling::ends(start, None);
            while time::timeout_at(ends, stop.cancelled()).await.is_err() {
                let last = hub.state().last_news;
                ends = settling::ends(start, last);
                if ends <= Instant::now() {
                    hub.input(Input::Settled);
                    break;
                }
            }
            Ok(())
        });
    }

    pub fn input(self: &Arc<Self>, input: Input) {
        // Whoever drains waits for it, and whoever is revoked may be a thief.
        let is_urgent = matches!(input, Input::Draining { .. } | Input::Revoked(_));
        let mut state = self.state();
        let outputs = state.planner.on_input(input);
        for output in outputs {
            self.carry_out(&mut state, output);
        }
        let wait = state.tell_at.saturating_duration_since(Instant::now());
        if is_urgent || wait.is_zero() {
            self.tell(&mut state);
        } else if state.planner.has_news() && !std::mem::replace(&mut state.will_tell, true) {
            self.tell_later(wait);
        }
        drop(state);
        self.ticks.send_modify(|tick| *tick += 1);
    }

    /// Tells the signals that have changed. Where thousands are to be told of a change, the next waits the longer: as
    /// when all proxies of a zone come at once, and each is an endpoint that all others are told of.
    fn tell(self: &Arc<Self>, state: &mut State) {
        if !state.planner.has_news() {
            return;
        }
        let outputs = state.planner.tell();
        let told = u32::try_from(outputs.len()).unwrap_or(u32::MAX);
        for output in outputs {
            self.carry_out(state, output);
        }
        state.tell_at = Instant::now() + EACH_SIGNAL.saturating_mul(told).min(LONGEST_WAIT);
    }

    fn tell_later(self: &Arc<Self>, wait: Duration) {
        let hub = self.clone();
        self.children.spawn("signals", move |stop| async move {
            if time::timeout(wait, stop.cancelled()).await.is_err() {
                let mut state = hub.state();
                state.will_tell = false;
                hub.tell(&mut state);
            }
            Ok(())
        });
    }

    /// Opens a session of a client; an older one of the same client is closed.
    pub fn attach(self: &Arc<Self>, client: Client, handle: Handle) -> Attachment {
        let mut state = self.state();
        state.sessions += 1;
        let session = state.sessions;
        if state.planner.is_news(&client) {
            state.last_news = Some(Instant::now());
        }
        let (plan, plans) = watch::channel(Plan::default());
        let replaced = state.links.insert(client.clone(), Link { session, handle, plan });
        drop(state);
        if let Some(old) = replaced {
            old.handle.close("another session of the same peer replaces this one");
        }
        self.input(Input::Connected { client: client.clone(), session });
        Attachment { hub: self.clone(), client, session, plan: Some(plans) }
    }

    pub fn detach(self: &Arc<Self>, client: &Client, session: SessionNumber, drained: bool) {
        let mut state = self.state();
        if state.links.get(client).is_some_and(|link| link.session == session) {
            state.links.remove(client);
        }
        drop(state);
        self.input(Input::Disconnected { client: client.clone(), session, drained });
    }

    /// A client is about to leave. Done when everyone who could use it has put the news in force, in other zones too.
    pub async fn draining(self: &Arc<Self>, client: &Client, session: SessionNumber) {
        self.input(Input::Draining { client: client.clone(), session });
        let upstream = self.state().upstream.clone();
        let above = async {
            if let Some(upstream) = upstream {
                upstream.settled().await;
            }
        };
        tokio::join!(self.settled(), above);
    }

    /// Waits until the proxies and ingresses of the zone have put in force what they were told so far.
    pub async fn settled(self: &Arc<Self>) {
        let links: Vec<Handle> = {
            let mut state = self.state();
            // What waits to be told is not in force with anybody.
            self.tell(&mut state);
            state.links.values().map(|link| link.handle.clone()).collect()
        };
        join_all(links.iter().map(Handle::settled)).await;
    }

    /// Ends the session of a client, if it has one.
    pub fn close(&self, client: &Client, reason: &str) {
        if let Some(link) = self.state().links.get(client) {
            link.handle.close(reason);
        }
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, output: Output) {
        let current =
            |client: &Client, session| state.links.get(client).filter(|link| link.session == session);
        match output {
            Output::Plan { client, session, plan } => {
                if let Some(link) = current(&client, session) {
                    link.plan.send_replace(plan);
                    link.handle.changed(&sync::Topic::PARTS);
                }
            }
            Output::Signal { client, session, name, word } => {
                if let Some(link) = current(&client, session) {
                    link.handle.signal(name, word);
                }
            }
            Output::CountLossLater { client, session } => {
                self.later(LOSS_COUNTS_AFTER, Input::LossCounts { client, session });
            }
            Output::Want(destination) => {
                if let Some(upstream) = &state.upstream {
                    upstream.subscribe([exports_signal(&destination)]);
                }
            }
            Output::WantNoLonger(destination) => {
                if let Some(upstream) = &state.upstream {
                    upstream.unsubscribe([exports_signal(&destination).as_str()]);
                }
            }
            Output::Export { name, value } => {
                if let Some(upstream) = &state.upstream {
                    upstream.signal(name, self.own_word(value));
                }
            }
        }
    }

    fn own_word(&self, value: Bytes) -> Signal {
        Signal { origin: Origin::Zone(self.zone.clone()), age: Duration::ZERO, value }
    }

    fn later(self: &Arc<Self>, after: Duration, input: Input) {
        let hub = self.clone();
        self.children.spawn("later", move |stop| async move {
            if time::timeout(after, stop.cancelled()).await.is_err() {
                hub.input(input);
            }
            Ok(())
        });
    }

    /// Starts something that ends by itself soon.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.children.spawn(name, |_| task);
    }

    /// Where the zone stands with a version: as soon as it is applied, else when the time is over.
    pub async fn prove(&self, version: &Version, wait: Duration) -> Proof {
        let deadline = Instant::now() + wait;
        let mut ticks = self.ticks.subscribe();
        loop {
            ticks.mark_unchanged();
            let proof = self.state().planner.prove(version, self.clock.now());
            if proof.is_applied() || time::timeout_at(deadline, ticks.changed()).await.is_err() {
                return proof;
            }
            let _ = time::timeout_at(deadline, time::sleep(LOOK)).await;
        }
    }

    /// What the next start is to know.
    pub fn memory(&self) -> Memory {
        self.state().planner.memory()
    }

    /// How many proxies run the newest that the zone knows of, and how many do not.
    pub fn counts(&self) -> ProxyCounts {
        proof::counts(&self.state().planner.overview(self.clock.now()))
    }

    /// How many destinations of other zones are used and not asked for, since they are too many.
    pub fn left_out(&self) -> usize {
        self.state().planner.left_out()
    }

    /// What is not as it should be, and which proxies run the newest.
    pub fn look(&self) -> (Look, Proof) {
        let (state, now) = (self.state(), self.clock.now());
        (state.planner.look(now), state.planner.overview(now))
    }

    pub fn has_ingress(&self, name: &ResourceName) -> bool {
        self.state().planner.has_ingress(name)
    }

    /// Moves whenever something may have changed.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    pub fn assigned(&self, id: &ProxyId) -> Option<Assigned> {
        self.with_proxy(id, |view, proxy| {
            let Provider::Bundled(bundled) = &proxy.identity(view)?.provider else { return None };
            Some(Assigned {
                id: proxy.spiffe_id(view)?,
                lifetime: bundled.expiry.unwrap_or(identity::SVID_LIFETIME),
            })
        })
    }

    fn with_proxy<T>(&self, id: &ProxyId, read: impl FnOnce(&View, &Proxy<'_>) -> Option<T>) -> Option<T> {
        let state = self.state();
        let view = state.planner.view();
        let (held, dataplane) = view.get::<Dataplane>(&id.key(&self.zone))?;
        read(view, &Proxy::new(held, dataplane)?)
    }

    /// What was compiled for a proxy, and what it says that it runs; none if there is no such proxy.
    pub fn inspect(&self, id: &ProxyId) -> Option<InspectDataplane> {
        let state = self.state();
        let planner = &state.planner;
        planner.view().get::<Dataplane>(&id.key(&self.zone))?;
        let report = planner.report(id);
        let standing = match &report {
            Some(report) if report.is_current => ProxyState::Current,
            Some(report) if report.is_connected => ProxyState::Late,
            _ => ProxyState::Unknown,
        };
        let report = report.unwrap_or_default();
        let parts = report.plan.parts.iter().map(|(name, body)| InspectPart {
            name: name.to_string(),
            part: json(&body.bytes),
            acknowledged: report.is_current && !report.refused.contains_key(&**name),
            refused: report.refused.get(&**name).cloned(),
        });
        let signals = report
            .signals
            .iter()
            .map(|(name, value)| InspectSignal { name: name.clone(), value: json(value) });
        Some(InspectDataplane {
            mesh: id.mesh.clone(),
            name: id.name.clone(),
            zone: self.zone.clone(),
            state: standing,
            world: planner.world().clone(),
            acknowledged: report.confirmed.clone(),
            parts: parts.collect(),
            signals: signals.collect(),
        })
    }

    /// For somebody else who is to read the documents that the planner reads, and hold them only once.
    pub fn empty_view(&self) -> View {
        self.state().planner.view().beside()
    }

    pub fn world(&self) -> World {
        self.state().planner.world().clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The planner is told one thing at a time and cannot be left between two.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Parts and signals are JSON of our own making; an empty signal is "no word yet".
fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap_or(serde_json::Value::Null)
}

#[cfg(test)]
mod tests;
