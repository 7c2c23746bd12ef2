//! The applications of the shop: each answers who called it, and remembers what it was asked for.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
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

/// A running application: HTTP of both versions on one port, and on another bytes that come back as they went.
pub struct App {
    state: Arc<State>,
    http: SocketAddr,
    echo: SocketAddr,
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
        let state = Arc::new(State { service, zone, seen: Mutex::default() });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut app = Self { state, http, echo, stop, tasks };
        app.listen().await?;
        Ok(app)
    }

    /// Listens, again after a [`Self::cut`].
    pub async fn listen(&mut self) -> anyhow::Result<()> {
        let service = self.state.service;
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("binding {service} at {address}"))
        };
        let (http, echo) = (bind(self.http).await?, bind(self.echo).await?);
        (self.stop, self.tasks) = (CancellationToken::new(), TaskTracker::new());
        let (asked, streamed) = (self.state.clone(), self.state.clone());
        self.accept(http, move |stream| serve_http(asked.clone(), stream));
        self.accept(echo, move |stream| serve_echo(streamed.clone(), stream));
        Ok(())
    }

    /// Ends as a process does that is killed: nobody listens any more, and what was open is cut off.
    pub async fn cut(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether it ever saw a request for this path, or a stream of bytes that begins with this line.
    pub fn saw(&self, what: &str) -> bool {
        self.state.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(what)
    }

    pub async fn shutdown(self) {
        self.cut().await;
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
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

/// What is asked for again and again; only the rest is worth remembering.
pub const USUAL_PATH: &str = "/";

impl State {
    fn remember(&self, what: &str) {
        if what != USUAL_PATH {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned());
        }
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    state.remember(request.uri().path());
    let client =
        request.headers().get("tombolo-client-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let received = match request.into_body().collect().await {
        Ok(body) => body.to_bytes().len(),
        Err(_) => 0,
    };
    let answer = Answer { service: state.service.into(), zone: state.zone.into(), client, received };
    let body = serde_json::to_vec(&answer).expect("plain fields are JSON");
    Ok(Response::new(Full::new(body.into())))
}

async fn serve_echo(state: Arc<State>, mut stream: TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    let mut is_new = true;
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if std::mem::take(&mut is_new)
            && let Some(line) = buffer[..count].split(|byte| *byte == b'\n').next()
        {
            state.remember(&String::from_utf8_lossy(line));
        }
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}
