//! One side: a program that takes its time, and the sessions that it has. What it has at rest is its [`Site`].

mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use sync::frame::{Frame, Hello, Signal};
use sync::session::{Action, Applied, Config, Ended, Event, Limits, Session, Timing};
use sync::{Base, Batch, Topic};

use super::bug::Bug;
use super::end::End;
use super::fault::Fault;
use super::link::UPPER;
use super::random::Random;
use super::site::{Party, Site};

pub(super) use wishes::unasked;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    ControlPlanes,
    Proxy,
}

/// So small that many a batch uses it up.
const WINDOW: u64 = 200_000;
/// As in the programs, but shorter, so that more sessions fit into a run.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(300),
    stale: Duration::from_millis(1500),
    offline: Duration::from_secs(4),
};

pub(super) struct Peer<S> {
    party: Party,
    shape: Shape,
    bug: Bug,
    pub(super) site: S,
    /// By the number of the connection.
    ends: BTreeMap<u64, End>,
    jobs: Vec<Job>,
    /// When all that is written is durable.
    durable_at: Duration,
    /// How far the clock of this side is ahead.
    ahead: Duration,
    /// Names of parts and signals that this side wants.
    wanted: BTreeSet<String>,
    published: BTreeMap<String, u64>,
    heard: BTreeMap<String, u64>,
    tickets: u64,
}

/// Something that the host does, done at `due`.
struct Job {
    due: Duration,
    end: u64,
    with: Party,
    work: Work,
}

enum Work {
    Collect(Topic, Base),
    Locate(Topic),
    /// With the right to store that its session had.
    Apply(Topic, Batch, Option<store::Fence>),
    /// What is written becomes durable, and the session is told.
    Sync(Option<Event>),
    Signals(BTreeMap<String, Signal>),
    /// What should have been in force before it was echoed.
    SignalsLate(BTreeMap<String, Signal>),
    Settle,
    Answer(u64, Bytes),
}

impl<S: Site> Peer<S> {
    pub(super) fn new(party: Party, shape: Shape, site: S, bug: Bug) -> Self {
        Self {
            party,
            shape,
            bug,
            site,
            ends: BTreeMap::new(),
            jobs: Vec::new(),
            durable_at: Duration::ZERO,
            ahead: Duration::ZERO,
            wanted: BTreeSet::new(),
            published: BTreeMap::new(),
            heard: BTreeMap::new(),
            tickets: 0,
        }
    }

    fn serves(&self) -> Topic {
        match (self.shape, self.party) {
            (Shape::ControlPlanes, UPPER) => Topic::POLICY,
            (Shape::ControlPlanes, _) => Topic::ORIGINATED,
            (Shape::Proxy, UPPER) => Topic::PARTS,
            (Shape::Proxy, _) => Topic::PROXY,
        }
    }

    fn copies(&self) -> Topic {
        match (self.shape, self.party) {
            (Shape::ControlPlanes, UPPER) => Topic::ORIGINATED,
            (Shape::ControlPlanes, _) => Topic::POLICY,
            (Shape::Proxy, UPPER) => Topic::PROXY,
            (Shape::Proxy, _) => Topic::PARTS,
        }
    }

    pub(super) fn begin(&mut self, number: u64, with: Party, now: Duration, random: &mut Random) {
        let config = Config {
            hello: Hello { generation: number, ..Hello::default() },
            serves: vec![self.serves()],
            copies: vec![self.copies()],
            limits: Limits { window: WINDOW, ..Limits::CONTROL_PLANE },
            timing: TIMING,
        };
        if self.newest(with).is_some() {
            random.count(Fault::SecondSession);
        }
        self.ends.insert(number, End::new(Session::new(config, now + self.ahead), with));
        self.tell(number, Event::Started, now, random);
        self.tell(number, Event::Subscribe(self.wanted.iter().cloned().collect()), now, random);
        for name in self.published.keys().cloned().collect::<Vec<_>>() {
            self.publish_to(number, &name, now, random);
        }
    }

    pub(super) fn write_documents(&mut self, now: Duration, random: &mut Random) {
        self.site.write(random);
        if self.bug == Bug::TellsBeforeStoring {
            self.tell_all(|peer| Event::Changed(peer.serves()), now, random);
        }
        let due = self.sync_at(now, random);
        self.jobs.push(Job { due, end: 0, with: self.party, work: Work::Sync(None) });
    }

    pub(super) fn forget_a_part(&mut self, now: Duration, random: &mut Random) {
        if self.site.forget_a_part(random) {
            self.tell_all(|peer| Event::Reopen(peer.copies()), now, random);
        }
    }

    pub(super) fn pass_time(&mut self, now: Duration, random: &mut Random) {
        let due: Vec<_> = self.jobs.extract_if(.., |job| job.due <= now).collect();
        for job in due {
            self.finish(job, now, random);
        }
        for number in self.numbers() {
            if self.ends[&number].session.next_wakeup() <= now + self.ahead {
                self.tell(number, Event::Tick, now, random);
            }
        }
    }

