//! What a proxy is told in one batch belongs together: listeners, destinations, who proves to be them, and the anchors
//! to prove it by, all of one world.

use identity::ZoneCa;
use snapshot::parts::{Destination, Listeners, Trust};
use sync::{Base, Holdings, Place};

use super::*;

const NAMES: [&str; 8] = [
    "identity",
    "trust",
    "listeners",
    "inbound/8080",
    "inbound/8081",
    "destination/ms_default_east__cart_http",
    "destination/ms_default_west__catalog_http",
    "destination/mmzs_default___catalog_8080",
];
const DOMAINS: [&str; 2] = ["default.west.mesh.local", "bank.example"];

/// What may change, in two ways each.
const CHANGES: u64 = 11;

fn change(what: u64, way: bool, revision: u64, ca: &[String; 2]) -> model::Record {
    let domain = DOMAINS[usize::from(way)];
    let spec = |spec: Value| json!({ "spec": spec });
    let identities = json!([{ "type": "SpiffeID", "value": format!("spiffe://{domain}/workload/catalog") }]);
    let ports = json!([{ "port": 8080, "name": "http", "appProtocol": if way { "http" } else { "tcp" } }]);
    match what {
        0 => {
            let backend = |kind: &str, labels: Value| json!({ "kind": kind, "labels": labels });
            let outbound = if way {
                json!([
                    { "port": 10_001, "backendRef": { "kind": "MeshService", "name": "cart", "port": 8080 } },
                    { "port": 10_002, "backendRef": { "port": 8080, "kind": "MeshService", "labels":
                        { "tombolo.io/display-name": "catalog", "tombolo.io/zone": "west" } } },
                ])
            } else {
                let joined = backend("MeshMultiZoneService", json!({ "tombolo.io/display-name": "catalog" }));
                let mut joined = joined;
                joined["port"] = json!(8080);
                json!([{ "port": 10_003, "backendRef": joined }])
            };
            let inbound =
                |port: u16| json!({ "port": port, "servicePort": 9080, "name": format!("p{port}") });
            let inbound = if way { json!([inbound(8080)]) } else { json!([inbound(8080), inbound(8081)]) };
            let labels = json!({ "tombolo.io/workload": "web" });
            let networking = json!({ "address": "127.0.0.1", "inbound": inbound, "outbound": outbound });
            let dataplane = json!({ "labels": labels, "networking": networking });
            record("east", revision, "Dataplane", "web", dataplane)
        }
        1 => {
            let service = json!({
                "selector": { "dataplaneLabels": { "matchLabels": { "tombolo.io/workload": "cart" } } },
                "ports": ports,
                "identities": [{ "type": "SpiffeID", "value": "spiffe://default.east.mesh.local/workload/cart" }],
            });
            record("east", revision, "MeshService", "cart", spec(service))
        }
        2 => {
            let service = json!({ "ports": ports, "identities": identities });
            record("west", revision, "MeshService", "catalog", spec(service))
        }
        3 => everywhere(revision),
        4 => {
            let pem = json!([{ "type": "Pem", "pem": { "value": ca[usize::from(way)] } }]);
            let trust = json!({ "trustDomain": domain, "caBundles": pem });
            record("west", revision, "MeshTrust", domain.split('.').next().unwrap(), spec(trust))
        }
        5 => {
            let owner = if way { "west" } else { "north" };
            record("global", revision, "Zone", owner, json!({ "trustDomains": ["bank.example"] }))
        }
        6 => {
            let domain = if way { "{{ .Mesh }}.{{ .Zone }}.mesh.local" } else { "east.example" };
            let identity = json!({
                "selector": { "dataplane": { "matchLabels": {} } },
                "spiffeID": { "trustDomain": domain },
                "provider": { "type": "Bundled", "bundled": { "autogenerate": { "enabled": true } } },
            });
            record("global", revision, "MeshIdentity", "identity", spec(identity))
        }
        7 => permission(revision),
        8 => {
            let timeout = json!({ "connectionTimeout": if way { "1s" } else { "2s" } });
            let to = json!({ "to": [{ "targetRef": { "kind": "Mesh" }, "default": timeout }] });
            record("global", revision, "MeshTimeout", "to", spec(to))
        }
        9 => {
            let timeout = json!({ "connectionTimeout": if way { "3s" } else { "4s" } });
            record(
                "global",
                revision,
                "MeshTimeout",
                "of",
                spec(json!({ "rules": [{ "default": timeout }] })),
            )
        }
        _ => record("global", revision, "Mesh", "default", spec(json!({}))),
    }
}

