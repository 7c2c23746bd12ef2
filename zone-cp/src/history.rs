//! What proxies are told of this zone's own line and of others', and who of them holds what it has.
//!
//! A proxy may have been told more than is written here, when an older copy of the store was put back. The line goes
//! on in a new epoch then (the rule: `sync::line`), which such a proxy does not take until somebody accepts it at
//! this zone's API. What others wrote this zone only passes on: a proxy that was told more of it waits until the zone
//! has heard as much. Where that will never be, as after a store was lost, somebody may accept that as well.

use std::collections::{BTreeMap, BTreeSet};
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
/// How many origins are listed at most.
const MOST_HOLDS: usize = 100;

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
    /// Of other origins: the most that proxies were told, as it was shown last.
    shown: BTreeMap<Origin, Point>,
}

/// What somebody accepted. In the store, since a proxy may be away for as long as it likes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Accepted {
    /// Whoever was told of earlier epochs alone takes what is written here.
    epoch: u64,
    /// Of other origins: whoever was told no more than this takes what is known here.
    others: World,
}

/// Where that is kept among the private values of the store.
const ACCEPTED: &str = "accepted-history";

struct Held {
    session: SessionNumber,
    why: Why,
    offer: Offer,
}

/// Why a proxy keeps what it has.
enum Why {
    /// It says so: what this zone writes is another history to it.
    Diverges(String),
    /// It was told this much of other origins, which is more than is known here.
    Ahead(World),
}

/// What a proxy that keeps what it has is offered, or would be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Offer {
    /// Up to where it was told.
    told: World,
    /// Parts.
    added: Vec<String>,
    changed: Vec<String>,
    lost: Vec<String>,
}

