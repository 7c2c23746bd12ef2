//! Two proxies in one thread on our own clock, and an application that behaves as the path of a request says.

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
use http::header::{CONNECTION, HOST, UPGRADE};
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::ProxyConfig;
use crate::fixture::{CATALOG, Pipe, WEB, World, destination, endpoint, nowhere, told};
use crate::inbound::Inbounds;
use crate::outbound::{Destination, Outbound};
use crate::standing::Standing;
use crate::worker::{Local, Shared};

pub(in crate::http) const SECOND: Duration = Duration::from_secs(1);
pub(in crate::http) const NONE: Timeouts = Timeouts {
    connect: Millis(0),
    idle: Millis(0),
    request: Millis(0),
    stream_idle: Millis(0),
    max_stream: Millis(0),
    max_connection: Millis(0),
    request_headers: Millis(0),
};
/// More than the pipe of an application takes, and less than hyper holds of an answer.
pub(super) const BIG: usize = 300_000;
/// By which HTTP the application of the web asks.
pub(in crate::http) const EDGES: [Protocol; 2] = [Protocol::Http, Protocol::Http2];

pub(in crate::http) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The web in the east, and the catalog in the west with an application on HTTP/1.1 that behaves as the path
/// of a request says.
pub(in crate::http) struct Mesh {
    pub(in crate::http) web: Telemetry,
    pub(super) outbound: Outbound,
    pub(super) config: ProxyConfig,
    pub(in crate::http) catalog: Telemetry,
    /// Those of the web to the catalog.
    pub(in crate::http) connections: Rc<Cell<usize>>,
    pub(super) inbounds: Inbounds,
    rules: ProxyConfig,
}

impl Mesh {
    pub(in crate::http) async fn new(edge: Protocol, to: Timeouts, rules: Timeouts) -> Self {
        Self::with_clients(edge, to, rules, Vec::new()).await
    }

    pub(super) async fn with_clients(
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

    pub(super) fn destination(&self) -> Rc<Destination> {
        self.outbound.destination(&id()).unwrap()
    }

    pub(super) fn change(&mut self, to: Timeouts) {
        Arc::make_mut(self.config.destinations.get_mut(&id()).unwrap()).timeouts = to;
        self.outbound.apply(&self.config);
    }

    /// Nobody may call the catalog any more; what was allowed depends on the returned.
    pub(in crate::http) fn revoke(&mut self) -> Vec<Rc<Standing>> {
        Arc::make_mut(self.rules.inbounds.get_mut(&8080).unwrap()).access = Access::default();
        self.inbounds.apply(&self.rules)
    }

    /// A connection of the web's application.
    pub(in crate::http) fn connect(&self) -> Pipe {
        let (near, far) = Pipe::pair(64 * 1024);
        let destination = self.destination();
        tokio::task::spawn_local(async move {
            match destination.part().protocol {
                Protocol::Tcp => crate::tcp::outbound::serve(far, destination).await,
                _ => crate::http::outbound::serve(far, destination).await,
            }
        });
        near
    }

    pub(in crate::http) async fn client(&self) -> Client {
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

pub(in crate::http) enum Client {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Client {
    pub(in crate::http) async fn send(&mut self, path: &str, body: Body) -> Response<Incoming> {
        self.ask(Request::post(format!("http://catalog{path}")).header(HOST, "catalog").body(body).unwrap())
            .await
    }

    pub(super) async fn ask(&mut self, request: Request<Body>) -> Response<Incoming> {
        match self {
            Self::Http1(requests) => {
                requests.ready().await.unwrap();
                requests.send_request(request).await.unwrap()
            }
            Self::Http2(requests) => requests.send_request(request).await.unwrap(),
        }
    }

    pub(in crate::http) async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send(path, whole("")).await
    }

    /// Whether the proxy has closed the connection, or is about to.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(requests) => requests.is_closed(),
            Self::Http2(requests) => requests.is_closed(),
        }
    }
}

pub(super) fn id() -> model::DestinationId {
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

pub(in crate::http) fn whole(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).boxed_unsync()
}

/// Ten bytes each second.
pub(in crate::http) fn drip(seconds: usize) -> impl futures::Stream<Item = Bytes> + Send + 'static {
    stream::iter(0..seconds).then(|_| async {
        sleep(SECOND).await;
        Bytes::from_static(b"0123456789")
    })
}

pub(in crate::http) fn stream_of(pieces: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// On our own clock, which goes on when nobody has anything to do. What is on its way between two sockets is
/// not seen by anybody: it is waited for, by what goes the same way behind it.
pub(in crate::http) fn on_a_worker(test: impl Future<Output = ()>) {
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

pub(in crate::http) fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}

/// How often a request or connection was told to have ended by this, and how.
pub(in crate::http) fn ends(telemetry: &Telemetry, flag: &str) -> Vec<String> {
    let lines = told(telemetry, &["s_total{", &format!("flag=\"{flag}\"")]);
    lines.iter().map(|line| line[line.find("result").unwrap()..].to_owned()).collect()
}
