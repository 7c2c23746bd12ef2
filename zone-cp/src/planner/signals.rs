//! The signal side of the planner: endpoints for proxies, handles for ingresses, exports for other zones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use control::questions::{exported, exports_signal};
use model::kinds::{
    Dataplane, MeshIdentity, MeshMultiZoneService, MeshService, MeshZoneAddress, ResourceSpec, Zone,
};
use model::{DestinationId, DocumentKey, MeshName, Origin, ResourceName, ServiceKind};
use serde::Serialize;
use snapshot::compile::is_about;
use snapshot::endpoints::{self, Exports};
use snapshot::parts::{Endpoints, SignalName};
use snapshot::{Joined, Proxy};
use sync::frame::Signal;
use sync::session::Limits;
use tracing::warn;

use super::{Client, Output, Planner, Presence, ProxyId, SessionNumber};

/// The kinds that signals are made of.
pub(super) const READS: [&str; 6] = [
    Dataplane::KIND.name,
    MeshService::KIND.name,
    MeshMultiZoneService::KIND.name,
    MeshIdentity::KIND.name,
    MeshZoneAddress::KIND.name,
    Zone::KIND.name,
];

/// The most destinations of other zones that the global is asked for: what a session with it carries.
const MOST_ASKED: usize = Limits::CONTROL_PLANE.subscriptions;

/// The latest value of a signal, and who was told it.
pub(super) struct Told {
    name: SignalName,
    /// One for all who are told it.
    word: Arc<Signal>,
    to: BTreeMap<Arc<Client>, SessionNumber>,
}

/// Which signals may have another value than was told last.
#[derive(Debug)]
pub(super) enum Stale {
    /// Those that are about one of these services.
    Of {
        services: BTreeSet<DocumentKey>,
        handles: bool,
    },
    All,
}

impl Default for Stale {
    fn default() -> Self {
        Self::Of { services: BTreeSet::new(), handles: false }
    }
}

impl Stale {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Of { services, handles: false } if services.is_empty())
    }

    fn add(&mut self, more: impl IntoIterator<Item = DocumentKey>) {
        if let Self::Of { services, .. } = self {
            services.extend(more);
        }
    }

    fn covers(&self, destination: &DestinationId) -> bool {
        match self {
            Self::All => true,
            Self::Of { services, .. } => services.iter().any(|service| is_about(service, destination)),
        }
    }

    fn covers_signal(&self, name: &SignalName) -> bool {
        match (self, name) {
            (_, SignalName::Endpoints(destination)) => self.covers(destination),
            (Self::All, SignalName::Handles) => true,
            (Self::Of { handles, .. }, SignalName::Handles) => *handles,
        }
    }
}

/// Nobody subscribes to what nobody is told.
pub(super) fn unsubscribe(told: &mut BTreeMap<Arc<str>, Told>, client: &Client, name: &str) {
    let Some(signal) = told.get_mut(name) else { return };
    signal.to.remove(client);
    if signal.to.is_empty() {
        told.remove(name);
    }
}

impl Planner {
    /// Every new subscription is answered at once, with an empty value where nothing is known.
    pub(super) fn subscribe_signals(
        &mut self,
        client: &Client,
        session: SessionNumber,
        signals: Vec<SignalName>,
        out: &mut Vec<Output>,
    ) {
        let Some((client, _)) = self.clients.get_key_value(client) else { return };
        let client = client.clone();
        for name in signals {
            let text = name.to_string();
            let known =
                self.told.get_key_value(text.as_str()).map(|(text, told)| (text.clone(), told.word.clone()));
            let (text, word) = match (may_know(&client, &name), known) {
                (true, Some(known)) => known,
                (true, None) => (text.into(), self.word(self.value(&name))),
                // What is none of this client's business is as if it did not exist.
                (false, _) => (text.into(), self.word(Bytes::new())),
            };
            if may_know(&client, &name) {
                let told = self.told.entry(text.clone());
                let told = told.or_insert_with(|| Told { name, word: word.clone(), to: BTreeMap::new() });
                told.to.insert(client.clone(), session);
            }
            out.push(Output::Signal { client: client.clone(), session, name: text, word });
        }
    }

    /// A client is told nothing any more.
    pub(super) fn unsubscribe_all(&mut self, client: &Client) {
        self.told.retain(|_, told| {
            told.to.remove(client);
            !told.to.is_empty()
        });
    }

    /// What a session was told last.
    pub(super) fn told_to(&self, client: &Client, session: SessionNumber) -> BTreeMap<String, Bytes> {
        let told = self.told.iter().filter(|(_, told)| told.to.get(client) == Some(&session));
        told.map(|(name, told)| (name.to_string(), told.word.value.clone())).collect()
    }

