//! Documents at rest: one trait, several backends, one conformance suite.
//!
//! A store belongs to one origin. What that origin writes gets the next revision of its own line;
//! what other origins wrote is held as copies that keep the version they came with. Every committed
//! transaction is one entry of a change log with a private sequence, which watchers follow without
//! gap or repeat.
//!
//! What a transaction does is decided in `plan`, from plain values; `tables` carries it out on
//! whatever keeps the tables, so that the backends only load and store.

mod backend;
mod embedded;
mod error;
mod memory;
mod plan;
mod query;
mod seal;
mod store;
mod tables;
mod watch;
mod write;

pub use embedded::EmbeddedStore;
pub use error::{Error, OpenError};
pub use memory::{CopyableStore, MemoryStore};
pub use query::{Change, Changes, Commit, Filter, Head, Listing};
pub use seal::{RollingHash, SecretBytes};
pub use store::{Answer, Observer, Operation, Store};
pub use tables::{Retention, StoreClock};
pub use watch::Watch;
pub use write::{Draft, Expect, Fence, MAX_DOCUMENT, MAX_WRITES, Receipt, Write, Written};
