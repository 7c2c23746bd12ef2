//! Whose history counts when a store was put back (the rule: `sync::line`).
//!
//! The owner of a line notices by what a copy holds that its own store was put back, and goes on in a new epoch. The
//! holder of a copy takes over what goes on from where it is; of anything else it keeps what it has and says so, until
//! somebody who saw what would be lost accepts it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::Problem;
use api::shapes::Hold;
use bytes::Bytes;
use model::kinds::{Mesh, MeshIdentity, MeshTrafficPermission, ResourceSpec};
use model::{Origin, Point, Version, World};
use serde::{Deserialize, Serialize};
use store::{Changes, Fence, Filter, Listing, Store, Write};
use sync::line::{self, Found, Judged};
use sync::link::HostError;
use sync::{Base, Batch, Entry};
use tracing::{error, info, warn};

/// Without these, more would be open than somebody asked for.
const GUARDING: [&str; 3] = [Mesh::KIND.name, MeshIdentity::KIND.name, MeshTrafficPermission::KIND.name];

/// Whether a document guards something, by the text of its key.
pub(crate) fn guards(key: &str) -> bool {
    key.split('/').next().is_some_and(|kind| GUARDING.contains(&kind))
}

/// The most keys that a hold names.
const MOST_KEYS: usize = 100;

/// Where a copy of our own line stands.
#[derive(Debug)]
pub struct Standing {
    pub is_on_line: bool,
    /// Our hash there, empty where the line does not pass: [`Batch::continues`].
    pub continues: Bytes,
}

/// The hash of the own line where a batch leads: [`Batch::hash`].
pub async fn hash_at(store: &dyn Store, world: &World) -> Result<Bytes, store::Error> {
    let reached = world.point(store.origin()).unwrap_or_default();
    let hash = store.hash_at(reached).await?;
    Ok(hash.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0)))
}

/// What a copy lacks, by what it says of itself; everything where it asks for that.
pub async fn lacking(store: &dyn Store, base: &Base, filter: Filter) -> Result<Changes, store::Error> {
    if !base.is_anew() {
        return store.since(base.world().clone(), filter).await;
    }
    let Listing { records, world, .. } = store.list(filter).await?;
    Ok(Changes { whole: true, records, tombstones: Vec::new(), world })
}

/// Up to where an origin was heard, and the hash that came with that. Where the hash is missing less is noticed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Heard {
    pub point: Point,
    pub hash: Bytes,
}

impl Heard {
    /// None of an origin that was never heard of.
    pub async fn load(store: &dyn Store, origin: &Origin) -> Result<Option<Self>, store::Error> {
        let Some(point) = store.head().await?.world.point(origin) else { return Ok(None) };
        let kept = store.secret_get(&secret_name(origin)).await?;
        let kept = kept.and_then(|kept| serde_json::from_slice::<Self>(kept.expose()).ok());
        let hash = kept.filter(|kept| kept.point == point).map(|kept| kept.hash).unwrap_or_default();
        Ok(Some(Self { point, hash }))
    }

    /// Keeps it, as part of the transaction that takes over what it speaks of.
    pub fn write(&self, origin: &Origin) -> Write {
        let bytes = serde_json::to_vec(self).expect("numbers and bytes are JSON");
        Write::Private { name: secret_name(origin), value: bytes.into() }
    }
}

fn secret_name(origin: &Origin) -> String {
    format!("line/{origin}")
}

/// By whose word an epoch began since this process did: peers by name.
#[derive(Default)]
pub struct Begun(Mutex<BTreeSet<String>>);

