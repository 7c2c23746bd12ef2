//! An application's connection to its own sidecar, over which it asks others.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::members::Speaks;
use crate::shop::Answer;

/// What one request came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    Answered(Answer),
    Denied { decision: Option<String> },
}

pub struct Client(Requests);

enum Requests {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub async fn connect(speaks: Speaks, sidecar: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(sidecar)
            .await
            .with_context(|| format!("connecting to the sidecar at {sidecar}"))?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        // The tasks end with the sender or with the peer; what went wrong is told to the sender.
        let requests = match speaks {
            Speaks::Http1 => {
                let (requests, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Requests::Http1(requests)
            }
            Speaks::Http2 => {
                let (requests, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Requests::Http2(requests)
            }
            Speaks::Bytes => bail!("what is no HTTP carries no requests"),
        };
        Ok(Self(requests))
    }

    /// The one that there is while it is open, and then a new one.
    pub async fn kept(
        kept: &mut Option<Self>,
        speaks: Speaks,
        sidecar: SocketAddr,
    ) -> anyhow::Result<&mut Self> {
        let client = match kept.take() {
            Some(client) if !client.is_closed() => client,
            _ => Self::connect(speaks, sidecar).await?,
        };
        Ok(kept.insert(client))
    }

    /// Any answer but 200 and 403 is an error that begins with its status.
    pub async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Outcome> {
        let request = Request::builder().method(method);
        let (head, body) = self.send(request, path, body).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        match head.status {
            StatusCode::OK => Ok(Outcome::Answered(serde_json::from_slice(&body)?)),
            StatusCode::FORBIDDEN => {
                let decision = head.headers.get("tombolo-decision-id").and_then(|id| id.to_str().ok());
                Ok(Outcome::Denied { decision: decision.map(str::to_owned) })
            }
            status => bail!("{status}: {}", String::from_utf8_lossy(&body)),
        }
    }

    fn is_closed(&self) -> bool {
        match &self.0 {
            Requests::Http1(requests) => requests.is_closed(),
            Requests::Http2(requests) => requests.is_closed(),
        }
    }

    async fn send(
        &mut self,
        request: http::request::Builder,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let body = Full::new(body);
        Ok(match &mut self.0 {
            Requests::Http1(requests) => {
                requests.ready().await?;
                requests.send_request(request.uri(path).header("host", "shop").body(body)?).await?
            }
            Requests::Http2(requests) => {
                requests.ready().await?;
                requests.send_request(request.uri(format!("http://shop{path}")).body(body)?).await?
            }
        })
    }
}
