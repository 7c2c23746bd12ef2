//! Documents that got into the global's store behind its API, while it was stopped.

use model::{DocumentKey, Origin, Version};
use serde_json::{Value, json};
use store::{Draft, EmbeddedStore, Expect};

use crate::fake_zone::FakeZone;
use crate::fixture::{Global, LIMIT, permission};

const PERMISSIONS: &str = "/meshes/default/meshtrafficpermissions";

/// Stops the global, writes into its store, and starts it again.
async fn behind_its_back(global: Global, documents: &[(&str, &str)]) -> (Global, Vec<Version>) {
    let folder = global.stop().await;
    let store = EmbeddedStore::open(folder.path(), Origin::Global).unwrap();
    let mut versions = Vec::new();
    for (key, bytes) in documents {
        let key: DocumentKey = key.parse().unwrap();
        let draft = Draft::new(key, bytes.to_string());
        versions.push(store.put(draft, Expect::Any).await.unwrap().version);
    }
    drop(store);
    (Global::start_on(folder).await, versions)
}

async fn again(zone: &mut FakeZone, global: &Global) {
    zone.disconnect().await;
    zone.connect(global).await;
}

async fn unread(global: &Global) -> Vec<String> {
    let (_, status) = global.get("/status").await;
    let unread = status["control_plane"]["unread"].as_array().cloned().unwrap_or_default();
    unread.iter().map(|one| one["document"].as_str().unwrap().to_owned()).collect()
}

/// The next document arrives, and is proven.
async fn flows(global: &Global, zone: &FakeZone) {
    let revision = global.permit("good").await;
    zone.until_held("MeshTrafficPermission/default/global//good", true).await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
}

#[tokio::test]
async fn what_cannot_be_read_is_shown_with_its_problem_and_delays_no_other() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    global.permit("before").await;
    let key = "MeshTrafficPermission/default/global//bad";
    let (global, versions) = behind_its_back(global, &[(key, "{\"spec\": ")]).await;
    again(&mut east, &global).await;
    flows(&global, &east).await;

    let (code, list) = global.get(PERMISSIONS).await;
    let listed = |list: &Value| -> Vec<(String, bool)> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| (item["name"].as_str().unwrap().to_owned(), item["status"]["problem"].is_string()))
            .collect()
    };
    assert_eq!(code, 200);
    assert_eq!(
        listed(&list),
        [("bad".into(), true), ("before".into(), false), ("good".into(), false)],
        "{list}"
    );
    let (code, shown) = global.get(&format!("{PERMISSIONS}/bad")).await;
    assert_eq!((code, &shown["type"]), (200, &json!("MeshTrafficPermission")), "{shown}");
    assert_eq!(shown["status"]["revision"], json!(versions[0].to_string()));
    assert!(shown["status"]["problem"].as_str().unwrap().contains("not JSON"), "{shown}");
    assert_eq!(unread(&global).await, [key]);

    global.permit("bad").await;
    assert_eq!(unread(&global).await, [""; 0], "somebody put it right");
    assert_eq!(global.get(&format!("{PERMISSIONS}/bad")).await.1["status"]["problem"], json!(null));
}

#[tokio::test]
async fn what_cannot_be_read_can_be_deleted() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    let key = "MeshTrafficPermission/default/global//bad";
    let (global, _) = behind_its_back(global, &[(key, "7")]).await;
    let mut east = east;
    again(&mut east, &global).await;
    assert_eq!(unread(&global).await, [key]);
    global.delete(&format!("{PERMISSIONS}/bad")).await;
    assert_eq!(unread(&global).await, [""; 0]);
    assert_eq!(global.get(&format!("{PERMISSIONS}/bad")).await.0, 404);
    flows(&global, &east).await;
}

#[tokio::test]
async fn a_kind_that_nobody_here_knows_is_told_and_travels_as_it_is() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    let key = "MeshFromTheFuture/default/global//x";
    let (global, _) = behind_its_back(global, &[(key, "{\"type\":\"MeshFromTheFuture\",\"warp\":9}")]).await;
    again(&mut east, &global).await;
    east.until_held(key, true).await;
    flows(&global, &east).await;
    assert_eq!(unread(&global).await, [key]);
}

#[tokio::test]
async fn a_permission_with_an_unknown_match_is_told_and_travels_as_it_is() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    let key = "MeshTrafficPermission/default/global//newer";
    let mut newer = permission("newer");
    newer["spec"]["rules"][0]["default"]["allow"][0]["weather"] = json!("sunny");
    let (global, _) = behind_its_back(global, &[(key, &newer.to_string())]).await;
    again(&mut east, &global).await;
    east.until_held(key, true).await;
    flows(&global, &east).await;
    assert_eq!(unread(&global).await, [key]);
    let (_, shown) = global.get(&format!("{PERMISSIONS}/newer")).await;
    assert_eq!(shown["spec"], newer["spec"]);
    let problem = shown["status"]["problem"].as_str().unwrap();
    assert!(problem.ends_with("spec.rules[0].default.allow[0].weather"), "{problem}");
    let (code, problem) = global.call("PUT", &format!("{PERMISSIONS}/newer"), Some(newer)).await;
    assert_eq!(code, 400, "an author is told: {problem}");
}

#[tokio::test]
async fn a_zone_whose_document_cannot_be_read_is_kept_out_and_counts() {
    let global = Global::start().await;
    let (mut east, mut west) = (global.zone("east").await, global.zone("west").await);
    let (global, _) = behind_its_back(global, &[("Zone//global//west", "{}}")]).await;
    again(&mut east, &global).await;
    west.disconnect().await;
    west.dial(&global);
    west.until("a refusal", |seen| seen.refusals.iter().any(|refusal| refusal.contains("cannot be read")))
        .await;
    let revision = global.permit("good").await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=1s")).await;
    let states: Vec<_> = state["zones"].as_array().unwrap().iter().map(|zone| &zone["state"]).collect();
    assert_eq!(states, [&json!("applied"), &json!("offline")], "{state}");

    global.put("/zones/west", json!({"type": "Zone", "name": "west"})).await;
    tokio::time::timeout(LIMIT, west.handle.connected()).await.unwrap();
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
}
