//! What the zone says of itself when somebody asks how the mesh is.

use std::sync::Arc;
use std::time::SystemTime;

use api::shapes::{MOST_LATE, ProxyCounts};
use api::status::{EndingCertificate, IngressStatus, ZoneReport};
use control::Clock;
use model::ZoneName;
use tokio::time::Instant;

use crate::hub::Hub;
use crate::ingresses::Ingresses;
use crate::planner::Look;
use crate::proof;

pub struct Reporter {
    pub zone: ZoneName,
    pub hub: Arc<Hub>,
    pub ingresses: Arc<Ingresses>,
    pub clock: Clock,
    pub started: Instant,
    /// When the authority of this control plane's own certificates ends.
    pub authority_ends: SystemTime,
}

impl Reporter {
    pub fn report(&self) -> (ProxyCounts, ZoneReport) {
        let (look, proof) = self.hub.look();
        let Look { services, services_without_endpoints, proxies_without_identity, mut certificates } = look;
        let of = format!("control plane of zone {}", self.zone);
        certificates.extend(EndingCertificate::of_authority(of, self.authority_ends, self.clock.now()));
        let ingresses = self.ingresses.watch().borrow().clone();
        let ingresses = ingresses.into_iter().map(|(name, address)| IngressStatus {
            connected: self.hub.has_ingress(&name),
            name: name.to_string(),
            address: address.to_string(),
        });
        let report = ZoneReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            late: proof::late(&self.zone, &proof).take(MOST_LATE).collect(),
            services,
            services_without_endpoints,
            proxies_without_identity,
            ingresses: ingresses.collect(),
            certificates,
        };
        (proof::counts(&proof), report)
    }
}
