//! Applications and clients that speak one version of HTTP each.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time;

pub(super) type BoxError = Box<dyn Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An application; it ends when this is dropped.
pub(super) struct App {
    pub(super) address: SocketAddr,
    _task: JoinSet<()>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

impl App {
    pub(super) async fn start<A, F>(speaks: Speaks, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), speaks, answer).await
    }

    pub(super) async fn start_at<A, F>(address: SocketAddr, speaks: Speaks, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                serving.spawn(async move {
                    let service = service_fn(|request| {
                        let answered = answer(request);
                        async move { Ok::<_, Infallible>(answered.await) }
                    });
                    let io = TokioIo::new(stream);
                    // Whatever ends it, the other side notices.
                    let _ = match speaks {
                        Speaks::Http1 => http1::Builder::new().serve_connection(io, service).await,
                        Speaks::Http2 => {
                            http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                        }
                    };
                });
            }
        });
        Self { address, _task: task }
    }
}

/// Nobody listens there.
pub(super) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(super) enum Client {
    Http1(client1::SendRequest<Body>),
    Http2(client2::SendRequest<Body>),
}

impl Client {
    pub(super) async fn connect(speaks: Speaks, to: SocketAddr) -> Self {
        let io = TokioIo::new(TcpStream::connect(to).await.unwrap());
        match speaks {
            Speaks::Http1 => {
                let (requests, connection) = client1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                Self::Http1(requests)
            }
            Speaks::Http2 => {
                let (requests, connection) = client2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                Self::Http2(requests)
            }
        }
    }

    /// The path may be whole or absolute; HTTP/2 has no other way to name the host.
    pub(super) async fn send(&mut self, mut request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        let answered = async {
            match self {
                Self::Http1(requests) => {
                    request.headers_mut().insert("host", "catalog".parse().unwrap());
                    requests.ready().await?;
                    requests.send_request(request).await
                }
                Self::Http2(requests) => {
                    let path = request.uri().path_and_query().unwrap().as_str();
                    *request.uri_mut() = format!("http://catalog{path}").parse().unwrap();
                    requests.ready().await?;
                    requests.send_request(request).await
                }
            }
        };
        time::timeout(Duration::from_secs(10), answered).await.expect("no answer")
    }
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is written bit by bit.
pub(super) fn channel() -> (http_body_util::channel::Sender<Bytes, BoxError>, Body) {
    let (sender, body) = Channel::<Bytes, BoxError>::new(4);
    (sender, body.boxed_unsync())
}

/// The data and the trailers.
pub(super) async fn collect(body: Incoming) -> (Bytes, HeaderMap) {
    let collected = time::timeout(Duration::from_secs(10), body.collect()).await.expect("no end");
    let collected = collected.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    (collected.to_bytes(), trailers)
}
