//! Bodies on their way through: of a request, and of an answer, which is one of ours, or a stream with what
//! must live as long as it. Both note what moved.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::headers::strip_trailers;
use crate::deadline::{Limit, Seat, Ticket};

/// What a stream holds on to.
pub trait Keeper: Unpin {
    /// So many bytes of the stream went on.
    fn moved(&mut self, bytes: usize);

    /// The stream came to its end.
    fn completed(&mut self);

    /// Whoever sends the stream broke it off.
    fn broken(&mut self);
}

pub type BodyError = Box<dyn Error + Send + Sync>;

/// The body of an answer.
pub enum Answer<K: Keeper> {
    Ours(Option<Bytes>),
    Theirs { stream: Incoming, keeper: K },
}

impl<K: Keeper> Answer<K> {
    pub fn ours(bytes: Bytes) -> Self {
        Self::Ours(if bytes.is_empty() { None } else { Some(bytes) })
    }
}

impl<K: Keeper> Body for Answer<K> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Ours(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Theirs { stream, keeper } => {
                let frame = ready!(Pin::new(stream).poll_frame(cx));
                match &frame {
                    None => keeper.completed(),
                    Some(Err(_)) => keeper.broken(),
                    Some(Ok(frame)) => keeper.moved(frame.data_ref().map_or(0, Bytes::len)),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(bytes) => bytes.is_none(),
            Self::Theirs { stream, .. } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Theirs { stream, .. } => stream.size_hint(),
        }
    }
}

/// The body of a request, as it comes, but for trailers that would be more than trailers.
pub(crate) struct Asked {
    stream: Incoming,
    /// None where there is no body.
    deadline: Option<Ticket>,
}

impl Asked {
    pub(crate) fn new(stream: Incoming, deadline: &Ticket) -> Self {
        let deadline = if stream.is_end_stream() { None } else { Some(deadline.clone()) };
        Self { stream, deadline }
    }
}

impl Body for Asked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(deadline) = &this.deadline else { return Poll::Ready(None) };
        let Poll::Ready(mut frame) = Pin::new(&mut this.stream).poll_frame(cx) else {
            // Whoever sends it on is not told otherwise that its answer is not waited for any more.
            let overdue = |_| Some(Err("the request took too long".into()));
            return deadline.poll_passed(cx, Seat::Upload).map(overdue);
        };
        if let Some(Ok(frame)) = &mut frame {
            deadline.moved(frame.data_ref().map_or(0, Bytes::len) as u64, 0);
            if let Some(trailers) = frame.trailers_mut() {
                strip_trailers(trailers);
            }
        }
        if frame.is_none() || this.stream.is_end_stream() {
            deadline.start(Limit::Request);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.stream.size_hint()
    }
}

impl<K: Keeper> Drop for Answer<K> {
    fn drop(&mut self) {
        // Who sends by length, or ends a stream with its last frame, does not ask for another.
        if let Self::Theirs { stream, keeper } = self
            && stream.is_end_stream()
        {
            keeper.completed();
        }
    }
}
