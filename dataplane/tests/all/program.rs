//! The program as people start it: what it says can be set, and what is missing or too much.

use std::process::{Command, Output, Stdio};

fn run(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_tombolo-dataplane");
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn it_says_what_can_be_set_and_what_is_missing_or_too_much() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in [
        "--zone-cp",
        "--token-file",
        "--dataplane",
        "--state-dir",
        "--static",
        "--ready-address",
        "--metrics-address",
        "--drain-time",
    ] {
        assert!(help.contains(flag), "{flag}: {help}");
    }
    let cases: [(&[&str], &[&str]); 5] = [
        (&[], &["--zone-cp", "--static"]),
        (&["--zone-cp", "localhost:5678"], &["--token-file", "--dataplane", "--state-dir"]),
        (
            &["--zone-cp", "localhost:5678", "--static", "f"],
            &["--zone-cp", "--static", "cannot be used with"],
        ),
        (&["--static", "f", "--ready-address", "9902"], &["--ready-address", "9902"]),
        (&["--static", "/nowhere"], &["/nowhere"]),
    ];
    for (args, wants) in cases {
        let output = run(args);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}: it is not ready");
        for want in wants {
            assert!(error.contains(want), "{args:?}: {want} is not in: {error}");
        }
    }
}
