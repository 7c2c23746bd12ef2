//! An application in the west, a sidecar before it, the west's ingress, a relay that records, and a sidecar
//! in the east: everything told by files.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataplane::static_file::{self, Static};
use dataplane::{Proxy, Purpose, proxy};
use policy::access::{AccessRule, ClientMatch, Effect, RuleOrigin};
use snapshot::parts::Handles;
use tempfile::TempDir;
use tokio::net::TcpListener;
use traffic::ProxyConfig;
use traffic::relay::Limits;
use zone_ingress::{Ingress, ingress};

use super::apps::{Answer, App, send};
use super::host;
use super::pki::Authority;
use super::recorder::Recorder;
use super::told::Told;

pub(super) const WEB: &str = "spiffe://default.east.mesh.local/workload/web";
pub(super) const CATALOG: &str = "spiffe://default.west.mesh.local/workload/catalog";
pub(super) const HTTP_HANDLE: &str = "mfxwk3dpnyqgc3tfo4qgq33xebsg6.aaaabbbb.tombolo.internal";
pub(super) const TCP_HANDLE: &str = "orrxaidtn5wwk5dinfxgoidfnrzwk.aaaabbbb.tombolo.internal";

/// What is out of the ordinary.
pub(super) struct Setup {
    /// The west's sidecar shows the right id, signed by the east's authority.
    pub(super) forged_server: bool,
    /// The east's sidecar shows the right id, signed by the west's authority.
    pub(super) forged_client: bool,
    /// Whom the endpoints name.
    pub(super) expected: &'static str,
    /// Whom the destinations list, beside the expected.
    pub(super) identities: &'static [&'static str],
    pub(super) allowed: &'static [&'static str],
    /// Whether there is one.
    pub(super) application: bool,
    /// Of each sidecar.
    pub(super) workers: usize,
    /// Whether access logs are written, and traces continued.
    pub(super) told: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            forged_server: false,
            forged_client: false,
            expected: CATALOG,
            identities: &[CATALOG, "spiffe://default.west.mesh.local/workload/cart"],
            allowed: &[WEB],
            application: true,
            workers: 1,
            told: false,
        }
    }
}

pub(super) struct Zones {
    pub(super) app: App,
    pub(super) west: Proxy,
    west_config: ProxyConfig,
    pub(super) handles: Handles,
    pub(super) ingress: Ingress,
    pub(super) recorder: Recorder,
    pub(super) east: Proxy,
    pub(super) telemetry: Told,
    /// Where the application of the east finds the catalog.
    pub(super) http: SocketAddr,
    pub(super) tcp: SocketAddr,
    _folder: TempDir,
}

impl Zones {
    pub(super) async fn start(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (east_ca, west_ca) =
            (Authority::new("default.east.mesh.local"), Authority::new("default.west.mesh.local"));
        std::fs::write(folder.path().join("east.pem"), &east_ca.pem).unwrap();
        std::fs::write(folder.path().join("west.pem"), &west_ca.pem).unwrap();
        let server_ca = if setup.forged_server { &east_ca } else { &west_ca };
        server_ca.issue(CATALOG, folder.path(), "catalog");
        let client_ca = if setup.forged_client { &west_ca } else { &east_ca };
        client_ca.issue(WEB, folder.path(), "web");

        let app = App::start().await;
        let (mut http_app, mut tcp_app) = (app.http, app.tcp);
        if !setup.application {
            let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            (http_app, tcp_app) = (nobody, nobody);
        }
        let inbound = |name: u16, application, protocol: &str| {
            format!(
                "inbound/{name}:\n  listen: 127.0.0.1:0\n  application: {application}\n  protocol: {protocol}\n  \
                 access:\n    rules: []\n"
            )
        };
        let file =
            [known_to("catalog", CATALOG), inbound(8080, http_app, "http"), inbound(9000, tcp_app, "tcp")];
        let Static { mut config, .. } = read(folder.path(), "west.yaml", &file.concat());
        permit(&mut config, setup.allowed);
        let telemetry = Told::start(folder.path(), setup.told);
        let options = proxy::Options { workers: setup.workers };
        let west = Proxy::start_telling(options, &telemetry.west).unwrap();
        let applied = west.apply(config.clone()).await.unwrap();
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);

