//! What the zone's store takes from the global, and what it gives.

use std::collections::{BTreeMap, BTreeSet};

use model::document::{Document, Unreadable};
use model::kinds::{MeshTrafficPermission, ResourceSpec};
use model::{DocumentKey, KindName, Origin, Point, Record, World, ZoneName};
use store::{Filter, Write};
use sync::{Batch, Entry, Refused};

/// What a batch of the global does to the zone's store.
#[derive(Debug, Default)]
pub struct Taken {
    pub writes: Vec<Write>,
    pub refused: Vec<Refused>,
    /// Of what is refused that which guards, and of which nobody here knows what it says. It may forbid anything to
    /// anyone, so it is to be held where no version of it is in force: then it forbids everything.
    pub unread: Vec<Record>,
}

/// A batch without what it says of zones of which more is `known` here than there, as the global's store was put back:
/// nobody is led back by who only passes something on.
pub fn without_what_is_behind(known: &World, mut batch: Batch) -> Batch {
    let is_behind = |origin: &Origin, point: Point| {
        *origin != Origin::Global && known.point(origin).is_some_and(|known| point < known)
    };
    let (behind, world): (BTreeMap<_, _>, BTreeMap<_, _>) = batch
        .world
        .iter()
        .map(|(origin, point)| (origin.clone(), point))
        .partition(|(origin, point)| is_behind(origin, *point));
    if !behind.is_empty() {
        let is_said =
            |key: &str| key.parse::<DocumentKey>().map_or(true, |key| !behind.contains_key(&key.origin));
        batch.entries.retain(|entry| is_said(&entry.key));
        batch.removed.retain(|key| is_said(key));
        batch.world = world.into_iter().collect();
    }
    batch
}

/// What a batch of the global does to a store that knows `known`. `held` are the keys of all copies, needed only where the
/// batch is whole.
///
/// The zone's own documents come from nobody else, and a component of the world that is the zone's own is
/// moved by nobody else.
pub fn take(zone: &ZoneName, known: &World, held: &[DocumentKey], batch: Batch) -> Taken {
    let own = Origin::Zone(zone.clone());
    let world: World =
        batch.world.iter().filter(|(origin, _)| **origin != own).map(|(o, p)| (o.clone(), p)).collect();
    let Taken { mut writes, mut refused, mut unread } = Taken::default();
    // Whatever numbers their documents had in a history that no longer counts: all that count now are sent. The global
    // shows them in a whole batch only, and tells everything of a zone that began an epoch.
    let is_new = |origin: &Origin, point: Point| known.point(origin).is_some_and(|at| at.epoch < point.epoch);
    let began = world.iter().filter(|(origin, point)| is_new(origin, *point));
    let began = began.filter(|(origin, _)| batch.whole || **origin != Origin::Global);
    writes.extend(began.map(|(origin, _)| Write::Reset(origin.clone())));
    let mut kept = BTreeSet::new();
    for entry in batch.entries {
        // What is refused is still there: its last good version stays in force.
        kept.extend(entry.key.parse::<DocumentKey>().ok());
        match check(entry.clone(), &own).map(|record| (problem(&record), record)) {
            Ok((None, record)) => writes.push(Write::Copy(record)),
            Ok((Some(problem), record)) => {
                refused.push(entry.refused(problem));
                unread
                    .extend((record.key.kind.as_str() == MeshTrafficPermission::KIND.name).then_some(record));
            }
            Err(reason) => refused.push(entry.refused(reason)),
        }
    }
    let mut gone: Vec<DocumentKey> = batch.removed.iter().filter_map(|key| key.parse().ok()).collect();
    if batch.whole {
        gone.extend(held.iter().filter(|key| !kept.contains(*key)).cloned());
    }
    for key in gone.into_iter().filter(|key| key.origin != own) {
        // Gone as of where the batch leads; what the batch does not speak of is not its to remove.
        if let Some(point) = world.point(&key.origin) {
            let version = model::Version { origin: key.origin.clone(), point };
            writes.push(Write::Forget { key, version });
        }
    }
    writes.push(Write::Advance(world));
    Taken { writes, refused, unread }
}

