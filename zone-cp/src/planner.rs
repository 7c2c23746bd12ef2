//! What each proxy of the zone is to run, and which of them do.
//!
//! A state machine without I/O: [`Planner::on_input`] is told what happened and answers what has to be
//! told to whom. [`crate::hub`] carries it out.

mod documents;
mod proof;
mod shared;
mod signals;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use model::kinds::{Dataplane, ResourceSpec};
use model::{DestinationId, DocumentKey, MeshName, Origin, ResourceName, World, ZoneName};
use serde::{Deserialize, Serialize};
use snapshot::compile::{self, Class};
use snapshot::endpoints::Exports;
use snapshot::handle::Salt;
use snapshot::parts::PartName;
use snapshot::{Proxy, View};
use store::{Commit, Listing};
use sync::Wanted;
use sync::frame::Signal;

use shared::Shared;
use signals::{Stale, Told, unsubscribe};

use crate::lives::Life;
use crate::memory::{LastWords, Memory};

pub use proof::{Keeps, Late, Proof, Reason, Report, Standing};
pub use status::Look;

/// A sidecar, by its Dataplane.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct ProxyId {
    pub mesh: MeshName,
    pub name: ResourceName,
}

impl ProxyId {
    /// Whose Dataplane a document is, if it is one.
    pub fn of(key: &DocumentKey) -> Option<Self> {
        let is_dataplane = key.kind.as_str() == Dataplane::KIND.name;
        let mesh = key.mesh.clone().filter(|_| is_dataplane)?;
        Some(Self { mesh, name: key.name.clone() })
    }

    /// The key of its Dataplane document.
    pub fn key(&self, zone: &ZoneName) -> DocumentKey {
        DocumentKey {
            kind: "Dataplane".parse().expect("a kind name"),
            mesh: Some(self.mesh.clone()),
            origin: Origin::Zone(zone.clone()),
            namespace: None,
            name: self.name.clone(),
        }
    }
}

/// `<mesh>/<name>`
impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mesh, self.name)
    }
}

/// Who has a session with this zone.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Client {
    Proxy(ProxyId),
    Ingress(ResourceName),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy(proxy) => write!(f, "proxy {proxy}"),
            Self::Ingress(name) => write!(f, "ingress {name}"),
        }
    }
}

/// Tells a client's sessions apart: a word from one that was replaced counts no more.
pub type SessionNumber = u64;

/// Parts that a proxy subscribed to, by name.
pub type Wants = BTreeMap<Arc<str>, Arc<PartName>>;

/// What one proxy is to run, compiled from one world.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In which it came to be; it holds in every later one too until there is another plan.
    pub world: World,
    /// Moves when the proxy subscribes to other parts: what it confirmed before says nothing of them.
    pub generation: u64,
    /// What the proxy subscribed to, by name. What is not among it is none of the zone's business.
    pub wanted: Arc<Wants>,
    /// Those of them that there is something to tell of.
    pub parts: Arc<Wanted>,
}

