//! The default store: one file, which survives a crash at any moment.
//!
//! One thread owns all writes. It takes what waits, does it in one transaction of the file, makes
//! that durable, tells the watchers and then those who asked. Reads are transactions of their own
//! that see the last commit and wait for nobody.

mod codec;
mod files;
mod rows;

use std::path::Path;
use std::sync::Arc;
use std::thread;

use model::Origin;
use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};

use crate::backend::{Backed, Backend};
use crate::error::{Error, OpenError};
use crate::query::Commit;
use crate::store::{Answer, Store};
use crate::tables::{Identity, Reader, Retention, Task, execute};
use crate::watch::Feed;
use crate::write::Receipt;
use rows::Rows;

/// How many writes may wait for the writer; whoever comes then waits to be let in.
const QUEUE: usize = 256;

/// How many waiting writes become durable together.
const GROUP: usize = 64;

/// Opens stores in folders.
pub struct EmbeddedStore;

impl EmbeddedStore {
    /// Opens the store in `folder`, or begins one. The folder then has `store.redb` and `store.key`
    /// (both 0600), which belong together. It blocks, and the store must be used on a tokio runtime.
    /// Dropping the last handle waits for the writes under way and frees the file.
    pub fn open(folder: &Path, origin: Origin) -> Result<Arc<dyn Store>, OpenError> {
        Self::open_with(folder, origin, Retention::default())
    }

    pub fn open_with(
        folder: &Path,
        origin: Origin,
        retention: Retention,
    ) -> Result<Arc<dyn Store>, OpenError> {
        let (database, keys) = files::open(folder, &origin)?;
        let identity = Identity { origin, keys, retention };
        let shared = Arc::new(Shared { database, identity, feed: Feed::new() });
        let (jobs, waiting) = mpsc::channel(QUEUE);
        let writer = thread::Builder::new()
            .name("store writer".to_owned())
            .spawn({
                let shared = shared.clone();
                move || serve(&shared, waiting)
            })
            .map_err(|source| OpenError::File { path: folder.to_owned(), source })?;
        Ok(Arc::new(Backed(Arc::new(Embedded { shared, jobs: Some(jobs), writer: Some(writer) }))))
    }
}

struct Shared {
    database: Database,
    identity: Identity,
    feed: Feed,
}

struct Embedded {
    shared: Arc<Shared>,
    /// None only while it is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
}

/// A task, and whom to tell what became of it.
struct Job {
    task: Task,
    answer: oneshot::Sender<Result<Receipt, Error>>,
}

impl Drop for Embedded {
    /// The file must be free when the store is gone, or opening it again would fail by chance.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer was answered as `Closed` to those who waited.
            let _ = writer.join();
        }
    }
}

impl Backend for Embedded {
    fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    fn feed(&self) -> &Feed {
        &self.shared.feed
    }

    fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Reader<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'static, T> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || {
                let rows = Rows(shared.database.begin_read().map_err(Error::unavailable)?);
                read(&Reader::new(&rows, &shared.identity))
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

/// The writer's life: it ends when nobody can ask any more.
fn serve(shared: &Shared, mut waiting: mpsc::Receiver<Job>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(job) = waiting.try_recv()
        {
            group.push(job);
        }
        let (tasks, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.task, job.answer)).unzip();
        let results = match write_group(shared, tasks) {
            Ok(Group { results, commits }) => {
                commits.into_iter().for_each(|commit| shared.feed.publish(commit));
                results
            }
            Err(fault) => {
                let fault = Arc::<dyn std::error::Error + Send + Sync>::from(fault);
                tracing::error!(error = %fault, "the store could not write");
                answers.iter().map(|_| Err(Error::unavailable(Box::new(fault.clone())))).collect()
            }
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // Who no longer waits has dropped its future, and may.
            let _ = answer.send(result);
        }
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// What became of a group: an answer to each task, and what watchers must hear.
#[derive(Default)]
struct Group {
    results: Vec<Result<Receipt, Error>>,
    commits: Vec<Commit>,
}

/// Makes a group of tasks durable together. A refused task concerns nobody else; where the medium
/// fails nothing of the group counts.
fn write_group(shared: &Shared, tasks: Vec<Task>) -> Result<Group, Fault> {
    let mut rows = Rows(shared.database.begin_write()?);
    let mut group = Group::default();
    let mut changed = false;
    for task in tasks {
        let result = match execute(&mut rows, &shared.identity, task) {
            Ok(done) => {
                changed |= done.changed;
                group.commits.extend(done.commit);
                Ok(done.receipt)
            }
            Err(Error::Unavailable { source }) => return Err(source),
            Err(refused) => Err(refused),
        };
        group.results.push(result);
    }
    if changed {
        rows.0.commit()?;
    }
    Ok(group)
}
