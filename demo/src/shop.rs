//! The applications of the shop: each answers who called it, and keeps the paths it was asked for.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What an application answers to everything.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Answer {
    pub service: String,
    pub zone: String,
    /// The SPIFFE id that the sidecar says the caller has proved.
    pub client: Option<String>,
    /// How many bytes came with the request.
    pub received: usize,
}

/// A running application: HTTP on one port, and on another bytes that come back as they went.
pub struct App {
    state: Arc<State>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct State {
    service: &'static str,
    zone: &'static str,
    seen: Mutex<BTreeSet<String>>,
}

impl App {
    pub async fn start(
        service: &'static str,
        zone: &'static str,
        http: SocketAddr,
        echo: SocketAddr,
    ) -> anyhow::Result<Self> {
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("binding {service} at {address}"))
        };
        let (http, echo) = (bind(http).await?, bind(echo).await?);
        let app = Self {
            state: Arc::new(State { service, zone, seen: Mutex::default() }),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let state = app.state.clone();
        app.accept(http, move |stream| serve_http(state.clone(), stream));
        app.accept(echo, serve_echo);
        Ok(app)
    }

    /// Whether a request for this path ever reached the application.
    pub fn saw(&self, path: &str) -> bool {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn accept<F>(&self, listener: TcpListener, serve: impl Fn(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, tasks) = (self.stop.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let _ = stream.set_nodelay(true);
                let served = serve(stream);
                let stop = stop.clone();
                tasks.spawn(async move {
                    stop.run_until_cancelled(served).await;
                });
            }
        });
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve_http(state: Arc<State>, stream: TcpStream) {
    let service = service_fn(move |request| answer(state.clone(), request));
    // A caller that goes away is no fault of the application's.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The load asks for the same path again and again; only others are worth remembering.
pub const USUAL_PATH: &str = "/";

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let client =
        request.headers().get("tombolo-client-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    if path != USUAL_PATH {
        state.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }
    let received = match request.into_body().collect().await {
        Ok(body) => body.to_bytes().len(),
        Err(_) => 0,
    };
    let answer = Answer { service: state.service.into(), zone: state.zone.into(), client, received };
    let body = serde_json::to_vec(&answer).expect("plain fields are JSON");
    Ok(Response::new(Full::new(body.into())))
}

async fn serve_echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}
