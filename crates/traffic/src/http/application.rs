//! The HTTP/1.1 connections to the own application, of one inbound on one worker.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;
use tokio::time::{self, Instant};

use crate::connect::dial;

/// How long an application may take to accept a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// After so long without a request a connection is closed.
const IDLE: Duration = Duration::from_secs(30);
/// More idle connections than this are not kept.
const KEPT: usize = 256;

pub struct Application {
    address: SocketAddr,
    idle: RefCell<Vec<Connection>>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplicationError {
    /// The application has not seen the request.
    #[error("the application does not accept connections")]
    Unreachable(#[source] io::Error),
    #[error("the application ended the connection before it answered")]
    Broken(#[source] hyper::Error),
}

impl Application {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: RefCell::default() }
    }

    /// Sends a request over a connection that is idle, or a new one. The lease goes with the answer's body.
    pub(crate) async fn send(
        self: &Rc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<(Response<Incoming>, Lease), ApplicationError> {
        loop {
            let (connection, is_new) = match self.take() {
                Some(connection) => (connection, false),
                None => (self.connect().await.map_err(ApplicationError::Unreachable)?, true),
            };
            let mut lease =
                Lease { application: self.clone(), connection: Some(connection), completed: false };
            let Some(connection) = &mut lease.connection else { continue };
            match connection.requests.try_send_request(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    Some(_) => {
                        let closed = io::Error::other(error.into_error());
                        return Err(ApplicationError::Unreachable(closed));
                    }
                    None => return Err(ApplicationError::Broken(error.into_error())),
                },
            }
        }
    }

    pub(crate) fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|connection| {
            !connection.requests.is_closed() && now.saturating_duration_since(connection.since) < IDLE
        });
    }

    /// The one that was used last, so that those that are not needed become idle.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let ready = idle.iter().rposition(|connection| connection.requests.is_ready())?;
        Some(idle.swap_remove(ready))
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = time::timeout(CONNECT, dial(self.address)).await??;
        let (requests, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Owned by the connection's value: dropping that ends the task.
        let task = tokio::task::spawn_local(async move {
            // Whatever ends it, the request on it is told.
            let _ = connection.await;
        });
        Ok(Connection { requests, since: Instant::now(), task: task.abort_handle() })
    }
}

struct Connection {
    requests: SendRequest<Incoming>,
    since: Instant,
    task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection in use. It goes back when the exchange is complete; otherwise it is closed, which is how an
/// application on HTTP/1.1 learns that nobody waits for its answer any more.
pub(crate) struct Lease {
    application: Rc<Application>,
    connection: Option<Connection>,
    completed: bool,
}

impl Lease {
    pub(crate) fn completed(&mut self) {
        self.completed = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && self.completed
            && !connection.requests.is_closed()
        {
            let mut idle = self.application.idle.borrow_mut();
            if idle.len() < KEPT {
                connection.since = Instant::now();
                idle.push(connection);
            }
        }
    }
}
