//! gRPC, by hand: messages with their length before them, and the outcome in trailers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use model::Protocol;
use tokio::sync::Notify;
use tokio::time;

use super::apps::{App, Body, Client, Speaks, channel, collect, full};
use super::mesh::{Mesh, WEB};

const LIMIT: Duration = Duration::from_secs(10);

fn message(text: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(text.len() as u32);
    bytes.put(text.as_bytes());
    bytes.freeze()
}

/// Takes messages out of a body, however it comes.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
    trailers: HeaderMap,
}

impl Messages {
    fn of(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), trailers: HeaderMap::new() }
    }

    /// None at the end.
    async fn next(&mut self) -> Option<Result<String, hyper::Error>> {
        loop {
            if self.buffer.len() >= 5 {
                let length = (&self.buffer[1..5]).get_u32() as usize;
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    let text = self.buffer.split_to(length);
                    return Some(Ok(String::from_utf8(text.to_vec()).unwrap()));
                }
            }
            match time::timeout(LIMIT, self.body.frame()).await.expect("nothing comes")? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.buffer.put(data),
                    Err(frame) => self.trailers = frame.into_trailers().unwrap(),
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn call(method: &str, body: Body) -> Request<Body> {
    Request::post(format!("/shop.Catalog/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

fn outcome(code: &str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())])
}

/// Answers each message with itself, as it comes; says who called.
async fn echo(request: Request<Incoming>, abandoned: Arc<Notify>) -> Response<Body> {
    assert_eq!(request.version(), Version::HTTP_2);
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.uri().authority().unwrap(), "catalog");
    let client = request.headers()["tombolo-client-id"].clone();
    if request.uri().path() == "/shop.Catalog/Missing" {
        // The short form: the outcome stands where trailers would.
        let mut response = Response::new(full(""));
        response.headers_mut().extend(outcome("12"));
        return response;
    }
    let (mut sender, body) = channel();
    tokio::spawn(async move {
        let mut messages = Messages::of(request.into_body());
        while let Some(text) = messages.next().await {
            match text {
                Ok(text) => sender.send_data(message(&format!("echo {text}"))).await.unwrap(),
                Err(_) => return abandoned.notify_one(),
            }
        }
        sender.send_trailers(outcome("0")).await.unwrap();
    });
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    response.headers_mut().insert("x-client", client);
    response
}

async fn shop() -> (App, Mesh, Client, Arc<Notify>) {
    let abandoned = Arc::new(Notify::new());
    let told = abandoned.clone();
    let app = App::start(Speaks::Http2, move |request| echo(request, told.clone())).await;
    let mesh = Mesh::start(Protocol::Grpc, &[("west", app.address)]).await;
    let client = Client::connect(Speaks::Http2, mesh.outbound).await;
    (app, mesh, client, abandoned)
}

#[tokio::test]
async fn a_unary_call_crosses_with_its_outcome() {
    let (_app, mesh, mut client, _) = shop().await;
    for number in 0..3 {
        let response = client.send(call("Get", full(message(&number.to_string())))).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-client"]),
            (200, &WEB.parse().unwrap())
        );
        let (data, trailers) = collect(response.into_body()).await;
        assert_eq!(data, message(&format!("echo {number}")));
        assert_eq!(trailers, outcome("0"));
    }
    let response = client.send(call("Missing", full(message("x")))).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(mesh.counters().await.connects, 1, "calls share a connection");
    mesh.stop().await;
}

#[tokio::test]
async fn a_stream_flows_both_ways_at_once() {
    let (_app, mesh, mut client, _) = shop().await;
    let (mut sender, body) = channel();
    let response = client.send(call("Chat", body)).await.unwrap();
    let mut answers = Messages::of(response.into_body());
    for text in ["one", "two", "three"] {
        // The next is sent only after the answer to the last.
        sender.send_data(message(text)).await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap(), format!("echo {text}"));
    }
    drop(sender);
    assert!(answers.next().await.is_none());
    assert_eq!(answers.trailers, outcome("0"));
    mesh.stop().await;
}

#[tokio::test]
async fn a_call_that_its_client_gives_up_ends_at_the_application() {
    let (_app, mesh, mut client, abandoned) = shop().await;
    let (mut sender, body) = channel();
    let response = client.send(call("Chat", body)).await.unwrap();
    let mut answers = Messages::of(response.into_body());
    sender.send_data(message("one")).await.unwrap();
    answers.next().await.unwrap().unwrap();
    sender.abort("given up".into());
    time::timeout(LIMIT, abandoned.notified()).await.expect("the application was told nothing");
    mesh.stop().await;
}
