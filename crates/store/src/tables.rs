//! What every backend keeps, and how a planned transaction is carried out on it.
//!
//! Six tables: records, tombstones, the change log, the hashes of the own line, private values, the
//! generations of lanes; and one value beside them, [`Meta`]. A backend gives access to them in one transaction; what to put
//! where, and what to drop when it grows old, is decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{DocumentKey, Origin, Point, Version, World};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::plan::{Gap, Held, Line, Planned, plan};
use crate::query::{Change, Commit};
use crate::seal::{RollingHash, Sealed, SecretBytes, StoreKeys};
use crate::write::{Fence, Receipt, Write};

/// How much of the past a store keeps. The hashes of the own line are kept all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Retention {
    /// Transactions in the change log: how far a watcher may fall behind.
    pub commits: u64,
    /// How old a transaction in the change log may grow, as the clock goes when the next one is written.
    pub age: Duration,
    /// Document bytes in the change log. The last transaction is kept whatever its size.
    pub commit_bytes: u64,
    /// Deletions: how far back `since` can tell a difference.
    pub tombstones: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let (commits, age) = (4096, Duration::from_secs(24 * 60 * 60));
        Self { commits, age, commit_bytes: 64 * 1024 * 1024, tombstones: 16 * 1024 }
    }
}

/// What a store says about itself, and the ends of the tables that are cut.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub(crate) struct Meta {
    pub(crate) line: Line,
    /// The first transaction that the change log still has; one after the last where it has none.
    pub(crate) log_start: u64,
    pub(crate) log_bytes: u64,
    /// Tombstones are numbered as they come; these numbers are given next, and held.
    pub(crate) next_tombstone: u64,
    pub(crate) tombstones: u64,
    /// For each origin up to where differences cannot be told: the latest deletion that is no longer known.
    pub(crate) compacted: World,
    /// For each origin that was told anew, where the own line was then.
    #[serde(default)]
    pub(crate) retold: World,
    /// For each origin where it is not known what came and went, oldest first: it was told as a whole set.
    #[serde(default)]
    pub(crate) gaps: BTreeMap<Origin, Vec<Gap>>,
    /// Transactions of the medium so far, by which one that happened is told from one that did not.
    #[serde(default)]
    pub(crate) writes: u64,
}

impl Meta {
    pub(crate) fn fresh() -> Self {
        Self {
            line: Line::fresh(),
            log_start: 1,
            log_bytes: 0,
            next_tombstone: 0,
            tombstones: 0,
            compacted: World::default(),
            retold: World::default(),
            gaps: BTreeMap::new(),
            writes: 0,
        }
    }
}

/// The most gaps of one origin that are told apart. Where there are more, the oldest count as one.
const MOST_GAPS: usize = 16;

/// A deletion, and its number among them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tombstone {
    /// The origin is that of the key.
    pub(crate) point: Point,
    pub(crate) number: u64,
}

/// A transaction as it rests in the change log.
#[derive(Clone)]
pub(crate) struct SealedCommit {
    pub(crate) sequence: u64,
    /// When it was written, in seconds since 1970.
    pub(crate) at: u64,
    pub(crate) world: World,
    pub(crate) changes: Vec<SealedChange>,
}

#[derive(Clone)]
pub(crate) enum SealedChange {
    Put(Sealed),
    Deleted { key: DocumentKey, version: Version },
}

impl SealedCommit {
    /// Of its documents.
    fn bytes(&self) -> u64 {
        let bytes = self.changes.iter().map(|change| match change {
            SealedChange::Put(sealed) => sealed.envelope().bytes.len() as u64,
            SealedChange::Deleted { .. } => 0,
        });
        bytes.sum()
    }
}

