//! One side: a session, a host that takes its time, and what outlives both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use model::{Origin, World};
use sync::frame::{Frame, Hello, Signal};
use sync::session::{Action, Config, Event, Limits, Session, Timing};
use sync::{Base, Batch, Holdings, Topic};

use super::Bug;
use super::link::LOWER;
use super::random::Random;
use super::store::{Copied, Owned};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    ControlPlanes,
    Proxy,
}

const SIGNALS: u64 = 5;

pub(super) struct Peer {
    side: usize,
    shape: Shape,
    bug: Bug,
    owned: Owned,
    copied: Copied,
    session: Option<Session>,
    sessions: u64,
    jobs: Vec<Job>,
    /// Names of parts and signals that this side wants.
    wanted: BTreeSet<String>,
    /// Names that the other side wants, as far as this session was told.
    subscribed: BTreeSet<String>,
    holdings: Holdings,
    published: BTreeMap<String, u64>,
    /// What was published of whom, up to which mark of the session, and is not settled yet.
    unsettled: Vec<(u64, String, u64)>,
    stale: bool,
    heard: BTreeMap<String, u64>,
    asked: BTreeMap<u64, Bytes>,
    tickets: u64,
}

/// Something that the host does, done at `due`.
struct Job {
    due: Duration,
    session: u64,
    work: Work,
}

enum Work {
    Collect(Topic, Base),
    Locate(Topic),
    Apply(Topic, Batch),
    /// What should have been stored before it was acknowledged.
    StoreLate(Batch),
    Signals(BTreeMap<String, Signal>),
    /// What should have been in force before it was echoed.
    SignalsLate(BTreeMap<String, Signal>),
    Settle,
    Answer(u64, Bytes),
}

impl Peer {
    pub(super) fn new(side: usize, shape: Shape, bug: Bug) -> Self {
        let lower = Origin::Zone("east".parse().unwrap());
        let is_proxy = shape == Shape::Proxy && side == LOWER;
        Self {
            side,
            shape,
            bug,
            owned: Owned::new(if side == LOWER { lower } else { Origin::Global }),
            copied: if is_proxy { Copied::partial() } else { Copied::default() },
            session: None,
            sessions: 0,
            jobs: Vec::new(),
            wanted: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            holdings: Holdings::default(),
            published: BTreeMap::new(),
            unsettled: Vec::new(),
            stale: false,
            heard: BTreeMap::new(),
            asked: BTreeMap::new(),
            tickets: 0,
        }
    }

    fn serves(&self) -> Topic {
        match (self.shape, self.side) {
            (Shape::ControlPlanes, LOWER) => Topic::ORIGINATED,
            (Shape::ControlPlanes, _) => Topic::POLICY,
            (Shape::Proxy, LOWER) => Topic::PROXY,
            (Shape::Proxy, _) => Topic::PARTS,
        }
    }

    fn copies(&self) -> Topic {
        match (self.shape, self.side) {
            (Shape::ControlPlanes, LOWER) => Topic::POLICY,
            (Shape::ControlPlanes, _) => Topic::ORIGINATED,
            (Shape::Proxy, LOWER) => Topic::PARTS,
            (Shape::Proxy, _) => Topic::PROXY,
        }
    }

    pub(super) fn begin(&mut self, now: Duration, random: &mut Random) {
        self.sessions += 1;
        let config = Config {
            hello: Hello { generation: self.sessions, ..Hello::default() },
            serves: vec![self.serves()],
            copies: vec![self.copies()],
            limits: Limits::PROXY,
            timing: Timing::default(),
        };
        self.session = Some(Session::new(config, now));
        self.subscribed.clear();
        self.holdings = Holdings::default();
        self.unsettled.clear();
        self.stale = false;
        self.asked.clear();
        self.tell(Event::Started, now, random);
        self.tell(Event::Subscribe(self.wanted.iter().cloned().collect()), now, random);
        for name in self.published.keys().cloned().collect::<Vec<_>>() {
            self.publish(&name, now, random);
        }
    }

