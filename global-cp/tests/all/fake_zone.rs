//! A zone that is a store and a session, and says whatever a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use api::shapes::{Hold, LateProxy, LateReason, LateState, ProxyCounts, ZoneProgress, ZoneState};
use api::status::ZoneReport;
use bytes::Bytes;
use control::line::{self, Heard};
use control::questions::{INSPECT, REVISION, RevisionAnswer, RevisionQuestion, STATUS};
use control::reports::Judged;
use control::{Holds, Refusals};
use identity::{Credential, Pin, PrivateKey, ServerRole, ca_of_token};
use model::{DocumentKey, Origin, Point, Record, Version, World, ZoneName};
use serde_json::{Value, json};
use store::{Changes, Draft, Expect, Filter, MemoryStore, Store, Write};
use sync::batch::{Base, Batch, Entry, Place, Refused};
use sync::client::{self, DialError, Target};
use sync::frame::Signal;
use sync::link::{self, Handle, Host, HostError, Topics};
use sync::session::{Applied, Ended, Limits, Timing};
use sync::topic::Topic;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Global, LIMIT};

pub(crate) struct FakeZone {
    pub name: ZoneName,
    pub site: Arc<Site>,
    pub handle: Handle,
    pin: Pin,
    credential: Arc<Credential>,
    session: Option<(CancellationToken, JoinHandle<()>)>,
}

/// What outlives sessions.
pub(crate) struct Site {
    origin: Origin,
    pub store: Arc<dyn Store>,
    pub seen: watch::Sender<Seen>,
    /// Beside what it wrote, and sent once.
    lies: Mutex<Vec<Entry>>,
    /// What it says next, instead of what it has to say.
    says: Mutex<Option<Batch>>,
    pub holds: Holds,
    /// A document that it does not take.
    pub poison: Mutex<Option<String>>,
    /// Whether it asks for everything.
    pub asks: AtomicBool,
    /// Whether its proxies are late.
    pub late: watch::Sender<bool>,
    /// Whether one of them refuses whatever comes.
    pub refusing: AtomicBool,
    /// Whether its proxies take in what they hear.
    pub listening: watch::Sender<bool>,
}

/// What the global did, as it is seen here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Of each batch of policy whether it was whole, and what came in it.
    pub batches: Vec<(bool, Vec<String>)>,
    pub refused: Vec<Refused>,
    pub acknowledged: World,
    pub wanted: BTreeSet<String>,
    pub signals: BTreeMap<String, Signal>,
    pub ended: Vec<String>,
    pub refusals: Vec<String>,
    /// How often it asked for everything.
    pub asked_anew: usize,
}

impl FakeZone {
    /// Exchanges a token for a certificate.
    pub(crate) async fn join(global: &Global, name: &str) -> Result<Self, DialError> {
        let token = global.token(name).await;
        Self::join_with(global, name, &token, &format!("zone/{name}")).await
    }

    pub(crate) async fn join_with(
        global: &impl Reached,
        name: &str,
        token: &str,
        peer: &str,
    ) -> Result<Self, DialError> {
        let pin = ca_of_token(token).unwrap();
        let key = PrivateKey::generate();
        let tls = identity::client_config(pin, ServerRole::Global, None).unwrap();
        let chain = client::enrol(&target(global), tls, token, key.request().der(), peer).await?;
        let credential = Arc::new(Credential::new(chain, &key).unwrap());
        let name: ZoneName = name.parse().unwrap();
        let origin = Origin::Zone(name.clone());
        let site = Site {
            store: MemoryStore::new(origin.clone()),
            origin,
            seen: watch::Sender::default(),
            lies: Mutex::default(),
            says: Mutex::default(),
            holds: Holds::default(),
            poison: Mutex::default(),
            asks: AtomicBool::default(),
            late: watch::Sender::new(false),
            refusing: AtomicBool::default(),
            listening: watch::Sender::new(true),
        };
        Ok(Self { name, site: Arc::new(site), handle: Handle::new(), pin, credential, session: None })
    }

    /// Dials, until it is disconnected.
    pub(crate) fn dial(&mut self, global: &impl Reached) {
        self.dial_with(global, Timing::default());
    }

