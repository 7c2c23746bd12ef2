//! Messages as HTTP/1.x frames them: old clients, early answers, and what must not be read in two ways.

use std::time::Duration;

use model::Protocol;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time;

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

/// What the client gets for these bytes, and whether anything of them reached the application.
async fn refused(bytes: &[u8]) -> (String, bool) {
    let (listener, mesh) = shop().await;
    let mut client = Raw::connect(mesh.outbound).await;
    client.say(bytes).await;
    let mut answer = [0; 1024];
    let read = time::timeout(Duration::from_secs(5), client.stream.read(&mut answer));
    let read = read.await.unwrap_or_else(|_| panic!("no answer to {}", String::from_utf8_lossy(bytes)));
    let reached = time::timeout(Duration::from_millis(1), listener.accept()).await.is_ok();
    mesh.stop().await;
    (String::from_utf8_lossy(&answer[..read.unwrap_or_default()]).into_owned(), reached)
}

#[tokio::test]
async fn s08_what_two_readers_could_read_in_two_ways_is_refused() {
    let cases: &[(&str, &str)] = &[
        ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nab"),
        ("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nab"),
        ("a negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -2\r\n\r\nab"),
        ("a length that is no number", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\nab"),
        ("chunks in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (
            "a coding after chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
        ),
        (
            "a coding that is not chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 2\r\n\r\nab"),
        ("a folded header", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\n\r\n"),
        ("a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\rTransfer-Encoding: chunked\r\n\r\n"),
        ("a NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\0\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("a host of two", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
        ("a tunnel", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"),
        ("another version", "GET / HTTP/3.7\r\nHost: a\r\n\r\n"),
        ("a space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("an empty path", "GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (why, bytes) in cases {
        let (answer, reached) = refused(bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"), "{why}: {answer}");
        assert!(!reached, "{why} reached the application");
    }
}

#[tokio::test]
async fn s08_one_request_in_is_one_request_out_however_it_is_framed() {
    // What is tolerated is said anew and in one way only: the application sees one request and its body.
    let chunked = "transfer-encoding: chunked";
    let cases: &[(&str, &str, &str)] = &[
        (
            "the same length twice",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab",
            "content-length: 2",
        ),
        (
            "a size with an extension",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\n\r\n",
            chunked,
        ),
    ];
    for (why, bytes, framing) in cases {
        let (listener, mesh) = shop().await;
        let mut client = Raw::connect(mesh.outbound).await;
        client.say(bytes).await;
        let mut app = Raw::accept(&listener).await;
        let asked = app.head().await;
        assert!(asked.contains(framing), "{why}: {asked}");
        let framings = asked.matches("content-length").count() + asked.matches("transfer-encoding").count();
        assert_eq!(framings, 1, "{why}: {asked}");
        app.until(if *framing == chunked { "2\r\nab\r\n0\r\n\r\n" } else { "ab" }).await;
        app.say("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert!(client.head().await.starts_with("http/1.1 204 "), "{why}");
        assert_eq!(app.rest().await, "", "{why}: something came behind the request");
        mesh.stop().await;
    }
}

#[tokio::test]
async fn s08_an_application_whose_answer_can_be_read_in_two_ways_is_not_passed_on() {
    let cases = [
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na"),
        ("no HTTP", "HELLO\r\n\r\n"),
        ("a bare CR", "HTTP/1.1 200 OK\r\nX: a\rContent-Length: 1\r\n\r\na"),
        ("a folded header", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ];
    for (why, bytes) in cases {
        let (listener, mesh) = shop().await;
        let mut client = Raw::connect(mesh.outbound).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut app = Raw::accept(&listener).await;
        app.head().await;
        app.say(bytes).await;
        let answer = client.head().await;
        assert!(answer.starts_with("http/1.1 502 "), "{why}: {answer}");
        mesh.stop().await;
    }
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
