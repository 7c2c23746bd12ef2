//! The owner's side of one topic: asks the host for a batch, cuts it into chunks, waits for the word that
//! it is applied, then asks for the next. One batch at a time, and of that no more than the peer gave credit for,
//! so nothing piles up behind a slow peer.

use std::collections::VecDeque;
use std::mem;

use model::World;

use super::{Action, MAX_OPENINGS, Violation};
use crate::batch::{Base, Batch, Entry, Place, Refused};
use crate::frame::{Chunk, ITEM, Last, MAX_BODY, MAX_KEY};
use crate::topic::Topic;

#[derive(Debug)]
pub(super) struct Outgoing {
    topic: Topic,
    /// The most of one chunk, in bytes.
    chunk: usize,
    /// Which of the peer's openings we serve; 0 before the first.
    opening: u64,
    /// The credit that a batch of this opening begins with, in bytes.
    window: u64,
    /// Openings in a row of which no batch was acknowledged.
    fruitless: u32,
    base: Base,
    /// The last batch of this opening; 0 before the first.
    batch: u64,
    /// There may be more than what was collected last.
    changed: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not opened, or nothing to send.
    Idle,
    /// The host is making a batch; `void` if the peer opened the topic anew in the meantime.
    Collecting {
        void: bool,
    },
    Sending(Sending),
    Waiting {
        unsendable: Vec<Refused>,
    },
    /// The peer takes nothing more until it opens the topic anew.
    Held,
}

/// A batch on its way, cut as the writer asks for it.
#[derive(Debug)]
struct Sending {
    entries: VecDeque<Entry>,
    removed: VecDeque<String>,
    last: Last,
    index: u32,
    /// In bytes, as [`Chunk::cost`] counts them.
    sent: u64,
    /// A chunk may begin while less was sent.
    credit: u64,
    chunk: usize,
    unsendable: Vec<Refused>,
}

impl Outgoing {
    pub(super) fn new(topic: Topic, chunk: usize) -> Self {
        Self {
            topic,
            chunk,
            opening: 0,
            window: 0,
            fruitless: 0,
            base: Base::Opened(Place::default()),
            batch: 0,
            changed: false,
            state: State::Idle,
        }
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.topic
    }

    pub(super) fn opened(
        &mut self,
        opening: u64,
        place: Place,
        window: u64,
    ) -> Result<Option<Action>, Violation> {
        if opening <= self.opening {
            return Ok(None);
        }
        self.fruitless += 1;
        if self.fruitless > MAX_OPENINGS {
            return Err(Violation::Openings(self.topic.clone()));
        }
        self.opening = opening;
        self.window = window;
        self.base = Base::Opened(place);
        self.batch = 0;
        self.changed = true;
        if let State::Collecting { void } = &mut self.state {
            *void = true;
            return Ok(None);
        }
        self.state = State::Idle;
        Ok(self.collect())
    }

    pub(super) fn changed(&mut self) -> Option<Action> {
        self.changed = true;
        self.collect()
    }

    pub(super) fn collected(&mut self, batch: Option<Batch>) -> Option<Action> {
        let State::Collecting { void } = mem::replace(&mut self.state, State::Idle) else {
            debug_assert!(false, "{} was not being collected", self.topic);
            return None;
        };
        if void {
            return self.collect();
        }
        let first = self.batch == 0;
        let batch = match batch {
            Some(batch) if first || !batch.is_empty() || batch.world != *self.base.world() => batch,
            // The copy must learn that it is complete, also when there is nothing to add.
            None if first => self.nothing_new(),
            _ => return self.collect(),
        };
        self.batch += 1;
        self.state = State::Sending(Sending::new(batch, self.window, self.chunk));
        None
    }

    /// The peer takes more of a batch.
    pub(super) fn credited(&mut self, opening: u64, batch: u64, bytes: u64) {
        if let State::Sending(sending) = &mut self.state
            && (opening, batch) == (self.opening, self.batch)
        {
            sending.credit = sending.credit.max(bytes);
        }
    }

    pub(super) fn next_chunk(&mut self) -> Option<Chunk> {
        let State::Sending(sending) = &mut self.state else { return None };
        if !sending.has_credit() {
            return None;
        }
        let (index, entries, removed, last) = sending.cut();
        let chunk = Chunk {
            topic: self.topic.clone(),
            opening: self.opening,
            batch: self.batch,
            index,
            entries,
            removed,
            last,
        };
        if chunk.last.is_some() {
            let unsendable = mem::take(&mut sending.unsendable);
            self.state = State::Waiting { unsendable };
        }
        Some(chunk)
    }

