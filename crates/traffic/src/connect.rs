//! Connects to an endpoint, and says when a connection is established.
//!
//! In TLS 1.3 the client finishes first: its handshake succeeds even when the server is about to refuse the
//! client's certificate. So a connection counts only when the peer's first word came: the status byte of a
//! `tombolo-tcp` connection, or the first decrypted byte (the SETTINGS) of an `h2` one. Nothing of the
//! application's is sent before.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use identity::{Alpn, Role, TrustStore, WorkloadPeer, WrongServer, expecting, peer_of, sni};
use model::{DestinationId, SpiffeId};
use rustls::ClientConfig;
use snapshot::parts::{Destination, Endpoint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::listen::keep_alive;
use crate::standing::Watch;
use crate::tls::agreed;
use crate::transport::Transport;

/// Why no connection to a service came about. No byte of the application's has left the proxy yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{destination} is not known here")]
    UnknownDestination { destination: DestinationId },
    #[error("no endpoint of {destination} is available")]
    NoEndpoint { destination: DestinationId },
    #[error("{endpoint} did not accept the connection within {limit:?}")]
    TimedOut { endpoint: SocketAddr, limit: Duration },
    #[error("could not reach {endpoint}")]
    Unreachable { endpoint: SocketAddr, source: io::Error },
    #[error("'{sni}' of {endpoint} is not a handle")]
    NotAHandle { endpoint: SocketAddr, sni: String },
    #[error("the handshake with {endpoint} failed")]
    Handshake { endpoint: SocketAddr, source: io::Error },
    #[error("{endpoint} proved to be {found}, not {wanted}")]
    WrongIdentity { endpoint: SocketAddr, found: SpiffeId, wanted: SpiffeId },
    #[error("{endpoint} did not agree on a protocol")]
    NoProtocol { endpoint: SocketAddr },
    #[error("{endpoint} ended the connection before it was established")]
    NotEstablished { endpoint: SocketAddr, source: io::Error },
    #[error("{endpoint} denies us")]
    Denied { endpoint: SocketAddr },
    #[error("{endpoint} does not reach its application, or drains")]
    Refused { endpoint: SocketAddr },
    #[error("connecting to {endpoint} was given up")]
    GivenUp { endpoint: SocketAddr },
}

impl ConnectError {
    /// Whether another endpoint may be tried.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::TimedOut { .. }
            | Self::Unreachable { .. }
            | Self::NotAHandle { .. }
            | Self::Handshake { .. }
            | Self::WrongIdentity { .. }
            | Self::NoProtocol { .. }
            | Self::NotEstablished { .. }
            | Self::Refused { .. }
            | Self::GivenUp { .. } => true,
            // An answer, not a failure: all instances have the same rules.
            Self::Denied { .. } => false,
            Self::UnknownDestination { .. } | Self::NoEndpoint { .. } => false,
        }
    }

    /// One word for clients, metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownDestination { .. } => "destination-unknown",
            Self::NoEndpoint { .. } => "no-endpoint",
            Self::TimedOut { .. } => "connect-timeout",
            Self::Unreachable { .. } => "unreachable",
            Self::NotAHandle { .. } => "bad-handle",
            Self::Handshake { .. } => "handshake-failed",
            Self::WrongIdentity { .. } => "wrong-identity",
            Self::NoProtocol { .. } => "no-protocol",
            Self::NotEstablished { .. } => "not-established",
            Self::Denied { .. } => "denied",
            Self::Refused { .. } => "refused",
            Self::GivenUp { .. } => "given-up",
        }
    }
}

/// The first byte of a `tombolo-tcp` connection, from the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    Connected,
    Denied,
    Unreachable,
    Draining,
}

impl Status {
    pub fn as_byte(self) -> u8 {
        self as u8
    }

    /// A code of a later version reads as one that another endpoint may not give.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Connected,
            1 => Self::Denied,
            3 => Self::Draining,
            _ => Self::Unreachable,
        }
    }
}

/// A finished handshake with a peer that is whom we expected. It is not established yet.
#[derive(Debug)]
pub struct Secured<T> {
    pub stream: TlsStream<T>,
    pub peer: WorkloadPeer,
}

/// A TCP connection, set up as all of ours are.
pub async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    Ok(stream)
}

