//! How the mesh is, as the global tells it.

use serde_json::json;

use crate::fixture::{Global, LIMIT, timeout};

#[tokio::test]
async fn zones_are_asked_how_they_are_and_those_that_are_away_are_told_of_all_the_same() {
    let global = Global::start().await;
    let (_, alone) = global.get("/status").await;
    assert_eq!((&alone["control_plane"]["name"], &alone["zones"]), (&json!("global"), &json!([])), "{alone}");

    let (_east, mut west) = (global.zone("east").await, global.zone("west").await);
    west.disconnect().await;
    let (code, status) = global.get("/status").await;
    assert_eq!(code, 200, "{status}");
    let [east, west] = [0, 1].map(|at| &status["zones"][at]);
    assert_eq!((&east["name"], &east["state"]), (&json!("east"), &json!("connected")), "{status}");
    assert_eq!((&east["report"]["version"], &east["report"]["services"]), (&json!("fake"), &json!(7)));
    assert_eq!((&west["name"], &west["report"]), (&json!("west"), &json!(null)), "{status}");
    assert_ne!(west["state"], "connected");
    assert!(status["control_plane"]["uptime_ms"].is_u64(), "{status}");
    assert_eq!(status["control_plane"]["certificates"], json!(null), "the authority is new");
}

#[tokio::test]
async fn a_refused_document_is_told_until_it_is_put_right() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    let (key, version) = ("MeshService/default/west//cart", "west-1-1");
    east.lie(key, version, json!({"ports": [{"port": 80}]}));
    let own = "MeshService/default/east//cart";
    let bad = east.write(own, json!({"ports": [{"port": 0}]})).await;
    east.until_acknowledged(&bad).await;
    let refused = async || global.get("/status").await.1["zones"][0]["refused"].clone();
    let told = refused().await;
    let told: Vec<_> =
        told.as_array().unwrap().iter().map(|one| (&one["document"], &one["reporter"])).collect();
    assert_eq!(told, [(&json!(own), &json!("global")), (&json!(key), &json!("global"))]);

    let good = east.write(own, json!({"ports": [{"port": 80}]})).await;
    east.until_acknowledged(&good).await;
    let told = refused().await;
    assert_eq!((told.as_array().unwrap().len(), &told[0]["document"]), (1, &json!(key)), "{told}");
}

#[tokio::test]
async fn a_copy_says_how_its_owner_is_heard() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    let written = east.write("MeshService/default/east//cart", json!({"ports": [{"port": 80}]})).await;
    east.until_acknowledged(&written).await;
    let shown = async |path: &str| global.get(path).await.1["status"]["heard"].clone();
    let path = "/meshes/default/meshservices/cart";
    assert_eq!(shown(path).await["state"], "connected");
    assert_eq!(shown("/meshes/default").await, json!(null), "its own are not heard, they are here");
    east.disconnect().await;
    let heard = shown(path).await;
    assert!(heard["state"] != "connected" && heard["age_ms"].is_u64(), "{heard}");

    let metrics = global.metrics().await;
    let line = metrics.lines().find(|line| line.starts_with("tombolo_origin_age_seconds{origin=\"east\"} "));
    let age: f64 = line.unwrap_or(&metrics).rsplit(' ').next().unwrap().parse().unwrap();
    assert!((0.0..600.0).contains(&age), "{age}");

    let global = global.restart().await;
    let heard = global.get(path).await.1["status"]["heard"].clone();
    assert!(heard["state"] != "connected" && heard["age_ms"].is_u64(), "as old as before: {heard}");
}

