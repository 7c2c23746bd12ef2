//! What ingresses are told, and through which of them other zones come.

use super::*;

#[test]
fn a_proxy_learns_nothing_of_another_mesh_and_an_ingress_only_handles() {
    let door = record(
        "east",
        4,
        "MeshZoneAddress",
        "gate",
        json!({ "spec": { "address": "127.0.0.8", "port": 10001 } }),
    );
    let mut planner = planner(vec![dataplane(1, "cart"), service(3, "cart"), identity(), door]);
    let names = ["endpoints/ms_other_east__cart_http", "destination/ms_other_east__cart_http", "handles"];
    let (_, out) = connect(&mut planner, "web", &names);
    assert!(plans(&out)[0].parts.is_empty());
    for output in &out {
        assert!(!matches!(output, Output::Signal { word, .. } if !word.value.is_empty()), "{output:?}");
    }

    let gate = Client::Ingress("gate".parse().unwrap());
    input(&mut planner, Input::Connected { client: gate.clone(), session: 1 });
    let out = input(&mut planner, subscribe(&gate, 1, &["handles", "endpoints/ms_default_east__cart_http"]));
    let values: Vec<&Bytes> = out
        .iter()
        .filter_map(|o| if let Output::Signal { word, .. } = o { Some(&word.value) } else { None })
        .collect();
    let handles: BTreeMap<String, String> = serde_json::from_slice(values[0]).unwrap();
    assert_eq!(handles.values().collect::<Vec<_>>(), ["127.0.0.1:8080"]);
    assert!(values[1].is_empty());
}

#[test]
fn s46_an_ingress_leads_to_loopback_only_where_it_is_on_loopback_itself() {
    let door = |address: &str| {
        record("east", 4, "MeshZoneAddress", "gate", json!({ "spec": { "address": address, "port": 10001 } }))
    };
    for (address, leads) in [("127.0.0.8", 1), ("192.0.2.7", 0)] {
        let records = vec![dataplane(1, "cart"), service(3, "cart"), identity(), door(address)];
        let mut planner = planner(records);
        let gate = Client::Ingress("gate".parse().unwrap());
        input(&mut planner, Input::Connected { client: gate.clone(), session: 1 });
        let out = input(&mut planner, subscribe(&gate, 1, &["handles"]));
        let Output::Signal { word, .. } = &out[0] else { panic!("{out:?}") };
        let handles: BTreeMap<String, String> = serde_json::from_slice(&word.value).unwrap();
        assert_eq!(handles.len(), leads, "{address}");
    }
}

#[test]
fn other_zones_come_through_another_door_while_an_ingress_drains_if_there_is_one() {
    let doors = [gate_named("gate-1", "127.0.0.8"), gate_named("gate-2", "127.0.0.9")];
    let own = [dataplane(1, "cart"), service(3, "cart"), identity()];
    let mut planner = planner(own.into_iter().chain(doors).collect());
    input(&mut planner, Input::Settled);
    let wanted = vec!["exports/ms_default_east__cart_http".to_owned()];
    input(&mut planner, Input::Wanted { added: wanted, removed: Vec::new() });
    let [first, second] = ["gate-1", "gate-2"].map(|name| Client::Ingress(name.parse().unwrap()));
    let connected = |client: &Client| Input::Connected { client: client.clone(), session: 1 };
    let draining = |client: &Client| Input::Draining { client: client.clone(), session: 1 };
    input(&mut planner, connected(&first));
    input(&mut planner, connected(&second));
    let out = input(&mut planner, draining(&first));
    assert_eq!(exports(&out).closing, ["127.0.0.8:10001".parse().unwrap()]);

    // What it has open goes on by its table.
    input(&mut planner, subscribe(&first, 1, &["handles"]));
    let out = input(&mut planner, Input::Disconnected { client: second.clone(), session: 1, drained: true });
    assert_eq!(exports(&out).closing, [], "the last door stays until it is gone");
    let back = |session| Input::Connected { client: second.clone(), session };
    let first_closes = ["127.0.0.8:10001".parse().unwrap()];
    assert_eq!(exports(&input(&mut planner, back(2))).closing, first_closes, "another is back");
    let out = input(&mut planner, Input::Disconnected { client: second.clone(), session: 2, drained: false });
    assert_eq!(exports(&out).closing, [], "and missed");
    assert_eq!(exports(&input(&mut planner, back(3))).closing, first_closes);
    let out = input(&mut planner, Input::Draining { client: second, session: 3 });
    assert_eq!(exports(&out).closing, [], "the last two stay as well");
    let out = input(&mut planner, Input::Connected { client: first, session: 2 });
    assert_eq!(exports(&out).closing, ["127.0.0.9:10001".parse().unwrap()], "the first is back");
}

#[test]
fn a_door_that_closes_is_not_used_unless_no_other_is_known_here() {
    let west = [gate("west", "127.0.0.9"), catalog("west")];
    let mut planner =
        planner([dataplane(1, "web"), identity(), everywhere(4)].into_iter().chain(west).collect());
    input(&mut planner, Input::Settled);
    connect(&mut planner, "web", &[CATALOG]);
    input(&mut planner, exported("west", "x.y"));
    let identity = "spiffe://default.west.mesh.local/workload/catalog";
    let instances = json!([{ "sni": "x.y", "identity": identity, "ready": true, "weight": 1 }]);
    let word = json!({ "instances": instances, "closing": ["127.0.0.9:10001"] });
    let closing = Input::Exported {
        destination: "ms_default_west__catalog_http".parse().unwrap(),
        exports: Some(serde_json::from_value(word).unwrap()),
    };
    assert!(input(&mut planner, closing).is_empty(), "word of the other door is not here yet");
    let other = json!({ "spec": { "address": "127.0.0.10", "port": 10001 } });
    let other = record("west", 9, "MeshZoneAddress", "gate-2", other);
    let out = input(&mut planner, commit(world(11, 10), vec![Change::Put(other)]));
    let addresses: Vec<String> = endpoints(&out).0.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.10:10001"]);
}
