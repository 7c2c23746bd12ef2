//! One zone control plane with many proxies, each of which uses every service.
//!
//! A change is timed from before its request to the acknowledgement of the last proxy, which says so itself. What it
//! costs is the processor time of the control plane until then, and for a moment longer, without its share of what
//! it takes when nothing changes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use api::shapes::{TokenKind, TokenRequest};
use clap::Args;
use demo::api_client::ApiClient;
use demo::process::Process;
use identity::ServerRole;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{self, Instant};

use crate::proxies::{Line, Progress, Reached, Until};
use crate::report::{Output, Row, tell};
use crate::simulated::{self, Nanos, Shape, service_name};
use crate::usage::{self, Wire};

#[derive(Debug, Args)]
pub struct Options {
    #[arg(long, default_value_t = 500)]
    pub proxies: usize,
    #[arg(long, default_value_t = 50)]
    pub services: usize,
    /// How long it is watched while nothing changes
    #[arg(long, default_value_t = 30)]
    pub idle_seconds: u64,
    /// How many changes are made
    #[arg(long, default_value_t = 9)]
    pub changes: usize,
    /// Also kill the control plane, start it at once, and wait for all
    #[arg(long)]
    pub kill: bool,
    /// Also have all proxies ask for a new certificate at once
    #[arg(long)]
    pub renew: bool,
    /// Where the programs are; by default beside this one
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
    /// How long all proxies may take to come to something
    #[arg(long, default_value_t = 120)]
    pub patience: u64,
    #[command(flatten)]
    pub output: Output,
}

const ZONE: &str = "east";
/// How long the programs may take to start.
const STARTED: Duration = Duration::from_secs(20);
/// What comes after an acknowledgement, such as a summary, is over by then.
const MOMENT: Duration = Duration::from_millis(500);
/// A control plane has settled by then.
const SETTLED: Duration = Duration::from_secs(12);

pub async fn run(options: &Options) -> anyhow::Result<Vec<Row>> {
    ensure!(options.services > 0 && options.proxies >= options.services, "each service needs a proxy");
    let mut bench = Bench::start(options).await?;
    bench.measure(options).await
}

/// Everything is killed when it is dropped.
struct Bench {
    dir: TempDir,
    programs: PathBuf,
    shape: Shape,
    patience: Duration,
    zone: Process,
    ready: Ready,
    proxies: Process,
    started: Nanos,
}

/// The ready line of a control plane, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
struct Ready {
    api: String,
    sync: SocketAddr,
}

impl Bench {
    async fn start(options: &Options) -> anyhow::Result<Self> {
        let shape = Shape { proxies: options.proxies, services: options.services };
        let dir = tempfile::Builder::new().prefix("tombolo-planes-").tempdir()?;
        let own = std::env::current_exe()?;
        let beside = own.parent().context("this program is in no folder")?;
        let programs = options.programs.clone().unwrap_or_else(|| beside.to_owned());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (zone, ready) = start_zone(&programs, dir.path(), [any, any]).await?;
        let api = api(&ready, dir.path())?;
        let tokens = dir.path().join("tokens");
        std::fs::create_dir(&tokens)?;
        for service in 0..shape.services {
            let request = TokenRequest {
                mesh: Some("default".parse()?),
                workload: Some(service_name(service).parse()?),
                addresses: shape.addresses(service),
                ..TokenRequest::default()
            };
            let file = tokens.join(service_name(service));
            runtime::files::write_private(
                &file,
                api.token(TokenKind::Dataplane, &request).await?.as_bytes(),
            )?;
        }
        let args = [
            "proxies".to_owned(),
            format!("--zone-cp={}", ready.sync),
            format!("--zone={ZONE}"),
            format!("--tokens={}", tokens.display()),
            format!("--proxies={}", shape.proxies),
            format!("--services={}", shape.services),
        ];
        let started = simulated::now();
        let proxies = Process::spawn(Command::new(own).args(args), dir.path().join("proxies.log"))?;
        let patience = Duration::from_secs(options.patience);
        Ok(Self { dir, programs, shape, patience, zone, ready, proxies, started })
    }

