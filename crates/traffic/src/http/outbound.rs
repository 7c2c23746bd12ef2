//! Requests of the own application: taken as the destination's protocol says, planned, and sent to an endpoint
//! over HTTP/2.
//!
//! A request that nobody looked at goes to another endpoint. That is safe, whatever it asks for, and not a
//! retry: it is the first time that an application sees it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{EXPECT, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version, request};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::Parts;
use hyper::server::conn::http2::Connection;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::Protocol;
use telemetry::{About, Flag, Record};
use tracing::debug;

use super::body::{Answer, Asked, Keeper};
use super::bounded::Requests;
use super::edge;
use super::framing::{Strict, Switching};
use super::headers::{set_host, strip_hop_by_hop, strip_ours};
use super::pool::{Pool, Stream, Unprocessed, never_processed};
use super::problem::Words;
use super::upgrade::{self, Between, Driving, Outcome, Peer, Tunnel};
use super::upload::Source;
use crate::connect::ConnectError;
use crate::deadline::{Limit, of_request};
use crate::outbound::{ATTEMPTS, Destination, InFlight};
use crate::record::{Exchange, about, propagate, refused};
use crate::transport::Transport;

/// Serves one connection of the application until it ends, or until the worker drains.
pub async fn serve(stream: impl Transport + 'static, destination: Rc<Destination>) {
    let is_h2 = matches!(destination.part().protocol, Protocol::Http2 | Protocol::Grpc);
    let closing = destination.closing.clone();
    let requests = Requests::new(&destination.shared().deadlines, &destination.part().timeouts);
    let (switched, switching) = (RefCell::default(), Switching::default());
    let ended = if is_h2 {
        let service = service_fn(|request| {
            let (destination, requests) = (destination.clone(), requests.clone());
            // As one pointer: the task that it becomes is moved from place to place before it runs.
            Box::pin(async move { Ok::<_, Infallible>(answer(request, &destination, &requests, None).await) })
        });
        let stream = TokioIo::new(stream);
        let connection = pin!(edge::http2(requests.clone()).serve_connection(stream, service));
        requests.run(connection, Connection::graceful_shutdown, &closing).await.map(|()| None)
    } else {
        let (switched, switching, requests) = (&switched, &switching, &requests);
        let service = service_fn(|request| {
            let destination = destination.clone();
            Box::pin(async move {
                let asks = upgrade::asks(&request);
                let mut answer = answer(request, &destination, requests, Some(switched)).await;
                switching.answered(asks, &mut answer);
                Ok::<_, Infallible>(answer)
            })
        });
        let stream = TokioIo::new(Strict::new(stream, switching, requests));
        upgrade::run(edge::http1().serve_connection(stream, service), &closing, requests).await
    };
    if requests.heard_half() {
        destination.begin(About::default).failed(Flag::RequestHeadersTimeout);
    }
    match (ended, switched.take()) {
        (Ok(Some((stream, early))), Some(tunnel)) => {
            tunnel.carry(stream.into_inner(), early, &destination.shared().scratch).await;
        }
        (Ok(Some((stream, _))), None) => {
            // It may be gone already.
            let _ = upgrade::close(stream.into_inner()).await;
        }
        (Ok(None), _) => {}
        (Err(error), _) => {
            if error.is_parse() {
                destination.shared().metrics.outbound_rejected.add();
                let mut record = destination.begin(About::default);
                refused(&mut record, Flag::BadRequest, StatusCode::BAD_REQUEST);
            }
            debug!(%error, "a connection of the application ended early");
        }
    }
}

/// What an answer's body holds on to: its place among the streams of its connection and endpoint.
pub struct Held {
    _on: On,
    exchange: Exchange,
}

enum On {
    Stream {
        _stream: Stream,
        _in_flight: InFlight,
    },
    /// A connection that was to switch, and did not.
    Connection {
        _held: Box<(Driving<Peer>, Between)>,
    },
}

type Switched = RefCell<Option<Tunnel<Peer, Between>>>;

