//! A host that also tells its membership how dialling goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sync::client::DialError;
use sync::frame::{Heartbeat, Hello, Signal};
use sync::link::{Host, HostError, Topics};
use sync::session::{Applied, Ended};
use sync::{Base, Batch, Place, Refused, Topic};
use tokio::sync::watch;

/// How the last attempts went.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Attempts {
    /// Since the last session began.
    pub(crate) failed: u64,
    /// The last one reached the control plane.
    pub(crate) turned_away: bool,
}

pub(crate) struct Watched<H> {
    pub(crate) host: Arc<H>,
    pub(crate) attempts: watch::Sender<Attempts>,
}

impl<H: Host> Host for Watched<H> {
    fn unreachable(&self, error: &DialError) {
        // Where a client's certificate is not believed, the connection ends in one of many ways.
        let turned_away = !matches!(error, DialError::Unreachable { .. } | DialError::TimedOut { .. });
        self.attempts.send_modify(|attempts| {
            *attempts = Attempts { failed: attempts.failed + 1, turned_away };
        });
        self.host.unreachable(error);
    }

    fn connected(&self, hello: &Hello) -> Result<(), String> {
        self.attempts.send_replace(Attempts::default());
        self.host.connected(hello)
    }

    fn topics(&self) -> Topics {
        self.host.topics()
    }

    async fn collect(&self, topic: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        self.host.collect(topic, base).await
    }

    async fn locate(&self, topic: Topic) -> Result<Place, HostError> {
        self.host.locate(topic).await
    }

    async fn apply(&self, topic: Topic, batch: Batch) -> Result<Applied, HostError> {
        self.host.apply(topic, batch).await
    }

    fn acknowledged(&self, topic: &Topic, world: &model::World, refused: &[Refused]) {
        self.host.acknowledged(topic, world, refused);
    }

    fn held_by_peer(&self, topic: &Topic, reason: &str) {
        self.host.held_by_peer(topic, reason);
    }

    fn subscribed(&self, added: &[String], removed: &[String]) {
        self.host.subscribed(added, removed);
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        self.host.signals(signals).await;
    }

    async fn settled(&self) {
        self.host.settled().await;
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        self.host.question(kind, body).await
    }

    fn ages(&self) -> Vec<(model::Origin, Duration)> {
        self.host.ages()
    }

    fn heartbeat(&self, heartbeat: &Heartbeat) {
        self.host.heartbeat(heartbeat);
    }

    fn stale(&self, stale: bool) {
        self.host.stale(stale);
    }

    fn closed(&self, ended: &Ended) {
        self.host.closed(ended);
    }
}