    async fn measure(&mut self, options: &Options) -> anyhow::Result<Vec<Row>> {
        let mut rows = self.set_up().await?;
        tell("the control plane settles");
        time::sleep(SETTLED).await;
        let idle = self.idle(Duration::from_secs(options.idle_seconds)).await?;
        rows.extend(self.at_rest(&idle)?);
        rows.extend(self.changes(options.changes, &idle).await?);
        if options.renew {
            rows.extend(self.renewal(&idle).await?);
        }
        if options.kill {
            rows.extend(self.death().await?);
        }
        Ok(rows)
    }

    async fn set_up(&mut self) -> anyhow::Result<Vec<Row>> {
        let all = self.wait("set up", &Until::Full(self.started)).await?;
        let took = Row::new("all have their set, from nothing", seconds(self.started, all.last), "s");
        let took = if self.shape.proxies == 1000 { took.must(10.0) } else { took };
        let processor = Row::new("processor time for that", usage::processor(self.zone.pid)?, "s");
        let bytes = Row::new("bytes for that on the wire", megabytes(self.wire()?.all()), "MB");
        Ok(vec![took, processor, bytes])
    }

    /// What is taken while nothing changes.
    async fn idle(&self, span: Duration) -> anyhow::Result<Idle> {
        tell(&format!("watching for {span:?} while nothing changes"));
        let (begun, before, wire) = (Instant::now(), usage::processor(self.zone.pid)?, self.wire()?);
        time::sleep(span).await;
        let (processor, bytes) = (usage::processor(self.zone.pid)? - before, self.wire()?.all() - wire.all());
        let took = begun.elapsed().as_secs_f64();
        Ok(Idle { processor: processor / took, bytes: bytes as f64 / took })
    }

    fn at_rest(&self, idle: &Idle) -> anyhow::Result<Vec<Row>> {
        let memory = Row::new("memory (RSS)", megabytes(usage::rss(self.zone.pid)?), "MB");
        let minute = Row::new("processor time per idle minute", idle.processor * 60.0, "s");
        let (memory, minute) = match self.shape.proxies {
            500 => (memory.must(100.0), minute.must(1.0)),
            1000 => (memory.must(180.0), minute),
            _ => (memory, minute),
        };
        Ok(vec![
            memory,
            Row::new("memory (PSS)", megabytes(usage::pss(self.zone.pid)?), "MB"),
            Row::new("most memory ever (RSS)", megabytes(usage::peak(self.zone.pid)?), "MB"),
            minute,
            Row::new("bytes on the wire per idle second", idle.bytes / 1e6, "MB"),
        ])
    }

    /// A permission changes who may reach every proxy: one part of each.
    async fn changes(&mut self, times: usize, idle: &Idle) -> anyhow::Result<Vec<Row>> {
        let api = api(&self.ready, self.dir.path())?;
        let mut changes = Vec::new();
        for turn in 0..times {
            changes.push(self.change(&api, turn, idle).await?);
        }
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let of = |part: fn(&Change) -> f64| {
            let mut all: Vec<f64> = changes.iter().map(part).collect();
            all.sort_by(f64::total_cmp);
            (all[all.len() / 2], all[all.len() - 1])
        };
        let (half, last) = (of(|change| change.half), of(|change| change.last));
        let (processor, bytes) = (of(|change| change.processor), of(|change| change.bytes));
        let row = |text, value, unit| Row::new(format!("a change for every proxy: {text}"), value, unit);
        let (took, cost) =
            (row("all have it (median)", last.0, "s"), row("processor time (median)", processor.0, "s"));
        let is_judged = self.shape.proxies == 500;
        let (took, cost) = if is_judged { (took.must(0.3), cost.must(0.2)) } else { (took, cost) };
        Ok(vec![
            row("half have it (median)", half.0, "s"),
            took,
            row("all have it (slowest)", last.1, "s"),
            cost,
            row("processor time (most)", processor.1, "s"),
            row("bytes on the wire (median)", bytes.0 / 1e6, "MB"),
        ])
    }

    async fn change(&mut self, api: &ApiClient, turn: usize, idle: &Idle) -> anyhow::Result<Change> {
        let permission = format!(
            "type: MeshTrafficPermission\nmesh: default\nname: all\nspec:\n  rules:\n  - default:\n      allow:\n      \
             - source: {{workload: client-{turn}}}\n"
        );
        let (begun, before, wire) = (Instant::now(), usage::processor(self.zone.pid)?, self.wire()?);
        let at = simulated::now();
        let version = api.put("/meshes/default/meshtrafficpermissions/all", &permission).await?;
        let all = self.wait("a change", &Until::Applied(version.clone())).await?;
        // The zone must say the same.
        api.applied(&version, Duration::from_secs(5)).await?;
        time::sleep(MOMENT).await;
        let took = begun.elapsed().as_secs_f64();
        let (processor, bytes) = (usage::processor(self.zone.pid)? - before, self.wire()?.all() - wire.all());
        Ok(Change {
            half: seconds(at, all.half),
            last: seconds(at, all.last),
            processor: (processor - idle.processor * took).max(0.0),
            bytes: (bytes as f64 - idle.bytes * took).max(0.0),
        })
    }

