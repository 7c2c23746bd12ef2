//! One simulated proxy: joins, subscribes as its listeners say, has itself certified, and acknowledges what it
//! could read. It carries no traffic.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dataplane::control::certificate;
use identity::Peer;
use joining::{Joining, Keep, Kept, Membership};
use model::{SpiffeId, Version, World, ZoneName};
use serde_json::json;
use snapshot::parts::{PartName, SignalName};
use sync::frame::{Hello, Signal};
use sync::link::{Handle, Host, HostError, Options, Topics};
use sync::session::{Applied, Ended, Limits, Timing};
use sync::{Base, Batch, Body, Digest, Holdings, Place, Refused, Topic, Wanted};
use tokio::sync::{Notify, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::decoded::{Decoded, Meaning};

/// Nanoseconds since 1970, by which processes of one machine compare.
pub type Nanos = u64;

pub fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// How many proxies of how many services: proxy n is an instance of service n modulo `services`, and uses them all.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub proxies: usize,
    pub services: usize,
}

/// Where every instance listens.
pub const PORT: u16 = 8080;
/// Where the first service is reached by its clients.
const OUTBOUNDS: u16 = 20_000;

impl Shape {
    pub fn service(&self, proxy: usize) -> String {
        service_name(proxy % self.services)
    }

    /// Those that a service has in the end.
    fn instances(&self, service: usize) -> usize {
        self.proxies / self.services + usize::from(service < self.proxies % self.services)
    }

    /// The addresses of a service's instances.
    pub fn addresses(&self, service: usize) -> Vec<IpAddr> {
        (service..self.proxies).step_by(self.services).map(address).collect()
    }
}

pub fn service_name(service: usize) -> String {
    format!("service-{service}")
}

/// Each has one of its own, as on machines of their own; nobody listens there.
fn address(proxy: usize) -> IpAddr {
    let [.., high, low] = (proxy as u32).to_be_bytes();
    Ipv4Addr::new(127, 99, high, low).into()
}

/// What all simulated proxies have in common.
pub struct Fleet {
    pub shape: Shape,
    pub zone: ZoneName,
    pub zone_cp: String,
    /// With a token for each service, called like it.
    pub tokens: PathBuf,
    pub decoded: Decoded,
    /// Whenever one of them may have come to something.
    pub changed: Notify,
}

pub struct Simulated {
    fleet: Arc<Fleet>,
    peer: Peer,
    key: String,
    document: Bytes,
    handle: Handle,
    told: Mutex<Holdings>,
    /// Who it is to be, and who it is certified to be.
    identity: watch::Sender<Option<SpiffeId>>,
    certified: watch::Sender<Option<SpiffeId>>,
    /// It is to have a new certificate, whatever it has.
    anew: Notify,
    state: Mutex<State>,
}

/// What has come so far.
#[derive(Default)]
struct State {
    held: BTreeMap<String, Digest>,
    /// What could not be read, and why, until it is replaced.
    unreadable: BTreeMap<String, String>,
    world: World,
    destinations: Vec<String>,
    session: Option<Session>,
    /// When its last certificate came.
    certified: Option<Nanos>,
}

/// What has come in the session that there is now.
#[derive(Default)]
struct Session {
    since: Nanos,
    /// The world that was acknowledged last, and when.
    acknowledged: Option<(World, Nanos)>,
    /// How many endpoints are ready, of each signal.
    ready: BTreeMap<String, usize>,
    full: Option<Nanos>,
}

/// How long a batch waits for the certificate that it needs to be in force, as in a real sidecar.
const CERTIFIED_WITHIN: Duration = Duration::from_secs(5);