impl Keeper for Held {
    fn moved(&mut self, bytes: usize) {
        self.exchange.deadline.moved(0, bytes as u64);
    }

    fn completed(self) {
        self.exchange.ended();
    }

    fn broken(&mut self) {
        self.exchange.failed(Flag::UpstreamReset);
    }
}

/// Answers a request. Where `switched` is none, a connection cannot become anything else.
async fn answer(
    request: Request<Incoming>,
    destination: &Rc<Destination>,
    requests: &Requests,
    switched: Option<&Switched>,
) -> Response<Answer<Held>> {
    let open = requests.enter();
    let metrics = &destination.shared().metrics;
    let (mut head, body) = request.into_parts();
    let mut record = destination.begin(|| about(&head.method, &head.uri, &head.headers));
    let words = Words::of(&head.headers);
    let backend = match destination.route(&head) {
        Ok((target, backend)) => {
            head.uri = target;
            backend
        }
        Err(refusal) => {
            metrics.outbound_rejected.add();
            let (flag, status) = (refusal.flag(), refusal.status());
            refused(&mut record, flag, status);
            return ours(words.answer(status, flag.as_str(), &refusal.to_string()));
        }
    };
    let destination = backend.as_ref().unwrap_or(destination);
    let timeouts = destination.part().timeouts;
    let deadline = destination.shared().deadlines.begin(of_request(&timeouts, body.is_end_stream()));
    let mut exchange = Exchange::of_request(record, deadline, open, None);
    requests.bound(&exchange);
    let upgrade = if switched.is_some() { upgrade::wanted(&head, &body) } else { None };
    let version = std::mem::replace(&mut head.version, Version::HTTP_2);
    strip_hop_by_hop(&mut head.headers);
    head.headers.remove(HOST);
    strip_ours(&mut head.headers);

    // Who asks for it is told to go on as soon as the body can be taken.
    head.headers.remove(EXPECT);
    propagate(&exchange.record, &mut head.headers);

    let deadline = (*exchange.deadline).clone();
    let body = Asked::new(body, &mut exchange);
    let sent = async {
        match upgrade {
            Some(protocol) => switch(head, protocol, destination, &mut exchange.record).await,
            None => send(head, body, destination, &mut exchange.record).await,
        }
    };
    let sent = tokio::select! {
        biased;
        sent = sent => sent,
        limit = deadline.passed() => Err(Failure::TooLong(limit)),
    };
    let mut response = match sent {
        Ok(sent) => answered(sent, exchange, switched),
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
                Failure::TooLong(_) => (
                    StatusCode::GATEWAY_TIMEOUT,
                    failure.flag().as_str(),
                    format!("{} did not answer in time", destination.id),
                ),
            };
            debug!(destination = %destination.id, reason, ?failure, "a request failed");
            let flag = failure.flag();
            refused(&mut exchange.record, flag, status);
            return ours(words.answer(status, reason, &detail));
        }
    };
    metrics.outbound_requests.add();
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        strip_hop_by_hop(response.headers_mut());
        *response.version_mut() = if version == Version::HTTP_2 { version } else { Version::HTTP_11 };
    }
    response
}

/// What came of a request that somebody looked at.
enum Sent {
    Answered(Response<Incoming>, On),
    Switched(Response<()>, Box<Parts<TokioIo<Peer>>>, Between),
}

/// Passes an answer on; where a connection has switched, its other end is left in `switched`.
fn answered(sent: Sent, mut exchange: Exchange, switched: Option<&Switched>) -> Response<Answer<Held>> {
    match sent {
        Sent::Answered(response, on) => {
            exchange.record.answered(response.status().as_u16());
            response.map(|stream| Answer::theirs(stream, Held { _on: on, exchange }))
        }
        Sent::Switched(response, parts, held) => {
            exchange.record.answered(response.status().as_u16());
            if let Some(switched) = switched {
                switched.replace(Some(Tunnel::new(*parts, held, exchange)));
            }
            upgrade::switching(response).map(|()| Answer::ours(Bytes::new()))
        }
    }
}

