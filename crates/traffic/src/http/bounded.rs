//! What serves a request, until a limit of the request passes, or until it is not allowed any more.
//!
//! Before an answer begins, whoever waits for it is told of a limit and answers otherwise. Else only a reset
//! says that nothing more comes, also to a peer that takes nothing: so what serves the request is dropped,
//! whatever it waits for. A connection that is to end without a request is dropped as well, if it does not do so
//! soon: it may stand in the middle of a head, or hold the rest of an answer that nobody takes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use snapshot::parts::Timeouts;
use tokio_util::sync::CancellationToken;

use crate::deadline::{Deadline, Deadlines, Limit, Seat, Ticket, of_connection};
use crate::record::Exchange;
use crate::standing::Watch;

/// How long a connection that was asked to end may take, while it carries no request.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The requests of one connection.
#[derive(Clone)]
pub(crate) struct Requests(Rc<Connection>);

struct Connection {
    /// The one that began last, until what serves it knows.
    begun: RefCell<Option<Bounds>>,
    /// Nothing was asked on it yet.
    is_fresh: Cell<bool>,
    open: Open,
}

impl Requests {
    pub(crate) fn new(deadlines: &Deadlines, timeouts: &Timeouts) -> Self {
        let open = Open::new(deadlines, timeouts);
        Self(Rc::new(Connection { begun: RefCell::default(), is_fresh: Cell::new(true), open }))
    }

    /// The head of a request was heard.
    pub(crate) fn enter(&self) -> Request {
        self.0.is_fresh.set(false);
        self.0.open.enter();
        Request(self.0.clone())
    }

    /// It is being served by the task that polls this.
    pub(crate) fn bound(&self, exchange: &Exchange) {
        let bounds = Bounds { deadline: (*exchange.deadline).clone(), watch: exchange.watch() };
        self.0.begun.replace(Some(bounds));
    }

    /// Whether a head has begun that has not ended.
    pub(crate) fn in_head(&self, in_head: bool) {
        self.0.open.in_head(in_head);
    }

    pub(crate) fn deadline(&self) -> &Ticket {
        &self.0.open.deadline
    }

    /// Learns, after each poll, which request is served.
    pub(crate) fn serves(&self, request: &mut Option<Bounds>) {
        if let Some(begun) = self.0.begun.take() {
            *request = Some(begun);
        }
    }

    /// Runs a connection of HTTP/2 to its end, which `ask_to_end` has it come to after its open requests.
    pub(crate) async fn run<C: Future<Output = hyper::Result<()>>>(
        &self,
        mut connection: Pin<&mut C>,
        ask_to_end: fn(Pin<&mut C>),
        closing: &CancellationToken,
    ) -> hyper::Result<()> {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = closing.cancelled() => {}
            _ = self.deadline().passed() => {}
        }
        ask_to_end(connection.as_mut());
        self.asked_to_end();
        tokio::select! {
            ended = connection => ended,
            _ = self.deadline().passed() => Ok(()),
        }
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.0.is_fresh.get()
    }

    /// Which limit passes from now on does not matter: the connection is dropped.
    pub(crate) fn asked_to_end(&self) {
        self.deadline().end_within(ENDS_WITHIN, self.0.open.requests() == 0);
    }

    /// Whether it came to its end in the middle of a head.
    pub(crate) fn heard_half(&self) -> bool {
        self.deadline().has_passed() == Some(Limit::RequestHeaders)
    }
}

/// Runs the streams of a connection.
impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Requests {
    fn execute(&self, task: F) {
        let requests = self.clone();
        tokio::task::spawn_local(async move {
            let mut request = None;
            // It is gone before whoever revoked it hears so.
            let mut task = pin!(task);
            poll_fn(|cx| {
                if is_revoked(&request) {
                    return Poll::Ready(());
                }
                let polled = task.as_mut().poll(cx);
                // Also of one that is over at once: the next to look must not find it.
                requests.serves(&mut request);
                if polled.is_ready() { polled } else { poll_over(&request, cx) }
            })
            .await;
        });
    }
}

/// What ends a request early.
pub(crate) struct Bounds {
    deadline: Ticket,
    /// None where nobody judges it.
    watch: Option<Watch>,
}

/// Asked before what serves the request may do anything more.
pub(crate) fn is_revoked(request: &Option<Bounds>) -> bool {
    let watch = request.as_ref().and_then(|request| request.watch.as_ref());
    watch.is_some_and(Watch::is_revoked)
}

/// Asked after what serves the request had its turn.
pub(crate) fn poll_over(request: &Option<Bounds>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(Bounds { deadline, watch }) = request else { return Poll::Pending };
    match watch.as_ref().map(|watch| watch.poll_revoked(cx)) {
        Some(Poll::Ready(())) => Poll::Ready(()),
        Some(Poll::Pending) | None => deadline.poll_passed(cx, Seat::Carrier).map(drop),
    }
}

/// A request, while it is open.
pub(crate) struct Request(Rc<Connection>);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.open.leave();
    }
}

/// How many requests a connection carries, and how long it may carry none.
pub(crate) struct Open {
    requests: Cell<u32>,
    /// The time of a head that comes behind an open request begins at that one's end: nobody reads on before.
    in_head: Cell<bool>,
    pub(crate) deadline: Deadline,
}

impl Open {
    pub(crate) fn new(deadlines: &Deadlines, timeouts: &Timeouts) -> Self {
        let deadline = deadlines.begin(of_connection(timeouts));
        Self { requests: Cell::default(), in_head: Cell::default(), deadline }
    }

    pub(crate) fn requests(&self) -> u32 {
        self.requests.get()
    }

    pub(crate) fn enter(&self) {
        if self.requests.replace(self.requests.get() + 1) == 0 {
            self.deadline.stop(Limit::Idle);
            if self.in_head.get() {
                self.deadline.stop(Limit::RequestHeaders);
            }
        }
    }

    pub(crate) fn leave(&self) {
        self.requests.set(self.requests.get() - 1);
        if self.requests.get() == 0 {
            self.deadline.start(Limit::Idle);
            if self.in_head.get() {
                self.deadline.start(Limit::RequestHeaders);
            }
        }
    }

    fn in_head(&self, in_head: bool) {
        self.in_head.set(in_head);
        match in_head {
            true if self.requests.get() == 0 => self.deadline.start(Limit::RequestHeaders),
            true => {}
            false => self.deadline.stop(Limit::RequestHeaders),
        }
    }
}
