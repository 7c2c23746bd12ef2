//! The connections to the own application, of one inbound on one worker.
//!
//! One that speaks HTTP/1.1 gets a connection for each request that is open; one that speaks HTTP/2 gets few,
//! and more by streams in flight.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared as SharedFuture};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::Protocol;
use snapshot::parts::{Millis, Timeouts};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{self, Instant};

use super::body::Asked;
use super::edge::{CONNECTION_WINDOW, HEADER_LIST, KEEP_ALIVE, SEND_BUFFER, STREAM_WINDOW};
use super::framing::Ambiguity;
use super::pool::{CONNECTIONS, STREAMS_BEFORE_ANOTHER, never_processed};
use super::upgrade::{self, Driving, Outcome};
use super::upload::Upload;
use crate::connect::dial;
use crate::deadline::Limit;
use crate::worker::Local;

/// How long an application may take to accept a connection, where nobody says.
const CONNECT: Duration = Duration::from_secs(5);
/// After so long without a request a connection is closed, unless it should be before.
const IDLE: Duration = Duration::from_secs(30);
/// More idle connections than this are not kept.
const KEPT: usize = 256;

pub struct Application {
    address: SocketAddr,
    speaks: Speaks,
    limits: Rc<Cell<Limits>>,
}

/// How long connections to it may take and live.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    idle: Duration,
    life: Option<Duration>,
}

impl From<&Timeouts> for Limits {
    fn from(timeouts: &Timeouts) -> Self {
        let given = |Millis(millis)| (millis > 0).then_some(Duration::from_millis(millis));
        Self {
            connect: given(timeouts.connect).unwrap_or(CONNECT),
            idle: given(timeouts.idle).map_or(IDLE, |idle| idle.min(IDLE)),
            life: given(timeouts.max_connection),
        }
    }
}

impl Limits {
    /// Whether a connection has lived so long that it takes no more requests.
    fn is_over(&self, made: Instant, now: Instant) -> bool {
        self.life.is_some_and(|life| now.saturating_duration_since(made) >= life)
    }
}

