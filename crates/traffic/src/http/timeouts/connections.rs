//! Connections that are idle, too old, or slow to say what they want.

use http::StatusCode;
use http::header::CONNECTION;
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use model::Protocol;
use snapshot::parts::{Millis, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::fixture::{HANDLE, Pipe, told};
use crate::worker::Local;

use super::rig::*;

#[test]
fn a_connection_without_requests_is_closed_when_it_was_idle_for_too_long() {
    let idle = Timeouts { idle: Millis(4_000), ..NONE };
    for edge in EDGES {
        for (to, rules) in [(idle, NONE), (NONE, idle)] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let mut client = mesh.client().await;
                for _ in 0..3 {
                    assert_eq!(client.get("/").await.status(), StatusCode::OK);
                    sleep(3 * SECOND).await;
                }
                assert!(timeout(9 * SECOND, client.get("/silent")).await.is_err(), "it is not idle");
                drop(client);
                let mut client = mesh.client().await;
                client.get("/").await;
                assert_eq!(mesh.connections.get(), 1);
                sleep(5 * SECOND).await;
                assert_eq!(client.is_closed(), to == idle, "that of the application");
                mesh.client().await.get("/").await;
                assert_eq!(mesh.connections.get(), 2, "that between the proxies");
            });
        }
    }
}

#[test]
fn a_connection_that_had_its_time_ends_after_its_last_request() {
    let life = Timeouts { max_connection: Millis(4_000), ..NONE };
    for edge in EDGES {
        for (to, rules) in [(life, NONE), (NONE, life)] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, to, rules).await;
                let mut client = mesh.client().await;
                let long = client.send("/", stream_of(drip(20))).await;
                assert_eq!(long.status(), StatusCode::OK, "what was begun is finished");
                if edge == Protocol::Http && to == life {
                    assert_eq!(long.headers()[CONNECTION], "close");
                }
                long.into_body().collect().await.unwrap();
                assert_eq!(mesh.connections.get(), 1);
                sleep(SECOND).await;
                assert_eq!(client.is_closed(), to == life);
                mesh.client().await.get("/").await;
                assert_eq!(mesh.connections.get(), 2);
            });
        }
    }
}

#[test]
fn the_head_of_a_request_has_to_be_whole_in_time_once_it_began() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, Timeouts { request_headers: Millis(2_000), ..NONE }, NONE).await;
        let mut stream = mesh.connect();
        let mut answer = [0; 1024];
        // Between requests it may be silent for longer.
        for wait in [5, 0, 5] {
            sleep(wait * SECOND).await;
            stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            sleep(SECOND).await;
            stream.write_all(b"host: catalog\r\n\r\n").await.unwrap();
            let read = stream.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let start = Instant::now();
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        assert_eq!(seconds(start), 2);
        assert_eq!(ends(&mesh.web, "request-headers-timeout").len(), 1);
    });
}

#[test]
fn a_connection_that_does_not_end_when_it_is_asked_to_is_dropped_unless_it_carries_a_request() {
    let idle = Timeouts { idle: Millis(4_000), ..NONE };
    let life = Timeouts { max_connection: Millis(4_000), ..NONE };
    let cases = [
        ("a head that stays half", Protocol::Http, "GET / HTTP/1.1\r\n"),
        ("no word", Protocol::Http2, ""),
        ("a preface that stays half", Protocol::Http2, "PRI * HT"),
    ];
    for (why, edge, bytes) in cases {
        for limits in [idle, life] {
            on_a_worker(async {
                let mesh = Mesh::new(edge, limits, NONE).await;
                let (mut stream, start) = (mesh.connect(), Instant::now());
                stream.write_all(bytes.as_bytes()).await.unwrap();
                // HTTP/2 may say its settings.
                stream.read_to_end(&mut Vec::new()).await.unwrap();
                assert_eq!(seconds(start), 9, "{why}");
            });
        }
        on_a_worker(async {
            let mesh = Mesh::new(edge, NONE, NONE).await;
            let (mut stream, start) = (mesh.connect(), Instant::now());
            stream.write_all(bytes.as_bytes()).await.unwrap();
            sleep(SECOND).await;
            mesh.destination().closing.cancel();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(seconds(start), 6, "{why}, and the proxy drains");
        });
    }
}