#[derive(Debug)]
pub enum Input {
    /// The whole store: at the start, and when commits were missed.
    Listed(Listing),
    Committed(Arc<Commit>),
    Connected {
        client: Client,
        session: SessionNumber,
    },
    Subscribed {
        client: Client,
        session: SessionNumber,
        added: Vec<String>,
        removed: Vec<String>,
    },
    /// The client runs what was compiled from this world for its subscriptions of that generation.
    Confirmed {
        client: Client,
        session: SessionNumber,
        world: World,
        generation: u64,
    },
    /// The client is about to leave: nobody is to be sent there any more.
    Draining {
        client: Client,
        session: SessionNumber,
    },
    /// What is known of a proxy beyond its sessions.
    Life {
        proxy: ProxyId,
        life: Life,
    },
    /// Of these proxies, and of no others, the token is revoked by which they joined.
    Revoked(BTreeSet<ProxyId>),
    /// The client keeps its last good version of these parts.
    Refused {
        client: Client,
        session: SessionNumber,
        refused: BTreeMap<String, String>,
    },
    /// The client takes nothing new for now.
    Keeps {
        client: Client,
        session: SessionNumber,
        why: Keeps,
    },
    /// Nothing was heard of the client for 5 s, though its session is open; or it is heard again.
    Silent {
        client: Client,
        session: SessionNumber,
        silent: bool,
    },
    Disconnected {
        client: Client,
        session: SessionNumber,
        drained: bool,
    },
    /// 5 s after a lost session.
    LossCounts {
        client: Client,
        session: SessionNumber,
    },
    /// Whoever did not come back after the start is missed from now on.
    Settled,
    /// What was kept when this control plane stopped, before anybody came.
    Kept(Memory),
    /// The latest word of another zone on its service; none if there is no word yet.
    Exported {
        destination: DestinationId,
        exports: Option<Exports>,
    },
    /// What other zones want to know of our services, through the global.
    Wanted {
        added: Vec<String>,
        removed: Vec<String>,
    },
}

#[derive(Debug)]
pub enum Output {
    Plan {
        client: Client,
        session: SessionNumber,
        plan: Plan,
    },
    /// The latest value, for a session that subscribed to it.
    Signal {
        client: Arc<Client>,
        session: SessionNumber,
        name: Arc<str>,
        word: Arc<Signal>,
    },
    /// Say [`Input::LossCounts`] in 5 s.
    CountLossLater {
        client: Client,
        session: SessionNumber,
    },
    /// Ask the global for what another zone exports.
    Want(DestinationId),
    WantNoLonger(DestinationId),
    /// Tell the global what this zone exports.
    Export {
        name: String,
        value: Bytes,
    },
}

pub struct Planner {
    zone: ZoneName,
    salt: Salt,
    view: View,
    world: World,
    clients: BTreeMap<Arc<Client>, State>,
    shared: Shared,
    /// What is told to those who subscribed to it.
    told: BTreeMap<Arc<str>, Told>,
    /// What of it may have another value by now.
    stale: Stale,
    lives: BTreeMap<ProxyId, Life>,
    /// The token by which they joined was revoked.
    revoked: BTreeSet<ProxyId>,
    settled: bool,
    /// Until it has settled after its start: the proxies that counted before, and are not back yet. None before
    /// the store was listed.
    returning: Option<BTreeSet<ProxyId>>,
    /// The last word of other zones, for destinations that somebody here subscribed to.
    exports: Arc<LastWords>,
    /// The services of this zone that other zones subscribed to, with what they were told.
    wanted: BTreeMap<DestinationId, Bytes>,
    /// The destinations of other zones that we asked the global for.
    asked: BTreeSet<DestinationId>,
    /// How many more would have been asked for.
    left_out: usize,
}

