//! What the four programs are to whoever starts them: their help, how they fail, and in which order they end.

use std::fs;
use std::path::Path;
use std::time::Duration;

use demo::process::Process;
use serde_json::Value;
use tokio::process::Command;
use tokio::time;

use crate::processes::{LIMIT, build};

/// Where the help of each is kept. Written anew where `TOMBOLO_WRITE_GOLDEN` is set.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/help");

#[test]
fn help_is_documentation() {
    for (program, found) in [
        (global_cp::PROGRAM, runtime::options::help::<global_cp::Options>()),
        (zone_cp::PROGRAM, runtime::options::help::<zone_cp::Options>()),
        (dataplane::PROGRAM, runtime::options::help::<dataplane::options::Options>()),
        (zone_ingress::PROGRAM, runtime::options::help::<zone_ingress::options::Options>()),
    ] {
        let kept = Path::new(KEPT).join(format!("{program}.txt"));
        if std::env::var_os("TOMBOLO_WRITE_GOLDEN").is_some() {
            fs::write(&kept, &found).unwrap();
        }
        let want = fs::read_to_string(&kept).unwrap_or_default();
        assert_eq!(found, want, "the help of {program} changed: look at it, and set TOMBOLO_WRITE_GOLDEN");
        for word in ["mode 0600", "{\"ready\":", "SIGTERM", "/readyz", "/metrics", "Exit codes:", "Example:"]
        {
            assert!(found.contains(word), "{program} does not speak of {word}");
        }
    }
}

#[tokio::test]
async fn a_start_that_fails_is_one_event_with_its_causes() {
    let programs = build().await;
    let dir = tempfile::tempdir().unwrap();
    // Nothing can be made below a file, and nobody can listen where somebody does.
    fs::write(dir.path().join("file"), "").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let static_file = ["--static", "file"];
    let pages = ["--ready-address", "127.0.0.1:0", "--metrics-address", &taken];
    for (program, flags, cause) in [
        (global_cp::PROGRAM, vec!["--data-dir", "file/global", "--api-address", &taken], "in use"),
        (
            zone_cp::PROGRAM,
            vec!["--zone", "east", "--data-dir", "file/east", "--api-address", &taken],
            "in use",
        ),
        (dataplane::PROGRAM, static_file.to_vec(), "file"),
        (zone_ingress::PROGRAM, [&static_file[..], &pages].concat(), "file"),
    ] {
        let run = async |flags: &[&str]| {
            let mut command = Command::new(programs.join(program));
            command.args(flags).args(["--log-format", "json"]).current_dir(dir.path()).kill_on_drop(true);
            time::timeout(LIMIT, command.output()).await.expect("it ends").unwrap()
        };
        let failed = run(&flags).await;
        let text = String::from_utf8(failed.stderr).unwrap();
        assert_eq!(failed.status.code(), Some(1), "{program}: {text}");
        let events: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{program}: no event: {line}")))
            .collect();
        let errors: Vec<&Value> = events.iter().filter(|event| event["level"] == "ERROR").collect();
        let [error] = errors[..] else { panic!("{program}: {text}") };
        assert!(error["error"].as_str().unwrap().contains(cause), "{program}: {error}");

        assert_eq!(run(&["--log", "a=b=c"]).await.status.code(), Some(2), "{program}");
        let helped = run(&["--help"]).await;
        assert_eq!(helped.status.code(), Some(0), "{program}");
    }
}

#[tokio::test]
async fn a_zone_closes_its_doors_then_its_session_then_what_works_and_shows_the_end_to_the_last() {
    let programs = build().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("no.token"), "none").unwrap();
    let any = "127.0.0.1:0";
    let mut command = Command::new(programs.join(zone_cp::PROGRAM));
    command
        .args(["--zone", "east", "--data-dir", "east", "--global", "127.0.0.1:1", "--token-file", "no.token"])
        .args(["--api-address", any, "--sync-address", any, "--health-address", any, "--log-format", "json"])
        .current_dir(dir.path());
    let mut zone = Process::spawn(&mut command, dir.path().join("log")).unwrap();
    let ready: Value = zone.line(LIMIT).await.expect("it is ready");
    time::timeout(LIMIT, says_why_it_is_alone(&ready, &dir.path().join("east"))).await.expect("it says why");
    let ended = zone.end(LIMIT).await.unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(ended.success(), "{log}");

    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let finished = events.filter(|event| event["message"] == "finished");
    let finished: Vec<String> = finished.map(|event| event["name"].as_str().unwrap().to_owned()).collect();
    let at = |name: &str| {
        finished.iter().position(|found| found == name).unwrap_or_else(|| panic!("{name} never ends: {log}"))
    };
    let stages =
        [&["api", "sync"][..], &["upstream"], &["generator", "memory", "planner", "store"], &["health"]];
    for pair in stages.windows(2) {
        for (before, after) in
            pair[0].iter().flat_map(|before| pair[1].iter().map(move |after| (before, after)))
        {
            assert!(at(before) < at(after), "{before} ends after {after}: {finished:?}");
        }
    }
}

/// With a file for a token in which there is none.
async fn says_why_it_is_alone(ready: &Value, folder: &Path) {
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (api, token, ca) = (ready["api"].as_str().unwrap(), file("admin.token"), file("ca.crt"));
    let words = ["tombolo", "status", "--address", api, "--token-file", &token, "--ca", &ca];
    loop {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let ended = cli::run(words, &cli::Environment::default(), &mut out, &mut err).await;
        let page = String::from_utf8([out, err].concat()).unwrap();
        let why =
            "zone east has no session with its global: zone/east never joined, and has no token to join with";
        if ended == std::process::ExitCode::FAILURE && page.contains(why) {
            assert!(page.contains("tombolo token zone --zone east"), "{page}");
            return;
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}
