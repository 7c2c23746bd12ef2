//! Who we are and whom we believe, and handshakes with other proxies by that.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{
    Alpn, Role, Svid, TlsError, TrustStore, WorkloadPeer, peer_of, workload_client, workload_server,
};
use model::{Protocol, SpiffeId};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time;
use tokio_rustls::{TlsAcceptor, server};

/// The TLS configurations of one identity under one trust: made once, and shared by all connections.
#[derive(Debug)]
pub struct Credentials {
    pub id: SpiffeId,
    pub not_after: SystemTime,
    pub trust: Arc<TrustStore>,
    pub(crate) client_http: Arc<ClientConfig>,
    /// For connections that may switch to another protocol.
    pub(crate) client_http1: Arc<ClientConfig>,
    pub(crate) client_tcp: Arc<ClientConfig>,
    server_http: Arc<ServerConfig>,
    server_tcp: Arc<ServerConfig>,
}

impl Credentials {
    pub fn new(svid: &Svid, trust: Arc<TrustStore>) -> Result<Self, TlsError> {
        Ok(Self {
            id: svid.id().clone(),
            not_after: svid.not_after(),
            client_http: workload_client(svid, trust.clone(), Alpn::H2)?,
            client_http1: workload_client(svid, trust.clone(), Alpn::Http1)?,
            client_tcp: workload_client(svid, trust.clone(), Alpn::Tcp)?,
            server_http: workload_server(svid, trust.clone(), &[Alpn::H2, Alpn::Http1])?,
            server_tcp: workload_server(svid, trust.clone(), &[Alpn::Tcp])?,
            trust,
        })
    }

    /// The declared protocol decides what an inbound takes; a peer that offers other things only is
    /// refused by TLS.
    pub(crate) fn server(&self, protocol: Protocol) -> &Arc<ServerConfig> {
        if protocol.is_http() { &self.server_http } else { &self.server_tcp }
    }
}

/// Why a peer was not let in. It has not been asked anything, nor has the application.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("no handshake within {0:?}")]
    TooSlow(Duration),
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the peer's trust domain is not known any more")]
    Unknown,
}

/// A connection from a peer that proved who it is.
#[derive(Debug)]
pub struct Accepted<T> {
    pub stream: server::TlsStream<T>,
    pub peer: WorkloadPeer,
    /// None where the peer offered nothing.
    pub alpn: Option<Alpn>,
}

/// The server's side of a handshake.
pub async fn accept<T>(
    stream: T,
    protocol: Protocol,
    credentials: &Credentials,
    limit: Duration,
) -> Result<Accepted<T>, AcceptError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(credentials.server(protocol).clone()).accept(stream);
    let stream = match time::timeout(limit, handshake).await {
        Ok(done) => done.map_err(AcceptError::Handshake)?,
        Err(_) => return Err(AcceptError::TooSlow(limit)),
    };
    let state = stream.get_ref().1;
    let peer = peer_of(state.peer_certificates(), &credentials.trust, SystemTime::now(), Role::Client)
        .ok_or(AcceptError::Unknown)?;
    let alpn = agreed(state);
    Ok(Accepted { stream, peer, alpn })
}

pub(crate) fn agreed(state: &CommonState) -> Option<Alpn> {
    state.alpn_protocol().and_then(Alpn::from_bytes)
}
