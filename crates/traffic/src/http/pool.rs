//! The HTTP/2 connections to one endpoint: few, long-lived, opened by streams in flight.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::Shared as SharedFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use super::bounded::Open;
use super::edge::{CONNECTION_WINDOW, HEADER_LIST, KEEP_ALIVE, SEND_BUFFER, STREAM_WINDOW};
use super::upload::Upload;
use crate::connect::{ConnectError, Guarded, Secured, reach, secure, within};
use crate::outbound::{Destination, Endpoint};
use crate::standing::Standing;
use crate::tls::Credentials;
use crate::transport::Transport;
use crate::worker::Local;

/// Measured: with 128 streams in flight, four connections cost a fifth less per request than one.
pub(crate) const CONNECTIONS: usize = 4;
pub(crate) const STREAMS_BEFORE_ANOTHER: u32 = 64;

#[derive(Default)]
pub(crate) struct Pool {
    open: RefCell<Vec<Rc<Connection>>>,
    /// The attempt that is going on: everyone who has no connection waits for the same one.
    connecting: RefCell<Option<Attempt>>,
}

type Outcome = Result<Rc<Connection>, Rc<ConnectError>>;
type Attempt = SharedFuture<oneshot::Receiver<Outcome>>;

/// An established connection.
pub(crate) struct Connection {
    requests: SendRequest<Upload>,
    open: Rc<Open>,
    /// Whom it was made as.
    credentials: Arc<Credentials>,
}

impl Connection {
    fn is_open_for(&self, credentials: &Arc<Credentials>) -> bool {
        Arc::ptr_eq(&self.credentials, credentials) && !self.requests.is_closed()
    }

    /// Sends a request; the stream counts until its guard is dropped. A request that did not leave comes
    /// back in the error.
    pub(crate) fn send(
        self: &Rc<Self>,
        request: Request<Upload>,
    ) -> (impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> + use<>, Stream)
    {
        self.open.enter();
        (self.requests.clone().try_send_request(request), Stream(self.clone()))
    }
}

/// A stream of a connection, while it is open.
pub(crate) struct Stream(Rc<Connection>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.leave();
    }
}

impl Pool {
    /// The least busy connection, or a new one.
    pub(crate) async fn connection(
        endpoint: &Rc<Endpoint>,
        destination: &Rc<Destination>,
        credentials: &Arc<Credentials>,
    ) -> Outcome {
        let pool = &endpoint.pool;
        if let Some((connection, crowded)) = pool.least_busy(credentials) {
            if crowded && pool.connecting.borrow().is_none() {
                // It goes on by itself; this request has a connection.
                drop(Self::start(endpoint, destination, credentials));
            }
            return Ok(connection);
        }
        let going_on = pool.connecting.borrow().clone();
        let attempt = match going_on {
            Some(attempt) => attempt,
            None => Self::start(endpoint, destination, credentials),
        };
        match attempt.await {
            Ok(outcome) => outcome,
            Err(_the_task_is_gone) => {
                pool.connecting.borrow_mut().take();
                Err(Rc::new(ConnectError::GivenUp { endpoint: endpoint.part.address }))
            }
        }
    }

    /// Leaves connections that were made as someone we no longer are to their last streams, and forgets those
    /// that are closed.
    pub(crate) fn retire(&self, credentials: &Arc<Credentials>) {
        let mut open = self.open.borrow_mut();
        if !open.iter().all(|connection| connection.is_open_for(credentials)) {
            open.retain(|connection| connection.is_open_for(credentials));
        }
    }

    /// Also says whether another connection would help.
    fn least_busy(&self, credentials: &Arc<Credentials>) -> Option<(Rc<Connection>, bool)> {
        self.retire(credentials);
        let open = self.open.borrow();
        let least = open.iter().min_by_key(|connection| connection.open.requests())?;
        let crowded = least.open.requests() >= STREAMS_BEFORE_ANOTHER && open.len() < CONNECTIONS;
        Some((least.clone(), crowded))
    }

