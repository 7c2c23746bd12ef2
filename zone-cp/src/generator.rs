//! Keeps what the zone writes by itself in step with what it is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::document::Document;
use model::labels;
use model::{DocumentKey, Origin, ZoneName};
use snapshot::View;
use store::{Change, Draft, Expect, Filter, Store, Write};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::authorities::Authorities;
use crate::generate::{self, GENERATOR, Generated};
use crate::ingresses::Ingresses;

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
            if let Err(error) = self.generate(&view, &registered).await {
                // The next change tries again; a store that cannot be written is somebody's business now.
                warn!(error = format!("{error:#}"), "generated documents could not be written");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
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
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    async fn generate(
        &self,
        view: &View,
        ingresses: &BTreeMap<model::ResourceName, std::net::SocketAddr>,
    ) -> anyhow::Result<()> {
        for (mesh, domain) in generate::trust_domains(view, &self.zone).keys() {
            self.authorities.ensure(&*self.store, mesh, domain).await?;
        }
        let wanted = generate::documents(view, &self.zone, ingresses, &self.authorities.public());
        let origin = Origin::Zone(self.zone.clone());
        let mut writes = Vec::new();
        for Generated { document, bundle } in wanted {
            let key = document.key(&origin);
            if may_write(view, &key, &document) {
                let draft = Draft { bundle, ..Draft::new(key, document.canonical()) };
                writes.push(Write::Put { draft, expect: Expect::Any });
            }
        }
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
fn may_write(view: &View, key: &DocumentKey, document: &Document) -> bool {
    match view.any(key) {
        None => true,
        Some(held) => {
            held.document.labels.get(labels::MANAGED_BY) == Some(GENERATOR)
                && held.document.canonical() != document.canonical()
        }
    }
}
