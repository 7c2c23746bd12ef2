//! A session like a proxy's or an ingress's that keeps every word that it is told of endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::shapes::{TokenKind, TokenRequest};
use demo::Mesh;
use identity::Peer;
use joining::{Joining, KeepFile, Membership};
use snapshot::parts::{Endpoints, Handles, SignalName};
use sync::frame::{Hello, Signal};
use sync::link::{self, Handle, Host, Topics};
use sync::session::Limits;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What it heard since it began, in the order in which it came.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) words: Vec<Word>,
    pub(super) sessions: usize,
}

/// One value of one signal. The empty one, by which a zone says that it knows nothing yet, is none: it takes nothing away
/// from a proxy or an ingress.
pub(super) struct Word {
    pub(super) at: Instant,
    pub(super) signal: String,
    /// Whether it is ready, of each endpoint by its handle. What an ingress relays is.
    pub(super) endpoints: BTreeMap<String, bool>,
}

impl Heard {
    /// The last word of each signal.
    pub(super) fn last(&self) -> BTreeMap<&str, &Word> {
        self.words.iter().map(|word| (word.signal.as_str(), word)).collect()
    }
}

impl Word {
    pub(super) fn ready(&self) -> BTreeSet<&str> {
        self.endpoints.iter().filter(|(_, ready)| **ready).map(|(handle, _)| handle.as_str()).collect()
    }
}

pub(super) struct Watcher {
    /// Such as `the proxy in east`.
    pub(super) name: String,
    pub(super) zone: &'static str,
    /// How many it is to be told.
    pub(super) signals: usize,
    pub(super) heard: watch::Receiver<Heard>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Watcher {
    /// One that is told of what these signals are about, as the proxies that call it.
    pub(super) async fn proxy(mesh: &Mesh, zone: &'static str, signals: &BTreeSet<String>) -> Self {
        let request = TokenRequest {
            mesh: Some("default".parse().unwrap()),
            workload: Some("watcher".parse().unwrap()),
            ..TokenRequest::default()
        };
        let token = mesh.zone_api(zone).unwrap().token(TokenKind::Dataplane, &request).await.unwrap();
        let peer = Peer::Proxy { mesh: "default".parse().unwrap(), name: "watcher".parse().unwrap() };
        Self::start(mesh, zone, "proxy", peer, &token, signals.clone()).await
    }

    /// One that is told what it is to relay.
    pub(super) async fn ingress(mesh: &Mesh, zone: &'static str) -> Self {
        let api = mesh.zone_api(zone).unwrap();
        let token = api.token(TokenKind::Ingress, &TokenRequest::default()).await.unwrap();
        let peer = Peer::Ingress("watcher".parse().unwrap());
        Self::start(mesh, zone, "ingress", peer, &token, [SignalName::Handles.to_string()].into()).await
    }

    async fn start(
        mesh: &Mesh,
        zone: &'static str,
        what: &str,
        peer: Peer,
        token: &str,
        signals: BTreeSet<String>,
    ) -> Self {
        let file = |ending| format!("watching-{what}-{zone}.{ending}");
        let token = mesh.write(&file("token"), token).unwrap();
        let joining = Joining::new(peer, mesh.zone_addresses(zone).sync.to_string(), token);
        let membership =
            Membership::open(joining, KeepFile::new(mesh.dir().join(file("kept")))).await.unwrap();
        let (handle, stop) = (Handle::new(), CancellationToken::new());
        let count = signals.len();
        handle.subscribe(signals);
        let (ear, heard) = watch::channel(Heard::default());
        let until = stop.clone();
        let running = tokio::spawn(async move {
            let options = link::Options::new(env!("CARGO_PKG_VERSION"), Limits::PROXY);
            membership.run(Arc::new(Ear(ear)), &handle, &options, &until).await;
        });
        Self { name: format!("the {what} in {zone}"), zone, signals: count, heard, stop, running }
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

struct Ear(watch::Sender<Heard>);

impl Host for Ear {
    fn topics(&self) -> Topics {
        Topics::default()
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        let at = Instant::now();
        let told = signals.into_iter().filter(|(_, said)| !said.value.is_empty());
        let words = told.map(|(signal, said)| {
            let endpoints = if signal == SignalName::Handles.to_string() {
                let Handles(relayed) = serde_json::from_slice(&said.value).unwrap();
                relayed.into_keys().map(|handle| (handle, true)).collect()
            } else {
                let Endpoints(endpoints) = serde_json::from_slice(&said.value).unwrap();
                endpoints.into_iter().map(|endpoint| (endpoint.sni, endpoint.ready)).collect()
            };
            Word { at, signal, endpoints }
        });
        self.0.send_modify(|heard| heard.words.extend(words));
    }

    fn connected(&self, _: &Hello) -> Result<(), String> {
        self.0.send_modify(|heard| heard.sessions += 1);
        Ok(())
    }
}
