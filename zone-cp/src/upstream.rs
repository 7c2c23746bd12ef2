//! The zone's end of its session with the global.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::shapes::MOST_LATE;
use api::status::{self, Remedy};
use bytes::Bytes;
use control::line::{self, Heard};
use control::presence::Ages;
use control::questions::{self, InspectQuestion, RevisionAnswer, RevisionQuestion, exported};
use control::{Again, Clock, Holds, Refusals, Reports, not_yet, reports};
use model::{Origin, World, ZoneName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Fence, Filter, Store, Write};
use sync::client::DialError;
use sync::frame::{Heartbeat, Hello, Signal};
use sync::link::{Handle, Host, HostError, Topics};
use sync::session::{Applied, Ended};
use sync::{Base, Batch, Place, Refused, Topic};
use tokio::time::Instant;

use crate::hub::Hub;
use crate::planner::{Input, ProxyId};
use crate::replica::Taken;
use crate::reporter::Reporter;
use crate::take_up::TakeUp;
use crate::{proof, replica};

pub struct Upstream {
    pub zone: ZoneName,
    pub store: Arc<dyn Store>,
    pub hub: Arc<Hub>,
    pub holds: Arc<Holds>,
    pub reporter: Arc<Reporter>,
    /// How the global says that it hears the others.
    pub ages: Arc<Mutex<Ages>>,
    pub cut_off: Arc<CutOff>,
    pub take_up: TakeUp,
    pub reports: Arc<Reports>,
    /// When what is refused of the global's documents is judged again.
    pub again: Again,
    /// The sessions with the global.
    pub sessions: Handle,
    pub clock: Clock,
    /// The right to store what the global sends, from a session's first look at what is held of it.
    pub fence: Mutex<Option<Fence>>,
}

/// Why there is no session with the global now; none while there is one, and before the first try.
#[derive(Default)]
pub struct CutOff(Mutex<Option<status::CutOff>>);

impl CutOff {
    pub fn why(&self) -> Option<status::CutOff> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, why: Option<status::CutOff>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// What helps a zone that could not begin a session.
fn remedy(error: &DialError) -> Remedy {
    match error {
        DialError::Refused { .. } => Remedy::Standing,
        error if error.is_final() => Remedy::Token,
        DialError::Unavailable { .. } => Remedy::Global,
        _ => Remedy::Address,
    }
}

/// The lane of what the global sends.
pub const LANE: &str = "policy";

/// The lane of what the global says that it refuses of what this zone wrote.
pub const REFUSED_ABOVE: &str = "originated";

/// The longest that a question about a revision may wait here; its asker asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

impl Host for Upstream {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::ORIGINATED], copies: vec![Topic::POLICY] }
    }

    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        self.take_up.look(&*self.store, &base).await?;
        let standing = self.holds.begun.find(&*self.store, &Origin::Global, &base).await?;
        let changes = line::lacking(&*self.store, &base, replica::originated(&self.zone)).await?;
        let hash = line::hash_at(&*self.store, &changes.world).await?;
        let batch = replica::batch(&self.zone, base.world(), changes);
        // With the first word the global hears our hash again, whatever it remembers.
        let batch = batch
            .or_else(|| base.is_opened().then(|| Batch { world: base.world().clone(), ..Batch::default() }));
        Ok(batch.map(|batch| Batch { hash, continues: standing.continues, ..batch }))
    }

    async fn locate(&self, _: Topic) -> Result<Place, HostError> {
        // What an earlier session stores from now on is refused, so what is there now is all there is.
        let fence = self.store.fence(LANE).await.map_err(|error| not_yet(error.into()))?;
        *self.fence.lock().unwrap_or_else(PoisonError::into_inner) = Some(fence);
        let have = self.copied(&self.store.head().await?.world);
        let heard = Heard::load(&*self.store, &Origin::Global).await?.unwrap_or_default();
        let anew = self.again.opens(&self.reports.of(LANE));
        Ok(Place { have, hash: heard.hash, anew, ..Place::default() })
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        self.take_over(batch).await.map_err(not_yet)
    }

    fn acknowledged(&self, _: &Topic, _: &World, refused: &[Refused]) {
        self.reports.put(REFUSED_ABOVE, Refusals::heard(&Origin::Global, refused));
    }
    fn subscribed(&self, added: &[String], removed: &[String]) {
        self.hub.input(Input::Wanted { added: added.to_vec(), removed: removed.to_vec() });
    }

    async fn signals(&self, signals: BTreeMap<String, Signal>) {
        for (name, signal) in signals {
            if let Some(destination) = exported(&name) {
                // Empty is "no word yet"; what cannot be read is no word either.
                let exports = serde_json::from_slice(&signal.value).ok();
                self.hub.input(Input::Exported { destination, exports });
            }
        }
    }

    async fn settled(&self) {
        self.hub.settled().await;
    }

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        match kind.as_str() {
            questions::REVISION => {
                let RevisionQuestion { revision, wait_ms } = read(&body)?;
                let wait = Duration::from_millis(wait_ms).min(LONGEST_WAIT);
                let proof = self.hub.prove(&revision, wait).await;
                let late = proof::late(&self.zone, &proof).take(MOST_LATE).collect();
                let refusals = proof::refusals(&self.reports, &revision, &*self.store).await;
                write(&RevisionAnswer { zone: proof::progress(&self.zone, &proof, &refusals), late })
            }
            questions::INSPECT => {
                let InspectQuestion { mesh, name } = read(&body)?;
                let proxy = ProxyId { mesh, name };
                let inspected = self.hub.inspect(&proxy);
                write(&inspected.ok_or_else(|| format!("zone {} has no proxy {proxy}", self.zone))?)
            }
            questions::STATUS => write(&self.reporter.report().1),
            _ => Err(format!("zone {} does not answer questions of kind '{kind}'", self.zone)),
        }
    }

    fn heartbeat(&self, heartbeat: &Heartbeat) {
        // Nothing can panic between two states that fit together.
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        ages.heartbeat(&heartbeat.ages, Instant::now());
    }

    fn connected(&self, _: &Hello) -> Result<(), String> {
        self.cut_off.set(None);
        Ok(())
    }

    fn unreachable(&self, error: &DialError) {
        let reason = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        self.cut_off.set(Some(status::CutOff { reason, remedy: remedy(error) }));
    }

    fn has_no_way(&self, reason: &str) {
        self.cut_off.set(Some(status::CutOff { reason: reason.to_owned(), remedy: Remedy::Token }));
    }

    fn closed(&self, ended: &Ended) {
        // Whoever is turned away for good hears so when dialling again.
        self.cut_off.set(Some(status::CutOff { reason: ended.to_string(), remedy: Remedy::Global }));
    }
}

