//! The demo that is asked to stop leaves nothing behind: no process, and no folder.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use demo::process::Process;
use tokio::process::Command;
use tokio::time;

use crate::processes;

/// For the next that it says: a check that is slow takes long for a promise.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_is_looked_at_ends_when_it_is_told_to() {
    let (ended, said) = stopped(&["demo"], "Ctrl-C drains", false).await;
    assert!(ended.success(), "{ended}: {said}");
    assert!(said.ends_with("Everything has ended."), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_is_stopped_ends_what_it_started() {
    // The eighth promise kills processes.
    let (ended, said) = stopped(&["demo", "--check"], " 7. ", true).await;
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("it was stopped: 9 promises are not checked"), "{said}");
}

/// How it ended and what it said last, when it is told to end after a line: as soon as it has a process, if it is to have one.
async fn stopped(args: &[&str], after: &str, with_process: bool) -> (ExitStatus, String) {
    let programs = processes::build().await;
    let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = logs.path().join("log");
    let mut command = Command::new(programs.join("tombolo"));
    let mut demo = Process::spawn(command.args(args).env("TMPDIR", dir.path()), log.clone()).unwrap();
    while !demo.text(LIMIT).await.unwrap().contains(after) {}
    let waited = time::timeout(LIMIT, async {
        // No event says that it has started one.
        while with_process && processes_that_name(dir.path()).is_empty() {
            time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "it starts no process");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_some(), "it has no folder in {:?}", dir.path());

    let ended = demo.end(LIMIT).await.unwrap();
    let mut said = std::fs::read_to_string(&log).unwrap();
    while let Ok(line) = demo.text(LIMIT).await {
        said += &line;
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "it left {left:?}");
    assert_eq!(processes_that_name(dir.path()), [""; 0]);
    (ended, said)
}

/// The command lines of all processes that were told something of this folder.
fn processes_that_name(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let files = std::fs::read_dir("/proc").unwrap().map(|process| process.unwrap().path().join("cmdline"));
    // Those that are no processes, and those that have ended.
    let all = files.filter_map(|file| std::fs::read_to_string(file).ok());
    all.filter(|line| line.contains(dir)).collect()
}
