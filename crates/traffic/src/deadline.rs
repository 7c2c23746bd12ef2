//! How long things may take: one timer for all requests and connections of a worker.
//!
//! Each has a place in a table, and notes there since when its limits run and what moved. That is all it costs
//! while it goes on: the worker looks through the table when the first limit may have passed, and then again
//! when the next one may have.

use std::cell::{Cell, LazyCell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use snapshot::parts::{Millis, Timeouts};
use telemetry::Flag;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// What may last too long, as [`Timeouts`] documents it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Limit {
    Request,
    StreamIdle,
    MaxStream,
    Idle,
    MaxConnection,
    RequestHeaders,
}

impl Limit {
    /// What is told of what it ended. A connection of HTTP that had its time ends between its requests, and
    /// nothing of them fails.
    pub(crate) fn flag(self) -> Option<Flag> {
        match self {
            Self::Request => Some(Flag::RequestTimeout),
            Self::StreamIdle => Some(Flag::StreamIdleTimeout),
            Self::MaxStream => Some(Flag::MaxStreamDuration),
            Self::Idle => Some(Flag::IdleTimeout),
            Self::RequestHeaders => Some(Flag::RequestHeadersTimeout),
            Self::MaxConnection => None,
        }
    }
}

/// Since when a limit runs, if it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    limit: Limit,
    /// Nothing is for ever.
    span: Duration,
    since: Option<Instant>,
}

impl Clock {
    pub(crate) fn stopped(limit: Limit, span: Millis) -> Self {
        Self { limit, span: span.into(), since: None }
    }

    fn running(limit: Limit, span: Millis, now: &LazyCell<Instant>) -> Self {
        let mut clock = Self::stopped(limit, span);
        clock.start(now);
        clock
    }

    /// From now on, unless it runs already. What has no limit never runs, and asks for no time.
    fn start(&mut self, now: &LazyCell<Instant>) {
        if self.since.is_none() && !self.span.is_zero() {
            self.since = Some(**now);
        }
    }

    fn due(&self) -> Option<Instant> {
        // What lies beyond all time does not come.
        self.since?.checked_add(self.span)
    }
}

/// Those of a request, from its head on.
pub(crate) fn of_request(timeouts: &Timeouts, ends_with_its_head: bool) -> [Clock; CLOCKS] {
    let now = LazyCell::new(Instant::now as fn() -> Instant);
    let mut request = Clock::stopped(Limit::Request, timeouts.request);
    if ends_with_its_head {
        request.start(&now);
    }
    [
        request,
        Clock::running(Limit::StreamIdle, timeouts.stream_idle, &now),
        Clock::running(Limit::MaxStream, timeouts.max_stream, &now),
    ]
}

/// Those of a connection of HTTP, which is idle at first.
pub(crate) fn of_connection(timeouts: &Timeouts) -> [Clock; CLOCKS] {
    let now = LazyCell::new(Instant::now as fn() -> Instant);
    [
        Clock::running(Limit::Idle, timeouts.idle, &now),
        Clock::running(Limit::MaxConnection, timeouts.max_connection, &now),
        Clock::stopped(Limit::RequestHeaders, timeouts.request_headers),
    ]
}

/// That of an opaque connection.
pub(crate) fn of_flow(timeouts: &Timeouts) -> [Clock; CLOCKS] {
    let idle = Clock::running(Limit::Idle, timeouts.idle, &LazyCell::new(Instant::now));
    [idle, Clock::stopped(Limit::MaxConnection, Millis(0)), Clock::stopped(Limit::RequestHeaders, Millis(0))]
}

const CLOCKS: usize = 3;

/// The table is looked through at most once in so long, however many limits pass one after the other.
const PAUSE: Duration = Duration::from_millis(5);

/// The limits of everything that a worker carries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deadlines(Rc<Table>);

#[derive(Debug, Default)]
struct Table {
    places: RefCell<Places>,
    /// When it is looked through next: never after the first limit that passes.
    looks_at: Cell<Option<Instant>>,
    earlier: Rc<Notify>,
    looking: RefCell<Option<AbortOnDropHandle<()>>>,
}

#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Place {
    /// Whoever had it before finds it taken.
    taken: u64,
    clocks: [Clock; CLOCKS],
    passed: Option<Limit>,
    waiting: [Option<Waker>; SEATS],
    sent: u64,
    received: u64,
}

/// Who waits for a limit. Those that are one task may share a seat.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seat {
    /// Who carries it.
    Carrier = 0,
    /// Who takes the body of its request, if that is another.
    Upload = 1,
}

const SEATS: usize = 2;

impl Place {
    fn due(&self) -> Option<Instant> {
        if self.passed.is_some() {
            return None;
        }
        self.clocks.iter().filter_map(Clock::due).min()
    }

    /// Without any there is nothing to wait for.
    fn has_limits(&self) -> bool {
        self.clocks.iter().any(|clock| !clock.span.is_zero())
    }

