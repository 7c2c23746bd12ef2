//! What workers read: immutable values, parsed once where configuration enters.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::DestinationId;
use snapshot::parts::{Destination, Inbound, OutboundListener};

use crate::tls::Credentials;

/// The whole configuration of a sidecar, endpoints excepted: those are signals and change on their own.
///
/// It is replaced as a whole; what did not change keeps its connections.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Where the application's outgoing traffic enters.
    pub outbound: Vec<OutboundListener>,
    /// By the name of the part, which is the port that it listens on unless that is left to the kernel.
    pub inbounds: BTreeMap<u16, Arc<Inbound>>,
    pub destinations: BTreeMap<DestinationId, Arc<Destination>>,
    /// The same value as before means: nothing about identity and trust changed, connections stay.
    pub credentials: Arc<Credentials>,
}
