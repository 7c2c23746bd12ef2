//! A global on a temporary folder, and its API.

use std::path::PathBuf;
use std::time::Duration;

use control::Running;
use global_cp::{GlobalCp, Options};
use identity::{ServerRole, api_client_config};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_zone::FakeZone;

/// For everything that should happen at once; a test that waits longer fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Global {
    folder: TempDir,
    pub running: Running,
    pub client: reqwest::Client,
    admin: String,
}

impl Global {
    pub(crate) async fn start() -> Self {
        Self::start_on(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_on(folder: TempDir) -> Self {
        let running = GlobalCp::start(Options::local(folder.path())).await.unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let tls = api_client_config(&read("ca.crt"), Some(ServerRole::Global)).unwrap();
        let client = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy();
        let admin = read("admin.token").trim().to_owned();
        Self { running, client: client.build().unwrap(), admin, folder }
    }

    /// Stops it and starts it again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        let Self { folder, running, .. } = self;
        running.shutdown().await.unwrap();
        Self::start_on(folder).await
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.running.shutdown().await.unwrap();
        self.folder
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("https://{}{path}", self.running.addresses.api);
        let mut request = self.request(method, &url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    pub(crate) fn request(&self, method: &str, url: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), url).bearer_auth(&self.admin)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None).await
    }

    /// Writes a document, and returns its revision.
    pub(crate) async fn put(&self, path: &str, body: Value) -> String {
        let (status, answer) = self.call("PUT", path, Some(body)).await;
        assert!(status == 200 || status == 201, "{status} {answer}");
        answer["revision"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn delete(&self, path: &str) -> String {
        let (status, answer) = self.call("DELETE", path, None).await;
        assert_eq!(status, 200, "{answer}");
        answer["revision"].as_str().unwrap().to_owned()
    }

    /// A permission that lets everybody in; which one it is says its name.
    pub(crate) async fn permit(&self, name: &str) -> String {
        let path = format!("/meshes/default/meshtrafficpermissions/{name}");
        self.put(&path, permission(name)).await
    }

    pub(crate) async fn token(&self, zone: &str) -> String {
        let (status, answer) = self.call("POST", "/tokens/zone", Some(json!({"zone": zone}))).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn zone(&self, name: &str) -> FakeZone {
        let mut zone = FakeZone::join(self, name).await.unwrap();
        zone.connect(self).await;
        zone
    }

    /// A number from the metrics.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.metrics().await;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.running.addresses.health);
        let text = reqwest::Client::builder().no_proxy().build().unwrap();
        text.get(url).send().await.unwrap().text().await.unwrap()
    }
}

pub(crate) fn permission(name: &str) -> Value {
    let rules = json!([{"default": {"allow": [{"source": {}}]}}]);
    json!({"type": "MeshTrafficPermission", "mesh": "default", "name": name, "spec": {"rules": rules}})
}

pub(crate) fn timeout(name: &str, seconds: u64) -> Value {
    let rules = json!([{"default": {"connectionTimeout": format!("{seconds}s")}}]);
    json!({"type": "MeshTimeout", "mesh": "default", "name": name, "spec": {"rules": rules}})
}
