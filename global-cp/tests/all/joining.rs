//! How zones come in, and how they are kept out.

use api::shapes::ProxyCounts;
use serde_json::json;
use sync::client::DialError;
use tokio::time;

use crate::fake_zone::FakeZone;
use crate::fixture::{Global, LIMIT};

#[tokio::test]
async fn a_zone_that_joins_has_a_document_and_is_seen() {
    let global = Global::start().await;
    assert_eq!(global.get("/zones/_overview").await.1["items"], json!([]));
    let east = global.zone("east").await;
    let counts = ProxyCounts { current: 3, late: 1, unknown: 0 };
    east.signal("summary", serde_json::to_vec(&counts).unwrap());
    east.until("the wish", |seen| seen.wanted.contains("summary")).await;
    time::timeout(LIMIT, east.handle.settled()).await.unwrap();

    assert_eq!(global.get("/zones/east").await.0, 200);
    let (_, overview) = global.get("/zones/_overview").await;
    let zone = &overview["items"][0];
    assert_eq!((&zone["name"], &zone["state"]), (&json!("east"), &json!("connected")), "{overview}");
    assert_eq!(zone["proxies"], json!({"current": 3, "late": 1, "unknown": 0}));
    assert_eq!(global.metric("tombolo_global_zones_connected").await, 1);

    let (status, problem) = global.call("DELETE", "/zones/east", None).await;
    assert_eq!(status, 409, "{problem}");
    let (status, problem) = global.get("/meshes/default/dataplanes/web-1/_config?zone=east").await;
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().unwrap().contains("there is no such proxy"), "{problem}");
    assert_eq!(global.get("/meshes/default/dataplanes/web-1/_config?zone=north").await.0, 404);
}

#[tokio::test]
async fn a_token_lets_in_whom_it_names_and_nobody_else() {
    let global = Global::start().await;
    let east = global.token("east").await;
    let once = json!({"zone": "north", "uses": 1});
    let (_, answer) = global.call("POST", "/tokens/zone", Some(once)).await;
    let once = answer["token"].as_str().unwrap().to_owned();
    let other = Global::start().await;
    for (why, token, peer, joins) in [
        ("its zone", &east, "zone/east", true),
        ("another zone", &east, "zone/west", false),
        ("no zone", &east, "proxy/default/web-1", false),
        ("nobody", &east, "", false),
        ("once", &once, "zone/north", true),
        ("twice", &once, "zone/north", false),
    ] {
        let name = peer.rsplit('/').next().unwrap();
        let name = if name.is_empty() { "nobody" } else { name };
        let joined = FakeZone::join_with(&global, name, token, peer).await;
        assert_eq!(joined.is_ok(), joins, "{why}");
        let refused = matches!(joined, Err(DialError::Refused { .. }));
        assert_eq!(refused, !joins, "{why}");
    }
    // Its bearer sends it to nobody but the authority that it names.
    let elsewhere = FakeZone::join_with(&other, "east", &east, "zone/east").await;
    assert!(matches!(elsewhere, Err(DialError::Tls { .. })));
}

#[tokio::test]
async fn s44_a_zone_whose_handles_could_be_taken_for_anothers_does_not_join() {
    // Found by trying a million names: the first 40 bits of both hashes are the same.
    let (first, second) = ("zone-208913", "zone-1069452");
    let global = Global::start().await;
    let held = global.zone(first).await;
    let join = async |name: &str| {
        let token = global.token(name).await;
        FakeZone::join_with(&global, name, &token, &format!("zone/{name}")).await
    };
    let refused = join(second).await.err().expect("it does not join").to_string();
    assert!(refused.contains("its tag is that of zone 'zone-208913'"), "{refused}");
    let path = format!("/zones/{second}");
    assert_eq!(global.get(&path).await.0, 404, "nothing of it is left");
    let (status, problem) = global.call("PUT", &path, Some(json!({"type": "Zone", "name": second}))).await;
    assert_eq!((status, problem.to_string().contains("same tag")), (400, true), "{problem}");
    join("zone-1069453").await.map(drop).unwrap();
    assert!(held.site.seen.borrow().ended.is_empty());
}

#[tokio::test]
async fn a_zone_that_is_disabled_is_sent_away_and_comes_back_when_it_is_enabled() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    let zone = |enabled: bool| json!({"type": "Zone", "name": "east", "enabled": enabled});
    global.put("/zones/east", zone(false)).await;
    let seen = east.until("the end", |seen| !seen.ended.is_empty()).await;
    assert!(seen.ended[0].contains("is not enabled"), "{seen:?}");
    let seen = east.until("a refusal", |seen| !seen.refusals.is_empty()).await;
    assert!(seen.refusals[0].contains("is not enabled"), "{seen:?}");
    global.put("/zones/east", zone(true)).await;
    time::timeout(LIMIT, east.handle.connected()).await.unwrap();
}

