//! MeshMultiZoneServices: which services of which zones stand behind one.

use model::kinds::{MeshMultiZoneService, MeshService};
use model::kinds::{mesh_multi_zone_service, mesh_service};
use model::{DestinationId, ServiceKind};

use crate::endpoints;
use crate::view::{Held, View};

/// One port of a MeshMultiZoneService.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    pub held: &'a Held,
    pub service: &'a MeshMultiZoneService,
    pub port: &'a mesh_multi_zone_service::Port,
}

/// One service behind it, with the port that takes its traffic.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    pub destination: DestinationId,
    pub service: &'a MeshService,
}

impl<'a> Joined<'a> {
    /// None if the destination is no MeshMultiZoneService, or there is none of that name with that port.
    pub fn find(view: &'a View, id: &DestinationId) -> Option<Self> {
        if id.kind != ServiceKind::MeshMultiZoneService {
            return None;
        }
        let (held, service) = view.of_mesh::<MeshMultiZoneService>(&id.mesh).find(|(held, _)| {
            held.key.origin.zone() == id.zone.as_ref()
                && held.key.namespace == id.namespace
                && held.key.name.as_str() == id.service.as_str()
        })?;
        let port = service.ports.iter().find(|port| port.section() == id.section)?;
        Some(Self { held, service, port })
    }

    /// In the order of their keys. A service without the port is not among them.
    pub fn members(self, view: &'a View) -> impl Iterator<Item = Member<'a>> {
        let mesh = self.held.key.mesh.as_ref();
        let services = view.all::<MeshService>().filter(move |(held, _)| held.key.mesh.as_ref() == mesh);
        services.filter_map(move |(held, service)| {
            let origin = &held.key.origin;
            if !self.service.selects(origin.zone()?, &held.labels) {
                return None;
            }
            let section = port(service, self.port)?.section();
            let destinations = endpoints::destinations(held, service);
            let destination = destinations.into_iter().find(|id| id.section == section)?;
            Some(Member { destination, service })
        })
    }
}

/// That of the same number, else that of the same name: zones need not agree on numbers.
fn port<'a>(
    service: &'a MeshService,
    wanted: &mesh_multi_zone_service::Port,
) -> Option<&'a mesh_service::Port> {
    let by_number = service.ports.iter().find(|port| port.port == wanted.port);
    by_number.or_else(|| service.ports.iter().find(|port| wanted.name.is_some() && port.name == wanted.name))
}
