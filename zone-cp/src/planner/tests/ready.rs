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

#[test]
fn an_endpoint_is_not_ready_five_seconds_after_its_session_was_lost_and_no_sooner() {
    let mut planner =
        planner(vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()]);
    input(&mut planner, Input::Settled);
    let (cart, _) = connect(&mut planner, "cart", &[]);
    let (_, out) = connect(&mut planner, "web", &["endpoints/ms_default_east__cart_http"]);
    assert!(!endpoints(&out).0[0].ready, "it has not said yet that it serves");
    let generation = planner.clients[&cart].plan.generation;
    let confirmed = Input::Confirmed { client: cart.clone(), session: 1, world: world(10, 10), generation };
    assert!(endpoints(&input(&mut planner, confirmed)).0[0].ready);

    let out = input(&mut planner, Input::Disconnected { client: cart.clone(), session: 1, drained: false });
    assert!(matches!(&out[..], [Output::CountLossLater { .. }]), "{out:?}");
    let out = input(&mut planner, Input::LossCounts { client: cart.clone(), session: 1 });
    assert!(!endpoints(&out).0[0].ready);

    input(&mut planner, Input::Connected { client: cart.clone(), session: 2 });
    let out = input(&mut planner, Input::LossCounts { client: cart, session: 1 });
    assert!(out.is_empty(), "the loss of an old session says nothing of a new one");
}

#[test]
fn a_newcomer_is_ready_once_it_says_so_of_a_world_that_it_is_in() {
    let mut planner = planner(vec![dataplane(1, "web"), service(3, "cart"), identity()]);
    input(&mut planner, Input::Settled);
    connect(&mut planner, "web", &["endpoints/ms_default_east__cart_http"]);
    // It has nothing to put in force before it is registered, and says that it has done so.
    let (cart, _) = connect(&mut planner, "cart", &["inbound/8080"]);
    confirm(&mut planner, &cart, world(10, 10));
    let registered = commit(world(10, 11), vec![Change::Put(dataplane(11, "cart"))]);
    assert!(!endpoints(&input(&mut planner, registered)).0[0].ready, "it listens nowhere yet");
    let generation = planner.clients[&cart].plan.generation;
    let confirmed = Input::Confirmed { client: cart, session: 1, world: world(10, 11), generation };
    assert!(endpoints(&input(&mut planner, confirmed)).0[0].ready);
}

#[test]
fn over_a_restart_no_endpoint_comes_or_goes_before_it_is_over_who_is_back() {
    let names = ["cart-1", "cart-2", "cart-3"];
    let carts = |names: &[&str]| {
        let carts = names.iter().zip(2..).map(|(name, revision)| instance(revision, name));
        carts.chain([dataplane(1, "web"), service(9, "cart"), identity()]).collect()
    };
    let ready = |out: &[Output]| -> Vec<bool> { endpoints(out).0.iter().map(|one| one.ready).collect() };
    let asks = |planner: &mut Planner| connect(planner, "web", &["endpoints/ms_default_east__cart_http"]).1;
    let mut before = planner(carts(&names));
    input(&mut before, Input::Settled);
    for name in names {
        let (cart, _) = connect(&mut before, name, &[]);
        confirm(&mut before, &cart, world(10, 10));
    }
    input(&mut before, Input::Silent { client: proxy("cart-3"), session: 1, silent: true });
    input(&mut before, Input::Disconnected { client: proxy("cart-2"), session: 1, drained: false });
    assert_eq!(ready(&asks(&mut before)), [true, true, false]);

    let mut planner = planner(carts(&names));
    input(&mut planner, Input::Kept(before.memory()));
    assert_eq!(ready(&asks(&mut planner)), [true, true, false], "as it was told before");
    let (back, _) = connect(&mut planner, "cart-1", &[]);
    let generation = planner.clients[&back].plan.generation;
    let confirmed = Input::Confirmed { client: back, session: 1, world: world(10, 10), generation };
    let told = input(&mut planner, confirmed);
    assert!(told.is_empty(), "who comes back is no news: {told:?}");

    let new = commit(world(10, 11), vec![Change::Put(instance(11, "cart-4"))]);
    assert_eq!(
        ready(&input(&mut planner, new)),
        [true, true, false, false],
        "whom nobody knew is not missed"
    );
    let (new, _) = connect(&mut planner, "cart-4", &[]);
    assert!(!planner.clients[&new].is_live(), "nor does it serve before it says so");
    let generation = planner.clients[&new].plan.generation;
    let confirmed = Input::Confirmed { client: new, session: 1, world: world(10, 11), generation };
    assert_eq!(ready(&input(&mut planner, confirmed)), [true, true, false, true]);
    assert_eq!(ready(&input(&mut planner, Input::Settled)), [true, false, false, true]);
}

