//! Another instance of a service comes up in one zone, while a client of the other asks that service all the time.

use tokio::time::Instant;

use super::{Terms, half_and_most, tell_times};
use crate::asking::{Load, failures_after, is_answered_by, until};
use crate::mesh::Newcomer;
use crate::parties::{self, AWAY_CLIENT, HOME, SERVER};
use crate::report::Row;

const TIMES: usize = 10;
/// In seconds: half of the times, and all of them.
const MUST: [f64; 2] = [1.0, 1.0];

pub(super) async fn measure(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = parties::start(&terms.programs, 1).await?;
    let through = mesh.member(AWAY_CLIENT)?.outbound(0);
    let (start, load) = (Instant::now(), Load::start(through));
    let mut times = Vec::new();
    for number in 2..2 + terms.times(TIMES) {
        let prepared = mesh.prepare(Newcomer { zone: HOME, workload: SERVER, number, calls: &[] }).await?;
        let application = prepared.application.start().await?;
        let begun = Instant::now();
        let name = mesh.join(prepared, application)?;
        times.push(until(through, |answer| is_answered_by(answer, &name)).await? - begun);
    }
    let failed = failures_after(start, &load.finish().await)?.count;
    tell_times("a new instance", &times);
    let what = "new instance in another zone, from the start of its proxy -> first answer to a warm client";
    let mut rows = half_and_most(what, &times, MUST)?.to_vec();
    rows.push(Row::new("new instance in another zone: failures meanwhile", failed as f64, "").must(0.0));
    Ok(rows)
}
