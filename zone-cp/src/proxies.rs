//! The zone's end of its sessions with sidecars and ingresses.

use std::collections::BTreeMap;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use control::{Admission, Clock, Enroller, Issuing, not_yet, questions};
use model::{World, ZoneName};
use store::{Draft, Expect, Store};
use sync::link::{Host, HostError, Topics};
use sync::session::{Applied, Ended};
use sync::{Base, Batch, Entry, Holdings, Refused, Topic};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::authorities::Authorities;
use crate::history::{History, Offer};
use crate::hub::{Attachment, Hub};
use crate::ingresses::Ingresses;
use crate::lives::{self, Life};
use crate::metrics::Metrics;
use crate::planner::{Client, Input, Keeps, Plan, ProxyId, SessionNumber};
use crate::registration::{self, Granted, Refusal};

/// What all sessions share.
pub struct Zone {
    pub name: ZoneName,
    pub store: Arc<dyn Store>,
    pub hub: Arc<Hub>,
    pub history: Arc<History>,
    pub authorities: Arc<Authorities>,
    pub ingresses: Arc<Ingresses>,
    pub enroller: Arc<Enroller>,
    pub issuing: Issuing,
    pub clock: Clock,
    pub metrics: Metrics,
    /// Where this control plane listens, and the global, as far as that is known.
    pub own: Vec<SocketAddr>,
}

/// One session of a sidecar or an ingress.
pub struct Session {
    zone: Arc<Zone>,
    client: Client,
    admission: Admission,
    number: SessionNumber,
    from: IpAddr,
    granted: Granted,
    plan: watch::Receiver<Plan>,
    sent: Mutex<Sent>,
}

#[derive(Default)]
struct Sent {
    holdings: Holdings,
    /// Of the plan that was collected last.
    generation: u64,
    /// To which the last batch leads.
    world: World,
    /// The last batch was refused in part: what it lacks is not confirmed by silence.
    refused: bool,
    /// Where it opened the topic, as long as nothing could be sent to there.
    waits: Option<Base>,
    /// What it was offered last, where it stands elsewhere.
    offer: Offer,
    /// The hash that came with the last batch.
    hash: Bytes,
}

impl Session {
    pub fn new(
        zone: Arc<Zone>,
        client: Client,
        admission: Admission,
        attachment: Attachment,
        from: IpAddr,
        granted: Granted,
    ) -> Self {
        let (number, plan) = attachment.begin();
        Self { zone, client, admission, number, from, granted, plan, sent: Mutex::default() }
    }

    fn confirmed(&self, world: World, generation: u64) {
        let (client, session) = (self.client.clone(), self.number);
        self.zone.hub.input(Input::Confirmed { client, session, world, generation });
    }

    fn keeps(&self, why: Keeps) {
        let (client, session) = (self.client.clone(), self.number);
        self.zone.hub.input(Input::Keeps { client, session, why });
    }

    /// Says of whom the proxy was told more than is known here, and what it would be told by what is.
    fn waits(&self, ahead: World, base: &Base, plan: &Plan) {
        let batch = Holdings::default().collect(base, &plan.parts, plan.world.clone()).unwrap_or_default();
        let offer = Offer::new(base, &batch);
        self.zone.history.waits(self.client.clone(), self.number, ahead.clone(), offer);
        self.keeps(Keeps::Ahead(ahead));
    }

    /// Kept before it is acted on.
    async fn lives(&self, proxy: &ProxyId, life: Life) -> anyhow::Result<()> {
        lives::write(&*self.zone.store, proxy, life).await?;
        self.zone.hub.input(Input::Life { proxy: proxy.clone(), life });
        Ok(())
    }

