//! What a control plane makes by itself: the mesh `default` at its first start, and for every new mesh its
//! first documents.
//!
//! Only where the global's documents are written: on the global, and on a zone that stands alone. Each is
//! made once. What was made is remembered beside the store's documents, so that one which somebody deleted
//! does not come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use model::kinds::{Kind, Mesh, MeshIdentity, MeshTimeout, ResourceSpec};
use model::{Document, Labels, MeshName, Origin, Record};
use serde::{Deserialize, Serialize};
use store::{Change, Draft, Expect, Filter, Store, Write};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What was made already.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Made {
    /// Whether the mesh `default` was.
    pub mesh: bool,
    /// For each mesh that is there, the kinds of which its first document was made, or was not to be.
    pub initial: BTreeMap<MeshName, BTreeSet<String>>,
}

/// The first documents of a mesh, each with its kind. No permission is among them: without one everything
/// is denied.
const INITIAL: &[(Kind, Initial)] = &[
    (MeshIdentity::KIND, MeshIdentity::for_everybody),
    (MeshTimeout::KIND, MeshTimeout::for_all),
    (MeshTimeout::KIND, MeshTimeout::for_all_destinations),
];

type Initial = fn(&MeshName) -> Document;

const MADE: &str = "control/defaults";
/// How long a failed look waits before the next.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be written, and what counts as made once it is.
pub fn plan(made: &Made, origin: &Origin, meshes: &BTreeMap<MeshName, Mesh>) -> (Vec<Draft>, Made) {
    let mut drafts = Vec::new();
    let mut meshes = meshes.clone();
    let default: MeshName = "default".parse().expect("'default' is a name");
    if !made.mesh && !meshes.contains_key(&default) {
        let mesh = Document::generate(None, default.clone().into(), Labels::default(), Mesh::default());
        drafts.push(draft(&mesh, origin));
        meshes.insert(default, Mesh::default());
    }
    let mut next = Made { mesh: true, initial: BTreeMap::new() };
    for (name, mesh) in meshes {
        // A kind that a newer program knows is not made in a mesh that people have arranged without it.
        if let Some(kinds) = made.initial.get(&name) {
            next.initial.insert(name, kinds.clone());
            continue;
        }
        let wanted = INITIAL.iter().filter(|(kind, _)| mesh.creates_initial(kind.name));
        drafts.extend(wanted.map(|(_, document)| draft(&document(&name), origin)));
        next.initial.insert(name, INITIAL.iter().map(|(kind, _)| kind.name.to_owned()).collect());
    }
    (drafts, next)
}

fn draft(document: &Document, origin: &Origin) -> Draft {
    Draft::new(document.key(origin), document.canonical())
}

