//! A zone's authority for one mesh: it signs the workloads of one trust domain.
//!
//! The identity comes from the caller, who took it from the credential of the session. Of the request
//! nothing counts but the key that signed it.

use std::time::{Duration, SystemTime};

use model::{SpiffeId, TrustDomain};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, IssueError, Leaf, ia5};
use crate::certificate::Validity;
use crate::key::RequestedKey;

/// How long a workload's certificate lives unless its MeshIdentity says otherwise.
pub const SVID_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

pub struct ZoneCa {
    domain: TrustDomain,
    authority: Authority,
}

impl ZoneCa {
    /// A new key with a self-signed certificate that carries `spiffe://<domain>`.
    pub fn create(domain: TrustDomain, lifetime: Duration, now: SystemTime) -> Result<Self, IssueError> {
        let authority = Authority::create(domain.as_str(), &format!("spiffe://{domain}"), lifetime, now)?;
        Ok(Self { domain, authority })
    }

    /// The reverse of [`Self::to_pem`].
    pub fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        let authority = Authority::from_pem(text)?;
        let uri = authority.uri()?;
        let domain = uri.strip_prefix("spiffe://").and_then(|domain| domain.parse().ok());
        Ok(Self { domain: domain.ok_or(AuthorityError::Name)?, authority })
    }

    /// Key and certificate, for the zone's sealed store and for nothing else.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.authority.to_pem()
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    pub fn validity(&self) -> Validity {
        self.authority.validity()
    }

    /// What others need to believe this authority.
    pub fn bundle_pem(&self) -> String {
        self.authority.certificate_pem()
    }

    /// A certificate of `id` for the key of `request` (PKCS#10, DER), leaf first. It ends after
    /// `lifetime`, or with the authority if that is sooner.
    pub fn issue(
        &self,
        request: &[u8],
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        if id.trust_domain() != self.domain {
            return Err(IssueError::NotOurs { asked: id.to_string(), signs_for: self.domain.to_string() });
        }
        let key = RequestedKey::read(request)?;
        let leaf = Leaf {
            common_name: None,
            names: vec![SanType::URI(ia5(id.as_str())?)],
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            lifetime,
        };
        Ok(vec![self.authority.sign(&key, leaf, now)?])
    }
}
