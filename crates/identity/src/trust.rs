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
use crate::clocks::OutOfTime;
use crate::tls::provider;

/// Who a verified peer is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkloadPeer {
    pub id: SpiffeId,
    /// The zone that owns the trust domain of the id.
    pub zone: ZoneName,
    /// When its certificate ends; what it was let in for ends no later.
    pub not_after: SystemTime,
    anchor: AnchorKey,
}

/// The public key of the anchor that a peer was believed by.
type AnchorKey = Arc<[u8]>;

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
    #[error("trust domain {0} has no anchor here")]
    NoAnchor(TrustDomain),
    #[error("no anchor of trust domain {0} is valid at this time: {1}")]
    AnchorOutOfTime(TrustDomain, OutOfTime),
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
    key: AnchorKey,
    validity: Validity,
}

/// A certificate that may become an anchor, unless another domain has its key.
struct Candidate {
    domain: TrustDomain,
    certificate: CertificateDer<'static>,
    key: AnchorKey,
    validity: Validity,
    /// Its own key signed it, with this domain's name in it: nobody else can make such a certificate.
    proven: bool,
}

/// A bundle that was read once, to be looked at beside others.
#[derive(Debug)]
pub struct Claims {
    domain: TrustDomain,
    /// Whose keys they would be, and whether somebody proves to have one.
    keys: Vec<(AnchorKey, bool)>,
    refused: Option<Refusal>,
}

impl Claims {
    pub fn read(domain: &TrustDomain, pem: &str) -> Self {
        let (candidates, mut refused) = candidates(domain, pem);
        for candidate in &candidates {
            if RootCertStore::empty().add(candidate.certificate.clone()).is_err() {
                refused.push(Refusal::Unusable);
            }
        }
        let keys = candidates.into_iter().map(|candidate| (candidate.key, candidate.proven)).collect();
        Self { domain: domain.clone(), keys, refused: refused.into_iter().next() }
    }

    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Why not all of it can be used beside bundles of other trust domains that are there already. The keys are given as
    /// [`TrustStore::from_bundles`] gives them.
    pub fn problem<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Option<Problem> {
        let problem = |reason| Problem { domain: self.domain.clone(), reason };
        if let Some(refused) = &self.refused {
            return Some(problem(refused.clone()));
        }
        let has_first = |other: &&Self| {
            let precedes = |(key, proven): &(AnchorKey, bool)| {
                self.keys.iter().any(|(own, own_proven)| own == key && (*proven || !own_proven))
            };
            other.domain != self.domain && other.keys.iter().any(precedes)
        };
        let owner = others.into_iter().find(has_first)?;
        Some(problem(Refusal::KeyOfAnother(owner.domain.clone())))
    }
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
            if domains.contains_key(&domain) {
                problems.push(Problem { domain, reason: Refusal::Repeated });
                continue;
            }
            let (read, refused) = self::candidates(&domain, &pem);
            candidates.extend(read);
            problems.extend(refused.into_iter().map(|reason| Problem { domain: domain.clone(), reason }));
            if !is_reserved(&domain) {
                domains.insert(domain, Domain { zone, anchors: Vec::new() });
            }
        }

        let provider = provider();
        // Stable: among equals the first stays first.
        candidates.sort_by_key(|candidate| !candidate.proven);
        let mut owners = BTreeMap::<AnchorKey, TrustDomain>::new();
        let mut seen = HashSet::new();
        for Candidate { domain, certificate, key, validity, .. } in candidates {
            let owner = owners.entry(key.clone()).or_insert_with(|| domain.clone());
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
                (Ok(()), Ok(clients), Some(known)) => {
                    known.anchors.push(Anchor { roots, clients, key, validity });
                }
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

    /// The zone of a peer that was believed by another store, if it still is by this one: its trust domain is
    /// known, and the anchor that led to it is one of the domain's. When its certificate ends is not looked at.
    pub fn still_believes(&self, peer: &WorkloadPeer) -> Option<&ZoneName> {
        let known = self.domains.get(&peer.id.trust_domain())?;
        let is_there = known.anchors.iter().any(|anchor| anchor.key == peer.anchor);
        is_there.then_some(&known.zone)
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
        let (id, known) = self.named(&facts)?;
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
        let domain = id.trust_domain();
        for intermediate in intermediates {
            let facts = Facts::read(intermediate).map_err(malformed)?;
            let own = facts.uris.iter().all(|uri| names(uri, &domain));
            if !own || !facts.authority || facts.usage.signs_certificates == Some(false) {
                return Err(VerifyError::Intermediate(domain));
            }
        }
        let anchor = self.verify_chain(known, leaf, intermediates, now, role)?;
        let anchor = anchor.ok_or_else(|| known.no_anchor(domain, now))?;
        Ok(known.peer(id, &facts, anchor))
    }

    /// Who a peer is that this store has just verified. Which anchor led to it costs a look at the signatures
    /// only where there are several.
    pub(crate) fn describe(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        role: Role,
    ) -> Result<WorkloadPeer, VerifyError> {
        let facts = Facts::read(leaf).map_err(malformed)?;
        let (id, known) = self.named(&facts)?;
        let anchor = match known.anchors.as_slice() {
            [only] => Some(only),
            _ => self.verify_chain(known, leaf, intermediates, now, role)?,
        };
        let anchor = anchor.ok_or_else(|| known.no_anchor(id.trust_domain(), now))?;
        Ok(known.peer(id, &facts, anchor))
    }

    /// Whom a certificate names, checked by nothing.
    fn named(&self, facts: &Facts<'_>) -> Result<(SpiffeId, &Domain), VerifyError> {
        let id = facts.id()?;
        let domain = id.trust_domain();
        let known = self.domains.get(&domain).ok_or(VerifyError::UnknownDomain(domain))?;
        Ok((id, known))
    }

    /// The anchor that leads to a leaf; none where none is valid at this time.
    fn verify_chain<'a>(
        &self,
        known: &'a Domain,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
        role: Role,
    ) -> Result<Option<&'a Anchor>, VerifyError> {
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        let mut refused = None;
        for anchor in known.anchors.iter().filter(|anchor| anchor.validity.covers(now)) {
            let verified = match role {
                Role::Client => anchor.clients.verify_client_cert(leaf, intermediates, time).map(drop),
                Role::Server => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                    let all = self.algorithms.all;
                    verify_server_cert_signed_by_trust_anchor(&leaf, &anchor.roots, intermediates, time, all)
                }),
            };
            match verified {
                Ok(()) => return Ok(Some(anchor)),
                Err(error) => refused = Some(more_telling(refused, error)),
            }
        }
        match refused {
            Some(error) => Err(VerifyError::Chain(error)),
            None => Ok(None),
        }
    }
}

