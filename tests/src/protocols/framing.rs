//! Messages as HTTP/1.x frames them: old clients, early answers, odd targets.

use model::Protocol;
use tokio::net::TcpListener;

use super::mesh::Mesh;
use super::raw::Raw;

async fn shop() -> (TcpListener, Mesh) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::start(Protocol::Http, &[("west", listener.local_addr().unwrap())]).await;
    (listener, mesh)
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let (listener, mesh) = shop().await;
    let mut client = Raw::connect(mesh.outbound).await;
    client.say("GET / HTTP/1.0\r\nHost: catalog\r\n\r\n").await;
    let mut app = Raw::accept(&listener).await;
    assert!(app.head().await.starts_with("get / http/1.1\r\n"));
    app.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let answer = client.head().await;
    assert!(answer.starts_with("http/1.0 200 ") && !answer.contains("transfer-encoding"), "{answer}");
    // The end of the body is the end of the connection.
    assert_eq!(client.rest().await, "hello");
    mesh.stop().await;
}

#[tokio::test]
async fn who_expects_to_be_told_to_go_on_is_told_once() {
    let (listener, mesh) = shop().await;
    let mut client = Raw::connect(mesh.outbound).await;
    client.say("POST / HTTP/1.1\r\nHost: catalog\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    client.say("body").await;
    let mut app = Raw::accept(&listener).await;
    let asked = app.head().await;
    assert!(!asked.contains("expect") && asked.contains("content-length: 4\r\n"), "{asked}");
    app.until("body").await;
    app.say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(client.head().await.starts_with("http/1.1 200 "));
    client.until("ok").await;
    mesh.stop().await;
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_is_whole() {
    let (listener, mesh) = shop().await;
    let mut client = Raw::connect(mesh.outbound).await;
    client.say("POST / HTTP/1.1\r\nHost: catalog\r\nContent-Length: 1000000\r\n\r\nbeginning").await;
    let mut app = Raw::accept(&listener).await;
    app.head().await;
    app.until("beginning").await;
    app.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
        .await;
    assert!(client.head().await.starts_with("http/1.1 413 "));
    client.until("too large").await;

    let mut client = Raw::connect(mesh.outbound).await;
    client.say("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
    let mut app = Raw::accept(&listener).await;
    assert!(app.head().await.starts_with("get / "), "the next request is not disturbed");
    mesh.stop().await;
}

#[tokio::test]
async fn s09_odd_targets_arrive_as_they_are() {
    for (line, want) in [
        ("OPTIONS * HTTP/1.1", "options * http/1.1\r\n"),
        ("GET http://catalog HTTP/1.1", "get / http/1.1\r\n"),
        ("GET http://other/a?b HTTP/1.1", "get /a?b http/1.1\r\n"),
    ] {
        let (listener, mesh) = shop().await;
        let mut client = Raw::connect(mesh.outbound).await;
        client.say(format!("{line}\r\nHost: catalog\r\n\r\n")).await;
        let mut app = Raw::accept(&listener).await;
        let asked = app.head().await;
        assert!(asked.starts_with(want), "{line}: {asked}");
        assert_eq!(asked.matches("\r\nhost: ").count(), 1, "{line}: {asked}");
        mesh.stop().await;
    }
}