/// What is known of a client that has or had a session.
struct State {
    session: SessionNumber,
    presence: Presence,
    /// Of a proxy's Dataplane.
    key: Option<DocumentKey>,
    plan: Plan,
    /// By which its parts were compiled last, where they are those of a class.
    class: Option<Arc<Class>>,
    /// It has said at least once that its configuration is in force, with its own Dataplane in it.
    serves: bool,
    /// Where its Dataplane says that it listens, and it has not said so since.
    moves_to: BTreeSet<SocketAddr>,
    /// It has said that it is about to leave. It goes on serving, and counts for the proof until it has gone.
    draining: bool,
    confirmed: Option<(World, u64)>,
    /// Parts that it keeps an older version of, and why.
    refused: BTreeMap<String, String>,
    /// Why it keeps all that it has, if it does.
    keeps: Option<Keeps>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Presence {
    Connected,
    /// Its session is open, and nothing was heard in it for 5 s: nobody knows what it does.
    Silent,
    /// Its session was lost less than 5 s ago: it still counts as it did.
    Missing,
    Lost,
    /// It said that it leaves.
    Drained,
}

impl Planner {
    pub fn new(zone: ZoneName, salt: Salt) -> Self {
        Self {
            zone,
            salt,
            view: View::default(),
            world: World::default(),
            clients: BTreeMap::new(),
            shared: Shared::default(),
            told: BTreeMap::new(),
            stale: Stale::default(),
            lives: BTreeMap::new(),
            revoked: BTreeSet::new(),
            settled: false,
            returning: None,
            exports: Arc::default(),
            wanted: BTreeMap::new(),
            asked: BTreeSet::new(),
            left_out: 0,
        }
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// What the next start is to know.
    pub fn memory(&self) -> Memory {
        let proxies = self.view.all::<Dataplane>().filter_map(|(held, _)| ProxyId::of(&held.key));
        let missed = proxies.filter(|proxy| !self.is_live(proxy)).collect();
        Memory { words: self.exports.clone(), missed }
    }

    /// Whether a client has not been here since this control plane started.
    pub fn is_news(&self, client: &Client) -> bool {
        !self.clients.contains_key(client)
    }

    /// What follows at once. Signals that may have changed wait for [`Self::tell`].
    pub fn on_input(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Listed(listing) => self.listed(listing, &mut out),
            Input::Committed(commit) => self.changed(&commit.changes, commit.world.clone(), &mut out),
            Input::Connected { client, session } => self.connected(client, session),
            Input::Subscribed { client, session, added, removed } => {
                self.subscribed(client, session, &added, &removed, &mut out);
            }
            Input::Life { proxy, life } => {
                self.lives.insert(proxy, life);
            }
            Input::Revoked(revoked) => self.revoked(revoked),
            Input::Confirmed { client, session, world, generation } => {
                if let Some(state) = self.current(&client, session) {
                    state.confirmed = Some((world, generation));
                    state.refused.clear();
                    state.keeps = None;
                    self.may_serve(&client);
                }
            }
            Input::Draining { client, session } => {
                if let Some(state) = self.current(&client, session) {
                    state.draining = true;
                    self.lives_or_not(&client);
                }
            }
            Input::Refused { client, session, refused } => {
                if let Some(state) = self.current(&client, session) {
                    state.refused = refused;
                }
            }
            Input::Keeps { client, session, why } => {
                let world = self.world.clone();
                if let Some(state) = self.current(&client, session) {
                    state.keeps = Some(why);
                    if state.is_caught_up(&world) {
                        out.push(Output::Plan { client, session, plan: state.plan.clone() });
                    }
                }
            }
            Input::Silent { client, session, silent } => {
                if let Some(state) = self.current(&client, session)
                    && state.has_session()
                {
                    state.presence = if silent { Presence::Silent } else { Presence::Connected };
                    self.lives_or_not(&client);
                }
            }
            Input::Disconnected { client, session, drained } => {
                self.disconnected(client, session, drained, &mut out);
            }
            Input::LossCounts { client, session } => {
                if let Some(state) = self.current(&client, session)
                    && state.presence == Presence::Missing
                {
                    state.presence = Presence::Lost;
                    self.lives_or_not(&client);
                    self.forget_stranger(&client);
                }
            }
            Input::Settled => {
                self.settled = true;
                self.returning = Some(BTreeSet::new());
                self.review_wishes(&mut out);
                self.stale = Stale::All;
            }
            Input::Kept(Memory { words, missed }) => {
                self.exports = words;
                if let Some(returning) = &mut self.returning {
                    returning.retain(|proxy| !missed.contains(proxy));
                }
                self.stale = Stale::All;
            }
            Input::Exported { destination, exports } => self.exported(destination, exports),
            Input::Wanted { added, removed } => self.wanted(&added, &removed, &mut out),
        }
        out
    }

