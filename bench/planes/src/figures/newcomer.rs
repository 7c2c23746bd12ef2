//! A newcomer types `tombolo demo`, which tells when everyone in it was answered, across zones as well.

use demo::process::Process;
use tokio::process::Command;
use tokio::time::Instant;

use super::{Terms, half_and_most, tell_times};
use crate::mesh::LIMIT;
use crate::report::Row;

const TIMES: usize = 5;
/// In seconds: half of the times, and all of them.
const MUST: [f64; 2] = [2.0, 2.0];

pub(super) async fn measure(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("demo.log");
    let tombolo = terms.programs.folder.join("tombolo");
    let mut times = Vec::new();
    for _ in 0..terms.times(TIMES) {
        let begun = Instant::now();
        let mut demo = Process::spawn(Command::new(&tombolo).arg("demo"), log.clone())?;
        while !demo.text(LIMIT).await?.starts_with("It is up") {}
        times.push(begun.elapsed());
        demo.kill().await?;
    }
    tell_times("the demo", &times);
    let what = "newcomer, one command and no token: first start -> first requests across zones";
    Ok(half_and_most(what, &times, MUST)?.into())
}