fn changes(random: &mut impl FnMut(u64) -> u64, revision: u64, ca: &[String; 2]) -> Vec<Change> {
    let mut changes: BTreeMap<DocumentKey, Change> = BTreeMap::new();
    for _ in 0..=random(3) {
        let record = change(random(CHANGES), random(2) == 0, revision, ca);
        let key = record.key.clone();
        let version = record.version.clone();
        let is_deleted = random(4) == 0 && key.kind.as_str() != "Mesh";
        let change =
            if is_deleted { Change::Deleted { key: key.clone(), version } } else { Change::Put(record) };
        changes.insert(key, change);
    }
    changes.into_values().collect()
}

/// What of one part needs another is there, as far as anybody said it.
fn check_closed(parts: &BTreeMap<String, Bytes>, records: &BTreeMap<DocumentKey, model::Record>) {
    let read = |name: &str| parts.get(name).map(|bytes| serde_json::from_slice::<Value>(bytes).unwrap());
    let trust: Trust = serde_json::from_value(read("trust").unwrap()).unwrap();
    let mut fresh = planner(records.values().cloned().collect());
    let (_, out) = connect(&mut fresh, "web", &NAMES);
    let said: Trust = serde_json::from_slice(&plans(&out)[0].parts["trust"].bytes).unwrap();
    for name in NAMES.iter().filter(|name| name.starts_with("destination/")) {
        let Some(destination) = read(name) else { continue };
        let destination: Destination = serde_json::from_value(destination).unwrap();
        for id in destination.identities {
            let domain = id.trust_domain();
            let [told, said] = [&trust, &said].map(|trust| trust.domains.contains_key(&domain));
            assert_eq!(told, said, "{name} names {id}");
        }
    }
    let listeners: Listeners = serde_json::from_value(read("listeners").unwrap()).unwrap();
    for listener in listeners.outbound {
        let name = format!("destination/{}", listener.destination);
        let is_wanted = NAMES.contains(&name.as_str());
        assert!(!is_wanted || parts.contains_key(&name), "a listener leads to {name}");
    }
}

#[test]
fn each_batch_leads_from_one_whole_configuration_to_the_next() {
    let ca = DOMAINS.map(|domain| {
        let lifetime = identity::AUTHORITY_LIFETIME;
        ZoneCa::create(domain.parse().unwrap(), lifetime, SystemTime::now()).unwrap().bundle_pem()
    });
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let first = change(0, true, 1, &ca);
    let mut records = BTreeMap::from([(first.key.clone(), first.clone())]);
    let mut planner = planner(vec![first]);
    connect(&mut planner, "web", &NAMES);
    let (mut holdings, mut held) = (Holdings::default(), BTreeMap::<String, Bytes>::new());
    let mut base = Base::Opened(Place::default());
    let mut batches = 0;
    for revision in 11..400 {
        let changes = changes(&mut random, revision, &ca);
        for change in &changes {
            match change {
                Change::Put(record) => drop(records.insert(record.key.clone(), record.clone())),
                Change::Deleted { key, .. } => drop(records.remove(key)),
            }
        }
        let now = world(revision, revision);
        let out = planner.on_input(commit(now.clone(), changes.clone()));
        let is_there = records.keys().any(|key| key.kind.as_str() == "Dataplane");
        match plans(&out)[..] {
            // What is held is right in this world as well.
            [] => {}
            [plan] => {
                assert_eq!(plan.world, now);
                if let Some(batch) = holdings.collect(&base, &plan.parts, now.clone()) {
                    batch.removed.iter().for_each(|name| drop(held.remove(name)));
                    held.extend(batch.entries.into_iter().map(|entry| (entry.key, entry.body)));
                    batches += 1;
                }
                base = Base::Acknowledged(now);
            }
            _ => panic!("not one step at {revision}"),
        }
        let mut fresh = super::planner(records.values().cloned().collect());
        let (_, out) = connect(&mut fresh, "web", &NAMES);
        let anew = plans(&out)[0].parts.iter().map(|(name, body)| (name.to_string(), body.bytes.clone()));
        assert_eq!(held, anew.collect(), "after {changes:?}");
        if is_there {
            check_closed(&held, &records);
        }
    }
    assert!(batches > 150, "{batches}");
}
