//! From when others are sent to an instance.

use super::*;

const CART: &str = "endpoints/ms_default_east__cart_http";

/// The proxy `cart`, which listens at these ports, with its application's requests at the first.
fn listening_at(revision: u64, ports: &[u16]) -> Change {
    let inbound = ports.iter().enumerate().map(|(number, port)| {
        let name = if number == 0 { "http".to_owned() } else { format!("other-{number}") };
        json!({ "port": port, "servicePort": 9080, "name": name, "protocol": "http" })
    });
    let networking = json!({ "address": "127.0.0.1", "inbound": inbound.collect::<Vec<_>>() });
    let spec = json!({ "labels": { "tombolo.io/workload": "cart" }, "networking": networking });
    Change::Put(record("east", revision, "Dataplane", "cart", spec))
}

fn told(out: &[Output]) -> (u16, bool) {
    let endpoint = &endpoints(out).0[0];
    (endpoint.address.port(), endpoint.ready)
}

#[test]
fn a_proxy_that_moves_is_ready_when_it_listens_there_and_not_a_moment_before() {
    let mut planner =
        planner(vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()]);
    input(&mut planner, Input::Settled);
    connect(&mut planner, "web", &[CART]);
    let (cart, _) = connect(&mut planner, "cart", &["inbound/8080"]);
    confirm(&mut planner, &cart, world(10, 10));
    let subscribed = ["inbound/8080", "inbound/8081", "inbound/8082"];

    // It is killed and starts again elsewhere, at once.
    let comes_back = |planner: &mut Planner, session| {
        let lost = Input::Disconnected { client: cart.clone(), session: session - 1, drained: false };
        input(planner, lost);
        input(planner, Input::Connected { client: cart.clone(), session });
        input(planner, subscribe(&cart, session, &subscribed));
    };
    comes_back(&mut planner, 2);
    let out = input(&mut planner, commit(world(10, 11), vec![listening_at(11, &[8081])]));
    assert_eq!(told(&out), (8081, false));
    comes_back(&mut planner, 3);
    let confirmed = |planner: &mut Planner, session, world| {
        let generation = planner.clients[&cart].plan.generation;
        input(planner, Input::Confirmed { client: cart.clone(), session, world, generation })
    };
    let out = confirmed(&mut planner, 3, world(10, 10));
    assert!(out.is_empty(), "that was before: {out:?}");
    let out = confirmed(&mut planner, 3, world(10, 11));
    assert_eq!(told(&out), (8081, true));

    let out = input(&mut planner, commit(world(10, 12), vec![listening_at(12, &[8081, 8082])]));
    assert!(out.iter().all(|output| !matches!(output, Output::Signal { .. })), "the other stays: {out:?}");
}
