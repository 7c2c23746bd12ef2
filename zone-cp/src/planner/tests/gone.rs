//! What the planner does not hold any more, and of whom it does not say that it runs the newest.

use super::*;

fn refused() -> BTreeMap<String, String> {
    [("inbound/8080".to_owned(), "no leaf".to_owned())].into_iter().collect()
}

#[test]
fn who_refuses_is_not_current_by_what_it_confirmed_before() {
    let mut planner = planner(vec![dataplane(1, "web"), identity()]);
    let (web, _) = connect(&mut planner, "web", &["inbound/8080"]);
    confirm(&mut planner, &web, world(10, 10));
    assert_eq!(planner.overview(NOW).current, 1);
    // It opened its parts anew and took none of them.
    input(&mut planner, Input::Refused { client: web.clone(), session: 1, refused: refused() });
    assert_eq!(planner.overview(NOW).current, 0);
    // This concerns nobody, and so the world of its plan stays.
    input(&mut planner, commit(world(11, 10), vec![Change::Put(service(11, "cart"))]));
    let proof = planner.prove(&"global-1-11".parse().unwrap(), NOW);
    assert!(!proof.is_applied() && proof.is_refused(), "{proof:?}");
    confirm(&mut planner, &web, world(11, 10));
    assert!(planner.prove(&"global-1-11".parse().unwrap(), NOW).is_applied());
}

#[test]
fn who_subscribes_to_nothing_is_not_current() {
    let mut planner = planner(vec![dataplane(1, "web"), identity()]);
    let (web, _) = connect(&mut planner, "web", &[]);
    confirm(&mut planner, &web, world(10, 10));
    let proof = planner.prove(&"global-1-10".parse().unwrap(), NOW);
    assert_eq!((proof.current, proof.late.len()), (0, 1));
}

#[test]
fn parts_that_nobody_subscribes_to_any_more_are_not_held() {
    for client in [proxy("web"), Client::Ingress("gate".parse().unwrap())] {
        let mut planner = planner(vec![dataplane(1, "web"), identity()]);
        input(&mut planner, Input::Connected { client: client.clone(), session: 1 });
        let mut removed = Vec::new();
        for turn in 0..40 {
            let name = |number| format!("destination/ms_default_x__s{turn}-{number}_1");
            let added: Vec<String> = (0..256).map(name).collect();
            let removed = std::mem::replace(&mut removed, added.clone());
            let subscribed = Input::Subscribed { client: client.clone(), session: 1, added, removed };
            input(&mut planner, subscribed);
        }
        assert!(planner.shared.held() < 4000, "{} of {client}", planner.shared.held());
    }
}

#[test]
fn a_class_that_no_proxy_is_of_any_more_is_not_held() {
    let tier = |number: u64| json!({ "tier": format!("t{number}") });
    let timeout = |number| {
        let target = json!({ "kind": "Dataplane", "labels": tier(number) });
        let to = json!([{ "targetRef": { "kind": "Mesh" }, "default": { "idleTimeout": "7s" } }]);
        let spec = json!({ "spec": { "targetRef": target, "to": to } });
        record("global", 1, "MeshTimeout", &format!("t{number}"), spec)
    };
    let mut planner = planner((0..16).map(timeout).chain([identity()]).collect());
    connect(&mut planner, "web", &["trust"]);
    let mut most = 0;
    for number in 0..16 {
        let inbound = json!([{ "port": 8080, "servicePort": 9080, "name": "http", "protocol": "http" }]);
        let networking = json!({ "address": "127.0.0.1", "inbound": inbound });
        let spec = json!({ "labels": tier(number), "networking": networking });
        let dataplane = record("east", 11 + number, "Dataplane", "web", spec);
        input(&mut planner, commit(world(10, 11 + number), vec![Change::Put(dataplane)]));
        most = most.max(planner.shared.held());
    }
    // Of each: itself and the trust. That before the last is found by the next commit.
    assert_eq!(most, 1 + 1 + 2 * 2, "a name, a body, two classes");
}

#[test]
fn a_proxy_without_a_dataplane_is_nobody_once_its_session_is_over() {
    let registered = || planner(vec![dataplane(1, "web"), identity()]);
    let deleted = || {
        let mut planner = registered();
        let (web, _) = connect(&mut planner, "web", &["inbound/8080"]);
        let version = Version::new("east".parse().unwrap(), 1, 11);
        let change = Change::Deleted { key: dataplane(1, "web").key, version };
        input(&mut planner, commit(world(10, 11), vec![change]));
        (planner, web)
    };
    let unregistered = || {
        let mut planner = planner(vec![identity()]);
        let (web, _) = connect(&mut planner, "web", &["inbound/8080"]);
        (planner, web)
    };
    let kept = || {
        let mut planner = registered();
        let (web, _) = connect(&mut planner, "web", &["inbound/8080"]);
        (planner, web)
    };
    let over = |(mut planner, client): (Planner, Client), silent, drained| {
        input(&mut planner, Input::Silent { client: client.clone(), session: 1, silent });
        input(&mut planner, Input::Disconnected { client: client.clone(), session: 1, drained });
        let is_missing = !silent && !drained;
        assert!(!is_missing || !planner.is_news(&client), "it may come back within moments");
        input(&mut planner, Input::LossCounts { client: client.clone(), session: 1 });
        planner.is_news(&client)
    };
    for (silent, drained) in [(false, false), (true, false), (false, true)] {
        assert!(over(deleted(), silent, drained), "deleted: silent {silent}, drained {drained}");
        assert!(over(unregistered(), silent, drained), "unregistered: silent {silent}, drained {drained}");
        assert!(!over(kept(), silent, drained), "registered: silent {silent}, drained {drained}");
    }
}
