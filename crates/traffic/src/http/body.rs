//! The body of an answer on its way through: one of ours, or a stream with what must live as long as it.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What a stream holds on to, and what may end it early.
pub trait Keeper: Unpin {
    /// Whether the stream must end now, and as what.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<BodyError>;

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
                if let Poll::Ready(error) = keeper.poll_cut(cx) {
                    return Poll::Ready(Some(Err(error)));
                }
                let frame = ready!(Pin::new(stream).poll_frame(cx));
                match &frame {
                    None => keeper.completed(),
                    Some(Err(_)) => keeper.broken(),
                    Some(Ok(_)) => {}
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
