//! What goes into a store, and what it answers.

use std::fmt;

use bytes::Bytes;
use model::{BundleNumber, DocumentKey, Origin, Record, Version, World};

use crate::seal::SecretBytes;

/// The largest document, in bytes.
pub const MAX_DOCUMENT: usize = 512 * 1024;

/// The most writes that one caller's transaction may hold.
pub const MAX_WRITES: usize = 100;

/// One step of a transaction. The first two are for documents of the store's own origin, the others
/// for what was heard of other origins.
#[derive(Clone, Debug)]
pub enum Write {
    /// Writes a document of one's own; the same content again changes nothing.
    Put { draft: Draft, expect: Expect },
    /// Removes a document of one's own. That is an event of its own line, with a revision.
    Delete { key: DocumentKey, expect: Expect },
    /// Holds a document of another origin, with the version it came with. One that is not later than
    /// what is held, or than its deletion, changes nothing; but what left comes back in a transaction that
    /// advances its origin to there at least.
    Copy(Record),
    /// Another origin deleted this document, or stopped sharing it, at `version`. A copy that is
    /// later stays.
    Forget { key: DocumentKey, version: Version },
    /// The transaction is part of the session that this fence was given to: [`crate::Error::Fenced`] if
    /// another has taken over since.
    Fence(Fence),
    /// What is held of another origin is of a history that no longer counts: the writes that follow decide
    /// about its documents whatever the numbers of those that are held. What they do not name stays.
    Reset(Origin),
    /// What is held of another origin is passed on from here. If the transaction brings something of it that was written
    /// before what was known of it, or takes it to another epoch, the numbers of its versions tell nobody; so the own
    /// line goes on by a revision, and [`crate::Store::since`] has all of that origin for whoever knows less of the own
    /// line.
    Retell(Origin),
    /// What the transaction says of another origin is all that there is of it, and not what came to be so: of a document
    /// that came and went since what was known of it before, nothing is told. Whoever was told of one by somebody else
    /// meanwhile is told everything.
    Whole(Origin),
    /// Replaces a private value together with the rest of the transaction.
    Private { name: String, value: SecretBytes },
    /// Everything of other origins up to here has arrived. The own component is the store's business
    /// and is passed over; a component never goes back.
    Advance(World),
}

/// The right to write for one lane, until [`crate::Store::fence`] gives it to somebody else. A lane is what
/// one peer sends of one topic.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Fence {
    pub lane: String,
    /// Compared for equality only, and never given twice.
    pub generation: u64,
}

/// A document before it has a version.
#[derive(Clone, Eq, PartialEq)]
pub struct Draft {
    pub key: DocumentKey,
    /// Sealed at rest, and never logged.
    pub secret: bool,
    /// Capabilities that a reader must have to act on this document.
    pub requires: Vec<String>,
    /// Only for trust bundles.
    pub bundle: Option<BundleNumber>,
    /// The author's canonical bytes, at most [`MAX_DOCUMENT`] of them.
    pub bytes: Bytes,
}

impl Draft {
    /// A document that is neither secret nor asks anything of its readers.
    pub fn new(key: DocumentKey, bytes: impl Into<Bytes>) -> Self {
        Self { key, secret: false, requires: Vec::new(), bundle: None, bytes: bytes.into() }
    }

    pub(crate) fn at(self, version: Version) -> Record {
        let Self { key, secret, requires, bundle, bytes } = self;
        Record { key, version, secret, requires, bundle, bytes }
    }

    /// Whether writing this over `held` would change nothing.
    pub(crate) fn says_the_same_as(&self, held: &Record) -> bool {
        self.bytes == held.bytes
            && self.secret == held.secret
            && self.requires == held.requires
            && self.bundle == held.bundle
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.key, self.bytes.len())
    }
}

/// What the caller believes to be there. It is checked before anything else about the write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Expect {
    Any,
    Absent,
    Version(Version),
}

impl Expect {
    pub(crate) fn is_met_by(&self, held: Option<&Version>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => held.is_none(),
            Self::Version(version) => held == Some(version),
        }
    }
}

/// What became of one document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    /// The version that stands now, of the document or of its deletion; the old one where nothing
    /// changed.
    pub version: Version,
    pub changed: bool,
    /// It was not there before.
    pub created: bool,
}

/// What became of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// The place in the change log; that of the last commit where nothing changed.
    pub sequence: u64,
    /// What the store knows afterwards.
    pub world: World,
    /// One for each write in order; fences, resets, retellings, whole sets, private values and advances have none.
    pub written: Vec<Written>,
}
