//! What takes too long: two proxies in one thread, on our own clock.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade;
use hyper_util::rt::TokioIo;
use model::Protocol;
use policy::access::{AccessRule, ClientMatch, Effect, RuleOrigin};
use snapshot::parts::{self, Access, ClientTimeouts, Endpoints, Millis, Timeouts};
use telemetry::Telemetry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::ProxyConfig;
use crate::fixture::{CATALOG, HANDLE, Pipe, WEB, World, destination, endpoint, nowhere, told};
use crate::inbound::Inbounds;
use crate::outbound::{Destination, Outbound};
use crate::standing::Standing;
use crate::worker::{Local, Shared};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const NONE: Timeouts = Timeouts {
    connect: Millis(0),
    idle: Millis(0),
    request: Millis(0),
    stream_idle: Millis(0),
    max_stream: Millis(0),
    max_connection: Millis(0),
    request_headers: Millis(0),
};
/// More than the pipe of an application takes, and less than hyper holds of an answer.
const BIG: usize = 300_000;
/// By which HTTP the application of the web asks.
pub(super) const EDGES: [Protocol; 2] = [Protocol::Http, Protocol::Http2];

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The web in the east, and the catalog in the west with an application on HTTP/1.1 that behaves as the path
/// of a request says.
pub(super) struct Mesh {
    pub(super) web: Telemetry,
    outbound: Outbound,
    config: ProxyConfig,
    pub(super) catalog: Telemetry,
    /// Those of the web to the catalog.
    pub(super) connections: Rc<Cell<usize>>,
    inbounds: Inbounds,
    rules: ProxyConfig,
}

impl Mesh {
    pub(super) async fn new(edge: Protocol, to: Timeouts, rules: Timeouts) -> Self {
        Self::with_clients(edge, to, rules, Vec::new()).await
    }

    async fn with_clients(
        edge: Protocol,
        to: Timeouts,
        rules: Timeouts,
        clients: Vec<ClientTimeouts>,
    ) -> Self {
        let world = World::new();
        let protocol = if edge == Protocol::Tcp { edge } else { Protocol::Http };
        let part = parts::Inbound {
            listen: nowhere(),
            application: application(protocol).await,
            protocol,
            access: everybody(),
            timeouts: rules,
            client_timeouts: clients,
        };
        let credentials = world.credentials(&world.west, CATALOG);
        let rules = ProxyConfig {
            outbound: Vec::new(),
            inbounds: BTreeMap::from([(8080, Arc::new(part))]),
            destinations: BTreeMap::new(),
            credentials: credentials.clone(),
        };
        let catalog = Telemetry::default();
        let shared = Rc::new(Shared { recorder: catalog.worker(), ..Shared::default() });
        shared.credentials.replace(Some(credentials));
        let inbounds = Inbounds::new(shared);
        inbounds.apply(&rules);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, connections) = (listener.local_addr().unwrap(), Rc::<Cell<usize>>::default());
        let (inbound, count) = (inbounds.inbound(8080).unwrap(), connections.clone());
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                count.set(count.get() + 1);
                tokio::task::spawn_local(inbound.clone().serve(stream));
            }
        });

        let credentials = world.credentials(&world.east, WEB);
        let part = parts::Destination { timeouts: to, ..destination(edge, &[CATALOG], 5 * SECOND) };
        let config = ProxyConfig {
            outbound: Vec::new(),
            inbounds: BTreeMap::new(),
            destinations: BTreeMap::from([(id(), Arc::new(part))]),
            credentials: credentials.clone(),
        };
        let web = Telemetry::default();
        let shared = Rc::new(Shared { recorder: web.worker(), ..Shared::default() });
        shared.credentials.replace(Some(credentials));
        let outbound = Outbound::new(shared);
        outbound.apply(&config);
        outbound.set_endpoints(&id(), Arc::new(Endpoints(vec![endpoint(at, CATALOG)])));
        Self { web, outbound, config, catalog, connections, inbounds, rules }
    }

    fn destination(&self) -> Rc<Destination> {
        self.outbound.destination(&id()).unwrap()
    }

    fn change(&mut self, to: Timeouts) {
        Arc::make_mut(self.config.destinations.get_mut(&id()).unwrap()).timeouts = to;
        self.outbound.apply(&self.config);
    }

    /// Nobody may call the catalog any more; what was allowed depends on the returned.
    pub(super) fn revoke(&mut self) -> Vec<Rc<Standing>> {
        Arc::make_mut(self.rules.inbounds.get_mut(&8080).unwrap()).access = Access::default();
        self.inbounds.apply(&self.rules)
    }

    /// A connection of the web's application.
    pub(super) fn connect(&self) -> Pipe {
        let (near, far) = Pipe::pair(64 * 1024);
        let destination = self.destination();
        tokio::task::spawn_local(async move {
            match destination.part().protocol {
                Protocol::Tcp => crate::tcp::outbound::serve(far, destination).await,
                _ => super::outbound::serve(far, destination).await,
            }
        });
        near
    }

    pub(super) async fn client(&self) -> Client {
        let stream = TokioIo::new(self.connect());
        if self.destination().part().protocol == Protocol::Http {
            let (requests, connection) = http1::handshake(stream).await.unwrap();
            tokio::task::spawn_local(connection);
            Client::Http1(requests)
        } else {
            let (requests, connection) = http2::handshake(Local, stream).await.unwrap();
            tokio::task::spawn_local(connection);
            Client::Http2(requests)
        }
    }
}