    /// What the peer says of itself goes into the store, or is refused.
    async fn register(&self, entry: &Entry) -> Result<Result<(), Refusal>, HostError> {
        // Whoever was removed while its session began must not come back by its own word.
        if self.zone.enroller.grant(&self.admission.peer).await?.is_none() {
            return Err(format!("{} was removed from this zone", self.admission.peer).into());
        }
        let (body, granted, from) = (&entry.body, &self.granted, self.from);
        match &self.client {
            Client::Proxy(proxy) => {
                let zone = &self.zone.name;
                let document = registration::dataplane(body, proxy, granted, from, zone, &self.zone.own);
                let document = match document {
                    Ok(document) => document,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                let draft = Draft::new(proxy.key(zone), document.canonical());
                let written = self.zone.store.put(draft, Expect::Any).await?;
                if let Ok(Some(life @ Life { drained: true, .. })) =
                    lives::read(&*self.zone.store, proxy).await
                {
                    self.lives(proxy, Life { drained: false, ..life }).await?;
                }
                info!(proxy = %proxy, version = %written.version, changed = written.changed, "registered");
            }
            Client::Ingress(name) => {
                let address = match registration::ingress(body, granted, from) {
                    Ok(address) => address,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                self.zone.ingresses.register(&*self.zone.store, name.clone(), address).await?;
                info!(ingress = %name, %address, "registered");
            }
        }
        self.zone.enroller.registered(&self.admission.peer);
        Ok(Ok(()))
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        // Only plain assignments happen under it.
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Session {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::PARTS], copies: vec![Topic::PROXY] }
    }

    /// What the proxy lacks of its newest plan. Nothing, if what it has equals the plan: then it runs
    /// this world already, and the zone knows that without asking. Nothing either as long as it was told more than
    /// this zone knows: a proxy is never led back.
    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        let is_first = base.is_opened();
        let waited = self.sent().waits.take();
        let base = if is_first { base } else { waited.unwrap_or(base) };
        let opened =
            if base.is_opened() { Some(self.zone.history.find(&self.client, &base).await?) } else { None };
        let plan = self.plan.borrow().clone();
        // A proxy that has not said yet what it wants is not told that it has too much.
        let wants = !plan.wanted.is_empty();
        let ahead = self.zone.history.ahead(base.world(), &plan.world);
        if !wants || !ahead.is_empty() {
            if wants {
                self.waits(ahead, &base, &plan);
            }
            self.sent().waits = Some(base);
            return Ok(None);
        }
        let hash = self.zone.history.hash_at(&plan.world).await?;
        let mut sent = self.sent();
        sent.generation = plan.generation;
        let batch = sent.holdings.collect(&base, &plan.parts, plan.world.clone());
        // What the peer holds says nothing of what is in force there, and not whether this history counts for it: only
        // its acknowledgement does.
        let is_elsewhere = opened.as_ref().is_some_and(|standing| !standing.is_on_line);
        let batch = if is_first || is_elsewhere {
            Some(batch.unwrap_or_else(|| Batch { world: plan.world.clone(), ..Batch::default() }))
        } else {
            batch.filter(|batch| !batch.is_empty())
        };
        let Some(batch) = batch else {
            let runs_it_already = !sent.refused;
            drop(sent);
            if runs_it_already {
                self.confirmed(plan.world, plan.generation);
            }
            return Ok(None);
        };
        sent.offer = match is_elsewhere {
            true => Offer::new(&base, &batch),
            false => Offer::default(),
        };
        let before = mem::replace(&mut sent.hash, hash.clone());
        sent.world.clone_from(&batch.world);
        let continues = opened.map_or(before, |standing| standing.continues);
        Ok(Some(Batch { hash, continues, ..batch }))
    }

    fn acknowledged(&self, _: &Topic, world: &World, refused: &[Refused]) {
        let (world, generation, waits) = {
            let mut sent = self.sent();
            sent.refused = !refused.is_empty();
            // Nobody runs more than it was sent, whatever it says.
            let world = if sent.world.covers_all(world) { world } else { &sent.world };
            (world.clone(), sent.generation, sent.waits.is_some())
        };
        // It was sent nothing yet.
        if waits {
            return;
        }
        self.zone.history.release(&self.client, self.number);
        if refused.is_empty() {
            self.confirmed(world, generation);
            return;
        }
        let refused: BTreeMap<String, String> =
            refused.iter().map(|refused| (refused.key.clone(), refused.reason.clone())).collect();
        warn!(client = %self.client, ?refused, "refused parts");
        self.zone.hub.input(Input::Refused { client: self.client.clone(), session: self.number, refused });
    }

