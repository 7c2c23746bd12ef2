//! A proxy of a zone, from its start to its end.
//!
//! It ends in this order. It is not ready any more. It says `draining` to its zone, and goes on as before until the
//! zone answers: nobody is told to use it any more. Then it stops accepting, and finishes what is open. It says
//! `drained`, and leaves. A zone that is away, or slow, delays none of it for longer than 5 s.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use runtime::admin::Pages;
use runtime::{Readiness, Tasks};
use sync::link::{self, Handle, Host};
use sync::session::{Limits, Timing};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kept::Keep;
use crate::membership::Membership;

/// What a proxy says when it leaves for good: nobody waits for it any more.
pub const DRAINED: &str = "drained";

/// The question by which a proxy says that it is about to leave. It has no body; the answer, which has none either,
/// says that whoever could use the proxy was told not to.
pub const DRAINING: &str = "draining";

/// How long a proxy waits for that answer.
const ECHO_LIMIT: Duration = Duration::from_secs(5);
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// Everything of a proxy but what carries its traffic.
pub struct Program<K> {
    /// What runs beside session and engine.
    pub tasks: Tasks,
    pub pages: Pages,
    pub metrics: Registry,
    pub readiness: Readiness,
    pub handle: Handle,
    pub membership: Arc<Membership<K>>,
    pub limits: Limits,
    /// How long what is open may take at the end.
    pub drain_time: Duration,
}

/// The end of the service, which the session outlives.
pub struct Drain {
    /// Cancelled when nothing more is to be accepted.
    pub begin: CancellationToken,
    /// How long what is open may take.
    pub grace: Duration,
    /// To be told when nothing is carried any more.
    pub done: oneshot::Sender<()>,
}

impl Drain {
    /// Waits for the beginning of the end, then for `drained`, and tells that nothing is carried any more.
    pub async fn follow(self, drained: impl Future<Output = ()>) {
        self.begin.cancelled().await;
        drained.await;
        // Whoever asked may not wait any more.
        let _ = self.done.send(());
    }
}

/// A proxy that runs. Dropping it ends it at once.
pub struct Running<P> {
    /// Where `/healthz` and `/readyz` are.
    pub ready_address: SocketAddr,
    /// Where `/metrics` is.
    pub metrics_address: SocketAddr,
    proxy: P,
    readiness: Readiness,
    stop: CancellationToken,
    ended: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl<K: Keep> Program<K> {
    /// Joins the zone, and runs the engine, which carries the traffic, until it drained or failed. `proxy` is how
    /// others speak to it.
    pub fn run<P, H: Host, F>(
        self,
        proxy: P,
        host: Arc<H>,
        engine: impl FnOnce(Drain, CancellationToken) -> F,
    ) -> Running<P>
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let Self { mut tasks, pages, metrics, readiness, handle, membership, limits, drain_time } = self;
        let (ready_address, metrics_address) = (pages.ready_address, pages.metrics_address);
        pages.serve(&mut tasks, readiness.clone(), metrics);

        let (begin, dial_stop) = (CancellationToken::new(), CancellationToken::new());
        let (done, drained) = oneshot::channel();
        let drain = Drain { begin: begin.clone(), grace: drain_time, done };
        tasks.spawn("engine", |stop| engine(drain, stop));
        tasks.spawn("session", |stop| {
            let (handle, dial_stop) = (handle.clone(), dial_stop.clone());
            async move {
                let options = link::Options::new(env!("CARGO_PKG_VERSION"), limits).with(Timing::PROXY);
                membership.run(host, &handle, &options, &dial_stop).await;
                stop.cancelled().await;
                Ok(())
            }
        });

        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let leaving = {
            let (stop, readiness) = (stop.clone(), readiness.clone());
            async move {
                stop.cancelled().await;
                let _draining = readiness.guard("draining");
                leave(&handle, begin, drained).await;
                dial_stop.cancel();
            }
        };
        let task = {
            let ended = ended.clone().drop_guard();
            tokio::spawn(async move {
                let _ended = ended;
                tasks.run(leaving, drain_time).await
            })
        };
        Running { ready_address, metrics_address, proxy, readiness, stop, ended, task: Some(task) }
    }
}

/// Takes leave of the zone, around a drain that is begun here.
async fn leave(handle: &Handle, begin: CancellationToken, drained: oneshot::Receiver<()>) {
    let told = CancellationToken::new();
    let served = async {
        // Who says it to nobody is not answered.
        if handle.peer().is_some() && time::timeout(ECHO_LIMIT, told.cancelled()).await.is_err() {
            warn!("the zone did not say in time that nobody is told to use this proxy; leaving all the same");
        }
        begin.cancel();
        // An engine that failed says no word.
        drained.await.is_ok()
    };
    let said_goodbye = tokio::select! {
        in_order = served => in_order,
        () = announce(handle, &told) => false,
    };
    if said_goodbye {
        goodbye(handle).await;
    }
}

/// Says `draining` at the beginning of every session, so that a zone that comes back knows it too. `told` when it was
/// answered for the first time, or cannot be.
async fn announce(handle: &Handle, told: &CancellationToken) {
    loop {
        handle.connected().await;
        let answer = handle.ask(DRAINING, "", ECHO_LIMIT).await;
        info!(answered = answer.is_ok(), "said that it drains");
        told.cancel();
        handle.disconnected().await;
    }
}

/// Says that this side leaves for good. Waits for the word to be written, at most 2 s.
async fn goodbye(handle: &Handle) {
    handle.close(DRAINED);
    let _ = time::timeout(GOODBYE_LIMIT, handle.disconnected()).await;
}

