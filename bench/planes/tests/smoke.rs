//! The bench itself, at a small scale, so that it still works when it is needed.

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;

#[test]
fn twenty_proxies_of_three_services_have_their_set_a_change_and_their_zone_again() {
    let planes = env!("CARGO_BIN_EXE_planes");
    let programs = tempfile::tempdir().unwrap();
    symlink(planes, programs.path().join(zone_cp::PROGRAM)).unwrap();
    let output = Command::new(planes)
        .args([
            "scale",
            "--proxies=20",
            "--services=3",
            "--idle-seconds=2",
            "--changes=2",
            "--kill",
            "--json",
        ])
        .arg("--programs")
        .arg(programs.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let rows: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
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
        "killed and started: all are back",
        "killed and started: bytes on the wire",
    ] {
        assert!(value(what) > 0.0, "{what}");
    }
}
