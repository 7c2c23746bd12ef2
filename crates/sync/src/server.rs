//! The upper end of the hop: takes connections of zones or proxies, and runs a session for each stream.
//!
//! TLS is ours, not tonic's: the configuration may change at any moment, and what a connection proved is
//! handed to every call on it. Who shows no client certificate is a stranger: it may enrol, within a few
//! seconds and a few kilobytes, and nothing else.

mod connection;
mod strangers;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use proto::sync::v1;
use proto::sync::v1::sync_server::{Sync as SyncService, SyncServer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{self, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::{Instrument, info, info_span};

use crate::frame::{Frame, MAX_FRAME, MAX_NAME};
use crate::link::{self, Broken, Handle, Host, Peer, Transport};
use connection::Caller;

/// HTTP/2 pings: after twice this without an answer a connection is dead.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// The longest certificate request that is looked at, in bytes.
const MAX_CSR: usize = 16 << 10;
/// How many enrolments are worked on at once.
const ENROLMENTS: usize = 16;
/// How many enrolments a second are taken up, with bursts of twice as many; who comes sooner waits.
const ENROLMENTS_PER_SECOND: u32 = 500;
/// How long an enrolment waits for its turn.
const TURN_LIMIT: Duration = Duration::from_secs(5);
/// How long the program may take to enrol a stranger or to let a peer in.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How long closing connections may take at the end before they are cut.
const GRACE: Duration = Duration::from_secs(2);

/// What a program does with those who come.
pub trait Handler: Send + Sync + 'static {
    type Host: Host;

    /// Exchanges a token for a client certificate: the chain, leaf first.
    fn enrol(
        &self,
        enrolment: Enrolment,
    ) -> impl Future<Output = Result<Vec<CertificateDer<'static>>, Refusal>> + Send;

    /// A peer with a client certificate that TLS verified opens a session. The handle is its own, for this
    /// session alone; [`Handle::close`] ends it, such as when the credential is revoked.
    fn connected(
        &self,
        peer: Peer,
        handle: Handle,
    ) -> impl Future<Output = Result<Arc<Self::Host>, Refusal>> + Send;
}

/// What a stranger asks for.
#[derive(Clone)]
pub struct Enrolment {
    pub token: String,
    /// A PKCS #10 request in DER; of it only the public key counts.
    pub csr_der: Bytes,
    /// Who it wants to be: `zone/east`, `proxy/default/web-1` or `ingress/east-1`. Whether it may is for the
    /// token to say.
    pub peer: String,
    pub address: SocketAddr,
}

/// Why a peer is turned away. The text is for the peer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It did not prove who it is: a wrong, spent or expired token or certificate.
    #[error("{0}")]
    Unauthenticated(String),
    /// It is known, and may not.
    #[error("{0}")]
    Denied(String),
    /// What it sent makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Not now; later perhaps.
    #[error("{0}")]
    Unavailable(String),
}

#[derive(Clone, Debug)]
pub struct Options {
    pub session: link::Options,
    /// Connections with a client certificate.
    pub connections: u32,
    /// Connections that are still shaking hands or showed no client certificate; of one address, or IPv6 network,
    /// never more than remain for all others.
    pub strangers: u32,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
}

impl Options {
    pub fn new(session: link::Options) -> Self {
        Self { session, connections: 10_000, strangers: 256, handshake: Duration::from_secs(5) }
    }
}

/// Serves until `stop`, then says goodbye to every peer, waits for the hosts to finish storing, and returns.
///
/// The TLS configuration must offer ALPN `h2` and take client certificates without demanding them; a new
/// one counts for connections from then on.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    handler: Arc<H>,
    options: Options,
    stop: CancellationToken,
) -> io::Result<()> {
    let sessions = TaskTracker::new();
    // Outlives `stop` by the time that goodbyes need.
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    let permits = connection::Permits::new(options.connections, options.strangers);
    let (connections, incoming) = mpsc::channel(1);
    let accepting = connection::accept(
        listener,
        tls,
        permits.clone(),
        options.handshake,
        connections,
        cut.clone(),
        stop.clone(),
    );
    let under_way = options.session.limits.under_way;
    let service = Service {
        handler,
        session: options.session,
        generations: Generations::default(),
        sessions: sessions.clone(),
        enrolments: Semaphore::new(ENROLMENTS),
        pace: Pace::new(ENROLMENTS_PER_SECOND),
        stop: stop.clone(),
    };
    let service = SyncServer::new(service).max_decoding_message_size(MAX_FRAME);
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(Some(under_way))
        .initial_connection_window_size(Some(2 * under_way))
        .http2_max_header_list_size(16 << 10)
        .max_concurrent_streams(8)
        .add_service(service)
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming).map(Ok::<_, io::Error>),
            stop.clone().cancelled_owned(),
        );
    let goodbye = async {
        stop.cancelled().await;
        sessions.close();
        sessions.wait().await;
        time::sleep(GRACE).await;
        cut.cancel();
    };
    let serving = async {
        tokio::select! {
            served = serving => served.map_err(io::Error::other),
            () = goodbye => Ok(()),
        }
    };
    let ((), served) = tokio::join!(accepting, serving);
    cut.cancel();
    sessions.close();
    sessions.wait().await;
    let _ = time::timeout(GRACE, permits.all_returned()).await;
    served
}

