//! Joining over real sockets and real TLS.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use identity::{
    Audience, ControlCa, Issuer, Peer, ServerRole, TokenClaims, TokenKey, certificates_to_pem, control_tls,
    peer_from_certificate, token_id,
};
use joining::{Clock, DRAINING, Joining, KeepFile, Membership, Program};
use prometheus_client::registry::Registry;
use runtime::admin::Pages;
use runtime::{Readiness, Tasks};
use rustls::pki_types::CertificateDer;
use sync::client::DialError;
use sync::link::{self, Handle, Host, Topics};
use sync::server::{self, Enrolment, Handler, Refusal};
use sync::session::{Ended, Limits};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

fn role() -> ServerRole {
    "east.zone.tombolo.internal".parse().unwrap()
}

fn issuer() -> Issuer {
    Issuer::Zone("east".parse().unwrap())
}

/// The upper side: an authority, a key for tokens, and a list of who came.
struct Zone {
    clock: Clock,
    ca: ControlCa,
    tokens: TokenKey,
    enrolments: AtomicUsize,
    renewals: Arc<AtomicUsize>,
    sessions: mpsc::UnboundedSender<Session>,
    ended: mpsc::UnboundedSender<Ended>,
}

struct Session {
    peer: Peer,
    certificate: CertificateDer<'static>,
    handle: Handle,
}

struct ZoneHost {
    peer: Peer,
    zone: Arc<Zone>,
}

impl Handler for Zone {
    type Host = ZoneHost;

    async fn enrol(&self, enrolment: Enrolment) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        self.enrolments.fetch_add(1, SeqCst);
        let now = self.clock.now();
        let verified = self.tokens.verify(&enrolment.token, Audience::Dataplane, &issuer(), now);
        verified.map_err(|error| Refusal::Unauthenticated(error.to_string()))?;
        let peer: Peer = enrolment.peer.parse().map_err(|_| Refusal::Invalid("no peer".into()))?;
        Ok(self.ca.issue_client(&enrolment.csr_der, &peer, None, now).unwrap())
    }

    async fn connected(&self, peer: link::Peer, handle: Handle) -> Result<Arc<ZoneHost>, Refusal> {
        let certificate = peer.certificates[0].clone();
        let peer = peer_from_certificate(&certificate, &role()).unwrap();
        let _ = self.sessions.send(Session { peer: peer.clone(), certificate, handle });
        Ok(Arc::new(ZoneHost { peer, zone: self.shared() }))
    }
}

impl Zone {
    /// The host needs the authority as well; the test keeps one per zone.
    fn shared(&self) -> Arc<Zone> {
        let pem = self.ca.to_pem();
        Arc::new(Zone {
            clock: self.clock.clone(),
            ca: ControlCa::from_pem(&pem).unwrap(),
            tokens: TokenKey::generate(),
            enrolments: AtomicUsize::new(0),
            renewals: self.renewals.clone(),
            sessions: self.sessions.clone(),
            ended: self.ended.clone(),
        })
    }

    fn token(&self, change: impl FnOnce(&mut TokenClaims)) -> String {
        let now = self.clock.now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = TokenClaims {
            iss: issuer(),
            aud: Audience::Dataplane,
            sub: "test".into(),
            mesh: Some("default".parse().unwrap()),
            zone: None,
            workload: Some("web".parse().unwrap()),
            names: Vec::new(),
            addresses: Vec::new(),
            uses: None,
            nbf: now,
            exp: now + 3600,
            jti: token_id(),
            ca: self.ca.pin(),
        };
        change(&mut claims);
        self.tokens.issue(&claims)
    }
}

impl Host for ZoneHost {
    fn topics(&self) -> Topics {
        Topics::default()
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        if kind == DRAINING {
            return Ok(Bytes::new());
        }
        assert_eq!(kind, "client-certificate");
        self.zone.renewals.fetch_add(1, SeqCst);
        let chain = self.zone.ca.issue_client(&body, &self.peer, None, self.zone.clock.now()).unwrap();
        Ok(certificates_to_pem(&chain).into())
    }