impl Domain {
    /// Why nobody is believed now: of several anchors, the last to end tells.
    fn no_anchor(&self, domain: TrustDomain, now: SystemTime) -> VerifyError {
        let last =
            self.anchors.iter().map(|anchor| anchor.validity).max_by_key(|validity| validity.not_after);
        match last {
            Some(validity) => VerifyError::AnchorOutOfTime(domain, OutOfTime { validity, now }),
            None => VerifyError::NoAnchor(domain),
        }
    }

    fn peer(&self, id: SpiffeId, facts: &Facts<'_>, anchor: &Anchor) -> WorkloadPeer {
        let (zone, not_after) = (self.zone.clone(), facts.validity.not_after);
        WorkloadPeer { id, zone, not_after, anchor: anchor.key.clone() }
    }
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.domains.keys()).finish()
    }
}

/// The certificates of a bundle that may become anchors, and what is wrong with the others.
fn candidates(domain: &TrustDomain, pem: &str) -> (Vec<Candidate>, Vec<Refusal>) {
    if is_reserved(domain) {
        return (Vec::new(), vec![Refusal::Reserved]);
    }
    let certificates = match certificates_from_pem(pem) {
        Ok(certificates) => certificates,
        Err(error) => return (Vec::new(), vec![Refusal::Unreadable(Arc::new(error))]),
    };
    let (mut candidates, mut refused) = (Vec::new(), Vec::new());
    for certificate in certificates {
        match Candidate::read(domain, certificate) {
            Ok(candidate) => candidates.push(candidate),
            Err(reason) => refused.push(reason),
        }
    }
    (candidates, refused)
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
        let (key, validity) = (facts.public_key.into(), facts.validity);
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
fn more_telling(sofar: Option<rustls::Error>, error: rustls::Error) -> rustls::Error {
    let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    match sofar {
        Some(sofar) if error == unknown => sofar,
        _ => error,
    }
}

fn malformed(error: CertificateError) -> VerifyError {
    VerifyError::Malformed(Arc::new(error))
}
