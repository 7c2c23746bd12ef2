use model::document::{self, Address, Tree};
use model::kinds::Dataplane;
use model::{MeshName, Origin, Record, Version};
use policy::access::Effect;
use serde_json::{Value, json};

use super::*;
use crate::parts::{Millis, Timeouts};
use crate::view::View;

fn record(origin: &str, kind: &str, name: &str, json: Value) -> Record {
    let kind = model::kinds::by_name(kind).unwrap();
    let origin: Origin = origin.parse().unwrap();
    let mesh = kind.is_mesh_scoped().then(|| "default".parse().unwrap());
    let address = Address { kind, mesh, name: name.into(), origin: Some(origin.clone()) };
    document::read_at(&Tree::from(json), &address).unwrap().to_record(Version::new(origin, 1, 1))
}

fn view(records: Vec<Record>) -> View {
    let mut view = View::default();
    for record in &records {
        view.put(record).unwrap();
    }
    view
}

/// A proxy of east, with outbounds to these.
fn web(backends: &[Value]) -> Record {
    let outbound =
        |(index, backend): (usize, &Value)| json!({ "port": 10_001 + index, "backendRef": backend });
    let outbounds: Vec<Value> = backends.iter().enumerate().map(outbound).collect();
    let json = json!({ "networking": {
        "address": "127.0.0.1",
        "inbound": [{ "port": 8080, "servicePort": 9080, "name": "http", "protocol": "http" }],
        "outbound": outbounds,
    } });
    record("east", "Dataplane", "web", json)
}

fn catalog(zone: &str, port: u16, section: &str) -> Record {
    let id = format!("spiffe://default.{zone}.mesh.local/workload/catalog");
    let json = json!({ "labels": { "app": "catalog" }, "spec": {
        "ports": [{ "port": port, "name": section, "appProtocol": "http" }],
        "identities": [{ "type": "SpiffeID", "value": id }],
    } });
    record(zone, "MeshService", "catalog", json)
}

fn joined(name: &str, selector: Value) -> Record {
    let ports = json!([{ "port": 8080, "name": "http", "appProtocol": "http" }, { "port": 9000 }]);
    record(
        "global",
        "MeshMultiZoneService",
        name,
        json!({ "spec": { "selector": selector, "ports": ports } }),
    )
}

fn everywhere() -> Value {
    json!({ "meshService": { "matchLabels": { "app": "catalog" } } })
}

fn timeout(origin: &str, name: &str, spec: Value) -> Record {
    record(origin, "MeshTimeout", name, json!({ "spec": spec }))
}

