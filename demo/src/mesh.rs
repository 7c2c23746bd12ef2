//! Starts the demo mesh: a global control plane, the zones `east` and `west`, and the shop.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use api::shapes::{TokenKind, TokenRequest};
use control::{Addresses, Clock, Running};
use global_cp::GlobalCp;
use identity::ServerRole;
use model::Name;
use tempfile::TempDir;
use tokio::time;
use zone_cp::ZoneCp;

use crate::api_client::ApiClient;
use crate::members::{
    ALLOW_SHOP, APP_EVENTS, APP_HTTP, CALLERS_OF_REPLICAS, CALLS, CATALOG_WEST, FRONTEND, JOIN_CATALOG,
    JOINED, JOINED_CATALOG, MEMBERS, Member, PERMISSION, REPLICAS, SECOND_CATALOG, STREAMS, Speaks, pair,
};
use crate::relay::Relay;
use crate::shop::App;
use crate::traffic::{Pair, Traffic};

pub const ZONES: [&str; 2] = ["east", "west"];

/// What the global is called among the control planes.
const GLOBAL_CP: &str = "global";

/// The last bytes of the addresses of the global control plane, of the first zone's, and of the relay of that; those
/// of the next zone come after.
const GLOBAL: u8 = 1;
const ZONE_CPS: u8 = 2;
const RELAYS: u8 = 31;
/// Those of the ingresses.
const INGRESSES: u8 = 41;

/// The ports of control planes, as people know them.
const API: u16 = 5681;
const HEALTH: u16 = 5680;
const GLOBAL_SYNC: u16 = 5685;
const ZONE_SYNC: u16 = 5678;
const INGRESS: u16 = 10_001;

/// How long what is open may go on when the mesh ends.
const DRAIN: Duration = Duration::from_secs(2);

/// How long anything may take that is not promised to be fast.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Everything that runs. Dropping it stops it, but [`Mesh::shutdown`] waits for the end.
pub struct Mesh {
    dir: TempDir,
    clock_of: fn(&str) -> Clock,
    /// The first three bytes of every address: each mesh has a piece of 127.0.0.0/8 of its own, so that
    /// ports can be written into documents before anyone listens on them.
    net: [u8; 3],
    global: Option<Running>,
    global_addresses: Addresses,
    zones: BTreeMap<&'static str, Zone>,
    sidecars: Vec<(Member, dataplane::Running)>,
    apps: Vec<(Member, App)>,
    traffic: Traffic,
}

/// Where a program of the mesh takes what comes.
pub struct Port {
    pub name: String,
    pub address: SocketAddr,
    pub takes: Takes,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Takes {
    /// Mutual TLS, or TLS and a token.
    Tls,
    /// Requests for a few pages of its own.
    Pages,
    /// Requests of the application beside it.
    Requests,
    /// The same, in HTTP/2 alone.
    Frames,
    /// Any bytes of the application beside it.
    Bytes,
}

/// A sidecar that was stopped, and can be started again.
pub struct Stopped(Member);

struct Zone {
    /// None while it is stopped.
    running: Option<Running>,
    addresses: Addresses,
    /// The same.
    ingress: Option<zone_ingress::Running>,
    ingress_options: zone_ingress::ControlOptions,
    relay: Relay,
}

impl Mesh {
    /// Everything is up and has answered once when this returns; `tell` hears what happens.
    pub async fn start(tell: &mut dyn FnMut(String)) -> anyhow::Result<Self> {
        Self::start_by(|_| Clock::system(), tell).await
    }

    /// The same, with clocks of the control planes: of `global` and of each zone.
    pub async fn start_by(clock_of: fn(&str) -> Clock, tell: &mut dyn FnMut(String)) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("tombolo-demo-").tempdir()?;
        let net = [127, rand::random_range(1..=254), rand::random()];
        let global_addresses = control_plane(net, GLOBAL, GLOBAL_SYNC);
        let options = global_options(&dir.path().join("global"), &global_addresses, clock_of(GLOBAL_CP));
        let global = start_global(options).await?;
        tell(format!("global control plane   API https://{}", global_addresses.api));
        let mut mesh = Self {
            dir,
            clock_of,
            net,
            global: Some(global),
            global_addresses,
            zones: BTreeMap::new(),
            sidecars: Vec::new(),
            apps: Vec::new(),
            traffic: Traffic::default(),
        };
        for zone in ZONES {
            let started = mesh.start_zone(zone).await.with_context(|| format!("starting zone {zone}"))?;
            tell(format!(
                "zone {zone:<17} API https://{}, ingress {} (through a relay that listens in)",
                started.addresses.api, started.relay.address
            ));
            mesh.zones.insert(zone, started);
        }
        mesh.api()?.put(PERMISSION, ALLOW_SHOP).await?;
        mesh.api()?.put(JOINED_CATALOG, JOIN_CATALOG).await?;
        for member in MEMBERS {
            mesh.start_member(member)
                .await
                .with_context(|| format!("starting {} in {}", member.service, member.zone))?;
            tell(format!("{:<22} in {}, its sidecar at {}", member.service, member.zone, mesh.ip(member)));
        }
        for (caller, called, port) in CALLS {
            mesh.traffic.add(pair(caller, called), SocketAddr::new(mesh.ip(caller), port));
        }
        mesh.traffic.add(JOINED, mesh.joined(Speaks::Http1));
        match time::timeout(LIMIT, mesh.traffic.all_answered()).await {
            Ok(answered) => answered?,
            Err(_) => bail!("the shop does not answer: {}", mesh.traffic.silent().join("; ")),
        }
        Ok(mesh)
    }

