//! Makes one part of one proxy's configuration from the documents that the zone knows.
//!
//! A pure function: the same documents give the same bytes, on every replica and after every restart. A
//! part that cannot be made (its destination is unknown, nobody gave the proxy an identity) is absent.

use bytes::Bytes;
use model::kinds::{
    Dataplane, Mesh, MeshIdentity, MeshMultiZoneService, MeshService, MeshTimeout, MeshTrafficPermission,
    MeshTrust, ResourceSpec, Zone,
};
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

/// The kinds whose documents [`compile`] reads for a part: a change of any other leaves it as it is. Each part
/// is for a proxy, so each depends on that proxy's Dataplane.
pub fn reads(part: &PartName) -> &'static [&'static str] {
    match part {
        PartName::Identity => &[Dataplane::KIND.name, MeshIdentity::KIND.name, Zone::KIND.name],
        PartName::Trust => &[Dataplane::KIND.name, MeshTrust::KIND.name, Zone::KIND.name],
        PartName::Listeners => {
            &[Dataplane::KIND.name, MeshService::KIND.name, MeshMultiZoneService::KIND.name]
        }
        PartName::Inbound(_) => {
            &[Dataplane::KIND.name, MeshTrafficPermission::KIND.name, MeshTimeout::KIND.name, Mesh::KIND.name]
        }
        PartName::Destination(_) => &[
            Dataplane::KIND.name,
            MeshService::KIND.name,
            MeshMultiZoneService::KIND.name,
            MeshTimeout::KIND.name,
        ],
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

fn destination(view: &View, proxy: &Proxy<'_>, id: &model::DestinationId) -> Option<Destination> {
    // Another mesh is another world, whoever asks.
    if id.mesh == *proxy.mesh { destination::destination(view, proxy, id) } else { None }
}

fn bytes(part: &impl Serialize) -> Bytes {
    serde_json::to_vec(part).expect("parts have no maps with keys that are not text").into()
}

#[cfg(test)]
mod tests;
