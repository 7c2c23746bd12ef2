//! What somebody lacks.

use std::sync::Arc;

use model::{DocumentKey, Origin, Record, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use store::{Changes, Expect, Filter, Retention, Store, Write};

use crate::kit::{Kit, copy, delete, draft, forget, key, origin, put, record, version, world};

pub(crate) async fn who_has_everything_lacks_nothing(kit: &Kit) {
    let store = kit.store("global");
    store.transact(vec![put("global/a", "1"), put("global/b", "1"), delete("global/a")]).await.unwrap();
    let have = store.head().await.unwrap().world;
    let lacked = store.since(have.clone(), Filter::all()).await.unwrap();
    assert_eq!(lacked, Changes { whole: false, records: vec![], tombstones: vec![], world: have });
}

pub(crate) async fn who_has_nothing_lacks_everything(kit: &Kit) {
    let store = kit.store("global");
    store.transact(vec![put("global/b", "1"), put("global/a", "1"), delete("global/b")]).await.unwrap();
    store.apply(vec![copy("east/c", "east-1-4", "1"), copy("east/b", "east-1-5", "1")]).await.unwrap();
    let lacked = store.since(World::default(), Filter::all()).await.unwrap();
    let want = [
        record("global/a", "global-1-2", "1"),
        record("east/c", "east-1-4", "1"),
        record("east/b", "east-1-5", "1"),
    ];
    assert_eq!(lacked.records, want, "in the order of their versions");
    assert_eq!(lacked.tombstones, [(key("global/b"), version("global-1-3"))]);
    assert_eq!(lacked.world, world(&["global-1-3"]));
}

pub(crate) async fn forgotten_deletions_make_it_whole(kit: &Kit) {
    let store = kit.store_with("global", Retention { tombstones: 2, ..Retention::default() });
    store.transact((1..=4).map(|n| put(&format!("global/d{n}"), "1")).collect()).await.unwrap();
    // Revisions 5, 6 and 7, of which the first is forgotten.
    store.transact((1..=3).map(|n| delete(&format!("global/d{n}"))).collect()).await.unwrap();
    let since = async |have: &str| store.since(world(&[have]), Filter::all()).await.unwrap();
    let whole = since("global-1-4").await;
    assert_eq!((whole.whole, whole.tombstones.len()), (true, 0));
    assert_eq!(whole.records, [record("global/d4", "global-1-4", "1")], "the complete set");
    let difference = since("global-1-5").await;
    assert_eq!((difference.whole, difference.records.len(), difference.tombstones.len()), (false, 0, 2));
    assert!(store.since(World::default(), Filter::all()).await.unwrap().whole);
    // Forgotten deletions of one origin say nothing about another's documents.
    let east = Filter::all().written_by(origin("east"));
    assert!(!store.since(World::default(), east).await.unwrap().whole);
    // A document that comes back takes its tombstone with it.
    store.transact(vec![put("global/d2", "1"), delete("global/d4")]).await.unwrap();
    assert!(!since("global-1-5").await.whole);
}

pub(crate) async fn another_epoch_makes_it_whole(kit: &Kit) {
    let store = kit.store("global");
    let batch = vec![
        copy("east/a", "east-1-3", "1"),
        copy("east/b", "east-2-9", "1"),
        Write::Advance(world(&["east-2-9"])),
    ];
    store.apply(batch).await.unwrap();
    let cases = [
        ("an earlier epoch", "east-1-12", true, 2),
        ("the same epoch, before", "east-2-8", false, 1),
        ("the same epoch, there", "east-2-9", false, 0),
        ("a later epoch, which is ahead", "east-3-1", false, 0),
    ];
    for (why, have, whole, records) in cases {
        let lacked = store.since(world(&[have]), Filter::all()).await.unwrap();
        assert_eq!((lacked.whole, lacked.records.len()), (whole, records), "{why}");
    }
}

pub(crate) async fn the_filter_bounds_what_is_lacked(kit: &Kit) {
    let store = kit.store("global");
    let batch = vec![
        put("global/a", "1"),
        put("global/b", "1"),
        delete("global/b"),
        copy("east/a", "east-1-1", "1"),
        forget("east/b", "east-1-2"),
        Write::Advance(world(&["east-1-2"])),
    ];
    store.apply(batch).await.unwrap();
    let lacked = store.since(World::default(), Filter::all().not_written_by(origin("east"))).await.unwrap();
    assert_eq!(lacked.records, [record("global/a", "global-1-1", "1")]);
    assert_eq!(lacked.tombstones, [(key("global/b"), version("global-1-3"))]);
    assert_eq!(lacked.world, world(&["global-1-3", "east-1-2"]), "the world is that of the store");
}

/// A global with documents of its own and of a third zone, a zone that follows it, and another that
/// follows that one: after each round of `since`, all hold the same.
pub(crate) async fn replaying_what_is_lacked_gives_the_same_store(kit: &Kit) {
    let config = Config { cases: if kit.is_embedded() { 12 } else { 150 }, ..Config::default() };
    let steps = proptest::collection::vec(step(), 1..50);
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let result = TestRunner::new(config).run(&(steps, 0..6_u64), |(steps, tombstones)| {
            handle.block_on(replay(kit, steps, tombstones));
            Ok(())
        });
        result.unwrap();
    });
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// What a zone wrote reaches the global.
    Hear(u8, u8),
    HearDeleted(u8),
    /// The first follower, or the second, asks what it lacks.
    FollowGlobal,
    FollowFollower,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, 0..3_u8).prop_map(|(name, bytes)| Step::Put(name, bytes)),
        3 => (0..6_u8).prop_map(Step::Delete),
        2 => (0..3_u8, 0..3_u8).prop_map(|(name, bytes)| Step::Hear(name, bytes)),
        2 => (0..3_u8).prop_map(Step::HearDeleted),
        2 => Just(Step::FollowGlobal),
        1 => Just(Step::FollowFollower),
    ]
}

