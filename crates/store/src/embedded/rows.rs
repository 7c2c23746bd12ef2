//! The tables as they lie in the file.

use model::{DocumentKey, Point};
use redb::{
    Key, ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, TableError, TableHandle,
    Value, WriteTransaction,
};

use super::codec;
use super::file::{Keep, StoreFile};
use crate::error::Error;
use crate::seal::{RollingHash, Sealed};
use crate::tables::{Meta, SealedCommit, Tables, TablesMut, Tombstone};

/// By the text of the key.
const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
/// Epoch, revision, number; by the text of the key.
const TOMBSTONES: TableDefinition<&str, (u64, u64, u64)> = TableDefinition::new("tombstones");
/// The text of the key, by number.
const TOMBSTONE_ORDER: TableDefinition<u64, &str> = TableDefinition::new("tombstone order");
/// The change log, by sequence.
const COMMITS: TableDefinition<u64, &[u8]> = TableDefinition::new("commits");
/// Of the own line, by revision.
const HASHES: TableDefinition<u64, &[u8; 32]> = TableDefinition::new("hashes");
/// Sealed values, by name.
const PRIVATE: TableDefinition<&str, &[u8]> = TableDefinition::new("private");
/// By the lane.
const GENERATIONS: TableDefinition<&str, u64> = TableDefinition::new("generations");
/// What the file is, by a word each; see `files`.
pub(super) const FACTS: TableDefinition<&str, &[u8]> = TableDefinition::new("facts");
/// [`Meta`] as JSON, among the facts.
const META: &str = "meta";

/// A transaction of the file.
pub(super) struct Rows<T>(pub(super) T);

/// What reading and writing transactions have in common. In one that writes a table is open once at
/// a time, so each use opens its own and lets go of it.
pub(super) trait Transaction {
    type Table<'a, K: Key + 'static, V: Value + 'static>: ReadableTable<K, V>
    where
        Self: 'a;

    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
    ) -> Result<Self::Table<'_, K, V>, TableError>;
}

impl Transaction for ReadTransaction {
    type Table<'a, K: Key + 'static, V: Value + 'static> = ReadOnlyTable<K, V>;

    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
    ) -> Result<ReadOnlyTable<K, V>, TableError> {
        self.open_table(table)
    }
}

impl Transaction for WriteTransaction {
    type Table<'a, K: Key + 'static, V: Value + 'static> = Table<'a, K, V>;

    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
    ) -> Result<Table<'_, K, V>, TableError> {
        self.open_table(table)
    }
}

/// Makes the tables of a new file, so that reading always finds them.
pub(super) fn create(rows: &mut Rows<WriteTransaction>) -> Result<(), Error> {
    rows.open(RECORDS)?;
    rows.open(TOMBSTONES)?;
    rows.open(TOMBSTONE_ORDER)?;
    rows.open(COMMITS)?;
    rows.open(HASHES)?;
    rows.open(PRIVATE)?;
    rows.open(GENERATIONS)?;
    rows.set_meta(&Meta::fresh())
}

/// Makes the tables that the file of an earlier version of this program lacks. One that lacks none is not
/// written, so that it opens on a full disk.
pub(super) fn complete(file: &StoreFile) -> Result<(), Error> {
    if file.read(|rows| rows.has(GENERATIONS))? {
        return Ok(());
    }
    file.write(|rows| rows.open(GENERATIONS).map(|_| Keep::All))
}

impl<T: Transaction> Rows<T> {
    fn open<K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
    ) -> Result<T::Table<'_, K, V>, Error> {
        self.0.table(table).map_err(Error::unavailable)
    }

    pub(super) fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let table = self.open(FACTS)?;
        let value = table.get(name).map_err(Error::unavailable)?;
        Ok(value.map(|value| value.value().to_vec()))
    }
}

impl Rows<ReadTransaction> {
    #[cfg(test)]
    pub(super) fn is_new(&self) -> Result<bool, Error> {
        Ok(!self.has(FACTS)?)
    }

    fn has(&self, table: impl TableHandle) -> Result<bool, Error> {
        let mut tables = self.0.list_tables().map_err(Error::unavailable)?;
        Ok(tables.any(|found| found.name() == table.name()))
    }
}

impl Rows<WriteTransaction> {
    pub(super) fn put_fact(&mut self, name: &str, value: &[u8]) -> Result<(), Error> {
        self.insert(FACTS, name, value)
    }

    fn insert<'a, K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
        key: K::SelfType<'a>,
        value: V::SelfType<'a>,
    ) -> Result<(), Error> {
        self.open(table)?.insert(key, value).map_err(Error::unavailable)?;
        Ok(())
    }

    fn remove<'a, K: Key + 'static, V: Value + 'static>(
        &self,
        table: TableDefinition<K, V>,
        key: K::SelfType<'a>,
    ) -> Result<(), Error> {
        self.open(table)?.remove(key).map_err(Error::unavailable)?;
        Ok(())
    }
}

impl<T: Transaction> Tables for Rows<T> {
    fn meta(&self) -> Result<Meta, Error> {
        let missing = || Error::unavailable("the file does not say where its line stands");
        serde_json::from_slice(&self.fact(META)?.ok_or_else(missing)?).map_err(Error::unavailable)
    }

    fn record(&self, key: &DocumentKey) -> Result<Option<Sealed>, Error> {
        let table = self.open(RECORDS)?;
        let row = table.get(key.to_string().as_str()).map_err(Error::unavailable)?;
        row.map(|row| codec::decode_record(row.value()).map_err(|_| damaged(key))).transpose()
    }

