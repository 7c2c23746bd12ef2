//! Of whom it is said that it runs a revision.

use super::*;

#[test]
fn applied_is_said_only_when_the_zone_knows_it_and_every_proxy_confirmed_it() {
    let mut planner = planner(vec![dataplane(1, "web"), dataplane(2, "cart"), identity()]);
    let (web, _) = connect(&mut planner, "web", &["inbound/8080"]);
    certified(&mut planner, "cart");
    let eleven = "global-1-11".parse().unwrap();
    assert!(!planner.prove(&eleven, NOW).known);

    input(&mut planner, commit(world(11, 10), vec![Change::Put(permission(11))]));
    let standing = |planner: &Planner| -> Vec<_> {
        planner
            .prove(&eleven, NOW)
            .late
            .iter()
            .map(|late| (late.proxy.name.to_string(), late.reason))
            .collect()
    };
    assert_eq!(standing(&planner), [("cart".into(), Reason::Disconnected), ("web".into(), Reason::Joining)]);

    confirm(&mut planner, &web, world(10, 10));
    assert_eq!(standing(&planner)[1], ("web".into(), Reason::Slow));
    confirm(&mut planner, &web, world(11, 10));
    assert_eq!(standing(&planner), [("cart".into(), Reason::Disconnected)]);

    let (cart, _) = connect(&mut planner, "cart", &["inbound/8080"]);
    confirm(&mut planner, &cart, world(11, 10));
    assert!(planner.prove(&eleven, NOW).is_applied());

    input(&mut planner, Input::Disconnected { client: cart, session: 1, drained: true });
    assert!(planner.prove(&eleven, NOW).is_applied(), "who drained runs nothing any more");
}

#[test]
fn a_proxy_that_is_not_heard_of_counts_until_its_certificate_is_over() {
    let mut planner = planner(vec![dataplane(1, "web"), identity()]);
    let ten = "global-1-10".parse().unwrap();
    let unknown = |planner: &Planner, at: u64| planner.prove(&ten, NOW + Duration::from_secs(at)).late.len();
    assert_eq!(unknown(&planner, 0), 0, "it never had a certificate");
    certified(&mut planner, "web");
    assert_eq!((unknown(&planner, 0), unknown(&planner, 300), unknown(&planner, 361)), (1, 1, 0));
}

#[test]
fn what_a_proxy_confirmed_says_nothing_of_what_it_subscribed_to_since() {
    let mut planner =
        planner(vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()]);
    let (web, _) = connect(&mut planner, "web", &["inbound/8080"]);
    let ten = "global-1-10".parse().unwrap();
    let before = planner.clients[&web].plan.generation;
    input(&mut planner, subscribe(&web, 1, &["destination/ms_default_east__cart_http"]));
    let world = world(10, 10);
    input(
        &mut planner,
        Input::Confirmed { client: web.clone(), session: 1, world: world.clone(), generation: before },
    );
    assert!(!planner.prove(&ten, NOW).is_applied());
    confirm(&mut planner, &web, world);
    assert!(planner.prove(&ten, NOW).is_applied());
}

#[test]
fn a_word_of_a_replaced_session_counts_no_more() {
    let mut planner = planner(vec![dataplane(1, "web"), identity()]);
    let (web, _) = connect(&mut planner, "web", &["inbound/8080"]);
    input(&mut planner, Input::Connected { client: web.clone(), session: 2 });
    confirm(&mut planner, &web, world(10, 10));
    input(&mut planner, Input::Disconnected { client: web.clone(), session: 1, drained: true });
    let late = planner.prove(&"global-1-10".parse().unwrap(), NOW).late;
    assert_eq!((late.len(), late[0].reason), (1, Reason::Joining));
}
