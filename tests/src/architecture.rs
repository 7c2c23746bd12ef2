//! Who may depend on whom, as data: a wrong edge fails here before anyone gets used to it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Our packages, from the ground up: one may depend on those of earlier layers, and on none of its own.
const LAYERS: &[&[&str]] = &[
    &["model", "runtime"],
    &["policy"],
    &["snapshot"],
    &["proto", "identity", "telemetry"],
    // The mechanisms.
    &["store", "sync", "traffic"],
    // What several programs are made of.
    &["api", "joining"],
    &["control"],
    &["global-cp", "zone-cp", "dataplane", "zone-ingress"],
    &["demo"],
    &["cli", "planes"],
    &["tests"],
];

/// What decisions may not know: sockets, clocks' runtimes, wires.
const PURE: &[&str] = &["model", "policy", "snapshot"];
const IMPURE: &[&str] = &["tokio", "hyper", "tonic", "rustls", "prost", "redb", "axum"];

/// Of the mechanisms only these may know who a peer is.
const KNOWS_IDENTITY: &[&str] = &["traffic", "sync"];
const MECHANISMS: &[&str] = &["store", "sync", "traffic"];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().expect("dependencies").iter();
            // What tests use does not reach anyone who depends on the package.
            let normal = normal.filter(|dependency| dependency["kind"].is_null());
            (text(&package["name"]), normal.map(|dependency| text(&dependency["name"])).collect())
        })
        .collect()
}

fn layer(package: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&package))
}

#[test]
fn every_package_has_its_layer() {
    let packages: Vec<String> = dependencies().into_keys().collect();
    let homeless: Vec<&String> = packages.iter().filter(|package| layer(package).is_none()).collect();
    assert!(homeless.is_empty(), "say in LAYERS where these stand: {homeless:?}");
}

#[test]
fn dependencies_point_downwards() {
    for (package, dependencies) in dependencies() {
        for dependency in dependencies.iter().filter(|dependency| layer(dependency).is_some()) {
            assert!(layer(dependency) < layer(&package), "{package} may not depend on {dependency}");
        }
    }
}

#[test]
fn decisions_know_no_sockets_clocks_or_wires() {
    let dependencies = dependencies();
    for package in PURE {
        for impure in IMPURE {
            assert!(!dependencies[*package].contains(*impure), "{package} may not depend on {impure}");
        }
    }
}

#[test]
fn of_the_mechanisms_only_traffic_and_sync_may_know_identities() {
    let dependencies = dependencies();
    for package in MECHANISMS.iter().filter(|package| !KNOWS_IDENTITY.contains(package)) {
        assert!(!dependencies[*package].contains("identity"), "{package} may not depend on identity");
    }
}

#[test]
fn runtime_knows_none_of_ours() {
    let ours: Vec<String> =
        dependencies()["runtime"].iter().filter(|name| layer(name).is_some()).cloned().collect();
    assert!(ours.is_empty(), "runtime depends on {ours:?}");
}
