//! Decides what a transaction does to the line and to the documents, from plain values.
//!
//! The writes are looked at in order, each seeing what the ones before it did. One that cannot be
//! done fails all of them. A document of one's own that changes takes the next revision; a copy keeps
//! its version, and an older one never replaces a later one nor undoes a later deletion.
//!
//! A copy may leave without having been deleted, and may come long after it was written: whoever sends it shares it
//! only now. So a transaction that leads at least as far as a copy's deletion knows of that, and brings it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use model::{DocumentKey, Origin, Point, Record, Version, World};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::query::{Change, Commit};
use crate::seal::{RollingHash, StoreKeys};
use crate::write::{Draft, Expect, MAX_DOCUMENT, Receipt, Write, Written};

/// The most stretches of earlier epochs that are remembered: they are written with every transaction. Who stands on an
/// older one is told that the line left it.
const MOST_EARLIER: usize = 64;

/// Where the store stands.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub(crate) struct Line {
    pub(crate) sequence: u64,
    /// The last point of the own line.
    pub(crate) point: Point,
    pub(crate) hash: RollingHash,
    /// What is known of the other origins.
    pub(crate) others: World,
    /// The revision at which this epoch began.
    #[serde(default)]
    pub(crate) begun: u64,
    /// What this epoch goes on from: of earlier ones, the stretches that still count. Oldest first.
    #[serde(default)]
    pub(crate) earlier: Vec<Stretch>,
}

/// A stretch of the own line, its ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub(crate) struct Stretch {
    epoch: u64,
    from: u64,
    to: u64,
}

impl Stretch {
    fn contains(&self, point: Point) -> bool {
        point.epoch == self.epoch && (self.from..=self.to).contains(&point.revision)
    }
}

impl Line {
    /// Of a store that nothing was written to.
    pub(crate) fn fresh() -> Self {
        Self {
            sequence: 0,
            point: Point { epoch: 1, revision: 0 },
            hash: RollingHash::START,
            others: World::default(),
            begun: 0,
            earlier: Vec::new(),
        }
    }

    /// Whether this is a place in the history that the line goes on from. What was written in a file that was
    /// put back later is not.
    pub(crate) fn passes(&self, point: Point) -> bool {
        self.stretch().contains(point) || self.earlier.iter().any(|stretch| stretch.contains(point))
    }

    /// Begins the next epoch, above `beyond` and everything that was written here. It goes on from what is
    /// written here, or, with `adopted`, from `beyond`, whose hash that is. Answers the hashes to keep.
    pub(crate) fn begin_epoch(
        &mut self,
        beyond: Point,
        adopted: Option<RollingHash>,
    ) -> Vec<(u64, RollingHash)> {
        let Point { epoch, revision } = beyond;
        let mut hashes = Vec::new();
        match adopted {
            Some(hash) => {
                self.earlier = vec![Stretch { epoch, from: revision, to: revision }];
                self.hash = hash;
                hashes.push((revision, hash));
            }
            None => self.earlier.push(self.stretch()),
        }
        self.earlier.drain(..self.earlier.len().saturating_sub(MOST_EARLIER));
        self.begun = self.point.revision.max(revision);
        self.point = Point { epoch: self.point.epoch.max(epoch).saturating_add(1), revision: self.begun };
        self.sequence += 1;
        hashes.push((self.begun, self.hash));
        hashes
    }

    fn stretch(&self) -> Stretch {
        Stretch { epoch: self.point.epoch, from: self.begun, to: self.point.revision }
    }

    pub(crate) fn world(&self, origin: &Origin) -> World {
        let mut world = self.others.clone();
        world.reset(origin.clone(), self.point);
        world
    }
}

/// What is held under a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Held {
    Nothing,
    Deleted(Version),
    Document(Record),
}

impl Held {
    fn version(&self) -> Option<&Version> {
        match self {
            Self::Nothing => None,
            Self::Deleted(version) => Some(version),
            Self::Document(record) => Some(&record.version),
        }
    }

    fn document(&self) -> Option<&Record> {
        match self {
            Self::Document(record) => Some(record),
            Self::Nothing | Self::Deleted(_) => None,
        }
    }
}

/// What a transaction does.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) receipt: Receipt,
    pub(crate) line: Line,
    /// What goes into the change log; none where nothing changes.
    pub(crate) commit: Option<Commit>,
    /// Origins of which whoever knows less of the own line than it has now is to be told everything.
    pub(crate) retold: BTreeSet<Origin>,
    /// Of these origins it is not known what came and went between the two points.
    pub(crate) gaps: Vec<(Origin, Gap)>,
    /// The own line's new revisions.
    pub(crate) hashes: Vec<(u64, RollingHash)>,
}

/// Between two points of another origin, which do not belong to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub(crate) struct Gap {
    pub(crate) from: Point,
    pub(crate) to: Point,
}

