//! The zone's end of its session with the global.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::shapes::MOST_LATE;
use bytes::Bytes;
use control::questions::{self, InspectQuestion, RevisionAnswer, RevisionQuestion, exported};
use model::{Origin, Point, World, ZoneName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::{Filter, SecretBytes, Store};
use sync::frame::Signal;
use sync::link::{Host, HostError, Topics};
use sync::session::Applied;
use sync::{Base, Batch, Place, Topic};

use crate::hub::Hub;
use crate::planner::{Input, ProxyId};
use crate::{proof, replica};

pub struct Upstream {
    pub zone: ZoneName,
    pub store: Arc<dyn Store>,
    pub hub: Arc<Hub>,
}

/// The global's rolling hash as it came with its last batch, and where in its line that was.
#[derive(Deserialize, Serialize)]
struct PolicyHash {
    at: Point,
    hash: Bytes,
}

const POLICY_HASH: &str = "policy-hash";

/// The longest that a question about a revision may wait here; its asker asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

impl Host for Upstream {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::ORIGINATED], copies: vec![Topic::POLICY] }
    }

    async fn collect(&self, _: Topic, base: Base) -> Result<Option<Batch>, HostError> {
        let have = base.world().clone();
        let changes = self.store.since(have.clone(), replica::originated(&self.zone)).await?;
        let own = Origin::Zone(self.zone.clone());
        let revision = changes.world.point(&own).unwrap_or_default().revision;
        // By it the global notices that a store was put back and has written other things since.
        let hash = self.store.hash_at(revision).await?;
        let hash = hash.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0));
        Ok(replica::batch(&self.zone, &have, changes, hash))
    }

    async fn locate(&self, _: Topic) -> Result<Place, HostError> {
        let have = self.copied(&self.store.head().await?.world);
        let kept = self.store.secret_get(POLICY_HASH).await?;
        let kept = kept.and_then(|kept| serde_json::from_slice::<PolicyHash>(kept.expose()).ok());
        // One that belongs to another place says nothing of this one.
        let hash = kept.filter(|kept| have.point(&Origin::Global) == Some(kept.at)).map(|kept| kept.hash);
        Ok(Place { have, hash: hash.unwrap_or_default(), ..Place::default() })
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        let mut held = Vec::new();
        if batch.whole {
            let own = Origin::Zone(self.zone.clone());
            let copies = self.store.list(Filter::all().not_written_by(own)).await?;
            held.extend(copies.records.into_iter().map(|record| record.key));
        }
        let hash = batch.world.point(&Origin::Global).map(|at| PolicyHash { at, hash: batch.hash.clone() });
        let (writes, refused) = replica::writes(&self.zone, &held, batch);
        let receipt = self.store.apply(writes).await?;
        if let Some(hash) = hash.filter(|hash| !hash.hash.is_empty()) {
            self.store.secret_put(POLICY_HASH, SecretBytes::from(serde_json::to_vec(&hash)?)).await?;
        }
        Ok(Applied::Stored { world: self.copied(&receipt.world), refused })
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

    async fn question(&self, kind: String, body: Bytes) -> Result<Bytes, String> {
        match kind.as_str() {
            questions::REVISION => {
                let RevisionQuestion { revision, wait_ms } = read(&body)?;
                let wait = Duration::from_millis(wait_ms).min(LONGEST_WAIT);
                let proof = self.hub.prove(&revision, wait).await;
                let late = proof::late(&self.zone, &proof).take(MOST_LATE).collect();
                write(&RevisionAnswer { zone: proof::progress(&self.zone, &proof), late })
            }
            questions::INSPECT => {
                let InspectQuestion { mesh, name } = read(&body)?;
                let proxy = ProxyId { mesh, name };
                let inspected = self.hub.inspect(&proxy);
                write(&inspected.ok_or_else(|| format!("zone {} has no proxy {proxy}", self.zone))?)
            }
            _ => Err(format!("zone {} does not answer questions of kind '{kind}'", self.zone)),
        }
    }
}

impl Upstream {
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
