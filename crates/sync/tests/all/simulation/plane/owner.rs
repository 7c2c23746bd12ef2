//! What a control plane writes, and what it tells whom: as `global-cp/policy` and `zone-cp/replica` do, and beside that
//! documents that concern others only for a while.

use std::collections::BTreeSet;

use bytes::Bytes;
use model::{DocumentKey, Origin, Point, Record, World};
use store::{Changes, CopyableStore, Draft, Expect, Filter, Listing, Write};
use sync::line::{self, Found};
use sync::{Base, Batch, Entry};

use super::super::bug::Bug;
use super::super::fault::Fault;
use super::super::random::Random;
use super::super::site::{Party, Site};
use super::{Plane, hash_bytes, now, private, refusals, set_of, without};

/// Documents in pairs: both halves of a pair are always written together.
const PAIRS: u64 = 6;

/// Where it is kept which pairs began or ceased to concern others, and when.
const VIEWS: &str = "views";

impl Plane {
    pub(super) fn write_documents(&mut self, random: &mut Random) {
        let before = now(self.written.head());
        let own = Filter::all().written_by(self.origin.clone());
        let mut there: BTreeSet<DocumentKey> =
            now(self.written.list(own)).records.into_iter().map(|record| record.key).collect();
        let mut writes = Vec::new();
        for _ in 0..=random.below(3) {
            let pair = random.below(PAIRS);
            let length = [20, 20, 300, 300, 2_000, 2_000, 9_000, 30_000, 90_000][random.below(9) as usize];
            let (delete, says) = (random.one_in(3), refusals::say(random));
            let number = self.chronicle.borrow_mut().next_number();
            for key in halves(&self.origin, pair) {
                if !delete {
                    there.insert(key.clone());
                    let mut body = format!("{says} {number} ").into_bytes();
                    body.resize(length.max(body.len()), b' ');
                    writes.push(Write::Put { draft: Draft::new(key, body), expect: Expect::Any });
                } else if there.remove(&key) {
                    writes.push(Write::Delete { key, expect: Expect::Any });
                }
            }
        }
        if writes.is_empty() {
            return;
        }
        // What a zone shares of its own never changes but with a word of it: the programs refuse what comes late.
        // And what the rolling hash says nothing of goes with something new, which no other history has.
        let is_new = writes.iter().any(|write| matches!(write, Write::Put { .. }));
        if is_new && self.is_relay() && random.one_in(3) {
            let point = Point { revision: before.point.revision + writes.len() as u64, ..before.point };
            writes.push(self.change_view(point, &there, random));
        }
        now(self.written.transact(writes));
        self.note_line(Some(hash_bytes(before.hash)));
    }

    /// A pair begins to concern others, or no longer does, whether it is written or not.
    fn change_view(&self, point: Point, there: &BTreeSet<DocumentKey>, random: &mut Random) -> Write {
        let pair = random.below(PAIRS);
        let mut views = views(&self.written);
        let hides = !is_hidden(&views, pair);
        views.push((point, pair));
        if there.contains(&halves(&self.origin, pair)[0]) {
            random.count(if hides { Fault::LeftTheView } else { Fault::EnteredLate });
        }
        let lines = views.iter().map(|(at, pair)| format!("{} {} {pair}\n", at.epoch, at.revision));
        Write::Private { name: VIEWS.to_owned(), value: lines.collect::<String>().into_bytes().into() }
    }

    /// The chronicle hears what is written here by now.
    pub(super) fn note_line(&mut self, before: Option<Bytes>) {
        let head = now(self.written.head());
        let own = now(self.written.list(Filter::all().written_by(self.origin.clone()))).records;
        let mut chronicle = self.chronicle.borrow_mut();
        own.iter().for_each(|record| chronicle.wrote(record));
        let shared = set_of(&self.shared(&self.written, own));
        chronicle.passes(&self.origin, head.point, hash_bytes(head.hash), before, shared);
    }

    /// What concerns a party of all that is in a store.
    pub(super) fn shared_with(&self, store: &CopyableStore, to: Party) -> Vec<Record> {
        self.shared(store, now(store.list(self.filter(to))).records)
    }