    pub(super) fn write(&mut self, number: u64, now: Duration) -> Option<Frame> {
        let end = self.ends.get_mut(&number).filter(|end| end.write_again <= now)?;
        let frame = end.session.next_frame(now + self.ahead)?;
        if let Frame::Ack { world, .. } = &frame {
            assert!(self.site.has_stored(world), "acknowledged ahead: {world:?}");
        }
        if self.bug == Bug::GivesNoCredit && matches!(frame, Frame::Credit { .. }) {
            return self.write(number, now);
        }
        Some(frame)
    }

    pub(super) fn read(&mut self, number: u64, mut frame: Frame, now: Duration, random: &mut Random) {
        if let (Frame::Open { window, .. }, Bug::IgnoresCredit) = (&mut frame, self.bug) {
            *window = u64::MAX;
        }
        let is_credit = matches!(frame, Frame::Credit { .. }) && !self.wants_to_write(number);
        self.tell(number, Event::Received(frame), now, random);
        if is_credit && self.wants_to_write(number) {
            random.count(Fault::WaitedForCredit);
        }
    }

    fn wants_to_write(&self, number: u64) -> bool {
        self.ends.get(&number).is_some_and(|end| end.session.wants_to_write())
    }

    /// The newest session writes nothing for a while.
    pub(super) fn fall_silent(&mut self, until: Duration) {
        if let Some(mut newest) = self.ends.last_entry() {
            newest.get_mut().write_again = until;
        }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.ends.contains_key(&number)
    }

    pub(super) fn is_over(&self, number: u64) -> bool {
        self.ends.get(&number).is_some_and(|end| end.session.is_over())
    }

    /// The connection is gone. What is being stored is stored to its end, as the driver does it.
    pub(super) fn lose(&mut self, number: u64, now: Duration, random: &mut Random) {
        self.tell(number, Event::Lost("the link broke".to_owned()), now, random);
        self.ends.remove(&number);
    }

    /// Nothing is left of an earlier session.
    pub(super) fn is_idle(&self) -> bool {
        self.ends.is_empty() && self.jobs.is_empty()
    }

