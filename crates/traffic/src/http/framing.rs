//! Requests of HTTP/1.1 that two readers could read in two ways go no further.
//!
//! hyper takes a line that ends in LF alone, and believes a Transfer-Encoding where a Content-Length stands
//! beside it; the proxy in front of us, or the application behind us, may do otherwise, and then they disagree
//! on where one request ends and the next begins (RFC 9112 section 11.2). So the bytes are followed from head
//! to head as they are read, and from the first that is not beyond doubt on they do not reach hyper: it finds
//! something that no head may hold, answers 400 when it is that request's turn, and closes the connection.
//!
//! What hyper refuses by itself is not looked for here. In answers of the own application lines may end in LF
//! alone: it has one reader, and what that reads is said anew.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{io, mem};

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use super::body::{Answer, Keeper};
use super::bounded::Requests;
use super::edge::HEADER_LIST;
use crate::transport::Transport;

/// What can be read in two ways.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Ambiguity {
    #[error("a line ends in LF alone")]
    BareLineFeed,
    #[error("a line has more than {HEADER_LIST} bytes")]
    LongLine,
    #[error("the Content-Length is no number, or more than one")]
    Length,
    #[error("the Transfer-Encoding is not simply chunked")]
    Coding,
    #[error("there is a Content-Length as well as a Transfer-Encoding")]
    LengthAndCoding,
    #[error("a chunk does not begin or end as it should")]
    Chunk,
    #[error("a 204 has a body")]
    BodyOfNone,
}

/// Whether an answer of HTTP/1.1 is beyond doubt. hyper believes the coding, or that there is no body; an
/// application that means otherwise has its next answer read in the middle of this one.
pub(crate) fn is_clear<B>(answer: &Response<B>) -> Result<(), Ambiguity> {
    let headers = answer.headers();
    let length = headers.get(CONTENT_LENGTH);
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if answer.status() == StatusCode::NO_CONTENT
        && (coding.is_some() || length.is_some_and(|length| length != "0"))
    {
        return Err(Ambiguity::BodyOfNone);
    }
    let Some(coding) = coding else { return Ok(()) };
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Ambiguity::Coding);
    }
    if length.is_some() { Err(Ambiguity::LengthAndCoding) } else { Ok(()) }
}

/// Where the bytes that come next stand.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    place: Place,
    /// The beginning of a line whose end has not come.
    begun: Vec<u8>,
}

#[derive(Debug)]
enum Place {
    Head(Head),
    /// So many bytes are left of a body.
    Body(u64),
    ChunkSize,
    /// So many bytes are left of a chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

/// What a head said so far about what comes behind it.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    chunked: bool,
    asks: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self::Head(Head::default())
    }
}

/// What came of some bytes.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Followed {
    All,
    /// A request that asks to switch to another protocol ended here: who knows what the next byte is.
    Asks(usize),
    /// What came before this may pass.
    Ambiguous(usize, Ambiguity),
}

impl Framing {
    pub(crate) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Head(_))
    }

    /// Whether a head has begun that has not ended.
    pub(crate) fn has_begun_head(&self) -> bool {
        matches!(self.place, Place::Head(head) if head.begun || !self.begun.is_empty())
    }

    /// Follows the bytes that come next.
    pub(crate) fn follow(&mut self, bytes: &[u8]) -> Followed {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if let Place::Body(left) | Place::Chunk(left) = &mut self.place {
                let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= passed as u64;
                at += passed;
                if *left == 0 {
                    let is_chunk = matches!(self.place, Place::Chunk(_));
                    self.place = if is_chunk { Place::ChunkEnd } else { Place::default() };
                }
                continue;
            }
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                if self.begun.len() + rest.len() > HEADER_LIST as usize {
                    return Followed::Ambiguous(at, Ambiguity::LongLine);
                }
                self.begun.extend_from_slice(rest);
                break;
            };
            // The line's last byte has not passed yet: without it nothing of the line counts.
            let last = at + end;
            at = last + 1;
            let line = if self.begun.is_empty() {
                self.place.line(&rest[..end])
            } else {
                let mut whole = mem::take(&mut self.begun);
                whole.extend_from_slice(&rest[..end]);
                self.place.line(&whole)
            };
            match line {
                Ok(Line::Passed) => {}
                Ok(Line::Asks) => return Followed::Asks(at),
                Err(ambiguity) => return Followed::Ambiguous(last, ambiguity),
            }
        }
        Followed::All
    }
}

enum Line {
    Passed,
    /// It was the last of a request that asks to switch to another protocol.
    Asks,
}

