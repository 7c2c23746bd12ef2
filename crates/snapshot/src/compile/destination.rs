//! `destination/<id>`: what a service speaks, and who proves to be it.

use model::{DestinationId, ServiceKind};

use crate::parts::{Destination, Millis, Timeouts};
use crate::view::View;

/// As `mesh-timeout-to-all` gives it.
const CONNECTION_TIMEOUT: Millis = Millis(5_000);

pub(super) fn destination(view: &View, id: &DestinationId) -> Option<Destination> {
    let (ServiceKind::MeshService, Some(zone)) = (id.kind, &id.zone) else { return None };
    let (_, service) = view.service(&id.mesh, zone, &id.service)?;
    let port = service.ports.iter().find(|port| port.section() == id.section)?;
    Some(Destination {
        protocol: port.protocol,
        identities: service.identities.iter().cloned().collect(),
        connection_timeout: CONNECTION_TIMEOUT,
        timeouts: Timeouts { connect: CONNECTION_TIMEOUT, ..Timeouts::default() },
    })
}
