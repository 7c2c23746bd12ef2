//! What proxies are told of the services of other zones, and what the global is asked for that.

use super::*;

const WEST_CART: &str = "ms_default_west__cart_http";

fn cart_of_west() -> model::Record {
    let ports = json!([{ "port": 8080, "name": "http", "targetPort": "http", "appProtocol": "http" }]);
    record("west", 1, "MeshService", "cart", json!({ "spec": { "ports": ports } }))
}

#[test]
fn another_zones_service_is_asked_for_while_somebody_uses_it_and_no_word_takes_nothing_away() {
    let address = record(
        "west",
        1,
        "MeshZoneAddress",
        "gate",
        json!({ "spec": { "address": "127.0.0.9", "port": 10001 } }),
    );
    let mut planner = planner(vec![dataplane(1, "web"), identity(), address]);
    let (name, no_port) = (format!("endpoints/{WEST_CART}"), "endpoints/ms_default_west__cart_grpc");
    let (web, out) = connect(&mut planner, "web", &[&name, no_port]);
    let destination: DestinationId = WEST_CART.parse().unwrap();
    let wants = |out: &[Output]| -> Vec<DestinationId> {
        let wanted = |output: &Output| if let Output::Want(id) = output { Some(id.clone()) } else { None };
        out.iter().filter_map(wanted).collect()
    };
    assert!(out.iter().any(|output| matches!(output, Output::Signal { word, .. } if word.value.is_empty())));
    assert_eq!(wants(&out), [], "nobody declared it");
    let out = input(&mut planner, commit(world(10, 10), vec![Change::Put(cart_of_west())]));
    assert_eq!(wants(&out), std::slice::from_ref(&destination));

    let export = json!({ "instances": [{ "sni": "x.y", "identity": "spiffe://default.west.mesh.local/workload/cart", "ready": true, "weight": 1 }] });
    let exports = serde_json::from_value::<Exports>(export).unwrap();
    let out =
        input(&mut planner, Input::Exported { destination: destination.clone(), exports: Some(exports) });
    let told = endpoints(&out);
    assert_eq!((told.0[0].address, told.0[0].sni.as_str()), ("127.0.0.9:10001".parse().unwrap(), "x.y"));

    let out = input(&mut planner, Input::Exported { destination: destination.clone(), exports: None });
    assert!(out.is_empty());

    let removed = vec![name];
    let out = input(&mut planner, Input::Subscribed { client: web, session: 1, added: vec![], removed });
    assert!(out.iter().any(|output| matches!(output, Output::WantNoLonger(id) if *id == destination)));
}

fn zones_told(out: &[Output]) -> Vec<String> {
    endpoints(out).0.iter().map(|endpoint| endpoint.zone.to_string()).collect()
}

#[test]
fn a_service_of_several_zones_has_the_endpoints_of_all_of_them() {
    let west = [catalog("west"), gate("west", "127.0.0.9")];
    let own = [dataplane(1, "web"), dataplane(2, "catalog"), identity(), catalog("east"), everywhere(4)];
    let mut planner = planner(own.into_iter().chain(west).collect());
    let part = "destination/mmzs_default___catalog_8080";
    let (_, out) = connect(&mut planner, "web", &[CATALOG, part]);
    let wanted = |out: &[Output]| -> Vec<String> {
        out.iter()
            .filter_map(|o| if let Output::Want(id) = o { Some(id.to_string()) } else { None })
            .collect()
    };
    assert_eq!(wanted(&out), ["ms_default_west__catalog_http"]);
    let destination: Value = serde_json::from_slice(&plans(&out)[0].parts[part].bytes).unwrap();
    let ids = ["east", "west"].map(|zone| format!("spiffe://default.{zone}.mesh.local/workload/catalog"));
    assert_eq!((&destination["protocol"], &destination["identities"]), (&json!("http"), &json!(ids)));

    let out = input(&mut planner, exported("west", "x.y"));
    assert_eq!(zones_told(&out), ["east", "west"]);
    assert_eq!(endpoints(&out).0[1].address, "127.0.0.9:10001".parse().unwrap());

    // A third zone joins in.
    input(&mut planner, Input::Settled);
    let joins = vec![Change::Put(catalog("north")), Change::Put(gate("north", "127.0.0.10"))];
    let out = input(&mut planner, commit(world(11, 10), joins));
    assert_eq!(wanted(&out), ["ms_default_north__catalog_http"]);
    let out = input(&mut planner, exported("north", "z.y"));
    assert_eq!(zones_told(&out), ["east", "north", "west"]);

    // And leaves.
    let (key, version) = (catalog("north").key, Version::new("north".parse().unwrap(), 1, 9));
    let out = input(&mut planner, commit(world(12, 10), vec![Change::Deleted { key, version }]));
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::WantNoLonger(id) if id.zone == Some("north".parse().unwrap())))
    );
    assert_eq!(zones_told(&out), ["east", "west"]);
}

