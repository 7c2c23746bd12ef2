//! A proxy that is killed while its zone's control plane is down serves again at once when it is started: by what it
//! keeps in its state folder, both ways.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use super::{Terms, eventually, every_pair_answers};
use crate::client::Outcome;
use crate::mesh::{LIMIT, Mesh, Stopped};
use crate::process::Process;
use crate::traffic::Call;

/// From the start of the process to the first answer through it, and to the first that it lets in.
const PROMISED: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;

/// Whose sidecar is killed: one that calls the other zone, and is called from there.
const SERVICE: &str = "cart";
const ZONE: &str = "west";

/// The sidecar of the mesh gives way to a process meanwhile.
pub(super) async fn keep(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    let stopped = mesh.stop_sidecar(SERVICE, ZONE).await?;
    let outcome = in_a_process(mesh, &stopped, terms).await;
    mesh.resume_zone(ZONE).await?;
    mesh.resume_sidecar(stopped).await?;
    let outcome = outcome?;
    eventually(LIMIT, || every_pair_answers(mesh, "/after", |_| true)).await.context("afterwards")?;
    Ok(outcome)
}

async fn in_a_process(mesh: &mut Mesh, stopped: &Stopped, terms: &Terms) -> anyhow::Result<String> {
    let mut process = start(mesh, stopped, terms)?;
    eventually(LIMIT, || every_pair_answers(mesh, "/by-a-process", |pair| pair.concerns(SERVICE, ZONE)))
        .await
        .with_context(|| format!("in a process, which says: {}", process.last_words()))?;
    mesh.stop_zone(ZONE).await?;

    let limit = terms.limit(PROMISED);
    let (mut slowest_out, mut slowest_in) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        process.kill().await?;
        let begun = Instant::now();
        process = start(mesh, stopped, terms)?;
        let (out, into) = (
            mesh.traffic().call(SERVICE, "catalog", "east")?,
            mesh.traffic().call("frontend", SERVICE, ZONE)?,
        );
        let both = tokio::try_join!(answers(out, begun, limit), answers(into, begun, limit));
        let (out, into) = both
            .with_context(|| format!("{limit:?} after its start, and it says: {}", process.last_words()))?;
        (slowest_out, slowest_in) = (slowest_out.max(out), slowest_in.max(into));
    }
    process.kill().await?;
    Ok(format!("the slowest of {ROUNDS}: {slowest_out:.0?} outbound, {slowest_in:.0?} inbound"))
}

fn start(mesh: &Mesh, stopped: &Stopped, terms: &Terms) -> anyhow::Result<Process> {
    let log = mesh.dir().join("sidecar.log");
    Process::start(&terms.program, &mesh.sidecar_options(stopped), log)
}

/// How long after the beginning the first request was answered.
async fn answers(call: &Call, begun: Instant, limit: Duration) -> anyhow::Result<Duration> {
    eventually(limit, || async {
        match call.once(Method::GET, "/restarted", Bytes::new()).await? {
            Outcome::Answered(answer) => {
                let want = call.pair.client_id();
                ensure!(answer.client.as_ref() == Some(&want), "seen as {:?}", answer.client);
                Ok(())
            }
            denied => bail!("{denied:?}"),
        }
    })
    .await
    .with_context(|| call.pair.to_string())?;
    let took = begun.elapsed();
    ensure!(took <= limit, "{}: answered after {took:.1?}", call.pair);
    Ok(took)
}
