//! One document of ten thousand that nobody can read, from a global to a zone that joins it: real stores and sessions.

use std::path::Path;
use std::time::Duration;

use api::shapes::{TokenKind, TokenRequest};
use control::Running;
use demo::api_client::ApiClient;
use demo::mesh::LIMIT;
use global_cp::GlobalCp;
use identity::ServerRole;
use model::Origin;
use serde_json::{Value, json};
use store::{Draft, EmbeddedStore, Expect, MAX_WRITES, Write};
use tokio::time;
use zone_cp::ZoneCp;

const ALL: usize = 10_000;
const BAD: usize = 4_712;
const PATH: &str = "/meshes/default/meshtimeouts";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s55_one_bad_document_of_ten_thousand_delays_no_other_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| folder.path().join(name);
    let (global, api) = start_global(&of("global")).await;
    let request = TokenRequest { zone: Some("east".parse().unwrap()), ..TokenRequest::default() };
    std::fs::write(of("token"), api.token(TokenKind::Zone, &request).await.unwrap()).unwrap();
    global.shutdown().await.unwrap();
    write_behind_the_api(&of("global")).await;

    let (global, api) = start_global(&of("global")).await;
    let options = zone_cp::Options {
        global: Some(global.addresses.sync.to_string()),
        token_file: Some(of("token")),
        ..zone_cp::Options::local("east".parse().unwrap(), of("east"))
    };
    let zone = ZoneCp::start(options).await.unwrap();
    let role = ServerRole::Zone("east".parse().unwrap());
    let of_zone = ApiClient::new(zone.addresses.api, &of("east"), role).unwrap();

    // Said when what could be read is in the zone's store.
    let told = async {
        loop {
            // Both read ten thousand documents meanwhile, and an answer may take longer than a caller waits.
            let bad: Result<Value, _> = api.get(&format!("{PATH}/{}", name(BAD))).await;
            if let Some(refusals) = bad.ok().and_then(|bad| bad["status"]["refusals"].as_array().cloned()) {
                return refusals;
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    let told = time::timeout(10 * LIMIT, told).await.expect("the bad one is never told");
    assert_eq!((told.len(), &told[0]["reporter"]), (1, &json!("east")), "{told:?}");
    let held = names(&of_zone).await;
    let expected: Vec<String> = (1..=ALL).filter(|n| *n != BAD).map(name).collect();
    assert_eq!((held.len(), held == expected), (ALL - 1, true), "all others are there");

    let text = format!("type: MeshTimeout\nmesh: default\nname: next\nspec: {}\n", spec());
    let revision = api.put(&format!("{PATH}/next"), &text).await.unwrap();
    api.applied(&revision, LIMIT).await.unwrap();
    zone.shutdown().await.unwrap();
    global.shutdown().await.unwrap();
}

async fn start_global(folder: &Path) -> (Running, ApiClient) {
    let global = GlobalCp::start(global_cp::Options::local(folder)).await.unwrap();
    let api = ApiClient::new(global.addresses.api, folder, ServerRole::Global).unwrap();
    (global, api)
}

async fn write_behind_the_api(folder: &Path) {
    let store = EmbeddedStore::open(folder, Origin::Global).unwrap();
    let writes: Vec<Write> = (1..=ALL)
        .map(|n| {
            let spec = if n == BAD { json!({"rules": 7}) } else { spec() };
            let body = json!({"type": "MeshTimeout", "mesh": "default", "name": name(n), "spec": spec});
            let key = format!("MeshTimeout/default/global//{}", name(n)).parse().unwrap();
            Write::Put { draft: Draft::new(key, body.to_string()), expect: Expect::Any }
        })
        .collect();
    for some in writes.chunks(MAX_WRITES) {
        store.transact(some.to_vec()).await.unwrap();
    }
}

/// In the order of their numbers.
fn name(n: usize) -> String {
    format!("p{n:05}")
}

fn spec() -> Value {
    json!({"rules": [{"default": {"connectionTimeout": "3s"}}]})
}

/// Of ours among the timeouts that a control plane has.
async fn names(api: &ApiClient) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page: Value = api.get(&format!("{PATH}?size=1000{after}")).await.unwrap();
        let items = page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap());
        names.extend(items.filter(|name| name.starts_with('p')).map(str::to_owned));
        let Some(next) = page["next"].as_str() else { return names };
        after = format!("&after={next}");
    }
}
