//! What proxies are told of this zone's own line, and who of them holds what it has.
//!
//! A proxy may have been told more than is written here, when an older copy of the store was put back. The line goes
//! on in a new epoch then (the rule: `sync::line`), which such a proxy does not take until somebody accepts it at
//! this zone's API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::Problem;
use api::shapes::Hold;
use bytes::Bytes;
use control::line::{self, Begun, Standing};
use model::{Origin, Point, Version, World};
use serde::{Deserialize, Serialize};
use store::Store;
use sync::link::HostError;
use sync::{Base, Batch};
use tokio::sync::Mutex as AsyncMutex;
use tracing::warn;

use crate::memory;
use crate::planner::{Client, SessionNumber};

/// The most parts that a hold names.
const MOST_KEYS: usize = 100;

pub struct History {
    store: Arc<dyn Store>,
    /// The hash that was looked up last, and where: all sessions ask for the same one.
    last: AsyncMutex<Option<(Point, Bytes)>>,
    begun: Begun,
    state: Mutex<State>,
    /// One at a time accepts.
    accepting: AsyncMutex<()>,
}

struct State {
    held: BTreeMap<Client, Held>,
    accepted: Accepted,
}

/// What somebody accepted. In the store, since a proxy may be away for as long as it likes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Accepted {
    /// Whoever was told of earlier epochs alone takes what is written here.
    epoch: u64,
}

/// Where that is kept among the private values of the store.
const ACCEPTED: &str = "accepted-history";

struct Held {
    session: SessionNumber,
    reason: String,
    offer: Offer,
}

/// What a proxy that stands elsewhere is offered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Offer {
    /// Up to where it was told.
    pub have: Point,
    /// Parts.
    added: Vec<String>,
    changed: Vec<String>,
    lost: Vec<String>,
}

impl Offer {
    /// What `batch` would do to a proxy that is at `base`.
    pub fn new(origin: &Origin, base: &Base, batch: &Batch) -> Self {
        let have = base.world().point(origin).unwrap_or_default();
        let is_held = |key: &String| matches!(base, Base::Opened(place) if place.held.contains_key(key));
        let (changed, added) = batch.entries.iter().map(|entry| entry.key.clone()).partition(is_held);
        Self { have, added, changed, lost: batch.removed.clone() }
    }
}

impl History {
    /// With what was accepted before the last start.
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, store::Error> {
        let accepted = memory::read(&*store, ACCEPTED).await?;
        Ok(Self {
            store,
            last: AsyncMutex::default(),
            begun: Begun::default(),
            state: Mutex::new(State { held: BTreeMap::new(), accepted }),
            accepting: AsyncMutex::default(),
        })
    }

    /// Where a proxy stands that opens its topic. What it was told and is not written here begins a new epoch. One that
    /// stands elsewhere is shown as its own line what somebody accepted.
    pub async fn find(&self, client: &Client, base: &Base) -> Result<Standing, HostError> {
        let standing = self.begun.find(&*self.store, client, base).await?;
        let told = base.world().point(self.store.origin()).unwrap_or_default();
        if !standing.is_on_line && told.epoch < self.state().accepted.epoch {
            return Ok(Standing { is_on_line: true, continues: Bytes::copy_from_slice(base.hash()) });
        }
        Ok(standing)
    }

    /// The hash of the own line where a world leads.
    pub async fn hash_at(&self, world: &World) -> Result<Bytes, HostError> {
        let point = world.point(self.store.origin()).unwrap_or_default();
        let mut last = self.last.lock().await;
        if let Some((_, hash)) = last.as_ref().filter(|(at, _)| *at == point) {
            return Ok(hash.clone());
        }
        let hash = line::hash_at(&*self.store, world).await?;
        *last = Some((point, hash.clone()));
        Ok(hash)
    }

    /// A proxy keeps what it has, and does not take what it was offered.
    pub fn hold(&self, client: Client, session: SessionNumber, reason: String, offer: Offer) {
        self.state().held.insert(client, Held { session, reason, offer });
    }

    /// A proxy took what came, or its session is over.
    pub fn release(&self, client: &Client, session: SessionNumber) {
        let held = &mut self.state().held;
        if held.get(client).is_some_and(|held| held.session == session) {
            held.remove(client);
        }
    }

    /// What the proxies hold of this zone, all in one; `offered` is where its line is now.
    pub fn held(&self, offered: Point) -> Option<Hold> {
        let state = self.state();
        let (first, held) = state.held.first_key_value()?;
        let origin = self.store.origin();
        let version = |point| Version { origin: origin.clone(), point };
        let others = match state.held.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        let reason = format!("{first}{others} were told what is not written here: {}", held.reason);
        let sum = |parts: fn(&Offer) -> &Vec<String>| {
            state.held.values().map(|held| parts(&held.offer).len() as u64).sum()
        };
        let keys = state.held.iter().flat_map(|(client, Held { offer, .. })| {
            offer.changed.iter().chain(&offer.lost).map(move |part| format!("{part} of {client}"))
        });
        Some(Hold {
            origin: origin.clone(),
            reason,
            have: version(state.held.values().map(|held| held.offer.have).max().unwrap_or_default()),
            offered: version(offered),
            added: sum(|offer| &offer.added),
            changed: sum(|offer| &offer.changed),
            lost: sum(|offer| &offer.lost),
            keys: keys.take(MOST_KEYS).collect(),
        })
    }

    /// What is written here counts for proxies that were told of epochs before this. Answers what was held, and by whom:
    /// it is to be offered to them anew, which is the caller's to do. Durable when it returns.
    pub async fn accept(&self, epoch: u64, offered: Point) -> Result<(Hold, Vec<Client>), Problem> {
        let _one_at_a_time = self.accepting.lock().await;
        let Some(hold) = self.held(offered) else {
            return Err(Problem::not_found(format!(
                "no proxy holds back what {} writes",
                self.store.origin()
            )));
        };
        if offered.epoch != epoch {
            return Err(Problem::conflict(format!(
                "'{}' offers epoch {}, not {epoch}: look again at what would be lost",
                self.store.origin(),
                offered.epoch
            )));
        }
        let before = self.state().accepted.clone();
        let accepted = Accepted { epoch: before.epoch.max(epoch) };
        memory::write(&*self.store, ACCEPTED, &accepted).await.map_err(|error| {
            warn!(%error, "what somebody accepted cannot be kept");
            Problem::unavailable("the zone cannot write its store now: try again")
        })?;
        let mut state = self.state();
        state.accepted = accepted;
        warn!(origin = %self.store.origin(), epoch, "somebody accepted its new history for its proxies");
        Ok((hold, state.held.keys().cloned().collect()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic between two states that fit together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
