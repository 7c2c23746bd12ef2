//! What a store tells: listings, commits as watchers see them, and what somebody lacks.

use std::collections::BTreeSet;

use model::{DocumentKey, KindName, MeshName, Origin, Point, Record, Version, World};

use crate::error::Error;
use crate::seal::RollingHash;
use crate::store::Answer;
use crate::tables::Reader;
use crate::write::Write;

/// Which documents are meant. It looks at keys alone, so that a document never enters or leaves a
/// selection by being changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    kinds: Option<BTreeSet<KindName>>,
    mesh: Option<MeshName>,
    origin: Option<OriginMatch>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum OriginMatch {
    Only(Origin),
    Except(Origin),
}

impl Filter {
    /// Every document.
    pub fn all() -> Self {
        Self::default()
    }

    /// Of these kinds only; those of an earlier call no longer count.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = KindName>) -> Self {
        self.kinds = Some(kinds.into_iter().collect());
        self
    }

    /// In this mesh only; a document outside of meshes is in none.
    pub fn mesh(mut self, mesh: MeshName) -> Self {
        self.mesh = Some(mesh);
        self
    }

    /// Written by this origin only.
    pub fn written_by(mut self, origin: Origin) -> Self {
        self.origin = Some(OriginMatch::Only(origin));
        self
    }

    /// Written by anyone else: what a peer may lack that writes as `origin`.
    pub fn not_written_by(mut self, origin: Origin) -> Self {
        self.origin = Some(OriginMatch::Except(origin));
        self
    }

    pub fn covers(&self, key: &DocumentKey) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&key.kind))
            && (self.mesh.is_none() || self.mesh == key.mesh)
            && self.covers_origin(&key.origin)
    }

    fn covers_origin(&self, origin: &Origin) -> bool {
        match &self.origin {
            None => true,
            Some(OriginMatch::Only(only)) => origin == only,
            Some(OriginMatch::Except(except)) => origin != except,
        }
    }
}

/// Where a store stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Head {
    pub origin: Origin,
    /// Of the last commit in the change log; private to this store.
    pub sequence: u64,
    /// The last point of the own line. Revisions start at 1, so a fresh store stands at 0.
    pub point: Point,
    /// Of the own line, at `point`.
    pub hash: RollingHash,
    /// What the store knows of each origin, its own included.
    pub world: World,
}

/// Records, exact at one place in the change log: a watch from there sees every later change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    pub sequence: u64,
    pub world: World,
    /// In the order of their keys' text; without secret ones that do not open, for which [`crate::Store::get`]
    /// answers why.
    pub records: Vec<Record>,
}

/// One transaction as it went into the change log. Its changes belong together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Commit {
    pub sequence: u64,
    /// What the store knew afterwards.
    pub world: World,
    /// None where only the world moved.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    Put(Record),
    /// Deleted, or forgotten, at this version.
    Deleted {
        key: DocumentKey,
        version: Version,
    },
}

impl Change {
    pub fn key(&self) -> &DocumentKey {
        match self {
            Self::Put(record) => &record.key,
            Self::Deleted { key, .. } => key,
        }
    }

    pub fn version(&self) -> &Version {
        match self {
            Self::Put(record) => &record.version,
            Self::Deleted { version, .. } => version,
        }
    }
}

/// What somebody lacks, to be applied as one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changes {
    /// The records are the complete set: whatever else the receiver holds of it is gone. So it is
    /// where deletions are no longer known that far back, or never were, or an origin began a new epoch that is not told
    /// anew.
    pub whole: bool,
    /// In the order of their versions, origin by origin.
    pub records: Vec<Record>,
    pub tombstones: Vec<(DocumentKey, Version)>,
    /// Where these changes lead.
    pub world: World,
}

impl Changes {
    /// What brings a store that holds copies of the documents in `held` (all that the same filter
    /// covers) to the state these changes speak of.
    pub fn into_writes(self, held: impl IntoIterator<Item = DocumentKey>) -> Vec<Write> {
        let complete: BTreeSet<&DocumentKey> = self.records.iter().map(|record| &record.key).collect();
        let gone = held.into_iter().filter(|key| self.whole && !complete.contains(key)).filter_map(|key| {
            // Where its deletion is forgotten, "gone by now" is what is known of it.
            let point = self.world.point(&key.origin)?;
            let version = Version { origin: key.origin.clone(), point };
            Some(Write::Forget { key, version })
        });
        let mut writes: Vec<Write> = gone.collect();
        writes.extend(self.tombstones.into_iter().map(|(key, version)| Write::Forget { key, version }));
        writes.extend(self.records.into_iter().map(Write::Copy));
        writes.push(Write::Advance(self.world));
        writes
    }
}

