//! When the catalog of the own zone drains, or its application is gone, the other zone's takes over, and no request is
//! lost that could be had; when it is back, it is asked again.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::{self, Instant};

use super::{Terms, eventually, every_pair_answers};
use crate::load::{Callers, Exchange, Load};
use crate::members::Speaks;
use crate::mesh::{LIMIT, Mesh};

const SERVICE: &str = "catalog";
/// The zone of who asks, and the one that takes over.
const NEAR: &str = "east";
const FAR: &str = "west";

/// 200 exchanges a second.
const CALLERS: [(Speaks, usize); 3] = [(Speaks::Http1, 4), (Speaks::Http2, 4), (Speaks::Bytes, 2)];
/// How long the load goes on before and after.
const STEADY: Duration = Duration::from_millis(300);
/// How long the near one is gone.
const AWAY: Duration = Duration::from_secs(1);
/// An endpoint that fails is left alone for 250 ms, and then for twice as long each time: when it is back, for no
/// longer than it was gone, and this.
const FIRST_EJECTION: Duration = Duration::from_millis(250);
/// So many exchanges in a row, in each way, are no accident.
const IN_A_ROW: usize = 10;

/// Why the near one does not answer.
#[derive(Clone, Copy, Debug)]
enum Cause {
    Drain,
    Refusal,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drain => "its sidecar drains",
            Self::Refusal => "its application is gone",
        })
    }
}

pub(super) async fn keep(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    let mut figures = Vec::new();
    for cause in [Cause::Drain, Cause::Refusal] {
        figures.push(goes_and_comes_back(mesh, cause, terms).await.with_context(|| cause.to_string())?);
    }
    eventually(LIMIT, || every_pair_answers(mesh, "/after", |_| true)).await.context("afterwards")?;
    Ok(figures.join("; "))
}

async fn goes_and_comes_back(mesh: &mut Mesh, cause: Cause, terms: &Terms) -> anyhow::Result<String> {
    let callers = CALLERS.map(|(speaks, count)| Callers { speaks, through: mesh.joined(speaks), count });
    let load = Load::start(&format!("{cause:?}"), callers);
    eventually(LIMIT, || async { near_alone(mesh, &load) }).await.context("before")?;
    time::sleep(STEADY).await;

    let mut outage = Outage { from: Instant::now(), gone: Instant::now(), back: Instant::now() };
    match cause {
        Cause::Drain => {
            let stopped = mesh.stop_sidecar(SERVICE, NEAR).await?;
            outage.gone = Instant::now();
            time::sleep(AWAY).await;
            mesh.resume_sidecar(stopped).await?;
        }
        Cause::Refusal => {
            mesh.app_mut(SERVICE, NEAR)?.cut().await;
            outage.gone = Instant::now();
            time::sleep(AWAY).await;
            mesh.app_mut(SERVICE, NEAR)?.listen().await?;
        }
    }
    outage.back = Instant::now();
    let limit = terms.limit(outage.back - outage.from + FIRST_EJECTION);
    eventually(limit, || async { near_alone(mesh, &load) })
        .await
        .with_context(|| format!("{limit:.1?} after it is back"))?;
    let took_back = outage.back.elapsed();
    time::sleep(STEADY).await;

    let exchanges = load.finish().await;
    let lost = judge(mesh, cause, &outage, &exchanges)?;
    let all = exchanges.len();
    Ok(format!("{cause}: of {all} exchanges {lost} lost, asked again after {took_back:.1?}"))
}

struct Outage {
    from: Instant,
    /// From here on nothing that begins can reach it.
    gone: Instant,
    back: Instant,
}

/// Whether the latest exchanges in each way are the near application's.
fn near_alone(mesh: &Mesh, load: &Load) -> anyhow::Result<()> {
    let exchanges = load.so_far();
    for speaks in Speaks::ALL {
        let latest = exchanges.iter().rev().filter(|exchange| exchange.speaks == speaks).take(IN_A_ROW);
        let near = latest.filter(|exchange| saw(mesh, NEAR, exchange)).count();
        ensure!(near == IN_A_ROW, "of the last {IN_A_ROW} by {speaks:?} {NEAR} answered {near}");
    }
    Ok(())
}

fn saw(mesh: &Mesh, zone: &str, exchange: &Exchange) -> bool {
    mesh.app(SERVICE, zone).is_some_and(|app| app.saw(&exchange.name))
}

/// Nothing is lost but what was on its way to the application as that went, and nothing is done twice. Counts what
/// was lost.
fn judge(mesh: &Mesh, cause: Cause, outage: &Outage, exchanges: &[Exchange]) -> anyhow::Result<usize> {
    let mut lost = 0;
    for exchange in exchanges {
        let Exchange { name, begun, ended, outcome, .. } = exchange;
        let (near, far) = (saw(mesh, NEAR, exchange), saw(mesh, FAR, exchange));
        ensure!(!(near && far), "{name} was seen in both zones");
        let Err(why) = outcome else {
            ensure!(near || far, "{name} was answered, and nobody saw it");
            continue;
        };
        let under_way = *begun <= outage.gone && *ended >= outage.from;
        let may_have_arrived = match exchange.speaks {
            // Not 503, which says that nobody has seen it.
            Speaks::Http1 | Speaks::Http2 => why.starts_with("502"),
            Speaks::Bytes => true,
        };
        if !(matches!(cause, Cause::Refusal) && under_way && may_have_arrived) {
            bail!("{name}, begun {} failed: {why}", outage.when(*begun));
        }
        ensure!(!far, "{name} failed, and {FAR} saw it");
        lost += 1;
    }
    for speaks in Speaks::ALL {
        let own = exchanges.iter().filter(|exchange| exchange.speaks == speaks);
        let meanwhile = own.filter(|exchange| exchange.begun > outage.gone && exchange.ended < outage.back);
        let far = meanwhile.filter(|exchange| saw(mesh, FAR, exchange)).count();
        ensure!(far >= IN_A_ROW, "only {far} exchanges by {speaks:?} were {FAR}'s meanwhile");
    }
    Ok(lost)
}

impl Outage {
    fn when(&self, begun: Instant) -> String {
        let since = |moment: Instant| begun.saturating_duration_since(moment);
        match begun {
            _ if begun > self.back => format!("{:.0?} after it was back,", since(self.back)),
            _ if begun > self.gone => format!("{:.0?} after it was gone,", since(self.gone)),
            _ if begun > self.from => format!("{:.0?} after it began to go,", since(self.from)),
            _ => "before,".to_owned(),
        }
    }
}
