//! A hub, the sessions of two proxies, and one with the global.

use std::collections::BTreeMap;

use futures::StreamExt;
use runtime::Tasks;
use snapshot::handle::Salt;
use store::Listing;
use sync::link::{self, Host, Options, Topics, Transport};
use sync::session::Limits;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::planner::tests::{dataplane, identity, proxy, service, subscribe, world};

const CART: &str = "endpoints/ms_default_east__cart_http";
const EXPORTS: &str = "exports/ms_default_east__cart_http";

/// Takes in what it is told, when it may.
struct Far {
    listens: watch::Sender<bool>,
    heard: watch::Sender<BTreeMap<String, Signal>>,
}

/// The near end, which the test plays itself.
struct Near;

impl Host for Near {
    fn topics(&self) -> Topics {
        Topics::default()
    }
}

impl Host for Far {
    fn topics(&self) -> Topics {
        Topics::default()
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        self.listens.subscribe().wait_for(|listens| *listens).await.unwrap();
        self.heard.send_modify(|heard| heard.extend(signals));
    }
}

impl Far {
    async fn hears(&self, name: &str) {
        self.heard.subscribe().wait_for(|heard| heard.contains_key(name)).await.unwrap();
    }
}

/// Runs a session between the handle and somebody who wants a signal.
fn connect(handle: &Handle, wants: &str) -> Arc<Far> {
    let far = Arc::new(Far { listens: watch::Sender::new(true), heard: watch::Sender::default() });
    let theirs = Handle::new();
    theirs.subscribe([wants]);
    let (up, from_below) = mpsc::channel(1);
    let (down, from_above) = mpsc::channel(1);
    let (host, handle) = (far.clone(), handle.clone());
    tokio::spawn(async move {
        let options = Options::new("1.2.3", Limits::PROXY);
        let stop = CancellationToken::new();
        let near = Transport { incoming: link::frames(from_below).map(Ok), outgoing: down };
        let far = Transport { incoming: link::frames(from_above).map(Ok), outgoing: up };
        tokio::join!(
            link::run(Arc::new(Near), &handle, near, &options, 1, &stop),
            link::run(host, &theirs, far, &options, 1, &stop),
        )
    });
    far
}

#[tokio::test(start_paused = true)]
async fn who_drains_is_let_go_when_its_zone_and_the_others_have_taken_it_out() {
    let zone: ZoneName = "east".parse().unwrap();
    let mut planner = Planner::new(zone.clone(), Salt::new(&[7; 32]));
    let records = vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()];
    planner.on_input(Input::Listed(Listing { sequence: 1, world: world(10, 10), records }));
    let (tasks, upstream) = (Tasks::new(), Handle::new());
    let hub = Hub::new(zone, planner, Some(upstream.clone()), tasks.children(), Clock::system());
    let (web, cart) = (proxy("web"), proxy("cart"));
    let handle = Handle::new();
    let (session, _plans) = hub.attach(web.clone(), handle.clone()).begin();
    hub.input(subscribe(&web, session, &[CART]));
    let (cart_session, _plans) = hub.attach(cart.clone(), Handle::new()).begin();
    hub.input(Input::Wanted { added: vec![EXPORTS.to_owned()], removed: Vec::new() });
    let (user, global) = (connect(&handle, CART), connect(&upstream, EXPORTS));
    user.hears(CART).await;
    global.hears(EXPORTS).await;

    for slow in [&user, &global] {
        slow.listens.send_replace(false);
    }
    let draining = tokio::spawn({
        let hub = hub.clone();
        async move { hub.draining(&cart, cart_session).await }
    });
    let second = Duration::from_secs(1);
    for slow in [&user, &global] {
        time::sleep(second).await;
        assert!(!draining.is_finished());
        slow.listens.send_replace(true);
    }
    time::timeout(second, draining).await.expect("both have put it in force").unwrap();
    for (far, name) in [(&user, CART), (&global, EXPORTS)] {
        let value = far.heard.borrow()[name].value.clone();
        assert!(String::from_utf8_lossy(&value).contains("\"ready\":false"), "{value:?}");
    }
}

