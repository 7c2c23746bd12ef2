//! Who a peer is: SPIFFE ids in certificates, zone authorities, trust bundles, tokens, rustls
//! configurations.
//!
//! Two families of certificates never meet. *Workload* certificates (SVIDs) are signed by a zone's
//! authority, believed by the trust domain of their id, and spoken between proxies. *Control*
//! certificates are signed by one control plane for itself and for the peers that joined it, and
//! spoken on its own ports. Neither is accepted where the other belongs.
//!
//! Nothing here does I/O or waits, and what is decided is decided for a `now` that the caller hands
//! in; only rustls reads a clock, once in each handshake. There is no way to build a configuration
//! that does not verify its peer.
//!
//! In the order to read them:

mod authority;
mod certificate;

pub mod ca;
pub mod key;
pub mod svid;
pub mod tls;
pub mod trust;

pub use authority::{AUTHORITY_LIFETIME, AuthorityError, IssueError};
pub use ca::{SVID_LIFETIME, ZoneCa};
pub use certificate::{
    BACKDATED, CertificateError, IdError, Validity, certificates_from_pem, certificates_to_pem,
};
pub use key::{CertificateRequest, KeyError, PrivateKey, RequestError};
pub use svid::{Credential, Svid, SvidError};
pub use tls::{Alpn, TlsError, peer_of, sni, workload_client, workload_server};
pub use trust::{Problem, Refusal, Role, TrustStore, VerifyError, WorkloadPeer};
