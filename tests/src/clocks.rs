//! Control planes whose clocks do not agree.

use std::time::{Duration, SystemTime};

use control::Clock;
use demo::Mesh;
use demo::mesh::LIMIT;

const PERMISSION: &str = "/meshes/default/meshtrafficpermissions/by-whatever-clock";
const ALLOW: &str = "\
type: MeshTrafficPermission
mesh: default
name: by-whatever-clock
spec:
  rules: [{default: {allow: [{source: {}}]}}]
";

/// Each is five minutes off the clock of the proxies, and so ten off another.
fn off(control_plane: &str) -> Clock {
    let off = Duration::from_secs(5 * 60);
    let is_ahead = control_plane == "west";
    Clock::new(move || if is_ahead { SystemTime::now() + off } else { SystemTime::now() - off })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s41_a_mesh_serves_and_policy_reaches_everyone_though_every_clock_is_five_minutes_off() {
    let mut mesh = Mesh::start_by(off, &mut |_| {}).await.expect("every service answers every other");
    let api = mesh.api().unwrap();
    let revision = api.put(PERMISSION, ALLOW).await.unwrap();
    api.applied(&revision, LIMIT).await.unwrap();
    mesh.stop_zone("west").await.unwrap();
    mesh.resume_zone("west").await.unwrap();
    let revision = api.delete(PERMISSION).await.unwrap();
    api.applied(&revision, LIMIT).await.unwrap();
    mesh.shutdown().await.unwrap();
}
