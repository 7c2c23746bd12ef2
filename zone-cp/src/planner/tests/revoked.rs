//! Whose token is revoked, nobody is led to.

use super::*;

const CART: &str = "ms_default_east__cart_http";

fn revoke(planner: &mut Planner, names: &[&str]) -> Vec<Output> {
    let id = |name: &&str| ProxyId { mesh: "default".parse().unwrap(), name: name.parse().unwrap() };
    input(planner, Input::Revoked(names.iter().map(id).collect()))
}

/// What the ingress, the proxies of the zone, and other zones are told; none where nothing new.
fn told(out: &[Output]) -> (Option<usize>, Option<usize>, Option<usize>) {
    let signal = |wanted: &str| {
        out.iter().find_map(|output| match output {
            Output::Signal { name, word, .. } if **name == *wanted => Some(word.value.clone()),
            _ => None,
        })
    };
    let handles = signal("handles")
        .map(|value| serde_json::from_slice::<BTreeMap<String, String>>(&value).unwrap().len());
    let endpoints = signal(&format!("endpoints/{CART}"))
        .map(|value| serde_json::from_slice::<Endpoints>(&value).unwrap().0.len());
    let is_export = |output: &&Output| matches!(output, Output::Export { .. });
    let exported = out.iter().find(is_export).map(|_| exports(out).instances.len());
    (handles, endpoints, exported)
}

#[test]
fn s39_nobody_is_led_to_a_proxy_whose_token_is_revoked_until_it_joins_by_another() {
    let records = vec![
        dataplane(1, "web"),
        dataplane(2, "cart"),
        service(3, "cart"),
        identity(),
        gate_named("gate", "127.0.0.8"),
    ];
    let mut planner = planner(records);
    input(&mut planner, Input::Settled);
    let (cart, _) = connect(&mut planner, "cart", &["inbound/8080"]);
    confirm(&mut planner, &cart, world(10, 10));
    certified(&mut planner, "cart");
    let gate = Client::Ingress("gate".parse().unwrap());
    input(&mut planner, Input::Connected { client: gate.clone(), session: 1 });
    let handles = input(&mut planner, subscribe(&gate, 1, &["handles"]));
    let (web, endpoints) = connect(&mut planner, "web", &[&format!("endpoints/{CART}")]);
    let wanted = vec![format!("exports/{CART}")];
    let exported = input(&mut planner, Input::Wanted { added: wanted, removed: Vec::new() });
    let whole: Vec<Output> = handles.into_iter().chain(endpoints).chain(exported).collect();
    assert_eq!(told(&whole), (Some(1), Some(1), Some(1)));

    assert_eq!(told(&revoke(&mut planner, &["cart"])), (Some(0), Some(0), Some(0)), "at once");
    assert_eq!(told(&revoke(&mut planner, &["cart", "another"])), (None, None, None));

    // Nobody can take its certificate away from it, so nobody says that it enforces anything.
    input(&mut planner, Input::Disconnected { client: cart.clone(), session: 1, drained: false });
    input(&mut planner, Input::Disconnected { client: web, session: 1, drained: true });
    let version = "global-1-10".parse().unwrap();
    let [late] = &planner.prove(&version, NOW).late[..] else { panic!("{:?}", planner.prove(&version, NOW)) };
    assert_eq!((late.standing, late.reason), (Standing::Unknown, Reason::Revoked));
    assert!(planner.prove(&version, NOW + Duration::from_secs(361)).is_applied(), "when that has ended");

    let (_, before) = connect(&mut planner, "web", &[&format!("endpoints/{CART}")]);
    assert_eq!(told(&before), (None, Some(0), None));
    let back = revoke(&mut planner, &[]);
    assert_eq!(told(&back), (Some(1), Some(1), Some(1)));
    let of = |out: &[Output]| exports(out).instances[0].sni.clone();
    assert_eq!(of(&back), of(&whole), "the handle that it had");
}
