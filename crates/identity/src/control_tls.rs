//! TLS on the ports of control planes.
//!
//! A server is known by its authority, which the client has the hash or the certificate of, and by the
//! name of its role. A client is known by a certificate of that same authority, or by a token inside the
//! connection: so on the sync port a certificate is optional, but a bad one is refused.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, ServerConfig,
    SignatureScheme, version::TLS13,
};

use crate::certificate::{CertificateError, Facts, Validity, certificates_from_pem};
use crate::clocks::OutOfTime;
use crate::control::{ControlCa, peer_from_certificate};
use crate::peer::ServerRole;
use crate::pin::Pin;
use crate::svid::Credential;
use crate::tls::{TlsError, provider, without_server_resumption};

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// For a sync port. Peers that joined show their certificate; one that is to join shows none.
pub fn server_config(ca: &ControlCa, credential: &Credential) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let roots = Arc::new(roots(ca.certificate())?);
    let chain = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    let verifier = PeerVerifier { chain, validity: ca.validity(), server: ca.role().clone() };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified())));
    config.alpn_protocols = vec![H2.to_vec()];
    without_server_resumption(&mut config);
    Ok(Arc::new(config))
}

/// For the REST API and the GUI: clients show tokens, no certificates.
pub fn api_server_config(credential: &Credential) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified())));
    config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
    without_server_resumption(&mut config);
    Ok(Arc::new(config))
}

/// For a session with the control plane `server`, known by its pin. `credential` is what it issued when
/// we joined; before that there is none, and the connection carries the token.
///
/// Whatever name the connector is given is sent and not compared: the certificate must carry the name of
/// the role.
pub fn client_config(
    pin: Pin,
    server: ServerRole,
    credential: Option<&Credential>,
) -> Result<Arc<ClientConfig>, TlsError> {
    client(Anchors::Pin(pin), Some(server), credential, &[H2])
}

/// For the REST API of a control plane whose `ca.crt` is at hand. Without a role, any control plane with
/// a certificate of that authority will do.
pub fn api_client_config(ca_pem: &str, server: Option<ServerRole>) -> Result<Arc<ClientConfig>, ApiTlsError> {
    let anchors = certificates_from_pem(ca_pem)?
        .into_iter()
        .map(|certificate| Anchor::read(certificate).map_err(ApiTlsError::NotAuthority))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(client(Anchors::These(anchors), server, None, &[H2, HTTP1])?)
}

#[derive(Debug, thiserror::Error)]
pub enum ApiTlsError {
    #[error("the CA file cannot be used: {0}")]
    File(#[from] CertificateError),
    #[error("the CA file cannot be used: {0}")]
    NotAuthority(#[source] ServerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why what answered is not the control plane that was meant.
#[derive(Clone, Eq, PartialEq, thiserror::Error)]
pub enum ServerError {
    #[error(
        "the server shows no certificate with the hash {0}: it is another control plane, or its CA changed"
    )]
    NotPinned(Pin),
    #[error("the certificate to anchor on is not one of a CA")]
    NotAuthority,
    #[error("the CA's certificate is out of time: {0}")]
    AuthorityOutOfTime(OutOfTime),
    #[error("the server's certificate is out of time: {0}")]
    OutOfTime(OutOfTime),
    #[error("the server's certificate is not for use as a server")]
    Purpose,
    #[error("the server's certificate is not one of {wanted}, but of {found}")]
    WrongRole { wanted: String, found: String },
}

/// As a sentence: rustls shows the errors of verifiers by `Debug`.
impl std::fmt::Debug for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

fn client(
    anchors: Anchors,
    server: Option<ServerRole>,
    credential: Option<&Credential>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = ServerVerifier { anchors, server, algorithms: provider.signature_verification_algorithms };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credential {
        Some(credential) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn roots(certificate: &CertificateDer<'_>) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned())?;
    Ok(roots)
}

fn system_time(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

fn refuse(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    rustls::CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// What a client believes in, before a server says anything.
#[derive(Debug)]
enum Anchors {
    /// Whichever certificate of the server's chain has this hash.
    Pin(Pin),
    These(Vec<Anchor>),
}

/// Times of anchors are ours to check: webpki does not.
#[derive(Debug)]
struct Anchor {
    roots: RootCertStore,
    validity: Validity,
}

impl Anchor {
    fn read(certificate: CertificateDer<'_>) -> Result<Self, ServerError> {
        let facts = Facts::read(&certificate).map_err(|_| ServerError::NotAuthority)?;
        if !facts.authority || facts.usage.signs_certificates == Some(false) {
            return Err(ServerError::NotAuthority);
        }
        let roots = roots(&certificate).map_err(|_| ServerError::NotAuthority)?;
        Ok(Self { roots, validity: facts.validity })
    }
}

#[derive(Debug)]
struct ServerVerifier {
    anchors: Anchors,
    server: Option<ServerRole>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let signed_by = |anchor: &Anchor| {
            let in_time = anchor.validity.check(system_time(now));
            in_time.map_err(|error| refuse(ServerError::AuthorityOutOfTime(error)))?;
            let all = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &anchor.roots, intermediates, now, all)
        };
        if let Ok(validity) = Validity::of(leaf) {
            validity.check(system_time(now)).map_err(|error| refuse(ServerError::OutOfTime(error)))?;
        }
        match &self.anchors {
            Anchors::Pin(pin) => {
                let pinned = std::iter::once(leaf).chain(intermediates).find(|der| Pin::of(der) == *pin);
                let pinned = pinned.ok_or_else(|| refuse(ServerError::NotPinned(*pin)))?;
                signed_by(&Anchor::read(pinned.clone()).map_err(refuse)?)?;
            }
            Anchors::These(anchors) => {
                let mut refused = Ok(());
                for anchor in anchors {
                    refused = signed_by(anchor);
                    if refused.is_ok() {
                        break;
                    }
                }
                refused?;
            }
        }
        self.check_role(leaf).map_err(refuse)
    }

    fn check_role(&self, leaf: &CertificateDer<'_>) -> Result<(), ServerError> {
        let facts = Facts::read(leaf).map_err(|_| ServerError::Purpose)?;
        // webpki lets a certificate pass that says nothing about its purpose.
        if !facts.usage.server {
            return Err(ServerError::Purpose);
        }
        // Compared as a whole: no wildcards.
        let roles = facts.dns_names.iter().filter_map(|name| name.parse::<ServerRole>().ok());
        let mut roles = roles.collect::<Vec<_>>().into_iter();
        let as_wanted = match &self.server {
            Some(wanted) => roles.clone().any(|role| role == *wanted),
            None => roles.len() > 0,
        };
        if as_wanted {
            return Ok(());
        }
        Err(ServerError::WrongRole {
            wanted: self.server.as_ref().map_or("a control plane".into(), ToString::to_string),
            found: roles.next().map_or("none".into(), |role| role.to_string()),
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, now)?;
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

/// webpki's verification by the one authority, and that the certificate is a peer's.
#[derive(Debug)]
struct PeerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    validity: Validity,
    server: ServerRole,
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let in_time = self.validity.check(system_time(now));
        in_time.map_err(|error| refuse(ServerError::AuthorityOutOfTime(error)))?;
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        peer_from_certificate(leaf, &self.server).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
