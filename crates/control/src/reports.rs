//! What was not taken, by whom and why: reports on documents, merged when somebody reads one.
//!
//! Who refuses a document keeps the report, beside its store's documents and in the same transaction, and tells all that
//! it refuses with every acknowledgement. So its peer only remembers what it heard last: after a restart it hears it
//! again. A report is gone when its reporter takes a later revision, or hears that the document was deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use api::shapes::{Refusal, RefusedDocument};
use model::document::{Document, Unreadable};
use model::{DocumentKey, Origin, Record, World};
use serde::{Deserialize, Serialize};
use store::{Store, Write};
use sync::frame::MAX_REASON;
use sync::{Batch, Refused};

/// The most reports on one topic of one peer.
pub const MOST: usize = 1000;

/// Stands in place of a document where more are refused than are reported. It stays until everything is sent anew, which
/// is asked for as [`crate::Again`] says: until then nobody knows what else is not enforced.
pub const AND_MORE: &str = "and more";

/// What one reporter refuses of one topic, by the text of the documents' keys.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusals(BTreeMap<String, Refusal>);

impl Refusals {
    /// What this control plane kept of a lane. What cannot be read is as if it had never been: it comes again when
    /// its document does.
    pub async fn load(store: &dyn Store, lane: &str) -> Result<Self, store::Error> {
        let kept = store.secret_get(&secret_name(lane)).await?;
        Ok(kept.and_then(|kept| serde_json::from_slice(kept.expose()).ok()).unwrap_or_default())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether more are refused than are named, though more could be.
    pub fn is_short(&self) -> bool {
        self.0.len() < MOST && self.0.contains_key(AND_MORE)
    }

    /// Whether this version of this document is among them.
    pub fn has(&self, refused: &Refused) -> bool {
        self.0.get(&refused.key).is_some_and(|known| known.revision == refused.version)
    }

    /// Whether a document of this kind is among them, or may be.
    pub fn concern(&self, kind: &str) -> bool {
        self.0.keys().any(|key| key == AND_MORE || key.split('/').next() == Some(kind))
    }

    /// Keeps them, as part of the transaction that takes over the rest of a batch.
    pub fn write(&self, lane: &str) -> Write {
        let bytes = serde_json::to_vec(self).expect("texts and numbers are JSON");
        Write::Private { name: secret_name(lane), value: bytes.into() }
    }

    /// Of which lanes of a topic something was kept.
    pub async fn lanes(store: &dyn Store, topic: &str) -> Result<Vec<String>, store::Error> {
        let names = store.secret_names(&secret_name(&format!("{topic}/"))).await?;
        Ok(names.iter().filter_map(|name| Some(name.strip_prefix(PREFIX)?.to_owned())).collect())
    }

    /// For a peer that is gone for good.
    pub async fn forget(store: &dyn Store, lane: &str) -> Result<(), store::Error> {
        store.secret_delete(&secret_name(lane)).await
    }

    /// As a peer told them: all of them.
    pub fn heard(reporter: &Origin, refused: &[Refused]) -> Self {
        let refusal = |refused: &Refused| Refusal {
            reporter: reporter.clone(),
            revision: refused.version.clone(),
            reason: refused.reason.clone(),
            since: refused.since,
            in_force: refused.in_force.clone(),
        };
        Self(refused.iter().take(MOST).map(|refused| (refused.key.clone(), refusal(refused))).collect())
    }

    /// What is refused once a batch is taken over but for `refused`.
    pub async fn after(
        mut self,
        batch: &Judged,
        refused: Vec<Refused>,
        store: &dyn Store,
        now: SystemTime,
    ) -> Result<Self, store::Error> {
        let (before, kept) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| batch.decides(key));
        self.0 = kept;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for Refused { key, version: revision, mut reason, .. } in refused {
            if self.0.len() + 1 >= MOST {
                self.0.entry(AND_MORE.to_owned()).or_insert_with(|| Refusal {
                    reporter: store.origin().clone(),
                    revision: None,
                    reason: format!("more than {} documents are refused", MOST - 1),
                    since: now,
                    in_force: None,
                });
                break;
            }
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            let since = before.get(&key).filter(|before| before.revision == revision);
            let since = since.map_or(now, |before| before.since);
            let in_force = match key.parse() {
                Ok(key) => in_force(store, &key).await?.map(|held| held.version),
                Err(_) => None,
            };
            let reporter = store.origin().clone();
            self.0.insert(key, Refusal { reporter, revision, reason, since, in_force });
        }
        Ok(self)
    }