impl Gap {
    pub(crate) fn contains(&self, point: Point) -> bool {
        self.from < point && point < self.to
    }
}

pub(crate) fn plan(
    origin: &Origin,
    keys: &StoreKeys,
    line: Line,
    writes: Vec<Write>,
    held: impl Fn(&DocumentKey) -> Result<Held, Error>,
) -> Result<Planned, Error> {
    let known = line.others.clone();
    let mut leads_to = World::default();
    for write in &writes {
        if let Write::Advance(world) = write {
            world.iter().for_each(|(origin, point)| leads_to.advance(origin.clone(), point));
        }
    }
    let mut planning = Planning {
        origin,
        keys,
        line,
        held,
        known: &known,
        leads_to,
        late: BTreeSet::new(),
        retell: BTreeSet::new(),
        reset: BTreeSet::new(),
        touched: BTreeMap::new(),
        changes: Vec::new(),
        hashes: Vec::new(),
    };
    let (mut written, mut whole) = (Vec::new(), Vec::new());
    for write in writes {
        match write {
            Write::Put { draft, expect } => written.push(planning.put(draft, &expect)?),
            Write::Delete { key, expect } => written.push(planning.delete(key, &expect)?),
            Write::Copy(record) => written.push(planning.copy(record)?),
            Write::Forget { key, version } => written.push(planning.forget(key, version)?),
            Write::Reset(origin) => {
                planning.reset.insert(origin);
            }
            Write::Retell(origin) => {
                planning.retell.insert(origin);
            }
            Write::Whole(origin) => whole.push(origin),
            Write::Advance(world) => planning.advance(&world),
            // Checked before anything is planned.
            Write::Fence(_) | Write::Private { .. } => {}
        }
    }
    let retold = planning.retold()?;
    let Planning { mut line, changes, hashes, .. } = planning;
    let gap = |origin: Origin| {
        let point = |world: &World| world.point(&origin).unwrap_or_default();
        let gap = Gap { from: point(&known), to: point(&line.others) };
        (origin, gap)
    };
    let gaps = whole.into_iter().map(gap).filter(|(_, gap)| gap.from < gap.to).collect();
    let moved = !changes.is_empty() || line.others != known;
    line.sequence += u64::from(moved);
    let world = line.world(origin);
    let commit = moved.then(|| Commit { sequence: line.sequence, world: world.clone(), changes });
    let receipt = Receipt { sequence: line.sequence, world, written };
    Ok(Planned { receipt, line, commit, retold, gaps, hashes })
}

struct Planning<'a, F> {
    origin: &'a Origin,
    keys: &'a StoreKeys,
    line: Line,
    held: F,
    /// What was known of other origins before.
    known: &'a World,
    /// What will be.
    leads_to: World,
    /// Origins of which something came, or went, as of before what was known of them.
    late: BTreeSet<Origin>,
    /// Origins that are passed on.
    retell: BTreeSet<Origin>,
    /// Origins of which nothing that was held before counts any more.
    reset: BTreeSet<Origin>,
    /// What the writes so far made of the keys they touched.
    touched: BTreeMap<DocumentKey, Held>,
    changes: Vec<Change>,
    hashes: Vec<(u64, RollingHash)>,
}

