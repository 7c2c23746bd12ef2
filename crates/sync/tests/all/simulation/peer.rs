//! One side: a store, a host that takes its time, and the sessions that it has.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{Origin, World};
use sync::frame::{Frame, Hello, Signal};
use sync::line::Found;
use sync::session::{Action, Applied, Config, Ended, Event, Limits, Session, Timing};
use sync::{Base, Batch, Place, Topic};

use super::bug::Bug;
use super::end::End;
use super::fault::Fault;
use super::line::{Hash, Line, Past};
use super::link::LOWER;
use super::random::Random;
use super::store::{Copied, Store, Verdict, hash_of};
use crate::host::wanted;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    ControlPlanes,
    Proxy,
}

const SIGNALS: u64 = 5;
/// So small that many a batch uses it up.
const WINDOW: u64 = 200_000;
/// As in the programs, but shorter, so that more sessions fit into a run.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(300),
    stale: Duration::from_millis(1500),
    offline: Duration::from_secs(4),
};

pub(super) struct Peer {
    side: usize,
    shape: Shape,
    bug: Bug,
    /// Whose documents are copied.
    other: Origin,
    store: Store,
    past: Past,
    /// By the number of the connection.
    ends: BTreeMap<u64, End>,
    jobs: Vec<Job>,
    /// When all that is written is durable.
    durable_at: Duration,
    /// How far the clock of this side is ahead.
    ahead: Duration,
    /// Another history of the other side waits for somebody to accept it.
    hold: Option<Hold>,
    /// How the copy moved from state to state, and what it was not taken to, since the last check.
    moves: Vec<Move>,
    /// The store of this side was put back or lost, and that was not noticed yet.
    was_put_back: bool,
    /// Names of parts and signals that this side wants.
    wanted: BTreeSet<String>,
    published: BTreeMap<String, u64>,
    heard: BTreeMap<String, u64>,
    tickets: u64,
}

struct Hold {
    epoch: u64,
    is_accepted: bool,
}

struct Move {
    from: Hash,
    to: Hash,
    verdict: Verdict,
    begins_epoch: bool,
}

/// Something that the host does, done at `due`.
struct Job {
    due: Duration,
    end: u64,
    work: Work,
}

enum Work {
    Collect(Topic, Base),
    Locate(Topic),
    /// With the right to store that its session had.
    Apply(Topic, Batch, Option<u64>),
    /// What is written becomes durable, and the session is told.
    Sync(Option<Event>),
    Signals(BTreeMap<String, Signal>),
    /// What should have been in force before it was echoed.
    SignalsLate(BTreeMap<String, Signal>),
    Settle,
    Answer(u64, Bytes),
}

