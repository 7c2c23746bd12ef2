//! The disk fails, and works again, while the store is open.

use std::sync::Arc;
use std::time::Duration;

use super::fake_disk::{Condition, FakeDisk};
use super::work::{Work, model, same};
use super::{Dice, assert_none, failing_seeds, open};
use crate::error::Error;
use crate::store::Store;

#[test]
fn a_write_that_the_disk_refused_did_not_happen_and_reads_go_on() {
    assert_none(failing_seeds(100, async |seed| live_with(seed).await));
}

async fn live_with(seed: u64) -> Result<(), String> {
    let mut dice = Dice(!seed);
    let disk = Arc::new(FakeDisk::new(seed));
    let store = open(&disk)?;
    let model = model();
    let mut watch = store.watch(0);
    let mut condition = Condition::Sound;
    // Of the second: since the disk last worked.
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    for n in 1..=30 {
        if dice.one_in(4) {
            let conditions = [Condition::ReadOnly, Condition::SyncFails, Condition::Full, Condition::Dead];
            condition = match condition {
                Condition::Sound => conditions[dice.below(4) as usize],
                _ => Condition::Sound,
            };
            disk.becomes(condition);
            if condition == Condition::Sound {
                works_again(&store).await?;
                refused.clear();
            }
        }
        let work = Work::roll(&mut dice, n);
        match work.ask(&store).await {
            Ok(()) => {
                work.ask(&model).await.map_err(|error| format!("only here: {error}"))?;
                acknowledged.push(work);
                refused.clear();
            }
            Err(Error::Full { .. }) if condition == Condition::Full => refused.push(work),
            Err(Error::Unavailable { .. }) if condition != Condition::Sound => refused.push(work),
            Err(error @ (Error::Full { .. } | Error::Unavailable { .. })) => {
                return Err(format!("{condition:?}, and {error}"));
            }
            Err(other) => drop(work.ask(&model).await.expect_err(&other.to_string())),
        }
        if condition != Condition::Dead {
            same(&store, &model).await.map_err(|error| format!("{n} {condition:?}: {error}"))?;
        }
    }
    if condition != Condition::Sound && dice.one_in(2) {
        // It ends before the disk works again: then one that was refused may turn out to have happened.
        let disk = Arc::new(disk.after_a_power_cut());
        drop(store);
        let store = open(&disk).map_err(|error| format!("it does not open again: {error}"))?;
        return same_or_with_one_of(&store, &acknowledged, &refused).await;
    }
    disk.becomes(Condition::Sound);
    works_again(&store).await?;
    same(&store, &model).await?;
    let last = model.head().await.map_err(|error| error.to_string())?.sequence;
    while watch.position() < last {
        let before = watch.position();
        match watch.next().await {
            Ok(commit) if commit.sequence == before + 1 => {}
            Ok(commit) => return Err(format!("{} after {before}", commit.sequence)),
            Err(Error::Compacted { .. }) => watch = store.watch(last),
            Err(error) => return Err(error.to_string()),
        }
    }
    // What was acknowledged is on the disk, whatever the kernel made of syncs that failed.
    let disk = Arc::new(disk.after_a_power_cut());
    drop(store);
    same(&open(&disk)?, &model).await.map_err(|error| format!("after a power cut: {error}"))
}

/// What was acknowledged, or that and one whole of those that were refused.
async fn same_or_with_one_of(
    store: &Arc<dyn Store>,
    acknowledged: &[Work],
    refused: &[Work],
) -> Result<(), String> {
    let mut found = Vec::new();
    for more in std::iter::once(None).chain(refused.iter().map(Some)) {
        let model = model();
        for work in acknowledged.iter().chain(more) {
            let _ = work.ask(&model).await;
        }
        match same(store, &model).await {
            Ok(()) => return Ok(()),
            Err(difference) => found.push(difference),
        }
    }
    Err(format!("after an end with a broken disk: {}", found.join("; ")))
}

/// By itself.
async fn works_again(store: &Arc<dyn Store>) -> Result<(), String> {
    let mut fault = store.fault();
    let again = tokio::time::timeout(Duration::from_secs(30), fault.wait_for(Option::is_none)).await;
    again.map(drop).map_err(|_| "it does not work again".to_owned())
}

/// A file that is not as the database wrote it makes the database panic, in the middle of a write.
#[test]
fn a_write_in_which_the_database_panics_did_not_happen_and_the_next_ones_do() {
    assert_none(failing_seeds(20, async |seed| survive_panics(seed).await));
}

async fn survive_panics(seed: u64) -> Result<(), String> {
    let mut dice = Dice(!seed);
    let disk = Arc::new(FakeDisk::new(seed));
    let store = open(&disk)?;
    let model = model();
    let mut panics = 0;
    for n in 1..=30 {
        let armed = dice.one_in(3);
        if armed {
            disk.panic_after(dice.below(6) + 1);
        }
        let work = Work::roll(&mut dice, n);
        match work.ask(&store).await {
            Ok(()) => work.ask(&model).await.map_err(|error| format!("only here: {error}"))?,
            Err(Error::Unavailable { .. }) if armed && !disk.is_to_panic() => panics += 1,
            Err(error @ (Error::Full { .. } | Error::Unavailable { .. } | Error::Closed)) => {
                return Err(format!("{n}: {error}"));
            }
            Err(other) => drop(work.ask(&model).await.expect_err(&other.to_string())),
        }
        same(&store, &model).await.map_err(|error| format!("{n}: {error}"))?;
        disk.panic_after(u64::MAX / 2);
        works_again(&store).await?;
    }
    if panics == 0 { Err("nothing panicked".to_owned()) } else { Ok(()) }
}
