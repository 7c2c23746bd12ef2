//! What a topic carries: entries, in batches that count as a whole, relative to what the copy has.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use model::{BundleNumber, DocumentKey, Record, Version, World};

/// One member of a topic: a document, or a part of a proxy's configuration.
#[derive(Clone, Eq, PartialEq)]
pub struct Entry {
    /// The text of a [`DocumentKey`], or the name of a part. At most [`crate::frame::MAX_KEY`] bytes.
    pub key: String,
    /// Given by the origin, never changed by who relays it. None for parts.
    pub version: Option<Version>,
    pub secret: bool,
    /// Capabilities that a reader must have to act on it.
    pub requires: Vec<String>,
    /// Only for trust bundles.
    pub bundle: Option<BundleNumber>,
    /// At most [`crate::frame::MAX_BODY`] bytes.
    pub body: Bytes,
}

/// A change of a topic that counts as a whole or not at all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// The entries are the whole set: what is not among them leaves the copy.
    pub whole: bool,
    pub entries: Vec<Entry>,
    /// Keys that leave the topic. Leaving is not deletion of the document elsewhere.
    pub removed: Vec<String>,
    /// What the copy has once it applied this.
    pub world: World,
    /// The owner's rolling hash at `world`; empty where there is none. At most 64 bytes.
    pub hash: Bytes,
    /// The owner's rolling hash where the copy stands that this is relative to; empty where its line does not
    /// pass there. At most 64 bytes.
    pub continues: Bytes,
}

/// What a copy has of a topic when it opens it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    pub have: World,
    /// The rolling hash that came with `have`; empty where there is none.
    pub hash: Bytes,
    /// The set itself by key and digest of the body, where it is small enough to be named, as a proxy's
    /// parts are. Empty otherwise.
    pub held: BTreeMap<String, Digest>,
    /// Everything is to be sent, as a whole batch, though `have` is there: what was refused of it is to be judged
    /// again. An owner that does not understand it sends what lacks.
    pub anew: bool,
}

/// What the next batch of a topic is relative to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Base {
    /// What the peer says that it has; it may be nothing, or something that our history does not know.
    Opened(Place),
    /// The peer applied everything that was sent in this session, up to this world.
    Acknowledged(World),
}

impl Base {
    pub fn world(&self) -> &World {
        match self {
            Self::Opened(place) => &place.have,
            Self::Acknowledged(world) => world,
        }
    }

    pub fn is_opened(&self) -> bool {
        matches!(self, Self::Opened(_))
    }

    /// Whether the peer asks for everything.
    pub fn is_anew(&self) -> bool {
        matches!(self, Self::Opened(place) if place.anew)
    }

    /// The hash that the peer has of it, as far as it said so.
    pub fn hash(&self) -> &[u8] {
        match self {
            Self::Opened(place) => &place.hash,
            Self::Acknowledged(_) => &[],
        }
    }
}

/// An entry that was not applied; the last accepted version of it stays in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    pub key: String,
    pub version: Option<Version>,
    /// For people; at most [`crate::frame::MAX_REASON`] bytes travel.
    pub reason: String,
    /// Since when, in seconds since 1970 by the clock of who refuses; 0 if nobody remembers.
    pub since: u64,
    /// The version that stays in force; none where none was ever accepted, and for parts.
    pub in_force: Option<Version>,
}

impl Refused {
    pub fn new(key: impl Into<String>, version: Option<Version>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), version, reason: reason.into(), since: 0, in_force: None }
    }
}

/// SHA-256 of an entry's body.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(body: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl Entry {
    /// A part of a proxy's configuration: a name and JSON, without a version of its own.
    pub fn part(name: impl ToString, body: impl Into<Bytes>) -> Self {
        Self {
            key: name.to_string(),
            version: None,
            secret: false,
            requires: Vec::new(),
            bundle: None,
            body: body.into(),
        }
    }

    /// This entry, refused.
    pub fn refused(&self, reason: impl ToString) -> Refused {
        Refused::new(self.key.clone(), self.version.clone(), reason.to_string())
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.body)
    }
}

impl Batch {
    /// Whether it changes no entry; it may still move the world.
    pub fn is_empty(&self) -> bool {
        !self.whole && self.entries.is_empty() && self.removed.is_empty()
    }
}

impl From<Record> for Entry {
    fn from(record: Record) -> Self {
        Self {
            key: record.key.to_string(),
            version: Some(record.version),
            secret: record.secret,
            requires: record.requires,
            bundle: record.bundle,
            body: record.bytes,
        }
    }
}

/// Why an entry is not a document.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotARecord {
    #[error(transparent)]
    Key(#[from] model::key::InvalidDocumentKey),
    #[error("{0} has no version")]
    NoVersion(DocumentKey),
}

impl TryFrom<Entry> for Record {
    type Error = NotARecord;

    fn try_from(entry: Entry) -> Result<Self, NotARecord> {
        let key: DocumentKey = entry.key.parse()?;
        let Some(version) = entry.version else { return Err(NotARecord::NoVersion(key)) };
        Ok(Self {
            key,
            version,
            secret: entry.secret,
            requires: entry.requires,
            bundle: entry.bundle,
            bytes: entry.body,
        })
    }
}

/// Without the body: it may be secret.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key)?;
        if let Some(version) = &self.version {
            write!(f, " at {version}")?;
        }
        write!(f, " ({} bytes)", self.body.len())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
