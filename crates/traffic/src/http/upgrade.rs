//! Connections of HTTP/1.1 that become something else, such as a WebSocket.
//!
//! Each goes over a connection of its own between the proxies, in HTTP/1.1 as well: so what an application
//! answers, whichever it is, arrives as it was said, and after a 101 there are only bytes to copy. HTTP/2 has
//! no word for an upgrade that was declined with success.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version, request};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use telemetry::{Flag, Record};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::BodyError;
use super::bounded::{Requests, is_revoked, poll_over};
use super::headers::UNREACHED;
use super::outbound::{Failure, copy};
use super::upload::Upload;
use crate::connect::{ConnectError, Guarded, Secured, reach, secure, within};
use crate::deadline::{Limit, Seat};
use crate::outbound::{ATTEMPTS, Destination, Endpoint, InFlight, OpenConnection};
use crate::record::Exchange;
use crate::standing::Entry;
use crate::transport::{Scratch, Transport, copy_both};

/// Whether a request asks to switch to another protocol, whatever it be, with nothing left to say behind it.
pub(crate) fn asks(request: &Request<Incoming>) -> bool {
    request.headers().contains_key(UPGRADE) && request.body().is_end_stream()
}

/// What a request asks to switch to; none where it does not, or must not.
pub(crate) fn wanted(request: &request::Parts, body: &Incoming) -> Option<HeaderValue> {
    let headers = &request.headers;
    // Most requests have none.
    let protocol = headers.get(UPGRADE)?;
    let mut connection = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asked =
        connection.any(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")));
    let alone = headers.get_all(UPGRADE).iter().count() == 1;
    // HTTP inside of HTTP would go past everything that looks at requests.
    let is_http = protocol.to_str().map_or(true, |text| {
        text.split(',').any(|name| {
            let name = name.trim().to_ascii_lowercase();
            name == "h2c" || name == "h2" || name.starts_with("http/") || name.starts_with("tls/")
        })
    });
    let is_simple =
        request.version == Version::HTTP_11 && request.method != Method::CONNECT && body.is_end_stream();
    (asked && alone && !is_http && is_simple).then(|| protocol.clone())
}

/// Says again what was said hop by hop.
pub(crate) fn ask(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(UPGRADE, protocol);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// The other end of a connection that has switched.
pub(crate) struct Tunnel<T, K> {
    stream: T,
    /// What it said behind its answer.
    early: Bytes,
    _held: K,
    exchange: Exchange,
}

impl<T: Transport, K> Tunnel<T, K> {
    pub(crate) fn new(parts: client::Parts<TokioIo<T>>, held: K, exchange: Exchange) -> Self {
        // It has its answer.
        exchange.deadline.stop(Limit::Request);
        Self { stream: parts.io.into_inner(), early: parts.read_buf, _held: held, exchange }
    }

    /// Carries both ways until both ended. `early` is what came behind the request.
    pub(crate) async fn carry(mut self, mut stream: impl Transport, early: Bytes, scratch: &Scratch) {
        let deadline = &self.exchange.deadline;
        let carried = async {
            self.stream.write_all(&early).await?;
            self.stream.flush().await?;
            stream.write_all(&self.early).await?;
            stream.flush().await?;
            deadline.moved(early.len() as u64, self.early.len() as u64);
            copy_both(&mut stream, &mut self.stream, scratch, deadline).await
        };
        let carried = tokio::select! {
            biased;
            carried = carried => carried,
            _ = deadline.passed() => Err(io::ErrorKind::TimedOut.into()),
        };
        match carried {
            Ok(()) => self.exchange.ended(),
            Err(_) => {
                self.exchange.failed(Flag::Reset);
                stream.reset_on_drop();
                self.stream.reset_on_drop();
            }
        }
    }
}

const OF_A_HEAD: Poll<Limit> = Poll::Ready(Limit::RequestHeaders);

/// Runs a connection to its end, and gives its stream back, with what was read of it and not understood; none
/// if it ended in a reset, by a limit or because it is not allowed any more.
pub(crate) async fn run<T, S>(
    mut connection: server::Connection<TokioIo<T>, S>,
    closing: &CancellationToken,
    requests: &Requests,
) -> hyper::Result<Option<(T, Bytes)>>
where
    T: Transport,
    S: HttpService<Incoming> + Unpin,
    S::Future: Unpin,
    S::Error: Into<BodyError>,
    S::ResBody: 'static,
    <S::ResBody as Body>::Error: Into<BodyError>,
{
    let mut closing = pin!(closing.cancelled());
    let (mut ends, mut told, mut request) = (false, false, None);
    let ended = poll_fn(|cx| {
        let mut passed = requests.deadline().poll_passed(cx, Seat::Carrier);
        if !ends && passed != OF_A_HEAD && (passed.is_ready() || closing.as_mut().poll(cx).is_ready()) {
            ends = true;
            requests.asked_to_end();
            passed = requests.deadline().poll_passed(cx, Seat::Carrier);
        }
        // The first request may be on its way, and hyper would not wait for it.
        if ends && !told && !requests.is_fresh() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if ends && passed.is_ready() || passed == OF_A_HEAD || is_revoked(&request) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Some(ended));
        }
        requests.serves(&mut request);
        poll_over(&request, cx).map(|()| None)
    });
    let ended = ended.await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    match ended {
        Some(ended) => ended.map(|()| Some((stream, parts.read_buf))),
        None => {
            stream.reset_on_drop();
            Ok(None)
        }
    }
}

