//! Zones with an authority each, and handshakes in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{AUTHORITY_LIFETIME, PrivateKey, SVID_LIFETIME, Svid, TrustStore, ZoneCa};
use model::SpiffeId;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);

pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

/// The authority of `default.<zone>.mesh.local`.
pub(crate) fn zone_ca(zone: &str) -> ZoneCa {
    ZoneCa::create(domain(zone).parse().unwrap(), AUTHORITY_LIFETIME, now()).unwrap()
}

pub(crate) fn domain(zone: &str) -> String {
    format!("default.{zone}.mesh.local")
}

pub(crate) fn id(zone: &str, workload: &str) -> SpiffeId {
    format!("spiffe://{}/workload/{workload}", domain(zone)).parse().unwrap()
}

pub(crate) fn svid(ca: &ZoneCa, id: &SpiffeId) -> Svid {
    let key = PrivateKey::generate();
    let chain = ca.issue(key.request().der(), id, SVID_LIFETIME, now()).unwrap();
    Svid::new(chain, &key).unwrap()
}

/// A store of the bundles of these zones, which must all be admitted.
pub(crate) fn trust(zones: &[(&str, &ZoneCa)]) -> Arc<TrustStore> {
    let bundles =
        zones.iter().map(|(zone, ca)| (ca.trust_domain().clone(), zone.parse().unwrap(), ca.bundle_pem()));
    let (store, problems) = TrustStore::from_bundles(bundles);
    assert_eq!(problems, []);
    Arc::new(store)
}

pub(crate) struct Pair {
    pub(crate) client: client::TlsStream<DuplexStream>,
    pub(crate) server: server::TlsStream<DuplexStream>,
}

/// Why the client failed, and why the server did. A client learns that it was refused only when it
/// reads, so each end says one byte to the other.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) client: Option<String>,
    pub(crate) server: Option<String>,
}

pub(crate) async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Result<Pair, Refused> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connect = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"c").await?;
        stream.read_u8().await?;
        std::io::Result::Ok(stream)
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"s").await?;
        stream.read_u8().await?;
        std::io::Result::Ok(stream)
    };
    match tokio::join!(connect, accept) {
        (Ok(client), Ok(server)) => Ok(Pair { client, server }),
        (client, server) => Err(Refused {
            client: client.err().map(|error| error.to_string()),
            server: server.err().map(|error| error.to_string()),
        }),
    }
}
