//! Requests of other proxies: access is decided before a byte of them reaches the application.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::Parts;
use hyper::server::conn::http2::Connection;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use identity::Alpn;
use telemetry::{About, Flag, Record};
use tokio::net::TcpStream;
use tracing::debug;

use super::application::{ApplicationError, Lease};
use super::body::{Answer, Asked, Keeper};
use super::bounded::Requests;
use super::edge;
use super::framing::{Strict, Switching, is_clear};
use super::headers::{
    CLIENT_ID, DECISION_ID, UNREACHED, join_cookies, name_te, set_host, strip_hop_by_hop, strip_ours,
};
use super::problem::Words;
use super::upgrade::{self, Outcome, Tunnel};
use super::upload::Upload;
use crate::access::Verdict;
use crate::connect::Guarded;
use crate::deadline::of_request;
use crate::inbound::{Inbound, Peer};
use crate::record::{Exchange, about, propagate, refused};
use crate::route::target;
use crate::standing::Watch;
use crate::transport::Transport;

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
    let Ok(client) = HeaderValue::from_str(peer.id().as_str()) else { return };
    let is_h2 = alpn == Some(Alpn::H2);
    // Requests lose their standing one by one on HTTP/2, and with the connection on HTTP/1.1.
    let standing = if is_h2 { peer.connection().clone() } else { peer.standing() };
    let stream = Guarded::new(stream, standing.watch());
    let requests = Requests::new(&inbound.shared().deadlines, &inbound.part().timeouts);
    let (switched, switching) = (RefCell::default(), Switching::default());
    let ended = if is_h2 {
        let service = service_fn(|request| {
            let (inbound, peer, client) = (inbound.clone(), peer.clone(), client.clone());
            let requests = requests.clone();
            // As one pointer: the task that it becomes is moved from place to place before it runs.
            Box::pin(async move { answer(request, &inbound, &peer, client, &requests, None).await })
        });
        let stream = TokioIo::new(stream);
        let connection = pin!(edge::http2(requests.clone()).serve_connection(stream, service));
        requests.run(connection, Connection::graceful_shutdown, &closing).await.map(|()| None)
    } else {
        let (switched, switching, requests) = (&switched, &switching, &requests);
        let service = service_fn(|request| {
            let (inbound, peer, client) = (inbound.clone(), peer.clone(), client.clone());
            Box::pin(async move {
                let asks = upgrade::asks(&request);
                let mut answer = answer(request, &inbound, &peer, client, requests, Some(switched)).await;
                if let Ok(answer) = &mut answer {
                    switching.answered(asks, answer);
                }
                answer
            })
        });
        let stream = TokioIo::new(Strict::new(stream, switching, requests));
        upgrade::run(edge::http1().serve_connection(stream, service), &closing, requests).await
    };
    if requests.heard_half() {
        inbound.shared().recorder.begin(&peer.series, About::default).failed(Flag::RequestHeadersTimeout);
    }
    match (ended, switched.take()) {
        (Ok(Some((stream, early))), Some(tunnel)) => {
            tunnel.carry(stream.into_inner(), early, &inbound.shared().scratch).await;
        }
        (Ok(Some((stream, _))), None) => {
            // It may be gone already.
            let _ = upgrade::close(stream.into_inner()).await;
        }
        (Ok(None), _) => {}
        (Err(error), _) => {
            if error.is_parse() {
                let mut record = inbound.shared().recorder.begin(&peer.series, About::default);
                refused(&mut record, Flag::BadRequest, StatusCode::BAD_REQUEST);
            }
            debug!(inbound = inbound.name, client = %peer.id(), %error, "a connection ended early");
        }
    }
}

/// What an answer's body holds on to.
pub(crate) struct Held {
    lease: Lease,
    exchange: Exchange,
}

impl Keeper for Held {
    fn moved(&mut self, bytes: usize) {
        self.exchange.deadline.moved(0, bytes as u64);
    }

    fn completed(mut self) {
        self.lease.completed();
        self.exchange.ended();
    }

    fn broken(&mut self) {
        self.exchange.failed(Flag::UpstreamReset);
    }
}

/// The other end of a connection that has switched.
type Switched = RefCell<Option<Tunnel<TcpStream, Option<Watch>>>>;

