//! Zones with an authority each, and handshakes in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{AUTHORITY_LIFETIME, PrivateKey, SVID_LIFETIME, Svid, TrustStore, ZoneCa};
use model::SpiffeId;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
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

/// A client that believes any server, for what a server does with it.
pub(crate) fn credulous_client(
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
}

pub(crate) fn with_certificate(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    svid: &Svid,
) -> ClientConfig {
    let key = PrivateKeyDer::from_pem_slice(svid.credential().key_pem().as_bytes()).unwrap();
    builder.with_client_auth_cert(svid.credential().chain().to_vec(), key).unwrap()
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
