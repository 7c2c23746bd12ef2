//! Decides whether there is a revision that somebody asks about, before it is looked who runs it.

use api::NoSuchRevision;
use model::{Origin, Version, World};
use store::Store;

/// The version by which it is told who runs `version`, as far as the control plane of this store can say. `is_known` says
/// whether an origin is one, of which there may be news to come.
pub async fn sought(
    store: &dyn Store,
    version: &Version,
    is_known: impl FnOnce(&Origin) -> bool,
) -> Result<Result<Version, NoSuchRevision>, store::Error> {
    let head = store.head().await?;
    let own = Version { origin: store.origin().clone(), point: head.point };
    let is_own = version.origin == own.origin;
    let passes = is_own && store.hash_at(version.point).await?.is_some();
    Ok(decide(version, &own, passes, &head.world, is_known))
}

/// Of its own line a control plane knows each revision; `own` is where that is, and `passes` says whether it goes on from
/// the revision: then an epoch that began since changes nothing about it. Of another's it may not have heard yet.
fn decide(
    version: &Version,
    own: &Version,
    passes: bool,
    world: &World,
    is_known: impl FnOnce(&Origin) -> bool,
) -> Result<Version, NoSuchRevision> {
    let Version { origin, point } = version;
    if *origin == own.origin {
        return match passes && point.revision > 0 {
            // What is of an earlier epoch has arrived with whatever this epoch wrote; its own number says nothing now.
            true if point.epoch < own.point.epoch => Ok(own.clone()),
            true => Ok(version.clone()),
            false if point.epoch < own.point.epoch => Err(NoSuchRevision::Gone),
            false => Err(NoSuchRevision::NotHere),
        };
    }
    match world.point(origin) {
        Some(held) if point.epoch < held.epoch => Err(NoSuchRevision::Gone),
        Some(_) => Ok(version.clone()),
        None if is_known(origin) => Ok(version.clone()),
        None => Err(NoSuchRevision::NotHere),
    }
}

#[cfg(test)]
mod tests {
    use model::Point;
    use store::{Draft, Expect, MemoryStore};

    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn only_its_origin_knows_that_a_revision_was_never_written() {
        let gone = || Err(NoSuchRevision::Gone);
        let not_here = || Err(NoSuchRevision::NotHere);
        let found = |text| Ok(version(text));
        let cases = [
            ("east-2-7", true, found("east-2-7")),
            ("east-2-8", false, not_here()),
            ("east-1-0", true, gone()),
            ("east-1-2", true, found("east-2-7")),
            ("east-1-3", false, gone()),
            ("east-3-1", false, not_here()),
            ("west-2-3", false, found("west-2-3")),
            ("west-2-900", false, found("west-2-900")),
            ("west-9-1", false, found("west-9-1")),
            ("west-1-3", false, gone()),
            ("global-1-1", false, found("global-1-1")),
            ("north-1-1", false, not_here()),
        ];
        let heard = version("west-2-3");
        let world: World = [(heard.origin, heard.point)].into_iter().collect();
        for (text, passes, want) in cases {
            let is_known = |origin: &Origin| *origin == Origin::Global;
            let decided = decide(&version(text), &version("east-2-7"), passes, &world, is_known);
            assert_eq!(decided, want, "{text}");
        }
    }

    #[tokio::test]
    async fn a_revision_that_the_line_goes_on_from_is_sought_where_the_line_is_now() {
        let store = MemoryStore::new("east".parse().unwrap());
        for name in ["a", "b"] {
            let draft = Draft::new(format!("Mesh//east//{name}").parse().unwrap(), "{}");
            store.put(draft, Expect::Any).await.unwrap();
        }
        store.begin_epoch(Point { epoch: 1, revision: 9 }, None).await.unwrap();
        for (text, want) in [
            ("east-1-2", Ok(version("east-2-9"))),
            ("east-1-3", Err(NoSuchRevision::Gone)),
            ("east-2-9", Ok(version("east-2-9"))),
            ("east-2-10", Err(NoSuchRevision::NotHere)),
        ] {
            assert_eq!(sought(&*store, &version(text), |_| false).await.unwrap(), want, "{text}");
        }
    }
}
