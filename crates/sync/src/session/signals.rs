//! The signal lane: the latest value of each name, to who subscribed to it, overtaking batches.
//!
//! A value that waits for the writer is replaced by a newer one of its name, so a lane holds at most one
//! value for each name. The same holds for values that wait for the host.
//!
//! What came is echoed in two steps: the host puts it in force, and then says when what followed from it is in
//! force further on. New values wait for the first step alone, so that a slow peer of a peer delays nothing but
//! echoes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::{Action, Limits, Violation};
use crate::frame::{Frame, MAX_BODY, MAX_NAME, Signal};
use crate::names::Names;

/// How many names one frame subscribes to; with [`MAX_NAME`] this keeps a frame near the size of a chunk.
const NAMES: usize = 512;

/// Our values, to the peer.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// Thousands of sessions have hundreds of names each: a hash map takes two thirds of what a tree does.
    values: HashMap<Arc<str>, Published>,
    subscribed: HashSet<Arc<str>>,
    /// Names whose value waits for the writer, by the sequence under which it goes: in the order in which they
    /// changed.
    waiting: VecDeque<(u64, Arc<str>)>,
    /// The last one that was given to a value.
    sequence: u64,
    /// The last one that was written.
    sent: u64,
    /// The last one up to which the peer said that all is settled.
    echoed: u64,
}

#[derive(Debug)]
struct Published {
    signal: Arc<Signal>,
    /// When it was as old as it says itself, in milliseconds of the session's time; before its beginning, perhaps.
    since: i64,
    waiting: bool,
}

impl Publisher {
    pub(super) fn publish(&mut self, name: Arc<str>, signal: Arc<Signal>, ago: Duration, now: Duration) {
        if signal.value.len() > MAX_BODY || name.len() > MAX_NAME {
            return;
        }
        let waiting = self.values.get(&name).is_some_and(|published| published.waiting);
        let since = milliseconds(now).saturating_sub(milliseconds(ago));
        self.values.insert(name.clone(), Published { signal, since, waiting });
        self.enqueue(&name);
    }

    pub(super) fn retract(&mut self, name: &str) {
        self.values.remove(name);
        self.waiting.retain(|(_, waiting)| **waiting != *name);
    }

    /// Takes the peer's word on what it wants; removals first, so that a name in both lists gets its first
    /// value again.
    pub(super) fn subscribe(
        &mut self,
        added: Vec<String>,
        removed: Vec<String>,
        limits: &Limits,
        names: &Names,
    ) -> Result<Action, Violation> {
        for name in &removed {
            self.subscribed.remove(name.as_str());
        }
        for name in &added {
            self.subscribed.insert(names.get(name));
            self.enqueue(name);
        }
        if self.subscribed.len() > limits.subscriptions {
            return Err(Violation::Subscriptions);
        }
        Ok(Action::Subscribed { added, removed })
    }

    pub(super) fn next(&mut self, now: Duration) -> Option<Frame> {
        while let Some((sequence, name)) = self.waiting.pop_front() {
            let Some(published) = self.values.get_mut(&name) else { continue };
            published.waiting = false;
            if !self.subscribed.contains(&name) {
                continue;
            }
            self.sent = sequence;
            let waited = u64::try_from(milliseconds(now).saturating_sub(published.since)).unwrap_or_default();
            let age = published.signal.age + Duration::from_millis(waited);
            let signal = Signal { age, ..Signal::clone(&published.signal) };
            return Some(Frame::Signal { name: name.to_string(), sequence, signal });
        }
        // What waited once at the start of a session is not made room for ever after.
        self.waiting.shrink_to_fit();
        None
    }

