//! What takes how long, and what fails, when policies, services and instances come and parts of a mesh die: with every
//! program a process of its own.
//!
//! A new work is a file and a line in [`WORKS`].

mod deaths;
mod instances;
mod memory;
mod newcomer;
mod policies;
mod restarts;
mod services;
mod zones;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::mesh::Programs;
use crate::report::{Output, Row, tell};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these works; all where none is named
    #[arg(value_name = "WORK")]
    pub works: Vec<String>,
    /// How many times less often each is done, for a quick look
    #[arg(long, default_value_t = 1, value_name = "TIMES")]
    pub hurry: usize,
    /// Where the programs are; by default beside this one
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

/// A work, which is measured in a mesh of its own.
pub struct Work {
    pub name: &'static str,
    measure: for<'a> fn(&'a Terms) -> BoxFuture<'a, anyhow::Result<Vec<Row>>>,
}

pub const WORKS: &[Work] = &[
    Work { name: "policy", measure: |terms| Box::pin(policies::measure(terms)) },
    Work { name: "service", measure: |terms| Box::pin(services::measure(terms)) },
    Work { name: "instance", measure: |terms| Box::pin(instances::measure(terms)) },
    Work { name: "application", measure: |terms| Box::pin(deaths::of_an_application(terms)) },
    Work { name: "proxy", measure: |terms| Box::pin(deaths::of_a_proxy(terms)) },
    Work { name: "ingress", measure: |terms| Box::pin(deaths::of_an_ingress(terms)) },
    Work { name: "restart", measure: |terms| Box::pin(restarts::measure(terms)) },
    Work { name: "zones", measure: |terms| Box::pin(zones::measure(terms)) },
    Work { name: "memory", measure: |terms| Box::pin(memory::measure(terms)) },
    Work { name: "newcomer", measure: |terms| Box::pin(newcomer::measure(terms)) },
];

/// How a work is measured.
pub struct Terms {
    programs: Programs,
    hurry: usize,
}

impl Terms {
    /// How often something is done that is usually done so often.
    fn times(&self, usual: usize) -> usize {
        usual.div_ceil(self.hurry)
    }
}

/// One work after the other. What fails is told, and an error in the end; the figures of the rest are told all the same.
pub async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    let known: Vec<&str> = WORKS.iter().map(|work| work.name).collect();
    let unknown = options.works.iter().find(|name| !known.contains(&name.as_str()));
    ensure!(unknown.is_none(), "there is no work {unknown:?}: there are {}", known.join(", "));
    ensure!(options.hurry > 0, "--hurry is 1 or more");
    let terms = Terms { programs: Programs::find(options.programs.as_deref())?, hurry: options.hurry };
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    let is_wanted =
        |work: &&Work| options.works.is_empty() || options.works.iter().any(|name| name == work.name);
    for work in WORKS.iter().filter(is_wanted) {
        let start = Instant::now();
        let measured = (work.measure)(&terms).await;
        let took = start.elapsed();
        match measured {
            Ok(measured) => {
                tell(&format!("{} took {took:.1?}", work.name));
                rows.extend(measured);
            }
            Err(error) => {
                tell(&format!("{} failed after {took:.1?}: {error:#}", work.name));
                failed.push(work.name);
            }
        }
    }
    if rows.is_empty() && !failed.is_empty() {
        bail!("nothing could be measured of {}", failed.join(", "));
    }
    rows.extend(
        failed.into_iter().map(|name| Row::new(format!("{name}: could not be measured"), 1.0, "").must(0.0)),
    );
    Ok(rows)
}

/// Half and the most of these.
fn half_and_most(what: &str, times: &[Duration], must: [f64; 2]) -> anyhow::Result<[Row; 2]> {
    let mut seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    seconds.sort_by(f64::total_cmp);
    let (half, most) = (seconds.get(seconds.len().saturating_sub(1) / 2), seconds.last());
    let (half, most) = half.zip(most).context("nothing was measured")?;
    let row = |which, value, must| Row::new(format!("{what}, {which}"), value, "s").must(must);
    Ok([row(format!("p50 of {}", seconds.len()), *half, must[0]), row("max".to_owned(), *most, must[1])])
}

/// The longest of these.
fn longest(what: &str, times: impl IntoIterator<Item = Duration>, must: f64) -> Row {
    let longest = times.into_iter().max().unwrap_or_default();
    Row::new(what, longest.as_secs_f64(), "s").must(must)
}

/// Each of these, as they came.
fn tell_times(what: &str, times: &[Duration]) {
    let each: Vec<String> = times.iter().map(|time| format!("{:.0}", time.as_secs_f64() * 1e3)).collect();
    tell(&format!("{what}: {} ms", each.join(" ")));
}