#[test]
fn an_answer_that_nobody_takes_does_not_keep_a_connection_that_is_to_end() {
    let idle = Timeouts { idle: Millis(4_000), ..NONE };
    for (wait, is_whole) in [(8, true), (10, false)] {
        on_a_worker(async {
            let mesh = Mesh::new(Protocol::Http, idle, NONE).await;
            let mut stream = mesh.connect();
            stream.write_all(b"GET /big HTTP/1.1\r\nhost: catalog\r\n\r\n").await.unwrap();
            sleep(wait * SECOND).await;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.ends_with(b"big") && answer.len() > BIG, is_whole, "{}", answer.len());
        });
        on_a_worker(async {
            let mesh = Mesh::new(Protocol::Http2, idle, NONE).await;
            let mut builder = http2::Builder::new(Local);
            builder.initial_stream_window_size(1);
            let (requests, connection) = builder.handshake(TokioIo::new(mesh.connect())).await.unwrap();
            tokio::task::spawn_local(connection);
            let response = Client::Http2(requests).send("/", whole("a body of ten")).await;
            sleep(wait * SECOND).await;
            let answer = response.into_body().collect().await;
            assert_eq!(answer.is_ok(), is_whole);
        });
    }
}

#[test]
fn the_time_of_a_head_behind_a_request_begins_when_that_is_answered() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, Timeouts { request_headers: Millis(2_000), ..NONE }, NONE).await;
        let mut stream = mesh.connect();
        let mut answer = [0; 1024];
        stream.write_all(b"GET /drip HTTP/1.1\r\nhost: catalog\r\n\r\n").await.unwrap();
        for _ in 0..2 {
            // It is read together with the request before it.
            stream.write_all(b"GET /drip HTTP/1.1\r\n").await.unwrap();
            until_last_chunk(&mut stream).await;
            sleep(SECOND).await;
            stream.write_all(b"host: catalog\r\n\r\n").await.unwrap();
        }
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        until_last_chunk(&mut stream).await;
        let start = Instant::now();
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        assert_eq!(seconds(start), 2);
        assert_eq!(ends(&mesh.web, "request-headers-timeout").len(), 1);
    });
}

async fn until_last_chunk(stream: &mut Pipe) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"0\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn between_proxies_a_head_may_take_as_long_as_the_policies_say() {
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, NONE, NONE).await;
        let (near, far) = Pipe::pair(64 * 1024);
        tokio::task::spawn_local(mesh.inbounds.inbound(8080).unwrap().serve(far));
        let connector = TlsConnector::from(mesh.config.credentials.client_http1.clone());
        let mut stream = connector.connect(HANDLE.try_into().unwrap(), near).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        sleep(100 * SECOND).await;
        stream.write_all(b"host: catalog\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
    });
}

#[test]
fn an_opaque_connection_on_which_nothing_moves_is_reset_and_its_bytes_are_told() {
    let idle = Timeouts { idle: Millis(3_000), ..NONE };
    for (to, rules) in [(idle, NONE), (NONE, idle)] {
        on_a_worker(async {
            let mesh = Mesh::new(Protocol::Tcp, to, rules).await;
            let (mut stream, start) = (mesh.connect(), Instant::now());
            for _ in 0..5 {
                stream.write_all(b"hello").await.unwrap();
                stream.read_exact(&mut [0; 5]).await.unwrap();
                sleep(2 * SECOND).await;
            }
            // The pipe knows no reset.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(seconds(start), 11);
            sleep(SECOND).await;
            let by = if rules == NONE { &mesh.web } else { &mesh.catalog };
            assert_eq!(ends(by, "idle-timeout"), ["result=\"broken\",flag=\"idle-timeout\"} 1"]);
            for side in [&mesh.web, &mesh.catalog] {
                for metric in ["tombolo_sent_bytes_total{", "tombolo_received_bytes_total{"] {
                    assert!(told(side, &[metric])[0].ends_with(" 25"), "{:?}", told(side, &[metric]));
                }
            }
        });
    }
}

#[test]
fn a_connection_that_switched_has_its_answer_and_is_told_when_nothing_moves_any_more() {
    let limits = Timeouts { request: Millis(2_000), stream_idle: Millis(5_000), ..NONE };
    on_a_worker(async {
        let mesh = Mesh::new(Protocol::Http, limits, NONE).await;
        let mut stream = mesh.connect();
        let ask = b"GET /switch HTTP/1.1\r\nhost: catalog\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 101 "));
        let start = Instant::now();
        for _ in 0..3 {
            sleep(4 * SECOND).await;
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
        }
        assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
        assert_eq!(seconds(start), 17);
        sleep(SECOND).await;
        assert_eq!(ends(&mesh.web, "stream-idle-timeout").len(), 1);
        for side in [&mesh.web, &mesh.catalog] {
            for metric in ["tombolo_sent_bytes_total{", "tombolo_received_bytes_total{"] {
                assert!(told(side, &[metric])[0].ends_with(" 15"), "{:?}", told(side, &[metric]));
            }
        }
    });
}