/// A hub of a zone with the proxies `web` and `cart`, and a service of the latter.
fn hub(tasks: &Tasks) -> Arc<Hub> {
    let zone: ZoneName = "east".parse().unwrap();
    let mut planner = Planner::new(zone.clone(), Salt::new(&[7; 32]));
    let records = vec![dataplane(1, "web"), dataplane(2, "cart"), service(3, "cart"), identity()];
    planner.on_input(Input::Listed(Listing { sequence: 1, world: world(10, 10), records }));
    Hub::new(zone, planner, None, tasks.children(), Clock::system())
}

#[tokio::test(start_paused = true)]
async fn a_zone_has_not_settled_while_what_has_changed_waits_to_be_told() {
    let (tasks, second) = (Tasks::new(), Duration::from_secs(1));
    let hub = hub(&tasks);
    let (web, handle) = (proxy("web"), Handle::new());
    let (session, _plans) = hub.attach(web.clone(), handle.clone()).begin();
    hub.input(subscribe(&web, session, &[CART]));
    let user = connect(&handle, CART);
    user.hears(CART).await;
    hub.settled().await;

    user.listens.send_replace(false);
    hub.state().tell_at = Instant::now() + second;
    // The other proxy is missed from now on.
    hub.input(Input::Settled);
    let settled = tokio::spawn({
        let hub = hub.clone();
        async move { hub.settled().await }
    });
    time::sleep(second / 2).await;
    assert!(!settled.is_finished(), "nobody was told");
    user.listens.send_replace(true);
    time::timeout(second, settled).await.expect("it is in force").unwrap();
    let value = user.heard.borrow()[CART].value.clone();
    assert!(String::from_utf8_lossy(&value).contains("\"ready\":false"), "{value:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_never_began_is_over() {
    let tasks = Tasks::new();
    let hub = hub(&tasks);
    let Client::Proxy(web) = proxy("web") else { unreachable!() };
    let state = |hub: &Arc<Hub>| hub.inspect(&web).unwrap().state;
    let attachment = hub.attach(proxy("web"), Handle::new());
    assert_eq!(state(&hub), ProxyState::Late);
    drop(attachment);
    assert_eq!(state(&hub), ProxyState::Unknown);
    hub.attach(proxy("web"), Handle::new()).begin();
    assert_eq!(state(&hub), ProxyState::Late, "whoever has begun it says when it is over");
}

/// When a hub with a proxy that stays away begins to miss it, in seconds after the start; others come at these.
async fn misses_at(arrivals: &[u64]) -> u64 {
    let tasks = Tasks::new();
    let hub = hub(&tasks);
    hub.start_settling();
    for second in 0..70 {
        for number in arrivals.iter().filter(|at| **at == second) {
            hub.attach(proxy(&format!("web-{number}")), Handle::new()).begin();
            // Who comes again is no news.
            hub.attach(proxy("web"), Handle::new()).begin();
        }
        time::sleep(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
        let Client::Proxy(cart) = proxy("cart") else { unreachable!() };
        if hub.memory().missed.contains(&cart) {
            return second + 1;
        }
    }
    panic!("it is never missed");
}

#[tokio::test(start_paused = true)]
async fn who_is_not_back_is_missed_when_nobody_comes_any_more_and_after_a_minute_at_the_latest() {
    assert_eq!(misses_at(&[]).await, 10);
    assert_eq!(misses_at(&[1, 2]).await, 10);
    assert_eq!(misses_at(&[1, 4, 8]).await, 13);
    assert_eq!(misses_at(&[1, 4, 8, 12, 16, 20, 30]).await, 25);
    let for_ever: Vec<u64> = (0..70).collect();
    assert_eq!(misses_at(&for_ever).await, 60);
}
