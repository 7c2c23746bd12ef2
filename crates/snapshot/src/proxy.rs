//! Whom a part is for.

use std::net::{IpAddr, SocketAddr};

use model::kinds::dataplane::{Dataplane, Inbound, State};
use model::kinds::{Host, MeshIdentity};
use model::labels::{self, Labels};
use model::{MeshName, Point, ResourceName, SpiffeId, ZoneName};

use crate::view::{Held, View};

/// A proxy of this zone, by its Dataplane, with the labels that are computed.
#[derive(Clone, Copy, Debug)]
pub struct Proxy<'a> {
    pub mesh: &'a MeshName,
    pub zone: &'a ZoneName,
    pub name: &'a ResourceName,
    pub labels: &'a Labels,
    /// When its Dataplane was last written, in its zone's own line.
    pub since: Point,
    pub dataplane: &'a Dataplane,
}

impl<'a> Proxy<'a> {
    /// None if the document is not of a mesh, or of another zone.
    pub fn new(held: &'a Held, dataplane: &'a Dataplane) -> Option<Self> {
        let (mesh, zone) = (held.key.mesh.as_ref()?, held.key.origin.zone()?);
        let (name, labels, since) = (&held.key.name, &held.labels, held.version.point);
        Some(Self { mesh, zone, name, labels, since, dataplane })
    }

    /// As policies see it.
    pub(crate) fn as_policy_target(&self) -> policy::targeting::Proxy {
        policy::targeting::Proxy {
            mesh: self.mesh.clone(),
            zone: self.zone.clone(),
            namespace: None,
            labels: self.labels.clone(),
        }
    }

    /// All proxies of a zone in a mesh, in the order of their names.
    pub fn all(view: &'a View, mesh: &'a MeshName, zone: &'a ZoneName) -> impl Iterator<Item = Self> {
        view.of_mesh::<Dataplane>(mesh)
            .filter_map(|(held, dataplane)| Self::new(held, dataplane))
            .filter(move |proxy| proxy.zone == zone)
    }

    /// Who it is to be, or none where no identity selects it.
    pub fn spiffe_id(&self, view: &View) -> Option<SpiffeId> {
        self.identity(view)
            .and_then(|identity| identity.spiffe_id(self.mesh, self.zone, &self.vouched()).ok())
    }

    /// The labels that the zone vouches for. Of others, which a sidecar writes as it likes, nobody's identity is made.
    fn vouched(&self) -> Labels {
        const KEYS: [&str; 6] = [
            labels::WORKLOAD,
            labels::NAMESPACE,
            labels::SERVICE_ACCOUNT,
            labels::MESH,
            labels::ZONE,
            labels::DISPLAY_NAME,
        ];
        let vouched = self.labels.iter().filter(|(key, _)| KEYS.contains(&key.as_str()));
        vouched.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The MeshIdentity that is for it. One in a trust domain of another zone is for the proxies there.
    pub fn identity(&self, view: &'a View) -> Option<&'a MeshIdentity> {
        let identities = view
            .of_mesh::<MeshIdentity>(self.mesh)
            .filter(|(held, identity)| is_for(view, held, identity, self.mesh, self.zone))
            .map(|(held, identity)| (&held.key.name, identity, ()));
        MeshIdentity::choose(identities, self.labels).map(|(identity, ())| identity)
    }

    /// Where other proxies reach an inbound; none while the proxy's address is a name, which is
    /// not resolved here.
    pub fn listen(&self, inbound: &Inbound) -> Option<SocketAddr> {
        Some(SocketAddr::new(inbound.address.map_or_else(|| self.address(), Some)?, inbound.port))
    }

    /// Where the application listens.
    pub fn application(&self, inbound: &Inbound) -> SocketAddr {
        inbound.service().into()
    }

    pub fn inbound(&self, port: u16) -> Option<&'a Inbound> {
        self.dataplane.inbounds.iter().find(|inbound| inbound.port == port && is_served(inbound))
    }

    pub fn inbounds(&self) -> impl Iterator<Item = &'a Inbound> {
        self.dataplane.inbounds.iter().filter(|inbound| is_served(inbound))
    }

    fn address(&self) -> Option<IpAddr> {
        match &self.dataplane.address {
            Host::Ip(ip) => Some(*ip),
            Host::Name(_) => None,
        }
    }
}

/// Whether an identity is for proxies of a zone at all: none is that another zone wrote for its own, or whose
/// trust domain is another's.
pub fn is_for(view: &View, held: &Held, identity: &MeshIdentity, mesh: &MeshName, zone: &ZoneName) -> bool {
    let is_ours = held.key.origin.zone().is_none_or(|origin| origin == zone);
    let owner = || view.owner(mesh, &identity.trust_domain(mesh, zone).ok()?);
    is_ours && owner().is_none_or(|owner| owner == *zone)
}

/// An inbound that is ignored has no listener and is no endpoint.
fn is_served(inbound: &Inbound) -> bool {
    inbound.state != State::Ignored
}
