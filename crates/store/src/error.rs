//! What can go wrong with a store, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use model::{DocumentKey, Origin, Version};

/// Why a store did not do what it was asked. Nothing of a failed transaction happened. Where the disk
/// failed it has been taken back; only if the program ends before the disk works again may it turn out
/// to have happened, so that whoever writes again should say what was expected.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else was first: read again, decide again, write again.
    #[error("{key} is {}, which is not what was expected: read it again", standing(.current))]
    Conflict { key: DocumentKey, current: Option<Version> },
    /// There is nothing to delete.
    #[error("{key} does not exist")]
    Absent { key: DocumentKey },
    /// Only its origin may write a document.
    #[error("{key} belongs to {}: write it there", .key.origin)]
    NotOurs { key: DocumentKey },
    /// A copy must be a document of another origin, with a version of that same origin.
    #[error("{key} at {version} is no copy of another origin's document: refuse it")]
    NoCopy { key: DocumentKey, version: Version },
    #[error("{key} has {size} bytes and may have {limit}: make it smaller")]
    TooLarge { key: DocumentKey, size: usize, limit: usize },
    #[error("{writes} writes are more than the {limit} of one transaction: split them")]
    TooMany { writes: usize, limit: usize },
    /// A later session writes for this lane: the one that is told so is over.
    #[error("another session has taken over {lane}: end this one")]
    Fenced { lane: String },
    /// The change log does not reach back that far, or never came that far.
    #[error("changes after {after} are not in the log, which begins after {oldest}: list again")]
    Compacted { after: u64, oldest: u64 },
    /// What is kept there is not what was written: another key, or a changed file. Everything else can
    /// still be read.
    #[error("what is kept of {what} does not open: restore the store and its key together")]
    Damaged { what: String },
    /// Of writes alone. Reads go on, and writes as soon as there is space: the store tries by itself.
    #[error("the disk of the store is full, and nothing was written: free some space, then write again")]
    Full { source: Arc<io::Error> },
    /// The medium failed. The store tries by itself until it works again.
    #[error("the store is not available, and nothing was written: look at its disk, then try again")]
    Unavailable { source: Arc<dyn std::error::Error + Send + Sync> },
    /// The store was closed: open it again.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    pub(crate) fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { source: Arc::from(source.into()) }
    }

    pub(crate) fn of_disk(cause: Arc<io::Error>) -> Self {
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { source: cause }
            }
            _ => Self::unavailable(cause),
        }
    }
}

fn standing(current: &Option<Version>) -> String {
    current.as_ref().map_or_else(|| "absent".to_owned(), |version| format!("at {version}"))
}

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path} is in use: one process may have a store open at a time")]
    InUse { path: PathBuf },
    #[error("{path} belongs to {found}, not to {wanted}: use another folder")]
    WrongOrigin { path: PathBuf, found: Origin, wanted: Origin },
    /// A store without its key is of no use, and a new key would hide that.
    #[error("{path} is missing beside a store that it seals: restore it from where the store came")]
    KeyMissing { path: PathBuf },
    #[error("{path} is not the key of the store beside it: restore both together")]
    WrongKey { path: PathBuf },
    #[error("{path} was written by another version of this program (format {found}, known is {known})")]
    Format { path: PathBuf, found: u64, known: u64 },
    #[error("could not use {path}")]
    File { path: PathBuf, source: io::Error },
    #[error("could not read {path}")]
    Database { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}
