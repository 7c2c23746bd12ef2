//! Every task has an owner and an end.
//!
//! A process is a few named *parts*, which run until they are told to stop; what they start along the way, a
//! connection for example, are their *children*, which come and go. The owner sees a part fail, asks all to
//! stop, one [`Stage`] after the other, waits for them, though not for ever, and then drops what is left.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::anyhow;
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info, info_span, warn};

/// When a part is told to stop: after those of all stages before it have ended, or have had their time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// What lets others in: it stops accepting, and takes leave of whoever is there.
    Doors,
    /// What this process joined: sessions with those above.
    Upward,
    /// What serves both, until nobody is left to be served.
    Work,
    /// By what others see how the process does: when everything else has ended, children included.
    Shown,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Doors, Self::Upward, Self::Work, Self::Shown];
}

/// The long-running parts of one process. None may end before it is told to: the first that does stops the
/// others, and the process with them.
pub struct Tasks {
    parts: JoinSet<Ended>,
    /// By stage.
    running: [usize; Stage::ALL.len()],
    stops: [CancellationToken; Stage::ALL.len()],
    children: Children,
    /// Whoever drops the tasks, by a test that ends early too, ends the children.
    _end: DropGuard,
}

/// How a part ended.
struct Ended {
    stage: Stage,
    name: &'static str,
    outcome: anyhow::Result<()>,
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
            running: Default::default(),
            stops: Default::default(),
            _end: children.end.clone().drop_guard(),
            children,
        }
    }
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a part of [`Stage::Work`], which finishes soon after its token is cancelled.
    pub fn spawn<F>(&mut self, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.spawn_at(Stage::Work, name, part);
    }

    /// Starts a part, which finishes soon after its token is cancelled.
    pub fn spawn_at<F>(&mut self, stage: Stage, name: &'static str, part: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let part = part(self.stops[stage as usize].child_token()).instrument(info_span!("task", name));
        let part = AssertUnwindSafe(part).catch_unwind();
        self.running[stage as usize] += 1;
        self.parts.spawn(async move {
            let panicked = |panic: Box<dyn Any + Send>| Err(anyhow!("panic: {}", panic_text(&*panic)));
            Ended { stage, name, outcome: part.await.unwrap_or_else(panicked) }
        });
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
            Some(Ended { name, outcome, .. }) = self.next() => match outcome {
                Ok(()) => Err(anyhow!("{name} ended on its own")),
                Err(error) => Err(error.context(format!("{name} failed"))),
            },
        };
        self.children.stop.cancel();
        self.children.tracker.close();
        let deadline = Instant::now() + grace;
        if time::timeout_at(deadline, self.end(deadline)).await.is_err() {
            let (parts, children) = (self.parts.len(), self.children.tracker.len());
            warn!(parts, children, "grace period over, dropping the rest");
            self.children.end.cancel();
            self.parts.shutdown().await;
            self.children.tracker.wait().await;
        }
        outcome
    }

    /// Tells one stage after the other. One that is slow leaves to those after it half of the time that it found.
    async fn end(&mut self, deadline: Instant) {
        for stage in [Stage::Doors, Stage::Upward, Stage::Work] {
            self.stops[stage as usize].cancel();
            let limit = deadline.saturating_duration_since(Instant::now()) / 2;
            if time::timeout(limit, self.finish(&[stage])).await.is_err() {
                let parts = self.running[stage as usize];
                warn!(?stage, parts, "does not end in its time; the next stage is told to");
            }
        }
        self.finish(&[Stage::Doors, Stage::Upward, Stage::Work]).await;
        self.children.tracker.wait().await;
        self.stops[Stage::Shown as usize].cancel();
        self.finish(&Stage::ALL).await;
    }

    /// Waits for the parts of these stages.
    async fn finish(&mut self, stages: &[Stage]) {
        while stages.iter().any(|stage| self.running[*stage as usize] > 0) {
            let Some(Ended { name, outcome, .. }) = self.next().await else { return };
            match outcome {
                Ok(()) => info!(name, "finished"),
                Err(error) => warn!(name, error = format!("{error:#}"), "failed while stopping"),
            }
        }
    }

    /// The next part that ends; none where none is left.
    async fn next(&mut self) -> Option<Ended> {
        let ended = self.parts.join_next().await?.expect("panics are caught, and nobody aborts a part");
        self.running[ended.stage as usize] -= 1;
        Some(ended)
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
                Some(Err(panic)) => error!(panic = panic_text(&*panic), "panicked"),
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
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;

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
    async fn a_part_that_panics_stops_the_others_and_is_named() {
        let mut tasks = Tasks::new();
        tasks.spawn("planner", |_| async { panic!("a bug") });
        let error = tasks.run(pending::<()>(), GRACE).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "planner failed: panic: a bug");
    }

    /// A part of each stage, and a child: each says when it is told, and a second later that it ends. A deaf one does
    /// not end.
    async fn order(deaf: Option<Stage>) -> Vec<(u64, String)> {
        let (said, start) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
        let say = {
            let said = said.clone();
            move |what: String| said.lock().unwrap().push((start.elapsed().as_secs(), what))
        };
        let mut tasks = Tasks::new();
        let stages = [
            (Stage::Shown, "shown"),
            (Stage::Work, "work"),
            (Stage::Doors, "doors"),
            (Stage::Upward, "upward"),
        ];
        for (stage, name) in stages {
            let say = say.clone();
            tasks.spawn_at(stage, name, |stop| async move {
                stop.cancelled().await;
                say(format!("{name} told"));
                let wait = if deaf == Some(stage) { Duration::MAX } else { Duration::from_secs(1) };
                time::sleep(wait).await;
                say(format!("{name} ends"));
                Ok(())
            });
        }
        tasks.children().spawn("child", |stop| async move {
            stop.cancelled().await;
            time::sleep(Duration::from_secs(5)).await;
            say("child ends".to_owned());
            Ok(())
        });
        tasks.run(async {}, GRACE).await.unwrap();
        said.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn doors_close_first_and_what_shows_the_end_is_last() {
        let found = order(None).await;
        let want = [
            (0, "doors told"),
            (1, "doors ends"),
            (1, "upward told"),
            (2, "upward ends"),
            (2, "work told"),
            (3, "work ends"),
            (5, "child ends"),
            (5, "shown told"),
            (6, "shown ends"),
        ];
        assert_eq!(found, want.map(|(at, what)| (at, what.to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_door_that_does_not_close_takes_half_of_the_grace_and_no_more() {
        let found = order(Some(Stage::Doors)).await;
        let told = |what: &str| found.iter().find(|(_, said)| said == what).map(|(at, _)| *at);
        assert_eq!((told("upward told"), told("work told")), (Some(5), Some(6)), "{found:?}");
        assert_eq!((told("work ends"), told("shown told")), (Some(7), None), "{found:?}");
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
