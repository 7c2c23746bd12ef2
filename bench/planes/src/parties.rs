//! Who is in the mesh in which deaths and propagation are measured: a service in one zone, and a client in each.

use futures::future::try_join;

use crate::asking::{is_answered, until};
use crate::mesh::{Mesh, Newcomer, Programs};

/// The zone of the service, seen from the client of the other.
pub const HOME: &str = "east";
pub const AWAY: &str = "west";

pub const SERVER: &str = "server";
pub const FIRST_SERVER: &str = "server-1";
/// In the other zone than the service.
pub const AWAY_CLIENT: &str = "away-client-1";
/// In its zone.
pub const HOME_CLIENT: &str = "home-client-1";

/// The workload of a client that a work may bring along.
pub const CURIOUS: &str = "curious";

pub const PERMISSION: &str = "/meshes/default/meshtrafficpermissions/clients";

/// The permission under which every client of the mesh is answered.
pub fn allow_clients() -> String {
    permission("clients", &["away-client", "home-client", CURIOUS])
}

/// The same when it lets nobody in.
pub fn allow_nobody() -> String {
    permission("clients", &["nobody"])
}

/// A permission for these workloads.
pub fn permission(name: &str, workloads: &[&str]) -> String {
    let mut yaml = format!(
        "type: MeshTrafficPermission\nmesh: default\nname: {name}\nspec:\n  rules:\n  - default:\n      allow:\n"
    );
    for workload in workloads {
        yaml += &format!("      - source: {{workload: {workload}}}\n");
    }
    yaml
}

/// With so many servers. Both clients have been answered when this returns.
pub async fn start(programs: &Programs, servers: usize) -> anyhow::Result<Mesh> {
    let mut mesh = Mesh::start(programs).await?;
    mesh.api.put(PERMISSION, &allow_clients()).await?;
    mesh.add_zones([HOME, AWAY].map(str::to_owned)).await?;
    for zone in [HOME, AWAY] {
        mesh.add_ingress(zone).await?;
    }
    for number in 1..=servers {
        mesh.add(Newcomer { zone: HOME, workload: SERVER, number, calls: &[] }).await?;
    }
    let calls = [(SERVER, HOME)];
    mesh.add(Newcomer { zone: AWAY, workload: "away-client", number: 1, calls: &calls }).await?;
    mesh.add(Newcomer { zone: HOME, workload: "home-client", number: 1, calls: &calls }).await?;
    let outbounds = [mesh.member(AWAY_CLIENT)?.outbound(0), mesh.member(HOME_CLIENT)?.outbound(0)];
    try_join(until(outbounds[0], is_answered), until(outbounds[1], is_answered)).await?;
    Ok(mesh)
}