/// Reads of one consistent state.
pub(crate) trait Tables {
    fn meta(&self) -> Result<Meta, Error>;
    fn record(&self, key: &DocumentKey) -> Result<Option<Sealed>, Error>;
    /// All, in the order of their keys' text.
    fn each_record(&self, visit: &mut dyn FnMut(Sealed) -> Result<(), Error>) -> Result<(), Error>;
    fn tombstone(&self, key: &DocumentKey) -> Result<Option<Tombstone>, Error>;
    fn each_tombstone(
        &self,
        visit: &mut dyn FnMut(DocumentKey, Tombstone) -> Result<(), Error>,
    ) -> Result<(), Error>;
    /// The one with the lowest number.
    fn oldest_tombstone(&self) -> Result<Option<DocumentKey>, Error>;
    fn commit(&self, sequence: u64) -> Result<Option<SealedCommit>, Error>;
    fn hash(&self, revision: u64) -> Result<Option<RollingHash>, Error>;
    fn private(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
    /// In their order.
    fn private_names(&self, prefix: &str) -> Result<Vec<String>, Error>;
    fn generation(&self, lane: &str) -> Result<Option<u64>, Error>;
}

/// Changes that become visible together, or not at all.
pub(crate) trait TablesMut: Tables {
    fn set_meta(&mut self, meta: &Meta) -> Result<(), Error>;
    fn put_record(&mut self, record: Sealed) -> Result<(), Error>;
    fn remove_record(&mut self, key: &DocumentKey) -> Result<(), Error>;
    fn put_tombstone(&mut self, key: &DocumentKey, tombstone: Tombstone) -> Result<(), Error>;
    fn remove_tombstone(&mut self, key: &DocumentKey, number: u64) -> Result<(), Error>;
    fn put_commit(&mut self, commit: SealedCommit) -> Result<(), Error>;
    fn remove_commit(&mut self, sequence: u64) -> Result<(), Error>;
    fn put_hash(&mut self, revision: u64, hash: RollingHash) -> Result<(), Error>;
    fn put_private(&mut self, name: &str, sealed: Vec<u8>) -> Result<(), Error>;
    fn remove_private(&mut self, name: &str) -> Result<(), Error>;
    fn put_generation(&mut self, lane: &str, generation: u64) -> Result<(), Error>;
    fn remove_generation(&mut self, lane: &str) -> Result<(), Error>;
}

/// Who a store is: the same for as long as it is open.
pub(crate) struct Identity {
    pub(crate) origin: Origin,
    pub(crate) keys: StoreKeys,
    pub(crate) retention: Retention,
    pub(crate) clock: StoreClock,
}

/// Tells a store the time of day, by which it lets its history go.
pub type StoreClock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

impl Identity {
    /// In seconds since 1970.
    fn now(&self) -> u64 {
        (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// Tables together with the keys that open what is sealed in them.
pub(crate) struct Reader<'a> {
    tables: &'a dyn Tables,
    identity: &'a Identity,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(tables: &'a dyn Tables, identity: &'a Identity) -> Self {
        Self { tables, identity }
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.identity.origin
    }

    pub(crate) fn meta(&self) -> Result<Meta, Error> {
        self.tables.meta()
    }

    /// None, and a word in the log, for a secret document that does not open: it must not keep anybody from
    /// reading the others.
    pub(crate) fn opened(&self, sealed: Sealed) -> Option<model::Record> {
        let opened = self.identity.keys.open(sealed);
        opened.inspect_err(|error| tracing::error!(%error, "a secret document is left out")).ok()
    }

    pub(crate) fn record(&self, key: &DocumentKey) -> Result<Option<model::Record>, Error> {
        self.tables.record(key)?.map(|sealed| self.identity.keys.open(sealed)).transpose()
    }

    pub(crate) fn each_record(
        &self,
        visit: &mut dyn FnMut(Sealed) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.tables.each_record(visit)
    }

    pub(crate) fn each_tombstone(
        &self,
        visit: &mut dyn FnMut(DocumentKey, Version) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.tables.each_tombstone(&mut |key, tombstone| {
            let version = Version { origin: key.origin.clone(), point: tombstone.point };
            visit(key, version)
        })
    }

    /// One that the log has according to its meta.
    pub(crate) fn commit(&self, sequence: u64) -> Result<Commit, Error> {
        let missing = || Error::unavailable(format!("the change log lacks {sequence}"));
        let SealedCommit { sequence, world, changes, .. } =
            self.tables.commit(sequence)?.ok_or_else(missing)?;
        let open = |change| match change {
            SealedChange::Put(sealed) => self.opened(sealed).map(Change::Put),
            SealedChange::Deleted { key, version } => Some(Change::Deleted { key, version }),
        };
        let changes = changes.into_iter().filter_map(open).collect();
        Ok(Commit { sequence, world, changes })
    }

    pub(crate) fn hash(&self, point: Point) -> Result<Option<RollingHash>, Error> {
        if !self.meta()?.line.passes(point) {
            return Ok(None);
        }
        if point.revision == 0 { Ok(Some(RollingHash::START)) } else { self.tables.hash(point.revision) }
    }

    pub(crate) fn private(&self, name: &str) -> Result<Option<SecretBytes>, Error> {
        let sealed = self.tables.private(name)?;
        sealed.map(|sealed| self.identity.keys.open_private(name, &sealed)).transpose()
    }

    pub(crate) fn private_names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.tables.private_names(prefix)
    }

