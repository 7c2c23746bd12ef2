//! The body of a request on its way to an endpoint, kept as long as it may have to go to another.
//!
//! What an endpoint refused without looking at it goes to another as it was. So the beginning of a body is
//! kept until its answer comes, or until it outgrows what one request may cost.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::body::{Asked, BodyError};

/// So much of a body is kept.
pub(crate) const KEPT: usize = 64 * 1024;

/// A body that can be sent again, for as long as all that was taken of it is kept.
pub(crate) struct Source<B = Asked>(Option<Rc<Kept<B>>>);

/// One attempt to send it; the attempt before it ends when the next begins.
pub(crate) struct Upload<B = Asked> {
    kept: Option<Rc<Kept<B>>>,
    attempt: u32,
    sent: u64,
}

struct Kept<B> {
    stream: RefCell<B>,
    /// At first.
    hint: SizeHint,
    pieces: RefCell<Vec<Piece>>,
    size: Cell<usize>,
    is_lost: Cell<bool>,
    attempt: Cell<u32>,
    /// The piece that the attempt sends next.
    next: Cell<usize>,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl<B: Body<Data = Bytes>> Source<B> {
    pub(crate) fn new(stream: B) -> Self {
        // Most requests have no body, and cost nothing here.
        if stream.is_end_stream() {
            return Self(None);
        }
        Self(Some(Rc::new(Kept {
            hint: stream.size_hint(),
            stream: RefCell::new(stream),
            pieces: RefCell::default(),
            size: Cell::default(),
            is_lost: Cell::default(),
            attempt: Cell::default(),
            next: Cell::default(),
        })))
    }

    /// The body from its beginning; none if that is not kept any more.
    pub(crate) fn upload(&self) -> Option<Upload<B>> {
        let attempt = match &self.0 {
            None => 0,
            Some(kept) if kept.is_lost.get() => return None,
            Some(kept) => {
                kept.attempt.set(kept.attempt.get() + 1);
                kept.next.set(0);
                kept.attempt.get()
            }
        };
        Some(Upload { kept: self.0.clone(), attempt, sent: 0 })
    }
}

impl<B> Upload<B> {
    pub(crate) fn none() -> Self {
        Self { kept: None, attempt: 0, sent: 0 }
    }
}

impl<B> Drop for Source<B> {
    /// It is not sent again.
    fn drop(&mut self) {
        if let Some(kept) = &self.0 {
            kept.lose();
        }
    }
}

impl<B> Kept<B> {
    fn keep(&self, piece: Piece, size: usize) {
        if self.is_lost.get() {
            return;
        }
        self.size.set(self.size.get() + size);
        if self.size.get() > KEPT {
            self.lose();
        } else {
            self.pieces.borrow_mut().push(piece);
        }
    }

