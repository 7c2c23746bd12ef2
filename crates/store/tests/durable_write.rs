//! How long one durable write takes: `cargo test -p store --release --test durable_write -- --ignored --nocapture`.

use std::time::Instant;

use store::{Draft, EmbeddedStore, Expect};

#[tokio::test]
#[ignore = "a measurement, of this machine's disk"]
#[expect(clippy::print_stderr, reason = "its figure is what it is for")]
async fn one_durable_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path(), "global".parse().unwrap()).unwrap();
    let mut times = Vec::new();
    for n in 0..200 {
        let key = format!("MeshService/default/global//d{n}").parse().unwrap();
        let draft = Draft::new(key, vec![b'x'; 1024]);
        let start = Instant::now();
        store.put(draft, Expect::Any).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!("one durable write of 1 KiB: median {:?}, p99 {:?}", times[100], times[198]);
}
