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
use crate::record::{Exchange, Rest};
use crate::standing::Watch;

/// What a stream holds on to.
pub trait Keeper: Unpin {
    /// So many bytes of the stream went on.
    fn moved(&mut self, bytes: usize);

    /// The stream came to its end.
    fn completed(self);

    /// Whoever sends the stream broke it off.
    fn broken(&mut self);
}

pub type BodyError = Box<dyn Error + Send + Sync>;

/// The body of an answer.
pub enum Answer<K: Keeper> {
    Ours(Option<Bytes>),
    Theirs {
        stream: Incoming,
        /// None after the end of the stream.
        keeper: Option<K>,
    },
}

impl<K: Keeper> Answer<K> {
    pub fn ours(bytes: Bytes) -> Self {
        Self::Ours(if bytes.is_empty() { None } else { Some(bytes) })
    }

    pub fn theirs(stream: Incoming, keeper: K) -> Self {
        Self::Theirs { stream, keeper: Some(keeper) }
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
                match (&frame, &mut *keeper) {
                    (None, keeper) => keeper.take().into_iter().for_each(K::completed),
                    (Some(Err(_)), Some(keeper)) => keeper.broken(),
                    (Some(Ok(frame)), Some(keeper)) => keeper.moved(frame.data_ref().map_or(0, Bytes::len)),
                    (Some(_), None) => {}
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

/// The body of a request, as it comes, but for trailers that would be more than trailers. It goes on only as
/// long as its exchange does, which outlives its answer where that comes early.
pub(crate) struct Asked {
    stream: Incoming,
    /// None where there is no body.
    going: Option<Going>,
}

/// A body under way.
struct Going {
    deadline: Ticket,
    /// None where nobody judges the request.
    watch: Option<Watch>,
    /// The exchange, once its answer is over.
    _rest: Rest,
}

impl Asked {
    pub(crate) fn new(stream: Incoming, exchange: &mut Exchange) -> Self {
        let going = (!stream.is_end_stream()).then(|| Going {
            deadline: (*exchange.deadline).clone(),
            watch: exchange.watch(),
            _rest: exchange.uploads(),
        });
        Self { stream, going }
    }
}

impl Going {
    /// Whoever sends it on is not told otherwise that nobody waits for it any more.
    fn poll_over(&self, cx: &mut Context<'_>) -> Poll<&'static str> {
        if let Some(watch) = &self.watch
            && watch.poll_revoked(cx).is_ready()
        {
            return Poll::Ready("the request is not allowed any more");
        }
        if self.deadline.is_over() {
            return Poll::Ready("the request is over");
        }
        self.deadline.poll_passed(cx, Seat::Upload).map(|_| "the request took too long")
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
        let Some(going) = &this.going else { return Poll::Ready(None) };
        if let Poll::Ready(why) = going.poll_over(cx) {
            return Poll::Ready(Some(Err(why.into())));
        }
        let mut frame = ready!(Pin::new(&mut this.stream).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame {
            going.deadline.moved(frame.data_ref().map_or(0, Bytes::len) as u64, 0);
            if let Some(trailers) = frame.trailers_mut() {
                strip_trailers(trailers);
            }
        }
        if frame.is_none() || this.stream.is_end_stream() {
            going.deadline.start(Limit::Request);
            this.going = None;
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
            keeper.take().into_iter().for_each(K::completed);
        }
    }
}