impl Simulated {
    pub fn new(fleet: Arc<Fleet>, number: usize) -> anyhow::Result<Arc<Self>> {
        let service = fleet.shape.service(number);
        let name = format!("{service}-{number}");
        let outbounds = (0..fleet.shape.services).map(|service| {
            json!({
                "address": "127.0.0.1",
                "port": OUTBOUNDS + service as u16,
                "backendRef": {"kind": "MeshService", "name": service_name(service), "port": PORT},
            })
        });
        let document = json!({
            "type": "Dataplane",
            "mesh": "default",
            "name": name,
            "networking": {
                "address": address(number),
                "inbound": [{"port": PORT, "servicePort": 3000, "protocol": "http"}],
                "outbound": outbounds.collect::<Vec<_>>(),
            },
        });
        let key = format!("Dataplane/default/{}//{name}", fleet.zone);
        Ok(Arc::new(Self {
            peer: Peer::Proxy { mesh: "default".parse()?, name: name.parse()? },
            fleet,
            key,
            document: serde_json::to_vec(&document)?.into(),
            handle: Handle::new(),
            told: Mutex::default(),
            identity: watch::Sender::new(None),
            certified: watch::Sender::new(None),
            anew: Notify::new(),
            state: Mutex::default(),
        }))
    }

    /// Stays in a session until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let own = [PartName::Identity, PartName::Trust, PartName::Listeners, PartName::Inbound(PORT)];
        self.handle.subscribe(own.map(|name| name.to_string()));
        let service = self.peer.to_string();
        let service = service.rsplit('/').next().and_then(|name| name.rsplit_once('-'));
        let (service, _) = service.unwrap_or_default();
        let token = self.fleet.tokens.join(service);
        let joining = Joining::new(self.peer.clone(), &self.fleet.zone_cp, token);
        let membership = Membership::open(joining, InMemory).await?;
        let limits = Limits { staged_bytes: 64 << 20, ..Limits::PROXY };
        let options = Options::new(env!("CARGO_PKG_VERSION"), limits).with(Timing::PROXY);
        let put = async |svid: Arc<identity::Svid>| {
            self.certified.send_replace(Some(svid.id().clone()));
            self.state().certified = Some(now());
            self.review();
        };
        let clock = joining::Clock::system();
        let renewing = async {
            loop {
                let renewing = certificate::renew(&self.handle, &clock, self.identity.subscribe(), None, put);
                tokio::select! {
                    () = renewing => return,
                    () = self.anew.notified() => {}
                }
            }
        };
        let running = membership.run(self.clone(), &self.handle, &options, &stop);
        tokio::select! {
            () = running => {}
            () = async { renewing.await; std::future::pending().await } => {}
        }
        Ok(())
    }

    pub fn is_connected(&self) -> bool {
        self.state().session.is_some()
    }

    /// Since when it has everything that it uses: its certificate, all parts, acknowledged, and all endpoints, ready. Only in a
    /// session that began at `since` or later.
    pub fn full(&self, since: Nanos) -> Option<Nanos> {
        self.state().session.as_ref().filter(|session| session.since >= since)?.full
    }

    /// Asks for a certificate at once, as one does that has none.
    pub fn ask_anew(&self) {
        self.anew.notify_one();
    }

    /// When it got its last certificate, if it was not before then.
    pub fn certified(&self, since: Nanos) -> Option<Nanos> {
        self.state().certified.filter(|at| *at >= since)
    }

    /// When it acknowledged what includes a version.
    pub fn applied(&self, version: &Version) -> Option<Nanos> {
        let state = self.state();
        let (world, at) = state.session.as_ref()?.acknowledged.as_ref()?;
        world.covers(version).then_some(*at)
    }

    /// Notes whether it is full by now.
    fn review(&self) {
        let mut state = self.state();
        let is_full = self.is_full(&state);
        if let Some(session) = &mut state.session
            && is_full
        {
            session.full.get_or_insert_with(now);
        }
        drop(state);
        self.fleet.changed.notify_one();
    }

    fn is_full(&self, state: &State) -> bool {
        let shape = &self.fleet.shape;
        let own = 4;
        state.session.as_ref().is_some_and(|session| {
            session.acknowledged.is_some()
                && self.is_certified()
                && state.destinations.len() == shape.services
                && state.held.len() == own + shape.services
                && state.unreadable.is_empty()
                && (0..shape.services).all(|service| {
                    session.ready.get(&state.destinations[service]) == Some(&shape.instances(service))
                })
        })
    }

    fn is_certified(&self) -> bool {
        let wanted = self.identity.borrow().clone();
        wanted.is_some() && *self.certified.borrow() == wanted
    }

    /// Takes a batch in, and says what follows from it.
    fn take(&self, batch: &Batch) -> Vec<Meaning> {
        let mut state = self.state();
        if batch.whole {
            state.held.clear();
            state.unreadable.clear();
        }
        for key in &batch.removed {
            state.held.remove(key);
            state.unreadable.remove(key);
        }
        let mut meanings = Vec::new();
        for entry in &batch.entries {
            let digest = entry.digest();
            match self.fleet.decoded.part(&entry.key, digest, &entry.body) {
                Ok(meaning) => {
                    state.held.insert(entry.key.clone(), digest);
                    state.unreadable.remove(&entry.key);
                    meanings.push(meaning);
                }
                Err(reason) => drop(state.unreadable.insert(entry.key.clone(), reason)),
            }
        }
        meanings
    }

    /// Asks for what its listeners lead to.
    fn listen(&self, listeners: &snapshot::parts::Listeners) {
        let ids = || listeners.outbound.iter().map(|listener| listener.destination.clone());
        let signals: Vec<String> = ids().map(|id| SignalName::Endpoints(id).to_string()).collect();
        let parts = ids().map(|id| PartName::Destination(id).to_string());
        self.handle.subscribe(parts.chain(signals.iter().cloned()));
        self.state().destinations = signals;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Simulated {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::PROXY], copies: vec![Topic::PARTS] }
    }

    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        let own = Arc::new(Wanted::from([(self.key.as_str().into(), Body::new(self.document.clone()))]));
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(told.collect(&base, &own, World::default()))
    }

    fn acknowledged(&self, _: &Topic, _: &World, refused: &[Refused]) {
        for Refused { key, reason, .. } in refused {
            warn!(key, reason, "the zone refuses a Dataplane");
        }
    }

    async fn locate(&self, _: Topic) -> Result<Place, HostError> {
        let state = self.state();
        Ok(Place { have: state.world.clone(), held: state.held.clone(), ..Place::default() })
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        for meaning in self.take(&batch) {
            match meaning {
                Meaning::Identity(id) => drop(self.identity.send_replace(Some(id))),
                Meaning::Listeners(listeners) => self.listen(&listeners),
                Meaning::Other => {}
            }
        }
        if !self.is_certified() {
            let mut certified = self.certified.subscribe();
            let wanted = self.identity.borrow().clone();
            let _ = time::timeout(CERTIFIED_WITHIN, certified.wait_for(|now| *now == wanted)).await;
        }
        let world = batch.world;
        let mut refused = Vec::new();
        let mut refuse = |key: &str, reason: &str| {
            refused.push(Refused::new(key, None, reason));
        };
        if !self.is_certified() {
            refuse("identity", "the proxy waits for a certificate");
        }
        let mut state = self.state();
        state.unreadable.iter().for_each(|(key, reason)| refuse(key, reason));
        state.world = world.clone();
        if let (Some(session), true) = (&mut state.session, refused.is_empty()) {
            session.acknowledged = Some((world.clone(), now()));
        }
        drop(state);
        self.review();
        Ok(Applied::Stored { world, refused })
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        let mut state = self.state();
        if let Some(session) = &mut state.session {
            for (name, signal) in signals {
                match self.fleet.decoded.ready(&signal.value) {
                    Ok(ready) => drop(session.ready.insert(name, ready)),
                    Err(reason) => warn!(name, reason, "endpoints that cannot be read"),
                }
            }
        }
        drop(state);
        self.review();
    }

    fn connected(&self, _: &Hello) -> Result<(), String> {
        self.state().session = Some(Session { since: now(), ..Session::default() });
        Ok(())
    }

    fn closed(&self, _: &Ended) {
        self.state().session = None;
    }
}

/// Whoever lives as long as its process keeps nothing beside it.
struct InMemory;

impl Keep for InMemory {
    async fn load(&self) -> anyhow::Result<Option<Kept>> {
        Ok(None)
    }

    async fn save(&self, _: &Arc<Kept>) -> anyhow::Result<()> {
        Ok(())
    }
}
