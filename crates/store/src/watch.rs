//! Follows the change log: live from a broadcast, and from the log itself whatever was missed.
//!
//! Sequences rise by one, so a watcher that knows the last one it gave out can tell a repeat from a
//! gap. The broadcast only saves reading; the log decides.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::error::Error;
use crate::query::{Commit, History};

/// How many transactions a watcher may be behind before it reads from the log.
const LIVE: usize = 64;

/// Tells watchers what was committed.
pub(crate) struct Feed(broadcast::Sender<Arc<Commit>>);

impl Feed {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(LIVE))
    }

    /// In the order of sequences, after the commit is durable.
    pub(crate) fn publish(&self, commit: Commit) {
        // Nobody watching is no failure.
        let _ = self.0.send(Arc::new(commit));
    }

    pub(crate) fn watch(&self, after: u64, history: Arc<dyn History>) -> Watch {
        Watch { after, backlog: VecDeque::new(), live: self.0.subscribe(), behind: true, history }
    }
}

/// The changes after a sequence, each exactly once, in order.
pub struct Watch {
    /// The last sequence given out.
    after: u64,
    /// Read from the log, not given out yet.
    backlog: VecDeque<Arc<Commit>>,
    live: broadcast::Receiver<Arc<Commit>>,
    /// The log may have more than `live` will bring.
    behind: bool,
    history: Arc<dyn History>,
}

impl Watch {
    /// Waits for the next transaction. Dropping the future loses nothing.
    ///
    /// [`Error::Compacted`] ends it: list again and watch from there. After [`Error::Unavailable`] it
    /// may be asked again. [`Error::Closed`] comes when the store is gone.
    pub async fn next(&mut self) -> Result<Arc<Commit>, Error> {
        loop {
            if let Some(commit) = self.backlog.pop_front() {
                self.after = commit.sequence;
                return Ok(commit);
            }
            if self.behind {
                let missed = self.history.commits_after(self.after).await?;
                self.behind = !missed.is_empty();
                self.backlog.extend(missed.into_iter().map(Arc::new));
                continue;
            }
            match self.live.recv().await {
                Ok(commit) if commit.sequence <= self.after => {}
                Ok(commit) if commit.sequence == self.after + 1 => self.backlog.push_back(commit),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => self.behind = true,
                Err(broadcast::error::RecvError::Closed) => return Err(Error::Closed),
            }
        }
    }

    /// The last sequence that was given out, or what the watch began after.
    pub fn position(&self) -> u64 {
        self.after
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watch after {}", self.after)
    }
}
