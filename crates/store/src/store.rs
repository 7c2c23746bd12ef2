//! The trait that every backend fulfils.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use model::{DocumentKey, Origin, Point, Record, World};
use tokio::sync::watch;

use crate::error::Error;
use crate::query::{Changes, Filter, Head, Listing};
use crate::seal::{RollingHash, SecretBytes};
use crate::watch::Watch;
use crate::write::{Draft, Expect, Fence, Receipt, Write, Written};

/// A future of a store's methods, boxed so that a store can be an `Arc<dyn Store>`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// What a caller waited for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Operation {
    Read,
    /// Until it is as durable as the backend makes it.
    Write,
}

/// Is told of each operation that came to its end, refused or not: how long its caller waited. Must not block.
pub type Observer = Arc<dyn Fn(Operation, Duration) + Send + Sync>;

/// Documents at rest. An answered write is durable as far as the backend knows durability. A write
/// whose future is dropped may or may not happen; it never happens in part.
pub trait Store: Send + Sync {
    /// Who writes here.
    fn origin(&self) -> &Origin;

    /// Why writes fail, as far as the last one tells: from one that the disk refused until one succeeds, which the
    /// store tries by itself. None while they succeed.
    fn fault(&self) -> watch::Receiver<Option<Error>>;

    /// Tells of every operation from now on. A store has one observer, for good: a second is not heard.
    fn observe(&self, observer: Observer);

    fn head(&self) -> Answer<'_, Head>;

    fn get(&self, key: &DocumentKey) -> Answer<'_, Option<Record>>;

    fn list(&self, filter: Filter) -> Answer<'_, Listing>;

    /// Everything or nothing of at most [`crate::MAX_WRITES`] writes. Each that changes a document of
    /// one's own gets the next revision.
    fn transact(&self, writes: Vec<Write>) -> Answer<'_, Receipt>;

    /// The same for batches from other origins, which are atomic whatever their size. A document
    /// that is too large fails the batch, so that sync refuses it before.
    fn apply(&self, writes: Vec<Write>) -> Answer<'_, Receipt>;

    /// Follows the change log from after this sequence on. Waiting costs nothing; a watcher that is
    /// slow reads from the log what it missed.
    fn watch(&self, after: u64) -> Watch;

    /// What somebody who holds `have` lacks of what `filter` covers.
    fn since(&self, have: World, filter: Filter) -> Answer<'_, Changes>;

    /// The rolling hash of the own line at a point; none for one that the line does not pass.
    fn hash_at(&self, point: Point) -> Answer<'_, Option<RollingHash>>;

    /// Begins the next epoch of the own line above `beyond`, unless it is in a later one already: this store was
    /// put back, and somebody holds what was written since. It goes on from what is written here; with
    /// `adopted`, from `beyond` itself, whose hash that is. Answers where the line stands.
    fn begin_epoch(&self, beyond: Point, adopted: Option<RollingHash>) -> Answer<'_, Point>;

    /// A private value, which is no document: it has no version and is told to nobody.
    fn secret_get(&self, name: &str) -> Answer<'_, Option<SecretBytes>>;

    /// The names of private values that begin with this.
    fn secret_names(&self, prefix: &str) -> Answer<'_, Vec<String>>;

    /// Replaces a private value.
    fn secret_put(&self, name: &str, value: SecretBytes) -> Answer<'_, ()>;

    /// Takes a private value away; nothing happens where there is none.
    fn secret_delete(&self, name: &str) -> Answer<'_, ()>;

    /// Begins a session of a lane: batches with the fence of an earlier one are refused from now on, also
    /// those that wait already. Durable, so that an earlier session is over after a restart too.
    fn fence(&self, lane: &str) -> Answer<'_, Fence>;

    /// Ends whatever session the lane has, and forgets the lane: for peers that are gone for good.
    fn unfence(&self, lane: &str) -> Answer<'_, ()>;

    /// One document of one's own.
    fn put(&self, draft: Draft, expect: Expect) -> Answer<'_, Written> {
        self.write_one(Write::Put { draft, expect })
    }

    /// Removes one document of one's own; [`Error::Absent`] where there is none.
    fn delete(&self, key: DocumentKey, expect: Expect) -> Answer<'_, Written> {
        self.write_one(Write::Delete { key, expect })
    }

    #[doc(hidden)]
    fn write_one(&self, write: Write) -> Answer<'_, Written> {
        let receipt = self.transact(vec![write]);
        Box::pin(async move { Ok(receipt.await?.written.remove(0)) })
    }
}