impl Peer {
    pub(super) fn new(side: usize, shape: Shape, bug: Bug) -> Self {
        let east = Origin::Zone("east".parse().unwrap());
        let (origin, other) = if side == LOWER { (east, Origin::Global) } else { (Origin::Global, east) };
        let is_proxy = shape == Shape::Proxy && side == LOWER;
        let mut past = Past::default();
        let line = Line::new(origin, &mut past);
        Self {
            side,
            shape,
            bug,
            other,
            store: Store::new(line, if is_proxy { Copied::partial() } else { Copied::default() }),
            past,
            ends: BTreeMap::new(),
            jobs: Vec::new(),
            durable_at: Duration::ZERO,
            ahead: Duration::ZERO,
            hold: None,
            moves: Vec::new(),
            was_put_back: false,
            wanted: BTreeSet::new(),
            published: BTreeMap::new(),
            heard: BTreeMap::new(),
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

    pub(super) fn begin(&mut self, number: u64, now: Duration, random: &mut Random) {
        let config = Config {
            hello: Hello { generation: number, ..Hello::default() },
            serves: vec![self.serves()],
            copies: vec![self.copies()],
            limits: Limits { window: WINDOW, ..Limits::CONTROL_PLANE },
            timing: TIMING,
        };
        if !self.ends.is_empty() {
            random.count(Fault::SecondSession);
        }
        self.ends.insert(number, End::new(Session::new(config, now + self.ahead)));
        self.tell(number, Event::Started, now, random);
        self.tell(number, Event::Subscribe(self.wanted.iter().cloned().collect()), now, random);
        for name in self.published.keys().cloned().collect::<Vec<_>>() {
            self.publish_to(number, &name, now, random);
        }
    }

    /// What goes on at this side, whatever the link does.
    pub(super) fn live(&mut self, now: Duration, random: &mut Random) {
        if random.one_in(4) {
            self.write_documents(now, random);
        }
        if random.one_in(100) {
            self.forget_a_part(now, random);
        }
        if self.hold.is_some() && random.one_in(40) {
            // Or both sides go back to where they still agreed.
            if random.brings(Fault::PutBackStore, 3) {
                self.put_back(random);
            } else {
                self.accept(now, random);
            }
        }
        if random.brings(Fault::ReopenedTopic, 40) {
            self.tell_all(|peer| Event::Reopen(peer.copies()), now, random);
        }
        if random.one_in(8)
            && let Some(number) = self.newest()
        {
            self.ask(number, now, random);
        }
        if self.shape == Shape::Proxy && self.side == LOWER && random.one_in(6) {
            let names: Vec<_> = Line::keys().chain((0..SIGNALS).map(signal_name)).collect();
            let name = names[random.below(names.len() as u64) as usize].clone();
            if self.wanted.remove(&name) {
                self.heard.remove(&name);
                self.tell_all(|_| Event::Unsubscribe(vec![name.clone()]), now, random);
            } else {
                self.wanted.insert(name.clone());
                self.tell_all(|_| Event::Subscribe(vec![name.clone()]), now, random);
            }
        }
        if self.shape == Shape::Proxy && self.side != LOWER && random.one_in(3) {
            let name = signal_name(random.below(SIGNALS));
            *self.published.entry(name.clone()).or_default() += 1;
            for number in self.numbers() {
                self.publish_to(number, &name, now, random);
            }
        }
    }

    pub(super) fn write_documents(&mut self, now: Duration, random: &mut Random) {
        self.store.write().line.write(&mut self.past, random);
        if self.bug == Bug::TellsBeforeStoring {
            self.tell_all(|peer| Event::Changed(peer.serves()), now, random);
        }
        let due = self.sync_at(now, random);
        self.jobs.push(Job { due, end: 0, work: Work::Sync(None) });
    }

    pub(super) fn forget_a_part(&mut self, now: Duration, random: &mut Random) {
        if self.store.write().copied.forget_a_part(random) {
            random.count(Fault::UnreadablePart);
            self.store.sync();
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
            let stored = self.store.read().copied.world();
            assert!(stored.covers_all(world), "acknowledged ahead: {world:?}, stored {stored:?}");
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
        self.store.sync();
        self.forget();
    }

    pub(super) fn back_up(&mut self) {
        self.store.back_up();
    }

    pub(super) fn lose_power(&mut self) {
        self.store.lose_power();
        self.forget();
    }

    pub(super) fn put_back(&mut self, random: &mut Random) {
        let line = self.store.read().line.clone();
        self.store.put_back(random);
        if self.has_a_line() {
            self.was_put_back = true;
        } else {
            self.store.write().line = line;
            self.store.sync();
        }
        self.forget();
    }

    pub(super) fn lose_store(&mut self) {
        let line = self.store.read().line.clone();
        let origin = line.origin().clone();
        self.was_put_back = true;
        self.store.lose(if self.has_a_line() { Line::new(origin, &mut self.past) } else { line });
        self.heard.clear();
        self.forget();
    }

    /// A proxy's own document comes from its command line, never from its state folder.
    fn has_a_line(&self) -> bool {
        self.shape == Shape::ControlPlanes || self.side != LOWER
    }

    fn forget(&mut self) {
        self.ends.clear();
        self.jobs.clear();
        self.hold = None;
    }

    /// Somebody looked at what is offered, and accepts it.
    pub(super) fn accept(&mut self, now: Duration, random: &mut Random) {
        let Some(hold) = self.hold.as_mut().filter(|hold| !hold.is_accepted) else { return };
        hold.is_accepted = true;
        self.tell_all(|peer| Event::Reopen(peer.copies()), now, random);
    }

    pub(super) fn check(&mut self, other: &Self, random: &mut Random) {
        let (origin, past) = (other.store.read().line.origin(), &other.past);
        if self.store.take_news() {
            self.store.read().copied.check(origin, past);
        }
        for Move { from, to, verdict, begins_epoch } in self.moves.drain(..) {
            let follows = past.goes_on(from, to);
            match verdict {
                Verdict::Follows => {
                    assert!(follows, "accepted by itself: {to} does not go on from {from}");
                    if begins_epoch {
                        random.count(Fault::FollowedEpoch);
                    }
                }
                Verdict::Accepted => random.count(Fault::Accepted),
                Verdict::Held(reason) => {
                    let is_one_line = follows || past.goes_on(to, from);
                    assert!(!is_one_line, "held without a reason: {reason}");
                    random.count(Fault::Held);
                }
            }
        }
        for end in self.ends.values_mut() {
            let session = &end.session;
            for (_, name, value) in end.unsettled.extract_if(.., |(mark, ..)| session.has_settled(*mark)) {
                // Nobody knows it of a peer that is not heard, or that wants it anew.
                if let Some(heard) = other.heard.get(&name).filter(|_| !end.stale) {
                    assert!(*heard >= value, "settled ahead: {name} is {heard}, not {value}");
                }
            }
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        let parts: Option<BTreeSet<String>> = (self.copies() == Topic::PARTS).then(|| self.wanted.clone());
        let mut signals = self.wanted.iter().filter(|name| name.starts_with("endpoints"));
        self.store.read().copied.equals(&other.store.read().line, parts.as_ref())
            && signals.all(|name| self.heard.get(name) == Some(other.published.get(name).unwrap_or(&0)))
    }

    pub(super) fn has_questions(&self) -> bool {
        self.ends.values().any(|end| !end.asked.is_empty())
    }

    pub(super) fn state(&self) -> String {
        let state = self.store.read();
        format!(
            "{:?} of {:?}, sessions {:?}, wants {:?}, heard {:?}",
            state.copied.world(),
            state.line.point(),
            self.ends.values().map(|end| &end.session).collect::<Vec<_>>(),
            self.wanted,
            self.heard
        )
    }

    fn numbers(&self) -> Vec<u64> {
        self.ends.keys().copied().collect()
    }

    fn newest(&self) -> Option<u64> {
        self.ends.last_key_value().map(|(number, _)| *number)
    }

    fn ask(&mut self, number: u64, now: Duration, random: &mut Random) {
        self.tickets += 1;
        let (ticket, body) = (self.tickets, Bytes::from(self.tickets.to_string()));
        let end = self.ends.get_mut(&number).expect("it is one of ours");
        end.asked.insert(ticket, body.clone());
        let ask = Event::Ask { ticket, kind: "echo".into(), body, timeout: Duration::from_secs(5) };
        self.tell(number, ask, now, random);
    }

    fn publish_to(&mut self, number: u64, name: &str, now: Duration, random: &mut Random) {
        let value = self.published.get(name).copied().unwrap_or_default();
        let signal =
            Signal { origin: Origin::Global, age: Duration::ZERO, value: Bytes::from(value.to_string()) };
        let (shared, signal, ago) = (name.into(), Arc::new(signal), Duration::ZERO);
        self.tell(number, Event::Publish { name: shared, signal, ago }, now, random);
        if let Some(end) = self.ends.get_mut(&number).filter(|end| end.subscribed.contains(name)) {
            end.unsettled.push((end.session.mark(), name.to_owned(), value));
        }
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
                    self.store.leak().copied.put_half(&batch);
                }
                Work::Apply(topic, batch, end.fence)
            }
            Action::ApplySignals { signals } if self.bug == Bug::EchoesBeforeApplying => {
                let due = now + Duration::from_millis(200);
                self.jobs.push(Job { due, end: number, work: Work::SignalsLate(signals) });
                return self.tell(number, Event::SignalsApplied, now, random);
            }
            Action::ApplySignals { signals } => Work::Signals(signals),
            Action::SettleSignals => Work::Settle,
            Action::Question { id, body, .. } => Work::Answer(id, body),
            Action::Subscribed { added, removed } => {
                end.subscribed.retain(|name| !removed.contains(name));
                // Nothing is promised of what was withdrawn, until it is settled anew.
                end.unsettled.retain(|(_, name, _)| !removed.contains(name));
                end.subscribed.extend(added.iter().cloned());
                for name in added.into_iter().filter(|name| name.starts_with("endpoints")) {
                    self.published.entry(name.clone()).or_default();
                    self.publish_to(number, &name, now, random);
                }
                return self.tell(number, Event::Changed(self.serves()), now, random);
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
            Action::Acknowledged { world, .. } => return self.check_acknowledged(&world),
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
        self.jobs.push(Job { due, end: number, work });
    }

    /// Nothing can be acknowledged that was never written.
    fn check_acknowledged(&self, world: &World) {
        let now = self.store.written().line.world();
        assert!(now.covers_all(world), "acknowledged ahead of the owner: {world:?}");
    }

    fn finish(&mut self, job: Job, now: Duration, random: &mut Random) {
        let Job { end: number, work, .. } = job;
        // What only the session wanted to know ends with it; what is stored is stored to its end.
        let is_wanted =
            matches!(work, Work::Apply(..) | Work::Sync(_) | Work::Signals(_) | Work::SignalsLate(_));
        if !is_wanted && !self.has(number) {
            return;
        }
        let event = match work {
            Work::Collect(topic, base) => {
                let batch = self.collect(number, &topic, base, random);
                Event::Collected { topic, batch }
            }
            Work::Locate(topic) => match self.locate(number) {
                Some(place) => Event::Located { topic, place },
                None => Event::Close("a newer session took over".to_owned()),
            },
            Work::Apply(topic, batch, fence) => match self.apply(batch, fence, random) {
                None => Event::Close("a newer session stores".to_owned()),
                Some(applied @ Applied::Held { .. }) => Event::Applied { topic, applied },
                Some(applied) => {
                    let event = Event::Applied { topic, applied };
                    let due = self.sync_at(now, random);
                    if self.bug == Bug::AcknowledgesBeforeStoring {
                        self.jobs.push(Job { due, end: number, work: Work::Sync(None) });
                        event
                    } else {
                        let work = Work::Sync(Some(event));
                        return self.jobs.push(Job { due, end: number, work });
                    }
                }
            },
            Work::Sync(event) => {
                self.store.sync();
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

    fn collect(&mut self, number: u64, topic: &Topic, base: Base, random: &mut Random) -> Option<Batch> {
        if *topic == Topic::PARTS {
            let end = self.ends.get_mut(&number)?;
            let (parts, world) = self.store.read().line.parts(&end.subscribed);
            return end.holdings.collect(&base, &wanted(&parts), world);
        }
        if self.told().find(&base) == Found::PutBack {
            assert!(self.was_put_back, "this side forgot what it told: it is not at {base:?}");
            random.count(Fault::NewEpoch);
            self.store.write().line.begin_epoch(&base, &mut self.past);
            // From here on this side is ahead of all that it told.
            self.was_put_back = false;
            self.store.sync();
        }
        self.told().collect(&base, self.bug)
    }

    /// What others may be told.
    fn told(&self) -> &Line {
        let told = if self.bug == Bug::TellsBeforeStoring { self.store.written() } else { self.store.read() };
        &told.line
    }

    /// None where a newer session has taken over.
    fn locate(&mut self, number: u64) -> Option<Place> {
        if self.newest() != Some(number) {
            return None;
        }
        let state = self.store.write();
        state.generation += 1;
        let fence = Some(state.generation);
        self.store.sync();
        self.ends.get_mut(&number)?.fence = fence;
        Some(self.store.read().copied.place())
    }

    /// None where a newer session stores.
    fn apply(&mut self, batch: Batch, fence: Option<u64>, random: &mut Random) -> Option<Applied> {
        let copied = &self.store.written().copied;
        if fence != Some(self.store.written().generation) {
            random.count(Fault::Fenced);
            if self.bug != Bug::ChecksNoGeneration {
                return None;
            }
        }
        let world = batch.world.clone();
        if self.shape == Shape::ControlPlanes {
            let origin = &self.other;
            let accepted = self.hold.as_ref().filter(|hold| hold.is_accepted).map(|hold| hold.epoch);
            let (held, epoch) = (copied.point(origin).unwrap_or_default(), epoch_of(&batch));
            let verdict = copied.judge(origin, &batch, accepted, self.bug);
            let held_back = if let Verdict::Held(reason) = &verdict { Some(reason.clone()) } else { None };
            if held.revision > 0 {
                let begins_epoch = held.epoch < epoch;
                self.moves.push(Move { from: copied.hash(), to: hash_of(&batch), verdict, begins_epoch });
            }
            self.hold = held_back.is_some().then_some(Hold { epoch, is_accepted: false });
            if let Some(reason) = held_back {
                return Some(Applied::Held { reason });
            }
        }
        self.store.write().copied.put(batch, self.bug);
        Some(Applied::Stored { world, refused: Vec::new() })
    }

    /// When what is written now is durable: not before what was written earlier.
    fn sync_at(&mut self, now: Duration, random: &mut Random) -> Duration {
        let longest = if random.brings(Fault::SlowDisk, 60) { 2000 } else { 60 };
        self.durable_at = self.durable_at.max(now + Duration::from_millis(random.below(longest)));
        self.durable_at
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

fn epoch_of(batch: &Batch) -> u64 {
    batch.world.iter().map(|(_, point)| point.epoch).max().unwrap_or_default()
}

fn signal_name(n: u64) -> String {
    format!("endpoints/{n}")
}
