//! What a side owns and what it copies, in memory, with every past state kept to compare with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::{Origin, Point, Record, Version, World};
use sync::session::Applied;
use sync::{Base, Batch, Digest, Entry, Place};

use super::Bug;
use super::random::Random;

/// Documents in pairs: both halves of a pair are always written together.
const PAIRS: u64 = 12;

type Set = BTreeMap<String, Entry>;

/// The documents of one origin, and all their past.
pub(super) struct Owned {
    origin: Origin,
    now: Point,
    set: Set,
    past: BTreeMap<Point, Set>,
    /// Which keys each revision of this epoch touched.
    log: Vec<BTreeSet<String>>,
    /// Revisions up to here were compacted: no difference can be made from before them.
    floor: u64,
}

impl Owned {
    pub(super) fn new(origin: Origin) -> Self {
        let mut owned = Self {
            origin,
            now: Point { epoch: 1, revision: 0 },
            set: Set::new(),
            past: BTreeMap::new(),
            log: Vec::new(),
            floor: 0,
        };
        owned.remember();
        owned
    }

    pub(super) fn write(&mut self, random: &mut Random) {
        self.now.revision += 1;
        let mut touched = BTreeSet::new();
        for _ in 0..=random.below(4) {
            let pair = random.below(PAIRS);
            let delete = random.one_in(3);
            let length = [20, 20, 300, 300, 2_000, 2_000, 9_000, 30_000, 90_000][random.below(9) as usize];
            for half in ["a", "b"] {
                let key = format!("MeshService/default/{}//pair-{pair}-{half}", self.origin);
                touched.insert(key.clone());
                if delete {
                    self.set.remove(&key);
                } else {
                    self.set.insert(key.clone(), self.document(&key, length));
                }
            }
        }
        self.log.push(touched);
        self.remember();
        if random.one_in(12) {
            self.floor = self.now.revision;
        }
    }

    /// The store is lost, and a new epoch begins with nothing.
    pub(super) fn lose(&mut self) {
        self.now = Point { epoch: self.now.epoch + 1, revision: 0 };
        self.set.clear();
        self.log.clear();
        self.floor = 0;
        self.remember();
    }

    pub(super) fn collect(&self, base: &Base) -> Option<Batch> {
        let world = World::from_iter([(self.origin.clone(), self.now)]);
        let known = base.world().point(&self.origin).filter(|point| {
            point.epoch == self.now.epoch && (self.floor..=self.now.revision).contains(&point.revision)
        });
        let Some(from) = known else {
            let entries = self.set.values().cloned().collect();
            return Some(Batch { whole: true, entries, world, ..Batch::default() });
        };
        if from == self.now {
            return None;
        }
        let touched: BTreeSet<_> = self.log[from.revision as usize..].iter().flatten().collect();
        let entries = touched.iter().filter_map(|key| self.set.get(*key)).cloned().collect();
        let removed = touched.iter().filter(|key| !self.set.contains_key(**key));
        Some(Batch {
            entries,
            removed: removed.map(|key| key.to_string()).collect(),
            world,
            ..Batch::default()
        })
    }

    /// For a proxy, a part is a document without a version, named by its key.
    pub(super) fn parts(&self, wanted: &BTreeSet<String>) -> (BTreeMap<String, Bytes>, World) {
        let parts = self.set.iter().filter(|(key, _)| wanted.contains(*key));
        let parts = parts.map(|(key, entry)| (key.clone(), entry.body.clone())).collect();
        (parts, World::from_iter([(self.origin.clone(), self.now)]))
    }

    pub(super) fn keys() -> impl Iterator<Item = String> {
        (0..PAIRS)
            .flat_map(|pair| ["a", "b"].map(|half| format!("MeshService/default/global//pair-{pair}-{half}")))
    }

    pub(super) fn epoch(&self) -> u64 {
        self.now.epoch
    }

    fn document(&self, key: &str, length: usize) -> Entry {
        let mut body = format!("{}-{}-{}", self.origin, self.now.epoch, self.now.revision).into_bytes();
        body.resize(length, b' ');
        Entry::from(Record {
            key: key.parse().unwrap(),
            version: Version { origin: self.origin.clone(), point: self.now },
            secret: false,
            requires: Vec::new(),
            bundle: None,
            bytes: body.into(),
        })
    }