    pub(crate) fn dial_with(&mut self, global: &impl Reached, timing: Timing) {
        let stop = CancellationToken::new();
        let (target, site, handle) = (target(global), self.site.clone(), self.handle.clone());
        let tls = identity::client_config(self.pin, ServerRole::Global, Some(&self.credential)).unwrap();
        let until = stop.clone();
        let session = tokio::spawn(async move {
            let options = link::Options { timing, ..link::Options::new("test", Limits::CONTROL_PLANE) };
            client::connect_forever(&target, || tls.clone(), site, &handle, &options, &until).await;
        });
        self.session = Some((stop, session));
    }

    pub(crate) async fn connect(&mut self, global: &impl Reached) {
        self.dial(global);
        time::timeout(LIMIT, self.handle.connected()).await.unwrap();
    }

    pub(crate) async fn disconnect(&mut self) {
        if let Some((stop, session)) = self.session.take() {
            stop.cancel();
            session.await.unwrap();
        }
    }

    /// A second control plane of the same zone, with the same certificate and nothing else.
    pub(crate) fn twin(&self) -> Self {
        let site = Site {
            store: MemoryStore::new(self.site.origin.clone()),
            origin: self.site.origin.clone(),
            seen: watch::Sender::default(),
            lies: Mutex::default(),
            says: Mutex::default(),
            holds: Holds::default(),
            poison: Mutex::default(),
            asks: AtomicBool::default(),
            late: watch::Sender::new(false),
            refusing: AtomicBool::default(),
            listening: watch::Sender::new(true),
        };
        Self {
            name: self.name.clone(),
            site: Arc::new(site),
            handle: Handle::new(),
            pin: self.pin,
            credential: self.credential.clone(),
            session: None,
        }
    }

    /// Writes a document of its own, of the plain form without identity.
    pub(crate) async fn write(&self, key: &str, spec: Value) -> Version {
        let key: DocumentKey = key.parse().unwrap();
        let draft = Draft::new(key.clone(), body(&key, spec));
        let written = self.site.store.put(draft, Expect::Any).await.unwrap();
        self.handle.changed(&Topic::ORIGINATED);
        written.version
    }

    pub(crate) async fn remove(&self, key: &str) {
        self.site.store.delete(key.parse().unwrap(), Expect::Any).await.unwrap();
        self.handle.changed(&Topic::ORIGINATED);
    }

    /// Says something that it may not say.
    pub(crate) fn lie(&self, key: &str, version: &str, spec: Value) {
        let key: DocumentKey = key.parse().unwrap();
        let bytes = body(&key, spec);
        let version = version.parse().unwrap();
        let record = Record { key, version, secret: false, requires: vec![], bundle: None, bytes };
        self.site.lies.lock().unwrap().push(record.into());
        self.handle.changed(&Topic::ORIGINATED);
    }

    /// Sends a whole set, as if it had come to this point by that.
    pub(crate) async fn says(&self, epoch: u64, entries: Vec<Entry>) {
        let head = self.site.store.head().await.unwrap();
        let hash = line::hash_at(&*self.site.store, &head.world).await.unwrap();
        let point = Point { epoch, ..head.point };
        let world: World = [(self.site.origin.clone(), point)].into_iter().collect();
        let continues = hash.clone();
        let batch = Batch { whole: true, entries, removed: vec![], world: world.clone(), hash, continues };
        *self.site.says.lock().unwrap() = Some(batch);
        self.see_nothing();
        self.handle.changed(&Topic::ORIGINATED);
        self.until("an acknowledgement", |seen| seen.acknowledged.covers_all(&world)).await;
    }

    fn see_nothing(&self) {
        self.site.see(|seen| seen.acknowledged = World::default());
    }

    pub(crate) fn signal(&self, name: &str, value: impl Into<Bytes>) {
        let origin = self.site.origin.clone();
        self.handle.signal(name, Signal { origin, age: Duration::ZERO, value: value.into() });
    }

    pub(crate) async fn until(&self, what: &str, fits: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.site.seen.subscribe();
        let waited = time::timeout(LIMIT, seen.wait_for(fits)).await;
        match waited {
            Ok(seen) => seen.unwrap().clone(),
            Err(_) => panic!("{} waits for {what}: {:?}", self.name, self.site.seen.borrow()),
        }
    }

