//! A permission is taken away on the global and given back, and a client in one zone sees each time that the proxy of
//! the server in the other enforces it.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::{Terms, half_and_most, tell_times};
use crate::asking::{Answer, is_answered, is_denied, until};
use crate::parties::{self, AWAY_CLIENT, PERMISSION};
use crate::report::Row;

const TIMES: usize = 25;
/// In seconds: half of the times, and all of them.
const MUST: [f64; 2] = [0.05, 0.2];
/// Between the one and the next.
const REST: Duration = Duration::from_millis(300);

pub(super) async fn measure(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mesh = parties::start(&terms.programs, 1).await?;
    let through = mesh.member(AWAY_CLIENT)?.outbound(0);
    let mut times = Vec::new();
    for time in 0..terms.times(TIMES) {
        time::sleep(REST).await;
        let (document, wanted): (String, fn(&Answer) -> bool) = if time % 2 == 0 {
            (parties::allow_nobody(), is_denied)
        } else {
            (parties::allow_clients(), is_answered)
        };
        let begun = Instant::now();
        let (written, seen) = tokio::join!(mesh.api.put(PERMISSION, &document), until(through, wanted));
        written?;
        times.push(seen? - begun);
    }
    tell_times("a policy", &times);
    let what = "policy on the global -> enforced by a proxy of another zone";
    Ok(half_and_most(what, &times, MUST)?.into())
}
