//! Health, readiness and metrics over plain HTTP: anonymous, read-only, bounded, and without secrets.
//!
//! A program is ready when nobody holds a [`ReadyGuard`] any more. Each part that has to come up takes one
//! before it starts and drops it when it serves; who drains takes another.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{Stage, Tasks};

/// Whether the program is ready, and what it still waits for. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<Vec<&'static str>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }
}

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// The program is not ready until this guard, and every other, is dropped.
    pub fn guard(&self, waits_for: &'static str) -> ReadyGuard {
        self.0.send_modify(|pending| pending.push(waits_for));
        ReadyGuard { readiness: self.clone(), waits_for }
    }

    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// What is waited for, in the order in which it was asked for.
    pub fn pending(&self) -> Vec<&'static str> {
        self.0.borrow().clone()
    }

    /// Completes when the program is ready.
    pub async fn ready(&self) {
        // This sender lives as long as its receiver, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(Vec::is_empty).await;
    }
}

/// Keeps the program from being ready while it lives.
#[must_use = "dropped at once, it delays nothing"]
#[derive(Debug)]
pub struct ReadyGuard {
    readiness: Readiness,
    waits_for: &'static str,
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        self.readiness.0.send_modify(|pending| {
            if let Some(at) = pending.iter().position(|held| *held == self.waits_for) {
                pending.remove(at);
            }
        });
    }
}

/// What one listener shows beside `/healthz`; what is not given is not found.
#[derive(Clone, Default)]
pub struct AdminPages {
    /// `/readyz`: 200, or 503 with what is waited for.
    pub readiness: Option<Readiness>,
    /// `/metrics`, in the OpenMetrics text format.
    pub metrics: Option<Arc<Registry>>,
}

/// The two listeners of a proxy: one for its readiness, and one for its metrics.
pub struct Pages {
    pub ready_address: SocketAddr,
    pub metrics_address: SocketAddr,
    ready: TcpListener,
    metrics: TcpListener,
}

impl Pages {
    /// Port 0: one of the kernel's choice.
    pub async fn bind(ready: SocketAddr, metrics: SocketAddr) -> anyhow::Result<Self> {
        let bind = async |address| {
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
        };
        let (ready, metrics) = (bind(ready).await?, bind(metrics).await?);
        Ok(Self {
            ready_address: ready.local_addr()?,
            metrics_address: metrics.local_addr()?,
            ready,
            metrics,
        })
    }

    pub fn serve(self, tasks: &mut Tasks, readiness: Readiness, registry: Registry) {
        let Self { ready, metrics, .. } = self;
        let pages = AdminPages { readiness: Some(readiness), ..AdminPages::default() };
        tasks.spawn_at(Stage::Shown, "ready page", |stop| serve(ready, pages, stop));
        let pages = AdminPages { metrics: Some(Arc::new(registry)), ..AdminPages::default() };
        tasks.spawn_at(Stage::Shown, "metrics page", |stop| serve(metrics, pages, stop));
    }
}

/// Serves the pages until `stop` is cancelled. One request per connection, at most 64 connections of at most
/// ten seconds each.
pub async fn serve(listener: TcpListener, pages: AdminPages, stop: CancellationToken) -> anyhow::Result<()> {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async { (slots.clone().acquire_owned().await, listener.accept().await) };
        let (slot, accepted) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            next = next => next,
        };
        let slot = slot?;
        match accepted {
            Ok((stream, _)) => {
                let pages = pages.clone();
                connections.spawn(async move {
                    let _slot = slot;
                    answer_one(stream, pages).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: some will be given back.
                warn!(%error, "cannot accept");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

const MOST_CONNECTIONS: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
const HEADER_LIMIT: Duration = Duration::from_secs(5);

async fn answer_one(stream: TcpStream, pages: AdminPages) {
    let service = service_fn(move |request| {
        let response = page(&pages, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "admin connection failed"),
        Err(_) => debug!("admin connection took too long"),
    }
}

fn page<B>(pages: &AdminPages, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match (request.uri().path(), &pages.readiness, &pages.metrics) {
        ("/healthz", _, _) => text(StatusCode::OK, "ok\n".into()),
        ("/readyz", Some(readiness), _) => match readiness.pending() {
            pending if pending.is_empty() => text(StatusCode::OK, "ready\n".into()),
            pending => text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", pending.join(", "))),
        },
        ("/metrics", _, Some(registry)) => {
            let mut body = String::new();
            match encode(&mut body, registry) {
                Ok(()) => {
                    let mut response = text(StatusCode::OK, body);
                    response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
                    response
                }
                Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n".into()),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "not found\n".into()),
    }
}

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(pages: AdminPages) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, pages, stop.clone()));
        (address, stop)
    }

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head} HTTP/1.1\r\nhost: here\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_program_is_ready_when_the_last_guard_is_dropped_and_not_while_it_drains() {
        let readiness = Readiness::new();
        let (store, listener) = (readiness.guard("store"), readiness.guard("listener"));
        let pages = AdminPages { readiness: Some(readiness.clone()), metrics: None };
        let (address, _stop) = start(pages).await;
        let answer = ask(address, "GET /readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("waiting for store, listener\n"));
        drop(store);
        assert!(ask(address, "GET /readyz").await.ends_with("waiting for listener\n"));
        drop(listener);
        readiness.ready().await;
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 200"));
        let _draining = readiness.guard("draining");
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 503"));
    }

    #[tokio::test]
    async fn metrics_are_shown_and_nothing_can_be_changed() {
        let mut registry = Registry::default();
        let requests = Counter::<u64>::default();
        registry.register("requests", "Requests seen", requests.clone());
        requests.inc();
        let (address, _stop) = start(AdminPages { readiness: None, metrics: Some(Arc::new(registry)) }).await;
        assert!(ask(address, "GET /metrics").await.contains("requests_total 1\n"));
        assert!(ask(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "GET /readyz").await.starts_with("HTTP/1.1 404"), "not given, not shown");
        for method in ["POST", "PUT", "DELETE", "CONNECT"] {
            assert!(!ask(address, &format!("{method} /metrics")).await.contains(" 200 "), "{method}");
        }
    }

    #[tokio::test]
    async fn garbage_is_closed_and_the_next_one_is_served() {
        let (address, _stop) = start(AdminPages::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"\x16\x03\x01\x00\x00 not http\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"));
        assert!(ask(address, "GET /healthz").await.ends_with("ok\n"));
    }

    #[tokio::test]
    async fn it_stops_when_told_to() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, AdminPages::default(), stop.clone()));
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