impl<P> Running<P> {
    /// Completes when the proxy is ready: it has what it needs to serve.
    pub async fn ready(&self) {
        self.readiness.ready().await;
    }

    /// What it waits for, while it is not ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.readiness.pending()
    }

    /// Completes when it ended by itself; [`Self::shutdown`] then says why.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Runs until `stop`, or until the proxy ends by itself. `announce` is called when it is ready for the first time.
    pub async fn serve(
        self,
        stop: impl Future,
        announce: impl AsyncFnOnce(&Self) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let serving = async {
            self.ready().await;
            match announce(&self).await {
                Ok(()) => std::future::pending().await,
                Err(error) => error,
            }
        };
        let failed = tokio::select! {
            _ = stop => None,
            () = self.ended() => None,
            error = serving => Some(error),
        };
        self.shutdown().await?;
        failed.map_or(Ok(()), |error| Err(error).context("the ready line cannot be written"))
    }

    /// Drains in the order that stands above, lets what is open finish for the drain time, and ends.
    pub async fn shutdown(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        match self.task.take() {
            Some(task) => task.await.context("the proxy panicked")?,
            None => Ok(()),
        }
    }
}

/// What the proxy itself can be asked.
impl<P> Deref for Running<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.proxy
    }
}

impl<P> Drop for Running<P> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sync::link::{Options, Topics, Transport};
    use sync::session::Ended;
    use tokio::sync::{Notify, mpsc, watch};
    use tokio::time::Instant;
    use tokio_stream::StreamExt;

    use super::*;

    /// A zone that answers the word when it is told to, and notes what it is told.
    #[derive(Default)]
    struct Zone {
        answers: Notify,
        heard: watch::Sender<Vec<String>>,
    }

    impl Host for Zone {
        fn topics(&self) -> Topics {
            Topics::default()
        }

        async fn question(&self, kind: String, _: Bytes) -> Result<Bytes, String> {
            self.heard.send_modify(|heard| heard.push(kind));
            self.answers.notified().await;
            Ok(Bytes::new())
        }

        fn closed(&self, ended: &Ended) {
            self.heard.send_modify(|heard| heard.push(ended.to_string()));
        }
    }

    struct Proxy;

    impl Host for Proxy {
        fn topics(&self) -> Topics {
            Topics::default()
        }
    }

    /// A session between them, until the token is cancelled.
    async fn connect(zone: &Arc<Zone>, handle: &Handle) -> CancellationToken {
        let (up, from_below) = mpsc::channel(1);
        let (down, from_above) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let options = Options::new("1.2.3", Limits::PROXY);
        let (above, below, cut) = (zone.clone(), handle.clone(), stop.clone());
        tokio::spawn({
            let (options, cut) = (options.clone(), cut.clone());
            async move {
                let incoming = link::frames(from_below).map(Ok);
                link::run(above, &Handle::new(), Transport { incoming, outgoing: down }, &options, 1, &cut)
                    .await
            }
        });
        tokio::spawn(async move {
            let incoming = link::frames(from_above).map(Ok);
            link::run(Arc::new(Proxy), &below, Transport { incoming, outgoing: up }, &options, 1, &cut).await
        });
        handle.connected().await;
        stop
    }

    struct Leaving {
        begin: CancellationToken,
        done: oneshot::Sender<()>,
        left: JoinHandle<()>,
    }

    fn leaves(handle: &Handle) -> Leaving {
        let (begin, (done, drained)) = (CancellationToken::new(), oneshot::channel());
        let (handle, begins) = (handle.clone(), begin.clone());
        let left = tokio::spawn(async move { leave(&handle, begins, drained).await });
        Leaving { begin, done, left }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_ends_before_the_zone_answered_and_drained_is_said_when_nothing_is_open() {
        let (zone, handle) = (Arc::<Zone>::default(), Handle::new());
        let _session = connect(&zone, &handle).await;
        let Leaving { begin, done, left } = leaves(&handle);
        let heard = || zone.heard.borrow().clone();
        time::sleep(ECHO_LIMIT - Duration::from_millis(1)).await;
        assert_eq!((heard(), begin.is_cancelled()), (vec!["draining".to_owned()], false));
        zone.answers.notify_one();
        begin.cancelled().await;
        time::sleep(Duration::from_secs(20)).await;
        assert_eq!(heard(), ["draining"]);
        done.send(()).unwrap();
        left.await.unwrap();
        assert_eq!(heard(), ["draining", "closed by the peer: drained"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_that_is_slow_or_away_is_not_waited_for() {
        let (zone, handle) = (Arc::<Zone>::default(), Handle::new());
        let start = Instant::now();
        leaves(&handle).begin.cancelled().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "nobody is there");

        let _session = connect(&zone, &handle).await;
        leaves(&handle).begin.cancelled().await;
        assert_eq!(start.elapsed(), ECHO_LIMIT, "nobody answers");
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_that_comes_back_is_told_again() {
        let (zone, handle) = (Arc::<Zone>::default(), Handle::new());
        let session = connect(&zone, &handle).await;
        let leaving = leaves(&handle);
        zone.heard.subscribe().wait_for(|heard| heard.len() == 1).await.unwrap();
        let start = Instant::now();
        session.cancel();
        leaving.begin.cancelled().await;
        assert!(start.elapsed() < ECHO_LIMIT, "its answer is lost");

        handle.disconnected().await;
        let _session = connect(&zone, &handle).await;
        let draining = |heard: &Vec<String>| heard.iter().filter(|word| *word == DRAINING).count() == 2;
        zone.heard.subscribe().wait_for(draining).await.unwrap();
    }
}