    async fn start_zone(&self, zone: &'static str) -> anyhow::Result<Zone> {
        self.write_zone_token(zone).await?;
        let addresses = control_plane(self.net, ZONE_CPS + self.zones.len() as u8, ZONE_SYNC);
        let running = self.start_zone_cp(zone, &addresses).await?;
        let relay = Relay::start(self.any_port(RELAYS + self.zones.len() as u8)).await?;
        let request = TokenRequest { addresses: vec![relay.address.ip()], ..TokenRequest::default() };
        let api = self.zone_api_at(zone, &addresses)?;
        let token = api.token(TokenKind::Ingress, &request).await?;
        let joined = zone_ingress::ControlOptions::new(
            format!("{zone}-1").parse()?,
            addresses.sync.to_string(),
            self.write(&format!("{zone}-ingress.token"), &token)?,
            self.dir.path().join(format!("{zone}-ingress")),
        );
        let ip = self.any_port(INGRESSES + self.zones.len() as u8).ip();
        let ingress_options = zone_ingress::ControlOptions {
            listen: SocketAddr::new(ip, INGRESS),
            advertise: Some(relay.address),
            drain_time: DRAIN,
            ..joined
        };
        let ingress = zone_ingress::start(ingress_options.clone()).await?;
        relay.lead_to(ingress.listen);
        Ok(Zone { running: Some(running), addresses, ingress: Some(ingress), ingress_options, relay })
    }

    /// With what a zone joins the global, in place of what it had; says where it stands.
    pub async fn write_zone_token(&self, zone: &str) -> anyhow::Result<PathBuf> {
        let request = TokenRequest { zone: Some(zone.parse()?), ..TokenRequest::default() };
        let token = self.api()?.token(TokenKind::Zone, &request).await?;
        self.write(&format!("{zone}.token"), &token)
    }

    async fn start_zone_cp(&self, zone: &str, addresses: &Addresses) -> anyhow::Result<Running> {
        let options = self.zone_options_at(zone, addresses)?;
        ZoneCp::start(options).await.with_context(|| format!("starting the control plane of {zone}"))
    }

    fn zone_options_at(&self, zone: &str, addresses: &Addresses) -> anyhow::Result<zone_cp::Options> {
        let Addresses { api, sync, health } = *addresses;
        Ok(zone_cp::Options {
            global: Some(self.global_addresses.sync.to_string()),
            token_file: Some(self.dir.path().join(format!("{zone}.token"))),
            api_address: api,
            sync_address: sync,
            health_address: health,
            clock: (self.clock_of)(zone),
            ..zone_cp::Options::local(zone.parse()?, self.zone_dir(zone))
        })
    }

    async fn start_member(&mut self, member: Member) -> anyhow::Result<()> {
        let Member { service, zone, .. } = member;
        let at = |port| SocketAddr::new(self.ip(member), port);
        let app = App::start(service, zone, at(APP_HTTP), at(APP_EVENTS)).await?;
        let workload: Name = service.parse()?;
        let request = TokenRequest {
            mesh: Some("default".parse()?),
            workload: Some(workload),
            addresses: vec![self.ip(member)],
            ..TokenRequest::default()
        };
        let token = self.zone_api(zone)?.token(TokenKind::Dataplane, &request).await?;
        self.write(&format!("{zone}-{}.token", member.name()), &token)?;
        self.write(&format!("{zone}-{}.yaml", member.name()), &member.dataplane(self.ip(member)))?;
        let sidecar = self.start_sidecar(member).await?;
        self.sidecars.push((member, sidecar));
        self.apps.push((member, app));
        Ok(())
    }