    /// What goes on at this side, whatever the link does.
    pub(super) fn live(&mut self, now: Duration, random: &mut Random) {
        if random.one_in(4) {
            self.owned.write(random);
            self.tell(Event::Changed(self.serves()), now, random);
        }
        if self.copied.holding && random.one_in(20) {
            self.accept(false, now, random);
        }
        if random.one_in(8) {
            self.tickets += 1;
            let body = Bytes::from(self.tickets.to_string());
            if self.session.is_some() {
                self.asked.insert(self.tickets, body.clone());
                let ask = Event::Ask {
                    ticket: self.tickets,
                    kind: "echo".into(),
                    body,
                    timeout: Duration::from_secs(5),
                };
                self.tell(ask, now, random);
            }
        }
        if self.shape == Shape::Proxy && self.side == LOWER && random.one_in(6) {
            let names: Vec<_> = Owned::keys().chain((0..SIGNALS).map(signal_name)).collect();
            let name = names[random.below(names.len() as u64) as usize].clone();
            if self.wanted.remove(&name) {
                self.heard.remove(&name);
                self.tell(Event::Unsubscribe(vec![name]), now, random);
            } else {
                self.wanted.insert(name.clone());
                self.tell(Event::Subscribe(vec![name]), now, random);
            }
        }
        if self.shape == Shape::Proxy && self.side != LOWER && random.one_in(3) {
            let name = signal_name(random.below(SIGNALS));
            *self.published.entry(name.clone()).or_default() += 1;
            self.publish(&name, now, random);
        }
    }

    pub(super) fn pass_time(&mut self, now: Duration, random: &mut Random) {
        let due: Vec<_> = self.jobs.extract_if(.., |job| job.due <= now).collect();
        for job in due {
            let event = self.finish(job.work);
            if job.session == self.sessions
                && let Some(event) = event
            {
                self.tell(event, now, random);
            }
        }
        if self.session.as_ref().is_some_and(|session| session.next_wakeup() <= now) {
            self.tell(Event::Tick, now, random);
        }
    }

    pub(super) fn write(&mut self, now: Duration) -> Option<Frame> {
        let frame = self.session.as_mut()?.next_frame(now)?;
        if let Frame::Ack { world, .. } = &frame {
            let stored = self.copied.world();
            assert!(stored.covers_all(world), "acknowledged ahead: {world:?}, stored {stored:?}");
        }
        Some(frame)
    }

    pub(super) fn read(&mut self, frame: Frame, now: Duration, random: &mut Random) {
        self.tell(Event::Received(frame), now, random);
    }

