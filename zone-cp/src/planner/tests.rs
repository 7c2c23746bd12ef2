mod closed;
mod gone;
mod listed;
mod ready;
mod revoked;

use std::time::{Duration, SystemTime};

use identity::ZoneCa;
use model::document::{self, Address, Tree};
use model::{DestinationId, Version};
use serde_json::{Value, json};
use snapshot::parts::Endpoints;
use store::Change;

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const WEST_CART: &str = "ms_default_west__cart_http";

fn zone() -> ZoneName {
    "east".parse().unwrap()
}

pub(crate) fn proxy(name: &str) -> Client {
    Client::Proxy(ProxyId { mesh: "default".parse().unwrap(), name: name.parse().unwrap() })
}

fn record(origin: &str, revision: u64, kind: &str, name: &str, spec: Value) -> model::Record {
    let kind = model::kinds::by_name(kind).unwrap();
    let origin: Origin = origin.parse().unwrap();
    let mesh = kind.is_mesh_scoped().then(|| "default".parse().unwrap());
    let address = Address { kind, mesh, name: name.into(), origin: Some(origin.clone()) };
    let document = document::read_at(&Tree::from(spec), &address).unwrap();
    document.to_record(Version::new(origin, 1, revision))
}

pub(crate) fn dataplane(revision: u64, name: &str) -> model::Record {
    let spec = json!({
        "labels": { "tombolo.io/workload": name },
        "networking": {
            "address": "127.0.0.1",
            "inbound": [{ "port": 8080, "servicePort": 9080, "name": "http", "protocol": "http" }],
        },
    });
    record("east", revision, "Dataplane", name, spec)
}

pub(crate) fn identity() -> model::Record {
    let spec = json!({ "spec": {
        "selector": { "dataplane": { "matchLabels": {} } },
        "provider": { "type": "Bundled", "bundled": { "autogenerate": { "enabled": true } } },
    } });
    record("global", 2, "MeshIdentity", "identity", spec)
}

fn permission(revision: u64) -> model::Record {
    let spec = json!({ "spec": { "rules": [{ "default": { "allow": [{ "source": {} }] } }] } });
    record("global", revision, "MeshTrafficPermission", "open", spec)
}

pub(crate) fn service(revision: u64, name: &str) -> model::Record {
    let spec = json!({ "spec": {
        "selector": { "dataplaneLabels": { "matchLabels": { "tombolo.io/workload": name } } },
        "ports": [{ "port": 8080, "name": "http", "targetPort": "http", "appProtocol": "http" }],
    } });
    record("east", revision, "MeshService", name, spec)
}

fn planner(records: Vec<model::Record>) -> Planner {
    let mut planner = Planner::new(zone(), Salt::new(&[7; 32]));
    planner.on_input(listed(world(10, 10), records));
    planner
}

fn listed(world: World, records: Vec<model::Record>) -> Input {
    Input::Listed(Listing { sequence: 1, world, records })
}

fn certified(planner: &mut Planner, name: &str) {
    let proxy = ProxyId { mesh: "default".parse().unwrap(), name: name.parse().unwrap() };
    planner.on_input(Input::Life { proxy, life: Life::until(NOW + Duration::from_secs(60)) });
}

pub(crate) fn world(global: u64, east: u64) -> World {
    let point = |revision| model::Point { epoch: 1, revision };
    [(Origin::Global, point(global)), (Origin::Zone(zone()), point(east))].into_iter().collect()
}

fn commit(world: World, changes: Vec<Change>) -> Input {
    Input::Committed(Arc::new(Commit { sequence: 2, world, changes }))
}

pub(crate) fn subscribe(client: &Client, session: SessionNumber, names: &[&str]) -> Input {
    let added = names.iter().map(ToString::to_string).collect();
    Input::Subscribed { client: client.clone(), session, added, removed: Vec::new() }
}

/// What follows from an input, with the signals that changed by it.
fn input(planner: &mut Planner, input: Input) -> Vec<Output> {
    let mut out = planner.on_input(input);
    out.extend(planner.tell());
    out
}

fn connect(planner: &mut Planner, name: &str, names: &[&str]) -> (Client, Vec<Output>) {
    let client = proxy(name);
    input(planner, Input::Connected { client: client.clone(), session: 1 });
    let out = input(planner, subscribe(&client, 1, names));
    (client, out)
}

