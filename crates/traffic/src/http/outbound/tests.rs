use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http2;
use model::{DestinationId, Protocol};
use snapshot::parts::Endpoints;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

use super::*;
use crate::ProxyConfig;
use crate::fixture::{CATALOG, Pipe, WEB, World, destination, endpoint};
use crate::http::limits::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS, frame};
use crate::outbound::Outbound;
use crate::tls::accept;
use crate::worker::{Local, Shared};

const ID: &str = "ms_default_west__catalog_http";
const LIMIT: Duration = Duration::from_secs(5);

/// A catalog that answers over HTTP/2, and drains each connection after so many requests.
struct Catalog {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
}

impl Catalog {
    async fn start(world: &World, requests_per_connection: usize, refuses: bool) -> Self {
        let credentials = world.credentials(&world.west, CATALOG);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, connections) = (listener.local_addr().unwrap(), Rc::<Cell<usize>>::default());
        let count = connections.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                let credentials = credentials.clone();
                tokio::task::spawn_local(async move {
                    let accepted = accept(stream, Protocol::Http, &credentials, LIMIT).await.unwrap();
                    let (served, drain) = (Cell::new(0), Notify::new());
                    let service = service_fn(|request: Request<Incoming>| {
                        served.set(served.get() + 1);
                        if served.get() == requests_per_connection {
                            drain.notify_one();
                        }
                        let path = request.uri().path().to_owned();
                        async move {
                            if refuses {
                                return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
                            }
                            Ok(Response::new(Full::new(Bytes::from(path))))
                        }
                    });
                    let io = TokioIo::new(accepted.stream);
                    let connection = http2::Builder::new(Local).serve_connection(io, service);
                    let mut connection = pin!(connection);
                    tokio::select! {
                        _ = connection.as_mut() => {}
                        () = drain.notified() => {
                            connection.as_mut().graceful_shutdown();
                            let _ = connection.await;
                        }
                    }
                });
            }
        });
        Self { address, connections }
    }
}

/// The web, with an outbound to a catalog at these addresses, and a connection of its application.
async fn web(world: &World, at: &[SocketAddr]) -> (Rc<Shared>, Outbound, SendRequest<Full<Bytes>>) {
    let (shared, outbound, near) = connected(world, at, destination(Protocol::Http, &[CATALOG], LIMIT));
    (shared, outbound, application(near).await)
}

