//! Frames of HTTP/2 as they are said: a client that knows nothing of what it may not do (RFC 9113).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITIZED: u8 = 0x20;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// `GET http://catalog/`, from the static table but for the authority.
pub(super) const GET: &[u8] = b"\x82\x86\x84\x41\x07catalog";
/// `POST http://catalog/`
pub(super) const POST: &[u8] = b"\x83\x86\x84\x41\x07catalog";

const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A block of headers, none of them indexed or compressed.
pub(super) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "longer ones take more than one byte to say so");
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    block
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The code of a RST_STREAM or GOAWAY.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// What an answer's headers begin with, as far as the static table knows it.
    pub(super) fn status(&self) -> u16 {
        match self.payload.first() {
            Some(0x88) => 200,
            Some(0x89) => 204,
            Some(0x8c) => 400,
            _ => 0,
        }
    }
}

pub(super) struct Framed<S> {
    pub(super) stream: S,
    unread: VecDeque<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, unread: VecDeque::new() }
    }

    /// As a client begins.
    pub(super) async fn begin(stream: S) -> Self {
        let mut framed = Self::new(stream);
        framed.say([PREFACE, &frame(SETTINGS, 0, 0, [])].concat()).await;
        framed
    }

    /// Whoever takes nothing more has ended, which is heard next.
    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let said = async {
            let _ = self.stream.write_all(bytes.as_ref()).await;
            let _ = self.stream.flush().await;
        };
        time::timeout(LIMIT, said).await.expect("nobody listens");
    }

    /// The next frame; none at the end, be it an orderly one or not.
    pub(super) async fn hear(&mut self) -> Option<Frame> {
        time::timeout(LIMIT, self.next()).await.expect("neither a frame nor the end comes")
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            let unread = self.unread.make_contiguous();
            if let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = &*unread {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                if let Some(payload) = rest.get(..length) {
                    let frame = Frame {
                        kind: *kind,
                        flags: *flags,
                        stream: u32::from_be_bytes([*s0, *s1, *s2, *s3]),
                        payload: payload.to_vec(),
                    };
                    self.unread.drain(..9 + length);
                    return Some(frame);
                }
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.unread.extend(&buffer[..read]),
            }
        }
    }
}
