//! The global's end of one session with a zone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::shapes::ProxyCounts;
use bytes::Bytes;
use control::line::{self, Heard};
use control::questions::{CLIENT_CERTIFICATE, HELD, HeldQuestion, SUMMARY};
use control::{Admission, Again, Refusals, not_yet, reports};
use identity::certificates_to_pem;
use model::kinds::{MeshTrust, ResourceSpec};
use model::{DocumentKey, Origin, World, ZoneName};
use store::{Fence, Filter, Store, Write};
use sync::batch::{Base, Batch, Place, Refused};
use sync::frame::{Heartbeat, Hello, Signal};
use sync::link::{Host, HostError, Topics};
use sync::session::{Applied, Ended};
use sync::topic::Topic;
use tracing::{info, warn};

use crate::bundles;
use crate::originated::{self, Standing};
use crate::policy;
use crate::zones::{Line, Zones};

pub(crate) struct ZoneSession {
    zones: Zones,
    zone: ZoneName,
    admission: Admission,
    id: u64,
    again: Arc<Again>,
    /// The right to store what the zone originates, from the first look at what is held of it.
    fence: Mutex<Option<Fence>>,
}

impl ZoneSession {
    pub(crate) fn new(zones: Zones, zone: ZoneName, admission: Admission, id: u64) -> Self {
        let again = zones.again(&zone);
        Self { zones, zone, admission, id, again, fence: Mutex::default() }
    }

    fn store(&self) -> &dyn Store {
        self.zones.store()
    }

    fn origin(&self) -> Origin {
        Origin::Zone(self.zone.clone())
    }

    /// Whether no newer session of the zone took over.
    fn is_latest(&self) -> bool {
        self.zones.is_latest(&self.zone, self.id)
    }

    fn mark(&self, line: Line) {
        if self.is_latest() {
            self.zones.mark(&self.zone, line);
        }
    }

    fn fence(&self) -> MutexGuard<'_, Option<Fence>> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn policy(&self, base: Base) -> Result<Option<Batch>, HostError> {
        let standing = self.zones.holds().begun.find(self.store(), &self.origin(), &base).await?;
        self.mark(if standing.is_on_line { Line::Continues } else { Line::Diverges });
        let filter = Filter::all().not_written_by(self.origin());
        let changes = line::lacking(self.store(), &base, filter).await?;
        let hash = line::hash_at(self.store(), &changes.world).await?;
        let batch = policy::batch(changes, base.world(), &self.zone);
        // With the first word the zone hears our hash again, whatever it remembers.
        let batch = batch
            .or_else(|| base.is_opened().then(|| Batch { world: base.world().clone(), ..Batch::default() }));
        Ok(batch.map(|batch| Batch { hash, continues: standing.continues, ..batch }))
    }

    async fn take_over(&self, batch: Batch) -> Result<Applied, HostError> {
        let fence = self.fence().clone().ok_or("nothing was looked up yet")?;
        let Some(upto) = batch.world.point(&self.origin()) else {
            return Err(format!("zone '{}' does not say how far its batch leads", self.zone).into());
        };
        if let Err(reason) = self.zones.holds().judge(self.store(), &self.origin(), &batch, &fence).await? {
            return Ok(Applied::Held { reason });
        }
        let (whole, as_of) = (batch.whole, self.again.as_of());
        let standing = self.standing(&batch).await?;
        let heard = Heard { point: upto, hash: batch.hash.clone() };
        let named = reports::Judged::of(&batch);
        let Some(judged) = originated::judge(batch, &self.zone, &standing) else {
            return Err(format!("zone '{}' sent no batch of its own", self.zone).into());
        };
        let mut writes = vec![Write::Fence(fence), heard.write(&self.origin())];
        writes.extend(judged.writes);
        let lane = lane(&self.zone);
        let before = Refusals::load(self.store(), &lane).await?;
        let refusals =
            before.clone().after(&named, judged.refused.clone(), self.store(), self.zones.now()).await?;
        writes.extend((refusals != before).then(|| refusals.write(&lane)));
        let refused = refusals.told();
        // Known before anybody can hear that the rest is in force.
        self.zones.reports().put(lane.clone(), refusals.clone());
        if let Err(error) = self.store().apply(writes).await {
            // What counts is what was stored, maybe by a newer session.
            let stored = Refusals::load(self.store(), &lane).await?;
            self.zones.reports().put(lane, stored);
            return Err(error.into());
        }
        // A batch that the disk refused comes again, and what was refused is judged again.
        for refused in judged.refused.iter().filter(|refused| !before.has(refused)) {
            self.zones.metrics().documents_refused.inc();
            let (document, reason) = (&refused.key, &refused.reason);
            warn!(zone = %self.zone, document, reason, "refused a document");
        }
        self.zones.holds().taken_over(&self.origin());
        if self.again.taken_over(whole, as_of, &before, &refusals) {
            self.zones.hear_anew(&self.zone);
        }
        Ok(Applied::Stored { world: judged.world, refused })
    }

    async fn standing(&self, batch: &Batch) -> Result<Standing, HostError> {
        let store = self.store();
        let document = self.zones.document(&self.zone).await?.and_then(Result::ok);
        let trust_domains = document.unwrap_or_default().trust_domains;
        let heard = store.head().await?.world.point(&self.origin());
        let mut standing = Standing { trust_domains, heard, ..Standing::default() };
        let kind = MeshTrust::KIND;
        if batch.entries.iter().any(|entry| entry.key.starts_with(kind.name)) {
            standing.trusts = store.list(Filter::all().kinds([kind.key_name()])).await?.records;
            standing.newest = bundles::newest(store, &self.zone).await?;
        }
        for key in batch.entries.iter().filter_map(|entry| entry.key.parse::<DocumentKey>().ok()) {
            if !batch.whole
                && let Some(held) = store.get(&key).await?
            {
                standing.versions.insert(key, held.version);
            }
        }
        if batch.whole {
            let held = store.list(Filter::all().written_by(self.origin())).await?.records;
            standing.held = held.into_iter().map(|record| record.key).collect::<BTreeSet<_>>();
        }
        Ok(standing)
    }
}

