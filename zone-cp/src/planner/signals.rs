//! The signal side of the planner: endpoints for proxies, handles for ingresses, exports for other zones.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use control::questions::{exported, exports_signal};
use model::kinds::{
    Dataplane, MeshIdentity, MeshMultiZoneService, MeshService, MeshZoneAddress, ResourceSpec,
};
use model::{DestinationId, MeshName, ResourceName, ServiceKind};
use serde::Serialize;
use snapshot::Joined;
use snapshot::endpoints::{self, Exports};
use snapshot::parts::{Endpoints, SignalName};

use super::{Client, Output, Planner, Presence, ProxyId, SessionNumber};

/// The kinds that signals are made of.
pub(super) const READS: [&str; 5] = [
    Dataplane::KIND.name,
    MeshService::KIND.name,
    MeshMultiZoneService::KIND.name,
    MeshIdentity::KIND.name,
    MeshZoneAddress::KIND.name,
];

impl Planner {
    /// Every new subscription is answered at once, with an empty value where nothing is known.
    pub(super) fn subscribe_signals(
        &mut self,
        client: &Client,
        session: SessionNumber,
        signals: Vec<SignalName>,
        out: &mut Vec<Output>,
    ) {
        for name in signals {
            let value = self.value(client, &name);
            let Some(state) = self.current(client, session) else { return };
            state.signals.insert(name.clone(), value.clone());
            out.push(Output::Signal { client: client.clone(), session, name: name.to_string(), value });
        }
    }

    /// Computes every signal that somebody subscribed to, and tells those for whom it changed.
    pub(super) fn refresh_signals(&mut self, out: &mut Vec<Output>) {
        let subscribed: Vec<(Client, SessionNumber, SignalName)> = self
            .clients
            .iter()
            .flat_map(|(client, state)| {
                state.signals.keys().map(|name| (client.clone(), state.session, name.clone()))
            })
            .collect();
        for (client, session, name) in subscribed {
            let value = self.value(&client, &name);
            let Some(state) = self.current(&client, session) else { continue };
            if state.signals.get(&name) != Some(&value) {
                state.signals.insert(name.clone(), value.clone());
                out.push(Output::Signal { client, session, name: name.to_string(), value });
            }
        }
        let wanted: Vec<DestinationId> = self.wanted.keys().cloned().collect();
        for destination in wanted {
            let value = self.export(&destination);
            if self.wanted.get(&destination) != Some(&value) {
                self.wanted.insert(destination.clone(), value.clone());
                out.push(Output::Export { name: exports_signal(&destination), value });
            }
        }
    }

    pub(super) fn exported(
        &mut self,
        destination: DestinationId,
        exports: Option<Exports>,
        out: &mut Vec<Output>,
    ) {
        // No word takes nothing away.
        let Some(exports) = exports else { return };
        let is_asked = destination.zone.as_ref() != Some(&self.zone) && self.asked.contains(&destination);
        if is_asked && self.exports.get(&destination) != Some(&exports) {
            Arc::make_mut(&mut self.exports).insert(destination, exports);
            self.refresh_signals(out);
        }
    }

    pub(super) fn wanted(&mut self, added: &[String], removed: &[String], out: &mut Vec<Output>) {
        for destination in removed.iter().filter_map(|name| exported(name)) {
            self.wanted.remove(&destination);
        }
        for destination in added.iter().filter_map(|name| exported(name)) {
            let value = self.export(&destination);
            self.wanted.insert(destination.clone(), value.clone());
            out.push(Output::Export { name: exports_signal(&destination), value });
        }
    }

