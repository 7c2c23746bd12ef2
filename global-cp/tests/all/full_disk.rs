//! A global whose disk is full, as people run it: a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use identity::{ServerRole, api_client_config};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time;

use crate::fake_zone::{FakeZone, Reached};
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
    let why = global.get("/status").await.1["control_plane"]["unwritable"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains("free some space")), "{why}");
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
    assert_eq!(global.get("/status").await.1["control_plane"]["unwritable"], Value::Null);
    assert_eq!(global.put(&path(last + 1), last + 1).await.0, 201);
}

/// Of what a zone says, only what is to be stored waits.
#[tokio::test]
async fn a_zone_stays_connected_to_a_global_whose_disk_is_full_and_is_heard_again_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let global = Process::start(folder.path()).await;
    let token = global.token("east").await;
    let mut east = FakeZone::join_with(&global, "east", &token, "zone/east").await.unwrap();
    east.connect(&global).await;
    global.limit_files(Some(64 * 1024));
    let mut n = 0;
    while global.put(&format!("/meshes/default/meshtrafficpermissions/p{n}"), n).await.0 == 201 {
        n += 1;
    }

    // More than the file has room for, if it still has any.
    let ports: Vec<Value> = (1..2_000).map(|port| json!({ "port": port })).collect();
    let written = east.write("MeshService/default/east//cart", json!({ "ports": ports })).await;
    // As long as it takes to try again.
    time::sleep(Duration::from_secs(2)).await;
    let seen = east.site.seen.borrow().clone();
    assert!(seen.ended.is_empty(), "{:?}", seen.ended);
    assert!(!seen.acknowledged.covers(&written), "it cannot be stored");

    // It comes back all the same, and is told policy.
    east.disconnect().await;
    let batches = east.site.seen.borrow().batches.len();
    east.connect(&global).await;
    east.until("policy", |seen| seen.batches.len() > batches).await;
    global.limit_files(None);
    east.until_acknowledged(&written).await;
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

    async fn token(&self, zone: &str) -> String {
        let request = self.client.post(format!("{}/tokens/zone", self.ready["api"].as_str().unwrap()));
        let (status, answer) =
            answered(request.bearer_auth(&self.admin).json(&json!({ "zone": zone }))).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
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

impl Reached for Process {
    fn sync(&self) -> String {
        self.ready["sync"].as_str().unwrap().to_owned()
    }
}

async fn answered(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}
