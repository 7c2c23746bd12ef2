//! A zone for tests: it lets peers join, gives each the parts and signals that the test set, and remembers
//! what they said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use identity::{
    Audience, ControlCa, Issuer, Peer, SVID_LIFETIME, TokenClaims, TokenKey, ZoneCa, certificates_to_pem,
    control_tls, peer_from_certificate, token_id,
};
use model::{Origin, Point, SpiffeId, World};
use rustls::pki_types::CertificateDer;
use sync::frame::Signal;
use sync::link::{self, Handle, Host, HostError, Topics};
use sync::server::{self, Enrolment, Handler, Refusal};
use sync::session::{Applied, Ended, Limits};
use sync::{Base, Batch, Body, Holdings, Refused, Topic};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

/// For what happens at once; a machine under load takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A zone with its authorities, which outlive its serving.
pub(crate) struct Zone {
    /// How many seconds its clock is ahead of ours; less than none is behind.
    pub(crate) ahead: AtomicI64,
    pub(crate) ca: ZoneCa,
    control: ControlCa,
    tokens: TokenKey,
    peers: Mutex<BTreeMap<String, State>>,
    /// Rises with everything that peers say.
    said: watch::Sender<u64>,
    /// Whether a peer that drains is let go.
    lets_go: watch::Sender<bool>,
    line: Mutex<Line>,
}

/// Of what history its revisions are.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) epoch: u64,
    pub(crate) hash: &'static [u8],
    /// The hash from which it says that it goes on.
    pub(crate) continues: &'static [u8],
}

impl Default for Line {
    fn default() -> Self {
        Self { epoch: 1, hash: b"first", continues: b"first" }
    }
}

/// What is set for, and known of, one peer.
#[derive(Clone, Default)]
pub(crate) struct State {
    parts: BTreeMap<String, Bytes>,
    revision: u64,
    signals: BTreeMap<String, Bytes>,
    subscribed: BTreeSet<String>,
    handle: Option<Handle>,
    /// As whom it is certified.
    identity: Option<SpiffeId>,
    /// What it says of itself, by key.
    pub(crate) registered: BTreeMap<String, Bytes>,
    /// Up to which revision of its parts it acknowledged.
    pub(crate) acknowledged: u64,
    pub(crate) refused: Vec<Refused>,
    /// Why it takes nothing.
    pub(crate) held: Option<String>,
    pub(crate) is_draining: bool,
    pub(crate) certificates: usize,
    pub(crate) ended: Vec<Ended>,
}

impl State {
    pub(crate) fn is_subscribed(&self, name: &str) -> bool {
        self.subscribed.contains(name)
    }
}

/// While it serves.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

struct Service(Arc<Zone>);

struct Session {
    zone: Arc<Zone>,
    peer: Peer,
    sent: Mutex<Holdings>,
}

impl Zone {
    pub(crate) fn new() -> Arc<Self> {
        Self::ahead(0)
    }

    pub(crate) fn ahead(seconds: i64) -> Arc<Self> {
        let now = ahead(seconds);
        Arc::new(Self {
            ahead: seconds.into(),
            ca: ZoneCa::create("default.east.mesh.local".parse().unwrap(), SVID_LIFETIME, now).unwrap(),
            control: ControlCa::create("east.zone.tombolo.internal".parse().unwrap(), now).unwrap(),
            tokens: TokenKey::generate(),
            peers: Mutex::default(),
            said: watch::Sender::new(0),
            lets_go: watch::Sender::new(true),
            line: Mutex::default(),
        })
    }

    pub(crate) fn origin() -> Origin {
        Origin::Zone("east".parse().unwrap())
    }

    /// Writes a token into a file.
    pub(crate) fn write_token(&self, aud: Audience, file: &Path) {
        let now = self.now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = TokenClaims {
            iss: Issuer::Zone("east".parse().unwrap()),
            aud,
            sub: "test".into(),
            mesh: None,
            zone: None,
            workload: None,
            names: Vec::new(),
            addresses: Vec::new(),
            uses: None,
            nbf: now,
            exp: now + 3600,
            jti: token_id(),
            ca: self.control.pin(),
        };
        std::fs::write(file, self.tokens.issue(&claims)).unwrap();
    }

