//! Documents of other origins, and worlds.

use model::World;
use store::{Error, Filter, Write};

use crate::kit::{Kit, copy, forget, key, origin, put, record, version, world};

pub(crate) async fn copies_keep_their_versions(kit: &Kit) {
    let store = kit.store("east");
    let batch = vec![
        copy("global/a", "global-1-812", "1"),
        copy("west/b", "west-3-7", "2"),
        put("east/c", "3"),
        Write::Advance(world(&["global-1-900", "west-3-7"])),
    ];
    let receipt = store.apply(batch).await.unwrap();
    let versions: Vec<_> = receipt.written.iter().map(|written| written.version.to_string()).collect();
    assert_eq!(versions, ["global-1-812", "west-3-7", "east-1-1"]);
    assert_eq!(receipt.world, world(&["global-1-900", "west-3-7", "east-1-1"]));
    let listing = store.list(Filter::all()).await.unwrap();
    let want = [
        record("east/c", "east-1-1", "3"),
        record("global/a", "global-1-812", "1"),
        record("west/b", "west-3-7", "2"),
    ];
    assert_eq!(listing.records, want);
    assert_eq!(listing.world, receipt.world);
}

pub(crate) async fn an_older_copy_never_replaces_a_later_one(kit: &Kit) {
    let store = kit.store("east");
    store.apply(vec![copy("global/a", "global-1-5", "held")]).await.unwrap();
    let cases = [
        ("global-1-4", "older", false),
        ("global-1-5", "another at the same number", false),
        ("global-1-6", "later", true),
        ("global-2-1", "of a later epoch", true),
        ("global-1-99", "of an earlier epoch", false),
    ];
    let mut held = record("global/a", "global-1-5", "held");
    for (at, bytes, replaces) in cases {
        let receipt = store.apply(vec![copy("global/a", at, bytes)]).await.unwrap();
        if replaces {
            held = record("global/a", at, bytes);
        }
        assert_eq!(receipt.written[0].changed, replaces, "{at}");
        assert_eq!(receipt.written[0].version, held.version, "{at}");
        assert_eq!(store.get(&held.key).await.unwrap().as_ref(), Some(&held), "{at}");
    }
}

pub(crate) async fn a_late_copy_does_not_undo_a_deletion(kit: &Kit) {
    let store = kit.store("east");
    store.apply(vec![copy("global/a", "global-1-5", "1"), forget("global/a", "global-1-8")]).await.unwrap();
    for at in ["global-1-5", "global-1-8"] {
        let late = store.apply(vec![copy("global/a", at, "1")]).await.unwrap();
        assert_eq!((late.written[0].changed, &late.written[0].version), (false, &version("global-1-8")));
        assert_eq!(store.get(&key("global/a")).await.unwrap(), None);
    }
    let later = store.apply(vec![copy("global/a", "global-1-9", "2")]).await.unwrap();
    assert!(later.written[0].changed && later.written[0].created);
}

pub(crate) async fn an_earlier_deletion_leaves_a_later_copy(kit: &Kit) {
    let store = kit.store("east");
    store.apply(vec![copy("global/a", "global-1-5", "1")]).await.unwrap();
    let earlier = store.apply(vec![forget("global/a", "global-1-4")]).await.unwrap();
    assert_eq!((earlier.written[0].changed, &earlier.written[0].version), (false, &version("global-1-5")));
    assert!(store.get(&key("global/a")).await.unwrap().is_some());
    // "Gone by now" is what is known where the deletion itself is forgotten.
    let now = store.apply(vec![forget("global/a", "global-1-5")]).await.unwrap();
    assert!(now.written[0].changed);
    assert_eq!(store.get(&key("global/a")).await.unwrap(), None);
}

pub(crate) async fn a_deletion_of_what_was_never_held_is_passed_on(kit: &Kit) {
    let store = kit.store("east");
    let batch = vec![forget("global/a", "global-1-5"), Write::Advance(world(&["global-1-5"]))];
    assert!(store.apply(batch).await.unwrap().written[0].changed);
    let lacked = store.since(world(&["global-1-4", "east-1-0"]), Filter::all()).await.unwrap();
    assert_eq!(lacked.tombstones, [(key("global/a"), version("global-1-5"))]);
}