impl Upstream {
    async fn take_over(&self, batch: Batch) -> Result<Applied, HostError> {
        let fence = self.fence.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fence = fence.ok_or("nothing was looked up yet")?;
        // What the zone makes of policy is made after what it made before is taken up again.
        self.take_up.looked().await;
        if let Err(reason) = self.holds.judge(&*self.store, &Origin::Global, &batch, &fence).await? {
            return Ok(Applied::Held { reason });
        }
        let mut held = Vec::new();
        if batch.whole {
            let own = Origin::Zone(self.zone.clone());
            let copies = self.store.list(Filter::all().not_written_by(own)).await?;
            held.extend(copies.records.into_iter().map(|record| record.key));
        }
        let heard = batch.world.point(&Origin::Global).map(|point| Heard { point, hash: batch.hash.clone() });
        let known = self.store.head().await?.world;
        let batch = replica::without_what_is_behind(&known, batch);
        let named = reports::Judged::of(&batch);
        let (whole, as_of) = (batch.whole, self.again.as_of());
        let Taken { mut writes, refused, unread } = replica::take(&self.zone, &known, &held, batch);
        for record in unread {
            if reports::in_force(&*self.store, &record.key).await?.is_none() {
                writes.push(Write::Copy(record));
            }
        }
        writes.insert(0, Write::Fence(fence));
        writes.extend(heard.map(|heard| heard.write(&Origin::Global)));
        let before = Refusals::load(&*self.store, LANE).await?;
        let refusals = before.clone().after(&named, refused, &*self.store, self.clock.now()).await?;
        writes.extend((refusals != before).then(|| refusals.write(LANE)));
        let refused = refusals.told();
        // Known before anybody can hear that the rest is in force.
        self.reports.put(LANE, refusals.clone());
        let applied = self.store.apply(writes).await;
        if applied.is_err() {
            // What counts is what was stored, maybe by a newer session.
            self.reports.put(LANE, Refusals::load(&*self.store, LANE).await?);
        }
        let receipt = applied?;
        self.holds.taken_over(&Origin::Global);
        if self.again.taken_over(whole, as_of, &before, &refusals) {
            self.sessions.reopen(&Topic::POLICY);
        }
        Ok(Applied::Stored { world: self.copied(&receipt.world), refused })
    }

    /// The components of the world that come from the global.
    fn copied(&self, world: &World) -> World {
        let own = Origin::Zone(self.zone.clone());
        world
            .iter()
            .filter(|(origin, _)| **origin != own)
            .map(|(origin, point)| (origin.clone(), point))
            .collect()
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the question cannot be read: {error}"))
}

fn write(answer: &impl Serialize) -> Result<Bytes, String> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
