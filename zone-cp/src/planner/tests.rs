mod anew;
mod closed;
mod doors;
mod elsewhere;
mod gone;
mod listed;
mod parts;
mod proof;
mod ready;
mod revoked;
mod status;

use std::time::{Duration, SystemTime};

use model::document::{self, Address, Tree};
use model::{DestinationId, Version};
use serde_json::{Value, json};
use snapshot::parts::Endpoints;
use store::Change;

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn zone() -> ZoneName {
    "east".parse().unwrap()
}

pub(crate) fn proxy(name: &str) -> Client {
    Client::Proxy(ProxyId { mesh: "default".parse().unwrap(), name: name.parse().unwrap() })
}

pub(crate) fn record(origin: &str, revision: u64, kind: &str, name: &str, spec: Value) -> model::Record {
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

pub(crate) fn permission(revision: u64) -> model::Record {
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

fn endpoints(out: &[Output]) -> Endpoints {
    let value = out.iter().find_map(|output| match output {
        Output::Signal { word, .. } => Some(word.value.clone()),
        _ => None,
    });
    serde_json::from_slice(&value.expect("a signal")).unwrap()
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

const CATALOG: &str = "endpoints/mmzs_default___catalog_8080";

/// The last of what other zones are told.
fn exports(out: &[Output]) -> Exports {
    let value = out.iter().rev().find_map(|output| match output {
        Output::Export { value, .. } => Some(value.clone()),
        _ => None,
    });
    serde_json::from_slice(&value.expect("an export")).unwrap()
}

fn exported(zone: &str, sni: &str) -> Input {
    let identity = format!("spiffe://default.{zone}.mesh.local/workload/catalog");
    let exports = json!({ "instances": [{ "sni": sni, "identity": identity, "ready": true, "weight": 1 }] });
    Input::Exported {
        destination: format!("ms_default_{zone}__catalog_http").parse().unwrap(),
        exports: Some(serde_json::from_value(exports).unwrap()),
    }
}

fn gate_named(name: &str, address: &str) -> model::Record {
    record("east", 4, "MeshZoneAddress", name, json!({ "spec": { "address": address, "port": 10001 } }))
}