    pub(super) fn jump(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// The program is gone, and begins again with what its store has. What it has written stays; what was handed to
    /// the store is written or not.
    pub(super) fn kill(&mut self, now: Duration, random: &mut Random) {
        for job in mem::take(&mut self.jobs) {
            if random.one_in(2) {
                self.finish(job, now, random);
            }
        }
        self.site.sync();
        self.forget();
    }

    pub(super) fn lose_power(&mut self) {
        self.site.lose_power();
        self.forget();
    }

    pub(super) fn put_back(&mut self, random: &mut Random) {
        self.site.put_back(random);
        self.forget();
    }

    pub(super) fn lose_store(&mut self) {
        self.site.lose();
        self.heard.clear();
        self.forget();
    }

    fn forget(&mut self) {
        self.ends.clear();
        self.jobs.clear();
        self.site.restart();
    }

    /// Somebody looked at what is offered, and accepts it.
    pub(super) fn accept(&mut self, now: Duration, random: &mut Random) {
        for of in self.site.accept() {
            let numbers: Vec<_> = self.numbers().filter(|number| self.ends[number].with == of).collect();
            for number in numbers {
                self.tell(number, Event::Reopen(self.copies()), now, random);
            }
        }
    }

    pub(super) fn has_questions(&self) -> bool {
        self.ends.values().any(|end| !end.asked.is_empty())
    }

    pub(super) fn state(&self) -> String {
        format!(
            "{}, sessions {:?}, wants {:?}, heard {:?}",
            self.site.state(),
            self.ends.values().map(|end| &end.session).collect::<Vec<_>>(),
            self.wanted,
            self.heard
        )
    }

    fn numbers(&self) -> impl Iterator<Item = u64> + use<S> {
        self.ends.keys().copied().collect::<Vec<_>>().into_iter()
    }

    fn newest(&self, with: Party) -> Option<u64> {
        self.ends.iter().rev().find(|(_, end)| end.with == with).map(|(number, _)| *number)
    }

    fn tell_all(&mut self, event: impl Fn(&Self) -> Event, now: Duration, random: &mut Random) {
        for number in self.numbers() {
            self.tell(number, event(self), now, random);
        }
    }

    fn tell(&mut self, number: u64, event: Event, now: Duration, random: &mut Random) {
        let Some(end) = self.ends.get_mut(&number) else { return };
        for action in end.session.on_event(event, now + self.ahead) {
            self.act(number, action, now, random);
        }
    }

    fn act(&mut self, number: u64, action: Action, now: Duration, random: &mut Random) {
        let end = self.ends.get_mut(&number).expect("it was just told something");
        let with = end.with;
        let work = match action {
            Action::Collect { topic, base } => {
                let base = match &base {
                    Base::Opened(_) if self.bug == Bug::AnswersAnEarlierOpening => {
                        end.opened.get_or_insert(base).clone()
                    }
                    _ => base,
                };
                Work::Collect(topic, base)
            }
            Action::Locate { topic } => Work::Locate(topic),
            Action::Apply { topic, batch } => {
                if self.bug == Bug::AppliesHalfABatch {
                    self.site.leak_half(with, &batch);
                }
                Work::Apply(topic, batch, end.fence.clone())
            }
            Action::ApplySignals { signals } if self.bug == Bug::EchoesBeforeApplying => {
                let due = now + Duration::from_millis(200);
                let work = Work::SignalsLate(signals);
                self.jobs.push(Job { due, end: number, with, work });
                return self.tell(number, Event::SignalsApplied, now, random);
            }
            Action::ApplySignals { signals } => Work::Signals(signals),
            Action::SettleSignals => Work::Settle,
            Action::Question { id, body, .. } => Work::Answer(id, body),
            Action::Subscribed { added, removed } => {
                return self.subscribed(number, added, &removed, now, random);
            }
            Action::Answered { ticket, result } => {
                let asked = end.asked.remove(&ticket).expect("answered once");
                if let Ok(body) = result {
                    assert_eq!(body, asked, "the answer belongs to another question");
                }
                return;
            }
            Action::Ended(Ended::Violation(violation)) => panic!("a violation: {violation}"),
            Action::Ended(Ended::Silent(_)) => return random.count(Fault::Silent),
            Action::Acknowledged { world, refused, .. } => {
                return self.site.acknowledged(with, &world, refused);
            }
            Action::Greeted(_) | Action::HeldByPeer { .. } | Action::Heartbeat(_) | Action::Ended(_) => {
                return;
            }
            Action::Stale => {
                end.stale = true;
                return random.count(Fault::Stale);
            }
            Action::Fresh => return end.stale = false,
        };
        let seldom = if matches!(work, Work::Apply(..)) { 15 } else { 60 };
        let longest = if random.brings(Fault::SlowHost, seldom) { 6000 } else { 250 };
        let due = now + Duration::from_millis(random.below(longest));
        self.jobs.push(Job { due, end: number, with, work });
    }

    fn finish(&mut self, job: Job, now: Duration, random: &mut Random) {
        let Job { end: number, with, work, .. } = job;
        // What only the session wanted to know ends with it; what is stored is stored to its end.
        let is_wanted =
            matches!(work, Work::Apply(..) | Work::Sync(_) | Work::Signals(_) | Work::SignalsLate(_));
        if !is_wanted && !self.has(number) {
            return;
        }
        let event = match work {
            Work::Collect(topic, base) => {
                let Some(end) = self.ends.get_mut(&number) else { return };
                let batch = self.site.collect(with, &topic, base, end, random);
                Event::Collected { topic, batch }
            }
            Work::Locate(topic) if self.newest(with) == Some(number) => {
                let (fence, place) = self.site.locate(with);
                if let Some(end) = self.ends.get_mut(&number) {
                    end.fence = Some(fence);
                }
                Event::Located { topic, place }
            }
            Work::Locate(_) => Event::Close("a newer session took over".to_owned()),
            Work::Apply(topic, batch, fence) => match self.site.apply(with, batch, fence, random) {
                None => Event::Close("a newer session stores".to_owned()),
                Some(applied @ Applied::Held { .. }) => Event::Applied { topic, applied },
                Some(applied) => {
                    let event = Event::Applied { topic, applied };
                    let due = self.sync_at(now, random);
                    if self.bug == Bug::AcknowledgesBeforeStoring {
                        self.jobs.push(Job { due, end: number, with, work: Work::Sync(None) });
                        event
                    } else {
                        let work = Work::Sync(Some(event));
                        return self.jobs.push(Job { due, end: number, with, work });
                    }
                }
            },
            Work::Sync(event) => {
                self.site.sync();
                self.tell_all(|peer| Event::Changed(peer.serves()), now, random);
                let Some(event) = event else { return };
                event
            }
            Work::Signals(signals) => {
                self.hear(signals);
                Event::SignalsApplied
            }
            Work::SignalsLate(signals) => return self.hear(signals),
            Work::Settle => Event::SignalsSettled,
            Work::Answer(id, body) => Event::Answer { id, result: Ok(body) },
        };
        self.tell(number, event, now, random);
    }

    /// When what is written now is durable: not before what was written earlier.
    fn sync_at(&mut self, now: Duration, random: &mut Random) -> Duration {
        let longest = if random.brings(Fault::SlowDisk, 60) { 2000 } else { 60 };
        self.durable_at = self.durable_at.max(now + Duration::from_millis(random.below(longest)));
        self.durable_at
    }
}
