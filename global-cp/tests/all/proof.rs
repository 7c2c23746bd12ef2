//! Who runs a revision.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::json;
use sync::session::Timing;
use tokio::time;

use crate::fake_zone::FakeZone;
use crate::fixture::{Global, LIMIT, timeout};

#[tokio::test]
async fn a_revision_is_applied_when_all_zones_say_so() {
    let global = Global::start().await;
    let alone = global.permit("alone").await;
    let (status, state) = global.get(&format!("/revisions/{alone}")).await;
    assert_eq!((status, &state["state"]), (200, &json!("applied")), "there is nobody to wait for: {state}");

    let (east, west) = (global.zone("east").await, global.zone("west").await);
    west.site.late.send_replace(true);
    let revision = global.permit("all").await;
    east.until_held("MeshTrafficPermission/default/global//all", true).await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=100ms")).await;
    assert_eq!(state["state"], "pending", "{state}");
    assert_eq!((&state["zones"][0]["state"], &state["zones"][1]["late"]), (&json!("applied"), &json!(1)));

    let path = format!("/revisions/{revision}?wait=60s");
    let waiting = global.get(&path);
    let later = async {
        time::sleep(Duration::from_millis(100)).await;
        west.site.late.send_replace(false);
    };
    let ((_, state), ()) = time::timeout(LIMIT, async { tokio::join!(waiting, later) }).await.unwrap();
    assert_eq!(state["state"], "applied", "{state}");
    assert_eq!(state["zones"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn where_one_zone_refuses_the_others_are_asked_to_the_end() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    east.site.refusing.store(true, SeqCst);
    west.site.late.send_replace(true);
    let revision = global.permit("all").await;
    let path = format!("/revisions/{revision}?wait=60s");
    let waiting = global.get(&path);
    let later = async {
        // Time enough for east to refuse.
        time::sleep(Duration::from_millis(300)).await;
        west.site.late.send_replace(false);
    };
    let ((_, state), ()) = time::timeout(LIMIT, async { tokio::join!(waiting, later) }).await.unwrap();
    assert_eq!(state["state"], "refused", "{state}");
    let zones = (&state["zones"][0]["state"], &state["zones"][1]["state"]);
    assert_eq!(zones, (&json!("refused"), &json!("applied")), "{state}");
    assert_eq!(state["late"][0]["reason"], "refused", "{state}");
}

#[tokio::test]
async fn a_zone_that_is_away_is_waited_for_and_one_that_is_disabled_is_not() {
    let global = Global::start().await;
    let (east, mut west) = (global.zone("east").await, global.zone("west").await);
    west.disconnect().await;
    let revision = global.permit("all").await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=100ms")).await;
    assert_eq!(
        (&state["state"], &state["zones"][1]["state"]),
        (&json!("pending"), &json!("offline")),
        "{state}"
    );

    let path = format!("/revisions/{revision}?wait=60s");
    let waiting = global.get(&path);
    let later = async {
        time::sleep(Duration::from_millis(100)).await;
        west.connect(&global).await;
    };
    let ((_, state), ()) = time::timeout(LIMIT, async { tokio::join!(waiting, later) }).await.unwrap();
    assert_eq!(state["state"], "applied", "{state}");

    west.disconnect().await;
    let disabled = json!({"type": "Zone", "name": "west", "enabled": false});
    let revision = global.put("/zones/west", disabled).await;
    let (_, state) = global.get(&format!("/revisions/{revision}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "a document that does not travel moves the world as well: {state}");
    assert_eq!(state["zones"].as_array().unwrap().len(), 1);
    drop(east);
}

#[tokio::test]
async fn a_zone_that_is_silent_is_away_until_it_is_heard_again() {
    let global = Global::start().await;
    let mut east = FakeZone::join(&global, "east").await.unwrap();
    // It says nothing by itself.
    let heartbeat = Duration::from_secs(3600);
    east.dial_with(&global, Timing { heartbeat, stale: heartbeat, offline: heartbeat });
    time::timeout(LIMIT, east.handle.connected()).await.unwrap();
    let revision = global.permit("all").await;
    let is_silent = async {
        // Who is asked answers, and is heard by that; so it is not asked while it is to be silent.
        loop {
            time::sleep(Duration::from_millis(5500)).await;
            let (_, state) = global.get(&format!("/revisions/{revision}")).await;
            if state["zones"][0]["state"] == "offline" {
                break;
            }
        }
    };
    time::timeout(LIMIT * 3, is_silent).await.unwrap();
    let path = format!("/revisions/{revision}?wait=60s");
    let waiting = global.get(&path);
    let later = async {
        time::sleep(Duration::from_millis(100)).await;
        east.handle.subscribe(["a-word"]);
    };
    let ((_, state), ()) = time::timeout(LIMIT, async { tokio::join!(waiting, later) }).await.unwrap();
    assert_eq!(state["state"], "applied", "{state}");
}

#[tokio::test]
async fn revisions_that_cannot_be_are_told_apart_from_those_not_heard_of_yet() {
    let global = Global::start().await;
    let zone = global.zone("east").await;
    let unheard = async |revision: &str| global.get(&format!("/revisions/{revision}")).await.0;
    for (revision, status) in [
        ("global-1-900", 404),
        ("global-0-1", 410),
        ("north-1-1", 404),
        ("east-1-900", 200),
        ("nonsense", 400),
    ] {
        assert_eq!(unheard(revision).await, status, "{revision}");
    }
    let (_, state) = global.get("/revisions/east-1-900").await;
    assert_eq!(state["state"], "pending", "{state}");
    drop(zone);
}

#[tokio::test]
async fn a_global_that_stops_keeps_nobody_waiting() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    east.disconnect().await;
    let revision = global.permit("all").await;
    let url = format!("https://{}/revisions/{revision}?wait=60s", global.running.addresses.api);
    let request = global.request("GET", &url);
    let waiting = tokio::spawn(async move { request.send().await });
    // However far the question came: it is answered, or was never heard.
    time::sleep(Duration::from_millis(50)).await;
    let stopped = time::timeout(Duration::from_secs(4), global.stop()).await;
    assert!(stopped.is_ok(), "a poll of a minute does not hold up the end");
    let _ = time::timeout(LIMIT, waiting).await.unwrap();
}

#[tokio::test]
async fn a_zone_that_does_not_take_a_document_refuses_its_revision_and_no_other() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    let poison = "MeshTimeout/default/global//poison";
    *east.site.poison.lock().unwrap() = Some(poison.to_owned());
    let bad = global.put("/meshes/default/meshtimeouts/poison", timeout("poison", 1)).await;
    let good = global.permit("good").await;
    let (_, state) = global.get(&format!("/revisions/{bad}?wait=20s")).await;
    assert_eq!(
        (&state["state"], &state["zones"][0]["state"]),
        (&json!("refused"), &json!("refused")),
        "{state}"
    );
    let (_, state) = global.get(&format!("/revisions/{good}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
}