/// The TCP connection to an endpoint.
pub(crate) async fn reach(endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    let address = endpoint.address;
    dial(address).await.map_err(|source| ConnectError::Unreachable { endpoint: address, source })
}

/// The handshake with an endpoint, and whether the peer is the one that the destination lists and the
/// endpoint names.
pub async fn secure<T>(
    stream: T,
    endpoint: &Endpoint,
    destination: &Destination,
    config: &ClientConfig,
    trust: &Arc<TrustStore>,
) -> Result<Secured<T>, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let address = endpoint.address;
    let name = sni(&endpoint.sni)
        .map_err(|_| ConnectError::NotAHandle { endpoint: address, sni: endpoint.sni.clone() })?;
    let wrong =
        |found| ConnectError::WrongIdentity { endpoint: address, found, wanted: endpoint.identity.clone() };
    // A signal can never add an identity, so nobody is even asked who it is.
    if !destination.identities.contains(&endpoint.identity) {
        return Err(wrong(endpoint.identity.clone()));
    }
    let handshake_failed = |source: io::Error| {
        let tls = source.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match tls.and_then(WrongServer::of) {
            Some(WrongServer { found }) => wrong(found.clone()),
            None => ConnectError::Handshake { endpoint: address, source },
        }
    };
    let expecting = expecting(config, trust.clone(), endpoint.identity.clone());
    let stream = TlsConnector::from(expecting).connect(name, stream).await.map_err(handshake_failed)?;
    let state = stream.get_ref().1;
    let peer = peer_of(state.peer_certificates(), trust, SystemTime::now(), Role::Server)
        .ok_or_else(|| handshake_failed(io::Error::other("the peer's trust domain is not known any more")))?;
    if agreed(state).map(Alpn::as_bytes) != config.alpn_protocols.first().map(Vec::as_slice) {
        return Err(ConnectError::NoProtocol { endpoint: address });
    }
    Ok(Secured { stream, peer })
}

/// Reads the status byte of a `tombolo-tcp` connection.
pub async fn read_status(
    stream: &mut (impl AsyncRead + Unpin),
    endpoint: SocketAddr,
) -> Result<(), ConnectError> {
    let status =
        stream.read_u8().await.map_err(|source| ConnectError::NotEstablished { endpoint, source })?;
    match Status::from_byte(status) {
        Status::Connected => Ok(()),
        Status::Denied => Err(ConnectError::Denied { endpoint }),
        Status::Unreachable | Status::Draining => Err(ConnectError::Refused { endpoint }),
    }
}

/// Everything that must happen before a connection is established, within the destination's limit.
pub async fn within<T>(
    destination: &Destination,
    endpoint: SocketAddr,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    let limit = destination.connection_timeout.into();
    match time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(ConnectError::TimedOut { endpoint, limit }),
    }
}

/// Tells when the first byte came, and ends in a reset when its standing is revoked.
#[derive(Debug)]
pub(crate) struct Guarded<T> {
    stream: T,
    first_byte: Option<oneshot::Sender<()>>,
    watch: Watch,
}

impl<T: Transport> Guarded<T> {
    pub(crate) fn new(stream: T, watch: Watch) -> Self {
        Self { stream, first_byte: None, watch }
    }

    /// As [`Self::new`]; the receiver fails if the stream ends without a byte.
    pub(crate) fn with_first_byte(stream: T, watch: Watch) -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self { stream, first_byte: Some(sender), watch }, receiver)
    }

    fn check(&self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.watch.poll_revoked(cx).is_ready() {
            self.stream.reset_on_drop();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl<T: Transport> Transport for Guarded<T> {
    fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }
}

impl<T: Transport> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before
            && let Some(first_byte) = self.first_byte.take()
        {
            // Whoever waited may have given up.
            let _ = first_byte.send(());
        }
        read
    }
}

