//! While the global is away a zone's control plane restarts: what crosses zones goes on, and every endpoint of other
//! zones that its proxies knew is still known when it has settled, and is asked when it is needed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use api::shapes::{InspectDataplane, ProxyState};
use http::Method;
use serde_json::Value;
use tokio::time;

use super::{NOBODYS, NOBODYS_DOCUMENT, UpTo, all_answered, eventually, every_pair_answers, of_every_way};
use crate::api_client::ApiClient;
use crate::mesh::{LIMIT, Mesh};

/// The zone of who calls the other.
const ZONE: &str = "east";
const CALLER: &str = "/meshes/default/dataplanes/frontend-1/_config";
/// What both zones have, and the caller finds under one name.
const SERVICE: &str = "catalog";
/// A control plane that started says nothing of what is not back yet for 10 s: then it does.
const SETTLED: Duration = Duration::from_secs(11);
/// How long the load goes on before, and while only the other zone's can answer.
const STEADY: Duration = Duration::from_millis(300);

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let api = mesh.zone_api(ZONE)?;
    eventually(LIMIT, || async { all_zones(&endpoints(&api).await?) }).await.context("before")?;
    let known = endpoints(&api).await?;
    let load = of_every_way(mesh, "zone-restart");
    time::sleep(STEADY).await;
    let before = UpTo::now(mesh);

    mesh.stop_global().await?;
    mesh.stop_zone(ZONE).await?;
    mesh.resume_zone(ZONE).await?;
    eventually(LIMIT, || same(&api, &known)).await.context("after the restart")?;
    time::sleep(SETTLED).await;
    same(&api, &known).await.context("when it has settled")?;
    every_pair_answers(mesh, "/zone-restart", |_| true).await.context("over new connections")?;
    let asked = before.unfailed_since(mesh, |_| true)?;

    // Only the other zone's is left, and what the caller knows of that it has from before the restart.
    let stopped = mesh.stop_sidecar(SERVICE, ZONE).await?;
    time::sleep(STEADY).await;
    mesh.resume_sidecar(stopped).await?;

    mesh.resume_global().await?;
    let api = mesh.api()?;
    let revision = api.put(NOBODYS, NOBODYS_DOCUMENT).await?;
    api.applied(&revision, LIMIT).await.context("a policy written after it is back")?;
    let revision = api.delete(NOBODYS).await?;
    api.applied(&revision, LIMIT).await?;
    let exchanges = all_answered(load).await?;
    eventually(LIMIT, || every_pair_answers(mesh, "/after", |_| true)).await.context("afterwards")?;
    let all: usize = known.values().filter_map(|value| value.as_array().map(Vec::len)).sum();
    Ok(format!("{} exchanges went on, and all {all} endpoints are known", exchanges as u64 + asked))
}

/// What the zone tells the caller of those whom it calls.
async fn endpoints(api: &ApiClient) -> anyhow::Result<BTreeMap<String, Value>> {
    let response = api.request(Method::GET, CALLER).send().await?.error_for_status()?;
    let told: InspectDataplane = response.json().await?;
    ensure!(told.state == ProxyState::Current, "the caller is {:?}", told.state);
    Ok(told.signals.into_iter().map(|signal| (signal.name, signal.value)).collect())
}

async fn same(api: &ApiClient, known: &BTreeMap<String, Value>) -> anyhow::Result<()> {
    let now = endpoints(api).await?;
    for (name, was) in known {
        let is = now.get(name).unwrap_or(&Value::Null);
        ensure!(is == was, "{name} were {was}, and are {is}");
    }
    Ok(())
}

/// Each service has an endpoint, and the joined one has two.
fn all_zones(endpoints: &BTreeMap<String, Value>) -> anyhow::Result<()> {
    ensure!(!endpoints.is_empty(), "the caller knows nobody");
    for (name, value) in endpoints {
        let want = if name.contains("mmzs_") { 2 } else { 1 };
        let count = value.as_array().map_or(0, Vec::len);
        ensure!(count == want, "{name} are {count}, and should be {want}");
    }
    Ok(())
}
