//! Connections that become something else.

use model::Protocol;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::apps::nobody;
use super::mesh::{Mesh, WEB};
use super::raw::Raw;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: catalog\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn a_web_socket_crosses_with_what_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = nobody().await;
    let address = listener.local_addr().unwrap();
    // What does not reach one application goes to another, as any request does.
    let mesh = Mesh::start(Protocol::Http, &[("east", gone), ("west", address)]).await;
    let mut client = Raw::connect(mesh.outbound).await;
    client.say(ASK).await;

    let mut app = Raw::accept(&listener).await;
    let asked = app.head().await;
    for line in [
        "get /chat http/1.1\r\n",
        "\r\nhost: catalog\r\n",
        "\r\nupgrade: websocket\r\n",
        "\r\nconnection: upgrade\r\n",
        "\r\nsec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n",
        &format!("\r\ntombolo-client-id: {WEB}\r\n"),
    ] {
        assert!(asked.contains(line), "{line} in {asked}");
    }
    app.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: \
             s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello ")
        .await;
    let answer = client.head().await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    for line in ["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", "\r\nsec-websocket-accept: s3p"]
    {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    client.until("hello ").await;
    for number in 0..3 {
        client.say(format!("ping {number};")).await;
        app.until(&format!("ping {number};")).await;
        app.say(format!("pong {number};")).await;
        client.until(&format!("pong {number};")).await;
    }
    // Each half ends on its own.
    client.stream.shutdown().await.unwrap();
    assert_eq!(app.rest().await, "");
    app.say("bye").await;
    app.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "bye");
    mesh.stop().await;
}

#[tokio::test]
async fn an_application_may_decline_an_upgrade_in_any_way() {
    for status in ["200 OK", "426 Upgrade Required", "404 Not Found"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mesh = Mesh::start(Protocol::Http, &[("west", listener.local_addr().unwrap())]).await;
        let mut client = Raw::connect(mesh.outbound).await;
        client.say(ASK).await;
        let mut app = Raw::accept(&listener).await;
        app.head().await;
        app.say(format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nbody")).await;
        let answer = client.head().await;
        assert!(answer.starts_with(&format!("http/1.1 {}", status.to_ascii_lowercase())), "{answer}");
        client.until("body").await;

        // And the client's connection goes on.
        client.say("GET /next HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
        let mut app = Raw::accept(&listener).await;
        assert!(app.head().await.starts_with("get /next "));
        app.say("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(client.head().await.starts_with("http/1.1 204 "));
        mesh.stop().await;
    }
}

#[tokio::test]
async fn s09_nobody_upgrades_to_http() {
    let cases = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n",
        "Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n",
        "Upgrade: websocket\r\n",
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::start(Protocol::Http, &[("west", listener.local_addr().unwrap())]).await;
    for case in cases {
        let mut client = Raw::connect(mesh.outbound).await;
        client.say(format!("GET / HTTP/1.1\r\nHost: catalog\r\n{case}\r\n")).await;
        let mut app = Raw::accept(&listener).await;
        let asked = app.head().await;
        assert!(!asked.contains("upgrade") && !asked.contains("http2-settings"), "{case}: {asked}");
        app.say("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
        assert!(client.head().await.starts_with("http/1.1 204 "), "{case}");
    }
    mesh.stop().await;
}
