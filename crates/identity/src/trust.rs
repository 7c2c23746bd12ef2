//! Whom to believe about a workload: the anchors of each trust domain, and verification by them.
//!
//! A peer's certificate counts only if the anchors *of the trust domain in its own id* lead to it. A
//! zone's authority thus speaks for that zone's trust domains and for no other, and a key is an anchor
//! of one domain at most.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use model::{SpiffeId, TrustDomain, ZoneName};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};

use crate::certificate::{CertificateError, Facts, IdError, Validity, certificates_from_pem, parse, shown};
use crate::tls::provider;

/// Who a verified peer is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkloadPeer {
    pub id: SpiffeId,
    /// The zone that owns the trust domain of the id.
    pub zone: ZoneName,
    /// When its certificate ends; what it was let in for ends no later.
    pub not_after: SystemTime,
}

/// Which end of the connection showed the certificate.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    Client,
    Server,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// Why a peer's certificate is refused.
#[derive(Clone, thiserror::Error)]
pub enum VerifyError {
    #[error("the peer showed no certificate")]
    NoCertificate,
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(Arc<CertificateError>),
    #[error("the peer's certificate names no workload: {0}")]
    Id(#[from] IdError),
    #[error("the peer's certificate is not for use as a {0}")]
    Purpose(Role),
    #[error("the peer's certificate is one of an authority, not of a workload")]
    Authority,
    #[error("trust domain {0} is not known here")]
    UnknownDomain(TrustDomain),
    #[error("no anchor of trust domain {0} is valid at this time")]
    NoAnchor(TrustDomain),
    #[error("an intermediate of the peer cannot sign for trust domain {0}")]
    Intermediate(TrustDomain),
    #[error("the peer's certificate is not signed by its trust domain, or out of time")]
    Chain(#[source] rustls::Error),
}

/// As a sentence: rustls shows the errors of verifiers by `Debug`.
impl fmt::Debug for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(source) => write!(f, "{self}: {source}"),
            _ => write!(f, "{self}"),
        }
    }
}

/// A certificate of a bundle, or a whole bundle, that is not used. The rest is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    pub domain: TrustDomain,
    pub reason: Refusal,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bundle of trust domain {}: {}", self.domain, self.reason)
    }
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Unreadable(Arc<CertificateError>),
    #[error("a certificate is not one of an authority")]
    NotAuthority,
    #[error("a certificate carries the URI name '{0}', which is not this trust domain")]
    ForeignName(String),
    #[error("a certificate cannot be an anchor")]
    Unusable,
    #[error("the key of a certificate is already an anchor of trust domain {0}")]
    KeyOfAnother(TrustDomain),
    #[error("the trust domain stands twice, the second time with other certificates or another zone")]
    Repeated,
    #[error("names below tombolo.internal belong to control planes")]
    Reserved,
}

/// The anchors of every trust domain of a mesh. Immutable: a change of trust is a new store.
pub struct TrustStore {
    domains: BTreeMap<TrustDomain, Domain>,
    algorithms: WebPkiSupportedAlgorithms,
}

struct Domain {
    zone: ZoneName,
    anchors: Vec<Anchor>,
}

/// One by one, since each has its own time, which webpki does not look at.
struct Anchor {
    roots: Arc<RootCertStore>,
    /// The same roots once more: rustls shows chain building for clients only in this form.
    clients: Arc<dyn ClientCertVerifier>,
    validity: Validity,
}

/// A certificate that may become an anchor, unless another domain has its key.
struct Candidate {
    domain: TrustDomain,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    validity: Validity,
    /// Its own key signed it, with this domain's name in it: nobody else can make such a certificate.
    proven: bool,
}

impl TrustStore {
    /// From the PEM bundles of all trust domains. Each certificate must be an authority's, and carry no
    /// URI name but `spiffe://<domain>`. One that is out of time is kept and not used at that time. A key
    /// that two domains claim goes to the one whose certificate proves possession of it, then to the one
    /// that comes first; so a zone that copies another's authority disturbs nothing.
    pub fn from_bundles(
        bundles: impl IntoIterator<Item = (TrustDomain, ZoneName, String)>,
    ) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut domains = BTreeMap::new();
        let mut candidates = Vec::new();
        for (domain, zone, pem) in bundles {
            let mut refuse = |reason| problems.push(Problem { domain: domain.clone(), reason });
            if is_reserved(&domain) {
                refuse(Refusal::Reserved);
                continue;
            }
            if domains.contains_key(&domain) {
                refuse(Refusal::Repeated);
                continue;
            }
            domains.insert(domain.clone(), Domain { zone, anchors: Vec::new() });
            match certificates_from_pem(&pem) {
                Ok(certificates) => {
                    for certificate in certificates {
                        match Candidate::read(&domain, certificate) {
                            Ok(candidate) => candidates.push(candidate),
                            Err(reason) => refuse(reason),
                        }
                    }
                }
                Err(error) => refuse(Refusal::Unreadable(Arc::new(error))),
            }
        }

