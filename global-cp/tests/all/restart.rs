//! A global that goes and comes back.

use control::Home;
use global_cp::{GlobalCp, Options};
use identity::{AUTHORITY_LIFETIME, ZoneCa};
use model::{BundleNumber, Origin, Record, Version};
use serde_json::json;
use std::time::SystemTime;
use store::{Draft, EmbeddedStore, Expect, Store, Write};
use sync::Topic;
use tokio::time;

use crate::fixture::{Global, LIMIT, timeout};

#[tokio::test]
async fn a_restart_keeps_everything_and_the_next_batch_continues() {
    let global = Global::start().await;
    let (mut east, mut west) = (global.zone("east").await, global.zone("west").await);
    global.permit("before").await;
    let service = "MeshService/default/west//catalog";
    let written = west.write(service, json!({"ports": [{"port": 80}]})).await;
    west.until_acknowledged(&written).await;
    for key in ["MeshTrafficPermission/default/global//before", service] {
        east.until_held(key, true).await;
    }
    global.delete("/meshes/default/meshidentities/mesh-identity-all").await;
    east.until_held("MeshIdentity/default/global//mesh-identity-all", false).await;

    let global = global.restart().await;
    east.disconnect().await;
    west.disconnect().await;
    let before = east.until("nothing", |_| true).await.batches.len();
    east.connect(&global).await;
    west.connect(&global).await;
    let revision = global.permit("after").await;
    let after = "MeshTrafficPermission/default/global//after";
    east.until_held(after, true).await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
    let batches = east.until("nothing", |_| true).await.batches.split_off(before);
    let keys: Vec<_> = batches.iter().flat_map(|(_, keys)| keys).collect();
    assert_eq!(keys, [after], "only what is new");
    assert!(batches.iter().all(|(whole, _)| !whole));
    for (path, status) in [
        ("/meshes/default/meshtrafficpermissions/before", 200),
        ("/meshes/default/meshservices/catalog", 200),
        ("/meshes/default/meshidentities/mesh-identity-all", 404),
        ("/zones/east", 200),
    ] {
        assert_eq!(global.get(path).await.0, status, "{path}");
    }
}

#[tokio::test]
async fn a_global_that_came_back_empty_empties_no_zone() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    for name in ["one", "two"] {
        global.permit(name).await;
    }
    let key = "MeshTrafficPermission/default/global//two";
    east.until_held(key, true).await;
    east.disconnect().await;

    // The same authority and keys over an empty store, as after a restore of an old copy.
    let home = Home::open(&global.folder(), Origin::Global, SystemTime::now()).await;
    assert!(home.is_err(), "a folder has one owner at a time");
    let folder = global.stop().await;
    let secrets = Home::open(folder.path(), Origin::Global, SystemTime::now()).await.unwrap();
    let empty = tempfile::tempdir().unwrap();
    let put_back = EmbeddedStore::open(empty.path(), Origin::Global).unwrap();
    for name in ["control/ca", "control/token-key", "control/admin-token"] {
        let value = secrets.store.secret_get(name).await.unwrap().unwrap();
        put_back.secret_put(name, value).await.unwrap();
    }
    drop((put_back, secrets));
    let global = Global::start_on(empty).await;
    east.dial(&global);
    // Which zones there are it has forgotten as well: somebody has to say so.
    east.until("a refusal", |seen| seen.refusals.iter().any(|refusal| refusal.contains("was removed"))).await;
    global.put("/zones/east", json!({"type": "Zone", "name": "east"})).await;
    time::timeout(LIMIT, east.handle.connected()).await.unwrap();
    let revision = global.permit("new").await;
    let hold = east.until_holding().await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=2s")).await;
    assert_eq!(state["zones"][0]["state"], "diverged", "{state}");
    east.until_held(key, true).await;

    // Somebody looks at what would be lost, and accepts.
    assert_eq!(hold.offered.point.epoch, 2, "{hold:?}");
    assert!(hold.keys.iter().any(|lost| lost == key), "{hold:?}");
    east.site.holds.accept(&Origin::Global, 2).unwrap();
    east.handle.reopen(&Topic::POLICY);
    east.until_held(key, false).await;
    east.until_held("MeshTrafficPermission/default/global//new", true).await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
}

