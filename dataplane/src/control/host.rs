//! The proxy's end of its session with the zone: hands everything to the engine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use identity::ServerRole;
use joining::Membership;
use model::{Origin, World, ZoneName};
use sync::client::DialError;
use sync::frame::{Hello, Signal};
use sync::link::{Host, HostError, Topics};
use sync::session::{Applied, Ended};
use sync::{Base, Batch, Body, Holdings, Place, Refused, Topic, Wanted};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::document::OwnDocument;
use super::engine::Command;
use super::state::StateFolder;

pub(crate) struct ProxyHost {
    own: OwnDocument,
    membership: Arc<Membership<StateFolder>>,
    engine: mpsc::Sender<Command>,
    /// What the zone has of the own document in this session.
    told: Mutex<Holdings>,
}

impl ProxyHost {
    pub(crate) fn new(
        own: OwnDocument,
        membership: Arc<Membership<StateFolder>>,
        engine: mpsc::Sender<Command>,
    ) -> Self {
        Self { own, membership, engine, told: Mutex::default() }
    }

    /// Whose session it is.
    fn zone(&self) -> Result<ZoneName, HostError> {
        match self.membership.server() {
            Some(ServerRole::Zone(zone)) => Ok(zone),
            _ => Err("a session with someone who is no zone".into()),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, HostError> {
        let (reply, answer) = oneshot::channel();
        self.engine.send(command(reply)).await.map_err(|_| "the proxy is stopping")?;
        answer.await.map_err(|_| "the proxy is stopping".into())
    }
}

impl Host for ProxyHost {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::PROXY], copies: vec![Topic::PARTS] }
    }

    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        let key = self.own.key(&self.zone()?).to_string().into();
        let own = Arc::new(Wanted::from([(key, Body::new(self.own.canonical()))]));
        // Plain assignments.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(told.collect(&base, &own, World::default()))
    }

    fn acknowledged(&self, _: &Topic, _: &World, refused: &[Refused]) {
        let outcome = refused.first().map_or(Ok(()), |refused| Err(refused.reason.clone()));
        // It is for the readiness page and the log: not worth waiting for.
        let _ = self.engine.try_send(Command::Registered(outcome));
    }

    async fn locate(&self, _: Topic) -> Result<Place, HostError> {
        let zone = Origin::Zone(self.zone()?);
        self.ask(|reply| Command::Locate(zone, reply)).await
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        let zone = Origin::Zone(self.zone()?);
        self.ask(|reply| Command::Batch(zone, batch, reply)).await?
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        // An engine that is gone applies nothing, and nobody is told that it did.
        let _ = self.ask(|reply| Command::Signals(signals, reply)).await;
    }

    fn unreachable(&self, _: &DialError) {
        // Where the engine has too much to do for this, it is not waiting for the zone.
        let _ = self.engine.try_send(Command::Unreachable);
    }

    fn connected(&self, hello: &Hello) -> Result<(), String> {
        info!(peer = %self.membership.peer(), version = hello.program, "connected");
        Ok(())
    }

    fn closed(&self, ended: &Ended) {
        info!(peer = %self.membership.peer(), %ended, "disconnected");
    }
}
