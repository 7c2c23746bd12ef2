//! Takes connections, shakes hands and watches over strangers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::debug;

use super::strangers::{self, Strangers};

/// What a stranger may send in all, in bytes: a token, a certificate request, and what carries them.
const STRANGER_BYTES: usize = 64 << 10;
/// How long a stranger may stay.
const STRANGER_TIME: Duration = Duration::from_secs(30);
/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Clone)]
pub(super) struct Caller {
    /// Verified by TLS; empty for a stranger.
    pub(super) certificates: Arc<[CertificateDer<'static>]>,
    pub(super) address: SocketAddr,
}

/// The places there are: for those with a client certificate, and for all others.
#[derive(Clone)]
pub(super) struct Permits {
    certified: (Arc<Semaphore>, u32),
    strangers: Strangers,
}

impl Permits {
    pub(super) fn new(certified: u32, strangers: u32) -> Self {
        let places = Arc::new(Semaphore::new(certified as usize));
        Self { certified: (places, certified), strangers: Strangers::new(strangers) }
    }

    /// Waits until every connection is gone.
    pub(super) async fn all_returned(&self) {
        let (places, all) = &self.certified;
        let _ = places.acquire_many(*all).await;
        self.strangers.all_gone().await;
    }
}

/// Accepts until `stop`. What does not speak TLS with ALPN `h2` in time is closed; everything else goes on.
pub(super) async fn accept(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    permits: Permits,
    limit: Duration,
    ready: mpsc::Sender<Connection>,
    cut: CancellationToken,
    stop: CancellationToken,
) {
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = handshakes.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "could not accept");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = permits.strangers.enter(address.ip()) else {
            debug!(%address, "too many strangers");
            continue;
        };
        let config = tls.borrow().clone();
        let (permits, ready, cut) = (permits.clone(), ready.clone(), cut.clone());
        handshakes.spawn(async move {
            let shaken = time::timeout(limit, shake_hands(stream, config)).await;
            let connection = match shaken {
                Ok(Ok(stream)) => Connection::new(stream, address, place, &permits, cut),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            match connection {
                Ok(connection) => {
                    let _ = ready.send(connection).await;
                }
                Err(error) => debug!(%address, %error, "no handshake"),
            }
        });
    }
    handshakes.shutdown().await;
}

async fn shake_hands(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(stream),
        _ => Err(io::Error::other("it does not speak HTTP/2")),
    }
}

/// Held for as long as the connection is.
enum Place {
    Certified(#[expect(dead_code, reason = "dropped at the end")] OwnedSemaphorePermit),
    Stranger(#[expect(dead_code, reason = "dropped at the end")] strangers::Place),
}

/// A TLS connection, with its place among the limited number of them.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    /// What a stranger may still send; none for others.
    allowance: Option<usize>,
    /// When the connection is cut, whatever goes on in it.
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: Place,
}

impl Connection {
    fn new(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        place: strangers::Place,
        permits: &Permits,
        cut: CancellationToken,
    ) -> io::Result<Self> {
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates: Arc<[_]> = certificates.iter().cloned().collect();
        let caller = Caller { certificates, address };
        if caller.certificates.is_empty() {
            let cut = async move {
                let _ = time::timeout(STRANGER_TIME, cut.cancelled()).await;
            };
            let allowance = Some(STRANGER_BYTES);
            return Ok(Self {
                stream,
                caller,
                allowance,
                cut: Box::pin(cut),
                _place: Place::Stranger(place),
            });
        }
        let Ok(permit) = permits.certified.0.clone().try_acquire_owned() else {
            return Err(io::Error::other("too many connections"));
        };
        let place = Place::Certified(permit);
        Ok(Self { stream, caller, allowance: None, cut: Box::pin(cut.cancelled_owned()), _place: place })
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            // A future must not be polled after its end.
            self.cut = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if let Some(allowance) = &mut self.allowance {
            match allowance.checked_sub(read) {
                Some(rest) => *allowance = rest,
                None => return Poll::Ready(Err(io::Error::other("a stranger sent too much"))),
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
