//! The HTTP/2 connections to one endpoint: few, long-lived, opened by streams in flight.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::Shared as SharedFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use crate::connect::{ConnectError, Guarded, Secured, dial, secure, within};
use crate::outbound::{Destination, Endpoint, OpenConnection};
use crate::standing::Standing;
use crate::tls::Credentials;
use crate::transport::Transport;
use crate::worker::Local;

/// Measured: with 128 streams in flight, four connections cost a fifth less per request than one.
const CONNECTIONS: usize = 4;
const STREAMS_BEFORE_ANOTHER: u32 = 64;

pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
pub(crate) const HEADER_LIST: u32 = 64 * 1024;
/// A connection that says nothing for so long is asked whether it lives, and given up as long after.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

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
    requests: SendRequest<Incoming>,
    streams: Cell<u32>,
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
        request: Request<Incoming>,
    ) -> (impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Incoming>>>> + use<>, Stream)
    {
        self.streams.set(self.streams.get() + 1);
        (self.requests.clone().try_send_request(request), Stream(self.clone()))
    }
}

/// A stream of a connection, while it is open.
pub(crate) struct Stream(Rc<Connection>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
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

    /// Also says whether another connection would help. Those that are closed, or were made as someone we no
    /// longer are, are left to their last streams.
    fn least_busy(&self, credentials: &Arc<Credentials>) -> Option<(Rc<Connection>, bool)> {
        let mut open = self.open.borrow_mut();
        if !open.iter().all(|connection| connection.is_open_for(credentials)) {
            open.retain(|connection| connection.is_open_for(credentials));
        }
        let least = open.iter().min_by_key(|connection| connection.streams.get())?;
        let crowded = least.streams.get() >= STREAMS_BEFORE_ANOTHER && open.len() < CONNECTIONS;
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
            let outcome = within(&part, address, open(&endpoint, &destination, &credentials)).await;
            endpoint.record(&outcome, destination.shared());
            let outcome = outcome.map_err(Rc::new);
            endpoint.pool.connecting.borrow_mut().take();
            if let Ok(connection) = &outcome {
                endpoint.pool.open.borrow_mut().push(connection.clone());
            }
            // Whoever waited may have given up.
            let _ = done.send(outcome);
        });
        attempt
    }
}

async fn open(
    endpoint: &Endpoint,
    destination: &Rc<Destination>,
    credentials: &Arc<Credentials>,
) -> Result<Rc<Connection>, ConnectError> {
    let stream = dial(&endpoint.part).await?;
    let part = destination.part();
    let secured = secure(stream, &endpoint.part, &part, &credentials.client_http, &credentials.trust).await?;
    establish(secured, endpoint, destination, credentials).await
}

/// Starts HTTP/2, and waits for the peer's first word.
async fn establish<T: Transport + 'static>(
    secured: Secured<T>,
    endpoint: &Endpoint,
    destination: &Rc<Destination>,
    credentials: &Arc<Credentials>,
) -> Result<Rc<Connection>, ConnectError>
where
    tokio_rustls::client::TlsStream<T>: Transport,
{
    let address = endpoint.part.address;
    let ended = |source| ConnectError::NotEstablished { endpoint: address, source };
    let open = OpenConnection::new(secured.peer.id);
    let tentative = Tentative(Some(open.standing.clone()));
    let (stream, first_byte) = Guarded::with_first_byte(secured.stream, open.standing.watch());
    let (requests, connection) = Builder::new(Local)
        .timer(TokioTimer::new())
        // Nothing is sent before the peer's SETTINGS say that it is there.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_concurrent_reset_streams(1024)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ended(io::Error::other(error)))?;
    let entry = destination.open.enter(open);
    destination.shared().tasks.spawn_local(async move {
        let _entry = entry;
        // Whatever ends it, every request on it is told.
        let _ = connection.await;
    });
    first_byte.await.map_err(|_| ended(io::ErrorKind::UnexpectedEof.into()))?;
    tentative.keep();
    Ok(Rc::new(Connection { requests, streams: Cell::default(), credentials: credentials.clone() }))
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
