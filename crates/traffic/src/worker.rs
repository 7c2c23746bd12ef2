//! Workers: each is a thread with a `current_thread` runtime, a `LocalSet`, and what its tasks share.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use telemetry::Recorder;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::deadline::Deadlines;
use crate::metrics::Metrics;
use crate::tls::Credentials;
use crate::transport::Scratch;

/// What everything on one worker shares.
#[derive(Debug, Default)]
pub struct Shared {
    pub metrics: Arc<Metrics>,
    /// Where records of requests and connections go.
    pub recorder: Recorder,
    /// Owns every task of the worker: connections, and what serves them.
    pub tasks: TaskTracker,
    /// Cancelled when open connections of other proxies should come to their end.
    pub draining: CancellationToken,
    /// Cancelled when those of the own application should, too.
    pub ending: CancellationToken,
    /// Who the proxy is; none before the first configuration.
    pub credentials: RefCell<Option<Arc<Credentials>>>,
    pub(crate) deadlines: Deadlines,
    pub(crate) scratch: Scratch,
}

/// The order of the commands is the order in which a worker sees them.
const COMMANDS: usize = 1024;

/// A running worker. Dropping its handle closes the command channel, which ends it.
#[derive(Debug)]
pub struct Worker<C> {
    pub commands: mpsc::Sender<C>,
    thread: Option<thread::JoinHandle<()>>,
}

impl<C: Send + 'static> Worker<C> {
    /// Starts a thread that runs `run` to its end, and then drops what it left behind. What it counts can be
    /// read meanwhile.
    pub fn start<F, R>(name: String, metrics: Arc<Metrics>, recorder: Recorder, run: F) -> io::Result<Self>
    where
        F: FnOnce(Rc<Shared>, mpsc::Receiver<C>) -> R + Send + 'static,
        R: Future<Output = ()>,
    {
        let (commands, received) = mpsc::channel(COMMANDS);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name(name).spawn(move || {
            let local = LocalSet::new();
            let shared = Shared { metrics, recorder, ..Shared::default() };
            local.block_on(&runtime, async move { run(Rc::new(shared), received).await });
        })?;
        Ok(Self { commands, thread: Some(thread) })
    }

    /// Waits for the thread, which ends soon after the last sender of commands is dropped.
    pub async fn join(self) {
        let Self { commands, thread } = self;
        drop(commands);
        if let Some(thread) = thread {
            // A panic of the worker was reported by its thread.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// Runs the tasks that hyper starts for a connection on this worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}