    /// What a party lacks, as the programs find it.
    pub(super) fn batch_for(&mut self, to: Party, base: &Base, random: &mut Random) -> Option<Batch> {
        let own = self.origin.clone();
        let theirs = base.world().point(&own).unwrap_or_default();
        if self.find(base) == Found::PutBack && self.begun.insert(to) {
            assert!(self.forgot.remove(&to), "this side forgot what it told: it is not at {base:?}");
            random.count(Fault::NewEpoch);
            now(self.written.begin_epoch(theirs, None));
            let head = now(self.written.head());
            self.note_line(Some(hash_bytes(head.hash)));
            self.sync();
        }
        let is_on_line = self.find(base) == Found::OnLine;
        assert!(is_on_line || base.is_opened(), "it acknowledged what it was never sent");
        let store = self.told();
        let changes = match base.is_anew() {
            true => {
                let Listing { records, world, .. } = now(store.list(self.filter(to)));
                Changes { whole: true, records, tombstones: Vec::new(), world }
            }
            false => now(store.since(base.world().clone(), self.filter(to))),
        };
        let (mut records, mut removed) = (changes.records, changes.tombstones);
        let mut removed: Vec<String> = removed.drain(..).map(|(key, _)| key.to_string()).collect();
        if !changes.whole {
            for pair in views(store).into_iter().filter(|(at, _)| *at > theirs).map(|(_, pair)| pair) {
                let is_hidden = is_hidden(&views(store), pair);
                for key in halves(&own, pair) {
                    if is_hidden && self.bug != Bug::TellsOnlyOfDeletions {
                        removed.push(key.to_string());
                    } else if !records.iter().any(|record| record.key == key)
                        && self.bug != Bug::TellsOnlyWhatWasWritten
                    {
                        records.extend(now(store.get(&key)));
                    }
                }
            }
        }
        let records = self.shared(store, records);
        let mut entries: Vec<Entry> = records.into_iter().map(Entry::from).collect();
        let world = match own {
            Origin::Global => without(&changes.world, &self.origins[to]),
            _ => [(own.clone(), changes.world.point(&own)?)].into_iter().collect(),
        };
        let have = self.world_for(to, base.world());
        if self.is_relay() && !world.covers_all(&have) {
            random.count(Fault::AheadOfTheRelay);
            self.chronicle.borrow_mut().is_ahead(&self.origins[to], &have, &world);
        }
        if self.bug == Bug::RelaysHalf && self.is_relay() {
            let is_relayed = |entry: &Entry| entry.version.as_ref().is_some_and(|at| at.origin != own);
            let mut relayed = 0..;
            // Whole pairs, so that no batch looks cut.
            entries.retain(|entry| !is_relayed(entry) || relayed.next().is_none_or(|at| at % 4 < 2));
        }
        let is_nothing = !changes.whole && entries.is_empty() && removed.is_empty() && have == world;
        let batch = if !is_nothing {
            Batch { whole: changes.whole, entries, removed, world, ..Batch::default() }
        } else if base.is_opened() {
            Batch { world: base.world().clone(), ..Batch::default() }
        } else {
            return None;
        };
        let reached = changes.world.point(&own).unwrap_or_default();
        let hash = now(store.hash_at(reached)).map(hash_bytes).unwrap_or_default();
        let ours = now(store.hash_at(theirs)).filter(|_| is_on_line);
        Some(Batch { hash, continues: ours.map(hash_bytes).unwrap_or_default(), ..batch })
    }

    fn find(&self, base: &Base) -> Found {
        let store = self.told();
        let theirs = base.world().point(&self.origin).unwrap_or_default();
        let ours = now(store.hash_at(theirs));
        line::find(theirs, base.hash(), now(store.head()).point, ours.as_ref().map(|hash| &hash.0[..]))
    }

    /// What others may be told.
    fn told(&self) -> &CopyableStore {
        if self.bug == Bug::TellsBeforeStoring { &self.written } else { &self.durable }
    }

    fn filter(&self, to: Party) -> Filter {
        match self.is_relay() {
            true => Filter::all().not_written_by(self.origins[to].clone()),
            false => Filter::all().written_by(self.origin.clone()),
        }
    }

    fn world_for(&self, to: Party, world: &World) -> World {
        let own = world.point(&self.origin).map(|point| (self.origin.clone(), point));
        if self.is_relay() { without(world, &self.origins[to]) } else { own.into_iter().collect() }
    }

    fn shared(&self, store: &CopyableStore, mut records: Vec<Record>) -> Vec<Record> {
        let views = views(store);
        let hidden: BTreeSet<DocumentKey> = (0..PAIRS)
            .filter(|pair| is_hidden(&views, *pair))
            .flat_map(|pair| halves(&self.origin, pair))
            .collect();
        records.retain(|record| !hidden.contains(&record.key));
        records
    }
}

fn halves(origin: &Origin, pair: u64) -> [DocumentKey; 2] {
    ["a", "b"].map(|half| format!("MeshService/default/{origin}//pair-{pair}-{half}").parse().unwrap())
}

fn views(store: &CopyableStore) -> Vec<(Point, u64)> {
    let text = private(store, VIEWS).unwrap_or_default();
    let view = |line: &str| {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        (Point { epoch: numbers[0], revision: numbers[1] }, numbers[2])
    };
    text.lines().map(view).collect()
}

/// Each change turned it over.
fn is_hidden(views: &[(Point, u64)], pair: u64) -> bool {
    views.iter().filter(|(_, changed)| *changed == pair).count() % 2 == 1
}
