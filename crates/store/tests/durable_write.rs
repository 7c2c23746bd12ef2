//! How long a durable write takes, alone and among others:
//! `cargo test -p store --profile release-fast --test durable_write -- --ignored --nocapture`.
//! The folder is a temporary one; `TMPDIR` chooses its disk.
#![expect(clippy::unwrap_used, reason = "a measurement may end where it stands")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use store::{Draft, EmbeddedStore, Expect, Filter, Store, Write};

/// Documents that are there before anything is measured.
const THERE: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, of this machine's disk"]
#[expect(clippy::print_stderr, reason = "its figures are what it is for")]
async fn durable_writes() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path(), "global".parse().unwrap()).unwrap();
    for from in (0..THERE).step_by(100) {
        let writes = (from..from + 100).map(|n| Write::Put { draft: draft(n), expect: Expect::Any });
        store.transact(writes.collect()).await.unwrap();
    }
    for writers in [1, 8, 64] {
        let begun = Instant::now();
        let times =
            join_all((0..writers).map(|writer| write(store.clone(), writer, 400 / writers))).await.concat();
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
        eprintln!("{writers:2} writers at a time: {}, {rate:.0} in a second", shown(times));
    }
    let reading = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                store.list(Filter::all()).await.unwrap();
            }
        }
    });
    eprintln!("while another lists everything again and again: {}", shown(write(store, 0, 200).await));
    reading.abort();
}

/// One after the other.
async fn write(store: Arc<dyn Store>, writer: usize, times: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0..times {
        let start = Instant::now();
        store.put(draft(writer * times + n), Expect::Any).await.unwrap();
        took.push(start.elapsed());
    }
    took
}

/// Of 1 KiB, and never twice the same.
fn draft(n: usize) -> Draft {
    let key = format!("MeshService/default/global//d{n}").parse().unwrap();
    let mut bytes = format!("{:?}", Instant::now()).into_bytes();
    bytes.resize(1024, b'x');
    Draft::new(key, bytes)
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    format!("median {:?}, 99 of 100 within {:?}", at(50), at(99))
}
