//! The change log and its watchers.

use std::collections::BTreeMap;

use futures::FutureExt;
use store::{Change, Commit, Error, Expect, Filter, Retention, Write};

use crate::kit::{Kit, copy, delete, draft, key, put, record, version, world};

pub(crate) async fn a_watch_sees_every_change_after_its_start(kit: &Kit) {
    let store = kit.store("global");
    store.transact(vec![put("global/a", "1")]).await.unwrap();
    store.transact(vec![put("global/a", "2")]).await.unwrap();
    let mut live = store.watch(2);
    store.transact(vec![delete("global/a")]).await.unwrap();
    store.apply(vec![Write::Advance(world(&["east-1-4"]))]).await.unwrap();
    let want = [
        vec![Change::Put(record("global/a", "global-1-1", "1"))],
        vec![Change::Put(record("global/a", "global-1-2", "2"))],
        vec![Change::Deleted { key: key("global/a"), version: version("global-1-3") }],
        vec![],
    ];
    let worlds =
        [&["global-1-1"][..], &["global-1-2"], &["global-1-3"], &["global-1-3", "east-1-4"]].map(world);
    for start in 0..=want.len() {
        let mut watch = store.watch(start as u64);
        for n in start..want.len() {
            let commit = watch.next().await.unwrap();
            let expected =
                Commit { sequence: n as u64 + 1, world: worlds[n].clone(), changes: want[n].clone() };
            assert_eq!(*commit, expected, "from {start}");
            assert_eq!(watch.position(), commit.sequence);
        }
        assert!(watch.next().now_or_never().is_none(), "nothing comes after the last");
    }
    assert_eq!(live.next().await.unwrap().changes, want[2]);
    assert_eq!(live.next().await.unwrap().changes, want[3]);
}

pub(crate) async fn a_transaction_is_seen_as_one(kit: &Kit) {
    let store = kit.store("global");
    let mut watch = store.watch(0);
    let batch = vec![
        put("global/a", "1"),
        copy("east/b", "east-1-9", "1"),
        put("global/c", "1"),
        Write::Advance(world(&["east-1-9"])),
    ];
    let receipt = store.apply(batch).await.unwrap();
    let commit = watch.next().await.unwrap();
    let versions: Vec<_> = commit.changes.iter().map(|change| change.version().to_string()).collect();
    assert_eq!(versions, ["global-1-1", "east-1-9", "global-1-2"]);
    assert_eq!((commit.sequence, &commit.world), (receipt.sequence, &receipt.world));
}

pub(crate) async fn nothing_is_missed_or_repeated_while_others_write(kit: &Kit) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 50;
    let store = kit.store("global");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let name = format!("global/d{}", (writer * 7 + n) % 10);
                    store.put(draft(&name, &format!("{writer} {n}")), Expect::Any).await.unwrap();
                }
            })
        })
        .collect();
    let watchers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let listing = store.list(Filter::all()).await.unwrap();
                let mut seen: BTreeMap<_, _> =
                    listing.records.into_iter().map(|record| (record.key.clone(), record)).collect();
                let mut watch = store.watch(listing.sequence);
                for sequence in listing.sequence + 1..=WRITERS * EACH {
                    let commit = watch.next().await.unwrap();
                    assert_eq!(commit.sequence, sequence);
                    for change in &commit.changes {
                        let Change::Put(record) = change else { panic!("nobody deletes: {change:?}") };
                        assert_eq!(record.version.point.revision, sequence, "one write for each");
                        seen.insert(record.key.clone(), record.clone());
                    }
                }
                seen
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let last = store.list(Filter::all()).await.unwrap();
    for watcher in watchers {
        let seen: Vec<_> = watcher.await.unwrap().into_values().collect();
        let mut want = last.records.clone();
        want.sort_by(|a, b| a.key.cmp(&b.key));
        assert_eq!(seen, want);
    }
}

