//! `tombolo demo --check`: proves each promise without a person, one line each.

use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use owo_colors::OwoColorize;
use tokio::time::Instant;

use crate::mesh::Mesh;
use crate::promises::{self, Promise, Terms};

/// Until everything has started, has told where, and has answered once.
const STARTED: Duration = Duration::from_secs(2);

/// Whether every promise was kept. `color` is for terminals alone; `program` is this program's own file, of which
/// what is to be killed is started. At `stop` everything ends, and what is left is not checked.
pub async fn check(
    out: &mut (dyn Write + Send),
    color: bool,
    program: PathBuf,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<bool> {
    check_these(promises::ALL, out, color, program, stop).await
}

async fn check_these(
    promises: &[Promise],
    out: &mut (dyn Write + Send),
    color: bool,
    program: PathBuf,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<bool> {
    let shade = |word: &str, kept: bool| match (color, kept) {
        (false, _) => word.to_owned(),
        (true, true) => word.green().to_string(),
        (true, false) => word.red().to_string(),
    };
    let mut stop = pin!(stop);
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
    for (checked, promise) in promises.iter().enumerate() {
        let begun = Instant::now();
        let outcome = tokio::select! {
            outcome = (promise.keep)(&mut mesh, &terms) => outcome,
            () = &mut stop => {
                let left = promises.len() - checked;
                let ended = mesh.shutdown().await;
                bail!(match ended {
                    Ok(()) => format!("it was stopped: {left} promises are not checked"),
                    Err(error) => format!(
                        "it was stopped: {left} promises are not checked, and the mesh does not end: {error:#}"
                    ),
                });
            }
        };
        let (number, says, took) = (promise.number, promise.says, begun.elapsed());
        match outcome {
            Ok(figure) => {
                writeln!(out, "{} {number:>2}. {says}: {figure} ({took:.1?})", shade("kept  ", true))?
            }
            Err(error) => {
                broken += 1;
                writeln!(out, "{} {number:>2}. {says}: {error:#} ({took:.1?})", shade("broken", false))?;
                // Whatever it left would break the next ones for no reason of their own.
                if let Err(error) = mesh.shutdown().await {
                    writeln!(out, "           and the mesh that it left does not end: {error:#}")?;
                }
                let left = promises.len() - checked - 1;
                mesh = Mesh::start(&mut |_| {})
                    .await
                    .with_context(|| format!("there is no new mesh: {left} promises are not checked"))?;
            }
        }
        out.flush()?;
    }
    mesh.shutdown().await?;
    let all = 1 + promises.len();
    match broken {
        0 => writeln!(out, "{all} promises kept")?,
        _ => writeln!(out, "{broken} of {all} promises broken")?,
    }
    Ok(broken == 0)
}

#[cfg(test)]
mod tests {
    use std::future;

    use anyhow::ensure;

    use super::*;

    const BREAKS: Promise = Promise {
        number: 1,
        says: "it is broken, and leaves a mesh without its global",
        keep: |mesh, _| {
            Box::pin(async {
                mesh.stop_global().await?;
                bail!("the global is gone")
            })
        },
    };
    const NEEDS_ALL: Promise = Promise {
        number: 2,
        says: "the global answers",
        keep: |mesh, _| {
            Box::pin(async {
                let pong = mesh.api()?.request(http::Method::GET, "/zones/_overview").send().await?;
                ensure!(pong.status().is_success(), "it answers {}", pong.status());
                Ok("it does".to_owned())
            })
        },
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_broken_promise_breaks_no_other() {
        let mut out = Vec::new();
        let promises = [BREAKS, NEEDS_ALL];
        let kept = check_these(&promises, &mut out, false, PathBuf::new(), future::pending()).await.unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(!kept, "{out}");
        assert!(out.contains("broken  1. it is broken") && out.contains("the global is gone"), "{out}");
        assert!(out.contains("kept    2. the global answers: it does"), "{out}");
    }
}
