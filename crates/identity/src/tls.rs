//! TLS between proxies.
//!
//! TLS 1.3 with certificates on both sides, and resumption off: a resumed connection would not call the
//! verifier, and so outlive the trust it was granted under. The client checks that its peer's
//! certificate is good for *some* id; which id it expected, the caller compares right after the
//! handshake ([`peer_of`]), so that one configuration serves every destination.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::SpiffeId;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};

use crate::svid::Svid;
use crate::trust::{Role, TrustStore, VerifyError, WorkloadPeer};

/// What a connection between proxies carries.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Alpn {
    /// Requests, as HTTP/2.
    H2,
    /// Requests, as HTTP/1.1.
    Http1,
    /// One opaque connection.
    Tcp,
}

impl Alpn {
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::H2 => b"h2",
            Self::Http1 => b"http/1.1",
            Self::Tcp => b"tombolo-tcp",
        }
    }

    /// What was agreed on, from rustls' `alpn_protocol()`; none also for a name we do not know.
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        [Self::H2, Self::Http1, Self::Tcp].into_iter().find(|known| known.as_bytes() == name)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the TLS configuration could not be made")]
pub struct TlsError(#[from] Error);

/// For an inbound: it demands a client certificate that [`TrustStore::verify`] accepts, and takes the
/// given protocols, or none at all; a client that offers only others is refused by TLS.
pub fn workload_server(
    svid: &Svid,
    trust: Arc<TrustStore>,
    alpn: &[Alpn],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = WorkloadVerifier::new(&provider, trust, None);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(svid.credential().certified())));
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    without_server_resumption(&mut config);
    Ok(Arc::new(config))
}

/// For an outbound: one configuration for an identity and a protocol, whatever the destination. The
/// server's name is a handle that only routes, so it is not compared with the certificate.
pub fn workload_client(
    svid: &Svid,
    trust: Arc<TrustStore>,
    alpn: Alpn,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = WorkloadVerifier::new(&provider, trust, None);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(svid.credential().certified())));
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The same configuration for one connection, whose handshake fails unless the server proves to be exactly
/// `expected`. So it fails before the server knows that it has a client: one that is honest but not the
/// expected one does nothing on its behalf. The error is [`WrongServer`], in rustls' `CertificateError::Other`.
pub fn expecting(config: &ClientConfig, trust: Arc<TrustStore>, expected: SpiffeId) -> Arc<ClientConfig> {
    let mut config = config.clone();
    let verifier = WorkloadVerifier::new(config.crypto_provider(), trust, Some(expected));
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    Arc::new(config)
}

/// A server that proved to be somebody else than the expected one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the server is {found}")]
pub struct WrongServer {
    pub found: SpiffeId,
}

impl WrongServer {
    /// Whether that is why a handshake failed.
    pub fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => cause.downcast_ref(),
            _ => None,
        }
    }
}

/// Who is at the other end of a handshake that finished `now`, from rustls' `peer_certificates()`; `role` is the
/// peer's. Signatures are checked again only where its trust domain has several anchors, to tell which it was: the
/// handshake checked them, with the same store. None if the peer showed no certificate, or its trust domain is not
/// in this store.
pub fn peer_of(
    certificates: Option<&[CertificateDer<'_>]>,
    trust: &TrustStore,
    now: SystemTime,
    role: Role,
) -> Option<WorkloadPeer> {
    let (leaf, intermediates) = certificates?.split_first()?;
    trust.describe(leaf, intermediates, now, role).ok()
}

/// A handle as the name to send. Handles are DNS names; an address is not one.
pub fn sni(name: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    Ok(ServerName::DnsName(name.to_owned().try_into()?))
}

/// aws-lc-rs with the cheapest good choice first: a handshake between proxies happens often, and the
/// larger hello of a post-quantum key share only when the peer asks for it.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519, kx_group::X25519MLKEM768],
        ..rustls::crypto::aws_lc_rs::default_provider()
    })
}

pub(crate) fn without_server_resumption(config: &mut ServerConfig) {
    // No ticketer is rustls' default; the session storage and two tickets for each handshake are as well.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

#[derive(Debug)]
struct WorkloadVerifier {
    trust: Arc<TrustStore>,
    algorithms: WebPkiSupportedAlgorithms,
    /// Of servers; none: anyone who is believed.
    expected: Option<SpiffeId>,
}

impl WorkloadVerifier {
    fn new(provider: &CryptoProvider, trust: Arc<TrustStore>, expected: Option<SpiffeId>) -> Self {
        Self { trust, algorithms: provider.signature_verification_algorithms, expected }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<SpiffeId, Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match self.trust.verify_parts(leaf, intermediates, now, role) {
            Ok(peer) => Ok(peer.id),
            Err(error) => Err(alert(error)),
        }
    }
}

/// As rustls' own error where it has one, so that the peer gets the alert that tells it most.
fn alert(error: VerifyError) -> Error {
    match error {
        VerifyError::Chain(error) => error,
        VerifyError::Malformed(_) => CertificateError::BadEncoding.into(),
        VerifyError::NoCertificate => Error::NoCertificatesPresented,
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

impl ServerCertVerifier for WorkloadVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _handle: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self.verify(leaf, intermediates, now, Role::Server)?;
        if self.expected.as_ref().is_some_and(|expected| *expected != found) {
            return Err(CertificateError::Other(OtherError(Arc::new(WrongServer { found }))).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for WorkloadVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A proxy has one certificate; naming every authority of the mesh would only make the hello long.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, now, Role::Client).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
