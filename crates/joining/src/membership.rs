//! Joins, stays joined, and keeps what that takes.

use std::future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{
    CertificateError, Credential, OutOfTime, PEER_RENEWAL, Peer, PeerError, Pin, PrivateKey, ServerRole,
    SvidError, TlsError, certificates_from_pem, control_tls, peer_from_certificate, utc,
};
use runtime::Clock;
use rustls::pki_types::CertificateDer;
use sync::client::{self, DialError, Target};
use sync::link::{self, Handle, Host};
use sync::session::AskError;
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::kept::{Keep, Kept};
use crate::spread::spread;
use crate::step::{Experience, Held, NoWay, Shown, Step, step};
use crate::token::{NoToken, Token};
use crate::watched::{Attempts, Watched};

/// The question by which a peer that joined asks for its next client certificate. Its body is a PKCS#10
/// request in DER, its answer a chain in PEM.
pub const CLIENT_CERTIFICATE: &str = "client-certificate";

/// The question by which a sidecar asks for its next workload certificate. Its body is a PKCS#10 request in DER,
/// its answer a chain in PEM.
pub const CERTIFICATE: &str = "certificate";

/// Who joins where, and by what.
#[derive(Clone)]
pub struct Joining {
    pub peer: Peer,
    /// `host:port`; says nothing about who must answer there.
    pub address: String,
    /// Read at each attempt; may be gone once the peer has joined.
    pub token_file: PathBuf,
    pub clock: Clock,
}

/// The standing of one peer at one control plane.
pub struct Membership<K> {
    joining: Joining,
    keep: K,
    kept: watch::Sender<Option<Arc<Kept>>>,
}