    async fn start_sidecar(&self, member: Member) -> anyhow::Result<dataplane::Running> {
        dataplane::start(self.options_of(member)).await
    }

    fn options_of(&self, member: Member) -> dataplane::ControlOptions {
        let (zone, name) = (member.zone, member.name());
        let file = |ending: &str| self.dir.path().join(format!("{zone}-{name}{ending}"));
        let zone_cp = self.zones[zone].addresses.sync.to_string();
        let joined = dataplane::ControlOptions::new(zone_cp, file(".token"), file(".yaml"), file(""));
        dataplane::ControlOptions { drain_time: DRAIN, ..joined }
    }

    /// Drains a sidecar, and waits until it is gone.
    pub async fn stop_sidecar(&mut self, service: &str, zone: &str) -> anyhow::Result<Stopped> {
        self.stop(|member| member.service == service && member.zone == zone).await
    }

    /// Starts the second of the replicas, and waits until it is ready.
    pub async fn add_replica(&mut self) -> anyhow::Result<()> {
        self.start_member(SECOND_CATALOG).await?;
        let (_, sidecar) = self.sidecars.last().context("it was started")?;
        Ok(time::timeout(LIMIT, sidecar.ready()).await?)
    }

    /// Takes it out of the mesh for good.
    pub async fn remove_replica(&mut self) -> anyhow::Result<()> {
        self.stop_replica(SECOND_CATALOG.number).await?;
        let path = format!("/meshes/default/dataplanes/{}", SECOND_CATALOG.name());
        self.zone_api(SECOND_CATALOG.zone)?.delete(&path).await?;
        let is_it = |(member, _): &mut (Member, App)| *member == SECOND_CATALOG;
        for (_, app) in self.apps.extract_if(.., is_it) {
            app.shutdown().await;
        }
        Ok(())
    }

    /// Drains the sidecar of a replica, and waits until it is gone.
    pub async fn stop_replica(&mut self, number: u8) -> anyhow::Result<Stopped> {
        self.stop(|member| REPLICAS.contains(member) && member.number == number).await
    }

    async fn stop(&mut self, is_it: impl Fn(&Member) -> bool) -> anyhow::Result<Stopped> {
        let is_it = |(member, _): &(Member, _)| is_it(member);
        let at = self.sidecars.iter().position(is_it).context("there is no such sidecar")?;
        let (member, sidecar) = self.sidecars.remove(at);
        sidecar.shutdown().await?;
        Ok(Stopped(member))
    }

    /// With what it can be started again.
    pub fn sidecar_options(&self, Stopped(member): &Stopped) -> dataplane::ControlOptions {
        self.options_of(*member)
    }

    /// Starts it again from what it kept, and waits until it is ready.
    pub async fn resume_sidecar(&mut self, Stopped(member): Stopped) -> anyhow::Result<()> {
        let sidecar = self.start_sidecar(member).await?;
        let ready = time::timeout(LIMIT, sidecar.ready()).await;
        ready.with_context(|| format!("its sidecar waits for {}", sidecar.pending().join(", ")))?;
        self.sidecars.push((member, sidecar));
        Ok(())
    }

    /// The API of the global control plane.
    pub fn api(&self) -> anyhow::Result<ApiClient> {
        ApiClient::new(self.global_addresses.api, &self.global_dir(), ServerRole::Global)
    }

    pub fn zone_api(&self, zone: &str) -> anyhow::Result<ApiClient> {
        self.zone_api_at(zone, &self.zones[zone].addresses)
    }

    fn zone_api_at(&self, zone: &str, addresses: &Addresses) -> anyhow::Result<ApiClient> {
        ApiClient::new(addresses.api, &self.zone_dir(zone), ServerRole::Zone(zone.parse()?))
    }

    pub fn global_addresses(&self) -> &Addresses {
        &self.global_addresses
    }

    pub fn global_dir(&self) -> PathBuf {
        self.dir.path().join("global")
    }

    pub fn zone_dir(&self, zone: &str) -> PathBuf {
        self.dir.path().join(zone)
    }

    /// Stops the global control plane, and waits until it is gone.
    pub async fn stop_global(&mut self) -> anyhow::Result<()> {
        match self.global.take() {
            Some(global) => global.shutdown().await,
            None => Ok(()),
        }
    }

    /// Starts it again, with the same data at the same addresses.
    pub async fn resume_global(&mut self) -> anyhow::Result<()> {
        self.global = Some(start_global(self.global_options()).await?);
        Ok(())
    }

    /// With what it can be started again.
    pub fn global_options(&self) -> global_cp::Options {
        global_options(&self.global_dir(), &self.global_addresses, (self.clock_of)(GLOBAL_CP))
    }