    pub(crate) async fn serve(self: &Arc<Self>) -> Serving {
        self.serve_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn serve_at(self: &Arc<Self>, address: SocketAddr) -> Serving {
        let credential = self.control.server_credential(&[], self.now()).unwrap();
        let tls = control_tls::server_config(&self.control, &credential).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let options = server::Options::new(link::Options::new("test", Limits::PROXY));
        let (service, stopping) = (Arc::new(Service(self.clone())), stop.clone());
        let task = tokio::spawn(async move {
            let (_keep, tls) = watch::channel(tls);
            server::serve(listener, tls, service, options, stopping).await.unwrap();
        });
        Serving { address, stop, task }
    }

    /// Changes parts of a peer, and returns the revision. None takes a part away.
    pub(crate) fn set(&self, peer: &str, changes: &[(&str, Option<String>)]) -> u64 {
        let (revision, handle) = {
            let mut peers = self.peers();
            let state = peers.entry(peer.to_owned()).or_default();
            for (name, body) in changes {
                match body {
                    Some(body) => drop(state.parts.insert((*name).to_owned(), body.clone().into())),
                    None => drop(state.parts.remove(*name)),
                }
            }
            state.revision += 1;
            (state.revision, state.handle.clone())
        };
        if let Some(handle) = handle {
            handle.changed(&Topic::PARTS);
        }
        revision
    }

    /// Says who a peer is: the part and its certificates.
    pub(crate) fn identify(&self, peer: &str, id: &str) -> u64 {
        self.peers().entry(peer.to_owned()).or_default().identity = Some(id.parse().unwrap());
        self.set(peer, &[("identity", Some(format!(r#"{{"id":"{id}"}}"#)))])
    }

    /// Certifies a peer from now on, whatever its parts say. Returns the revision, which stays.
    pub(crate) fn certify(&self, peer: &str, id: &str) -> u64 {
        let mut peers = self.peers();
        let state = peers.entry(peer.to_owned()).or_default();
        state.identity = Some(id.parse().unwrap());
        state.revision
    }

    pub(crate) fn signal(&self, peer: &str, name: &str, value: String) {
        let mut peers = self.peers();
        let state = peers.entry(peer.to_owned()).or_default();
        state.signals.insert(name.to_owned(), value.into());
        let is_wanted = state.subscribed.contains(name);
        if let (Some(handle), true) = (&state.handle, is_wanted) {
            publish(handle, state, name);
        }
    }

    /// Until the peer has taken in every signal so far.
    pub(crate) async fn settled(&self, peer: &str) {
        let handle = self.peers()[peer].handle.clone();
        handle.expect("it is connected").settled().await;
    }

    /// Its store was put back, or what followed from that was accepted.
    pub(crate) fn goes_on(&self, line: Line) {
        *self.line.lock().unwrap() = line;
    }

    pub(crate) fn let_go(&self, whether: bool) {
        self.lets_go.send_replace(whether);
    }

    pub(crate) fn state(&self, peer: &str) -> State {
        self.peers().get(peer).cloned().unwrap_or_default()
    }

    /// Waits until a peer said what is waited for.
    pub(crate) async fn until(&self, peer: &str, what: &str, is_so: impl Fn(&State) -> bool) -> State {
        let mut said = self.said.subscribe();
        let waiting = async {
            loop {
                said.borrow_and_update();
                let state = self.state(peer);
                if is_so(&state) {
                    return state;
                }
                said.changed().await.unwrap();
            }
        };
        time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{peer}: not in time: {what}"))
    }

    pub(crate) async fn acknowledged(&self, peer: &str, revision: u64) -> State {
        self.until(peer, "an acknowledgement", |state| state.acknowledged >= revision).await
    }

    fn now(&self) -> SystemTime {
        ahead(self.ahead.load(SeqCst))
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.peers.lock().unwrap()
    }

    fn tell(&self, peer: &Peer, change: impl FnOnce(&mut State)) {
        change(self.peers().entry(peer.to_string()).or_default());
        self.said.send_modify(|said| *said += 1);
    }
}

impl Serving {
    pub(crate) async fn stop(self) -> SocketAddr {
        self.stop.cancel();
        self.task.await.unwrap();
        self.address
    }
}

impl Handler for Service {
    type Host = Session;

    async fn enrol(&self, enrolment: Enrolment) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        let now = self.0.now();
        let issuer = Issuer::Zone("east".parse().unwrap());
        let is_valid = [Audience::Dataplane, Audience::Ingress]
            .iter()
            .any(|wanted| self.0.tokens.verify(&enrolment.token, *wanted, &issuer, now).is_ok());
        if !is_valid {
            return Err(Refusal::Unauthenticated("the token is no good".into()));
        }
        let peer: Peer = enrolment.peer.parse().map_err(|_| Refusal::Invalid("no peer".into()))?;
        Ok(self.0.control.issue_client(&enrolment.csr_der, &peer, None, now).unwrap())
    }

    async fn connected(&self, peer: link::Peer, handle: Handle) -> Result<Arc<Session>, Refusal> {
        let peer = peer_from_certificate(&peer.certificates[0], self.0.control.role()).unwrap();
        self.0.tell(&peer, |state| {
            state.handle = Some(handle);
            state.subscribed.clear();
        });
        Ok(Arc::new(Session { zone: self.0.clone(), peer, sent: Mutex::default() }))
    }
}

impl Host for Session {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::PARTS], copies: vec![Topic::PROXY] }
    }

    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        let state = self.zone.state(&self.peer.to_string());
        let wanted = state.parts.into_iter().filter(|(name, _)| state.subscribed.contains(name));
        let wanted = Arc::new(wanted.map(|(name, body)| (name.into(), Body::new(body))).collect());
        let revision = state.revision;
        let Line { epoch, hash, continues } = *self.zone.line.lock().unwrap();
        let world = World::from_iter([(Zone::origin(), Point { epoch, revision })]);
        let batch = self.sent.lock().unwrap().collect(&base, &wanted, world);
        Ok(batch.map(|batch| Batch { hash: hash.into(), continues: continues.into(), ..batch }))
    }

    fn held_by_peer(&self, _: &Topic, reason: &str) {
        self.zone.tell(&self.peer, |state| state.held = Some(reason.to_owned()));
    }

    fn acknowledged(&self, _: &Topic, world: &World, refused: &[Refused]) {
        let revision = world.point(&Zone::origin()).map_or(0, |point| point.revision);
        self.zone.tell(&self.peer, |state| {
            state.acknowledged = revision;
            state.refused = refused.to_vec();
        });
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        let registered = batch.entries.into_iter().map(|entry| (entry.key, entry.body)).collect();
        self.zone.tell(&self.peer, |state| state.registered = registered);
        Ok(Applied::Stored { world: batch.world, refused: Vec::new() })
    }

    fn subscribed(&self, added: &[String], removed: &[String]) {
        self.zone.tell(&self.peer, |state| {
            for name in removed {
                state.subscribed.remove(name);
            }
            state.subscribed.extend(added.iter().cloned());
            if let Some(handle) = &state.handle {
                for name in added.iter().filter(|name| is_signal(name)) {
                    publish(handle, state, name);
                }
                handle.changed(&Topic::PARTS);
            }
        });
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        if kind == "draining" {
            self.zone.tell(&self.peer, |state| state.is_draining = true);
            let _ = self.zone.lets_go.subscribe().wait_for(|lets_go| *lets_go).await;
            return Ok(Bytes::new());
        }
        assert_eq!(kind, "certificate");
        let id = self.zone.state(&self.peer.to_string()).identity.ok_or("nobody")?;
        let chain = self.zone.ca.issue(&body, &id, SVID_LIFETIME, self.zone.now());
        self.zone.tell(&self.peer, |state| state.certificates += 1);
        Ok(certificates_to_pem(&chain.map_err(|error| error.to_string())?).into())
    }

    fn closed(&self, ended: &Ended) {
        self.zone.tell(&self.peer, |state| state.ended.push(ended.clone()));
    }
}

fn ahead(seconds: i64) -> SystemTime {
    let off = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { SystemTime::now() - off } else { SystemTime::now() + off }
}

fn is_signal(name: &str) -> bool {
    name.starts_with("endpoints/") || name == "handles"
}

/// The value of a signal, empty where the test set none.
fn publish(handle: &Handle, state: &State, name: &str) {
    let value = state.signals.get(name).cloned().unwrap_or_default();
    handle.signal(name, Signal { origin: Zone::origin(), age: Duration::ZERO, value });
}
