//! Batches of small topics: what a peer holds is known by name, so the difference to what it should hold
//! can be taken whatever happened before.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::World;

use crate::batch::{Base, Batch, Digest, Entry};

/// What one peer holds of one topic that this side owns, such as a proxy of its parts. Lives as long as the
/// session.
#[derive(Debug, Default)]
pub struct Holdings {
    held: BTreeMap<String, Digest>,
    /// What it holds once it has acknowledged the last batch.
    sent: Option<BTreeMap<String, Digest>>,
}

impl Holdings {
    /// The batch after which the peer holds exactly `wanted`, as of `world`; none where it already does.
    ///
    /// `base` is what [`crate::link::Host::collect`] was given; the result must be what it returns.
    pub fn collect(&mut self, base: &Base, wanted: &BTreeMap<String, Bytes>, world: World) -> Option<Batch> {
        match base {
            Base::Opened(place) => {
                self.held = place.held.clone();
                self.sent = None;
            }
            Base::Acknowledged(_) => {
                self.held = self.sent.take().unwrap_or_else(|| std::mem::take(&mut self.held))
            }
        }
        let digests: BTreeMap<_, _> =
            wanted.iter().map(|(name, body)| (name.clone(), Digest::of(body))).collect();
        let changed = |name: &String| self.held.get(name) != digests.get(name);
        let entries = wanted.iter().filter(|(name, _)| changed(name));
        let batch = Batch {
            entries: entries.map(|(name, body)| Entry::part(name, body.clone())).collect(),
            removed: self.held.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect(),
            world,
            ..Batch::default()
        };
        if batch.is_empty() && batch.world == *base.world() {
            return None;
        }
        self.sent = Some(digests);
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use model::{Origin, Point};

    use super::*;
    use crate::batch::Place;

    fn parts(parts: &[(&str, &'static str)]) -> BTreeMap<String, Bytes> {
        parts.iter().map(|(name, body)| (name.to_string(), Bytes::from_static(body.as_bytes()))).collect()
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