pub(super) enum Client {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Client {
    pub(super) async fn send(&mut self, path: &str, body: Body) -> Response<Incoming> {
        self.ask(Request::post(format!("http://catalog{path}")).header(HOST, "catalog").body(body).unwrap())
            .await
    }

    async fn ask(&mut self, request: Request<Body>) -> Response<Incoming> {
        match self {
            Self::Http1(requests) => {
                requests.ready().await.unwrap();
                requests.send_request(request).await.unwrap()
            }
            Self::Http2(requests) => requests.send_request(request).await.unwrap(),
        }
    }

    pub(super) async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send(path, whole("")).await
    }

    /// Whether the proxy has closed the connection, or is about to.
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(requests) => requests.is_closed(),
            Self::Http2(requests) => requests.is_closed(),
        }
    }
}

fn id() -> model::DestinationId {
    "ms_default_west__catalog_http".parse().unwrap()
}

fn everybody() -> Access {
    let origin = RuleOrigin {
        policy: "MeshTrafficPermission/default/global//allow".parse().unwrap(),
        version: "global-1-1".parse().unwrap(),
        path: "spec".into(),
    };
    Access {
        rules: vec![AccessRule { effect: Effect::Allow, clients: ClientMatch::Anyone, origin }],
        ..Access::default()
    }
}

async fn application(protocol: Protocol) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            if protocol == Protocol::Tcp {
                tokio::task::spawn_local(echo(stream));
                continue;
            }
            let service = service_fn(|request| async { Ok::<_, Infallible>(behave(request).await) });
            let io = TokioIo::new(stream);
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
            tokio::task::spawn_local(connection.with_upgrades());
        }
    });
    address
}

async fn echo(stream: impl AsyncRead + AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(stream);
    // How it ends is seen by the other side.
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

async fn behave(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/switch" => {
            tokio::task::spawn_local(async { echo(TokioIo::new(upgrade::on(request).await.unwrap())).await });
            let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            switching.header(CONNECTION, "upgrade").header(UPGRADE, "echo").body(whole("")).unwrap()
        }
        "/silent" => pending().await,
        "/early" => {
            tokio::task::spawn_local(request.into_body().collect());
            Response::new(whole("enough"))
        }
        "/half" => Response::new(stream_of(drip(1).chain(stream::pending()))),
        "/drip" => Response::new(stream_of(drip(100))),
        "/big" => Response::new(whole(&"big".repeat(BIG / 3))),
        "/endless" => Response::new(stream_of(stream::repeat_with(|| Bytes::from(vec![0; 16 * 1024])))),
        _ => {
            let seen = request.into_body().collect().await.map_or(0, |seen| seen.to_bytes().len());
            Response::new(whole(&seen.to_string()))
        }
    }
}

pub(super) fn whole(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).boxed_unsync()
}

/// Ten bytes each second.
pub(super) fn drip(seconds: usize) -> impl futures::Stream<Item = Bytes> + Send + 'static {
    stream::iter(0..seconds).then(|_| async {
        sleep(SECOND).await;
        Bytes::from_static(b"0123456789")
    })
}

pub(super) fn stream_of(pieces: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// On our own clock, which goes on when nobody has anything to do. What is on its way between two sockets is
/// not seen by anybody: it is waited for, by what goes the same way behind it.
pub(super) fn on_a_worker(test: impl Future<Output = ()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nodelay(true).unwrap();
    let far = std::sync::Mutex::new((near, listener.accept().unwrap().0));
    let mut runtime = runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).on_thread_park(move || {
        let (near, far) = &mut *far.lock().unwrap();
        near.write_all(&[0]).unwrap();
        far.read_exact(&mut [0]).unwrap();
    });
    let test = async { timeout(1_000 * SECOND, test).await.expect("nothing comes any more") };
    LocalSet::new().block_on(&runtime.build().unwrap(), Box::pin(test));
}

fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

/// How often a request or connection was told to have ended by this, and how.
pub(super) fn ends(telemetry: &Telemetry, flag: &str) -> Vec<String> {
    let lines = told(telemetry, &["s_total{", &format!("flag=\"{flag}\"")]);
    lines.iter().map(|line| line[line.find("result").unwrap()..].to_owned()).collect()
}

#[test]
fn a_request_that_is_not_answered_in_time_is_answered_by_the_proxy() {
    let two = Timeouts { request: Millis(2_000), ..NONE };
    let idle = Timeouts { stream_idle: Millis(3_000), request: Millis(60_000), ..NONE };
    let whole_life = Timeouts { max_stream: Millis(4_000), ..NONE };
    for edge in EDGES {
        for (flag, to, rules, at) in [
            ("request-timeout", two, NONE, 2),
            ("request-timeout", NONE, two, 2),
            ("stream-idle-timeout", idle, NONE, 3),
            ("stream-idle-timeout", NONE, idle, 3),
            ("max-stream-duration", whole_life, two, 2),
            ("max-stream-duration", whole_life, NONE, 4),
            ("max-stream-duration", NONE, whole_life, 4),
        ] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let (mut client, start) = (mesh.client().await, Instant::now());
                let response = client.send("/silent", whole("a body that is whole at once")).await;
                assert_eq!((response.status(), seconds(start)), (StatusCode::GATEWAY_TIMEOUT, at), "{flag}");
                let body = response.into_body().collect().await.unwrap().to_bytes();
                let flag = if rules == two { "request-timeout" } else { flag };
                let said = String::from_utf8(body.to_vec()).unwrap();
                assert!(said.contains(&format!(r#""reason":"{flag}""#)), "{said}");
                let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
                assert_eq!(ends(by, flag), [format!("result=\"5xx\",flag=\"{flag}\"}} 1")]);
                // The connection is as good as before.
                assert_eq!(client.get("/").await.status(), StatusCode::OK);
            });
        }
    }
}

#[test]
fn a_client_of_grpc_learns_that_its_deadline_is_exceeded() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Grpc, Timeouts { request: Millis(2_000), ..NONE }, NONE).await;
        let request = Request::post("http://catalog/silent").header(CONTENT_TYPE, "application/grpc");
        let response = mesh.client().await.ask(request.body(whole("")).unwrap()).await;
        assert_eq!(
            (response.status(), &response.headers()["grpc-status"]),
            (StatusCode::OK, &"4".parse().unwrap())
        );
    });
}

#[test]
fn after_the_head_of_an_answer_a_limit_resets_it() {
    for edge in EDGES {
        for (path, flag, limit, at) in [
            ("/drip", "request-timeout", Timeouts { request: Millis(2_500), ..NONE }, 2),
            ("/half", "stream-idle-timeout", Timeouts { stream_idle: Millis(3_000), ..NONE }, 4),
            ("/drip", "max-stream-duration", Timeouts { max_stream: Millis(4_500), ..NONE }, 4),
        ] {
            for (to, rules) in [(limit, NONE), (NONE, limit)] {
                on_a_worker(async {
                    let mesh = Mesh::new(edge, to, rules).await;
                    let (mut client, start) = (mesh.client().await, Instant::now());
                    let response = client.get(path).await;
                    assert_eq!(response.status(), StatusCode::OK);
                    assert!(response.into_body().collect().await.is_err(), "{path}");
                    assert_eq!(seconds(start), at, "{edge:?} {path} {flag} {to:?}");
                    let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
                    assert_eq!(ends(by, flag), [format!("result=\"2xx\",flag=\"{flag}\"}} 1")]);
                });
            }
        }
    }
}

#[test]
fn a_reader_that_takes_nothing_is_reset_as_well() {
    for edge in EDGES {
        on_a_worker(async {
            let mesh = Mesh::new(edge, Timeouts { stream_idle: Millis(3_000), ..NONE }, NONE).await;
            let response = mesh.client().await.get("/endless").await;
            sleep(2 * SECOND).await;
            assert!(ends(&mesh.web, "stream-idle-timeout").is_empty());
            sleep(2 * SECOND).await;
            assert_eq!(ends(&mesh.web, "stream-idle-timeout").len(), 1);
            assert!(response.into_body().collect().await.is_err());
        });
    }
}

