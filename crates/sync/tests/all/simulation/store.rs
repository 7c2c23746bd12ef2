//! The store of one side: what it owns and what it copies, in one place, written in two steps. What is only written
//! is seen by nobody, and lost in a power cut; what is durable stays until the store is lost or put back.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use model::{Origin, Point, Record, World};
use sync::line::{self, Judged};
use sync::{Batch, Digest, Place};

use super::bug::Bug;
use super::line::{Hash, Line, Past, Set, hash_bytes};
use super::random::Random;

pub(super) struct Store {
    written: State,
    durable: State,
    backups: Vec<State>,
    /// Readers may see something else than at the last [`Self::take_news`].
    has_news: bool,
}

#[derive(Clone)]
pub(super) struct State {
    pub(super) line: Line,
    pub(super) copied: Copied,
    /// The session that may store batches.
    pub(super) generation: u64,
}

/// A copy of what the other side owns.
#[derive(Clone, Default)]
pub(super) struct Copied {
    set: Set,
    world: World,
    hash: Hash,
    /// What left, and when: the mistake of taking that for a deletion.
    buried: BTreeMap<String, Point>,
    /// Some subscribed parts, or a whole set.
    partial: bool,
}

/// What to make of a batch.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Follows,
    Accepted,
    Held(String),
}

impl Store {
    pub(super) fn new(line: Line, copied: Copied) -> Self {
        let state = State { line, copied, generation: 0 };
        Self { written: state.clone(), durable: state.clone(), backups: vec![state], has_news: false }
    }

    /// What readers see.
    pub(super) fn read(&self) -> &State {
        &self.durable
    }

    pub(super) fn written(&self) -> &State {
        &self.written
    }

    /// Changes what will be durable with the next [`Self::sync`].
    pub(super) fn write(&mut self) -> &mut State {
        &mut self.written
    }

    pub(super) fn sync(&mut self) {
        self.durable = self.written.clone();
        self.has_news = true;
    }

    pub(super) fn take_news(&mut self) -> bool {
        mem::take(&mut self.has_news)
    }

    /// The mistake of letting readers see half of what is being written.
    pub(super) fn leak(&mut self) -> &mut State {
        self.has_news = true;
        &mut self.durable
    }

    pub(super) fn lose_power(&mut self) {
        self.written = self.durable.clone();
    }

    pub(super) fn back_up(&mut self) {
        self.backups.push(self.durable.clone());
    }

    pub(super) fn put_back(&mut self, random: &mut Random) {
        // A number that was never used: a store draws them.
        let generation = self.written.generation;
        let backup = &self.backups[random.below(self.backups.len() as u64) as usize];
        self.written = State { generation, ..backup.clone() };
        self.sync();
    }

    pub(super) fn lose(&mut self, empty: Line) {
        let copied = Copied { partial: self.written.copied.partial, ..Copied::default() };
        let generation = self.written.generation;
        self.written = State { line: empty, copied, generation };
        self.sync();
    }
}

impl Copied {
    pub(super) fn partial() -> Self {
        Self { partial: true, ..Self::default() }
    }

    pub(super) fn place(&self) -> Place {
        let held = self.set.iter().filter(|_| self.partial);
        let held = held.map(|(key, entry)| (key.clone(), Digest::of(&entry.body))).collect();
        Place { have: self.world.clone(), hash: hash_bytes(self.hash), held, ..Place::default() }
    }

    /// As the control planes judge; `accepted` is the epoch that somebody accepted.
    pub(super) fn judge(&self, origin: &Origin, batch: &Batch, accepted: Option<u64>, bug: Bug) -> Verdict {
        let offered = batch.world.point(origin).unwrap_or_default();
        let held = self.world.point(origin);
        let hash = hash_bytes(self.hash);
        match line::judge(held.map(|held| (held, &hash[..])), offered, &batch.continues) {
            Judged::Follows => Verdict::Follows,
            Judged::Unproven => panic!("a hash is missing"),
            Judged::Absurd(reason) => panic!("{reason}"),
            Judged::Diverges(_) if accepted == Some(offered.epoch) => Verdict::Accepted,
            Judged::Diverges(_) if bug == Bug::AcceptsEveryEpoch => Verdict::Follows,
            Judged::Diverges(_)
                if bug == Bug::AcceptsLaterEpochs && held.is_some_and(|held| held.epoch < offered.epoch) =>
            {
                Verdict::Follows
            }
            Judged::Diverges(reason) => Verdict::Held(reason),
        }
    }