/// Makes what is missing now. Call it before the first one may ask.
pub async fn make(store: &dyn Store) -> Result<(), store::Error> {
    let made = match store.secret_get(MADE).await? {
        Some(held) => serde_json::from_slice(held.expose())
            .map_err(|_| store::Error::Damaged { what: MADE.to_owned() })?,
        None => Made::default(),
    };
    let origin = store.origin().clone();
    let listing = store.list(Filter::all().kinds([Mesh::KIND.key_name()]).written_by(origin.clone())).await?;
    let meshes = listing.records.iter().filter_map(mesh).collect();
    let (drafts, mut next) = plan(&made, &origin, &meshes);
    for record in &listing.records {
        // One that cannot be read now is no new one when it can.
        if let Ok(name) = record.key.name.as_str().parse::<MeshName>()
            && let Some(kinds) = made.initial.get(&name)
        {
            next.initial.insert(name, kinds.clone());
        }
    }
    for draft in drafts {
        let key = draft.key.clone();
        match store.transact(vec![Write::Put { draft, expect: Expect::Absent }]).await {
            Ok(_) => info!(document = %key, "made by default"),
            // Somebody wrote one of that name: theirs counts.
            Err(store::Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if next != made {
        let text = serde_json::to_vec(&next).expect("names are JSON");
        store.secret_put(MADE, text.into()).await?;
    }
    Ok(())
}

/// Goes on making what new meshes need.
pub async fn run(store: Arc<dyn Store>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let watched = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            watched = watch(&*store) => watched,
        };
        if let Err(error) = watched {
            warn!(%error, "cannot make defaults; trying again");
            let _ = time::timeout(AGAIN, stop.cancelled()).await;
        }
    }
}

async fn watch(store: &dyn Store) -> Result<(), store::Error> {
    let mut watch = store.watch(store.head().await?.sequence);
    // After the watch began, so that nothing falls in between.
    make(store).await?;
    loop {
        let commit = watch.next().await?;
        let of_mesh = |change: &Change| change.key().kind.as_str() == Mesh::KIND.name;
        if commit.changes.iter().any(of_mesh) {
            make(store).await?;
        }
    }
}

/// A mesh that cannot be read is passed over: somebody will write it again.
fn mesh(record: &Record) -> Option<(MeshName, Mesh)> {
    let document = Document::from_record(record).ok()?;
    let name = document.name.as_str().parse().ok()?;
    document.spec_as::<Mesh>().map(|mesh| (name, mesh.clone()))
}

#[cfg(test)]
mod tests {
    use model::{Version, document};
    use store::MemoryStore;

    use super::*;

    async fn keys(store: &dyn Store) -> Vec<String> {
        let listing = store.list(Filter::all()).await.unwrap();
        listing.records.iter().map(|record| record.key.to_string()).collect()
    }

    async fn put(store: &dyn Store, text: &str) {
        let tree = document::parse_one(text).unwrap();
        let read = document::read(&tree, &document::Defaults::default()).unwrap();
        store.put(Draft::new(read.key(&Origin::Global), read.canonical()), Expect::Any).await.unwrap();
    }

    #[tokio::test]
    async fn a_first_start_makes_a_mesh_with_an_identity_for_everybody_and_timeouts() {
        let store = MemoryStore::new(Origin::Global);
        make(&*store).await.unwrap();
        let wanted = [
            "Mesh//global//default",
            "MeshIdentity/default/global//mesh-identity-all",
            "MeshTimeout/default/global//mesh-timeout-all",
            "MeshTimeout/default/global//mesh-timeout-to-all",
        ];
        assert_eq!(keys(&*store).await, wanted);
        make(&*store).await.unwrap();
        assert_eq!(keys(&*store).await, wanted, "once");
    }

    #[tokio::test]
    async fn what_somebody_deleted_does_not_come_back() {
        let store = MemoryStore::new(Origin::Global);
        make(&*store).await.unwrap();
        let initial = keys(&*store).await;
        for key in initial.iter().filter(|key| !key.starts_with("Mesh/")) {
            store.delete(key.parse().unwrap(), Expect::Any).await.unwrap();
        }
        make(&*store).await.unwrap();
        assert_eq!(keys(&*store).await, ["Mesh//global//default"]);
        store.delete("Mesh//global//default".parse().unwrap(), Expect::Any).await.unwrap();
        make(&*store).await.unwrap();
        assert!(keys(&*store).await.is_empty());
        // A mesh that is made again is a new one.
        put(&*store, "type: Mesh\nname: default").await;
        make(&*store).await.unwrap();
        assert_eq!(keys(&*store).await, initial);
    }

    #[tokio::test]
    async fn a_mesh_that_cannot_be_read_for_a_while_is_no_new_one() {
        let store = MemoryStore::new(Origin::Global);
        make(&*store).await.unwrap();
        store
            .delete("MeshIdentity/default/global//mesh-identity-all".parse().unwrap(), Expect::Any)
            .await
            .unwrap();
        let draft = Draft::new("Mesh//global//default".parse().unwrap(), "{");
        store.put(draft, Expect::Any).await.unwrap();
        make(&*store).await.unwrap();
        put(&*store, "type: Mesh\nname: default").await;
        make(&*store).await.unwrap();
        assert!(!keys(&*store).await.iter().any(|key| key.starts_with("MeshIdentity")));
    }

    #[tokio::test]
    async fn a_mesh_may_say_that_it_wants_none() {
        for (skipped, made) in [("'*'", 0), ("MeshIdentity", 2), ("MeshTimeout", 1), ("MeshRetry", 3)] {
            let store = MemoryStore::new(Origin::Global);
            put(&*store, &format!("type: Mesh\nname: default\nskipCreatingInitialPolicies: [{skipped}]"))
                .await;
            make(&*store).await.unwrap();
            assert_eq!(keys(&*store).await.len(), 1 + made, "{skipped}");
        }
    }

    #[tokio::test]
    async fn meshes_that_come_later_get_theirs() {
        let store = MemoryStore::new(Origin::Global);
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(store.clone(), stop.clone()));
        let mut watch = store.watch(0);
        put(&*store, "type: Mesh\nname: shop").await;
        let wanted = "MeshIdentity/shop/global//mesh-identity-all";
        let made = async {
            loop {
                let commit = watch.next().await.unwrap();
                if commit.changes.iter().any(|change| change.key().to_string() == wanted) {
                    return commit.changes[0].version().clone();
                }
            }
        };
        let made: Version = time::timeout(Duration::from_secs(10), made).await.unwrap();
        assert_eq!(made.origin, Origin::Global);
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