    /// All ask together, as if each had waited for the control plane.
    async fn renewal(&mut self, idle: &Idle) -> anyhow::Result<Vec<Row>> {
        let (begun, before, at) = (Instant::now(), usage::processor(self.zone.pid)?, simulated::now());
        let all = self.wait("certified", &Until::Certified(at)).await?;
        let processor =
            usage::processor(self.zone.pid)? - before - idle.processor * begun.elapsed().as_secs_f64();
        let row = |text, value| Row::new(format!("all ask for a certificate at once: {text}"), value, "s");
        Ok(vec![
            row("half have it", seconds(at, all.half)),
            row("all have it", seconds(at, all.last)),
            row("processor time", processor.max(0.0)),
        ])
    }

    /// Killed, and started at once with the same data at the same addresses.
    async fn death(&mut self) -> anyhow::Result<Vec<Row>> {
        let at = simulated::now();
        self.zone.kill().await?;
        let addresses = [self.ready.api.trim_start_matches("https://").parse()?, self.ready.sync];
        (self.zone, self.ready) = start_zone(&self.programs, self.dir.path(), addresses).await?;
        let serves = simulated::now();
        let all = self.wait("back", &Until::Full(at)).await?;
        let row = |text, value, unit| Row::new(format!("killed and started: {text}"), value, unit);
        Ok(vec![
            row("it serves", seconds(at, serves), "s"),
            row("half are back", seconds(at, all.half), "s"),
            row("all are back", seconds(at, all.last), "s"),
            row("processor time", usage::processor(self.zone.pid)?, "s"),
            row("bytes on the wire", megabytes(self.wire()?.all()), "MB"),
        ])
    }

    /// Waits until all proxies came to something.
    async fn wait(&mut self, what: &str, until: &Until) -> anyhow::Result<Reached> {
        self.proxies.tell(until).await?;
        let deadline = Instant::now() + self.patience;
        loop {
            let Progress { connected, there } = match self.proxies.line(Duration::from_secs(30)).await? {
                Line::Reached(reached) => return Ok(reached),
                Line::Progress(progress) => progress,
            };
            let said = format!("{what}: {there} of {}, {connected} connected", self.shape.proxies);
            tell(&said);
            if Instant::now() > deadline {
                bail!("gave up after {:?}: {said}", self.patience);
            }
        }
    }

    fn wire(&self) -> anyhow::Result<Wire> {
        usage::wire(self.ready.sync)
    }
}

struct Idle {
    /// Seconds a second.
    processor: f64,
    /// A second.
    bytes: f64,
}

struct Change {
    half: f64,
    last: f64,
    processor: f64,
    bytes: f64,
}

/// `addresses` are those of the API and for the proxies.
async fn start_zone(
    programs: &Path,
    dir: &Path,
    addresses: [SocketAddr; 2],
) -> anyhow::Result<(Process, Ready)> {
    let [api, sync] = addresses;
    let args = [
        format!("--zone={ZONE}"),
        format!("--data-dir={}", dir.join("zone").display()),
        format!("--api-address={api}"),
        format!("--sync-address={sync}"),
        "--health-address=127.0.0.1:0".to_owned(),
        "--log=warn".to_owned(),
    ];
    let mut zone =
        Process::spawn(Command::new(programs.join(zone_cp::PROGRAM)).args(args), dir.join("zone.log"))?;
    let ready = zone.line(STARTED).await.context("the zone control plane did not start")?;
    Ok((zone, ready))
}

fn api(ready: &Ready, dir: &Path) -> anyhow::Result<ApiClient> {
    let address = ready.api.trim_start_matches("https://").parse()?;
    ApiClient::new(address, &dir.join("zone"), ServerRole::Zone(ZONE.parse()?))
}

fn seconds(from: Nanos, to: Nanos) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
