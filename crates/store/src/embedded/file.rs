//! A database that opens itself again: after one failed read or write redb refuses all that come after.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction,
};

use super::disk::{Disk, Frozen, Live};
use super::rows::Rows;
use crate::error::Error;

/// How much of the file is kept in memory at most, in bytes.
const CACHE: usize = 2 * 1024 * 1024;

/// How often a read is tried at most.
const READS: u32 = 4;

pub(super) struct StoreFile {
    disk: Arc<Disk>,
    opened: RwLock<Opened>,
}

struct Opened {
    /// How often it was opened, so that of many who saw the same failure one opens it again.
    times: u64,
    database: Option<Database>,
    /// Writes go to the medium.
    live: bool,
}

impl StoreFile {
    pub(super) fn open(medium: Arc<dyn StorageBackend>) -> Result<Self, DatabaseError> {
        let disk = Arc::new(Disk::new(medium).map_err(DatabaseError::from)?);
        let database = open(Live(disk.clone()))?;
        Ok(Self { disk, opened: RwLock::new(Opened { times: 1, database: Some(database), live: true }) })
    }

    /// Of the last durable commit. Where the medium fails it is tried again on a database opened anew, a few times: who
    /// writes meanwhile may have spoilt that one as well.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&Rows<ReadTransaction>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let attempt = || {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            let result = match &opened.database {
                Some(database) => {
                    let attempt = || begun(database.begin_read()).and_then(|rows| read(&rows));
                    catch_unwind(AssertUnwindSafe(attempt))
                        .unwrap_or_else(|_| Err(Error::unavailable("the database panicked")))
                }
                None => Err(Error::unavailable("it cannot be read")),
            };
            // Nothing is full for who reads.
            (result.map_err(|error| self.explained(error, Error::unavailable)), opened.times)
        };
        for _ in 1..READS {
            match attempt() {
                (Err(Error::Unavailable { .. }), times) if self.disk.fault().is_some() => self.reopen(times),
                (result, _) => return result,
            }
        }
        attempt().0
    }

    /// A transaction, durable when this returns, unless `write` says that there is nothing to keep. After
    /// an error that is the medium's the database has been opened again, and nothing of it is there.
    pub(super) fn write(
        &self,
        write: impl FnOnce(&mut Rows<WriteTransaction>) -> Result<Keep, Error>,
    ) -> Result<(), Error> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let times = opened.times;
        let attempt = || match opened.database.as_ref().filter(|_| opened.live) {
            Some(database) => begun(database.begin_write()).and_then(|mut rows| match write(&mut rows)? {
                Keep::Nothing => Ok(()),
                Keep::All => rows.0.commit().map_err(Error::unavailable),
            }),
            None => Err(Error::unavailable("it cannot be written")),
        };
        // A file that is not as redb wrote it makes it panic: then it is as if the medium had failed.
        let result = catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
            self.disk.fail(io::Error::other("the database panicked"));
            Err(Error::unavailable("the database panicked"))
        });
        drop(opened);
        result.map_err(|error| self.explained(error, Error::of_disk)).inspect_err(|_| {
            if self.disk.fault().is_some() {
                self.reopen(times);
            }
        })
    }

    /// Whether it can be written, as far as opening it again tells.
    pub(super) fn revive(&self) -> bool {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let (live, times) = (opened.live, opened.times);
        drop(opened);
        if !live {
            self.reopen(times);
        }
        self.opened.read().unwrap_or_else(PoisonError::into_inner).live
    }

    /// Does nothing where somebody else has opened it since.
    fn reopen(&self, times: u64) {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.times != times {
            return;
        }
        opened.times += 1;
        opened.live = false;
        // Two at a time would write over each other. One that panicked may do so once more when it is let go.
        let old = opened.database.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
        let live = self.disk.take_back().map_err(DatabaseError::from);
        let live = live.and_then(|()| open(Live(self.disk.clone())));
        opened.live = live.is_ok();
        opened.database = live.or_else(|_| open(Frozen::new(self.disk.clone())?)).ok();
    }

    /// Names the cause, which redb says only once.
    fn explained(&self, error: Error, by: fn(Arc<io::Error>) -> Error) -> Error {
        match (error, self.disk.fault()) {
            (Error::Unavailable { .. }, Some(cause)) => by(cause),
            (error, _) => error,
        }
    }
}

/// What a transaction leaves behind.
pub(super) enum Keep {
    All,
    Nothing,
}

/// What redb makes of a file that is not as it wrote it may be a panic.
fn open(medium: impl StorageBackend) -> Result<Database, DatabaseError> {
    let opening = || Builder::new().set_cache_size(CACHE).create_with_backend(medium);
    catch_unwind(AssertUnwindSafe(opening))
        .unwrap_or_else(|_| Err(DatabaseError::from(io::Error::other("the database panicked"))))
}

fn begun<T>(transaction: Result<T, redb::TransactionError>) -> Result<Rows<T>, Error> {
    transaction.map(Rows).map_err(Error::unavailable)
}