    /// For an acknowledgement.
    pub fn told(&self) -> Vec<Refused> {
        let refused = |(key, refusal): (&String, &Refusal)| Refused {
            key: key.clone(),
            version: refusal.revision.clone(),
            reason: refusal.reason.clone(),
            since: refusal.since,
            in_force: refusal.in_force.clone(),
        };
        self.0.iter().map(refused).collect()
    }
}

/// The version of a document that is in force here: one of which nobody here knows what it says is not, though it may
/// be held.
pub async fn in_force(store: &dyn Store, key: &DocumentKey) -> Result<Option<Record>, store::Error> {
    let held = store.get(key).await?;
    let is_known = |held: &Record| match Document::from_record(held) {
        Ok(_) | Err(Unreadable::UnknownKind(_)) => true,
        Err(_) => false,
    };
    Ok(held.filter(is_known))
}

/// Of which documents a batch speaks; what is refused of them was decided by it.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Where everything of these origins is in the batch.
    whole: Option<World>,
    named: BTreeSet<String>,
}

impl Judged {
    pub fn of(batch: &Batch) -> Self {
        let entries = batch.entries.iter().map(|entry| &entry.key);
        let whole = batch.whole.then(|| batch.world.clone());
        Self { whole, named: entries.chain(&batch.removed).cloned().collect() }
    }

    /// What a whole batch does not name is gone, but for origins that it does not speak of.
    fn decides(&self, key: &str) -> bool {
        let is_silent_about =
            |world: &World| key.parse::<DocumentKey>().is_ok_and(|key| world.point(&key.origin).is_none());
        self.named.contains(key) || self.whole.as_ref().is_some_and(|world| !is_silent_about(world))
    }
}

fn secret_name(lane: &str) -> String {
    format!("{PREFIX}{lane}")
}

const PREFIX: &str = "refused/";

/// All reports that are known here, by lane: the own ones, and what peers said last.
#[derive(Default)]
pub struct Reports {
    lanes: Mutex<BTreeMap<String, Refusals>>,
}

impl Reports {
    /// Replaces what is refused in a lane.
    pub fn put(&self, lane: impl Into<String>, refusals: Refusals) {
        let lane = lane.into();
        if refusals.0.is_empty() {
            self.lanes().remove(&lane);
        } else {
            self.lanes().insert(lane, refusals);
        }
    }

    /// What is refused in a lane now.
    pub fn of(&self, lane: &str) -> Refusals {
        self.lanes().get(lane).cloned().unwrap_or_default()
    }

