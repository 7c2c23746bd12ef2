//! The inbounds of a worker: who is connected to them, and whether they still may be.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{TrustStore, WorkloadPeer};
use model::SpiffeId;
use policy::access::Client;
use snapshot::parts::{self, Timeouts};
use telemetry::{About, Flag, Series};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::ProxyConfig;
use crate::access::{Denials, Verdict, judge};
use crate::http::application::Application;
use crate::standing::{Entry, Registry, Standing};
use crate::tls::accept;
use crate::transport::Transport;
use crate::worker::Shared;
use crate::{http, tcp};

/// How long a peer may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// All inbounds of a worker.
pub struct Inbounds {
    shared: Rc<Shared>,
    inbounds: RefCell<HashMap<u16, Rc<Inbound>>>,
    denials: Rc<Denials>,
}

impl Inbounds {
    pub fn new(shared: Rc<Shared>) -> Self {
        Self { shared, inbounds: RefCell::default(), denials: Rc::default() }
    }

    pub fn inbound(&self, name: u16) -> Option<Rc<Inbound>> {
        self.inbounds.borrow().get(&name).cloned()
    }

    pub fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Takes over a configuration and judges every open connection by it. What is no longer allowed is
    /// revoked; the rest goes on untouched. A connection of a peer that is not believed any more ends.
    pub fn apply(&self, config: &ProxyConfig) -> Vec<Rc<Standing>> {
        let mut inbounds = self.inbounds.borrow_mut();
        let mut gone = Vec::new();
        inbounds.retain(|name, inbound| {
            // Another protocol is another inbound under the same name.
            let protocol = inbound.part.borrow().protocol;
            let stays = config.inbounds.get(name).is_some_and(|part| part.protocol == protocol);
            if !stays {
                gone.extend(inbound.end());
            }
            stays
        });
        for (name, part) in &config.inbounds {
            let inbound = inbounds.entry(*name).or_insert_with(|| {
                let (shared, denials) = (self.shared.clone(), self.denials.clone());
                Rc::new(Inbound::new(*name, part.clone(), shared, denials))
            });
            gone.extend(inbound.replace(part, &config.credentials.trust));
        }
        gone
    }

    /// Closes connections to applications that were idle for too long, and ends what is open of peers whose
    /// certificate has ended by this time of day.
    pub fn sweep(&self, now: Instant, time: SystemTime) {
        for inbound in self.inbounds.borrow().values() {
            inbound.application.borrow().sweep(now);
            for peer in inbound.peers.open().iter().filter(|peer| peer.has_ended(time)) {
                inbound.expel(peer);
            }
        }
    }
}

/// One inbound on one worker.
pub struct Inbound {
    pub name: u16,
    shared: Rc<Shared>,
    part: RefCell<Arc<parts::Inbound>>,
    /// Cancelled when connections of peers should come to their end.
    pub(crate) closing: CancellationToken,
    peers: Registry<Peer>,
    application: RefCell<Rc<Application>>,
    denials: Rc<Denials>,
}

impl Inbound {
    fn new(name: u16, part: Arc<parts::Inbound>, shared: Rc<Shared>, denials: Rc<Denials>) -> Self {
        Self {
            name,
            closing: shared.draining.child_token(),
            shared,
            application: RefCell::new(Rc::new(application(&part))),
            part: RefCell::new(part),
            peers: Registry::default(),
            denials,
        }
    }

