//! Over real sockets and real TLS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use model::World;
use proto::sync::v1;
use proto::sync::v1::sync_client::SyncClient;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sync::client::{self, DialError, Target};
use sync::frame::{Chunk, Frame, Hello, Last};
use sync::link::{Handle, Peer};
use sync::server::{self, Enrolment, Handler, Options, Refusal};
use sync::session::Ended;
use sync::{Entry, Place, Topic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::host::{State, TestHost, options, proxy, signal, zone};

const LIMIT: Duration = Duration::from_secs(20);
const STRANGERS: u32 = 8;

#[tokio::test]
async fn a_proxy_enrols_connects_and_is_kept_in_step_both_ways() {
    let site = Site::new().await;
    let identity = site.enrol("good", "proxy/default/web-1").await.unwrap();
    let proxy = site.dial(&identity);
    let (zone, peer) = site.joined().await;
    assert_eq!(peer.certificates.first(), identity.chain.first());

    zone.put("trust", &"t".repeat(500_000));
    zone.put("listeners", "{}");
    proxy.host.put("dataplane", "web-1");
    proxy.host.until("the parts are there", |state| state.copy.len() == 2).await;
    zone.until("the document is there", |state| state.copy.contains_key("dataplane")).await;
    let have = proxy.host.now().have.clone();
    zone.until("the parts are acknowledged", |state| state.acknowledged == have).await;

    let answer = proxy.host.handle.ask("echo", "a certificate, please", LIMIT).await;
    assert_eq!(answer, Ok(Bytes::from("a certificate, please")));
    let answer = zone.handle.ask("echo", "a dump, please", LIMIT).await;
    assert_eq!(answer, Ok(Bytes::from("a dump, please")));

    proxy.host.handle.subscribe(["endpoints/a"]);
    zone.until("the endpoints are wanted", |state| state.wanted.contains("endpoints/a")).await;
    zone.handle.signal("endpoints/a", signal("[]"));
    time::timeout(LIMIT, zone.handle.settled()).await.unwrap();
    assert_eq!(proxy.host.now().signals["endpoints/a"].value, "[]");
}

#[tokio::test]
async fn a_client_comes_back_by_itself_when_the_server_restarts() {
    let mut site = Site::new().await;
    let identity = site.enrol("good", "proxy/default/web-1").await.unwrap();
    let proxy = site.dial(&identity);
    let (zone, _) = site.joined().await;
    zone.put("trust", "1");
    proxy.host.until("the part is there", |state| state.copy.contains_key("trust")).await;

    site.restart().await;
    let (zone, _) = site.joined().await;
    assert!(!proxy.host.now().ended.is_empty());
    assert_eq!(proxy.host.now().copy["trust"], "1", "an authority that is away takes nothing");
    zone.put("trust", "2");
    zone.put("listeners", "1");
    proxy
        .host
        .until("the change is there", |state| state.copy.len() == 2 && state.copy["trust"] == "2")
        .await;
}

#[tokio::test]
async fn s54_a_panic_in_a_session_ends_that_session_alone() {
    let site = Site::new().await;
    let mut sessions = Vec::new();
    for peer in ["proxy/default/stored", "proxy/default/sent", "proxy/default/web-1"] {
        let proxy = site.dial(&site.enrol("good", peer).await.unwrap());
        let (zone, _) = site.joined().await;
        proxy.host.put("dataplane", peer);
        zone.until("the document is there", |state| state.copy.contains_key("dataplane")).await;
        sessions.push((proxy, zone));
    }
    let [(stored, at_stored), (_sent, at_sent), (other, at_other)] = &sessions[..] else { unreachable!() };
    stored.host.put("dataplane", "panic as it is stored");
    at_sent.put("trust", "panic as it is sent");
    for zone in [at_stored, at_sent] {
        let ended = zone.until("the session ends", |state| !state.ended.is_empty()).await.ended.clone();
        assert!(matches!(&ended[..], [Ended::ByUs(_)]), "{ended:?}");
    }
    assert_eq!(at_stored.now().copy["dataplane"], "proxy/default/stored", "the last that was stored stands");
    at_other.put("trust", "1");
    other.host.until("the part is there", |state| state.copy.contains_key("trust")).await;
    assert_eq!(at_other.now().ended, []);
    // Nor is the place of who caused it taken for ever.
    stored.host.put("dataplane", "mended");
    let back = async {
        loop {
            let (zone, _) = site.joined().await;
            let mended = |state: &State| state.copy.get("dataplane").is_some_and(|body| body == "mended");
            let told = zone
                .until("a word", |state| mended(state) || !state.ended.is_empty() || !state.copy.is_empty())
                .await;
            if mended(&told) {
                return;
            }
        }
    };
    time::timeout(LIMIT, back).await.expect("it comes back");
}

#[tokio::test]
async fn a_peer_that_gives_no_credit_stalls_that_topic_alone() {
    let site = Site::new().await;
    let identity = site.enrol("good", "proxy/default/web-1").await.unwrap();
    let mut peer = Frugal::dial(&site, &identity).await;
    let (zone, _) = site.joined().await;
    for n in 0..80 {
        zone.put(&format!("destination/{n:02}"), &"d".repeat(60_000));
    }
    let added = vec!["endpoints/a".to_owned()];
    peer.say(Frame::Subscribe { added, removed: Vec::new() }).await;
    let window = 100_000;
    let (topic, place) = (Topic::PARTS, Place::default());
    peer.say(Frame::Open { topic: topic.clone(), opening: 1, place, window }).await;
    assert_eq!(peer.chunks(2).await, (2, false), "the second begins within the window");

    // All else goes on.
    zone.handle.signal("endpoints/a", signal("1"));
    peer.until("a signal", |frame| matches!(frame, Frame::Signal { .. })).await;
    peer.say(Frame::Query { id: 1, kind: "echo".to_owned(), body: Bytes::new() }).await;
    peer.until("an answer", |frame| matches!(frame, Frame::Reply { .. })).await;
    peer.until("a heartbeat", |frame| matches!(frame, Frame::Heartbeat(_))).await;
    let last = Some(Last { world: World::default(), ..Last::default() });
    let entries = vec![Entry::part("dataplane", "web-1")];
    let (topic, removed) = (Topic::PROXY, Vec::new());
    peer.say(Frame::Chunk(Chunk { topic, opening: 1, batch: 1, index: 0, entries, removed, last })).await;
    zone.until("it is stored", |state| state.copy.contains_key("dataplane")).await;
    assert_eq!(peer.parts, 2, "nothing more came of the topic");

    let credit = |bytes| Frame::Credit { topic: Topic::PARTS, opening: 1, batch: 1, bytes };
    peer.say(credit(300_000)).await;
    assert_eq!(peer.chunks(5).await, (5, false));
    peer.say(credit(u64::MAX)).await;
    assert_eq!(peer.chunks(80).await, (80, true));
}

#[tokio::test]
async fn a_closed_handle_ends_the_session_of_the_peer() {
    let site = Site::new().await;
    let identity = site.enrol("good", "proxy/default/web-1").await.unwrap();
    let proxy = site.dial(&identity);
    let (zone, _) = site.joined().await;
    zone.handle.close("the credential is revoked");
    let state = proxy.host.until("the session is over", |state| !state.ended.is_empty()).await;
    assert!(state.ended[0].to_string().contains("the credential is revoked"), "{:?}", state.ended);
}

#[tokio::test]
async fn the_last_word_of_a_client_arrives() {
    let site = Site::new().await;
    let identity = site.enrol("good", "proxy/default/web-1").await.unwrap();
    let proxy = site.dial(&identity);
    let (zone, _) = site.joined().await;
    proxy.host.handle.connected().await;
    proxy.host.handle.close("draining");
    let state = zone.until("the session is over", |state| !state.ended.is_empty()).await;
    assert_eq!(state.ended[0], Ended::ByPeer("draining".to_owned()));
}

#[tokio::test]
async fn a_crowd_of_strangers_is_turned_away_and_then_others_may_come() {
    let site = Site::new().await;
    let mut crowd = Vec::new();
    for _ in 0..STRANGERS {
        crowd.push(TcpStream::connect(site.address).await.unwrap());
    }
    assert!(site.enrol("good", "zone/east").await.is_err(), "there is no room for more of this address");
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = elsewhere.connect(site.address).await.unwrap();
    let shaken = TlsConnector::from(site.authority.client(None)).connect(server_name(), stream).await;
    assert!(shaken.is_ok(), "there is for another: {shaken:?}");
    drop(crowd);
    let entered = async {
        while site.enrol("good", "zone/east").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    time::timeout(LIMIT, entered).await.expect("there is room again");
}

#[tokio::test]
async fn who_may_not_enrol_is_told_why() {
    let site = Site::new().await;
    let cases = [
        ("wrong", "refused by", "not a token of ours"),
        ("spent", "refused by", "all its uses"),
        ("later", "is not available", "come back"),
        ("panic", "is not available", "failed inside"),
    ];
    for (token, kind, why) in cases {
        let error = site.enrol(token, "proxy/default/web-1").await.err().unwrap().to_string();
        assert!(error.contains(kind) && error.contains(why), "{token}: {error}");
    }
    let long = site.enrol(&"x".repeat(20_000), "zone/east").await.err().unwrap();
    assert!(matches!(long, DialError::Refused { .. }), "{long}");
    assert!(site.enrol(&"x".repeat(100_000), "zone/east").await.is_err(), "cut off");
    site.enrol("good", "proxy/default/web-1").await.unwrap();
}

#[tokio::test]
async fn a_session_needs_a_client_certificate_and_the_consent_of_the_handler() {
    let site = Site::new().await;
    let nobody = Dialled::new(site.target(), site.authority.client(None));
    let state = nobody.host.until("it is refused", |state| !state.unreachable.is_empty()).await;
    assert!(state.unreachable[0].contains("enrol first"), "{:?}", state.unreachable);
    drop(state);
    let identity = site.enrol("good", "proxy/default/banned").await.unwrap();
    let banned = site.dial(&identity);
    let state = banned.host.until("it is refused", |state| !state.unreachable.is_empty()).await;
    assert!(state.unreachable[0].contains("revoked"), "{:?}", state.unreachable);
}

#[tokio::test]
async fn neither_side_speaks_to_who_cannot_prove_itself() {
    let site = Site::new().await;
    let stranger = Authority::new();
    let forged = stranger.issue("proxy/default/web-1", "spiffe");
    let config = site.authority.client(Some(&forged));
    let forger = Dialled::new(site.target(), config);
    forger.host.until("the forger is refused", |state| !state.unreachable.is_empty()).await;

    let careful = Dialled::new(site.target(), stranger.client(None));
    let state = careful.host.until("the server is refused", |state| !state.unreachable.is_empty()).await;
    assert!(state.unreachable[0].starts_with("no TLS with"), "{:?}", state.unreachable);
}

#[tokio::test]
async fn garbage_plain_http_and_other_protocols_are_closed_and_all_goes_on() {
    let site = Site::new().await;
    for bytes in [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], b"\x00\xff garbage", &[0x16; 3000]] {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let closed = time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "the connection is closed");
        assert!(!answer.starts_with(b"HTTP"), "nothing is said in plain text");
    }
    // TLS without ALPN.
    let mut config = ClientConfig::clone(&site.authority.client(None));
    config.alpn_protocols.clear();
    let stream = TcpStream::connect(site.address).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(server_name(), stream).await.unwrap();
    let closed = time::timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "the connection is closed");
    site.enrol("good", "zone/east").await.unwrap();
}

