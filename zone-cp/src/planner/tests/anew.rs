//! What is computed of changes alone is what computing all would give.

use identity::ZoneCa;

use super::*;

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
