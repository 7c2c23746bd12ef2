//! A file that may not grow any more, on a real file system.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::embedded::EmbeddedStore;
use crate::error::Error;
use crate::query::Filter;
use crate::store::Store;
use crate::write::{Draft, Expect};

/// Tells the child where its store is.
const FOLDER: &str = "STORE_TEST_FULL_FOLDER";

/// A file in the folder that takes up space, where there is one.
const BALLAST: &str = "ballast";

/// The limit of a file's size stands for a disk that is full: it needs no rights, and no disk.
#[test]
fn a_full_disk_refuses_writes_lets_reads_go_on_and_is_left_behind_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    // The signal that comes with the limit would end the process; an ignored one stays so over exec.
    lives_with_it(Command::new("sh").args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]), folder.path());
}

#[test]
#[ignore = "it mounts a file system, which needs root: cargo test -p store --lib full_file_system -- --ignored"]
fn a_full_file_system_is_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=4m none \"$STORE_TEST_FULL_FOLDER\" \
        && head -c 1500000 /dev/zero > \"$STORE_TEST_FULL_FOLDER/ballast\" && exec \"$@\"";
    lives_with_it(Command::new("unshare").args(["-m", "sh", "-c", mount, "sh"]), folder.path());
}

fn lives_with_it(command: &mut Command, folder: &Path) {
    let child = command
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::full::fills_its_disk", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[tokio::test]
#[ignore = "it is the process that the tests above start"]
async fn fills_its_disk() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let mounted = folder.join(BALLAST).exists();
    let store = EmbeddedStore::open(folder, "east".parse().unwrap()).unwrap();
    let mut watch = store.watch(0);
    if !mounted {
        let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(3_000_000), maximum }).unwrap();
    }
    let mut acknowledged = BTreeSet::new();
    let mut n = 0;
    let refused = loop {
        n += 1;
        match write(&store, n).await {
            Ok(()) => drop(acknowledged.insert(n)),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");
    assert!(
        refused.to_string().contains("full") && refused.to_string().contains("free some space"),
        "{refused}"
    );
    assert!(acknowledged.len() > 10, "{acknowledged:?}");
    assert!(matches!(&*store.fault().borrow(), Some(Error::Full { .. })));
    // Again and again, as callers do: each is refused at once, or finds room inside the file.
    for n in n + 1..n + 50 {
        match write(&store, n).await {
            Ok(()) => drop(acknowledged.insert(n)),
            Err(Error::Full { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        assert_eq!(there(&store).await, acknowledged);
    }
    for _ in 0..acknowledged.len() {
        watch.next().await.unwrap();
    }

    // A store that is opened on a full disk is read like any other.
    drop(store);
    let store = EmbeddedStore::open(folder, "east".parse().unwrap()).unwrap();
    assert_eq!(there(&store).await, acknowledged);
    let refused = loop {
        n += 100;
        match write(&store, n).await {
            Ok(()) => drop(acknowledged.insert(n)),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused:?}");

    if mounted {
        std::fs::remove_file(folder.join(BALLAST)).unwrap();
    } else {
        let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum }).unwrap();
    }
    let mut fault = store.fault();
    let again = tokio::time::timeout(Duration::from_secs(30), fault.wait_for(Option::is_none)).await;
    again.expect("it works again by itself").unwrap();
    write(&store, n).await.unwrap();
    acknowledged.insert(n);
    assert_eq!(there(&store).await, acknowledged);
}

async fn write(store: &Arc<dyn Store>, n: u64) -> Result<(), Error> {
    let key = format!("MeshService/default/east//d{n}").parse().unwrap();
    store.put(Draft::new(key, vec![b'x'; 20_000]), Expect::Any).await.map(drop)
}

async fn there(store: &Arc<dyn Store>) -> BTreeSet<u64> {
    let records = store.list(Filter::all()).await.unwrap().records;
    records
        .iter()
        .map(|record| record.key.name.as_str().strip_prefix('d').unwrap().parse().unwrap())
        .collect()
}