fn check(entry: Entry, own: &Origin) -> Result<Record, String> {
    let record = Record::try_from(entry).map_err(|error| error.to_string())?;
    if record.key.origin == *own {
        return Err("this zone writes its own documents itself".into());
    }
    if record.version.origin != record.key.origin {
        return Err(format!("its version {} is of another origin than the document", record.version));
    }
    if record.bytes.len() > store::MAX_DOCUMENT {
        return Err(format!("it is larger than {} KiB", store::MAX_DOCUMENT / 1024));
    }
    Ok(record)
}

/// Why a document cannot be read: it would take its last good version away at the next restart. Of a kind that is
/// unknown here it does not matter: it is carried, and nobody acts on it.
fn problem(record: &Record) -> Option<String> {
    match Document::from_record(record) {
        Ok(_) | Err(Unreadable::UnknownKind(_)) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// The zone's own documents that the global is to have. A kind that this program does not know is nobody's
/// here, so there is none of it.
pub fn originated(zone: &ZoneName) -> Filter {
    let kinds = model::kinds::all().iter().filter(|kind| kind.travels.up);
    let names: Vec<KindName> = kinds.map(|kind| kind.key_name()).collect();
    Filter::all().kinds(names).written_by(Origin::Zone(zone.clone()))
}

/// The next batch for the global; none where it has everything, revisions that do not concern it included.
pub fn batch(zone: &ZoneName, have: &World, changes: store::Changes) -> Option<Batch> {
    let own = Origin::Zone(zone.clone());
    let point = changes.world.point(&own)?;
    if have.point(&own) == Some(point) && !changes.whole {
        return None;
    }
    Some(Batch {
        whole: changes.whole,
        entries: changes.records.into_iter().map(Entry::from).collect(),
        removed: changes.tombstones.into_iter().map(|(key, _)| key.to_string()).collect(),
        world: [(own, point)].into_iter().collect(),
        ..Batch::default()
    })
}

#[cfg(test)]
mod tests {
    use model::Version;
    use serde_json::json;

    use super::*;

    fn east() -> ZoneName {
        "east".parse().unwrap()
    }

    fn permission(number: u64, spec: serde_json::Value) -> Entry {
        let key: DocumentKey = format!("MeshTrafficPermission/default/global//p{number}").parse().unwrap();
        let body = json!({"type": key.kind, "mesh": "default", "name": key.name, "spec": spec});
        let version = Version::new(Origin::Global, 1, number);
        let bytes = serde_json::to_vec(&body).unwrap().into();
        Record { key, version, secret: false, requires: vec![], bundle: None, bytes }.into()
    }

    fn world(epoch: u64, revision: u64) -> World {
        [(Origin::Global, Point { epoch, revision })].into_iter().collect()
    }

    #[test]
    fn s55_one_bad_document_of_ten_thousand_delays_no_other() {
        let all = json!({"type": "Prefix", "value": "spiffe://default.east.mesh.local/ns"});
        let good = json!({"rules": [{"default": {"allow": [{"spiffeID": all}]}}]});
        let mut entries: Vec<Entry> = (1..=10_000).map(|n| permission(n, good.clone())).collect();
        entries[4_711] = permission(4_712, json!({"rules": [{"default": {"allow": [{"spiffeID": 7}]}}]}));
        let batch = Batch { whole: true, entries, world: world(1, 10_000), ..Batch::default() };
        let bad: DocumentKey = "MeshTrafficPermission/default/global//p4712".parse().unwrap();
        let Taken { writes, refused, .. } =
            take(&east(), &World::default(), std::slice::from_ref(&bad), batch);
        let copies = writes.iter().filter(|write| matches!(write, Write::Copy(_))).count();
        assert_eq!((copies, refused.len()), (9_999, 1));
        assert_eq!(refused[0].key, bad.to_string());
        let goes = |write: &Write| matches!(write, Write::Forget { .. });
        assert!(!writes.iter().any(goes), "the last good version of the bad one stays in force");
    }

    #[test]
    fn what_got_past_an_api_is_refused_where_it_cannot_be_read_and_carried_where_it_can() {
        let unknown = json!({"rules": [{"default": {"allow": [{"source": {}, "weather": "sunny"}]}}]});
        let garbled = Entry { body: "{\"spec\": ".into(), ..permission(1, json!({})) };
        let future = Entry { key: "MeshFromTheFuture/default/global//x".into(), ..permission(2, json!({})) };
        let entries = vec![garbled, future, permission(3, unknown)];
        let batch = Batch { entries, world: world(1, 3), ..Batch::default() };
        let Taken { writes, refused, .. } = take(&east(), &World::default(), &[], batch);
        let copied = writes.iter().filter_map(|write| match write {
            Write::Copy(record) => Some(record.version.to_string()),
            _ => None,
        });
        assert_eq!(copied.collect::<Vec<_>>(), ["global-1-2", "global-1-3"]);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].reason.contains("not JSON"), "{refused:?}");
    }

    #[test]
    fn only_a_history_that_begins_a_new_epoch_replaces_whatever_its_numbers() {
        let resets = |known: World, world: World, whole: bool| {
            let batch = Batch { whole, world, ..Batch::default() };
            let Taken { writes, .. } = take(&east(), &known, &[], batch);
            writes.iter().filter(|write| matches!(write, Write::Reset(_))).count()
        };
        assert_eq!(resets(world(1, 7), world(2, 7), true), 1);
        assert_eq!(resets(world(1, 7), world(1, 9), true), 0, "what was compacted is no new history");
        assert_eq!(resets(world(1, 7), world(2, 7), false), 0);
        let west = |epoch| [("west".parse().unwrap(), Point { epoch, revision: 7 })].into_iter().collect();
        assert_eq!((resets(west(1), west(2), false), resets(west(2), west(2), false)), (1, 0));
        assert_eq!(resets(World::default(), world(2, 7), true), 0, "nothing is held of it");
        let own = [(Origin::Zone(east()), Point { epoch: 2, revision: 1 })].into_iter().collect();
        assert_eq!(resets(World::default(), own, true), 0, "its own line is nobody else's");
    }

    #[test]
    fn a_global_that_was_put_back_leads_nobody_back_in_what_it_passes_on() {
        let entry = |zone: &str, revision| {
            let key: DocumentKey = format!("MeshService/default/{zone}//web").parse().unwrap();
            let version = Version::new(key.origin.clone(), 1, revision);
            Record { key, version, secret: false, requires: vec![], bundle: None, bytes: "{}".into() }.into()
        };
        let upto = |points: &[(&str, u64)]| -> World {
            let point = |(origin, revision): &(&str, u64)| {
                (origin.parse().unwrap(), Point { epoch: 1, revision: *revision })
            };
            points.iter().map(point).collect()
        };
        let batch = Batch {
            whole: true,
            entries: vec![entry("west", 7), entry("north", 7), permission(3, json!({}))],
            removed: vec!["MeshService/default/west//gone".to_owned()],
            world: upto(&[("global", 3), ("west", 9), ("north", 9)]),
            ..Batch::default()
        };
        let known = upto(&[("global", 5), ("west", 12), ("north", 9)]);
        let said = without_what_is_behind(&known, batch.clone());
        assert_eq!(said.world, upto(&[("global", 3), ("north", 9)]), "of its own history it speaks itself");
        assert_eq!((said.entries.len(), said.removed.len()), (2, 0));
        let held = ["MeshService/default/west//later".parse().unwrap()];
        let Taken { writes, .. } = take(&east(), &known, &held, said);
        assert!(!writes.iter().any(|write| matches!(write, Write::Forget { .. })), "{writes:?}");
        assert_eq!(without_what_is_behind(&upto(&[("west", 9)]), batch.clone()), batch);
    }
}