    fn connected(&mut self, client: Client, session: SessionNumber) {
        let known = self.clients.get(&client);
        let returns = match &client {
            Client::Proxy(proxy) => self.is_live(proxy),
            Client::Ingress(_) => false,
        };
        if known.is_some_and(|state| state.session > session) {
            return;
        }
        let state = State {
            session,
            presence: Presence::Connected,
            // Who comes back within moments goes on as it did; a newcomer serves once it has said so. One that was
            // about to leave may be new as well.
            serves: returns,
            moves_to: known.map(|state| state.moves_to.clone()).unwrap_or_default(),
            draining: false,
            key: match &client {
                Client::Proxy(proxy) => Some(proxy.key(&self.zone)),
                Client::Ingress(_) => None,
            },
            plan: Plan::default(),
            class: None,
            confirmed: None,
            refused: BTreeMap::new(),
            keeps: None,
        };
        // Another door may close now that this one is open.
        let is_news = known.is_some_and(|state| state.draining) || matches!(client, Client::Ingress(_));
        self.unsubscribe_all(&client);
        let client = Arc::new(client);
        self.clients.remove(&client);
        self.clients.insert(client.clone(), state);
        if is_news {
            self.lives_or_not(&client);
        }
    }

    fn subscribed(
        &mut self,
        client: Client,
        session: SessionNumber,
        added: &[String],
        removed: &[String],
        out: &mut Vec<Output>,
    ) {
        let state = self.clients.get_mut(&client).filter(|state| state.session == session);
        let Some(state) = state else { return };
        let mut wanted = (*state.plan.wanted).clone();
        let mut parts = (*state.plan.parts).clone();
        for name in removed {
            if wanted.remove(name.as_str()).is_some() {
                parts.remove(name.as_str());
            } else {
                unsubscribe(&mut self.told, &client, name);
            }
        }
        let mut fresh = BTreeMap::new();
        let mut signals = Vec::new();
        for name in added {
            // A newer proxy may know parts that this zone does not: they stay absent.
            if let Some((text, part)) = self.shared.name(name) {
                fresh.insert(text, part);
            } else if let Ok(signal) = name.parse() {
                signals.push(signal);
            }
        }
        if state.key.is_some() {
            wanted.extend(fresh.clone());
            if *state.plan.wanted != wanted {
                state.plan.generation += 1;
            }
            (state.plan.wanted, state.plan.parts) = (self.shared.wants(wanted), Arc::new(parts));
            state.compile(&self.view, &mut self.shared, fresh.iter());
            state.plan.world = self.world.clone();
            out.push(Output::Plan { client: client.clone(), session, plan: state.plan.clone() });
        }
        drop(fresh);
        self.shared.review();
        self.subscribe_signals(&client, session, signals, out);
        self.review_wishes(out);
    }

    fn disconnected(&mut self, client: Client, session: SessionNumber, drained: bool, out: &mut Vec<Output>) {
        let Some(state) = self.current(&client, session) else { return };
        state.plan = Plan::default();
        state.class = None;
        match state.presence {
            _ if drained => {
                state.presence = Presence::Drained;
                self.lives_or_not(&client);
            }
            // It has been missed for longer than a lost session is.
            Presence::Silent => state.presence = Presence::Lost,
            _ => {
                state.presence = Presence::Missing;
                out.push(Output::CountLossLater { client: client.clone(), session });
                // A proxy counts for a while as it did. No door closes for one that may not be there.
                if matches!(client, Client::Ingress(_)) {
                    self.lives_or_not(&client);
                }
            }
        }
        self.unsubscribe_all(&client);
        self.forget_stranger(&client);
        self.shared.review();
    }

    /// A proxy that has neither a Dataplane nor a session is nobody either.
    fn forget_stranger(&mut self, client: &Client) {
        let is_stranger = self.clients.get(client).is_some_and(|state| {
            let is_over = matches!(state.presence, Presence::Lost | Presence::Drained);
            is_over && state.key.as_ref().is_some_and(|key| self.view.get::<Dataplane>(key).is_none())
        });
        if is_stranger {
            self.clients.remove(client);
        }
    }

