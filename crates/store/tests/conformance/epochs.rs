//! A store that was put back, and those who hold what it no longer knows.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use model::Point;
use store::{Filter, MemoryStore, Retention, RollingHash, Write};

use crate::kit::{Kit, at, copy, forget, key, put, record, version, world};

fn point(epoch: u64, revision: u64) -> Point {
    Point { epoch, revision }
}

pub(crate) async fn a_new_epoch_is_above_everything_and_goes_on_from_what_is_written(kit: &Kit) {
    let store = kit.store("global");
    store.transact(vec![put("global/a", "1"), put("global/b", "1")]).await.unwrap();
    let head = store.head().await.unwrap();
    let mut watch = store.watch(head.sequence);

    // Somebody was told three revisions more than are here.
    assert_eq!(store.begin_epoch(at(5), None).await.unwrap(), point(2, 5));
    let commit = watch.next().await.unwrap();
    assert!(commit.changes.is_empty());
    assert_eq!(commit.world, world(&["global-2-5"]));
    let written = store.transact(vec![put("global/a", "2")]).await.unwrap().written.remove(0);
    assert_eq!(written.version, version("global-2-6"));

    let hash = async |point| store.hash_at(point).await.unwrap();
    assert_eq!(hash(at(2)).await, Some(head.hash));
    assert_eq!(hash(point(2, 5)).await, Some(head.hash), "nothing was written between");
    assert!(hash(point(2, 6)).await.is_some_and(|hash| hash != head.hash));
    for elsewhere in [at(3), at(5), at(6), point(2, 2), point(2, 7), point(3, 6)] {
        assert_eq!(hash(elsewhere).await, None, "{elsewhere:?}");
    }
}

pub(crate) async fn an_epoch_begins_once_however_many_ask(kit: &Kit) {
    let store = kit.store("global");
    store.transact(vec![put("global/a", "1")]).await.unwrap();
    assert_eq!(store.begin_epoch(at(9), None).await.unwrap(), point(2, 9));
    let sequence = store.head().await.unwrap().sequence;
    assert_eq!(store.begin_epoch(at(7), None).await.unwrap(), point(2, 9));
    assert_eq!(store.begin_epoch(at(70), None).await.unwrap(), point(2, 9));
    assert_eq!(store.head().await.unwrap().sequence, sequence);
    assert_eq!(store.begin_epoch(point(4, 3), None).await.unwrap(), point(5, 9));
    assert!(store.hash_at(point(2, 9)).await.unwrap().is_some());
}

pub(crate) async fn a_line_that_is_taken_up_again_goes_on_from_where_it_was(kit: &Kit) {
    let store = kit.store("east");
    store.transact(vec![put("east/new", "1"), put("east/other", "1")]).await.unwrap();
    let known = RollingHash([7; 32]);
    assert_eq!(store.begin_epoch(at(97), Some(known)).await.unwrap(), point(2, 97));
    assert_eq!(store.hash_at(at(97)).await.unwrap(), Some(known));
    assert_eq!(store.hash_at(point(2, 97)).await.unwrap(), Some(known));
    assert_eq!(store.hash_at(at(1)).await.unwrap(), None, "what was written before is of no known line");
    let written = store.transact(vec![put("east/new", "2")]).await.unwrap().written.remove(0);
    assert_eq!(written.version, version("east-2-98"));

    let longer = kit.store("east");
    longer.transact(vec![put("east/a", "1"), put("east/b", "1"), put("east/c", "1")]).await.unwrap();
    assert_eq!(longer.begin_epoch(at(2), Some(known)).await.unwrap(), point(2, 3));
    assert_eq!(longer.hash_at(at(2)).await.unwrap(), Some(known));
}

pub(crate) async fn a_history_that_no_longer_counts_gives_way_to_older_numbers(kit: &Kit) {
    let store = kit.store("east");
    let held = vec![
        copy("global/a", "global-1-77", "lost"),
        copy("global/b", "global-1-20", "the same"),
        copy("global/c", "global-1-60", "lost"),
        forget("global/d", "global-1-80"),
        copy("west/a", "west-1-5", "of another"),
        Write::Advance(world(&["global-1-90", "west-1-5"])),
    ];
    store.apply(held).await.unwrap();
    let back = vec![
        Write::Reset("global".parse().unwrap()),
        copy("global/a", "global-1-30", "put back"),
        copy("global/b", "global-1-20", "the same"),
        forget("global/c", "global-1-50"),
        copy("global/d", "global-1-40", "put back"),
        copy("west/a", "west-1-4", "older"),
        Write::Advance(world(&["global-2-90"])),
    ];
    let receipt = store.apply(back).await.unwrap();
    let changed: Vec<bool> = receipt.written.iter().map(|written| written.changed).collect();
    assert_eq!(changed, [true, false, true, true, false]);
    let want = [
        record("global/a", "global-1-30", "put back"),
        record("global/b", "global-1-20", "the same"),
        record("global/d", "global-1-40", "put back"),
        record("west/a", "west-1-5", "of another"),
    ];
    assert_eq!(store.list(Filter::all()).await.unwrap().records, want);
    assert_eq!(store.get(&key("global/c")).await.unwrap(), None);
    assert_eq!(receipt.world.point(&"global".parse().unwrap()), Some(point(2, 90)));
}

#[tokio::test]
async fn a_copy_of_a_store_in_memory_goes_its_own_way_from_where_it_was_taken() {
    let global = "global".parse().unwrap();
    let store = MemoryStore::copyable(global, Retention::default(), Arc::new(|| UNIX_EPOCH));
    store.transact(vec![put("global/a", "1")]).await.unwrap();
    let copy = store.copy();
    assert_eq!(copy.head().await.unwrap(), store.head().await.unwrap());
    store.transact(vec![put("global/a", "2")]).await.unwrap();
    assert_eq!(&copy.get(&key("global/a")).await.unwrap().unwrap().bytes[..], b"1");
    copy.transact(vec![put("global/a", "3")]).await.unwrap();
    let (ours, theirs) = (store.head().await.unwrap(), copy.head().await.unwrap());
    assert_eq!(ours.point, theirs.point);
    assert_ne!(ours.hash, theirs.hash, "another history with the same key");
}
