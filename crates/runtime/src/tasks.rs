//! Every task has an owner and an end.
//!
//! A process is a few named *parts*, which run until they are told to stop; what they start along the way, a
//! connection for example, are their *children*, which come and go. The owner sees a part fail, asks all to
//! stop, waits for them, though not for ever, and then drops what is left.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::FutureExt;
use tokio::task::{JoinError, JoinSet};
use tokio::time;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

/// The long-running parts of one process. None may end before it is told to: the first that does stops the
/// others, and the process with them.
pub struct Tasks {
    parts: JoinSet<(&'static str, anyhow::Result<()>)>,
    /// They stop when all others have ended.
    last: JoinSet<(&'static str, anyhow::Result<()>)>,
    stop_last: CancellationToken,
    children: Children,
    /// Whoever drops the tasks, by a test that ends early too, ends the children.
    _end: DropGuard,
}

impl Default for Tasks {
    fn default() -> Self {
        let children = Children {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
        };
        Self {
            parts: JoinSet::new(),
            last: JoinSet::new(),
            stop_last: CancellationToken::new(),
            _end: children.end.clone().drop_guard(),
            children,
        }
    }
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a part, which finishes soon after its token is cancelled.
    pub fn spawn<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let part = part(self.children.stop.child_token()).instrument(info_span!("task", name));
        self.parts.spawn(async move { (name, part.await) });
    }

    /// Starts a part by which others see how the process does: it is told to stop when all other parts, and the
    /// children, have ended.
    pub fn spawn_last<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let part = part(self.stop_last.child_token()).instrument(info_span!("task", name));
        self.last.spawn(async move { (name, part.await) });
    }

    /// What parts use to start children while the process runs.
    pub fn children(&self) -> Children {
        self.children.clone()
    }

    /// Is cancelled when the process begins to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.children.stop.child_token()
    }

    /// Runs until `shutdown` or until a part ends, then gives everyone `grace` to finish.
    ///
    /// An error names the part that ended first, and why.
    pub async fn run(mut self, shutdown: impl Future, grace: Duration) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            _ = shutdown => Ok(()),
            Some(ended) = self.parts.join_next() => too_early(ended),
            Some(ended) = self.last.join_next() => too_early(ended),
        };
        self.children.stop.cancel();
        self.children.tracker.close();
        let drained = async {
            finish(&mut self.parts).await;
            self.children.tracker.wait().await;
            self.stop_last.cancel();
            finish(&mut self.last).await;
        };
        if time::timeout(grace, drained).await.is_err() {
            let (parts, children) = (self.parts.len() + self.last.len(), self.children.tracker.len());
            warn!(parts, children, "grace period over, dropping the rest");
            self.children.end.cancel();
            self.parts.shutdown().await;
            self.children.tracker.wait().await;
            self.last.shutdown().await;
        }
        outcome
    }
}

type Ended = Result<(&'static str, anyhow::Result<()>), JoinError>;

/// Why nothing goes on after a part ended that nobody had told to.
fn too_early(ended: Ended) -> anyhow::Result<()> {
    match ended {
        Ok((name, Ok(()))) => Err(anyhow!("{name} ended on its own")),
        Ok((name, Err(error))) => Err(error.context(format!("{name} failed"))),
        Err(panic) => Err(panic).context("a part panicked"),
    }
}

/// Waits for parts that were told to stop.
async fn finish(parts: &mut JoinSet<(&'static str, anyhow::Result<()>)>) {
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok((name, Ok(()))) => info!(name, "finished"),
            Ok((name, Err(error))) => warn!(name, error = format!("{error:#}"), "failed while stopping"),
            Err(error) => error!(%error, "a part panicked while stopping"),
        }
    }
}

/// Starts tasks that may end at any time: one that fails or panics is logged and disturbs nobody.
///
/// Whoever starts them bounds their number.
#[derive(Clone)]
pub struct Children {
    tracker: TaskTracker,
    stop: CancellationToken,
    end: CancellationToken,
}

impl Children {
    /// Starts a child, which finishes soon after its token is cancelled. After the process began to stop it
    /// gets a token that is cancelled already.
    pub fn spawn<F>(&self, name: &'static str, child: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let child = AssertUnwindSafe(child(self.stop.child_token())).catch_unwind();
        let end = self.end.clone();
        let watched = async move {
            match end.run_until_cancelled(child).await {
                None | Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => warn!(error = format!("{error:#}"), "failed"),
                Some(Err(panic)) => error!(panic = panic_text(panic.as_ref()), "panicked"),
            }
        };
        self.tracker.spawn(watched.instrument(info_span!("task", name)));
    }

    /// How many run now.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }
}

/// What a panic said, where it said something.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn parts_end_when_they_are_told_to() {
        let mut tasks = Tasks::new();
        tasks.spawn("obedient", |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        let start = Instant::now();
        tasks.run(time::sleep(Duration::from_secs(3)), GRACE).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_part_that_ends_stops_the_others_and_is_named() {
        for (failure, want) in [
            (Ok(()), "listener ended on its own"),
            (Err(anyhow!("address in use")), "listener failed: address in use"),
        ] {
            let mut tasks = Tasks::new();
            let told = Arc::new(AtomicBool::new(false));
            let telling = told.clone();
            tasks.spawn("other", |stop| async move {
                stop.cancelled().await;
                telling.store(true, SeqCst);
                Ok(())
            });
            tasks.spawn("listener", |_| async move { failure });
            let error = tasks.run(pending::<()>(), GRACE).await.unwrap_err();
            assert_eq!(format!("{error:#}"), want);
            assert!(told.load(SeqCst));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn grace_ends_a_part_and_a_child_that_do_not_listen() {
        let mut tasks = Tasks::new();
        tasks.spawn("deaf", |_| pending());
        let (held, dropped) = oneshot::channel::<()>();
        tasks.children().spawn("deaf child", |_| async move {
            let _held = held;
            pending().await
        });
        let start = Instant::now();
        tasks.run(async {}, GRACE).await.unwrap();
        assert_eq!(start.elapsed(), GRACE);
        assert!(dropped.await.is_err(), "the child is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_fails_or_panics_disturbs_nobody_and_the_end_waits_for_the_rest() {
        let mut tasks = Tasks::new();
        let children = tasks.children();
        let finished = Arc::new(AtomicBool::new(false));
        let finishing = finished.clone();
        tasks.spawn("listener", |stop| async move {
            children.spawn("fails", |_| async { Err(anyhow!("reset")) });
            children.spawn("panics", |_| async { panic!("a bug") });
            children.spawn("drains", |stop| async move {
                stop.cancelled().await;
                time::sleep(Duration::from_secs(2)).await;
                finishing.store(true, SeqCst);
                Ok(())
            });
            stop.cancelled().await;
            Ok(())
        });
        tasks.run(time::sleep(Duration::from_secs(1)), GRACE).await.unwrap();
        assert!(finished.load(SeqCst));
    }

    #[tokio::test]
    async fn dropped_tasks_take_their_children_along() {
        let tasks = Tasks::new();
        let (held, dropped) = oneshot::channel::<()>();
        tasks.children().spawn("child", |_| async move {
            let _held = held;
            pending().await
        });
        drop(tasks);
        assert!(dropped.await.is_err());
    }
}