    /// A task of its own, so that it goes on when the request that asked for it does not.
    fn start(
        endpoint: &Rc<Endpoint>,
        destination: &Rc<Destination>,
        credentials: &Arc<Credentials>,
    ) -> Attempt {
        let (done, waiting) = oneshot::channel();
        let attempt = waiting.shared();
        *endpoint.pool.connecting.borrow_mut() = Some(attempt.clone());
        let (endpoint, destination, credentials) =
            (endpoint.clone(), destination.clone(), credentials.clone());
        destination.shared().tasks.clone().spawn_local(async move {
            let part = destination.part();
            let address = endpoint.part.address;
            let opening = Box::pin(open(&endpoint, &destination, &credentials));
            let outcome = within(&part, address, opening).await;
            endpoint.record(&outcome, destination.shared());
            let outcome = outcome.map_err(Rc::new);
            endpoint.pool.connecting.borrow_mut().take();
            // A drain leaves it to those who wait for it.
            if let Ok(connection) = &outcome
                && !destination.shared().ending.is_cancelled()
            {
                endpoint.pool.open.borrow_mut().push(connection.clone());
            }
            // Whoever waited may have given up.
            let _ = done.send(outcome);
        });
        attempt
    }
}

async fn open(
    endpoint: &Rc<Endpoint>,
    destination: &Rc<Destination>,
    credentials: &Arc<Credentials>,
) -> Result<Rc<Connection>, ConnectError> {
    let stream = reach(&endpoint.part).await?;
    let part = destination.part();
    let secured = secure(stream, &endpoint.part, &part, &credentials.client_http, &credentials.trust).await?;
    establish(secured, endpoint, destination, credentials).await
}

/// Starts HTTP/2, and waits for the peer's first word.
async fn establish<T: Transport + 'static>(
    secured: Secured<T>,
    endpoint: &Rc<Endpoint>,
    destination: &Rc<Destination>,
    credentials: &Arc<Credentials>,
) -> Result<Rc<Connection>, ConnectError>
where
    tokio_rustls::client::TlsStream<T>: Transport,
{
    let address = endpoint.part.address;
    let ended = |source| ConnectError::NotEstablished { endpoint: address, source };
    let (standing, entry) = destination.enter(secured.peer);
    let (stream, first_byte) = Guarded::with_first_byte(secured.stream, standing.watch());
    let tentative = Tentative(Some(standing));
    let (requests, connection) = Builder::new(Local)
        .timer(TokioTimer::new())
        // Nothing is sent before the peer's SETTINGS say that it is there.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_reset_streams(1024)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ended(io::Error::other(error)))?;
    let (ending, pooled) = (destination.shared().ending.clone(), Rc::downgrade(endpoint));
    let open = Rc::new(Open::new(&destination.shared().deadlines, &destination.part().timeouts));
    let carried = open.clone();
    destination.shared().tasks.spawn_local(async move {
        let _entry = entry;
        let mut connection = pin!(connection);
        // Whatever ends it, every request on it is told.
        tokio::select! {
            _ = &mut connection => return,
            () = ending.cancelled() => {}
            _ = carried.deadline.passed() => {}
        }
        // It says goodbye when nobody holds it: now, or after its last stream.
        if let Some(endpoint) = pooled.upgrade() {
            endpoint.pool.open.borrow_mut().retain(|pooled| !Rc::ptr_eq(&pooled.open, &carried));
        }
        let _ = connection.await;
    });
    first_byte.await.map_err(|_| ended(io::ErrorKind::UnexpectedEof.into()))?;
    tentative.keep();
    Ok(Rc::new(Connection { requests, open, credentials: credentials.clone() }))
}

/// Why nobody looked at a request, though it was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unprocessed {
    /// The other side said so of this request (RFC 9113 section 8.7).
    Refused,
    /// It came after the last one that the other side took from the connection (RFC 9113 section 6.8).
    GoneAway,
}

pub(crate) fn never_processed(error: &hyper::Error) -> Option<Unprocessed> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            // Streams that a GOAWAY did take end in another error, if they do.
            return match h2.reason() {
                _ if !h2.is_remote() => None,
                _ if h2.is_go_away() => Some(Unprocessed::GoneAway),
                Some(h2::Reason::REFUSED_STREAM) => Some(Unprocessed::Refused),
                _ => None,
            };
        }
        source = cause.source();
    }
    None
}

