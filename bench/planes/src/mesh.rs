//! A mesh of processes: a global control plane, zones with an ingress each, sidecars and applications, joined by
//! nothing but sockets and tokens.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use api::shapes::{TokenKind, TokenRequest};
use demo::api_client::ApiClient;
use demo::process::Process;
use futures::future::try_join_all;
use identity::ServerRole;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    pub folder: PathBuf,
    /// This one, for applications.
    own: PathBuf,
}

impl Programs {
    /// Those beside this one, where no folder is given.
    pub fn find(folder: Option<&Path>) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("where this program is")?;
        let beside = own.parent().context("this program is in no folder")?;
        Ok(Self { folder: folder.unwrap_or(beside).to_owned(), own })
    }
}

/// How a program is called; again, if it is to come back.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
}

impl Call {
    /// Where it keeps something, it does so in `dir`, to which its arguments lead.
    fn new(program: PathBuf, dir: &Path, name: &str, args: Vec<String>) -> Self {
        Self { name: name.to_owned(), program, args, log: dir.join(format!("{name}.log")) }
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(&self) -> anyhow::Result<Running> {
        let program = Process::spawn(Command::new(&self.program).args(&self.args), self.log.clone())?;
        Ok(Running { call: self.clone(), program })
    }

    /// Starts it, and waits for its ready line.
    pub async fn start(&self) -> anyhow::Result<Running> {
        let mut running = self.spawn()?;
        running.ready().await?;
        Ok(running)
    }
}

/// A program that runs; it is killed when this is dropped.
pub struct Running {
    pub call: Call,
    program: Process,
}

impl Running {
    /// Waits for its ready line.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let line: Value = self.program.line(LIMIT).await.with_context(|| self.call.name.clone())?;
        if line["ready"].is_null() {
            bail!("{} is not ready: {line}", self.call.name);
        }
        Ok(())
    }

    /// Kills it without a word (SIGKILL), and waits until it is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.program.kill().await.with_context(|| self.call.name.clone())
    }

    pub fn pid(&self) -> u32 {
        self.program.pid
    }
}

/// How long anything may take that is not measured.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The ports of control planes, ingresses and sidecars, as people know them.
const API: u16 = 5681;
const HEALTH: u16 = 5680;
const GLOBAL_SYNC: u16 = 5685;
const ZONE_SYNC: u16 = 5678;
const INGRESS: u16 = 10_001;
const READY: u16 = 9902;
const METRICS: u16 = 5670;
const APPLICATION: u16 = 3000;
/// Where a service is found.
const SERVICE: u16 = 8080;
/// Where a sidecar leads to the first of its destinations; the next come after.
const FIRST_OUTBOUND: u16 = 20_000;

/// Everything in it ends with it.
pub struct Mesh {
    programs: Programs,
    /// The first two bytes after 127 of every address: each mesh has a piece of loopback of its own, so that ports can
    /// be written into documents before anyone listens on them, and are the same when a program comes back.
    net: [u8; 2],
    last_host: u8,
    pub global: Running,
    pub api: ApiClient,
    pub zones: BTreeMap<String, Zone>,
    pub members: BTreeMap<String, Member>,
    // The last, so that the programs are gone before their folder.
    dir: TempDir,
}

pub struct Zone {
    pub control_plane: Running,
    pub api: ApiClient,
    pub ingress: Option<Running>,
    sync: SocketAddr,
}

/// A sidecar and its application.
pub struct Member {
    pub sidecar: Running,
    pub application: Running,
    ip: IpAddr,
}

impl Member {
    /// Where it reaches the destination of that number, from 0.
    pub fn outbound(&self, number: usize) -> SocketAddr {
        outbound(self.ip, number)
    }
}

/// Who is to join.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    pub zone: &'a str,
    pub workload: &'a str,
    pub number: usize,
    /// The service and zone of each of its destinations.
    pub calls: &'a [(&'a str, &'a str)],
}

/// What a newcomer needs, before anything of it runs.
pub struct Prepared {
    name: String,
    ip: IpAddr,
    sidecar: Call,
    pub application: Call,
}

