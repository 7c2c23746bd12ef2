//! What travels where follows from the table of kinds, and that from the program. So a new program may share what the
//! one before it kept to itself, or the other way round, though nobody wrote anything.
//!
//! That is an event of the owner's own line: it begins an epoch, which continues the one before. Every copy follows by
//! itself, and is told the whole set once: what begins to concern it enters, what no longer does leaves.

use model::kinds;
use store::Store;
use tracing::info;

/// Where the rules are kept by which the last program chose.
const NAME: &str = "views";

/// Begins an epoch if this program shares other kinds than the last one that had the store.
pub async fn tell_anew_if_changed(store: &dyn Store) -> Result<(), store::Error> {
    note(store, &rules()).await
}

/// The table, as text that is the same for the same choices.
fn rules() -> String {
    let mut lines: Vec<String> = kinds::all()
        .iter()
        .map(|kind| {
            let kinds::Travels { down, up, across } = kind.travels;
            format!("{kind} {down} {up} {across}\n")
        })
        .collect();
    lines.sort();
    lines.concat()
}

async fn note(store: &dyn Store, rules: &str) -> Result<(), store::Error> {
    let known = store.secret_get(NAME).await?;
    if known.as_ref().is_some_and(|known| known.expose() == rules.as_bytes()) {
        return Ok(());
    }
    let own = store.head().await?.point;
    // Noted once the epoch has begun: a crash in between costs one more of them. The other way round nobody would be told.
    if known.is_some() && own.revision > 0 {
        let begun = store.begin_epoch(own, None).await?;
        info!(?begun, "this program shares other kinds of documents than the one before: all are told anew");
    }
    store.secret_put(NAME, rules.as_bytes().to_vec().into()).await
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use model::{Origin, Point, World};
    use store::{Draft, EmbeddedStore, Expect, Filter, MemoryStore};
    use sync::line::{Judged, judge};

    use super::*;

    #[tokio::test]
    async fn a_kind_that_begins_to_travel_is_told_to_who_was_past_it_and_followed() {
        let store = MemoryStore::new(Origin::Global);
        note(&*store, "old").await.unwrap();
        let draft = Draft::new("MeshTimeout/default/global//t".parse().unwrap(), "{}");
        store.put(draft, Expect::Any).await.unwrap();
        let before = store.head().await.unwrap();
        let have: World = [(Origin::Global, before.point)].into_iter().collect();
        note(&*store, "old").await.unwrap();
        assert_eq!(store.head().await.unwrap(), before, "the same program again");

        note(&*store, "new").await.unwrap();
        let after = store.head().await.unwrap().point;
        assert_eq!(after, Point { epoch: 2, revision: 1 });
        let changes = store.since(have, Filter::all()).await.unwrap();
        assert!(changes.whole && changes.records.len() == 1, "{changes:?}");
        let hash = store.hash_at(before.point).await.unwrap().unwrap();
        let judged = judge(Some((before.point, &hash.0)), after, &hash.0);
        assert_eq!(judged, Judged::Follows, "nobody has to accept it");
        note(&*store, "new").await.unwrap();
        assert_eq!(store.head().await.unwrap().point, after, "once is enough");
    }

    /// Works until it has waited so often, as if the process were killed then. Answers whether it was done by that.
    async fn cut_after(waits: usize, work: impl Future) -> bool {
        let (mut work, mut left) = (pin!(work), waits);
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => {
                left -= 1;
                Poll::Pending
            }
        })
        .await
    }

    #[tokio::test]
    async fn whenever_a_new_program_is_killed_the_next_start_tells_anew_what_was_not_told() {
        let mut cuts = 0;
        loop {
            let dir = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(dir.path(), Origin::Global).unwrap();
            note(&*store, "old").await.unwrap();
            let draft = Draft::new("MeshTimeout/default/global//t".parse().unwrap(), "{}");
            store.put(draft, Expect::Any).await.unwrap();
            let before = store.head().await.unwrap();
            let is_done = cut_after(cuts, note(&*store, "new")).await;
            let between = store.head().await.unwrap();

            note(&*store, "new").await.unwrap();
            let after = store.head().await.unwrap().point;
            assert!((2..=3).contains(&after.epoch), "cut after {cuts}: {after:?}");
            for told in [before, between] {
                let judged = judge(Some((told.point, &told.hash.0)), after, &told.hash.0);
                assert_eq!(judged, Judged::Follows, "cut after {cuts}");
                assert_eq!(store.hash_at(told.point).await.unwrap().as_ref(), Some(&told.hash), "{told:?}");
            }
            if is_done {
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 2, "it waits at least for the epoch and for its note");
    }

    #[tokio::test]
    async fn a_new_store_only_notes_what_it_shares() {
        let store = MemoryStore::new(Origin::Global);
        tell_anew_if_changed(&*store).await.unwrap();
        assert_eq!(store.head().await.unwrap().point.epoch, 1);
        assert!(rules().contains("MeshService false true true\n"), "{}", rules());
    }
}