    fn held(&self, key: &DocumentKey) -> Result<Held, Error> {
        if let Some(sealed) = self.tables.record(key)? {
            // One that does not open can still be replaced and deleted: its version is known, and what it
            // says is nothing that anybody would write.
            let record = self.identity.keys.open(sealed.clone());
            return Ok(Held::Document(record.unwrap_or_else(|_| sealed.envelope().clone())));
        }
        Ok(match self.tables.tombstone(key)? {
            Some(Tombstone { point, .. }) => Held::Deleted(Version { origin: key.origin.clone(), point }),
            None => Held::Nothing,
        })
    }
}

/// What a writer can be asked to do.
pub(crate) enum Task {
    Writes(Vec<Write>),
    /// No value takes the one that is there away.
    Private {
        name: String,
        sealed: Option<Vec<u8>>,
    },
    /// No generation forgets the lane.
    Lane {
        lane: String,
        generation: Option<u64>,
    },
    Epoch {
        beyond: Point,
        adopted: Option<RollingHash>,
    },
}

/// A task that was done, as soon as the tables are durable.
pub(crate) struct Done {
    pub(crate) receipt: Receipt,
    /// What went into the change log.
    pub(crate) commit: Option<Commit>,
    /// Whether the tables changed at all.
    pub(crate) changed: bool,
}

/// Does a task. After [`Error::Unavailable`] the tables must be thrown away; after any other error
/// they are as they were.
pub(crate) fn execute(tables: &mut impl TablesMut, identity: &Identity, task: Task) -> Result<Done, Error> {
    let meta = tables.meta()?;
    let aside = match task {
        Task::Writes(writes) => return execute_writes(tables, identity, meta, writes),
        Task::Epoch { beyond, adopted } => return begin_epoch(tables, identity, meta, beyond, adopted),
        Task::Private { name, sealed: Some(sealed) } => tables.put_private(&name, sealed),
        Task::Private { name, sealed: None } => tables.remove_private(&name),
        Task::Lane { lane, generation: Some(generation) } => tables.put_generation(&lane, generation),
        Task::Lane { lane, generation: None } => tables.remove_generation(&lane),
    };
    aside?;
    let (sequence, world) = (meta.line.sequence, meta.line.world(&identity.origin));
    Ok(Done { receipt: Receipt { sequence, world, written: Vec::new() }, commit: None, changed: true })
}

fn execute_writes(
    tables: &mut impl TablesMut,
    identity: &Identity,
    mut meta: Meta,
    writes: Vec<Write>,
) -> Result<Done, Error> {
    for write in &writes {
        if let Write::Fence(Fence { lane, generation }) = write
            && tables.generation(lane)? != Some(*generation)
        {
            return Err(Error::Fenced { lane: lane.clone() });
        }
    }
    let private: Vec<(String, Vec<u8>)> = writes
        .iter()
        .filter_map(|write| match write {
            Write::Private { name, value } => Some((name.clone(), identity.keys.seal_private(name, value))),
            _ => None,
        })
        .collect();
    let reader = Reader::new(&*tables, identity);
    let planned = plan(&identity.origin, &identity.keys, meta.line.clone(), writes, |key| reader.held(key))?;
    let Planned { receipt, line, commit, retold, gaps, hashes } = planned;
    if let Some(commit) = &commit {
        meta.line = line;
        for origin in retold {
            meta.retold.advance(origin, meta.line.point);
        }
        for (origin, gap) in gaps {
            let gaps = meta.gaps.entry(origin).or_default();
            gaps.push(gap);
            if gaps.len() > MOST_GAPS {
                let oldest = gaps.remove(0);
                gaps[0].from = oldest.from;
            }
        }
        for (revision, hash) in hashes {
            tables.put_hash(revision, hash)?;
        }
        let changes: Vec<_> = commit.changes.iter().map(|change| seal(identity, change)).collect();
        record_changes(tables, &mut meta, &changes)?;
        let world = commit.world.clone();
        append(
            tables,
            &mut meta,
            SealedCommit { sequence: commit.sequence, at: identity.now(), world, changes },
        )?;
        prune(tables, &mut meta, identity)?;
        tables.set_meta(&meta)?;
    }
    let changed = commit.is_some() || !private.is_empty();
    for (name, sealed) in private {
        tables.put_private(&name, sealed)?;
    }
    Ok(Done { receipt, changed, commit })
}

fn begin_epoch(
    tables: &mut impl TablesMut,
    identity: &Identity,
    mut meta: Meta,
    beyond: Point,
    adopted: Option<RollingHash>,
) -> Result<Done, Error> {
    let begins = meta.line.point.epoch <= beyond.epoch;
    if begins {
        for (revision, hash) in meta.line.begin_epoch(beyond, adopted) {
            tables.put_hash(revision, hash)?;
        }
    }
    let (sequence, world) = (meta.line.sequence, meta.line.world(&identity.origin));
    let commit = begins.then(|| Commit { sequence, world: world.clone(), changes: Vec::new() });
    if begins {
        let (at, world, changes) = (identity.now(), world.clone(), Vec::new());
        append(tables, &mut meta, SealedCommit { sequence, at, world, changes })?;
        prune(tables, &mut meta, identity)?;
        tables.set_meta(&meta)?;
    }
    Ok(Done { receipt: Receipt { sequence, world, written: Vec::new() }, changed: begins, commit })
}

fn seal(identity: &Identity, change: &Change) -> SealedChange {
    match change {
        Change::Put(record) => SealedChange::Put(identity.keys.seal(record)),
        Change::Deleted { key, version } => {
            SealedChange::Deleted { key: key.clone(), version: version.clone() }
        }
    }
}

fn record_changes(
    tables: &mut impl TablesMut,
    meta: &mut Meta,
    changes: &[SealedChange],
) -> Result<(), Error> {
    for change in changes {
        match change {
            SealedChange::Put(sealed) => {
                bury_no_more(tables, meta, &sealed.envelope().key)?;
                tables.put_record(sealed.clone())?;
            }
            SealedChange::Deleted { key, version } => {
                bury_no_more(tables, meta, key)?;
                tables.remove_record(key)?;
                tables.put_tombstone(key, Tombstone { point: version.point, number: meta.next_tombstone })?;
                meta.next_tombstone += 1;
                meta.tombstones += 1;
            }
        }
    }
    Ok(())
}

/// Takes away the tombstone of a key, if it has one.
fn bury_no_more(tables: &mut impl TablesMut, meta: &mut Meta, key: &DocumentKey) -> Result<(), Error> {
    if let Some(tombstone) = tables.tombstone(key)? {
        tables.remove_tombstone(key, tombstone.number)?;
        meta.tombstones -= 1;
    }
    Ok(())
}

fn append(tables: &mut impl TablesMut, meta: &mut Meta, commit: SealedCommit) -> Result<(), Error> {
    meta.log_bytes += commit.bytes();
    tables.put_commit(commit)
}

/// The last transaction stays whatever it is.
fn prune(tables: &mut impl TablesMut, meta: &mut Meta, identity: &Identity) -> Result<(), Error> {
    let (retention, last) = (&identity.retention, meta.line.sequence);
    let oldest_kept = identity.now().saturating_sub(retention.age.as_secs());
    while meta.log_start < last {
        let many = last + 1 - meta.log_start > retention.commits || meta.log_bytes > retention.commit_bytes;
        let oldest = match tables.commit(meta.log_start) {
            Err(Error::Damaged { .. }) => None,
            oldest => oldest?,
        };
        if !many && oldest.as_ref().is_some_and(|commit| commit.at >= oldest_kept) {
            break;
        }
        meta.log_bytes -= oldest.map_or(0, |commit| commit.bytes());
        tables.remove_commit(meta.log_start)?;
        meta.log_start += 1;
    }
    while meta.tombstones > retention.tombstones {
        let missing = || Error::unavailable("fewer tombstones than were counted");
        let key = tables.oldest_tombstone()?.ok_or_else(missing)?;
        let point = tables.tombstone(&key)?.ok_or_else(missing)?.point;
        bury_no_more(tables, meta, &key)?;
        meta.compacted.advance(key.origin, point);
    }
    Ok(())
}
