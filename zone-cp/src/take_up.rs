//! A zone that lost its store takes up what it last originated, as the global holds it, and goes on from there.
//!
//! Only a store that never spoke to its global does so: it is empty, or nearly. One that was put back from a copy has
//! a history of its own, and who holds more than that has to decide (`control::line`).

use std::net::SocketAddr;
use std::time::Duration;

use control::questions::{HELD, HeldAnswer, HeldDocument, HeldQuestion};
use model::document::Document;
use model::kinds::{Host, MeshTrust, MeshZoneAddress};
use model::{Point, Record, Version, ZoneName};
use store::{Draft, Expect, RollingHash, Store};
use sync::link::{Handle, HostError};
use sync::{Base, Place};
use tracing::{info, warn};

use crate::authorities::Authorities;
use crate::ingresses::Ingresses;

/// What is known of this store's line: nothing before the first word of the global.
const LINE: &str = "own-line";
const TAKING_UP: &[u8] = b"taking up";
const KNOWN: &[u8] = b"known";
/// How long the global may take for a page.
const LIMIT: Duration = Duration::from_secs(10);

pub struct TakeUp {
    pub zone: ZoneName,
    pub upstream: Handle,
    pub authorities: std::sync::Arc<Authorities>,
    pub ingresses: std::sync::Arc<Ingresses>,
}

impl TakeUp {
    /// Looks at where the global says that it stands, and takes up what it holds if this store knows nothing of that.
    /// Once for each store; an error leaves it to be done again.
    pub async fn look(&self, store: &dyn Store, base: &Base) -> Result<(), HostError> {
        let Base::Opened(place) = base else { return Ok(()) };
        let line = store.secret_get(LINE).await?;
        let line = line.as_ref().map(store::SecretBytes::expose);
        if line == Some(KNOWN) {
            return Ok(());
        }
        if let Some((theirs, hash)) = lost(store, place).await? {
            // From here on nothing is written under a number that the global knows.
            store.secret_put(LINE, TAKING_UP.to_vec().into()).await?;
            let begun = store.begin_epoch(theirs, Some(hash)).await?;
            let documents = self.read_back(store).await?;
            info!(zone = %self.zone, documents, ?begun, "this store was lost: what the global held is taken up again");
        } else if line == Some(TAKING_UP) {
            self.read_back(store).await?;
        }
        store.secret_put(LINE, KNOWN.to_vec().into()).await?;
        Ok(())
    }

    async fn read_back(&self, store: &dyn Store) -> Result<usize, HostError> {
        let mut after = None;
        let mut documents = 0;
        loop {
            let question = serde_json::to_vec(&HeldQuestion { after })?;
            let answer = self.upstream.ask(HELD, question, LIMIT).await?;
            let HeldAnswer { items, next } = serde_json::from_slice(&answer)?;
            for item in items.into_iter().filter(|item| item.key.origin == *store.origin()) {
                documents += usize::from(self.take(store, item).await?);
            }
            after = next;
            if after.is_none() {
                return Ok(documents);
            }
        }
    }

    /// Writes one again. What was written here meanwhile is newer, and stands.
    async fn take(&self, store: &dyn Store, held: HeldDocument) -> Result<bool, HostError> {
        let HeldDocument { key, requires, bundle, document } = held;
        let version = Version { origin: key.origin.clone(), point: Point::default() };
        let record = Record { key, version, secret: false, requires, bundle, bytes: document.into() };
        if let Ok(document) = Document::from_record(&record) {
            if let (Some(mesh), Some(trust)) = (&record.key.mesh, document.spec_as::<MeshTrust>()) {
                self.authorities.keep_earlier(store, mesh, &trust.trust_domain, &trust.ca_bundles).await?;
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

/// The point up to which the global holds a history that is not this store's, with its hash.
async fn lost(store: &dyn Store, place: &Place) -> Result<Option<(Point, RollingHash)>, store::Error> {
    let theirs = place.have.point(store.origin()).unwrap_or_default();
    let Ok(hash) = <[u8; 32]>::try_from(&*place.hash).map(RollingHash) else { return Ok(None) };
    let is_ours = store.hash_at(theirs).await? == Some(hash);
    Ok((theirs.revision > 0 && !is_ours).then_some((theirs, hash)))
}
