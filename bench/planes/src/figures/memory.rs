//! What the peer's smallest mesh of two zones is, with our programs: a control plane for all and one for each zone, two
//! ingresses, a server with its application, and a client in the other zone.

use std::time::Duration;

use tokio::time;

use super::Terms;
use crate::parties::{self, AWAY_CLIENT, HOME_CLIENT};
use crate::report::{Row, tell};
use crate::usage;

/// In megabytes.
const MUST: f64 = 100.0;
const IDLE: Duration = Duration::from_secs(15);

pub(super) async fn measure(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = parties::start(&terms.programs, 1).await?;
    // The peer has no client in the zone of the server, and no application behind the other.
    mesh.members.remove(HOME_CLIENT);
    mesh.member_mut(AWAY_CLIENT)?.application.kill().await?;
    time::sleep(IDLE / terms.hurry as u32).await;
    let away = mesh.member(AWAY_CLIENT)?.application.pid();
    let mut each = Vec::new();
    for program in mesh.processes().filter(|program| program.pid() != away) {
        each.push((program.call.name.clone(), usage::pss(program.pid())? as f64 / 1e6));
    }
    let all = each.iter().map(|(_, megabytes)| megabytes).sum();
    let told: Vec<String> = each.iter().map(|(name, megabytes)| format!("{name} {megabytes:.1}")).collect();
    tell(&format!("PSS in MB: {}", told.join(", ")));
    let what = format!("whole mesh of two zones, idle, {} processes: memory (PSS)", each.len());
    Ok(vec![Row::new(what, all, "MB").must(MUST)])
}
