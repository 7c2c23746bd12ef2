//! Batches of small topics: what a peer holds is known by name, so the difference to what it should hold
//! can be taken whatever happened before.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use model::World;

use crate::batch::{Base, Batch, Digest, Entry};

/// A body with its digest, held once for all peers that are to have it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Body {
    pub bytes: Bytes,
    pub digest: Digest,
}

impl Body {
    pub fn new(bytes: Bytes) -> Arc<Self> {
        Arc::new(Self { digest: Digest::of(&bytes), bytes })
    }
}

/// What a peer is to hold of a small topic, by name.
pub type Wanted = BTreeMap<Arc<str>, Arc<Body>>;

/// What one peer holds of one topic that this side owns, such as a proxy of its parts. Lives as long as the
/// session.
#[derive(Debug, Default)]
pub struct Holdings {
    held: Held,
    /// What it holds once it has acknowledged the last batch.
    sent: Option<Arc<Wanted>>,
}

#[derive(Debug)]
enum Held {
    /// As the peer said when it opened the topic.
    Said(BTreeMap<String, Digest>),
    /// It acknowledged all of it.
    All(Arc<Wanted>),
}

impl Holdings {
    /// The batch after which the peer holds exactly `wanted`, as of `world`; none where it already does.
    ///
    /// `base` is what [`crate::link::Host::collect`] was given; the result must be what it returns.
    pub fn collect(&mut self, base: &Base, wanted: &Arc<Wanted>, world: World) -> Option<Batch> {
        match base {
            Base::Opened(place) => {
                self.held = Held::Said(place.held.clone());
                self.sent = None;
            }
            Base::Acknowledged(_) => {
                if let Some(sent) = self.sent.take() {
                    self.held = Held::All(sent);
                }
            }
        }
        let (entries, removed) = self.held.difference(wanted);
        let batch = Batch { entries, removed, world, ..Batch::default() };
        if batch.is_empty() && batch.world == *base.world() {
            return None;
        }
        self.sent = Some(wanted.clone());
        Some(batch)
    }
}

impl Held {
    /// What is to be sent, and what is to be removed.
    fn difference(&self, wanted: &Arc<Wanted>) -> (Vec<Entry>, Vec<String>) {
        if matches!(self, Self::All(held) if Arc::ptr_eq(held, wanted)) {
            return Default::default();
        }
        let changed = wanted.iter().filter(|(name, body)| self.digest(name) != Some(body.digest));
        let entries = changed.map(|(name, body)| Entry::part(name, body.bytes.clone())).collect();
        let removed = match self {
            Self::Said(held) => absent(held.keys().map(String::as_str), wanted),
            Self::All(held) => absent(held.keys().map(Arc::as_ref), wanted),
        };
        (entries, removed)
    }

    fn digest(&self, name: &str) -> Option<Digest> {
        match self {
            Self::Said(held) => held.get(name).copied(),
            Self::All(held) => held.get(name).map(|body| body.digest),
        }
    }
}

impl Default for Held {
    fn default() -> Self {
        Self::Said(BTreeMap::new())
    }
}

fn absent<'a>(held: impl Iterator<Item = &'a str>, wanted: &Wanted) -> Vec<String> {
    held.filter(|name| !wanted.contains_key(*name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use model::{Origin, Point};

    use super::*;
    use crate::batch::Place;

    fn parts(parts: &[(&str, &'static str)]) -> Arc<Wanted> {
        let body = |body: &'static str| Body::new(Bytes::from_static(body.as_bytes()));
        Arc::new(parts.iter().map(|(name, text)| (Arc::from(*name), body(text))).collect())
    }

    fn world(revision: u64) -> World {
        World::from_iter([(Origin::Global, Point { epoch: 1, revision })])
    }

    #[test]
    fn a_peer_is_sent_what_it_lacks_and_told_what_it_must_drop() {
        let digest = |body: &str| Digest::of(body.as_bytes());
        let held = BTreeMap::from([
            ("same".to_owned(), digest("1")),
            ("old".to_owned(), digest("1")),
            ("gone".to_owned(), digest("1")),
        ]);
        let opened = Base::Opened(Place { have: world(1), held, ..Place::default() });
        let wanted = parts(&[("same", "1"), ("old", "2"), ("new", "1")]);

        let mut holdings = Holdings::default();
        let batch = holdings.collect(&opened, &wanted, world(2)).unwrap();
        let keys: Vec<_> = batch.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!((keys, batch.removed), (vec!["new", "old"], vec!["gone".to_owned()]));

        let acknowledged = Base::Acknowledged(world(2));
        assert_eq!(holdings.collect(&acknowledged, &wanted, world(2)), None);
        let moved = holdings.collect(&acknowledged, &wanted, world(3)).unwrap();
        assert!(moved.is_empty(), "a world advance alone: {moved:?}");
        let batch =
            holdings.collect(&Base::Acknowledged(world(3)), &parts(&[("new", "2")]), world(3)).unwrap();
        assert_eq!((batch.entries.len(), batch.removed.len()), (1, 2));
    }

    #[test]
    fn what_was_sent_and_never_acknowledged_is_sent_again() {
        let wanted = parts(&[("trust", "1")]);
        let mut holdings = Holdings::default();
        let opened = Base::Opened(Place::default());
        assert_eq!(holdings.collect(&opened, &wanted, world(1)).unwrap().entries.len(), 1);
        assert_eq!(holdings.collect(&opened, &wanted, world(1)).unwrap().entries.len(), 1);
    }
}