fn part<T: for<'de> serde::Deserialize<'de>>(view: &View, name: &str) -> Option<T> {
    let key = "Dataplane/default/east//web".parse().unwrap();
    let (held, dataplane) = view.get::<Dataplane>(&key).unwrap();
    let proxy = Proxy::new(held, dataplane).unwrap();
    compile(view, &proxy, &name.parse().unwrap()).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

fn identities(view: &View, id: &str) -> Vec<String> {
    let destination: Destination = part(view, &format!("destination/{id}")).unwrap();
    destination.identities.into_iter().map(String::from).collect()
}

const EAST: &str = "spiffe://default.east.mesh.local/workload/catalog";
const WEST: &str = "spiffe://default.west.mesh.local/workload/catalog";

#[test]
fn a_service_of_several_zones_is_whoever_is_one_of_them() {
    let services = || {
        vec![
            web(&[]),
            catalog("east", 8080, "http"),
            catalog("west", 8081, "http"),
            catalog("north", 80, "web"),
        ]
    };
    let west = json!({ "meshService": { "matchLabels": { "app": "catalog" } }, "zones": ["west", "south"] });
    let nobody = json!({ "meshService": { "matchLabels": { "app": "cart" } } });
    let cases = [
        ("by number, else by name; who has neither is not among them", everywhere(), vec![EAST, WEST]),
        ("only of some zones", west, vec![WEST]),
        ("nobody", nobody, vec![]),
    ];
    for (why, selector, want) in cases {
        let view = view(services().into_iter().chain([joined("catalog", selector)]).collect());
        assert_eq!(identities(&view, "mmzs_default___catalog_http"), want, "{why}");
    }
    let view = view(services().into_iter().chain([joined("catalog", everywhere())]).collect());
    assert_eq!(identities(&view, "mmzs_default___catalog_9000"), [""; 0], "no service has such a port");
    for unknown in
        ["mmzs_default___catalog_80", "mmzs_default_east__catalog_http", "mmzs_default___cart_http"]
    {
        assert!(part::<Destination>(&view, &format!("destination/{unknown}")).is_none(), "{unknown}");
    }
}

#[test]
fn an_outbound_finds_a_service_of_several_zones_by_name_or_by_labels() {
    let kind = "MeshMultiZoneService";
    let backends = [
        json!({ "kind": kind, "name": "catalog", "port": 8080 }),
        json!({ "kind": kind, "labels": { "tombolo.io/display-name": "catalog" }, "port": 9000 }),
        // Two are called so.
        json!({ "kind": kind, "labels": { "tombolo.io/origin": "global" }, "port": 8080 }),
        json!({ "kind": kind, "name": "cart", "port": 8080 }),
        json!({ "kind": kind, "name": "catalog", "port": 1 }),
        // A name means a MeshService of the proxy's own zone.
        json!({ "kind": "MeshService", "name": "catalog", "port": 8080 }),
    ];
    let view = view(vec![
        web(&backends),
        catalog("west", 8080, "http"),
        joined("catalog", everywhere()),
        joined("other", everywhere()),
    ]);
    let listeners: Listeners = part(&view, "listeners").unwrap();
    let found: Vec<(u16, String)> = listeners
        .outbound
        .iter()
        .map(|listener| (listener.address.port(), listener.destination.to_string()))
        .collect();
    let want = [(10_001, "mmzs_default___catalog_http"), (10_002, "mmzs_default___catalog_9000")];
    assert_eq!(found, want.map(|(port, id)| (port, id.to_owned())));
}

#[test]
fn timeouts_follow_the_policies_and_connections_always_have_some() {
    let entry = |kind: &str, default: Value| {
        let target = match kind {
            "Mesh" => json!({ "kind": kind }),
            kind => json!({ "kind": kind, "labels": { "tombolo.io/display-name": "catalog" } }),
        };
        json!({ "to": [{ "targetRef": target, "default": default }] })
    };
    let service = "ms_default_west__catalog_http";
    let several = "mmzs_default___catalog_http";
    let of = |policies: Vec<Record>, id: &str| {
        let records = vec![web(&[]), catalog("west", 8080, "http"), joined("catalog", everywhere())];
        let view = view(records.into_iter().chain(policies).collect());
        let part: Destination = part(&view, &format!("destination/{id}")).unwrap();
        assert_eq!(part.connection_timeout, part.timeouts.connect);
        (part.timeouts.connect.0, part.timeouts.idle.0, part.timeouts.request.0)
    };
    assert_eq!(of(vec![], service), (5_000, 3_600_000, 0));
    let mesh: MeshName = "default".parse().unwrap();
    let initial = || vec![MeshTimeout::for_all_destinations(&mesh).to_record("global-1-1".parse().unwrap())];
    assert_eq!(of(initial(), several), (5_000, 3_600_000, 15_000));
    let narrow = |kind| {
        let spec = entry(kind, json!({ "idleTimeout": "0s", "http": { "requestTimeout": "1s" } }));
        initial().into_iter().chain([timeout("global", "z", spec)]).collect()
    };
    assert_eq!(of(narrow("MeshService"), service), (5_000, 0, 1_000));
    assert_eq!(of(narrow("MeshService"), several), (5_000, 3_600_000, 15_000), "another kind");
    assert_eq!(of(narrow("MeshMultiZoneService"), several), (5_000, 0, 1_000));
    let of_west = vec![timeout("west", "a", entry("Mesh", json!({ "connectionTimeout": "1s" })))];
    assert_eq!(of(of_west, service), (5_000, 3_600_000, 0), "a zone's policy is for its own proxies");
}

#[test]
fn an_inbound_has_timeouts_for_everybody_and_for_some() {
    let inbound = |policies: Vec<Record>| -> Inbound {
        part(&view([web(&[])].into_iter().chain(policies).collect()), "inbound/8080").unwrap()
    };
    let bare = inbound(vec![]);
    let want = Timeouts { connect: Millis(10_000), idle: Millis(7_200_000), ..Timeouts::default() };
    assert_eq!((bare.timeouts, bare.client_timeouts), (want, vec![]));
    let some = json!({ "rules": [
        { "default": { "http": { "requestTimeout": "30s", "requestHeadersTimeout": "5s" } } },
        { "matches": [{ "source": { "workload": "batch" } }], "default": { "http": { "requestTimeout": "0s" } } },
    ] });
    let part = inbound(vec![timeout("global", "some", some)]);
    let want = Timeouts { request: Millis(30_000), request_headers: Millis(5_000), ..want };
    assert_eq!(part.timeouts, want);
    let json = serde_json::to_value(&part.client_timeouts).unwrap();
    assert_eq!(json, json!([{ "clients": { "source": { "workload": "batch" } }, "request": 0 }]));
}

#[test]
fn a_permission_that_was_never_read_forbids_everything_and_one_that_was_stays_in_force() {
    let allow =
        json!({ "spec": { "rules": [{ "default": { "allow": [{ "source": { "workload": "cart" } }] } }] } });
    let open = record("global", "MeshTrafficPermission", "open", allow.clone());
    let garbled = |of: &Record| Record {
        version: Version::new(of.key.origin.clone(), 1, 2),
        bytes: Bytes::from_static(b"{\"spec\": "),
        ..of.clone()
    };
    let effects = |view: &View| -> Vec<_> {
        let inbound: Inbound = part(view, "inbound/8080").unwrap();
        inbound
            .access
            .rules
            .into_iter()
            .map(|rule| (rule.effect, rule.origin.policy.name.to_string()))
            .collect()
    };
    let opened = vec![(Effect::Allow, "open".to_owned())];
    let mut view = view(vec![web(&[]), open.clone()]);
    assert_eq!(effects(&view), opened);
    view.put(&garbled(&open)).unwrap_err();
    assert_eq!(effects(&view), opened, "its last version stays");

    let mut guard = garbled(&open);
    guard.key.name = "guard".parse().unwrap();
    view.put(&guard).unwrap_err();
    assert_eq!(effects(&view), [opened.clone(), vec![(Effect::Deny, "guard".to_owned())]].concat());
    let mut elsewhere = guard.clone();
    elsewhere.key.mesh = Some("other".parse().unwrap());
    view.put(&elsewhere).unwrap_err();
    view.remove(&guard.key);
    assert_eq!(effects(&view), opened, "that of another mesh is none of ours");
    view.put(&guard).unwrap_err();
    view.put(&record("global", "MeshTrafficPermission", "guard", allow)).unwrap();
    assert_eq!(effects(&view).len(), 2, "it was put right");
    assert!(effects(&view).iter().all(|(effect, _)| *effect == Effect::Allow));
}