    /// Serves one connection of a peer, from its handshake to its end.
    pub async fn serve<T: Transport + 'static>(self: Rc<Self>, stream: T) {
        self.shared.metrics.inbound_connections.add();
        let Some(credentials) = self.shared.credentials.borrow().clone() else { return };
        let protocol = self.part.borrow().protocol;
        let accepted = match accept(stream, protocol, &credentials, HANDSHAKE).await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.shared.metrics.handshake_failures.add();
                let series = self.series_of(None);
                self.shared.recorder.begin(&series, About::default).failed(Flag::HandshakeFailed);
                debug!(inbound = self.name, error = %error, cause = ?error, "a peer was not let in");
                return;
            }
        };
        let (peer, entry) = self.enter(accepted.peer);
        if protocol.is_http() {
            http::inbound::serve(accepted.stream, accepted.alpn, self, peer).await;
        } else {
            tcp::inbound::serve(accepted.stream, accepted.alpn, self, peer).await;
        }
        drop(entry);
    }

    pub(crate) fn part(&self) -> Arc<parts::Inbound> {
        self.part.borrow().clone()
    }

    pub(crate) fn application(&self) -> Rc<Application> {
        self.application.borrow().clone()
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// Notes that something was denied, and returns what the client may be told.
    pub(crate) fn deny(&self, peer: &Peer) -> String {
        self.shared.metrics.denials.add();
        let rule = match &*peer.verdict.borrow() {
            Verdict::Denied(rule) => rule.clone(),
            Verdict::Allowed | Verdict::Observed(_) => None,
        };
        let policy = rule.as_ref().map(|rule| tracing::field::display(rule.policy.clone()));
        let id = self.denials.record(peer.id().clone(), self.name, rule, SystemTime::now());
        debug!(inbound = self.name, client = %peer.id(), decision = id, policy, "denied");
        id
    }

    /// Judges a new peer by the rules and the trust of this moment: both may have changed since its handshake
    /// began.
    fn enter(&self, found: WorkloadPeer) -> (Rc<Peer>, Entry<Peer>) {
        let judged = match &*self.shared.credentials.borrow() {
            Some(credentials) => judged(&self.part.borrow(), &found, &credentials.trust),
            None => None,
        };
        let connection = Standing::new();
        if judged.is_none() {
            connection.revoke();
        }
        let (verdict, timeouts) = judged.unwrap_or((Verdict::Denied(None), Timeouts::default()));
        let peer = Rc::new(Peer {
            series: self.series_of(Some(&found.id)),
            verdict: RefCell::new(verdict),
            timeouts: Cell::new(timeouts),
            standing: RefCell::new(Standing::new()),
            connection,
            found,
        });
        let entry = self.peers.enter(peer.clone());
        (peer, entry)
    }

    fn replace(&self, part: &Arc<parts::Inbound>, trust: &TrustStore) -> Vec<Rc<Standing>> {
        if self.part.borrow().application != part.application {
            self.application.replace(Rc::new(application(part)));
        }
        self.application().limit((&part.timeouts).into());
        self.part.replace(part.clone());
        let now = SystemTime::now();
        let mut gone = Vec::new();
        for peer in self.peers.open() {
            match judged(part, &peer.found, trust).filter(|_| !peer.has_ended(now)) {
                Some((verdict, timeouts)) => {
                    peer.timeouts.set(timeouts);
                    gone.extend(self.revoke(&peer, verdict));
                }
                None => gone.extend(self.expel(&peer)),
            }
        }
        gone
    }

    fn end(&self) -> Vec<Rc<Standing>> {
        self.closing.cancel();
        // Who is still in the handshake gets the same answer.
        let silent = parts::Inbound { access: parts::Access::default(), ..(**self.part.borrow()).clone() };
        self.part.replace(Arc::new(silent));
        let peers = self.peers.open().into_iter();
        peers.filter_map(|peer| self.revoke(&peer, Verdict::Denied(None))).collect()
    }

    /// Ends all that a peer has open, whatever the rules say; what that was depends on the returned.
    fn expel(&self, peer: &Peer) -> Vec<Rc<Standing>> {
        let standing = self.revoke(peer, Verdict::Denied(None));
        peer.connection.revoke();
        standing.into_iter().chain([peer.connection.clone()]).collect()
    }

    /// Gives a peer another verdict; the standing that it loses by it, if it does.
    fn revoke(&self, peer: &Peer, verdict: Verdict) -> Option<Rc<Standing>> {
        let was_denied = peer.verdict.borrow().is_denied();
        let lost = verdict.is_denied() && !was_denied;
        *peer.verdict.borrow_mut() = verdict;
        if !lost {
            return None;
        }
        self.shared.metrics.revocations.add();
        // It may be allowed again later, on the same connection.
        let standing = peer.standing.replace(Standing::new());
        standing.revoke();
        Some(standing)
    }
}

fn application(part: &parts::Inbound) -> Application {
    Application::new(part.application, part.protocol, (&part.timeouts).into())
}

/// Whether a peer may come in, and how long its requests may take; none of one that is not believed.
fn judged(part: &parts::Inbound, peer: &WorkloadPeer, trust: &TrustStore) -> Option<(Verdict, Timeouts)> {
    let client = Client { id: peer.id.clone(), zone: trust.still_believes(peer)?.clone() };
    Some((judge(&part.access, &client), part.timeouts_for(&client)))
}

/// Who is connected to an inbound.
pub(crate) struct Peer {
    /// As its handshake proved.
    found: WorkloadPeer,
    /// What is told of it.
    pub(crate) series: Arc<Series>,
    /// Always by the rules that are in force.
    pub(crate) verdict: RefCell<Verdict>,
    /// Those that are in force for its requests.
    pub(crate) timeouts: Cell<Timeouts>,
    standing: RefCell<Rc<Standing>>,
    connection: Rc<Standing>,
}

impl Peer {
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.found.id
    }

    fn has_ended(&self, time: SystemTime) -> bool {
        self.found.not_after < time
    }

    /// The connection depends on this, whatever the verdict is: the peer is believed, and its certificate has
    /// not ended.
    pub(crate) fn connection(&self) -> &Rc<Standing> {
        &self.connection
    }

    /// What was let through by the present verdict depends on this.
    pub(crate) fn standing(&self) -> Rc<Standing> {
        self.standing.borrow().clone()
    }
}
