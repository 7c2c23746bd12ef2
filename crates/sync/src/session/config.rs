//! What a session is made with: its topics, what a peer may make us hold, and how long it may be silent.

use std::time::Duration;

use crate::frame::{CHUNK, Hello};
use crate::topic::Topic;

/// What a session is about; the same for all sessions of one kind of peer.
#[derive(Clone, Debug)]
pub struct Config {
    pub hello: Hello,
    /// The topics that this side owns.
    pub serves: Vec<Topic>,
    /// The topics that this side keeps a copy of.
    pub copies: Vec<Topic>,
    pub limits: Limits,
    pub timing: Timing,
}

/// What a peer may make us hold, and we it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all batches that are not complete yet; so also the largest batch.
    pub staged_bytes: usize,
    /// Bytes of one batch that may come before we say that there may be more. Those who sent it must hold the rest.
    pub window: u64,
    /// Bytes that may be under way to us on a stream: what we do not read yet, the peer has to hold.
    pub under_way: u32,
    /// Names that one peer may subscribe to.
    pub subscriptions: usize,
    /// Bytes of each chunk that we send, at most [`CHUNK`]; an entry that is larger travels alone. A stream keeps the
    /// room that its largest frame took.
    pub chunk: usize,
}

impl Limits {
    /// What control planes grant each other.
    pub const CONTROL_PLANE: Self = Self {
        staged_bytes: 256 << 20,
        window: 4 << 20,
        // Enough for 10 MB a second over 100 ms.
        under_way: 1 << 20,
        subscriptions: 65_536,
        chunk: CHUNK,
    };
    /// What a zone and a proxy grant each other, which are near. A zone that tells thousands at once holds for each what is
    /// under way to it; what waits before that is replaced by its next value.
    pub const PROXY: Self = Self {
        staged_bytes: 4 << 20,
        window: 1 << 20,
        under_way: 32 << 10,
        subscriptions: 16_384,
        chunk: 8 << 10,
    };
}

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub heartbeat: Duration,
    /// After this long without a frame the peer is stale.
    pub stale: Duration,
    /// After this long without a frame the session ends.
    pub offline: Duration,
}

impl Timing {
    /// Between control planes.
    pub const CONTROL_PLANE: Self = Self {
        heartbeat: Duration::from_secs(1),
        stale: Duration::from_secs(5),
        offline: Duration::from_secs(30),
    };
    /// Between a zone and its thousands of proxies, which is what both do while nothing changes. One may be late
    /// by almost 3 s before anybody is missed.
    pub const PROXY: Self = Self { heartbeat: Duration::from_secs(2), ..Self::CONTROL_PLANE };
}

impl Default for Timing {
    fn default() -> Self {
        Self::CONTROL_PLANE
    }
}
