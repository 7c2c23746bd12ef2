//! A sidecar in the east, and in the west two of the catalog and one of what comes next: each can be told anything
//! at any time, as a zone would tell it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use dataplane::{Proxy, Purpose, proxy};
use http_body_util::BodyExt;
use identity::{PrivateKey, SVID_LIFETIME, Svid, TrustStore, ZoneCa};
use model::{DestinationId, Protocol};
use policy::access::AccessRule;
use policy::route::RouteRule;
use snapshot::parts::{
    Access, Destination, Endpoint, Endpoints, Inbound, Millis, OutboundListener, Timeouts,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use traffic::{Credentials, ProxyConfig};

use super::super::apps::{App, Speaks, collect, full};
use super::super::mesh::{WEB, allow};

/// How a service is spoken to: each has a port at each sidecar, and a listener in the east.
pub(super) const HTTP1: usize = 0;
pub(super) const HTTP2: usize = 1;
pub(super) const TCP: usize = 2;
const PROTOCOLS: [Protocol; 3] = [Protocol::Http, Protocol::Http2, Protocol::Tcp];
const PORTS: [u16; 3] = [8080, 8081, 9000];

pub(super) const CATALOG: usize = 0;
pub(super) const NEXT: usize = 1;
const SERVICES: [&str; 2] = ["catalog", "next"];
/// Which service each sidecar of the west is of.
const SIDECARS: [usize; 3] = [CATALOG, CATALOG, NEXT];

/// Of a zone's two authorities.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ca {
    First,
    Second,
}

/// What a sidecar is told of who it is and whom it believes.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) issued_by: Ca,
    /// The anchors of the east, and of the west.
    pub(super) east: Vec<Ca>,
    pub(super) west: Vec<Ca>,
}

impl Default for Known {
    fn default() -> Self {
        Self { issued_by: Ca::First, east: vec![Ca::First], west: vec![Ca::First] }
    }
}

pub(super) struct Shop {
    pub(super) east: Proxy,
    east_config: ProxyConfig,
    pub(super) west: Vec<(Proxy, ProxyConfig)>,
    /// Of the sidecars, by protocol.
    addresses: Vec<[SocketAddr; 3]>,
    authorities: [[ZoneCa; 2]; 2],
    /// How many requests came to each service.
    served: [Arc<AtomicUsize>; 2],
    _apps: Vec<App>,
    _echo: JoinSet<()>,
}

impl Shop {
    pub(super) async fn start() -> Self {
        let ca = |zone: &str| {
            let domain = format!("default.{zone}.mesh.local").parse().unwrap();
            ZoneCa::create(domain, 30 * SVID_LIFETIME, SystemTime::now()).unwrap()
        };
        let authorities = ["east", "west"].map(|zone| [ca(zone), ca(zone)]);
        let served: [Arc<AtomicUsize>; 2] = Default::default();
        let (echo, echoes) = echo().await;

        let mut apps = Vec::new();
        let mut applications = Vec::new();
        for (service, served) in SERVICES.iter().zip(&served) {
            let (http1, http2) = (
                application(Speaks::Http1, service, served.clone()).await,
                application(Speaks::Http2, service, served.clone()).await,
            );
            applications.push([http1.address, http2.address, echoes]);
            apps.extend([http1, http2]);
        }

        let (mut west, mut addresses) = (Vec::new(), Vec::new());
        for service in SIDECARS {
            let inbound = |which: usize| Inbound {
                listen: "127.0.0.1:0".parse().unwrap(),
                application: applications[service][which],
                protocol: PROTOCOLS[which],
                access: allow(WEB),
                timeouts: Timeouts::default(),
                client_timeouts: Vec::new(),
            };
            let config = ProxyConfig {
                outbound: Vec::new(),
                inbounds: (0..3).map(|which| (PORTS[which], Arc::new(inbound(which)))).collect(),
                destinations: BTreeMap::new(),
                credentials: credentials(&authorities, 1, &identity(service), &Known::default()),
            };
            let sidecar = Proxy::start(proxy::Options::default()).unwrap();
            apply(&sidecar, &config).await;
            addresses.push(PORTS.map(|port| bound(&sidecar, &Purpose::Inbound(port))));
            west.push((sidecar, config));
        }

        let mut east_config = ProxyConfig {
            outbound: Vec::new(),
            inbounds: BTreeMap::new(),
            destinations: BTreeMap::new(),
            credentials: credentials(&authorities, 0, WEB, &Known::default()),
        };
        for service in [CATALOG, NEXT] {
            for which in [HTTP1, HTTP2, TCP] {
                let destination = id(service, which);
                let part = Destination {
                    protocol: PROTOCOLS[which],
                    identities: [identity(service).parse().unwrap()].into(),
                    connection_timeout: Millis(10_000),
                    timeouts: Timeouts::default(),
                    routes: Vec::new(),
                };
                east_config.destinations.insert(destination.clone(), Arc::new(part));
                let address = "127.0.0.1:0".parse().unwrap();
                east_config.outbound.push(OutboundListener { address, destination });
            }
        }
        let east = Proxy::start(proxy::Options::default()).unwrap();
        let shop = Self { east, east_config, west, addresses, authorities, served, _apps: apps, _echo: echo };
        shop.place(CATALOG, &[(0, 1, true)]).await;
        shop.place(NEXT, &[(2, 1, true)]).await;
        apply(&shop.east, &shop.east_config).await;
        shop
    }