    pub(super) fn has_next(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn echoed(&mut self, sequence: u64) {
        self.echoed = self.echoed.max(sequence.min(self.sent));
    }

    /// Up to where there is something for the peer now.
    pub(super) fn mark(&self) -> u64 {
        self.sequence
    }

    /// Whether the peer echoed all that there was up to a mark, or what overtook it.
    pub(super) fn has_settled(&self, mark: u64) -> bool {
        let is_written = self.waiting.front().is_none_or(|(next, _)| *next > mark);
        // What the peer no longer wanted in the end was not written, and is not echoed.
        is_written && (self.echoed >= mark || self.echoed == self.sent)
    }

    fn enqueue(&mut self, name: &str) {
        if let Some(known) = self.subscribed.get(name)
            && let Some(published) = self.values.get_mut(name)
            && !published.waiting
        {
            published.waiting = true;
            self.sequence += 1;
            self.waiting.push_back((self.sequence, known.clone()));
        }
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The peer's values, to our host.
#[derive(Debug, Default)]
pub(super) struct Listener {
    wanted: BTreeSet<String>,
    to_remove: BTreeSet<String>,
    to_add: BTreeSet<String>,
    /// The last sequence of each wanted name, so that a repeat never puts an old value back.
    latest: BTreeMap<String, u64>,
    arrived: BTreeMap<String, Signal>,
    arrived_bytes: usize,
    highest: u64,
    /// The highest sequence of what the host is applying.
    applying: Option<u64>,
    /// All up to it is in force here.
    in_force: u64,
    /// What the host waits for to be in force further on.
    settling: Option<u64>,
    /// All up to it is.
    settled: u64,
    echo: Option<u64>,
}

impl Listener {
    pub(super) fn subscribe(&mut self, name: String, limits: &Limits) {
        if name.len() <= MAX_NAME
            && self.wanted.len() < limits.subscriptions
            && self.wanted.insert(name.clone())
        {
            self.to_add.insert(name);
        }
    }

    pub(super) fn unsubscribe(&mut self, name: &str) {
        if !self.wanted.remove(name) {
            return;
        }
        self.latest.remove(name);
        if let Some(signal) = self.arrived.remove(name) {
            self.arrived_bytes -= signal.value.len();
        }
        if !self.to_add.remove(name) {
            self.to_remove.insert(name.to_owned());
        }
    }

    pub(super) fn next_subscribe(&mut self) -> Option<Frame> {
        if !self.has_subscribe() {
            return None;
        }
        let mut removed = Vec::new();
        while removed.len() < NAMES
            && let Some(name) = self.to_remove.pop_first()
        {
            removed.push(name);
        }
        let mut added = Vec::new();
        while added.len() + removed.len() < NAMES
            && let Some(name) = self.to_add.pop_first()
        {
            added.push(name);
        }
        Some(Frame::Subscribe { added, removed })
    }

    pub(super) fn has_subscribe(&self) -> bool {
        !self.to_remove.is_empty() || !self.to_add.is_empty()
    }

    pub(super) fn signal(
        &mut self,
        name: String,
        sequence: u64,
        signal: Signal,
        limits: &Limits,
    ) -> Result<Vec<Action>, Violation> {
        self.highest = self.highest.max(sequence);
        let latest = self.latest.get(&name).copied().unwrap_or_default();
        // Nothing is taken in for a name whose subscription the peer has not read yet.
        if !self.wanted.contains(&name) || self.to_add.contains(&name) || sequence <= latest {
            return Ok(self.proceed());
        }
        self.latest.insert(name.clone(), sequence);
        self.arrived_bytes += signal.value.len();
        if let Some(overtaken) = self.arrived.insert(name, signal) {
            self.arrived_bytes -= overtaken.value.len();
        }
        if self.arrived_bytes > limits.staged_bytes {
            return Err(Violation::Signals);
        }
        Ok(self.proceed())
    }

    pub(super) fn applied(&mut self) -> Vec<Action> {
        self.in_force = self.applying.take().unwrap_or(self.in_force);
        self.proceed()
    }

    pub(super) fn settled(&mut self) -> Vec<Action> {
        if let Some(settled) = self.settling.take() {
            self.settled = settled;
            self.echo = Some(settled);
        }
        self.proceed()
    }

    pub(super) fn next_echo(&mut self) -> Option<Frame> {
        self.echo.take().map(|sequence| Frame::SignalEcho { sequence })
    }

    pub(super) fn has_echo(&self) -> bool {
        self.echo.is_some()
    }

    fn proceed(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.applying.is_none() && !self.arrived.is_empty() {
            self.applying = Some(self.highest);
            self.arrived_bytes = 0;
            actions.push(Action::ApplySignals { signals: mem::take(&mut self.arrived) });
        }
        if self.applying.is_none() {
            // What was not taken in is nothing to wait for.
            self.in_force = self.highest;
        }
        if self.settling.is_none() && self.in_force > self.settled {
            self.settling = Some(self.in_force);
            actions.push(Action::SettleSignals);
        }
        actions
    }
}
