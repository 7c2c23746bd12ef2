//! What one connection may cost: peers that know HTTP/2 well and mean ill.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;
use tokio::time;

use super::edge;
use crate::worker::Local;

const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

const ENHANCE_YOUR_CALM: u32 = 11;

/// `GET http://a/`, from the static table but for the authority.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
/// `POST http://a/`
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'a'];

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Writes as much as is taken, and returns the frames that came: kind, stream and payload. Ends when the
/// other side does, or when it has nothing more to say.
struct Attacker {
    stream: DuplexStream,
    requests: Rc<Cell<usize>>,
    taken: usize,
}

/// How many bytes lie between the two at most.
const PIPE: usize = 64 * 1024;

impl Attacker {
    /// Against an application that reads nothing of a body and answers nothing but to `GET`.
    fn start() -> Self {
        let (near, far) = tokio::io::duplex(PIPE);
        let requests = Rc::<Cell<usize>>::default();
        let count = requests.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                count.set(count.get() + 1);
                async move {
                    if request.method() != http::Method::GET {
                        // It holds the body, and does not read it.
                        std::future::pending::<()>().await;
                        drop(request);
                    }
                    Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
                }
            });
            // How it ended is seen from the other side.
            let _ = edge::http2(Local).serve_connection(TokioIo::new(far), service).await;
        });
        Self { stream: near, requests, taken: 0 }
    }

    async fn begin(&mut self) {
        self.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        self.stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    }

    /// Says all this while it reads what comes, and then waits for the end or for silence.
    async fn say(&mut self, bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let mut taken = 0;
        let writing = async {
            for chunk in bytes.chunks(16 * 1024) {
                if write.write_all(chunk).await.is_err() {
                    break;
                }
                taken += chunk.len();
            }
        };
        let mut heard = Vec::new();
        let reading = async {
            while let Ok(Ok(1..)) = time::timeout(Duration::from_millis(300), read.read_buf(&mut heard)).await
            {
            }
        };
        let both = async { tokio::join!(writing, reading) };
        // Whoever takes nothing more without ending has slowed us down, which is as good.
        let _ = time::timeout(Duration::from_secs(5), both).await;
        self.taken += taken;
        frames(&heard)
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, _, s0, s1, s2, s3, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(payload) = rest.get(..length) else { break };
        frames.push((*kind, u32::from_be_bytes([*s0, *s1, *s2, *s3]), payload.to_vec()));
        bytes = &rest[length..];
    }
    frames
}

/// Why the connection was given up, if it was.
fn gone_away(frames: &[(u8, u32, Vec<u8>)]) -> Option<u32> {
    let (.., payload) = frames.iter().rfind(|(kind, ..)| *kind == GOAWAY)?;
    Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()))
}

async fn attack(bytes: Vec<u8>) -> (Vec<(u8, u32, Vec<u8>)>, usize, usize) {
    LocalSet::new()
        .run_until(async move {
            let mut attacker = Attacker::start();
            attacker.begin().await;
            let frames = attacker.say(&bytes).await;
            (frames, attacker.requests.get(), attacker.taken)
        })
        .await
}

#[tokio::test]
async fn s01_who_opens_streams_only_to_reset_them_is_sent_away() {
    let mut bytes = Vec::new();
    for number in 0..100_000 {
        let stream = 2 * number + 1;
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let size = bytes.len();
    let (frames, requests, taken) = attack(bytes).await;
    assert_eq!(gone_away(&frames), Some(ENHANCE_YOUR_CALM));
    assert!(requests < 5_000, "{requests} requests reached the application");
    assert!(taken < size / 10, "{taken} of {size} bytes were read");
}

#[tokio::test]
async fn s02_who_makes_us_reset_streams_is_sent_away() {
    let mut bytes = Vec::new();
    for number in 0..100_000 {
        let stream = 2 * number + 1;
        bytes.extend(frame(HEADERS, END_HEADERS, stream, POST));
        // An increment of nothing is an error of the stream.
        bytes.extend(frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
    }
    let size = bytes.len();
    let (frames, _, taken) = attack(bytes).await;
    assert!(gone_away(&frames).is_some(), "{} frames", frames.len());
    assert!(taken < size / 10, "{taken} of {size} bytes were read");
}

#[tokio::test]
async fn s03_headers_without_an_end_are_cut_off() {
    let mut bytes = frame(HEADERS, END_STREAM, 1, GET);
    // Each a literal that is not indexed, of a name and a value.
    let header = [&[0x00, 0x03][..], b"x-a", &[0x7f, 0x81, 0x07], &[b'v'; 1024]].concat();
    for _ in 0..20_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &header));
    }
    let size = bytes.len();
    let (frames, requests, taken) = attack(bytes).await;
    assert!(gone_away(&frames).is_some(), "{} frames", frames.len());
    assert_eq!(requests, 0);
    assert!(taken < size / 10, "{taken} of {size} bytes were read");
}

#[tokio::test]
async fn s03_empty_continuations_are_cut_off() {
    let mut bytes = frame(HEADERS, END_STREAM, 1, GET);
    for _ in 0..1_000_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &[]));
    }
    let size = bytes.len();
    let (frames, requests, taken) = attack(bytes).await;
    assert!(gone_away(&frames).is_some(), "{} frames", frames.len());
    assert_eq!(requests, 0);
    assert!(taken < size / 10, "{taken} of {size} bytes were read");
}

#[tokio::test]
async fn s04_empty_data_that_nobody_reads_is_cut_off() {
    let mut bytes = frame(HEADERS, END_HEADERS, 1, POST);
    for _ in 0..1_000_000 {
        bytes.extend(frame(DATA, 0, 1, &[]));
    }
    let size = bytes.len();
    let (frames, requests, taken) = attack(bytes).await;
    assert!(gone_away(&frames).is_some(), "{} frames", frames.len());
    assert!(requests <= 1);
    assert!(taken < size / 2, "{taken} of {size} bytes were read");
}

#[tokio::test]
async fn s05_headers_are_counted_as_they_are_decoded() {
    // One header of 4000 bytes that is indexed, and then said again with one byte, as a cookie would be.
    let mut block = GET.to_vec();
    block.extend([0x40, 0x06]);
    block.extend(b"cookie");
    block.extend([0x7f, 0xa1, 0x1e]);
    block.extend([b'v'; 4000]);
    block.extend([0xbe; 10_000]);
    let bytes = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    assert!(bytes.len() < 16 * 1024, "40 MB from {} bytes", bytes.len());
    let (frames, requests, _) = attack(bytes).await;
    assert_eq!(requests, 0, "it reached the application");
    assert!(
        gone_away(&frames).is_some()
            || frames.iter().any(|(kind, stream, _)| *stream == 1 && matches!(*kind, RST_STREAM | HEADERS)),
        "it was not refused: {frames:?}"
    );
}

#[tokio::test]
async fn s06_who_asks_without_listening_is_not_listened_to() {
    let pings = frame(PING, 0, 0, &[7; 8]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    for (why, question) in [("pings", pings), ("settings", settings)] {
        let taken = LocalSet::new()
            .run_until(async {
                let mut attacker = Attacker::start();
                attacker.begin().await;
                let mut taken = 0;
                // It never reads an answer.
                let writing = async {
                    loop {
                        attacker.stream.write_all(&question).await.unwrap();
                        taken += question.len();
                    }
                };
                let _ = time::timeout(Duration::from_millis(500), writing).await;
                taken
            })
            .await;
        // What fits between us, either way, and in the buffers of a connection: nothing piles up behind it.
        assert!(taken < 6 * PIPE, "{taken} bytes of {why} were taken");
    }
}