    fn held_by_peer(&self, _: &Topic, reason: &str) {
        warn!(client = %self.client, reason, "it holds what it has, and takes no more");
        let (client, offer) = (self.client.clone(), mem::take(&mut self.sent().offer));
        self.zone.history.diverges(client, self.number, reason.to_owned(), offer);
        self.keeps(Keeps::Diverged(reason.to_owned()));
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        let mut refused = Vec::new();
        for entry in &batch.entries {
            if let Err(refusal) = self.register(entry).await.map_err(not_yet)? {
                self.zone.metrics.registrations_refused.inc();
                warn!(client = %self.client, reason = %refusal, "registration refused");
                refused.push(entry.refused(refusal));
            }
        }
        Ok(Applied::Stored { world: batch.world, refused })
    }

    fn subscribed(&self, added: &[String], removed: &[String]) {
        self.zone.hub.input(Input::Subscribed {
            client: self.client.clone(),
            session: self.number,
            added: added.to_vec(),
            removed: removed.to_vec(),
        });
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        let pem = match (kind.as_str(), &self.client) {
            (questions::CERTIFICATE, Client::Proxy(proxy)) => {
                let assigned = self.zone.hub.assigned(proxy);
                let assigned =
                    assigned.ok_or("no MeshIdentity of this zone's own authority selects this proxy")?;
                let _turn = self.zone.issuing.turn().await.map_err(|busy| busy.to_string())?;
                let life = Life::until(self.zone.clock.now() + assigned.lifetime);
                self.lives(proxy, life).await.map_err(|error| format!("{error:#}"))?;
                let issued = self.zone.authorities.issue(&proxy.mesh, &assigned.id, &body, assigned.lifetime);
                let pem = issued.map_err(|error| format!("{error:#}"))?;
                self.zone.metrics.certificates_issued.inc();
                pem
            }
            (questions::DRAINING, client) => {
                info!(%client, "draining");
                self.zone.hub.draining(client, self.number).await;
                return Ok(Bytes::new());
            }
            (questions::CLIENT_CERTIFICATE, _) => {
                let renewed = self.zone.enroller.renew(&self.admission, &body, self.zone.clock.now()).await;
                identity::certificates_to_pem(&renewed.map_err(|error| error.to_string())?)
            }
            _ => return Err(format!("a zone does not answer questions of kind '{kind}'")),
        };
        Ok(pem.into_bytes().into())
    }

    fn stale(&self, silent: bool) {
        if silent {
            warn!(client = %self.client, "nothing is heard of it");
        } else {
            info!(client = %self.client, "heard again");
        }
        self.zone.hub.input(Input::Silent { client: self.client.clone(), session: self.number, silent });
    }

    fn closed(&self, ended: &Ended) {
        let drained = matches!(ended, Ended::ByPeer(reason) if reason == questions::DRAINED);
        self.zone.history.release(&self.client, self.number);
        self.zone.hub.detach(&self.client, self.number, drained);
        if let (true, Client::Proxy(proxy)) = (drained, &self.client) {
            let (zone, proxy) = (self.zone.clone(), proxy.clone());
            self.zone.hub.spawn("proxy left", async move {
                let life = lives::read(&*zone.store, &proxy).await?.unwrap_or_default();
                lives::write(&*zone.store, &proxy, Life { drained: true, ..life }).await
            });
        }
        if let (true, Client::Ingress(name)) = (drained, &self.client) {
            let (zone, name) = (self.zone.clone(), name.clone());
            self.zone
                .hub
                .spawn("ingress left", async move { zone.ingresses.forget(&*zone.store, &name).await });
        }
    }
}

#[cfg(test)]
mod tests;