    fn closed(&self, ended: &Ended) {
        let _ = self.zone.ended.send(ended.clone());
    }
}

/// A zone that serves on some port.
struct Serving {
    zone: Arc<Zone>,
    address: SocketAddr,
    sessions: mpsc::UnboundedReceiver<Session>,
    ended: mpsc::UnboundedReceiver<Ended>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    async fn start() -> Self {
        Self::start_by(Clock::system()).await
    }

    async fn start_by(clock: Clock) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), clock).await
    }

    async fn start_at(address: SocketAddr, clock: Clock) -> Self {
        let (sessions, came) = mpsc::unbounded_channel();
        let (ended, left) = mpsc::unbounded_channel();
        let now = clock.now();
        let ca = ControlCa::create(role(), now).unwrap();
        let credential = ca.server_credential(&[], now).unwrap();
        let tls = control_tls::server_config(&ca, &credential).unwrap();
        let zone = Arc::new(Zone {
            clock,
            ca,
            tokens: TokenKey::generate(),
            enrolments: AtomicUsize::new(0),
            renewals: Arc::default(),
            sessions,
            ended,
        });
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let options = server::Options::new(link::Options::new("test", Limits::PROXY));
        let (handler, stopping) = (zone.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let (_keep, tls) = watch::channel(tls);
            server::serve(listener, tls, handler, options, stopping).await.unwrap();
        });
        Self { zone, address, sessions: came, ended: left, stop, task }
    }

    async fn session(&mut self) -> Session {
        time::timeout(PATIENCE, self.sessions.recv()).await.expect("a session in time").unwrap()
    }

    async fn stop(self) -> SocketAddr {
        self.stop.cancel();
        self.task.await.unwrap();
        self.address
    }
}

/// The lower side, in a folder of its own.
struct Proxy {
    folder: tempfile::TempDir,
}

#[derive(Default)]
struct ProxyHost {
    failures: Mutex<Vec<String>>,
    failed: tokio::sync::Notify,
}

impl Host for ProxyHost {
    fn topics(&self) -> Topics {
        Topics::default()
    }

    fn unreachable(&self, error: &DialError) {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        self.failures.lock().unwrap().push(format!("{error}: {cause}"));
        self.failed.notify_one();
    }
}

impl ProxyHost {
    async fn failure(&self) -> String {
        time::timeout(PATIENCE, self.failed.notified()).await.expect("a failure in time");
        self.failures.lock().unwrap().last().unwrap().clone()
    }
}