#[test]
fn a_request_that_ends_at_once_takes_no_limits_from_another_on_its_connection() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http2, Timeouts { max_stream: Millis(4_500), ..NONE }, NONE).await;
        let (mut client, start) = (mesh.client().await, Instant::now());
        let long = client.get("/drip").await;
        mesh.outbound.set_endpoints(&id(), Arc::default());
        assert_eq!(client.get("/").await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(long.into_body().collect().await.is_err());
        assert_eq!(seconds(start), 4);
    });
}

#[test]
fn an_upload_that_goes_on_after_its_answer_keeps_its_limits_and_is_told_in_full() {
    let idle = Timeouts { stream_idle: Millis(3_000), ..NONE };
    for edge in EDGES {
        for (to, rules) in [(idle, NONE), (NONE, idle)] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let mut client = mesh.client().await;
                let response = client.send("/early", stream_of(drip(5).chain(stream::pending()))).await;
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "enough");
                sleep(7 * SECOND).await;
                assert!(told(&mesh.web, &["requests_total{"]).is_empty(), "it goes on");
                sleep(2 * SECOND).await;
                let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
                assert_eq!(
                    ends(by, "stream-idle-timeout"),
                    ["result=\"2xx\",flag=\"stream-idle-timeout\"} 1"]
                );
                for side in [&mesh.web, &mesh.catalog] {
                    let sent = told(side, &["tombolo_sent_bytes_total{"]);
                    assert!(sent[0].ends_with(" 50"), "{sent:?}");
                }
            });
        }
    }
}

#[test]
fn what_goes_on_is_not_cut_and_a_request_timeout_waits_for_the_whole_request() {
    let limits = Timeouts { request: Millis(2_000), stream_idle: Millis(2_000), ..NONE };
    for edge in EDGES {
        on_a_worker(async {
            let mesh = Mesh::new(edge, limits, limits).await;
            let response = mesh.client().await.send("/", stream_of(drip(10))).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "100");
            let idle = Timeouts { stream_idle: Millis(2_000), ..NONE };
            let mesh = Mesh::new(edge, idle, idle).await;
            let response = mesh.client().await.get("/drip").await;
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 1_000);
        });
    }
}

#[test]
fn a_changed_timeout_counts_for_requests_that_begin_after() {
    on_a_worker(async {
        let mut mesh = Mesh::new(Protocol::Http2, Timeouts { request: Millis(10_000), ..NONE }, NONE).await;
        let (mut first, mut second, start) = (mesh.client().await, mesh.client().await, Instant::now());
        let before = async {
            first.get("/silent").await;
            seconds(start)
        };
        let after = async {
            sleep(SECOND).await;
            mesh.change(Timeouts { request: Millis(2_000), ..NONE });
            second.get("/silent").await;
            seconds(start)
        };
        assert_eq!(tokio::join!(before, after), (10, 3));
    });
}

#[test]
fn a_client_may_have_timeouts_of_its_own() {
    let other = CATALOG.parse().unwrap();
    let clients = |id| ClientTimeouts {
        clients: ClientMatch::Exactly(id),
        request: Some(Millis(2_000)),
        stream_idle: None,
    };
    for (id, want) in [(WEB.parse().unwrap(), 2), (other, 9)] {
        on_a_worker(async {
            let rules = Timeouts { request: Millis(9_000), ..NONE };
            let mesh = Mesh::with_clients(Protocol::Http, NONE, rules, vec![clients(id)]).await;
            let start = Instant::now();
            assert_eq!(mesh.client().await.get("/silent").await.status(), StatusCode::GATEWAY_TIMEOUT);
            assert_eq!(seconds(start), want);
        });
    }
}

#[test]
fn a_connection_without_requests_is_closed_when_it_was_idle_for_too_long() {
    let idle = Timeouts { idle: Millis(4_000), ..NONE };
    for edge in EDGES {
        for (to, rules) in [(idle, NONE), (NONE, idle)] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let mut client = mesh.client().await;
                for _ in 0..3 {
                    assert_eq!(client.get("/").await.status(), StatusCode::OK);
                    sleep(3 * SECOND).await;
                }
                assert!(timeout(9 * SECOND, client.get("/silent")).await.is_err(), "it is not idle");
                drop(client);
                let mut client = mesh.client().await;
                client.get("/").await;
                assert_eq!(mesh.connections.get(), 1);
                sleep(5 * SECOND).await;
                assert_eq!(client.is_closed(), to == idle, "that of the application");
                mesh.client().await.get("/").await;
                assert_eq!(mesh.connections.get(), 2, "that between the proxies");
            });
        }
    }
}

