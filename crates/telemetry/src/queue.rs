//! From the workers to who writes for them: bounded, never waited for, and without waking anyone.
//!
//! Waking the other side would cost a worker a system call for each record; instead the other side looks every
//! [`PACE`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use tokio::time;

const PACE: Duration = Duration::from_millis(100);

/// What did not fit.
pub(crate) type Dropped = Arc<AtomicU64>;

#[derive(Clone, Debug)]
pub(crate) struct Feed<T> {
    queue: SyncSender<T>,
    dropped: Dropped,
}

pub(crate) struct Intake<T> {
    queue: Receiver<T>,
    batch: usize,
}

/// At most `capacity` wait; `batch` of them are taken at a time.
pub(crate) fn queue<T>(capacity: usize, batch: usize, dropped: &Dropped) -> (Feed<T>, Intake<T>) {
    let (queue, taken) = mpsc::sync_channel(capacity);
    (Feed { queue, dropped: dropped.clone() }, Intake { queue: taken, batch })
}

impl<T> Feed<T> {
    pub(crate) fn put(&self, item: T) {
        if self.queue.try_send(item).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<T> Intake<T> {
    /// What waits, if anything does.
    pub(crate) fn now(&self) -> Vec<T> {
        self.queue.try_iter().take(self.batch).collect()
    }

    /// The next batch, which is not empty.
    pub(crate) async fn next(&mut self) -> Vec<T> {
        loop {
            let batch = self.now();
            if !batch.is_empty() {
                return batch;
            }
            time::sleep(PACE).await;
        }
    }
}
