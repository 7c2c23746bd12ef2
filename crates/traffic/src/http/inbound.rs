//! Requests of other proxies: access is decided before a byte of them reaches the application.

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::Alpn;
use tracing::debug;

use super::application::{ApplicationError, Lease};
use super::body::{Answer, BodyError, Keeper};
use super::headers::{CLIENT_ID, DECISION_ID, join_cookies, set_host, strip_hop_by_hop};
use super::pool::{CONNECTION_WINDOW, HEADER_LIST, KEEP_ALIVE, STREAM_WINDOW};
use super::problem::problem;
use crate::access::Verdict;
use crate::connect::Guarded;
use crate::inbound::{Inbound, Peer};
use crate::standing::{Standing, Watch};
use crate::transport::Transport;
use crate::worker::Local;

/// How many requests a peer may have open on one connection; it opens another long before.
const STREAMS: u32 = 1024;

/// Serves one connection of a peer until it ends, or until the worker drains.
///
/// A peer that agreed on nothing is heard as HTTP/1.1: nothing reaches an application unparsed, or it could
/// be told a false client.
pub(crate) async fn serve<T: Transport + 'static>(
    stream: T,
    alpn: Option<Alpn>,
    inbound: Rc<Inbound>,
    peer: Rc<Peer>,
) {
    let closing = inbound.closing.clone();
    // An id is visible ASCII, as a header's value may be.
    let Ok(client) = HeaderValue::from_str(peer.id.as_str()) else { return };
    let is_h2 = alpn == Some(Alpn::H2);
    // Requests lose their standing one by one on HTTP/2, and with the connection on HTTP/1.1.
    let standing = if is_h2 { Standing::new() } else { peer.standing() };
    let stream = TokioIo::new(Guarded::new(stream, standing.watch()));
    let service = service_fn(|request| {
        let (inbound, peer, client) = (inbound.clone(), peer.clone(), client.clone());
        async move { answer(request, &inbound, &peer, client, is_h2).await }
    });
    let ended = if is_h2 {
        let mut builder = http2::Builder::new(Local);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            // When many clients of a peer vanish together it resets all their streams at once.
            .max_pending_accept_reset_streams(STREAMS as usize)
            .max_header_list_size(HEADER_LIST)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let mut connection = pin!(builder.serve_connection(stream, service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        let mut connection = pin!(builder.serve_connection(stream, service));
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        debug!(inbound = inbound.name, client = %peer.id, %error, "a connection ended early");
    }
}

/// What an answer's body holds on to.
pub(crate) struct Held {
    watch: Watch,
    lease: Lease,
}

impl Keeper for Held {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        self.watch.poll_revoked(cx).map(|()| revoked().into())
    }

    fn completed(&mut self) {
        self.lease.completed();
    }
}

/// An error resets the stream, and ends a connection of HTTP/1.1.
async fn answer(
    request: Request<Incoming>,
    inbound: &Rc<Inbound>,
    peer: &Rc<Peer>,
    client: HeaderValue,
    is_h2: bool,
) -> Result<Response<Answer<Held>>, h2::Error> {
    let metrics = &inbound.shared().metrics;
    match &*peer.verdict.borrow() {
        Verdict::Allowed => {}
        Verdict::Observed(_) => metrics.observed_denials.add(),
        Verdict::Denied(_) => return Ok(denied(inbound, peer)),
    }
    let watch = peer.standing().watch();
    if request.method() == Method::CONNECT {
        let detail = "CONNECT and upgrades are not carried";
        return Ok(problem(StatusCode::NOT_IMPLEMENTED, "connect", detail).map(Answer::ours));
    }
    let request = to_application(request, client);
    let application = inbound.application();
    let sent = tokio::select! {
        biased;
        () = watch.revoked() => return Err(revoked()),
        sent = application.send(request) => sent,
    };
    match sent {
        Ok((mut response, lease)) => {
            metrics.inbound_requests.add();
            strip_hop_by_hop(response.headers_mut());
            *response.version_mut() = if is_h2 { Version::HTTP_2 } else { Version::HTTP_11 };
            Ok(response.map(|stream| Answer::Theirs { stream, keeper: Held { watch, lease } }))
        }
        Err(error) => {
            metrics.application_failures.add();
            debug!(inbound = inbound.name, %error, "the application failed a request");
            match error {
                // So that the peer may try another endpoint; it has read nothing of the body yet.
                ApplicationError::Unreachable(_) if is_h2 => Err(h2::Reason::REFUSED_STREAM.into()),
                ApplicationError::Unreachable(_) => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    Ok(problem(status, "application-unreachable", &error.to_string()).map(Answer::ours))
                }
                ApplicationError::Broken(_) => {
                    let status = StatusCode::BAD_GATEWAY;
                    Ok(problem(status, "application-broken", &error.to_string()).map(Answer::ours))
                }
            }
        }
    }
}

fn denied(inbound: &Inbound, peer: &Peer) -> Response<Answer<Held>> {
    let id = inbound.deny(peer);
    let detail = format!("{} may not call this; `tombolo why {id}` tells the reason", peer.id);
    let mut response: Response<Bytes> = problem(StatusCode::FORBIDDEN, "denied", &detail);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(DECISION_ID, id);
    }
    response.map(Answer::ours)
}

/// The request as an application on HTTP/1.1 expects it.
fn to_application(request: Request<Incoming>, client: HeaderValue) -> Request<Incoming> {
    let (mut head, body) = request.into_parts();
    strip_hop_by_hop(&mut head.headers);
    join_cookies(&mut head.headers);
    // Takes the place of whatever came under this name.
    head.headers.insert(CLIENT_ID, client);
    let uri = std::mem::take(&mut head.uri).into_parts();
    if let Some(authority) = &uri.authority {
        set_host(&mut head.headers, authority);
    }
    head.uri = Uri::from(uri.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")));
    head.version = Version::HTTP_11;
    Request::from_parts(head, body)
}

/// As HTTP/2 says that nobody is interested any more; on HTTP/1.1 the connection ends.
fn revoked() -> h2::Error {
    h2::Reason::CANCEL.into()
}
