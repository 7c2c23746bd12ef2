//! Without its zone's control plane every proxy goes on, and no exchange through one is lost: not as it goes, not while
//! it is away, and not as it comes back with news for them.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use api::shapes::{Connection, Page, Progress, ZoneOverview};
use http::Method;
use tokio::time::{self, Instant};

use super::{NOBODYS, NOBODYS_DOCUMENT, UpTo, all_answered, every_pair_answers, of_every_way};
use crate::api_client::ApiClient;
use crate::mesh::{LIMIT, Mesh};

/// It has an ingress, a sidecar that calls another zone, and two that are called from there.
const ZONE: &str = "west";
/// How long it is away: long enough to count as silent everywhere.
const AWAY: Duration = Duration::from_secs(6);
/// How long the load goes on before.
const STEADY: Duration = Duration::from_millis(300);

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let load = of_every_way(mesh, "zone-away");
    time::sleep(STEADY).await;
    let before = UpTo::now(mesh);

    let start = Instant::now();
    mesh.stop_zone(ZONE).await?;
    let api = mesh.api()?;
    let revision = api.put(NOBODYS, NOBODYS_DOCUMENT).await?;
    time::sleep(AWAY).await;
    is(&api, Connection::Stale).await.context("as the global sees it")?;
    let progress = api.revision(&revision, Duration::ZERO).await?;
    ensure!(progress.state == Progress::Pending, "without its zone a change is {:?}", progress.state);
    every_pair_answers(mesh, "/zone-away", |_| true).await.context("over new connections")?;
    let away = start.elapsed();
    mesh.resume_zone(ZONE).await?;
    api.applied(&revision, LIMIT).await.context("a policy written meanwhile")?;
    let revision = api.delete(NOBODYS).await?;
    api.applied(&revision, LIMIT).await?;

    let exchanges = all_answered(load).await?;
    let asked = before.unfailed_since(mesh, |_| true)?;
    Ok(format!("{} exchanges went on, for {away:.1?} without it", exchanges as u64 + asked))
}

/// Whether the global says so of the zone.
async fn is(api: &ApiClient, want: Connection) -> anyhow::Result<()> {
    let response = api.request(Method::GET, "/zones/_overview").send().await?;
    let zones: Page<ZoneOverview> = response.json().await?;
    match zones.items.iter().find(|zone| zone.name.as_str() == ZONE) {
        Some(zone) if zone.state == want => Ok(()),
        Some(zone) => bail!("{ZONE} is {:?}", zone.state),
        None => bail!("there is no {ZONE}"),
    }
}
