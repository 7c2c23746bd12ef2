//! `listeners`: where nothing intercepts traffic, the ports that lead to a destination.

use model::kinds::dataplane::{BackendRef, Outbound, ServiceRef};
use model::kinds::{MeshMultiZoneService, MeshService, ResourceSpec, Spec};
use model::{DestinationId, SectionName, ServiceKind};

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
    let (held, sections) = match backend.kind {
        ServiceKind::MeshService => {
            let (held, service) = the_only::<MeshService>(view, proxy, backend)?;
            (held, service.ports.iter().map(|port| (port.port, port.section())).collect())
        }
        ServiceKind::MeshMultiZoneService => {
            let (held, service) = the_only::<MeshMultiZoneService>(view, proxy, backend)?;
            (held, service.ports.iter().map(|port| (port.port, port.section())).collect())
        }
        ServiceKind::MeshExternalService => return None,
    };
    Some(DestinationId {
        kind: backend.kind,
        mesh: proxy.mesh.clone(),
        zone: held.key.origin.zone().cloned(),
        namespace: held.key.namespace.clone(),
        service: held.key.name.as_str().parse().ok()?,
        section: section(sections, backend.port)?,
    })
}

fn the_only<'a, S>(view: &'a View, proxy: &Proxy<'_>, backend: &BackendRef) -> Option<(&'a Held, &'a S)>
where
    S: ResourceSpec + 'static,
    for<'s> &'s S: TryFrom<&'s Spec>,
{
    let mut found = view.of_mesh::<S>(proxy.mesh).filter(|(held, _)| is_meant(held, proxy, backend));
    let only = found.next()?;
    if found.next().is_some() { None } else { Some(only) }
}

/// A name means one's own zone, so that no other zone can catch it, and for what joins several zones where such
/// are written; labels choose among all.
fn is_meant(held: &Held, proxy: &Proxy<'_>, backend: &BackendRef) -> bool {
    match &backend.service {
        ServiceRef::Name(name) => {
            let by_name = match held.key.origin.zone() {
                Some(zone) => zone == proxy.zone,
                None => backend.kind == ServiceKind::MeshMultiZoneService,
            };
            by_name && held.key.name == *name
        }
        ServiceRef::Labels(wanted) => held.labels.cover(wanted),
    }
}

/// The port of that number; where none is given, the only one.
fn section(mut ports: Vec<(u16, SectionName)>, wanted: Option<u16>) -> Option<SectionName> {
    match wanted {
        Some(number) => ports.into_iter().find(|(port, _)| *port == number).map(|(_, section)| section),
        None if ports.len() == 1 => ports.pop().map(|(_, section)| section),
        None => None,
    }
}
