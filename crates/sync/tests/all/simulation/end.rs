//! One end of a connection: a session, and what its host knows only as long as that lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use sync::session::Session;
use sync::{Base, Holdings};

pub(super) struct End {
    pub(super) session: Session,
    /// The right to store, from the first look at what is there.
    pub(super) fence: Option<u64>,
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
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
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
