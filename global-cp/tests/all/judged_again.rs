//! Documents of zones that are refused because of something else, and taken once that has changed.

use std::sync::atomic::Ordering::SeqCst;
use std::time::SystemTime;

use control::reports::{AND_MORE, MOST};
use identity::{AUTHORITY_LIFETIME, ZoneCa};
use serde_json::{Value, json};
use sync::topic::Topic;

use crate::fake_zone::FakeZone;
use crate::fixture::{Global, LIMIT};

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

#[tokio::test]
async fn after_a_start_the_global_asks_for_everything_where_something_is_refused() {
    let global = Global::start().await;
    let (mut east, mut west) = (global.zone("east").await, global.zone("west").await);
    let service = |port: u16| json!({"ports": [{"port": port}]});
    let broken = east.write("MeshService/default/east//broken", service(0)).await;
    let good = west.write("MeshService/default/west//web", service(80)).await;
    east.until_acknowledged(&broken).await;
    west.until_acknowledged(&good).await;
    for zone in [&mut east, &mut west] {
        zone.disconnect().await;
    }
    let global = global.restart().await;
    for zone in [&mut east, &mut west] {
        zone.connect(&global).await;
    }
    let after = [
        east.write("MeshService/default/east//after", service(80)).await,
        west.write("MeshService/default/west//after", service(80)).await,
    ];
    east.until_acknowledged(&after[0]).await;
    west.until_acknowledged(&after[1]).await;
    assert_eq!((asked(&east), asked(&west)), (1, 0));
    assert_eq!(refused(&global, 0).await, ["MeshService/default/east//broken"]);
    // The same program says the same again.
    east.disconnect().await;
    east.connect(&global).await;
    let later = east.write("MeshService/default/east//later", service(80)).await;
    east.until_acknowledged(&later).await;
    assert_eq!(asked(&east), 1);
}

#[tokio::test]
async fn where_more_is_refused_than_is_named_it_is_sorted_out_once_there_is_room() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    let name = |n: usize| format!("MeshService/default/east//s{n:04}");
    let service = |port: u16| json!({"ports": [{"port": port}]});
    for n in 0..=MOST {
        east.write(&name(n), service(0)).await;
    }
    let good = east.write("MeshService/default/east//web", service(80)).await;
    east.until_acknowledged(&good).await;
    let state = async || {
        let (_, state) = global.get(&format!("/revisions/{good}?wait=0s")).await;
        state["state"].as_str().unwrap().to_owned()
    };
    let told = |key: &str| east.site.seen.borrow().refused.iter().any(|refused| refused.key == key);
    assert!(told(AND_MORE) && told(&name(0)) && !told(&name(MOST)));
    assert_eq!(state().await, "refused");
    east.remove(&name(0)).await;
    east.until("everything to be asked for", |seen| seen.asked_anew == 1).await;
    east.remove(&name(1)).await;
    let left = async {
        while state().await != "applied" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, left).await.unwrap();
    let last = name(MOST);
    east.until("what was not named", |seen| seen.refused.iter().any(|refused| refused.key == last)).await;
}

#[tokio::test]
async fn a_zone_that_asks_for_everything_gets_it() {
    let global = Global::start().await;
    let east = global.zone("east").await;
    global.permit("all").await;
    east.until_held("MeshTrafficPermission/default/global//all", true).await;
    east.site.asks.store(true, SeqCst);
    east.handle.reopen(&Topic::POLICY);
    let key = "MeshTrafficPermission/default/global//all".to_owned();
    let seen = east.until("everything", |seen| seen.batches.last().unwrap().0).await;
    assert!(seen.batches.last().unwrap().1.contains(&key), "{:?}", seen.batches);
    assert_eq!(seen.refusals, [""; 0]);
}
