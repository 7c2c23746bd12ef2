//! One session between two peers, without I/O: the same type on both ends of both hops.
//!
//! The session is told what happened ([`Session::on_event`]) and says what the host has to do. What is to be
//! written is asked for, frame by frame, when the writer has room ([`Session::next_frame`]): control frames
//! first, then signals and chunks by turns. So a slow peer makes nothing pile up: of each topic one batch is
//! in flight, of each signal the latest value waits, of each control frame there is at most one or a
//! bounded number. A peer that gives no credit for a topic stalls that topic alone.
//!
//! A session knows how much time passed, and no time of day: clocks that are put back or ahead are nothing to it.
//!
//! Expected of the transport is what a stream gives: frames in order, each once. The session nevertheless
//! ignores repeats, and opens a topic anew when a chunk is missing, so that a mistake below never becomes a
//! wrong copy.

mod config;
mod endings;
mod incoming;
mod outgoing;
mod questions;
mod signals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Origin, World};

use crate::batch::{Base, Batch, Place, Refused};
use crate::frame::{Frame, Heartbeat, Hello, Malformed, Signal};
use crate::names::Names;
use crate::topic::Topic;
use incoming::Incoming;
use outgoing::Outgoing;
use questions::Questions;
use signals::{Listener, Publisher};

pub use config::{Config, Limits, Timing};
pub use endings::{AskError, Ended, Violation};

/// How many questions of one side may wait for an answer.
pub const MAX_QUESTIONS: usize = 64;
/// How often in a row a topic may be opened anew without a batch getting through.
const MAX_OPENINGS: u32 = 16;

/// What a session is told. After [`Action::Collect`], [`Action::Locate`], [`Action::Apply`],
/// [`Action::ApplySignals`] and [`Action::SettleSignals`] exactly one answer must come.
#[derive(Debug)]
pub enum Event {
    /// The transport is up. The first event.
    Started,
    Received(Frame),
    /// Something came that is no frame.
    Malformed(Malformed),
    /// Time has passed; due at [`Session::next_wakeup`] at the latest.
    Tick,
    /// The owner of an outgoing topic may have more to send.
    Changed(Topic),
    /// Answers [`Action::Collect`]. None: nothing new.
    Collected {
        topic: Topic,
        batch: Option<Batch>,
    },
    /// Answers [`Action::Locate`].
    Located {
        topic: Topic,
        place: Place,
    },
    /// Answers [`Action::Apply`].
    Applied {
        topic: Topic,
        applied: Applied,
    },
    /// Answers [`Action::ApplySignals`].
    SignalsApplied,
    /// Answers [`Action::SettleSignals`].
    SignalsSettled,
    /// Start an incoming topic anew from what the host has, such as after a hold.
    Reopen(Topic),
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    Publish {
        name: Arc<str>,
        signal: Arc<Signal>,
        /// How long it waited until now.
        ago: Duration,
    },
    Retract(String),
    /// How long ago we heard of each origin.
    Ages(Vec<(Origin, Duration)>),
    /// `ticket` comes back in [`Action::Answered`].
    Ask {
        ticket: u64,
        kind: String,
        body: Bytes,
        timeout: Duration,
    },
    /// Answers [`Action::Question`].
    Answer {
        id: u64,
        result: Result<Bytes, String>,
    },
    Close(String),
    /// The transport broke.
    Lost(String),
}

/// What the host did with a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Applied {
    /// It is stored and in force, but for what was refused.
    Stored {
        /// What the copy has now of this topic.
        world: World,
        /// All that is refused of it, also of earlier batches.
        refused: Vec<Refused>,
    },
    /// The owner's history does not continue ours: we keep what we have, and take nothing more until
    /// [`Event::Reopen`].
    Held { reason: String },
}

