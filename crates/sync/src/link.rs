//! Runs a session over a transport of frames, for a host.
//!
//! The driver never waits for the host: collecting, storing and answering run as tasks of their own, of
//! which the session bounds the number, so heartbeats go on while a host is busy.

mod handle;
mod patience;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use model::{Origin, World};
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{self, Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, warn};

use crate::batch::{Base, Batch, Place, Refused};
use crate::client::DialError;
use crate::counters::{Counters, OpenSession};
use crate::frame::{Frame, Heartbeat, Hello, Malformed, Signal};
use crate::names::Names;
use crate::session::{Action, Applied, AskError, Config, Ended, Event, Limits, Session, Timing};
use crate::topic::Topic;

pub use handle::Handle;
pub use patience::NotYet;

/// As many frames as come to this many bytes are written together.
const TOGETHER: usize = 8 << 10;
/// How long a host may think about a peer's question.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a session waits for the host to finish storing what it has begun to store.
const STORE_LIMIT: Duration = Duration::from_secs(30);
/// How long what followed from signals may take to be in force further on. Shorter than a drain waits for it, so that
/// one slow peer does not hide what all others have said.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);
/// How long a last word may take to be written.
const LAST_WORD_LIMIT: Duration = Duration::from_secs(1);

/// Why a host cannot go on. It ends the session, with the error in the log and a general word to the peer; but for
/// [`NotYet`].
pub type HostError = Box<dyn Error + Send + Sync>;

/// What a program does on its end of a session.
///
/// The methods that return futures run as tasks: at most one [`Host::collect`], [`Host::locate`] or
/// [`Host::apply`] at a time for each topic, one [`Host::signals`], one [`Host::settled`], and a bounded number of
/// [`Host::question`]s. The others are called by the driver itself and must not block.
pub trait Host: Send + Sync + 'static {
    /// What this side owns and what it keeps a copy of; asked once per session.
    fn topics(&self) -> Topics;

    /// The next batch of a topic that this side owns, or none where nothing is new. Asked when the peer opens
    /// the topic, and after [`Handle::changed`]; never while a batch of the topic is in flight. A first `None` still
    /// sends an empty batch, so that the peer knows that it is complete.
    fn collect(
        &self,
        topic: Topic,
        base: Base,
    ) -> impl Future<Output = Result<Option<Batch>, HostError>> + Send {
        async move {
            let _ = (topic, base);
            Ok(None)
        }
    }

    /// What this side has of a topic that it keeps a copy of. [`NotYet`]: it is asked again.
    fn locate(&self, topic: Topic) -> impl Future<Output = Result<Place, HostError>> + Send {
        async move {
            let _ = topic;
            Ok(Place::default())
        }
    }

    /// Stores a batch and puts it into force, all of it or nothing, then says so. It is acknowledged only
    /// after that. Must be harmless when it comes twice. An end of the session does not cut it short. [`NotYet`]: it
    /// comes again, for as long as the session lasts.
    fn apply(&self, topic: Topic, batch: Batch) -> impl Future<Output = Result<Applied, HostError>> + Send {
        async move {
            let _ = batch;
            Err(format!("nothing is done with {topic}").into())
        }
    }

    /// The peer has stored the last batch that [`Host::collect`] returned, but for what it refuses: all that it does,
    /// also of earlier batches and sessions; also after the empty batch that a first `None` stands for. A later
    /// batch that changes neither entries nor world is not sent, and so not acknowledged.
    fn acknowledged(&self, topic: &Topic, world: &World, refused: &[Refused]) {
        let _ = (topic, world, refused);
    }

    /// The peer holds a topic: it keeps what it has, and takes no more of it for now.
    fn held_by_peer(&self, topic: &Topic, reason: &str) {
        let _ = (topic, reason);
    }

    /// The peer wants these parts and signals; `removed` counts before `added`, and each session begins with
    /// none. What it wants from the start is told before its topics are opened. The host publishes a value of
    /// each added signal ([`Handle::signal`]) unless it has already, an empty one where nothing is known; and calls
    /// [`Handle::changed`] where it serves parts by subscription.
    fn subscribed(&self, added: &[String], removed: &[String]) {
        let _ = (added, removed);
    }

    /// Puts the latest values of signals into force. Echoed to the peer after [`Host::settled`].
    fn signals(&self, signals: BTreeMap<String, Signal>) -> impl Future<Output = ()> + Send {
        async move {
            let _ = signals;
        }
    }

    /// Waits until what followed from the signals so far is in force with those whom this side told of it, such as by
    /// [`Handle::settled`]. Cut short after 3 s, or when the session ends: nobody waits longer for a peer of a peer.
    fn settled(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Answers a question of the peer, or says why not. Cut short after 30 s or when the session ends.
    fn question(&self, kind: String, body: Bytes) -> impl Future<Output = Result<Bytes, String>> + Send {
        async move {
            let _ = body;
            Err(format!("nobody here answers questions of kind '{kind}'"))
        }
    }

    /// How long ago this side heard of each origin; asked at every heartbeat.
    fn ages(&self) -> Vec<(Origin, Duration)> {
        Vec::new()
    }

    fn heartbeat(&self, heartbeat: &Heartbeat) {
        let _ = heartbeat;
    }

    /// The peer has introduced itself: a session begins. An error ends the session, and the peer is told it.
    fn connected(&self, hello: &Hello) -> Result<(), String> {
        let _ = hello;
        Ok(())
    }

    /// Nothing came for a while, or the peer is heard again.
    fn stale(&self, stale: bool) {
        let _ = stale;
    }

    /// A client could not get a session; it will try again.
    fn unreachable(&self, error: &DialError) {
        let _ = error;
    }

    /// A client has neither a certificate nor a token that it could try with, until its token file changes.
    fn has_no_way(&self, reason: &str) {
        let _ = reason;
    }

    /// The last call of a session.
    fn closed(&self, ended: &Ended) {
        let _ = ended;
    }
}