    /// Stops the control plane of a zone, and waits until it is gone. Its ingress runs on.
    pub async fn stop_zone(&mut self, zone: &str) -> anyhow::Result<()> {
        match self.zones.get_mut(zone).and_then(|zone| zone.running.take()) {
            Some(running) => running.shutdown().await,
            None => Ok(()),
        }
    }

    /// Starts it again, with the same data at the same addresses.
    pub async fn resume_zone(&mut self, zone: &str) -> anyhow::Result<()> {
        let running = self.start_zone_cp(zone, &self.zones[zone].addresses).await?;
        self.zones.get_mut(zone).context("there is no such zone")?.running = Some(running);
        Ok(())
    }

    /// With what it can be started again.
    pub fn zone_options(&self, zone: &str) -> anyhow::Result<zone_cp::Options> {
        self.zone_options_at(zone, &self.zones[zone].addresses)
    }

    /// Drains the ingress of a zone, and waits until it is gone.
    pub async fn stop_ingress(&mut self, zone: &str) -> anyhow::Result<()> {
        match self.zones.get_mut(zone).and_then(|zone| zone.ingress.take()) {
            Some(ingress) => ingress.shutdown().await,
            None => Ok(()),
        }
    }

    /// Starts it again from what it kept, where it was.
    pub async fn resume_ingress(&mut self, zone: &str) -> anyhow::Result<()> {
        let zone = self.zones.get_mut(zone).context("there is no such zone")?;
        zone.ingress = Some(zone_ingress::start(zone.ingress_options.clone()).await?);
        Ok(())
    }

    /// With what it can be started again.
    pub fn ingress_options(&self, zone: &str) -> &zone_ingress::ControlOptions {
        &self.zones[zone].ingress_options
    }

    pub fn zone_addresses(&self, zone: &str) -> &Addresses {
        &self.zones[zone].addresses
    }

    /// The relay before a zone's ingress.
    pub fn relay(&self, zone: &str) -> &Relay {
        &self.zones[zone].relay
    }

    /// Where a zone's ingress really listens.
    pub fn ingress(&self, zone: &str) -> SocketAddr {
        self.zones[zone].ingress_options.listen
    }

    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub fn app(&self, service: &str, zone: &str) -> Option<&App> {
        let found = self.apps.iter().find(|(member, _)| member.service == service && member.zone == zone);
        found.map(|(_, app)| app)
    }

    pub fn app_mut(&mut self, service: &str, zone: &str) -> anyhow::Result<&mut App> {
        let is_it = |(member, _): &&mut (Member, App)| member.service == service && member.zone == zone;
        let found = self.apps.iter_mut().find(is_it);
        found.map(|(_, app)| app).with_context(|| format!("there is no {service} in {zone}"))
    }

    /// The applications of all replicas that are there.
    pub fn replicas(&self) -> impl Iterator<Item = &App> {
        self.apps.iter().filter(|(member, _)| REPLICAS.contains(member)).map(|(_, app)| app)
    }

    /// Those who call the replicas, and where: the first from their own zone, the other from another.
    pub fn callers_of_replicas(&self, speaks: Speaks) -> [(Pair, SocketAddr); 2] {
        CALLERS_OF_REPLICAS
            .map(|caller| (pair(caller, CATALOG_WEST), SocketAddr::new(self.ip(caller), speaks.replicated())))
    }

    /// How often a sidecar tried to connect to another in vain.
    pub async fn connect_failures(&self) -> u64 {
        let counters = self.sidecars.iter().map(|(_, sidecar)| sidecar.counters());
        let counters = futures::future::join_all(counters).await;
        counters.into_iter().flatten().map(|counters| counters.connect_failures).sum()
    }

    /// Where the frontend reaches the catalog of whichever zone.
    pub fn joined(&self, speaks: Speaks) -> SocketAddr {
        SocketAddr::new(self.ip(FRONTEND), speaks.joined())
    }

    /// Where the sidecar of a service takes requests from other proxies.
    pub fn inbound(&self, service: &str, zone: &str) -> Option<SocketAddr> {
        let found = MEMBERS.iter().find(|member| member.service == service && member.zone == zone);
        found.map(|member| SocketAddr::new(self.ip(*member), Speaks::Http1.port()))
    }

    /// Who sends bytes to whom that are no HTTP, and where: they come back as they went.
    pub fn streams(&self) -> Vec<(Pair, SocketAddr)> {
        let stream = |&(caller, called, port)| (pair(caller, called), SocketAddr::new(self.ip(caller), port));
        STREAMS.iter().map(stream).collect()
    }

