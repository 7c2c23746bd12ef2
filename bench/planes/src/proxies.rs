//! The process of the simulated proxies: told on standard input what to wait for, it says on standard output when that came.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use model::{Version, ZoneName};
use runtime::Tasks;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::sync::Notify;
use tokio::time::{self, MissedTickBehavior};

use crate::decoded::Decoded;
use crate::simulated::{Fleet, Nanos, Shape, Simulated};

#[derive(Debug, Args)]
pub struct Options {
    /// Where the zone control plane takes sessions
    #[arg(long, value_name = "HOST:PORT")]
    pub zone_cp: String,
    #[arg(long, default_value = "east")]
    pub zone: ZoneName,
    /// A folder with a token for each service, called like it
    #[arg(long, value_name = "DIR")]
    pub tokens: PathBuf,
    #[arg(long)]
    pub proxies: usize,
    /// Each proxy is an instance of one, and uses all
    #[arg(long)]
    pub services: usize,
}

/// What all proxies are waited for to come to; a line of standard input.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// To have everything they use, in a session that began then or later.
    Full(Nanos),
    /// To have acknowledged it.
    Applied(Version),
    /// To have a certificate that came then or later; all ask for one at once.
    Certified(Nanos),
}

/// A line of standard output.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    Progress(Progress),
    Reached(Reached),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Progress {
    pub connected: usize,
    /// Of those, how many came to what is waited for.
    pub there: usize,
}

/// When half of them, and when the last of them came to it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Reached {
    pub half: Nanos,
    pub last: Nanos,
}

const TOLD_EVERY: Duration = Duration::from_secs(1);
/// How often at most it is looked at all of them.
const LOOK: Duration = Duration::from_millis(2);

/// Runs until standard input ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // What is not as it should be is told; each session is not.
    runtime::logs::install(runtime::logs::LogFormat::default(), "error,planes=warn")?;
    let shape = Shape { proxies: options.proxies, services: options.services };
    let fleet = Arc::new(Fleet {
        shape,
        zone: options.zone,
        zone_cp: options.zone_cp,
        tokens: options.tokens,
        decoded: Decoded::default(),
        changed: Notify::new(),
    });
    let proxies: Vec<Arc<Simulated>> =
        (0..shape.proxies).map(|number| Simulated::new(fleet.clone(), number)).collect::<Result<_, _>>()?;
    let mut tasks = Tasks::new();
    for proxy in &proxies {
        let proxy = proxy.clone();
        tasks.spawn("proxy", |stop| proxy.run(stop));
    }
    tasks.run(answer(&fleet, &proxies), Duration::from_secs(5)).await
}

/// Takes one question after the other.
async fn answer(fleet: &Fleet, proxies: &[Arc<Simulated>]) -> anyhow::Result<()> {
    let mut questions = BufReader::new(stdin()).lines();
    while let Some(line) = questions.next_line().await? {
        let until: Until = serde_json::from_str(&line).context("a line of standard input")?;
        if let Until::Certified(_) = until {
            proxies.iter().for_each(|proxy| proxy.ask_anew());
        }
        let mut tell = time::interval(TOLD_EVERY);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let came = |proxy: &Arc<Simulated>| match &until {
                Until::Full(since) => proxy.full(*since),
                Until::Applied(version) => proxy.applied(version),
                Until::Certified(since) => proxy.certified(*since),
            };
            let mut there: Vec<Nanos> = proxies.iter().filter_map(came).collect();
            there.sort_unstable();
            if let (true, Some(last)) = (there.len() == proxies.len(), there.last()) {
                say(&Line::Reached(Reached { half: there[there.len() / 2], last: *last }))?;
                break;
            }
            tokio::select! {
                () = fleet.changed.notified() => time::sleep(LOOK).await,
                _ = tell.tick() => {
                    let connected = proxies.iter().filter(|proxy| proxy.is_connected()).count();
                    say(&Line::Progress(Progress { connected, there: there.len() }))?;
                }
            }
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "it is what this process is asked on")]
fn say(line: &Line) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(line)?);
    Ok(())
}