#[test]
fn after_a_start_a_zone_that_is_not_heard_of_yet_is_not_taken_from_a_service_of_several() {
    let west = [catalog("west"), gate("west", "127.0.0.9")];
    let own = [dataplane(1, "web"), dataplane(2, "catalog"), identity(), catalog("east"), everywhere(4)];
    let mut planner = planner(own.into_iter().chain(west).collect());
    let (_, out) = connect(&mut planner, "web", &[CATALOG]);
    assert!(out.iter().any(|output| matches!(output, Output::Signal { word, .. } if word.value.is_empty())));
    let out = input(&mut planner, Input::Settled);
    assert_eq!(zones_told(&out), ["east"], "but no zone waits for another for ever");
    let out = input(&mut planner, exported("west", "x.y"));
    assert_eq!(zones_told(&out), ["east", "west"]);
}

#[test]
fn a_start_takes_up_the_last_words_of_other_zones_and_forgets_those_that_nobody_asks_for() {
    let west = [catalog("west"), gate("west", "127.0.0.9")];
    let own = [dataplane(1, "web"), dataplane(2, "catalog"), identity(), catalog("east"), everywhere(4)];
    let documents: Vec<model::Record> = own.into_iter().chain(west).collect();
    // Its service is gone by the next start.
    let mut before = planner(documents.iter().cloned().chain([catalog("north")]).collect());
    for (number, zone) in [(1, "west"), (2, "north")] {
        connect(
            &mut before,
            &format!("web-{number}"),
            &[&format!("endpoints/ms_default_{zone}__catalog_http")],
        );
        input(&mut before, exported(zone, "x.y"));
    }
    let words = before.memory().words;
    assert_eq!(words.len(), 2);
    input(&mut before, exported("west", "x.y"));
    assert!(Arc::ptr_eq(&before.memory().words, &words), "the same word again is no news");

    let mut planner = planner(documents);
    input(&mut planner, Input::Kept(before.memory()));
    let (_, out) = connect(&mut planner, "web", &[CATALOG]);
    assert_eq!(zones_told(&out), ["east", "west"]);
    assert_eq!(planner.memory().words.len(), 2, "whoever is not back yet may ask for the other");
    let out = input(&mut planner, Input::Settled);
    assert!(!endpoints(&out).0.iter().any(|endpoint| endpoint.zone.as_str() == "east" && endpoint.ready));
    assert_eq!(zones_told(&out), ["east", "west"]);
    assert!(planner.memory().words.keys().eq([&"ms_default_west__catalog_http".parse().unwrap()]));
}

#[test]
fn a_service_of_several_zones_that_nobody_declared_has_no_word() {
    let own = [dataplane(1, "web"), identity(), catalog("east")];
    let mut planner = planner(own.into_iter().collect());
    input(&mut planner, Input::Settled);
    let (_, out) = connect(&mut planner, "web", &[CATALOG]);
    assert!(out.iter().any(|output| matches!(output, Output::Signal { word, .. } if word.value.is_empty())));
    let out = input(&mut planner, commit(world(11, 10), vec![Change::Put(everywhere(11))]));
    assert_eq!(zones_told(&out), [""; 0], "declared, and nobody stands behind it");
}