async fn replay(kit: &Kit, steps: Vec<Step>, tombstones: u64) {
    let few = Retention { tombstones, ..Retention::default() };
    let global = kit.store_with("global", few);
    let east = kit.store_with("east", few);
    let west = kit.store_with("west", few);
    // Documents of the followers' own are none of the global's business, and must survive.
    east.put(draft("east/own", "1"), Expect::Any).await.unwrap();
    west.put(draft("west/own", "1"), Expect::Any).await.unwrap();
    let mut heard = 0;
    for step in steps {
        match step {
            Step::Put(name, bytes) => {
                let draft = draft(&format!("global/d{name}"), &bytes.to_string());
                global.put(draft, Expect::Any).await.unwrap();
            }
            // It may not be there.
            Step::Delete(name) => drop(global.delete(key(&format!("global/d{name}")), Expect::Any).await),
            Step::Hear(name, bytes) => {
                heard += 1;
                let at = format!("north-1-{heard}");
                let copy = copy(&format!("north/d{name}"), &at, &bytes.to_string());
                global.apply(vec![copy, Write::Advance(world(&[&at]))]).await.unwrap();
            }
            Step::HearDeleted(name) => {
                heard += 1;
                let at = format!("north-1-{heard}");
                let forget = forget(&format!("north/d{name}"), &at);
                global.apply(vec![forget, Write::Advance(world(&[&at]))]).await.unwrap();
            }
            Step::FollowGlobal => follow(&global, &east, &origin("west")).await,
            Step::FollowFollower => follow(&east, &west, &origin("west")).await,
        }
    }
    follow(&global, &east, &origin("west")).await;
    follow(&east, &west, &origin("west")).await;
}

/// `follower` asks for what it may hold of others', and then holds what `leader` does.
async fn follow(leader: &Arc<dyn Store>, follower: &Arc<dyn Store>, not: &Origin) {
    let own = follower.origin().clone();
    let filter = Filter::all().not_written_by(own.clone());
    let have = follower.head().await.unwrap().world;
    let held = documents(follower, &own, not).await.into_iter().map(|record| record.key);
    let lacked = leader.since(have, filter).await.unwrap();
    follower.apply(lacked.into_writes(held.collect::<Vec<DocumentKey>>())).await.unwrap();
    assert_eq!(documents(follower, &own, not).await, documents(leader, &own, not).await);
    let (led, leads) = (follower.head().await.unwrap().world, leader.head().await.unwrap().world);
    assert!(led.covers_all(&leads), "{led:?} covers {leads:?}");
}

async fn documents(store: &Arc<dyn Store>, own: &Origin, not: &Origin) -> Vec<Record> {
    let mut records = store.list(Filter::all().not_written_by(own.clone())).await.unwrap().records;
    records.retain(|record| record.key.origin != *not);
    records
}