    /// Whether [`Self::tell`] may have something to tell.
    pub fn has_news(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Computes the signals that may have changed, and tells those who subscribed to them of those that have.
    pub fn tell(&mut self) -> Vec<Output> {
        let stale = std::mem::take(&mut self.stale);
        let mut out = Vec::new();
        let covered = self.told.iter().filter(|(_, told)| stale.covers_signal(&told.name));
        let covered: Vec<(Arc<str>, SignalName)> =
            covered.map(|(text, told)| (text.clone(), told.name.clone())).collect();
        for (text, name) in covered {
            let word = self.word(self.value(&name));
            let Some(told) = self.told.get_mut(&text).filter(|told| told.word != word) else { continue };
            told.word = word;
            out.extend(told.to.iter().map(|(client, session)| Output::Signal {
                client: client.clone(),
                session: *session,
                name: text.clone(),
                word: told.word.clone(),
            }));
        }
        let wanted: Vec<DestinationId> =
            self.wanted.keys().filter(|destination| stale.covers(destination)).cloned().collect();
        for destination in wanted {
            let value = self.export(&destination);
            if self.wanted.get(&destination) != Some(&value) {
                self.wanted.insert(destination.clone(), value.clone());
                out.push(Output::Export { name: exports_signal(&destination), value });
            }
        }
        out
    }

    /// Others may have to be sent to a client that they were not sent to, or the other way round.
    pub(super) fn lives_or_not(&mut self, client: &Client) {
        match client {
            Client::Proxy(proxy) => {
                let services = self.services_of(&proxy.key(&self.zone));
                self.stale.add(services);
            }
            // A door may close to all services.
            Client::Ingress(_) => self.stale = Stale::All,
        }
    }

    /// To these and to no others nobody is led any more, whatever their Dataplanes say.
    pub(super) fn revoked(&mut self, revoked: BTreeSet<ProxyId>) {
        let before = std::mem::replace(&mut self.revoked, revoked);
        let changed: Vec<DocumentKey> =
            before.symmetric_difference(&self.revoked).map(|proxy| proxy.key(&self.zone)).collect();
        self.outdate(&changed.iter().collect::<Vec<_>>());
    }

    fn is_revoked(&self, mesh: &MeshName, name: &ResourceName) -> bool {
        // Nearly always there is none.
        !self.revoked.is_empty() && self.revoked.contains(&ProxyId { mesh: mesh.clone(), name: name.clone() })
    }

    /// Notes what follows from documents as they are now; to be said before they change, and after.
    pub(super) fn outdate(&mut self, changed: &[&DocumentKey]) {
        for key in changed {
            let kind = key.kind.as_str();
            if kind == Dataplane::KIND.name || kind == MeshService::KIND.name {
                let services = match kind == MeshService::KIND.name {
                    true => vec![(*key).clone()],
                    false => self.services_of(key),
                };
                self.stale.add(services);
                if let Stale::Of { handles, .. } = &mut self.stale {
                    *handles = true;
                }
            } else if READS.contains(&kind) {
                self.stale = Stale::All;
            }
        }
    }

    /// The services of this zone that a proxy of it stands behind.
    fn services_of(&self, proxy: &DocumentKey) -> Vec<DocumentKey> {
        let held = self.view.get::<Dataplane>(proxy);
        let Some(proxy) = held.and_then(|(held, dataplane)| Proxy::new(held, dataplane)) else {
            return Vec::new();
        };
        let services = self.view.of_mesh::<MeshService>(proxy.mesh);
        let own = services.filter(|(held, service)| {
            held.key.origin.zone() == Some(&self.zone) && endpoints::is_member(service, &proxy)
        });
        own.map(|(held, _)| held.key.clone()).collect()
    }

    pub(super) fn exported(&mut self, destination: DestinationId, exports: Option<Exports>) {
        // No word takes nothing away.
        let Some(exports) = exports else { return };
        let is_asked = destination.zone.as_ref() != Some(&self.zone) && self.asked.contains(&destination);
        if is_asked && self.exports.get(&destination) != Some(&exports) {
            self.stale.add(service_key(&destination));
            Arc::make_mut(&mut self.exports).insert(destination, exports);
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

    /// Asks the global for exactly the destinations of other zones that somebody here subscribed to, by themselves or
    /// behind a service of several zones, as far as they are declared. What is no longer wanted is forgotten, so that a
    /// later first answer is never an old one.
    pub(super) fn review_wishes(&mut self, out: &mut Vec<Output>) {
        let wishes: BTreeSet<DestinationId> = self
            .told
            .values()
            // A session that is missing for a moment keeps its wishes by what was asked before.
            .filter_map(|told| match &told.name {
                SignalName::Endpoints(destination) => Some(destination.clone()),
                SignalName::Handles => None,
            })
            .flat_map(|destination| match destination.kind {
                ServiceKind::MeshService => vec![destination],
                ServiceKind::MeshMultiZoneService => self.members(&destination).unwrap_or_default(),
                ServiceKind::MeshExternalService => Vec::new(),
            })
            .filter(|destination| destination.zone.as_ref().is_some_and(|zone| *zone != self.zone))
            .filter(|destination| self.is_declared(destination))
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
        let (fresh, left_out) = affordable(&self.asked, wishes, MOST_ASKED);
        if left_out > 0 && self.left_out == 0 {
            warn!(
                most = MOST_ASKED,
                left_out, "too many services of other zones are used: their endpoints are not heard"
            );
        }
        self.left_out = left_out;
        self.asked.extend(fresh.iter().cloned());
        out.extend(fresh.into_iter().map(Output::Want));
    }

    /// How many destinations of other zones are used and not asked for, since they are too many.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    fn is_declared(&self, destination: &DestinationId) -> bool {
        let service = service_key(destination).and_then(|key| self.view.get::<MeshService>(&key));
        service.is_some_and(|(_, service)| {
            service.ports.iter().any(|port| port.section() == destination.section)
        })
    }

    /// What this zone says itself, now.
    fn word(&self, value: Bytes) -> Arc<Signal> {
        Arc::new(Signal { origin: Origin::Zone(self.zone.clone()), age: Duration::ZERO, value })
    }

    /// For whoever may know it.
    fn value(&self, name: &SignalName) -> Bytes {
        match name {
            SignalName::Handles => {
                let may = |mesh: &MeshName, name: &ResourceName| !self.is_revoked(mesh, name);
                bytes(&endpoints::handles(&self.view, &self.zone, &self.salt, may))
            }
            SignalName::Endpoints(destination) => {
                self.endpoints(destination).map(|endpoints| bytes(&endpoints)).unwrap_or_default()
            }
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
        let is_live = |proxy: &Proxy<'_>, address| {
            let proxy = ProxyId { mesh: proxy.mesh.clone(), name: proxy.name.clone() };
            self.is_live(&proxy) && !self.moves_to(proxy, address)
        };
        let mut all = endpoints::instances(&self.view, &self.zone, &self.salt, destination, is_live);
        all.retain(|instance| !self.is_revoked(&destination.mesh, &instance.proxy));
        all
    }
}

/// Those of the wishes that are to be asked for beside what is asked already, and how many are too many for that.
fn affordable(
    asked: &BTreeSet<DestinationId>,
    wishes: BTreeSet<DestinationId>,
    most: usize,
) -> (Vec<DestinationId>, usize) {
    let mut fresh: Vec<_> = wishes.into_iter().filter(|wish| !asked.contains(wish)).collect();
    let room = most.saturating_sub(asked.len());
    let left_out = fresh.len().saturating_sub(room);
    fresh.truncate(room);
    (fresh, left_out)
}

/// Whether a signal is any of a client's business.
fn may_know(client: &Client, name: &SignalName) -> bool {
    match (client, name) {
        (Client::Ingress(_), SignalName::Handles) => true,
        (Client::Proxy(proxy), SignalName::Endpoints(destination)) => destination.mesh == proxy.mesh,
        _ => false,
    }
}

/// The service of which a destination is a port.
fn service_key(destination: &DestinationId) -> Option<DocumentKey> {
    Some(DocumentKey {
        kind: MeshService::KIND.key_name(),
        mesh: Some(destination.mesh.clone()),
        origin: Origin::Zone(destination.zone.clone()?),
        namespace: destination.namespace.clone(),
        name: destination.service.clone().into(),
    })
}

fn bytes(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("signals have no maps with keys that are not text").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_so_and_what_is_too_much_beside_it_is_counted() {
        let ids = |numbers: &[u32]| -> BTreeSet<DestinationId> {
            numbers.iter().map(|number| format!("ms_default_west__s{number}_80").parse().unwrap()).collect()
        };
        for (asked, wishes, fresh, left_out) in [
            (&[][..], &[1, 2][..], &[1, 2][..], 0),
            (&[], &[1, 2, 3, 4, 5], &[1, 2, 3], 2),
            (&[4, 5], &[1, 2, 4, 5], &[1], 1),
            (&[3, 4, 5], &[1, 3], &[], 1),
            (&[3, 4, 5], &[3, 4, 5], &[], 0),
        ] {
            let found = affordable(&ids(asked), ids(wishes), 3);
            assert_eq!(found, (ids(fresh).into_iter().collect(), left_out), "{asked:?} {wishes:?}");
        }
    }
}