    /// Asks the global for exactly the destinations of other zones that somebody here subscribed to, by
    /// themselves or behind a service of several zones. What is no longer wanted is forgotten, so that a later first answer is never an old one.
    pub(super) fn review_wishes(&mut self, out: &mut Vec<Output>) {
        let wishes: BTreeSet<DestinationId> = self
            .clients
            .values()
            // A session that is missing for a moment keeps its wishes by what was asked before.
            .flat_map(|state| state.signals.keys())
            .filter_map(|name| match name {
                SignalName::Endpoints(destination) => Some(destination.clone()),
                SignalName::Handles => None,
            })
            .flat_map(|destination| match destination.kind {
                ServiceKind::MeshService => vec![destination],
                ServiceKind::MeshMultiZoneService => self.members(&destination).unwrap_or_default(),
                ServiceKind::MeshExternalService => Vec::new(),
            })
            .filter(|destination| destination.zone.as_ref().is_some_and(|zone| *zone != self.zone))
            .collect();
        let missing = self.clients.values().any(|state| state.presence == Presence::Missing);
        if !missing {
            for destination in self.asked.difference(&wishes).cloned().collect::<Vec<_>>() {
                self.asked.remove(&destination);
                out.push(Output::WantNoLonger(destination));
            }
            // What was kept over a restart is held for those who are not back yet.
            if self.settled && self.exports.keys().any(|destination| !wishes.contains(destination)) {
                Arc::make_mut(&mut self.exports).retain(|destination, _| wishes.contains(destination));
            }
        }
        for destination in wishes {
            if self.asked.insert(destination.clone()) {
                out.push(Output::Want(destination));
            }
        }
    }

    fn value(&self, client: &Client, name: &SignalName) -> Bytes {
        match (client, name) {
            (Client::Ingress(_), SignalName::Handles) => {
                bytes(&endpoints::handles(&self.view, &self.zone, &self.salt))
            }
            (Client::Proxy(proxy), SignalName::Endpoints(destination)) if destination.mesh == proxy.mesh => {
                self.endpoints(destination).map(|endpoints| bytes(&endpoints)).unwrap_or_default()
            }
            // What is none of this client's business is as if it did not exist.
            _ => Bytes::new(),
        }
    }

    /// None where there is no word yet.
    fn endpoints(&self, destination: &DestinationId) -> Option<Endpoints> {
        match destination.kind {
            ServiceKind::MeshMultiZoneService => self.joined(destination),
            _ if destination.zone.as_ref() == Some(&self.zone) => {
                Some(endpoints::local(&self.instances(destination), &self.zone))
            }
            _ => {
                let exports = self.exports.get(destination)?;
                Some(endpoints::remote(&self.view, destination, exports))
            }
        }
    }

    /// Those of all services behind it that there is a word of. After a start, the word of another zone that
    /// is not back yet is waited for: without it the proxies would lose that zone's endpoints for a moment.
    fn joined(&self, destination: &DestinationId) -> Option<Endpoints> {
        let members = self.members(destination)?;
        let words: Vec<Option<Endpoints>> = members.iter().map(|member| self.endpoints(member)).collect();
        if words.iter().any(Option::is_none) && (!self.settled || words.iter().all(Option::is_none)) {
            return None;
        }
        Some(Endpoints(words.into_iter().flatten().flat_map(|endpoints| endpoints.0).collect()))
    }

    /// The services behind one of several zones; none if that is not known.
    fn members(&self, destination: &DestinationId) -> Option<Vec<DestinationId>> {
        let members = Joined::find(&self.view, destination)?.members(&self.view);
        Some(members.map(|member| member.destination).collect())
    }

    fn export(&self, destination: &DestinationId) -> Bytes {
        bytes(&endpoints::exports(&self.instances(destination), self.closing(&destination.mesh)))
    }

    /// The doors of this zone whose ingress is about to leave, if another door stays open.
    fn closing(&self, mesh: &MeshName) -> Vec<SocketAddr> {
        let doors = self.view.of_mesh::<MeshZoneAddress>(mesh);
        let own = doors.filter(|(held, _)| held.key.origin.zone() == Some(&self.zone));
        // A door that is no ingress's own, such as a load balancer, is not known to close.
        let state = |name: &ResourceName| self.clients.get(&Client::Ingress(name.clone()));
        let (closing, others): (Vec<_>, Vec<_>) =
            own.partition(|(held, _)| state(&held.key.name).is_some_and(|state| state.draining));
        let stays_open = |name| state(name).is_none_or(|state| state.presence == Presence::Connected);
        if !others.iter().any(|(held, _)| stays_open(&held.key.name)) {
            return Vec::new();
        }
        closing.into_iter().filter_map(|(_, door)| door.socket_address()).collect()
    }

    pub(super) fn instances(&self, destination: &DestinationId) -> Vec<endpoints::Instance> {
        let is_live = |mesh: &MeshName, name: &ResourceName| {
            self.is_live(&ProxyId { mesh: mesh.clone(), name: name.clone() })
        };
        endpoints::instances(&self.view, &self.zone, &self.salt, destination, is_live)
    }
}

fn bytes(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("signals have no maps with keys that are not text").into()
}
