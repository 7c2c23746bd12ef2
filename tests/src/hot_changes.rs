//! A mesh in which something is always about to change: what people write, who is there, and who proves to be who
//! with what. No request fails by it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use demo::Mesh;
use demo::api_client::ApiClient;
use demo::load::{Callers, Load};
use demo::members::{PERMISSION, Speaks};
use demo::mesh::LIMIT;
use http::Method;
use model::Version;
use serde_json::{Value, json};
use snapshot::parts::Endpoints;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How long it goes on, at least.
const SPAN: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(100);
/// Leaves are renewed at two thirds of their life: each at least once.
const LEAVES: &str = "24s";

const IDENTITY: &str = "/meshes/default/meshidentities/mesh-identity-all";
const TIMEOUT: &str = "/meshes/default/meshtimeouts/hot";

/// Who calls, and who is called.
const SIDECARS: [(&str, &str); 3] = [("frontend", "east"), ("catalog", "east"), ("catalog", "west")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_changes_all_the_time_loses_no_request() {
    let mut mesh = Mesh::start(&mut |_| {}).await.unwrap();
    shorten_leaves(&mut mesh).await;
    are_there(&mesh, &["east", "west"]).await;
    let before = leaves(&mesh);

    let callers = [(Speaks::Http1, 4), (Speaks::Http2, 4), (Speaks::Bytes, 4)];
    let callers = callers.map(|(speaks, count)| Callers { speaks, through: mesh.joined(speaks), count });
    let load = Load::start("hot", callers);
    let stop = CancellationToken::new();
    let writing = tokio::spawn(write(mesh.api().unwrap(), stop.clone()));
    let begun = Instant::now();
    let mut restarts = 0;
    while begun.elapsed() < SPAN || leaves(&mesh).iter().zip(&before).any(|(now, before)| now == before) {
        assert!(begun.elapsed() < SPAN + 3 * LIMIT, "leaves are not renewed");
        for (zone, other) in [("west", "east"), ("east", "west")] {
            let stopped = mesh.stop_sidecar("catalog", zone).await.unwrap();
            are_there(&mesh, &[other]).await;
            mesh.resume_sidecar(stopped).await.unwrap();
            are_there(&mesh, &["east", "west"]).await;
            near_answers(&mesh, &load).await;
            restarts += 1;
        }
    }
    stop.cancel();
    let (writes, last) = writing.await.unwrap();
    mesh.api().unwrap().applied(&last, LIMIT).await.unwrap();
    let exchanges = load.finish().await;

    let failed: Vec<_> = exchanges.iter().filter(|exchange| exchange.outcome.is_err()).collect();
    assert!(
        failed.is_empty(),
        "{} of {}: {:?}",
        failed.len(),
        exchanges.len(),
        &failed[..failed.len().min(5)]
    );
    for speaks in Speaks::ALL {
        let done = exchanges.iter().filter(|exchange| exchange.speaks == speaks).count();
        assert!(done > 50, "only {done} by {speaks:?}");
    }
    assert!(writes > 20 && restarts >= 2, "{writes} writes, {restarts} restarts");
    mesh.shutdown().await.unwrap();
}

/// Writes permissions and timeouts, each time others, until it is stopped. Returns how often, and the last revision.
async fn write(api: ApiClient, stop: CancellationToken) -> (usize, Version) {
    let mut ticks = time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = api.put(TIMEOUT, &timeout(0)).await.unwrap();
    let mut writes = 0;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        writes += 1;
        last = match writes % 2 {
            0 => api.put(TIMEOUT, &timeout(writes)).await.unwrap(),
            _ => api.put(PERMISSION, &permission(writes)).await.unwrap(),
        };
    }
    (writes, last)
}

/// For somebody who does not exist.
fn permission(number: usize) -> String {
    format!(
        "type: MeshTrafficPermission\nmesh: default\nname: shop\nspec:\n  rules:\n  - default:\n      \
         allow:\n      - source: {{workload: frontend}}\n      - source: {{workload: cart}}\n      \
         deny:\n      - source: {{workload: nobody-{number}}}\n"
    )
}

/// Long enough to never matter.
fn timeout(number: usize) -> String {
    format!(
        "type: MeshTimeout\nmesh: default\nname: hot\nspec:\n  to:\n  - targetRef: {{kind: Mesh}}\n    \
         default: {{http: {{requestTimeout: {}s}}}}\n",
        60 + number
    )
}

/// Has the sidecars join again, so that their leaves are of the new kind from the first.
async fn shorten_leaves(mesh: &mut Mesh) {
    let api = mesh.api().unwrap();
    let response = api.request(Method::GET, IDENTITY).send().await.unwrap();
    let mut identity: Value = response.json().await.unwrap();
    identity["spec"]["provider"]["bundled"]["certificateParameters"] = json!({ "expiry": LEAVES });
    let revision = api.put(IDENTITY, &identity.to_string()).await.unwrap();
    api.applied(&revision, LIMIT).await.unwrap();
    for (service, zone) in SIDECARS {
        let stopped = mesh.stop_sidecar(service, zone).await.unwrap();
        std::fs::remove_dir_all(folder(mesh, service, zone)).unwrap();
        mesh.resume_sidecar(stopped).await.unwrap();
    }
}

fn folder(mesh: &Mesh, service: &str, zone: &str) -> PathBuf {
    mesh.dir().join(format!("{zone}-{service}-1"))
}

/// What the sidecars show, as they keep it.
fn leaves(mesh: &Mesh) -> [Value; 3] {
    SIDECARS.map(|(service, zone)| {
        let text = std::fs::read_to_string(folder(mesh, service, zone).join("state.json")).unwrap();
        let leaf = serde_json::from_str::<Value>(&text).unwrap()["leaf"].take();
        assert!(!leaf.is_null(), "{text}");
        leaf
    })
}

/// The caller's sidecar goes by a word that says in which zones the catalog is ready, the same in each way. It
/// keeps the words that it goes by, within a second.
async fn are_there(mesh: &Mesh, zones: &[&str]) {
    let kept = folder(mesh, "frontend", "east").join("endpoints.json");
    let said = async {
        loop {
            // None before the first.
            let text = std::fs::read_to_string(&kept).unwrap_or_else(|_| "{}".into());
            let words: Value = serde_json::from_str(&text).unwrap();
            let ready = |section: &str| {
                let word = words[format!("mmzs_default___catalog_{section}")].as_str().unwrap_or("[]");
                let endpoints: Endpoints = serde_json::from_str(word).unwrap();
                let ready = endpoints.0.into_iter().filter(|endpoint| endpoint.ready);
                ready.map(|endpoint| endpoint.zone.to_string()).collect::<BTreeSet<_>>()
            };
            if ["http", "http2", "events"].into_iter().all(|section| ready(section).iter().eq(zones)) {
                return;
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(LIMIT, said).await.unwrap_or_else(|_| panic!("the frontend was never told {zones:?}"));
}

/// The catalog of the caller's own zone answers again, in each way.
async fn near_answers(mesh: &Mesh, load: &Load) {
    let answers = async {
        loop {
            let exchanges = load.so_far();
            let is_near = |speaks| {
                let mut latest = exchanges.iter().rev().filter(|exchange| exchange.speaks == speaks).take(5);
                latest.all(|exchange| mesh.app("catalog", "east").unwrap().saw(&exchange.name))
            };
            if Speaks::ALL.into_iter().all(is_near) {
                return;
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(LIMIT, answers).await.expect("the near one is not asked again");
}