    pub(super) fn session_is_over(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_over)
    }

    /// The connection is gone. What is being stored is stored to its end, as the driver does it.
    pub(super) fn lose_session(&mut self, now: Duration) {
        if let Some(mut session) = self.session.take() {
            session.on_event(Event::Lost("the link broke".to_owned()), now);
        }
    }

    /// Nothing is left of an earlier session.
    pub(super) fn is_idle(&self) -> bool {
        self.session.is_none() && self.jobs.is_empty()
    }

    /// What was being stored may have been, or not.
    pub(super) fn crash(&mut self, loses_state: bool, random: &mut Random) {
        self.session = None;
        for job in std::mem::take(&mut self.jobs) {
            if random.one_in(2) {
                self.finish(job.work);
            }
        }
        if !loses_state {
            return;
        }
        self.copied.lose();
        self.heard.clear();
        if self.shape == Shape::ControlPlanes {
            self.owned.lose();
        }
    }

    pub(super) fn accept_whatever_comes(&mut self, now: Duration, random: &mut Random) {
        self.accept(true, now, random);
    }

    pub(super) fn check(&mut self, other: &Self) {
        self.copied.check(&other.owned);
        let Some(session) = &self.session else { return };
        for (_, name, value) in self.unsettled.extract_if(.., |(mark, ..)| session.has_settled(*mark)) {
            // Nobody knows it of a peer that is not heard, or that wants it anew.
            if let Some(heard) = other.heard.get(&name).filter(|_| !self.stale) {
                assert!(*heard >= value, "settled ahead: {name} is {heard}, not {value}");
            }
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        let parts: Option<BTreeSet<String>> = (self.copies() == Topic::PARTS).then(|| self.wanted.clone());
        let signals = self.wanted.iter().filter(|name| name.starts_with("endpoints"));
        self.copied.equals(&other.owned, parts.as_ref())
            && signals
                .clone()
                .all(|name| self.heard.get(name) == Some(other.published.get(name).unwrap_or(&0)))
    }

    pub(super) fn has_questions(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(super) fn state(&self) -> String {
        format!(
            "{:?} of {:?}, session {:?}, wants {:?}, heard {:?}",
            self.copied.world(),
            self.owned.epoch(),
            self.session,
            self.wanted,
            self.heard
        )
    }

    fn accept(&mut self, everything: bool, now: Duration, random: &mut Random) {
        self.copied.accept(everything);
        self.tell(Event::Reopen(self.copies()), now, random);
    }

    fn publish(&mut self, name: &str, now: Duration, random: &mut Random) {
        let value = Bytes::from(self.published.get(name).copied().unwrap_or_default().to_string());
        let signal = Signal { origin: Origin::Global, age: Duration::ZERO, value };
        self.tell(Event::Publish { name: name.to_owned(), signal }, now, random);
        if let (Some(session), true) = (&self.session, self.subscribed.contains(name)) {
            self.unsettled.push((session.mark(), name.to_owned(), self.published[name]));
        }
    }

    fn tell(&mut self, event: Event, now: Duration, random: &mut Random) {
        let Some(session) = &mut self.session else { return };
        for action in session.on_event(event, now) {
            self.act(action, now, random);
        }
    }

    fn act(&mut self, action: Action, now: Duration, random: &mut Random) {
        let work = match action {
            Action::Collect { topic, base } => Work::Collect(topic, base),
            Action::Locate { topic } => Work::Locate(topic),
            Action::Apply { topic, batch } => match self.bug {
                Bug::AcknowledgesBeforeStoring => {
                    let world = batch.world.clone();
                    self.jobs.push(Job {
                        due: now + Duration::from_millis(200),
                        session: self.sessions,
                        work: Work::StoreLate(batch),
                    });
                    let applied = sync::session::Applied::Stored { world, refused: Vec::new() };
                    return self.tell(Event::Applied { topic, applied }, now, random);
                }
                Bug::AppliesHalfABatch => {
                    self.copied.put_half(&batch);
                    Work::Apply(topic, batch)
                }
                _ => Work::Apply(topic, batch),
            },
            Action::ApplySignals { signals } if self.bug == Bug::EchoesBeforeApplying => {
                self.jobs.push(Job {
                    due: now + Duration::from_millis(200),
                    session: self.sessions,
                    work: Work::SignalsLate(signals),
                });
                return self.tell(Event::SignalsApplied, now, random);
            }
            Action::ApplySignals { signals } => Work::Signals(signals),
            Action::SettleSignals => Work::Settle,
            Action::Question { id, body, .. } => Work::Answer(id, body),
            Action::Subscribed { added, removed } => {
                self.subscribed.retain(|name| !removed.contains(name));
                for name in added {
                    if name.starts_with("endpoints") && !self.published.contains_key(&name) {
                        self.published.insert(name.clone(), 0);
                        self.publish(&name, now, random);
                    }
                    self.subscribed.insert(name);
                }
                return self.tell(Event::Changed(self.serves()), now, random);
            }
            Action::Answered { ticket, result } => {
                let asked = self.asked.remove(&ticket).expect("answered once");
                if let Ok(body) = result {
                    assert_eq!(body, asked, "the answer belongs to another question");
                }
                return;
            }
            Action::Ended(sync::session::Ended::Violation(violation)) => panic!("a violation: {violation}"),
            Action::Acknowledged { world, .. } => return self.check_acknowledged(&world),
            Action::Greeted(_) | Action::HeldByPeer { .. } | Action::Heartbeat(_) | Action::Ended(_) => {
                return;
            }
            Action::Stale => return self.stale = true,
            Action::Fresh => return self.stale = false,
        };
        let due = now + Duration::from_millis(random.below(250));
        self.jobs.push(Job { due, session: self.sessions, work });
    }

    /// Nothing can be acknowledged that was never written.
    fn check_acknowledged(&self, world: &World) {
        let (_, now) = self.owned.parts(&BTreeSet::new());
        assert!(now.covers_all(world), "acknowledged ahead of the owner: {world:?}");
    }

    fn finish(&mut self, work: Work) -> Option<Event> {
        Some(match work {
            Work::Collect(topic, base) if topic == Topic::PARTS => {
                let (parts, world) = self.owned.parts(&self.subscribed);
                Event::Collected { topic, batch: self.holdings.collect(&base, &parts, world) }
            }
            Work::Collect(topic, base) => Event::Collected { topic, batch: self.owned.collect(&base) },
            Work::Locate(topic) => Event::Located { topic, place: self.copied.place() },
            Work::Apply(topic, batch) => {
                Event::Applied { topic, applied: self.copied.apply(batch, self.bug) }
            }
            Work::StoreLate(batch) => {
                self.copied.apply(batch, self.bug);
                return None;
            }
            Work::Signals(signals) => {
                self.hear(signals);
                Event::SignalsApplied
            }
            Work::SignalsLate(signals) => {
                self.hear(signals);
                return None;
            }
            Work::Settle => Event::SignalsSettled,
            Work::Answer(id, body) => Event::Answer { id, result: Ok(body) },
        })
    }

    fn hear(&mut self, signals: BTreeMap<String, Signal>) {
        for (name, signal) in signals {
            let value = String::from_utf8(signal.value.to_vec()).unwrap().parse().unwrap();
            if !self.wanted.contains(&name) {
                continue;
            }
            let before = self.heard.insert(name, value).unwrap_or_default();
            assert!(before <= value, "a signal went back from {before} to {value}");
        }
    }
}

fn signal_name(n: u64) -> String {
    format!("endpoints/{n}")
}
