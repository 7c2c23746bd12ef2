//! What a crash, a power cut and a failing disk leave of a store: what it acknowledged, and nothing half.
//!
//! Each seed is a run of its own. One that fails names itself and is run again alone with
//! `STORE_SEED=n cargo test -p store NAME`; `STORE_SEEDS=n` runs more of them than the default.

mod fake_disk;
mod faults;
mod full;
mod killed;
mod power;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use model::Origin;

use super::file::StoreFile;
use super::files;
use crate::seal::{StoreKey, StoreKeys};
use crate::store::Store;
use crate::tables::{Identity, Retention};
use fake_disk::FakeDisk;

/// Short, so that histories are cut within a run.
const RETENTION: Retention =
    Retention { commits: 12, age: Duration::from_secs(3600), commit_bytes: 200_000, tombstones: 4 };

/// A store on a disk of ours; an error where the disk failed meanwhile.
fn open(disk: &Arc<FakeDisk>) -> Result<Arc<dyn Store>, String> {
    let identity = identity();
    let file = StoreFile::open(disk.clone()).map_err(|error| error.to_string())?;
    if file.read(|rows| rows.is_new()).map_err(|error| error.to_string())? {
        files::found(&file, &identity.origin, &identity.keys).map_err(|error| error.to_string())?;
    }
    super::start(file, identity, Duration::from_millis(1)).map_err(|error| error.to_string())
}

/// The same whenever it is asked for, so that hashes can be compared.
fn identity() -> Identity {
    let key = StoreKey::new([7; 32]);
    let origin: Origin = "east".parse().unwrap();
    Identity { origin, keys: StoreKeys::new(&key), retention: RETENTION, clock: Arc::new(|| UNIX_EPOCH) }
}

/// Runs the seeds, or the one that is asked for, each with a runtime of its own; tells which ones failed.
fn failing_seeds(usual: u64, run: impl AsyncFn(u64) -> Result<(), String>) -> Vec<(u64, String)> {
    let asked = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a seed is a number"));
    let seeds = match asked("STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..asked("STORE_SEEDS").unwrap_or(usual),
    };
    let failed = seeds.map(|seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // What redb makes of a file that is not as it wrote it may be a panic.
        let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(seed))));
        (seed, result.unwrap_or_else(|_| Err("a panic, see above".to_owned())))
    });
    failed.filter_map(|(seed, result)| Some((seed, result.err()?))).collect()
}

fn assert_none(failed: Vec<(u64, String)>) {
    let (count, first) = (failed.len(), failed.first());
    assert!(first.is_none(), "{count} seeds failed, the first is {first:?}: replay it with STORE_SEED");
}

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
