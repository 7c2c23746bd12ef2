//! The process is killed in the middle of writing, on a real file.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures::StreamExt;
use model::Point;

use super::Dice;
use crate::embedded::EmbeddedStore;
use crate::query::Filter;
use crate::write::{Draft, Expect, Write};

const KILLS: u64 = 50;

/// Tells the child where its store is, and from which number on it writes.
const FOLDER: &str = "STORE_TEST_FOLDER";
const FIRST: &str = "STORE_TEST_FIRST";

#[test]
fn a_killed_process_leaves_what_it_acknowledged_and_nothing_half() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut dice, mut acknowledged, mut first) = (Dice(50), Vec::new(), 1);
    for kill in 0..KILLS {
        acknowledged.extend(write_and_be_killed(folder.path(), first, kill, &mut dice));
        let there = runtime.block_on(pairs(folder.path()));
        let lost: Vec<_> = acknowledged.iter().filter(|n| !there.contains(n)).collect();
        assert!(lost.is_empty(), "kill {kill}: {lost:?} were acknowledged");
        first = there.iter().chain(&acknowledged).max().map_or(1, |last| last + 1);
    }
    let each = acknowledged.len() as u64 / KILLS;
    assert!(each > 5, "{each} writes before each kill are too few to prove anything");
}

/// What a process said that it wrote before it was killed.
fn write_and_be_killed(folder: &Path, first: u64, kill: u64, dice: &mut Dice) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::tests::killed::writes_until_it_is_killed", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (say, said) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        for line in output.lines() {
            // What the harness says besides is no number; a line that the kill cut has no mark at its end.
            let number =
                line.ok().and_then(|line| line.strip_prefix("wrote ")?.strip_suffix('.')?.parse().ok());
            number.map(|number: u64| say.send(number));
        }
    });
    let mut acknowledged = Vec::new();
    if kill.is_multiple_of(5) {
        // Also while it opens its store.
        let moment = Duration::from_micros(dice.below(60_000));
        acknowledged.extend(said.recv_timeout(moment));
    } else {
        let enough = 10 + dice.below(30);
        acknowledged.extend(said.iter().take(enough as usize));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    acknowledged.extend(said.try_iter());
    acknowledged
}

/// The child. Each transaction writes two documents, and several are under way at any moment.
#[tokio::test]
#[ignore = "it is the process that the test above kills"]
async fn writes_until_it_is_killed() {
    let (Ok(folder), Ok(first)) = (std::env::var(FOLDER), std::env::var(FIRST)) else { return };
    let store = EmbeddedStore::open(Path::new(&folder), "east".parse().unwrap()).unwrap();
    let numbers = first.parse().unwrap()..100_000_u64;
    let writes = numbers.map(|n| {
        let pair = ["a", "b"].map(|half| {
            let key = format!("MeshService/default/east//{half}{n}").parse().unwrap();
            Write::Put {
                draft: Draft::new(key, vec![b'x'; 100 + (n as usize * 61) % 3000]),
                expect: Expect::Any,
            }
        });
        let written = store.transact(pair.to_vec());
        async move { written.await.map(|_| n) }
    });
    let mut writes = futures::stream::iter(writes).buffer_unordered(5);
    while let Some(n) = writes.next().await {
        let line = format!("wrote {}.\n", n.unwrap());
        std::io::stdout().write_all(line.as_bytes()).unwrap();
    }
}

/// The transactions that are there; a half one is a failure, and so is a line that does not add up.
async fn pairs(folder: &Path) -> Vec<u64> {
    let store = EmbeddedStore::open(folder, "east".parse().unwrap()).unwrap();
    let records = store.list(Filter::all()).await.unwrap().records;
    let halves = |half| {
        let names = records.iter().map(|record| record.key.name.to_string());
        names.filter_map(|name| name.strip_prefix(half)?.parse().ok()).collect::<Vec<u64>>()
    };
    let there = halves("a");
    assert_eq!(there, halves("b"), "both or none");
    let head = store.head().await.unwrap();
    assert_eq!(head.point.revision, 2 * there.len() as u64, "each took a revision, and none is missing");
    assert_eq!(head.sequence, there.len() as u64);
    for revision in head.point.revision.saturating_sub(200)..=head.point.revision {
        let at = Point { revision, ..head.point };
        assert!(store.hash_at(at).await.unwrap().is_some(), "{revision}");
    }
    assert_eq!(store.hash_at(head.point).await.unwrap(), Some(head.hash));
    there
}
