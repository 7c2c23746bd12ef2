//! Documents of one's own.

use std::sync::{Arc, Mutex};

use model::{BundleNumber, Point};
use store::{Draft, Error, Expect, Filter, MAX_DOCUMENT, MAX_WRITES, Operation, RollingHash, Store, Write};

use crate::kit::{Kit, at, delete, draft, key, origin, put, record, version};

pub(crate) async fn own_writes_take_the_next_revisions(kit: &Kit) {
    let store = kit.store("east");
    assert_eq!(store.head().await.unwrap().point, Point { epoch: 1, revision: 0 });
    let first = store.put(draft("east/a", "1"), Expect::Any).await.unwrap();
    assert_eq!((first.version, first.changed, first.created), (version("east-1-1"), true, true));
    let receipt = store.transact(vec![put("east/b", "1"), put("east/a", "2")]).await.unwrap();
    let written: Vec<_> = receipt.written.iter().map(|w| (w.version.to_string(), w.created)).collect();
    assert_eq!(written, [("east-1-2".to_owned(), true), ("east-1-3".to_owned(), false)]);
    assert_eq!(receipt.world.point(&origin("east")), Some(Point { epoch: 1, revision: 3 }));
    let a = store.get(&key("east/a")).await.unwrap();
    assert_eq!(a, Some(record("east/a", "east-1-3", "2")));
}

pub(crate) async fn the_same_content_again_changes_nothing(kit: &Kit) {
    let store = kit.store("global");
    store.put(draft("global/a", "1"), Expect::Any).await.unwrap();
    let before = store.head().await.unwrap();
    let again = store.put(draft("global/a", "1"), Expect::Any).await.unwrap();
    assert_eq!((again.version, again.changed, again.created), (version("global-1-1"), false, false));
    assert_eq!(store.head().await.unwrap(), before);
    let receipt = store.transact(vec![put("global/a", "1"), put("global/b", "1")]).await.unwrap();
    assert_eq!(receipt.written[1].version, version("global-1-2"), "an unchanged write takes no revision");
}

pub(crate) async fn an_envelope_that_differs_is_a_change(kit: &Kit) {
    let store = kit.store("global");
    let plain = draft("global/a", "1");
    let drafts = [
        plain.clone(),
        Draft { secret: true, ..plain.clone() },
        Draft { requires: vec!["x".to_owned()], ..plain.clone() },
        Draft { bundle: Some(BundleNumber { incarnation: 1, n: 1 }), ..plain },
    ];
    for (n, draft) in drafts.into_iter().enumerate() {
        let written = store.put(draft.clone(), Expect::Any).await.unwrap();
        assert_eq!(written.version.point.revision, n as u64 + 1);
        let held = store.get(&draft.key).await.unwrap().unwrap();
        let want = (draft.secret, draft.requires, draft.bundle, draft.bytes);
        assert_eq!((held.secret, held.requires, held.bundle, held.bytes), want);
    }
}

pub(crate) async fn what_is_expected_is_checked_first(kit: &Kit) {
    let there = || Some(version("global-1-1"));
    let cases = [
        ("global/there", Expect::Absent, Some(there())),
        ("global/there", Expect::Version(version("global-1-9")), Some(there())),
        ("global/there", Expect::Version(version("global-2-1")), Some(there())),
        ("global/there", Expect::Version(version("global-1-1")), None),
        ("global/there", Expect::Any, None),
        ("global/gone", Expect::Version(version("global-1-1")), Some(None)),
        ("global/gone", Expect::Absent, None),
        ("global/gone", Expect::Any, None),
    ];
    let conflict = |answer| match answer {
        Err(Error::Conflict { key, current }) => Some((key, current)),
        _ => None,
    };
    for (name, expect, want) in cases {
        let want = want.map(|current| (key(name), current));
        let store = kit.store("global");
        store.put(draft("global/there", "1"), Expect::Absent).await.unwrap();
        // The same content as is there, so that only the expectation decides.
        let put = store.put(draft(name, "1"), expect.clone()).await;
        assert_eq!(conflict(put), want, "put {name} {expect:?}");
        let store = kit.store("global");
        store.put(draft("global/there", "1"), Expect::Absent).await.unwrap();
        let delete = store.delete(key(name), expect.clone()).await;
        assert_eq!(conflict(delete), want, "delete {name} {expect:?}");
    }
}

pub(crate) async fn a_deletion_takes_a_revision_of_its_own(kit: &Kit) {
    let store = kit.store("global");
    store.put(draft("global/a", "1"), Expect::Any).await.unwrap();
    let deleted = store.delete(key("global/a"), Expect::Any).await.unwrap();
    assert_eq!((deleted.version, deleted.changed), (version("global-1-2"), true));
    assert_eq!(store.get(&key("global/a")).await.unwrap(), None);
    assert!(store.list(Filter::all()).await.unwrap().records.is_empty());
    let back = store.put(draft("global/a", "1"), Expect::Any).await.unwrap();
    assert_eq!((back.version, back.created), (version("global-1-3"), true));
}