enum Speaks {
    Http1(Idle),
    Http2(Few),
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplicationError {
    /// The application has not seen the request, or says that it did not look at it.
    #[error("the application does not accept connections")]
    Unreachable(#[source] io::Error),
    #[error("the application ended the connection before it answered")]
    Broken(#[source] hyper::Error),
    #[error("the application did not answer in time")]
    TooLong(Limit),
    #[error("the application's answer can be read in two ways: {0}")]
    Ambiguous(#[from] Ambiguity),
}

impl Application {
    pub(crate) fn new(address: SocketAddr, protocol: Protocol, limits: Limits) -> Self {
        let limits = Rc::new(Cell::new(limits));
        let speaks = match protocol {
            Protocol::Http2 | Protocol::Grpc => {
                Speaks::Http2(Few { limits: limits.clone(), open: Rc::default(), connecting: Rc::default() })
            }
            Protocol::Tcp | Protocol::Http => Speaks::Http1(Idle::default()),
        };
        Self { address, speaks, limits }
    }

    /// From now on.
    pub(crate) fn limit(&self, limits: Limits) {
        self.limits.set(limits);
    }

    pub(crate) fn speaks_http2(&self) -> bool {
        matches!(self.speaks, Speaks::Http2(_))
    }

    /// Sends a request, which is in the form of the protocol that the application speaks. The lease goes with
    /// the answer's body.
    pub(crate) async fn send(
        self: &Rc<Self>,
        request: Request<Asked>,
    ) -> Result<(Response<Incoming>, Lease), ApplicationError> {
        match &self.speaks {
            Speaks::Http1(idle) => self.send_http1(idle, request).await,
            Speaks::Http2(few) => self.send_http2(few, request).await,
        }
    }

    /// Sends a request that asks to switch, over a connection of its own.
    pub(crate) async fn switch(
        &self,
        request: Request<Upload>,
    ) -> Result<Outcome<TcpStream>, ApplicationError> {
        let stream = reach(self.address, self.limits.get()).await.map_err(ApplicationError::Unreachable)?;
        upgrade::over(stream, request).await.map_err(ApplicationError::Broken)
    }

    pub(crate) fn sweep(&self, now: Instant) {
        match &self.speaks {
            Speaks::Http1(idle) => idle.sweep(now, self.limits.get()),
            Speaks::Http2(few) => few.sweep(now),
        }
    }

    /// Over a connection that is idle, or a new one.
    async fn send_http1(
        self: &Rc<Self>,
        idle: &Idle,
        mut request: Request<Asked>,
    ) -> Result<(Response<Incoming>, Lease), ApplicationError> {
        loop {
            let (connection, is_new) = match idle.take() {
                Some(connection) => (connection, false),
                None => (self.connect_http1().await.map_err(ApplicationError::Unreachable)?, true),
            };
            let mut leased =
                Leased { application: self.clone(), connection: Some(connection), completed: false };
            let Some(connection) = &mut leased.connection else { continue };
            match connection.requests.try_send_request(request).await {
                Ok(response) => return Ok((response, Lease::Http1(leased))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    Some(_) => return Err(unreachable(error.into_error())),
                    None => return Err(ApplicationError::Broken(error.into_error())),
                },
            }
        }
    }

    /// Over the connection with the fewest streams, or a new one.
    async fn send_http2(
        &self,
        few: &Few,
        mut request: Request<Asked>,
    ) -> Result<(Response<Incoming>, Lease), ApplicationError> {
        loop {
            let (connection, is_new) = match few.least_busy() {
                Some((connection, crowded)) => {
                    if crowded {
                        few.more(self.address);
                    }
                    (connection, false)
                }
                None => (few.connect(self.address).await.map_err(ApplicationError::Unreachable)?, true),
            };
            let stream = Stream::new(connection.clone());
            match connection.requests.clone().try_send_request(request).await {
                Ok(response) => return Ok((response, Lease::Http2 { _stream: stream })),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    Some(_) => return Err(unreachable(error.into_error())),
                    None if never_processed(error.error()).is_some() => {
                        return Err(unreachable(error.into_error()));
                    }
                    None => return Err(ApplicationError::Broken(error.into_error())),
                },
            }
        }
    }

    async fn connect_http1(&self) -> io::Result<Connection> {
        let stream = reach(self.address, self.limits.get()).await?;
        let (requests, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Owned by the connection's value: dropping that ends the task.
        let task = tokio::task::spawn_local(async move {
            // Whatever ends it, the request on it is told.
            let _ = connection.await;
        });
        let now = Instant::now();
        Ok(Connection { requests, made: now, since: now, task: task.abort_handle() })
    }
}

async fn reach(address: SocketAddr, limits: Limits) -> io::Result<TcpStream> {
    time::timeout(limits.connect, dial(address)).await?
}

fn unreachable(error: hyper::Error) -> ApplicationError {
    ApplicationError::Unreachable(io::Error::other(error))
}

/// The connections of HTTP/1.1 that no request needs now.
#[derive(Default)]
struct Idle(RefCell<Vec<Connection>>);

impl Idle {
    /// The one that was used last, so that those that are not needed become idle.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.0.borrow_mut();
        let ready = idle.iter().rposition(|connection| connection.requests.is_ready())?;
        Some(idle.swap_remove(ready))
    }

    fn put(&self, mut connection: Connection, limits: Limits) {
        let (mut idle, now) = (self.0.borrow_mut(), Instant::now());
        if idle.len() < KEPT && !limits.is_over(connection.made, now) {
            connection.since = now;
            idle.push(connection);
        }
    }

    fn sweep(&self, now: Instant, limits: Limits) {
        self.0.borrow_mut().retain(|connection| {
            !connection.requests.is_closed()
                && !limits.is_over(connection.made, now)
                && now.saturating_duration_since(connection.since) < limits.idle
        });
    }
}

struct Connection {
    requests: http1::SendRequest<Asked>,
    made: Instant,
    since: Instant,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connections of HTTP/2.
struct Few {
    limits: Rc<Cell<Limits>>,
    open: Rc<RefCell<Vec<Rc<Shared>>>>,
    /// The attempt that is going on: everyone who has no connection waits for the same one.
    connecting: Rc<RefCell<Option<Attempt>>>,
}

type Attempt = SharedFuture<LocalBoxFuture<'static, Result<Rc<Shared>, Rc<io::Error>>>>;

/// A connection that many requests share.
struct Shared {
    requests: http2::SendRequest<Asked>,
    streams: Cell<u32>,
    made: Instant,
    since: Cell<Instant>,
    task: AbortHandle,
}

impl Few {
    /// Also says whether another connection would help.
    fn least_busy(&self) -> Option<(Rc<Shared>, bool)> {
        let mut open = self.open.borrow_mut();
        let (limits, now) = (self.limits.get(), Instant::now());
        // One that is over ends after the last of its streams.
        open.retain(|connection| !connection.requests.is_closed() && !limits.is_over(connection.made, now));
        let least = open.iter().min_by_key(|connection| connection.streams.get())?;
        let crowded = least.streams.get() >= STREAMS_BEFORE_ANOTHER && open.len() < CONNECTIONS;
        Some((least.clone(), crowded))
    }

    /// Connects beside what goes on.
    fn more(&self, address: SocketAddr) {
        if self.connecting.borrow().is_none() {
            // Whoever needs it finds out.
            drop(self.attempt(address));
        }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Rc<Shared>> {
        let going_on = self.connecting.borrow().clone();
        let attempt = going_on.unwrap_or_else(|| self.attempt(address));
        attempt.await.map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }

    fn attempt(&self, address: SocketAddr) -> Attempt {
        let (open, connecting, limits) = (self.open.clone(), self.connecting.clone(), self.limits.get());
        let attempt: LocalBoxFuture<'static, _> = Box::pin(async move {
            let outcome = Shared::connect(address, limits).await.map(Rc::new).map_err(Rc::new);
            connecting.borrow_mut().take();
            if let Ok(connection) = &outcome {
                open.borrow_mut().push(connection.clone());
            }
            outcome
        });
        let attempt = attempt.shared();
        self.connecting.replace(Some(attempt.clone()));
        // It goes on when those who wait for it leave: who comes next waits for the same one.
        tokio::task::spawn_local(attempt.clone().map(drop));
        attempt
    }

    fn sweep(&self, now: Instant) {
        let limits = self.limits.get();
        self.open.borrow_mut().retain(|connection| {
            let idle = now.saturating_duration_since(connection.since.get());
            !connection.requests.is_closed()
                && !limits.is_over(connection.made, now)
                && (connection.streams.get() > 0 || idle < limits.idle)
        });
    }
}

impl Shared {
    async fn connect(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let stream = reach(address, limits).await?;
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_concurrent_reset_streams(1024)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let (requests, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Owned by the connection's value: dropping that ends the task.
        let task = tokio::task::spawn_local(async move {
            // Whatever ends it, every request on it is told.
            let _ = connection.await;
        });
        let now = Instant::now();
        let (streams, since) = (Cell::default(), Cell::new(now));
        Ok(Self { requests, streams, made: now, since, task: task.abort_handle() })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an answer's body holds on to.
pub(crate) enum Lease {
    Http1(Leased),
    Http2 {
        _stream: Stream,
    },
    /// A connection that was to switch, and did not.
    Own {
        _driving: Driving<TcpStream>,
    },
}

impl Lease {
    pub(crate) fn completed(&mut self) {
        if let Self::Http1(leased) = self {
            leased.completed = true;
        }
    }
}

/// A connection in use. It goes back when the exchange is complete; otherwise it is closed, which is how an
/// application on HTTP/1.1 learns that nobody waits for its answer any more.
pub(crate) struct Leased {
    application: Rc<Application>,
    connection: Option<Connection>,
    completed: bool,
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.completed
            && !connection.requests.is_closed()
            && let Speaks::Http1(idle) = &self.application.speaks
        {
            idle.put(connection, self.application.limits.get());
        }
    }
}

/// A stream of a shared connection, while it is open.
pub(crate) struct Stream(Rc<Shared>);

impl Stream {
    fn new(connection: Rc<Shared>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(connection)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.streams.set(connection.streams.get() - 1);
        connection.since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn an_attempt_to_connect_goes_on_when_whoever_waited_for_it_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limits = Limits::from(&Timeouts::default());
        let application = Application::new(listener.local_addr().unwrap(), Protocol::Http2, limits);
        let Speaks::Http2(few) = &application.speaks else { unreachable!() };
        let connected = async {
            assert!(few.connect(application.address).now_or_never().is_none());
            let (mut stream, _) = listener.accept().await.unwrap();
            let preface = time::timeout(Duration::from_secs(10), stream.read_exact(&mut [0; 24])).await;
            preface.expect("somebody has to go on").unwrap();
            assert!(few.connecting.borrow().is_none(), "nobody waits for it any more");
            assert_eq!(few.open.borrow().len(), 1);
        };
        LocalSet::new().run_until(connected).await;
    }
}
