//! A service that nobody knew comes up in one zone, and a client of the other, which has had a place for it since its own
//! start, gets its first answer.

use tokio::time::Instant;

use super::{Terms, half_and_most, tell_times};
use crate::asking::{is_answered, until};
use crate::mesh::Newcomer;
use crate::parties::{self, AWAY, CURIOUS, HOME};
use crate::report::Row;

const TIMES: usize = 20;
/// In seconds: half of the times, and all of them.
const MUST: [f64; 2] = [0.2, 0.5];

pub(super) async fn measure(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = parties::start(&terms.programs, 1).await?;
    let workloads: Vec<String> = (0..terms.times(TIMES)).map(|number| format!("new-{number}")).collect();
    let calls: Vec<(&str, &str)> = workloads.iter().map(|workload| (workload.as_str(), HOME)).collect();
    let client = mesh.add(Newcomer { zone: AWAY, workload: CURIOUS, number: 1, calls: &calls }).await?;
    let mut times = Vec::new();
    for (number, workload) in workloads.iter().enumerate() {
        let through = mesh.member(&client)?.outbound(number);
        let newcomer = Newcomer { zone: HOME, workload, number: 1, calls: &[] };
        let prepared = mesh.prepare(newcomer).await?;
        let application = prepared.application.start().await?;
        let begun = Instant::now();
        let name = mesh.join(prepared, application)?;
        times.push(until(through, is_answered).await? - begun);
        mesh.member_mut(&name)?.sidecar.kill().await?;
    }
    tell_times("a new service", &times);
    let what = "new service, from the start of its proxy -> first 200 from another zone";
    Ok(half_and_most(what, &times, MUST)?.into())
}