    fn clock(&mut self, limit: Limit) -> Option<&mut Clock> {
        self.clocks.iter_mut().find(|clock| clock.limit == limit)
    }
}

impl Deadlines {
    /// It runs until it is dropped.
    pub(crate) fn begin(&self, clocks: [Clock; CLOCKS]) -> Deadline {
        let mut places = self.0.places.borrow_mut();
        let number = match places.free.pop() {
            Some(number) => {
                let place = &mut places.all[number];
                *place = Place { taken: place.taken, ..Place::of(clocks) };
                number
            }
            None => {
                places.all.push(Place::of(clocks));
                places.all.len() - 1
            }
        };
        let place = &places.all[number];
        let (taken, due) = (place.taken, place.due());
        drop(places);
        self.0.look_by(due);
        Deadline(Ticket { table: self.0.clone(), number, taken })
    }
}

impl Place {
    fn of(clocks: [Clock; CLOCKS]) -> Self {
        Self { taken: 0, clocks, passed: None, waiting: Default::default(), sent: 0, received: 0 }
    }
}

impl Table {
    /// Looks no later than this.
    fn look_by(self: &Rc<Self>, due: Option<Instant>) {
        let Some(due) = due else { return };
        if self.looks_at.get().is_some_and(|at| at <= due) {
            return;
        }
        self.looks_at.set(Some(due));
        self.earlier.notify_one();
        self.looking.borrow_mut().get_or_insert_with(|| {
            let looking = look(Rc::downgrade(self), self.earlier.clone());
            AbortOnDropHandle::new(tokio::task::spawn_local(looking))
        });
    }

    /// Tells everybody whose limit has passed, and finds out when the next may.
    fn look_through(&self) {
        let now = Instant::now();
        let (mut next, mut told) = (None, Vec::new());
        for place in &mut self.places.borrow_mut().all {
            let Some(due) = place.due() else { continue };
            if due > now {
                next = Some(next.map_or(due, |next: Instant| next.min(due)));
                continue;
            }
            let passed = place.clocks.iter().find(|clock| clock.due() == Some(due));
            place.passed = passed.map(|clock| clock.limit);
            told.extend(place.waiting.iter_mut().filter_map(Option::take));
        }
        self.looks_at.set(next.map(|next| next.max(now + PAUSE)));
        told.into_iter().for_each(Waker::wake);
    }
}

/// Goes on as long as the table is there.
async fn look(table: Weak<Table>, earlier: Rc<Notify>) {
    loop {
        let Some(at) = table.upgrade().map(|table| table.looks_at.get()) else { return };
        let Some(at) = at else {
            earlier.notified().await;
            continue;
        };
        tokio::select! {
            biased;
            () = sleep_until(at) => {}
            () = earlier.notified() => continue,
        }
        if let Some(table) = table.upgrade() {
            table.look_through();
        }
    }
}

/// The limits of one request or connection, and what of it has moved; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Deadline(Ticket);

impl std::ops::Deref for Deadline {
    type Target = Ticket;

    fn deref(&self) -> &Ticket {
        &self.0
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut places = self.0.table.places.borrow_mut();
        let place = &mut places.all[self.0.number];
        place.taken += 1;
        place.clocks.iter_mut().for_each(|clock| clock.since = None);
        let [carrier, upload] = std::mem::take(&mut place.waiting);
        places.free.push(self.0.number);
        drop(places);
        // After the borrow: what is dropped with a waker may have a place itself.
        drop(carrier);
        upload.into_iter().for_each(Waker::wake);
    }
}

/// What else has to do with it. After its end nothing passes any more.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    table: Rc<Table>,
    number: usize,
    taken: u64,
}

impl Ticket {
    /// From now on, unless it runs already.
    pub(crate) fn start(&self, limit: Limit) {
        let due = self.with(|place| {
            let clock = place.clock(limit)?;
            clock.start(&LazyCell::new(Instant::now));
            clock.due()
        });
        self.table.look_by(due.flatten());
    }

    /// A connection that passed a limit, or has to go, was asked to end: from now on it may be idle for so long, and
    /// what passes next ends it. A head that has begun keeps its own time.
    pub(crate) fn end_within(&self, span: Duration, is_idle: bool) {
        let due = self.with(|place| {
            place.passed = None;
            for clock in &mut place.clocks {
                match clock.limit {
                    Limit::Idle => *clock = Clock { span, since: is_idle.then(Instant::now), ..*clock },
                    Limit::MaxConnection => clock.since = None,
                    _ => {}
                }
            }
            place.due()
        });
        self.table.look_by(due.flatten());
    }

    pub(crate) fn stop(&self, limit: Limit) {
        self.with(|place| {
            if let Some(clock) = place.clock(limit) {
                clock.since = None;
            }
        });
    }

