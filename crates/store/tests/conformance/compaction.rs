//! History that is let go, and those who watch it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use futures::FutureExt;
use model::{DocumentKey, Record};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use store::{Change, Error, Expect, Filter, Retention, Store, StoreClock, Watch};

use crate::kit::{Kit, draft, key};

/// Seconds since 1970, as a test wants them.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn passes(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> StoreClock {
        let time = self.clone();
        Arc::new(move || UNIX_EPOCH + Duration::from_secs(time.0.load(Ordering::Relaxed)))
    }
}

pub(crate) async fn history_is_let_go_when_it_is_old(kit: &Kit) {
    let time = Time::default();
    let retention = Retention { age: Duration::from_secs(60), ..Retention::default() };
    let store = kit.store_at("global", retention, time.clock());
    let write = async |n: u64| store.put(draft("global/a", &n.to_string()), Expect::Any).await.unwrap();
    time.passes(1_000_000);
    write(1).await;
    time.passes(30);
    write(2).await;
    time.passes(30);
    write(3).await;
    assert_eq!(store.watch(0).next().await.unwrap().sequence, 1, "a minute is not more than a minute");
    time.passes(1);
    write(4).await;
    assert!(matches!(store.watch(0).next().await, Err(Error::Compacted { after: 0, oldest: 1 })));
    assert_eq!(store.watch(1).next().await.unwrap().sequence, 2);
    // However long nothing is written, and however old the last one then is.
    time.passes(1_000_000);
    assert_eq!(store.watch(1).next().await.unwrap().sequence, 2);
    write(5).await;
    assert!(matches!(store.watch(3).next().await, Err(Error::Compacted { oldest: 4, .. })));
    assert_eq!(store.watch(4).next().await.unwrap().sequence, 5);
    // A clock that was set back ages nothing.
    time.0.store(0, Ordering::Relaxed);
    write(6).await;
    assert_eq!(store.watch(4).next().await.unwrap().sequence, 5);
}

/// Watchers of every speed, over a store that forgets: each always knows what the store held at some
/// moment, exactly, and is told so when what it missed is gone.
pub(crate) async fn compaction_never_breaks_a_watch(kit: &Kit) {
    let config = Config { cases: if kit.is_embedded() { 25 } else { 300 }, ..Config::default() };
    let steps = proptest::collection::vec(step(), 1..80);
    let handle = tokio::runtime::Handle::current();
    let restarts = Mutex::new(0);
    tokio::task::block_in_place(|| {
        let result = TestRunner::new(config).run(&(steps, 1..5_u64, 1..20_u64), |(steps, commits, age)| {
            *restarts.lock().unwrap() += handle.block_on(interleave(kit, steps, commits, age));
            Ok(())
        });
        result.unwrap();
    });
    assert!(*restarts.lock().unwrap() > 0, "somebody was left behind");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    TimePasses(u64),
    /// One of the watchers reads so many changes, where there are any.
    Read(usize, u8),
}

const WATCHERS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_u8, any::<u8>()).prop_map(|(name, bytes)| Step::Put(name, bytes)),
        2 => (0..5_u8).prop_map(Step::Delete),
        2 => (0..15_u64).prop_map(Step::TimePasses),
        4 => (0..WATCHERS, 1..6_u8).prop_map(|(watcher, changes)| Step::Read(watcher, changes)),
    ]
}

/// Answers how often a watcher had to start over.
async fn interleave(kit: &Kit, steps: Vec<Step>, commits: u64, age: u64) -> u64 {
    let time = Time::default();
    let retention = Retention { commits, age: Duration::from_secs(age), ..Retention::default() };
    let store = kit.store_at("global", retention, time.clock());
    // What the store held after each transaction.
    let mut history = vec![BTreeMap::new()];
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        watchers.push(Watcher::start(&store).await);
    }
    for step in steps {
        match step {
            Step::Put(name, bytes) => {
                let draft = draft(&format!("global/d{name}"), &bytes.to_string());
                store.put(draft, Expect::Any).await.unwrap();
            }
            // It may not be there.
            Step::Delete(name) => drop(store.delete(key(&format!("global/d{name}")), Expect::Any).await),
            Step::TimePasses(seconds) => time.passes(seconds),
            Step::Read(watcher, changes) => {
                for _ in 0..changes {
                    watchers[watcher].read(&store, &history).await;
                }
            }
        }
        let listing = store.list(Filter::all()).await.unwrap();
        history.truncate(listing.sequence as usize);
        history.push(by_key(listing.records));
    }
    let last = history.len() as u64 - 1;
    for watcher in &mut watchers {
        while watcher.watch.position() < last {
            watcher.read(&store, &history).await;
        }
        assert_eq!(Some(&watcher.known), history.last());
        assert!(watcher.watch.next().now_or_never().is_none(), "nothing comes after the last");
    }
    watchers.iter().map(|watcher| watcher.restarts).sum()
}

struct Watcher {
    watch: Watch,
    known: BTreeMap<DocumentKey, Record>,
    restarts: u64,
}

impl Watcher {
    async fn start(store: &Arc<dyn Store>) -> Self {
        let listing = store.list(Filter::all()).await.unwrap();
        Self { watch: store.watch(listing.sequence), known: by_key(listing.records), restarts: 0 }
    }

    /// The next change, where there is one, or the start over that is asked for.
    async fn read(&mut self, store: &Arc<dyn Store>, history: &[BTreeMap<DocumentKey, Record>]) {
        let before = self.watch.position();
        if before + 1 == history.len() as u64 {
            return;
        }
        match self.watch.next().await {
            Ok(commit) => {
                assert_eq!(commit.sequence, before + 1, "no gap, and nothing twice");
                for change in &commit.changes {
                    match change {
                        Change::Put(record) => drop(self.known.insert(record.key.clone(), record.clone())),
                        Change::Deleted { key, .. } => drop(self.known.remove(key)),
                    }
                }
            }
            Err(Error::Compacted { after, oldest }) => {
                assert!(after == before && oldest > before, "{oldest} is not after {before}");
                *self = Self { restarts: self.restarts + 1, ..Self::start(store).await };
            }
            Err(other) => panic!("{other}"),
        }
        assert_eq!(self.known, history[self.watch.position() as usize]);
    }
}

fn by_key(records: Vec<Record>) -> BTreeMap<DocumentKey, Record> {
    records.into_iter().map(|record| (record.key.clone(), record)).collect()
}
