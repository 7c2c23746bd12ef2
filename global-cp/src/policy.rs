//! Decides what a zone is sent: the documents of the global that travel down, and those of other zones that
//! travel across, never its own and never secrets.

use model::{DocumentKey, Origin, World, ZoneName, kinds};
use store::Changes;
use sync::{Batch, Entry};

/// Whether documents under this key go to a zone.
pub fn goes_to(key: &DocumentKey, zone: &ZoneName) -> bool {
    let kind = kinds::by_name(key.kind.as_str());
    match &key.origin {
        // A kind that only newer zones know is theirs to judge.
        Origin::Global => kind.is_none_or(|kind| kind.travels.down),
        Origin::Zone(origin) => origin != zone && kind.is_some_and(|kind| kind.travels.across),
    }
}

/// The batch that tells a zone these changes; none where it has nothing to learn. A world that moved is
/// worth telling: somebody may wait for a revision that changes nothing here.
pub fn batch(changes: Changes, have: &World, zone: &ZoneName) -> Option<Batch> {
    let Changes { whole, records, tombstones, world } = changes;
    let mut removed: Vec<String> = tombstones
        .into_iter()
        .filter(|(key, _)| goes_to(key, zone))
        .map(|(key, _)| key.to_string())
        .collect();
    let mut entries = Vec::new();
    for record in records.into_iter().filter(|record| goes_to(&record.key, zone)) {
        if !record.secret {
            entries.push(Entry::from(record));
        } else if !whole {
            // It may have become one.
            removed.push(record.key.to_string());
        }
    }
    let world = without(&world, zone);
    if !whole && entries.is_empty() && removed.is_empty() && without(have, zone) == world {
        return None;
    }
    Some(Batch { whole, entries, removed, world, ..Batch::default() })
}

/// A zone knows its own point best.
fn without(world: &World, zone: &ZoneName) -> World {
    let own = Origin::Zone(zone.clone());
    world
        .iter()
        .filter(|(origin, _)| **origin != own)
        .map(|(origin, point)| (origin.clone(), point))
        .collect()
}

#[cfg(test)]
mod tests {
    use model::{Point, Record, Version};

    use super::*;

    fn record(key: &str, revision: u64, secret: bool) -> Record {
        let key: DocumentKey = key.parse().unwrap();
        let version = Version::new(key.origin.clone(), 1, revision);
        Record { key, version, secret, requires: vec![], bundle: None, bytes: "{}".into() }
    }

    fn world(points: &[(&str, u64)]) -> World {
        let point = |(origin, revision): &(&str, u64)| {
            (origin.parse().unwrap(), Point { epoch: 1, revision: *revision })
        };
        points.iter().map(point).collect()
    }

    #[test]
    fn each_kind_travels_as_the_table_of_kinds_says() {
        let east = "east".parse().unwrap();
        let cases = [
            ("Mesh//global//default", true),
            ("Zone//global//west", true),
            ("Zone//west//west", false),
            ("MeshTrafficPermission/default/global//all", true),
            ("MeshIdentity/default/global//all", true),
            ("MeshTrafficPermission/default/west//all", false),
            ("MeshService/default/west//catalog", true),
            ("MeshService/default/east//catalog", false),
            ("MeshZoneAddress/default/west//ingress", true),
            ("MeshTrust/default/west//trust", true),
            ("MeshTrust/default/global//trust", true),
            ("MeshTrust/default/east//trust", false),
            ("Workload/default/west//catalog", false),
            ("Dataplane/default/west//catalog-1", false),
            ("MeshFromTheFuture/default/global//x", true),
            ("MeshFromTheFuture/default/west//x", false),
        ];
        for (key, goes) in cases {
            assert_eq!(goes_to(&key.parse().unwrap(), &east), goes, "{key}");
        }
    }

    #[test]
    fn a_batch_has_what_travels_and_the_world_without_the_zones_own_point() {
        let east = "east".parse().unwrap();
        let changes = Changes {
            whole: false,
            records: vec![
                record("Mesh//global//default", 3, false),
                record("Zone//global//east", 4, false),
                record("MeshService/default/west//catalog", 9, false),
                record("MeshFromTheFuture/default/global//hidden", 5, true),
            ],
            tombstones: vec![
                ("MeshIdentity/default/global//gone".parse().unwrap(), "global-1-6".parse().unwrap()),
                ("Workload/default/west//gone".parse().unwrap(), "west-1-8".parse().unwrap()),
            ],
            world: world(&[("global", 6), ("west", 9), ("east", 70)]),
        };
        let batch = batch(changes, &World::default(), &east).unwrap();
        let entries: Vec<_> = batch.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(
            entries,
            ["Mesh//global//default", "Zone//global//east", "MeshService/default/west//catalog"]
        );
        let removed = ["MeshIdentity/default/global//gone", "MeshFromTheFuture/default/global//hidden"];
        assert_eq!(batch.removed, removed);
        assert_eq!(batch.world, world(&[("global", 6), ("west", 9)]));
    }

    #[test]
    fn a_whole_set_says_so_and_has_nothing_to_remove() {
        let east = "east".parse().unwrap();
        let changes = Changes {
            whole: true,
            records: vec![record("MeshFromTheFuture/default/global//hidden", 5, true)],
            tombstones: vec![],
            world: world(&[("global", 6)]),
        };
        let batch = batch(changes, &world(&[("global", 6)]), &east).unwrap();
        assert!(batch.whole && batch.entries.is_empty() && batch.removed.is_empty());
    }

    #[test]
    fn a_world_that_moved_is_told_and_one_that_did_not_is_not() {
        let east = "east".parse().unwrap();
        let nothing = |world| Changes { whole: false, records: vec![], tombstones: vec![], world };
        let have = world(&[("global", 6), ("east", 1)]);
        assert!(batch(nothing(world(&[("global", 6), ("east", 9)])), &have, &east).is_none());
        assert!(batch(nothing(world(&[("global", 7), ("east", 9)])), &have, &east).is_some());
    }
}
