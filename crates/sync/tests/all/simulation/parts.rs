//! What a zone and one of its proxies have at rest: the zone a line of documents, of which the proxy copies those parts
//! that it subscribed to; the proxy its own document. Parts are known by name and digest, and a proxy takes what its
//! zone says.

mod line;

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;

use model::{Origin, Record, World};
use store::Fence;
use sync::session::Applied;
use sync::{Base, Batch, Digest, Place, Refused, Topic};

use super::bug::Bug;
use super::end::End;
use super::fault::Fault;
use super::link::LOWER;
use super::random::Random;
use super::site::{Party, Shown, Site};
use crate::host::wanted;
use line::{Line, Past, Set};

pub(super) use line::keys;

/// What each side ever had, by its place.
pub(super) type Pasts = Rc<RefCell<[Past; 2]>>;

pub(super) struct Parts {
    party: Party,
    bug: Bug,
    pasts: Pasts,
    written: State,
    durable: State,
    backups: Vec<State>,
    /// Readers may see something else than at the last check.
    has_news: bool,
}

#[derive(Clone)]
struct State {
    line: Line,
    copied: Copied,
    /// The session that may store batches.
    generation: u64,
}

/// A copy of what the other side owns.
#[derive(Clone, Default)]
struct Copied {
    set: Set,
    world: World,
    /// Some subscribed parts, or a whole set.
    partial: bool,
}

impl Parts {
    pub(super) fn new(party: Party, pasts: Pasts, bug: Bug) -> Self {
        let origin = if party == LOWER { Origin::Zone("east".parse().unwrap()) } else { Origin::Global };
        let line = Line::new(origin, &mut pasts.borrow_mut()[party]);
        let copied = if party == LOWER { Copied::partial() } else { Copied::default() };
        let state = State { line, copied, generation: 0 };
        let (durable, backups) = (state.clone(), vec![state.clone()]);
        Self { party, bug, pasts, written: state, durable, backups, has_news: false }
    }

    /// Puts another state in place of what is there. A fence is a number that was never used: a store draws them. A
    /// proxy's own document comes from its command line, never from its state folder.
    fn replace(&mut self, state: State) {
        let (generation, line) = (self.written.generation, self.written.line.clone());
        self.written = State { generation, ..state };
        if self.party == LOWER {
            self.written.line = line;
        }
        self.sync();
    }
}

impl Site for Parts {
    fn write(&mut self, random: &mut Random) {
        self.written.line.write(&mut self.pasts.borrow_mut()[self.party], random);
    }

    fn forget_a_part(&mut self, random: &mut Random) -> bool {
        let forgets = self.written.copied.forget_a_part(random);
        if forgets {
            random.count(Fault::UnreadablePart);
            self.sync();
        }
        forgets
    }

    fn sync(&mut self) {
        self.durable = self.written.clone();
        self.has_news = true;
    }

    fn back_up(&mut self) {
        self.backups.push(self.durable.clone());
    }

    fn lose_power(&mut self) {
        self.written = self.durable.clone();
    }

    fn put_back(&mut self, random: &mut Random) {
        self.replace(self.backups[random.below(self.backups.len() as u64) as usize].clone());
    }

    fn lose(&mut self) {
        let mut pasts = self.pasts.borrow_mut();
        let line = Line::new(self.written.line.origin().clone(), &mut pasts[self.party]);
        drop(pasts);
        let copied = Copied { partial: self.written.copied.partial, ..Copied::default() };
        self.replace(State { line, copied, generation: 0 });
    }

    fn collect(
        &mut self,
        _: Party,
        topic: &Topic,
        base: Base,
        end: &mut End,
        _: &mut Random,
    ) -> Option<Batch> {
        let line = &self.durable.line;
        if *topic == Topic::PARTS {
            let (parts, world) = line.parts(&end.subscribed);
            return end.holdings.collect(&base, &wanted(&parts), world);
        }
        line.collect(&base)
    }

    fn locate(&mut self, _: Party) -> (Fence, Place) {
        self.written.generation += 1;
        self.sync();
        let fence = Fence { lane: String::new(), generation: self.written.generation };
        (fence, self.durable.copied.place())
    }