pub(crate) async fn worlds_advance_and_never_go_back(kit: &Kit) {
    let store = kit.store("east");
    let cases = [
        (world(&["global-1-5"]), world(&["global-1-5", "east-1-0"]), 1),
        (world(&["global-1-4", "west-1-1"]), world(&["global-1-5", "west-1-1", "east-1-0"]), 2),
        (world(&["global-1-5", "west-1-0"]), world(&["global-1-5", "west-1-1", "east-1-0"]), 2),
        (world(&["east-7-700"]), world(&["global-1-5", "west-1-1", "east-1-0"]), 2),
        (world(&["global-2-1"]), world(&["global-2-1", "west-1-1", "east-1-0"]), 3),
    ];
    for (advance, want, sequence) in cases {
        let receipt = store.apply(vec![Write::Advance(advance.clone())]).await.unwrap();
        assert_eq!((receipt.world, receipt.sequence), (want.clone(), sequence), "{advance:?}");
        assert_eq!(store.head().await.unwrap().world, want);
        assert!(receipt.written.is_empty());
    }
}

pub(crate) async fn a_copy_must_come_from_another_origin(kit: &Kit) {
    let store = kit.store("east");
    assert_eq!(store.origin(), &origin("east"));
    let refused = [
        copy("east/a", "east-1-1", "1"),
        copy("east/a", "global-1-1", "1"),
        copy("west/a", "global-1-1", "1"),
        forget("east/a", "east-1-1"),
        forget("west/a", "global-1-1"),
    ];
    for write in refused {
        let answer = store.apply(vec![write.clone()]).await;
        assert!(matches!(answer, Err(Error::NoCopy { .. })), "{write:?}");
    }
}

pub(crate) async fn a_batch_applied_twice_changes_nothing(kit: &Kit) {
    let store = kit.store("east");
    let batches = || {
        let first = vec![
            copy("global/a", "global-1-5", "1"),
            forget("global/b", "global-1-6"),
            copy("global/c", "global-1-7", "1"),
            Write::Advance(world(&["global-1-7"])),
        ];
        [first, vec![forget("global/c", "global-1-8"), Write::Advance(world(&["global-1-8"]))]]
    };
    for batch in batches() {
        let receipt = store.apply(batch).await.unwrap();
        assert!(receipt.written.iter().all(|written| written.changed));
    }
    let (head, listing) = (store.head().await.unwrap(), store.list(Filter::all()).await.unwrap());
    let [first, second] = batches();
    for batch in [second.clone(), first, second] {
        let receipt = store.apply(batch).await.unwrap();
        assert!(receipt.written.iter().all(|written| !written.changed));
        assert_eq!(store.head().await.unwrap(), head);
        assert_eq!(store.list(Filter::all()).await.unwrap(), listing);
    }
}

pub(crate) async fn what_left_without_being_deleted_comes_back_as_it_was(kit: &Kit) {
    let store = kit.store("east");
    let document = || copy("global/a", "global-1-5", "1");
    let up_to = |at: &str| Write::Advance(world(&[at]));
    store.apply(vec![document(), up_to("global-1-6")]).await.unwrap();
    store.apply(vec![forget("global/a", "global-1-8"), up_to("global-1-8")]).await.unwrap();
    // Who knows less than that it left says nothing of now.
    for writes in [vec![document()], vec![document(), up_to("global-1-7")]] {
        assert!(!store.apply(writes).await.unwrap().written[0].changed);
    }
    let back = store.apply(vec![document(), up_to("global-1-8")]).await.unwrap();
    assert!(back.written[0].created);
    let held = store.get(&key("global/a")).await.unwrap();
    assert_eq!(held, Some(record("global/a", "global-1-5", "1")), "its revision is as old as it is");
    store.apply(vec![forget("global/a", "global-1-9"), up_to("global-1-9")]).await.unwrap();
    assert_eq!(store.get(&key("global/a")).await.unwrap(), None, "and leaves again");
}