#[tokio::test]
async fn an_older_copy_of_the_globals_store_is_held_by_who_heard_more_and_followed_by_who_did_not() {
    let global = Global::start().await;
    let (mut east, mut west) = (global.zone("east").await, global.zone("west").await);
    global.permit("before").await;
    for zone in [&east, &west] {
        zone.until_held("MeshTrafficPermission/default/global//before", true).await;
    }
    west.disconnect().await;
    let folder = global.stop().await;
    let backup = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), backup.path().join(file.file_name())).unwrap();
    }
    let global = Global::start_on(folder).await;
    east.disconnect().await;
    east.connect(&global).await;
    let lost = "MeshTrafficPermission/default/global//lost";
    global.permit("lost").await;
    east.until_held(lost, true).await;
    east.disconnect().await;
    global.stop().await;

    let global = Global::start_on(backup).await;
    east.connect(&global).await;
    west.connect(&global).await;
    let revision = global.permit("new").await;
    west.until_held("MeshTrafficPermission/default/global//new", true).await;
    east.until_holding().await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=2s")).await;
    let states: Vec<_> =
        ["east", "west"].iter().enumerate().map(|(n, _)| state["zones"][n]["state"].clone()).collect();
    assert_eq!(states, ["diverged", "applied"], "{state}");
    east.until_held(lost, true).await;

    east.site.holds.accept(&Origin::Global, 2).unwrap();
    east.handle.reopen(&Topic::POLICY);
    east.until_held(lost, false).await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_leaves_the_folder_alone() {
    let global = Global::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let options = Options { sync_address: global.running.addresses.sync, ..Options::local(&path) };
    let error = GlobalCp::start(options).await.err().unwrap();
    assert!(format!("{error:#}").contains("could not bind the sync address"), "{error:#}");
    assert!(!path.exists());
}

#[tokio::test]
async fn a_program_that_shares_other_kinds_tells_them_to_zones_that_were_past_them() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    let before = global.permit("before").await;
    let (late, gone) = ("MeshTimeout/default/global//late", "MeshFromThePast/default/global//gone");
    let path = "/meshes/default/meshtimeouts/late";
    let written = global.put(path, timeout("late", 1)).await;
    east.until_held(late, true).await;
    east.disconnect().await;
    // As if the program before had not shared this kind, and another instead.
    let version: Version = written.parse().unwrap();
    let leave = Write::Forget { key: late.parse().unwrap(), version: version.clone() };
    let old = Record {
        key: gone.parse().unwrap(),
        version: before.parse().unwrap(),
        secret: false,
        requires: vec![],
        bundle: None,
        bytes: "{}".into(),
    };
    let up_to = Write::Advance([(Origin::Global, version.point)].into_iter().collect());
    east.site.store.apply(vec![leave, Write::Copy(old), up_to]).await.unwrap();
    let folder = global.stop().await;
    let store = EmbeddedStore::open(folder.path(), Origin::Global).unwrap();
    store.secret_put("views", b"other kinds".to_vec().into()).await.unwrap();
    drop(store);

    let global = Global::start_on(folder).await;
    east.connect(&global).await;
    east.until_held(late, true).await;
    east.until_held(gone, false).await;
    assert!(east.site.holds.list().is_empty(), "nobody has to accept it");
    let held = east.site.store.get(&late.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(held.version.to_string(), written, "its revision is as old as it is");
    let after = global.permit("after").await;
    for revision in [before, written, after] {
        let (_, state) = global.get(&format!("/revisions/{revision}?wait=20s")).await;
        assert_eq!(state["state"], "applied", "{state}");
    }
}

#[tokio::test]
async fn of_a_zone_whose_removal_was_not_finished_nothing_is_kept_after_the_next_start() {
    let global = Global::start().await;
    let mut zones = vec![global.zone("east").await, global.zone("west").await];
    for zone in &zones {
        let name = &zone.name;
        zone.write(&format!("MeshService/default/{name}//broken"), json!({"ports": [{"port": 0}]})).await;
        let domain = format!("default.{name}.mesh.local");
        let ca = ZoneCa::create(domain.parse().unwrap(), AUTHORITY_LIFETIME, SystemTime::now()).unwrap();
        let pem = json!({"type": "Pem", "pem": {"value": ca.bundle_pem()}});
        let body = json!({
            "type": "MeshTrust", "mesh": "default", "name": "own",
            "spec": {"trustDomain": domain, "caBundles": [pem]},
        });
        let key = format!("MeshTrust/default/{name}//own").parse().unwrap();
        let draft = Draft {
            bundle: Some(BundleNumber { incarnation: 1, n: 1 }),
            ..Draft::new(key, serde_json::to_vec(&body).unwrap())
        };
        let written = zone.site.store.put(draft, Expect::Any).await.unwrap();
        zone.handle.changed(&Topic::ORIGINATED);
        zone.until_acknowledged(&written.version).await;
    }
    for zone in &mut zones {
        zone.disconnect().await;
    }
    let kept = async |store: &dyn Store| {
        let mut names = store.secret_names("refused/").await.unwrap();
        names.extend(store.secret_names("bundle-numbers/").await.unwrap());
        names
    };
    let of = |zones: &[&str]| -> Vec<String> {
        let names = ["refused/originated/", "bundle-numbers/"].into_iter();
        names.flat_map(|name| zones.iter().map(move |zone| format!("{name}{zone}"))).collect()
    };

    let folder = global.stop().await;
    let store = EmbeddedStore::open(folder.path(), Origin::Global).unwrap();
    assert_eq!(kept(&*store).await, of(&["east", "west"]));
    // As if the process had ended at once.
    store.delete("Zone//global//east".parse().unwrap(), Expect::Any).await.unwrap();
    drop(store);
    let folder = Global::start_on(folder).await.stop().await;
    let store = EmbeddedStore::open(folder.path(), Origin::Global).unwrap();
    assert_eq!(kept(&*store).await, of(&["west"]));
}
