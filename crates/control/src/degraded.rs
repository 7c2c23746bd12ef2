//! Decides whose proof a document spoils that somebody did not take.
//!
//! Its own, as nobody there enforces it. Where it guards a mesh and was never taken in any version, something is open or
//! closed there that should not be: then that of everything in its mesh.

use api::shapes::RefusedDocument;
use model::kinds::{Mesh, ResourceSpec};
use model::{DocumentKey, MeshName, Point, Version, World};
use store::{Change, Filter, Store};

use crate::line;
use crate::reports::AND_MORE;

/// Those of one reporter because of which a version is not enforced there.
pub async fn concerning(
    mut refused: Vec<RefusedDocument>,
    version: &Version,
    store: &dyn Store,
) -> Result<Vec<RefusedDocument>, store::Error> {
    let mesh = match refused.iter().any(degrades) {
        true => mesh_of(version, store).await?,
        false => None,
    };
    refused.retain(|one| concerns(one, version, mesh.as_ref()));
    Ok(refused)
}

/// `mesh` is the one that the version is about; none where it is about all of them, or nobody knows.
fn concerns(refused: &RefusedDocument, version: &Version, mesh: Option<&MeshName>) -> bool {
    let is_of_another = || {
        let guarded = refused.document.parse().ok().and_then(|key| scope(&key));
        guarded.is_some_and(|guarded| mesh.is_some_and(|mesh| guarded != *mesh))
    };
    refused.refusal.revision.as_ref() == Some(version)
        || refused.document == AND_MORE
        || (degrades(refused) && !is_of_another())
}

/// A document that guards and was never taken in any version.
fn degrades(RefusedDocument { document, refusal }: &RefusedDocument) -> bool {
    refusal.in_force.is_none() && line::guards(document)
}

/// The mesh that a version is about, as far as it is the last of its document. Reads the whole store.
async fn mesh_of(version: &Version, store: &dyn Store) -> Result<Option<MeshName>, store::Error> {
    let Version { origin, point } = version;
    let before = Point { revision: point.revision.saturating_sub(1), ..*point };
    let before: World = [(origin.clone(), before)].into_iter().collect();
    let changes = store.since(before, Filter::all().written_by(origin.clone())).await?;
    let written = changes.records.into_iter().map(Change::Put);
    let deleted = changes.tombstones.into_iter().map(|(key, version)| Change::Deleted { key, version });
    let found = written.chain(deleted).find(|change| change.version() == version);
    Ok(found.and_then(|change| scope(change.key())))
}

/// The mesh that a document is about, if it is one alone.
fn scope(key: &DocumentKey) -> Option<MeshName> {
    match key.kind.as_str() == Mesh::KIND.name {
        true => key.name.as_str().parse().ok(),
        false => key.mesh.clone(),
    }
}

#[cfg(test)]
mod tests {
    use api::shapes::Refusal;
    use model::Origin;
    use store::{Draft, Expect, MemoryStore};

    use super::*;

    fn refused(document: &str, revision: &str, in_force: Option<&str>) -> RefusedDocument {
        let refusal = Refusal {
            reporter: "east".parse().unwrap(),
            revision: Some(revision.parse().unwrap()),
            reason: "bad".to_owned(),
            since: 1,
            in_force: in_force.map(|version| version.parse().unwrap()),
        };
        RefusedDocument { document: document.to_owned(), refusal }
    }

    #[tokio::test]
    async fn what_guards_and_was_never_taken_spoils_the_proof_of_its_mesh_alone() {
        let store = MemoryStore::new(Origin::Global);
        let key = |key: &str| key.parse::<DocumentKey>().unwrap();
        for document in [
            "Mesh//global//bank",
            "MeshTimeout/bank/global//slow",
            "Mesh//global//shop",
            "MeshTimeout/shop/global//slow",
            "Zone//global//east",
            "MeshTimeout/shop/global//gone",
        ] {
            store.put(Draft::new(key(document), "{}"), Expect::Any).await.unwrap();
        }
        store.delete(key("MeshTimeout/shop/global//gone"), Expect::Any).await.unwrap();
        let cases = [
            ("of its mesh", 1, true),
            ("in its mesh", 2, true),
            ("another mesh", 3, false),
            ("in another mesh", 4, false),
            ("in none", 5, true),
            ("nobody knows any more", 6, true),
            ("what was deleted in another", 7, false),
            ("not written yet", 8, true),
        ];
        for guard in ["MeshTrafficPermission/bank/global//p", "Mesh//global//bank"] {
            for (why, revision, spoils) in cases {
                let never = refused(guard, "global-1-9", None);
                let version = Version::new(Origin::Global, 1, revision);
                let left = concerning(vec![never], &version, &*store).await.unwrap();
                assert_eq!(left.len(), usize::from(spoils), "{guard}: {why}");
            }
        }
    }

    #[tokio::test]
    async fn what_stays_in_force_or_guards_nothing_spoils_its_own_proof_alone() {
        let store = MemoryStore::new(Origin::Global);
        let cases = [
            (refused("MeshTrafficPermission/bank/global//p", "global-1-9", Some("global-1-4")), false),
            (refused("MeshTimeout/bank/global//slow", "global-1-9", None), false),
            (refused(AND_MORE, "global-1-9", None), true),
        ];
        for (one, all) in cases {
            for (version, spoils) in [("global-1-9", true), ("global-1-8", all)] {
                let left = concerning(vec![one.clone()], &version.parse().unwrap(), &*store).await.unwrap();
                assert_eq!(left.len(), usize::from(spoils), "{one:?} {version}");
            }
        }
    }
}
