//! The lower end of the hop: dials, and dials again for as long as it takes.

use std::future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use proto::sync::v1;
use proto::sync::v1::sync_client::SyncClient;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{self, Instant};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::frame::MAX_FRAME;
use crate::link::{self, Handle, Host, Transport};
use crate::server::{Generations, KEEP_ALIVE, incoming};
use crate::session::{Ended, Limits};

/// How long each step of connecting may take: name and TCP, TLS, the first answer.
const STEP_LIMIT: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A session that lasted this long was a success: the next pause is short again.
const SUCCESS: Duration = Duration::from_secs(5);

/// Whom to dial, and who must answer.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`; the name is resolved at each attempt.
    pub address: String,
    /// What the server's certificate must be for, by its role: never taken from the address.
    pub server_name: ServerName<'static>,
}

/// Why there is no session, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("could not reach {address}")]
    Unreachable { address: String, source: io::Error },
    #[error("no TLS with {address}")]
    Tls { address: String, source: io::Error },
    #[error("no HTTP/2 with {address}")]
    Http { address: String, source: tonic::transport::Error },
    #[error("{step} with {address} took longer than {STEP_LIMIT:?}")]
    TimedOut { address: String, step: &'static str },
    /// The server knows why it does not want us; it will not change its mind by itself.
    #[error("refused by {address}: {reason}")]
    Refused { address: String, reason: String },
    /// The server cannot now.
    #[error("{address} is not available: {reason}")]
    Unavailable { address: String, reason: String },
}

impl DialError {
    /// Whether the other side is not who it should be, or refuses us: trying the same again is of little use.
    pub fn is_final(&self) -> bool {
        match self {
            // What TLS refused, such as a certificate, is data; all else is the network's.
            Self::Tls { source, .. } => source.kind() == io::ErrorKind::InvalidData,
            Self::Refused { .. } => true,
            _ => false,
        }
    }
}

/// Keeps a session with the target until `stop`: after each end or failure it dials again, with jittered
/// pauses of at most 3 s. `tls` is asked at each attempt, and must offer ALPN `h2`.
pub async fn connect_forever<H: Host>(
    target: &Target,
    tls: impl Fn() -> Arc<ClientConfig>,
    host: Arc<H>,
    handle: &Handle,
    options: &link::Options,
    stop: &CancellationToken,
) {
    let generations = Generations::default();
    let mut failures = 0;
    while !stop.is_cancelled() {
        let start = Instant::now();
        let dialled = tokio::select! {
            () = stop.cancelled() => break,
            dialled = dial(target, tls(), options.limits.under_way) => dialled,
        };
        let outcome = match dialled {
            Ok(client) => session(client, target, &host, handle, options, &generations, stop).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(ended) => info!(address = target.address, %ended, "session over"),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, cause, "no session");
                host.unreachable(&error);
            }
        }
        failures = if start.elapsed() >= SUCCESS { 0 } else { failures + 1 };
        let pause = pause(failures, rand::random_range(0.5..=1.0));
        let _ = time::timeout(pause, stop.cancelled()).await;
    }
}

/// Exchanges a token for a client certificate: the chain, leaf first. `peer` says who to be: `zone/east`,
/// `proxy/default/web-1` or `ingress/east-1`.
pub async fn enrol(
    target: &Target,
    tls: Arc<ClientConfig>,
    token: &str,
    csr_der: &[u8],
    peer: &str,
) -> Result<Vec<CertificateDer<'static>>, DialError> {
    let mut client = dial(target, tls, Limits::PROXY.under_way).await?;
    let request = v1::EnrolRequest {
        token: token.to_owned(),
        csr_der: Bytes::copy_from_slice(csr_der),
        peer: peer.to_owned(),
    };
    let response = limited(target, "enrolling", client.enrol(request)).await?;
    let response = response.map_err(|status| refused(target, status))?.into_inner();
    Ok(response.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect())
}

async fn session<H: Host>(
    mut client: SyncClient<Channel>,
    target: &Target,
    host: &Arc<H>,
    handle: &Handle,
    options: &link::Options,
    generations: &Generations,
    stop: &CancellationToken,
) -> Result<Ended, DialError> {
    let (outgoing, frames) = mpsc::channel(1);
    let frames = link::frames(frames).map(v1::Frame::from);
    let response = limited(target, "the first answer", client.connect(frames)).await?;
    let stream = response.map_err(|status| refused(target, status))?.into_inner();
    let transport = Transport { incoming: incoming(stream), outgoing };
    Ok(link::run(host.clone(), handle, transport, options, generations.next(), stop).await)
}

async fn dial(
    target: &Target,
    tls: Arc<ClientConfig>,
    under_way: u32,
) -> Result<SyncClient<Channel>, DialError> {
    let address = || target.address.clone();
    let stream = limited(target, "connecting", TcpStream::connect(&target.address))
        .await?
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|source| DialError::Unreachable { address: address(), source })?;
    let stream = TlsConnector::from(tls).connect(target.server_name.clone(), stream);
    let stream = limited(target, "the TLS handshake", stream)
        .await?
        .map_err(|source| DialError::Tls { address: address(), source })?;
    let channel = limited(target, "the HTTP/2 handshake", Box::pin(channel(stream, under_way)))
        .await?
        .map_err(|source| DialError::Http { address: address(), source })?;
    Ok(SyncClient::new(channel).max_decoding_message_size(MAX_FRAME))
}

/// A channel over this one connection, which does not dial by itself.
async fn channel(stream: TlsStream<TcpStream>, under_way: u32) -> Result<Channel, tonic::transport::Error> {
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    // The authority means nothing: whom we speak to is proven by TLS.
    Endpoint::from_static("http://sync.tombolo.internal")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(under_way)
        .initial_connection_window_size(2 * under_way)
        .http2_max_header_list_size(16 << 10)
        .connect_with_connector(connector)
        .await
}

async fn limited<T>(
    target: &Target,
    step: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, DialError> {
    let done = time::timeout(STEP_LIMIT, work).await;
    done.map_err(|_| DialError::TimedOut { address: target.address.clone(), step })
}

fn refused(target: &Target, status: Status) -> DialError {
    let (address, reason) = (target.address.clone(), status.message().to_owned());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
            DialError::Refused { address, reason }
        }
        _ => DialError::Unavailable { address, reason },
    }
}

/// How long to wait after so many failures in a row; `dice` between 0.5 and 1 spreads those who failed
/// together.
fn pause(failures: u32, dice: f64) -> Duration {
    let doubled = SHORTEST_PAUSE * 2_u32.pow(failures.saturating_sub(1).min(8));
    doubled.min(LONGEST_PAUSE).mul_f64(dice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_three_seconds() {
        let millis: Vec<_> = (0..8).map(|failures| pause(failures, 1.0).as_millis()).collect();
        assert_eq!(millis, [100, 100, 200, 400, 800, 1600, 3000, 3000]);
        assert_eq!(pause(u32::MAX, 0.5), Duration::from_millis(1500));
    }
}