impl Begun {
    /// Finds where a copy of what `store` writes stands that `peer` has. If it was told more than is written here, the
    /// line goes on in a new epoch first; another peer that shows more than that later, such as of an epoch that began
    /// here before and was put back again, has it begin another. One peer has it do so once as long as this process
    /// runs: a store is not put back under it, and epochs cost everybody.
    pub async fn find(
        &self,
        store: &dyn Store,
        peer: &impl Display,
        base: &Base,
    ) -> Result<Standing, HostError> {
        let theirs = base.world().point(store.origin()).unwrap_or_default();
        let own = store.head().await?.point;
        let ours = store.hash_at(theirs).await?;
        let found = line::find(theirs, base.hash(), own, ours.as_ref().map(|hash| hash.0.as_slice()));
        let is_on_line = found == Found::OnLine;
        if !is_on_line && !base.is_opened() {
            return Err("it acknowledged what it was never sent".into());
        }
        if found == Found::PutBack {
            if self.peers().contains(&peer.to_string()) {
                warn!(%peer, told = ?theirs, written = ?own, "shows again what is not written here: no epoch begins");
            } else {
                let begun = store.begin_epoch(theirs, None).await?;
                self.peers().insert(peer.to_string());
                error!(
                    origin = %store.origin(), %peer, told = ?theirs, written = ?own, ?begun,
                    "this store was put back: a peer was told what is not written here. A new epoch begins"
                );
            }
        }
        let hash = ours.filter(|_| is_on_line);
        Ok(Standing {
            is_on_line,
            continues: hash.map_or_else(Bytes::new, |hash| Bytes::copy_from_slice(&hash.0)),
        })
    }