    /// Nothing passes any more.
    pub(crate) fn stop_all(&self) {
        self.with(|place| place.clocks.iter_mut().for_each(|clock| clock.since = None));
    }

    /// So many bytes went from the caller to the called, and back.
    pub(crate) fn moved(&self, sent: u64, received: u64) {
        self.with(|place| {
            place.sent += sent;
            place.received += received;
            for clock in &mut place.clocks {
                if matches!(clock.limit, Limit::StreamIdle | Limit::Idle) && clock.since.is_some() {
                    clock.since = Some(Instant::now());
                }
            }
        });
    }

    /// All that moved.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.with(|place| (place.sent, place.received)).unwrap_or_default()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.with(|_| ()).is_none()
    }

    pub(crate) fn has_passed(&self) -> Option<Limit> {
        self.with(|place| place.passed).flatten()
    }

    pub(crate) fn poll_passed(&self, cx: &mut Context<'_>, seat: Seat) -> Poll<Limit> {
        let passed = self.with(|place| {
            if place.passed.is_none() && place.has_limits() {
                match &mut place.waiting[seat as usize] {
                    Some(waker) => waker.clone_from(cx.waker()),
                    empty => *empty = Some(cx.waker().clone()),
                }
            }
            place.passed
        });
        passed.flatten().map_or(Poll::Pending, Poll::Ready)
    }

    pub(crate) async fn passed(&self) -> Limit {
        poll_fn(|cx| self.poll_passed(cx, Seat::Carrier)).await
    }

    /// None after its end.
    fn with<T>(&self, work: impl FnOnce(&mut Place) -> T) -> Option<T> {
        let place = &mut self.table.places.borrow_mut().all[self.number];
        (place.taken == self.taken).then(|| work(place))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::task::LocalSet;
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timeouts() -> Timeouts {
        Timeouts {
            request: Millis(2_000),
            stream_idle: Millis(5_000),
            max_stream: Millis(9_000),
            ..Timeouts::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whichever_limit_comes_first_passes_when_it_should() {
        let cases: [(&str, bool, &[u64], Limit, u64); 5] = [
            ("nothing comes", true, &[], Limit::Request, 2),
            ("the request goes on", false, &[1], Limit::StreamIdle, 6),
            ("and on", false, &[4, 8], Limit::MaxStream, 9),
            ("not at all", false, &[], Limit::StreamIdle, 5),
            ("what moves does not put it off", true, &[1], Limit::Request, 2),
        ];
        for (why, complete, moves, want, at) in cases {
            let passed = async {
                let deadlines = Deadlines::default();
                let start = Instant::now();
                let deadline = deadlines.begin(of_request(&timeouts(), complete));
                let moving = async {
                    for at in moves {
                        sleep_until(start + *at as u32 * SECOND).await;
                        deadline.moved(1, 0);
                    }
                    std::future::pending().await
                };
                let limit = tokio::select! {
                    limit = deadline.passed() => limit,
                    () = moving => unreachable!(),
                };
                assert_eq!((limit, start.elapsed().as_secs()), (want, at), "{why}");
            };
            LocalSet::new().run_until(passed).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_timeout_runs_from_the_last_byte_of_the_request() {
        LocalSet::new()
            .run_until(async {
                let deadlines = Deadlines::default();
                let start = Instant::now();
                // So that the table would be looked through later than that.
                let _long =
                    deadlines.begin(of_flow(&Timeouts { idle: Millis(60_000), ..Timeouts::default() }));
                let deadline = deadlines.begin(of_request(&timeouts(), false));
                sleep(SECOND).await;
                deadline.start(Limit::Request);
                sleep(SECOND).await;
                deadline.start(Limit::Request);
                assert_eq!(deadline.passed().await, Limit::Request);
                assert_eq!(start.elapsed(), 3 * SECOND);
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_limit_or_has_ended_does_not_pass_and_its_place_is_used_again() {
        LocalSet::new()
            .run_until(async {
                let deadlines = Deadlines::default();
                let forever = deadlines.begin(of_request(&Timeouts::default(), true));
                assert!(deadlines.0.looking.borrow().is_none(), "nobody looks for nothing");
                for _ in 0..100 {
                    let ended = deadlines.begin(of_request(&timeouts(), true));
                    let ticket = (*ended).clone();
                    drop(ended);
                    let next = deadlines.begin(of_request(&timeouts(), true));
                    ticket.moved(7, 7);
                    advance(2 * SECOND).await;
                    assert!(ticket.passed().now_or_never().is_none(), "its place is another's");
                    assert_eq!(next.passed().await, Limit::Request);
                    assert_eq!(next.bytes(), (0, 0));
                }
                assert_eq!(deadlines.0.places.borrow().all.len(), 2);
                assert!(timeout(1_000_000 * SECOND, forever.passed()).await.is_err());
            })
            .await;
    }
}
