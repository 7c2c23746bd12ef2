//! Trailers, both ways, over both versions.

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use model::Protocol;

use super::apps::{App, Body, Client, Speaks, channel, collect};
use super::mesh::Mesh;

fn checksum(of: &str) -> HeaderMap {
    HeaderMap::from_iter([("x-checksum".parse().unwrap(), of.parse().unwrap())])
}

/// Answers with what it got, and with what came behind it.
async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let welcome = request.headers().get("te").is_some_and(|te| te == "trailers");
    let (data, trailers) = collect(request.into_body()).await;
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        sender.send_data(data).await.unwrap();
        sender.send_trailers(trailers).await.unwrap();
    });
    let mut response = Response::new(body);
    response.headers_mut().insert("trailer", "x-checksum".parse().unwrap());
    response.headers_mut().insert("x-welcome", welcome.to_string().parse().unwrap());
    response
}

#[tokio::test]
async fn trailers_cross_both_ways() {
    for (protocol, speaks) in [(Protocol::Http, Speaks::Http1), (Protocol::Http2, Speaks::Http2)] {
        let app = App::start(speaks, mirror).await;
        let mesh = Mesh::start(protocol, &[("west", app.address)]).await;
        let mut client = Client::connect(speaks, mesh.outbound).await;
        let (mut sender, body) = channel();
        let mut request = Request::post("/").header("trailer", "x-checksum").header("te", "trailers");
        if speaks == Speaks::Http1 {
            request = request.header("connection", "te");
        }
        tokio::spawn(async move {
            sender.send_data(Bytes::from_static(b"body")).await.unwrap();
            sender.send_trailers(checksum("42")).await.unwrap();
        });
        let response = client.send(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.headers()["x-welcome"], "true", "{speaks:?}");
        let (data, trailers) = collect(response.into_body()).await;
        assert_eq!((data.as_ref(), trailers), (&b"body"[..], checksum("42")), "{speaks:?}");
        mesh.stop().await;
    }
}
