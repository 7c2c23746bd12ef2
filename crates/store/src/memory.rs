//! A store that is gone with its process: for tests, and for trying things out.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use model::{DocumentKey, Origin};
use tokio::sync::watch;

use crate::backend::{Backed, Backend};
use crate::error::Error;
use crate::seal::{RollingHash, Sealed, StoreKeys, new_store_key};
use crate::store::{Answer, Store};
use crate::tables::{
    Identity, Meta, Reader, Retention, SealedCommit, StoreClock, Tables, TablesMut, Task, Tombstone, execute,
};
use crate::watch::Feed;
use crate::write::Receipt;

/// Makes stores in memory.
pub struct MemoryStore;

impl MemoryStore {
    /// An empty store of this origin, with a key of its own.
    #[expect(clippy::new_ret_no_self, reason = "callers hold stores as the trait")]
    pub fn new(origin: Origin) -> Arc<dyn Store> {
        Self::with_retention(origin, Retention::default(), Arc::new(SystemTime::now))
    }

    pub fn with_retention(origin: Origin, retention: Retention, clock: StoreClock) -> Arc<dyn Store> {
        Self::copyable(origin, retention, clock).store
    }

    /// An empty store that can be copied as it is, as a file could be.
    pub fn copyable(origin: Origin, retention: Retention, clock: StoreClock) -> CopyableStore {
        let identity = Identity { origin, keys: StoreKeys::new(&new_store_key()), retention, clock };
        CopyableStore::new(Arc::new(identity), Arc::default())
    }

    #[cfg(test)]
    pub(crate) fn of(identity: Identity) -> Arc<dyn Store> {
        CopyableStore::new(Arc::new(identity), Arc::default()).store
    }
}

/// A store in memory with the means to put an older copy of it back.
pub struct CopyableStore {
    store: Arc<dyn Store>,
    memory: Arc<Memory>,
}

impl CopyableStore {
    /// Another store, of the same origin and with the same key, that has what this one has now. From here on each goes
    /// its own way.
    pub fn copy(&self) -> Self {
        Self::new(self.memory.identity.clone(), self.memory.state())
    }

    fn new(identity: Arc<Identity>, state: Arc<State>) -> Self {
        let (state, feed, fault) = (Mutex::new(state), Feed::new(), watch::Sender::new(None));
        let memory = Arc::new(Memory { identity, state, feed, fault });
        Self { store: Arc::new(Backed::new(memory.clone())), memory }
    }
}

impl Deref for CopyableStore {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

struct Memory {
    identity: Arc<Identity>,
    /// Readers take the state as it is; a writer copies it only where a reader still has it.
    state: Mutex<Arc<State>>,
    feed: Feed,
    fault: watch::Sender<Option<Error>>,
}

impl Memory {
    fn state(&self) -> Arc<State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Backend for Memory {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Memory never refuses.
    fn fault(&self) -> watch::Receiver<Option<Error>> {
        self.fault.subscribe()
    }

    fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&Reader<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T> {
        let backend = self.clone();
        Box::pin(async move { read(&Reader::new(&*backend.state(), &backend.identity)) })
    }

    fn write(self: &Arc<Self>, task: Task) -> Answer<'static, Receipt> {
        let backend = self.clone();
        Box::pin(async move {
            let mut state = backend.state.lock().unwrap_or_else(PoisonError::into_inner);
            let done = execute(Arc::make_mut(&mut state), &backend.identity, task)?;
            if let Some(commit) = done.commit {
                // Under the lock, so that watchers are told in order.
                backend.feed.publish(commit);
            }
            Ok(done.receipt)
        })
    }
}

#[derive(Clone)]
struct State {
    meta: Meta,
    /// By the text of the key, as every backend orders them.
    records: BTreeMap<String, Sealed>,
    tombstones: BTreeMap<String, (DocumentKey, Tombstone)>,
    tombstone_order: BTreeMap<u64, DocumentKey>,
    commits: BTreeMap<u64, SealedCommit>,
    hashes: BTreeMap<u64, RollingHash>,
    private: BTreeMap<String, Vec<u8>>,
    generations: BTreeMap<String, u64>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            meta: Meta::fresh(),
            records: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            tombstone_order: BTreeMap::new(),
            commits: BTreeMap::new(),
            hashes: BTreeMap::new(),
            private: BTreeMap::new(),
            generations: BTreeMap::new(),
        }
    }
}