async fn application(near: Pipe) -> SendRequest<Full<Bytes>> {
    let (requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::task::spawn_local(connection);
    requests
}

/// The same, with the application's end of its connection.
fn connected(
    world: &World,
    at: &[SocketAddr],
    part: snapshot::parts::Destination,
) -> (Rc<Shared>, Outbound, Pipe) {
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
    outbound.apply(&config);
    let endpoints = at.iter().map(|address| endpoint(*address, CATALOG)).collect();
    outbound.set_endpoints(&id, Arc::new(Endpoints(endpoints)));
    let near = connect(&outbound);
    (shared, outbound, near)
}

/// A connection of the web's application.
fn connect(outbound: &Outbound) -> Pipe {
    let (near, far) = Pipe::pair(64 * 1024);
    tokio::task::spawn_local(serve(far, outbound.destination(&ID.parse().unwrap()).unwrap()));
    near
}

async fn get(requests: &mut SendRequest<Full<Bytes>>, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).header(HOST, "catalog").body(Full::default()).unwrap();
    requests.ready().await.unwrap();
    let response = requests.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_connection_that_the_peer_drains_is_replaced_and_no_request_is_lost() {
    let drained = async {
        let world = World::new();
        let catalog = Catalog::start(&world, 3, false).await;
        let (shared, _outbound, mut requests) = web(&world, &[catalog.address]).await;
        for number in 0..20 {
            let path = format!("/{number}");
            assert_eq!(get(&mut requests, &path).await, (StatusCode::OK, path));
        }
        assert!(catalog.connections.get() >= 6, "{} connections", catalog.connections.get());
        assert_eq!(shared.metrics.read().outbound_requests, 20);
    };
    LocalSet::new().run_until(Box::pin(drained)).await;
}

#[tokio::test]
async fn a_connect_failure_goes_to_another_endpoint_and_is_not_repeated_at_once() {
    let tried = async {
        let world = World::new();
        let catalog = Catalog::start(&world, usize::MAX, false).await;
        let at = [nobody().await, catalog.address, nobody().await];
        let (shared, _outbound, mut requests) = web(&world, &at).await;
        for _ in 0..50 {
            assert_eq!(get(&mut requests, "/").await.0, StatusCode::OK);
        }
        let counters = shared.metrics.read();
        assert_eq!((counters.outbound_requests, counters.connects), (50, 1));
        assert!(counters.connect_failures < 10, "{counters:?}");
    };
    LocalSet::new().run_until(Box::pin(tried)).await;
}

#[tokio::test]
async fn each_endpoint_is_tried_once_and_the_last_failure_is_told() {
    let tried = async {
        let world = World::new();
        let at = [nobody().await, nobody().await, nobody().await];
        let (shared, outbound, mut requests) = web(&world, &at).await;
        let (status, body) = get(&mut requests, "/").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains(r#""reason":"unreachable""#), "{body}");
        assert_eq!(shared.metrics.read().connect_failures, 3);
        // All are ejected, and tried all the same.
        assert_eq!(get(&mut requests, "/").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(shared.metrics.read().connect_failures, 6);

        let id = ID.parse().unwrap();
        outbound.set_endpoints(&id, Arc::default());
        let (status, body) = get(&mut requests, "/").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains(r#""reason":"no-endpoint""#), "{body}");
    };
    LocalSet::new().run_until(Box::pin(tried)).await;
}

#[tokio::test]
async fn no_more_than_five_endpoints_are_tried() {
    let tried = async {
        let world = World::new();
        let mut at = Vec::new();
        for _ in 0..ATTEMPTS + 2 {
            at.push(nobody().await);
        }
        let (shared, _outbound, mut requests) = web(&world, &at).await;
        assert_eq!(get(&mut requests, "/").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!((shared.metrics.read().connect_failures, ATTEMPTS), (5, 5));
    };
    LocalSet::new().run_until(Box::pin(tried)).await;
}

#[tokio::test]
async fn a_refused_stream_goes_to_another_endpoint_with_its_body() {
    let refused = async {
        let world = World::new();
        let refusing = Catalog::start(&world, usize::MAX, true).await;
        let catalog = Catalog::start(&world, usize::MAX, false).await;
        let at = [refusing.address, catalog.address];
        let (_, _outbound, mut requests) = web(&world, &at).await;
        for number in 0..20 {
            let path = format!("/{number}");
            let body = Full::from("kept until somebody takes it");
            let request = Request::post(&path).header(HOST, "catalog").body(body).unwrap();
            requests.ready().await.unwrap();
            let response = requests.send_request(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), path);
        }
        assert!(refusing.connections.get() > 0, "nobody asked who refuses");
    };
    LocalSet::new().run_until(Box::pin(refused)).await;
}

/// Takes two requests, says that it will answer the first alone, and when it did is gone.
async fn goes_away(
    world: &World,
    both_came: oneshot::Sender<()>,
    may_go: oneshot::Receiver<()>,
) -> SocketAddr {
    let credentials = world.credentials(&world.west, CATALOG);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut stream = accept(stream, Protocol::Http, &credentials, LIMIT).await.unwrap().stream;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        stream.read_exact(&mut [0; 24]).await.unwrap();
        let mut streams = Vec::new();
        while streams.len() < 2 {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            if head[3] == HEADERS {
                streams.push(u32::from_be_bytes(head[5..].try_into().unwrap()));
            }
        }
        assert_eq!(streams, [1, 3]);
        both_came.send(()).unwrap();
        may_go.await.unwrap();
        let last_and_no_error = [1_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
        stream.write_all(&frame(GOAWAY, 0, 0, &last_and_no_error)).await.unwrap();
        // `:status: 202`, a literal beside a name of the static table.
        let accepted = [&[0x08, 0x03][..], b"202"].concat();
        stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &accepted)).await.unwrap();
        stream.flush().await.unwrap();
        // Whoever said goodbye waits for the other to do so.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    address
}

#[tokio::test]
async fn what_comes_after_the_last_stream_of_a_goaway_goes_to_another_endpoint() {
    let gone = async {
        let world = World::new();
        let ((both_came, came), (go, may_go)) = (oneshot::channel(), oneshot::channel());
        let leaving = goes_away(&world, both_came, may_go).await;
        let (shared, outbound, mut first) = web(&world, &[leaving]).await;
        let mut second = application(connect(&outbound)).await;
        let id = ID.parse().unwrap();
        let catalog = Catalog::start(&world, usize::MAX, false).await;
        let (first, second, ()) =
            tokio::join!(get(&mut first, "/first"), get(&mut second, "/second"), async {
                came.await.unwrap();
                let endpoints = [leaving, catalog.address].map(|at| endpoint(at, CATALOG));
                outbound.set_endpoints(&id, Arc::new(Endpoints(endpoints.to_vec())));
                go.send(()).unwrap();
            });
        let (answered, sent_on) =
            if first.0 == StatusCode::ACCEPTED { (first, second) } else { (second, first) };
        assert_eq!(answered.0, StatusCode::ACCEPTED, "by who goes away");
        assert_eq!(sent_on.0, StatusCode::OK, "by the other: {}", sent_on.1);
        assert_eq!(catalog.connections.get(), 1);
        assert_eq!(shared.metrics.read().outbound_failures, 0);
    };
    LocalSet::new().run_until(Box::pin(gone)).await;
}

#[tokio::test]
async fn a_refused_stream_is_told_from_a_broken_one() {
    let refused = async {
        let world = World::new();
        let catalog = Catalog::start(&world, usize::MAX, true).await;
        let (_, _outbound, mut requests) = web(&world, &[catalog.address]).await;
        let (status, body) = get(&mut requests, "/").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains(r#""reason":"refused""#), "{body}");
    };
    LocalSet::new().run_until(Box::pin(refused)).await;
}

#[tokio::test]
async fn a_client_of_grpc_is_told_in_its_own_words_and_without_a_body() {
    let told = async {
        let world = World::new();
        let part = destination(Protocol::Grpc, &[CATALOG], LIMIT);
        let (_, _outbound, near) = connected(&world, &[], part);
        let (mut requests, connection) = h2::client::handshake(near).await.unwrap();
        tokio::task::spawn_local(connection);
        let request = Request::post("http://catalog/a.B/C").header("content-type", "application/grpc");
        let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert!(response.headers()["grpc-message"].to_str().unwrap().starts_with("no-endpoint: "));
        assert!(response.body().is_end_stream(), "trailers only");
    };
    LocalSet::new().run_until(Box::pin(told)).await;
}

#[tokio::test]
async fn a_request_without_a_host_goes_nowhere() {
    let rejected = async {
        let world = World::new();
        let (shared, _outbound, mut requests) = web(&world, &[nobody().await]).await;
        let response = requests.send_request(Request::get("/").body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(shared.metrics.read().outbound_rejected, 1);
    };
    LocalSet::new().run_until(Box::pin(rejected)).await;
}

/// A catalog that lets any request switch, of clients whose zones it believes.
async fn switches(world: &World, believed: &[(&str, &identity::ZoneCa)]) -> SocketAddr {
    let credentials = world.believing(believed, &world.west, CATALOG);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(accepted) = accept(stream, Protocol::Http, &credentials, LIMIT).await else { continue };
            let mut stream = accepted.stream;
            let _head = stream.read(&mut [0; 4096]).await.unwrap();
            let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_request_that_asks_to_switch_goes_on_to_who_lets_us_in() {
    let asked = async {
        let world = World::new();
        let distrustful = switches(&world, &[("west", &world.west)]).await;
        let trustful = switches(&world, &[("east", &world.east), ("west", &world.west)]).await;
        for (at, method, want) in [
            (&[distrustful][..], "GET", StatusCode::SERVICE_UNAVAILABLE),
            (&[distrustful], "POST", StatusCode::BAD_GATEWAY),
            (&[distrustful, trustful], "GET", StatusCode::SWITCHING_PROTOCOLS),
        ] {
            let (shared, _outbound, mut requests) = web(&world, at).await;
            let request = Request::builder().method(method).uri("/").header(HOST, "catalog");
            let request = request.header("connection", "upgrade").header("upgrade", "echo");
            let response = requests.send_request(request.body(Full::default()).unwrap()).await.unwrap();
            assert_eq!(response.status(), want);
            let counters = shared.metrics.read();
            if at.len() == 1 {
                assert_eq!((counters.connects, counters.connect_failures, counters.ejections), (0, 1, 1));
            }
        }
    };
    LocalSet::new().run_until(Box::pin(asked)).await;
}