impl Offer {
    /// What `batch` would do to a proxy that is at `base`.
    pub fn new(base: &Base, batch: &Batch) -> Self {
        let is_held = |key: &String| matches!(base, Base::Opened(place) if place.held.contains_key(key));
        let (changed, added) = batch.entries.iter().map(|entry| entry.key.clone()).partition(is_held);
        Self { told: base.world().clone(), added, changed, lost: batch.removed.clone() }
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
            state: Mutex::new(State { held: BTreeMap::new(), accepted, shown: BTreeMap::new() }),
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

    /// What a proxy was told beyond what is known here, and what somebody accepted that nobody will hear of again.
    pub fn ahead(&self, told: &World, known: &World) -> World {
        let state = self.state();
        let is_ahead = |(origin, point): &(&Origin, Point)| {
            [known, &state.accepted.others].iter().all(|world| world.point(origin) < Some(*point))
        };
        told.iter().filter(is_ahead).map(|(origin, point)| (origin.clone(), point)).collect()
    }

    /// A proxy keeps what it has, and does not take what it was offered.
    pub fn diverges(&self, client: Client, session: SessionNumber, reason: String, offer: Offer) {
        self.state().held.insert(client, Held { session, why: Why::Diverges(reason), offer });
    }

    /// A proxy is told nothing, since it was told this much more before.
    pub fn waits(&self, client: Client, session: SessionNumber, ahead: World, offer: Offer) {
        self.state().held.insert(client, Held { session, why: Why::Ahead(ahead), offer });
    }

    /// A proxy took what came, or its session is over.
    pub fn release(&self, client: &Client, session: SessionNumber) {
        let held = &mut self.state().held;
        if held.get(client).is_some_and(|held| held.session == session) {
            held.remove(client);
        }
    }

    /// Whether a proxy says that what this zone writes is another history to it.
    pub fn is_diverged(&self) -> bool {
        self.state().held.values().any(|held| matches!(held.why, Why::Diverges(_)))
    }

    /// What the proxies hold of this zone, all in one, and of each other origin; `known` is what is offered.
    pub fn holds(&self, known: &World) -> Vec<Hold> {
        let mut state = self.state();
        let mut origins = BTreeSet::from([self.store.origin()]);
        for held in state.held.values() {
            if let Why::Ahead(ahead) = &held.why {
                origins.extend(ahead.iter().map(|(origin, _)| origin));
            }
        }
        // A proxy may name whom it likes: those that this zone knows come first.
        let mut origins: Vec<Origin> = origins.into_iter().cloned().collect();
        origins.sort_by_key(|origin| known.point(origin).is_none() && origin != self.store.origin());
        let held = origins.iter().filter_map(|origin| self.hold(&state, origin, known));
        let holds: Vec<Hold> = held.take(MOST_HOLDS).collect();
        state.shown = holds.iter().map(|hold| (hold.origin.clone(), hold.have.point)).collect();
        holds
    }

    fn hold(&self, state: &State, origin: &Origin, known: &World) -> Option<Hold> {
        let clients: Vec<(&Client, &Held)> = state.of(origin, self.store.origin(), known).collect();
        let (first, Held { why, .. }) = clients.first()?;
        let others = match clients.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        let reason = match why {
            Why::Diverges(reason) => format!("{first}{others} were told what is not written here: {reason}"),
            Why::Ahead(_) => {
                format!(
                    "{first}{others} were told more of it than this zone knows, and wait until it has heard as much"
                )
            }
        };
        let version = |point| Version { origin: origin.clone(), point };
        let offers = || clients.iter().map(|(_, held)| &held.offer);
        let sum = |parts: fn(&Offer) -> &Vec<String>| offers().map(|offer| parts(offer).len() as u64).sum();
        let keys = clients.iter().flat_map(|(client, Held { offer, .. })| {
            offer.changed.iter().chain(&offer.lost).map(move |part| format!("{part} of {client}"))
        });
        Some(Hold {
            origin: origin.clone(),
            reason,
            have: version(offers().filter_map(|offer| offer.told.point(origin)).max().unwrap_or_default()),
            offered: version(known.point(origin).unwrap_or_default()),
            added: sum(|offer| &offer.added),
            changed: sum(|offer| &offer.changed),
            lost: sum(|offer| &offer.lost),
            keys: keys.take(MOST_KEYS).collect(),
        })
    }

    /// What is known here of an origin counts for proxies that were told more: of this zone itself for those that were
    /// told of epochs before this, of another for those that were told no more than was shown. Answers what was held,
    /// and by whom: it is to be offered to them anew, which is the caller's to do. Durable when it returns.
    pub async fn accept(
        &self,
        origin: &Origin,
        epoch: u64,
        known: &World,
    ) -> Result<(Hold, Vec<Client>), Problem> {
        let _one_at_a_time = self.accepting.lock().await;
        let (hold, clients, mut accepted) = {
            let (state, own) = (self.state(), self.store.origin());
            let Some(hold) = self.hold(&state, origin, known) else {
                return Err(Problem::not_found(format!(
                    "no proxy holds back what is known here of '{origin}'"
                )));
            };
            let clients: Vec<Client> =
                state.of(origin, own, known).map(|(client, _)| client.clone()).collect();
            (hold, clients, state.accepted.clone())
        };
        if hold.offered.point.epoch != epoch {
            return Err(Problem::conflict(format!(
                "what is known here of '{origin}' is of epoch {}, not {epoch}: look again at what would be lost",
                hold.offered.point.epoch
            )));
        }
        if origin == self.store.origin() {
            accepted.epoch = accepted.epoch.max(epoch);
        } else {
            // A proxy may have come since, which says that it was told more than there can be.
            if self.state().shown.get(origin).is_none_or(|shown| *shown < hold.have.point) {
                return Err(Problem::conflict(format!(
                    "proxies were told more of '{origin}' than was shown: look again at what would be lost"
                )));
            }
            accepted.others.advance(origin.clone(), hold.have.point);
        }
        memory::write(&*self.store, ACCEPTED, &accepted).await.map_err(|error| {
            warn!(%error, "what somebody accepted cannot be kept");
            Problem::unavailable("the zone cannot write its store now: try again")
        })?;
        self.state().accepted = accepted;
        warn!(%origin, have = %hold.have, offered = %hold.offered, "somebody accepted what is known of it for its proxies");
        Ok((hold, clients))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic between two states that fit together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Who keeps what it has because of an origin.
    fn of<'a>(
        &'a self,
        origin: &'a Origin,
        own: &'a Origin,
        known: &'a World,
    ) -> impl Iterator<Item = (&'a Client, &'a Held)> {
        self.held.iter().filter(move |(_, held)| match &held.why {
            Why::Diverges(_) => origin == own,
            Why::Ahead(ahead) => {
                // The zone may have heard as much since, or more.
                origin != own && ahead.point(origin).is_some_and(|told| known.point(origin) < Some(told))
            }
        })
    }
}
