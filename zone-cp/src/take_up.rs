//! A zone that lost its store takes up what it last originated, as the global holds it, and goes on from there.
//!
//! Only a store that never spoke to its global does so: it is empty, or nearly. One that was put back from a copy has
//! a history of its own, and who holds more than that has to decide (`control::line`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use control::questions::{HELD, HeldAnswer, HeldDocument, HeldQuestion};
use model::document::Document;
use model::kinds::{Host, MeshTrust, MeshZoneAddress};
use model::{BundleNumber, DocumentKey, Point, Record, Version, ZoneName, labels};
use serde::{Deserialize, Serialize};
use store::{Draft, Expect, RollingHash, Store};
use sync::line::is_absurd;
use sync::link::{Handle, HostError};
use sync::{Base, Place};
use tokio::sync::watch;
use tokio::time;
use tracing::{info, warn};

use crate::authorities::Authorities;
use crate::generate::GENERATOR;
use crate::ingresses::Ingresses;

/// What is known of this store's line: nothing before the first word of the global, then [`Line`].
const LINE: &str = "own-line";
/// How long the global may take for a page.
const LIMIT: Duration = Duration::from_secs(10);
/// How long policy waits for what is taken up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
enum Line {
    /// In a new epoch; the documents up to this key are back.
    TakingUp {
        after: Option<DocumentKey>,
    },
    Known,
}

pub struct TakeUp {
    zone: ZoneName,
    upstream: Handle,
    authorities: Arc<Authorities>,
    ingresses: Arc<Ingresses>,
    looked: watch::Sender<bool>,
}

impl TakeUp {
    pub fn new(
        zone: ZoneName,
        upstream: Handle,
        authorities: Arc<Authorities>,
        ingresses: Arc<Ingresses>,
    ) -> Self {
        Self { zone, upstream, authorities, ingresses, looked: watch::Sender::new(false) }
    }

    /// Waits until it was looked once whether there is something to take up, and that was tried.
    pub async fn looked(&self) {
        let mut looked = self.looked.subscribe();
        let waited = time::timeout(PATIENCE, looked.wait_for(|looked| *looked)).await;
        if waited.is_err() {
            warn!(zone = %self.zone, "the global does not say what it holds of this zone");
        }
    }

    /// Looks at where the global says that it stands, and takes up what it holds if this store knows nothing of that.
    /// Once for each store; an error leaves it to be done again.
    pub async fn look(&self, store: &dyn Store, base: &Base) -> Result<(), HostError> {
        let Base::Opened(place) = base else { return Ok(()) };
        let taken = self.take_up(store, place).await;
        // Also after an error: policy does not wait for ever.
        self.looked.send_replace(true);
        taken
    }

    async fn take_up(&self, store: &dyn Store, place: &Place) -> Result<(), HostError> {
        let line = store.secret_get(LINE).await?;
        let line = line.map(|line| serde_json::from_slice::<Line>(line.expose())).transpose()?;
        let after = match (line, lost(store, place).await?) {
            (Some(Line::Known), _) => return Ok(()),
            (Some(Line::TakingUp { after }), _) => after,
            (None, Lost::Nothing) => return keep(store, &Line::Known).await,
            // Its hash comes with a later session, or never; then somebody has to decide.
            (None, Lost::Unknown) => return Ok(()),
            (None, Lost::UpTo(theirs, hash)) => {
                // From here on nothing is written under a number that the global knows.
                let begun = store.begin_epoch(theirs, Some(hash)).await?;
                info!(zone = %self.zone, ?begun, "this store was lost: what the global holds is taken up again");
                keep(store, &Line::TakingUp { after: None }).await?;
                None
            }
        };
        let documents = self.read_back(store, after).await?;
        info!(zone = %self.zone, documents, "taken up again");
        keep(store, &Line::Known).await
    }

    async fn read_back(&self, store: &dyn Store, mut after: Option<DocumentKey>) -> Result<usize, HostError> {
        let mut documents = 0;
        loop {
            let question = serde_json::to_vec(&HeldQuestion { after: after.clone() })?;
            let answer = self.upstream.ask(HELD, question, LIMIT).await?;
            let HeldAnswer { items, next } = serde_json::from_slice(&answer)?;
            for item in items.into_iter().filter(|item| item.key.origin == *store.origin()) {
                documents += usize::from(self.take(store, item).await?);
            }
            let Some(next) = next else { return Ok(documents) };
            if after.is_some_and(|after| next.to_string() <= after.to_string()) {
                return Err("the global's pages lead nowhere".into());
            }
            keep(store, &Line::TakingUp { after: Some(next.clone()) }).await?;
            after = Some(next);
        }
    }

    /// Writes one again. What was written here meanwhile is newer, and stands.
    async fn take(&self, store: &dyn Store, held: HeldDocument) -> Result<bool, HostError> {
        let HeldDocument { key, requires, bundle, document } = held;
        let version = Version { origin: key.origin.clone(), point: Point::default() };
        let record = Record { key, version, secret: false, requires, bundle, bytes: document.into() };
        if let Ok(document) = Document::from_record(&record) {
            // What a person wrote stands as it is; the zone's own authority never was in it.
            let is_generated = document.labels.get(labels::MANAGED_BY) == Some(GENERATOR);
            if let (Some(mesh), Some(trust), true) =
                (&record.key.mesh, document.spec_as::<MeshTrust>(), is_generated)
            {
                let number = record.bundle.unwrap_or(BundleNumber { incarnation: 0, n: 0 });
                self.authorities.keep_earlier(store, mesh, trust, number).await?;
            }
            if let Some(MeshZoneAddress { address: Host::Ip(ip), port }) =
                document.spec_as::<MeshZoneAddress>()
            {
                let address = SocketAddr::new(*ip, *port);
                self.ingresses.register(store, record.key.name.clone(), address).await?;
            }
        }
        let Record { key, secret, requires, bundle, bytes, .. } = record;
        let draft = Draft { key, secret, requires, bundle, bytes };
        match store.put(draft, Expect::Absent).await {
            Ok(_) => Ok(true),
            Err(store::Error::Conflict { .. }) => Ok(false),
            Err(error @ (store::Error::TooLarge { .. } | store::Error::NotOurs { .. })) => {
                warn!(%error, "a document is not taken up again");
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

async fn keep(store: &dyn Store, line: &Line) -> Result<(), HostError> {
    Ok(store.secret_put(LINE, serde_json::to_vec(line)?.into()).await?)
}

/// What the global holds of a history that is not this store's.
enum Lost {
    Nothing,
    /// It does not say how that history goes on.
    Unknown,
    UpTo(Point, RollingHash),
}

async fn lost(store: &dyn Store, place: &Place) -> Result<Lost, HostError> {
    let theirs = place.have.point(store.origin()).unwrap_or_default();
    if theirs.revision == 0 {
        return Ok(Lost::Nothing);
    }
    if is_absurd(theirs, store.head().await?.point) {
        return Err("the global claims to hold more of this zone than anyone can have written".into());
    }
    let Ok(hash) = <[u8; 32]>::try_from(&*place.hash).map(RollingHash) else { return Ok(Lost::Unknown) };
    let is_ours = store.hash_at(theirs).await? == Some(hash);
    Ok(if is_ours { Lost::Nothing } else { Lost::UpTo(theirs, hash) })
}
