//! Makes one part of one proxy's configuration from the documents that the zone knows.
//!
//! A pure function: the same documents give the same bytes, on every replica and after every restart. A
//! part that cannot be made (its destination is unknown, nobody gave the proxy an identity) is absent.

use bytes::Bytes;
use model::kinds::{
    Dataplane, Mesh, MeshIdentity, MeshMultiZoneService, MeshService, MeshTimeout, MeshTrafficPermission,
    MeshTrust, ResourceSpec, Zone,
};
use model::{DestinationId, DocumentKey, MeshName, ServiceKind};
use serde::Serialize;

use crate::parts::{Destination, Identity, Inbound, Listeners, PartName, Trust};
use crate::proxy::Proxy;
use crate::view::View;

mod destination;
mod inbound;
mod listeners;
mod timeouts;
mod trust;

/// The bytes of a part, or none where there is nothing to tell.
pub fn compile(view: &View, proxy: &Proxy<'_>, part: &PartName) -> Option<Bytes> {
    match part {
        PartName::Identity => identity(view, proxy).map(|part| bytes(&part)),
        PartName::Trust => Some(bytes(&trust(view, proxy))),
        PartName::Listeners => Some(bytes(&listeners(view, proxy))),
        PartName::Inbound(port) => inbound(view, proxy, *port).map(|part| bytes(&part)),
        PartName::Destination(id) => destination(view, proxy, id).map(|part| bytes(&part)),
    }
}

/// Whether [`compile`] may give something else for a part of a proxy, by the key of its Dataplane, once a document has
/// changed.
pub fn concerns(changed: &DocumentKey, proxy: &DocumentKey, part: &PartName) -> bool {
    match changed.kind.as_str() == Dataplane::KIND.name {
        true => changed == proxy,
        false => is_read(changed, proxy.mesh.as_ref(), part),
    }
}

/// The same of a part that [`is_of_class`].
pub fn concerns_class(changed: &DocumentKey, class: &Class, part: &PartName) -> bool {
    changed.kind.as_str() != Dataplane::KIND.name && is_read(changed, Some(&class.mesh), part)
}

fn is_read(changed: &DocumentKey, mesh: Option<&MeshName>, part: &PartName) -> bool {
    let kind = changed.kind.as_str();
    let in_mesh = changed.mesh.is_none() || changed.mesh.as_ref() == mesh;
    in_mesh
        && reads(part).contains(&kind)
        && match part {
            PartName::Destination(id) if kind == MeshService::KIND.name => is_about(changed, id),
            _ => true,
        }
}

/// Whether a change of a MeshService is one of a destination: its own, or one of several that stand behind it.
pub fn is_about(service: &DocumentKey, destination: &DestinationId) -> bool {
    service.mesh.as_ref() == Some(&destination.mesh)
        && match destination.kind {
            ServiceKind::MeshService => {
                service.name.as_str() == destination.service.as_str()
                    && service.origin.zone() == destination.zone.as_ref()
            }
            ServiceKind::MeshMultiZoneService => true,
            ServiceKind::MeshExternalService => false,
        }
}

/// The kinds whose documents [`compile`] reads for a part: a change of any other leaves it as it is. Of Dataplanes it
/// reads that of the proxy itself.
fn reads(part: &PartName) -> &'static [&'static str] {
    match part {
        PartName::Identity => &[MeshIdentity::KIND.name, Zone::KIND.name],
        PartName::Trust => &[MeshTrust::KIND.name, Zone::KIND.name],
        PartName::Listeners => &[MeshService::KIND.name, MeshMultiZoneService::KIND.name],
        PartName::Inbound(_) => &[MeshTrafficPermission::KIND.name, MeshTimeout::KIND.name, Mesh::KIND.name],
        PartName::Destination(_) => {
            &[MeshService::KIND.name, MeshMultiZoneService::KIND.name, MeshTimeout::KIND.name]
        }
    }
}

/// Proxies of one class, by [`class`], get the same bytes for the trust and for each destination.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Class {
    mesh: MeshName,
    /// The policies for outgoing traffic that choose it.
    policies: Vec<DocumentKey>,
}

/// The class of a proxy; those of one zone are compared.
pub fn class(view: &View, proxy: &Proxy<'_>) -> Class {
    let target = proxy.as_policy_target();
    let policies = timeouts::policies(view, proxy);
    let policies = policies.filter(|policy| policy.scope().selects_outbound(&policy.spec.target, &target));
    Class { mesh: proxy.mesh.clone(), policies: policies.map(|policy| policy.key.clone()).collect() }
}

/// Whether a part is the same for all proxies of a class.
pub fn is_of_class(part: &PartName) -> bool {
    match part {
        PartName::Trust | PartName::Destination(_) => true,
        PartName::Identity | PartName::Listeners | PartName::Inbound(_) => false,
    }
}

fn identity(view: &View, proxy: &Proxy<'_>) -> Option<Identity> {
    Some(Identity { id: proxy.spiffe_id(view)? })
}

fn trust(view: &View, proxy: &Proxy<'_>) -> Trust {
    trust::trust(view, proxy.mesh)
}

fn listeners(view: &View, proxy: &Proxy<'_>) -> Listeners {
    listeners::listeners(view, proxy)
}

fn inbound(view: &View, proxy: &Proxy<'_>, port: u16) -> Option<Inbound> {
    inbound::inbound(view, proxy, port)
}

fn destination(view: &View, proxy: &Proxy<'_>, id: &DestinationId) -> Option<Destination> {
    // Another mesh is another world, whoever asks.
    if id.mesh == *proxy.mesh { destination::destination(view, proxy, id) } else { None }
}

fn bytes(part: &impl Serialize) -> Bytes {
    serde_json::to_vec(part).expect("parts have no maps with keys that are not text").into()
}

#[cfg(test)]
mod tests;
