//! The demo that is asked to stop leaves nothing behind: no process, and no folder.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::time;

use crate::processes;

/// A check that is slow: it comes to what is waited for after half of its promises.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_is_looked_at_ends_when_it_is_told_to() {
    let (ended, said) = stopped(&["demo"], "Ctrl-C drains", false).await;
    assert!(ended.success(), "{ended}: {said}");
    assert!(said.ends_with("Draining ...\nEverything has ended.\n"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_stopped_ends_what_it_started() {
    // The eighth promise kills processes.
    let (ended, said) = stopped(&["demo", "--check"], " 7. ", true).await;
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("it was stopped: 9 promises are not checked"), "{said}");
}

/// How it ended and what it said since a line, after which it is told to end: when it has a process of its own, if it is to.
async fn stopped(args: &[&str], after: &str, with_process: bool) -> (ExitStatus, String) {
    let programs = processes::build().await;
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(programs.join("tombolo"))
        .args(args)
        .env("TMPDIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut out = BufReader::new(out);
    let mut said = String::new();
    let waited = time::timeout(LIMIT, async {
        let mut lines = (&mut out).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let is_it = line.contains(after);
            said += &format!("{line}\n");
            if is_it {
                break;
            }
        }
        // No event says that it has started one.
        while with_process && processes_that_name(dir.path()).is_empty() {
            time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never came so far: {said}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_some(), "it has no folder in {:?}", dir.path());

    let ended = processes::terminate(&mut child).await;
    let mut rest = String::new();
    out.read_to_string(&mut rest).await.unwrap();
    err.read_to_string(&mut rest).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "it left {left:?}");
    assert_eq!(processes_that_name(dir.path()), [""; 0]);
    (ended, rest)
}

/// The command lines of all processes that were told something of this folder.
fn processes_that_name(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let files = std::fs::read_dir("/proc").unwrap().map(|process| process.unwrap().path().join("cmdline"));
    // Those that are no processes, and those that have ended.
    let all = files.filter_map(|file| std::fs::read_to_string(file).ok());
    all.filter(|line| line.contains(dir)).collect()
}
