//! `get -w` against a control plane that changes, restarts, and forgets.

use std::io::{self, Write};
use std::time::Duration;

use cli::Environment;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time;

use crate::support::ControlPlane;

/// A command that runs on, and what it has shown so far.
struct Running {
    lines: mpsc::UnboundedReceiver<String>,
    task: JoinHandle<std::process::ExitCode>,
}

/// Hands lines on as they are complete.
struct Wire {
    lines: mpsc::UnboundedSender<String>,
    read: Vec<u8>,
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = String::from_utf8(std::mem::take(&mut self.read)).unwrap();
                let _ = self.lines.send(line);
            } else {
                self.read.push(*byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Running {
    fn start(cp: &ControlPlane, line: &str) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        let mut words: Vec<String> =
            std::iter::once("tombolo").chain(line.split(' ')).map(str::to_owned).collect();
        let file = |name: &str| cp.dir.path().join(name).to_str().unwrap().to_owned();
        words.extend(["--address".into(), format!("https://{}", cp.address)]);
        words.extend(["--token-file".into(), file("admin.token"), "--ca".into(), file("ca.crt")]);
        let task = tokio::task::spawn_local(async move {
            let mut out = Wire { lines: sender.clone(), read: Vec::new() };
            let mut err = Wire { lines: sender, read: Vec::new() };
            cli::run(words, &Environment::default(), &mut out, &mut err).await
        });
        Self { lines, task }
    }

    async fn line(&mut self) -> String {
        time::timeout(Duration::from_secs(60), self.lines.recv()).await.expect("a line").unwrap()
    }

    async fn lines<const N: usize>(&mut self) -> [String; N] {
        let mut lines = [const { String::new() }; N];
        for line in &mut lines {
            *line = self.line().await;
        }
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn mesh(cp: &ControlPlane, name: &str, labels: &str) {
    let file = cp.file(&format!("{name}.yaml"), &format!("type: Mesh\nname: {name}\nlabels: {labels}\n"));
    cp.run(&["apply", "-f", file.to_str().unwrap()]).await.ok();
}

#[tokio::test]
async fn changes_are_rows_of_the_same_table() {
    LocalSet::new()
        .run_until(async {
            let cp = ControlPlane::start().await;
            mesh(&cp, "a-long-name", "{}").await;
            let mut watch = Running::start(&cp, "get meshes -w");
            assert_eq!(
                watch.lines().await,
                [
                    "NAME          OWNER         REVISION      CHANGE",
                    "a-long-name   global        global-1-1"
                ]
            );
            mesh(&cp, "b", "{}").await;
            mesh(&cp, "b", "{team: shop}").await;
            cp.run(&["delete", "mesh", "b"]).await.ok();
            assert_eq!(
                watch.lines().await,
                [
                    "b             global        global-1-2    new",
                    "b             global        global-1-3    changed",
                    "b             global        global-1-4    gone"
                ]
            );
        })
        .await;
}

#[tokio::test]
async fn programs_read_one_event_a_line() {
    LocalSet::new()
        .run_until(async {
            let cp = ControlPlane::start().await;
            mesh(&cp, "a", "{}").await;
            let mut watch = Running::start(&cp, "get mesh a -w -o json");
            let [put, bookmark]: [String; 2] = watch.lines().await;
            let put: serde_json::Value = serde_json::from_str(&put).unwrap();
            assert_eq!((&put["event"], &put["document"]["name"]), (&"put".into(), &"a".into()));
            assert_eq!(bookmark, r#"{"event":"bookmark","resume":"global-1-1"}"#);
            let mut names = Running::start(&cp, "get m -w -o name");
            assert_eq!(names.line().await, "mesh/a");
        })
        .await;
}

#[tokio::test]
async fn what_is_gone_looks_like_no_document_in_any_format() {
    LocalSet::new()
        .run_until(async {
            let cp = ControlPlane::start().await;
            let policy = "type: MeshTrafficPermission\nmesh: default\nname: open\nspec:\n  targetRef: {kind: Dataplane}\n  \
                          rules: [{default: {allow: [{source: {}}]}}]\n";
            let file = cp.file("open.yaml", policy);
            mesh(&cp, "default", "{}").await;
            cp.run(&["apply", "-f", file.to_str().unwrap()]).await.ok();
            let mut table = Running::start(&cp, "get mtp -w -o wide");
            let mut names = Running::start(&cp, "get mtp -w -o name");
            let mut yaml = Running::start(&cp, "get mtp -w -o yaml");
            let [_, row]: [String; 2] = table.lines().await;
            assert!(row.contains("Dataplane"), "{row}");
            assert_eq!(names.line().await, "meshtrafficpermission/open");
            while yaml.line().await != "---" {}

            cp.run(&["delete", "mtp", "open"]).await.ok();
            let row = table.line().await;
            assert!(row.ends_with("gone") && !row.contains("Mesh") && !row.contains("Dataplane"), "{row}");
            assert_eq!(names.line().await, "meshtrafficpermission/open gone");
            let mut gone = String::new();
            loop {
                match yaml.line().await.as_str() {
                    "---" => break,
                    line => gone.push_str(&format!("{line}\n")),
                }
            }
            assert!(gone.starts_with("type: MeshTrafficPermission\nmesh: default\nname: open\nstatus:\n"), "{gone}");
            assert!(gone.contains("  gone: true\n") && gone.contains("  revision: global-1-"), "{gone}");
        })
        .await;
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_when_the_control_plane_restarts() {
    LocalSet::new()
        .run_until(async {
            let mut cp = ControlPlane::start().await;
            mesh(&cp, "a", "{}").await;
            let mut watch = Running::start(&cp, "get meshes --watch");
            let [_, a]: [String; 2] = watch.lines().await;
            assert!(a.starts_with("a "), "{a}");
            cp.restart().await;
            mesh(&cp, "b", "{}").await;
            let b = loop {
                let line = watch.line().await;
                if line.starts_with("b ") {
                    break line;
                }
                assert!(!line.starts_with("a "), "what was told is not told again: {line}");
            };
            assert!(b.ends_with("new"), "{b}");
        })
        .await;
}

#[tokio::test]
async fn a_watch_that_never_began_fails_like_any_other_command() {
    let cp = ControlPlane::start().await;
    let err = cp.run(&["get", "meshes", "-w", "-l", "a"]).await.failed(1);
    assert!(err.contains("must be label=<key>=<value>"), "{err}");
    cp.run(&["get", "mesh", "No_Name", "-w"]).await.failed(2);
}
