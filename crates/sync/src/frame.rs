//! What two ends of a session say to each other.
//!
//! Everything a peer sends is checked here, once: sizes, counts, names. Behind this module a frame is
//! well formed, though it may still be a lie or come at the wrong time; that is the session's to judge.

mod wire;

use std::time::Duration;

use bytes::Bytes;
use model::{Origin, World};

use crate::batch::{Entry, Place, Refused};
use crate::topic::Topic;

pub use wire::Malformed;

/// The longest key of an entry, in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest body of an entry, a signal, a question or an answer, in bytes.
pub const MAX_BODY: usize = 2 << 20;
/// The longest name of a signal, a part, a capability or a kind of question, in bytes.
pub const MAX_NAME: usize = 512;
/// The longest reason, in bytes; longer ones are cut where they are sent.
pub const MAX_REASON: usize = 512;
/// The most a chunk carries, in bytes as [`Chunk::cost`] counts them; an entry that is larger travels alone.
pub const CHUNK: usize = 64 << 10;
/// What an item of a chunk counts beside its key and body: what it costs in memory, roughly, and more than on the wire.
pub const ITEM: usize = 160;
/// The largest frame that is read at all, in bytes.
pub const MAX_FRAME: usize = 8 << 20;

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    Hello(Hello),
    /// Every batch may begin with `window` bytes.
    Open {
        topic: Topic,
        opening: u64,
        place: Place,
        window: u64,
    },
    Chunk(Chunk),
    Ack {
        topic: Topic,
        opening: u64,
        batch: u64,
        world: World,
        refused: Vec<Refused>,
    },
    Hold {
        topic: Topic,
        opening: u64,
        reason: String,
    },
    Heartbeat(Heartbeat),
    Subscribe {
        added: Vec<String>,
        removed: Vec<String>,
    },
    Signal {
        name: String,
        sequence: u64,
        signal: Signal,
    },
    SignalEcho {
        sequence: u64,
    },
    Query {
        id: u64,
        kind: String,
        body: Bytes,
    },
    Reply {
        id: u64,
        result: Result<Bytes, String>,
    },
    /// A chunk of this batch may begin while those before it have fewer bytes than this.
    Credit {
        topic: Topic,
        opening: u64,
        batch: u64,
        bytes: u64,
    },
    Close {
        reason: String,
    },
}

impl Frame {
    /// What it takes on the wire, roughly, in bytes.
    pub fn cost(&self) -> usize {
        let carried = match self {
            Self::Chunk(chunk) => chunk.cost(),
            Self::Signal { name, signal, .. } => name.len() + signal.value.len(),
            Self::Subscribe { added, removed } => {
                added.iter().chain(removed).map(|name| ITEM + name.len()).sum()
            }
            Self::Ack { refused, .. } => {
                refused.iter().map(|refused| ITEM + refused.key.len() + refused.reason.len()).sum()
            }
            Self::Query { body, .. } => body.len(),
            Self::Reply { result, .. } => result.as_ref().map_or_else(String::len, Bytes::len),
            Self::Hello(_)
            | Self::Open { .. }
            | Self::Hold { .. }
            | Self::Heartbeat(_)
            | Self::SignalEcho { .. }
            | Self::Credit { .. }
            | Self::Close { .. } => 0,
        };
        ITEM + carried
    }
}

/// The first frame of each side.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hello {
    pub capabilities: Vec<String>,
    /// Rises with each session of one peer.
    pub generation: u64,
    /// The version of the peer's program.
    pub program: String,
}

/// A piece of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chunk {
    pub topic: Topic,
    /// The [`Frame::Open`] that this answers.
    pub opening: u64,
    /// From 1 in each opening.
    pub batch: u64,
    /// From 0 in each batch.
    pub index: u32,
    pub entries: Vec<Entry>,
    pub removed: Vec<String>,
    /// Only in the last chunk of its batch.
    pub last: Option<Last>,
}

impl Chunk {
    /// What it counts of the credit, in bytes.
    pub fn cost(&self) -> usize {
        let entries = self.entries.iter().map(|entry| entry.key.len() + entry.body.len() + ITEM);
        let removed = self.removed.iter().map(|key| key.len() + ITEM);
        entries.sum::<usize>() + removed.sum::<usize>()
    }
}

/// What turns staged chunks into a batch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Last {
    pub whole: bool,
    pub world: World,
    pub hash: Bytes,
    pub continues: Bytes,
}

/// Sent every second, every two between a zone and a proxy, also when there is nothing else to say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heartbeat {
    /// For each topic that the sender owns and the reader opened: up to where the reader is complete.
    pub complete: Vec<(Topic, World)>,
    /// How long ago the sender heard of each origin, in whole milliseconds on the wire.
    pub ages: Vec<(Origin, Duration)>,
}

/// The latest value of something that changes by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signal {
    /// Who observed it.
    pub origin: Origin,
    /// How long ago, summed over the hops; whole milliseconds on the wire.
    pub age: Duration,
    pub value: Bytes,
}