#[derive(Clone, Debug, Default)]
pub struct Topics {
    pub serves: Vec<Topic>,
    pub copies: Vec<Topic>,
}

/// What is the same for all sessions of a program with one kind of peer.
#[derive(Clone, Debug)]
pub struct Options {
    /// The version of this program.
    pub program: String,
    pub capabilities: Vec<String>,
    pub limits: Limits,
    pub timing: Timing,
    /// Where all sessions with these options count.
    pub counters: Arc<Counters>,
    /// What their peers subscribe to.
    pub names: Names,
    /// From when on time is counted in beats.
    pub began: Instant,
}

/// What sessions do by the clock they do on a common beat: thousands that wake one by one cost several times as much.
const BEAT: Duration = Duration::from_millis(100);

impl Options {
    pub fn new(program: impl Into<String>, limits: Limits) -> Self {
        Self {
            program: program.into(),
            capabilities: Vec::new(),
            limits,
            timing: Timing::default(),
            counters: Arc::default(),
            names: Names::default(),
            began: Instant::now(),
        }
    }

    pub fn with(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// The first beat that is not before a time.
    fn beat(&self, time: Instant) -> Instant {
        let beats = time.saturating_duration_since(self.began).as_nanos().div_ceil(BEAT.as_nanos());
        self.began + BEAT * u32::try_from(beats).unwrap_or(u32::MAX)
    }
}

/// Who is at the other end, as its credential says, and where it comes from.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Verified by TLS; the leaf first. Never empty.
    pub certificates: Vec<CertificateDer<'static>>,
    pub address: SocketAddr,
}

/// Both directions of a transport.
pub struct Transport<S> {
    pub incoming: S,
    /// Should have room for one message only: what waits in it can no longer be overtaken. Small frames that go at the same
    /// time are one message, see [`frames`].
    pub outgoing: mpsc::Sender<Vec<Frame>>,
}

/// What a session gave to [`Transport::outgoing`], frame by frame.
pub fn frames(outgoing: mpsc::Receiver<Vec<Frame>>) -> impl Stream<Item = Frame> + Send + Unpin {
    ReceiverStream::new(outgoing).flat_map(stream::iter)
}

/// Why nothing more comes from a transport.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Lost(String),
}

/// Runs one session to its end. Ends soon after `stop`. Must not be dropped before it is done, or what the
/// host is storing may outlive it: cancel `stop` instead.
pub async fn run<H, S>(
    host: Arc<H>,
    handle: &Handle,
    transport: Transport<S>,
    options: &Options,
    generation: u64,
    stop: &CancellationToken,
) -> Ended
where
    H: Host,
    S: Stream<Item = Result<Frame, Broken>> + Send + Unpin,
{
    let Some(desk) = handle::Attached::attach(handle) else {
        return Ended::ByUs("another session uses the handle".to_owned());
    };
    let Topics { serves, copies } = host.topics();
    let hello =
        Hello { capabilities: options.capabilities.clone(), generation, program: options.program.clone() };
    let config = Config { hello, serves, copies, limits: options.limits, timing: options.timing };
    let mut driver = Driver {
        host: host.clone(),
        desk,
        session: Session::new(config, Duration::ZERO).sharing(options.names.clone()),
        start: Instant::now(),
        counters: options.counters.clone(),
        open: None,
        ending: CancellationToken::new(),
        storing: JoinSet::new(),
        working: JoinSet::new(),
        asked: HashMap::new(),
        tickets: 0,
        ended: None,
    };
    let ended = driver.run(transport, options, stop).await;
    drop(driver);
    host.closed(&ended);
    ended
}

