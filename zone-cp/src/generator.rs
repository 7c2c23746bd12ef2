//! Keeps what the zone writes by itself in step with what it is made of.

mod orphans;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use model::document::Document;
use model::kinds::{MeshService, MeshZoneAddress, Workload};
use model::labels;
use model::{DocumentKey, Origin, ResourceName, ZoneName};
use snapshot::{Held, View};
use store::{Change, Commit, Draft, Expect, Filter, Store, Write};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::authorities::Authorities;
use crate::generate::{self, GENERATOR, Generated};
use crate::ingresses::Ingresses;
use orphans::Orphans;

/// After a write or a read of the store that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How many times as long as it took to look at everything, it is not looked again.
const REST: u32 = 3;
/// What took longer was waiting for something else.
const LONGEST_LOOK: Duration = Duration::from_millis(100);

pub struct Generator {
    pub zone: ZoneName,
    pub store: Arc<dyn Store>,
    pub authorities: Arc<Authorities>,
    pub ingresses: Arc<Ingresses>,
    /// Empty.
    pub view: View,
}

impl Generator {
    /// Follows the store and the ingresses until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ingresses = self.ingresses.watch();
        let mut authorities = self.authorities.watch();
        let listing = self.store.list(Filter::all()).await?;
        let mut watch = self.store.watch(listing.sequence);
        let mut view = mem::take(&mut self.view);
        for record in &listing.records {
            put(&mut view, record);
        }
        let mut orphans = Orphans::default();
        loop {
            let registered = ingresses.borrow_and_update().clone();
            let begun = Instant::now();
            let generated = self.generate(&view, &registered, &mut orphans).await;
            // Where many come at once, they are looked at together.
            let rest = REST * begun.elapsed().min(LONGEST_LOOK);
            match &generated {
                Ok(()) => {}
                // What was written has not come back by the watch yet: it wakes us when it has.
                Err(error) if matches!(error.downcast_ref(), Some(store::Error::Conflict { .. })) => {
                    debug!(%error, "documents are generated from what is behind the store");
                }
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "generated documents could not be written; trying again"
                    );
                }
            }
            if time::timeout(rest, stop.cancelled()).await.is_ok() {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = time::sleep(AGAIN), if generated.is_err() => {}
                () = reached(orphans.next()), if generated.is_ok() => {}
                changed = ingresses.changed() => changed?,
                changed = authorities.changed() => changed?,
                commit = watch.next() => match commit {
                    Ok(commit) => {
                        take(&mut view, &commit);
                        while let Some(Ok(commit)) = watch.next().now_or_never() {
                            take(&mut view, &commit);
                        }
                    }
                    Err(store::Error::Compacted { .. }) => match self.store.list(Filter::all()).await {
                        Ok(listing) => {
                            watch = self.store.watch(listing.sequence);
                            // What cannot be read keeps its last good version.
                            let there: BTreeSet<&DocumentKey> =
                                listing.records.iter().map(|record| &record.key).collect();
                            let gone = view.versions().map(|(key, _)| key).filter(|key| !there.contains(key));
                            let gone: Vec<DocumentKey> = gone.cloned().collect();
                            gone.iter().for_each(|key| view.remove(key));
                            listing.records.iter().for_each(|record| put(&mut view, record));
                        }
                        // The watch asks for it again.
                        Err(_) => time::sleep(AGAIN).await,
                    },
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
        orphans: &mut Orphans,
    ) -> anyhow::Result<()> {
        for (mesh, domain) in generate::trust_domains(view, &self.zone).keys() {
            // One that is damaged keeps nobody else from theirs.
            if let Err(error) = self.authorities.ensure(&*self.store, mesh, domain).await {
                warn!(%mesh, %domain, error = format!("{error:#}"), "no authority");
            }
        }
        let wanted = generate::documents(view, &self.zone, ingresses, &self.authorities.public());
        let origin = Origin::Zone(self.zone.clone());
        let keys: BTreeSet<DocumentKey> =
            wanted.iter().map(|generated| generated.document.key(&origin)).collect();
        let now = Instant::now();
        orphans.found(without_members(view, &origin, &keys), now);
        let mut writes = Vec::new();
        for Generated { document, bundle } in wanted {
            let key = document.key(&origin);
            if let Some(expect) = may_write(view, &key, &document) {
                let draft = Draft { bundle, ..Draft::new(key, document.canonical()) };
                writes.push(Write::Put { draft, expect });
            }
        }
        writes.extend(abandoned(view, &origin, ingresses));
        writes.extend(orphans.due(now).filter_map(|key| view.any(key)).map(delete));
        for batch in writes.chunks(store::MAX_WRITES) {
            let receipt = self.store.transact(batch.to_vec()).await?;
            for written in receipt.written.iter().filter(|written| written.changed) {
                info!(version = %written.version, "generated");
            }
        }
        orphans.removed(now);
        Ok(())
    }
}

