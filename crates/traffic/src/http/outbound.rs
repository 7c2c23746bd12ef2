//! Requests of the own application: taken as HTTP/1.1, planned, and sent to an endpoint over HTTP/2.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::body::{Answer, BodyError, Keeper};
use super::headers::{CLIENT_ID, strip_hop_by_hop};
use super::pool::{Pool, Stream};
use super::problem::problem;
use crate::connect::ConnectError;
use crate::outbound::{ATTEMPTS, Destination, InFlight};
use crate::route::{Plan, plan};

/// Serves one connection of the application until it ends, or until the worker drains.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, destination: Rc<Destination>) {
    let closing = destination.closing.clone();
    let service = service_fn(|request| {
        let destination = destination.clone();
        async move { Ok::<_, Infallible>(answer(request, &destination).await) }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection of the application ended early");
    }
}

/// What an answer's body holds on to: its place among the streams of its connection and endpoint.
pub struct Held {
    _stream: Stream,
    _in_flight: InFlight,
}

impl Keeper for Held {
    fn poll_cut(&mut self, _: &mut Context<'_>) -> Poll<BodyError> {
        Poll::Pending
    }

    fn completed(&mut self) {}
}

async fn answer(request: Request<Incoming>, destination: &Rc<Destination>) -> Response<Answer<Held>> {
    let metrics = &destination.shared().metrics;
    let (mut head, body) = request.into_parts();
    match plan(&head) {
        Plan::Forward(target) => head.uri = target,
        Plan::Refuse(refusal) => {
            metrics.outbound_rejected.add();
            return ours(problem(StatusCode::BAD_REQUEST, "bad-request", &refusal.to_string()));
        }
    }
    head.version = Version::HTTP_2;
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove(HOST);
    head.headers.remove(CLIENT_ID);

    match send(Request::from_parts(head, body), destination).await {
        Ok(mut response) => {
            metrics.outbound_requests.add();
            strip_hop_by_hop(response.headers_mut());
            *response.version_mut() = Version::HTTP_11;
            response
        }
        Err(failure) => {
            metrics.outbound_failures.add();
            let (status, reason, detail) = match &failure {
                Failure::Connect(error) => {
                    (StatusCode::SERVICE_UNAVAILABLE, error.reason(), error.to_string())
                }
                Failure::Refused => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "refused",
                    format!("{} does not reach its application", destination.id),
                ),
                Failure::Broken(error) => (
                    StatusCode::BAD_GATEWAY,
                    "broken",
                    format!("{} ended the request before it answered: {error}", destination.id),
                ),
            };
            debug!(destination = %destination.id, reason, ?failure, "a request failed");
            ours(problem(status, reason, &detail))
        }
    }
}

/// Why a request got no answer.
#[derive(Debug)]
enum Failure {
    /// It was never sent.
    Connect(Rc<ConnectError>),
    /// It was sent, and no application saw it.
    Refused,
    /// An application may have seen it.
    Broken(hyper::Error),
}

/// Sends a request to one endpoint after the other until it leaves the proxy.
async fn send(
    mut request: Request<Incoming>,
    destination: &Rc<Destination>,
) -> Result<Response<Answer<Held>>, Failure> {
    let failed = |error| Failure::Connect(Rc::new(error));
    let credentials = destination.credentials().map_err(failed)?;
    let mut tried = Vec::new();
    let mut last = None;
    // A connection that closed under a request says nothing against its endpoint: the next may be a new one.
    let mut closed_under_us = 0;
    while tried.len() + closed_under_us < ATTEMPTS {
        let endpoint = match destination.pick(&tried) {
            Ok(endpoint) => endpoint,
            // Why the endpoints that there are failed says more than that none is left.
            Err(none) => return Err(Failure::Connect(last.unwrap_or_else(|| Rc::new(none)))),
        };
        let connection = match Pool::connection(&endpoint, destination, &credentials).await {
            Ok(connection) => connection,
            Err(error) if error.may_retry() => {
                last = Some(error);
                tried.push(endpoint);
                continue;
            }
            Err(error) => return Err(Failure::Connect(error)),
        };
        let in_flight = endpoint.occupy();
        let (sent, stream) = connection.send(request);
        let mut error = match sent.await {
            Ok(response) => {
                let keeper = Held { _stream: stream, _in_flight: in_flight };
                return Ok(response.map(|stream| Answer::Theirs { stream, keeper }));
            }
            Err(error) => error,
        };
        match error.take_message() {
            Some(unsent) => {
                request = unsent;
                closed_under_us += 1;
                last = Some(Rc::new(ConnectError::GivenUp { endpoint: endpoint.part.address }));
            }
            None => return Err(error.into_error().into()),
        }
    }
    let none = || Rc::new(ConnectError::NoEndpoint { destination: destination.id.clone() });
    Err(Failure::Connect(last.unwrap_or_else(none)))
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            if let Some(h2) = cause.downcast_ref::<h2::Error>()
                && h2.is_remote()
                && h2.reason() == Some(h2::Reason::REFUSED_STREAM)
            {
                return Self::Refused;
            }
            source = cause.source();
        }
        Self::Broken(error)
    }
}

fn ours(response: Response<Bytes>) -> Response<Answer<Held>> {
    response.map(Answer::ours)
}
