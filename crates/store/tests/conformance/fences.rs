//! One session at a time writes for a lane.

use store::{Error, Expect, Fence, Filter, Write};

use crate::kit::{Kit, copy, draft, key, world};

pub(crate) async fn a_batch_of_an_earlier_session_is_refused_whole(kit: &Kit) {
    let store = kit.store("east");
    let first = store.fence("global/policy").await.unwrap();
    let batch = |fence: &Fence, at: &str, bytes: &str| {
        let advance = Write::Advance(world(&[at]));
        // Wherever it stands in the batch.
        vec![copy("global/a", at, bytes), advance, Write::Fence(fence.clone())]
    };
    let receipt = store.apply(batch(&first, "global-1-1", "1")).await.unwrap();
    assert_eq!(receipt.written.len(), 1, "a fence is no document");
    let second = store.fence("global/policy").await.unwrap();
    let (head, listing) = (store.head().await.unwrap(), store.list(Filter::all()).await.unwrap());
    let late = store.apply(batch(&first, "global-1-2", "2")).await;
    assert!(matches!(&late, Err(Error::Fenced { lane }) if lane == "global/policy"), "{late:?}");
    assert_eq!(store.head().await.unwrap(), head);
    assert_eq!(store.list(Filter::all()).await.unwrap(), listing);
    store.apply(batch(&second, "global-1-2", "2")).await.unwrap();
    assert_eq!(store.get(&key("global/a")).await.unwrap().unwrap().bytes, "2");
}

pub(crate) async fn lanes_do_not_concern_each_other(kit: &Kit) {
    let store = kit.store("global");
    let east = store.fence("east/documents").await.unwrap();
    let west = store.fence("west/documents").await.unwrap();
    store.fence("east/exports").await.unwrap();
    store.apply(vec![Write::Fence(east.clone()), copy("east/a", "east-1-1", "1")]).await.unwrap();
    store.apply(vec![Write::Fence(west), copy("west/a", "west-1-1", "1")]).await.unwrap();
    let stolen = Fence { lane: "west/documents".to_owned(), ..east };
    let answer = store.apply(vec![Write::Fence(stolen), copy("west/a", "west-1-2", "1")]).await;
    assert!(matches!(answer, Err(Error::Fenced { .. })));
    // What is written without a fence asks for none.
    store.put(draft("global/a", "1"), Expect::Any).await.unwrap();
}

pub(crate) async fn a_forgotten_lane_refuses_what_it_once_took(kit: &Kit) {
    let store = kit.store("global");
    let fence = store.fence("east/documents").await.unwrap();
    store.unfence("east/documents").await.unwrap();
    let batch = |fence: &Fence| vec![Write::Fence(fence.clone()), copy("east/a", "east-1-1", "1")];
    assert!(matches!(store.apply(batch(&fence)).await, Err(Error::Fenced { .. })));
    let again = store.fence("east/documents").await.unwrap();
    assert_ne!(again, fence, "a generation is never given twice");
    assert!(matches!(store.apply(batch(&fence)).await, Err(Error::Fenced { .. })));
    store.apply(batch(&again)).await.unwrap();
}

/// Two sessions of one peer take the lane from each other while both write: no batch of one that lost it
/// comes after the first of the one that took it.
pub(crate) async fn whoever_takes_the_lane_last_writes_it(kit: &Kit) {
    const SESSIONS: u64 = 6;
    let store = kit.store("east");
    let sessions = (0..SESSIONS).map(|session| {
        let store = store.clone();
        tokio::spawn(async move {
            let fence = store.fence("global/policy").await.unwrap();
            for n in 1.. {
                let name = format!("global/of{session}");
                let batch = vec![Write::Fence(fence.clone()), copy(&name, &format!("global-1-{n}"), "1")];
                match store.apply(batch).await {
                    Ok(_) if n < 20 => {}
                    Ok(_) | Err(Error::Fenced { .. }) => break,
                    Err(other) => panic!("{other}"),
                }
            }
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        session.await.unwrap();
    }
    let mut watch = store.watch(0);
    let mut writers = Vec::new();
    for _ in 0..store.head().await.unwrap().sequence {
        let commit = watch.next().await.unwrap();
        writers.push(commit.changes[0].key().name.to_string());
    }
    writers.dedup();
    let turns = writers.len();
    writers.sort();
    writers.dedup();
    assert_eq!(writers.len(), turns, "who lost the lane never writes again");
}