struct Driver<H> {
    host: Arc<H>,
    desk: handle::Attached,
    session: Session,
    start: Instant,
    counters: Arc<Counters>,
    /// Once the peer has introduced itself.
    open: Option<OpenSession>,
    /// Nothing that the host could not do so far is tried any more.
    ending: CancellationToken,
    /// Tasks that change what the host has: never cut short.
    storing: JoinSet<Outcome>,
    /// All others.
    working: JoinSet<Outcome>,
    asked: HashMap<u64, oneshot::Sender<Result<Bytes, AskError>>>,
    tickets: u64,
    ended: Option<Ended>,
}

/// What a task of the host came to: what the session is told, or which work failed and why.
type Outcome = Result<Event, (&'static str, HostError)>;

impl<H: Host> Driver<H> {
    // What it needs stands in the driver once: a future holds whatever is moved through it several times.
    async fn run<S>(&mut self, transport: Transport<S>, options: &Options, stop: &CancellationToken) -> Ended
    where
        S: Stream<Item = Result<Frame, Broken>> + Send + Unpin,
    {
        let Transport { mut incoming, outgoing } = transport;
        self.tell(Event::Started);
        // Made once: a session goes around here many times a second.
        let handle = self.desk.handle();
        let mut stopped = pin!(stop.cancelled());
        let mut woken = pin!(handle.woken());
        let mut wakeup = pin!(time::sleep_until(self.start));
        while self.ended.is_none() {
            self.clear_desk();
            let due = options.beat(self.start + self.session.next_wakeup());
            if wakeup.deadline() != due {
                wakeup.as_mut().reset(due);
            }
            let event = tokio::select! {
                () = &mut stopped => Some(Event::Close("shutting down".to_owned())),
                permit = outgoing.reserve(), if self.session.wants_to_write() => match permit {
                    Ok(permit) => {
                        let frames = self.next_frames();
                        if !frames.is_empty() {
                            permit.send(frames);
                        }
                        None
                    }
                    Err(_) => Some(Event::Lost("the peer no longer reads".to_owned())),
                },
                received = incoming.next() => Some(match received {
                    Some(Ok(frame)) => {
                        self.desk.heard();
                        if let Frame::Heartbeat(_) = frame {
                            self.tell(Event::Ages(self.host.ages()));
                        }
                        Event::Received(frame)
                    }
                    Some(Err(Broken::Malformed(malformed))) => Event::Malformed(malformed),
                    Some(Err(Broken::Lost(reason))) => Event::Lost(reason),
                    None => Event::Lost("the peer left without a word".to_owned()),
                }),
                Some(done) = self.storing.join_next() => Some(event_of(done)),
                Some(done) = self.working.join_next() => Some(event_of(done)),
                () = &mut woken => {
                    woken.set(handle.woken());
                    None
                }
                () = &mut wakeup => {
                    self.tell(Event::Ages(self.host.ages()));
                    Some(Event::Tick)
                }
            };
            if let Some(event) = event {
                self.tell(event);
            }
        }
        self.finish(outgoing, incoming).await
    }

    async fn finish<S>(&mut self, outgoing: mpsc::Sender<Vec<Frame>>, mut incoming: S) -> Ended
    where
        S: Stream<Item = Result<Frame, Broken>> + Send + Unpin,
    {
        self.ending.cancel();
        let silent = matches!(self.ended, Some(Ended::Lost(_) | Ended::Silent(_)));
        let last_words = async {
            let mut frames = self.next_frames();
            while !frames.is_empty() && outgoing.send(frames).await.is_ok() {
                frames = self.next_frames();
            }
            drop(outgoing);
            // Whoever hangs up at once takes back what is not written yet: the peer ends its side first.
            while !silent && let Some(Ok(_)) = incoming.next().await {}
        };
        let _ = time::timeout(LAST_WORD_LIMIT, last_words).await;
        self.working.shutdown().await;
        let stored = async { while self.storing.join_next().await.is_some() {} };
        if time::timeout(STORE_LIMIT, stored).await.is_err() {
            warn!("the host did not finish storing; it is cut short");
            self.storing.shutdown().await;
        }
        self.ended.take().expect("the loop runs until it is set")
    }

    /// As many as are written together: hundreds of small ones, one by one, cost several times as much.
    fn next_frames(&mut self) -> Vec<Frame> {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        while bytes < TOGETHER
            && let Some(frame) = self.session.next_frame(self.start.elapsed())
        {
            bytes += frame.cost();
            frames.push(frame);
        }
        frames
    }

    fn clear_desk(&mut self) {
        let (events, asks) = self.desk.clear();
        for event in events {
            self.tell(event);
        }
        for ask in asks {
            self.tickets += 1;
            let ticket = self.tickets;
            self.asked.insert(ticket, ask.reply);
            self.tell(Event::Ask { ticket, kind: ask.kind, body: ask.body, timeout: ask.timeout });
        }
        self.desk.settle(&self.session);
    }

    fn tell(&mut self, event: Event) {
        if let Event::Applied { applied: Applied::Stored { refused, .. }, .. } = &event {
            self.counters.received(refused.len());
        }
        let actions = self.session.on_event(event, self.start.elapsed());
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        let (host, ending) = (self.host.clone(), self.ending.clone());
        match action {
            Action::Greeted(hello) => match host.connected(&hello) {
                Ok(()) => {
                    self.open = Some(OpenSession::count(&self.counters));
                    self.desk.greeted(hello);
                }
                Err(reason) => self.tell(Event::Close(reason)),
            },
            Action::Collect { topic, base } => self.work(async move {
                let collected = host.collect(topic.clone(), base).await;
                collected.map(|batch| Event::Collected { topic, batch }).map_err(|error| ("collect", error))
            }),
            Action::Locate { topic } => self.work(async move {
                let located = patience::last(&ending, || host.locate(topic.clone())).await;
                located.map(|place| Event::Located { topic, place }).map_err(|error| ("locate", error))
            }),
            Action::Apply { topic, batch } => self.store(async move {
                let applied = patience::last(&ending, || host.apply(topic.clone(), batch.clone())).await;
                applied.map(|applied| Event::Applied { topic, applied }).map_err(|error| ("apply", error))
            }),
            Action::ApplySignals { signals } => self.store(async move {
                host.signals(signals).await;
                Ok(Event::SignalsApplied)
            }),
            Action::SettleSignals => self.work(async move {
                // What is not in force by then is somebody else's to find out.
                let _ = time::timeout(SETTLE_LIMIT, host.settled()).await;
                Ok(Event::SignalsSettled)
            }),
            Action::Question { id, kind, body } => self.work(async move {
                let result = answer(&*host, kind, body).await;
                Ok(Event::Answer { id, result })
            }),
            Action::Answered { ticket, result } => {
                if let Some(asker) = self.asked.remove(&ticket) {
                    let _ = asker.send(result);
                }
            }
            Action::Acknowledged { topic, world, refused } => {
                self.counters.sent(refused.len());
                host.acknowledged(&topic, &world, &refused);
            }
            Action::HeldByPeer { topic, reason } => host.held_by_peer(&topic, &reason),
            Action::Subscribed { added, removed } => host.subscribed(&added, &removed),
            Action::Heartbeat(heartbeat) => host.heartbeat(&heartbeat),
            Action::Stale => host.stale(true),
            Action::Fresh => host.stale(false),
            Action::Ended(ended) => {
                debug!(%ended, "session over");
                self.ended = Some(ended);
            }
        }
    }

    fn work(&mut self, task: impl Future<Output = Outcome> + Send + 'static) {
        self.working.spawn(task.in_current_span());
    }

    fn store(&mut self, task: impl Future<Output = Outcome> + Send + 'static) {
        self.storing.spawn(task.in_current_span());
    }
}

fn event_of(done: Result<Outcome, JoinError>) -> Event {
    match done {
        Ok(Ok(event)) => event,
        Ok(Err((work, error))) => {
            warn!(work, error, "the host cannot go on");
            Event::Close(format!("could not {work}"))
        }
        Err(error) => {
            warn!(%error, "a task of the host panicked");
            Event::Close("failed inside".to_owned())
        }
    }
}

/// A question that takes too long or panics is answered all the same.
async fn answer<H: Host>(host: &H, kind: String, body: Bytes) -> Result<Bytes, String> {
    let answer = AssertUnwindSafe(host.question(kind, body)).catch_unwind();
    match time::timeout(ANSWER_LIMIT, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("failed inside".to_owned()),
        Err(_) => Err("took too long".to_owned()),
    }
}
