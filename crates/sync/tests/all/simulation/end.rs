//! One end of a connection: a session, and what its host knows only as long as that lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use store::Fence;
use sync::session::Session;
use sync::{Base, Holdings};

use super::site::Party;

pub(super) struct End {
    pub(super) session: Session,
    /// The other side.
    pub(super) with: Party,
    /// The right to store, from the first look at what is there.
    pub(super) fence: Option<Fence>,
    /// Names that the other side wants, as far as this session was told.
    pub(super) subscribed: BTreeSet<String>,
    pub(super) holdings: Holdings,
    /// What was published of whom, up to which mark of the session, and is not settled yet.
    pub(super) unsettled: Vec<(u64, String, u64)>,
    pub(super) stale: bool,
    pub(super) asked: BTreeMap<u64, Bytes>,
    /// Where the peer first said that it is.
    pub(super) opened: Option<Base>,
    /// It writes nothing before.
    pub(super) write_again: Duration,
}

impl End {
    pub(super) fn new(session: Session, with: Party) -> Self {
        Self {
            session,
            with,
            fence: None,
            subscribed: BTreeSet::new(),
            holdings: Holdings::default(),
            unsettled: Vec::new(),
            stale: false,
            asked: BTreeMap::new(),
            opened: None,
            write_again: Duration::ZERO,
        }
    }
}