#[tokio::test]
async fn what_a_zone_does_not_take_is_said_under_the_document_until_it_takes_a_later_revision() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    let (path, key) = ("/meshes/default/meshtimeouts/slow", "MeshTimeout/default/global//slow");
    let timeout = |seconds| timeout("slow", seconds);
    let refusals = async |global: &Global| global.get(path).await.1["status"]["refusals"].clone();
    let good = global.put(path, timeout(1)).await;
    east.until_held(key, true).await;
    assert_eq!(refusals(&global).await, json!(null));

    *east.site.poison.lock().unwrap() = Some(key.to_owned());
    let bad = global.put(path, timeout(2)).await;
    let (_, state) = global.get(&format!("/revisions/{bad}?wait=20s")).await;
    assert_eq!((&state["state"], &state["refusals"][0]["document"]), (&json!("refused"), &json!(key)));
    let told = refusals(&global).await;
    let since = told[0]["since"].as_u64().unwrap();
    assert!(since > 1_700_000_000, "{told}");
    let reason = "it cannot be read";
    let report =
        json!({"reporter": "east", "revision": bad, "reason": reason, "since": since, "in_force": good});
    assert_eq!(told, json!([report]));
    let (_, document) = global.get(path).await;
    assert_eq!(document["status"]["revision"], json!(bad), "a report changes no revision");
    // Another revision is enforced all the same: what stays in force is no gap.
    let other = global.permit("other").await;
    let (_, state) = global.get(&format!("/revisions/{other}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");

    // Whoever of the two is started again, it is said again, and as old as it is.
    east.disconnect().await;
    let global = global.restart().await;
    assert_eq!(refusals(&global).await, json!(null), "its reporter is not here");
    east.connect(&global).await;
    let after = global.permit("after").await;
    global.get(&format!("/revisions/{after}?wait=20s")).await;
    assert_eq!(refusals(&global).await, json!([report]));

    *east.site.poison.lock().unwrap() = None;
    let mended = global.put(path, timeout(3)).await;
    let (_, state) = global.get(&format!("/revisions/{mended}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
    assert_eq!(refusals(&global).await, json!(null));
}

#[tokio::test]
async fn while_a_zone_never_took_a_document_that_guards_nothing_is_applied_there() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    let guard = "MeshTrafficPermission/default/global//guard";
    *east.site.poison.lock().unwrap() = Some(guard.to_owned());
    global.permit("guard").await;
    west.until_held(guard, true).await;
    let other = global.permit("other").await;
    let (_, state) = global.get(&format!("/revisions/{other}?wait=20s")).await;
    assert_eq!((&state["state"], &state["refusals"][0]["document"]), (&json!("refused"), &json!(guard)));
    let states = [0, 1].map(|at| &state["zones"][at]["state"]);
    assert_eq!(states, [&json!("refused"), &json!("applied")], "{state}");

    // What was deleted is missed by nobody.
    let deleted = global.delete("/meshes/default/meshtrafficpermissions/guard").await;
    let (_, state) = global.get(&format!("/revisions/{deleted}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
}

#[tokio::test]
async fn what_the_global_refuses_it_remembers_after_a_restart_and_the_zone_hears_it_again() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    let own = "MeshService/default/east//cart";
    let bad = east.write(own, json!({"ports": [{"port": 0}]})).await;
    east.until_acknowledged(&bad).await;
    east.disconnect().await;
    let global = global.restart().await;
    let told = global.get("/status").await.1["zones"][0]["refused"].clone();
    assert_eq!((&told[0]["document"], &told[0]["reporter"]), (&json!(own), &json!("global")), "{told}");
    east.site.seen.send_modify(|seen| seen.refused.clear());
    east.connect(&global).await;
    let seen = east.until("a report", |seen| !seen.refused.is_empty()).await;
    assert_eq!((seen.refused[0].key.as_str(), seen.refused[0].version.as_ref()), (own, Some(&bad)));
    let (_, state) = global.get(&format!("/revisions/{bad}?wait=0s")).await;
    assert_eq!(state["state"], "refused", "{state}");

    east.remove(own).await;
    let gone = async || global.get("/status").await.1["zones"][0]["refused"] == json!(null);
    let waited = async {
        while !gone().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, waited).await.unwrap();
}
