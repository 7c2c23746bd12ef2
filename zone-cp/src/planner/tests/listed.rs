//! A listing, after commits that were missed, does what they would have done.

use super::*;

#[test]
fn a_proxy_that_vanished_while_commits_were_missed_is_nobody() {
    let all = || vec![dataplane(1, "web"), dataplane(2, "cart"), identity()];
    let mut planner = planner(all());
    certified(&mut planner, "cart");
    let (cart, _) = connect(&mut planner, "cart", &["inbound/8080"]);
    input(&mut planner, Input::Disconnected { client: cart.clone(), session: 1, drained: false });
    let late = |planner: &Planner| planner.overview(NOW).late.len();

    input(&mut planner, listed(world(10, 10), all()));
    assert!(!planner.is_news(&cart), "it is still there");
    assert_eq!(late(&planner), 1);
    input(&mut planner, listed(world(10, 11), vec![dataplane(1, "web"), identity()]));
    assert!(planner.is_news(&cart));
    // One that comes by its name has no certificate yet.
    input(&mut planner, listed(world(10, 12), all()));
    assert_eq!(late(&planner), 0);
}

#[test]
fn a_newcomer_that_is_listed_is_ready_where_it_runs_what_follows_already() {
    let mut planner = planner(vec![dataplane(1, "web"), service(3, "cart"), identity()]);
    input(&mut planner, Input::Settled);
    connect(&mut planner, "web", &["endpoints/ms_default_east__cart_http"]);
    // Nothing of what it asks for is in its Dataplane.
    let (cart, _) = connect(&mut planner, "cart", &["inbound/9"]);
    confirm(&mut planner, &cart, world(10, 10));
    let all = vec![dataplane(1, "web"), service(3, "cart"), identity(), dataplane(11, "cart")];
    let out = input(&mut planner, listed(world(10, 11), all));
    assert!(endpoints(&out).0[0].ready);
}

#[test]
fn what_was_in_force_stays_where_its_next_version_cannot_be_read() {
    let mut planner = planner(vec![dataplane(1, "web"), permission(5), identity()]);
    let (web, out) = connect(&mut planner, "web", &["inbound/8080"]);
    let open = plans(&out)[0].parts.clone();
    let unreadable = model::Record { bytes: "{".into(), ..permission(11) };
    let out = input(&mut planner, listed(world(11, 10), vec![dataplane(1, "web"), unreadable, identity()]));
    assert!(plans(&out).iter().all(|plan| plan.parts == open), "{out:?}");
    assert_eq!(planner.clients[&web].plan.parts, open);
}