    /// An attempt that is not through with what is kept goes on with it.
    fn lose(&self) {
        self.is_lost.set(true);
        if self.next.get() >= self.pieces.borrow().len() {
            self.pieces.take();
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Upload<B>
where
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(kept) = &this.kept else { return Poll::Ready(None) };
        if kept.attempt.get() != this.attempt {
            return Poll::Ready(Some(Err("it is sent to another endpoint".into())));
        }
        let piece = kept.pieces.borrow().get(kept.next.get()).cloned();
        if let Some(piece) = piece {
            kept.next.set(kept.next.get() + 1);
            if kept.is_lost.get() {
                kept.lose();
            }
            return Poll::Ready(Some(Ok(match piece {
                Piece::Data(data) => {
                    this.sent += data.len() as u64;
                    Frame::data(data)
                }
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        let frame = ready!(Pin::new(&mut *kept.stream.borrow_mut()).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            kept.next.set(kept.next.get() + 1);
            if let Some(data) = frame.data_ref() {
                this.sent += data.len() as u64;
                kept.keep(Piece::Data(data.clone()), data.len());
            } else if let Some(trailers) = frame.trailers_ref() {
                let size = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                kept.keep(Piece::Trailers(trailers.clone()), size);
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kept {
            None => true,
            Some(kept) => {
                kept.pieces.borrow().len() <= kept.next.get() && kept.stream.borrow().is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let Some(kept) = &self.kept else { return SizeHint::with_exact(0) };
        match kept.hint.exact() {
            Some(whole) => SizeHint::with_exact(whole.saturating_sub(self.sent)),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use futures::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    /// A body in these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Pieces {
        fn of(sizes: &[usize]) -> Self {
            Self(sizes.iter().enumerate().map(|(number, size)| vec![number as u8; *size].into()).collect())
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
        }
    }

    fn next(upload: &mut Upload<Pieces>) -> Option<Result<usize, BodyError>> {
        let frame = upload.frame().now_or_never().expect("a piece or the end");
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap().len()))
    }

    fn rest(mut upload: Upload<Pieces>) -> Vec<usize> {
        std::iter::from_fn(|| next(&mut upload).map(Result::unwrap)).collect()
    }

    #[test]
    fn what_was_taken_is_sent_again_and_the_rest_follows() {
        let source = Source::new(Pieces::of(&[10, 20, 30]));
        let mut first = source.upload().unwrap();
        assert_eq!(first.size_hint().exact(), Some(60));
        assert_eq!((next(&mut first).unwrap().unwrap(), next(&mut first).unwrap().unwrap()), (10, 20));
        assert_eq!(first.size_hint().exact(), Some(30));

        let second = source.upload().unwrap();
        assert!(next(&mut first).unwrap().is_err(), "only one is sent at a time");
        assert_eq!(second.size_hint().exact(), Some(60));
        assert!(!second.is_end_stream());
        assert_eq!(rest(second), [10, 20, 30]);
        assert_eq!(rest(source.upload().unwrap()), [10, 20, 30]);
    }

    #[test]
    fn a_body_that_outgrows_what_is_kept_goes_on_and_is_not_sent_again() {
        let source = Source::new(Pieces::of(&[KEPT / 2, KEPT / 2, 1, 1]));
        let mut upload = source.upload().unwrap();
        next(&mut upload).unwrap().unwrap();
        next(&mut upload).unwrap().unwrap();
        let mut again = source.upload().expect("exactly so much is kept");
        for _ in 0..3 {
            next(&mut again).unwrap().unwrap();
        }
        assert!(source.upload().is_none());
        assert_eq!(rest(again), [1]);
    }

    #[test]
    fn after_the_answer_nothing_is_kept_and_the_rest_follows() {
        let source = Source::new(Pieces::of(&[1, 2, 3]));
        let mut upload = source.upload().unwrap();
        next(&mut upload).unwrap().unwrap();
        drop(source);
        assert!(upload.kept.as_ref().unwrap().pieces.borrow().is_empty());
        assert_eq!(rest(upload), [2, 3]);
    }

    #[test]
    fn an_answer_that_comes_while_a_body_is_sent_again_costs_none_of_it() {
        let source = Source::new(Pieces::of(&[1, 2, 3, 4]));
        let mut first = source.upload().unwrap();
        for _ in 0..3 {
            next(&mut first).unwrap().unwrap();
        }
        let mut second = source.upload().unwrap();
        next(&mut second).unwrap().unwrap();
        drop(source);
        let kept = second.kept.clone().unwrap();
        assert_eq!(rest(second), [2, 3, 4]);
        assert!(kept.pieces.borrow().is_empty());
    }

    #[test]
    fn a_request_without_a_body_can_always_be_sent_again() {
        let source = Source::new(Pieces::of(&[]));
        for _ in 0..3 {
            let upload = source.upload().unwrap();
            assert!(upload.is_end_stream());
            assert_eq!(upload.size_hint().exact(), Some(0));
        }
    }
}