pub(crate) async fn a_slow_watcher_catches_up(kit: &Kit) {
    let store = kit.store("global");
    let mut watch = store.watch(0);
    store.transact(vec![put("global/a", "0")]).await.unwrap();
    assert_eq!(watch.next().await.unwrap().sequence, 1);
    assert!(watch.next().now_or_never().is_none());
    // More than the live feed holds, and more than one piece of the log.
    let writes = (1..300).map(|n| store.put(draft("global/a", &n.to_string()), Expect::Any));
    for written in futures::future::join_all(writes).await {
        written.unwrap();
    }
    for sequence in 2..=300 {
        assert_eq!(watch.next().await.unwrap().sequence, sequence);
    }
    assert!(watch.next().now_or_never().is_none());
}

pub(crate) async fn giving_up_waiting_loses_nothing(kit: &Kit) {
    let store = kit.store("global");
    let mut watch = store.watch(0);
    for sequence in 1..=20 {
        // Polled at every stage of reading the log and waiting, and dropped.
        let early = watch.next().now_or_never();
        store.put(draft("global/a", &sequence.to_string()), Expect::Any).await.unwrap();
        let commit = match early.or_else(|| watch.next().now_or_never()) {
            Some(commit) => commit.unwrap(),
            None => watch.next().await.unwrap(),
        };
        assert_eq!(commit.sequence, sequence);
    }
}

pub(crate) async fn a_watch_from_before_the_log_is_told_to_list_again(kit: &Kit) {
    let store = kit.store_with("global", Retention { commits: 3, ..Retention::default() });
    let mut behind = store.watch(0);
    for n in 0..10 {
        store.put(draft("global/a", &n.to_string()), Expect::Any).await.unwrap();
    }
    let compacted = |answer| match answer {
        Err(Error::Compacted { after, oldest }) => (after, oldest),
        other => panic!("{other:?}"),
    };
    assert_eq!(compacted(store.watch(0).next().await), (0, 7));
    assert_eq!(compacted(store.watch(6).next().await), (6, 7));
    assert_eq!(compacted(behind.next().await), (0, 7));
    let mut watch = store.watch(7);
    for sequence in 8..=10 {
        assert_eq!(watch.next().await.unwrap().sequence, sequence);
    }
}

pub(crate) async fn a_watch_from_the_future_is_told_to_list_again(kit: &Kit) {
    let store = kit.store("global");
    store.transact(vec![put("global/a", "1")]).await.unwrap();
    assert!(matches!(store.watch(2).next().await, Err(Error::Compacted { after: 2, oldest: 0 })));
}

pub(crate) async fn a_large_log_is_cut_by_bytes_too(kit: &Kit) {
    let store = kit.store_with("global", Retention { commit_bytes: 1000, ..Retention::default() });
    let reaches = async |after| store.watch(after).next().await.is_ok();
    for n in 0..5 {
        store.put(draft("global/a", &n.to_string().repeat(400)), Expect::Any).await.unwrap();
    }
    assert_eq!((reaches(2).await, reaches(3).await), (false, true));
    store.put(draft("global/a", &"x".repeat(5000)), Expect::Any).await.unwrap();
    assert_eq!((reaches(4).await, reaches(5).await), (false, true), "the last one stays whatever its size");
    store.put(draft("global/a", "small"), Expect::Any).await.unwrap();
    store.put(draft("global/a", "smaller"), Expect::Any).await.unwrap();
    assert_eq!((reaches(5).await, reaches(6).await), (false, true), "bytes that went are not counted");
}

pub(crate) async fn a_watch_ends_with_the_store(kit: &Kit) {
    let store = kit.store("global");
    let mut fresh = store.watch(0);
    let mut waiting = store.watch(0);
    store.transact(vec![put("global/a", "1")]).await.unwrap();
    assert_eq!(waiting.next().await.unwrap().sequence, 1);
    drop(store);
    assert!(matches!(fresh.next().await, Err(Error::Closed)));
    assert!(matches!(waiting.next().await, Err(Error::Closed)));
}
