//! Each program is a process of its own, and is killed again and again, at any moment, while everybody writes: what was
//! acknowledged is there afterwards, and wherever it travels.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::time;

use super::{Terms, eventually, every_pair_answers};
use crate::api_client::ApiClient;
use crate::mesh::{LIMIT, Mesh, Stopped, ZONES};
use crate::process::{Part, Process};
use crate::writers::{History, Writer};

/// Whose control plane, ingress and sidecar are killed, beside the global.
const ZONE: &str = "west";
const SERVICE: &str = "cart";

/// How often each is killed. Whoever takes writes is killed more often.
const KILLS: [(Victim, usize); 4] =
    [(Victim::Global, 3), (Victim::Zone, 3), (Victim::Ingress, 1), (Victim::Sidecar, 1)];

/// How many writes each writer has acknowledged between two kills, and how much later the next comes at most.
const WRITES: u64 = 5;
const LATER: Duration = Duration::from_millis(100);
/// How long a victim stays away at most.
const AWAY: Duration = Duration::from_millis(100);

/// Those who write, and whether they do so on the global.
const WRITERS: [(&str, bool); 3] = [("one", true), ("two", true), ("three", false)];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Global,
    Zone,
    Ingress,
    Sidecar,
}

/// They give way to processes meanwhile.
pub(super) async fn keep(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    let sidecar = mesh.stop_sidecar(SERVICE, ZONE).await?;
    mesh.stop_ingress(ZONE).await?;
    mesh.stop_zone(ZONE).await?;
    mesh.stop_global().await?;
    let mut processes = Processes { program: terms.program.clone(), running: Vec::new() };
    let outcome = in_processes(mesh, &sidecar, &mut processes).await;
    processes.end().await?;
    mesh.resume_global().await?;
    mesh.resume_zone(ZONE).await?;
    mesh.resume_ingress(ZONE).await?;
    mesh.resume_sidecar(sidecar).await?;
    let outcome = outcome?;
    eventually(LIMIT, || every_pair_answers(mesh, "/after", |_| true)).await.context("afterwards")?;
    Ok(outcome)
}

struct Processes {
    program: PathBuf,
    running: Vec<(Victim, Process)>,
}

impl Processes {
    fn start(&mut self, mesh: &Mesh, sidecar: &Stopped, victim: Victim) -> anyhow::Result<()> {
        let part = match victim {
            Victim::Global => Part::from(&mesh.global_options()),
            Victim::Zone => Part::from(&mesh.zone_options(ZONE)?),
            Victim::Ingress => Part::from(mesh.ingress_options(ZONE)),
            Victim::Sidecar => Part::from(&mesh.sidecar_options(sidecar)),
        };
        let process = Process::start(&self.program, part, log(mesh.dir(), victim))?;
        self.running.push((victim, process));
        Ok(())
    }

    async fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        for (_, mut process) in self.running.extract_if(.., |(one, _)| *one == victim) {
            process.kill().await?;
        }
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        for (_, process) in &mut self.running {
            process.kill().await?;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let words = self.running.iter().map(|(victim, one)| format!("{victim:?}: {}", one.last_words()));
        words.collect::<Vec<_>>().join("; ")
    }
}

fn log(dir: &Path, victim: Victim) -> PathBuf {
    dir.join(format!("{victim:?}.log"))
}

async fn in_processes(mesh: &Mesh, sidecar: &Stopped, processes: &mut Processes) -> anyhow::Result<String> {
    for (victim, _) in KILLS {
        processes.start(mesh, sidecar, victim)?;
    }
    let (global, zone) = (mesh.api()?, mesh.zone_api(ZONE)?);
    let writers = WRITERS
        .map(|(name, is_global)| Writer::start(name, if is_global { global.clone() } else { zone.clone() }));
    let seed: u64 = rand::random();
    let killed = kill_all(mesh, sidecar, processes, &writers, seed).await;
    let mut histories = Vec::new();
    for (writer, (name, _)) in writers.into_iter().zip(WRITERS) {
        histories.push(writer.finish().await.with_context(|| format!("writer {name}, with seed {seed}"))?);
    }
    let kills =
        killed.with_context(|| format!("with seed {seed}, and last was said: {}", processes.last_words()))?;
    all_is_there(mesh, &histories).await.with_context(|| format!("with seed {seed}"))?;
    eventually(LIMIT, || every_pair_answers(mesh, "/killed", |_| true)).await.context("after all kills")?;

    let last =
        histories[0].last.clone().max(histories[1].last.clone()).context("nothing was acknowledged")?;
    global.applied(&last, LIMIT).await.context("the last write on the global")?;
    let documents = clean_up(&histories, &global, &zone).await?;
    let sum = |count: fn(&History) -> u64| histories.iter().map(count).sum::<u64>();
    let (acknowledged, unanswered) = (sum(|one| one.acknowledged), sum(|one| one.unanswered));
    ensure!(documents > 0, "everything was deleted: nothing is proven");
    Ok(format!("{kills} kills among {acknowledged} writes, {unanswered} more without answer (seed {seed})"))
}

/// Each in turn, in an order and at moments that the seed says.
async fn kill_all(
    mesh: &Mesh,
    sidecar: &Stopped,
    processes: &mut Processes,
    writers: &[Writer],
    seed: u64,
) -> anyhow::Result<usize> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut order: Vec<Victim> =
        KILLS.iter().flat_map(|(victim, times)| std::iter::repeat_n(*victim, *times)).collect();
    order.shuffle(&mut random);
    let writing =
        async || try_join_all(writers.iter().map(|writer| writer.acknowledged(WRITES, LIMIT))).await;
    for victim in &order {
        writing().await.with_context(|| format!("before {victim:?} is killed"))?;
        time::sleep(random.random_range(Duration::ZERO..LATER)).await;
        processes.kill(*victim).await?;
        time::sleep(random.random_range(Duration::ZERO..AWAY)).await;
        processes.start(mesh, sidecar, *victim)?;
    }
    writing().await.context("after all kills")?;
    Ok(order.len())
}

/// On the control plane where it was written at once, and everywhere else soon.
async fn all_is_there(mesh: &Mesh, histories: &[History]) -> anyhow::Result<()> {
    for ((name, is_global), history) in WRITERS.iter().zip(histories) {
        let (global, zone) = (mesh.api()?, mesh.zone_api(ZONE)?);
        let (owner, others) = if *is_global {
            (global, ZONES.iter().map(|zone| mesh.zone_api(zone)).collect::<anyhow::Result<Vec<_>>>()?)
        } else {
            (zone, vec![global])
        };
        let stands = history.stands(name, &owner).await?;
        for other in others {
            eventually(LIMIT, || async {
                let copies = history.stands(name, &other).await?;
                ensure!(copies == stands, "{copies:?} are there, and written are {stands:?}");
                Ok(())
            })
            .await
            .with_context(|| format!("what {name} wrote, elsewhere"))?;
        }
    }
    Ok(())
}

/// Deletes what was written, and waits until everybody knows. Counts it.
async fn clean_up(histories: &[History], global: &ApiClient, zone: &ApiClient) -> anyhow::Result<usize> {
    let mut documents = 0;
    for ((name, is_global), history) in WRITERS.iter().zip(histories) {
        let api = if *is_global { global } else { zone };
        let mut last = None;
        for document in history.stands(name, api).await?.into_keys() {
            last = Some(api.delete(&format!("/meshes/default/meshtrafficpermissions/{document}")).await?);
            documents += 1;
        }
        if let Some(revision) = last {
            global.applied(&revision, LIMIT).await?;
        }
    }
    Ok(documents)
}