/// An error resets the stream, and ends a connection of HTTP/1.1, which alone has a `switched`.
async fn answer(
    mut request: Request<Incoming>,
    inbound: &Rc<Inbound>,
    peer: &Rc<Peer>,
    client: HeaderValue,
    requests: &Requests,
    switched: Option<&Switched>,
) -> Result<Response<Answer<Held>>, h2::Error> {
    let open = requests.enter();
    let is_h2 = switched.is_none();
    let metrics = &inbound.shared().metrics;
    let about = || about(request.method(), request.uri(), request.headers());
    let mut record = inbound.shared().recorder.begin(&peer.series, about);
    let words = Words::of(request.headers());
    match &*peer.verdict.borrow() {
        Verdict::Allowed => {}
        Verdict::Observed(_) => metrics.observed_denials.add(),
        Verdict::Denied(_) => return Ok(denied(&mut record, words, inbound, peer)),
    }
    let standing = peer.standing();
    // It was on its way when the goodbye was: another endpoint takes it. On HTTP/1.1 only an answer can say anything.
    if inbound.closing.is_cancelled() {
        if is_h2 {
            record.failed(Flag::Draining);
            return Err(h2::Reason::REFUSED_STREAM.into());
        }
        let (status, detail) = (StatusCode::SERVICE_UNAVAILABLE, "this instance is about to stop");
        let response = refusal(&mut record, words, Flag::Draining, status, "draining", detail);
        return Ok(unreached(response));
    }
    if request.method() == Method::CONNECT {
        let detail = "CONNECT is not carried";
        let status = StatusCode::NOT_IMPLEMENTED;
        return Ok(refusal(&mut record, words, Flag::Unsupported, status, "connect", detail));
    }
    let application = inbound.application();
    propagate(&record, request.headers_mut());
    let (head, body) = request.into_parts();
    let target = match target(&head) {
        Ok(target) => target,
        Err(refusal) => return Ok(bad_request(&mut record, words, &refusal.to_string())),
    };
    let limits = of_request(&peer.timeouts.get(), body.is_end_stream());
    let deadline = inbound.shared().deadlines.begin(limits);
    let mut exchange = Exchange::of_request(record, deadline, open, Some(standing));
    requests.bound(&exchange);
    let upgrade = match switched {
        Some(switched) if !application.speaks_http2() => {
            upgrade::wanted(&head, &body).map(|protocol| (protocol, switched))
        }
        _ => None,
    };
    let request = Request::from_parts(head, Asked::new(body, &mut exchange));
    let request = to_application(request, target, client, application.speaks_http2());
    let (protocol, switched) = upgrade.unzip();
    let answered = |response: Response<Incoming>, lease| {
        if !application.speaks_http2() {
            is_clear(&response)?;
        }
        Ok(Sent::Answered(response, lease))
    };
    let sent = async {
        let Some(protocol) = protocol else {
            let (response, lease) = application.send(request).await?;
            return answered(response, lease);
        };
        let mut request = request.map(|_empty| Upload::none());
        upgrade::ask(request.headers_mut(), protocol);
        let outcome = application.switch(request).await?;
        Ok(match outcome {
            Outcome::Switched(response, parts) => Sent::Switched(response, Box::new(parts)),
            Outcome::Declined(response, driving) => answered(response, Lease::Own { _driving: driving })?,
        })
    };
    let sent = tokio::select! {
        biased;
        sent = sent => sent,
        limit = exchange.deadline.passed() => Err(ApplicationError::TooLong(limit)),
    };
    match sent {
        Ok(Sent::Switched(response, parts)) => {
            metrics.inbound_requests.add();
            exchange.record.answered(response.status().as_u16());
            if let Some(switched) = switched {
                switched.replace(Some(Tunnel::new(*parts, exchange.watch(), exchange)));
            }
            Ok(upgrade::switching(response).map(|()| Answer::ours(Bytes::new())))
        }
        Ok(Sent::Answered(mut response, lease)) => {
            metrics.inbound_requests.add();
            strip_ours(response.headers_mut());
            strip_hop_by_hop(response.headers_mut());
            *response.version_mut() = if is_h2 { Version::HTTP_2 } else { Version::HTTP_11 };
            exchange.record.answered(response.status().as_u16());
            let keeper = Held { lease, exchange };
            Ok(response.map(|stream| Answer::theirs(stream, keeper)))
        }
        Err(error) => {
            metrics.application_failures.add();
            debug!(inbound = inbound.name, %error, "the application failed a request");
            match error {
                // So that the peer may try another endpoint; it has read nothing of the body yet.
                ApplicationError::Unreachable(_) if is_h2 => {
                    exchange.failed(Flag::ApplicationUnreachable);
                    Err(h2::Reason::REFUSED_STREAM.into())
                }
                ApplicationError::Unreachable(_) => {
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    let (why, detail) = (Flag::ApplicationUnreachable, error.to_string());
                    let record = &mut exchange.record;
                    Ok(unreached(refusal(record, words, why, status, "application-unreachable", &detail)))
                }
                ApplicationError::Broken(_) | ApplicationError::Ambiguous(_) => {
                    let status = StatusCode::BAD_GATEWAY;
                    let (why, detail) = (Flag::UpstreamReset, error.to_string());
                    Ok(refusal(&mut exchange.record, words, why, status, "application-broken", &detail))
                }
                ApplicationError::TooLong(limit) => {
                    let why = limit.flag().unwrap_or(Flag::RequestTimeout);
                    let (status, detail) = (StatusCode::GATEWAY_TIMEOUT, error.to_string());
                    Ok(refusal(&mut exchange.record, words, why, status, why.as_str(), &detail))
                }
            }
        }
    }
}