    /// Those of some lanes, by document.
    pub fn list(&self, lanes: &[&str]) -> Vec<RefusedDocument> {
        let held = self.lanes();
        let refusals = lanes.iter().filter_map(|lane| held.get(*lane)).flat_map(|refusals| &refusals.0);
        let mut list: Vec<_> = refusals
            .map(|(document, refusal)| RefusedDocument {
                document: document.clone(),
                refusal: refusal.clone(),
            })
            .collect();
        list.sort_by(|a, b| a.document.cmp(&b.document));
        list
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<String, Refusals>> {
        // Nothing can panic between two states that fit together.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl api::Reports for Reports {
    fn refusals(&self, document: &DocumentKey) -> Vec<Refusal> {
        let lanes = self.lanes();
        if lanes.is_empty() {
            return Vec::new();
        }
        let key = document.to_string();
        let mut refusals: Vec<Refusal> =
            lanes.values().filter_map(|refusals| refusals.0.get(&key)).cloned().collect();
        refusals.sort_by(|a, b| a.reporter.cmp(&b.reporter));
        refusals
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use api::Reports as _;
    use store::MemoryStore;
    use sync::Entry;

    use super::*;

    const KEY: &str = "MeshTrafficPermission/default/global//p";

    const READABLE: &str = r#"{"type": "MeshTrafficPermission", "mesh": "default", "name": "p",
        "spec": {"rules": [{"default": {"allow": [{"source": {}}]}}]}}"#;

    fn entry(version: &str) -> Entry {
        let version = version.parse().unwrap();
        let key = KEY.parse().unwrap();
        Record { key, version, secret: false, requires: vec![], bundle: None, bytes: "{}".into() }.into()
    }

    fn batch(entries: Vec<Entry>) -> Judged {
        Judged::of(&Batch { entries, ..Batch::default() })
    }

    /// All that there is of an origin.
    fn all_of(origin: Origin) -> Batch {
        let world = [(origin, model::Point { epoch: 1, revision: 9 })].into_iter().collect();
        Batch { whole: true, world, ..Batch::default() }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn a_report_stands_until_a_later_revision_is_taken_or_the_document_is_gone() {
        let store = MemoryStore::new("east".parse().unwrap());
        let (bad, again) = (entry("global-1-7"), entry("global-1-8"));
        let refusals = Refusals::default();
        let refused = |entry: &Entry| vec![entry.refused("bad")];
        let first = refusals.after(&batch(vec![bad.clone()]), refused(&bad), &*store, at(100)).await.unwrap();
        let told = first.told();
        assert_eq!((told.len(), told[0].since, &told[0].in_force), (1, 100, &None));

        let nothing = first.clone().after(&batch(vec![]), vec![], &*store, at(200)).await.unwrap();
        assert_eq!(nothing, first, "other documents say nothing of it");
        let whole = Judged::of(&Batch { entries: vec![bad.clone()], ..all_of(Origin::Global) });
        let repeated = first.clone().after(&whole, refused(&bad), &*store, at(200)).await.unwrap();
        assert_eq!(repeated, first, "the same again is as old as it was");
        let later = first
            .clone()
            .after(&batch(vec![again.clone()]), refused(&again), &*store, at(200))
            .await
            .unwrap();
        assert_eq!(later.told()[0].since, 200);

        let others = Judged::of(&all_of("west".parse().unwrap()));
        let silent = first.clone().after(&others, vec![], &*store, at(200)).await.unwrap();
        assert_eq!(silent, first, "all of another origin says nothing of it");

        let removed = Judged::of(&Batch { removed: vec![KEY.to_owned()], ..Batch::default() });
        let gone = Judged::of(&all_of(Origin::Global));
        for (why, batch) in [("taken", batch(vec![again])), ("deleted", removed), ("gone", gone)] {
            let after = first.clone().after(&batch, vec![], &*store, at(300)).await.unwrap();
            assert_eq!(after, Refusals::default(), "{why}");
        }

        store.apply(vec![first.write("policy")]).await.unwrap();
        assert_eq!(Refusals::load(&*store, "policy").await.unwrap(), first, "after a restart");
        assert_eq!(Refusals::load(&*store, "other").await.unwrap(), Refusals::default());
    }

    #[tokio::test]
    async fn of_more_than_are_reported_nothing_counts_as_enforced_until_everything_is_sent_anew() {
        let store = MemoryStore::new("east".parse().unwrap());
        let bad = |n: usize| Refused::new(format!("MeshService/default/global//s{n:04}"), None, "bad");
        let refuse = async |before: Refusals, judged: Judged, many: usize| {
            before.after(&judged, (0..many).map(bad).collect(), &*store, at(1)).await.unwrap()
        };
        let is_enforced = |refusals: &Refusals| !refusals.told().iter().any(|one| one.key == AND_MORE);
        assert!(is_enforced(&refuse(Refusals::default(), batch(vec![]), MOST - 1).await));
        let full = refuse(Refusals::default(), batch(vec![]), MOST + 1).await;
        assert!(full.told().len() <= MOST && !is_enforced(&full));
        let removed = (0..MOST).map(|n| bad(n).key).collect();
        let removed = Judged::of(&Batch { removed, ..Batch::default() });
        assert!(!is_enforced(&refuse(full.clone(), removed, 0).await), "one was never named");
        let whole = Judged::of(&all_of(Origin::Global));
        assert!(is_enforced(&refuse(full, whole, 0).await));
    }

    #[tokio::test]
    async fn what_stays_in_force_is_said_and_what_cannot_be_read_is_not_in_force() {
        let store = MemoryStore::new("east".parse().unwrap());
        let bad = entry("global-1-7");
        let report = async || {
            let refusals = Refusals::default();
            let judged = batch(vec![bad.clone()]);
            let refusals = refusals.after(&judged, vec![bad.refused("bad")], &*store, at(1)).await.unwrap();
            let reports = Reports::default();
            reports.put("policy", Refusals::heard(&"east".parse().unwrap(), &refusals.told()));
            assert_eq!(reports.refusals(&KEY.parse().unwrap())[0].reporter, "east".parse().unwrap());
            reports.list(&["policy", "nothing"]).remove(0).refusal.in_force
        };
        assert_eq!(report().await, None);
        for (version, text, is_in_force) in [("global-1-5", "{", false), ("global-1-6", READABLE, true)] {
            let held = Entry { body: text.into(), ..entry(version) };
            store.apply(vec![Write::Copy(held.try_into().unwrap())]).await.unwrap();
            assert_eq!(report().await, is_in_force.then(|| version.parse().unwrap()), "{text}");
        }
    }
}
