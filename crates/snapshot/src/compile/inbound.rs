//! `inbound/<port>`: one port of the application, and who may reach it.

use model::kinds::mesh::Enforcement;
use model::kinds::{Mesh, MeshTrafficPermission};
use policy::permission::{Permission, rules_for, unread};

use super::timeouts;
use crate::parts::{self, Access, Inbound};
use crate::proxy::Proxy;
use crate::view::View;

pub(super) fn inbound(view: &View, proxy: &Proxy<'_>, port: u16) -> Option<Inbound> {
    let inbound = proxy.inbound(port)?;
    let enforcement = view
        .all::<Mesh>()
        .find(|(held, _)| held.key.name.as_str() == proxy.mesh.as_str())
        .map_or(Enforcement::Enforce, |(_, mesh)| mesh.enforcement);
    let permissions = view.of_mesh::<MeshTrafficPermission>(proxy.mesh).map(|(held, spec)| Permission {
        key: &held.key,
        version: &held.version,
        labels: &held.written,
        spec,
    });
    let mut rules = rules_for(permissions, &proxy.as_policy_target(), &inbound.section());
    rules.extend(view.unread::<MeshTrafficPermission>(proxy.mesh).map(|(key, version)| unread(key, version)));
    let (timeouts, client_timeouts) = timeouts::inbound(view, proxy, &inbound.section());
    Some(Inbound {
        listen: proxy.listen(inbound)?,
        application: proxy.application(inbound),
        protocol: inbound.protocol,
        access: Access {
            enforcement: match enforcement {
                Enforcement::Enforce => parts::Enforcement::Enforce,
                Enforcement::Observe => parts::Enforcement::Observe,
            },
            rules,
        },
        timeouts,
        client_timeouts,
    })
}