/// Says on HTTP/1.1 that another endpoint may be asked, over a connection that is of no more use.
fn unreached(mut response: Response<Answer<Held>>) -> Response<Answer<Held>> {
    response.headers_mut().insert(UNREACHED, HeaderValue::from_static("1"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What an application made of a request.
enum Sent {
    Answered(Response<Incoming>, Lease),
    Switched(Response<()>, Box<Parts<TokioIo<TcpStream>>>),
}

/// The proxy's own answer ends it.
fn refusal(
    record: &mut Record,
    words: Words,
    why: Flag,
    status: StatusCode,
    reason: &str,
    detail: &str,
) -> Response<Answer<Held>> {
    refused(record, why, status);
    words.answer(status, reason, detail).map(Answer::ours)
}

fn bad_request(record: &mut Record, words: Words, detail: &str) -> Response<Answer<Held>> {
    refusal(record, words, Flag::BadRequest, StatusCode::BAD_REQUEST, "bad-request", detail)
}

fn denied(record: &mut Record, words: Words, inbound: &Inbound, peer: &Peer) -> Response<Answer<Held>> {
    let id = inbound.deny(peer);
    let detail = format!("{} may not call this; `tombolo why {id}` tells the reason", peer.id());
    let mut response = refusal(record, words, Flag::Denied, StatusCode::FORBIDDEN, "denied", &detail);
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(DECISION_ID, id);
    }
    response
}

/// The request in the form of the protocol that the application speaks.
fn to_application(
    request: Request<Asked>,
    target: Uri,
    client: HeaderValue,
    speaks_http2: bool,
) -> Request<Asked> {
    let (mut head, body) = request.into_parts();
    strip_hop_by_hop(&mut head.headers);
    strip_ours(&mut head.headers);
    head.headers.remove(EXPECT);
    head.headers.insert(CLIENT_ID, client);
    if speaks_http2 {
        head.headers.remove(HOST);
        head.uri = target;
        head.version = Version::HTTP_2;
    } else {
        join_cookies(&mut head.headers);
        name_te(&mut head.headers);
        if let Some(authority) = target.authority() {
            set_host(&mut head.headers, authority);
        }
        // Of these methods hyper drops a body of which it does not know the length.
        if matches!(head.method, Method::GET | Method::HEAD)
            && !body.is_end_stream()
            && !head.headers.contains_key(CONTENT_LENGTH)
        {
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let path = target.into_parts().path_and_query;
        head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        head.version = Version::HTTP_11;
    }
    Request::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use model::Protocol;
    use policy::access::{AccessRule, ClientMatch, Effect, RuleOrigin};
    use rustls::ClientConfig;
    use snapshot::parts::{self, Access};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;
    use tokio::time;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::ProxyConfig;
    use crate::fixture::{CATALOG, Pipe, WEB, World, nowhere};
    use crate::inbound::Inbounds;
    use crate::worker::Shared;

    /// What the application reads, and the client gets, when the web sends these bytes to an HTTP inbound over
    /// a connection for which it offered `alpn`.
    async fn exchange(alpn: &[&[u8]], bytes: &[u8]) -> (String, String) {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = application.local_addr().unwrap();
        let exchanged = async {
            let world = World::new();
            let (_shared, inbounds) = inbounds(&world, address);
            let (near, far) = Pipe::pair(64 * 1024);
            tokio::task::spawn_local(inbounds.inbound(8080).unwrap().serve(far));
            let mut config = ClientConfig::clone(&world.credentials(&world.east, WEB).client_http);
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            let name = "catalog.west.tombolo.internal".try_into().unwrap();
            let mut client = TlsConnector::from(Arc::new(config)).connect(name, near).await.unwrap();
            client.write_all(bytes).await.unwrap();

            let seen = tokio::task::spawn_local(async move {
                let (mut stream, _) = application.accept().await.unwrap();
                let mut seen = vec![0; 64 * 1024];
                let read = stream.read(&mut seen).await.unwrap();
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                String::from_utf8(seen[..read].to_vec()).unwrap()
            });
            let mut answer = vec![0; 64 * 1024];
            let read = time::timeout(Duration::from_secs(5), client.read(&mut answer)).await;
            let read = read.expect("no answer").unwrap_or_default();
            seen.abort();
            let seen = seen.await.unwrap_or_default();
            (seen, String::from_utf8_lossy(&answer[..read]).into_owned())
        };
        LocalSet::new().run_until(Box::pin(exchanged)).await
    }

    fn inbounds(world: &World, application: SocketAddr) -> (Rc<Shared>, Inbounds) {
        let rule = AccessRule {
            effect: Effect::Allow,
            clients: ClientMatch::Exactly(WEB.parse().unwrap()),
            origin: RuleOrigin {
                policy: "MeshTrafficPermission/default/global//allow".parse().unwrap(),
                version: "global-1-1".parse().unwrap(),
                path: "spec".into(),
            },
        };
        let part = parts::Inbound {
            listen: nowhere(),
            application,
            protocol: Protocol::Http,
            access: Access { rules: vec![rule], ..Access::default() },
            timeouts: parts::Timeouts::default(),
            client_timeouts: Vec::new(),
        };
        let credentials = world.credentials(&world.west, CATALOG);
        let config = ProxyConfig {
            outbound: Vec::new(),
            inbounds: BTreeMap::from([(8080, Arc::new(part))]),
            destinations: BTreeMap::new(),
            credentials: credentials.clone(),
        };
        let shared = Rc::<Shared>::default();
        shared.credentials.replace(Some(credentials));
        let inbounds = Inbounds::new(shared.clone());
        inbounds.apply(&config);
        (shared, inbounds)
    }

    #[tokio::test]
    async fn s17_whatever_a_peer_agreed_on_its_requests_are_parsed_and_its_id_is_ours_to_say() {
        let request = b"GET /a HTTP/1.1\r\nHost: catalog\r\nTombolo-Client-Id: spiffe://td/forged\r\n\
                        tombolo-client-id: spiffe://td/again\r\nConnection: tombolo-client-id\r\n\r\n";
        for alpn in [&[][..], &[b"http/1.1".as_slice()]] {
            let (seen, answer) = exchange(alpn, request).await;
            assert!(seen.starts_with("GET /a HTTP/1.1\r\n"), "{seen}");
            let ids: Vec<&str> = seen.lines().filter(|line| line.starts_with("tombolo-client-id")).collect();
            assert_eq!(ids, [format!("tombolo-client-id: {WEB}")]);
            assert!(!seen.contains("forged") && !seen.contains("again"), "{seen}");
            assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_tells_the_first_request_of_a_connection_to_go_elsewhere_and_waits_for_no_other() {
        for asks in [true, false] {
            let drained = async {
                let world = World::new();
                let (shared, inbounds) = inbounds(&world, nowhere());
                let (near, far) = Pipe::pair(64 * 1024);
                let serving = tokio::task::spawn_local(inbounds.inbound(8080).unwrap().serve(far));
                let config = world.credentials(&world.east, WEB).client_http1.clone();
                let name = "catalog.west.tombolo.internal".try_into().unwrap();
                let mut client = TlsConnector::from(config).connect(name, near).await.unwrap();
                time::sleep(Duration::from_secs(1)).await;
                shared.draining.cancel();
                time::sleep(Duration::from_secs(1)).await;
                let mut answer = String::new();
                if asks {
                    client.write_all(b"GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await.unwrap();
                    client.read_to_string(&mut answer).await.unwrap();
                    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
                    assert!(answer.contains("\r\ntombolo-unreached: 1\r\n"), "{answer}");
                } else {
                    // No goodbye, for there was nobody to take leave of.
                    assert!(client.read_to_string(&mut answer).await.is_err());
                }
                time::timeout(Duration::from_secs(1), serving).await.expect("it goes on").unwrap();
            };
            LocalSet::new().run_until(Box::pin(drained)).await;
        }
    }

    #[tokio::test]
    async fn s08_what_two_readers_could_read_in_two_ways_does_not_reach_the_application() {
        let cases: [(&str, &[u8]); 5] = [
            ("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
            ("a tunnel", b"CONNECT catalog:80 HTTP/1.1\r\nHost: catalog:80\r\n\r\n"),
            (
                "two lengths",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            ),
            (
                "a coding that is not chunked",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
            ),
            ("no HTTP", b"\x16\x03\x01 opaque bytes\r\n\r\n"),
        ];
        for (why, bytes) in cases {
            let (seen, answer) = exchange(&[], bytes).await;
            assert_eq!(seen, "", "{why}");
            assert!(
                answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 501"),
                "{why}: {answer}"
            );
        }
    }
}