impl Tables for State {
    fn meta(&self) -> Result<Meta, Error> {
        Ok(self.meta.clone())
    }

    fn record(&self, key: &DocumentKey) -> Result<Option<Sealed>, Error> {
        Ok(self.records.get(&key.to_string()).cloned())
    }

    fn each_record(&self, visit: &mut dyn FnMut(Sealed) -> Result<(), Error>) -> Result<(), Error> {
        self.records.values().cloned().try_for_each(visit)
    }

    fn tombstone(&self, key: &DocumentKey) -> Result<Option<Tombstone>, Error> {
        Ok(self.tombstones.get(&key.to_string()).map(|(_, tombstone)| *tombstone))
    }

    fn each_tombstone(
        &self,
        visit: &mut dyn FnMut(DocumentKey, Tombstone) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.tombstones.values().cloned().try_for_each(|(key, tombstone)| visit(key, tombstone))
    }

    fn oldest_tombstone(&self) -> Result<Option<DocumentKey>, Error> {
        Ok(self.tombstone_order.first_key_value().map(|(_, key)| key.clone()))
    }

    fn commit(&self, sequence: u64) -> Result<Option<SealedCommit>, Error> {
        Ok(self.commits.get(&sequence).cloned())
    }

    fn hash(&self, revision: u64) -> Result<Option<RollingHash>, Error> {
        Ok(self.hashes.get(&revision).copied())
    }

    fn private(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.private.get(name).cloned())
    }

    fn private_names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let from = self.private.range(prefix.to_owned()..).map(|(name, _)| name);
        Ok(from.take_while(|name| name.starts_with(prefix)).cloned().collect())
    }

    fn generation(&self, lane: &str) -> Result<Option<u64>, Error> {
        Ok(self.generations.get(lane).copied())
    }
}

impl TablesMut for State {
    fn set_meta(&mut self, meta: &Meta) -> Result<(), Error> {
        self.meta = meta.clone();
        Ok(())
    }

    fn put_record(&mut self, record: Sealed) -> Result<(), Error> {
        self.records.insert(record.envelope().key.to_string(), record);
        Ok(())
    }

    fn remove_record(&mut self, key: &DocumentKey) -> Result<(), Error> {
        self.records.remove(&key.to_string());
        Ok(())
    }

    fn put_tombstone(&mut self, key: &DocumentKey, tombstone: Tombstone) -> Result<(), Error> {
        self.tombstones.insert(key.to_string(), (key.clone(), tombstone));
        self.tombstone_order.insert(tombstone.number, key.clone());
        Ok(())
    }

    fn remove_tombstone(&mut self, key: &DocumentKey, number: u64) -> Result<(), Error> {
        self.tombstones.remove(&key.to_string());
        self.tombstone_order.remove(&number);
        Ok(())
    }

    fn put_commit(&mut self, commit: SealedCommit) -> Result<(), Error> {
        self.commits.insert(commit.sequence, commit);
        Ok(())
    }

    fn remove_commit(&mut self, sequence: u64) -> Result<(), Error> {
        self.commits.remove(&sequence);
        Ok(())
    }

    fn put_hash(&mut self, revision: u64, hash: RollingHash) -> Result<(), Error> {
        self.hashes.insert(revision, hash);
        Ok(())
    }

    fn put_private(&mut self, name: &str, sealed: Vec<u8>) -> Result<(), Error> {
        self.private.insert(name.to_owned(), sealed);
        Ok(())
    }

    fn remove_private(&mut self, name: &str) -> Result<(), Error> {
        self.private.remove(name);
        Ok(())
    }

    fn put_generation(&mut self, lane: &str, generation: u64) -> Result<(), Error> {
        self.generations.insert(lane.to_owned(), generation);
        Ok(())
    }

    fn remove_generation(&mut self, lane: &str) -> Result<(), Error> {
        self.generations.remove(lane);
        Ok(())
    }
}
