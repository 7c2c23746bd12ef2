//! `destination/<id>`: what a service speaks, who proves to be it, and how long it may take.

use model::{DestinationId, ServiceKind};
use policy::timeout::Service;

use super::timeouts;
use crate::joined::Joined;
use crate::parts::Destination;
use crate::proxy::Proxy;
use crate::view::{Held, View};

pub(super) fn destination(view: &View, proxy: &Proxy<'_>, id: &DestinationId) -> Option<Destination> {
    match id.kind {
        ServiceKind::MeshService => service(view, proxy, id),
        ServiceKind::MeshMultiZoneService => joined(view, proxy, id),
        ServiceKind::MeshExternalService => None,
    }
}

fn service(view: &View, proxy: &Proxy<'_>, id: &DestinationId) -> Option<Destination> {
    let (held, service) = view.service(&id.mesh, id.zone.as_ref()?, &id.service)?;
    let port = service.ports.iter().find(|port| port.section() == id.section)?;
    let timeouts = timeouts_to(view, proxy, id, held);
    Some(Destination {
        protocol: port.protocol,
        identities: service.identities.iter().cloned().collect(),
        connection_timeout: timeouts.connect,
        timeouts,
        routes: Vec::new(),
    })
}

/// Whoever proves to be one of the services is the joined one.
fn joined(view: &View, proxy: &Proxy<'_>, id: &DestinationId) -> Option<Destination> {
    let joined = Joined::find(view, id)?;
    let timeouts = timeouts_to(view, proxy, id, joined.held);
    Some(Destination {
        protocol: joined.port.protocol,
        identities: joined.members(view).flat_map(|member| member.service.identities.clone()).collect(),
        connection_timeout: timeouts.connect,
        timeouts,
        routes: Vec::new(),
    })
}

fn timeouts_to(view: &View, proxy: &Proxy<'_>, id: &DestinationId, held: &Held) -> crate::parts::Timeouts {
    let service = Service { kind: id.kind, key: &held.key, labels: &held.labels, section: &id.section };
    timeouts::outbound(view, proxy, service)
}
