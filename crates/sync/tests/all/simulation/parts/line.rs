//! What a side owns: documents as its store has them, and beside that everything they ever were, which nobody in the
//! simulation sees but its checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use model::{Origin, Point, Record, Version, World};
use sync::{Base, Batch, Entry};

use super::super::fault::Fault;
use super::super::random::Random;

/// Documents in pairs: both halves of a pair are always written together.
const PAIRS: u64 = 12;

pub(super) type Set = BTreeMap<String, Entry>;

/// The documents of one origin, as one state of its store has them.
#[derive(Clone)]
pub(super) struct Line {
    origin: Origin,
    now: Point,
    /// Everything that is written.
    set: Set,
    /// Pairs that do not concern the other side. Whether they do changes without any of them being written.
    hidden: BTreeSet<u64>,
    /// Where the line passed, and which keys each step touched.
    log: Vec<(Point, Arc<BTreeSet<String>>)>,
    /// Points before this one were compacted: no difference can be made from them.
    floor: Point,
}

/// All states that a side's documents ever had.
#[derive(Default)]
pub(in super::super) struct Past {
    moments: usize,
    by_point: BTreeMap<Point, Vec<Set>>,
}

impl Line {
    pub(super) fn new(origin: Origin, past: &mut Past) -> Self {
        let mut line = Self {
            origin,
            now: Point { epoch: 1, revision: 0 },
            set: Set::new(),
            hidden: BTreeSet::new(),
            log: Vec::new(),
            floor: Point::default(),
        };
        line.step(BTreeSet::new(), past);
        line
    }

    pub(super) fn write(&mut self, past: &mut Past, random: &mut Random) {
        self.now.revision += 1;
        let mut touched = BTreeSet::new();
        for _ in 0..=random.below(4) {
            let pair = random.below(PAIRS);
            let delete = random.one_in(3);
            let length = [20, 20, 300, 300, 2_000, 2_000, 9_000, 30_000, 90_000][random.below(9) as usize];
            for half in ["a", "b"] {
                let key = self.key(pair, half);
                touched.insert(key.clone());
                if delete {
                    self.set.remove(&key);
                } else {
                    let document = self.document(&key, length, past);
                    self.set.insert(key, document);
                }
            }
        }
        if random.one_in(3) {
            touched.extend(self.change_membership(random));
        }
        self.step(touched, past);
        if random.one_in(12) {
            self.floor = self.now;
        }
    }

    /// A pair begins to concern the other side, or no longer does; these are its documents.
    fn change_membership(&mut self, random: &mut Random) -> Vec<String> {
        let pair = random.below(PAIRS);
        let keys = ["a", "b"].map(|half| self.key(pair, half));
        let enters = self.hidden.remove(&pair);
        if !enters {
            self.hidden.insert(pair);
        }
        if self.set.contains_key(&keys[0]) {
            random.count(if enters { Fault::EnteredLate } else { Fault::LeftTheView });
        }
        keys.into()
    }

    /// What the peer at `base` lacks, none where it lacks nothing.
    pub(super) fn collect(&self, base: &Base) -> Option<Batch> {
        self.since(base.world().point(&self.origin).unwrap_or_default())
    }

    /// For a proxy, a part is a document without a version, named by its key.
    pub(super) fn parts(&self, wanted: &BTreeSet<String>) -> (BTreeMap<String, Bytes>, World) {
        let shared = self.shared();
        let parts = shared.iter().filter(|(key, _)| wanted.contains(*key));
        (parts.map(|(key, entry)| (key.clone(), entry.body.clone())).collect(), self.world())
    }

    pub(super) fn world(&self) -> World {
        World::from_iter([(self.origin.clone(), self.now)])
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What concerns the other side.
    pub(super) fn shared(&self) -> Set {
        let hidden: BTreeSet<String> =
            self.hidden.iter().flat_map(|pair| ["a", "b"].map(|half| self.key(*pair, half))).collect();
        let shared = self.set.iter().filter(|(key, _)| !hidden.contains(*key));
        shared.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }

    fn key(&self, pair: u64, half: &str) -> String {
        format!("MeshService/default/{}//pair-{pair}-{half}", self.origin)
    }

    fn since(&self, theirs: Point) -> Option<Batch> {
        let (world, shared) = (self.world(), self.shared());
        if theirs.epoch < self.now.epoch || theirs < self.floor {
            let entries = shared.into_values().collect();
            return Some(Batch { whole: true, entries, world, ..Batch::default() });
        }
        if theirs == self.now {
            return None;
        }
        let steps = self.log.iter().filter(|(point, _)| *point > theirs);
        let touched: BTreeSet<_> = steps.flat_map(|(_, touched)| touched.iter()).collect();
        let entries = touched.iter().filter_map(|key| shared.get(*key)).cloned().collect();
        let removed = touched.iter().filter(|key| !shared.contains_key(**key));
        let removed = removed.map(|key| key.to_string()).collect();
        Some(Batch { entries, removed, world, ..Batch::default() })
    }

    fn step(&mut self, touched: BTreeSet<String>, past: &mut Past) {
        past.remember(self.now, self.shared());
        self.log.push((self.now, Arc::new(touched)));
    }

    fn document(&self, key: &str, length: usize, past: &Past) -> Entry {
        // The same numbers may be written twice, when a store was put back: what is written differs.
        let nonce = past.moments;
        let mut body =
            format!("{}-{}-{}-{nonce}", self.origin, self.now.epoch, self.now.revision).into_bytes();
        body.resize(length.max(body.len()), b' ');
        Entry::from(Record {
            key: key.parse().unwrap(),
            version: Version { origin: self.origin.clone(), point: self.now },
            secret: false,
            requires: Vec::new(),
            bundle: None,
            bytes: body.into(),
        })
    }
}

impl Past {
    /// The sets that there were at a point.
    pub(super) fn at(&self, point: Point) -> impl Iterator<Item = &Set> {
        self.by_point.get(&point).into_iter().flatten()
    }

    fn remember(&mut self, point: Point, set: Set) {
        self.moments += 1;
        self.by_point.entry(point).or_default().push(set);
    }
}

pub(in super::super) fn keys() -> impl Iterator<Item = String> {
    (0..PAIRS)
        .flat_map(|pair| ["a", "b"].map(|half| format!("MeshService/default/global//pair-{pair}-{half}")))
}
