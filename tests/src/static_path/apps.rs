//! An application that speaks HTTP/1.1 on one port and echoes on another, and a client of it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;

#[derive(Clone)]
pub(super) struct Seen {
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

pub(super) struct App {
    pub(super) http: SocketAddr,
    pub(super) tcp: SocketAddr,
    requests: Arc<Mutex<Vec<Seen>>>,
    /// Of the echo: those that ever were, and those that are open (of HTTP as well).
    connections: Arc<Mutex<usize>>,
    open: watch::Sender<usize>,
    /// The path of the last request, as soon as it came.
    asked: watch::Sender<String>,
    _tasks: JoinSet<()>,
}

impl App {
    pub(super) async fn start() -> Self {
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut app = Self {
            http: http.local_addr().unwrap(),
            tcp: tcp.local_addr().unwrap(),
            requests: Arc::default(),
            connections: Arc::default(),
            open: watch::Sender::new(0),
            asked: watch::Sender::new(String::new()),
            _tasks: JoinSet::new(),
        };
        let (requests, open, asked) = (app.requests.clone(), app.open.clone(), app.asked.clone());
        app._tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = http.accept().await {
                let (requests, open, asked) = (requests.clone(), open.clone(), asked.clone());
                open.send_modify(|open| *open += 1);
                serving.spawn(async move {
                    let service = service_fn(|request: Request<Incoming>| {
                        asked.send_replace(request.uri().path().to_owned());
                        answer(request, requests.clone())
                    });
                    let io = TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        let (connections, open) = (app.connections.clone(), app.open.clone());
        app._tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = tcp.accept().await {
                *connections.lock().unwrap() += 1;
                open.send_modify(|open| *open += 1);
                let open = open.clone();
                serving.spawn(async move {
                    let _ = echo(stream).await;
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        app
    }

    pub(super) fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// A request for this path has come.
    pub(super) async fn asked_for(&self, path: &str) {
        let mut asked = self.asked.subscribe();
        let came = asked.wait_for(|asked| asked == path);
        time::timeout(Duration::from_secs(5), came).await.expect("nobody asked").unwrap();
    }

    /// Every connection to it has ended.
    pub(super) async fn all_ended(&self) {
        let mut open = self.open.subscribe();
        let ended = open.wait_for(|open| *open == 0);
        time::timeout(Duration::from_secs(5), ended).await.expect("connections stayed open").unwrap();
    }
}

async fn answer(
    request: Request<Incoming>,
    requests: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<UnsyncBoxBody<Bytes, hyper::Error>>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/events" {
        let events = stream::unfold((), |()| async {
            time::sleep(Duration::from_millis(20)).await;
            Some((Ok(Frame::data(Bytes::from_static(b"event\n"))), ()))
        });
        return Ok(Response::new(UnsyncBoxBody::new(StreamBody::new(events))));
    }
    let Ok(body) = body.collect().await else {
        // Whoever asked has gone.
        return Ok(Response::new(full(Bytes::new())));
    };
    let body = body.to_bytes();
    requests.lock().unwrap().push(Seen { headers: head.headers, body: body.to_vec() });
    let body = match head.uri.path() {
        "/echo" => body,
        "/slow" => {
            time::sleep(Duration::from_millis(200)).await;
            Bytes::from_static(b"slow")
        }
        _ => format!("{} {}", head.method, head.uri).into(),
    };
    Ok(Response::new(full(body)))
}

fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, hyper::Error> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Echoes until the other half ends, and then says how much that was.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut echoed = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => {
                stream.write_all(&buffer[..read]).await?;
                echoed += read;
            }
        }
    }
    stream.write_all(format!("after {echoed} bytes").as_bytes()).await?;
    stream.shutdown().await
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The word for programs of a problem.
    pub(super) fn reason(&self) -> String {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        problem["reason"].as_str().unwrap().to_owned()
    }
}

/// Sends one request over a connection of its own.
pub(super) async fn send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: HeaderMap,
    body: Vec<u8>,
) -> Answer {
    let response = request(to, method, path, headers, body).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: head.status, headers: head.headers, body }
}

/// The body of an answer that does not end.
pub(super) async fn open(to: SocketAddr, path: &str) -> Incoming {
    let headers = HeaderMap::from_iter([(http::header::HOST, "catalog".parse().unwrap())]);
    request(to, "GET", path, headers, Vec::new()).await.into_body()
}

async fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: HeaderMap,
    body: Vec<u8>,
) -> Response<Incoming> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).body(Full::new(Bytes::from(body))).unwrap();
    *request.headers_mut() = headers;
    requests.send_request(request).await.unwrap()
}

pub(super) async fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    time::timeout(Duration::from_secs(10), read).await.expect("the connection does not end")?;
    Ok(bytes)
}