#[test]
fn a_connection_that_had_its_time_ends_after_its_last_request() {
    let life = Timeouts { max_connection: Millis(4_000), ..NONE };
    for edge in EDGES {
        for (to, rules) in [(life, NONE), (NONE, life)] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let mut client = mesh.client().await;
                let long = client.send("/", stream_of(drip(20))).await;
                assert_eq!(long.status(), StatusCode::OK, "what was begun is finished");
                if edge == Protocol::Http && to == life {
                    assert_eq!(long.headers()[CONNECTION], "close");
                }
                long.into_body().collect().await.unwrap();
                assert_eq!(mesh.connections.get(), 1);
                sleep(SECOND).await;
                assert_eq!(client.is_closed(), to == life);
                mesh.client().await.get("/").await;
                assert_eq!(mesh.connections.get(), 2);
            });
        }
    }
}

#[test]
fn the_head_of_a_request_has_to_be_whole_in_time_once_it_began() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, Timeouts { request_headers: Millis(2_000), ..NONE }, NONE).await;
        let mut stream = mesh.connect();
        let mut answer = [0; 1024];
        // Between requests it may be silent for longer.
        for wait in [5, 0, 5] {
            sleep(wait * SECOND).await;
            stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            sleep(SECOND).await;
            stream.write_all(b"host: catalog\r\n\r\n").await.unwrap();
            let read = stream.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let start = Instant::now();
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        assert_eq!(seconds(start), 2);
        assert_eq!(ends(&mesh.web, "request-headers-timeout").len(), 1);
    });
}

#[test]
fn a_connection_that_does_not_end_when_it_is_asked_to_is_dropped_unless_it_carries_a_request() {
    let idle = Timeouts { idle: Millis(4_000), ..NONE };
    let life = Timeouts { max_connection: Millis(4_000), ..NONE };
    let cases = [
        ("a head that stays half", Protocol::Http, "GET / HTTP/1.1\r\n"),
        ("no word", Protocol::Http2, ""),
        ("a preface that stays half", Protocol::Http2, "PRI * HT"),
    ];
    for (why, edge, bytes) in cases {
        for limits in [idle, life] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, limits, NONE).await;
                let (mut stream, start) = (mesh.connect(), Instant::now());
                stream.write_all(bytes.as_bytes()).await.unwrap();
                // HTTP/2 may say its settings.
                stream.read_to_end(&mut Vec::new()).await.unwrap();
                assert_eq!(seconds(start), 9, "{why}");
            });
        }
        on_a_worker(async {
            let mesh = Mesh::new(edge, NONE, NONE).await;
            let (mut stream, start) = (mesh.connect(), Instant::now());
            stream.write_all(bytes.as_bytes()).await.unwrap();
            sleep(SECOND).await;
            mesh.destination().closing.cancel();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(seconds(start), 6, "{why}, and the proxy drains");
        });
    }
}

#[test]
fn an_answer_that_nobody_takes_does_not_keep_a_connection_that_is_to_end() {
    let idle = Timeouts { idle: Millis(4_000), ..NONE };
    for (wait, is_whole) in [(8, true), (10, false)] {
        on_a_worker(async {
            let mesh = Mesh::new(Protocol::Http, idle, NONE).await;
            let mut stream = mesh.connect();
            stream.write_all(b"GET /big HTTP/1.1\r\nhost: catalog\r\n\r\n").await.unwrap();
            sleep(wait * SECOND).await;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.ends_with(b"big") && answer.len() > BIG, is_whole, "{}", answer.len());
        });
        on_a_worker(async {
            let mesh = Mesh::new(Protocol::Http2, idle, NONE).await;
            let mut builder = http2::Builder::new(Local);
            builder.initial_stream_window_size(1);
            let (requests, connection) = builder.handshake(TokioIo::new(mesh.connect())).await.unwrap();
            tokio::task::spawn_local(connection);
            let response = Client::Http2(requests).send("/", whole("a body of ten")).await;
            sleep(wait * SECOND).await;
            let answer = response.into_body().collect().await;
            assert_eq!(answer.is_ok(), is_whole);
        });
    }
}

