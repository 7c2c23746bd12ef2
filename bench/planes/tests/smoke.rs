//! The bench itself, at a small scale, so that it still works when it is needed.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the answer")]

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const PLANES: &str = env!("CARGO_BIN_EXE_planes");

#[test]
fn twenty_proxies_of_three_services_have_their_set_a_change_and_their_zone_again() {
    let programs = programs();
    let output = Command::new(PLANES)
        .args([
            "scale",
            "--proxies=20",
            "--services=3",
            "--idle-seconds=2",
            "--changes=2",
            "--renew",
            "--kill",
            "--json",
        ])
        .arg("--programs")
        .arg(programs.path())
        .output()
        .unwrap();
    let rows = rows(&output);
    let value = |what: &str| {
        let row = rows.iter().find(|row| row["what"] == what);
        row.and_then(|row| row["value"].as_f64()).unwrap_or_else(|| panic!("no '{what}' in {rows:?}"))
    };
    for what in [
        "all have their set, from nothing",
        "bytes for that on the wire",
        "memory (RSS)",
        "bytes on the wire per idle second",
        "a change for every proxy: all have it (median)",
        "a change for every proxy: bytes on the wire (median)",
        "all ask for a certificate at once: all have it",
        "killed and started: all are back",
        "killed and started: bytes on the wire",
    ] {
        assert!(value(what) > 0.0, "{what}");
    }
}

#[test]
fn policies_travel_between_processes_and_what_dies_is_counted() {
    let programs = programs();
    let output = Command::new(PLANES)
        .args(["figures", "policy", "application", "zones", "--hurry=25", "--json"])
        .arg("--programs")
        .arg(programs.path())
        .output()
        .unwrap();
    let rows = rows(&output);
    // How fast it was is for a machine that has nothing else to do.
    let measured = |what: &str| {
        let begins = |row: &&Value| row["what"].as_str().is_some_and(|found| found.starts_with(what));
        let row = rows.iter().find(begins).unwrap_or_else(|| panic!("no '{what}' in {rows:?}"));
        row["value"].as_f64().unwrap()
    };
    assert!(measured("policy on the global -> enforced") > 0.0);
    assert!(measured("policy on the global -> stored in all of 2 zones") > 0.0);
    assert!(measured("application of one of two remote instances killed") >= 0.0);
}

/// A folder with all programs: called by their names, this one is each of them.
fn programs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [global_cp::PROGRAM, zone_cp::PROGRAM, zone_ingress::PROGRAM, dataplane::PROGRAM] {
        symlink(PLANES, folder.path().join(name)).unwrap();
    }
    folder
}

fn rows(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