pub(crate) async fn deleting_what_is_not_there_is_an_error(kit: &Kit) {
    let store = kit.store("global");
    for expect in [Expect::Any, Expect::Absent] {
        let refused = store.delete(key("global/a"), expect).await;
        assert!(matches!(refused, Err(Error::Absent { .. })), "{refused:?}");
    }
}

pub(crate) async fn a_transaction_is_done_whole_or_not_at_all(kit: &Kit) {
    let store = kit.store("global");
    store.put(draft("global/a", "1"), Expect::Any).await.unwrap();
    let (head, listing) = (store.head().await.unwrap(), store.list(Filter::all()).await.unwrap());
    let writes = vec![
        put("global/b", "1"),
        delete("global/a"),
        crate::kit::copy("east/c", "east-1-4", "1"),
        Write::Advance(crate::kit::world(&["east-1-4"])),
        Write::Put { draft: draft("global/d", "1"), expect: Expect::Version(version("global-1-1")) },
    ];
    assert!(matches!(store.transact(writes).await, Err(Error::Conflict { .. })));
    assert_eq!(store.head().await.unwrap(), head);
    assert_eq!(store.list(Filter::all()).await.unwrap(), listing);
    let next = store.put(draft("global/b", "1"), Expect::Any).await.unwrap();
    assert_eq!(next.version, version("global-1-2"), "the refused ones used no revision");
}

pub(crate) async fn writes_of_a_transaction_see_those_before_them(kit: &Kit) {
    let store = kit.store("global");
    let at = |n: u64| Expect::Version(version(&format!("global-1-{n}")));
    let writes = vec![
        Write::Put { draft: draft("global/a", "1"), expect: Expect::Absent },
        Write::Put { draft: draft("global/a", "2"), expect: at(1) },
        Write::Put { draft: draft("global/a", "2"), expect: at(2) },
        Write::Delete { key: key("global/a"), expect: at(2) },
        Write::Put { draft: draft("global/a", "3"), expect: Expect::Absent },
    ];
    let receipt = store.transact(writes).await.unwrap();
    let revisions: Vec<_> = receipt.written.iter().map(|w| (w.version.point.revision, w.changed)).collect();
    assert_eq!(revisions, [(1, true), (2, true), (2, false), (3, true), (4, true)]);
    let listing = store.list(Filter::all()).await.unwrap();
    assert_eq!(listing.records, [record("global/a", "global-1-4", "3")]);
}

pub(crate) async fn only_ones_own_documents_are_written(kit: &Kit) {
    let store = kit.store("east");
    for text in ["global/a", "west/a"] {
        for write in [put(text, "1"), delete(text)] {
            let refused = store.transact(vec![write]).await;
            assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
        }
    }
}

pub(crate) async fn a_document_has_at_most_512_kib(kit: &Kit) {
    let store = kit.store("global");
    let largest = "x".repeat(MAX_DOCUMENT);
    store.put(draft("global/a", &largest), Expect::Any).await.unwrap();
    assert_eq!(store.get(&key("global/a")).await.unwrap().unwrap().bytes.len(), 512 * 1024);
    let larger = format!("{largest}x");
    let refused = store.put(draft("global/a", &larger), Expect::Any).await;
    assert!(
        matches!(refused, Err(Error::TooLarge { size: 524_289, limit: MAX_DOCUMENT, .. })),
        "{refused:?}"
    );
    let copy = vec![crate::kit::copy("east/a", "east-1-1", &larger)];
    assert!(matches!(store.apply(copy).await, Err(Error::TooLarge { .. })));
}

pub(crate) async fn a_caller_has_at_most_100_writes_and_a_batch_any_number(kit: &Kit) {
    let store = kit.store("global");
    let writes = |n: usize| (0..n).map(|n| put(&format!("global/d{n}"), "1")).collect::<Vec<_>>();
    let refused = store.transact(writes(MAX_WRITES + 1)).await;
    assert!(matches!(refused, Err(Error::TooMany { writes: 101, limit: 100 })), "{refused:?}");
    store.transact(writes(MAX_WRITES)).await.unwrap();
    let copies = (1..=1000).map(|n| crate::kit::copy(&format!("east/d{n}"), &format!("east-1-{n}"), "1"));
    let receipt = store.apply(copies.collect()).await.unwrap();
    assert_eq!((receipt.sequence, receipt.written.len()), (2, 1000));
    assert_eq!(store.list(Filter::all()).await.unwrap().records.len(), 1100);
}