/// What a session wants of its host.
#[derive(Debug, Eq, PartialEq)]
pub enum Action {
    /// The peer has introduced itself.
    Greeted(Hello),
    /// Make the next batch of an outgoing topic, relative to `base`.
    Collect {
        topic: Topic,
        base: Base,
    },
    /// Say what we have of an incoming topic.
    Locate {
        topic: Topic,
    },
    /// Store a batch and put it into force, all of it or nothing.
    Apply {
        topic: Topic,
        batch: Batch,
    },
    /// The peer has stored what was sent, but for what it refuses, also of earlier batches.
    Acknowledged {
        topic: Topic,
        world: World,
        refused: Vec<Refused>,
    },
    /// The peer takes nothing more of this topic for now.
    HeldByPeer {
        topic: Topic,
        reason: String,
    },
    /// The peer wants these parts and signals; `removed` counts before `added`. Each added signal needs a
    /// value, empty where nothing is known.
    Subscribed {
        added: Vec<String>,
        removed: Vec<String>,
    },
    ApplySignals {
        signals: BTreeMap<String, Signal>,
    },
    /// Say when what followed from all signals that were applied is in force further on. Meanwhile others are
    /// applied.
    SettleSignals,
    Question {
        id: u64,
        kind: String,
        body: Bytes,
    },
    Answered {
        ticket: u64,
        result: Result<Bytes, AskError>,
    },
    Heartbeat(Heartbeat),
    /// Nothing came for a while.
    Stale,
    /// The peer is heard again.
    Fresh,
    /// Nothing more will come; a last frame may still be to be written.
    Ended(Ended),
}

#[derive(Debug)]
pub struct Session {
    limits: Limits,
    timing: Timing,
    phase: Phase,
    /// Our introduction, until it is written.
    hello: Option<Hello>,
    /// Our last word, until it is written.
    close: Option<String>,
    last_heard: Duration,
    /// When the last event was taken in.
    last_event: Duration,
    stale: bool,
    next_heartbeat: Duration,
    heartbeat_due: bool,
    /// How long ago we heard of each origin, and when that was so.
    ages: (Vec<(Origin, Duration)>, Duration),
    /// Each topic once. Few, and thousands of sessions: a map takes several times as much.
    incoming: Vec<Incoming>,
    /// By topic.
    outgoing: Vec<Outgoing>,
    publisher: Publisher,
    names: Names,
    listener: Listener,
    questions: Questions,
    /// Which topic's chunk goes next, and whether a signal goes before it.
    turn: Option<Topic>,
    signal_next: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Greeting,
    Talking,
    Over,
}

