//! Documents of zones that are refused because of something else, and taken once that has changed.

use std::time::SystemTime;

use identity::{AUTHORITY_LIFETIME, ZoneCa};
use serde_json::{Value, json};

use crate::fake_zone::FakeZone;
use crate::fixture::Global;

fn trust(domain: &str, ca: &str) -> Value {
    json!({"trustDomain": domain, "caBundles": [{"type": "Pem", "pem": {"value": ca}}]})
}

fn authority(domain: &str) -> String {
    ZoneCa::create(domain.parse().unwrap(), AUTHORITY_LIFETIME, SystemTime::now()).unwrap().bundle_pem()
}

/// It says of no domain that it is its own.
fn nobodys_authority() -> String {
    let mut certificate = rcgen::CertificateParams::default();
    certificate.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    certificate.self_signed(&key).unwrap().pem()
}

async fn refused(global: &Global, zone: usize) -> Vec<String> {
    let (_, status) = global.get("/status").await;
    let refused = status["zones"][zone]["refused"].as_array().cloned().unwrap_or_default();
    refused.iter().map(|one| one["document"].as_str().unwrap().to_owned()).collect()
}

/// How often the global asked for everything.
fn asked(zone: &FakeZone) -> usize {
    zone.site.seen.borrow().asked_anew
}

#[tokio::test]
async fn what_a_zone_may_not_say_yet_is_taken_when_its_trust_domain_is_given() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    let (bundle, service) = ("MeshTrust/default/east//bank", "MeshService/default/east//vault");
    east.write(bundle, trust("bank.example", &authority("bank.example"))).await;
    let id = json!({"type": "SpiffeID", "value": "spiffe://bank.example/workload/vault"});
    let early = east.write(service, json!({"ports": [{"port": 80}], "identities": [id]})).await;
    let honest = east.write("MeshService/default/east//web", json!({"ports": [{"port": 80}]})).await;
    west.until_held("MeshService/default/east//web", true).await;
    east.until_acknowledged(&honest).await;
    assert_eq!(refused(&global, 0).await, [service, bundle]);
    let (_, state) = global.get(&format!("/revisions/{early}?wait=0s")).await;
    assert_eq!(state["state"], "refused", "{state}");

    // Somebody else's zone has nothing to do with it.
    global
        .put("/zones/west", json!({"type": "Zone", "name": "west", "trustDomains": ["toll.example"]}))
        .await;
    west.until_held("Zone//global//west", true).await;
    assert_eq!((refused(&global, 0).await.len(), asked(&east)), (2, 0));

    global
        .put("/zones/east", json!({"type": "Zone", "name": "east", "trustDomains": ["bank.example"]}))
        .await;
    for key in [bundle, service] {
        west.until_held(key, true).await;
    }
    assert_eq!(refused(&global, 0).await, [""; 0]);
    let (_, state) = global.get(&format!("/revisions/{early}?wait=20s")).await;
    assert_eq!(state["state"], "applied", "{state}");
    assert_eq!((asked(&east), asked(&west)), (1, 0));
}

#[tokio::test]
async fn a_bundle_with_the_key_of_another_domain_is_taken_when_that_one_is_gone() {
    let global = Global::start().await;
    let (east, west) = (global.zone("east").await, global.zone("west").await);
    let ca = nobodys_authority();
    let first = east.write("MeshTrust/default/east//own", trust("default.east.mesh.local", &ca)).await;
    east.until_acknowledged(&first).await;
    let (copy, broken) = ("MeshTrust/default/west//own", "MeshService/default/west//broken");
    west.write(broken, json!({"ports": [{"port": 0}]})).await;
    let copied = west.write(copy, trust("default.west.mesh.local", &ca)).await;
    west.until_acknowledged(&copied).await;
    assert_eq!(refused(&global, 1).await, [broken, copy]);

    east.remove("MeshTrust/default/east//own").await;
    east.until_held(copy, true).await;
    assert_eq!((refused(&global, 1).await, asked(&west)), (vec![broken.to_owned()], 1));

    // What no bundle could help is not asked for because of one.
    let later = east
        .write(
            "MeshTrust/default/east//own",
            trust("default.east.mesh.local", &authority("default.east.mesh.local")),
        )
        .await;
    west.until("a bundle", |seen| {
        seen.batches
            .iter()
            .any(|(_, keys)| keys.iter().any(|key| key.as_str() == "MeshTrust/default/east//own"))
    })
    .await;
    east.until_acknowledged(&later).await;
    assert_eq!(asked(&west), 1);
}