impl Place {
    /// Goes on by a line, of which the LF is taken off.
    fn line(&mut self, line: &[u8]) -> Result<Line, Ambiguity> {
        let line = line.strip_suffix(b"\r").ok_or(Ambiguity::BareLineFeed)?;
        match self {
            // A client may send an empty line behind its last request (RFC 9112 section 2.2).
            Self::Head(head) if line.is_empty() && !head.begun => {}
            Self::Head(head) if line.is_empty() => {
                let head = mem::take(head);
                *self = match (head.chunked, head.length) {
                    (true, Some(_)) => return Err(Ambiguity::LengthAndCoding),
                    (true, None) => Self::ChunkSize,
                    (false, None | Some(0)) => Self::default(),
                    (false, Some(length)) => Self::Body(length),
                };
                if head.asks && self.is_between() {
                    return Ok(Line::Asks);
                }
            }
            Self::Head(head) if !head.begun => head.begun = true,
            Self::Head(head) => head.header(line)?,
            Self::ChunkSize => {
                *self = match chunk_size(line).ok_or(Ambiguity::Chunk)? {
                    0 => Self::Trailers,
                    size => Self::Chunk(size),
                }
            }
            Self::ChunkEnd if line.is_empty() => *self = Self::ChunkSize,
            Self::ChunkEnd => return Err(Ambiguity::Chunk),
            Self::Trailers if line.is_empty() => *self = Self::default(),
            Self::Trailers => {}
            Self::Body(_) | Self::Chunk(_) => unreachable!("bodies have no lines"),
        }
        Ok(Line::Passed)
    }

    fn is_between(&self) -> bool {
        matches!(self, Self::Head(head) if !head.begun)
    }
}

impl Head {
    fn header(&mut self, line: &[u8]) -> Result<(), Ambiguity> {
        // Most headers are none of these, which their first letter says.
        if !matches!(line[0] | 0x20, b'c' | b't' | b'u') {
            return Ok(());
        }
        // Whoever leaves a space before the colon, or the colon out, is refused by hyper.
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = digits(value).ok_or(Ambiguity::Length)?;
            if self.length.is_some_and(|earlier| earlier != length) {
                return Err(Ambiguity::Length);
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguity::Coding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.asks = true;
        }
        Ok(())
    }
}

fn digits(text: &[u8]) -> Option<u64> {
    // A number's own parser would take a sign.
    let digits = text.iter().all(u8::is_ascii_digit);
    if digits { str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// The size that a chunk's first line says; its extensions say nothing to anyone.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, rest) = line.split_at(end);
    let extensions = rest.trim_ascii_start();
    let is_text = |byte: &u8| *byte == b'\t' || !byte.is_ascii_control();
    let is_sound = extensions.is_empty() || extensions[0] == b';' && extensions.iter().all(is_text);
    if is_sound { u64::from_str_radix(str::from_utf8(size).ok()?, 16).ok() } else { None }
}

/// What became of a request that asks to switch to another protocol, between its head and its answer.
#[derive(Debug, Default)]
pub(crate) struct Switching(Cell<Asked>);

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Asked {
    #[default]
    No,
    Yes,
    /// And did not wait for the answer.
    Spoke,
}

impl Switching {
    /// The request was answered. Where it asked to switch, may not, and the client said more in the meantime,
    /// nobody knows in which language; where the request itself made no sense, what follows it may not either.
    pub(crate) fn answered<K: Keeper>(&self, asks: bool, answer: &mut Response<Answer<K>>) {
        let status = answer.status();
        let spoke = asks && status != StatusCode::SWITCHING_PROTOCOLS && self.0.take() == Asked::Spoke;
        let is_senseless = matches!(answer.body(), Answer::Ours(_))
            && matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED);
        if spoke || is_senseless {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// A connection that a client of HTTP/1.1 writes to, as far as it is beyond doubt.
pub(crate) struct Strict<'a, T> {
    stream: T,
    framing: Framing,
    switching: &'a Switching,
    /// Where the time that a head takes is noted.
    requests: &'a Requests,
    in_head: bool,
    /// What is read in place of what is not beyond doubt, and then its end.
    instead: Option<&'static [u8]>,
}

/// No head may hold a NUL. The rest lets hyper look at it at once: it waits for the end of a head.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

impl<'a, T> Strict<'a, T> {
    pub(crate) fn new(stream: T, switching: &'a Switching, requests: &'a Requests) -> Self {
        Self { stream, framing: Framing::default(), switching, requests, in_head: false, instead: None }
    }

    pub(crate) fn into_inner(self) -> T {
        self.stream
    }

    fn time_heads(&mut self) {
        if self.in_head != self.framing.has_begun_head() {
            self.in_head = !self.in_head;
            self.requests.in_head(self.in_head);
        }
    }

    /// How many of these bytes may pass.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            if self.switching.0.get() != Asked::No {
                if !rest.is_empty() {
                    self.switching.0.set(Asked::Spoke);
                }
                return bytes.len();
            }
            match self.framing.follow(rest) {
                Followed::All => return bytes.len(),
                Followed::Asks(end) => {
                    self.switching.0.set(Asked::Yes);
                    at += end;
                }
                Followed::Ambiguous(end, ambiguity) => {
                    debug!(%ambiguity, "a request is not beyond doubt");
                    self.instead = Some(if self.framing.is_in_head() { NO_HEAD } else { b"" });
                    return at + end;
                }
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<'_, T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.instead.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            let passes = this.follow(&buffer.filled()[before..]);
            this.time_heads();
            buffer.set_filled(before + passes);
            // Nothing at all would be read as the end.
            if passes > 0 || this.instead.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
        if let Some(instead) = &mut this.instead {
            let (now, later) = instead.split_at(instead.len().min(buffer.remaining()));
            buffer.put_slice(now);
            *instead = later;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Strict<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<T: Transport> Transport for Strict<'_, T> {
    fn reset_on_drop(&self) {
        self.stream.reset_on_drop();
    }
}

#[cfg(test)]
mod tests;