        let handles = Handles(
            [
                (HTTP_HANDLE.to_owned(), bound(&west, &Purpose::Inbound(8080))),
                (TCP_HANDLE.to_owned(), bound(&west, &Purpose::Inbound(9000))),
            ]
            .into(),
        );
        let listen = "127.0.0.1:0".parse().unwrap();
        let to = ingress::Options { listen, limits: Limits::default() };
        let ingress = Ingress::start_telling(to, &telemetry.ingress).await.unwrap();
        ingress.handles(handles.clone()).await.unwrap();
        let recorder = Recorder::start(ingress.bound()).await;

        let mut file = vec![known_to("web", WEB), "listeners:\n  outbound:\n".into()];
        let destinations = [
            ("ms_default_west__catalog_http", "http", HTTP_HANDLE),
            ("ms_default_west__catalog_tcp", "tcp", TCP_HANDLE),
        ];
        for (id, ..) in destinations {
            file.push(format!("  - address: 127.0.0.1:0\n    destination: {id}\n"));
        }
        for (id, protocol, handle) in destinations {
            file.push(format!(
                "destination/{id}:\n  protocol: {protocol}\n  connectionTimeout: 5000\n  identities: {:?}\n\
                 endpoints/{id}:\n- address: {}\n  sni: {handle}\n  identity: {}\n  zone: west\n",
                setup.identities, recorder.address, setup.expected
            ));
        }
        let Static { config: east_config, endpoints } = read(folder.path(), "east.yaml", &file.concat());
        let east = Proxy::start_telling(options, &telemetry.east).unwrap();
        for (id, endpoints) in endpoints {
            east.endpoints(id, endpoints).await.unwrap();
        }
        let applied = east.apply(east_config).await.unwrap();
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        let outbound = |id: &str| bound(&east, &Purpose::Outbound(id.parse().unwrap()));
        let [http, tcp] = destinations.map(|(id, ..)| outbound(id));
        Self {
            app,
            west,
            west_config: config,
            handles,
            ingress,
            recorder,
            east,
            telemetry,
            http,
            tcp,
            _folder: folder,
        }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        send(self.http, "GET", path, host(), Vec::new()).await
    }

    /// Replaces the permissions in the west, and returns when that is in force.
    pub(super) async fn allow(&self, ids: &[&str]) {
        let mut config = self.west_config.clone();
        permit(&mut config, ids);
        self.west.apply(config).await.unwrap();
    }

    pub(super) async fn stop(self) {
        let grace = Duration::ZERO;
        tokio::join!(self.east.shutdown(grace), self.west.shutdown(grace), self.ingress.shutdown(grace));
    }
}

/// The parts that say who a proxy is and whom it believes.
fn known_to(name: &str, id: &str) -> String {
    format!(
        "identity:\n  id: {id}\n  certificate: {name}.crt\n  key: {name}.key\n\
         trust:\n  default.east.mesh.local: {{zone: east, bundle: east.pem}}\n  \
         default.west.mesh.local: {{zone: west, bundle: west.pem}}\n"
    )
}

fn read(folder: &Path, name: &str, content: &str) -> Static {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    static_file::read(&path).unwrap_or_else(|error| panic!("{error:#}\n{content}"))
}

fn permit(config: &mut ProxyConfig, ids: &[&str]) {
    let rules: Vec<AccessRule> = ids
        .iter()
        .map(|id| AccessRule {
            effect: Effect::Allow,
            clients: ClientMatch::Exactly(id.parse().unwrap()),
            origin: RuleOrigin {
                policy: "MeshTrafficPermission/default/global//allow".parse().unwrap(),
                version: "global-1-1".parse().unwrap(),
                path: "spec".into(),
            },
        })
        .collect();
    for inbound in config.inbounds.values_mut() {
        Arc::make_mut(inbound).access.rules.clone_from(&rules);
    }
}

fn bound(proxy: &Proxy, purpose: &Purpose) -> SocketAddr {
    let found = proxy.bound().into_iter().find(|bound| bound.purpose == *purpose);
    found.expect("it listens").address
}