#[tokio::test]
async fn who_does_not_shake_hands_in_time_is_closed() {
    let site = Site::with_handshakes_of(Duration::from_millis(100)).await;
    let mut silent = TcpStream::connect(site.address).await.unwrap();
    let closed = time::timeout(LIMIT, silent.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_new_tls_configuration_counts_for_the_next_connection() {
    let site = Site::new().await;
    site.enrol("good", "zone/east").await.unwrap();
    let other = Authority::new();
    site.tls.send_replace(other.server());
    assert!(matches!(site.enrol("good", "zone/east").await, Err(DialError::Tls { .. })));
}

/// A server with its authority.
struct Site {
    authority: Arc<Authority>,
    address: SocketAddr,
    tls: watch::Sender<Arc<ServerConfig>>,
    joined: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<(Arc<TestHost>, Peer)>>,
    stop: CancellationToken,
    running: JoinHandle<std::io::Result<()>>,
}

impl Site {
    async fn new() -> Self {
        Self::with_handshakes_of(Duration::from_secs(5)).await
    }

    async fn with_handshakes_of(handshake: Duration) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::on(Arc::new(Authority::new()), address, handshake).await
    }

    async fn on(authority: Arc<Authority>, address: SocketAddr, handshake: Duration) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tls, current) = watch::channel(authority.server());
        let (join, joined) = tokio::sync::mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let door = Arc::new(Door { authority: authority.clone(), join });
        let mut limits = Options::new(options());
        limits.handshake = handshake;
        limits.strangers = STRANGERS;
        let running = tokio::spawn(server::serve(listener, current, door, limits, stop.clone()));
        Self { authority, address, tls, joined: tokio::sync::Mutex::new(joined), stop, running }
    }

    async fn restart(&mut self) {
        self.stop.cancel();
        time::timeout(LIMIT, &mut self.running).await.expect("it ends in time").unwrap().unwrap();
        *self = Self::on(self.authority.clone(), self.address, Duration::from_secs(5)).await;
    }

    fn target(&self) -> Target {
        Target { address: self.address.to_string(), server_name: server_name() }
    }

    async fn enrol(&self, token: &str, peer: &str) -> Result<Identity, DialError> {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let tls = self.authority.client(None);
        let chain = client::enrol(&self.target(), tls, token, request.der(), peer).await?;
        Ok(Identity { chain, key })
    }

    fn dial(&self, identity: &Identity) -> Dialled {
        Dialled::new(self.target(), self.authority.client(Some(identity)))
    }

    /// The zone's end of the next session.
    async fn joined(&self) -> (Arc<TestHost>, Peer) {
        let mut joined = self.joined.lock().await;
        time::timeout(LIMIT, joined.recv()).await.expect("somebody comes").unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A client that dials until it is dropped.
struct Dialled {
    host: Arc<TestHost>,
    stop: CancellationToken,
}

impl Dialled {
    fn new(target: Target, tls: Arc<ClientConfig>) -> Self {
        let handle = Handle::new();
        let (host, stop) = (proxy(&handle), CancellationToken::new());
        let dialled = Self { host: host.clone(), stop: stop.clone() };
        tokio::spawn(async move {
            client::connect_forever(&target, || tls.clone(), host, &handle, &options(), &stop).await;
        });
        dialled
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A proxy that speaks by hand.
struct Frugal {
    says: tokio::sync::mpsc::Sender<v1::Frame>,
    hears: tonic::Streaming<v1::Frame>,
    /// Chunks that came, and whether a batch is complete.
    parts: usize,
    is_whole: bool,
}

impl Frugal {
    async fn dial(site: &Site, identity: &Identity) -> Self {
        let stream = TcpStream::connect(site.address).await.unwrap();
        let tls = TlsConnector::from(site.authority.client(Some(identity)));
        let stream = TokioIo::new(tls.connect(server_name(), stream).await.unwrap());
        let stream = std::sync::Mutex::new(Some(stream));
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let stream = stream.lock().unwrap().take();
            std::future::ready(stream.ok_or_else(|| std::io::Error::other("it dials once")))
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://sync.tombolo.internal");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let (says, frames) = tokio::sync::mpsc::channel(4);
        let mut client = SyncClient::new(channel);
        let hears = client.connect(ReceiverStream::new(frames)).await.unwrap().into_inner();
        let mut peer = Self { says, hears, parts: 0, is_whole: false };
        peer.say(Frame::Hello(Hello { program: "1.2.3".to_owned(), ..Hello::default() })).await;
        peer
    }

    async fn say(&mut self, frame: Frame) {
        time::timeout(LIMIT, self.says.send(frame.into())).await.unwrap().unwrap();
    }

    /// Reads until so many chunks came in all.
    async fn chunks(&mut self, parts: usize) -> (usize, bool) {
        while self.parts < parts {
            self.until("a chunk", |frame| matches!(frame, Frame::Chunk(_))).await;
        }
        (self.parts, self.is_whole)
    }

    async fn until(&mut self, what: &str, fits: impl Fn(&Frame) -> bool) {
        loop {
            let frame = time::timeout(LIMIT, self.hears.message()).await;
            let frame = frame.unwrap_or_else(|_| panic!("{what} never came")).unwrap().unwrap();
            let Some(frame) = Frame::from_wire(frame).unwrap() else { continue };
            if let Frame::Chunk(chunk) = &frame {
                self.parts += 1;
                self.is_whole |= chunk.last.is_some();
            }
            if fits(&frame) {
                return;
            }
        }
    }
}

struct Door {
    authority: Arc<Authority>,
    join: tokio::sync::mpsc::UnboundedSender<(Arc<TestHost>, Peer)>,
}

impl Handler for Door {
    type Host = TestHost;

    async fn enrol(&self, enrolment: Enrolment) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        match enrolment.token.as_str() {
            "good" => Ok(self.authority.sign(&enrolment.csr_der, &enrolment.peer)),
            "spent" => Err(Refusal::Denied("the token has had all its uses".to_owned())),
            "later" => Err(Refusal::Unavailable("come back later".to_owned())),
            "panic" => panic!("as asked"),
            _ => Err(Refusal::Unauthenticated("this is not a token of ours".to_owned())),
        }
    }

    async fn connected(&self, peer: Peer, handle: Handle) -> Result<Arc<TestHost>, Refusal> {
        let leaf = peer.certificates[0].as_ref();
        if leaf.windows(6).any(|window| window == b"banned") {
            return Err(Refusal::Denied("your certificate is revoked".to_owned()));
        }
        let host = zone(&handle);
        let _ = self.join.send((host.clone(), peer));
        Ok(host)
    }
}

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "a test");
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn sign(&self, csr_der: &[u8], peer: &str) -> Vec<CertificateDer<'static>> {
        let request = CertificateSigningRequestDer::from(csr_der);
        let mut request = CertificateSigningRequestParams::from_der(&request).unwrap();
        let id = format!("spiffe://east.zone.tombolo.internal/{peer}");
        request.params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        vec![request.signed_by(&self.issuer).unwrap().der().clone()]
    }

    fn issue(&self, peer: &str, scheme: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let id = format!("{scheme}://east.zone.tombolo.internal/{peer}");
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        Identity { chain, key }
    }

    fn server(&self) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![SERVER.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf], der(&key))
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match identity {
            Some(identity) => {
                config.with_client_auth_cert(identity.chain.clone(), der(&identity.key)).unwrap()
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }
}

const SERVER: &str = "east.zone.tombolo.internal";

fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER).unwrap()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn der(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}