fn take(view: &mut View, commit: &Commit) {
    commit.changes.iter().for_each(|change| match change {
        Change::Put(record) => put(view, record),
        Change::Deleted { key, .. } => view.remove(key),
    });
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
            let differs = !held.says_the_same_as(document);
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
    own.filter(|(held, _)| is_generated(held) && !ingresses.contains_key(&held.key.name))
        .map(|(held, _)| delete(held))
}

/// Services and workloads that were made here for members who are no more.
fn without_members(view: &View, origin: &Origin, wanted: &BTreeSet<DocumentKey>) -> BTreeSet<DocumentKey> {
    let services = view.all::<MeshService>().map(|(held, _)| held);
    let workloads = view.all::<Workload>().map(|(held, _)| held);
    let own = services.chain(workloads).filter(|held| held.key.origin == *origin && is_generated(held));
    own.map(|held| held.key.clone()).filter(|key| !wanted.contains(key)).collect()
}

/// Whoever writes it meanwhile wins.
fn delete(held: &Held) -> Write {
    Write::Delete { key: held.key.clone(), expect: Expect::Version(held.version.clone()) }
}

/// Never, where there is no time to wait for.
async fn reached(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn is_generated(held: &Held) -> bool {
    held.written.get(labels::MANAGED_BY) == Some(GENERATOR)
}

#[cfg(test)]
mod tests {
    use model::document::{Defaults, parse_one, read};
    use model::kinds::ResourceSpec;
    use store::MemoryStore;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn east() -> Origin {
        Origin::Zone("east".parse().unwrap())
    }

    fn draft(yaml: &str) -> Draft {
        let document = read(&parse_one(yaml).unwrap(), &Defaults::default()).unwrap();
        Draft::new(document.key(&east()), document.canonical())
    }

    const CART: &str = "type: Dataplane
mesh: default
name: cart-1
labels: {tombolo.io/workload: cart}
networking: {address: 127.0.0.1, inbound: [{port: 8080, servicePort: 80}]}";

    /// The services of the store, once they are as `wanted`; paused time goes on while nothing else does.
    async fn services_are(store: &dyn Store, wanted: &[&str]) {
        loop {
            let kinds = [MeshService::KIND.key_name(), Workload::KIND.key_name()];
            let listing = store.list(Filter::all().kinds(kinds)).await.unwrap();
            let found: Vec<String> = listing.records.iter().map(|record| record.key.to_string()).collect();
            if found == wanted {
                return;
            }
            time::sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_and_its_workload_go_an_hour_after_their_last_member() {
        let store = MemoryStore::new(east());
        let made = ["MeshService/default/east//cart", "Workload/default/east//cart"];
        store.put(draft("type: Mesh\nname: default"), Expect::Any).await.unwrap();
        let own = "type: MeshService\nmesh: default\nname: mine\nspec: {ports: [{port: 1}]}";
        store.put(draft(own), Expect::Any).await.unwrap();
        let with = |made: &[&'static str]| {
            let all: BTreeSet<&str> =
                made.iter().copied().chain(["MeshService/default/east//mine"]).collect();
            all.into_iter().collect::<Vec<_>>()
        };
        let generator = Generator {
            zone: "east".parse().unwrap(),
            store: store.clone(),
            authorities: Arc::new(Authorities::new(control::Clock::system())),
            ingresses: Arc::new(Ingresses::load(&*store).await.unwrap()),
            view: View::default(),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(generator.run(stop.clone()));

        store.put(draft(CART), Expect::Any).await.unwrap();
        services_are(&*store, &with(&made)).await;
        // It leaves for less than an hour, and then for good.
        let cart = draft(CART).key;
        store.delete(cart.clone(), Expect::Any).await.unwrap();
        time::sleep(HOUR / 2).await;
        store.put(draft(CART), Expect::Any).await.unwrap();
        time::sleep(HOUR).await;
        services_are(&*store, &with(&made)).await;
        store.delete(cart, Expect::Any).await.unwrap();
        let start = Instant::now();
        time::sleep(HOUR - Duration::from_secs(60)).await;
        services_are(&*store, &with(&made)).await;
        services_are(&*store, &with(&[])).await;
        assert!(start.elapsed() >= HOUR && start.elapsed() < HOUR + Duration::from_secs(60));
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
