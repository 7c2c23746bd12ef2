//! The thread that owns all writes.
//!
//! It takes what waits, does it in one transaction of the file, makes that durable, tells the watchers
//! and then those who asked. When the medium fails, the group at hand is refused, and so is whatever
//! comes after until an empty transaction, tried from time to time, succeeds.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use redb::WriteTransaction;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::file::Keep;
use super::rows::Rows;
use crate::error::Error;
use crate::query::Commit;
use crate::tables::{Tables, TablesMut, Task, execute};
use crate::write::Receipt;

/// How many waiting writes become durable together.
const GROUP: usize = 64;

/// A task, and whom to tell what became of it.
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) answer: oneshot::Sender<Result<Receipt, Error>>,
}

/// The writer's life: it ends when nobody can ask any more. A medium that failed is left alone for `rest`
/// before it is tried again.
pub(super) fn run(shared: &Shared, mut waiting: mpsc::Receiver<Job>, rest: Duration) {
    while let Some(first) = waiting.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(job) = waiting.try_recv()
        {
            group.push(job);
        }
        let (tasks, answers): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.task, job.answer)).unzip();
        let Written { results, commits, fault } = write(shared, tasks);
        commits.into_iter().for_each(|commit| shared.feed.publish(commit));
        if let Some(fault) = &fault {
            let cause = std::error::Error::source(fault).map(ToString::to_string);
            tracing::error!(error = %fault, cause, "the store cannot write");
            shared.fault.send_replace(Some(fault.clone()));
        }
        for (answer, result) in answers.into_iter().zip(results) {
            // Who no longer waits has dropped its future, and may.
            let _ = answer.send(result);
        }
        if let Some(fault) = fault {
            refuse_until_it_works(shared, &mut waiting, rest, &fault);
        }
    }
}

/// What became of a group of tasks.
struct Written {
    /// For each task.
    results: Vec<Result<Receipt, Error>>,
    /// What watchers must hear.
    commits: Vec<Commit>,
    /// What the medium failed with.
    fault: Option<Error>,
}

/// Makes a group of tasks durable together. A refused task concerns nobody else; where the medium
/// fails nothing of the group counts.
fn write(shared: &Shared, tasks: Vec<Task>) -> Written {
    let asked = tasks.len();
    let (mut results, mut commits) = (Vec::new(), Vec::new());
    let mut number = None;
    let durable = shared.file.write(|rows| {
        let mut changed = false;
        for task in tasks {
            let result = match execute(rows, &shared.identity, task) {
                Ok(done) => {
                    changed |= done.changed;
                    commits.extend(done.commit);
                    Ok(done.receipt)
                }
                Err(fault @ (Error::Full { .. } | Error::Unavailable { .. })) => return Err(fault),
                Err(refused) => Err(refused),
            };
            results.push(result);
        }
        if !changed {
            return Ok(Keep::Nothing);
        }
        number = Some(count(rows)?);
        Ok(Keep::All)
    });
    match durable {
        Ok(()) => Written { results, commits, fault: None },
        // It was durable before something else failed.
        Err(fault) if number.is_some() && last_write(shared) == number => {
            Written { results, commits, fault: Some(fault) }
        }
        Err(fault) => {
            let results = (0..asked).map(|_| Err(fault.clone())).collect();
            Written { results, commits: Vec::new(), fault: Some(fault) }
        }
    }
}

/// Numbers the transaction.
fn count(rows: &mut Rows<WriteTransaction>) -> Result<u64, Error> {
    let mut meta = rows.meta()?;
    meta.writes += 1;
    rows.set_meta(&meta)?;
    Ok(meta.writes)
}

/// The number of the last transaction that is there.
fn last_write(shared: &Shared) -> Option<u64> {
    shared.file.read(|rows| rows.meta()).ok().map(|meta| meta.writes)
}

/// Returns also when nobody can ask any more.
fn refuse_until_it_works(shared: &Shared, waiting: &mut mpsc::Receiver<Job>, rest: Duration, fault: &Error) {
    let mut next_try = Instant::now() + rest;
    loop {
        match receive_until(waiting, next_try) {
            Received::Job(job) => drop(job.answer.send(Err(fault.clone()))),
            Received::Closed => return,
            Received::TimeOver => {
                if works(shared) {
                    tracing::info!("the store can write again");
                    shared.fault.send_replace(None);
                    return;
                }
                next_try = Instant::now() + rest;
            }
        }
    }
}

fn works(shared: &Shared) -> bool {
    shared.file.revive() && shared.file.write(|rows| count(rows).map(|_| Keep::All)).is_ok()
}

enum Received {
    Job(Job),
    Closed,
    TimeOver,
}

/// This thread is no task of a runtime, whose clock may besides be a test's.
fn receive_until(waiting: &mut mpsc::Receiver<Job>, end: Instant) -> Received {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match waiting.poll_recv(&mut context) {
            Poll::Ready(Some(job)) => return Received::Job(job),
            Poll::Ready(None) => return Received::Closed,
            Poll::Pending => match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return Received::TimeOver,
            },
        }
    }
}
