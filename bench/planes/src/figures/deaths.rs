//! Something that carries requests is killed under a steady load of fifty requests a second.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{self, Instant};

use super::{Terms, longest, tell_times};
use crate::asking::{self, Failures, Load, failures_after, is_answered_by, until};
use crate::parties::{self, AWAY_CLIENT, FIRST_SERVER, HOME, HOME_CLIENT};
use crate::report::{Row, tell};

const TIMES: usize = 5;
/// How long the load goes on before something is killed, at the least, and after.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(6);
/// How long the ingress is away.
const GAP: Duration = Duration::from_secs(3);

/// The application of one of two remote instances, whose sidecar goes on.
pub(super) async fn of_an_application(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = parties::start(&terms.programs, 2).await?;
    let through = mesh.member(AWAY_CLIENT)?.outbound(0);
    let mut all = Vec::new();
    for _ in 0..terms.times(TIMES) {
        let load = Load::start(through);
        time::sleep(before()).await;
        let application = &mut mesh.member_mut(FIRST_SERVER)?.application;
        let gone = Instant::now();
        application.kill().await?;
        time::sleep(AFTER).await;
        all.push(failures_after(gone, &load.finish().await)?);
        *application = application.call.clone().start().await?;
        answered_by_the_first(through).await?;
    }
    tell_failures("an application killed", &all);
    Ok(vec![most("application of one of two remote instances killed: failures", &all)])
}

/// The sidecar of one of two instances, for a client of the same zone.
pub(super) async fn of_a_proxy(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = parties::start(&terms.programs, 2).await?;
    let through = mesh.member(HOME_CLIENT)?.outbound(0);
    let (mut all, mut returns) = (Vec::new(), Vec::new());
    for _ in 0..terms.times(TIMES) {
        let load = Load::start(through);
        time::sleep(before()).await;
        let sidecar = &mut mesh.member_mut(FIRST_SERVER)?.sidecar;
        let gone = Instant::now();
        sidecar.kill().await?;
        time::sleep(AFTER).await;
        all.push(failures_after(gone, &load.finish().await)?);
        *sidecar = sidecar.call.clone().start().await?;
        let back = Instant::now();
        answered_by_the_first(through).await?;
        returns.push(back.elapsed());
    }
    tell_failures("a proxy killed", &all);
    tell_times("asked again after its return", &returns);
    let last = all.iter().map(|failures| failures.last_after);
    Ok(vec![
        most("proxy of one of two instances killed: in-zone failures", &all),
        longest("proxy of one of two instances killed: the last failure after", last, 1.0),
    ])
}

/// The only ingress of a zone, which comes back after a while.
pub(super) async fn of_an_ingress(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = parties::start(&terms.programs, 2).await?;
    let through = mesh.member(AWAY_CLIENT)?.outbound(0);
    let mut all = Vec::new();
    for _ in 0..terms.times(TIMES) {
        let load = Load::start(through);
        time::sleep(before()).await;
        let ingress = mesh.ingress_mut(HOME)?;
        let gone = Instant::now();
        ingress.kill().await?;
        time::sleep_until(gone + GAP).await;
        *ingress = ingress.call.spawn()?;
        time::sleep(AFTER).await;
        all.push(failures_after(gone, &load.finish().await)?);
    }
    tell_failures("the ingress killed", &all);
    let last = all.iter().map(|failures| failures.last_after);
    Ok(vec![longest("the only ingress of a zone killed, back after 3 s: outage", last, 3.5)])
}

/// Any moment between two requests, and not just when one is sent.
fn before() -> Duration {
    BEFORE + asking::EVERY.mul_f64(rand::random_range(0.0..1.0))
}

async fn answered_by_the_first(through: SocketAddr) -> anyhow::Result<()> {
    until(through, |answer| is_answered_by(answer, FIRST_SERVER))
        .await
        .context("it is not asked again")
        .map(drop)
}

/// Of all the times.
fn most(what: &str, all: &[Failures]) -> Row {
    let most = all.iter().map(|failures| failures.count).max().unwrap_or_default();
    Row::new(what, most as f64, "").must(1.0)
}

/// Of each time.
fn tell_failures(what: &str, all: &[Failures]) {
    let each = all.iter().map(|Failures { count, last_after, reasons }| match count {
        0 => "none".to_owned(),
        _ => format!("{count}, the last after {last_after:.2?} {reasons:?}"),
    });
    tell(&format!("{what}: {}", each.collect::<Vec<_>>().join("; ")));
}