    pub(super) fn put(&mut self, batch: Batch, bug: Bug) {
        let forgets = bug == Bug::ForgetsTombstones;
        let upto = batch.world.iter().map(|(_, point)| point).max().unwrap_or_default();
        for key in batch.removed.iter().filter(|_| bug == Bug::TakesLeavingForDeletion) {
            self.buried.insert(key.clone(), upto);
        }
        if batch.whole && bug != Bug::KeepsWhatAWholeSetLacks {
            self.set.clear();
        }
        for key in batch.removed.iter().filter(|_| !forgets) {
            self.set.remove(key);
        }
        self.hash = hash_of(&batch);
        self.world = batch.world;
        for entry in batch.entries {
            if !self.partial {
                Record::try_from(entry.clone()).expect("an entry between control planes is a record");
            }
            let version = entry.version.as_ref().map(|version| version.point);
            if self.buried.get(&entry.key).is_some_and(|buried| version <= Some(*buried)) {
                continue;
            }
            self.set.insert(entry.key.clone(), entry);
        }
    }

    pub(super) fn put_half(&mut self, batch: &Batch) {
        // Always between the halves of a pair.
        let half = batch.entries.len().min((batch.entries.len() / 2) | 1);
        for entry in &batch.entries[..half] {
            self.set.insert(entry.key.clone(), entry.clone());
        }
    }

    /// Drops a part; false where there is none.
    pub(super) fn forget_a_part(&mut self, random: &mut Random) -> bool {
        let among = self.set.len().max(1) as u64;
        let key = self.set.keys().nth(random.below(among) as usize).filter(|_| self.partial).cloned();
        key.is_some_and(|key| self.set.remove(&key).is_some())
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    pub(super) fn hash(&self) -> Hash {
        self.hash
    }

    pub(super) fn point(&self, origin: &Origin) -> Option<Point> {
        self.world.point(origin)
    }

    /// The copy is exactly what the owner had at the moment that the copy's world names.
    pub(super) fn check(&self, origin: &Origin, past: &Past) {
        for (key, entry) in &self.set {
            let other = if key.ends_with("-a") { key.replace("-a", "-b") } else { key.replace("-b", "-a") };
            match self.set.get(&other) {
                Some(other) => assert_eq!(other.body, entry.body, "half a batch is visible: {key}"),
                None => assert!(self.partial, "half a batch is visible: {key}"),
            }
        }
        let Some(point) = self.world.point(origin) else {
            assert!(self.set.is_empty(), "something is visible before the first world");
            return;
        };
        let hash = (!self.partial).then_some(self.hash);
        let differences: Vec<_> = past.at(point, hash).map(|then| self.differs(then)).collect();
        assert!(!differences.is_empty(), "a world that never was: {point:?}");
        assert!(differences.contains(&None), "not what was at {point:?}: {differences:?}");
    }

    pub(super) fn equals(&self, line: &Line, wanted: Option<&BTreeSet<String>>) -> bool {
        let wanted = |key: &String| wanted.is_none_or(|wanted| wanted.contains(key));
        let theirs: BTreeMap<_, _> = line.shared().into_iter().filter(|(key, _)| wanted(key)).collect();
        self.world.point(line.origin()) == Some(line.point())
            && theirs
                .iter()
                .map(|(key, entry)| (key, &entry.body))
                .eq(self.set.iter().map(|(key, entry)| (key, &entry.body)))
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

/// None for parts, which have no line.
pub(super) fn hash_of(batch: &Batch) -> Hash {
    batch.hash.as_ref().try_into().map(Hash::from_be_bytes).unwrap_or_default()
}
