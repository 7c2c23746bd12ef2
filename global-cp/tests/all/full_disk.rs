//! A global whose disk is full, as people run it: a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use identity::{ServerRole, api_client_config};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time;

use crate::fixture::{LIMIT, permission};

/// The limit of a file's size stands for a disk that is full.
#[tokio::test]
async fn a_full_disk_refuses_writes_clearly_and_everything_else_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let global = Process::start(folder.path()).await;
    let path = |n: u64| format!("/meshes/default/meshtrafficpermissions/p{n}");
    assert_eq!(global.put(&path(0), 0).await.0, 201);
    global.limit_files(Some(64 * 1024));

    let mut last = 0;
    let refused = loop {
        match global.put(&path(last + 1), last + 1).await {
            (201, _) => last += 1,
            refused => break refused,
        }
    };
    let (status, problem) = refused;
    assert_eq!((status, problem["type"].as_str()), (507, Some("/problems/storage-full")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("free some space"), "{problem}");
    let (status, text) = global.ready().await;
    assert_eq!((status, text.as_str()), (503, "waiting for the disk of the store\n"));
    for n in 0..=last {
        assert_eq!(global.get(&path(n)).await.0, 200, "{n} was acknowledged");
    }
    assert_eq!(global.get(&path(last + 1)).await.0, 404, "and this one was not");

    global.limit_files(None);
    let again = async {
        while global.ready().await.0 != 200 {
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(LIMIT, again).await.expect("it is ready again by itself");
    assert_eq!(global.put(&path(last + 1), last + 1).await.0, 201);
}

struct Process {
    child: Child,
    ready: Value,
    client: reqwest::Client,
    admin: String,
}

impl Process {
    async fn start(folder: &Path) -> Self {
        // The signal that comes with the limit would end the process; an ignored one stays so over exec.
        let mut child = Command::new("sh")
            .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_tombolo-global-cp")])
            .args(["--api-address", "127.0.0.1:0", "--sync-address", "127.0.0.1:0"])
            .args(["--health-address", "127.0.0.1:0", "--data-dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        time::timeout(LIMIT, out.read_line(&mut line)).await.expect("it is ready in time").unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let tls = api_client_config(&read("ca.crt"), Some(ServerRole::Global)).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy();
        let admin = read("admin.token").trim().to_owned();
        let ready = serde_json::from_str(&line).unwrap();
        Self { child, ready, client: client.build().unwrap(), admin }
    }

    /// None lifts the limit.
    fn limit_files(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap());
        let Rlimit { maximum, .. } =
            prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
        assert_eq!(maximum, None, "nobody limits this test");
    }

    async fn put(&self, path: &str, n: u64) -> (u16, Value) {
        let mut document = permission(&format!("p{n}"));
        // Large, so that the file is full soon.
        let rules = document["spec"]["rules"][0].clone();
        document["spec"]["rules"] = vec![rules; 500].into();
        let request = self.client.put(format!("{}{path}", self.ready["api"].as_str().unwrap()));
        answered(request.bearer_auth(&self.admin).json(&document)).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = self.client.get(format!("{}{path}", self.ready["api"].as_str().unwrap()));
        answered(request.bearer_auth(&self.admin)).await
    }

    async fn ready(&self) -> (u16, String) {
        let url = format!("http://{}/readyz", self.ready["health"].as_str().unwrap());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

async fn answered(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}
