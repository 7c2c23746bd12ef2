//! Connections: TLS or nothing, bounded in number and time.
//!
//! Someone who speaks plain HTTP to this port is told so; other garbage is closed. Neither disturbs anyone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::gate::Known;

const MOST_CONNECTIONS: usize = 512;

/// How long each step of a connection may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    handshake: Duration,
    header: Duration,
    /// A connection on which nobody has shown a good token by then is closed.
    stranger: Duration,
    drain: Duration,
}

pub(crate) const LIMITS: Limits = Limits {
    handshake: Duration::from_secs(10),
    header: Duration::from_secs(15),
    stranger: Duration::from_secs(30),
    drain: Duration::from_secs(5),
};

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled, then lets requests that run finish.
///
/// `tls` should offer the protocols `h2` and `http/1.1`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async { (slots.clone().acquire_owned().await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    let _slot = slot;
                    if let Err(error) = connection(stream, acceptor, router, limits, stop).await {
                        debug!(%error, "api connection failed");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: some will be given back.
                warn!(%error, "cannot accept");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = time::timeout(limits.drain, drained).await;
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let opening = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        opening = time::timeout(limits.handshake, open(stream, acceptor)) => opening,
    };
    let Some(stream) = opening.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? else {
        return Ok(());
    };

    let known = Known::default();
    let service = {
        let known = known.clone();
        service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(known.clone());
            router.clone().oneshot(request.map(Body::new))
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let mut stranger = std::pin::pin!(time::sleep(limits.stranger));
    let mut judged = false;
    loop {
        tokio::select! {
            served = serving.as_mut() => return served.map_err(io::Error::other),
            () = stranger.as_mut(), if !judged => {
                if !known.get() {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody proved who they are"));
                }
                judged = true;
            }
            () = stop.cancelled() => break,
        }
    }
    serving.as_mut().graceful_shutdown();
    serving.await.map_err(io::Error::other)
}

/// The TLS connection, or nothing for someone who does not speak TLS.
async fn open(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
) -> io::Result<Option<tokio_rustls::server::TlsStream<TcpStream>>> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0].is_ascii_alphabetic() {
        // No TLS record begins so; requests in plain text do.
        stream.write_all(PLAIN_TEXT_ANSWER.as_bytes()).await?;
        stream.shutdown().await?;
        linger(stream).await;
        return Ok(None);
    }
    acceptor.accept(stream).await.map(Some)
}

/// Reads what still comes for a moment: closing with unread bytes would reset the connection, and the answer
/// might be lost with it.
async fn linger(stream: TcpStream) {
    let mut buffer = [0; 4096];
    let read = async {
        for _ in 0..16 {
            stream.readable().await?;
            match stream.try_read(&mut buffer) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        Ok::<_, io::Error>(())
    };
    let _ = time::timeout(Duration::from_secs(1), read).await;
}

const PLAIN_TEXT_ANSWER: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\n",
    "content-type: application/problem+json\r\n",
    "connection: close\r\n\r\n",
    r#"{"type":"/problems/plain-text","title":"This port speaks TLS","status":400,"#,
    r#""detail":"use https instead of http"}"#,
    "\n",
);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::extract::Request;
    use axum::routing::get;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio::io::AsyncReadExt;
    use tokio_rustls::TlsConnector;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    /// Knows whoever asks for `/known`.
    async fn start(limits: Limits) -> (SocketAddr, TlsConnector) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.clone()],
                PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()),
            )
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let known = get(|request: Request| async move {
            request.extensions().get::<Known>().unwrap().set();
            "welcome"
        });
        let router = Router::new().route("/known", known);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(server), router, limits, CancellationToken::new()));
        (address, TlsConnector::from(Arc::new(client)))
    }

    async fn ask(stream: &mut tokio_rustls::client::TlsStream<TcpStream>, path: &str) -> io::Result<String> {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
        let mut answer = vec![0; 1024];
        let read = stream.read(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
    }

    #[tokio::test]
    async fn who_does_not_finish_the_handshake_is_closed() {
        let (address, _) = start(Limits { handshake: SHORT, ..LIMITS }).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0);
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        assert_eq!(half.read(&mut [0; 1]).await.unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_connection_stays_open_only_for_those_who_are_known() {
        let (address, connector) = start(Limits { stranger: SHORT, ..LIMITS }).await;
        let name = ServerName::try_from("localhost").unwrap();
        let open = async || {
            let stream = TcpStream::connect(address).await.unwrap();
            connector.connect(name.clone(), stream).await.unwrap()
        };
        let (mut known, mut stranger) = (open().await, open().await);
        assert!(ask(&mut known, "/known").await.unwrap().ends_with("welcome"));
        // Answers keep nobody in: only a good token does.
        let asking =
            async { while ask(&mut stranger, "/other").await.is_ok_and(|answer| !answer.is_empty()) {} };
        time::timeout(LIMITS.handshake, asking).await.expect("a stranger is closed");
        assert!(
            ask(&mut known, "/known").await.unwrap().ends_with("welcome"),
            "still served, after the limit"
        );
    }
}
