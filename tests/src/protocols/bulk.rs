//! Big bodies: whoever reads slowly slows down who writes, and nothing piles up between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;

use super::mesh::Mesh;
use super::raw::Raw;

const MIB: u64 = 1024 * 1024;
/// Two proxies hold at most a window and a send buffer each; the rest is what the kernel holds of three
/// connections that a socket may grow to.
const BETWEEN: u64 = 48 * MIB;
const CHUNK: usize = 256 * 1024;

/// Writes so many bytes, and counts them.
async fn pour(stream: &mut TcpStream, total: u64, written: &AtomicU64) {
    let zeros = vec![0; CHUNK];
    let mut left = total;
    while left > 0 {
        let chunk = &zeros[..left.min(CHUNK as u64) as usize];
        match stream.write(chunk).await {
            Ok(count) => {
                left -= count as u64;
                written.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(_) => return,
        }
    }
}

/// Reads to this many bytes in all.
async fn drain(stream: &mut TcpStream, already: u64, total: u64) {
    let mut buffer = vec![0; CHUNK];
    let mut count = already;
    while count < total {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "it ended after {count} of {total} bytes");
        count += read as u64;
    }
}

/// Waits until nothing more is written.
async fn stalled(written: &AtomicU64) -> u64 {
    let mut last = 0;
    loop {
        time::sleep(Duration::from_millis(300)).await;
        let now = written.load(Ordering::Relaxed);
        if now == last && now > 0 {
            return now;
        }
        last = now;
    }
}

/// A server that pours as much as it is asked for, be it told to by a request or by a connection.
async fn spring(head: Option<String>, total: u64) -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let written = Arc::<AtomicU64>::default();
    let count = written.clone();
    tokio::spawn(async move {
        let mut app = Raw::accept(&listener).await;
        if let Some(head) = head {
            app.head().await;
            app.say(head).await;
        }
        pour(&mut app.stream, total, &count).await;
        // It ends when the other side has everything.
        let _ = app.stream.read(&mut [0]).await;
    });
    (address, written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gigabytes_pass_and_a_slow_reader_holds_them_back() {
    for (protocol, total) in [(Protocol::Http, 2048 * MIB), (Protocol::Tcp, 256 * MIB)] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n");
        let head = protocol.is_http().then_some(head);
        let is_http = head.is_some();
        let (address, written) = spring(head, total).await;
        let mesh = Mesh::start(protocol, &[("west", address)]).await;
        let mut client = Raw::connect(mesh.outbound).await;
        if is_http {
            client.say("GET / HTTP/1.1\r\nHost: catalog\r\n\r\n").await;
            client.head().await;
        }
        let early = client.unread();
        let held = stalled(&written).await;
        assert!(held < BETWEEN, "{protocol:?}: {} MiB lie between them", held / MIB);
        drain(&mut client.stream, early, total).await;
        mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_upload_waits_for_an_application_that_does_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = Mesh::start(Protocol::Http, &[("west", listener.local_addr().unwrap())]).await;
    let mut client = Raw::connect(mesh.outbound).await;
    let total = 10_000 * MIB;
    client.say(format!("POST / HTTP/1.1\r\nHost: catalog\r\nContent-Length: {total}\r\n\r\n")).await;
    let written = Arc::<AtomicU64>::default();
    let count = written.clone();
    let pouring = tokio::spawn(async move { pour(&mut client.stream, total, &count).await });
    let mut app = Raw::accept(&listener).await;
    app.head().await;
    let held = stalled(&written).await;
    assert!(held < BETWEEN, "{} MiB lie between them", held / MIB);
    // It goes on when there is room again, and ends when the application does.
    drain(&mut app.stream, 0, 64 * MIB).await;
    assert!(written.load(Ordering::Relaxed) > held);
    drop(app);
    time::timeout(Duration::from_secs(10), pouring).await.expect("it pours on").unwrap();
    mesh.stop().await;
}