        let provider = provider();
        // Stable: among equals the first stays first.
        candidates.sort_by_key(|candidate| !candidate.proven);
        let mut owners = BTreeMap::<Vec<u8>, TrustDomain>::new();
        let mut seen = HashSet::new();
        for Candidate { domain, certificate, key, validity, .. } in candidates {
            let owner = owners.entry(key).or_insert_with(|| domain.clone());
            if *owner != domain {
                problems.push(Problem { domain, reason: Refusal::KeyOfAnother(owner.clone()) });
                continue;
            }
            if !seen.insert(certificate.clone()) {
                continue;
            }
            let mut roots = RootCertStore::empty();
            let added = roots.add(certificate);
            let roots = Arc::new(roots);
            let clients =
                WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
            match (added, clients, domains.get_mut(&domain)) {
                (Ok(()), Ok(clients), Some(known)) => known.anchors.push(Anchor { roots, clients, validity }),
                _ => problems.push(Problem { domain, reason: Refusal::Unusable }),
            }
        }
        (Self { domains, algorithms: provider.signature_verification_algorithms }, problems)
    }

    /// Whether a peer that shows this chain, leaf first, is who it says. `role` is the peer's.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        role: Role,
    ) -> Result<WorkloadPeer, VerifyError> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        self.verify_parts(leaf, intermediates, now, role)
    }

    pub fn zone_of(&self, domain: &TrustDomain) -> Option<&ZoneName> {
        self.domains.get(domain).map(|known| &known.zone)
    }

    pub fn domains(&self) -> impl Iterator<Item = (&TrustDomain, &ZoneName)> {
        self.domains.iter().map(|(domain, known)| (domain, &known.zone))
    }

    pub(crate) fn verify_parts(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        role: Role,
    ) -> Result<WorkloadPeer, VerifyError> {
        let facts = Facts::read(leaf).map_err(malformed)?;
        let peer = self.peer(&facts)?;
        if facts.authority || facts.usage.signs_certificates == Some(true) || facts.usage.signs_lists {
            return Err(VerifyError::Authority);
        }
        // webpki lets a certificate pass that says nothing about its purpose.
        let purpose = match role {
            Role::Client => facts.usage.client,
            Role::Server => facts.usage.server,
        };
        if !purpose {
            return Err(VerifyError::Purpose(role));
        }
        let domain = peer.id.trust_domain();
        for intermediate in intermediates {
            let facts = Facts::read(intermediate).map_err(malformed)?;
            let own = facts.uris.iter().all(|uri| names(uri, &domain));
            if !own || !facts.authority || facts.usage.signs_certificates == Some(false) {
                return Err(VerifyError::Intermediate(domain));
            }
        }
        self.verify_chain(&domain, leaf, intermediates, now, role)?;
        Ok(peer)
    }

    /// Who a certificate says it is, checked by nothing: only for one that was verified before.
    pub(crate) fn describe(&self, leaf: &CertificateDer<'_>) -> Result<WorkloadPeer, VerifyError> {
        self.peer(&Facts::read(leaf).map_err(malformed)?)
    }

    fn peer(&self, facts: &Facts<'_>) -> Result<WorkloadPeer, VerifyError> {
        let id = facts.id()?;
        let domain = id.trust_domain();
        let known = self.domains.get(&domain).ok_or(VerifyError::UnknownDomain(domain))?;
        Ok(WorkloadPeer { id, zone: known.zone.clone(), not_after: facts.validity.not_after })
    }

    fn verify_chain(
        &self,
        domain: &TrustDomain,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        role: Role,
    ) -> Result<(), VerifyError> {
        let anchors = self.domains.get(domain).map(|known| known.anchors.as_slice()).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut refused = VerifyError::NoAnchor(domain.clone());
        for anchor in anchors.iter().filter(|anchor| anchor.validity.covers(now)) {
            let verified = match role {
                Role::Client => anchor.clients.verify_client_cert(leaf, intermediates, time).map(drop),
                Role::Server => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                    let all = self.algorithms.all;
                    verify_server_cert_signed_by_trust_anchor(&leaf, &anchor.roots, intermediates, time, all)
                }),
            };
            match verified {
                Ok(()) => return Ok(()),
                Err(error) => refused = more_telling(refused, error),
            }
        }
        Err(refused)
    }
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.domains.keys()).finish()
    }
}

impl Candidate {
    fn read(domain: &TrustDomain, certificate: CertificateDer<'static>) -> Result<Self, Refusal> {
        let unreadable = |error| Refusal::Unreadable(Arc::new(error));
        let parsed = parse(&certificate).map_err(unreadable)?;
        let facts = Facts::of(&parsed).map_err(unreadable)?;
        if !facts.authority || facts.usage.signs_certificates == Some(false) {
            return Err(Refusal::NotAuthority);
        }
        if let Some(foreign) = facts.uris.iter().find(|uri| !names(uri, domain)) {
            return Err(Refusal::ForeignName(shown(foreign)));
        }
        let proven = !facts.uris.is_empty() && parsed.verify_signature(None).is_ok();
        let (key, validity) = (facts.public_key.to_vec(), facts.validity);
        Ok(Self { domain: domain.clone(), key, validity, proven, certificate })
    }
}

/// Whether a URI name is that of the trust domain itself.
fn names(uri: &str, domain: &TrustDomain) -> bool {
    uri.strip_prefix("spiffe://") == Some(domain.as_str())
}

fn is_reserved(domain: &TrustDomain) -> bool {
    let name = domain.as_str();
    name == "tombolo.internal" || name.ends_with(".tombolo.internal")
}

/// Of the answers of several anchors, one that is not simply "not mine".
fn more_telling(sofar: VerifyError, error: rustls::Error) -> VerifyError {
    let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    match sofar {
        VerifyError::Chain(_) if error == unknown => sofar,
        _ => VerifyError::Chain(error),
    }
}

fn malformed(error: CertificateError) -> VerifyError {
    VerifyError::Malformed(Arc::new(error))
}
