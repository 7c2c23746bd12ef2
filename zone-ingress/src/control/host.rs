//! The ingress's end of its session with the zone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use model::World;
use snapshot::parts::SignalName;
use sync::client::DialError;
use sync::frame::{Hello, Signal};
use sync::link::{Handle, Host, HostError, Topics};
use sync::session::Ended;
use sync::{Base, Batch, Body, Holdings, Refused, Topic, Wanted};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::engine::Command;

/// The key of what an ingress says of itself.
const KEY: &str = "ingress";

pub(crate) struct IngressHost {
    registration: Bytes,
    engine: mpsc::Sender<Command>,
    /// What the zone has of it in this session.
    told: Mutex<Holdings>,
}

impl IngressHost {
    pub(crate) fn new(advertise: SocketAddr, handle: &Handle, engine: mpsc::Sender<Command>) -> Self {
        handle.subscribe([SignalName::Handles.to_string()]);
        let registration = serde_json::json!({ "advertise": advertise }).to_string().into();
        Self { registration, engine, told: Mutex::default() }
    }
}

impl Host for IngressHost {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::PROXY], copies: Vec::new() }
    }

    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        let own = Arc::new(Wanted::from([(KEY.into(), Body::new(self.registration.clone()))]));
        // Plain assignments.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(told.collect(&base, &own, World::default()))
    }

    fn acknowledged(&self, _: &Topic, _: &World, refused: &[Refused]) {
        for Refused { reason, .. } in refused {
            warn!(reason, "the zone refuses this ingress: no other zone will be sent here");
        }
    }

    async fn signals(&self, mut signals: BTreeMap<String, Signal>) {
        let Some(signal) = signals.remove(&SignalName::Handles.to_string()) else { return };
        let (reply, in_force) = oneshot::channel();
        // An engine that is gone applies nothing, and nobody is told that it did.
        if self.engine.send(Command::Handles(signal.value, reply)).await.is_ok() {
            let _ = in_force.await;
        }
    }

    fn unreachable(&self, _: &DialError) {
        // Where the engine has too much to do for this, it is not waiting for the zone.
        let _ = self.engine.try_send(Command::Unreachable);
    }

    fn connected(&self, hello: &Hello) -> Result<(), String> {
        info!(version = hello.program, "connected");
        Ok(())
    }

    fn closed(&self, ended: &Ended) {
        info!(%ended, "disconnected");
    }
}
