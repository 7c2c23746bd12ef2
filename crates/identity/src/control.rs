//! The authority of one control plane: it signs that control plane's own certificate, and those by which
//! it knows the peers that joined it. It signs no workload.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::authority::{AUTHORITY_LIFETIME, Authority, AuthorityError, IssueError, Leaf, ia5};
use crate::certificate::{CertificateError, Facts, Validity, parse};
use crate::key::{PrivateKey, RequestedKey};
use crate::peer::{Peer, ServerRole};
use crate::pin::Pin;
use crate::svid::Credential;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A control plane's own certificate, and a zone's. Browsers take none that lives longer than 398 days.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The share of its life after which a peer renews the certificate by which a control plane knows it: see
/// [`Credential::renew_at`].
pub const PEER_RENEWAL: f64 = 1.0 / 3.0;

pub struct ControlCa {
    role: ServerRole,
    authority: Authority,
}

impl ControlCa {
    pub fn create(role: ServerRole, now: SystemTime) -> Result<Self, IssueError> {
        let (name, uri) = (role.to_string(), format!("spiffe://{role}"));
        Ok(Self { role, authority: Authority::create(&name, &uri, AUTHORITY_LIFETIME, now)? })
    }

    /// The reverse of [`Self::to_pem`].
    pub fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        let authority = Authority::from_pem(text)?;
        let uri = authority.uri()?;
        let role = uri.strip_prefix("spiffe://").and_then(|name| name.parse().ok());
        Ok(Self { role: role.ok_or(AuthorityError::Name)?, authority })
    }

    /// Key and certificate, for the control plane's sealed store and for nothing else.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.authority.to_pem()
    }

    pub fn role(&self) -> &ServerRole {
        &self.role
    }

    pub fn validity(&self) -> Validity {
        self.authority.validity()
    }

    /// The certificate alone, for `ca.crt`.
    pub fn ca_pem(&self) -> String {
        self.authority.certificate_pem()
    }

    /// What tokens carry as `ca`.
    pub fn pin(&self) -> Pin {
        Pin::of(self.certificate())
    }

    /// A new key and certificate for this control plane to serve with, sent with the authority's own.
    /// Beside the name of its role it carries `localhost`, the loopback addresses and `hosts` (names or
    /// addresses), for clients that compare the address they dialled; ours do not.
    pub fn server_credential(&self, hosts: &[String], now: SystemTime) -> Result<Credential, IssueError> {
        let mut names = vec![dns(&self.role.to_string())?, dns("localhost")?];
        names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        names.push(SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
        for host in hosts {
            let name = match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => dns(host)?,
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let key = PrivateKey::generate();
        let purposes = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf =
            self.authority.sign(&key, Leaf { common_name: None, names, purposes, lifetime: YEAR }, now)?;
        let chain = vec![leaf, self.certificate().clone()];
        Ok(Credential::new(chain, &key).expect("a certificate just written fits its key"))
    }

    /// The certificate by which this control plane will know `peer`, for the key of `request` (PKCS#10,
    /// DER): a year for a zone, 30 days for others. Who the peer is comes from its token or certificate.
    ///
    /// `token` is the name of the token that it stands on, by which it can be revoked: see
    /// [`token_of_certificate`].
    pub fn issue_client(
        &self,
        request: &[u8],
        peer: &Peer,
        token: Option<&str>,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let key = RequestedKey::read(request)?;
        let leaf = Leaf {
            common_name: token.map(str::to_owned),
            names: vec![SanType::URI(ia5(&peer.uri(&self.role))?)],
            purposes: vec![ExtendedKeyUsagePurpose::ClientAuth],
            lifetime: match peer {
                Peer::Zone(_) => YEAR,
                Peer::Proxy { .. } | Peer::Ingress(_) => 30 * DAY,
            },
        };
        Ok(vec![self.authority.sign(&key, leaf, now)?])
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        self.authority.certificate()
    }
}

/// Why a client certificate is none of a peer that joined.
#[derive(Eq, PartialEq, thiserror::Error)]
pub enum PeerError {
    #[error("the client's certificate cannot be read: {0}")]
    Malformed(#[from] CertificateError),
    #[error("the client's certificate is not for use as a client")]
    Purpose,
    #[error("the client's certificate is not one of a peer of {0}")]
    NotAPeer(ServerRole),
}

/// As a sentence: rustls shows the errors of verifiers by `Debug`.
impl fmt::Debug for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who a client is, from the certificate that TLS has verified with [`crate::control_tls::server_config`].
pub fn peer_from_certificate(certificate: &[u8], server: &ServerRole) -> Result<Peer, PeerError> {
    let facts = Facts::read(certificate)?;
    // A server's certificate of this authority is not a peer's, nor is the authority's own.
    if !facts.usage.client || facts.usage.server || facts.authority {
        return Err(PeerError::Purpose);
    }
    match facts.uris.as_slice() {
        [uri] => Peer::from_uri(uri, server).ok_or_else(|| PeerError::NotAPeer(server.clone())),
        _ => Err(PeerError::NotAPeer(server.clone())),
    }
}

/// The token that a client's certificate stands on, however often it was renewed since; none in one that was
/// issued before certificates said so. It stands as the common name.
pub fn token_of_certificate(certificate: &[u8]) -> Result<Option<String>, CertificateError> {
    let certificate = parse(certificate)?;
    let mut names = certificate.subject().iter_common_name();
    let Some(name) = names.next() else { return Ok(None) };
    let name = name.as_str().map_err(|_| CertificateError::UnreadableName)?;
    Ok(Some(name.to_owned()))
}

fn dns(name: &str) -> Result<SanType, IssueError> {
    Ok(SanType::DnsName(ia5(name)?))
}
