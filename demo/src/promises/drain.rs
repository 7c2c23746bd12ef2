//! The sidecars of two replicas drain, one after the other, while both are asked by their own zone and by another, in
//! every way that a proxy carries: no exchange fails.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::{self, Instant};

use super::{Terms, eventually};
use crate::load::{Callers, Exchange, Load};
use crate::members::Speaks;
use crate::mesh::{LIMIT, Mesh};

/// Exchanges a second, of all ways together.
const PROMISED: f64 = 500.0;
/// In each zone; each asks 20 times a second.
const CALLERS: [(Speaks, usize); 3] = [(Speaks::Http1, 5), (Speaks::Http2, 5), (Speaks::Bytes, 5)];
/// How long the load goes on with both, and with one alone.
const STEADY: Duration = Duration::from_millis(500);
/// That none of so many in a row is a replica's that is asked is no accident.
const IN_A_ROW: usize = 40;

pub(super) async fn keep(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    mesh.add_replica().await.context("starting a second replica")?;
    let kept = drain_each(mesh, terms).await;
    mesh.remove_replica().await.context("taking the second replica away")?;
    kept
}

async fn drain_each(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    // One of each zone.
    let loads = [0, 1].map(|zone| {
        let callers = CALLERS.map(|(speaks, count)| {
            let (_, through) = mesh.callers_of_replicas(speaks)[zone];
            Callers { speaks, through, count }
        });
        Load::start(&format!("drain-{zone}"), callers)
    });
    both_answer(mesh, &loads).await.context("before")?;
    let so_far = |loads: &[Load]| loads.iter().map(|load| load.so_far().len()).sum::<usize>();
    let (start, before, turned_away) = (Instant::now(), so_far(&loads), mesh.connect_failures().await);
    let mut drains = Vec::new();
    for number in [2, 1] {
        time::sleep(STEADY).await;
        let from = Instant::now();
        let stopped = mesh.stop_replica(number).await?;
        drains.push((from, Instant::now()));
        time::sleep(STEADY).await;
        mesh.resume_sidecar(stopped).await?;
        both_answer(mesh, &loads).await.with_context(|| format!("after replica {number} is back"))?;
    }
    let rate = (so_far(&loads) - before) as f64 / start.elapsed().as_secs_f64();
    let turned_away = mesh.connect_failures().await - turned_away;
    let mut exchanges = Vec::new();
    for load in loads {
        exchanges.extend(load.finish().await);
    }
    for Exchange { name, begun, outcome, .. } in &exchanges {
        if let Err(why) = outcome {
            let since = |moment: Instant| begun.saturating_duration_since(moment).as_millis();
            let when: Vec<String> = drains
                .iter()
                .map(|(from, gone)| {
                    format!("{} ms after a drain began, {} after its end", since(*from), since(*gone))
                })
                .collect();
            bail!("{name}, begun {}, failed: {why}", when.join("; "));
        }
    }
    let least = PROMISED / f64::from(terms.patience);
    ensure!(rate >= least, "only {rate:.0} exchanges a second were made, and {least:.0} are promised");
    let slowest = drains.iter().map(|(from, gone)| *gone - *from).max().unwrap_or_default();
    Ok(format!(
        "{} exchanges, {rate:.0} a second; {turned_away} had to turn to the other; the slower drain took {slowest:.0?}",
        exchanges.len()
    ))
}

/// Waits until each replica is among those who answered last, to each load and in each way.
async fn both_answer(mesh: &Mesh, loads: &[Load]) -> anyhow::Result<()> {
    eventually(LIMIT, || async {
        for (load, speaks) in loads.iter().flat_map(|load| Speaks::ALL.map(|speaks| (load, speaks))) {
            let exchanges = load.so_far();
            let latest: Vec<&Exchange> =
                exchanges.iter().rev().filter(|exchange| exchange.speaks == speaks).take(IN_A_ROW).collect();
            for (number, app) in mesh.replicas().enumerate() {
                let seen = latest.iter().any(|exchange| app.saw(&exchange.name));
                ensure!(seen, "replica {} is not asked by {speaks:?}", number + 1);
            }
        }
        Ok(())
    })
    .await
}
