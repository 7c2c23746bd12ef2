//! Bytes as they are said: an application and a client that know nothing of HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;

const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Raw<S = TcpStream> {
    pub(super) stream: S,
    /// What was read, and not asked for yet.
    unread: Vec<u8>,
}

impl Raw {
    pub(super) async fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).await.unwrap())
    }

    pub(super) async fn accept(listener: &TcpListener) -> Self {
        let accepted = time::timeout(LIMIT, listener.accept()).await.expect("nobody comes");
        Self::over(accepted.unwrap().0)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(super) fn over(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(super) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Everything up to and with this.
    pub(super) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end.as_bytes()) {
                let taken = self.unread.drain(..at + end.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            let read = time::timeout(LIMIT, self.stream.read_buf(&mut self.unread)).await;
            let so_far = String::from_utf8_lossy(&self.unread).into_owned();
            let read = read.unwrap_or_else(|_| panic!("no '{end}' comes after '{so_far}'"));
            assert!(read.unwrap() > 0, "it ended without '{end}' after '{so_far}'");
        }
    }

    /// The head of a message.
    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }

    /// How much was read that nobody asked for, which is forgotten.
    pub(super) fn unread(&mut self) -> u64 {
        std::mem::take(&mut self.unread).len() as u64
    }

    /// Everything to the end, be it an orderly one or not.
    pub(super) async fn rest(&mut self) -> String {
        let _ =
            time::timeout(LIMIT, self.stream.read_to_end(&mut self.unread)).await.expect("it does not end");
        String::from_utf8(std::mem::take(&mut self.unread)).unwrap()
    }
}
