//! Without the global control plane the zones go on; when it is back, new policy reaches everyone.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::{self, Instant};

use super::without_a_failure;
use crate::mesh::{LIMIT, Mesh};

/// How long the global is gone: long enough for every session to notice.
const AWAY: Duration = Duration::from_secs(2);

const LATER: &str = "/meshes/default/meshtrafficpermissions/later";
const LATER_DOCUMENT: &str = "\
type: MeshTrafficPermission
mesh: default
name: later
spec:
  rules:
  - default:
      allow:
      - source: {workload: nobody}
";

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let (took, answered) = without_a_failure(mesh, async |mesh| {
        mesh.stop_global().await?;
        time::sleep(AWAY).await;
        mesh.restart_global().await?;
        let start = Instant::now();
        let api = mesh.api()?;
        let revision = api.put(LATER, LATER_DOCUMENT).await?;
        api.applied(&revision, LIMIT).await.context("a policy written after it is back")?;
        let took = start.elapsed();
        let revision = api.delete(LATER).await?;
        api.applied(&revision, LIMIT).await?;
        Ok(took)
    })
    .await?;
    ensure!(answered > 0, "nothing was asked meanwhile");
    Ok(format!("{answered} requests went on; {took:.0?} after its start policy had reached everyone"))
}