    /// The state of a client, if this is still its session.
    fn current(&mut self, client: &Client, session: SessionNumber) -> Option<&mut State> {
        self.clients.get_mut(client).filter(|state| state.session == session)
    }

    /// A client serves, and listens where its own Dataplane says, from when it said that it runs what follows from that
    /// as it is now: a newcomer runs what was there before it for a moment, and listens nowhere yet.
    fn may_serve(&mut self, client: &Client) {
        let is_news = |state: &&mut State| !state.serves || !state.moves_to.is_empty();
        let Some(state) = self.clients.get_mut(client).filter(is_news) else { return };
        let confirmed = state.confirmed.as_ref().map(|(world, _)| world);
        let runs = if state.runs_newest() { Some(&self.world) } else { confirmed };
        let held = state.key.as_ref().map(|key| self.view.get::<Dataplane>(key));
        let is_in = held
            .is_none_or(|held| held.zip(runs).is_some_and(|((held, _), runs)| runs.covers(&held.version)));
        if is_in && confirmed.is_some() {
            state.serves = true;
            state.moves_to.clear();
            self.lives_or_not(client);
        }
    }

    /// Whether the instances of a proxy count as being there.
    fn is_live(&self, proxy: &ProxyId) -> bool {
        match self.clients.get(&Client::Proxy(proxy.clone())) {
            Some(state) => state.is_live(),
            // No word is not "gone": not in the first time of this control plane.
            None => self.returning.as_ref().is_some_and(|returning| returning.contains(proxy)),
        }
    }

    /// Whether a proxy that is there may not listen at an address yet.
    fn moves_to(&self, proxy: ProxyId, address: SocketAddr) -> bool {
        self.clients.get(&Client::Proxy(proxy)).is_some_and(|state| state.moves_to.contains(&address))
    }
}

impl State {
    fn has_session(&self) -> bool {
        matches!(self.presence, Presence::Connected | Presence::Silent)
    }

    /// Whether others are to be sent there.
    fn is_live(&self) -> bool {
        self.serves && !self.draining && matches!(self.presence, Presence::Connected | Presence::Missing)
    }

    /// Whether it said so of its plan. Who keeps an older version of anything runs something else, whatever it said
    /// before.
    fn runs_newest(&self) -> bool {
        self.refused.is_empty()
            && self.keeps.is_none()
            && self.confirms(|world| world.covers_all(&self.plan.world))
    }

    /// Whether it waited to be told nothing less than it was told before, and can be told now: the plan, as of this
    /// world.
    fn is_caught_up(&mut self, world: &World) -> bool {
        let waited = matches!(&self.keeps, Some(Keeps::Ahead(told)) if world.covers_all(told));
        if waited {
            self.keeps = None;
            self.plan.world = world.clone();
        }
        waited
    }

    /// Whether the plan is another one by that.
    fn compile<'a>(
        &mut self,
        view: &View,
        shared: &mut Shared,
        parts: impl Iterator<Item = (&'a Arc<str>, &'a Arc<PartName>)>,
    ) -> bool {
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() {
            return false;
        }
        let held = self.key.as_ref().and_then(|key| view.get::<Dataplane>(key));
        let proxy = held.and_then(|(held, dataplane)| Proxy::new(held, dataplane));
        if parts.iter().any(|(_, part)| compile::is_of_class(part)) {
            self.class = proxy.as_ref().map(|proxy| shared.class(compile::class(view, proxy)));
        }
        let mut plan = (*self.plan.parts).clone();
        for (text, part) in parts {
            let class = self.class.as_ref().filter(|_| compile::is_of_class(part));
            let compiled = proxy.as_ref().and_then(|proxy| shared.part(view, proxy, class, (text, part)));
            match compiled {
                Some(body) => plan.insert(text.clone(), body),
                None => plan.remove(text),
            };
        }
        let differs = plan != *self.plan.parts;
        if differs {
            self.plan.parts = Arc::new(plan);
        }
        differs
    }
}

#[cfg(test)]
pub(crate) mod tests;