    /// Every port of every program of the mesh.
    pub fn ports(&self) -> Vec<Port> {
        let mut ports = Vec::new();
        let mut add = |name, address, takes| ports.push(Port { name, address, takes });
        let zones = self.zones.iter().map(|(name, zone)| (*name, &zone.addresses));
        for (name, Addresses { api, sync, health }) in zones.chain([("global", &self.global_addresses)]) {
            add(format!("{name} API"), *api, Takes::Tls);
            add(format!("{name} sync"), *sync, Takes::Tls);
            add(format!("{name} health"), *health, Takes::Pages);
        }
        for (name, zone) in &self.zones {
            let Some(ingress) = &zone.ingress else { continue };
            add(format!("{name} ingress"), ingress.listen, Takes::Tls);
            add(format!("{name} ingress readiness"), ingress.ready_address, Takes::Pages);
            add(format!("{name} ingress metrics"), ingress.metrics_address, Takes::Pages);
        }
        for (member, sidecar) in &self.sidecars {
            let (name, ip) = (format!("{} {}", member.zone, member.service), self.ip(*member));
            for speaks in Speaks::ALL {
                let port = speaks.port();
                add(format!("{name} inbound {port}"), SocketAddr::new(ip, port), Takes::Tls);
            }
            add(format!("{name} readiness"), sidecar.ready_address, Takes::Pages);
            add(format!("{name} metrics"), sidecar.metrics_address, Takes::Pages);
        }
        for call in self.traffic.calls() {
            add(format!("outbound {}", call.pair), call.through, Takes::Requests);
        }
        for (pair, address) in self.streams() {
            add(format!("tcp outbound {pair}"), address, Takes::Bytes);
        }
        for (speaks, takes) in
            [(Speaks::Http1, Takes::Requests), (Speaks::Http2, Takes::Frames), (Speaks::Bytes, Takes::Bytes)]
        {
            let replicated = self.callers_of_replicas(speaks);
            for (pair, address) in replicated.into_iter().chain([(JOINED, self.joined(speaks))]) {
                add(format!("{speaks:?} outbound {pair}"), address, takes);
            }
        }
        ports
    }

    /// Where every control plane and proxy says whether it is ready.
    pub fn readiness(&self) -> Vec<(String, SocketAddr)> {
        let mut pages = vec![("global".to_owned(), self.global_addresses.health)];
        for (name, Zone { addresses, ingress, .. }) in &self.zones {
            pages.push((format!("zone {name}"), addresses.health));
            pages.extend(ingress.iter().map(|one| (format!("ingress of {name}"), one.ready_address)));
        }
        let sidecars = self.sidecars.iter();
        pages.extend(sidecars.map(|(member, sidecar)| {
            (format!("sidecar of {} in {}", member.service, member.zone), sidecar.ready_address)
        }));
        pages
    }

    /// Keeps a file in the mesh's own folder.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join(name);
        runtime::files::write_private(&path, text.as_bytes())?;
        Ok(path)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn ip(&self, member: Member) -> IpAddr {
        self.any_port(member.host).ip()
    }

    fn any_port(&self, host: u8) -> SocketAddr {
        let [a, b, c] = self.net;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, host)), 0)
    }

    /// Drains and ends everything, callers before called.
    pub async fn shutdown(self) -> anyhow::Result<()> {
        self.traffic.shutdown().await;
        for (_, sidecar) in self.sidecars {
            sidecar.shutdown().await?;
        }
        for zone in self.zones.into_values() {
            if let Some(ingress) = zone.ingress {
                ingress.shutdown().await?;
            }
            zone.relay.shutdown().await;
            if let Some(running) = zone.running {
                running.shutdown().await?;
            }
        }
        for (_, app) in self.apps {
            app.shutdown().await;
        }
        match self.global {
            Some(global) => global.shutdown().await,
            None => Ok(()),
        }
    }
}

fn control_plane([a, b, c]: [u8; 3], host: u8, sync: u16) -> Addresses {
    let at = |port| SocketAddr::from(([a, b, c, host], port));
    Addresses { api: at(API), sync: at(sync), health: at(HEALTH) }
}

fn global_options(data_dir: &Path, addresses: &Addresses, clock: Clock) -> global_cp::Options {
    let Addresses { api, sync, health } = *addresses;
    global_cp::Options {
        api_address: api,
        sync_address: sync,
        health_address: health,
        clock,
        ..global_cp::Options::local(data_dir)
    }
}

async fn start_global(options: global_cp::Options) -> anyhow::Result<Running> {
    GlobalCp::start(options).await.context("starting the global control plane")
}
