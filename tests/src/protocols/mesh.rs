//! A sidecar in the east, and one in the west for each application: told directly, with nothing between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dataplane::{Proxy, Purpose, proxy};
use identity::{Alpn, PrivateKey, SVID_LIFETIME, Svid, TrustStore, ZoneCa, workload_client};
use model::{DestinationId, Protocol, SpiffeId};
use policy::access::{AccessRule, ClientMatch, Effect, RuleOrigin};
use snapshot::parts::{
    Access, Destination, Endpoint, Endpoints, Inbound, Millis, OutboundListener, Timeouts,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use traffic::{Counters, Credentials, ProxyConfig};

pub(super) const WEB: &str = "spiffe://default.east.mesh.local/workload/web";
const CATALOG: &str = "spiffe://default.west.mesh.local/workload/catalog";
const HANDLE: &str = "catalog.west.tombolo.internal";
const INBOUND: u16 = 8080;

pub(super) struct Mesh {
    pub(super) east: Proxy,
    pub(super) west: Vec<Proxy>,
    /// Where the application of the east finds the catalog.
    pub(super) outbound: SocketAddr,
    web: Svid,
    trust: Arc<TrustStore>,
}

impl Mesh {
    /// A catalog with these applications, each said to be in a zone.
    pub(super) async fn start(protocol: Protocol, applications: &[(&str, SocketAddr)]) -> Self {
        let ca = |domain: &str| {
            ZoneCa::create(domain.parse().unwrap(), 30 * SVID_LIFETIME, SystemTime::now()).unwrap()
        };
        let (east_ca, west_ca) = (ca("default.east.mesh.local"), ca("default.west.mesh.local"));
        let bundles = [("east", &east_ca), ("west", &west_ca)]
            .map(|(zone, ca)| (ca.trust_domain().clone(), zone.parse().unwrap(), ca.bundle_pem()));
        let (trust, problems) = TrustStore::from_bundles(bundles);
        assert!(problems.is_empty());
        let trust = Arc::new(trust);
        let svid = |ca: &ZoneCa, id: &str| {
            let key = PrivateKey::generate();
            let id: SpiffeId = id.parse().unwrap();
            let chain = ca.issue(key.request().der(), &id, SVID_LIFETIME, SystemTime::now()).unwrap();
            Svid::new(chain, &key).unwrap()
        };
        let credentials = |svid: &Svid| Arc::new(Credentials::new(svid, trust.clone()).unwrap());

        let (mut west, mut endpoints) = (Vec::new(), Vec::new());
        for (zone, application) in applications {
            let inbound = Inbound {
                listen: "127.0.0.1:0".parse().unwrap(),
                application: *application,
                protocol,
                access: allow(WEB),
                timeouts: Timeouts::default(),
                client_timeouts: Vec::new(),
            };
            let sidecar = Proxy::start(proxy::Options::default()).unwrap();
            let config = ProxyConfig {
                outbound: Vec::new(),
                inbounds: BTreeMap::from([(INBOUND, Arc::new(inbound))]),
                destinations: BTreeMap::new(),
                credentials: credentials(&svid(&west_ca, CATALOG)),
            };
            apply(&sidecar, config).await;
            endpoints.push(Endpoint {
                address: bound(&sidecar, &Purpose::Inbound(INBOUND)),
                sni: HANDLE.into(),
                identity: CATALOG.parse().unwrap(),
                zone: zone.parse().unwrap(),
                ready: true,
                weight: 1,
            });
            west.push(sidecar);
        }

        let id: DestinationId = "ms_default_west__catalog_http".parse().unwrap();
        let destination = Destination {
            protocol,
            identities: [CATALOG.parse().unwrap()].into(),
            connection_timeout: Millis(5000),
            timeouts: Timeouts::default(),
            routes: Vec::new(),
        };
        let listener = OutboundListener { address: "127.0.0.1:0".parse().unwrap(), destination: id.clone() };
        let web = svid(&east_ca, WEB);
        let east = Proxy::start(proxy::Options::default()).unwrap();
        east.endpoints(id.clone(), Endpoints(endpoints)).await.unwrap();
        let config = ProxyConfig {
            outbound: vec![listener],
            inbounds: BTreeMap::new(),
            destinations: BTreeMap::from([(id.clone(), Arc::new(destination))]),
            credentials: credentials(&web),
        };
        apply(&east, config).await;
        let outbound = bound(&east, &Purpose::Outbound(id));
        Self { east, west, outbound, web, trust }
    }

    /// The web without its sidecar: a connection of its own to the first catalog's.
    pub(super) async fn peer(&self, alpn: Alpn) -> TlsStream<TcpStream> {
        let config = workload_client(&self.web, self.trust.clone(), alpn).unwrap();
        let stream = TcpStream::connect(bound(&self.west[0], &Purpose::Inbound(INBOUND))).await.unwrap();
        TlsConnector::from(config).connect(HANDLE.try_into().unwrap(), stream).await.unwrap()
    }

    pub(super) async fn counters(&self) -> Counters {
        self.east.counters().await.unwrap()
    }

    pub(super) async fn stop(self) {
        self.east.shutdown(Duration::ZERO).await;
        for sidecar in self.west {
            sidecar.shutdown(Duration::ZERO).await;
        }
    }
}

pub(super) fn allow(id: &str) -> Access {
    let rule = AccessRule {
        effect: Effect::Allow,
        clients: ClientMatch::Exactly(id.parse().unwrap()),
        origin: RuleOrigin {
            policy: "MeshTrafficPermission/default/global//allow".parse().unwrap(),
            version: "global-1-1".parse().unwrap(),
            path: "spec".into(),
        },
    };
    Access { rules: vec![rule], ..Access::default() }
}

async fn apply(proxy: &Proxy, config: ProxyConfig) {
    let applied = proxy.apply(config).await.unwrap();
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
}

fn bound(proxy: &Proxy, purpose: &Purpose) -> SocketAddr {
    let found = proxy.bound().into_iter().find(|bound| bound.purpose == *purpose);
    found.expect("it listens").address
}