    fn peers(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The origins that are held, and what was accepted of them. Kept in memory: who restarts hears it again.
#[derive(Default)]
pub struct Holds {
    held: Mutex<BTreeMap<Origin, Held>>,
    pub begun: Begun,
}

struct Held {
    hold: Hold,
    /// All of what the hold says in part.
    shown: Comparison,
    is_accepted: bool,
}

impl Holds {
    /// Whether a batch of `origin` is to be taken over; if not, why. Then it is held from now on. An error is for
    /// numbers that nobody comes to by writing, and for a session without the right to store: what it brings is of
    /// before the one that took over, and holds nothing back.
    pub async fn judge(
        &self,
        store: &dyn Store,
        origin: &Origin,
        batch: &Batch,
        fence: &Fence,
    ) -> Result<Result<(), String>, HostError> {
        let heard = Heard::load(store, origin).await?;
        let offered = batch.world.point(origin).unwrap_or_default();
        let place = heard.as_ref().map(|heard| (heard.point, &*heard.hash));
        let judged = match line::judge(place, offered, &batch.continues) {
            // Without its global a zone cannot be: somebody may accept even that, and who heard nothing loses nothing.
            Judged::Absurd(reason) if *origin == Origin::Global => Judged::Diverges(reason),
            Judged::Absurd(reason) => return Err(reason.into()),
            judged => judged,
        };
        let heard = heard.filter(|heard| heard.point.revision > 0);
        let Some(heard) = heard.filter(|_| judged != Judged::Follows) else { return Ok(Ok(())) };
        let held = store.list(Filter::all().written_by(origin.clone())).await?.records;
        let held = held.into_iter().map(|record| (record.key.to_string(), record.bytes)).collect();
        let comparison = compare(origin, &held, batch);
        if self.is_accepted(origin, offered.epoch, &comparison) {
            return Ok(Ok(()));
        }
        let reason = match judged {
            Judged::Diverges(reason) => reason,
            _ if comparison.opens => {
                "it does not show that it goes on from what is held, and lacks a Mesh, MeshIdentity or \
                 MeshTrafficPermission that is held"
                    .to_owned()
            }
            _ => return Ok(Ok(())),
        };
        store.apply(vec![Write::Fence(fence.clone())]).await?;
        let version = |point| Version { origin: origin.clone(), point };
        let (have, offered) = (version(heard.point), version(offered));
        warn!(%origin, %have, %offered, reason, "holding what is known of it: its history is another one");
        let hold = Hold {
            origin: origin.clone(),
            reason: reason.clone(),
            have,
            offered,
            added: comparison.added,
            changed: comparison.changed.len() as u64,
            lost: comparison.lost.len() as u64,
            keys: comparison.changed.union(&comparison.lost).take(MOST_KEYS).cloned().collect(),
        };
        self.held().insert(origin.clone(), Held { hold, shown: comparison, is_accepted: false });
        Ok(Err(reason))
    }

    /// The origin's batch was taken over.
    pub fn taken_over(&self, origin: &Origin) {
        if let Some(held) = self.held().remove(origin) {
            info!(%origin, offered = %held.hold.offered, "its new history counts from now on");
        }
    }

    /// What is held, by origin.
    pub fn list(&self) -> Vec<Hold> {
        self.held().values().map(|held| held.hold.clone()).collect()
    }

    /// The history of this epoch is to be taken over when the origin's topic is opened anew, which is the caller's to
    /// do. Answers what was held.
    pub fn accept(&self, origin: &Origin, epoch: u64) -> Result<Hold, Problem> {
        let mut all = self.held();
        let Some(held) = all.get_mut(origin) else {
            return Err(Problem::not_found(format!("nothing of '{origin}' is held back here")));
        };
        let hold = held.hold.clone();
        if hold.offered.point.epoch != epoch {
            return Err(Problem::conflict(format!(
                "'{origin}' offers epoch {}, not {epoch}: look again at what would be lost",
                hold.offered.point.epoch
            )));
        }
        held.is_accepted = true;
        warn!(%origin, epoch, lost = hold.lost, changed = hold.changed, "somebody accepted its new history");
        Ok(hold)
    }

    /// Whether somebody accepted this, or worse: nothing would be lost or changed but what was shown as that.
    fn is_accepted(&self, origin: &Origin, epoch: u64, comparison: &Comparison) -> bool {
        let is_shown = |held: &Held| {
            let Comparison { changed, lost, .. } = &held.shown;
            let may_change = |key| changed.contains(key) || lost.contains(key);
            held.hold.offered.point.epoch == epoch
                && comparison.changed.iter().all(may_change)
                && comparison.lost.is_subset(lost)
        };
        self.held().get(origin).is_some_and(|held| held.is_accepted && is_shown(held))
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Origin, Held>> {
        // Nothing can panic between two states that fit together.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a batch would do to what is held of its origin.
#[derive(Debug, Default, Eq, PartialEq)]
struct Comparison {
    added: u64,
    /// Their keys.
    changed: BTreeSet<String>,
    lost: BTreeSet<String>,
    /// Something that guards would go.
    opens: bool,
}

fn compare(origin: &Origin, held: &BTreeMap<String, Bytes>, batch: &Batch) -> Comparison {
    let mut comparison = Comparison::default();
    let is_its = |entry: &&Entry| entry.version.as_ref().is_some_and(|version| version.origin == *origin);
    for entry in batch.entries.iter().filter(is_its) {
        match held.get(&entry.key) {
            None => comparison.added += 1,
            Some(bytes) if *bytes != entry.body => {
                comparison.changed.insert(entry.key.clone());
            }
            Some(_) => {}
        }
    }
    let sent: BTreeSet<&str> = batch.entries.iter().map(|entry| entry.key.as_str()).collect();
    let goes = |key: &&String| {
        (batch.whole && !sent.contains(key.as_str())) || batch.removed.iter().any(|removed| removed == *key)
    };
    for key in held.keys().filter(goes) {
        comparison.opens |= guards(key);
        comparison.lost.insert(key.clone());
    }
    comparison
}

#[cfg(test)]
mod tests {
    use model::{DocumentKey, Record};
    use store::MemoryStore;

    use super::*;

    fn east() -> Origin {
        "east".parse().unwrap()
    }

    fn record(key: &str, version: &str, bytes: &'static str) -> Record {
        Record {
            key: key.parse::<DocumentKey>().unwrap(),
            version: version.parse().unwrap(),
            secret: false,
            requires: vec![],
            bundle: None,
            bytes: bytes.into(),
        }
    }

    fn world(version: &str) -> World {
        let version: Version = version.parse().unwrap();
        [(version.origin, version.point)].into_iter().collect()
    }

    /// As the session that has the right to store.
    async fn judge(
        holds: &Holds,
        store: &dyn Store,
        origin: &Origin,
        batch: &Batch,
    ) -> Result<Result<(), String>, HostError> {
        let fence = store.fence("lane").await.unwrap();
        holds.judge(store, origin, batch, &fence).await
    }

    /// A store that holds a mesh and a service of the global's, as of revision 7 with hash `a`.
    async fn holder(hash: &'static [u8]) -> std::sync::Arc<dyn Store> {
        let store = MemoryStore::new(east());
        let heard = Heard { point: Point { epoch: 1, revision: 7 }, hash: hash.into() };
        let writes = vec![
            heard.write(&Origin::Global),
            Write::Copy(record("Mesh//global//default", "global-1-3", "{}")),
            Write::Copy(record("MeshService/default/global//web", "global-1-7", "1")),
            Write::Advance(world("global-1-7")),
        ];
        store.apply(writes).await.unwrap();
        store
    }

    fn whole(at: &str, continues: &'static [u8], records: Vec<Record>) -> Batch {
        let entries = records.into_iter().map(Entry::from).collect();
        Batch { whole: true, entries, world: world(at), continues: continues.into(), ..Batch::default() }
    }

    #[tokio::test]
    async fn another_history_is_held_until_its_epoch_is_accepted() {
        let (store, holds) = (holder(b"a").await, Holds::default());
        let offered = whole(
            "global-2-7",
            b"",
            vec![
                record("MeshService/default/global//web", "global-1-5", "0"),
                record("MeshService/default/global//new", "global-1-6", "1"),
                record("MeshService/default/west//web", "west-1-6", "1"),
            ],
        );
        let judged = async || judge(&holds, &*store, &Origin::Global, &offered).await.unwrap();
        assert!(judged().await.unwrap_err().contains("epoch 2"));
        let hold = holds.list().remove(0);
        assert_eq!(
            (hold.have.to_string(), hold.offered.to_string()),
            ("global-1-7".into(), "global-2-7".into())
        );
        assert_eq!((hold.added, hold.changed, hold.lost), (1, 1, 1));
        assert_eq!(hold.keys, ["Mesh//global//default", "MeshService/default/global//web"]);

        assert!(holds.accept(&east(), 2).is_err(), "nothing of it is held");
        assert!(holds.accept(&Origin::Global, 3).is_err(), "that is not what was looked at");
        assert!(judged().await.is_err());
        assert_eq!(holds.accept(&Origin::Global, 2).unwrap(), hold);
        assert_eq!(judged().await, Ok(()));
        // More would go by now than what was shown: that was accepted by nobody.
        let worse = Batch { entries: vec![], ..offered.clone() };
        assert!(judge(&holds, &*store, &Origin::Global, &worse).await.unwrap().is_err());
        assert!(judged().await.is_err(), "it is to be looked at anew");
        holds.accept(&Origin::Global, 2).unwrap();
        // As much, and something else.
        let mesh = record("Mesh//global//default", "global-1-2", "[]");
        let other = whole("global-2-7", b"", vec![mesh]);
        assert!(judge(&holds, &*store, &Origin::Global, &other).await.unwrap().is_err());
        assert!(judged().await.is_err());
        holds.accept(&Origin::Global, 2).unwrap();
        holds.taken_over(&Origin::Global);
        assert_eq!(holds.list(), []);
    }

    #[tokio::test]
    async fn a_session_that_another_took_over_from_holds_nothing_back() {
        let (store, holds) = (holder(b"a").await, Holds::default());
        let earlier = store.fence("lane").await.unwrap();
        store.fence("lane").await.unwrap();
        // From where the copy was before the other session came.
        let late = whole("global-1-8", b"before", vec![]);
        assert!(holds.judge(&*store, &Origin::Global, &late, &earlier).await.is_err());
        assert_eq!(holds.list(), []);
    }

    #[tokio::test]
    async fn a_history_that_goes_on_is_followed_into_a_new_epoch() {
        let (store, holds) = (holder(b"a").await, Holds::default());
        for (at, continues, follows) in [
            ("global-1-8", &b"a"[..], true),
            ("global-2-9", b"a", true),
            ("global-1-8", b"b", false),
            ("global-2-9", b"b", false),
            ("global-1-6", b"a", false),
        ] {
            let judged =
                judge(&holds, &*store, &Origin::Global, &whole(at, continues, vec![])).await.unwrap();
            assert_eq!(judged.is_ok(), follows, "{at} from {continues:?}");
        }
    }

    #[tokio::test]
    async fn a_global_far_ahead_is_held_until_it_is_accepted_and_followed_by_who_is_new() {
        let far = whole("global-1099511627800-9", b"a", vec![]);
        let (store, holds) = (holder(b"a").await, Holds::default());
        let judged = async || judge(&holds, &*store, &Origin::Global, &far).await.unwrap();
        assert!(judged().await.is_err());
        holds.accept(&Origin::Global, 1_099_511_627_800).unwrap();
        assert_eq!(judged().await, Ok(()));
        let newcomer = MemoryStore::new(east());
        assert_eq!(judge(&holds, &*newcomer, &Origin::Global, &far).await.unwrap(), Ok(()));

        // A zone that says so is wrong: the global does without it.
        let (global, far) = (MemoryStore::new(Origin::Global), whole("east-1099511627800-9", b"", vec![]));
        assert!(judge(&holds, &*global, &east(), &far).await.is_err());
    }

    #[tokio::test]
    async fn without_a_hash_nothing_that_guards_is_given_up() {
        let (store, holds) = (holder(b"").await, Holds::default());
        let mesh = record("Mesh//global//default", "global-1-3", "{}");
        for (records, follows) in [(vec![mesh], true), (vec![], false)] {
            let judged =
                judge(&holds, &*store, &Origin::Global, &whole("global-1-8", b"", records)).await.unwrap();
            assert_eq!(judged.is_ok(), follows, "{judged:?}");
        }
    }

    #[tokio::test]
    async fn an_owner_that_was_put_back_goes_on_above_what_its_copies_were_told() {
        let store = MemoryStore::new(Origin::Global);
        let draft = store::Draft::new("Mesh//global//default".parse().unwrap(), "{}");
        store.put(draft, store::Expect::Any).await.unwrap();
        let opened = |at: &str, hash: &'static [u8]| {
            Base::Opened(sync::Place { have: world(at), hash: hash.into(), ..Default::default() })
        };
        let begun = Begun::default();
        let find = async |peer: &str, base: &Base| begun.find(&*store, &peer, base).await;
        let ahead = find("a", &opened("global-1-9", b"lost")).await.unwrap();
        assert!(!ahead.is_on_line && ahead.continues.is_empty(), "{ahead:?}");
        assert_eq!(store.head().await.unwrap().point, Point { epoch: 2, revision: 9 });

        let hash = hash_at(&*store, &world("global-1-1")).await.unwrap();
        let behind = find("a", &Base::Acknowledged(world("global-1-1"))).await.unwrap();
        assert_eq!((behind.is_on_line, behind.continues), (true, hash));
        // The same copy was put back twice: what was told in its second epoch is not written in this one.
        for (peer, told, epoch, revision) in [
            ("b", "global-1-12", 2, 9),
            ("a", "global-2-10", 2, 9),
            ("b", "global-2-10", 3, 10),
            ("b", "global-2-10", 3, 10),
            ("b", "global-3-11", 3, 10),
            ("c", "global-7-1", 8, 10),
            ("d", "global-18446744073709551615-1", 8, 10),
        ] {
            let again = find(peer, &opened(told, b"lost")).await.unwrap();
            assert!(!again.is_on_line, "{told}");
            assert_eq!(store.head().await.unwrap().point, Point { epoch, revision }, "{told}");
        }
        assert!(find("a", &Base::Acknowledged(world("global-2-10"))).await.is_err(), "a lie");
    }
}
