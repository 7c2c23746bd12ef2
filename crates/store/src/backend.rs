//! What a backend must do, and the store that follows from it.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use model::{DocumentKey, Origin, Point, Record, World};
use tokio::sync::watch;

use crate::error::Error;
use crate::query::{self, Changes, Commit, Filter, Head, History, Listing};
use crate::seal::{RollingHash, SecretBytes, new_generation};
use crate::store::{Answer, Observer, Operation, Store};
use crate::tables::{Identity, Reader, Task};
use crate::watch::{Feed, Watch};
use crate::write::{Fence, MAX_WRITES, Receipt, Write};

/// Reads and writes of tables. Reads see the last committed state and wait for nobody.
pub(crate) trait Backend: Send + Sync + 'static {
    fn identity(&self) -> &Identity;

    fn feed(&self) -> &Feed;

    fn fault(&self) -> watch::Receiver<Option<Error>>;

    fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&Reader<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T>;

    /// [`crate::tables::execute`], a durable commit, and [`Feed::publish`], in this order; the next
    /// task comes after.
    fn write(self: &Arc<Self>, task: Task) -> Answer<'static, Receipt>;
}

/// A store on a backend.
pub(crate) struct Backed<B> {
    backend: Arc<B>,
    observer: OnceLock<Observer>,
}

impl<B: Backend> Backed<B> {
    pub(crate) fn new(backend: Arc<B>) -> Self {
        Self { backend, observer: OnceLock::new() }
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Reader<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T> {
        self.observed(Operation::Read, self.backend.read(read))
    }

    fn write(&self, task: Task) -> Answer<'static, Receipt> {
        self.observed(Operation::Write, self.backend.write(task))
    }

    fn observed<T: Send + 'static>(
        &self,
        operation: Operation,
        answer: Answer<'static, T>,
    ) -> Answer<'static, T> {
        let Some(observer) = self.observer.get().cloned() else { return answer };
        Box::pin(async move {
            let start = Instant::now();
            let answer = answer.await;
            observer(operation, start.elapsed());
            answer
        })
    }
}

impl<B: Backend> Store for Backed<B> {
    fn origin(&self) -> &Origin {
        &self.backend.identity().origin
    }

    fn fault(&self) -> watch::Receiver<Option<Error>> {
        self.backend.fault()
    }

    fn observe(&self, observer: Observer) {
        let _ = self.observer.set(observer);
    }

    fn head(&self) -> Answer<'_, Head> {
        self.read(query::head)
    }

    fn get(&self, key: &DocumentKey) -> Answer<'_, Option<Record>> {
        let key = key.clone();
        self.read(move |reader| reader.record(&key))
    }

    fn list(&self, filter: Filter) -> Answer<'_, Listing> {
        self.read(move |reader| query::list(reader, &filter))
    }

    fn transact(&self, writes: Vec<Write>) -> Answer<'_, Receipt> {
        let (count, limit) = (writes.len(), MAX_WRITES);
        if count > limit {
            return Box::pin(async move { Err(Error::TooMany { writes: count, limit }) });
        }
        self.write(Task::Writes(writes))
    }

    fn apply(&self, writes: Vec<Write>) -> Answer<'_, Receipt> {
        self.write(Task::Writes(writes))
    }

    fn watch(&self, after: u64) -> Watch {
        self.backend.feed().watch(after, Arc::new(Log(Arc::downgrade(&self.backend))))
    }

    fn since(&self, have: World, filter: Filter) -> Answer<'_, Changes> {
        self.read(move |reader| query::since(reader, &have, &filter))
    }

    fn hash_at(&self, point: Point) -> Answer<'_, Option<RollingHash>> {
        self.read(move |reader| reader.hash(point))
    }

    fn begin_epoch(&self, beyond: Point, adopted: Option<RollingHash>) -> Answer<'_, Point> {
        let begun = self.write(Task::Epoch { beyond, adopted });
        Box::pin(async move {
            let world = begun.await?.world;
            Ok(world.point(self.origin()).expect("a store's world has its own line"))
        })
    }

    fn secret_get(&self, name: &str) -> Answer<'_, Option<SecretBytes>> {
        let name = name.to_owned();
        self.read(move |reader| reader.private(&name))
    }

    fn secret_names(&self, prefix: &str) -> Answer<'_, Vec<String>> {
        let prefix = prefix.to_owned();
        self.read(move |reader| reader.private_names(&prefix))
    }

    fn secret_put(&self, name: &str, value: SecretBytes) -> Answer<'_, ()> {
        let sealed = self.backend.identity().keys.seal_private(name, &value);
        let done = self.write(Task::Private { name: name.to_owned(), sealed: Some(sealed) });
        Box::pin(async move { done.await.map(drop) })
    }

    fn secret_delete(&self, name: &str) -> Answer<'_, ()> {
        let done = self.write(Task::Private { name: name.to_owned(), sealed: None });
        Box::pin(async move { done.await.map(drop) })
    }

    fn fence(&self, lane: &str) -> Answer<'_, Fence> {
        let fence = Fence { lane: lane.to_owned(), generation: new_generation() };
        let (lane, generation) = (fence.lane.clone(), Some(fence.generation));
        let done = self.write(Task::Lane { lane, generation });
        Box::pin(async move { done.await.map(|_| fence) })
    }

    fn unfence(&self, lane: &str) -> Answer<'_, ()> {
        let done = self.write(Task::Lane { lane: lane.to_owned(), generation: None });
        Box::pin(async move { done.await.map(drop) })
    }
}

/// A watcher does not keep the store open.
struct Log<B>(Weak<B>);

impl<B: Backend> History for Log<B> {
    fn commits_after(&self, after: u64) -> Answer<'static, Vec<Commit>> {
        match self.0.upgrade() {
            Some(backend) => backend.read(move |reader| query::commits_after(reader, after)),
            None => Box::pin(async { Err(Error::Closed) }),
        }
    }
}
