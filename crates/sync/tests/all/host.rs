//! A host in memory: serves one topic by name, copies another, and remembers what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Origin, Point, World};
use sync::frame::{Heartbeat, Hello, Signal};
use sync::link::{Handle, Host, HostError, NotYet, Options, Topics};
use sync::session::{Applied, Ended, Limits};
use sync::{Base, Batch, Body, Digest, Entry, Holdings, Place, Refused, Topic, Wanted};
use tokio::sync::{Semaphore, watch};

pub(crate) struct TestHost {
    pub(crate) handle: Handle,
    serves: Topic,
    copies: Topic,
    state: watch::Sender<State>,
    /// Storing takes a permit; tests take them all to make it slow.
    pub(crate) storing: Semaphore,
    /// That what was heard is in force further on takes a permit too.
    pub(crate) further: Semaphore,
}

#[derive(Default)]
pub(crate) struct State {
    /// What this side owns, and its revision.
    pub(crate) own: BTreeMap<String, Bytes>,
    revision: u64,
    holdings: Holdings,
    pub(crate) acknowledged: World,
    pub(crate) refusals: Vec<Refused>,
    /// What this side has of the other's.
    pub(crate) copy: BTreeMap<String, Bytes>,
    pub(crate) have: World,
    pub(crate) signals: BTreeMap<String, Signal>,
    pub(crate) wanted: BTreeSet<String>,
    pub(crate) heartbeats: u64,
    pub(crate) stale: bool,
    pub(crate) ended: Vec<Ended>,
    pub(crate) unreachable: Vec<String>,
    pub(crate) fails: bool,
    /// How often storing is not possible yet, from now on, and how often it was tried.
    pub(crate) not_yet: u32,
    pub(crate) tries: u32,
}

/// A zone: serves parts, copies the state of proxies.
pub(crate) fn zone(handle: &Handle) -> Arc<TestHost> {
    TestHost::new(handle, Topic::PARTS, Topic::PROXY)
}

/// A proxy: copies parts, serves its own state.
pub(crate) fn proxy(handle: &Handle) -> Arc<TestHost> {
    TestHost::new(handle, Topic::PROXY, Topic::PARTS)
}

/// The same, as the peer is to hold it.
pub(crate) fn wanted(own: &BTreeMap<String, Bytes>) -> Arc<Wanted> {
    Arc::new(own.iter().map(|(name, body)| (name.as_str().into(), Body::new(body.clone()))).collect())
}

pub(crate) fn options() -> Options {
    Options::new("1.2.3", Limits::PROXY)
}

pub(crate) fn signal(value: &str) -> Signal {
    Signal { origin: Origin::Global, age: Duration::ZERO, value: Bytes::copy_from_slice(value.as_bytes()) }
}

impl TestHost {
    fn new(handle: &Handle, serves: Topic, copies: Topic) -> Arc<Self> {
        let state = watch::Sender::new(State::default());
        let (storing, further) = (Semaphore::new(1), Semaphore::new(1));
        Arc::new(Self { handle: handle.clone(), serves, copies, state, storing, further })
    }

    pub(crate) fn put(&self, name: &str, body: &str) {
        self.change(|own| drop(own.insert(name.to_owned(), Bytes::copy_from_slice(body.as_bytes()))));
    }

    pub(crate) fn remove(&self, name: &str) {
        self.change(|own| drop(own.remove(name)));
    }

    /// What comes cannot be stored so often.
    pub(crate) fn not_yet(&self, times: u32) {
        self.state.send_modify(|state| state.not_yet = times);
    }

    pub(crate) fn fail(&self) {
        self.state.send_modify(|state| state.fails = true);
        self.handle.changed(&self.serves);
    }