struct Service<H> {
    handler: Arc<H>,
    session: link::Options,
    generations: Generations,
    sessions: TaskTracker,
    enrolments: Semaphore,
    pace: Pace,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl<H: Handler> SyncService for Service<H> {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::Frame, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<tonic::Streaming<v1::Frame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let caller = caller(&request)?;
        if caller.certificates.is_empty() {
            return Err(Status::unauthenticated("a session needs a client certificate; enrol first"));
        }
        let handle = Handle::once();
        let peer = Peer { certificates: caller.certificates.to_vec(), address: caller.address };
        let host = guard(self.handler.connected(peer, handle.clone())).await?;
        let (outgoing, frames) = mpsc::channel(1);
        let transport = Transport { incoming: incoming(request.into_inner()), outgoing };
        let (options, stop) = (self.session.clone(), self.stop.clone());
        let generation = self.generations.next();
        let span = info_span!("session", peer = %caller.address);
        let session = async move {
            let ended = link::run(host, &handle, transport, &options, generation, &stop).await;
            info!(%ended, "session over");
        };
        self.sessions.spawn(session.instrument(span));
        Ok(Response::new(Box::pin(link::frames(frames).map(|frame| Ok(frame.into())))))
    }

    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let address = caller(&request)?.address;
        let v1::EnrolRequest { token, csr_der, peer } = request.into_inner();
        if token.len() > MAX_TOKEN || csr_der.len() > MAX_CSR || peer.len() > MAX_NAME {
            return Err(Status::invalid_argument(
                "the token, the name or the certificate request is too long",
            ));
        }
        let turn = time::timeout(TURN_LIMIT, self.enrolments.acquire()).await;
        let Ok(Ok(_permit)) = turn else { return Err(busy()) };
        if !self.pace.admits(Instant::now()) {
            return Err(busy());
        }
        let chain = guard(self.handler.enrol(Enrolment { token, csr_der, peer, address })).await?;
        let chain_der = chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect();
        Ok(Response::new(v1::EnrolResponse { chain_der }))
    }
}

fn busy() -> Status {
    Status::resource_exhausted("too many enrolments at once; try again")
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("the caller is not known"))
}

/// Runs what the program does with a call, for a limited time; a panic in it ends the call and nothing else.
async fn guard<T>(call: impl Future<Output = Result<T, Refusal>>) -> Result<T, Status> {
    match time::timeout(CALL_LIMIT, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(result)) => result.map_err(Status::from),
        Ok(Err(_)) => Err(Status::internal("failed inside")),
        Err(_) => Err(Status::unavailable("took too long")),
    }
}

/// The frames of a stream; kinds that we do not know are skipped.
pub(crate) fn incoming(
    stream: tonic::Streaming<v1::Frame>,
) -> impl Stream<Item = Result<Frame, Broken>> + Send + Unpin {
    stream.filter_map(|received| {
        std::future::ready(match received {
            Ok(frame) => Frame::from_wire(frame).map_err(Broken::from).transpose(),
            Err(status) => Some(Err(Broken::Lost(status.message().to_owned()))),
        })
    })
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthenticated(why) => Status::unauthenticated(why),
            Refusal::Denied(why) => Status::permission_denied(why),
            Refusal::Invalid(why) => Status::invalid_argument(why),
            Refusal::Unavailable(why) => Status::unavailable(why),
        }
    }
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment")
            .field("peer", &self.peer)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Numbers sessions so that a later one has the higher number, also after a restart: microseconds of the
/// clock where they rise, one more than the last where they do not.
#[derive(Default)]
pub(crate) struct Generations(AtomicU64);

impl Generations {
    pub(crate) fn next(&self) -> u64 {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let clock = u64::try_from(clock.as_micros()).unwrap_or(u64::MAX);
        let later = |last: u64| clock.max(last + 1);
        later(
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(later(last))).unwrap_or(0),
        )
    }
}

/// Lets through so many a second, with bursts of twice as many.
struct Pace {
    each: Duration,
    /// When all that was let through would have come at an even pace.
    even: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second, even: Mutex::new(None) }
    }

    fn admits(&self, now: Instant) -> bool {
        let mut even = self.even.lock().unwrap_or_else(PoisonError::into_inner);
        let next = even.map_or(now, |even| even.max(now)) + self.each;
        let admitted = next.duration_since(now) <= Duration::from_secs(2);
        if admitted {
            *even = Some(next);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_an_even_pace() {
        let (pace, start) = (Pace::new(10), Instant::now());
        let burst = (0..100).filter(|_| pace.admits(start)).count();
        assert_eq!(burst, 20);
        assert!(!pace.admits(start + Duration::from_millis(50)));
        assert!(pace.admits(start + Duration::from_millis(101)));
        assert!(!pace.admits(start + Duration::from_millis(102)));
    }

    #[test]
    fn generations_rise() {
        let generations = Generations::default();
        let mut last = 0;
        for _ in 0..1000 {
            let next = generations.next();
            assert!(next > last);
            last = next;
        }
    }
}
