//! Where the instances of a destination are: the signals that stand beside the parts.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use model::kinds::dataplane::{Inbound, State};
use model::kinds::mesh_service::{Port, Selector};
use model::kinds::{Host, MeshService, MeshZoneAddress};
use model::{DestinationId, MeshName, ResourceName, SectionName, ServiceKind, SpiffeId, ZoneName};
use serde::{Deserialize, Serialize};

use crate::handle::Salt;
use crate::parts::{Endpoint, Endpoints, Handles};
use crate::proxy::Proxy;
use crate::view::{Held, View};

/// `exports/<id>`: what a zone tells other zones of one of its services. No addresses: only the zone's
/// ingresses can tell where a handle leads.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Exports {
    pub instances: Vec<Export>,
    /// Where ingresses of the zone listen that are about to leave: nothing new is to come through them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closing: Vec<SocketAddr>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Export {
    pub sni: String,
    pub identity: SpiffeId,
    pub ready: bool,
    pub weight: u32,
}

/// An instance in this zone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Instance {
    pub proxy: ResourceName,
    pub address: SocketAddr,
    pub sni: String,
    pub identity: SpiffeId,
    pub ready: bool,
}

/// The instances behind one port of a service of this zone. `is_live` says whether a proxy is there, and listens at
/// an address. A proxy without an identity is no instance: nobody could tell that it is the service.
pub fn instances(
    view: &View,
    zone: &ZoneName,
    salt: &Salt,
    destination: &DestinationId,
    is_live: impl Fn(&Proxy<'_>, SocketAddr) -> bool,
) -> Vec<Instance> {
    let Some((service, port)) = own_port(view, zone, destination) else { return Vec::new() };
    let members = Proxy::all(view, &destination.mesh, zone).filter(|proxy| is_member(service, proxy));
    let of_proxy = |proxy: Proxy<'_>| {
        let inbound = target(&proxy, &port.target)?;
        let address = proxy.listen(inbound)?;
        Some(Instance {
            proxy: proxy.name.clone(),
            address,
            sni: salt.sni(destination, proxy.name, address, zone),
            identity: proxy.spiffe_id(view)?,
            ready: inbound.state == State::Ready && is_live(&proxy, address),
        })
    };
    members.filter_map(of_proxy).collect()
}

/// By section name; a number means the port also of an inbound that has a name.
fn target<'a>(proxy: &Proxy<'a>, target: &SectionName) -> Option<&'a Inbound> {
    let by_section = proxy.inbounds().find(|inbound| inbound.section() == *target);
    by_section.or_else(|| proxy.inbounds().find(|inbound| SectionName::from(inbound.port) == *target))
}

/// Whether a proxy stands behind a service.
pub fn is_member(service: &MeshService, proxy: &Proxy<'_>) -> bool {
    match &service.selector {
        None => false,
        Some(Selector::Dataplane(name)) => proxy.name == name,
        Some(Selector::Labels(labels)) => proxy.labels.cover(labels),
    }
}

/// What proxies of this zone are told of a service of this zone.
pub fn local(instances: &[Instance], zone: &ZoneName) -> Endpoints {
    let endpoint = |instance: &Instance| Endpoint {
        address: instance.address,
        sni: instance.sni.clone(),
        identity: instance.identity.clone(),
        zone: zone.clone(),
        ready: instance.ready,
        weight: 1,
    };
    Endpoints(instances.iter().map(endpoint).collect())
}

/// What they are told of a service of another zone: each instance behind each ingress of that zone. An ingress
/// that is about to leave is passed over, unless no other is known here; and so is one that is known by a DNS name:
/// names are not resolved here.
pub fn remote(view: &View, destination: &DestinationId, exports: &Exports) -> Endpoints {
    let Some(zone) = &destination.zone else { return Endpoints::default() };
    let doors = view.of_mesh::<MeshZoneAddress>(&destination.mesh);
    let doors = doors.filter(|(held, _)| held.key.origin.zone() == Some(zone));
    let all: Vec<SocketAddr> = doors.filter_map(|(_, door)| door.socket_address()).collect();
    let open: Vec<SocketAddr> =
        all.iter().copied().filter(|address| !exports.closing.contains(address)).collect();
    let ingresses = if open.is_empty() { all } else { open };
    let through = |export: &Export| {
        let Export { sni, identity, ready, weight } = export.clone();
        let zone = zone.clone();
        ingresses.clone().into_iter().map(move |address| Endpoint {
            address,
            sni: sni.clone(),
            identity: identity.clone(),
            zone: zone.clone(),
            ready,
            weight,
        })
    };
    Endpoints(exports.instances.iter().flat_map(through).collect())
}

/// What other zones are told.
pub fn exports(instances: &[Instance], closing: Vec<SocketAddr>) -> Exports {
    let export = |instance: &Instance| Export {
        sni: instance.sni.clone(),
        identity: instance.identity.clone(),
        ready: instance.ready,
        weight: 1,
    };
    Exports { instances: instances.iter().map(export).collect(), closing }
}

/// What the ingresses of this zone relay: every endpoint of every service of every mesh, whether it is
/// ready or not, so that open flows stay as long as the endpoint exists. What listens on loopback is for other
/// zones only where the ingress itself is: elsewhere it would be something of the ingress's own machine. `may` says
/// whether a proxy is one that others may be led to at all.
pub fn handles(
    view: &View,
    zone: &ZoneName,
    salt: &Salt,
    may: impl Fn(&MeshName, &ResourceName) -> bool,
) -> Handles {
    let mut doors = view.all::<MeshZoneAddress>().filter(|(held, _)| held.key.origin.zone() == Some(zone));
    let on_loopback = doors.any(|(_, door)| matches!(door.address, Host::Ip(ip) if ip.is_loopback()));
    let own = view.all::<MeshService>().filter(|(held, _)| held.key.origin.zone() == Some(zone));
    let table: BTreeMap<String, SocketAddr> = own
        .flat_map(|(held, service)| destinations(held, service))
        .flat_map(|destination| {
            let all = instances(view, zone, salt, &destination, |_, _| true).into_iter();
            all.filter(|instance| may(&destination.mesh, &instance.proxy)).collect::<Vec<_>>()
        })
        .filter(|instance| on_loopback || !instance.address.ip().is_loopback())
        .map(|instance| (instance.sni, instance.address))
        .collect();
    Handles(table)
}

/// The destinations of a service, one for each port.
pub fn destinations(held: &Held, service: &MeshService) -> Vec<DestinationId> {
    let (Some(mesh), Ok(name)) = (&held.key.mesh, held.key.name.as_str().parse()) else { return Vec::new() };
    let destination = |port: &Port| DestinationId {
        kind: ServiceKind::MeshService,
        mesh: mesh.clone(),
        zone: held.key.origin.zone().cloned(),
        namespace: held.key.namespace.clone(),
        service: model::Name::clone(&name),
        section: port.section(),
    };
    service.ports.iter().map(destination).collect()
}

fn own_port<'a>(view: &'a View, zone: &ZoneName, id: &DestinationId) -> Option<(&'a MeshService, &'a Port)> {
    if id.kind != ServiceKind::MeshService || id.zone.as_ref() != Some(zone) {
        return None;
    }
    let (_, service) = view.service(&id.mesh, zone, &id.service)?;
    let port = service.ports.iter().find(|port| port.section() == id.section)?;
    Some((service, port))
}