impl<F: Fn(&DocumentKey) -> Result<Held, Error>> Planning<'_, F> {
    fn put(&mut self, draft: Draft, expect: &Expect) -> Result<Written, Error> {
        self.check_ours(&draft.key)?;
        check_size(&draft.key, draft.bytes.len())?;
        let held = self.held(&draft.key)?;
        check_expected(&draft.key, expect, held.document())?;
        match held.document() {
            Some(record) if draft.says_the_same_as(record) => Ok(unchanged(record.version.clone())),
            document => {
                let created = document.is_none();
                let version = self.next_version(&draft.key, &draft.bytes)?;
                Ok(self.keep(draft.at(version), created))
            }
        }
    }

    fn delete(&mut self, key: DocumentKey, expect: &Expect) -> Result<Written, Error> {
        self.check_ours(&key)?;
        let held = self.held(&key)?;
        check_expected(&key, expect, held.document())?;
        if held.document().is_none() {
            return Err(Error::Absent { key });
        }
        let version = self.next_version(&key, b"")?;
        Ok(self.remove(key, version))
    }

    fn copy(&mut self, record: Record) -> Result<Written, Error> {
        self.check_copy(&record.key, &record.version)?;
        check_size(&record.key, record.bytes.len())?;
        let held = self.held(&record.key)?;
        if held.document() == Some(&record) {
            return Ok(unchanged(record.version));
        }
        match held.version() {
            Some(version)
                if self.counts(&record.key)
                    && record.version.point <= version.point
                    && !self.comes_back(&record.key, &held) =>
            {
                Ok(unchanged(version.clone()))
            }
            _ => {
                self.look_at(&record.version);
                Ok(self.keep(record, held.document().is_none()))
            }
        }
    }

    /// A deletion of what is not held is kept too: somebody who asks this store may hold it still.
    fn forget(&mut self, key: DocumentKey, version: Version) -> Result<Written, Error> {
        self.check_copy(&key, &version)?;
        let later = match self.held(&key)? {
            Held::Nothing => None,
            Held::Deleted(deleted) => (version.point <= deleted.point).then_some(deleted),
            Held::Document(record) => {
                (self.counts(&key) && version.point < record.version.point).then_some(record.version)
            }
        };
        Ok(match later {
            Some(later) => unchanged(later),
            None => {
                self.look_at(&version);
                self.remove(key, version)
            }
        })
    }

    fn look_at(&mut self, version: &Version) {
        if self.known.covers(version) {
            self.late.insert(version.origin.clone());
        }
    }

    /// Which origins are to be told anew; then the own line goes on.
    fn retold(&mut self) -> Result<BTreeSet<Origin>, Error> {
        let begins = |origin: &Origin| {
            let epoch = |world: &World| world.point(origin).map(|point| point.epoch);
            epoch(self.known).is_some_and(|known| Some(known) != epoch(&self.line.others))
        };
        let retold: BTreeSet<Origin> = self
            .retell
            .iter()
            .filter(|origin| self.late.contains(*origin) || begins(origin))
            .cloned()
            .collect();
        for origin in &retold {
            self.next_version(origin, b"")?;
        }
        Ok(retold)
    }

    /// Whether who sends a copy knows that it was gone.
    fn comes_back(&self, key: &DocumentKey, held: &Held) -> bool {
        let Held::Deleted(gone) = held else { return false };
        self.leads_to.point(&key.origin).is_some_and(|leads_to| gone.point <= leads_to)
    }

    /// Whether the version that is held of a document is of the history that this transaction speaks of.
    fn counts(&self, key: &DocumentKey) -> bool {
        !self.reset.contains(&key.origin) || self.touched.contains_key(key)
    }

    fn advance(&mut self, world: &World) {
        for (origin, point) in world.iter().filter(|(origin, _)| *origin != self.origin) {
            self.line.others.advance(origin.clone(), point);
        }
    }

    fn held(&self, key: &DocumentKey) -> Result<Held, Error> {
        self.touched.get(key).map_or_else(|| (self.held)(key), |held| Ok(held.clone()))
    }

    fn next_version(&mut self, key: &impl Display, bytes: &[u8]) -> Result<Version, Error> {
        let line = &mut self.line;
        let next = line.point.revision.checked_add(1);
        line.point.revision = next.ok_or_else(|| Error::unavailable("there are no more revisions"))?;
        line.hash = self.keys.chain(&line.hash, line.point.revision, key, bytes);
        self.hashes.push((line.point.revision, line.hash));
        Ok(Version { origin: self.origin.clone(), point: line.point })
    }

    fn keep(&mut self, record: Record, created: bool) -> Written {
        let version = record.version.clone();
        self.touched.insert(record.key.clone(), Held::Document(record.clone()));
        self.changes.push(Change::Put(record));
        Written { version, changed: true, created }
    }

    fn remove(&mut self, key: DocumentKey, version: Version) -> Written {
        self.touched.insert(key.clone(), Held::Deleted(version.clone()));
        self.changes.push(Change::Deleted { key, version: version.clone() });
        Written { version, changed: true, created: false }
    }

    fn check_ours(&self, key: &DocumentKey) -> Result<(), Error> {
        if key.origin == *self.origin { Ok(()) } else { Err(Error::NotOurs { key: key.clone() }) }
    }

    fn check_copy(&self, key: &DocumentKey, version: &Version) -> Result<(), Error> {
        let foreign = key.origin != *self.origin && key.origin == version.origin;
        if foreign { Ok(()) } else { Err(Error::NoCopy { key: key.clone(), version: version.clone() }) }
    }
}

fn unchanged(version: Version) -> Written {
    Written { version, changed: false, created: false }
}

fn check_size(key: &DocumentKey, size: usize) -> Result<(), Error> {
    let limit = MAX_DOCUMENT;
    if size <= limit { Ok(()) } else { Err(Error::TooLarge { key: key.clone(), size, limit }) }
}

fn check_expected(key: &DocumentKey, expect: &Expect, held: Option<&Record>) -> Result<(), Error> {
    let current = held.map(|record| &record.version);
    if expect.is_met_by(current) {
        return Ok(());
    }
    Err(Error::Conflict { key: key.clone(), current: current.cloned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_earlier_epochs_are_remembered() {
        let mut line = Line::fresh();
        for epoch in 1..1000 {
            line.begin_epoch(Point { epoch, revision: epoch }, None);
        }
        assert_eq!(line.earlier.len(), MOST_EARLIER);
        assert!(
            line.passes(Point { epoch: 999, revision: 998 }) && !line.passes(Point { epoch: 2, revision: 1 })
        );
    }
}