    /// Waits until it holds back what the global sends.
    pub(crate) async fn until_holding(&self) -> Hold {
        let waited = async {
            loop {
                match self.site.holds.list().pop() {
                    Some(hold) => return hold,
                    None => time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        time::timeout(LIMIT, waited).await.unwrap()
    }

    /// Waits until it has a document, or no longer does.
    pub(crate) async fn until_held(&self, key: &str, held: bool) {
        let key: DocumentKey = key.parse().unwrap();
        let store = &self.site.store;
        let waited = async {
            let mut watch = store.watch(store.head().await.unwrap().sequence);
            while store.get(&key).await.unwrap().is_some() != held {
                watch.next().await.unwrap();
            }
        };
        let waited = time::timeout(LIMIT, waited).await;
        assert!(waited.is_ok(), "{} waits for {key}: {held}", self.name);
    }

    pub(crate) async fn until_acknowledged(&self, version: &Version) {
        self.until("an acknowledgement", |seen| seen.acknowledged.covers(version)).await;
    }
}

impl Drop for FakeZone {
    fn drop(&mut self) {
        if let Some((stop, _)) = &self.session {
            stop.cancel();
        }
    }
}

/// A global to dial.
pub(crate) trait Reached {
    /// Where zones connect.
    fn sync(&self) -> String;
}

impl Reached for Global {
    fn sync(&self) -> String {
        self.running.addresses.sync.to_string()
    }
}

fn target(global: &impl Reached) -> Target {
    let address = global.sync();
    Target { address, server_name: ServerRole::Global.tls_name() }
}

fn body(key: &DocumentKey, spec: Value) -> Bytes {
    let mut body = json!({ "type": key.kind, "name": key.name, "spec": spec });
    if let Some(mesh) = &key.mesh {
        body["mesh"] = json!(mesh);
    }
    serde_json::to_vec(&body).unwrap().into()
}

impl Site {
    fn see(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(change);
    }

    async fn take_over(&self, batch: Batch) -> Result<(), HostError> {
        let mut writes = Vec::new();
        if self.holds.list().iter().any(|hold| hold.origin == Origin::Global) {
            writes.push(Write::Reset(Origin::Global));
        }
        let mut leave = |key: DocumentKey| {
            let point = batch.world.point(&key.origin).unwrap_or_default();
            let version = Version { origin: key.origin.clone(), point };
            writes.push(Write::Forget { key, version });
        };
        batch.removed.iter().for_each(|key| leave(key.parse().unwrap()));
        if batch.whole {
            let others = Filter::all().not_written_by(self.origin.clone());
            let held = self.store.list(others).await?.records;
            let stays = |key: &DocumentKey| batch.entries.iter().any(|entry| entry.key == key.to_string());
            held.into_iter().filter(|record| !stays(&record.key)).for_each(|record| leave(record.key));
        }
        for entry in &batch.entries {
            writes.push(Write::Copy(entry.clone().try_into()?));
        }
        writes.push(Write::Advance(batch.world.clone()));
        self.store.apply(writes).await?;
        let point = batch.world.point(&Origin::Global).unwrap_or_default();
        let heard = Heard { point, hash: batch.hash }.write(&Origin::Global);
        self.store.apply(vec![heard]).await?;
        self.holds.taken_over(&Origin::Global);
        let keys = batch.entries.into_iter().map(|entry| entry.key).collect();
        self.see(|seen| seen.batches.push((batch.whole, keys)));
        Ok(())
    }

    async fn revision(&self, question: RevisionQuestion) -> RevisionAnswer {
        let reached = async {
            let mut watch = self.store.watch(0);
            while !self.store.head().await.unwrap().world.covers(&question.revision) {
                watch.next().await.unwrap();
            }
            let _ = self.late.subscribe().wait_for(|late| !late).await;
        };
        let applied = time::timeout(Duration::from_millis(question.wait_ms), reached).await.is_ok();
        let Origin::Zone(name) = self.origin.clone() else { unreachable!() };
        let (state, late) = if self.refusing.load(SeqCst) {
            let late = LateProxy {
                zone: name.clone(),
                proxy: "default/web-1".to_owned(),
                state: LateState::Late,
                reason: LateReason::Refused,
                detail: "listeners: bad".to_owned(),
            };
            (ZoneState::Refused, vec![late])
        } else {
            (if applied { ZoneState::Applied } else { ZoneState::Pending }, Vec::new())
        };
        let count = u64::from(state != ZoneState::Applied);
        let proxies = ProxyCounts { current: 1 - count, late: count, unknown: 0 };
        RevisionAnswer { zone: ZoneProgress { name, state, proxies }, late }
    }
}

impl Host for Site {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::ORIGINATED], copies: vec![Topic::POLICY] }
    }

