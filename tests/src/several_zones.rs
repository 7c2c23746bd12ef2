//! A service of several zones: its endpoints are those of all of them, and whoever proves to be one of them is it.

use std::time::Duration;

use api::shapes::InspectDataplane;
use bytes::Bytes;
use demo::Mesh;
use demo::client::Outcome;
use demo::members::ANY;
use demo::mesh::LIMIT;
use http::Method;
use serde_json::json;
use tokio::time;

const FRONTEND: &str = "/meshes/default/dataplanes/frontend-1/_config";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_several_zones_is_reached_under_one_name() {
    let mesh = Mesh::start(&mut |_| {}).await.unwrap();
    let call = mesh.traffic().call("frontend", "catalog", ANY).unwrap();
    let answer = match call.once(Method::GET, "/catalog", Bytes::new()).await.unwrap() {
        Outcome::Answered(answer) => answer,
        denied => panic!("{denied:?}"),
    };
    assert_eq!(answer.service, "catalog");

    // The zones learn of each other when they do: that a proxy knows both is told by no event here.
    let api = mesh.zone_api("east").unwrap();
    let both = async {
        loop {
            let response = api.request(Method::GET, FRONTEND).send().await.unwrap();
            let told: InspectDataplane = response.json().await.unwrap();
            if zones(&told) == ["east", "west"] {
                return told;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = time::timeout(LIMIT, both).await.expect("the frontend never knew of both zones");
    let part = told.parts.iter().find(|part| part.name == "destination/mmzs_default___catalog_http").unwrap();
    let ids = ["east", "west"].map(|zone| format!("spiffe://default.{zone}.mesh.local/workload/catalog"));
    assert_eq!(part.part["identities"], json!(ids));
    // As the mesh's own policies give it.
    assert_eq!(part.part["timeouts"]["request"], json!(15_000));
    mesh.shutdown().await.unwrap();
}

/// Those in which the proxy was told that the catalog has an endpoint.
fn zones(told: &InspectDataplane) -> Vec<&str> {
    let signal = told.signals.iter().find(|signal| signal.name == "endpoints/mmzs_default___catalog_http");
    let endpoints = signal.and_then(|signal| signal.value.as_array()).map(Vec::as_slice).unwrap_or_default();
    endpoints.iter().filter_map(|endpoint| endpoint["zone"].as_str()).collect()
}