    /// Waits until what the host knows is so, for a limited time.
    pub(crate) async fn until(&self, what: &str, so: impl FnMut(&State) -> bool) -> watch::Ref<'_, State> {
        let mut state = self.state.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(100), state.wait_for(so)).await;
        let waited = waited.unwrap_or_else(|_| panic!("it never came that {what}"));
        drop(waited.unwrap());
        self.state.borrow()
    }

    pub(crate) fn now(&self) -> watch::Ref<'_, State> {
        self.state.borrow()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Bytes>)) {
        self.state.send_modify(|state| {
            change(&mut state.own);
            state.revision += 1;
        });
        self.handle.changed(&self.serves);
    }
}

impl Host for TestHost {
    fn topics(&self) -> Topics {
        Topics { serves: vec![self.serves.clone()], copies: vec![self.copies.clone()] }
    }

    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        if self.now().own.values().any(|body| body == "panic as it is sent") {
            panic!("as asked");
        }
        let mut batch = None;
        let mut fails = false;
        self.state.send_modify(|state| {
            let world = World::from_iter([(Origin::Global, Point { epoch: 1, revision: state.revision })]);
            batch = state.holdings.collect(&base, &wanted(&state.own), world);
            fails = state.fails;
        });
        if fails { Err("the store is on fire".into()) } else { Ok(batch) }
    }

    async fn locate(&self, _: Topic) -> Result<Place, HostError> {
        let state = self.state.borrow();
        let held = state.copy.iter().map(|(name, body)| (name.clone(), Digest::of(body))).collect();
        Ok(Place { have: state.have.clone(), held, ..Place::default() })
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        if batch.entries.iter().any(|entry| entry.body == "panic as it is stored") {
            panic!("as asked");
        }
        let _permit = self.storing.acquire().await?;
        let mut is_possible = true;
        self.state.send_modify(|state| {
            state.tries += 1;
            is_possible = state.not_yet == 0;
            state.not_yet = state.not_yet.saturating_sub(1);
        });
        if !is_possible {
            return Err(NotYet("the disk is full".into()).into());
        }
        let refuses = |entry: &Entry| entry.body.as_ref() == b"bad";
        let refused = batch.entries.iter().filter(|entry| refuses(entry)).map(|entry| entry.refused("bad"));
        let refused = refused.collect();
        let world = batch.world.clone();
        self.state.send_modify(|state| {
            for key in &batch.removed {
                state.copy.remove(key);
            }
            for entry in batch.entries.into_iter().filter(|entry| !refuses(entry)) {
                state.copy.insert(entry.key, entry.body);
            }
            state.have = batch.world;
        });
        Ok(Applied::Stored { world, refused })
    }

    fn acknowledged(&self, _: &Topic, world: &World, refused: &[Refused]) {
        self.state.send_modify(|state| {
            state.acknowledged = world.clone();
            state.refusals.extend_from_slice(refused);
        });
    }

    fn subscribed(&self, added: &[String], removed: &[String]) {
        self.state.send_modify(|state| {
            state.wanted.retain(|name| !removed.contains(name));
            state.wanted.extend(added.iter().cloned());
        });
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        let _permit = self.storing.acquire().await.unwrap();
        self.state.send_modify(|state| state.signals.extend(signals));
    }

    async fn settled(&self) {
        let _permit = self.further.acquire().await.unwrap();
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        match kind.as_str() {
            "echo" => Ok(body),
            "panic" => panic!("as asked"),
            "never" => std::future::pending().await,
            _ => Err(format!("what is '{kind}'?")),
        }
    }

    fn heartbeat(&self, _: &Heartbeat) {
        self.state.send_modify(|state| state.heartbeats += 1);
    }

    fn connected(&self, hello: &Hello) -> Result<(), String> {
        // Wishes begin anew with each session.
        self.state.send_modify(|state| state.wanted.clear());
        if hello.program.starts_with("0.") { Err("too old".to_owned()) } else { Ok(()) }
    }

    fn stale(&self, stale: bool) {
        self.state.send_modify(|state| state.stale = stale);
    }

    fn unreachable(&self, error: &sync::client::DialError) {
        self.state.send_modify(|state| state.unreachable.push(error.to_string()));
    }

    fn closed(&self, ended: &Ended) {
        self.state.send_modify(|state| state.ended.push(ended.clone()));
    }
}