/// The lane of what a zone originates.
pub(crate) fn lane(zone: &ZoneName) -> String {
    format!("{}/{zone}", Topic::ORIGINATED)
}

impl Host for ZoneSession {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::POLICY], copies: vec![Topic::ORIGINATED] }
    }

    async fn collect(&self, topic: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        if topic == Topic::POLICY { self.policy(base).await } else { Ok(None) }
    }

    async fn locate(&self, topic: Topic) -> Result<Place, HostError> {
        if topic != Topic::ORIGINATED {
            return Ok(Place::default());
        }
        if !self.is_latest() {
            return Err("a newer session of this zone took over".into());
        }
        // What an earlier session stores from now on is refused, so what is there now is all there is.
        let fence = self.store().fence(&lane(&self.zone)).await.map_err(|error| not_yet(error.into()))?;
        *self.fence() = Some(fence);
        let heard = Heard::load(self.store(), &self.origin()).await?;
        let Some(Heard { point, hash }) = heard else { return Ok(Place::default()) };
        let have = [(self.origin(), point)].into_iter().collect();
        let anew = self.again.opens(&self.zones.reports().of(&lane(&self.zone)));
        Ok(Place { have, hash, anew, ..Place::default() })
    }

    async fn apply(&self, topic: Topic, batch: Batch) -> Result<Applied, HostError> {
        if topic == Topic::ORIGINATED {
            self.take_over(batch).await.map_err(not_yet)
        } else {
            Err(format!("a zone does not own {topic}").into())
        }
    }

    fn acknowledged(&self, topic: &Topic, _world: &World, refused: &[Refused]) {
        if !self.is_latest() {
            return;
        }
        if *topic == Topic::POLICY {
            self.mark(Line::Continues);
        }
        for Refused { key, reason, .. } in self.zones.told(&self.zone, refused) {
            self.zones.metrics().documents_refused_by_zones.inc();
            warn!(zone = %self.zone, document = key, reason, "the zone refused a document");
        }
    }

    fn held_by_peer(&self, topic: &Topic, reason: &str) {
        warn!(zone = %self.zone, %topic, reason, "the zone holds what it has, and takes no more");
        if *topic == Topic::POLICY {
            self.mark(Line::Diverges);
        }
    }

    fn subscribed(&self, added: &[String], removed: &[String]) {
        if self.is_latest() {
            self.zones.subscribed(&self.zone, added, removed);
        }
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        if !self.is_latest() {
            return;
        }
        for (name, signal) in signals {
            if name != SUMMARY {
                self.zones.exported(&self.zone, &name, signal);
                continue;
            }
            match serde_json::from_slice::<ProxyCounts>(&signal.value) {
                Ok(counts) => self.zones.count(&self.zone, counts),
                // No word yet.
                Err(_) if signal.value.is_empty() => {}
                Err(error) => warn!(zone = %self.zone, %error, "the zone's summary cannot be read"),
            }
        }
    }

    async fn settled(&self) {
        self.zones.settled_but(&self.zone).await;
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        match kind.as_str() {
            CLIENT_CERTIFICATE => {
                let chain =
                    self.zones.renew(&self.admission, &body).await.map_err(|error| error.to_string())?;
                Ok(certificates_to_pem(&chain).into())
            }
            HELD => {
                let HeldQuestion { after } =
                    serde_json::from_slice(&body).map_err(|error| format!("it cannot be read: {error}"))?;
                let filter = Filter::all().written_by(self.origin());
                let held = self.store().list(filter).await.map_err(|error| error.to_string())?;
                let answer = originated::page(held.records, after.as_ref());
                serde_json::to_vec(&answer).map(Bytes::from).map_err(|error| error.to_string())
            }
            _ => Err(format!("the global answers no questions of kind '{kind}'")),
        }
    }

    fn ages(&self) -> Vec<(Origin, std::time::Duration)> {
        let own = self.origin();
        self.zones.ages().into_iter().filter(|(origin, _)| *origin != own).collect()
    }

    fn heartbeat(&self, _heartbeat: &Heartbeat) {
        self.zones.hear(&self.zone);
    }

    fn connected(&self, _hello: &Hello) -> Result<(), String> {
        self.zones.came(&self.zone);
        Ok(())
    }

    fn stale(&self, stale: bool) {
        if stale {
            warn!(zone = %self.zone, "nothing is heard of the zone");
        } else {
            info!(zone = %self.zone, "the zone is heard again");
        }
        self.zones.fell_silent(&self.zone, self.id, stale);
    }

    fn closed(&self, ended: &Ended) {
        info!(zone = %self.zone, %ended, "zone disconnected");
        self.zones.detach(&self.zone, self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use control::{Clock, Enroller, Home};
    use identity::{Audience, Issuer, Pin, PrivateKey, TokenClaims};
    use model::{Point, Record, Version};
    use prometheus_client::registry::Registry;
    use serde_json::json;
    use store::MemoryStore;
    use sync::batch::Entry;
    use sync::link::{Handle, Peer};
    use sync::server::{Enrolment, Handler};

    use super::*;
    use crate::metrics::Metrics;

    async fn zones(store: Arc<dyn Store>) -> (Zones, Home) {
        let clock = Clock::system();
        let home = Home::on(store, clock.now()).await.unwrap();
        let enroller = Arc::new(Enroller::open(home.clone()).await.unwrap());
        (Zones::new(home.clone(), enroller, clock, Metrics::register(&mut Registry::default())), home)
    }

    /// The certificate with which a zone comes.
    async fn join(zones: &Zones, home: &Home) -> Peer {
        let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = TokenClaims {
            iss: Issuer::Global,
            aud: Audience::Zone,
            sub: "test".into(),
            mesh: None,
            zone: Some("east".parse().unwrap()),
            workload: None,
            names: Vec::new(),
            addresses: Vec::new(),
            uses: None,
            nbf: now,
            exp: now + 3600,
            jti: "t1".into(),
            ca: Pin::of(b""),
        };
        let (token, address) = (home.token_key.issue(&claims), "127.0.0.1:1".parse().unwrap());
        let csr_der = PrivateKey::generate().request().der().to_vec().into();
        let enrolment = Enrolment { token, csr_der, peer: "zone/east".into(), address };
        Peer { certificates: zones.enrol(enrolment).await.unwrap(), address }
    }

    fn batch(key: &DocumentKey, revision: u64) -> Batch {
        let version = Version::new(key.origin.clone(), 1, revision);
        let spec = json!({"ports": [{"port": 80}]});
        let body = json!({"type": key.kind, "mesh": key.mesh, "name": key.name, "spec": spec});
        let bytes = serde_json::to_vec(&body).unwrap().into();
        let record =
            Record { key: key.clone(), version, secret: false, requires: vec![], bundle: None, bytes };
        let world = [(key.origin.clone(), Point { epoch: 1, revision })].into_iter().collect();
        let line = Bytes::from_static(b"line");
        Batch {
            entries: vec![Entry::from(record)],
            world,
            hash: line.clone(),
            continues: line,
            ..Batch::default()
        }
    }

    #[tokio::test]
    async fn what_comes_to_a_session_that_another_took_over_from_is_not_stored() {
        let store = MemoryStore::new(Origin::Global);
        let (zones, home) = zones(store.clone()).await;
        let peer = join(&zones, &home).await;
        let connect = async || {
            let peer = Peer { certificates: peer.certificates.clone(), address: peer.address };
            let session = zones.connected(peer, Handle::new()).await.unwrap();
            session.locate(Topic::ORIGINATED).await.unwrap();
            session
        };
        let [cart, shop] =
            ["cart", "shop"].map(|name| format!("MeshService/default/east//{name}").parse().unwrap());
        let earlier = connect().await;
        earlier.apply(Topic::ORIGINATED, batch(&cart, 1)).await.unwrap();
        assert!(store.get(&cart).await.unwrap().is_some());
        let later = connect().await;
        let before = store.head().await.unwrap();

        let refused = earlier.apply(Topic::ORIGINATED, batch(&shop, 2)).await.unwrap_err();
        assert!(matches!(refused.downcast_ref(), Some(store::Error::Fenced { .. })), "{refused}");
        assert_eq!(store.head().await.unwrap(), before);
        assert!(store.get(&shop).await.unwrap().is_none());

        later.apply(Topic::ORIGINATED, batch(&shop, 2)).await.unwrap();
        assert!(store.get(&shop).await.unwrap().is_some(), "the latest session goes on");
    }
}