    async fn collect(&self, _topic: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        if let Some(batch) = self.says.lock().unwrap().take() {
            return Ok(Some(batch));
        }
        let standing = self.holds.begun.find(&*self.store, &Origin::Global, &base).await?;
        let own = Filter::all().written_by(self.origin.clone());
        if base.is_anew() {
            self.see(|seen| seen.asked_anew += 1);
        }
        let changes = line::lacking(&*self.store, &base, own).await?;
        let mut entries: Vec<Entry> = changes.records.into_iter().map(Entry::from).collect();
        entries.append(&mut self.lies.lock().unwrap());
        let hash = line::hash_at(&*self.store, &changes.world).await?;
        let removed = changes.tombstones.into_iter().map(|(key, _)| key.to_string()).collect();
        let Changes { whole, world, .. } = changes;
        Ok(Some(Batch { whole, entries, removed, world, hash, continues: standing.continues }))
    }

    async fn locate(&self, _topic: Topic) -> Result<Place, HostError> {
        let have = self.store.head().await?.world;
        let heard = Heard::load(&*self.store, &Origin::Global).await?.unwrap_or_default();
        let anew = self.asks.load(SeqCst);
        Ok(Place { have, hash: heard.hash, anew, ..Place::default() })
    }

    async fn apply(&self, _topic: Topic, mut batch: Batch) -> Result<Applied, HostError> {
        // Its sessions come one after the other.
        let fence = self.store.fence("policy").await?;
        if let Err(reason) = self.holds.judge(&*self.store, &Origin::Global, &batch, &fence).await? {
            return Ok(Applied::Held { reason });
        }
        let world = batch.world.clone();
        let poison = self.poison.lock().unwrap().clone();
        let judged = Judged::of(&batch);
        let refused = batch.entries.extract_if(.., |entry| Some(&entry.key) == poison.as_ref());
        let refused = refused.map(|entry| entry.refused("it cannot be read")).collect();
        let lane = "policy";
        let refusals = Refusals::load(&*self.store, lane).await?;
        let refusals = refusals.after(&judged, refused, &*self.store, SystemTime::now()).await?;
        self.store.apply(vec![refusals.write(lane)]).await?;
        self.take_over(batch).await?;
        Ok(Applied::Stored { world, refused: refusals.told() })
    }

    fn acknowledged(&self, _topic: &Topic, world: &World, refused: &[Refused]) {
        self.see(|seen| {
            seen.acknowledged = world.clone();
            let news = refused.iter().filter(|refused| !seen.refused.contains(refused));
            let news: Vec<Refused> = news.cloned().collect();
            seen.refused.extend(news);
        });
    }

    fn held_by_peer(&self, _topic: &Topic, reason: &str) {
        self.see(|seen| seen.refusals.push(reason.to_owned()));
    }

    fn subscribed(&self, added: &[String], removed: &[String]) {
        self.see(|seen| {
            seen.wanted.retain(|name| !removed.contains(name));
            seen.wanted.extend(added.iter().cloned());
        });
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        self.see(|seen| seen.signals.extend(signals));
    }

    async fn settled(&self) {
        self.listening.subscribe().wait_for(|listening| *listening).await.unwrap();
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        match kind.as_str() {
            REVISION => {
                let answer = self.revision(serde_json::from_slice(&body).unwrap()).await;
                Ok(serde_json::to_vec(&answer).unwrap().into())
            }
            STATUS => {
                let report = ZoneReport { version: "fake".to_owned(), services: 7, ..ZoneReport::default() };
                Ok(serde_json::to_vec(&report).unwrap().into())
            }
            INSPECT => Err("there is no such proxy".to_owned()),
            _ => pending().await,
        }
    }

    fn unreachable(&self, error: &DialError) {
        self.see(|seen| seen.refusals.push(error.to_string()));
    }

    fn closed(&self, ended: &Ended) {
        self.see(|seen| seen.ended.push(ended.to_string()));
    }
}
