//! How the mesh is, as the global tells it.

use serde_json::json;

use crate::fixture::Global;

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
    let told: Vec<_> = told.as_array().unwrap().iter().map(|one| (&one["document"], &one["by"])).collect();
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
    let line =
        metrics.lines().find(|line| line.starts_with("tombolo_global_zone_age_seconds{zone=\"east\"} "));
    let age: f64 = line.unwrap_or(&metrics).rsplit(' ').next().unwrap().parse().unwrap();
    assert!((0.0..600.0).contains(&age), "{age}");
}
