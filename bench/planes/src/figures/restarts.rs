//! A proxy is killed and started again at once, while its zone's control plane is there: the sidecar of a client, that
//! of the only server, and the only ingress.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{self, Instant};

use super::{Terms, longest, tell_times};
use crate::asking::{is_answered, until};
use crate::mesh::Running;
use crate::parties::{self, AWAY_CLIENT, FIRST_SERVER, HOME};
use crate::report::Row;

const TIMES: usize = 5;
const MUST: f64 = 1.0;
/// Between the one and the next.
const REST: Duration = Duration::from_millis(1500);

pub(super) async fn measure(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = parties::start(&terms.programs, 1).await?;
    let through = mesh.member(AWAY_CLIENT)?.outbound(0);
    let mut rows = Vec::new();
    for what in ["sidecar of the client", "sidecar of the server", "ingress"] {
        let mut times = Vec::new();
        for _ in 0..terms.times(TIMES) {
            time::sleep(REST).await;
            let program = match what {
                "ingress" => mesh.ingress_mut(HOME)?,
                "sidecar of the server" => &mut mesh.member_mut(FIRST_SERVER)?.sidecar,
                _ => &mut mesh.member_mut(AWAY_CLIENT)?.sidecar,
            };
            times.push(restart(program, through).await?);
        }
        tell_times(&format!("{what} restarted"), &times);
        rows.push(longest(&format!("{what} killed and restarted at once: no service for"), times, MUST));
    }
    Ok(rows)
}

/// From when it is killed until a request through it is answered.
async fn restart(program: &mut Running, through: SocketAddr) -> anyhow::Result<Duration> {
    let gone = Instant::now();
    program.kill().await?;
    *program = program.call.spawn()?;
    Ok(until(through, is_answered).await? - gone)
}