#[tokio::test]
async fn a_zone_that_was_deleted_comes_back_by_a_token_and_not_by_its_old_certificate() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    global.put("/zones/east", json!({"type": "Zone", "name": "east", "enabled": false})).await;
    east.until("the end", |seen| !seen.ended.is_empty()).await;
    // It counts as connected until its session has ended here too.
    let deleted = async {
        while global.call("DELETE", "/zones/east", None).await.0 != 200 {
            time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    time::timeout(LIMIT, deleted).await.unwrap();
    let removed = |refusal: &String| refusal.contains("zone 'east' was removed: enrol again");
    let seen = east.until("a refusal", |seen| seen.refusals.iter().any(removed)).await;
    assert_eq!(global.get("/zones/east").await.0, 404, "{seen:?}");
    assert_eq!(global.metric("tombolo_global_zones_connected").await, 0);
    let forgotten = async { while global.metrics().await.contains("origin=\"east\"") {} };
    time::timeout(LIMIT, forgotten).await.expect("nobody waits for who is no more");

    let back = global.zone("east").await;
    assert_eq!(global.get("/zones/east").await.0, 200);
    drop(back);
}

#[tokio::test]
async fn s39_a_revoked_token_ends_the_stream_of_its_zone_and_brings_nobody_back() {
    let global = Global::start().await;
    let token = global.token("east").await;
    let mut east = FakeZone::join_with(&global, "east", &token, "zone/east").await.unwrap();
    east.connect(&global).await;
    let west = global.zone("west").await;

    let revoked = time::Instant::now();
    let (status, answer) = global.call("POST", "/tokens/revoke", Some(json!({"token": token}))).await;
    assert_eq!((status, &answer["disconnected"]), (200, &json!(["zone/east"])), "{answer}");
    assert_eq!(answer["away"], json!([]), "{answer}");
    let seen = east.until("the end", |seen| !seen.ended.is_empty()).await;
    assert!(seen.ended[0].contains("was revoked"), "{seen:?}");
    assert!(revoked.elapsed() < std::time::Duration::from_secs(5));
    let turned_away = |refusal: &String| refusal.contains("was revoked: enrol again");
    east.until("a refusal", |seen| seen.refusals.iter().any(turned_away)).await;
    assert!(west.site.seen.borrow().ended.is_empty(), "the other zone joined by another token");

    // Nor does it bring back a zone that was deleted, also after a restart.
    east.disconnect().await;
    global.put("/zones/east", json!({"type": "Zone", "name": "east", "enabled": false})).await;
    global.delete("/zones/east").await;
    let global = global.restart().await;
    let (_, answer) = global.call("POST", "/tokens/revoke", Some(json!({"token": token}))).await;
    assert_eq!((&answer["disconnected"], &answer["away"]), (&json!([]), &json!(["zone/east"])), "{answer}");
    let back = FakeZone::join_with(&global, "east", &token, "zone/east").await;
    assert!(matches!(back, Err(DialError::Refused { .. })));
    assert_eq!(global.get("/zones/east").await.0, 404);
    let back = global.zone("east").await;
    assert_eq!(global.get("/zones/east").await.0, 200);
    drop((back, west));
}

#[tokio::test]
async fn a_newer_session_of_a_zone_takes_the_place_of_the_older() {
    let global = Global::start().await;
    let mut east = global.zone("east").await;
    let mut twin = east.twin();
    twin.connect(&global).await;
    let seen = east.until("the end", |seen| !seen.ended.is_empty()).await;
    assert!(seen.ended[0].contains("a newer session"), "{seen:?}");
    east.disconnect().await;
    time::timeout(LIMIT, twin.handle.connected()).await.unwrap();
    global.permit("all").await;
    twin.until_held("MeshTrafficPermission/default/global//all", true).await;
    assert_eq!(global.metric("tombolo_global_zones_connected").await, 1);
}

#[tokio::test]
async fn a_zone_gets_its_next_certificate_over_its_session() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    let request = identity::PrivateKey::generate().request();
    let chain = east.handle.ask("client-certificate", request.der().to_vec(), LIMIT).await.unwrap();
    let chain = identity::certificates_from_pem(std::str::from_utf8(&chain).unwrap()).unwrap();
    let peer = identity::peer_from_certificate(&chain[0], &identity::ServerRole::Global);
    assert_eq!(peer.unwrap().to_string(), "zone/east");
    assert!(east.handle.ask("client-certificate", "garbage", LIMIT).await.is_err());
}
