//! Documents on their way down, up and across.

use std::time::SystemTime;

use identity::{AUTHORITY_LIFETIME, ZoneCa};
use serde_json::{Value, json};
use store::Filter;
use sync::batch::Entry;

use crate::fixture::Global;

fn service(domain: &str) -> Value {
    let id = format!("spiffe://{domain}/workload/catalog");
    json!({"ports": [{"port": 80}], "identities": [{"type": "SpiffeID", "value": id}]})
}

fn trust(domain: &str) -> Value {
    let ca = ZoneCa::create(domain.parse().unwrap(), AUTHORITY_LIFETIME, SystemTime::now()).unwrap();
    json!({"trustDomain": domain, "caBundles": [{"type": "Pem", "pem": {"value": ca.bundle_pem()}}]})
}

#[tokio::test]
async fn what_is_written_on_the_global_reaches_every_zone_and_what_is_deleted_leaves() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    global.permit("all").await;
    let key = "MeshTrafficPermission/default/global//all";
    for zone in [&east, &west] {
        zone.until_held("Mesh//global//default", true).await;
        zone.until_held("MeshIdentity/default/global//mesh-identity-all", true).await;
        zone.until_held(key, true).await;
        zone.until_held("Zone//global//east", true).await;
    }
    global.delete("/meshes/default/meshtrafficpermissions/all").await;
    for zone in [&east, &west] {
        zone.until_held(key, false).await;
    }
}

#[tokio::test]
async fn what_a_zone_publishes_reaches_the_others_as_far_as_it_travels() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    let key = "MeshService/default/west//catalog";
    west.write("Workload/default/west//catalog", json!({})).await;
    west.write("MeshTrust/default/west//west", trust("default.west.mesh.local")).await;
    let written = west.write(key, service("default.west.mesh.local")).await;
    west.until_acknowledged(&written).await;
    east.until_held(key, true).await;
    east.until_held("MeshTrust/default/west//west", true).await;
    east.until_held("Workload/default/west//catalog", false).await;
    assert!(
        west.until("nothing", |_| true).await.batches.iter().all(|(_, keys)| !keys.contains(&key.into()))
    );
    let (status, shown) = global.get("/meshes/default/meshservices/catalog").await;
    assert_eq!((status, &shown["status"]["origin"]), (200, &json!("west")), "{shown}");

    west.remove(key).await;
    east.until_held(key, false).await;
    assert_eq!(global.get("/meshes/default/meshservices/catalog").await.0, 404);
}

#[tokio::test]
async fn s36_a_zone_that_speaks_for_another_is_refused_and_disturbs_nothing() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    let web = "MeshService/default/east//web";
    let written = east.write(web, service("default.east.mesh.local")).await;
    east.until_acknowledged(&written).await;
    west.until_held(web, true).await;

    west.lie(web, "east-1-900", service("default.west.mesh.local"));
    west.lie("MeshTrafficPermission/default/global//open", "global-1-900", json!({"rules": []}));
    west.lie("MeshTrust/default/west//t", "west-1-1", trust("default.east.mesh.local"));
    west.lie("MeshService/default/west//spy", "west-1-1", service("default.east.mesh.local"));
    let honest = west.write("MeshService/default/west//cart", service("default.west.mesh.local")).await;
    west.until_acknowledged(&honest).await;
    east.until_held("MeshService/default/west//cart", true).await;

    let seen = west.until("all refusals", |seen| seen.refused.len() == 4).await;
    assert!(seen.ended.is_empty(), "{seen:?}");
    assert_eq!(global.metric("tombolo_global_documents_refused_total").await, 4);
    for key in ["MeshTrust/default/west//t", "MeshService/default/west//spy"] {
        east.until_held(key, false).await;
    }
    let (_, shown) = global.get("/meshes/default/meshservices/web").await;
    assert_eq!(shown["status"]["revision"], json!(written.to_string()), "{shown}");
    assert_eq!(global.get("/meshes/default/meshtrafficpermissions/open").await.0, 404);
    // The global's revisions go on where they were.
    let later = east.write(web, service("default.east.mesh.local")).await;
    east.until_acknowledged(&later).await;
}

#[tokio::test]
async fn a_trust_domain_that_was_given_to_a_zone_is_its_own() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    global
        .put("/zones/east", json!({"type": "Zone", "name": "east", "trustDomains": ["bank.example"]}))
        .await;
    let written = east.write("MeshTrust/default/east//bank", trust("bank.example")).await;
    east.until_acknowledged(&written).await;
    west.until_held("MeshTrust/default/east//bank", true).await;

    let body = json!({"type": "Zone", "name": "west", "trustDomains": ["bank.example"]});
    let (status, problem) = global.call("PUT", "/zones/west", Some(body)).await;
    assert_eq!((status, &problem["invalid_parameters"][0]["field"]), (400, &json!("trustDomains[0]")));
}