    pub(super) fn has_chunk(&self) -> bool {
        matches!(&self.state, State::Sending(sending) if sending.has_credit())
    }

    pub(super) fn acknowledged(
        &mut self,
        opening: u64,
        batch: u64,
        world: World,
        mut refused: Vec<Refused>,
    ) -> Vec<Action> {
        let State::Waiting { unsendable } = &mut self.state else { return Vec::new() };
        if (opening, batch) != (self.opening, self.batch) {
            return Vec::new();
        }
        refused.append(unsendable);
        self.fruitless = 0;
        self.base = Base::Acknowledged(world.clone());
        self.state = State::Idle;
        let told = Action::Acknowledged { topic: self.topic.clone(), world, refused };
        [Some(told), self.collect()].into_iter().flatten().collect()
    }

    pub(super) fn held(&mut self, opening: u64, reason: String) -> Option<Action> {
        if opening != self.opening || !matches!(self.state, State::Waiting { .. }) {
            return None;
        }
        self.state = State::Held;
        Some(Action::HeldByPeer { topic: self.topic.clone(), reason })
    }

    /// What the peer is complete up to, once it has said so.
    pub(super) fn complete(&self) -> Option<(Topic, World)> {
        match &self.base {
            Base::Acknowledged(world) => Some((self.topic.clone(), world.clone())),
            Base::Opened(_) => None,
        }
    }

    fn collect(&mut self) -> Option<Action> {
        if !self.changed || self.opening == 0 || !matches!(self.state, State::Idle) {
            return None;
        }
        self.changed = false;
        self.state = State::Collecting { void: false };
        Some(Action::Collect { topic: self.topic.clone(), base: self.base.clone() })
    }

    fn nothing_new(&self) -> Batch {
        let hash = match &self.base {
            Base::Opened(place) => place.hash.clone(),
            Base::Acknowledged(_) => Default::default(),
        };
        Batch { world: self.base.world().clone(), continues: hash.clone(), hash, ..Batch::default() }
    }
}

impl Sending {
    fn new(batch: Batch, credit: u64, chunk: usize) -> Self {
        let (entries, oversize): (Vec<_>, Vec<_>) = batch
            .entries
            .into_iter()
            .partition(|entry| entry.key.len() <= MAX_KEY && entry.body.len() <= MAX_BODY);
        Self {
            entries: entries.into(),
            removed: batch.removed.into_iter().filter(|key| key.len() <= MAX_KEY).collect(),
            last: Last {
                whole: batch.whole,
                world: batch.world,
                hash: batch.hash,
                continues: batch.continues,
            },
            index: 0,
            sent: 0,
            credit,
            chunk,
            unsendable: oversize.iter().map(|entry| entry.refused("it is too large to be sent")).collect(),
        }
    }

    fn has_credit(&self) -> bool {
        self.sent < self.credit
    }

    fn cut(&mut self) -> (u32, Vec<Entry>, Vec<String>, Option<Last>) {
        let mut room = Room { used: 0, most: self.chunk };
        let entries = take_while(&mut self.entries, |entry| room.takes(entry.key.len() + entry.body.len()));
        let removed = take_while(&mut self.removed, |key| self.entries.is_empty() && room.takes(key.len()));
        let index = self.index;
        self.index += 1;
        self.sent += room.used as u64;
        let done = self.entries.is_empty() && self.removed.is_empty();
        (index, entries, removed, done.then(|| mem::take(&mut self.last)))
    }
}

/// How full a chunk is. The first item always finds room.
struct Room {
    used: usize,
    most: usize,
}

impl Room {
    fn takes(&mut self, bytes: usize) -> bool {
        let cost = bytes + ITEM;
        let fits = self.used == 0 || self.used + cost <= self.most;
        if fits {
            self.used += cost;
        }
        fits
    }
}

fn take_while<T>(queue: &mut VecDeque<T>, mut fits: impl FnMut(&T) -> bool) -> Vec<T> {
    let mut taken = Vec::new();
    while let Some(item) = queue.pop_front_if(|item| fits(item)) {
        taken.push(item);
    }
    taken
}
