//! What the zone says of itself when somebody asks how the mesh is.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use api::shapes::{MOST_LATE, ProxyCounts};
use api::status::{EndingCertificate, IngressStatus, ZoneReport};
use control::{Clock, serve};
use identity::Credential;
use joining::Kept;
use model::ZoneName;
use store::Store;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::hub::Hub;
use crate::ingresses::Ingresses;
use crate::planner::Look;
use crate::proof;

pub struct Reporter {
    pub zone: ZoneName,
    pub store: Arc<dyn Store>,
    pub hub: Arc<Hub>,
    pub ingresses: Arc<Ingresses>,
    pub clock: Clock,
    pub started: Instant,
    /// When the authority of this control plane's own certificates ends.
    pub authority_ends: SystemTime,
    /// By what the zone is known at its global, where it joins one.
    pub membership: Option<watch::Receiver<Option<Arc<Kept>>>>,
}

impl Reporter {
    pub fn report(&self) -> (ProxyCounts, ZoneReport) {
        let (look, proof) = self.hub.look();
        let Look { services, services_without_endpoints, proxies_without_identity, mut certificates } = look;
        let of = format!("control plane of zone {}", self.zone);
        let now = self.clock.now();
        certificates.extend(EndingCertificate::of_authority(of, self.authority_ends, now));
        let kept = self.membership.as_ref().and_then(|membership| membership.borrow().clone());
        certificates.extend(kept.and_then(|kept| ending_membership(&self.zone, kept.credential(), now)));
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
            unwritable: serve::unwritable(&*self.store),
        };
        (proof::counts(&proof), report)
    }
}

/// It is renewed at a third of its life, so at half of it something is in the way.
fn ending_membership(zone: &ZoneName, credential: &Credential, now: SystemTime) -> Option<EndingCertificate> {
    let ends = credential.validity().not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let is_due = credential.renew_at(1.0 / 2.0, 0.0) <= now;
    is_due.then(|| EndingCertificate { of: format!("zone {zone} at the global"), ends })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::{ControlCa, Peer, PrivateKey, ServerRole};

    use super::*;

    #[test]
    fn a_membership_is_missed_when_half_of_its_life_is_over() {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let start = UNIX_EPOCH + 20_000 * DAY;
        let (zone, key): (ZoneName, _) = ("east".parse().unwrap(), PrivateKey::generate());
        let ca = ControlCa::create(ServerRole::Global, start).unwrap();
        let chain = ca.issue_client(key.request().der(), &Peer::Zone(zone.clone()), None, start).unwrap();
        let credential = Credential::new(chain, &key).unwrap();
        for (days, want) in [(0, false), (180, false), (185, true), (400, true)] {
            let found = ending_membership(&zone, &credential, start + days * DAY);
            assert_eq!(found.is_some(), want, "after {days} days");
            assert!(found.is_none_or(|ending| ending.of == "zone east at the global" && ending.ends > 0));
        }
    }
}
