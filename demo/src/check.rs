//! `tombolo demo --check`: proves each promise without a person, one line each.

use std::io::Write;

use owo_colors::OwoColorize;
use tokio::time::Instant;

use crate::mesh::Mesh;
use crate::promises::{self, Patience};

/// Whether every promise was kept. `color` is for terminals alone.
pub async fn check(out: &mut (dyn Write + Send), color: bool) -> anyhow::Result<bool> {
    let shade = |word: &str, kept: bool| match (color, kept) {
        (false, _) => word.to_owned(),
        (true, true) => word.green().to_string(),
        (true, false) => word.red().to_string(),
    };
    let start = Instant::now();
    let mut mesh = Mesh::start(&mut |_| {}).await?;
    writeln!(out, "a mesh of two zones is up after {:.1?}", start.elapsed())?;
    let mut broken = 0;
    for promise in promises::ALL {
        let begun = Instant::now();
        let outcome = (promise.keep)(&mut mesh, Patience(1)).await;
        let (number, says, took) = (promise.number, promise.says, begun.elapsed());
        match outcome {
            Ok(figure) => {
                writeln!(out, "{} {number:>2}. {says}: {figure} ({took:.1?})", shade("kept  ", true))?
            }
            Err(error) => {
                broken += 1;
                writeln!(out, "{} {number:>2}. {says}: {error:#} ({took:.1?})", shade("broken", false))?;
            }
        }
        out.flush()?;
    }
    mesh.shutdown().await?;
    match broken {
        0 => writeln!(out, "{} promises kept", promises::ALL.len())?,
        _ => writeln!(out, "{broken} of {} promises broken", promises::ALL.len())?,
    }
    Ok(broken == 0)
}