    fn remember(&mut self) {
        self.past.insert(self.now, self.set.clone());
    }
}

/// A copy of what the other side owns.
#[derive(Default)]
pub(super) struct Copied {
    set: Set,
    world: World,
    /// The epoch that somebody accepted, or that was the first.
    accepted: Option<u64>,
    /// In peace every epoch is accepted at once.
    accepts_all: bool,
    /// A new epoch is waiting to be accepted.
    pub(super) holding: bool,
    /// Holds a whole set, or some subscribed parts of it.
    partial: bool,
}

impl Copied {
    pub(super) fn partial() -> Self {
        Self { partial: true, ..Self::default() }
    }

    pub(super) fn lose(&mut self) {
        let lost = Self { partial: self.partial, accepts_all: self.accepts_all, ..Self::default() };
        *self = lost;
    }

    pub(super) fn place(&self) -> Place {
        let held = self.set.iter().filter(|_| self.partial);
        let held = held.map(|(key, entry)| (key.clone(), Digest::of(&entry.body))).collect();
        Place { have: self.world.clone(), held, ..Place::default() }
    }

    pub(super) fn accept(&mut self, everything: bool) {
        self.accepts_all |= everything;
        self.holding = false;
        self.accepted = None;
    }

    pub(super) fn apply(&mut self, batch: Batch, bug: Bug) -> Applied {
        let epoch = batch.world.iter().map(|(_, point)| point.epoch).next();
        if self.accepts_all || self.accepted.is_none() {
            self.accepted = epoch;
        }
        if self.accepted != epoch && bug != Bug::NeverHolds {
            self.holding = true;
            return Applied::Held { reason: "another epoch".to_owned() };
        }
        self.put(&batch, bug);
        self.world = batch.world;
        Applied::Stored { world: self.world.clone(), refused: Vec::new() }
    }

    pub(super) fn put_half(&mut self, batch: &Batch) {
        // Always between the halves of a pair.
        let half = batch.entries.len().min((batch.entries.len() / 2) | 1);
        for entry in &batch.entries[..half] {
            self.set.insert(entry.key.clone(), entry.clone());
        }
    }

    fn put(&mut self, batch: &Batch, bug: Bug) {
        if bug != Bug::KeepsWhatWasRemoved {
            if batch.whole {
                self.set.clear();
            }
            for key in &batch.removed {
                self.set.remove(key);
            }
        }
        for entry in &batch.entries {
            if !self.partial {
                Record::try_from(entry.clone()).expect("an entry between control planes is a record");
            }
            self.set.insert(entry.key.clone(), entry.clone());
        }
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// The copy is exactly what the owner had at the moment that the copy's world names.
    pub(super) fn check(&self, owner: &Owned) {
        for (key, entry) in &self.set {
            let other = if key.ends_with("-a") { key.replace("-a", "-b") } else { key.replace("-b", "-a") };
            match self.set.get(&other) {
                Some(other) => assert_eq!(other.body, entry.body, "half a batch is visible: {key}"),
                None => assert!(self.partial, "half a batch is visible: {key}"),
            }
        }
        let Some(point) = self.world.point(&owner.origin) else {
            assert!(self.set.is_empty(), "something is visible before the first world");
            return;
        };
        let accepted = self.accepted.is_none_or(|epoch| epoch == point.epoch);
        assert!(accepted, "emptied by an authority that nobody accepted");
        let then = &owner.past[&point];
        for (key, entry) in &self.set {
            let original = then.get(key).unwrap_or_else(|| panic!("resurrected: {key} is not in {point:?}"));
            assert_eq!(original.body, entry.body, "{key} is not what it was in {point:?}");
            assert!(self.partial || original.version == entry.version, "the version of {key} changed");
        }
        assert!(self.partial || self.set.len() == then.len(), "documents are missing in {point:?}");
    }

    pub(super) fn equals(&self, owner: &Owned, wanted: Option<&BTreeSet<String>>) -> bool {
        let wanted = |key: &String| wanted.is_none_or(|wanted| wanted.contains(key));
        let theirs = owner.set.iter().filter(|(key, _)| wanted(key));
        self.world.point(&owner.origin) == Some(owner.now)
            && theirs
                .map(|(key, entry)| (key, &entry.body))
                .eq(self.set.iter().map(|(key, entry)| (key, &entry.body)))
    }
}