    /// Where the application of the east finds a service.
    pub(super) fn outbound(&self, service: usize, which: usize) -> SocketAddr {
        bound(&self.east, &Purpose::Outbound(id(service, which)))
    }

    pub(super) fn served(&self, service: usize) -> usize {
        self.served[service].load(Ordering::Relaxed)
    }

    /// Says which sidecars are a service's, with which weight, and whether they are ready.
    pub(super) async fn place(&self, service: usize, members: &[(usize, u32, bool)]) {
        for which in [HTTP1, HTTP2, TCP] {
            let endpoints = members.iter().map(|(sidecar, weight, ready)| Endpoint {
                address: self.addresses[*sidecar][which],
                sni: "catalog.west.tombolo.internal".into(),
                identity: identity(service).parse().unwrap(),
                zone: "west".parse().unwrap(),
                ready: *ready,
                weight: *weight,
            });
            let endpoints = Endpoints(endpoints.collect());
            self.east.endpoints(id(service, which), endpoints).await.unwrap();
        }
    }

    /// Gives the east's sidecar a new leaf, and tells it whom to believe.
    pub(super) async fn certify_east(&mut self, known: &Known) {
        self.east_config.credentials = credentials(&self.authorities, 0, WEB, known);
        apply(&self.east, &self.east_config).await;
    }

    pub(super) async fn certify_west(&mut self, sidecar: usize, known: &Known) {
        let (proxy, config) = &mut self.west[sidecar];
        config.credentials = credentials(&self.authorities, 1, &identity(SIDECARS[sidecar]), known);
        apply(proxy, config).await;
    }

    /// Tells the whole west who may come, and how long things may take.
    pub(super) async fn permit(&mut self, rules: &[AccessRule], timeouts: Timeouts) {
        for (proxy, config) in &mut self.west {
            for inbound in config.inbounds.values_mut() {
                let inbound = Arc::make_mut(inbound);
                inbound.access = Access { rules: rules.to_vec(), ..Access::default() };
                inbound.timeouts = timeouts;
            }
            apply(proxy, config).await;
        }
    }

    /// Routes the requests to the catalog; `{catalog}` and `{next}` stand for the destinations.
    pub(super) async fn route(&mut self, routes: &str, timeouts: Timeouts) {
        for which in [HTTP1, HTTP2] {
            let [catalog, next] = [CATALOG, NEXT].map(|service| format!("\"{}\"", id(service, which)));
            let routes = routes.replace("{catalog}", &catalog).replace("{next}", &next);
            let routes: Vec<RouteRule> = serde_json::from_str(&routes).unwrap();
            let part = self.east_config.destinations.get_mut(&id(CATALOG, which)).unwrap();
            let part = Arc::make_mut(part);
            (part.routes, part.timeouts) = (routes, timeouts);
        }
        apply(&self.east, &self.east_config).await;
    }

    pub(super) async fn stop(self) {
        self.east.shutdown(Duration::ZERO).await;
        for (sidecar, _) in self.west {
            sidecar.shutdown(Duration::ZERO).await;
        }
    }
}

fn id(service: usize, which: usize) -> DestinationId {
    let section = ["http", "http2", "tcp"][which];
    format!("ms_default_west__{}_{section}", SERVICES[service]).parse().unwrap()
}

fn identity(service: usize) -> String {
    format!("spiffe://default.west.mesh.local/workload/{}", SERVICES[service])
}

/// A new key with a new leaf.
fn credentials(authorities: &[[ZoneCa; 2]; 2], zone: usize, id: &str, known: &Known) -> Arc<Credentials> {
    let ca = |zone: usize, which: Ca| &authorities[zone][which as usize];
    let key = PrivateKey::generate();
    let now = SystemTime::now();
    let chain =
        ca(zone, known.issued_by).issue(key.request().der(), &id.parse().unwrap(), SVID_LIFETIME, now);
    let bundle = |name: &str, zone: usize, anchors: &[Ca]| {
        let pems: String = anchors.iter().map(|which| ca(zone, *which).bundle_pem()).collect();
        (ca(zone, Ca::First).trust_domain().clone(), name.parse().unwrap(), pems)
    };
    let bundles = [bundle("east", 0, &known.east), bundle("west", 1, &known.west)];
    let (trust, problems) = TrustStore::from_bundles(bundles);
    assert!(problems.is_empty(), "{problems:?}");
    Arc::new(Credentials::new(&Svid::new(chain.unwrap(), &key).unwrap(), Arc::new(trust)).unwrap())
}

/// Answers with its name and what it was sent, as it comes.
async fn application(speaks: Speaks, name: &'static str, served: Arc<AtomicUsize>) -> App {
    App::start(speaks, move |request| {
        served.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut response = if request.uri().path() == "/stream" {
                http::Response::new(request.into_body().map_err(Into::into).boxed_unsync())
            } else {
                http::Response::new(full(collect(request.into_body()).await.0))
            };
            response.headers_mut().insert("x-service", name.parse().unwrap());
            response
        }
    })
    .await
}

async fn echo() -> (JoinSet<()>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            serving.spawn(async move {
                let (mut read, mut write) = stream.split();
                // Whatever ends it, the other side notices.
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    (tasks, address)
}

async fn apply(proxy: &Proxy, config: &ProxyConfig) {
    let applied = proxy.apply(config.clone()).await.unwrap();
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
}

fn bound(proxy: &Proxy, purpose: &Purpose) -> SocketAddr {
    let found = proxy.bound().into_iter().find(|bound| bound.purpose == *purpose);
    found.expect("it listens").address
}
