//! How the zone is, as far as the planner knows: what `tombolo status` asks of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::status::{EndingCertificate, MOST_NAMED};
use identity::{SVID_LIFETIME, Validity, certificates_from_pem};
use model::kinds::mesh_identity::Provider;
use model::kinds::{Dataplane, MeshService, MeshTrust};
use model::{MeshName, ResourceName};
use snapshot::Proxy;
use snapshot::endpoints::destinations;

use super::{Client, Planner, Presence, ProxyId, State};

/// What is not as it should be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Look {
    /// Those that have ports.
    pub services: u64,
    /// `<mesh>/<name>`; at most [`MOST_NAMED`], as of all lists here.
    pub services_without_endpoints: Vec<String>,
    pub proxies_without_identity: Vec<String>,
    pub certificates: Vec<EndingCertificate>,
}

impl Planner {
    pub fn look(&self, now: SystemTime) -> Look {
        let own =
            self.view.all::<MeshService>().filter(|(held, _)| held.key.origin.zone() == Some(&self.zone));
        let (mut services, mut services_without_endpoints) = (0, Vec::new());
        for (held, service) in own {
            let answers = |destination| self.instances(destination).iter().any(|instance| instance.ready);
            let destinations = destinations(held, service);
            // Clients alone have one without ports: nobody calls it.
            if destinations.is_empty() {
                continue;
            }
            services += 1;
            if !destinations.iter().any(answers) {
                let mesh = held.key.mesh.as_ref().map_or("", |mesh| mesh.as_str());
                services_without_endpoints.push(format!("{mesh}/{}", held.key.name));
            }
        }
        services_without_endpoints.truncate(MOST_NAMED);
        let mut proxies_without_identity = Vec::new();
        let mut certificates = self.ending_authorities(now);
        for (id, proxy) in self.proxies() {
            match proxy.identity(&self.view) {
                None => proxies_without_identity.push(id.to_string()),
                Some(identity) => {
                    let Provider::Bundled(bundled) = &identity.provider else { continue };
                    certificates.extend(self.ending_leaf(&id, bundled.expiry.unwrap_or(SVID_LIFETIME), now));
                }
            }
        }
        proxies_without_identity.truncate(MOST_NAMED);
        certificates.truncate(MOST_NAMED);
        Look { services, services_without_endpoints, proxies_without_identity, certificates }
    }

    pub fn has_ingress(&self, name: &ResourceName) -> bool {
        let state = self.clients.get(&Client::Ingress(name.clone()));
        state.is_some_and(State::has_session)
    }

    fn proxies(&self) -> impl Iterator<Item = (ProxyId, Proxy<'_>)> {
        self.view.all::<Dataplane>().filter_map(|(held, dataplane)| {
            let mesh = MeshName::clone(held.key.mesh.as_ref()?);
            let id = ProxyId { mesh, name: held.key.name.clone() };
            Some((id, Proxy::new(held, dataplane)?))
        })
    }

    /// A leaf is renewed at two thirds of its life. Nobody misses one of a proxy that is not here.
    fn ending_leaf(&self, proxy: &ProxyId, lifetime: Duration, now: SystemTime) -> Option<EndingCertificate> {
        let state = self.clients.get(&Client::Proxy(proxy.clone()))?;
        let ends = self.lives.get(proxy)?.leaf_ends;
        let is_soon = UNIX_EPOCH + Duration::from_secs(ends) < now + lifetime / 6;
        let is_here = state.presence == Presence::Connected;
        (is_here && is_soon).then(|| EndingCertificate { of: format!("proxy {proxy}"), ends })
    }

    /// Of the trust domains of this zone. What cannot be read is told elsewhere.
    fn ending_authorities(&self, now: SystemTime) -> Vec<EndingCertificate> {
        let own = self.view.all::<MeshTrust>().filter(|(held, _)| held.key.origin.zone() == Some(&self.zone));
        own.filter_map(|(_, trust)| {
            let anchors = trust.ca_bundles.iter().filter_map(|pem| certificates_from_pem(pem).ok()).flatten();
            let ends = anchors.filter_map(|anchor| Some(Validity::of(&anchor).ok()?.not_after));
            // The last to end counts: those before it are on their way out.
            EndingCertificate::of_authority(format!("authority of {}", trust.trust_domain), ends.max()?, now)
        })
        .collect()
    }
}