pub(crate) async fn s56_concurrent_writers_lose_no_update(kit: &Kit) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 12;
    let store = kit.store("global");
    store.put(draft("global/count", "0"), Expect::Any).await.unwrap();
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(count_up(store.clone(), EACH))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let counted = store.get(&key("global/count")).await.unwrap().unwrap();
    assert_eq!(counted.bytes, (WRITERS * EACH).to_string());
    assert_eq!(counted.version.point.revision, WRITERS * EACH + 1);
}

async fn count_up(store: Arc<dyn Store>, times: u64) {
    let mut done = 0;
    while done < times {
        let held = store.get(&key("global/count")).await.unwrap().unwrap();
        let count: u64 = std::str::from_utf8(&held.bytes).unwrap().parse().unwrap();
        let next = draft("global/count", &(count + 1).to_string());
        match store.put(next, Expect::Version(held.version.clone())).await {
            Ok(_) => done += 1,
            Err(Error::Conflict { current, .. }) => {
                assert!(current.unwrap().point > held.version.point, "a conflict names a later version");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

pub(crate) async fn a_listing_has_what_the_filter_covers(kit: &Kit) {
    let store = kit.store("global");
    let zone = |name: &str| Draft::new(format!("Zone//global//{name}").parse().unwrap(), "1");
    store.put(zone("east"), Expect::Any).await.unwrap();
    store.transact(vec![put("global/b", "1"), put("global/a", "1")]).await.unwrap();
    store.apply(vec![crate::kit::copy("east/a", "east-1-1", "1")]).await.unwrap();
    let cases = [
        (
            "all",
            Filter::all(),
            vec![
                "MeshService/default/east//a",
                "MeshService/default/global//a",
                "MeshService/default/global//b",
                "Zone//global//east",
            ],
        ),
        ("kind", Filter::all().kinds(["Zone".parse().unwrap()]), vec!["Zone//global//east"]),
        ("no kind", Filter::all().kinds([]), vec![]),
        ("another mesh", Filter::all().mesh("other".parse().unwrap()), vec![]),
        (
            "mesh and origin",
            Filter::all().mesh("default".parse().unwrap()).written_by(origin("east")),
            vec!["MeshService/default/east//a"],
        ),
        (
            "not an origin",
            Filter::all().not_written_by(origin("global")),
            vec!["MeshService/default/east//a"],
        ),
    ];
    for (why, filter, want) in cases {
        let listing = store.list(filter).await.unwrap();
        let keys: Vec<_> = listing.records.iter().map(|record| record.key.to_string()).collect();
        assert_eq!(keys, want, "{why}");
        assert_eq!(listing.sequence, 3);
    }
}

pub(crate) async fn the_rolling_hash_is_known_at_every_revision(kit: &Kit) {
    let store = kit.store("global");
    let mut hashes = vec![store.head().await.unwrap().hash];
    assert_eq!(hashes[0], RollingHash::START);
    let steps = [
        vec![put("global/a", "1")],
        vec![put("global/a", "2")],
        vec![delete("global/a")],
        vec![put("global/a", "2")],
    ];
    for step in steps {
        store.transact(step).await.unwrap();
        store
            .apply(vec![crate::kit::copy("east/a", &format!("east-1-{}", hashes.len()), "1")])
            .await
            .unwrap();
        hashes.push(store.head().await.unwrap().hash);
    }
    for (revision, hash) in hashes.iter().enumerate() {
        assert_eq!(store.hash_at(at(revision as u64)).await.unwrap(), Some(*hash), "{revision}");
        assert_eq!(hashes.iter().filter(|other| *other == hash).count(), 1, "each is its own");
    }
    assert_eq!(store.hash_at(at(hashes.len() as u64)).await.unwrap(), None);
    let other = kit.store("global");
    other.transact(vec![put("global/a", "1")]).await.unwrap();
    assert_ne!(other.head().await.unwrap().hash, hashes[1], "another store has another key");
}

pub(crate) async fn whoever_observes_is_told_of_every_read_and_write(kit: &Kit) {
    let store = kit.store("global");
    store.head().await.unwrap();
    let seen: Arc<Mutex<Vec<Operation>>> = Arc::default();
    let tell = seen.clone();
    store.observe(Arc::new(move |operation, _| tell.lock().unwrap().push(operation)));
    store.observe(Arc::new(|_, _| panic!("a store has one observer")));
    store.transact(vec![put("global/a", "1")]).await.unwrap();
    store.get(&key("global/a")).await.unwrap();
    store.put(draft("global/a", "2"), Expect::Absent).await.unwrap_err();
    assert_eq!(*seen.lock().unwrap(), [Operation::Write, Operation::Read, Operation::Write]);
}