pub(crate) async fn what_came_long_after_it_was_written_is_told_to_who_was_past_it(kit: &Kit) {
    let store = kit.store("global");
    let west = |writes: Vec<Write>, at: &str| {
        let passed_on = [Write::Retell(origin("west")), Write::Advance(world(&[at]))];
        store.apply(writes.into_iter().chain(passed_on).collect())
    };
    let lacked_since = async |have: &World| {
        let lacked = store.since(have.clone(), Filter::all().not_written_by(origin("east"))).await.unwrap();
        let keys: Vec<String> = lacked.records.iter().map(|record| record.key.name.to_string()).collect();
        let gone: Vec<String> = lacked.tombstones.iter().map(|(key, _)| key.name.to_string()).collect();
        (lacked.whole, keys, gone)
    };
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    store.transact(vec![put("global/other", "1")]).await.unwrap();
    west(vec![copy("west/a", "west-1-5", "1"), copy("west/b", "west-1-6", "1")], "west-1-9").await.unwrap();
    let before = store.head().await.unwrap();

    // Nothing else of its origin moved, and nothing of anybody else is told.
    let receipt = west(vec![copy("west/late", "west-1-3", "1")], "west-1-9").await.unwrap();
    assert_eq!(receipt.world, world(&["global-1-2", "west-1-9"]));
    assert_ne!(store.head().await.unwrap().hash, before.hash);
    assert_eq!(lacked_since(&before.world).await, (false, names(&["late", "a", "b"]), vec![]));
    let now = store.head().await.unwrap().world;
    assert_eq!(lacked_since(&now).await, (false, vec![], vec![]));

    // The same of what goes.
    west(vec![forget("west/b", "west-1-9")], "west-1-9").await.unwrap();
    assert_eq!(lacked_since(&now).await, (false, names(&["late", "a"]), names(&["b"])));

    // After it, differences are told as ever; and who only repeats what is held brings nothing late.
    let now = store.head().await.unwrap().world;
    let again = vec![copy("west/a", "west-1-5", "1"), copy("west/c", "west-1-11", "1")];
    west(again, "west-1-11").await.unwrap();
    assert_eq!(lacked_since(&now).await, (false, names(&["c"]), vec![]));
    assert_eq!(store.head().await.unwrap().point, now.point(&origin("global")).unwrap());
}

pub(crate) async fn an_epoch_of_another_that_is_passed_on_is_told_without_all_others(kit: &Kit) {
    let (store, east) = (kit.store("global"), kit.store("east"));
    let follow = async || {
        let filter = || Filter::all().not_written_by(origin("east"));
        let have = east.head().await.unwrap().world;
        let known = have.point(&origin("west"));
        let lacked = store.since(have, filter()).await.unwrap();
        let (whole, many) = (lacked.whole, lacked.records.len());
        let begins = lacked.world.point(&origin("west")).map(|at| at.epoch) != known.map(|at| at.epoch);
        let reset = begins.then(|| Write::Reset(origin("west")));
        east.apply(reset.into_iter().chain(lacked.into_writes([])).collect()).await.unwrap();
        let (held, holds) = (east.list(filter()).await.unwrap(), store.list(filter()).await.unwrap());
        assert_eq!(held.records, holds.records);
        (whole, many)
    };
    store.transact(vec![put("global/a", "1"), put("global/b", "1")]).await.unwrap();
    let lost = vec![
        copy("west/a", "west-1-77", "lost"),
        copy("west/b", "west-1-20", "the same"),
        copy("west/c", "west-1-60", "lost"),
        Write::Advance(world(&["west-1-90"])),
    ];
    store.apply(lost).await.unwrap();
    assert_eq!(follow().await, (false, 5));
    let back = vec![
        Write::Reset(origin("west")),
        copy("west/a", "west-1-30", "put back"),
        forget("west/c", "west-2-90"),
        Write::Retell(origin("west")),
        Write::Advance(world(&["west-2-90"])),
    ];
    store.apply(back).await.unwrap();
    assert_eq!(follow().await, (false, 2));
    assert_eq!(follow().await, (false, 0));
}

pub(crate) async fn who_knows_more_of_another_than_was_told_as_a_difference_is_told_everything(kit: &Kit) {
    let store = kit.store("global");
    let filter = || Filter::all().not_written_by(origin("east"));
    let is_whole = async |at: &str| store.since(world(&[at]), filter()).await.unwrap().whole;
    store.apply(vec![copy("west/a", "west-1-5", "1"), Write::Advance(world(&["west-1-9"]))]).await.unwrap();
    assert!(!is_whole("west-1-12").await, "it has nothing to learn");
    // What came and went between is not among it: this store was put back, and was told all that there is by now.
    let whole = vec![
        copy("west/b", "west-1-17", "1"),
        Write::Whole(origin("west")),
        Write::Advance(world(&["west-1-20"])),
    ];
    store.apply(whole).await.unwrap();
    for (at, whole) in [
        ("west-1-5", false),
        ("west-1-9", false),
        ("west-1-10", true),
        ("west-1-19", true),
        ("west-1-20", false),
    ] {
        assert_eq!(is_whole(at).await, whole, "{at}");
    }
    let zone =
        store.since(world(&["west-1-12"]), Filter::all().not_written_by(origin("west"))).await.unwrap();
    assert!(!zone.whole, "it knows of itself");

    store.apply(vec![Write::Advance(world(&["west-1-30"]))]).await.unwrap();
    assert!(!is_whole("west-1-25").await, "differences are told as ever");
    for at in 0..40 {
        let upto = world(&[&format!("west-1-{}", 31 + 2 * at)]);
        store.apply(vec![Write::Whole(origin("west")), Write::Advance(upto)]).await.unwrap();
    }
    assert!(is_whole("west-1-12").await, "however often that happens");
}
