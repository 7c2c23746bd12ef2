//! Two zones with an authority each, and pipes between their proxies.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use identity::{PrivateKey, SVID_LIFETIME, Svid, TrustStore, ZoneCa};
use model::{Protocol, SpiffeId};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use snapshot::parts::{Destination, Endpoint, Timeouts};
use telemetry::Telemetry;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::tls::Credentials;
use crate::transport::Transport;

pub(crate) const WEB: &str = "spiffe://default.east.mesh.local/workload/web";
pub(crate) const CATALOG: &str = "spiffe://default.west.mesh.local/workload/catalog";
pub(crate) const CART: &str = "spiffe://default.west.mesh.local/workload/cart";
pub(crate) const HANDLE: &str = "catalog.west.tombolo.internal";

pub(crate) struct World {
    pub(crate) east: ZoneCa,
    pub(crate) west: ZoneCa,
}

impl World {
    pub(crate) fn new() -> Self {
        let ca = |domain: &str| {
            ZoneCa::create(domain.parse().unwrap(), 30 * SVID_LIFETIME, SystemTime::now()).unwrap()
        };
        Self { east: ca("default.east.mesh.local"), west: ca("default.west.mesh.local") }
    }

    /// Of a proxy that believes both zones.
    pub(crate) fn credentials(&self, ca: &ZoneCa, id: &str) -> Arc<Credentials> {
        self.believing(&[("east", &self.east), ("west", &self.west)], ca, id)
    }

    pub(crate) fn believing(&self, zones: &[(&str, &ZoneCa)], ca: &ZoneCa, id: &str) -> Arc<Credentials> {
        let key = PrivateKey::generate();
        let id: SpiffeId = id.parse().unwrap();
        let chain = ca.issue(key.request().der(), &id, SVID_LIFETIME, SystemTime::now()).unwrap();
        let bundles = zones
            .iter()
            .map(|(zone, ca)| (ca.trust_domain().clone(), zone.parse().unwrap(), ca.bundle_pem()));
        let (trust, problems) = TrustStore::from_bundles(bundles);
        assert!(problems.is_empty());
        Arc::new(Credentials::new(&Svid::new(chain, &key).unwrap(), Arc::new(trust)).unwrap())
    }
}

pub(crate) fn destination(protocol: Protocol, identities: &[&str], timeout: Duration) -> Destination {
    Destination {
        protocol,
        identities: identities.iter().map(|id| id.parse().unwrap()).collect(),
        connection_timeout: timeout.into(),
        timeouts: Timeouts::default(),
        routes: Vec::new(),
    }
}

pub(crate) fn endpoint(address: SocketAddr, identity: &str) -> Endpoint {
    Endpoint {
        address,
        sni: HANDLE.into(),
        identity: identity.parse().unwrap(),
        zone: "west".parse().unwrap(),
        ready: true,
        weight: 1,
    }
}

/// What a worker told, as those lines of its metrics page in which all of these occur.
pub(crate) fn told(telemetry: &Telemetry, words: &[&str]) -> Vec<String> {
    let (mut registry, mut text) = (Registry::default(), String::new());
    telemetry.register(&mut registry);
    encode(&mut text, &registry).unwrap();
    let tells = |line: &&str| words.iter().all(|word| line.contains(word));
    text.lines().filter(tells).map(str::to_owned).collect()
}

/// Nobody listens there, and nobody is asked to.
pub(crate) fn nowhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

/// One end of a pipe that remembers whether it was to end in a reset.
#[derive(Debug)]
pub(crate) struct Pipe {
    stream: DuplexStream,
    pub(crate) reset: Rc<Cell<bool>>,
}

impl Pipe {
    pub(crate) fn pair(size: usize) -> (Self, Self) {
        let (near, far) = tokio::io::duplex(size);
        let end = |stream| Self { stream, reset: Rc::default() };
        (end(near), end(far))
    }
}

impl Transport for Pipe {
    fn reset_on_drop(&self) {
        self.reset.set(true);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
