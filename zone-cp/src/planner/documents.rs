//! The documents' side of the planner: what follows when some of them change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use model::kinds::Dataplane;
use model::{DocumentKey, Version, World};
use snapshot::Proxy;
use snapshot::compile::concerns;
use snapshot::parts::PartName;
use store::{Change, Listing};
use tracing::warn;

use super::signals::READS;
use super::{Client, Output, Planner, ProxyId};

impl Planner {
    /// All there is. What differs from what was known has changed meanwhile.
    pub(super) fn listed(&mut self, listing: Listing, out: &mut Vec<Output>) {
        let Listing { world, records, .. } = listing;
        let proxies: BTreeSet<ProxyId> =
            records.iter().filter_map(|record| ProxyId::of(&record.key)).collect();
        let there: BTreeSet<&DocumentKey> = records.iter().map(|record| &record.key).collect();
        let known: BTreeMap<DocumentKey, Version> =
            self.view.versions().map(|(key, version)| (key.clone(), version.clone())).collect();
        let gone = known.iter().filter(|(key, _)| !there.contains(key));
        let gone = gone.map(|(key, version)| Change::Deleted { key: key.clone(), version: version.clone() });
        let mut changes: Vec<Change> = gone.collect();
        let news = records.into_iter().filter(|record| known.get(&record.key) != Some(&record.version));
        changes.extend(news.map(Change::Put));
        self.changed(&changes, world, out);
        // Whoever was there before this start may come back.
        self.returning.get_or_insert(proxies);
    }

    pub(super) fn changed(&mut self, changes: &[Change], world: World, out: &mut Vec<Output>) {
        let changed: Vec<&DocumentKey> = changes.iter().map(Change::key).collect();
        let proxies = changed.iter().filter_map(|key| Some((ProxyId::of(key)?, self.addresses(key))));
        let listened: BTreeMap<ProxyId, BTreeSet<SocketAddr>> = proxies.collect();
        // Those that it leaves, and those that it comes to.
        self.outdate(&changed);
        for change in changes {
            match change {
                Change::Put(record) => self.take(record),
                Change::Deleted { key, .. } => {
                    self.view.remove(key);
                    self.forget(key);
                }
            }
        }
        self.outdate(&changed);
        for (proxy, before) in &listened {
            self.note_moves(proxy, before);
        }
        self.shared.changed(&changed);
        let concerns =
            |proxy: &DocumentKey, part: &PartName| changed.iter().any(|key| concerns(key, proxy, part));
        self.replan(world, concerns, out);
        // Who runs what follows from its new Dataplane already is told nothing, and says nothing.
        for proxy in listened.into_keys() {
            self.may_serve(&Client::Proxy(proxy));
        }
        if changed.iter().any(|key| READS.contains(&key.kind.as_str())) {
            // Another service may stand behind one of several zones now.
            self.review_wishes(out);
        }
    }

    /// Where others reach a proxy, by its Dataplane.
    fn addresses(&self, key: &DocumentKey) -> BTreeSet<SocketAddr> {
        let held = self.view.get::<Dataplane>(key);
        let Some(proxy) = held.and_then(|(held, dataplane)| Proxy::new(held, dataplane)) else {
            return BTreeSet::new();
        };
        proxy.inbounds().filter_map(|inbound| proxy.listen(inbound)).collect()
    }

    /// That a proxy serves says nothing of addresses that its Dataplane has named since.
    fn note_moves(&mut self, proxy: &ProxyId, before: &BTreeSet<SocketAddr>) {
        let now = self.addresses(&proxy.key(&self.zone));
        if let Some(state) = self.clients.get_mut(&Client::Proxy(proxy.clone())) {
            state.moves_to.retain(|address| now.contains(address));
            state.moves_to.extend(now.difference(before));
        }
    }

    /// A proxy whose Dataplane was deleted is nobody any more, once its session is over too.
    fn forget(&mut self, key: &DocumentKey) {
        let Some(proxy) = ProxyId::of(key) else { return };
        self.lives.remove(&proxy);
        if let Some(returning) = &mut self.returning {
            returning.remove(&proxy);
        }
        let client = Client::Proxy(proxy);
        if self.clients.get(&client).is_some_and(|state| !state.has_session()) {
            self.clients.remove(&client);
        }
    }

    /// A document that cannot be read leaves the last good one in force and disturbs nothing else.
    fn take(&mut self, record: &model::Record) {
        if let Err(error) = self.view.put(record) {
            warn!(document = %record.key, version = %record.version, %error, "a document cannot be read");
        }
    }

    /// Compiles the parts that `concerns` says may have changed. Of whom nothing changes, what it runs is right in this
    /// world as well.
    fn replan(
        &mut self,
        world: World,
        concerns: impl Fn(&DocumentKey, &PartName) -> bool,
        out: &mut Vec<Output>,
    ) {
        let before = std::mem::replace(&mut self.world, world);
        for (client, state) in &mut self.clients {
            let Some(key) = state.key.clone().filter(|_| state.has_session()) else { continue };
            let wanted = state.plan.wanted.clone();
            let outdated = wanted.iter().filter(|(_, part)| concerns(&key, part));
            let ran = state.runs_newest();
            let differs = state.compile(&self.view, &mut self.shared, outdated);
            if state.is_caught_up(&self.world) || differs {
                if let (true, Some((confirmed, _))) = (ran, &mut state.confirmed) {
                    confirmed.clone_from(&before);
                }
                state.plan.world = self.world.clone();
                let (client, session) = (Client::clone(client), state.session);
                out.push(Output::Plan { client, session, plan: state.plan.clone() });
            }
        }
    }
}
