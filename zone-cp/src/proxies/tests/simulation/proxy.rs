//! What a proxy has: in its folder, and in force.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::World;
use sync::{Batch, Digest, Place, Refused};

#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) wanted: BTreeSet<String>,
    /// What it comes back with.
    pub(super) folder: Held,
    /// What the next batch is relative to.
    pub(super) latest: Held,
    /// None while it is down.
    pub(super) in_force: Option<Held>,
    /// It cannot read the next version of this part.
    pub(super) unreadable: Option<String>,
}

/// A set of parts.
#[derive(Clone, Default)]
pub(super) struct Held {
    pub(super) world: World,
    hash: Bytes,
    pub(super) parts: BTreeMap<String, Bytes>,
    /// Parts of which an earlier version stays.
    pub(super) refused: BTreeSet<String>,
}

impl Proxy {
    pub(super) fn new() -> Self {
        let wanted = ["identity", "inbound/8080"].map(str::to_owned).into();
        let (folder, latest, in_force) = (Held::default(), Held::default(), Some(Held::default()));
        Self { wanted, folder, latest, in_force, unreadable: None }
    }

    pub(super) fn restart(&mut self) {
        self.latest = self.folder.clone();
        self.in_force = Some(self.folder.clone());
    }

    /// What it has after a batch.
    pub(super) fn take(&mut self, batch: Batch) -> Held {
        let Held { mut parts, mut refused, .. } = self.latest.clone();
        for name in batch.removed {
            parts.remove(&name);
            refused.remove(&name);
        }
        for entry in batch.entries {
            if self.unreadable.as_ref() == Some(&entry.key) {
                refused.insert(entry.key);
            } else {
                refused.remove(&entry.key);
                parts.insert(entry.key, entry.body);
            }
        }
        refused.retain(|name| self.wanted.contains(name));
        self.latest = Held { world: batch.world, hash: batch.hash, parts, refused };
        self.latest.clone()
    }
}

impl Held {
    /// As it says when it opens the topic.
    pub(super) fn place(&self) -> Place {
        let held = self.parts.iter().map(|(name, body)| (name.clone(), Digest::of(body))).collect();
        Place { have: self.world.clone(), hash: self.hash.clone(), held, ..Place::default() }
    }

    pub(super) fn refusals(&self) -> Vec<Refused> {
        self.refused.iter().map(|name| Refused::new(name, None, "it cannot be read")).collect()
    }
}

/// Without the bodies.
impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(|(name, body)| (name, Digest::of(body))).collect();
        write!(f, "{parts:?} of {:?}, refused {:?}", self.world, self.refused)
    }
}