struct Running {
    membership: Arc<Membership<KeepFile>>,
    host: Arc<ProxyHost>,
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Proxy {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    fn put_token(&self, token: &str) {
        fs::write(self.token_file(), token).unwrap();
    }

    async fn start(&self, address: SocketAddr) -> Running {
        self.start_by(address, Clock::system()).await
    }

    async fn membership(&self, address: SocketAddr, clock: Clock) -> Arc<Membership<KeepFile>> {
        let peer = "proxy/default/web-1".parse().unwrap();
        let joining = Joining { clock, ..Joining::new(peer, address.to_string(), self.token_file()) };
        let keep = KeepFile::new(self.folder.path().join("membership.json"));
        Arc::new(Membership::open(joining, keep).await.unwrap())
    }

    async fn start_by(&self, address: SocketAddr, clock: Clock) -> Running {
        let membership = self.membership(address, clock).await;
        let (handle, stop, host) = (Handle::new(), CancellationToken::new(), Arc::new(ProxyHost::default()));
        let task = {
            let (membership, handle, stop, host) =
                (membership.clone(), handle.clone(), stop.clone(), host.clone());
            let options = link::Options::new("test", Limits::PROXY);
            tokio::spawn(async move { membership.run(host, &handle, &options, &stop).await })
        };
        Running { membership, host, handle, stop, task }
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_token_is_exchanged_once_and_what_is_kept_lets_the_peer_in_ever_after() {
    let (mut zone, proxy) = (Serving::start().await, Proxy::new());
    proxy.put_token(&zone.zone.token(|_| {}));
    let running = proxy.start(zone.address).await;
    let session = zone.session().await;
    assert_eq!(session.peer.to_string(), "proxy/default/web-1");
    assert_eq!(running.membership.server(), Some(role()));
    running.stop().await;

    fs::remove_file(proxy.token_file()).unwrap();
    let running = proxy.start(zone.address).await;
    let again = zone.session().await;
    assert_eq!(again.certificate, session.certificate);
    assert_eq!(zone.zone.enrolments.load(SeqCst), 1);

    running.stop().await;
}

#[tokio::test]
async fn a_proxy_serves_until_its_zone_lets_it_go_and_then_leaves_for_good() {
    let (mut zone, proxy) = (Serving::start().await, Proxy::new());
    proxy.put_token(&zone.zone.token(|_| {}));
    let any = "127.0.0.1:0".parse().unwrap();
    let (handle, readiness) = (Handle::new(), Readiness::new());
    let program = Program {
        tasks: Tasks::new(),
        pages: Pages::bind(any, any).await.unwrap(),
        metrics: Registry::default(),
        readiness: readiness.clone(),
        handle: handle.clone(),
        membership: proxy.membership(zone.address, Clock::system()).await,
        limits: Limits::PROXY,
        drain_time: PATIENCE,
    };
    let (began, begins) = oneshot::channel();
    let running = program.run((), Arc::new(ProxyHost::default()), |drain, stop| async move {
        drain.begin.cancelled().await;
        began.send(drain.done).unwrap();
        stop.cancelled().await;
        Ok(())
    });
    running.ready().await;
    let session = zone.session().await;
    session.handle.connected().await;
    handle.connected().await;
    let ending = tokio::spawn(running.shutdown());
    let done = time::timeout(PATIENCE, begins).await.expect("it is let go in time").unwrap();
    assert_eq!(readiness.pending(), ["draining"]);
    assert!(zone.ended.try_recv().is_err(), "the session goes on while something is open");
    done.send(()).unwrap();
    time::timeout(PATIENCE, ending).await.unwrap().unwrap().unwrap();
    let ended = time::timeout(PATIENCE, zone.ended.recv()).await.unwrap().unwrap();
    assert_eq!(ended, Ended::ByPeer("drained".into()));
    assert!(zone.sessions.try_recv().is_err());
}

#[tokio::test]
async fn a_lost_session_is_dialled_anew() {
    let (mut zone, proxy) = (Serving::start().await, Proxy::new());
    proxy.put_token(&zone.zone.token(|_| {}));
    let running = proxy.start(zone.address).await;
    zone.session().await.handle.close("enough");
    zone.session().await;
    assert_eq!(zone.zone.enrolments.load(SeqCst), 1);
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_shown_to_a_server_of_another_authority() {
    let (real, fake, proxy) = (Serving::start().await, Serving::start().await, Proxy::new());
    proxy.put_token(&real.zone.token(|_| {}));
    let running = proxy.start(fake.address).await;
    let failure = running.host.failure().await;
    assert!(failure.contains("shows no certificate with the hash"), "{failure}");
    assert_eq!(fake.zone.enrolments.load(SeqCst), 0);
    assert!(running.membership.kept().is_none());
    running.stop().await;
}

/// A clock that is so many minutes ahead of ours, or behind it.
fn off_by(minutes: i64) -> Clock {
    let off = Duration::from_secs(60 * minutes.unsigned_abs());
    Clock::new(move || if minutes < 0 { SystemTime::now() - off } else { SystemTime::now() + off })
}

#[tokio::test]
async fn s41_a_control_plane_is_joined_whose_clock_is_five_minutes_off_and_beyond_ten_both_times_are_told() {
    for minutes in [-5, 5] {
        let (mut zone, proxy) = (Serving::start_by(off_by(minutes)).await, Proxy::new());
        proxy.put_token(&zone.zone.token(|_| {}));
        let running = proxy.start(zone.address).await;
        zone.session().await;
        running.handle.connected().await;
        running.stop().await;
    }
    let (zone, proxy) = (Serving::start_by(off_by(11)).await, Proxy::new());
    proxy.put_token(&zone.zone.token(|_| {}));
    let running = proxy.start(zone.address).await;
    let failure = running.host.failure().await;
    let told = "certificate is out of time: it counts from 2";
    assert!(failure.contains(told) && failure.contains("Z: compare the clocks"), "{failure}");
    running.stop().await;
}

#[tokio::test]
async fn a_refused_token_may_be_replaced_in_its_file() {
    let (mut zone, proxy) = (Serving::start().await, Proxy::new());
    proxy.put_token(&zone.zone.token(|claims| claims.exp = claims.nbf - 60));
    let running = proxy.start(zone.address).await;
    let failure = running.host.failure().await;
    assert!(failure.contains("the token expired"), "{failure}");
    proxy.put_token(&zone.zone.token(|_| {}));
    zone.session().await;
    running.stop().await;
}

#[tokio::test]
async fn a_peer_without_a_token_waits_for_one() {
    let (mut zone, proxy) = (Serving::start().await, Proxy::new());
    let running = proxy.start(zone.address).await;
    assert!(zone.sessions.try_recv().is_err());
    // For another audience: it is not even shown.
    proxy.put_token(&zone.zone.token(|claims| claims.aud = Audience::Ingress));
    time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(zone.zone.enrolments.load(SeqCst), 0);
    proxy.put_token(&zone.zone.token(|_| {}));
    zone.session().await;
    running.stop().await;
}

#[tokio::test]
async fn a_zone_with_a_new_authority_is_joined_anew_when_the_token_names_it_and_not_before() {
    let (mut zone, proxy) = (Serving::start().await, Proxy::new());
    proxy.put_token(&zone.zone.token(|_| {}));
    let running = proxy.start(zone.address).await;
    zone.session().await;
    let before = running.membership.kept().unwrap();
    let address = zone.stop().await;

    let mut zone = Serving::start_at(address, Clock::system()).await;
    while !running.host.failure().await.contains("shows no certificate with the hash") {}
    assert_eq!(zone.zone.enrolments.load(SeqCst), 0);
    proxy.put_token(&zone.zone.token(|_| {}));
    zone.session().await;
    let after = running.membership.kept().unwrap();
    assert_ne!(before.pin, after.pin);
    assert_eq!(after.pin, zone.zone.ca.pin());
    running.stop().await;
}

#[tokio::test]
async fn the_certificate_is_renewed_over_the_session_with_a_new_key() {
    let (mut zone, proxy) = (Serving::start().await, Proxy::new());
    proxy.put_token(&zone.zone.token(|_| {}));
    let running = proxy.start(zone.address).await;
    zone.session().await;
    let first = running.membership.kept().unwrap();
    running.stop().await;

    // Some time before a third of its 30 days, then a minute before its end, for as long as the first one is held.
    // Who is late waits for a random part of a tenth of what is left.
    const DAY: u64 = 24 * 60 * 60;
    let ahead = Arc::new(AtomicU64::new(6 * DAY));
    let asked = ahead.clone();
    let clock = move || SystemTime::now() + Duration::from_secs(asked.load(SeqCst));
    let running = proxy.start_by(zone.address, Clock::new(clock.clone())).await;
    zone.session().await;
    running.handle.connected().await;
    running.stop().await;
    assert_eq!(zone.zone.renewals.load(SeqCst), 0);

    ahead.store(30 * DAY - 60, SeqCst);
    let renewals = zone.zone.renewals.clone();
    let until_renewed = move || if renewals.load(SeqCst) == 0 { clock() } else { SystemTime::now() };
    let running = proxy.start_by(zone.address, Clock::new(until_renewed)).await;
    zone.session().await;
    let renewed = async {
        while running.membership.kept().unwrap().credential().chain() == first.credential().chain() {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, renewed).await.expect("renewed in time");
    let second = running.membership.kept().unwrap();
    assert_ne!(second.credential().key_pem(), first.credential().key_pem());
    running.stop().await;

    // It is kept, and lets us in.
    let running = proxy.start(zone.address).await;
    assert_eq!(zone.session().await.certificate, second.credential().chain()[0]);
    running.stop().await;
    assert_eq!(zone.zone.enrolments.load(SeqCst), 1);
}
