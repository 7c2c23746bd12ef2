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
//! Read `key` and `svid` (who we are), `trust` (whom to believe), `tls` (between proxies), `ca` (a zone
//! issues), then `peer`, `control`, `control_tls` (on the ports of control planes) and `token` (how one
//! gets there); `certificate`, `clocks` and `authority` are what they share.

mod authority;
mod certificate;
mod clocks;

pub mod ca;
pub mod control;
pub mod control_tls;
pub mod key;
pub mod peer;
pub mod pin;
pub mod svid;
pub mod tls;
pub mod token;
pub mod trust;

pub use authority::{AUTHORITY_LIFETIME, AuthorityError, IssueError};
pub use ca::{SVID_LIFETIME, ZoneCa};
pub use certificate::{
    BACKDATED, CertificateError, IdError, Validity, certificates_from_pem, certificates_to_pem,
};
pub use clocks::{OutOfTime, utc};
pub use control::{ControlCa, PEER_RENEWAL, PeerError, peer_from_certificate, token_of_certificate};
pub use control_tls::{
    ApiTlsError, ServerError, api_client_config, api_server_config, client_config, server_config,
};
pub use key::{CertificateRequest, KeyError, PrivateKey, RequestError};
pub use peer::{Peer, ServerRole};
pub use pin::Pin;
pub use svid::{Credential, Svid, SvidError};
pub use tls::{Alpn, TlsError, WrongServer, expecting, peer_of, sni, workload_client, workload_server};
pub use token::{
    AdminToken, Audience, Expected, Issuer, TokenClaims, TokenError, TokenKey, ca_of_token,
    expected_of_token, is_token_id, token_id,
};
pub use trust::{Claims, Problem, Refusal, Role, TrustStore, VerifyError, WorkloadPeer};
