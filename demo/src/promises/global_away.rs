//! Without the global control plane the zones go on, and so does a sidecar that is restarted meanwhile; when it
//! is back, new policy reaches everyone.

use std::time::Duration;

use anyhow::Context;
use tokio::time::{self, Instant};

use super::{NOBODYS, NOBODYS_DOCUMENT, UpTo, eventually, every_pair_answers};
use crate::mesh::{LIMIT, Mesh};
use crate::traffic::Pair;

/// How long the global is gone: long enough for every session to notice.
const AWAY: Duration = Duration::from_secs(2);

/// Whose sidecar is restarted: one that calls, and is called from the other zone.
const RESTARTED: (&str, &str) = ("cart", "west");

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let before = UpTo::now(mesh);
    mesh.stop_global().await?;
    let away = UpTo::now(mesh);
    time::sleep(AWAY).await;
    every_pair_answers(mesh, "/alone", |_| true).await.context("over new connections, without the global")?;
    away.unfailed_since(mesh, |_| true).context("without the global")?;

    let (service, zone) = RESTARTED;
    let stopped = mesh.stop_sidecar(service, zone).await?;
    mesh.resume_sidecar(stopped).await.context("restarting a sidecar without the global")?;
    eventually(LIMIT, || every_pair_answers(mesh, "/restarted", is_restarted))
        .await
        .context("through a sidecar that was restarted without the global")?;
    let restarted = UpTo::now(mesh);

    mesh.resume_global().await?;
    let start = Instant::now();
    let api = mesh.api()?;
    let revision = api.put(NOBODYS, NOBODYS_DOCUMENT).await?;
    api.applied(&revision, LIMIT).await.context("a policy written after it is back")?;
    let took = start.elapsed();
    let revision = api.delete(NOBODYS).await?;
    api.applied(&revision, LIMIT).await?;
    restarted.unfailed_since(mesh, |_| true).context("after the restart of a sidecar")?;
    let answered = before.unfailed_since(mesh, |pair| !is_restarted(pair))?;
    Ok(format!("{answered} requests went on; {took:.0?} after its start policy had reached everyone"))
}

fn is_restarted(pair: &Pair) -> bool {
    pair.concerns(RESTARTED.0, RESTARTED.1)
}