#[test]
fn the_time_of_a_head_behind_a_request_begins_when_that_is_answered() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, Timeouts { request_headers: Millis(2_000), ..NONE }, NONE).await;
        let mut stream = mesh.connect();
        let mut answer = [0; 1024];
        stream.write_all(b"GET /drip HTTP/1.1\r\nhost: catalog\r\n\r\n").await.unwrap();
        for _ in 0..2 {
            // It is read together with the request before it.
            stream.write_all(b"GET /drip HTTP/1.1\r\n").await.unwrap();
            until_last_chunk(&mut stream).await;
            sleep(SECOND).await;
            stream.write_all(b"host: catalog\r\n\r\n").await.unwrap();
        }
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        until_last_chunk(&mut stream).await;
        let start = Instant::now();
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        assert_eq!(seconds(start), 2);
        assert_eq!(ends(&mesh.web, "request-headers-timeout").len(), 1);
    });
}

async fn until_last_chunk(stream: &mut Pipe) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"0\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn between_proxies_a_head_may_take_as_long_as_the_policies_say() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, NONE, NONE).await;
        let (near, far) = Pipe::pair(64 * 1024);
        tokio::task::spawn_local(mesh.inbounds.inbound(8080).unwrap().serve(far));
        let connector = TlsConnector::from(mesh.config.credentials.client_http1.clone());
        let mut stream = connector.connect(HANDLE.try_into().unwrap(), near).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        sleep(100 * SECOND).await;
        stream.write_all(b"host: catalog\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
    });
}

#[test]
fn an_opaque_connection_on_which_nothing_moves_is_reset_and_its_bytes_are_told() {
    let idle = Timeouts { idle: Millis(3_000), ..NONE };
    for (to, rules) in [(idle, NONE), (NONE, idle)] {
        on_a_worker(async {
            let mesh = Mesh::new(Protocol::Tcp, to, rules).await;
            let (mut stream, start) = (mesh.connect(), Instant::now());
            for _ in 0..5 {
                stream.write_all(b"hello").await.unwrap();
                stream.read_exact(&mut [0; 5]).await.unwrap();
                sleep(2 * SECOND).await;
            }
            // The pipe knows no reset.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(seconds(start), 11);
            sleep(SECOND).await;
            let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
            assert_eq!(ends(by, "idle-timeout"), ["result=\"broken\",flag=\"idle-timeout\"} 1"]);
            for side in [&mesh.web, &mesh.catalog] {
                for metric in ["tombolo_sent_bytes_total{", "tombolo_received_bytes_total{"] {
                    assert!(told(side, &[metric])[0].ends_with(" 25"), "{:?}", told(side, &[metric]));
                }
            }
        });
    }
}

#[test]
fn a_connection_that_switched_has_its_answer_and_is_told_when_nothing_moves_any_more() {
    let limits = Timeouts { request: Millis(2_000), stream_idle: Millis(5_000), ..NONE };
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, limits, NONE).await;
        let mut stream = mesh.connect();
        let ask = b"GET /switch HTTP/1.1\r\nhost: catalog\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 101 "));
        let start = Instant::now();
        for _ in 0..3 {
            sleep(4 * SECOND).await;
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
        }
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        assert_eq!(seconds(start), 17);
        sleep(SECOND).await;
        assert_eq!(ends(&mesh.web, "stream-idle-timeout").len(), 1);
        for side in [&mesh.web, &mesh.catalog] {
            for metric in ["tombolo_sent_bytes_total{", "tombolo_received_bytes_total{"] {
                assert!(told(side, &[metric])[0].ends_with(" 15"), "{:?}", told(side, &[metric]));
            }
        }
    });
}

#[test]
fn the_bytes_of_bodies_are_told_in_both_directions() {
    for edge in EDGES {
        on_a_worker(async {
            let mesh = Mesh::new(edge, NONE, NONE).await;
            let mut client = mesh.client().await;
            for sent in ["", "0123456789", "01234567890123456789"] {
                let response = client.send("/", whole(sent)).await;
                response.into_body().collect().await.unwrap();
            }
            // One that is left in its middle counts as well.
            drop(client.get("/half").await.into_body().frame().await);
            drop(client);
            sleep(SECOND).await;
            for side in [&mesh.web, &mesh.catalog] {
                let sent = told(side, &["tombolo_sent_bytes_total{"]);
                let received = told(side, &["tombolo_received_bytes_total{"]);
                assert!(sent[0].ends_with(" 30") && received[0].ends_with(" 15"), "{sent:?} {received:?}");
            }
        });
    }
}