impl Mesh {
    /// A global control plane that is ready.
    pub async fn start(programs: &Programs) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("tombolo-planes-").tempdir()?;
        let net = [rand::random_range(1..=254), rand::random()];
        let at = |port| SocketAddr::from(([127, net[0], net[1], 1], port));
        let mut args = vec!["--data-dir".to_owned(), path(dir.path(), "global")];
        args.extend(addresses([("api", at(API)), ("sync", at(GLOBAL_SYNC)), ("health", at(HEALTH))]));
        let global = call(programs, dir.path(), "tombolo-global-cp", "global", args).start().await?;
        let api = ApiClient::new(at(API), &dir.path().join("global"), ServerRole::Global)?;
        let (zones, members) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { programs: programs.clone(), net, last_host: 1, global, api, zones, members, dir })
    }

    /// Several at a time.
    pub async fn add_zones(&mut self, names: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
        let started = names.into_iter().map(|name| (name, self.next_ip())).collect::<Vec<_>>();
        let started = try_join_all(started.into_iter().map(|(name, ip)| self.start_zone(name, ip))).await?;
        self.zones.extend(started);
        Ok(())
    }

    async fn start_zone(&self, name: String, ip: IpAddr) -> anyhow::Result<(String, Zone)> {
        let request = TokenRequest { zone: Some(name.parse()?), ..TokenRequest::default() };
        let token =
            self.write(&format!("{name}.token"), &self.api.token(TokenKind::Zone, &request).await?)?;
        let at = |port| SocketAddr::new(ip, port);
        let global = SocketAddr::from(([127, self.net[0], self.net[1], 1], GLOBAL_SYNC)).to_string();
        let data = path(self.dir(), &name);
        let mut args: Vec<String> =
            ["--zone", &name, "--data-dir", &data, "--global", &global, "--token-file", &token]
                .map(str::to_owned)
                .to_vec();
        args.extend(addresses([("api", at(API)), ("sync", at(ZONE_SYNC)), ("health", at(HEALTH))]));
        let control_plane = self.call("tombolo-zone-cp", &name, args).start().await?;
        let api = ApiClient::new(at(API), &self.dir().join(&name), ServerRole::Zone(name.parse()?))?;
        Ok((name, Zone { control_plane, api, ingress: None, sync: at(ZONE_SYNC) }))
    }

    /// It is ready when this returns.
    pub async fn add_ingress(&mut self, zone: &str) -> anyhow::Result<()> {
        let (ip, name) = (self.next_ip(), format!("{zone}-1"));
        let Zone { api, sync, .. } = &self.zones[zone];
        let request = TokenRequest { addresses: vec![ip], ..TokenRequest::default() };
        let token = self.write(&format!("{name}.token"), &api.token(TokenKind::Ingress, &request).await?)?;
        let (sync, state) = (sync.to_string(), path(self.dir(), &name));
        let mut args: Vec<String> =
            ["--name", &name, "--zone-cp", &sync, "--token-file", &token, "--state-dir", &state]
                .map(str::to_owned)
                .to_vec();
        args.extend(["--listen".to_owned(), SocketAddr::new(ip, INGRESS).to_string()]);
        args.extend(pages(ip));
        let ingress = self.call("tombolo-zone-ingress", &name, args).start().await?;
        self.zones.get_mut(zone).context("there is no such zone")?.ingress = Some(ingress);
        Ok(())
    }

    /// Both of it are ready when this returns; says how it is called.
    pub async fn add(&mut self, newcomer: Newcomer<'_>) -> anyhow::Result<String> {
        let prepared = self.prepare(newcomer).await?;
        let application = prepared.application.start().await?;
        let name = self.join(prepared, application)?;
        self.member_mut(&name)?.sidecar.ready().await?;
        Ok(name)
    }

    /// Has token and document written, and starts nothing.
    pub async fn prepare(&mut self, newcomer: Newcomer<'_>) -> anyhow::Result<Prepared> {
        let Newcomer { zone, workload, number, calls } = newcomer;
        let (ip, name) = (self.next_ip(), format!("{workload}-{number}"));
        let Zone { api, sync, .. } = &self.zones[zone];
        let request = TokenRequest {
            mesh: Some("default".parse()?),
            workload: Some(workload.parse()?),
            addresses: vec![ip],
            ..TokenRequest::default()
        };
        let token =
            self.write(&format!("{name}.token"), &api.token(TokenKind::Dataplane, &request).await?)?;
        let document = self.write(&format!("{name}.yaml"), &dataplane(&name, ip, calls))?;
        let (sync, state) = (sync.to_string(), path(self.dir(), &name));
        let mut args: Vec<String> =
            ["--zone-cp", &sync, "--token-file", &token, "--dataplane", &document, "--state-dir", &state]
                .map(str::to_owned)
                .to_vec();
        args.extend(pages(ip));
        let sidecar = self.call("tombolo-dataplane", &name, args);
        let listen = SocketAddr::new(ip, APPLICATION).to_string();
        let args = ["application", "--name", &name, "--listen", &listen].map(str::to_owned).to_vec();
        let log = format!("{name}-application");
        let application = Call::new(self.programs.own.clone(), self.dir(), &log, args);
        Ok(Prepared { name, ip, sidecar, application })
    }

    /// Starts the sidecar, and waits for nothing; says how the member is called.
    pub fn join(&mut self, prepared: Prepared, application: Running) -> anyhow::Result<String> {
        let Prepared { name, ip, sidecar, .. } = prepared;
        let member = Member { sidecar: sidecar.spawn()?, application, ip };
        self.members.insert(name.clone(), member);
        Ok(name)
    }

    pub fn member(&self, name: &str) -> anyhow::Result<&Member> {
        self.members.get(name).with_context(|| format!("there is no {name}"))
    }

    pub fn member_mut(&mut self, name: &str) -> anyhow::Result<&mut Member> {
        self.members.get_mut(name).with_context(|| format!("there is no {name}"))
    }

    pub fn ingress_mut(&mut self, zone: &str) -> anyhow::Result<&mut Running> {
        let ingress = self.zones.get_mut(zone).and_then(|zone| zone.ingress.as_mut());
        ingress.with_context(|| format!("{zone} has no ingress"))
    }

    /// Every process that runs.
    pub fn processes(&self) -> impl Iterator<Item = &Running> {
        let zones = self.zones.values().flat_map(|zone| [Some(&zone.control_plane), zone.ingress.as_ref()]);
        let members = self.members.values().flat_map(|member| [&member.sidecar, &member.application]);
        [&self.global].into_iter().chain(zones.flatten()).chain(members)
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        runtime::files::write_private(&self.dir().join(name), text.as_bytes())?;
        Ok(path(self.dir(), name))
    }

    fn next_ip(&mut self) -> IpAddr {
        self.last_host += 1;
        IpAddr::from([127, self.net[0], self.net[1], self.last_host])
    }

    fn call(&self, program: &str, name: &str, args: Vec<String>) -> Call {
        call(&self.programs, self.dir(), program, name, args)
    }
}

