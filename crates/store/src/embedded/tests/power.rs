//! The power goes at any moment.

use std::sync::Arc;

use super::fake_disk::FakeDisk;
use super::work::{Work, model, same};
use super::{Dice, assert_none, failing_seeds, open};
use crate::error::Error;

/// How often the power goes in one run.
const CUTS: u64 = 3;

#[test]
fn a_power_cut_leaves_what_was_acknowledged_and_nothing_half() {
    assert_none(failing_seeds(300, async |seed| live_through(FakeDisk::new(seed), seed).await));
}

/// Or the test above would prove nothing.
#[test]
fn a_disk_that_only_says_that_it_synced_is_found_out() {
    let failed = failing_seeds(20, async |seed| live_through(FakeDisk::new(seed).lying(), seed).await);
    assert!(!failed.is_empty());
}

/// Writes until the power goes, and looks at what is left.
async fn live_through(disk: FakeDisk, seed: u64) -> Result<(), String> {
    let mut dice = Dice(!seed);
    let mut disk = Arc::new(disk);
    let model = model();
    let (mut n, mut founded) = (0, false);
    for _ in 0..CUTS {
        disk.cut_after(1 + dice.below(120));
        let mut doubtful = None;
        let opened = open(&disk);
        // A file gets its name when it is founded: see `files`.
        founded |= opened.is_ok();
        if let Ok(store) = opened {
            let first = n;
            while doubtful.is_none() {
                n += 1;
                if n > first + 500 {
                    return Err("it writes and the disk hears nothing of it".to_owned());
                }
                let work = Work::roll(&mut dice, n);
                match work.ask(&store).await {
                    Ok(()) => work.ask(&model).await.map_err(|error| format!("only here: {error}"))?,
                    Err(Error::Full { .. } | Error::Unavailable { .. }) => doubtful = Some(work),
                    Err(refused) => drop(work.ask(&model).await.expect_err(&refused.to_string())),
                }
            }
        }
        disk = Arc::new(if founded { disk.after_a_power_cut() } else { FakeDisk::new(dice.next()) });
        let store = open(&disk).map_err(|error| format!("it does not open again: {error}"))?;
        let without = same(&store, &model).await;
        match doubtful {
            // Nobody was told that it happened; it may have, whole.
            Some(work) if without.is_err() => {
                let _ = work.ask(&model).await;
                same(&store, &model).await.map_err(|with| format!("neither {without:?} nor {with}"))?;
            }
            _ => without?,
        }
        drop(store);
    }
    Ok(())
}