/// Cuts a connection off unless it is established: whoever waited may be gone.
struct Tentative(Option<Rc<Standing>>);

impl Tentative {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Tentative {
    fn drop(&mut self) {
        if let Some(standing) = self.0.take() {
            standing.revoke();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use model::{DestinationId, Protocol};
    use snapshot::parts::{self, Endpoints};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::ProxyConfig;
    use crate::fixture::{CART, CATALOG, Pipe, WEB, World, destination, endpoint, nowhere};
    use crate::outbound::Outbound;
    use crate::tls::accept;
    use crate::worker::Shared;

    const ID: &str = "ms_default_west__catalog_http";
    const LIMIT: Duration = Duration::from_secs(5);

    /// The web in the east, which knows the catalog at an address.
    fn web(
        world: &World,
        part: parts::Destination,
        at: std::net::SocketAddr,
    ) -> (Rc<Shared>, Outbound, ProxyConfig) {
        let credentials = world.credentials(&world.east, WEB);
        let id: DestinationId = ID.parse().unwrap();
        let config = ProxyConfig {
            outbound: Vec::new(),
            inbounds: BTreeMap::new(),
            destinations: BTreeMap::from([(id.clone(), Arc::new(part))]),
            credentials: credentials.clone(),
        };
        let shared = Rc::<Shared>::default();
        shared.credentials.replace(Some(credentials));
        let outbound = Outbound::new(shared.clone());
        outbound.set_endpoints(&id, Arc::new(Endpoints(vec![endpoint(at, CATALOG)])));
        outbound.apply(&config);
        (shared, outbound, config)
    }

    fn catalog(outbound: &Outbound) -> (Rc<Destination>, Rc<Endpoint>) {
        let destination = outbound.destination(&ID.parse().unwrap()).unwrap();
        let endpoint = destination.pick(&[]).unwrap();
        (destination, endpoint)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_not_established_before_the_peer_says_a_word() {
        let world = World::new();
        let catalog_credentials = world.credentials(&world.west, CATALOG);
        let part = destination(Protocol::Http, &[CATALOG], LIMIT);
        let (_, outbound, config) = web(&world, part.clone(), nowhere());
        let (destination, endpoint) = catalog(&outbound);
        let (near, far) = Pipe::pair(64 * 1024);
        let near_reset = near.reset.clone();
        let attempted = Box::pin(async {
            let credentials = &config.credentials;
            let shaken = async {
                tokio::join!(
                    secure(near, &endpoint.part, &part, &credentials.client_http, &credentials.trust),
                    accept(far, Protocol::Http, &catalog_credentials, LIMIT)
                )
            };
            let (secured, accepted) = shaken.await;
            let mut silent = accepted.unwrap().stream;
            let start = Instant::now();
            let attempt = establish(secured.unwrap(), &endpoint, &destination, credentials);
            let outcome = within(&part, nowhere(), attempt).await;
            assert!(matches!(outcome, Err(ConnectError::TimedOut { .. })));
            assert_eq!(start.elapsed(), LIMIT);
            // It was cut off: only HTTP/2's own preface has been sent, and no stream.
            let mut seen = Vec::new();
            let _ = silent.read_to_end(&mut seen).await;
            assert!(seen.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
            assert!(frames(&seen[24..]).iter().all(|frame| matches!(frame, 4 | 6 | 8)), "{seen:?}");
            assert!(near_reset.get());
        });
        LocalSet::new().run_until(attempted).await;
    }

    /// The types of the frames.
    fn frames(mut bytes: &[u8]) -> Vec<u8> {
        let mut types = Vec::new();
        while let [a, b, c, kind, ..] = *bytes {
            types.push(kind);
            bytes = &bytes[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
        }
        types
    }

    #[tokio::test]
    async fn waiting_requests_share_one_attempt_and_its_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = World::new();
        let part = destination(Protocol::Http, &[CATALOG], LIMIT);
        let (shared, outbound, config) = web(&world, part, listener.local_addr().unwrap());
        let (destination, endpoint) = catalog(&outbound);
        LocalSet::new()
            .run_until(async {
                let attempts =
                    (0..10).map(|_| Pool::connection(&endpoint, &destination, &config.credentials));
                let attempts = futures::future::join_all(attempts);
                let refusing = async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    stream.write_all(b"this is no TLS").await.unwrap();
                    // Nobody else comes.
                    assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
                };
                let (outcomes, ()) = tokio::join!(attempts, refusing);
                for outcome in outcomes {
                    assert_eq!(outcome.err().map(|error| error.reason()), Some("handshake-failed"));
                }
            })
            .await;
        let counters = shared.metrics.read();
        assert_eq!((counters.connect_failures, counters.ejections), (1, 1));
    }

    #[tokio::test]
    async fn a_drain_does_not_wait_for_a_connection_that_carries_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = World::new();
        let catalog_credentials = world.credentials(&world.west, CATALOG);
        let part = destination(Protocol::Http, &[CATALOG], LIMIT);
        let (shared, outbound, config) = web(&world, part, listener.local_addr().unwrap());
        let (to_catalog, endpoint) = catalog(&outbound);
        LocalSet::new()
            .run_until(async {
                let serving = tokio::task::spawn_local(async move {
                    let (stream, _) = listener.accept().await.unwrap();
                    let accepted = accept(stream, Protocol::Http, &catalog_credentials, LIMIT).await.unwrap();
                    let io = TokioIo::new(accepted.stream);
                    let service = hyper::service::service_fn(|_| async {
                        Ok::<_, std::convert::Infallible>(Response::new(String::new()))
                    });
                    hyper::server::conn::http2::Builder::new(Local).serve_connection(io, service).await
                });
                let connection = Pool::connection(&endpoint, &to_catalog, &config.credentials).await.unwrap();
                shared.tasks.close();
                shared.ending.cancel();
                assert!(
                    timeout(Duration::from_millis(50), shared.tasks.wait()).await.is_err(),
                    "somebody holds it"
                );
                drop(connection);
                timeout(LIMIT, shared.tasks.wait()).await.expect("nobody does");
                assert!(serving.await.unwrap().is_ok(), "an orderly end");
            })
            .await;
    }

    #[tokio::test]
    async fn connections_to_who_is_not_listed_any_more_are_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let world = World::new();
        let catalog_credentials = world.credentials(&world.west, CATALOG);
        let part = destination(Protocol::Http, &[CATALOG, CART], LIMIT);
        let (_, outbound, mut config) = web(&world, part, listener.local_addr().unwrap());
        let (to_catalog, endpoint) = catalog(&outbound);
        LocalSet::new()
            .run_until(async {
                let serving = tokio::task::spawn_local(async move {
                    let (stream, _) = listener.accept().await.unwrap();
                    let accepted = accept(stream, Protocol::Http, &catalog_credentials, LIMIT).await.unwrap();
                    let io = TokioIo::new(accepted.stream);
                    let service = hyper::service::service_fn(|_| async {
                        Ok::<_, std::convert::Infallible>(Response::new(String::new()))
                    });
                    hyper::server::conn::http2::Builder::new(Local).serve_connection(io, service).await
                });
                let connection = Pool::connection(&endpoint, &to_catalog, &config.credentials).await.unwrap();
                assert!(connection.is_open_for(&config.credentials));
                assert!(outbound.apply(&config).is_empty(), "what did not change is left alone");

                let only_cart = destination(Protocol::Http, &[CART], LIMIT);
                config.destinations.insert(ID.parse().unwrap(), Arc::new(only_cart));
                let gone = outbound.apply(&config);
                assert_eq!(gone.len(), 1);
                gone[0].unwatched().await;
                assert!(serving.await.unwrap().is_err(), "the peer sees a reset");
                assert!(to_catalog.pick(&[]).is_err(), "and the endpoint is no candidate any more");
            })
            .await;
    }
}