/// One of several proxies of the workload `cart`.
fn instance(revision: u64, name: &str) -> model::Record {
    let number: u16 = name.rsplit('-').next().unwrap().parse().unwrap();
    let spec = json!({
        "labels": { "tombolo.io/workload": "cart" },
        "networking": {
            "address": "127.0.0.1",
            "inbound": [{ "port": 8080 + number, "servicePort": 9080, "name": "http", "protocol": "http" }],
        },
    });
    record("east", revision, "Dataplane", name, spec)
}

#[test]
fn a_proxy_that_is_silent_is_unknown_and_not_ready_until_it_is_heard_again() {
    let mut planner =
        planner(vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()]);
    input(&mut planner, Input::Settled);
    let (cart, _) = connect(&mut planner, "cart", &["inbound/8080"]);
    certified(&mut planner, "cart");
    confirm(&mut planner, &cart, world(10, 10));
    let (_, out) = connect(&mut planner, "web", &["endpoints/ms_default_east__cart_http"]);
    assert!(endpoints(&out).0[0].ready);
    let silent = |silent| Input::Silent { client: cart.clone(), session: 1, silent };
    let eleven = "global-1-11".parse().unwrap();
    let standing = |planner: &Planner| {
        let late = planner.prove(&eleven, NOW).late;
        late.iter().find(|late| late.proxy.name.as_str() == "cart").map(|late| (late.standing, late.reason))
    };

    assert!(!endpoints(&input(&mut planner, silent(true))).0[0].ready);
    let out = input(&mut planner, commit(world(11, 10), vec![Change::Put(permission(11))]));
    assert_eq!(plans(&out).len(), 1, "it is told all the same what it will need when it goes on");
    assert_eq!(standing(&planner), Some((Standing::Unknown, Reason::Disconnected)));

    assert!(endpoints(&input(&mut planner, silent(false))).0[0].ready);
    assert_eq!(standing(&planner), Some((Standing::Late, Reason::Slow)));
    confirm(&mut planner, &cart, world(11, 10));
    assert_eq!(standing(&planner), None);

    input(&mut planner, silent(true));
    input(&mut planner, Input::Disconnected { client: cart.clone(), session: 1, drained: false });
    let (_, out) = connect(&mut planner, "web", &["endpoints/ms_default_east__cart_http"]);
    assert!(!endpoints(&out).0[0].ready, "the end of its session is no sign of life");
    assert!(input(&mut planner, silent(false)).is_empty(), "nor is a late word of it");
}

#[test]
fn after_a_start_proxies_that_are_not_back_yet_are_not_missed() {
    let mut planner =
        planner(vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()]);
    let (_, out) = connect(&mut planner, "web", &["endpoints/ms_default_east__cart_http"]);
    assert!(endpoints(&out).0[0].ready);
    let out = input(&mut planner, Input::Settled);
    assert!(!endpoints(&out).0[0].ready);
}

#[test]
fn a_proxy_that_drains_is_not_ready_for_anybody_and_counts_until_it_has_gone() {
    let mut planner =
        planner(vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()]);
    input(&mut planner, Input::Settled);
    certified(&mut planner, "cart");
    let (cart, _) = connect(&mut planner, "cart", &["inbound/8080"]);
    connect(&mut planner, "web", &["endpoints/ms_default_east__cart_http"]);
    confirm(&mut planner, &cart, world(10, 10));
    let wanted = vec!["exports/ms_default_east__cart_http".to_owned()];
    let out = input(&mut planner, Input::Wanted { added: wanted, removed: Vec::new() });
    assert!(exports(&out).instances[0].ready);

    let draining = |session| Input::Draining { client: cart.clone(), session };
    assert!(input(&mut planner, draining(7)).is_empty(), "a session that is none of its own says nothing");
    let out = input(&mut planner, draining(1));
    assert!(!endpoints(&out).0[0].ready, "in its zone");
    assert!(!exports(&out).instances[0].ready, "and in others");
    let eleven = "global-1-11".parse().unwrap();
    input(&mut planner, commit(world(11, 10), vec![Change::Put(permission(11))]));
    let late = |planner: &Planner| planner.prove(&eleven, NOW).late.len();
    assert_eq!(late(&planner), 2, "it still serves whom it was told of, by what it was told");
    confirm(&mut planner, &cart, world(11, 10));
    assert_eq!(late(&planner), 1);

    // A session that is lost meanwhile does not bring it back; a new process of the same name does.
    input(&mut planner, Input::Disconnected { client: cart.clone(), session: 1, drained: false });
    let out = input(&mut planner, Input::Connected { client: cart.clone(), session: 2 });
    assert!(out.iter().all(|output| !matches!(output, Output::Signal { .. })), "{out:?}");
    input(&mut planner, subscribe(&cart, 2, &["inbound/8080"]));
    let generation = planner.clients[&cart].plan.generation;
    let confirmed = Input::Confirmed { client: cart.clone(), session: 2, world: world(11, 10), generation };
    assert!(endpoints(&input(&mut planner, confirmed)).0[0].ready);
}
