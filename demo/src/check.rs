//! `tombolo demo --check`: proves each promise without a person, one line each.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use owo_colors::OwoColorize;
use tokio::time::Instant;

use crate::mesh::Mesh;
use crate::promises::{self, Terms};

/// Until everything has started, has told where, and has answered once.
const STARTED: Duration = Duration::from_secs(2);

/// Whether every promise was kept. `color` is for terminals alone; `program` is this program's own file, of which
/// what is to be killed is started.
pub async fn check(out: &mut (dyn Write + Send), color: bool, program: PathBuf) -> anyhow::Result<bool> {
    let shade = |word: &str, kept: bool| match (color, kept) {
        (false, _) => word.to_owned(),
        (true, true) => word.green().to_string(),
        (true, false) => word.red().to_string(),
    };
    let terms = Terms { patience: 1, program };
    let start = Instant::now();
    let mut parts = 0;
    let mut mesh = Mesh::start(&mut |_| parts += 1).await?;
    let (took, limit) = (start.elapsed(), terms.limit(STARTED));
    let mut broken = usize::from(took > limit);
    writeln!(
        out,
        "{}     a mesh of two zones is up, and its {parts} parts are told, within {limit:?}: {took:.1?}",
        shade(if broken == 0 { "kept  " } else { "broken" }, broken == 0)
    )?;
    for promise in promises::ALL {
        let begun = Instant::now();
        let outcome = (promise.keep)(&mut mesh, &terms).await;
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
    let all = 1 + promises::ALL.len();
    match broken {
        0 => writeln!(out, "{all} promises kept")?,
        _ => writeln!(out, "{broken} of {all} promises broken")?,
    }
    Ok(broken == 0)
}