/// A connection to where a request goes that may switch, and what drives it.
pub(crate) type Driving<T> = AbortOnDropHandle<hyper::Result<client::Parts<TokioIo<T>>>>;

/// What came of a request that may switch.
pub(crate) enum Outcome<T> {
    Switched(Response<()>, client::Parts<TokioIo<T>>),
    Declined(Response<Incoming>, Driving<T>),
}

/// Asks over a connection that serves nothing else.
pub(crate) async fn over<T: Transport + 'static>(
    stream: T,
    request: Request<Upload>,
) -> hyper::Result<Outcome<T>> {
    let (mut requests, connection) = client::handshake(TokioIo::new(stream)).await?;
    let driving = AbortOnDropHandle::new(tokio::task::spawn_local(connection.without_shutdown()));
    let response = requests.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Outcome::Declined(response, driving));
    }
    match driving.await {
        Ok(parts) => Ok(Outcome::Switched(response.map(drop), parts?)),
        Err(_) => {
            unreachable!("the task of a connection neither panics nor is aborted while it is waited for")
        }
    }
}

/// What a connection between proxies holds on to.
pub(crate) struct Between {
    _entry: Entry<OpenConnection>,
    _in_flight: InFlight,
}

pub(crate) type Peer = Guarded<TlsStream<TcpStream>>;

/// Sends a request that may switch to one endpoint after the other until one of them looks at it.
pub(crate) async fn send(
    head: request::Parts,
    destination: &Rc<Destination>,
    record: &mut Record,
) -> Result<(Outcome<Peer>, Between), Failure> {
    let failed = |error| Failure::Connect(Rc::new(error));
    let shared = destination.shared();
    let credentials = destination.credentials().map_err(failed)?;
    let mut tried = Vec::new();
    let mut last = None;
    while tried.len() < ATTEMPTS {
        let endpoint = match destination.pick(&tried) {
            Ok(endpoint) => endpoint,
            Err(none) => return Err(last.unwrap_or_else(|| failed(none))),
        };
        let part = destination.part();
        let connected = within(&part, endpoint.part.address, async {
            let stream = reach(&endpoint.part).await?;
            secure(stream, &endpoint.part, &part, &credentials.client_http1, &credentials.trust).await
        });
        let established = match connected.await {
            Ok(secured) => {
                destination.tell_endpoint(record, &endpoint);
                establish(secured, copy(&head), &endpoint, destination).await?
            }
            Err(error) => Err(error),
        };
        if let Ok((Outcome::Declined(response, _), _)) = &established
            && response.headers().contains_key(UNREACHED)
        {
            endpoint.refused(shared);
            last = Some(Failure::Refused);
            tried.push(endpoint);
            continue;
        }
        endpoint.record(&established, shared);
        match established {
            Ok(answered) => return Ok(answered),
            Err(error) if error.may_retry() => {
                last = Some(failed(error));
                tried.push(endpoint);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let none = || failed(ConnectError::NoEndpoint { destination: destination.id.clone() });
    Err(last.unwrap_or_else(none))
}

/// Asks, and waits for the peer's first word, which says that it lets us in.
///
/// Without one nobody knows whether the request was looked at: it goes to another endpoint where asking twice
/// does what asking once does (RFC 9110 section 9.2.2).
async fn establish(
    secured: Secured<TcpStream>,
    head: request::Parts,
    endpoint: &Rc<Endpoint>,
    destination: &Rc<Destination>,
) -> Result<Result<(Outcome<Peer>, Between), ConnectError>, Failure> {
    let in_flight = endpoint.occupy();
    let (standing, entry) = destination.enter(secured.peer);
    let (stream, mut first_byte) = Guarded::with_first_byte(secured.stream, standing.watch());
    let may_repeat = head.method.is_idempotent();
    let error = match over(stream, Request::from_parts(head, Upload::none())).await {
        Ok(outcome) => return Ok(Ok((outcome, Between { _entry: entry, _in_flight: in_flight }))),
        Err(error) => error,
    };
    if first_byte.try_recv().is_ok() {
        return Err(Failure::Broken(error));
    }
    let silent = |source| ConnectError::NotEstablished { endpoint: endpoint.part.address, source };
    if may_repeat {
        return Ok(Err(silent(io::Error::other(error))));
    }
    endpoint.record::<()>(&Err(silent(io::ErrorKind::UnexpectedEof.into())), destination.shared());
    Err(Failure::Broken(error))
}

/// The answer that lets a connection switch.
pub(crate) fn switching(response: Response<()>) -> Response<()> {
    let (mut head, ()) = response.into_parts();
    let protocol = head.headers.get(UPGRADE).cloned();
    super::headers::strip_hop_by_hop(&mut head.headers);
    if let Some(protocol) = protocol {
        ask(&mut head.headers, protocol);
    }
    head.version = Version::HTTP_11;
    Response::from_parts(head, ())
}

/// Ends a connection in order.
pub(crate) async fn close(mut stream: impl Transport) -> io::Result<()> {
    stream.shutdown().await
}