impl Session {
    pub fn new(config: Config, now: Duration) -> Self {
        let Config { hello, serves, copies, limits, timing } = config;
        Self {
            limits,
            timing,
            phase: Phase::Greeting,
            hello: Some(hello),
            close: None,
            last_heard: now,
            last_event: now,
            stale: false,
            next_heartbeat: now + timing.heartbeat,
            heartbeat_due: false,
            ages: (Vec::new(), now),
            incoming: copies
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|topic| Incoming::new(topic, limits.window))
                .collect(),
            outgoing: serves
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .map(|topic| Outgoing::new(topic, limits.chunk))
                .collect(),
            publisher: Publisher::default(),
            names: Names::default(),
            listener: Listener::default(),
            questions: Questions::default(),
            turn: None,
            signal_next: true,
        }
    }

    /// What the peer subscribes to is held in common with other sessions.
    pub fn sharing(self, names: Names) -> Self {
        Self { names, ..self }
    }

    /// Takes an event in; `now` is the time since any fixed point and never goes back.
    pub fn on_event(&mut self, event: Event, now: Duration) -> Vec<Action> {
        if self.phase == Phase::Over {
            return Vec::new();
        }
        self.forgive(now);
        let mut actions = Vec::new();
        if let Err(ended) = self.take(event, now, &mut actions) {
            self.phase = Phase::Over;
            self.close = match &ended {
                Ended::ByUs(reason) => Some(reason.clone()),
                Ended::Violation(violation) => Some(violation.to_string()),
                Ended::Silent(_) => Some("nothing was heard of you".to_owned()),
                Ended::ByPeer(_) | Ended::Lost(_) => None,
            };
            actions.push(Action::Ended(ended));
        }
        actions
    }

    /// The next frame to write, if there is any.
    pub fn next_frame(&mut self, now: Duration) -> Option<Frame> {
        if let Some(hello) = self.hello.take() {
            return Some(Frame::Hello(hello));
        }
        if self.phase == Phase::Over {
            return self.close.take().map(|reason| Frame::Close { reason });
        }
        // What we want goes before we open anything, or a first batch would be made for nobody's wishes.
        self.listener
            .next_subscribe()
            .or_else(|| self.incoming.iter_mut().find_map(Incoming::next_word))
            .or_else(|| self.heartbeat(now))
            .or_else(|| self.listener.next_echo())
            .or_else(|| self.questions.next_word())
            .or_else(|| self.signal_or_chunk(now))
    }

    /// Whether [`Self::next_frame`] may have one.
    pub fn wants_to_write(&self) -> bool {
        if self.phase == Phase::Over {
            return self.hello.is_some() || self.close.is_some();
        }
        self.hello.is_some()
            || self.heartbeat_due
            || self.listener.has_subscribe()
            || self.listener.has_echo()
            || self.questions.has_word()
            || self.publisher.has_next()
            || self.incoming.iter().any(Incoming::has_word)
            || self.outgoing.iter().any(Outgoing::has_chunk)
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_wakeup(&self) -> Duration {
        let silence = if self.stale { self.timing.offline } else { self.timing.stale };
        let silence = self.last_heard + silence;
        let expiry = self.questions.next_expiry().unwrap_or(Duration::MAX);
        self.next_heartbeat.min(silence).min(expiry)
    }

    /// Up to where signals are published now, for [`Self::has_settled`].
    pub fn mark(&self) -> u64 {
        self.publisher.mark()
    }

    /// Whether the peer has settled what was published, and wanted by it, up to a mark. Nobody knows it of a
    /// peer that is not heard: it is not waited for.
    pub fn has_settled(&self, mark: u64) -> bool {
        self.stale || self.publisher.has_settled(mark)
    }

    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Ticks come at least as often as heartbeats go: where none came for twice as long, it was we who stood still, and
    /// perhaps the whole machine. Silence since then says nothing of the peer, which is given its time anew.
    fn forgive(&mut self, now: Duration) {
        let stood_still = now.saturating_sub(self.last_event) > 2 * self.timing.heartbeat;
        if stood_still {
            self.last_heard = now;
        }
        self.last_event = now;
    }

    fn take(&mut self, event: Event, now: Duration, actions: &mut Vec<Action>) -> Result<(), Ended> {
        match event {
            Event::Started => actions.extend(self.incoming.iter().map(Incoming::locate)),
            Event::Received(frame) => self.receive(frame, now, actions)?,
            Event::Malformed(malformed) => return Err(Violation::from(malformed).into()),
            Event::Tick => self.tick(now, actions)?,
            Event::Changed(topic) => actions.extend(self.outgoing(&topic).and_then(Outgoing::changed)),
            Event::Collected { topic, batch } => {
                actions.extend(self.outgoing(&topic).and_then(|outgoing| outgoing.collected(batch)));
            }
            Event::Located { topic, place } => {
                if let Some(incoming) = self.incoming(&topic) {
                    incoming.located(place);
                }
            }
            Event::Applied { topic, applied } => {
                actions.extend(self.incoming(&topic).and_then(|incoming| incoming.applied(applied)));
            }
            Event::SignalsApplied => actions.extend(self.listener.applied()),
            Event::SignalsSettled => actions.extend(self.listener.settled()),
            Event::Reopen(topic) => actions.extend(self.incoming(&topic).and_then(Incoming::reopen)),
            Event::Subscribe(names) => {
                names.into_iter().for_each(|name| self.listener.subscribe(name, &self.limits));
            }
            Event::Unsubscribe(names) => names.iter().for_each(|name| self.listener.unsubscribe(name)),
            Event::Publish { name, signal, ago } => self.publisher.publish(name, signal, ago, now),
            Event::Retract(name) => self.publisher.retract(&name),
            Event::Ages(ages) => self.ages = (ages, now),
            Event::Ask { ticket, kind, body, timeout } => {
                actions.extend(self.questions.ask(ticket, kind, body, now + timeout));
            }
            Event::Answer { id, result } => self.questions.answer(id, result),
            Event::Close(reason) => return Err(Ended::ByUs(reason)),
            Event::Lost(reason) => return Err(Ended::Lost(reason)),
        }
        Ok(())
    }

    fn receive(&mut self, frame: Frame, now: Duration, actions: &mut Vec<Action>) -> Result<(), Ended> {
        self.last_heard = now;
        if std::mem::take(&mut self.stale) {
            actions.push(Action::Fresh);
        }
        if self.phase == Phase::Greeting {
            match frame {
                Frame::Hello(hello) => {
                    self.phase = Phase::Talking;
                    actions.push(Action::Greeted(hello));
                    return Ok(());
                }
                Frame::Close { reason } => return Err(Ended::ByPeer(reason)),
                _ => return Err(Violation::NoHello.into()),
            }
        }
        match frame {
            // A repeat; the first one counts.
            Frame::Hello(_) => {}
            Frame::Open { topic, opening, place, window } => {
                if let Some(outgoing) = self.outgoing(&topic) {
                    actions.extend(outgoing.opened(opening, place, window)?);
                }
            }
            Frame::Chunk(chunk) => {
                let staged: usize = self.incoming.iter().map(Incoming::staged_bytes).sum();
                let room = self.limits.staged_bytes.saturating_sub(staged);
                if let Some(incoming) = self.incoming(&chunk.topic) {
                    actions.extend(incoming.chunk(chunk, room)?);
                }
            }
            Frame::Ack { topic, opening, batch, world, refused } => {
                if let Some(outgoing) = self.outgoing(&topic) {
                    actions.extend(outgoing.acknowledged(opening, batch, world, refused));
                }
            }
            Frame::Hold { topic, opening, reason } => {
                actions.extend(self.outgoing(&topic).and_then(|topic| topic.held(opening, reason)));
            }
            Frame::Heartbeat(heartbeat) => {
                // Ours goes with it if it is due soon: one of both is woken once a beat, and not both twice.
                if self.next_heartbeat <= now + self.timing.heartbeat / 2 {
                    self.beat(now);
                }
                actions.push(Action::Heartbeat(heartbeat));
            }
            Frame::Subscribe { added, removed } => {
                actions.push(self.publisher.subscribe(added, removed, &self.limits, &self.names)?);
            }
            Frame::Signal { name, sequence, signal } => {
                actions.extend(self.listener.signal(name, sequence, signal, &self.limits)?);
            }
            Frame::SignalEcho { sequence } => self.publisher.echoed(sequence),
            Frame::Query { id, kind, body } => {
                actions.extend(self.questions.asked_by_peer(id, kind, body)?);
            }
            Frame::Reply { id, result } => actions.extend(self.questions.replied(id, result)),
            Frame::Credit { topic, opening, batch, bytes } => {
                if let Some(outgoing) = self.outgoing(&topic) {
                    outgoing.credited(opening, batch, bytes);
                }
            }
            Frame::Close { reason } => return Err(Ended::ByPeer(reason)),
        }
        Ok(())
    }

    fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) -> Result<(), Ended> {
        let silence = now.saturating_sub(self.last_heard);
        if silence >= self.timing.offline {
            return Err(Ended::Silent(silence));
        }
        if silence >= self.timing.stale && !self.stale {
            self.stale = true;
            actions.push(Action::Stale);
        }
        if now >= self.next_heartbeat {
            self.beat(now);
        }
        actions.extend(self.questions.expire(now));
        Ok(())
    }

    fn beat(&mut self, now: Duration) {
        self.heartbeat_due = true;
        self.next_heartbeat = now + self.timing.heartbeat;
    }

    fn heartbeat(&mut self, now: Duration) -> Option<Frame> {
        std::mem::take(&mut self.heartbeat_due).then(|| {
            let (ages, at) = &self.ages;
            let elapsed = now.saturating_sub(*at);
            Frame::Heartbeat(Heartbeat {
                complete: self.outgoing.iter().filter_map(Outgoing::complete).collect(),
                ages: ages.iter().map(|(origin, age)| (origin.clone(), *age + elapsed)).collect(),
            })
        })
    }

    /// Signals and chunks by turns, so that neither starves the other.
    fn signal_or_chunk(&mut self, now: Duration) -> Option<Frame> {
        self.signal_next = !self.signal_next;
        if self.signal_next {
            self.chunk().or_else(|| self.publisher.next(now))
        } else {
            self.publisher.next(now).or_else(|| self.chunk())
        }
    }

    /// A chunk of the next topic in turn that has one.
    fn chunk(&mut self) -> Option<Frame> {
        let after = self.turn.take();
        let is_next = |outgoing: &Outgoing| after.as_ref().is_some_and(|turn| outgoing.topic() > turn);
        let next = self.outgoing.iter().position(|outgoing| is_next(outgoing) && outgoing.has_chunk());
        let next = next.or_else(|| self.outgoing.iter().position(Outgoing::has_chunk))?;
        let outgoing = &mut self.outgoing[next];
        self.turn = Some(outgoing.topic().clone());
        outgoing.next_chunk().map(Frame::Chunk)
    }

    fn incoming(&mut self, topic: &Topic) -> Option<&mut Incoming> {
        self.incoming.iter_mut().find(|incoming| incoming.topic() == topic)
    }

    fn outgoing(&mut self, topic: &Topic) -> Option<&mut Outgoing> {
        self.outgoing.iter_mut().find(|outgoing| outgoing.topic() == topic)
    }
}
