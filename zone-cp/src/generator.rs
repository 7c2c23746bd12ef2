//! Keeps what the zone writes by itself in step with what it is made of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::document::Document;
use model::kinds::MeshZoneAddress;
use model::labels;
use model::{DocumentKey, Origin, ResourceName, ZoneName};
use snapshot::{Held, View};
use store::{Change, Draft, Expect, Filter, Store, Write};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::authorities::Authorities;
use crate::generate::{self, GENERATOR, Generated};
use crate::ingresses::Ingresses;

/// After a write or a read of the store that failed.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Generator {
    pub zone: ZoneName,
    pub store: Arc<dyn Store>,
    pub authorities: Arc<Authorities>,
    pub ingresses: Arc<Ingresses>,
}

impl Generator {
    /// Follows the store and the ingresses until `stop`.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ingresses = self.ingresses.watch();
        let listing = self.store.list(Filter::all()).await?;
        let mut watch = self.store.watch(listing.sequence);
        let mut view = View::default();
        for record in &listing.records {
            put(&mut view, record);
        }
        loop {
            let registered = ingresses.borrow_and_update().clone();
            let generated = self.generate(&view, &registered).await;
            if let Err(error) = &generated {
                warn!(error = format!("{error:#}"), "generated documents could not be written; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = time::sleep(AGAIN), if generated.is_err() => {}
                changed = ingresses.changed() => changed?,
                commit = watch.next() => match commit {
                    Ok(commit) => commit.changes.iter().for_each(|change| match change {
                        Change::Put(record) => put(&mut view, record),
                        Change::Deleted { key, .. } => view.remove(key),
                    }),
                    Err(store::Error::Compacted { .. }) => {
                        let listing = self.store.list(Filter::all()).await?;
                        watch = self.store.watch(listing.sequence);
                        view = View::default();
                        listing.records.iter().for_each(|record| put(&mut view, record));
                    }
                    Err(store::Error::Unavailable { .. }) => time::sleep(AGAIN).await,
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    async fn generate(
        &self,
        view: &View,
        ingresses: &BTreeMap<ResourceName, SocketAddr>,
    ) -> anyhow::Result<()> {
        for (mesh, domain) in generate::trust_domains(view, &self.zone).keys() {
            // One that is damaged keeps nobody else from theirs.
            if let Err(error) = self.authorities.ensure(&*self.store, mesh, domain).await {
                warn!(%mesh, %domain, error = format!("{error:#}"), "no authority");
            }
        }
        let wanted = generate::documents(view, &self.zone, ingresses, &self.authorities.public());
        let origin = Origin::Zone(self.zone.clone());
        let mut writes = Vec::new();
        for Generated { document, bundle } in wanted {
            let key = document.key(&origin);
            if let Some(expect) = may_write(view, &key, &document) {
                let draft = Draft { bundle, ..Draft::new(key, document.canonical()) };
                writes.push(Write::Put { draft, expect });
            }
        }
        writes.extend(abandoned(view, &origin, ingresses));
        for batch in writes.chunks(store::MAX_WRITES) {
            let receipt = self.store.transact(batch.to_vec()).await?;
            for written in receipt.written.iter().filter(|written| written.changed) {
                info!(version = %written.version, "generated");
            }
        }
        Ok(())
    }
}

fn put(view: &mut View, record: &model::Record) {
    if let Err(error) = view.put(record) {
        warn!(document = %record.key, %error, "a document cannot be read");
    }
}

/// Only what is not there, or was made here and differs. A person's document of the same name stands.
/// Whoever writes it meanwhile wins.
fn may_write(view: &View, key: &DocumentKey, document: &Document) -> Option<Expect> {
    match view.any(key) {
        None => Some(Expect::Absent),
        Some(held) => {
            let differs = held.document.canonical() != document.canonical();
            (is_generated(held) && differs).then(|| Expect::Version(held.version.clone()))
        }
    }
}

/// The addresses of ingresses that have left.
fn abandoned<'a>(
    view: &'a View,
    origin: &'a Origin,
    ingresses: &'a BTreeMap<ResourceName, SocketAddr>,
) -> impl Iterator<Item = Write> + 'a {
    let own = view.all::<MeshZoneAddress>().filter(move |(held, _)| held.key.origin == *origin);
    own.filter(|(held, _)| is_generated(held) && !ingresses.contains_key(&held.key.name)).map(|(held, _)| {
        Write::Delete { key: held.key.clone(), expect: Expect::Version(held.version.clone()) }
    })
}

fn is_generated(held: &Held) -> bool {
    held.document.labels.get(labels::MANAGED_BY) == Some(GENERATOR)
}