    fn apply(
        &mut self,
        _: Party,
        batch: Batch,
        fence: Option<Fence>,
        random: &mut Random,
    ) -> Option<Applied> {
        if fence.map(|fence| fence.generation) != Some(self.written.generation) {
            random.count(Fault::Fenced);
            if self.bug != Bug::ChecksNoGeneration {
                return None;
            }
        }
        let world = batch.world.clone();
        self.written.copied.put(batch);
        Some(Applied::Stored { world, refused: Vec::new() })
    }

    fn leak_half(&mut self, _: Party, batch: &Batch) {
        self.has_news = true;
        self.durable.copied.put_half(batch);
    }

    /// Nothing can be acknowledged that was never written.
    fn acknowledged(&mut self, _: Party, world: &World, _: Vec<Refused>) {
        let now = self.written.line.world();
        assert!(now.covers_all(world), "acknowledged ahead of the owner: {world:?}");
    }

    fn has_stored(&self, world: &World) -> bool {
        self.durable.copied.world.covers_all(world)
    }

    fn check(&mut self, _: &mut Random) {
        if mem::take(&mut self.has_news) {
            self.durable.copied.check(&self.pasts.borrow()[1 - self.party]);
        }
    }

    fn shows(&self, _: Party) -> Shown {
        Shown::of(self.durable.line.world(), self.durable.line.shared())
    }

    fn has_of(&self, _: Party) -> Shown {
        Shown::of(self.durable.copied.world.clone(), self.durable.copied.set.clone())
    }

    fn state(&self) -> String {
        format!("{:?} of {:?}", self.durable.copied.world, self.durable.line.world())
    }
}

impl Shown {
    fn of(world: World, set: Set) -> Self {
        let bodies = set.into_iter().map(|(key, entry)| (key, entry.body)).collect();
        Self { world, bodies, refused: Vec::new() }
    }
}

impl Copied {
    fn partial() -> Self {
        Self { partial: true, ..Self::default() }
    }

    fn place(&self) -> Place {
        let held = self.set.iter().filter(|_| self.partial);
        let held = held.map(|(key, entry)| (key.clone(), Digest::of(&entry.body))).collect();
        Place { have: self.world.clone(), held, ..Place::default() }
    }

    fn put(&mut self, batch: Batch) {
        if batch.whole {
            self.set.clear();
        }
        for key in &batch.removed {
            self.set.remove(key);
        }
        self.world = batch.world;
        for entry in batch.entries {
            if !self.partial {
                Record::try_from(entry.clone()).expect("an entry between control planes is a record");
            }
            self.set.insert(entry.key.clone(), entry);
        }
    }

    fn put_half(&mut self, batch: &Batch) {
        // Always between the halves of a pair.
        let half = batch.entries.len().min((batch.entries.len() / 2) | 1);
        for entry in &batch.entries[..half] {
            self.set.insert(entry.key.clone(), entry.clone());
        }
    }

    /// Drops a part; false where there is none.
    fn forget_a_part(&mut self, random: &mut Random) -> bool {
        let among = self.set.len().max(1) as u64;
        let key = self.set.keys().nth(random.below(among) as usize).filter(|_| self.partial).cloned();
        key.is_some_and(|key| self.set.remove(&key).is_some())
    }

    /// The copy is exactly what the owner had at the moment that the copy's world names.
    fn check(&self, past: &Past) {
        for (key, entry) in &self.set {
            let other = if key.ends_with("-a") { key.replace("-a", "-b") } else { key.replace("-b", "-a") };
            match self.set.get(&other) {
                Some(other) => assert_eq!(other.body, entry.body, "half a batch is visible: {key}"),
                None => assert!(self.partial, "half a batch is visible: {key}"),
            }
        }
        let Some(point) = self.world.iter().map(|(_, point)| point).next() else {
            assert!(self.set.is_empty(), "something is visible before the first world");
            return;
        };
        let differences: Vec<_> = past.at(point).map(|then| self.differs(then)).collect();
        assert!(!differences.is_empty(), "a world that never was: {point:?}");
        assert!(differences.contains(&None), "not what was at {point:?}: {differences:?}");
    }

    fn differs(&self, then: &Set) -> Option<String> {
        for (key, entry) in &self.set {
            match then.get(key) {
                None => return Some(format!("{key} is resurrected")),
                Some(original) if original.body != entry.body => return Some(format!("{key} is another")),
                Some(original) if !self.partial && original.version != entry.version => {
                    return Some(format!("{key} has another version"));
                }
                Some(_) => {}
            }
        }
        (!self.partial && self.set.len() < then.len()).then(|| "documents are lost".to_owned())
    }
}
