//! The default store: one file, which survives a crash at any moment.
//!
//! One thread owns all writes (`writer`). Reads are transactions of their own that see the last commit
//! and wait for nobody. What fails below is set right in `file` and `disk`.

mod codec;
mod disk;
mod file;
mod files;
mod rows;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use model::Origin;
use tokio::sync::{mpsc, oneshot, watch};

use crate::backend::{Backed, Backend};
use crate::error::{Error, OpenError};
use crate::store::{Answer, Store};
use crate::tables::{Identity, Reader, Retention, StoreClock, Task};
use crate::watch::Feed;
use crate::write::Receipt;
use file::StoreFile;
use writer::Job;

/// How many writes may wait for the writer; whoever comes then waits to be let in.
const QUEUE: usize = 256;

/// How long a disk that failed is left alone before it is tried again.
const REST: Duration = Duration::from_secs(1);

/// Opens stores in folders.
pub struct EmbeddedStore;

impl EmbeddedStore {
    /// Opens the store in `folder`, or begins one. The folder then has `store.redb` and `store.key`
    /// (both 0600), which belong together. It blocks, and the store must be used on a tokio runtime.
    /// Dropping the last handle waits for the writes and reads under way and frees the file.
    pub fn open(folder: &Path, origin: Origin) -> Result<Arc<dyn Store>, OpenError> {
        Self::open_with(folder, origin, Retention::default(), Arc::new(SystemTime::now))
    }

    pub fn open_with(
        folder: &Path,
        origin: Origin,
        retention: Retention,
        clock: StoreClock,
    ) -> Result<Arc<dyn Store>, OpenError> {
        let (file, keys) = files::open(folder, &origin)?;
        let start = start(file, Identity { origin, keys, retention, clock }, REST);
        start.map_err(|source| OpenError::File { path: folder.to_owned(), source })
    }
}

fn start(file: StoreFile, identity: Identity, rest: Duration) -> std::io::Result<Arc<dyn Store>> {
    let shared = Arc::new(Shared { file, identity, feed: Feed::new(), fault: watch::Sender::new(None) });
    let (jobs, waiting) = mpsc::channel(QUEUE);
    let writer = thread::Builder::new().name("store writer".to_owned()).spawn({
        let shared = shared.clone();
        move || writer::run(&shared, waiting, rest)
    })?;
    let readers = Arc::default();
    let backend = Embedded { shared, readers, jobs: Some(jobs), writer: Some(writer) };
    Ok(Arc::new(Backed::new(Arc::new(backend))))
}

struct Shared {
    file: StoreFile,
    identity: Identity,
    feed: Feed,
    /// Why the disk refuses what is written; none while it does not.
    fault: watch::Sender<Option<Error>>,
}

struct Embedded {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    /// None only while it is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Drop for Embedded {
    /// The file must be free when the store is gone, or opening it again would fail by chance.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer was answered as `Closed` to those who waited.
            let _ = writer.join();
        }
        self.readers.wait();
    }
}

/// The reads under way: who asked may be gone while they go on.
#[derive(Default)]
struct Readers {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// One of them; what it reads from is let go first.
struct Reading {
    shared: Arc<Shared>,
    _counted: Counted,
}

struct Counted(Arc<Readers>);

impl Readers {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        // A read takes milliseconds. Whoever waited this long finds the file taken, which says so.
        let limit = Duration::from_secs(5);
        let _ = self.fewer.wait_timeout_while(self.count(), limit, |count| *count > 0);
    }
}

impl Counted {
    fn new(readers: &Arc<Readers>) -> Self {
        *readers.count() += 1;
        Self(readers.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.fewer.notify_all();
    }
}

impl Backend for Embedded {
    fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    fn feed(&self) -> &Feed {
        &self.shared.feed
    }

    fn fault(&self) -> watch::Receiver<Option<Error>> {
        self.shared.fault.subscribe()
    }

    fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&Reader<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T> {
        let reading = Reading { shared: self.shared.clone(), _counted: Counted::new(&self.readers) };
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || {
                let shared = &reading.shared;
                let answer = shared.file.read(|rows| read(&Reader::new(rows, &shared.identity)));
                drop(reading);
                answer
            });
            reading.await.map_err(Error::unavailable)?
        })
    }

    fn write(self: &Arc<Self>, task: Task) -> Answer<'static, Receipt> {
        let backend = self.clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let jobs = backend.jobs.as_ref().ok_or(Error::Closed)?;
            jobs.send(Job { task, answer }).await.map_err(|_| Error::Closed)?;
            answered.await.map_err(|_| Error::Closed)?
        })
    }
}