impl<T: Transport> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use model::Protocol;
    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    use super::*;
    use crate::fixture::{CART, CATALOG, Pipe, WEB, World, destination, endpoint, nowhere};
    use crate::tls::{Accepted, accept};

    const LIMIT: Duration = Duration::from_secs(5);

    /// Both ends of a handshake between the web in the east and the catalog in the west.
    async fn shake_hands(
        world: &World,
        expected: &str,
        listed: &[&str],
        offered: Protocol,
    ) -> (Result<Secured<Pipe>, ConnectError>, Result<Accepted<Pipe>, crate::tls::AcceptError>) {
        let web = world.credentials(&world.east, WEB);
        let catalog = world.credentials(&world.west, CATALOG);
        let (near, far) = Pipe::pair(64 * 1024);
        let (endpoint, part) = (endpoint(nowhere(), expected), destination(Protocol::Tcp, listed, LIMIT));
        tokio::join!(
            secure(near, &endpoint, &part, &web.client_tcp, &web.trust),
            accept(far, offered, &catalog, LIMIT)
        )
    }

    #[tokio::test]
    async fn both_sides_learn_who_the_other_is() {
        let (client, server) = shake_hands(&World::new(), CATALOG, &[CATALOG], Protocol::Tcp).await;
        assert_eq!(client.unwrap().peer.id.as_str(), CATALOG);
        let server = server.unwrap();
        assert_eq!((server.peer.id.as_str(), server.peer.zone.as_str()), (WEB, "east"));
        assert_eq!(server.alpn, Some(Alpn::Tcp));
    }

    #[tokio::test]
    async fn a_peer_counts_only_if_the_endpoint_names_it_and_the_destination_lists_it() {
        let world = World::new();
        for (expected, listed) in [(CART, &[CATALOG, CART][..]), (CATALOG, &[CART]), (CATALOG, &[])] {
            let (client, _) = shake_hands(&world, expected, listed, Protocol::Tcp).await;
            assert!(
                matches!(client, Err(ConnectError::WrongIdentity { .. })),
                "{expected} {listed:?}: {client:?}"
            );
        }
    }

    #[tokio::test]
    async fn tls_refuses_a_protocol_that_the_inbound_does_not_take() {
        let (client, server) = shake_hands(&World::new(), CATALOG, &[CATALOG], Protocol::Http).await;
        assert!(matches!(client, Err(ConnectError::Handshake { .. })), "{client:?}");
        assert!(server.is_err());
    }

    #[tokio::test]
    async fn a_client_that_is_not_believed_learns_so_after_its_handshake() {
        let world = World::new();
        let web = world.credentials(&world.east, WEB);
        let distrustful = world.believing(&[("west", &world.west)], &world.west, CATALOG);
        let (near, far) = Pipe::pair(64 * 1024);
        let (endpoint, part) = (endpoint(nowhere(), CATALOG), destination(Protocol::Tcp, &[CATALOG], LIMIT));
        let client = async {
            let mut secured = secure(near, &endpoint, &part, &web.client_tcp, &web.trust)
                .await
                .expect("TLS 1.3 lets the client finish first");
            read_status(&mut secured.stream, nowhere()).await
        };
        let (client, server) =
            tokio::join!(client, async { accept(far, Protocol::Tcp, &distrustful, LIMIT).await.map(drop) });
        assert!(matches!(client, Err(ConnectError::NotEstablished { .. })), "{client:?}");
        assert!(server.is_err());
    }

    #[tokio::test]
    async fn a_status_byte_says_what_became_of_a_connection() {
        let reason = |outcome: Result<(), ConnectError>| outcome.map_err(|error| error.reason());
        let cases = [
            (&[0][..], Ok(())),
            (&[1], Err("denied")),
            (&[2], Err("refused")),
            (&[3], Err("refused")),
            (&[77], Err("refused")),
            (&[], Err("not-established")),
        ];
        for (bytes, want) in cases {
            let (mut near, mut far) = tokio::io::duplex(8);
            far.write_all(bytes).await.unwrap();
            drop(far);
            assert_eq!(reason(read_status(&mut near, nowhere()).await), want, "{bytes:?}");
        }
        let codes = [Status::Connected, Status::Denied, Status::Unreachable, Status::Draining];
        assert_eq!(codes.map(Status::as_byte), [0, 1, 2, 3]);
        assert_eq!(codes.map(|code| Status::from_byte(code.as_byte())), codes);
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_covers_the_wait_for_the_first_word() {
        let part = destination(Protocol::Tcp, &[CATALOG], LIMIT);
        let (mut near, _silent) = tokio::io::duplex(8);
        let start = Instant::now();
        let outcome = within(&part, nowhere(), read_status(&mut near, nowhere())).await;
        assert!(matches!(outcome, Err(ConnectError::TimedOut { .. })));
        assert_eq!(start.elapsed(), LIMIT);
    }
}
