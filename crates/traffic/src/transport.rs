//! Moves the bytes of one connection to another, both ways.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::deadline::{Seat, Ticket};

/// A byte stream whose end can be made a reset, so that nobody takes it for an orderly one.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// When this is dropped the peer sees a reset.
    fn reset_on_drop(&self);

    /// The socket, where bytes pass it as they are: the kernel can then move them by itself.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Transport for TcpStream {
    fn reset_on_drop(&self) {
        // It fails only on a socket that is gone already.
        let _ = self.set_zero_linger();
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl<T: Transport> Transport for tokio_rustls::client::TlsStream<T> {
    fn reset_on_drop(&self) {
        self.get_ref().0.reset_on_drop();
    }
}

impl<T: Transport> Transport for tokio_rustls::server::TlsStream<T> {
    fn reset_on_drop(&self) {
        self.get_ref().0.reset_on_drop();
    }
}

/// What a worker reads into, for one poll at a time: an idle connection holds no buffer.
#[derive(Clone, Debug)]
pub(crate) struct Scratch(Rc<RefCell<Box<[u8]>>>);

/// Measured: 16 KiB costs a fifth more processor time per byte, 256 KiB falls out of the cache.
const SCRATCH: usize = 64 * 1024;

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; SCRATCH].into())))
    }
}

/// Copies both ways until both sides ended their half. An end of one half is passed on and the other goes on.
/// What went from `a` to `b` and back is noted at the deadline.
///
/// An error of either side, and a limit that passes, ends both; the caller then passes it on as a reset.
pub(crate) async fn copy_both(
    a: &mut (impl AsyncRead + AsyncWrite + Unpin),
    b: &mut (impl AsyncRead + AsyncWrite + Unpin),
    scratch: &Scratch,
    deadline: &Ticket,
) -> io::Result<()> {
    let (mut there, mut back) = (Half::default(), Half::default());
    poll_fn(|cx| {
        let (sent, received) = (there.moved, back.moved);
        let (one, other) = (there.poll(cx, a, b, scratch), back.poll(cx, b, a, scratch));
        if (there.moved, back.moved) != (sent, received) {
            deadline.moved(there.moved - sent, back.moved - received);
        }
        if one?.is_ready() & other?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        deadline.poll_passed(cx, Seat::Carrier).map(|_| Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

/// One direction.
#[derive(Default)]
pub(crate) struct Half {
    /// What the writer has not taken yet.
    rest: Vec<u8>,
    written: usize,
    moved: u64,
    /// Once so many bytes were moved, others take over.
    pauses_at: Option<u64>,
    unflushed: bool,
    state: HalfState,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum HalfState {
    #[default]
    Open,
    Ended,
    Closed,
}

impl Half {
    /// The next poll that has moved so many bytes more, and has passed them all on, is ready.
    pub(crate) fn pause_after(&mut self, bytes: u64) {
        self.pauses_at = Some(self.moved + bytes);
    }

    /// What somebody else moved meanwhile was the last.
    pub(crate) fn end(&mut self) {
        self.state = HalfState::Ended;
    }

    pub(crate) fn moved(&self) -> u64 {
        self.moved
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state == HalfState::Closed
    }

    /// Ready when the end was passed on, or at the pause that was asked for.
    pub(crate) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        scratch: &Scratch,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.written < self.rest.len() {
                let rest = &self.rest[self.written..];
                match ready!(Pin::new(&mut *writer).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    written => self.written += written,
                }
            }
            if !self.rest.is_empty() {
                self.rest = Vec::new();
                self.written = 0;
            }
            match self.state {
                HalfState::Open => {}
                HalfState::Ended => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = HalfState::Closed;
                    return Poll::Ready(Ok(()));
                }
                HalfState::Closed => return Poll::Ready(Ok(())),
            }
            if self.pauses_at.is_some_and(|at| self.moved >= at) {
                self.pauses_at = None;
                return Poll::Ready(Ok(()));
            }

            let mut scratch = scratch.0.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            if Pin::new(&mut *reader).poll_read(cx, &mut buffer)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let read = buffer.filled();
            if read.is_empty() {
                self.state = HalfState::Ended;
                continue;
            }
            self.moved += read.len() as u64;
            self.unflushed = true;
            let written = match Pin::new(&mut *writer).poll_write(cx, read)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            if written < read.len() {
                self.rest = read[written..].to_vec();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use snapshot::parts::Timeouts;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::deadline::{Deadline, Deadlines, of_flow};

    fn forever() -> Deadline {
        Deadlines::default().begin(of_flow(&Timeouts::default()))
    }

    #[tokio::test]
    async fn one_half_ends_and_the_other_goes_on() {
        let ((mut app, mut a), (mut b, mut server)) = (duplex(64), duplex(64));
        let scratch = Scratch::default();
        let talk = async {
            app.write_all(b"request").await.unwrap();
            app.shutdown().await.unwrap();
            let mut request = String::new();
            server.read_to_string(&mut request).await.unwrap();
            assert_eq!(request, "request");
            server.write_all(b"a longer answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            app.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "a longer answer");
        };
        let deadline = forever();
        let (copied, ()) = tokio::join!(copy_both(&mut a, &mut b, &scratch, &deadline), talk);
        copied.unwrap();
        assert_eq!(deadline.bytes(), (7, 15));
    }

    #[tokio::test]
    async fn a_slow_reader_slows_down_who_writes_and_loses_nothing() {
        let ((mut app, mut a), (mut b, mut server)) = (duplex(100_000), duplex(10));
        let scratch = Scratch::default();
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let sending = async {
            app.write_all(&sent).await.unwrap();
            app.shutdown().await.unwrap();
        };
        let receiving = async {
            let mut received = Vec::new();
            server.read_to_end(&mut received).await.unwrap();
            server.shutdown().await.unwrap();
            received
        };
        let deadline = forever();
        let copied = copy_both(&mut a, &mut b, &scratch, &deadline);
        let (copied, (), received) = tokio::join!(copied, sending, receiving);
        assert!(received == sent);
        copied.unwrap();
        assert_eq!(deadline.bytes(), (200_000, 0));
    }

    #[tokio::test]
    async fn an_error_of_one_side_ends_both_halves() {
        let ((mut app, mut a), (mut b, server)) = (duplex(64), duplex(64));
        drop(server);
        app.write_all(b"to nobody").await.unwrap();
        let error = copy_both(&mut a, &mut b, &Scratch::default(), &forever()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