/// Why an attempt to join, or to renew, came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    NoWay(#[from] NoWay),
    #[error("the token was not exchanged")]
    Dial(#[from] DialError),
    #[error("no new certificate was given")]
    Asked(#[from] AskError),
    #[error("the certificate that was given cannot be read")]
    Certificate(#[from] CertificateError),
    #[error("the certificate that was given does not fit the key")]
    Svid(#[from] SvidError),
    #[error("the certificate that was given is no client certificate")]
    NotAPeer(#[from] PeerError),
    #[error("the certificate that was given is of {found}, not of {wanted}")]
    AnotherPeer { found: Peer, wanted: Peer },
    #[error("the certificate that was given is of no use: {0}")]
    OutOfTime(#[from] OutOfTime),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// After the control plane refused a token for good: it is looked for another, every so often.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// After a renewal that failed; there is two thirds of a certificate's life for the next ones.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);
/// The time of day may be set meanwhile, so waiting for one is done in pieces.
const PIECE: Duration = Duration::from_secs(60 * 60);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

impl Joining {
    /// By the system's clock.
    pub fn new(peer: Peer, address: impl Into<String>, token_file: impl Into<PathBuf>) -> Self {
        Self { peer, address: address.into(), token_file: token_file.into(), clock: Clock::system() }
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }
}

impl<K: Keep> Membership<K> {
    /// Takes up what was kept. Joins nothing yet.
    pub async fn open(joining: Joining, keep: K) -> anyhow::Result<Self> {
        let kept = keep.load().await?.map(Arc::new);
        Ok(Self { joining, keep, kept: watch::Sender::new(kept) })
    }

    pub fn peer(&self) -> &Peer {
        &self.joining.peer
    }

    /// Where the control plane is, as `host:port`.
    pub fn address(&self) -> &str {
        &self.joining.address
    }

    /// What lets this peer in; none before it joined for the first time.
    pub fn kept(&self) -> Option<Arc<Kept>> {
        self.kept.borrow().clone()
    }

    /// Its newest certificate, as it is renewed.
    pub fn follow(&self) -> watch::Receiver<Option<Arc<Kept>>> {
        self.kept.subscribe()
    }

    /// The control plane that this peer joined, such as its zone. Known whenever there is a session.
    pub fn server(&self) -> Option<ServerRole> {
        self.kept.borrow().as_ref().map(|kept| kept.server.clone())
    }

    /// Where this membership is kept.
    pub fn keep(&self) -> &K {
        &self.keep
    }

    /// Stays in a session with the control plane until `stop`: joins if need be, dials again after each end,
    /// renews its certificate. The host is told of failures by [`Host::unreachable`] and [`Host::has_no_way`].
    ///
    /// Must not be dropped before it is done, or what the host is storing may outlive it: cancel `stop`.
    pub async fn run<H: Host>(
        &self,
        host: Arc<H>,
        handle: &Handle,
        options: &link::Options,
        stop: &CancellationToken,
    ) {
        let mut experience = Experience::default();
        let mut failures = 0;
        let mut last = String::new();
        while !stop.is_cancelled() {
            let token = self.token().await;
            let shown = token.as_ref().ok().map(|token| token.digest.clone());
            let entered = tokio::select! {
                () = stop.cancelled() => break,
                entered = Box::pin(self.enter(token, &mut experience)) => entered,
            };
            let error = match entered {
                Ok(kept) => {
                    (failures, last) = (0, String::new());
                    Box::pin(self.dial(&kept, &host, handle, options, &mut experience, stop)).await;
                    continue;
                }
                Err(error) => error,
            };
            let text = causes(&error);
            if text != last {
                warn!(peer = %self.joining.peer, address = self.joining.address, error = text, "cannot join");
                last = text;
            }
            match &error {
                JoinError::Dial(error) => host.unreachable(error),
                JoinError::NoWay(_) => host.has_no_way(&last),
                _ => {}
            }
            failures += 1;
            let _ = stop.run_until_cancelled(self.pause(&error, failures, shown.as_ref())).await;
        }
    }

    /// Has a certificate in the end, or says why not.
    async fn enter(
        &self,
        token: Result<Token, NoToken>,
        experience: &mut Experience,
    ) -> Result<Arc<Kept>, JoinError> {
        let kept = self.kept();
        match (self.step(kept.as_deref(), token.as_ref().ok(), experience), kept, token) {
            (Step::Dial, Some(kept), _) => Ok(kept),
            (Step::Enrol { otherwise_dial }, kept, Ok(token)) => match (self.enrol(&token).await, kept) {
                (Ok(kept), _) => {
                    *experience = Experience::default();
                    Ok(kept)
                }
                (Err(error), Some(kept)) if otherwise_dial => {
                    let text = causes(&error);
                    warn!(peer = %self.joining.peer, error = text, "the new token helps nothing");
                    if is_final(&error) {
                        experience.spent = Some(token.digest);
                    }
                    experience.turned_away = false;
                    Ok(kept)
                }
                (Err(error), _) => Err(error),
            },
            (_, kept, token) => {
                let peer = self.joining.peer.clone();
                let source = token.err().expect("with a token there is a way");
                let kept = kept.filter(|kept| kept.peer == peer);
                Err(match kept {
                    None => NoWay::NeverJoined { peer, source },
                    Some(_) => NoWay::Ended { peer, source },
                }
                .into())
            }
        }
    }

    async fn enrol(&self, token: &Token) -> Result<Arc<Kept>, JoinError> {
        let target = self.target(&token.server);
        let tls = control_tls::client_config(token.pin, token.server.clone(), None)?;
        let key = PrivateKey::generate();
        let peer = self.joining.peer.to_string();
        let chain = client::enrol(&target, tls, token.expose(), key.request().der(), &peer).await?;
        let kept = self.accept(chain, &key, &token.server, token.pin, &token.digest).await?;
        info!(%peer, server = %token.server, address = target.address, "joined");
        Ok(kept)
    }

    /// Dials until `stop`, or until something else than dialling is to be done.
    async fn dial<H: Host>(
        &self,
        kept: &Kept,
        host: &Arc<H>,
        handle: &Handle,
        options: &link::Options,
        experience: &mut Experience,
        stop: &CancellationToken,
    ) {
        let (attempts, failing) = watch::channel(Attempts::default());
        let watched = Arc::new(Watched { host: host.clone(), attempts });
        let target = self.target(&kept.server);
        let round = stop.child_token();
        let tls = || self.kept().map_or_else(|| kept.client_config(), |kept| kept.client_config());
        let dialling = client::connect_forever(&target, tls, watched, handle, options, &round);
        let beside = async {
            tokio::select! {
                () = self.reconsider(failing, experience) => round.cancel(),
                () = self.renew(handle) => {}
            }
            // Dialling ends by itself, or what the host is storing would be left alone.
            future::pending::<()>().await;
        };
        tokio::select! {
            () = dialling => {}
            () = beside => {}
        }
    }

    /// Looks at the token file after each failure. Done when the file, or the time, asks for another step.
    async fn reconsider(&self, mut failing: watch::Receiver<Attempts>, experience: &mut Experience) {
        while let Ok(attempts) = failing.wait_for(|attempts| attempts.failed > 0).await.map(|now| *now) {
            experience.turned_away = attempts.turned_away;
            let (token, kept) = (self.token().await, self.kept());
            if self.step(kept.as_deref(), token.as_ref().ok(), experience) != Step::Dial {
                return;
            }
            if failing.wait_for(|now| *now != attempts).await.is_err() {
                break;
            }
        }
        future::pending().await
    }

    /// Asks for the next certificate when a third of the life of this one is over, for ever.
    async fn renew(&self, handle: &Handle) {
        while let Some(kept) = self.kept() {
            let due = kept.credential().renew_at(PEER_RENEWAL, rand::random_range(0.0..1.0));
            self.wait_until(due).await;
            if handle.peer().is_none() {
                handle.connected().await;
                let ends = kept.credential().validity().not_after;
                let left = ends.duration_since(self.joining.now()).unwrap_or_default();
                time::sleep(spread(left, rand::random_range(0.0..1.0))).await;
            }
            match self.renewed(&kept, handle).await {
                Ok(next) => {
                    let until = utc(next.credential().validity().not_after);
                    info!(peer = %self.joining.peer, until, "renewed");
                }
                Err(error) => {
                    warn!(peer = %self.joining.peer, error = causes(&error), "the certificate is not renewed yet");
                    time::sleep(RENEWAL_PAUSE.mul_f64(rand::random_range(0.5..1.0))).await;
                }
            }
        }
    }

    async fn renewed(&self, kept: &Kept, handle: &Handle) -> Result<Arc<Kept>, JoinError> {
        let key = PrivateKey::generate();
        let answer = handle.ask(CLIENT_CERTIFICATE, key.request().der().to_vec(), ANSWER_LIMIT).await?;
        let chain = certificates_from_pem(&String::from_utf8_lossy(&answer))?;
        self.accept(chain, &key, &kept.server, kept.pin, &kept.token).await
    }

    /// Takes a certificate that was given as ours, and keeps it.
    async fn accept(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKey,
        server: &ServerRole,
        pin: Pin,
        token: &str,
    ) -> Result<Arc<Kept>, JoinError> {
        let wanted = &self.joining.peer;
        let found = peer_from_certificate(chain.first().ok_or(CertificateError::Empty)?, server)?;
        if found != *wanted {
            return Err(JoinError::AnotherPeer { found, wanted: wanted.clone() });
        }
        let credential = Credential::new(chain, key)?;
        credential.check_fresh(PEER_RENEWAL, self.joining.now())?;
        let kept = Kept::new(wanted.clone(), server.clone(), pin, token.to_owned(), credential)?;
        let kept = Arc::new(kept);
        // Serving comes first: what is not kept costs a token after a restart.
        if let Err(error) = self.keep.save(&kept).await {
            warn!(peer = %wanted, error = format!("{error:#}"), "the certificate cannot be kept");
        }
        self.kept.send_replace(Some(kept.clone()));
        Ok(kept)
    }

    fn step(&self, kept: Option<&Kept>, token: Option<&Token>, experience: &Experience) -> Step {
        let (held, shown) = (kept.map(Held::from), token.map(Shown::from));
        step(&self.joining.peer, held.as_ref(), shown.as_ref(), experience, self.joining.now())
    }

    async fn token(&self) -> Result<Token, NoToken> {
        let Joining { peer, token_file, .. } = self.joining.clone();
        let reading = tokio::task::spawn_blocking(move || Token::read(&token_file, &peer));
        reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn target(&self, server: &ServerRole) -> Target {
        Target { address: self.joining.address.clone(), server_name: server.tls_name() }
    }

    /// Before the next attempt. A token that was refused stays refused, but the file may get another.
    async fn pause(&self, error: &JoinError, failures: u32, refused: Option<&String>) {
        if matches!(error, JoinError::NoWay(_)) {
            return time::sleep(LOOK).await;
        }
        if !is_final(error) {
            let doubled = SHORTEST_PAUSE * 2_u32.pow(failures.saturating_sub(1).min(8));
            return time::sleep(doubled.min(LONGEST_PAUSE).mul_f64(rand::random_range(0.5..=1.0))).await;
        }
        let replaced = async {
            while self.token().await.ok().map(|token| token.digest).as_ref() == refused {
                time::sleep(LOOK).await;
            }
        };
        let _ = time::timeout(REFUSED_PAUSE.mul_f64(rand::random_range(0.5..=1.0)), replaced).await;
    }

    async fn wait_until(&self, due: SystemTime) {
        while let Ok(left) = due.duration_since(self.joining.now())
            && !left.is_zero()
        {
            time::sleep(left.min(PIECE)).await;
        }
    }
}

/// Whether trying the same again is of little use.
fn is_final(error: &JoinError) -> bool {
    match error {
        JoinError::Dial(error) => error.is_final(),
        _ => true,
    }
}

/// An error with all its causes, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
