//! Which parts a proxy is told, and when.

use super::*;

#[test]
fn a_proxy_is_told_the_parts_it_subscribed_to_and_no_others() {
    let mut planner = planner(vec![dataplane(1, "web"), identity()]);
    let (_, out) =
        connect(&mut planner, "web", &["identity", "inbound/8080", "inbound/9", "newer-than-this-zone"]);
    let plan = plans(&out)[0];
    let parts: Vec<&str> = plan.parts.keys().map(|name| &**name).collect();
    assert_eq!(parts, ["identity", "inbound/8080"]);
    assert_eq!(plan.wanted.len(), 3, "what cannot be made yet is wanted all the same");
    let identity: Value = serde_json::from_slice(&plan.parts["identity"].bytes).unwrap();
    assert_eq!(identity, json!({ "id": "spiffe://default.east.mesh.local/workload/web" }));
}

#[test]
fn a_proxy_that_subscribes_before_it_is_registered_gets_everything_once_it_is() {
    let mut planner = planner(vec![dataplane(2, "cart"), service(3, "cart"), identity()]);
    let names = ["identity", "trust", "listeners", "inbound/8080", "destination/ms_default_east__cart_http"];
    let (_, out) = connect(&mut planner, "web", &names);
    assert!(plans(&out)[0].parts.is_empty());
    let out = input(&mut planner, commit(world(10, 11), vec![Change::Put(dataplane(11, "web"))]));
    assert_eq!(plans(&out)[0].parts.len(), names.len());
}

#[test]
fn a_policy_changes_the_inbound_and_a_change_that_concerns_nobody_moves_the_world_alone() {
    let mut planner = planner(vec![dataplane(1, "web"), identity()]);
    let (_, out) = connect(&mut planner, "web", &["inbound/8080"]);
    let before = plans(&out)[0].clone();

    let out = input(&mut planner, commit(world(11, 10), vec![Change::Put(permission(11))]));
    let allowed = plans(&out)[0].clone();
    assert_ne!(before.parts, allowed.parts);
    assert_eq!(allowed.world, world(11, 10));

    confirm(&mut planner, &proxy("web"), world(11, 10));
    let out = input(&mut planner, commit(world(12, 10), vec![Change::Put(service(12, "cart"))]));
    assert!(out.is_empty(), "{out:?}");
    let runs = |planner: &Planner, version: &str| planner.prove(&version.parse().unwrap(), NOW).is_applied();
    assert!(runs(&planner, "global-1-12"), "what it runs is right by that as well");

    let key = permission(11).key;
    let version = Version::new(Origin::Global, 1, 13);
    let out = input(&mut planner, commit(world(13, 10), vec![Change::Deleted { key, version }]));
    assert_eq!(plans(&out)[0].parts, before.parts);
    assert!(runs(&planner, "global-1-12") && !runs(&planner, "global-1-13"), "and until it has the next");
}
