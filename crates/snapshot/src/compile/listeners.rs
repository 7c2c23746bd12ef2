//! `listeners`: where nothing intercepts traffic, the ports that lead to a destination.

use model::kinds::MeshService;
use model::kinds::dataplane::{BackendRef, Outbound, ServiceRef};
use model::{DestinationId, ServiceKind};

use crate::parts::{Listeners, OutboundListener};
use crate::proxy::Proxy;
use crate::view::{Held, View};

/// An outbound whose service is not known, or not the only one of that description, has no listener yet.
pub(super) fn listeners(view: &View, proxy: &Proxy<'_>) -> Listeners {
    let listener = |outbound: &Outbound| {
        let destination = resolve(view, proxy, &outbound.backend)?;
        Some(OutboundListener { address: (outbound.address, outbound.port).into(), destination })
    };
    Listeners { outbound: proxy.dataplane.outbounds.iter().filter_map(listener).collect() }
}

fn resolve(view: &View, proxy: &Proxy<'_>, backend: &BackendRef) -> Option<DestinationId> {
    if backend.kind != ServiceKind::MeshService {
        return None;
    }
    let mut found =
        view.of_mesh::<MeshService>(proxy.mesh).filter(|(held, _)| is_meant(held, proxy, &backend.service));
    let (held, service) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    let port = match backend.port {
        Some(number) => service.ports.iter().find(|port| port.port == number)?,
        None => match &service.ports[..] {
            [only] => only,
            _ => return None,
        },
    };
    Some(DestinationId {
        kind: ServiceKind::MeshService,
        mesh: proxy.mesh.clone(),
        zone: held.key.origin.zone().cloned(),
        namespace: held.key.namespace.clone(),
        service: held.key.name.as_str().parse().ok()?,
        section: port.section(),
    })
}

/// A name means one's own zone, so that no other zone can catch it; labels choose among all.
fn is_meant(held: &Held, proxy: &Proxy<'_>, service: &ServiceRef) -> bool {
    match service {
        ServiceRef::Name(name) => held.key.name == *name && held.key.origin.zone() == Some(proxy.zone),
        ServiceRef::Labels(wanted) => held.document.labels_at(&held.key.origin).cover(wanted),
    }
}