/// Sends a request that asks to switch.
async fn switch(
    mut head: request::Parts,
    protocol: HeaderValue,
    destination: &Rc<Destination>,
    record: &mut Record,
) -> Result<Sent, Failure> {
    head.version = Version::HTTP_11;
    if let Some(authority) = head.uri.authority() {
        set_host(&mut head.headers, authority);
    }
    head.uri = Uri::from(head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    upgrade::ask(&mut head.headers, protocol);
    let (outcome, held) = upgrade::send(head, destination, record).await?;
    Ok(match outcome {
        Outcome::Switched(response, parts) => Sent::Switched(response, Box::new(parts), held),
        Outcome::Declined(response, driving) => {
            Sent::Answered(response, On::Connection { _held: Box::new((driving, held)) })
        }
    })
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was never sent.
    Connect(Rc<ConnectError>),
    /// It was sent, and nobody looked at it.
    Refused,
    /// An application may have seen it.
    Broken(hyper::Error),
    /// A limit of the request passed.
    TooLong(Limit),
}

impl Failure {
    fn flag(&self) -> Flag {
        match self {
            Self::Connect(error) => (&**error).into(),
            Self::Refused => Flag::Refused,
            Self::Broken(_) => Flag::UpstreamReset,
            Self::TooLong(limit) => limit.flag().unwrap_or(Flag::RequestTimeout),
        }
    }
}

/// One endpoint after the other until one of them looks at it.
async fn send(
    head: request::Parts,
    body: Asked,
    destination: &Rc<Destination>,
    record: &mut Record,
) -> Result<Sent, Failure> {
    let failed = |error| Failure::Connect(Rc::new(error));
    let credentials = destination.credentials().map_err(failed)?;
    let source = Source::new(body);
    let mut tried = Vec::new();
    let mut last = None;
    // A connection that closed under a request says nothing against its endpoint: the next may be a new one.
    let mut closed_under_us = 0;
    while tried.len() + closed_under_us < ATTEMPTS {
        let endpoint = match destination.pick(&tried) {
            Ok(endpoint) => endpoint,
            // Why the endpoints that there are failed says more than that none is left.
            Err(none) => return Err(last.unwrap_or_else(|| failed(none))),
        };
        let connection = match Pool::connection(&endpoint, destination, &credentials).await {
            Ok(connection) => connection,
            Err(error) if error.may_retry() => {
                last = Some(Failure::Connect(error));
                tried.push(endpoint);
                continue;
            }
            Err(error) => return Err(Failure::Connect(error)),
        };
        destination.tell_endpoint(record, &endpoint);
        let in_flight = endpoint.occupy();
        // It is not refused for its own sake: the last endpoint's answer stands.
        let Some(upload) = source.upload() else { break };
        let (sent, stream) = connection.send(Request::from_parts(copy(&head), upload));
        let mut error = match sent.await {
            Ok(response) => {
                endpoint.answered();
                return Ok(Sent::Answered(response, On::Stream { _stream: stream, _in_flight: in_flight }));
            }
            Err(error) => error,
        };
        let never_left = error.take_message().is_some();
        match never_processed(error.error()) {
            Some(Unprocessed::Refused) => {
                endpoint.refused(destination.shared());
                last = Some(Failure::Refused);
                tried.push(endpoint);
            }
            Some(Unprocessed::GoneAway) => {
                closed_under_us += 1;
                last = Some(Failure::Refused);
            }
            None if never_left => {
                closed_under_us += 1;
                last = Some(failed(ConnectError::GivenUp { endpoint: endpoint.part.address }));
            }
            None => return Err(Failure::Broken(error.into_error())),
        }
    }
    let none = || failed(ConnectError::NoEndpoint { destination: destination.id.clone() });
    Err(last.unwrap_or_else(none))
}

/// The head as it is sent, so that it can be sent again.
pub(crate) fn copy(head: &request::Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}

fn ours(response: Response<Bytes>) -> Response<Answer<Held>> {
    response.map(Answer::ours)
}

#[cfg(test)]
mod tests;