fn call(programs: &Programs, dir: &Path, program: &str, name: &str, args: Vec<String>) -> Call {
    Call::new(programs.folder.join(program), dir, name, args)
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn addresses(of: [(&str, SocketAddr); 3]) -> impl Iterator<Item = String> {
    of.into_iter().flat_map(|(what, at)| [format!("--{what}-address"), at.to_string()])
}

fn pages(ip: IpAddr) -> impl Iterator<Item = String> {
    let pages = [("ready", READY), ("metrics", METRICS)];
    pages
        .into_iter()
        .flat_map(move |(what, port)| [format!("--{what}-address"), SocketAddr::new(ip, port).to_string()])
}

fn outbound(ip: IpAddr, number: usize) -> SocketAddr {
    SocketAddr::new(ip, FIRST_OUTBOUND + number as u16)
}

fn dataplane(name: &str, ip: IpAddr, calls: &[(&str, &str)]) -> String {
    let mut yaml = format!(
        "type: Dataplane\nmesh: default\nname: {name}\nnetworking:\n  address: {ip}\n  inbound:\n  \
         - {{name: http, port: {SERVICE}, servicePort: {APPLICATION}, serviceAddress: {ip}, protocol: http}}\n"
    );
    if !calls.is_empty() {
        yaml += "  outbound:\n";
    }
    for (number, (service, zone)) in calls.iter().enumerate() {
        yaml += &format!(
            "  - address: {ip}\n    port: {}\n    backendRef:\n      kind: MeshService\n      port: {SERVICE}\n      \
             labels: {{tombolo.io/display-name: {service}, tombolo.io/zone: {zone}}}\n",
            outbound(ip, number).port()
        );
    }
    yaml
}
