//! Stores that are gone: who lost one takes up what others hold of it, or is held by them.

use std::path::Path;
use std::time::Duration;

use api::shapes::{TokenKind, TokenRequest};
use control::Running;
use demo::api_client::ApiClient;
use demo::mesh::LIMIT;
use global_cp::GlobalCp;
use http::Method;
use identity::ServerRole;
use model::{Version, ZoneName};
use serde_json::{Value, json};
use tokio::time;
use zone_cp::ZoneCp;

const OWN: &str = "/meshes/default/meshtrafficpermissions/own";
const TRUST: &str = "/meshes/default/meshtrusts/mesh-identity-all";

fn permission(action: &str) -> String {
    let all = json!({"spiffeID": {"type": "Prefix", "value": "spiffe://default.east.mesh.local/ns"}});
    json!({
        "type": "MeshTrafficPermission", "mesh": "default", "name": "own",
        "spec": {"rules": [{"default": {action: [all]}}]},
    })
    .to_string()
}

fn east() -> ZoneName {
    "east".parse().unwrap()
}

async fn start_zone(global: &Running, api: &ApiClient, dir: &Path) -> (Running, ApiClient) {
    let token_file = dir.join("east.token");
    let request = TokenRequest { zone: Some(east()), ..TokenRequest::default() };
    std::fs::write(&token_file, api.token(TokenKind::Zone, &request).await.unwrap()).unwrap();
    let data_dir = dir.join("east");
    let options = zone_cp::Options {
        global: Some(global.addresses.sync.to_string()),
        token_file: Some(token_file),
        ..zone_cp::Options::local(east(), &data_dir)
    };
    let running = ZoneCp::start(options).await.unwrap();
    let client = ApiClient::new(running.addresses.api, &data_dir, ServerRole::Zone(east())).unwrap();
    (running, client)
}

/// The answer to a GET, once it is as wanted. Documents travel when they do: no event here says that one came.
async fn until(api: &ApiClient, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let waited = async {
        loop {
            last = api.request(Method::GET, path).send().await.unwrap().json().await.unwrap();
            if wanted(&last) {
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = time::timeout(LIMIT, waited).await.is_ok();
    assert!(in_time, "{path}: {last}");
    last
}

fn certificates(trust: &Value) -> usize {
    trust.to_string().matches("BEGIN CERTIFICATE").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_that_lost_its_store_takes_up_what_it_wrote_and_adds_its_new_authority() {
    let dir = tempfile::tempdir().unwrap();
    let global_dir = dir.path().join("global");
    let global = GlobalCp::start(global_cp::Options::local(&global_dir)).await.unwrap();
    let api = ApiClient::new(global.addresses.api, &global_dir, ServerRole::Global).unwrap();
    let (zone, zone_api) = start_zone(&global, &api, dir.path()).await;

    until(&zone_api, TRUST, |trust| certificates(trust) == 1).await;
    let first: Version = zone_api.put(OWN, &permission("allow")).await.unwrap();
    let is_at = |version: &Version| {
        let version = version.to_string();
        move |document: &Value| document["status"]["revision"] == version.as_str()
    };
    let held = until(&api, OWN, is_at(&first)).await;
    until(&api, TRUST, |trust| certificates(trust) == 1).await;
    zone.shutdown().await.unwrap();
    std::fs::remove_dir_all(dir.path().join("east")).unwrap();

    // Without a word of anybody but the token for its way back.
    let (zone, zone_api) = start_zone(&global, &api, dir.path()).await;
    let back = until(&zone_api, OWN, |document| document["spec"].is_object()).await;
    assert_eq!(back["spec"], held["spec"]);
    // What it makes of policy comes after that, and says whom to believe besides.
    until(&zone_api, TRUST, |trust| certificates(trust) == 2).await;
    let second = zone_api.put(OWN, &permission("deny")).await.unwrap();
    assert_eq!(second.point.epoch, 2, "{second}");
    assert!(second.point.revision > first.point.revision, "{second}");
    until(&api, OWN, is_at(&second)).await;
    until(&api, TRUST, |trust| certificates(trust) == 2).await;
    let holds: Value = api.request(Method::GET, "/holds").send().await.unwrap().json().await.unwrap();
    assert_eq!(holds["items"], json!([]));
    zone.shutdown().await.unwrap();
    global.shutdown().await.unwrap();
}
