//! What is found that is not as it should be.

use super::*;

#[test]
fn what_is_not_as_it_should_be_is_found() {
    let mut planner =
        planner(vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "web"), service(4, "lost")]);
    let spec = json!({ "spec": { "selector": { "dataplaneLabels": { "matchLabels": {} } }, "ports": [] } });
    input(
        &mut planner,
        commit(world(10, 11), vec![Change::Put(record("east", 11, "MeshService", "client", spec))]),
    );
    let named = |names: &[&str]| names.iter().map(|name| format!("default/{name}")).collect::<Vec<_>>();
    input(&mut planner, Input::Settled);
    let look = planner.look(NOW);
    assert_eq!(look.proxies_without_identity, named(&["cart", "web"]));
    assert_eq!((look.services, look.services_without_endpoints), (2, named(&["lost", "web"])));

    input(&mut planner, commit(world(11, 11), vec![Change::Put(identity())]));
    let (client, _) = connect(&mut planner, "web", &["inbound/8080"]);
    confirm(&mut planner, &client, world(11, 11));
    let look = planner.look(NOW);
    assert_eq!((look.proxies_without_identity, look.certificates), (named(&[]), vec![]));
    assert_eq!(look.services_without_endpoints, named(&["lost"]));

    // A leaf of a day is renewed after 16 hours: with less than four left that failed.
    for (hours, soon) in [(5, false), (3, true)] {
        let proxy = ProxyId { mesh: "default".parse().unwrap(), name: "web".parse().unwrap() };
        let life = Life::until(NOW + Duration::from_secs(hours * 3600));
        input(&mut planner, Input::Life { proxy, life });
        let ending: Vec<String> =
            planner.look(NOW).certificates.into_iter().map(|ending| ending.of).collect();
        assert_eq!(ending, if soon { vec!["proxy default/web"] } else { vec![] }, "{hours} hours left");
    }
    input(&mut planner, Input::Disconnected { client, session: 1, drained: false });
    assert_eq!(planner.look(NOW).certificates, [], "who is away renews when it comes back");

    assert!(!planner.has_ingress(&"door".parse().unwrap()));
    input(&mut planner, Input::Connected { client: Client::Ingress("door".parse().unwrap()), session: 2 });
    assert!(planner.has_ingress(&"door".parse().unwrap()));
}