    fn each_record(&self, visit: &mut dyn FnMut(Sealed) -> Result<(), Error>) -> Result<(), Error> {
        for row in self.open(RECORDS)?.iter().map_err(Error::unavailable)? {
            let (key, row) = row.map_err(Error::unavailable)?;
            visit(codec::decode_record(row.value()).map_err(|_| damaged(key.value()))?)?;
        }
        Ok(())
    }

    fn tombstone(&self, key: &DocumentKey) -> Result<Option<Tombstone>, Error> {
        let table = self.open(TOMBSTONES)?;
        let row = table.get(key.to_string().as_str()).map_err(Error::unavailable)?;
        Ok(row.map(|row| tombstone(row.value())))
    }

    fn each_tombstone(
        &self,
        visit: &mut dyn FnMut(DocumentKey, Tombstone) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for row in self.open(TOMBSTONES)?.iter().map_err(Error::unavailable)? {
            let (key, row) = row.map_err(Error::unavailable)?;
            visit(key.value().parse().map_err(Error::unavailable)?, tombstone(row.value()))?;
        }
        Ok(())
    }

    fn oldest_tombstone(&self) -> Result<Option<DocumentKey>, Error> {
        let table = self.open(TOMBSTONE_ORDER)?;
        let first = table.first().map_err(Error::unavailable)?;
        first.map(|(_, key)| key.value().parse().map_err(Error::unavailable)).transpose()
    }

    fn commit(&self, sequence: u64) -> Result<Option<SealedCommit>, Error> {
        let table = self.open(COMMITS)?;
        let row = table.get(sequence).map_err(Error::unavailable)?;
        let damaged = |_| damaged(format_args!("transaction {sequence}"));
        row.map(|row| codec::decode_commit(sequence, row.value()).map_err(damaged)).transpose()
    }

    fn hash(&self, revision: u64) -> Result<Option<RollingHash>, Error> {
        let table = self.open(HASHES)?;
        let row = table.get(revision).map_err(Error::unavailable)?;
        Ok(row.map(|row| RollingHash(*row.value())))
    }

    fn private(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let table = self.open(PRIVATE)?;
        let row = table.get(name).map_err(Error::unavailable)?;
        Ok(row.map(|row| row.value().to_vec()))
    }

    fn private_names(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let table = self.open(PRIVATE)?;
        let mut names = Vec::new();
        for row in table.range(prefix..).map_err(Error::unavailable)? {
            let (name, _) = row.map_err(Error::unavailable)?;
            if !name.value().starts_with(prefix) {
                break;
            }
            names.push(name.value().to_owned());
        }
        Ok(names)
    }

    fn generation(&self, lane: &str) -> Result<Option<u64>, Error> {
        let table = self.open(GENERATIONS)?;
        let row = table.get(lane).map_err(Error::unavailable)?;
        Ok(row.map(|row| row.value()))
    }
}

impl TablesMut for Rows<WriteTransaction> {
    fn set_meta(&mut self, meta: &Meta) -> Result<(), Error> {
        self.put_fact(META, &serde_json::to_vec(meta).map_err(Error::unavailable)?)
    }

    fn put_record(&mut self, record: Sealed) -> Result<(), Error> {
        let row = codec::encode_record(&record);
        self.insert(RECORDS, record.envelope().key.to_string().as_str(), row.as_slice())
    }

    fn remove_record(&mut self, key: &DocumentKey) -> Result<(), Error> {
        self.remove(RECORDS, key.to_string().as_str())
    }

    fn put_tombstone(&mut self, key: &DocumentKey, tombstone: Tombstone) -> Result<(), Error> {
        let Tombstone { point, number } = tombstone;
        let key = key.to_string();
        self.insert(TOMBSTONES, key.as_str(), (point.epoch, point.revision, number))?;
        self.insert(TOMBSTONE_ORDER, number, key.as_str())
    }

    fn remove_tombstone(&mut self, key: &DocumentKey, number: u64) -> Result<(), Error> {
        self.remove(TOMBSTONES, key.to_string().as_str())?;
        self.remove(TOMBSTONE_ORDER, number)
    }

    fn put_commit(&mut self, commit: SealedCommit) -> Result<(), Error> {
        self.insert(COMMITS, commit.sequence, codec::encode_commit(&commit).as_slice())
    }

    fn remove_commit(&mut self, sequence: u64) -> Result<(), Error> {
        self.remove(COMMITS, sequence)
    }

    fn put_hash(&mut self, revision: u64, hash: RollingHash) -> Result<(), Error> {
        self.insert(HASHES, revision, &hash.0)
    }

    fn put_private(&mut self, name: &str, sealed: Vec<u8>) -> Result<(), Error> {
        self.insert(PRIVATE, name, sealed.as_slice())
    }

    fn remove_private(&mut self, name: &str) -> Result<(), Error> {
        self.remove(PRIVATE, name)
    }

    fn put_generation(&mut self, lane: &str, generation: u64) -> Result<(), Error> {
        self.insert(GENERATIONS, lane, generation)
    }

    fn remove_generation(&mut self, lane: &str) -> Result<(), Error> {
        self.remove(GENERATIONS, lane)
    }
}

fn tombstone((epoch, revision, number): (u64, u64, u64)) -> Tombstone {
    Tombstone { point: Point { epoch, revision }, number }
}

/// A row that this program did not write so. It concerns that row alone: the medium is well.
fn damaged(what: impl ToString) -> Error {
    Error::Damaged { what: what.to_string() }
}