pub(crate) fn head(reader: &Reader<'_>) -> Result<Head, Error> {
    let meta = reader.meta()?;
    Ok(Head {
        origin: reader.origin().clone(),
        sequence: meta.line.sequence,
        point: meta.line.point,
        hash: meta.line.hash,
        world: meta.line.world(reader.origin()),
    })
}

pub(crate) fn list(reader: &Reader<'_>, filter: &Filter) -> Result<Listing, Error> {
    let meta = reader.meta()?;
    let records = records(reader, |record| filter.covers(&record.key))?;
    Ok(Listing { sequence: meta.line.sequence, world: meta.line.world(reader.origin()), records })
}

/// A record is lacked if its version is after `have`'s point of its origin, or if its origin was told anew since. An origin
/// that `have` knows in an earlier epoch than the store does, and that was not told anew, cannot be told the difference by
/// numbers, so that the answer is whole, and so it is where the origin was told as a whole set that leads past where `have`
/// knows it. One that it knows in a later epoch has nothing to learn here.
pub(crate) fn since(reader: &Reader<'_>, have: &World, filter: &Filter) -> Result<Changes, Error> {
    let meta = reader.meta()?;
    let world = meta.line.world(reader.origin());
    let reached = |origin: &Origin| have.point(origin).unwrap_or_default();
    let own = reached(reader.origin());
    let retold = |origin: &Origin| meta.retold.point(origin).is_some_and(|at| own < at);
    let compacted = meta
        .compacted
        .iter()
        .any(|(origin, forgotten)| filter.covers_origin(origin) && reached(origin) < forgotten);
    let new_epoch = world.iter().any(|(origin, point)| {
        let is_earlier = have.point(origin).is_some_and(|held| held.epoch < point.epoch);
        filter.covers_origin(origin) && is_earlier && !retold(origin)
    });
    let unknown = meta.gaps.iter().any(|(origin, gaps)| {
        filter.covers_origin(origin) && gaps.iter().any(|gap| gap.contains(reached(origin)))
    });
    let whole = compacted || new_epoch || unknown;
    let lacked = |key: &DocumentKey, version: &Version| {
        let is_new = whole || reached(&version.origin) < version.point || retold(&version.origin);
        filter.covers(key) && is_new
    };
    let mut records = records(reader, |record| lacked(&record.key, &record.version))?;
    records.sort_by(|a, b| (&a.version.origin, a.version.point).cmp(&(&b.version.origin, b.version.point)));
    let mut tombstones = Vec::new();
    if !whole {
        reader.each_tombstone(&mut |key, version| {
            if lacked(&key, &version) {
                tombstones.push((key, version));
            }
            Ok(())
        })?;
    }
    Ok(Changes { whole, records, tombstones, world })
}

/// A piece of the change log after `after`, in order; empty where there is nothing yet.
pub(crate) fn commits_after(reader: &Reader<'_>, after: u64) -> Result<Vec<Commit>, Error> {
    /// Large enough to catch up quickly, small enough to hold in memory.
    const PIECE: u64 = 64;
    let meta = reader.meta()?;
    if after + 1 < meta.log_start || after > meta.line.sequence {
        return Err(Error::Compacted { after, oldest: meta.log_start - 1 });
    }
    let last = meta.line.sequence.min(after + PIECE);
    let mut commits = Vec::new();
    for sequence in after + 1..=last {
        match reader.commit(sequence) {
            Ok(commit) => commits.push(commit),
            // Who lists again is past it.
            Err(Error::Damaged { .. }) if commits.is_empty() => {
                return Err(Error::Compacted { after, oldest: sequence });
            }
            Err(Error::Damaged { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(commits)
}

fn records(reader: &Reader<'_>, wanted: impl Fn(&Record) -> bool) -> Result<Vec<Record>, Error> {
    let mut records = Vec::new();
    reader.each_record(&mut |sealed| {
        if wanted(sealed.envelope()) {
            records.extend(reader.opened(sealed));
        }
        Ok(())
    })?;
    Ok(records)
}

/// Where watchers read what they missed.
pub(crate) trait History: Send + Sync {
    fn commits_after(&self, after: u64) -> Answer<'static, Vec<Commit>>;
}