#[tokio::test]
async fn a_zone_that_comes_back_with_less_is_held_and_takes_nothing_away() {
    let global = Global::start().await;
    let (mut east, west) = (global.zone("east").await, global.zone("west").await);
    let web = "MeshService/default/east//web";
    let written = east.write(web, service("default.east.mesh.local")).await;
    east.until_acknowledged(&written).await;
    west.until_held(web, true).await;

    east.disconnect().await;
    let mut lost = east.twin();
    lost.connect(&global).await;
    let seen = lost.until("a hold", |seen| !seen.refusals.is_empty()).await;
    assert!(seen.refusals[0].contains("epoch 2"), "{seen:?}");
    west.until_held(web, true).await;
    // That direction alone: policy goes on.
    global.permit("all").await;
    lost.until_held("MeshTrafficPermission/default/global//all", true).await;

    let (_, holds) = global.get("/holds").await;
    let hold = &holds["items"][0];
    assert_eq!((&hold["origin"], &hold["lost"], &hold["keys"]), (&json!("east"), &json!(1), &json!([web])));
    let accept = async |epoch: u64| global.call("POST", "/holds/east", Some(json!({"epoch": epoch}))).await;
    assert_eq!(accept(1).await.0, 409, "not what was looked at");
    let new = "MeshService/default/east//new";
    let written = lost.write(new, service("default.east.mesh.local")).await;
    assert_eq!(accept(2).await.0, 200);
    lost.until_acknowledged(&written).await;
    west.until_held(web, false).await;
    west.until_held(new, true).await;
    assert_eq!(global.get("/holds").await.1["items"], json!([]));
}

#[tokio::test]
async fn a_zone_that_repeats_or_takes_back_what_it_said_has_nothing_told_but_its_own() {
    const OTHERS: usize = 40;
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    for n in 0..OTHERS {
        global.permit(&format!("p{n}")).await;
    }
    let web = "MeshService/default/east//web";
    let written = east.write(web, service("default.east.mesh.local")).await;
    east.write(web, service("default.east.mesh.local")).await;
    east.until_acknowledged(&written).await;
    let last = east.write("MeshService/default/east//cart", service("default.east.mesh.local")).await;
    east.until_acknowledged(&last).await;
    let held = east.site.store.list(Filter::all().written_by("east".parse().unwrap())).await.unwrap();
    let own: Vec<Entry> = held.records.into_iter().map(Entry::from).collect();
    let body = String::from_utf8(own[0].body.to_vec()).unwrap().replace("\"cart\"", "\"late\"");
    let late =
        Entry { key: "MeshService/default/east//late".to_owned(), body: body.into(), ..own[0].clone() };
    let with_late: Vec<Entry> = own.iter().cloned().chain([late]).collect();

    // How many documents the other zone is told because of it, and whether as everything.
    let told = async |marker: &str, epoch: u64, entries: &[Entry]| {
        let before = west.site.seen.borrow().batches.len();
        east.says(epoch, entries.to_vec()).await;
        global.permit(marker).await;
        let has_marker = |(_, keys): &(bool, Vec<String>)| keys.iter().any(|key| key.ends_with(marker));
        let seen = west.until("the marker", |seen| seen.batches[before..].iter().any(has_marker)).await;
        let batches = &seen.batches[before..];
        let keys = batches.iter().flat_map(|(_, keys)| keys).filter(|key| !key.ends_with(marker));
        (batches.iter().any(|(whole, _)| *whole), keys.count())
    };
    west.until_held("MeshService/default/east//cart", true).await;
    told("after-before", 1, &own).await;
    assert_eq!(told("after-again", 1, &own).await, (false, 0), "what is known is no news");
    assert_eq!(told("after-late", 1, &with_late).await, (false, 3), "what should have come before");
    west.until_held("MeshService/default/east//late", true).await;
    assert_eq!(told("after-back", 1, &own).await, (false, 2), "and is taken back");
    west.until_held("MeshService/default/east//late", false).await;
    assert_eq!(told("after-epoch", 2, &own).await, (false, 2), "an epoch for nothing");
    assert_eq!(told("after-epochs", 3, &own).await, (false, 2), "and another");
}