fn plans(out: &[Output]) -> Vec<&Plan> {
    out.iter()
        .filter_map(|output| if let Output::Plan { plan, .. } = output { Some(plan) } else { None })
        .collect()
}

fn confirm(planner: &mut Planner, client: &Client, world: World) {
    let generation = planner.clients[client].plan.generation;
    input(planner, Input::Confirmed { client: client.clone(), session: 1, world, generation });
}

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

fn endpoints(out: &[Output]) -> Endpoints {
    let value = out.iter().find_map(|output| match output {
        Output::Signal { word, .. } => Some(word.value.clone()),
        _ => None,
    });
    serde_json::from_slice(&value.expect("a signal")).unwrap()
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

fn cart_of_west() -> model::Record {
    let ports = json!([{ "port": 8080, "name": "http", "targetPort": "http", "appProtocol": "http" }]);
    record("west", 1, "MeshService", "cart", json!({ "spec": { "ports": ports } }))
}

#[test]
fn another_zones_service_is_asked_for_while_somebody_uses_it_and_no_word_takes_nothing_away() {
    let address = record(
        "west",
        1,
        "MeshZoneAddress",
        "gate",
        json!({ "spec": { "address": "127.0.0.9", "port": 10001 } }),
    );
    let mut planner = planner(vec![dataplane(1, "web"), identity(), address]);
    let (name, no_port) = (format!("endpoints/{WEST_CART}"), "endpoints/ms_default_west__cart_grpc");
    let (web, out) = connect(&mut planner, "web", &[&name, no_port]);
    let destination: DestinationId = WEST_CART.parse().unwrap();
    let wants = |out: &[Output]| -> Vec<DestinationId> {
        let wanted = |output: &Output| if let Output::Want(id) = output { Some(id.clone()) } else { None };
        out.iter().filter_map(wanted).collect()
    };
    assert!(out.iter().any(|output| matches!(output, Output::Signal { word, .. } if word.value.is_empty())));
    assert_eq!(wants(&out), [], "nobody declared it");
    let out = input(&mut planner, commit(world(10, 10), vec![Change::Put(cart_of_west())]));
    assert_eq!(wants(&out), std::slice::from_ref(&destination));

    let export = json!({ "instances": [{ "sni": "x.y", "identity": "spiffe://default.west.mesh.local/workload/cart", "ready": true, "weight": 1 }] });
    let exports = serde_json::from_value::<Exports>(export).unwrap();
    let out =
        input(&mut planner, Input::Exported { destination: destination.clone(), exports: Some(exports) });
    let told = endpoints(&out);
    assert_eq!((told.0[0].address, told.0[0].sni.as_str()), ("127.0.0.9:10001".parse().unwrap(), "x.y"));

    let out = input(&mut planner, Input::Exported { destination: destination.clone(), exports: None });
    assert!(out.is_empty());

    let removed = vec![name];
    let out = input(&mut planner, Input::Subscribed { client: web, session: 1, added: vec![], removed });
    assert!(out.iter().any(|output| matches!(output, Output::WantNoLonger(id) if *id == destination)));
}

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

/// A service `catalog` of a zone, for whose instances a proxy with that id answers.
fn catalog(zone: &str) -> model::Record {
    let spec = json!({ "spec": {
        "selector": { "dataplaneLabels": { "matchLabels": { "tombolo.io/workload": "catalog" } } },
        "ports": [{ "port": 8080, "name": "http", "targetPort": "http", "appProtocol": "http" }],
        "identities": [{ "type": "SpiffeID", "value": format!("spiffe://default.{zone}.mesh.local/workload/catalog") }],
    } });
    record(zone, 3, "MeshService", "catalog", spec)
}

fn everywhere(revision: u64) -> model::Record {
    let spec = json!({ "spec": {
        "selector": { "meshService": { "matchLabels": { "kuma.io/display-name": "catalog" } } },
        "ports": [{ "port": 8080, "appProtocol": "http" }],
    } });
    record("global", revision, "MeshMultiZoneService", "catalog", spec)
}

fn gate(zone: &str, address: &str) -> model::Record {
    record(zone, 1, "MeshZoneAddress", "gate", json!({ "spec": { "address": address, "port": 10001 } }))
}

fn exported(zone: &str, sni: &str) -> Input {
    let identity = format!("spiffe://default.{zone}.mesh.local/workload/catalog");
    let exports = json!({ "instances": [{ "sni": sni, "identity": identity, "ready": true, "weight": 1 }] });
    Input::Exported {
        destination: format!("ms_default_{zone}__catalog_http").parse().unwrap(),
        exports: Some(serde_json::from_value(exports).unwrap()),
    }
}

fn zones_told(out: &[Output]) -> Vec<String> {
    endpoints(out).0.iter().map(|endpoint| endpoint.zone.to_string()).collect()
}

const CATALOG: &str = "endpoints/mmzs_default___catalog_8080";

#[test]
fn a_service_of_several_zones_has_the_endpoints_of_all_of_them() {
    let west = [catalog("west"), gate("west", "127.0.0.9")];
    let own = [dataplane(1, "web"), dataplane(2, "catalog"), identity(), catalog("east"), everywhere(4)];
    let mut planner = planner(own.into_iter().chain(west).collect());
    let part = "destination/mmzs_default___catalog_8080";
    let (_, out) = connect(&mut planner, "web", &[CATALOG, part]);
    let wanted = |out: &[Output]| -> Vec<String> {
        out.iter()
            .filter_map(|o| if let Output::Want(id) = o { Some(id.to_string()) } else { None })
            .collect()
    };
    assert_eq!(wanted(&out), ["ms_default_west__catalog_http"]);
    let destination: Value = serde_json::from_slice(&plans(&out)[0].parts[part].bytes).unwrap();
    let ids = ["east", "west"].map(|zone| format!("spiffe://default.{zone}.mesh.local/workload/catalog"));
    assert_eq!((&destination["protocol"], &destination["identities"]), (&json!("http"), &json!(ids)));

    let out = input(&mut planner, exported("west", "x.y"));
    assert_eq!(zones_told(&out), ["east", "west"]);
    assert_eq!(endpoints(&out).0[1].address, "127.0.0.9:10001".parse().unwrap());

    // A third zone joins in.
    input(&mut planner, Input::Settled);
    let joins = vec![Change::Put(catalog("north")), Change::Put(gate("north", "127.0.0.10"))];
    let out = input(&mut planner, commit(world(11, 10), joins));
    assert_eq!(wanted(&out), ["ms_default_north__catalog_http"]);
    let out = input(&mut planner, exported("north", "z.y"));
    assert_eq!(zones_told(&out), ["east", "north", "west"]);

    // And leaves.
    let (key, version) = (catalog("north").key, Version::new("north".parse().unwrap(), 1, 9));
    let out = input(&mut planner, commit(world(12, 10), vec![Change::Deleted { key, version }]));
    assert!(
        out.iter()
            .any(|o| matches!(o, Output::WantNoLonger(id) if id.zone == Some("north".parse().unwrap())))
    );
    assert_eq!(zones_told(&out), ["east", "west"]);
}

#[test]
fn after_a_start_a_zone_that_is_not_heard_of_yet_is_not_taken_from_a_service_of_several() {
    let west = [catalog("west"), gate("west", "127.0.0.9")];
    let own = [dataplane(1, "web"), dataplane(2, "catalog"), identity(), catalog("east"), everywhere(4)];
    let mut planner = planner(own.into_iter().chain(west).collect());
    let (_, out) = connect(&mut planner, "web", &[CATALOG]);
    assert!(out.iter().any(|output| matches!(output, Output::Signal { word, .. } if word.value.is_empty())));
    let out = input(&mut planner, Input::Settled);
    assert_eq!(zones_told(&out), ["east"], "but no zone waits for another for ever");
    let out = input(&mut planner, exported("west", "x.y"));
    assert_eq!(zones_told(&out), ["east", "west"]);
}

#[test]
fn a_start_takes_up_the_last_words_of_other_zones_and_forgets_those_that_nobody_asks_for() {
    let west = [catalog("west"), gate("west", "127.0.0.9")];
    let own = [dataplane(1, "web"), dataplane(2, "catalog"), identity(), catalog("east"), everywhere(4)];
    let documents: Vec<model::Record> = own.into_iter().chain(west).collect();
    // Its service is gone by the next start.
    let mut before = planner(documents.iter().cloned().chain([catalog("north")]).collect());
    for (number, zone) in [(1, "west"), (2, "north")] {
        connect(
            &mut before,
            &format!("web-{number}"),
            &[&format!("endpoints/ms_default_{zone}__catalog_http")],
        );
        input(&mut before, exported(zone, "x.y"));
    }
    let words = before.memory().words;
    assert_eq!(words.len(), 2);
    input(&mut before, exported("west", "x.y"));
    assert!(Arc::ptr_eq(&before.memory().words, &words), "the same word again is no news");

    let mut planner = planner(documents);
    input(&mut planner, Input::Kept(before.memory()));
    let (_, out) = connect(&mut planner, "web", &[CATALOG]);
    assert_eq!(zones_told(&out), ["east", "west"]);
    assert_eq!(planner.memory().words.len(), 2, "whoever is not back yet may ask for the other");
    let out = input(&mut planner, Input::Settled);
    assert!(!endpoints(&out).0.iter().any(|endpoint| endpoint.zone.as_str() == "east" && endpoint.ready));
    assert_eq!(zones_told(&out), ["east", "west"]);
    assert!(planner.memory().words.keys().eq([&"ms_default_west__catalog_http".parse().unwrap()]));
}

#[test]
fn a_service_of_several_zones_that_nobody_declared_has_no_word() {
    let own = [dataplane(1, "web"), identity(), catalog("east")];
    let mut planner = planner(own.into_iter().collect());
    input(&mut planner, Input::Settled);
    let (_, out) = connect(&mut planner, "web", &[CATALOG]);
    assert!(out.iter().any(|output| matches!(output, Output::Signal { word, .. } if word.value.is_empty())));
    let out = input(&mut planner, commit(world(11, 10), vec![Change::Put(everywhere(11))]));
    assert_eq!(zones_told(&out), [""; 0], "declared, and nobody stands behind it");
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

/// The last of what other zones are told.
fn exports(out: &[Output]) -> Exports {
    let value = out.iter().rev().find_map(|output| match output {
        Output::Export { value, .. } => Some(value.clone()),
        _ => None,
    });
    serde_json::from_slice(&value.expect("an export")).unwrap()
}

fn gate_named(name: &str, address: &str) -> model::Record {
    record("east", 4, "MeshZoneAddress", name, json!({ "spec": { "address": address, "port": 10001 } }))
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

/// Documents of every kind that parts and signals are made of; `variant` says how each is, and `authorities` is what
/// trust may be put in.
fn document(which: u64, variant: u64, authorities: &[String; 3]) -> model::Record {
    let labels =
        json!({ "tombolo.io/workload": "catalog", "tier": if variant == 0 { "front" } else { "back" } });
    let timeout = |target: Value| {
        let to = json!([{ "targetRef": { "kind": "Mesh" }, "default": { "idleTimeout": format!("{}s", variant + 1) } }]);
        json!({ "spec": { "targetRef": target, "to": to } })
    };
    let proxy = |name: &str| {
        let mut record = dataplane(1, name);
        if variant == 2 {
            let spec = json!({ "labels": labels, "networking": {
                "address": "127.0.0.1",
                "inbound": [{ "port": 8080, "servicePort": 9080, "name": "http", "protocol": "http" }],
                "outbound": [{ "port": 10_001, "backendRef": { "kind": "MeshService", "name": "catalog", "port": 8080 } }],
            } });
            record = self::record("east", 1, "Dataplane", name, spec);
        }
        record
    };
    match which {
        0 => proxy("web"),
        1 => proxy("catalog"),
        2 => proxy("cart"),
        3 => catalog("east"),
        4 => catalog("west"),
        5 => service(1, "cart"),
        6 => everywhere(1),
        7 => identity_for(&json!({}), variant, "identity"),
        8 => permission(1),
        9 => record("global", 1, "MeshTimeout", "all", timeout(json!({ "kind": "Mesh" }))),
        10 => {
            let labels = json!({ "tier": if variant == 0 { "front" } else { "back" } });
            record(
                "global",
                1,
                "MeshTimeout",
                "some",
                timeout(json!({ "kind": "Dataplane", "labels": labels })),
            )
        }
        11 => record("global", 1, "Mesh", "default", json!({})),
        12 => gate("west", if variant == 0 { "127.0.0.9" } else { "127.0.0.10" }),
        13 => record(
            "global",
            1,
            "Zone",
            "east",
            json!({ "trustDomains": [format!("bank-{variant}.example")] }),
        ),
        14 => identity_for(&json!({ "tombolo.io/workload": "catalog", "tier": "back" }), variant, "back"),
        _ => {
            let zone = if which == 15 { "east" } else { "west" };
            let pem = json!([{ "type": "Pem", "pem": { "value": authorities[variant as usize] } }]);
            let trust = json!({ "trustDomain": format!("default.{zone}.mesh.local"), "caBundles": pem });
            record(zone, 1, "MeshTrust", "trust", json!({ "spec": trust }))
        }
    }
}

/// How many [`document`] tells apart.
const DOCUMENTS: u64 = 17;

/// Of the proxies with these labels. In the default trust domain, and in others that may be given to this zone.
fn identity_for(labels: &Value, variant: u64, name: &str) -> model::Record {
    let mut spec = json!({
        "selector": { "dataplane": { "matchLabels": labels } },
        "provider": { "type": "Bundled", "bundled": { "autogenerate": { "enabled": true } } },
    });
    if variant > 0 {
        spec["spiffeID"] = json!({ "trustDomain": format!("bank-{variant}.example") });
    }
    record("global", 2, "MeshIdentity", name, json!({ "spec": spec }))
}

#[test]
fn what_changes_alone_is_computed_anew_and_comes_out_as_if_all_were() {
    let names = [
        "identity",
        "trust",
        "listeners",
        "inbound/8080",
        "destination/ms_default_east__catalog_http",
        "destination/ms_default_west__catalog_http",
        "destination/ms_default_east__cart_http",
        "destination/mmzs_default___catalog_8080",
        "endpoints/ms_default_east__catalog_http",
        "endpoints/ms_default_east__cart_http",
        CATALOG,
    ];
    let proxies = ["web", "catalog", "cart"];
    let start = |records: Vec<model::Record>| {
        let mut planner = planner(records);
        planner.on_input(Input::Settled);
        for name in proxies {
            connect(&mut planner, name, &names);
        }
        planner.tell();
        planner
    };
    let mut dice: u64 = 1;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    let authorities = [0, 1, 2].map(|number: u64| {
        let (domain, begins) = (format!("bank-{number}.example"), SystemTime::now());
        ZoneCa::create(domain.parse().unwrap(), identity::AUTHORITY_LIFETIME, begins).unwrap().bundle_pem()
    });
    let mut documents = BTreeMap::new();
    let mut planner = start(Vec::new());
    let mut changes = Vec::new();
    for turn in 0..250 {
        let (which, variant) = (roll(DOCUMENTS), roll(3));
        let mut record = document(which, variant, &authorities);
        record.version.point.revision = 11 + turn;
        let version = record.version.clone();
        let change = match roll(4) {
            0 if documents.remove(&record.key).is_some() => Change::Deleted { key: record.key, version },
            _ => {
                documents.insert(record.key.clone(), record.clone());
                Change::Put(record)
            }
        };
        changes.push(change);
        let what = format!("turn {turn}: {changes:?}");
        if roll(4) == 0 {
            continue;
        }
        let (now, changes) = (world(10, 11 + turn), std::mem::take(&mut changes));
        match roll(4) {
            // It was missed, so all there is is listed.
            0 => input(&mut planner, listed(now, documents.values().cloned().collect())),
            _ => input(&mut planner, commit(now, changes)),
        };
        let fresh = start(documents.values().cloned().collect());
        for name in proxies {
            let id = ProxyId { mesh: "default".parse().unwrap(), name: name.parse().unwrap() };
            let (ours, anew) = (planner.report(&id).unwrap(), fresh.report(&id).unwrap());
            assert_eq!(ours.plan.parts, anew.plan.parts, "{what}");
            assert_eq!(ours.signals, anew.signals, "{what}");
        }
    }
}
